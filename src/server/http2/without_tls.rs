//! HTTP/2 in plaintext on a port with TLS: the status of each call names TLS.
//!
//! Clients show the message of a status. After a GOAWAY or a closed connection alone, they connect again without a pause,
//! until the deadline of the call, and show no reason.

use crate::server::limits;
use crate::server::other_protocols::{self, RequestHead, RequestTransport};
use tokio::io::{AsyncRead, AsyncWrite};

/// Answers the calls of a connection that begins with HTTP/2, and announces its end. It sets no time limit.
///
/// # Errors
/// If the peer breaks the protocol or is gone.
pub(in crate::server) async fn refuse_calls<T: AsyncRead + AsyncWrite + Unpin>(stream: T) -> Result<(), h2::Error> {
    let head = RequestHead {
        method: "POST",
        content_type: "application/grpc",
        query: "",
        is_http2: true,
        transport: RequestTransport::WithoutTls,
    };
    let (head, _) = other_protocols::answer(&head).into_parts();
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .max_header_list_size(limits::HEADER_LIST_BYTES)
        .handshake::<_, hyper::body::Bytes>(stream)
        .await?;
    for number in 0..limits::STREAMS_PER_CONNECTION {
        let Some(call) = connection.accept().await else { break };
        let (_, mut respond) = call?;
        // The library announces that the message need not be sent.
        respond.send_response(http::Response::from_parts(head.clone(), ()), true)?;
        if number == 0 {
            connection.graceful_shutdown();
        }
    }
    std::future::poll_fn(|context| connection.poll_closed(context)).await
}
