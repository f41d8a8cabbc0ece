//! The first bytes of a connection. A connection of HTTP/2 begins with a preface; anything else gets one readable answer
//! in HTTP/1.1, which tools of other protocols show or name as no answer of theirs, and the connection ends.

use super::http2;
use super::limits;
use super::other_protocols::{self, RequestHead, RequestTransport};
use super::peer_socket::PeerSocket;
use super::peer_stream::RewoundStream;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

/// The connection preface of a client of HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first bytes of a TLS handshake record.
const TLS: &[u8] = &[0x16, 3];
/// The first bytes of a PROXY header: in text, and in binary form.
const PROXY: [&[u8]; 2] = [b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"];

/// The end of the head of a request of HTTP/1.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// The protocol with which a connection begins, if it is not HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WrongProtocol {
    #[error(
        "the peer speaks TLS, and this port does not: set tls_certificate_file and tls_key_file, end TLS in a proxy, or \
         switch it off in the client"
    )]
    Tls,
    #[error("the peer does not speak TLS, and this port does: switch TLS on in the client, for health probes as well")]
    NoTls,
    #[error("the peer speaks HTTP/1, and this port HTTP/2 only: use a client of gRPC, for health probes as well")]
    Http1,
    #[error("the peer sent a PROXY header that is not expected: set proxy_protocol, and the proxy in trusted_proxies")]
    ProxyHeader,
    #[error("the connection does not begin with HTTP/2: use a client of gRPC")]
    Unknown,
}

impl WrongProtocol {
    /// The name in the metric of connections that were closed.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::NoTls => "no_tls",
            Self::Http1 => "http1",
            Self::ProxyHeader => "unexpected_proxy_header",
            Self::Unknown => "not_http2",
        }
    }
}

/// Reads the preface. Returns the part of it that the peer has sent, which is short only if the connection has ended. A
/// peer of another protocol gets an answer; the connection cannot be used then.
///
/// # Errors
/// If the peer is gone, or does not send its preface until the deadline.
pub(super) async fn read<T: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut T,
    is_tls: bool,
    deadline: Instant,
) -> io::Result<Result<&'static [u8], WrongProtocol>> {
    let mut start = [0; PREFACE.len()];
    let length = timeout_at(deadline, read_start(socket, &mut start)).await??;
    if PREFACE.starts_with(&start[..length]) {
        return Ok(Ok(&PREFACE[..length]));
    }
    let protocol = protocol(&start[..length]);
    // An error means that the peer is gone: it is of no interest that it did not read the answer.
    // In a box, because the connections of HTTP/2 need no room for it.
    let transport = if is_tls { RequestTransport::Tls } else { RequestTransport::Plaintext };
    let answer = respond(socket, protocol, transport, &start[..length]);
    let _ = timeout(limits::OTHER_PROTOCOL, Box::pin(answer)).await;
    Ok(Err(protocol))
}

/// Looks at the first byte of a connection on a port with TLS. `None` if it may be that of a handshake. A peer that does not
/// speak TLS gets an answer in its protocol; the connection cannot be used then.
///
/// # Errors
/// If the peer is gone, or sends nothing until the deadline.
pub(super) async fn begins_with_tls(socket: &mut PeerSocket, deadline: Instant) -> io::Result<Option<WrongProtocol>> {
    let first = timeout_at(deadline, socket.peek()).await??.ok_or(io::ErrorKind::UnexpectedEof)?;
    if first == TLS[0] {
        return Ok(None);
    }
    let mut start = [0; PREFACE.len()];
    let length = timeout_at(deadline, read_start(socket, &mut start)).await??;
    let start = &start[..length];
    let is_http2 = start == PREFACE;
    let protocol = protocol(start);
    let answer = async {
        if is_http2 {
            let stream = RewoundStream::new(PREFACE, socket);
            http2::refuse_calls(stream).await.map_err(io::Error::other)
        } else {
            respond(socket, protocol, RequestTransport::WithoutTls, start).await
        }
    };
    let _ = timeout(limits::OTHER_PROTOCOL, Box::pin(answer)).await;
    Ok(Some(if protocol == WrongProtocol::ProxyHeader { protocol } else { WrongProtocol::NoTls }))
}

/// Reads until the bytes differ from the preface, or are the whole of it. Returns their number.
async fn read_start<R: AsyncRead + Unpin>(socket: &mut R, start: &mut [u8; PREFACE.len()]) -> io::Result<usize> {
    let mut length = 0;
    while length < start.len() && start[..length] == PREFACE[..length] {
        match socket.read(&mut start[length..]).await? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

fn protocol(start: &[u8]) -> WrongProtocol {
    let begins_with = |expected: &[u8]| start.starts_with(expected) || expected.starts_with(start);
    // A method of HTTP, or its first letters.
    let method = start.split(|byte| *byte == b' ').next().unwrap_or_default();
    if begins_with(TLS) {
        WrongProtocol::Tls
    } else if PROXY.iter().any(|header| start.starts_with(header)) {
        WrongProtocol::ProxyHeader
    } else if !method.is_empty() && method.iter().all(u8::is_ascii_uppercase) {
        WrongProtocol::Http1
    } else {
        WrongProtocol::Unknown
    }
}

/// Answers in HTTP/1.1, and waits until the peer has read the answer and closes: a close with unread bytes could reset
/// the connection before.
async fn respond<T: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut T,
    protocol: WrongProtocol,
    transport: RequestTransport,
    start: &[u8],
) -> io::Result<()> {
    let mut bytes = start.to_vec();
    if protocol == WrongProtocol::Http1 {
        // A head that is too long, or does not end in time, is answered as far as it is known.
        let _ = timeout(limits::OTHER_PROTOCOL / 2, read_head(socket, &mut bytes)).await;
    }
    socket.write_all(&serialize(&other_protocols::answer(&request_head(&bytes, transport)))).await?;
    socket.shutdown().await?;
    let mut unread = (&mut *socket).take(limits::OTHER_PROTOCOL_BYTES);
    tokio::io::copy(&mut unread, &mut tokio::io::sink()).await?;
    Ok(())
}

/// Reads to the end of the head of a request of HTTP/1.
async fn read_head<R: AsyncRead + Unpin>(socket: &mut R, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut rest = (&mut *socket).take(limits::OTHER_PROTOCOL_HEAD);
    let mut searched = 0;
    while !bytes[searched..].windows(HEAD_END.len()).any(|end| end == HEAD_END) {
        searched = bytes.len().saturating_sub(HEAD_END.len() - 1);
        if rest.read_buf(bytes).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// What the head of a request of HTTP/1 says. What is missing is empty.
fn request_head(bytes: &[u8], transport: RequestTransport) -> RequestHead<'_> {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(|line| std::str::from_utf8(line).unwrap_or_default().trim());
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let content_type =
        headers.filter(|(name, _)| name.eq_ignore_ascii_case("content-type")).map(|(_, value)| value.trim());
    RequestHead {
        method,
        content_type: content_type.last().unwrap_or_default(),
        query: target.split_once('?').map_or("", |(_, query)| query),
        is_http2: false,
        transport,
    }
}

/// The bytes of a response in HTTP/1.1. The connection ends behind it.
fn serialize(response: &http::Response<hyper::body::Bytes>) -> Vec<u8> {
    let status = response.status();
    let mut bytes = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
    for (name, value) in response.headers() {
        bytes.extend([name.as_str(), ": ", value.to_str().unwrap_or_default(), "\r\n"]);
    }
    let end = format!("content-length: {}\r\nconnection: close\r\n\r\n", response.body().len());
    [bytes.as_bytes(), end.as_bytes(), response.body()].concat()
}
