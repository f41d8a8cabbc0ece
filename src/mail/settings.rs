//! The table `[mail]` of the settings file.

use crate::authn::secret::Secret;
use crate::domain::Locale;
use lettre::message::Mailbox;
use serde::Deserialize;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use url::{Host, Url};

/// The table `[mail]`. Settings of another `kind` are allowed and ignored, so that an operator can switch by one word.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailSettings {
    /// Where mail is sent. Required, even to send none, so that mail is not switched off by an oversight.
    pub kind: MailKind,
    /// The sender: `roster@example.com`, or `Example <roster@example.com>`. Its domain is also the name of this client
    /// in `EHLO`, and the domain of each Message-ID.
    pub from: Option<String>,
    /// The page that links open. The invitation token is appended as `?token=…`, which every web page can read, or
    /// replaces `{token}` if the URL contains it. `https://example.com/join#{token}` is better for a page that reads
    /// the token with a script: browsers send the part after `#` neither to the server, which might log it, nor in
    /// `Referer`.
    pub link_base_url: Option<String>,
    /// For `directory`: the directory for the `.eml` files. It is created if it does not exist, readable only by this
    /// user.
    pub directory: Option<PathBuf>,
    /// For `smtp`: the host name or IP address of the relay. The certificate of the relay must be valid for it.
    pub host: Option<String>,
    /// The port of the relay. Default: 587 for `starttls`, 465 for `tls`, 25 for `plain`.
    pub port: Option<u16>,
    /// How the connection to the relay is encrypted.
    pub security: Option<Security>,
    /// Whether `plain` is allowed to another machine. Anyone on the network path can then read the links and accept the
    /// invitations.
    #[serde(default)]
    pub allow_plain: bool,
    /// A PEM file of CA certificates. The certificate of the relay must be signed by one of them, *instead of* by a
    /// public CA.
    pub ca_file: Option<PathBuf>,
    /// The user name for the login at the relay. Absent: no login.
    pub username: Option<String>,
    /// The file with the password for `username`. Line breaks at its end are ignored.
    pub password_file: Option<PathBuf>,
    /// Time limit of one mail in milliseconds, from the connection to the last reply of the relay.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Maximum number of connections to the relay, and of mails that are sent at the same time.
    #[serde(default = "default_connections")]
    pub connections: usize,
    /// The locale of mails that have none, or one without templates: a language tag, as `de`.
    #[serde(default = "default_locale")]
    pub locale: String,
    /// A directory of templates that replace the built-in ones or add languages: `invitation.txt`, `added.html`,
    /// `reminder.subject` … for `locale`, and `invitation.fr.txt` … for another one.
    pub templates: Option<PathBuf>,
}

/// Where mail is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailKind {
    /// No mail is sent.
    Off,
    /// Each mail is written to a file, for development.
    Directory,
    /// To a relay, by SMTP.
    Smtp,
}

/// How the connection to a relay is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// With STARTTLS. No mail is sent to a relay that does not offer it.
    Starttls,
    /// With TLS from the first byte.
    Tls,
    /// Not encrypted. Allowed to this machine only, unless `allow_plain` is set.
    Plain,
}

fn default_timeout_ms() -> u64 {
    10_000
}

fn default_connections() -> usize {
    2
}

fn default_locale() -> String {
    "en".to_owned()
}

impl MailSettings {
    /// Settings that switch mail off.
    #[must_use]
    pub fn off() -> Self {
        Self {
            kind: MailKind::Off,
            from: None,
            link_base_url: None,
            directory: None,
            host: None,
            port: None,
            security: None,
            allow_plain: false,
            ca_file: None,
            username: None,
            password_file: None,
            timeout_ms: default_timeout_ms(),
            connections: default_connections(),
            locale: default_locale(),
            templates: None,
        }
    }

    /// Resolves relative paths, which start at the directory of the settings file.
    pub fn resolve(&mut self, directory: &Path) {
        let paths = [&mut self.directory, &mut self.ca_file, &mut self.password_file, &mut self.templates];
        for path in paths.into_iter().flatten() {
            *path = directory.join(&*path);
        }
    }

    /// The mistakes in numbers that are out of range.
    pub(super) fn check_numbers(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        // A claim lapses after two minutes: by then the mail must have been sent and its outcome stored.
        if !(100..=60_000).contains(&self.timeout_ms) {
            mistakes.push("mail.timeout_ms: write a whole number from 100 to 60000".to_owned());
        }
        if !(1..=64).contains(&self.connections) {
            mistakes.push("mail.connections: write a whole number from 1 to 64".to_owned());
        }
        mistakes
    }

