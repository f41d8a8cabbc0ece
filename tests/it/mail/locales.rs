//! Tests of the languages of letters: the built-in texts, the templates of a deployment for each locale, and the fallback
//! from one locale to another.

use super::texts::{deliver, parse, texts, with_templates};
use super::{TOKEN, clock, invitation, letter, locale, mailer};
use crate::harness::smtp::{SmtpOptions, SmtpServer};
use mail_parser::MimeHeaders;
use roster::domain::{DisplayName, Name, RoleName};
use roster::mail::Mailer;
use roster::mail::settings::{MailKind, MailSettings};
use roster::service::outbox::{DeliveryOutcome, Letter, Occasion};
use std::path::Path;

/// The mails of a language: for each occasion the subject, and the first sentence with a sender and without one.
struct Language {
    tag: &'static str,
    expires: &'static str,
    mails: [(Occasion, &'static str, &'static str, &'static str); 4],
}

const LANGUAGES: [Language; 3] = [
    Language {
        tag: "en",
        expires: "1 December 2026, 14:30 UTC",
        mails: [
            (
                Occasion::Invitation,
                "Invitation to “Acme”",
                "“Ada Lovelace” invites you to join “Acme” as member.",
                "You are invited to join “Acme” as member.",
            ),
            (
                Occasion::Reminder,
                "Reminder: invitation to “Acme”",
                "“Ada Lovelace” reminds you of the invitation to join “Acme”\nas member.",
                "This is a reminder of the invitation to join “Acme” as member.",
            ),
            (
                Occasion::Added,
                "You were added to “Acme”",
                "“Ada Lovelace” has added you to “Acme” as member.",
                "You were added to “Acme” as member.",
            ),
            (
                Occasion::OwnerActivation,
                "Confirm the registration of “Acme”",
                "“Ada Lovelace” has registered “Acme” for you.",
                "“Acme” was registered for this address.",
            ),
        ],
    },
    Language {
        tag: "de",
        expires: "1. Dezember 2026, 14:30 Uhr (UTC)",
        mails: [
            (
                Occasion::Invitation,
                "Einladung zu „Acme“",
                "„Ada Lovelace“ lädt Sie zu „Acme“ ein. Ihre Rolle dort: Mitglied.",
                "Sie sind zu „Acme“ eingeladen. Ihre Rolle dort: Mitglied.",
            ),
            (
                Occasion::Reminder,
                "Erinnerung: Einladung zu „Acme“",
                "„Ada Lovelace“ erinnert Sie an die Einladung zu „Acme“.\nIhre Rolle dort: Mitglied.",
                "Sie werden an die Einladung zu „Acme“ erinnert.\nIhre Rolle dort: Mitglied.",
            ),
            (
                Occasion::Added,
                "Sie wurden zu „Acme“ hinzugefügt",
                "„Ada Lovelace“ hat Sie zu „Acme“ hinzugefügt. Ihre Rolle dort: Mitglied.",
                "Sie wurden zu „Acme“ hinzugefügt. Ihre Rolle dort: Mitglied.",
            ),
            (
                Occasion::OwnerActivation,
                "Bestätigen Sie die Registrierung von „Acme“",
                "„Ada Lovelace“ hat „Acme“ für Sie registriert.",
                "„Acme“ wurde für diese Adresse registriert.",
            ),
        ],
    },
    Language {
        tag: "ja",
        expires: "2026年12月1日 14:30（UTC）",
        mails: [
            (
                Occasion::Invitation,
                "「Acme」へのご招待",
                "「Ada Lovelace」さんが、あなたを「Acme」に招待しています。",
                "あなたは「Acme」に招待されています。",
            ),
            (
                Occasion::Reminder,
                "【再送】「Acme」へのご招待",
                "「Ada Lovelace」さんから、「Acme」への招待について再度のお知らせです。",
                "「Acme」への招待について、再度お知らせいたします。",
            ),
            (
                Occasion::Added,
                "「Acme」に追加されました",
                "「Ada Lovelace」さんが、あなたを「Acme」に追加しました。",
                "あなたは「Acme」に追加されました。",
            ),
            (
                Occasion::OwnerActivation,
                "「Acme」の登録をご確認ください",
                "「Ada Lovelace」さんが、あなたのために「Acme」を登録しました。",
                "このメールアドレス宛てに「Acme」が登録されました。",
            ),
        ],
    },
];

fn without_sender(letter: Letter) -> Letter {
    Letter { sender: None, reply_to: None, ..letter }
}

#[tokio::test]
async fn every_mail_is_written_in_every_language() {
    for Language { tag, expires, mails } in LANGUAGES {
        for (occasion, subject, sentence, sentence_without_sender) in mails {
            let letter = || Letter { locale: Some(locale(tag)), ..letter(occasion) };
            for (letter, sentence) in [(letter(), sentence), (without_sender(letter()), sentence_without_sender)] {
                let bytes = deliver(&letter).await;
                let message = parse(&bytes);
                let [found_subject, text, html] = texts(&message);
                assert_eq!(found_subject, subject);
                assert_eq!(message.content_language().as_text(), Some(tag));
                assert!(html.contains(&format!("<html lang=\"{tag}\" dir=\"ltr\">")), "{html}");
                for part in [&text, &html] {
                    assert!(part.contains(sentence), "{part}");
                    assert_eq!(part.contains(TOKEN), occasion != Occasion::Added);
                    assert_eq!(part.contains(expires), occasion != Occasion::Added, "{part}");
                    assert!(!part.contains("  ") && !part.contains("{{") && !part.contains("{%"), "{part}");
                }
                assert_readable(&bytes, &text);
            }
        }
    }
}

/// Every line of the message fits into RFC 5322 and is ASCII, and the lines of a text with short names fit into a window of
/// 80 columns, in which a character outside Latin takes two.
fn assert_readable(bytes: &[u8], text: &str) {
    assert!(bytes.is_ascii());
    assert!(bytes.split(|byte| *byte == b'\n').all(|line| line.len() < 999));
    for line in text.lines().filter(|line| !line.contains(TOKEN)) {
        let columns: usize = line.chars().map(|c| if c < '\u{2e80}' { 1 } else { 2 }).sum();
        assert!(columns <= 80, "{columns}: {line}");
    }
}

#[tokio::test]
async fn roles_and_long_names_are_written_in_every_language() {
    let name = |part: &str| part.repeat(200);
    for (tag, role, text_of_role) in [
        ("en", RoleName::ADMIN, " as admin."),
        ("de", RoleName::ADMIN, "Ihre Rolle dort: Administrator/in."),
        ("ja", RoleName::ADMIN, "参加後の役割は管理者です。"),
        ("ja", RoleName::parse("org:auditor").unwrap(), "参加後の役割はorg:auditorです。"),
    ] {
        for (organization, sender) in [(name("空"), name("株")), (name("ß"), name("W")), (name("🦀"), name("א"))]
        {
            let mut letter = Letter { locale: Some(locale(tag)), role: role.clone(), ..invitation() };
            letter.organization = Name::parse(&organization).unwrap();
            letter.sender = Some(DisplayName::parse(&sender).unwrap());
            let bytes = deliver(&letter).await;
            let [subject, text, html] = texts(&parse(&bytes));
            assert!(subject.contains(&organization), "{subject}");
            for part in [text, html.replace("&#x2f;", "/")] {
                assert!(part.contains(text_of_role), "{part}");
                assert!(part.contains(&organization) && part.contains(&sender));
            }
            assert!(bytes.is_ascii() && bytes.split(|byte| *byte == b'\n').all(|line| line.len() < 999));
        }
    }
}

#[tokio::test]
async fn a_mail_in_a_file_is_readable_in_every_language() {
    for Language { tag, mails, .. } in LANGUAGES {
        let directory = tempfile::tempdir().unwrap();
        let settings = MailSettings {
            kind: MailKind::Directory,
            from: Some("roster@mail.example".to_owned()),
            link_base_url: Some("https://app.example/join".to_owned()),
            directory: Some(directory.path().to_owned()),
            ..MailSettings::off()
        };
        let letter = Letter { locale: Some(locale(tag)), ..invitation() };
        assert_eq!(mailer(&settings).deliver(&letter).await, DeliveryOutcome::Delivered);
        let file = std::fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().path();
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.contains(mails[0].2) && text.contains(&format!("?token={TOKEN}")), "{text}");
    }
}

/// The names of all templates.
const TEMPLATES: [&str; 12] = [
    "added.html",
    "added.subject",
    "added.txt",
    "invitation.html",
    "invitation.subject",
    "invitation.txt",
    "owner_activation.html",
    "owner_activation.subject",
    "owner_activation.txt",
    "reminder.html",
    "reminder.subject",
    "reminder.txt",
];

/// Templates of every name, whose texts say the locale of the file.
fn complete(tag: &str) -> Vec<(String, String)> {
    let source = |name: &str| match name {
        "added.html" | "added.txt" => format!("{tag}: {{{{ lang }}}} {{{{ dir }}}}"),
        _ if name.ends_with(".subject") => format!("{tag} {{{{ organization }}}}"),
        _ => format!("{tag}: {{{{ lang }}}} {{{{ dir }}}} {{{{ link }}}}"),
    };
    let file = |name: &str| if tag.is_empty() { name.to_owned() } else { name.replace('.', &format!(".{tag}.")) };
    TEMPLATES.iter().map(|name| (file(name), source(name))).collect()
}

fn with_files(server: &SmtpServer, directory: &Path, files: &[(String, String)]) -> MailSettings {
    let files: Vec<(&str, &str)> = files.iter().map(|(name, source)| (name.as_str(), source.as_str())).collect();
    with_templates(server, directory, &files)
}

/// The subject, the text, the HTML and the language of the letter, sent with these settings.
async fn send(server: &SmtpServer, settings: &MailSettings, letter: &Letter) -> ([String; 3], String) {
    assert_eq!(mailer(settings).deliver(letter).await, DeliveryOutcome::Delivered);
    let bytes = server.mailbox().pop().unwrap().data;
    let message = parse(&bytes);
    (texts(&message), message.content_language().as_text().unwrap().to_owned())
}

#[tokio::test]
async fn a_letter_falls_back_to_the_locale_of_the_deployment() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let mut files = [complete("pt-BR"), complete("zh-Hant")].concat();
    files.push(("invitation.de-CH.subject".to_owned(), "Grüezi {{ organization }}".to_owned()));
    let mut settings = with_files(&server, directory.path(), &files);
    for (deployment, of_letter, used) in [
        ("en", None, "en"),
        ("ja", None, "ja"),
        ("de-AT", None, "de-AT"),
        ("EN-gb", None, "en-GB"),
        ("pt-BR", None, "pt-BR"),
        ("en", Some("de"), "de"),
        ("en", Some("de-AT"), "de"),
        ("en", Some("de-CH"), "de-CH"),
        ("en", Some("de-CH-1901"), "de-CH"),
        ("en", Some("de-x-formal"), "de"),
        ("en", Some("ja-JP-u-ca-japanese"), "ja"),
        ("en", Some("pt-BR"), "pt-BR"),
        ("en", Some("pt"), "en"),
        ("en", Some("pt-PT"), "en"),
        ("en", Some("zh-Hant-TW"), "zh-Hant"),
        ("en", Some("zh-TW"), "en"),
        ("ja", Some("fr"), "ja"),
        ("de-AT", Some("tlh"), "de-AT"),
        ("de-AT", Some("de"), "de"),
        ("de-AT", Some("de-DE"), "de"),
        ("pt-BR", Some("xx-Yyyy-ZZ"), "pt-BR"),
        ("ja", Some("en-US"), "en"),
    ] {
        settings.locale = deployment.to_owned();
        let letter = Letter { locale: of_letter.map(locale), ..invitation() };
        let ([subject, ..], language) = send(&server, &settings, &letter).await;
        assert_eq!(language, used, "{of_letter:?} at {deployment}");
        let expected = match used {
            "de-CH" => "Grüezi „Acme“".to_owned(),
            "ja" => "「Acme」へのご招待".to_owned(),
            tag if tag.starts_with("de") => "Einladung zu „Acme“".to_owned(),
            tag if tag.starts_with("en") => "Invitation to “Acme”".to_owned(),
            tag => format!("{tag} “Acme”"),
        };
        assert_eq!(subject, expected, "{of_letter:?} at {deployment}");
    }
}

