//! The worker's loop, over an outbox in memory.

use super::{TOKEN, invitation, mailer, plain, settings};
use crate::harness::log::Log;
use crate::harness::smtp::{Act, Fault, SmtpOptions, SmtpServer};
use roster::mail::settings::Security;
use roster::mail::{Mailer, worker};
use roster::service::ServiceError;
use roster::service::outbox::{DeliveryOutcome, Letter};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What the outbox holds, and what the datastore under it does.
#[derive(Default)]
struct Rows {
    due: VecDeque<Letter>,
    settled: Vec<(Uuid, DeliveryOutcome)>,
    /// How often it does not answer before it does: to a claim, and to a settling.
    deaf_to_claims: u32,
    deaf_to_settling: u32,
}

/// An outbox, and a worker over it.
struct Outbox {
    rows: Arc<Mutex<Rows>>,
    nudge: Arc<Notify>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

/// Counts down, and fails until it is at zero.
fn answer(left: &mut u32) -> Result<(), ServiceError> {
    let deaf = *left > 0;
    *left = left.saturating_sub(1);
    if deaf { Err(ServiceError::Panicked) } else { Ok(()) }
}

impl Outbox {
    fn start(mailer: Mailer, letters: usize) -> Self {
        Self::over(mailer, Rows { due: (0..letters).map(numbered).collect(), ..Rows::default() })
    }

    fn over(mailer: Mailer, rows: Rows) -> Self {
        let rows = Arc::new(Mutex::new(rows));
        let (nudge, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let running = tokio::spawn({
            let (rows, nudge, stop) = (Arc::clone(&rows), Arc::clone(&nudge), stop.clone());
            async move {
                let claim = async || {
                    let mut rows = rows.lock().unwrap();
                    answer(&mut rows.deaf_to_claims).map(|()| rows.due.pop_front())
                };
                let settle = async |id, sent| {
                    let mut rows = rows.lock().unwrap();
                    answer(&mut rows.deaf_to_settling).map(|()| rows.settled.push((id, sent)))
                };
                worker::run(&mailer, claim, settle, &nudge, &stop).await;
            }
        });
        Self { rows, nudge, stop, running }
    }

    async fn until_settled(&self, count: usize) -> Vec<(Uuid, DeliveryOutcome)> {
        for _ in 0..400 {
            let settled = self.rows.lock().unwrap().settled.clone();
            if settled.len() >= count {
                return settled;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{:?} of {count} letters were settled", self.rows.lock().unwrap().settled);
    }

    /// Stops the worker, and says how long that took.
    async fn stop(self) -> Duration {
        let began = Instant::now();
        self.stop.cancel();
        self.running.await.unwrap();
        began.elapsed()
    }
}

fn numbered(number: usize) -> Letter {
    Letter { id: Uuid::from_u128(number as u128), ..invitation() }
}

#[tokio::test]
async fn what_is_due_is_sent_by_few_connections() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let outbox = Outbox::start(plain(&server), 40);
    let settled = outbox.until_settled(40).await;
    assert!(settled.iter().all(|(_, sent)| *sent == DeliveryOutcome::Delivered));
    let mut ids: Vec<Uuid> = settled.iter().map(|(id, _)| *id).collect();
    ids.sort();
    assert_eq!(ids, (0..40u128).map(Uuid::from_u128).collect::<Vec<_>>());
    let mailbox = server.mailbox();
    assert_eq!(mailbox.len(), 40);
    assert!(mailbox.iter().all(|received| received.connection <= 4), "two at once, each perhaps once anew");
    assert!(outbox.stop().await < Duration::from_millis(900));
}

#[tokio::test]
async fn a_nudge_wakes_it() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let outbox = Outbox::start(plain(&server), 0);
    let began = Instant::now();
    for count in 1..=10 {
        outbox.rows.lock().unwrap().due.push_back(numbered(count));
        outbox.nudge.notify_one();
        server.until_received(count).await;
    }
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}: it looks once a second by itself", began.elapsed());
    outbox.rows.lock().unwrap().due.push_back(numbered(11));
    server.until_received(11).await;
    outbox.stop().await;
}

#[tokio::test]
async fn each_letter_is_settled_as_it_went() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    server.misbehave([
        Some(Fault { at: "RCPT", act: Act::Answer("450 4.2.1 later") }),
        Some(Fault { at: "RCPT", act: Act::Answer("550 5.1.1 nobody") }),
    ]);
    let mut settings = settings(&server, Security::Plain);
    settings.connections = 1;
    let outbox = Outbox::start(mailer(&settings), 3);
    let settled = outbox.until_settled(3).await;
    let what: Vec<DeliveryOutcome> = settled.into_iter().map(|(_, sent)| sent).collect();
    let why = |code| format!("the relay did not take the mail: {code}");
    assert_eq!(
        what,
        [
            DeliveryOutcome::Transient(why("450 4.2.1")),
            DeliveryOutcome::Final(why("550 5.1.1")),
            DeliveryOutcome::Delivered
        ]
    );
    outbox.stop().await;
}

