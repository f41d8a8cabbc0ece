//! Tests of the texts and headers of letters, with ordinary and hostile names.

use super::{NOON, TOKEN, clock, invitation, letter, mailer, plain, settings};
use crate::harness::smtp::{SmtpOptions, SmtpServer};
use mail_parser::{Address, HeaderValue, Message, MessageParser, MimeHeaders};
use roster::domain::{DisplayName, Name};
use roster::mail::Mailer;
use roster::mail::settings::{MailSettings, Security};
use roster::service::outbox::{DeliveryOutcome, Letter, Occasion};
use std::path::Path;

/// Delivers the letter and returns the bytes that the server received.
pub(super) async fn deliver(letter: &Letter) -> Vec<u8> {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    assert_eq!(plain(&server).deliver(letter).await, DeliveryOutcome::Delivered);
    server.mailbox().remove(0).data
}

pub(super) fn parse(bytes: &[u8]) -> Message<'_> {
    MessageParser::default().parse(bytes).unwrap()
}

/// The texts of a message: subject, text, HTML.
pub(super) fn texts(message: &Message) -> [String; 3] {
    let text = message.body_text(0).unwrap().replace("\r\n", "\n");
    let html = message.body_html(0).unwrap().replace("\r\n", "\n");
    [message.subject().unwrap().to_owned(), text, html]
}

fn header_names(message: &Message) -> Vec<String> {
    message.headers().iter().map(|header| header.name().to_owned()).collect()
}

fn mailbox(address: Option<&Address>) -> (Option<String>, String) {
    let first = address.unwrap().first().unwrap();
    (first.name().map(ToOwned::to_owned), first.address().unwrap().to_owned())
}

/// A value that bypasses the checks of its type, as in a row that another program has written.
fn unchecked<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_value(text.into()).unwrap()
}

#[tokio::test]
async fn a_letter_is_a_readable_message() {
    let bytes = deliver(&invitation()).await;
    let message = parse(&bytes);
    let [subject, text, html] = texts(&message);
    assert_eq!(subject, "Invitation to “Acme”");
    let link = format!("https://app.example/join?token={TOKEN}");
    assert_eq!(
        text.trim_end(),
        format!(
            "Hello,\n\n“Ada Lovelace” invites you to join “Acme” as member.\n\n\
             To see the invitation, and to accept or decline it, open this page:\n\n{link}\n\n\
             The invitation is for this address only and ends on 1 December 2026, 14:30 UTC.\n\
             If you do not want it, there is nothing you need to do.\n\n\
             The names in quotation marks were chosen by those who invite you. We do not\n\
             know more about them than you do."
        )
    );
    assert!(html.contains(&format!("<a href=\"{}\">", link.replace('/', "&#x2f;"))), "{html}");
    assert!(html.contains("“Ada Lovelace” invites you to join “Acme” as member."), "{html}");

    assert_eq!(mailbox(message.from()), (Some("Example".to_owned()), "roster@mail.example".to_owned()));
    assert_eq!(mailbox(message.to()), (None, "bob@recipient.example".to_owned()));
    assert_eq!(mailbox(message.reply_to()), (Some("Ada Lovelace".to_owned()), "ada@acme.example".to_owned()));
    assert_eq!(message.date().unwrap().to_timestamp(), i64::try_from(NOON).unwrap());
    let value = |name: &str| message.header(name).and_then(HeaderValue::as_text).map(ToOwned::to_owned);
    assert_eq!(value("Auto-Submitted").as_deref(), Some("auto-generated"));
    assert_eq!(value("X-Auto-Response-Suppress").as_deref(), Some("All"));
    assert_eq!(message.content_language().as_text(), Some("en"));
    let kind = message.content_type().unwrap();
    assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("alternative")));
    assert_eq!(message.parts.len(), 3);
}

#[tokio::test]
async fn every_occasion_has_a_letter() {
    for occasion in [Occasion::Invitation, Occasion::Reminder, Occasion::Added, Occasion::OwnerActivation] {
        for has_sender in [true, false] {
            let mut letter = letter(occasion);
            if !has_sender {
                letter.sender = None;
                letter.reply_to = None;
            }
            let bytes = deliver(&letter).await;
            let message = parse(&bytes);
            let [subject, text, html] = texts(&message);
            assert!(subject.contains("“Acme”") && !subject.contains(TOKEN));
            for part in [&text, &html] {
                assert!(part.contains("“Acme”"));
                assert_eq!(part.contains("“Ada Lovelace”"), has_sender);
                assert_eq!(part.contains(TOKEN), occasion != Occasion::Added);
                assert_eq!(part.contains("1 December 2026, 14:30 UTC"), occasion != Occasion::Added);
            }
            assert_eq!(message.reply_to().is_some(), has_sender);
        }
    }
}

#[tokio::test]
async fn a_letter_without_its_token_fails_finally() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let mut letter = invitation();
    letter.token = None;
    let sent = plain(&server).deliver(&letter).await;
    assert_eq!(sent, DeliveryOutcome::Final("the template invitation.en.txt failed: undefined value".to_owned()));
    assert!(server.mailbox().is_empty());
}