    /// The locale of the deployment; a mistake in it comes with the default, with which the templates can be checked.
    pub(super) fn locale(&self) -> Result<Locale, (String, Locale)> {
        Locale::parse(&self.locale)
            .map_err(|invalid| (format!("mail.locale: write {invalid}"), Locale::from_stored(default_locale())))
    }

    pub(super) fn sender(&self) -> Result<Mailbox, String> {
        let expected = "mail.from: write an address, as roster@example.com or Example <roster@example.com>";
        let mailbox: Mailbox = self.from.as_deref().unwrap_or_default().parse().map_err(|_| expected.to_owned())?;
        if mailbox.email.to_string().is_ascii() {
            Ok(mailbox)
        } else {
            Err("mail.from: write the address in ASCII, an international domain in its xn-- form".to_owned())
        }
    }

    pub(super) fn link(&self) -> Result<Link, String> {
        let base = self.link_base_url.as_deref().unwrap_or_default();
        Link::parse(base).map_err(|mistake| format!("mail.link_base_url: {mistake}"))
    }
}

/// Whether the host is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// The parts of a link before and after the invitation token.
pub(super) struct Link {
    before: String,
    after: String,
}

impl Link {
    fn parse(base: &str) -> Result<Self, String> {
        if base.is_empty() || !base.chars().all(|c| c.is_ascii_graphic() && !"<>\"'\\".contains(c)) {
            return Err("write the page that links lead to, as https://example.com/join".to_owned());
        }
        let (before, after) = match base.split_once("{token}") {
            Some((_, after)) if after.contains("{token}") => return Err("write {token} only once".to_owned()),
            Some((before, after)) => (before.to_owned(), after.to_owned()),
            None if base.contains('#') => {
                return Err(
                    "the URL contains a #: write where the token goes, as https://example.com/join#{token}".to_owned()
                );
            }
            None => (format!("{base}{}token=", if base.contains('?') { '&' } else { '?' }), String::new()),
        };
        let whole = Url::parse(&format!("{before}token{after}")).map_err(|error| format!("not a URL: {error}"))?;
        let start = Url::parse(&before).ok();
        if whole.host().is_none() || start.is_none_or(|start| start.host() != whole.host()) {
            return Err("write {token} after the host".to_owned());
        }
        if !whole.username().is_empty() || whole.password().is_some() {
            return Err("leave out the user and the password".to_owned());
        }
        let on_loopback = match whole.host() {
            Some(Host::Domain(name)) => is_loopback(name),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        match whole.scheme() {
            "https" => Ok(Self { before, after }),
            "http" if on_loopback => Ok(Self { before, after }),
            _ => Err("write an https:// URL: anyone who reads a link on the network can use it".to_owned()),
        }
    }

    pub(super) fn with(&self, token: &Secret) -> String {
        format!("{}{}{}", self.before, token.expose(), self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(base: &str) -> Option<String> {
        Link::parse(base).ok().map(|link| link.with(&Secret::new("T0k_en".to_owned())))
    }

    #[test]
    fn links_contain_the_token_at_its_place() {
        for (base, wanted) in [
            ("https://a.example/join", "https://a.example/join?token=T0k_en"),
            ("https://a.example/join?lang=de", "https://a.example/join?lang=de&token=T0k_en"),
            ("https://a.example/join#{token}", "https://a.example/join#T0k_en"),
            ("https://a.example/{token}/join?x=1", "https://a.example/T0k_en/join?x=1"),
            ("https://a.example", "https://a.example?token=T0k_en"),
            ("http://localhost:8080/", "http://localhost:8080/?token=T0k_en"),
            ("http://127.0.0.1/", "http://127.0.0.1/?token=T0k_en"),
            ("http://[::1]/", "http://[::1]/?token=T0k_en"),
        ] {
            assert_eq!(link(base).as_deref(), Some(wanted));
        }
    }

    #[test]
    fn unsuitable_base_urls_are_rejected() {
        for base in [
            "",
            "join",
            "http://a.example/join",
            "http://localhost.a.example/join",
            "ftp://a.example/",
            "mailto:a@b.example",
            "javascript:alert(1)//{token}",
            "https://user@a.example/",
            "https://:secret@a.example/",
            "https://{token}.example/",
            "https://a.exampl{token}/",
            "https://{token}@a.example/",
            "https://a.example:{token}/",
            "https://a.example/#join",
            "https://a.example/{token}/{token}",
            "https://a.example/a b",
            "https://a.example/\"x",
        ] {
            assert_eq!(link(base), None, "{base:?}");
        }
    }
}
