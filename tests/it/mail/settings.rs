//! Tests of the table `[mail]`.

use super::clock;
use roster::mail::Mailer;
use roster::mail::settings::MailSettings;

/// The mistakes in these settings; empty if they are valid.
fn mistakes(text: &str) -> Vec<String> {
    let settings: MailSettings = toml::from_str(text).unwrap();
    Mailer::new(&settings, clock()).err().unwrap_or_default()
}

fn names(mistakes: &[String]) -> Vec<&str> {
    mistakes.iter().map(|mistake| mistake.split_once(':').unwrap().0).collect()
}

const SMTP: &str = "kind = 'smtp'\nfrom = 'roster@example.com'\nlink_base_url = 'https://example.com/join'\n";

#[test]
fn the_kind_is_required() {
    assert!(toml::from_str::<MailSettings>("from = 'roster@example.com'").is_err());
    assert!(toml::from_str::<MailSettings>("kind = 'sendmail'").is_err());
    assert!(toml::from_str::<MailSettings>("kind = 'off'\nhots = 'relay'").is_err());
    let off = toml::from_str("kind = 'off'").unwrap();
    assert!(Mailer::new(&off, clock()).unwrap().is_none());
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let found = mistakes(
        "kind = 'smtp'\ntimeout_ms = 0\nconnections = 0\nusername = 'u'\ntemplates = '/nowhere'\nca_file = '/nowhere'\nlocale = 'german'",
    );
    assert_eq!(
        names(&found),
        [
            "mail.timeout_ms",
            "mail.connections",
            "mail.from",
            "mail.link_base_url",
            "mail.host",
            "mail.security",
            "mail.ca_file",
            "mail.password_file",
            "mail.locale",
            "mail.templates (in /nowhere)",
        ]
    );
    assert_eq!(names(&mistakes("kind = 'directory'")), ["mail.from", "mail.link_base_url", "mail.directory"]);
}

#[test]
fn a_mistake_in_one_template_hides_none_in_another() {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [("added.txt", "{% if"), ("added.html", "{{ link }}"), ("reminder.text", "")] {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let templates = directory.path().display();
    let found = mistakes(&format!("{SMTP}host = 'h'\nsecurity = 'tls'\ntemplates = '{templates}'"));
    assert_eq!(found.len(), 3, "{found:?}");
    for name in ["added.txt", "added.html", "reminder.text"] {
        assert!(found.iter().any(|mistake| mistake.contains(name)), "{found:?}");
    }
}

#[tokio::test]
async fn plain_connections_are_limited_to_this_machine() {
    let with = |rest: &str| mistakes(&format!("{SMTP}security = 'plain'\n{rest}"));
    for host in ["localhost", "127.0.0.1", "127.1.2.3", "::1"] {
        assert!(with(&format!("host = '{host}'")).is_empty(), "{host}");
    }
    for host in ["relay.example", "10.0.0.1", "localhost.example", "127.0.0.1.example", "0.0.0.0"] {
        assert_eq!(names(&with(&format!("host = '{host}'"))), ["mail.security"], "{host}");
    }
    assert!(with("host = 'relay.example'\nallow_plain = true").is_empty());
}

#[test]
fn the_relay_is_a_host_name_or_an_address() {
    for host in ["", "relay example", "relay:25", "smtp://relay.example", "relay/x"] {
        let found = mistakes(&format!("{SMTP}host = '{host}'\nsecurity = 'tls'"));
        assert_eq!(names(&found), ["mail.host"], "{host}");
    }
}

#[test]
fn unreadable_and_empty_files_are_reported_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().join("empty");
    std::fs::write(&empty, "\n").unwrap();
    for (name, file) in [("ca_file", "/nowhere"), ("ca_file", empty.to_str().unwrap())] {
        let found = mistakes(&format!("{SMTP}host = 'relay.example'\nsecurity = 'tls'\n{name} = '{file}'"));
        assert_eq!(names(&found), ["mail.ca_file"], "{found:?}");
    }
    for file in ["/nowhere", empty.to_str().unwrap()] {
        let found = mistakes(&format!(
            "{SMTP}host = 'relay.example'\nsecurity = 'tls'\nusername = 'u'\npassword_file = '{file}'"
        ));
        assert_eq!(names(&found), ["mail.password_file"], "{found:?}");
    }
}

#[test]
fn paths_are_relative_to_the_settings_file() {
    let mut settings: MailSettings =
        toml::from_str("kind = 'directory'\ndirectory = 'out'\ntemplates = '/abs'").unwrap();
    settings.resolve(std::path::Path::new("/etc/roster"));
    assert_eq!(settings.directory.unwrap(), std::path::Path::new("/etc/roster/out"));
    assert_eq!(settings.templates.unwrap(), std::path::Path::new("/abs"));
}

#[test]
fn the_sender_is_one_ascii_address() {
    for from in ["", "roster", "roster@", "Example", "a@x.example, b@x.example", "röster@x.example", "r@bücher.example"]
    {
        let found = mistakes(&format!(
            "kind = 'smtp'\nfrom = '{from}'\nlink_base_url = 'https://example.com'\nhost = 'h'\nsecurity = 'tls'"
        ));
        assert_eq!(names(&found), ["mail.from"], "{from}");
    }
}