#[tokio::test]
async fn templates_without_a_locale_are_for_the_deployment() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let directory = tempfile::tempdir().unwrap();
    // A whole language, as a deployment has it that needs no other.
    let mut settings = with_files(&server, directory.path(), &complete(""));
    for (deployment, of_letter, text) in [
        ("en", None, ": en ltr"),
        ("fr-CA", None, ": fr-CA ltr"),
        ("ar", None, ": ar rtl"),
        ("fr", Some("it"), ": fr ltr"),
        ("fr", Some("fr-FR"), ": fr ltr"),
        ("de-AT", Some("de-AT"), ": de-AT ltr"),
    ] {
        settings.locale = deployment.to_owned();
        let letter = Letter { locale: of_letter.map(locale), ..invitation() };
        let ([_, found, _], _) = send(&server, &settings, &letter).await;
        assert!(found.starts_with(text), "{found}");
    }
    // The other languages keep theirs.
    let letter = Letter { locale: Some(locale("de")), ..invitation() };
    assert_eq!(send(&server, &settings, &letter).await.0[0], "Einladung zu „Acme“");
}

#[tokio::test]
async fn every_template_of_a_language_from_right_to_left_isolates_names() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = with_files(&server, directory.path(), &complete("he"));
    let letter = Letter { locale: Some(locale("he-IL")), ..invitation() };
    // Neither the name nor the text of the template has a letter from right to left.
    let ([subject, _, html], language) = send(&server, &settings, &letter).await;
    assert_eq!((subject.as_str(), language.as_str()), ("he “\u{2068}Acme\u{2069}”", "he"));
    assert!(html.starts_with("he: he rtl "), "{html}");
}