#[tokio::test]
async fn names_cannot_add_headers() {
    let ordinary = deliver(&invitation()).await;
    for name in [
        "x\r\nBcc: eve@evil.example",
        "x\nBcc: eve@evil.example\n\nHello",
        "x\r\n\r\n--roster_",
        "x\" <eve@evil.example>, \"y",
    ] {
        let mut letter = invitation();
        letter.organization = unchecked(name);
        letter.sender = Some(unchecked(name));
        let bytes = deliver(&letter).await;
        let message = parse(&bytes);
        assert_eq!(header_names(&message), header_names(&parse(&ordinary)));
        assert_eq!(message.parts.len(), 3);
        assert_eq!(message.reply_to().unwrap().iter().count(), 1);
        assert_eq!(mailbox(message.reply_to()).1, "ada@acme.example");
        let text = String::from_utf8(bytes).unwrap();
        let (headers, _) = text.split_once("\r\n\r\n").unwrap();
        assert!(headers.lines().all(|line| !line.starts_with("Bcc")), "{headers}");
    }
}

#[tokio::test]
async fn names_are_rendered_as_text() {
    for (name, sanitized, escaped) in [
        ("<b>Acme</b><script>x</script>", "<b>Acme</ b><script>x</ script>", "&lt;b&gt;Acme&lt;&#x2f; b&gt;"),
        ("'\"><img src=x onerror=x>", "''><img src=x onerror=x>", "&#x27;&#x27;&gt;&lt;img src=x onerror=x&gt;"),
        ("{{ 7*7 }}", "{{ 7*7 }}", "{{ 7*7 }}"),
        ("{% raw %}{{ link }}", "{% raw %}{{ link }}", "{% raw %}{{ link }}"),
        ("safe\u{202e}gpj.exe\u{2066}", "safegpj. exe", "safegpj. exe"),
        ("Ac\u{200b}me\u{200f}\u{61c}\u{feff}", "Acme", "Acme"),
        ("Locked, see https://evil.example/x", "Locked, see https: / / evil. example/ x", "evil. example"),
        ("call www.evil.example now", "call www. evil. example now", "www. evil. example now"),
        ("Acme” wants you. “", "Acme' wants you. '", "“Acme&#x27; wants you. &#x27;”"),
    ] {
        let mut letter = invitation();
        letter.organization = unchecked(name);
        letter.sender = Some(unchecked(name));
        let bytes = deliver(&letter).await;
        let [subject, text, html] = texts(&parse(&bytes));
        assert_eq!(subject, format!("Invitation to “{sanitized}”"));
        assert!(text.contains(&format!("\n“{sanitized}” invites you to join “{sanitized}” as member.\n")), "{text}");
        assert!(html.contains(escaped), "{html}");
        for tag in ["<b>", "<script", "<img"] {
            assert!(!html.contains(tag), "{html}");
        }
        let links = |text: &str| text.matches("://").count() + text.matches("&#x2f;&#x2f;").count();
        assert_eq!((links(&text), links(&html)), (1, 2), "only the links of the template");
    }
}

#[tokio::test]
async fn names_from_right_to_left_do_not_reorder_the_sentence() {
    for (organization, sender) in [
        ("شرکت خانه\u{200c}ها", "Ada Lovelace"),
        ("Acme", "עדה לאבלייס!"),
        ("محمد & Söhne (GmbH)", "مَحَمَّد ٣"),
        ("Acme שלום", "Ada\u{202e}\u{2067} ܫܠܡܐ"),
    ] {
        let mut letter = invitation();
        letter.organization = Name::parse(organization).unwrap();
        letter.sender = Some(unchecked(sender));
        let bytes = deliver(&letter).await;
        let message = parse(&bytes);
        let [subject, text, html] = texts(&message);
        let isolated = |name: &str, [begin, end]: [&str; 2]| {
            let name = name.replace(['\u{202e}', '\u{2067}'], "");
            if name.is_ascii() { format!("“{name}”") } else { format!("“{begin}{name}{end}”") }
        };
        let in_text = |name: &str| isolated(name, ["\u{2068}", "\u{2069}"]);
        let in_html = |name: &str| isolated(&name.replace('&', "&amp;"), ["<bdi>", "</bdi>"]);
        let sentence = |name: &dyn Fn(&str) -> String| {
            format!("{} invites you to join {} as member.", name(sender), name(organization))
        };
        assert_eq!(subject, format!("Invitation to {}", in_text(organization)));
        assert!(text.contains(&sentence(&in_text)), "{text}");
        assert!(html.contains(&sentence(&in_html)) && !html.contains(['\u{2068}', '\u{2069}']), "{html}");
        // The name of a mailbox stands alone.
        assert!(!mailbox(message.reply_to()).0.unwrap().contains(['\u{2068}', '\u{2069}', '\u{202e}', '\u{2067}']));
    }
}

