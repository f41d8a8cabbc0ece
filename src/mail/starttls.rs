//! A TCP stream for STARTTLS that returns one byte per read until the TLS handshake begins.
//!
//! lettre 0.11.23 keeps data that it has read before the TLS handshake, and takes it for replies after it. An attacker
//! on the network path can append lines to the reply to STARTTLS. Each later reply is then taken for that of the next
//! command, and a message counts as delivered before the relay has accepted it. With one byte per read, lettre reads no
//! further than the line that ends the unencrypted part. The appended lines reach the TLS handshake, which fails.

use lettre::transport::smtp::client::AsyncTokioStream;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The first byte of a TLS handshake. No SMTP command begins with it.
const HANDSHAKE: u8 = 0x16;

/// The stream. It switches to full reads when the client sends the first byte of the handshake.
#[derive(Debug)]
pub(super) struct StarttlsGuard {
    stream: TcpStream,
    encrypted: bool,
}

impl StarttlsGuard {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, encrypted: false }
    }
}

impl AsyncRead for StarttlsGuard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.encrypted || buf.remaining() == 0 {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let mut byte = [0];
        let mut one = ReadBuf::new(&mut byte);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut one))?;
        buf.put_slice(one.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StarttlsGuard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.encrypted |= bytes.first() == Some(&HANDSHAKE);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncTokioStream for StarttlsGuard {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}
