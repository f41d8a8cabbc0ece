//! The error reasons of `errors.proto`: the status code of each reason, and the metadata that its `ErrorInfo` carries.
//!
//! The build generates the functions from the options of the enum's values: `status_code`; `of_refusal`, which reads
//! the metadata from the fields of the [`Refusal`] by name; and a constructor for each reason that is no refusal. A
//! reason that nothing produces leaves its constructor unused, which is an error in this module.
#![deny(dead_code)]

use super::pb::ErrorReason;
use crate::domain::{Permission, Quota, Refusal, RoleName, Scope, UserId, ValueKind};
use std::collections::HashMap;
use tonic::Code;

include!(concat!(env!("OUT_DIR"), "/reasons.rs"));

/// A reason with the values of its metadata.
pub(super) struct Reason {
    pub(super) reason: ErrorReason,
    pub(super) metadata: HashMap<String, String>,
}

impl Reason {
    fn new(reason: ErrorReason, metadata: &[(&str, &dyn MetadataValue)]) -> Self {
        let text = |(key, value): &(&str, &dyn MetadataValue)| ((*key).to_owned(), value.text());
        Self { reason, metadata: metadata.iter().map(text).collect() }
    }
}

/// A value that the metadata of an `ErrorInfo` can carry.
pub(super) trait MetadataValue {
    /// The text of the value on the wire. Lists are separated by commas.
    fn text(&self) -> String;
}

impl MetadataValue for String {
    fn text(&self) -> String {
        self.clone()
    }
}

impl MetadataValue for u64 {
    fn text(&self) -> String {
        self.to_string()
    }
}

impl MetadataValue for usize {
    fn text(&self) -> String {
        self.to_string()
    }
}

impl MetadataValue for UserId {
    fn text(&self) -> String {
        self.to_string()
    }
}

impl MetadataValue for Permission {
    fn text(&self) -> String {
        self.as_str().to_owned()
    }
}

impl MetadataValue for RoleName {
    fn text(&self) -> String {
        self.as_str().to_owned()
    }
}

impl MetadataValue for Quota {
    fn text(&self) -> String {
        self.as_str().to_owned()
    }
}

impl MetadataValue for Scope {
    fn text(&self) -> String {
        self.as_str().to_owned()
    }
}

impl MetadataValue for ValueKind {
    fn text(&self) -> String {
        self.as_str().to_owned()
    }
}

impl<T: MetadataValue> MetadataValue for Vec<T> {
    fn text(&self) -> String {
        self.iter().map(MetadataValue::text).collect::<Vec<_>>().join(",")
    }
}
