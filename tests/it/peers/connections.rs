//! Connections from a chosen address. Every address of 127.0.0.0/8 is one of this machine.

use crate::harness::raw::frame;
use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

/// Upper limit of every wait: longer than any step takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Opens a socket from this address.
pub async fn socket(source: &str, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(SocketAddr::new(source.parse::<IpAddr>().unwrap(), 0)).unwrap();
    socket.connect(server).await.unwrap()
}

/// An open HTTP/2 connection with a health watch: the server does not close a connection with an open call to make room
/// for others. Dropping it closes it.
pub struct OpenConnection {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<()>,
    watch: Option<RecvStream>,
}

impl OpenConnection {
    /// Opens a connection from an address, whose first bytes are this PROXY header. Fails if the server closes it.
    pub async fn open(source: &str, server: SocketAddr, header: &[u8]) -> io::Result<Self> {
        let mut stream = socket(source, server).await;
        let opened = async {
            stream.write_all(header).await?;
            let (sender, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
            let driver = tokio::spawn(async move {
                let _ = connection.await;
            });
            let mut opened = Self { sender, driver, watch: None };
            // The server may close a connection after the client has sent its part of the handshake.
            opened.watch = Some(opened.begin_watch().await.map_err(io::Error::other)?);
            Ok(opened)
        };
        tokio::time::timeout(PATIENCE, opened).await.expect("the connection was neither served nor closed")
    }

    /// Waits for the first message of a health watch.
    async fn begin_watch(&mut self) -> Result<RecvStream, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let mut watch = send(&mut sender, WATCH, HeaderMap::new(), &[])?.await?.into_body();
        match watch.data().await {
            Some(message) => message.map(|_| watch),
            None => Err(h2::Reason::REFUSED_STREAM.into()),
        }
    }

    /// Makes a call over this connection. Returns its status; fails if the connection ends.
    pub async fn call(&mut self, path: &str, headers: HeaderMap, message: &[u8]) -> Result<Status, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        call(&mut sender, path, headers, message).await
    }

    /// Begins a call over this connection; it goes on while others are begun.
    pub async fn begin(
        &mut self,
        path: &'static str,
        headers: HeaderMap,
        message: &'static [u8],
    ) -> JoinHandle<Result<Status, h2::Error>> {
        let mut sender = self.sender.clone().ready().await.unwrap();
        tokio::spawn(async move { call(&mut sender, path, headers, message).await })
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        drop(self.watch.take());
        self.driver.abort();
    }
}

fn send(
    sender: &mut SendRequest<Bytes>,
    path: &str,
    headers: HeaderMap,
    message: &[u8],
) -> Result<ResponseFuture, h2::Error> {
    let mut request = Request::post(format!("http://roster.test{path}")).body(()).unwrap();
    *request.headers_mut() = headers;
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    let (response, mut body) = sender.send_request(request, false)?;
    // A call that the server refuses by its headers is answered, and the stream closed, before the body is sent.
    let _ = body.send_data(frame(message).into(), true);
    Ok(response)
}

async fn call(
    sender: &mut SendRequest<Bytes>,
    path: &str,
    headers: HeaderMap,
    message: &[u8],
) -> Result<Status, h2::Error> {
    let (head, mut incoming) = send(sender, path, headers, message)?.await?.into_parts();
    while let Some(chunk) = incoming.data().await {
        incoming.flow_control().release_capacity(chunk?.len())?;
    }
    let trailers = incoming.trailers().await?.unwrap_or_default();
    let status = Status::from_header_map(&trailers).or_else(|| Status::from_header_map(&head.headers));
    Ok(status.unwrap_or_else(|| Status::new(Code::Unknown, format!("HTTP status {}", head.status))))
}
