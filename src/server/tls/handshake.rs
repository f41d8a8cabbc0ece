//! The TLS handshake of a connection.
//!
//! A handshake takes 0.4 ms (a key on P-256) to 1 ms (RSA of 2048 bits) of a core, a hundred times the cost of a check. A
//! worker would answer no check in that time, so the blocking threads of its runtime compute handshakes, on half of the
//! cores at most, and the handshakes of one address in turn. An address also has a budget. What waits for the peer holds no
//! place: its number is bounded by the limits of connections, and a connection without a call makes room for others.

use super::ServerTls;
use super::certificate::client_certificate;
use crate::authn::ClientCertificate;
use crate::clock;
use crate::leaky_bucket::LeakyBucket;
use crate::server::limits;
use crate::server::peer_socket::PeerSocket;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::FallibleAccept;
use tokio_rustls::server::TlsStream;

/// The handshakes of a server: places for those that are computed.
pub(in crate::server) struct Handshakes(Arc<Semaphore>);

impl Default for Handshakes {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self(Arc::new(Semaphore::new((cores / 2).max(1))))
    }
}

/// The share of one address in the handshakes of a server.
pub(in crate::server) struct HandshakeShare {
    places: Arc<Semaphore>,
    budget: LeakyBucket,
    /// Held while a handshake waits for the budget, so that the others wait in turn.
    turn: Semaphore,
}

impl Default for HandshakeShare {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(limits::PEER_HANDSHAKES)),
            budget: LeakyBucket::new(limits::HANDSHAKE_REFILL, limits::HANDSHAKE_BURST),
            turn: Semaphore::new(1),
        }
    }
}

impl HandshakeShare {
    /// Returns whether a new share is equal to this one, at this uptime.
    pub(in crate::server) fn is_unused(&self, now: Duration) -> bool {
        self.budget.is_full(now)
    }
}

