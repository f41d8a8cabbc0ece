//! Tests of the path of a mail through the whole program, from the invitation to the recipient, with failures of the
//! relay and kills of the process.

use crate::harness::Database;
use crate::harness::program::{channel, clients, free_port, output, roster, send, until};
use crate::harness::proxy::Proxy;
use crate::harness::server::Clients;
use crate::harness::smtp::{Act, Fault, Received, SmtpOptions, SmtpServer};
use nix::sys::signal::Signal;
use roster::grpc::pb;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

/// `roster serve` with a database that holds an organization, and a relay.
struct Stage {
    database: Database,
    relay: SmtpServer,
    directory: TempDir,
    address: String,
    metrics: String,
    key: String,
    process: Option<Child>,
    organization: String,
}

impl Stage {
    async fn new() -> Self {
        Self::over(Database::new().await).await
    }

    async fn over(database: Database) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (code, key, stanza) = output(&["api-key", "--name", "backend", "--scopes", "operator"]).await;
        assert_eq!(code, Some(0));
        let relay = SmtpServer::start(SmtpOptions::default()).await;
        let [address, metrics] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
        let stanza = &stanza[stanza.find("[[api_keys]]").unwrap()..];
        let settings = format!(
            "listen = '{address}'\nmetrics_listen = '{metrics}'\n{stanza}\n[mail]\nkind = 'smtp'\nfrom = 'roster@mail.example'\nsecurity = 'plain'\n\
             link_base_url = 'https://app.example/join'\nhost = '127.0.0.1'\nport = {}\ntimeout_ms = 5000\n\
             [invitations]\ncooldown_seconds = 0\n",
            relay.address.port()
        );
        std::fs::write(directory.path().join("roster.toml"), settings).unwrap();
        let key = key.trim_end().to_owned();
        let mut stage =
            Self { database, relay, directory, address, metrics, key, process: None, organization: String::new() };
        stage.start().await;
        stage.organization = stage.backend().create("Acme").await;
        stage
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("roster.toml")
    }

    async fn start(&mut self) {
        let config = self.config();
        let arguments = ["serve", "--config", config.to_str().unwrap(), "--database-url", &self.database.url];
        self.process = Some(roster(&arguments).stderr(Stdio::null()).spawn().unwrap());
        until(&channel(&self.address), ServingStatus::Serving).await;
    }

    /// Kills the process with SIGKILL.
    async fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        send(&process, Signal::SIGKILL);
        process.wait().await.unwrap();
    }

    fn backend(&self) -> Clients {
        clients(&channel(&self.address), &self.key)
    }

    async fn invite(&self, email: &str) -> String {
        self.try_invite(email).await.unwrap()
    }

    async fn try_invite(&self, email: &str) -> Result<String, tonic::Status> {
        let request = pb::CreateInvitationRequest {
            organization: self.organization.clone(),
            recipient: Some(pb::create_invitation_request::Recipient::Email(email.to_owned())),
            ..Default::default()
        };
        let made = self.backend().invitations.create_invitation(request).await?.into_inner();
        Ok(made.invitation.unwrap().invitation_id)
    }

    async fn invitation(&self, id: &str) -> pb::Invitation {
        let request =
            pb::GetInvitationRequest { organization: self.organization.clone(), invitation_id: id.to_owned() };
        self.backend().invitations.get_invitation(request).await.unwrap().into_inner().invitation.unwrap()
    }

    /// Waits until the mail of the invitation has this state.
    async fn until_mail(&self, id: &str, wanted: pb::MailState, error: bool) -> pb::Invitation {
        for _ in 0..400 {
            let invitation = self.invitation(id).await;
            if invitation.mail_state() == wanted && invitation.mail_error.is_empty() != error {
                return invitation;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the mail did not become {wanted:?}");
    }

    /// The value of a metric of the process.
    async fn metric(&self, name: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(&self.metrics).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: roster\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let line = text.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name} is not in {text}")).rsplit(' ').next().unwrap().to_owned()
    }

    /// Makes every waiting mail due: claims lapse and pauses end.
    async fn make_mails_due(&self) {
        self.execute("UPDATE outbox SET next_attempt_time = clock_timestamp()").await;
    }

    async fn execute(&self, statement: &'static str) {
        sqlx::query(statement).execute(&self.database.pool).await.unwrap();
    }

    /// Waits until the query returns this count.
    async fn until_count(&self, query: &'static str, wanted: i64) {
        let reached = async { while self.database.count(query).await != wanted {} };
        assert!(tokio::time::timeout(Duration::from_secs(10), reached).await.is_ok(), "never {wanted}: {query}");
    }
}

fn message_id(received: &Received) -> String {
    let text = String::from_utf8_lossy(&received.data);
    text.lines().find_map(|line| line.strip_prefix("Message-ID: ")).unwrap().trim_end().to_owned()
}

fn token(received: &Received) -> String {
    let message = mail_parser::MessageParser::default().parse(&received.data).unwrap();
    let text = message.body_text(0).unwrap().into_owned();
    let (_, rest) = text.split_once("token=").unwrap();
    rest.chars().take(43).collect()
}

async fn preview(stage: &Stage, token: String) -> Result<(), tonic::Status> {
    stage.backend().invitations.preview_invitation(pb::PreviewInvitationRequest { token }).await.map(|_| ())
}

