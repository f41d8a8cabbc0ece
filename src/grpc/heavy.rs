//! Calls that may take more than a millisecond of CPU time run in the main runtime, so that the workers, which serve many
//! connections each, stay free for short calls.
//!
//! Heavy are the lists, whose pages have up to 3 MiB, and calls with a large message. Everything about such a call runs
//! there: the decoding of the message, the handler, the reading of rows, and the encoding of the response. For all other
//! calls the layer is one comparison.

use super::limits;
use crate::authz::rules;
use http_body::Body as _;
use http_body_util::BodyExt;
use std::convert::Infallible;
use std::panic::resume_unwind;
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::NamedService;
use tower::Service;
use tracing::Instrument;

/// A generated server whose heavy calls run in the main runtime.
#[derive(Debug, Clone)]
pub struct HeavyCalls<S> {
    service: S,
    runtime: Handle,
}

impl<S> HeavyCalls<S> {
    /// Wraps a generated server. Its heavy calls run in this runtime.
    #[must_use]
    pub fn new(service: S, runtime: Handle) -> Self {
        Self { service, runtime }
    }
}

impl<S: NamedService> NamedService for HeavyCalls<S> {
    const NAME: &'static str = S::NAME;
}

type HttpRequest = http::Request<Body>;
type HttpResponse = http::Response<Body>;

/// Whether a call may take more than a millisecond of CPU time. The size of a message that has not arrived is unknown, and
/// counts as small.
fn is_heavy(request: &HttpRequest) -> bool {
    let Some(method) = rules::method(request.uri().path()) else { return false };
    !method.streaming.any() && (method.pages || request.body().size_hint().lower() > limits::HEAVY_MESSAGE_BYTES)
}

impl<S> Service<HttpRequest> for HeavyCalls<S>
where
    S: Service<HttpRequest, Response = HttpResponse, Error = Infallible, Future = BoxFuture<HttpResponse, Infallible>>,
{
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = BoxFuture<HttpResponse, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        let is_heavy = is_heavy(&request);
        let call = self.service.call(request);
        if !is_heavy {
            return call;
        }
        // A caller that hangs up drops the call, and the task with it.
        let whole = async move { whole(call.await?).await };
        let task = AbortOnDropHandle::new(self.runtime.spawn(whole.in_current_span()));
        Box::pin(async move {
            match task.await {
                Ok(response) => response,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    // The runtime has ended, and the program with it.
                    Err(_) => std::future::pending().await,
                },
            }
        })
    }
}

/// Encodes the whole response.
async fn whole(response: HttpResponse) -> Result<HttpResponse, Infallible> {
    // A collected body does not report that it is empty, and clients accept no empty frame behind a status.
    if response.body().is_end_stream() {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    Ok(match body.collect().await {
        Ok(collected) => http::Response::from_parts(parts, Body::new(collected)),
        Err(status) => status.into_http(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use prost::bytes::Bytes;
    use std::sync::{Arc, Mutex};
    use std::thread::{self, ThreadId};

    /// A server that notes the threads on which it is called and on which its response is read.
    #[derive(Clone, Default)]
    struct Recorder(Arc<Mutex<Vec<ThreadId>>>);

    impl Service<HttpRequest> for Recorder {
        type Response = HttpResponse;
        type Error = Infallible;
        type Future = BoxFuture<HttpResponse, Infallible>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: HttpRequest) -> Self::Future {
            let note = self.0.clone();
            Box::pin(async move {
                note.lock().unwrap().push(thread::current().id());
                let body = Full::<Bytes>::from("x").map_frame(move |frame| {
                    note.lock().unwrap().push(thread::current().id());
                    frame
                });
                Ok(http::Response::new(Body::new(body)))
            })
        }
    }

    #[tokio::test]
    async fn a_status_in_the_head_stays_the_whole_response() {
        let refused = tonic::Status::permission_denied("no").into_http();
        assert!(whole(refused).await.unwrap().body().is_end_stream());
    }

    #[test]
    fn lists_and_large_messages_run_in_the_main_runtime() {
        let main = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let worker = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let large = usize::try_from(limits::HEAVY_MESSAGE_BYTES).unwrap() + 1;
        for (method, size, is_heavy) in [
            ("OrganizationService/ListMembers", 0, true),
            ("EventService/ListEvents", 10, true),
            ("OrganizationService/BatchAddMembers", large, true),
            ("OrganizationService/BatchAddMembers", large - 1, false),
            ("CheckService/CheckMembership", 100, false),
            ("CheckService/BatchCheckMembership", 100, false),
            ("OrganizationService/GetMember", 100, false),
            ("EventService/WatchEvents", large, false),
        ] {
            let recorder = Recorder::default();
            let mut service = HeavyCalls::new(recorder.clone(), main.handle().clone());
            let body = Body::new(Full::<Bytes>::from(vec![0; size]));
            let request = http::Request::builder().uri(format!("/roster.v1.{method}")).body(body).unwrap();
            let answer = worker.block_on(async {
                service.call(request).await.unwrap().into_body().collect().await.unwrap().to_bytes()
            });
            assert_eq!(answer, "x");
            let threads = recorder.0.lock().unwrap().clone();
            assert_eq!(threads.len(), 2);
            for thread in threads {
                assert_eq!(thread != thread::current().id(), is_heavy, "{method} with {size} bytes");
            }
        }
    }
}
