//! Tests of mail, with real SMTP connections to a server on loopback.

mod delivery;
mod life;
mod locales;
mod settings;
mod texts;
mod worker;

use crate::harness::smtp::SmtpServer;
use roster::authn::secret::Secret;
use roster::clock::Clock;
use roster::domain::{DisplayName, EmailAddress, Locale, Name, RoleName};
use roster::mail::Mailer;
use roster::mail::settings::{MailKind, MailSettings, Security};
use roster::service::outbox::{Letter, Occasion};
use std::time::{Duration, UNIX_EPOCH};
use time::OffsetDateTime;
use uuid::Uuid;

const TOKEN: &str = "bm90LXZlcnktc2VjcmV0LWJ1dC00My1jaGFyYWN0ZXJz";

/// 2026-11-24 12:00 UTC.
const NOON: u64 = 1_795_521_600;

fn clock() -> Clock {
    Clock::from_fn(|| UNIX_EPOCH + Duration::from_secs(NOON))
}

/// Settings for this server, with its CA certificate.
fn settings(server: &SmtpServer, security: Security) -> MailSettings {
    MailSettings {
        kind: MailKind::Smtp,
        from: Some("Example <roster@mail.example>".to_owned()),
        link_base_url: Some("https://app.example/join".to_owned()),
        host: Some(server.address.ip().to_string()),
        port: Some(server.address.port()),
        security: Some(security),
        ca_file: (security != Security::Plain).then(|| server.ca_file()),
        ..MailSettings::off()
    }
}

fn mailer(settings: &MailSettings) -> Mailer {
    match Mailer::new(settings, clock()) {
        Ok(mailer) => mailer.unwrap(),
        Err(mistakes) => panic!("{mistakes:#?}"),
    }
}

fn plain(server: &SmtpServer) -> Mailer {
    mailer(&settings(server, Security::Plain))
}

fn letter(occasion: Occasion) -> Letter {
    let is_invitation = occasion != Occasion::Added;
    Letter {
        id: Uuid::from_u128(7),
        occasion,
        locale: None,
        to: EmailAddress::parse("bob@recipient.example").unwrap(),
        organization: Name::parse("Acme").unwrap(),
        sender: Some(DisplayName::parse("Ada Lovelace").unwrap()),
        reply_to: Some(EmailAddress::parse("ada@acme.example").unwrap()),
        role: RoleName::MEMBER,
        token: is_invitation.then(|| Secret::new(TOKEN.to_owned())),
        expire_time: is_invitation.then(|| OffsetDateTime::from_unix_timestamp(1_796_135_400).unwrap()),
    }
}

fn invitation() -> Letter {
    letter(Occasion::Invitation)
}

fn locale(tag: &str) -> Locale {
    Locale::parse(tag).unwrap()
}
