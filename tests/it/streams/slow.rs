//! Callers who do not read: the server ends their streams with a reason, and they keep no resources.

use super::{Watch, soon};
use crate::harness::raw::Call;
use crate::harness::{Database, Server};
use prost::bytes::Bytes;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use std::time::Duration;
use tokio::net::TcpStream;

/// Opens a stream over an h2 connection without tonic, and reads nothing of it.
async fn unread(server: &Server, method: &str, message: &[u8]) -> h2::RecvStream {
    let token = server.service_token("backend", &[Scope::Manage, Scope::Check]);
    let call = Call::grpc(method, message).bearer(&token);
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (send, connection) =
        h2::client::Builder::new().initial_window_size(1024).handshake::<_, Bytes>(stream).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://roster.test{}", call.path)).body(()).unwrap();
    *request.headers_mut() = call.headers;
    let (answer, mut sending) = send.ready().await.unwrap().send_request(request, false).unwrap();
    sending.send_data(call.body.into(), true).unwrap();
    soon(answer).await.unwrap().into_body()
}

/// Reads the rest of a stream. Returns its size in bytes and the status at its end.
async fn read_rest(mut incoming: h2::RecvStream) -> (usize, tonic::Status) {
    let mut size = 0;
    while let Some(chunk) = soon(incoming.data()).await {
        let chunk = chunk.unwrap();
        size += chunk.len();
        incoming.flow_control().release_capacity(chunk.len()).unwrap();
    }
    let trailers = soon(incoming.trailers()).await.unwrap().unwrap();
    (size, tonic::Status::from_header_map(&trailers).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_watch_is_ended_and_releases_its_permit() {
    let settings =
        ServerSettings { max_streams: 1, slow_reader: Duration::from_millis(300), ..ServerSettings::default() };
    let server = Server::over(Database::new().await, settings).await;
    for path in ["CheckService/WatchMemberships", "EventService/WatchEvents"] {
        // A checkpoint alone is larger than the window.
        let incoming = unread(&server, &format!("/roster.v1.{path}"), &[]).await;
        let clients = server.service(&[Scope::Check, Scope::Manage]);
        let opened = async {
            loop {
                let (sender, requests) = tokio::sync::mpsc::channel(1);
                sender.send(pb::WatchMembershipsRequest::default()).await.unwrap();
                let requests = tonic::codegen::tokio_stream::wrappers::ReceiverStream::new(requests);
                if let Ok(responses) = clients.checks.clone().watch_memberships(requests).await {
                    return Watch { requests: Some(sender), responses: responses.into_inner() };
                }
                tokio::task::yield_now().await;
            }
        };
        // The permit is released although the client has read nothing.
        let mut watch = soon(opened).await;
        assert!(watch.next().await.checkpoint.is_some());
        drop(watch);
        let (size, status) = read_rest(incoming).await;
        let outcome = crate::harness::refused::<()>(Err(status));
        assert_eq!(outcome, (tonic::Code::Aborted, "SLOW_READER".to_owned()), "{path}");
        // The server buffered a few messages only.
        assert!(size < 64 * 1024, "{size} bytes were buffered");
    }
}