/// The reason why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum HandshakeError {
    #[error("the TLS handshake failed: the peer refused, or it shares no version, cipher or protocol with this server")]
    Failed(#[source] rustls::Error),
    #[error("the client certificate was refused: see tls_client_ca_file and tls_client_certificates")]
    ClientCertificate(#[source] rustls::Error),
    #[error("the TLS handshake did not end in time")]
    TimedOut,
    /// Some libraries send no alert when they refuse a certificate.
    #[error("the peer ended the connection within the TLS handshake: it may not trust the certificate of this server")]
    Gone(#[source] io::Error),
}

impl HandshakeError {
    /// The name in the metric of connections that were closed.
    pub(in crate::server) fn name(&self) -> &'static str {
        match self {
            Self::Failed(_) | Self::Gone(_) => "tls_handshake",
            Self::ClientCertificate(_) => "client_certificate",
            Self::TimedOut => "tls_timeout",
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let reason = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned();
        match reason {
            Some(reason @ (rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)) => {
                Self::ClientCertificate(reason)
            }
            Some(reason) => Self::Failed(reason),
            None => Self::Gone(error),
        }
    }
}

/// Does the handshake of a connection, until this moment. `share` is that of the peer; `None` for a trusted proxy. Returns
/// the stream, and the certificate of the client if it has sent one.
///
/// # Errors
/// See [`HandshakeError`]. The peer has received an alert then, as far as the protocol allows one.
pub(in crate::server) async fn accept(
    tls: &ServerTls,
    socket: PeerSocket,
    share: Option<&HandshakeShare>,
    deadline: Instant,
) -> Result<(Box<TlsStream<PeerSocket>>, Option<ClientCertificate>), HandshakeError> {
    let handshake = async {
        if let Some(share) = share {
            share.charge().await;
        }
        let acceptor = TlsAcceptor::from(tls.loaded().config.clone());
        let accept = acceptor.accept_with(socket, |session| session.set_buffer_limit(Some(limits::TLS_SEND_BUFFER)));
        finish(accept.into_fallible(), &tls.0.handshakes, share).await
    };
    let mut stream = timeout_at(deadline, handshake).await.map_err(|_| HandshakeError::TimedOut)??;
    stream.get_mut().0.count_records();
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let malformed = |_| HandshakeError::ClientCertificate(rustls::CertificateError::BadEncoding.into());
    let certificate = certificate.map(client_certificate).transpose().map_err(malformed)?;
    Ok((stream, certificate))
}

/// Runs each step of a handshake on a blocking thread.
async fn finish(
    mut accept: FallibleAccept<PeerSocket>,
    handshakes: &Handshakes,
    share: Option<&HandshakeShare>,
) -> io::Result<Box<TlsStream<PeerSocket>>> {
    let wakeups = Arc::new(Wakeups::default());
    loop {
        let places = handshakes.enter(share).await;
        let waker = Waker::from(wakeups.clone());
        // The thread holds the places while it computes, even if the connection is closed.
        let step = tokio::task::spawn_blocking(move || {
            let outcome = Pin::new(&mut accept).poll(&mut Context::from_waker(&waker));
            drop(places);
            (accept, outcome.map_ok(Box::new))
        });
        let (next, outcome) = step.await.map_err(io::Error::other)?;
        match outcome {
            Poll::Ready(Ok(stream)) => return Ok(stream),
            Poll::Ready(Err((error, socket))) => {
                // In a box, because the connections of HTTP/2 need no room for it.
                Box::pin(close(socket)).await;
                return Err(error);
            }
            Poll::Pending => accept = next,
        }
        wakeups.0.notified().await;
    }
}

/// Closes a connection behind an alert. A client that has ended its side of the handshake has sent its first call already:
/// a close with unread bytes would reset the connection before the client has read the alert.
async fn close(mut socket: PeerSocket) {
    let closed = async {
        socket.shutdown().await?;
        tokio::io::copy(&mut socket.take(limits::OTHER_PROTOCOL_BYTES), &mut tokio::io::sink()).await
    };
    // An error means that the peer is gone.
    let _ = timeout(limits::OTHER_PROTOCOL, closed).await;
}

/// The places of one step: in the server and, if its peer has limits, in the share of the peer.
struct StepPlaces {
    _server: Option<OwnedSemaphorePermit>,
    _peer: Option<OwnedSemaphorePermit>,
}

impl Handshakes {
    /// Waits for a place in the share of the peer, then for one in the server. So an address has few steps in the line of
    /// the server.
    async fn enter(&self, share: Option<&HandshakeShare>) -> StepPlaces {
        let peer = match share {
            Some(share) => share.places.clone().acquire_owned().await.ok(),
            None => None,
        };
        // No semaphore is ever closed.
        StepPlaces { _server: self.0.clone().acquire_owned().await.ok(), _peer: peer }
    }
}

impl HandshakeShare {
    /// Waits until the budget allows one more handshake, and takes it.
    async fn charge(&self) {
        let _turn = self.turn.acquire().await;
        loop {
            let now = clock::uptime();
            let wait = self.budget.time_to_charge(now);
            if wait.is_zero() {
                return self.budget.charge(now);
            }
            tokio::time::sleep(wait).await;
        }
    }
}

/// The wake-ups of a handshake. One that comes while a thread computes is kept.
#[derive(Default)]
struct Wakeups(Notify);

impl Wake for Wakeups {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn one_address_has_few_steps_in_the_line_of_the_server() {
        let handshakes = Handshakes(Arc::new(Semaphore::new(1)));
        let (busy, other) = (HandshakeShare::default(), HandshakeShare::default());
        let held = handshakes.enter(None).await;
        let mut steps: Vec<_> = (0..100).map(|_| Box::pin(handshakes.enter(Some(&busy)))).collect();
        assert!(steps.iter_mut().all(|step| step.now_or_never().is_none()));
        let mut honest = Box::pin(handshakes.enter(Some(&other)));
        assert!((&mut honest).now_or_never().is_none());
        drop(held);
        // Two steps of the busy address are before this one, not a hundred.
        let (mut before, mut steps) = (0, steps.into_iter());
        while (&mut honest).now_or_never().is_none() {
            drop(steps.next().unwrap().await);
            before += 1;
        }
        assert_eq!(before, limits::PEER_HANDSHAKES);
    }

    #[tokio::test]
    async fn a_spent_budget_makes_further_handshakes_wait_in_turn() {
        let share = HandshakeShare::default();
        let now = clock::uptime();
        assert!(share.is_unused(now));
        for _ in 0..limits::HANDSHAKE_BURST {
            share.budget.charge(now);
        }
        assert!(!share.is_unused(now));
        let begin = std::time::Instant::now();
        let charged = futures_util::future::join_all((0..50).map(|_| share.charge()));
        charged.await;
        // One of them may have been allowed by the time since `now`.
        assert!(begin.elapsed() >= limits::HANDSHAKE_REFILL * 40, "{:?}", begin.elapsed());
    }
}
