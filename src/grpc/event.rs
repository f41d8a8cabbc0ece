//! The handlers of `EventService`: admit, decode, call, encode.

use super::admit::sealed::Sealed;
use super::admit::stream::PushStream;
use super::admit::{Api, read, respond};
use super::decode::event as decode;
use super::pb::event_service_server::EventService;
use super::watch;
use super::{convert, pb};
use tonic::{Request, Response, Status, async_trait};

#[async_trait]
impl EventService for Api {
    async fn list_events(
        &self,
        request: Request<Sealed<pb::ListEventsRequest>>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let (message, access) = self.admit(request).await?;
        let (page, filter) = read(|fields| decode::list(&message, fields))?;
        let rows = self.roster().list_events(&access, &filter).await?;
        let (events, next_page_token) =
            page.convert(&rows, convert::event, |last| last.revision.to_be_bytes().to_vec());
        respond(pb::ListEventsResponse { events, next_page_token })
    }

    async fn list_user_events(
        &self,
        request: Request<Sealed<pb::ListUserEventsRequest>>,
    ) -> Result<Response<pb::ListUserEventsResponse>, Status> {
        let (message, _) = self.admit_caller(request).await?;
        let (page, filter) = read(|fields| decode::list_of_user(&message, fields))?;
        let rows = self.roster().list_user_events(&filter).await?;
        let (events, next_page_token) =
            page.convert(&rows, convert::event, |last| last.revision.to_be_bytes().to_vec());
        respond(pb::ListUserEventsResponse { events, next_page_token })
    }

    type WatchEventsStream = PushStream<pb::WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<Sealed<pb::WatchEventsRequest>>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let (message, permit) = self.admit_stream(request).await?;
        let input = read(|fields| decode::watch(&message, fields))?;
        let roster = self.roster().clone();
        Ok(permit.push(|sender| watch::events::watch(roster, input, sender)))
    }
}
