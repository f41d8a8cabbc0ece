//! Delivers messages: to a relay by SMTP, or to a directory.
//!
//! Whether a failure is final depends on the step that failed. Until the client sends `MAIL`, the cause is the relay or
//! the configuration, whatever the reply code, and the letter is tried again. From `MAIL` on, a reply 5xx concerns this
//! message and is final.

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

/// Time limit of `QUIT` when a connection is closed. Its reply does not matter.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Reply codes that reject the login (RFC 4954). The settings are wrong and not the message, so they are not final.
const LOGIN_REJECTED: [u16; 4] = [530, 534, 535, 538];

/// The destination of messages.
pub(super) enum Transport {
    Directory(AsyncFileTransport<Tokio1Executor>),
    Smtp(Box<Relay>),
}

impl Transport {
    /// Creates the transport that the settings name. `hello` is the name of this client in `EHLO`.
    ///
    /// # Errors
    /// All mistakes, one sentence each.
    pub(super) fn new(settings: &MailSettings, hello: &str) -> Result<Self, Vec<String>> {
        if settings.kind == MailKind::Smtp {
            return Relay::new(settings, hello).map(|relay| Self::Smtp(Box::new(relay)));
        }
        let Some(directory) = &settings.directory else {
            return Err(vec!["mail.directory: write the directory that mails are written to".to_owned()]);
        };
        // Readable only by this user, because a reader of the mails can accept the invitations in them.
        let created = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        created.map_err(|error| vec![format!("mail.directory: {} cannot be created: {error}", directory.display())])?;
        Ok(Self::Directory(AsyncFileTransport::new(directory)))
    }

    /// The reader of the raw messages.
    pub(super) fn reader(&self) -> MessageReader {
        match self {
            Self::Directory(_) => MessageReader::Developer,
            Self::Smtp(_) => MessageReader::Relay,
        }
    }

    pub(super) async fn send(&self, envelope: &Envelope, message: &[u8]) -> DeliveryOutcome {
        match self {
            Self::Smtp(relay) => relay.send(envelope, message).await,
            Self::Directory(files) => match files.send_raw(envelope, message).await {
                Ok(_) => DeliveryOutcome::Delivered,
                Err(error) => {
                    DeliveryOutcome::Transient(format!("the mail cannot be written to the directory: {error}"))
                }
            },
        }
    }

    /// Closes the idle connections to the relay.
    pub(super) async fn close_idle(&self) {
        if let Self::Smtp(relay) = self {
            relay.close_idle().await;
        }
    }
}

/// How a connection is encrypted.
enum Protection {
    Plain,
    Starttls(TlsParameters),
    Tls(TlsParameters),
}

/// A relay, and the idle connections to it.
///
/// lettre has a pool too, but lettre 0.11.23 reuses a connection whose send was interrupted by a timeout. The next
/// message would then read the replies to the previous one, and could count as delivered. Here a send takes the
/// connection out of the list, and returns it only after the relay has accepted the message.
pub(super) struct Relay {
    host: String,
    port: u16,
    protection: Protection,
    credentials: Option<Credentials>,
    hello: ClientId,
    timeout: Duration,
    idle: Mutex<Vec<AsyncSmtpConnection>>,
}