#[tokio::test]
async fn a_template_can_write_the_time_by_itself() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let mut files = complete("fr");
    let time = "{% set t = expire_time %}{{ t.day }}/{{ t.month }}/{{ t.year }} à {{ t.hour }} h {{ t.minute }}";
    for (name, source) in &mut files {
        if name == "invitation.fr.txt" {
            *source = format!("{time} ({{{{ expires }}}}) {{{{ link }}}}");
        }
    }
    let settings = with_files(&server, directory.path(), &files);
    let letter = Letter { locale: Some(locale("fr")), ..invitation() };
    let ([_, text, _], _) = send(&server, &settings, &letter).await;
    assert!(text.starts_with("1/12/2026 à 14 h 30 (2026-12-01 14:30 UTC) https://"), "{text}");
}

#[tokio::test]
async fn mistakes_in_the_templates_of_a_locale_are_reported_at_the_start() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let text = |name: &str, text: &str| vec![(name.to_owned(), text.to_owned())];
    let lacking = |tag: &str, name: &str| {
        let mut files = complete(tag);
        files.retain(|(file, _)| file != name);
        files
    };
    let changed = |tag: &str, name: &str, source: &str| [complete(tag), text(name, source)].concat();
    for (deployment, files, setting, problems) in [
        ("en", text("invitation.de_AT.txt", "{{ link }}"), "mail.templates", &["invitation.de_AT.txt: its locale"][..]),
        ("en", text("invitation.de.AT.txt", "{{ link }}"), "mail.templates", &["there is no template of this name"]),
        ("en", text("invitaton.de.txt", "{{ link }}"), "mail.templates", &["there is no template of this name"]),
        ("en", text("invitation.de.text", "{{ link }}"), "mail.templates", &["there is no template of this name"]),
        ("en", text("invitation.de.txt", "{{ lnik }}"), "mail.templates", &["invitation.de.txt: undefined value"]),
        ("en", text("reminder.de-AT.html", "{% if"), "mail.templates", &["reminder.de-AT.html: syntax error"]),
        ("en", text("added.ja.subject", "a\nb"), "mail.templates", &["added.ja.subject: write one line"]),
        ("en", text("added.de.txt", "{{ expires }}"), "mail.templates", &["added.de.txt: undefined value"]),
        (
            "en",
            lacking("fr", "added.fr.html"),
            "mail.templates",
            &["fr is not built in and lacks the templates added.fr.html"],
        ),
        ("fr", lacking("", "added.html"), "mail.locale", &["fr is not built in and lacks the templates added.fr.html"]),
        ("fr", Vec::new(), "mail.locale", &["added.fr.html", "invitation.fr.txt"]),
        ("german", Vec::new(), "mail.locale", &["write a language tag"]),
        ("", Vec::new(), "mail.locale", &["write a language tag"]),
        ("de_AT", complete(""), "mail.locale", &["write a language tag"]),
        // Each mistake once, though another locale uses the same file.
        (
            "fr-CA",
            changed("fr", "invitation.fr.txt", "Bonjour"),
            "mail.templates",
            &["invitation.fr.txt: {{ link }} is missing"],
        ),
        (
            "fr",
            changed("fr", "added.txt", "Bonjour"),
            "mail.templates",
            &["added.txt: added.fr.txt is for the same locale", "added.fr.txt: added.txt is for the same locale"],
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let settings = MailSettings { locale: deployment.to_owned(), ..with_files(&server, directory.path(), &files) };
        let Err(mistakes) = Mailer::new(&settings, clock()) else { panic!("{files:?} were accepted") };
        let [mistake] = mistakes.as_slice() else { panic!("{mistakes:?}") };
        assert!(mistake.starts_with(setting), "{mistake}");
        let is_found = problems.iter().any(|problem| mistake.contains(problem));
        assert!(is_found, "{mistake}");
    }
}
