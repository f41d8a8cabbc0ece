//! How mail leaves, as a deployment configures it: the table `[mail]`.

use crate::authn::secret::Secret;
use lettre::message::Mailbox;
use serde::Deserialize;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use url::{Host, Url};

/// The table `[mail]`. What belongs to another `kind` may stay in it, so that switching is one word.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailSettings {
    /// Where mail goes. Has to be said: that none is sent is a decision, not an oversight.
    pub kind: MailKind,
    /// Who it comes from: `roster@example.com`, or `Example <roster@example.com>`. Its domain also names this client
    /// to the relay and stands in each Message-ID.
    pub from: Option<String>,
    /// The page that links lead to. The token is appended as `?token=…`, which every web page can read, unless the
    /// base says where it goes by `{token}`. `https://example.com/join#{token}` is the better place for a page that
    /// reads it by script: what stands behind `#` reaches no server's log and no `Referer`.
    pub link_base_url: Option<String>,
    /// For `directory`: where the `.eml` files go. Made if it is not there, readable for this user only.
    pub directory: Option<PathBuf>,
    /// For `smtp`: the relay's name, or its address. Its certificate must be for this.
    pub host: Option<String>,
    /// Its port. Left out: 587 for `starttls`, 465 for `tls`, 25 for `plain`.
    pub port: Option<u16>,
    /// How the connection is protected.
    pub security: Option<Security>,
    /// Whether `plain` may leave this machine. Everybody on the way can then read the links and accept by them.
    #[serde(default)]
    pub allow_plain: bool,
    /// A PEM file of certificates: the relay's must be signed by one of these, *instead of* one of the public ones.
    pub ca_file: Option<PathBuf>,
    /// Whom to log in as. Left out: nobody.
    pub username: Option<String>,
    /// The file with that one's password, without the line break at its end.
    pub password_file: Option<PathBuf>,
    /// Time for one mail in milliseconds, from the connection to the relay's last answer.
    #[serde(default = "ten_seconds")]
    pub timeout_ms: u64,
    /// Connections to the relay at most, and so mails under way at once.
    #[serde(default = "two")]
    pub connections: usize,
    /// A directory whose files take the place of ours: `invitation.txt`, `added.html`, `reminder.subject` …
    pub templates: Option<PathBuf>,
}

/// Where mail goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailKind {
    /// Nowhere.
    Off,
    /// Into files, for development.
    Directory,
    /// To a relay.
    Smtp,
}

/// How the connection to a relay is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// By STARTTLS. A relay that does not offer it gets no mail.
    Starttls,
    /// By TLS from the first byte.
    Tls,
    /// Not at all: to this machine only, unless `allow_plain` says otherwise.
    Plain,
}

fn ten_seconds() -> u64 {
    10_000
}

fn two() -> usize {
    2
}

impl MailSettings {
    /// Mail that is switched off.
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
            timeout_ms: ten_seconds(),
            connections: two(),
            templates: None,
        }
    }

    /// Paths are relative to the directory of the file that named them.
    pub fn resolve(&mut self, directory: &Path) {
        let paths = [&mut self.directory, &mut self.ca_file, &mut self.password_file, &mut self.templates];
        for path in paths.into_iter().flatten() {
            *path = directory.join(&*path);
        }
    }

    pub(super) fn numbers(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        // A claimed mail is due again after two minutes: by then it must have been sent, and that written down.
        if !(100..=60_000).contains(&self.timeout_ms) {
            mistakes.push("mail.timeout_ms: write a whole number from 100 to 60000".to_owned());
        }
        if !(1..=64).contains(&self.connections) {
            mistakes.push("mail.connections: write a whole number from 1 to 64".to_owned());
        }
        mistakes
    }

    pub(super) fn sender(&self) -> Result<Mailbox, String> {
        let wrong = "mail.from: write an address, as roster@example.com or Example <roster@example.com>";
        let mailbox: Mailbox = self.from.as_deref().unwrap_or_default().parse().map_err(|_| wrong.to_owned())?;
        if mailbox.email.to_string().is_ascii() {
            Ok(mailbox)
        } else {
            Err("mail.from: write the address in ASCII, a domain in its xn-- form".to_owned())
        }
    }

    pub(super) fn link(&self) -> Result<Link, String> {
        let base = self.link_base_url.as_deref().unwrap_or_default();
        Link::parse(base).map_err(|wanted| format!("mail.link_base_url: {wanted}"))
    }
}

/// Whether this host is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// What stands before and after the token in a link.
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
                return Err("behind a # say where the token goes, as https://example.com/join#{token}".to_owned());
            }
            None => (format!("{base}{}token=", if base.contains('?') { '&' } else { '?' }), String::new()),
        };
        let whole = Url::parse(&format!("{before}token{after}")).map_err(|error| format!("not a URL: {error}"))?;
        let start = Url::parse(&before).ok();
        if whole.host().is_none() || start.is_none_or(|start| start.host() != whole.host()) {
            return Err("write {token} behind the host".to_owned());
        }
        if !whole.username().is_empty() || whole.password().is_some() {
            return Err("leave out the user and the password".to_owned());
        }
        let at_home = match whole.host() {
            Some(Host::Domain(name)) => is_loopback(name),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        match whole.scheme() {
            "https" => Ok(Self { before, after }),
            "http" if at_home => Ok(Self { before, after }),
            _ => Err("write an https:// URL: whoever reads a link on its way can use it".to_owned()),
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
    fn a_link_carries_the_token_where_the_base_says() {
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
    fn what_is_no_base_for_links() {
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
