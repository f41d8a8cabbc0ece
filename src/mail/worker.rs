//! From the outbox to the relay: claim, send, settle, until nothing is due.

use super::Mailer;
use crate::service::ServiceError;
use crate::service::outbox::{DeliveryOutcome, Letter};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often the outbox is looked at without a nudge: what another process left, and what is due for another try.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long to wait after the datastore did not answer: at first, and at most.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often it is tried to write down what became of a letter. Afterwards its claim lapses and it is sent again, with
/// the same Message-ID.
const SETTLE_ATTEMPTS: u32 = 6;

/// Sends what is due until told to stop; then finishes what is under way, each within its timeout.
///
/// `claim` takes a letter out of the outbox and `settle` writes down what became of it. `nudge` says that something may
/// be due. As many letters are under way at once as the mailer has connections.
pub async fn run<Claim, Claimed, Settle, Settled>(
    mailer: &Mailer,
    claim: Claim,
    settle: Settle,
    nudge: &Notify,
    stop: &CancellationToken,
) where
    Claim: Fn() -> Claimed,
    Claimed: Future<Output = Result<Option<Letter>, ServiceError>>,
    Settle: Fn(Uuid, DeliveryOutcome) -> Settled,
    Settled: Future<Output = Result<(), ServiceError>>,
{
    let hand = async || {
        let mut pause = PAUSE;
        while !stop.is_cancelled() {
            match claim().await {
                Ok(Some(letter)) => {
                    // Where one is due there may be more: wake the next hand.
                    nudge.notify_one();
                    let sent = mailer.deliver(&letter).await;
                    log(&letter, &sent);
                    write_down(&settle, letter.id, sent, stop).await;
                    pause = PAUSE;
                }
                Ok(None) => {
                    mailer.hang_up().await;
                    tokio::select! {
                        () = nudge.notified() => {}
                        () = sleep(LOOK_EVERY) => {}
                        () = stop.cancelled() => {}
                    }
                    pause = PAUSE;
                }
                Err(error) => {
                    tracing::warn!(%error, "the outbox cannot be read");
                    wait(&mut pause, stop).await;
                }
            }
        }
    };
    futures_util::future::join_all((0..mailer.connections()).map(|_| hand())).await;
    mailer.hang_up().await;
}

/// Writes down what became of a letter. On the way out it is tried as often, but not waited in between.
async fn write_down<Settle, Settled>(settle: &Settle, id: Uuid, sent: DeliveryOutcome, stop: &CancellationToken)
where
    Settle: Fn(Uuid, DeliveryOutcome) -> Settled,
    Settled: Future<Output = Result<(), ServiceError>>,
{
    let mut pause = PAUSE;
    for _ in 0..SETTLE_ATTEMPTS {
        match settle(id, sent.clone()).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(letter = %id, %error, "what became of a mail cannot be written down"),
        }
        wait(&mut pause, stop).await;
    }
    tracing::error!(letter = %id, "what became of a mail is not written down: it may be sent again");
}

/// Waits, and longer the next time; not if it is time to stop.
async fn wait(pause: &mut Duration, stop: &CancellationToken) {
    tokio::select! {
        () = sleep(*pause) => {}
        () = stop.cancelled() => {}
    }
    *pause = (*pause * 2).min(PAUSE_MAX);
}

fn log(letter: &Letter, sent: &DeliveryOutcome) {
    let (id, occasion) = (letter.id, letter.occasion);
    match sent {
        DeliveryOutcome::Delivered => tracing::info!(letter = %id, ?occasion, "mail sent"),
        DeliveryOutcome::Transient(why) => tracing::warn!(letter = %id, ?occasion, %why, "mail not sent yet"),
        DeliveryOutcome::Final(why) => tracing::error!(letter = %id, ?occasion, %why, "mail given up"),
    }
}