#[tokio::test]
async fn every_name_is_isolated_in_a_template_from_right_to_left() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let files = [
        ("invitation.subject", "הזמנה אל {{ organization }}"),
        ("invitation.html", "<p dir=rtl>הזמנה אל {{ organization|upper }}: {{ link }}"),
    ];
    let settings = with_templates(&server, directory.path(), &files);
    assert_eq!(mailer(&settings).deliver(&invitation()).await, DeliveryOutcome::Delivered);
    let bytes = server.mailbox().remove(0).data;
    let [subject, text, html] = texts(&parse(&bytes));
    assert_eq!(subject, "הזמנה אל “\u{2068}Acme\u{2069}”");
    assert!(html.contains("הזמנה אל “<bdi>ACME</bdi>”: "), "{html}");
    assert!(text.contains("join “Acme” as member"), "the built-in text is written from left to right");
}

#[tokio::test]
async fn long_names_are_complete() {
    let mut letter = invitation();
    for name in ["🦀".repeat(200), "W".repeat(200), "א".repeat(200), "ß ".repeat(99) + "ß", "a.".repeat(100)] {
        letter.organization = Name::parse(&name).unwrap();
        letter.sender = Some(DisplayName::parse(&name).unwrap());
        let bytes = deliver(&letter).await;
        let sanitized = name.replace('.', ". ").trim_end().to_owned();
        let message = parse(&bytes);
        let [subject, text, html] = texts(&message).map(|part| part.replace(['\u{2068}', '\u{2069}'], ""));
        assert_eq!(subject, format!("Invitation to “{sanitized}”"));
        assert_eq!(mailbox(message.reply_to()).0.unwrap(), sanitized);
        for part in [text, html.replace("<bdi>", "").replace("</bdi>", "")] {
            assert!(part.contains(&format!("“{sanitized}” invites you to join “{sanitized}” as member.")));
        }
        // RFC 5322 §2.1.1: no line is longer than 998 bytes.
        assert!(bytes.split(|byte| *byte == b'\n').all(|line| line.len() < 999));
        assert!(bytes.is_ascii());
    }
}

/// Settings with custom templates.
pub(super) fn with_templates(server: &SmtpServer, directory: &Path, files: &[(&str, &str)]) -> MailSettings {
    for (name, text) in files {
        std::fs::write(directory.join(name), text).unwrap();
    }
    let mut settings = settings(server, Security::Plain);
    settings.templates = Some(directory.to_owned());
    settings
}

#[tokio::test]
async fn custom_templates_replace_the_built_in_ones() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let files = [
        ("invitation.subject", "Join {{ organization }}!\n"),
        ("invitation.txt", "{% if role == 'member' %}Good day{% endif %}: {{ link }}\n"),
    ];
    let settings = with_templates(&server, directory.path(), &files);
    // Kubernetes adds this entry beside the files of a ConfigMap.
    std::fs::create_dir(directory.path().join("..data")).unwrap();
    let mut letter = invitation();
    letter.organization = unchecked("a\nb");
    assert_eq!(mailer(&settings).deliver(&letter).await, DeliveryOutcome::Delivered);
    let bytes = server.mailbox().remove(0).data;
    let [subject, text, html] = texts(&parse(&bytes));
    assert_eq!(subject, "Join “a b”!");
    assert_eq!(text.trim_end(), format!("Good day: https://app.example/join?token={TOKEN}"));
    assert!(html.contains("invites you to join"), "the other templates stay built in");
}

#[tokio::test]
async fn invalid_templates_are_reported_at_the_start() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    for (name, text, problem) in [
        ("invitation.txt", "{{ link", "syntax error"),
        ("invitation.txt", "{{ lnik }} {{ link }}", "undefined value"),
        ("invitation.txt", "{{ sender.name }} {{ link }}", "undefined value"),
        ("reminder.html", "{{ sender|upper }} {{ link|nosuchfilter }}", "unknown filter"),
        ("invitation.txt", "Welcome to {{ organization }}", "{{ link }} is missing"),
        ("owner_activation.html", "{% if sender %}{{ link }}{% else %}Hello{% endif %}", "{{ link }} is missing"),
        ("added.txt", "{{ link }}", "undefined value"),
        ("invitation.subject", "{{ link }}", "undefined value"),
        ("invitation.subject", " \n", "is empty"),
        ("invitation.subject", "{% if not sender %}Hello{% endif %}", "is empty"),
        ("invitation.subject", "Hello\nBcc: x", "one line"),
        ("added.html", "", "is empty"),
        ("invitaton.txt", "{{ link }}", "there is no template of this name"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let settings = with_templates(&server, directory.path(), &[(name, text)]);
        let Err(mistakes) = Mailer::new(&settings, clock()) else { panic!("{name}: {text:?} was accepted") };
        let [mistake] = mistakes.as_slice() else { panic!("{mistakes:?}") };
        assert!(mistake.contains(name) && mistake.contains(problem), "{mistake}");
    }
}
