//! Messages and clients of `roster.v1`, generated from the protos, which document them.
#![expect(clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated code")]

include!(concat!(env!("OUT_DIR"), "/roster.v1.rs"));
