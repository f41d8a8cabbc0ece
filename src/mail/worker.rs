//! Sends the letters of the outbox that are due: claims each, sends it, and settles it.

use super::Mailer;
use crate::service::ServiceError;
use crate::service::outbox::{DeliveryOutcome, Letter};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Interval of polls of the outbox without a notification, for letters of other processes and for retries.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// First pause after a database error. It doubles with each further error.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause after a database error.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Attempts to settle a letter. After the last, its claim lapses and it is sent again, with the same Message-ID.
const SETTLE_ATTEMPTS: u32 = 6;

/// Sends letters until `stop` is cancelled, and then finishes the sends that have begun, each within its time limit.
///
/// `claim` claims the next letter that is due, and `settle` stores the outcome of a letter. A notification of `due`
/// means that a letter may be due. The number of concurrent sends is the mailer's number of connections.
pub async fn run<Claim, Claimed, Settle, Settled>(
    mailer: &Mailer,
    claim: Claim,
    settle: Settle,
    due: &Notify,
    stop: &CancellationToken,
) where
    Claim: Fn() -> Claimed,
    Claimed: Future<Output = Result<Option<Letter>, ServiceError>>,
    Settle: Fn(Uuid, DeliveryOutcome) -> Settled,
    Settled: Future<Output = Result<(), ServiceError>>,
{
    let send_loop = async || {
        let mut pause = PAUSE;
        while !stop.is_cancelled() {
            match claim().await {
                Ok(Some(letter)) => {
                    // More letters may be due: wake another loop.
                    due.notify_one();
                    let outcome = mailer.deliver(&letter).await;
                    log(&letter, &outcome);
                    settle_with_retries(&settle, letter.id, outcome, stop).await;
                    pause = PAUSE;
                }
                Ok(None) => {
                    mailer.close_idle().await;
                    tokio::select! {
                        () = due.notified() => {}
                        () = sleep(POLL_EVERY) => {}
                        () = stop.cancelled() => {}
                    }
                    pause = PAUSE;
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the outbox cannot be read");
                    wait(&mut pause, stop).await;
                }
            }
        }
    };
    futures_util::future::join_all((0..mailer.connections()).map(|_| send_loop())).await;
    mailer.close_idle().await;
}

/// Stores the outcome of a letter, with retries. After a stop there are as many attempts, but no pauses between them.
async fn settle_with_retries<Settle, Settled>(
    settle: &Settle,
    id: Uuid,
    outcome: DeliveryOutcome,
    stop: &CancellationToken,
) where
    Settle: Fn(Uuid, DeliveryOutcome) -> Settled,
    Settled: Future<Output = Result<(), ServiceError>>,
{
    let mut pause = PAUSE;
    for _ in 0..SETTLE_ATTEMPTS {
        match settle(id, outcome.clone()).await {
            Ok(()) => return,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(letter = %id, error, "the outcome of a mail cannot be stored");
            }
        }
        wait(&mut pause, stop).await;
    }
    tracing::error!(letter = %id, "the outcome of a mail was not stored: the mail may be sent again");
}

/// Waits for the pause and doubles it; returns at once after a stop.
async fn wait(pause: &mut Duration, stop: &CancellationToken) {
    tokio::select! {
        () = sleep(*pause) => {}
        () = stop.cancelled() => {}
    }
    *pause = (*pause * 2).min(PAUSE_MAX);
}

fn log(letter: &Letter, outcome: &DeliveryOutcome) {
    let (id, occasion) = (letter.id, letter.occasion);
    match outcome {
        DeliveryOutcome::Delivered => tracing::info!(letter = %id, ?occasion, "mail sent"),
        DeliveryOutcome::Transient(reason) => {
            tracing::warn!(letter = %id, ?occasion, %reason, "mail not sent; it will be tried again");
        }
        DeliveryOutcome::Final(reason) => {
            tracing::error!(letter = %id, ?occasion, %reason, "mail not sent; it will not be tried again");
        }
    }
}
