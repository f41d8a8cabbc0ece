//! The socket of a peer: TCP or unix.

use super::limits;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A socket on its way to its worker. It is not registered with a runtime.
pub(super) enum AcceptedSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// The socket of a peer, registered with the runtime of its worker.
pub(super) struct PeerSocket {
    socket: Socket,
    /// A byte that was read and has to be read again.
    unread: Option<u8>,
    /// Limits what is read below TLS; `None` in plaintext, where the bytes themselves are limited.
    records: Option<RecordMeter>,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Counts the bytes of TLS records against the bytes of their content. The other limits of a connection count content:
/// without this one, a peer could make the server decrypt records without content for as long as it likes.
#[derive(Default)]
struct RecordMeter {
    received: u64,
    content: u64,
    /// The bytes received since the socket had none, or since the last pause.
    turn: usize,
}

/// The peer sends records that are nearly all overhead.
#[derive(Debug, thiserror::Error)]
#[error("the peer sends TLS records with hardly any content")]
struct EmptyRecords;

impl PeerSocket {
    /// Registers a socket with the runtime of this thread.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub(super) fn register(socket: AcceptedSocket) -> io::Result<Self> {
        let socket = match socket {
            AcceptedSocket::Tcp(stream) => {
                let stream = TcpStream::from_std(stream)?;
                if let Err(error) = stream.set_nodelay(true) {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, "TCP_NODELAY could not be set on a connection");
                }
                Socket::Tcp(stream)
            }
            AcceptedSocket::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)?),
        };
        Ok(Self { socket, unread: None, records: None })
    }

    /// Waits for the first byte, which stays unread. `None` if the connection has ended.
    pub(super) async fn peek(&mut self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let read = self.read(&mut byte).await?;
        self.unread = (read > 0).then_some(byte[0]);
        Ok(self.unread)
    }

    /// Counts the TLS records from here on.
    pub(super) fn count_records(&mut self) {
        self.records = Some(RecordMeter::default());
    }

    /// Counts the content of records.
    pub(super) fn count_content(&mut self, bytes: usize) {
        if let Some(records) = &mut self.records {
            records.content += bytes as u64;
        }
    }

    fn poll_read_socket(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl RecordMeter {
    /// Counts bytes that were received.
    fn count(&mut self, bytes: usize) -> io::Result<()> {
        self.turn += bytes;
        self.received += bytes as u64;
        if self.received > limits::TLS_OVERHEAD_BYTES + self.content * limits::TLS_OVERHEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, EmptyRecords));
        }
        Ok(())
    }
}

impl AsyncRead for PeerSocket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buffer.remaining() > 0
            && let Some(byte) = this.unread.take()
        {
            buffer.put_slice(&[byte]);
            return Poll::Ready(Ok(()));
        }
        if let Some(records) = &mut this.records
            && records.turn >= limits::TURN_BYTES
        {
            // The other connections of the worker come first.
            records.turn = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let outcome = this.poll_read_socket(context, buffer);
        let Some(records) = &mut this.records else { return outcome };
        if outcome.is_pending() {
            records.turn = 0;
        }
        ready!(outcome)?;
        Poll::Ready(records.count(buffer.filled().len() - before))
    }
}

impl AsyncWrite for PeerSocket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets hold nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