#[tokio::test]
async fn a_mail_is_sent_and_its_link_is_valid() {
    let stage = Stage::new().await;
    let id = stage.invite("grace@example.com").await;
    let received = stage.relay.until_received(1).await;
    assert_eq!(received[0].to, "grace@example.com");
    stage.until_mail(&id, pb::MailState::Sent, false).await;
    assert!(preview(&stage, token(&received[0])).await.is_ok());
    assert_eq!(stage.database.count("SELECT count(*) FROM outbox").await, 0);
}

#[tokio::test]
async fn transient_failures_are_retried_and_final_failures_are_visible() {
    let stage = Stage::new().await;
    let busy = Fault { at: "RCPT", act: Act::Answer("451 4.3.0 try again later") };
    stage.relay.misbehave([Some(busy)]);
    let id = stage.invite("grace@example.com").await;
    stage.until_mail(&id, pb::MailState::Waiting, true).await;
    assert!(stage.relay.mailbox().is_empty());
    stage.execute("UPDATE outbox SET create_time = create_time - interval '1 hour'").await;
    assert_eq!(stage.metric("roster_mails_waiting ").await, "1");
    assert!(stage.metric("roster_oldest_mail_seconds ").await.parse::<u32>().unwrap() >= 3600);
    let calls = "roster_calls_total{service=\"roster.v1.InvitationService\",method=\"CreateInvitation\",code=\"OK\"} ";
    assert_eq!(stage.metric(calls).await, "1");
    stage.make_mails_due().await;
    stage.relay.until_received(1).await;
    stage.until_mail(&id, pb::MailState::Sent, false).await;

    let reject = Fault { at: "RCPT", act: Act::Answer("550 5.1.1 no such mailbox") };
    stage.relay.misbehave([Some(reject)]);
    let id = stage.invite("absent@example.com").await;
    stage.until_mail(&id, pb::MailState::Failed, true).await;
    stage.until_count("SELECT count(*) FROM events WHERE type = 'invitation.mail_failed'", 1).await;
    assert_eq!(stage.relay.mailbox().len(), 1);
}

#[tokio::test]
async fn after_a_kill_before_the_send_the_next_process_sends_the_mail() {
    let mut stage = Stage::new().await;
    stage.relay.misbehave([Some(Fault { at: "RCPT", act: Act::Hang })]);
    let id = stage.invite("grace@example.com").await;
    // The relay has received RCPT and does not reply: the mail is claimed and committed, and not sent.
    let received = async {
        while !stage.relay.commands().iter().any(|command| command.starts_with("RCPT")) {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), received).await.is_ok(), "the relay received no RCPT");
    stage.kill().await;
    assert!(stage.relay.mailbox().is_empty());
    stage.make_mails_due().await;
    stage.start().await;
    let received = stage.relay.until_received(1).await;
    stage.until_mail(&id, pb::MailState::Sent, false).await;
    assert!(preview(&stage, token(&received[0])).await.is_ok());
}

#[tokio::test]
async fn after_a_kill_before_the_settle_the_mail_is_sent_twice_with_one_message_id() {
    let mut stage = Stage::new().await;
    // A trigger blocks the removal of the sent mail from the outbox.
    stage
        .execute(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql
             AS 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN OLD; END'",
        )
        .await;
    stage.execute("CREATE TRIGGER hold BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION hold()").await;
    let mut holder = stage.database.pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(1)").execute(&mut *holder).await.unwrap();
    let id = stage.invite("grace@example.com").await;
    stage.relay.until_received(1).await;
    stage.kill().await;
    holder.rollback().await.unwrap();
    stage.make_mails_due().await;
    stage.start().await;
    let received = stage.relay.until_received(2).await;
    assert_eq!(message_id(&received[0]), message_id(&received[1]));
    // Each mail has a separate token, and both are valid.
    for mail in &received {
        assert!(preview(&stage, token(mail)).await.is_ok());
    }
    stage.until_mail(&id, pb::MailState::Sent, false).await;
}

#[tokio::test]
async fn no_mail_is_sent_for_an_invitation_that_is_no_longer_pending() {
    let stage = Stage::new().await;
    stage.relay.misbehave([Some(Fault { at: "RCPT", act: Act::Answer("451 4.3.0 try again later") })]);
    let id = stage.invite("grace@example.com").await;
    stage.until_mail(&id, pb::MailState::Waiting, true).await;
    // The invitation expires while its mail waits. The mail worker finds it before housekeeping does.
    stage.execute("UPDATE invitations SET expire_time = clock_timestamp()").await;
    stage.make_mails_due().await;
    let second = stage.invite("alan@example.com").await;
    stage.until_mail(&second, pb::MailState::Sent, false).await;
    stage.until_count("SELECT count(*) FROM outbox", 0).await;
    let to: Vec<String> = stage.relay.mailbox().into_iter().map(|received| received.to).collect();
    assert_eq!(to, ["alan@example.com"]);
}

#[tokio::test]
async fn mail_is_sent_soon_after_every_connection_to_the_database_was_swallowed() {
    let (proxy, database) = Proxy::before(&Database::new().await).await;
    let stage = Stage::over(database).await;
    stage.invite("grace@example.com").await;
    stage.relay.until_received(1).await;
    proxy.swallow();
    let swallowed = Instant::now();
    let id = loop {
        match stage.try_invite("alan@example.com").await {
            Ok(id) => break id,
            Err(status) if status.code() == Code::Unavailable || status.code() == Code::DeadlineExceeded => {}
            Err(status) => panic!("{status:?}"),
        }
    };
    stage.relay.until_received(2).await;
    stage.until_mail(&id, pb::MailState::Sent, false).await;
    assert!(swallowed.elapsed() < Duration::from_secs(15), "{:?}", swallowed.elapsed());
}
