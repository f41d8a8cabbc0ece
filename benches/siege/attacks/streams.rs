//! Streams that are never read.

use super::client::Calls;
use super::{Tally, Target, framed};
use roster::grpc::pb;
use std::sync::Arc;

/// Eight connections with all the streams that one may have, with one service key. Each stream has a thousand questions.
pub(super) fn checks(target: &Target, tally: &Arc<Tally>) {
    let (organization, user_id) = target.membership.clone();
    let question = framed(&pb::StreamChecksRequest { organization, user_id, ..Default::default() });
    let path = "/roster.v1.CheckService/StreamChecks";
    let calls = Calls::new(path, &target.check_key, question.repeat(1000));
    Calls { connections: 8, streams: 128, ends: false, window: 0, refills: false, ..calls }.start(target, tally);
}

/// One connection whose exports wait for its windows, and which asks again when they are ended.
pub(super) fn exports(target: &Target, tally: &Arc<Tally>) {
    let path = "/roster.v1.CheckService/ExportMemberships";
    let calls = Calls::new(path, &target.check_key, framed(&pb::ExportMembershipsRequest::default()));
    Calls { connections: 1, streams: 32, window: 0, refills: false, ..calls }.start(target, tally);
}
