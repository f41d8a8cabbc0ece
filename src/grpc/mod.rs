//! The gRPC services: generated code, admission of calls, decoding, handlers, encoding, statuses.
//!
//! A handler admits its call ([`admit`]), decodes the message, calls [`crate::service::Roster`] and encodes the answer. The
//! mapping from refusals to statuses is [`status`].

mod access_model;
pub mod admit;
mod check;
mod convert;
mod decode;
mod event;
pub mod heavy;
mod invitation;
pub mod limits;
mod organization;
mod page;
mod reason;
pub mod request;
mod role;
pub mod standard;
pub mod status;
mod user;
mod watch;

pub use check::{AdmittedCheck, CHECK};

/// Messages and clients of `roster.v1` ([`crate::pb`]), and its servers. Generated from the protos, which document them.
#[expect(clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod pb {
    pub use crate::pb::*;

    include!(concat!(env!("OUT_DIR"), "/servers.rs"));
}

/// Descriptors of `roster.v1` and `google.rpc`, with comments and access rules, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
