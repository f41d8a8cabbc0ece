//! TLS on the listener, client certificates as credentials, and unix sockets.

mod calls;
mod certificates;
mod clients;
mod handshakes;
mod other_protocols;
mod reload;
mod unix;

use h2::RecvStream;
use h2::client::SendRequest;
use prost::bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection with an open health watch, which the server does not close to make room for others.
struct OpenWatch {
    _sender: SendRequest<Bytes>,
    _messages: RecvStream,
}

/// Opens a health watch over a new connection. `None` if the server closes the connection.
async fn open_watch(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Option<OpenWatch> {
    let (client, connection) = h2::client::handshake(stream).await.ok()?;
    tokio::spawn(connection);
    let mut sender = client.ready().await.ok()?;
    let request = http::Request::post("http://roster.test/grpc.health.v1.Health/Watch")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let (answer, mut body) = sender.send_request(request.body(()).unwrap(), false).ok()?;
    let _ = body.send_data(crate::harness::raw::frame(&[]).into(), true);
    let mut messages = answer.await.ok()?.into_body();
    messages.data().await?.ok()?;
    Some(OpenWatch { _sender: sender, _messages: messages })
}
