//! Tests of the worker, with an outbox in memory.

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

/// The contents of the outbox, and the errors of its database.
#[derive(Default)]
struct Rows {
    due: VecDeque<Letter>,
    settled: Vec<(Uuid, DeliveryOutcome)>,
    /// Number of claims that fail before the first success.
    failing_claims: u32,
    /// Number of settlements that fail before the first success.
    failing_settlements: u32,
}

/// An outbox, and a worker that sends its letters.
struct Outbox {
    rows: Arc<Mutex<Rows>>,
    due_notice: Arc<Notify>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

/// Fails and counts down until the number is zero.
fn fail_until_zero(failures: &mut u32) -> Result<(), ServiceError> {
    let fails = *failures > 0;
    *failures = failures.saturating_sub(1);
    if fails { Err(ServiceError::Panicked) } else { Ok(()) }
}

impl Outbox {
    fn start(mailer: Mailer, letters: usize) -> Self {
        Self::with_rows(mailer, Rows { due: (0..letters).map(numbered).collect(), ..Rows::default() })
    }

    fn with_rows(mailer: Mailer, rows: Rows) -> Self {
        let rows = Arc::new(Mutex::new(rows));
        let (due_notice, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let running = tokio::spawn({
            let (rows, due_notice, stop) = (Arc::clone(&rows), Arc::clone(&due_notice), stop.clone());
            async move {
                let claim = async || {
                    let mut rows = rows.lock().unwrap();
                    fail_until_zero(&mut rows.failing_claims).map(|()| rows.due.pop_front())
                };
                let settle = async |id, outcome| {
                    let mut rows = rows.lock().unwrap();
                    fail_until_zero(&mut rows.failing_settlements).map(|()| rows.settled.push((id, outcome)))
                };
                worker::run(&mailer, claim, settle, &due_notice, &stop).await;
            }
        });
        Self { rows, due_notice, stop, running }
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

    /// Stops the worker and returns how long that took.
    async fn stop(self) -> Duration {
        let started = Instant::now();
        self.stop.cancel();
        self.running.await.unwrap();
        started.elapsed()
    }
}

fn numbered(number: usize) -> Letter {
    Letter { id: Uuid::from_u128(number as u128), ..invitation() }
}

#[tokio::test]
async fn due_letters_are_sent_over_few_connections() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let outbox = Outbox::start(plain(&server), 40);
    let settled = outbox.until_settled(40).await;
    assert!(settled.iter().all(|(_, outcome)| *outcome == DeliveryOutcome::Delivered));
    let mut ids: Vec<Uuid> = settled.iter().map(|(id, _)| *id).collect();
    ids.sort();
    assert_eq!(ids, (0..40u128).map(Uuid::from_u128).collect::<Vec<_>>());
    let mailbox = server.mailbox();
    assert_eq!(mailbox.len(), 40);
    assert!(
        mailbox.iter().all(|received| received.connection <= 4),
        "two connections at a time, each replaced once at most"
    );
    assert!(outbox.stop().await < Duration::from_millis(900));
}

#[tokio::test]
async fn a_notification_wakes_the_worker() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let outbox = Outbox::start(plain(&server), 0);
    let started = Instant::now();
    for count in 1..=10 {
        outbox.rows.lock().unwrap().due.push_back(numbered(count));
        outbox.due_notice.notify_one();
        server.until_received(count).await;
    }
    assert!(
        started.elapsed() < Duration::from_secs(6),
        "{:?}: without a notification it polls once a second",
        started.elapsed()
    );
    outbox.rows.lock().unwrap().due.push_back(numbered(11));
    server.until_received(11).await;
    outbox.stop().await;
}

#[tokio::test]
async fn each_letter_is_settled_with_its_outcome() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    server.misbehave([
        Some(Fault { at: "RCPT", act: Act::Answer("450 4.2.1 later") }),
        Some(Fault { at: "RCPT", act: Act::Answer("550 5.1.1 unknown") }),
    ]);
    let mut settings = settings(&server, Security::Plain);
    settings.connections = 1;
    let outbox = Outbox::start(mailer(&settings), 3);
    let settled = outbox.until_settled(3).await;
    let outcomes: Vec<DeliveryOutcome> = settled.into_iter().map(|(_, outcome)| outcome).collect();
    let reason = |code| format!("the relay did not accept the mail: {code}");
    assert_eq!(
        outcomes,
        [
            DeliveryOutcome::Transient(reason("450 4.2.1")),
            DeliveryOutcome::Final(reason("550 5.1.1")),
            DeliveryOutcome::Delivered
        ]
    );
    outbox.stop().await;
}

#[tokio::test]
async fn database_errors_are_retried() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let due = (0..3).map(numbered).collect();
    let rows = Rows { due, failing_claims: 3, failing_settlements: 2, ..Rows::default() };
    let outbox = Outbox::with_rows(plain(&server), rows);
    outbox.until_settled(3).await;
    assert_eq!(server.mailbox().len(), 3, "a failed settlement does not send the letter again");
    outbox.stop().await;
}

#[tokio::test]
async fn a_stop_finishes_the_open_send_and_claims_no_more() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    server.misbehave([Some(Fault { at: "BODY", act: Act::Hang })]);
    let mut settings = settings(&server, Security::Plain);
    settings.connections = 1;
    settings.timeout_ms = 1_500;
    let outbox = Outbox::start(mailer(&settings), 2);
    server.until_received(1).await;
    let rows = Arc::clone(&outbox.rows);
    assert!(outbox.stop().await < Duration::from_secs(5));
    assert_eq!(rows.lock().unwrap().settled.len(), 1, "the letter that was being sent is settled");
    assert_eq!(rows.lock().unwrap().due.len(), 1, "no other letter is claimed");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_the_database() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let outbox = Outbox::with_rows(plain(&server), Rows { failing_claims: u32::MAX, ..Rows::default() });
    // After four failed claims, the worker waits for two seconds.
    let failed = async {
        while u32::MAX - outbox.rows.lock().unwrap().failing_claims < 4 {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), failed).await.is_ok(), "the worker did not retry");
    assert!(outbox.stop().await < Duration::from_secs(1));
}

#[tokio::test]
async fn the_log_contains_no_addresses_names_or_tokens() {
    let log = Log::watch();
    let server = SmtpServer::start(SmtpOptions::default()).await;
    server.misbehave([
        Some(Fault { at: "RCPT", act: Act::Answer("450 4.2.1 <bob@recipient.example>: later") }),
        Some(Fault { at: "RCPT", act: Act::Answer("550 <bob@recipient.example>: unknown") }),
        Some(Fault { at: "RCPT", act: Act::Answer("bob@recipient.example") }),
    ]);
    let rows = Rows { due: (0..4).map(numbered).collect(), failing_settlements: 1, ..Rows::default() };
    let outbox = Outbox::with_rows(plain(&server), rows);
    outbox.until_settled(4).await;
    outbox.stop().await;
    let log = log.end();
    for wanted in
        ["mail sent", "it will be tried again", "it will not be tried again", "00000000-0000-0000-0000-000000000003"]
    {
        assert!(log.contains(wanted), "{log}");
    }
    for secret in [TOKEN, "bob", "recipient.example", "ada@", "Ada Lovelace", "Acme"] {
        assert!(!log.contains(secret), "{log}");
    }
}