#[tokio::test]
async fn a_datastore_that_does_not_answer_is_waited_for() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let due = (0..3).map(numbered).collect();
    let rows = Rows { due, deaf_to_claims: 3, deaf_to_settling: 2, ..Rows::default() };
    let outbox = Outbox::over(plain(&server), rows);
    outbox.until_settled(3).await;
    assert_eq!(server.mailbox().len(), 3, "nothing is sent again because it could not be settled at once");
    outbox.stop().await;
}

#[tokio::test]
async fn it_stops_at_once_and_finishes_what_is_under_way() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    server.misbehave([Some(Fault { at: "BODY", act: Act::Hang })]);
    let mut settings = settings(&server, Security::Plain);
    settings.connections = 1;
    settings.timeout_ms = 1_500;
    let outbox = Outbox::start(mailer(&settings), 2);
    server.until_received(1).await;
    let rows = Arc::clone(&outbox.rows);
    assert!(outbox.stop().await < Duration::from_secs(5));
    assert_eq!(rows.lock().unwrap().settled.len(), 1, "the one under way is settled");
    assert_eq!(rows.lock().unwrap().due.len(), 1, "no other is begun");
}

#[tokio::test]
async fn it_stops_while_the_datastore_is_away() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let outbox = Outbox::over(plain(&server), Rows { deaf_to_claims: u32::MAX, ..Rows::default() });
    // After it has asked four times, it waits for two seconds.
    let asked = async {
        while u32::MAX - outbox.rows.lock().unwrap().deaf_to_claims < 4 {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), asked).await.is_ok(), "it did not go on asking");
    assert!(outbox.stop().await < Duration::from_secs(1));
}

#[tokio::test]
async fn nothing_of_a_letter_is_logged() {
    let log = Log::watch();
    let server = SmtpServer::start(SmtpOptions::default()).await;
    server.misbehave([
        Some(Fault { at: "RCPT", act: Act::Answer("450 4.2.1 <bob@recipient.example>: later") }),
        Some(Fault { at: "RCPT", act: Act::Answer("550 <bob@recipient.example>: nobody") }),
        Some(Fault { at: "RCPT", act: Act::Answer("bob@recipient.example") }),
    ]);
    let rows = Rows { due: (0..4).map(numbered).collect(), deaf_to_settling: 1, ..Rows::default() };
    let outbox = Outbox::over(plain(&server), rows);
    outbox.until_settled(4).await;
    outbox.stop().await;
    let log = log.end();
    for wanted in ["mail sent", "mail not sent yet", "mail given up", "00000000-0000-0000-0000-000000000003"] {
        assert!(log.contains(wanted), "{log}");
    }
    for secret in [TOKEN, "bob", "recipient.example", "ada@", "Ada Lovelace", "Acme"] {
        assert!(!log.contains(secret), "{log}");
    }
}
