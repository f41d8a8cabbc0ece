//! The wire: what the protos generate, and what stands between it and the use cases.

pub mod admit;
mod check;
mod convert;
mod decode;
mod event;
mod invitation;
pub mod limits;
mod organization;
mod page;
mod reason;
pub mod request;
pub mod status;
mod user;
mod watch;

pub use check::{AdmittedCheck, CHECK};

/// Messages and clients of `roster.v1` ([`crate::pb`]), and its servers, generated from the protos; their comments are
/// there.
#[expect(clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod pb {
    pub use crate::pb::*;

    include!(concat!(env!("OUT_DIR"), "/servers.rs"));
}

/// Descriptors of everything above and of `google.rpc`, with comments and rules, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
