//! Connections on which many calls can be started and left as they are.

use crate::harness::raw::{Answer, Call};
use h2::RecvStream;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::{HeaderMap, Request};
use prost::bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic_types::StatusExt;

/// Waits for an event that must come soon. Longer than every limit of the server for a peer that does nothing.
pub async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), event).await.expect("nothing happened in time")
}

/// The client preface and an empty SETTINGS frame.
pub const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A connection for one test. Dropping it closes the connection.
pub struct Session {
    send: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A call that was started. Its request stays open as long as it lives.
pub struct StartedCall {
    response: ResponseFuture,
    pub body: h2::SendStream<Bytes>,
}

impl Session {
    /// Opens a connection with the usual windows.
    pub async fn open(address: SocketAddr) -> Self {
        Self::with(address, &Builder::new()).await
    }

    /// Opens a connection whose streams may receive this number of bytes before they are read.
    pub async fn with_window(address: SocketAddr, bytes: u32) -> Self {
        Self::with(address, Builder::new().initial_window_size(bytes)).await
    }

    async fn with(address: SocketAddr, builder: &Builder) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (send, connection) = builder.handshake(stream).await.unwrap();
        Self { send, driver: tokio::spawn(connection) }
    }

    /// Starts a call with this body, which may be a part of a message. The request ends if `whole`.
    pub async fn start(&self, call: &Call, whole: bool) -> StartedCall {
        self.try_start(call, whole).await.expect("the server has announced the end of the connection")
    }

    /// Starts a call as [`Self::start`] does. `None` if the server has announced the end of the connection, or ended it.
    pub async fn try_start(&self, call: &Call, whole: bool) -> Option<StartedCall> {
        let mut request = Request::post(format!("http://roster.test{}", call.path)).body(()).unwrap();
        *request.headers_mut() = call.headers.clone();
        let mut ready = soon(self.send.clone().ready()).await.ok()?;
        let (response, mut body) = ready.send_request(request, false).ok()?;
        // The server may have refused the call by its headers before.
        let _ = body.send_data(call.body.clone().into(), whole);
        Some(StartedCall { response, body })
    }

    /// Waits until the connection has ended.
    pub async fn ended(&mut self) {
        let _ = soon(&mut self.driver).await.unwrap();
    }
}

impl StartedCall {
    /// Waits for the head of the response. `None` if the server has announced that it ended the connection before it saw
    /// the call.
    pub async fn head_if_begun(self) -> Option<(HeaderMap, RecvStream)> {
        match soon(self.response).await {
            Ok(response) => {
                let (head, incoming) = response.into_parts();
                Some((head.headers, incoming))
            }
            Err(error) => {
                assert!(error.is_go_away() && error.is_remote(), "{error:?}");
                assert_eq!(error.reason(), Some(h2::Reason::NO_ERROR), "{error:?}");
                None
            }
        }
    }

    /// Waits for the head of the response. `None` if the connection ended before.
    pub async fn head_if_open(self) -> Option<(HeaderMap, RecvStream)> {
        let (head, incoming) = soon(self.response).await.ok()?.into_parts();
        Some((head.headers, incoming))
    }

    /// Waits for the head of the response.
    pub async fn head(self) -> (HeaderMap, RecvStream) {
        let (head, incoming) = soon(self.response).await.unwrap().into_parts();
        (head.headers, incoming)
    }

    /// Waits for a response that consists of a status.
    pub async fn refusal(self) -> Answer {
        let (headers, incoming) = self.head().await;
        let mut answer = Answer {
            http_status: 200,
            grpc_status: None,
            reason: None,
            headers,
            trailers: HeaderMap::new(),
            body: Vec::new(),
            is_head_only: incoming.is_end_stream(),
        };
        drop(incoming);
        let status = answer.status().expect("the response has a message");
        answer.grpc_status = Some(status.code().into());
        answer.reason = status.get_details_error_info().map(|info| info.reason);
        answer
    }
}

/// A socket without an HTTP/2 client.
pub struct Socket(pub TcpStream);

impl Socket {
    /// Connects and sends these bytes.
    pub async fn with(address: SocketAddr, bytes: &[u8]) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        Self(stream)
    }

    /// Waits until the server has sent its SETTINGS and has acknowledged those of this side.
    pub async fn until_accepted(&mut self) {
        let mut header = [0; 9];
        loop {
            soon(self.0.read_exact(&mut header)).await.unwrap();
            let [a, b, c, kind, flags, ..] = header;
            let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
            soon(self.0.read_exact(&mut payload)).await.unwrap();
            // SETTINGS with ACK.
            if (kind, flags) == (4, 1) {
                return;
            }
        }
    }

    /// Reads until the server has closed the connection. Returns what it sent.
    pub async fn rest(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset ends it too.
        let _ = soon(self.0.read_to_end(&mut bytes)).await;
        bytes
    }
}

/// Whether the bytes that a server sent contain a GOAWAY frame.
pub fn says_goaway(mut bytes: &[u8]) -> bool {
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        if *kind == 7 {
            return true;
        }
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
        bytes = rest.get(length..).unwrap_or_default();
    }
    false
}
