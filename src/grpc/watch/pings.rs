//! The pings of a watch.

use crate::grpc::admit::read;
use crate::grpc::admit::stream::RequestStream;
use crate::grpc::decode::check as decode;
use crate::grpc::pb;
use crate::service::Roster;
use std::future::{Future, pending};
use std::pin::Pin;
use tonic::Status;

/// The pings of a watch. A ping is answered when everything that was acknowledged before it came is in the feed.
pub(super) struct WatchPings {
    roster: Roster,
    /// `None` once the caller has closed its side, and for a watch without pings.
    requests: Option<RequestStream<pb::WatchMembershipsRequest>>,
    /// The latest ping, not yet being waited for.
    latest: Option<i64>,
    /// The ping that is being waited for.
    waiting: Option<(i64, CatchUpFuture)>,
}

type CatchUpFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

impl WatchPings {
    /// No pings: the watch has no stream of requests.
    pub(super) fn none(roster: Roster) -> Self {
        Self { roster, requests: None, latest: None, waiting: None }
    }

    /// The pings of this stream of requests. `first` is the ping of the first message; 0 for none.
    pub(super) fn new(roster: Roster, first: i64, requests: RequestStream<pb::WatchMembershipsRequest>) -> Self {
        Self { roster, requests: Some(requests), latest: Some(first).filter(|ping| *ping != 0), waiting: None }
    }

    /// Waits for the next ping that can be answered. Cancel safe: a dropped wait loses no ping.
    pub(super) async fn next(&mut self) -> Result<i64, Status> {
        loop {
            if self.waiting.is_none()
                && let Some(ping) = self.latest.take()
            {
                let roster = self.roster.clone();
                self.waiting = Some((ping, Box::pin(async move { roster.caught_up().await })));
            }
            let caught_up = async {
                match &mut self.waiting {
                    Some((_, caught_up)) => caught_up.await,
                    None => pending().await,
                }
            };
            let request = async {
                match &mut self.requests {
                    Some(requests) => requests.next().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = caught_up => {
                    if let Some((ping, _)) = self.waiting.take() {
                        return Ok(ping);
                    }
                }
                request = request => match request? {
                    Some(request) => {
                        let ping = read(|fields| decode::ping(&request, fields))?;
                        self.latest = Some(ping).filter(|ping| *ping != 0).or(self.latest);
                    }
                    None => self.requests = None,
                },
            }
        }
    }
}
