//! Handing messages over: to a relay by SMTP, or into a directory.
//!
//! What a failure means depends on where it happens. Before the relay has been told about the message, the fault is the
//! relay's or the configuration's, whatever the code: another try is worth it. Afterwards 5xx is about this message, and
//! final.

use super::message::MessageReader;
use super::settings::{MailKind, MailSettings, Security, is_loopback};
use super::starttls::StarttlsGuard;
use crate::service::outbox::DeliveryOutcome;
use lettre::address::Envelope;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncFileTransport, AsyncTransport, Tokio1Executor};
use std::fs::DirBuilder;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Host;

/// How long a relay may take to say goodbye: nothing hangs on it.
const GOODBYE: Duration = Duration::from_secs(1);
/// Answers that ask for another login (RFC 4954): the settings are wrong and not the message.
const LOGIN_WANTED: [u16; 4] = [530, 534, 535, 538];

/// Where messages go.
pub(super) enum Transport {
    Directory(AsyncFileTransport<Tokio1Executor>),
    Smtp(Box<Relay>),
}

impl Transport {
    /// The way that the settings name.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub(super) fn new(settings: &MailSettings, hello: &str) -> Result<Self, Vec<String>> {
        if settings.kind == MailKind::Smtp {
            return Relay::new(settings, hello).map(|relay| Self::Smtp(Box::new(relay)));
        }
        let Some(directory) = &settings.directory else {
            return Err(vec!["mail.directory: write where mails are kept".to_owned()]);
        };
        // For this user only: whoever can read the mails can accept the invitations in them.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| vec![format!("mail.directory: {} cannot be made: {error}", directory.display())])?;
        Ok(Self::Directory(AsyncFileTransport::new(directory)))
    }

    /// Who will read the bytes.
    pub(super) fn reader(&self) -> MessageReader {
        match self {
            Self::Directory(_) => MessageReader::Person,
            Self::Smtp(_) => MessageReader::Relay,
        }
    }

    pub(super) async fn send(&self, envelope: &Envelope, message: &[u8]) -> DeliveryOutcome {
        match self {
            Self::Smtp(relay) => relay.send(envelope, message).await,
            Self::Directory(files) => match files.send_raw(envelope, message).await {
                Ok(_) => DeliveryOutcome::Delivered,
                Err(error) => DeliveryOutcome::Transient(format!("the mail cannot be kept: {error}")),
            },
        }
    }

    /// Ends the conversations that nobody needs for now.
    pub(super) async fn hang_up(&self) {
        if let Self::Smtp(relay) = self {
            relay.hang_up().await;
        }
    }
}

/// How a connection begins.
enum Protection {
    Plain,
    Starttls(TlsParameters),
    Tls(TlsParameters),
}

/// A relay, and the connections to it that are free.
///
/// lettre has a pool too, but takes a connection back whose send was cut off by a timeout (0.11.23): the next message
/// would meet the answers to the last one, and could pass for delivered. Here a connection belongs to its send and comes
/// back only when the conversation is at its end.
pub(super) struct Relay {
    host: String,
    port: u16,
    protection: Protection,
    credentials: Option<Credentials>,
    hello: ClientId,
    timeout: Duration,
    free: Mutex<Vec<AsyncSmtpConnection>>,
}