impl Relay {
    fn new(settings: &MailSettings, hello: &str) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let host = settings.host.clone().unwrap_or_default();
        if Host::parse(&host).is_err() && host.parse::<IpAddr>().is_err() {
            mistakes.push("mail.host: write the relay's name, or its address".to_owned());
        }
        let protection = protection(settings, &host).map_err(|found| mistakes.extend(found)).ok();
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
                idle: Mutex::default(),
            }),
            _ => Err(mistakes),
        }
    }

    /// Sends a message within the time limit of the settings.
    async fn send(&self, envelope: &Envelope, message: &[u8]) -> DeliveryOutcome {
        match timeout(self.timeout, self.send_unlimited(envelope, message)).await {
            Ok(outcome) => outcome,
            Err(_) => DeliveryOutcome::Transient("the relay did not answer in time".to_owned()),
        }
    }

    async fn send_unlimited(&self, envelope: &Envelope, message: &[u8]) -> DeliveryOutcome {
        let mut connection = match self.connection().await {
            Ok(connection) => connection,
            Err(error) => return DeliveryOutcome::Transient(format!("the relay cannot be used: {error}")),
        };
        match connection.send(envelope, message).await {
            Ok(_) => {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                DeliveryOutcome::Delivered
            }
            Err(error) => {
                let reason = format!("the relay did not accept the mail: {}", describe(&error));
                let login_rejected = error.status().is_some_and(|code| LOGIN_REJECTED.contains(&code.into()));
                // A client error is one that lettre raises before it sends anything: the relay lacks the extension
                // (SMTPUTF8) for an address that is not ASCII.
                let is_final = (error.is_permanent() && !login_rejected) || error.is_client();
                if is_final { DeliveryOutcome::Final(reason) } else { DeliveryOutcome::Transient(reason) }
            }
        }
    }

    /// A connection that is ready for a message: an idle one that still works, or a new one.
    async fn connection(&self) -> Result<AsyncSmtpConnection, String> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut connection) = idle else { return self.connect().await };
            if connection.test_connected().await {
                return Ok(connection);
            }
        }
    }

    /// Opens a connection and logs in. The time limit in [`Self::send`] covers all steps.
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

    async fn close_idle(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for mut connection in idle {
            if timeout(QUIT_TIMEOUT, connection.quit()).await.is_err() {
                tracing::debug!("the relay did not reply to QUIT in time");
            }
        }
    }
}

/// How connections to this host are encrypted, and which CA certificates are trusted.
fn protection(settings: &MailSettings, host: &str) -> Result<Protection, Vec<String>> {
    let tls = || {
        let mut parameters = TlsParameters::builder(host.to_owned());
        if let Some(path) = &settings.ca_file {
            let mistake = |problem: String| format!("mail.ca_file: {} {problem}", path.display());
            let pem = std::fs::read(path).map_err(|error| mistake(format!("cannot be read: {error}")))?;
            // Without this check, a file without a certificate would fail only at the first mail.
            let has_certificate = pem.windows(27).any(|window| window == b"-----BEGIN CERTIFICATE-----");
            let certificate = Certificate::from_pem(&pem).ok().filter(|_| has_certificate);
            let certificate = certificate.ok_or_else(|| mistake("contains no PEM certificate".to_owned()))?;
            parameters = parameters.certificate_store(CertificateStore::None).add_root_certificate(certificate);
        }
        parameters.build().map_err(|error| format!("mail.ca_file: {error}"))
    };
    match settings.security {
        None => {
            let mistake = "mail.security: write starttls, tls or plain".to_owned();
            Err([mistake].into_iter().chain(tls().err()).collect())
        }
        Some(Security::Starttls) => tls().map(Protection::Starttls).map_err(|mistake| vec![mistake]),
        Some(Security::Tls) => tls().map(Protection::Tls).map_err(|mistake| vec![mistake]),
        Some(Security::Plain) if settings.allow_plain || is_loopback(host) => Ok(Protection::Plain),
        Some(Security::Plain) => {
            let mistake = "mail.security: write starttls or tls, because plain would expose every link on the network; \
                           allow_plain = true permits that";
            Err(vec![mistake.to_owned()])
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
        (None, Some(_)) => {
            Err("mail.username: write the user name that the password in mail.password_file belongs to".to_owned())
        }
    }
}

/// Describes a failure without the text of the reply, because relays often repeat the address in it.
fn describe(error: &Error) -> String {
    let Some(code) = error.status() else {
        return if error.is_response() {
            "the relay closed the connection, or does not speak SMTP".to_owned()
        } else {
            error.to_string()
        };
    };
    let text = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let first = text.split_whitespace().next().unwrap_or_default();
    // An enhanced code (RFC 3463), as 5.1.1, is more precise than 550 and names no recipient.
    let is_code =
        first.len() <= 9 && first.split('.').count() == 3 && first.chars().all(|c| c.is_ascii_digit() || c == '.');
    if is_code { format!("{code} {first}") } else { code.to_string() }
}
