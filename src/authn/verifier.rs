//! Computes signatures on blocking threads, a bounded number at once.
//!
//! A thread that serves connections runs all their calls, so a signature computed there would delay the checks of other
//! peers by up to 60 µs each. The blocking threads of the runtime compute them instead. Half of the cores at most are
//! used, so that a flood of tokens leaves the others to the calls.

use super::credential_error::CredentialError;
use super::limits;
use super::peer_share::{PeerShare, RefusalBudget, VerificationPlace, VerificationPlaces};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

/// Computes the signatures of a server.
pub(super) struct Verifier {
    places: VerificationPlaces,
    computed: AtomicU64,
}

/// The places of one verification: in the server and, if its peer has limits, in the share of the peer, whose budget a
/// refused token is charged to.
pub(super) struct VerifierPlaces {
    _server: VerificationPlace,
    _peer: Option<VerificationPlace>,
    refusals: RefusalBudget,
}

impl Default for Verifier {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self { places: VerificationPlaces::new((cores / 2).max(1), limits::WAITING), computed: AtomicU64::new(0) }
    }
}

impl Verifier {
    /// Waits for a place in the share of the peer, then for one in the server. So an address has few calls in the line of
    /// the server, however many it has sent.
    pub(super) async fn enter(&self, peer: &PeerShare) -> Result<VerifierPlaces, CredentialError> {
        let (refusals, peer) = (peer.refusals(), peer.enter().await?);
        Ok(VerifierPlaces { _server: self.places.enter().await?, _peer: peer, refusals })
    }

    /// Runs a verification on a blocking thread. Returns the places, which the caller keeps until the result is in the
    /// cache: the next call in the line may have the same token.
    ///
    /// The thread holds the places while it computes, even if the call is cancelled. It charges a refusal before it returns
    /// them: the next call in the line must find it in the budget.
    pub(super) async fn verify(
        &self,
        places: VerifierPlaces,
        verification: impl FnOnce() -> Result<(), CredentialError> + Send + 'static,
    ) -> Result<VerifierPlaces, CredentialError> {
        self.computed.fetch_add(1, Ordering::Relaxed);
        let refusals = places.refusals.clone();
        let run = move || match verification() {
            Ok(()) => Ok(places),
            Err(error) => {
                places.refusals.charge(error);
                Err(error)
            }
        };
        match tokio::task::spawn_blocking(run).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => {
                refusals.charge(CredentialError::VerificationPanic);
                Err(CredentialError::VerificationPanic)
            }
            // The runtime of the thread stops.
            Err(_) => Err(CredentialError::VerificationsBusy),
        }
    }

    /// Returns the number of verifications so far.
    pub(super) fn computed(&self) -> u64 {
        self.computed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_panic_refuses_its_token_and_returns_its_places() {
        let (verifier, peer) = (Verifier::default(), PeerShare::limited("192.0.2.7".to_owned()));
        for _ in 0..10 {
            let places = verifier.enter(&peer).await.unwrap();
            let outcome = verifier.verify(places, || panic!("a fault in a test")).await;
            assert_eq!(outcome.err(), Some(CredentialError::VerificationPanic));
        }
        let places = verifier.enter(&peer).await.unwrap();
        assert!(verifier.verify(places, || Ok(())).await.is_ok());
        assert_eq!(verifier.computed(), 11);
    }

    #[tokio::test]
    async fn a_refused_signature_is_charged_before_the_next_one_also_if_its_call_is_cancelled() {
        let verifier = Verifier { places: VerificationPlaces::new(1, 1024), computed: AtomicU64::new(0) };
        let peer = PeerShare::limited("192.0.2.7".to_owned());
        let refused = || Err(CredentialError::InvalidSignature);
        // A call that is dropped as soon as its thread has begun, and one that waits for its answer, in turns.
        for number in 0..limits::REFUSAL_BURST {
            let places = verifier.enter(&peer).await.unwrap();
            assert!(peer.require_budget(crate::clock::uptime()).is_ok(), "{number}");
            let mut call = Box::pin(verifier.verify(places, refused));
            if number % 2 == 0 {
                let _ = (&mut call).now_or_never();
            } else {
                assert_eq!(call.await.err(), Some(CredentialError::InvalidSignature));
            }
        }
        // The budget refills by a charge in ten milliseconds.
        let mut more = 0;
        loop {
            let places = verifier.enter(&peer).await.unwrap();
            if peer.require_budget(crate::clock::uptime()).is_err() {
                break;
            }
            more += 1;
            assert!(more < 10 * limits::REFUSAL_BURST, "refusals are not charged");
            let _ = verifier.verify(places, refused).await;
        }
    }

    #[tokio::test]
    async fn a_cancelled_call_keeps_its_places_until_its_thread_is_done() {
        let verifier = Verifier { places: VerificationPlaces::new(1, 1), computed: AtomicU64::new(0) };
        let peer = PeerShare::limited("192.0.2.7".to_owned());
        let (started, is_started) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let places = verifier.enter(&peer).await.unwrap();
        let mut call = Box::pin(verifier.verify(places, move || {
            started.send(()).unwrap();
            let _ = ended.recv();
            Ok(())
        }));
        assert!((&mut call).now_or_never().is_none());
        is_started.recv().unwrap();
        drop(call);
        let mut next = Box::pin(verifier.enter(&peer));
        assert!((&mut next).now_or_never().is_none());
        end.send(()).unwrap();
        assert!(next.await.is_ok());
    }

    #[tokio::test]
    async fn one_peer_has_few_places_in_the_line_of_the_server() {
        let verifier = Verifier { places: VerificationPlaces::new(1, 1024), computed: AtomicU64::new(0) };
        let (busy, other) = ("192.0.2.7", "192.0.2.8");
        let [busy, other] = [busy, other].map(|name| PeerShare::limited(name.to_owned()));
        let held = verifier.enter(&other).await.unwrap();
        let mut calls: Vec<_> = (0..100).map(|_| Box::pin(verifier.enter(&busy))).collect();
        for call in &mut calls {
            assert!(call.now_or_never().is_none());
        }
        let mut honest = Box::pin(verifier.enter(&other));
        assert!((&mut honest).now_or_never().is_none());
        drop(held);
        // Two calls of the busy peer are before this one, not a hundred.
        let mut before = 0;
        let mut calls = calls.into_iter();
        while (&mut honest).now_or_never().is_none() {
            drop(calls.next().unwrap().await.unwrap());
            before += 1;
        }
        assert_eq!(before, limits::PEER_VERIFICATIONS);
    }
}