impl Relay {
    fn new(settings: &MailSettings, hello: &str) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let host = settings.host.clone().unwrap_or_default();
        if Host::parse(&host).is_err() && host.parse::<IpAddr>().is_err() {
            mistakes.push("mail.host: write the relay's name, or its address".to_owned());
        }
        let protection = protection(settings, &host).map_err(|mistake| mistakes.push(mistake)).ok();
        let credentials = credentials(settings).map_err(|mistake| mistakes.push(mistake)).ok();
        match (protection, credentials) {
            (Some(protection), Some(credentials)) if mistakes.is_empty() => Ok(Self {
                host,
                port: settings.port.unwrap_or(match protection {
                    Protection::Plain => 25,
                    Protection::Starttls(_) => 587,
                    Protection::Tls(_) => 465,
                }),
                protection,
                credentials,
                hello: ClientId::Domain(hello.to_owned()),
                timeout: Duration::from_millis(settings.timeout_ms),
                free: Mutex::default(),
            }),
            _ => Err(mistakes),
        }
    }

    /// Sends a message, within the timeout.
    async fn send(&self, envelope: &Envelope, message: &[u8]) -> DeliveryOutcome {
        match timeout(self.timeout, self.converse(envelope, message)).await {
            Ok(sent) => sent,
            Err(_) => DeliveryOutcome::Transient("the relay did not answer in time".to_owned()),
        }
    }

    async fn converse(&self, envelope: &Envelope, message: &[u8]) -> DeliveryOutcome {
        let mut connection = match self.connection().await {
            Ok(connection) => connection,
            Err(error) => return DeliveryOutcome::Transient(format!("the relay cannot be used: {error}")),
        };
        match connection.send(envelope, message).await {
            Ok(_) => {
                self.free.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                DeliveryOutcome::Delivered
            }
            Err(error) => {
                let what = format!("the relay did not take the mail: {}", describe(&error));
                let login_wanted = error.status().is_some_and(|code| LOGIN_WANTED.contains(&code.into()));
                // Of its own accord, lettre refuses what this relay has no extension for: an address that is not ASCII.
                let is_final = (error.is_permanent() && !login_wanted) || error.is_client();
                if is_final { DeliveryOutcome::Final(what) } else { DeliveryOutcome::Transient(what) }
            }
        }
    }

    /// A connection that is ready for a message: a free one that still works, or a new one.
    async fn connection(&self) -> Result<AsyncSmtpConnection, String> {
        loop {
            let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut free) = free else { return self.connect().await };
            if free.test_connected().await {
                return Ok(free);
            }
        }
    }

    /// A new connection. The timeout in `send` covers all of it.
    async fn connect(&self) -> Result<AsyncSmtpConnection, String> {
        let relay = (self.host.as_str(), self.port);
        let direct = |tls| AsyncSmtpConnection::connect_tokio1(relay, None, &self.hello, tls, None);
        let connection = match &self.protection {
            Protection::Plain => direct(None).await,
            Protection::Tls(tls) => direct(Some(tls.clone())).await,
            Protection::Starttls(tls) => {
                let stream = TcpStream::connect(relay).await.map_err(|error| error.to_string())?;
                self.starttls(StarttlsGuard::new(stream), tls).await
            }
        };
        let mut connection = connection.map_err(|error| describe(&error))?;
        if let Some(credentials) = &self.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await.map_err(|error| describe(&error))?;
        }
        Ok(connection)
    }

    async fn starttls(&self, stream: StarttlsGuard, tls: &TlsParameters) -> Result<AsyncSmtpConnection, Error> {
        let mut connection = AsyncSmtpConnection::connect_with_transport(Box::new(stream), &self.hello).await?;
        connection.starttls(tls.clone(), &self.hello).await?;
        Ok(connection)
    }

    async fn hang_up(&self) {
        let free = std::mem::take(&mut *self.free.lock().unwrap_or_else(PoisonError::into_inner));
        for mut connection in free {
            if timeout(GOODBYE, connection.quit()).await.is_err() {
                tracing::debug!("the relay did not say goodbye");
            }
        }
    }
}

/// How connections to this host are protected, and whose certificate is trusted.
fn protection(settings: &MailSettings, host: &str) -> Result<Protection, String> {
    let tls = || {
        let mut parameters = TlsParameters::builder(host.to_owned());
        if let Some(path) = &settings.ca_file {
            let wrong = |why: String| format!("mail.ca_file: {} {why}", path.display());
            let pem = std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
            // A file without any would trust nobody, and say so at the first mail only.
            let begins = pem.windows(27).any(|window| window == b"-----BEGIN CERTIFICATE-----");
            let certificate = Certificate::from_pem(&pem).ok().filter(|_| begins);
            let certificate = certificate.ok_or_else(|| wrong("holds no certificates in PEM".to_owned()))?;
            parameters = parameters.certificate_store(CertificateStore::None).add_root_certificate(certificate);
        }
        parameters.build().map_err(|error| format!("mail.ca_file: {error}"))
    };
    match settings.security {
        None => Err("mail.security: write starttls, tls or plain".to_owned()),
        Some(Security::Starttls) => tls().map(Protection::Starttls),
        Some(Security::Tls) => tls().map(Protection::Tls),
        Some(Security::Plain) if settings.allow_plain || is_loopback(host) => Ok(Protection::Plain),
        Some(Security::Plain) => {
            Err("mail.security: write starttls or tls, as plain would show every link on the way to another machine; \
                 allow_plain = true permits that"
                .to_owned())
        }
    }
}

fn credentials(settings: &MailSettings) -> Result<Option<Credentials>, String> {
    match (&settings.username, &settings.password_file) {
        (None, None) => Ok(None),
        (Some(username), Some(path)) => {
            let password = std::fs::read_to_string(path)
                .map_err(|error| format!("mail.password_file: {} cannot be read: {error}", path.display()))?;
            let password = password.trim_end_matches(['\r', '\n']);
            if password.is_empty() {
                return Err(format!("mail.password_file: {} is empty", path.display()));
            }
            Ok(Some(Credentials::new(username.clone(), password.to_owned())))
        }
        (Some(_), None) => Err("mail.password_file: write the file with the password of mail.username".to_owned()),
        (None, Some(_)) => Err("mail.username: write whose password mail.password_file holds".to_owned()),
    }
}

/// A failure in words, without what the relay wrote: it likes to repeat the address.
fn describe(error: &Error) -> String {
    let Some(code) = error.status() else {
        return if error.is_response() { "it broke off, or does not speak SMTP".to_owned() } else { error.to_string() };
    };
    let text = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let first = text.split_whitespace().next().unwrap_or_default();
    // An enhanced code (RFC 3463), as 5.1.1, says more than 550 and nothing about whom.
    let is_code =
        first.len() <= 9 && first.split('.').count() == 3 && first.chars().all(|c| c.is_ascii_digit() || c == '.');
    if is_code { format!("{code} {first}") } else { code.to_string() }
}
