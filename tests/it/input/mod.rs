//! Bad input of every kind: refused by name, all at once, and nothing changes.

mod batches;
mod bytes;
mod fields;
mod protocol;
mod values;

use crate::harness::dynamic::{self, Caller};
use crate::harness::{Server, dynamic::message};
use prost_reflect::{DynamicMessage, MethodDescriptor};
use roster::domain::Scope;
use std::collections::BTreeMap;
use tonic::Status;
use tonic_types::StatusExt;

/// A server with something in it that could be changed.
struct World {
    server: Server,
    organization: String,
    /// A caller who passes every rule, and has no profile that a call would write.
    operator: Caller,
    before: BTreeMap<String, Vec<String>>,
}

impl World {
    async fn new() -> Self {
        let server = Server::start().await;
        let mut ada = server.user_with_email("ada");
        let organization = ada.create("Acme").await;
        ada.add(&organization, "grace", "admin").await;
        ada.add(&organization, "alan", "member").await;
        ada.create("Beta").await;
        let operator = Caller::with_token(&server.channel(), server.service_token("root", &[Scope::Operator]));
        let before = server.database.dump().await;
        Self { server, organization, operator, before }
    }

    /// Asserts that nothing was changed since the start.
    async fn assert_unchanged(&self) {
        assert_eq!(self.server.database.dump().await, self.before);
    }
}

/// The methods, each with a good request.
fn good_requests(world: &World) -> Vec<(MethodDescriptor, DynamicMessage)> {
    let methods = dynamic::methods();
    assert!(methods.len() >= 26, "only {} methods are walked", methods.len());
    methods.into_iter().map(|method| (method.clone(), values::good(world, &method.input()))).collect()
}

/// The fields that an error names, in order of name; it must name them as the caller's mistakes.
#[track_caller]
fn violations(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("INVALID_REQUEST"), "{status:?}");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let mut named = details.bad_request().unwrap().field_violations.clone();
    assert!(named.iter().all(|violation| !violation.description.is_empty()), "{named:?}");
    named.sort_by(|a, b| a.field.cmp(&b.field));
    named.into_iter().map(|violation| violation.field).collect()
}

/// A message type that the walks go into: one of roster's own.
fn is_own(descriptor: &prost_reflect::MessageDescriptor) -> bool {
    descriptor.package_name() == message("Member").package_name()
}
