//! Tests of delivery: outcomes, retries, encryption and login.

use super::{TOKEN, invitation, mailer, plain, settings};
use crate::harness::smtp::{Act, Fault, PASSWORD, SmtpOptions, SmtpServer, USERNAME};
use mail_parser::MessageParser;
use roster::domain::EmailAddress;
use roster::mail::settings::{MailKind, Security};
use roster::service::outbox::DeliveryOutcome;
use std::time::{Duration, Instant};

const STARTTLS: SmtpOptions = SmtpOptions { tls: false, starttls: true, auth: None, utf8: false };
const TLS: SmtpOptions = SmtpOptions { tls: true, starttls: false, auth: None, utf8: false };
const PLAIN: SmtpOptions = SmtpOptions { tls: false, starttls: false, auth: None, utf8: false };

#[tokio::test]
async fn letters_arrive_over_every_kind_of_connection() {
    for (manner, security) in [(PLAIN, Security::Plain), (STARTTLS, Security::Starttls), (TLS, Security::Tls)] {
        let server = SmtpServer::start(manner).await;
        let mailer = mailer(&settings(&server, security));
        assert_eq!(mailer.deliver(&invitation()).await, DeliveryOutcome::Delivered);
        let [received] = server.mailbox().try_into().unwrap();
        assert_eq!((received.from.as_str(), received.to.as_str()), ("roster@mail.example", "bob@recipient.example"));
        assert_eq!(received.encrypted, security != Security::Plain);
        let hello = server.commands().into_iter().find(|line| line.starts_with("EHLO")).unwrap();
        assert_eq!(hello, "EHLO mail.example");
    }
}

#[tokio::test]
async fn the_transport_logs_in() {
    for auth in ["PLAIN", "LOGIN"] {
        let server = SmtpServer::start(SmtpOptions { auth: Some(auth), ..STARTTLS }).await;
        let mut settings = settings(&server, Security::Starttls);
        settings.username = Some(USERNAME.to_owned());
        settings.password_file = Some(server.password_file());
        assert_eq!(mailer(&settings).deliver(&invitation()).await, DeliveryOutcome::Delivered);

        // A rejected login is not final: the operator corrects the settings, and then the letter is sent.
        settings.username = Some("another-user".to_owned());
        let DeliveryOutcome::Transient(why) = mailer(&settings).deliver(&invitation()).await else { panic!("final") };
        assert_eq!(why, "the relay cannot be used: 535 5.7.8");
        settings.username = None;
        settings.password_file = None;
        let DeliveryOutcome::Transient(why) = mailer(&settings).deliver(&invitation()).await else { panic!("final") };
        assert_eq!(why, "the relay did not accept the mail: 530 5.7.0");
        assert_eq!(server.mailbox().len(), 1);
    }
}

#[tokio::test]
async fn letters_and_passwords_are_not_sent_unencrypted() {
    let server = SmtpServer::start(SmtpOptions { auth: Some("PLAIN"), ..PLAIN }).await;
    let mut settings = settings(&server, Security::Starttls);
    settings.username = Some(USERNAME.to_owned());
    settings.password_file = Some(server.password_file());
    let DeliveryOutcome::Transient(why) = mailer(&settings).deliver(&invitation()).await else {
        panic!("not transient")
    };
    assert!(why.contains("STARTTLS is not supported"), "{why}");
    assert!(server.commands().iter().all(|line| line.starts_with("EHLO")), "{:?}", server.commands());
    assert!(server.mailbox().is_empty());
}

#[tokio::test]
async fn replies_injected_before_the_tls_handshake_are_rejected() {
    let server = SmtpServer::start(STARTTLS).await;
    server.misbehave([Some(Fault { at: "STARTTLS", act: Act::Answer("220 go ahead\r\n250 relay.test") })]);
    let DeliveryOutcome::Transient(why) = mailer(&settings(&server, Security::Starttls)).deliver(&invitation()).await
    else {
        panic!("not transient")
    };
    assert!(why.starts_with("the relay cannot be used: "), "{why}");
    assert_eq!(server.commands(), ["EHLO mail.example", "STARTTLS"]);
}

#[tokio::test]
async fn invalid_certificates_are_rejected() {
    for (manner, security) in [(STARTTLS, Security::Starttls), (TLS, Security::Tls)] {
        // Signed by an untrusted CA, signed by another CA than the one in the file, and issued for another name.
        let (server, other) = (SmtpServer::start(manner).await, SmtpServer::start(manner).await);
        let misnamed = SmtpServer::named(manner, "relay.example").await;
        for (server, ca_file) in
            [(&server, None), (&server, Some(other.ca_file())), (&misnamed, Some(misnamed.ca_file()))]
        {
            let mut settings = settings(server, security);
            settings.ca_file = ca_file;
            let DeliveryOutcome::Transient(why) = mailer(&settings).deliver(&invitation()).await else {
                panic!("not transient")
            };
            assert!(why.contains("certificate"), "{why}");
            assert!(server.mailbox().is_empty());
        }
    }
}

#[tokio::test]
async fn failures_before_the_message_are_transient_and_5xx_after_it_are_final() {
    let answer = |at, text| Fault { at, act: Act::Answer(text) };
    let close = |at| Fault { at, act: Act::Close };
    let faults = [
        // Until MAIL, no failure concerns the letter.
        (answer("CONNECT", "421 4.3.2 busy"), false),
        (answer("CONNECT", "554 5.3.2 no service here"), false),
        (answer("EHLO", "550 5.7.1 not you"), false),
        (close("CONNECT"), false),
        (close("EHLO"), false),
        (answer("MAIL", "451 4.3.0 later"), false),
        (answer("RCPT", "450 4.2.1 greylisted"), false),
        (answer("DATA", "452 4.3.1 full"), false),
        (answer("BODY", "451 4.3.0 later"), false),
        (answer("BODY", "nonsense"), false),
        (close("RCPT"), false),
        (close("BODY"), false),
        (answer("MAIL", "550 5.7.1 not from you"), true),
        (answer("RCPT", "550 5.1.1 <bob@recipient.example>: no such user"), true),
        (answer("RCPT", "550-bob@recipient.example\r\n550 is not here"), true),
        (answer("DATA", "554 5.7.1 no"), true),
        (answer("BODY", "552 5.3.4 too large"), true),
    ];
    for (fault, is_final) in faults {
        let server = SmtpServer::start(PLAIN).await;
        let mailer = plain(&server);
        server.misbehave([Some(fault)]);
        match mailer.deliver(&invitation()).await {
            DeliveryOutcome::Final(why) if is_final => assert!(!why.contains("bob"), "{why}"),
            DeliveryOutcome::Transient(why) if !is_final => assert!(!why.contains("bob"), "{why}"),
            other => panic!("{fault:?}: {other:?}"),
        }
        assert!(server.mailbox().is_empty());
        // The next attempt succeeds, over a new connection.
        assert_eq!(mailer.deliver(&invitation()).await, DeliveryOutcome::Delivered, "{fault:?}");
    }
}

#[tokio::test]
async fn a_relay_that_hangs_costs_only_the_time_limit() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let hang = async |at| {
        let server = SmtpServer::start(STARTTLS).await;
        let mut settings = settings(&server, Security::Starttls);
        settings.timeout_ms = 1_000;
        let mailer = mailer(&settings);
        server.misbehave([Some(Fault { at, act: Act::Hang })]);
        let began = Instant::now();
        let outcome = mailer.deliver(&invitation()).await;
        assert_eq!(outcome, DeliveryOutcome::Transient("the relay did not answer in time".to_owned()), "{at}");
        assert!((TIMEOUT..4 * TIMEOUT).contains(&began.elapsed()), "{at}: {:?}", began.elapsed());
        // The connection that hangs is not reused: its late replies would be taken for those to another letter.
        let before = server.mailbox().len();
        assert_eq!(mailer.deliver(&invitation()).await, DeliveryOutcome::Delivered, "{at}");
        assert_eq!(server.mailbox().last().unwrap().connection, 2);
        assert_eq!(server.mailbox().len(), before + 1);
    };
    futures_util::future::join_all(["CONNECT", "EHLO", "STARTTLS", "MAIL", "RCPT", "DATA", "BODY"].map(hang)).await;
}

#[tokio::test]
async fn an_unreachable_relay_is_a_transient_failure() {
    let server = SmtpServer::start(PLAIN).await;
    let settings = settings(&server, Security::Plain);
    drop(server);
    let DeliveryOutcome::Transient(why) = mailer(&settings).deliver(&invitation()).await else {
        panic!("not transient")
    };
    assert!(why.starts_with("the relay cannot be used: "), "{why}");
}

#[tokio::test]
async fn consecutive_letters_share_a_connection() {
    let server = SmtpServer::start(STARTTLS).await;
    let mailer = mailer(&settings(&server, Security::Starttls));
    for _ in 0..3 {
        assert_eq!(mailer.deliver(&invitation()).await, DeliveryOutcome::Delivered);
    }
    mailer.close_idle().await;
    assert_eq!(server.commands().last().unwrap(), "QUIT");
    assert_eq!(mailer.deliver(&invitation()).await, DeliveryOutcome::Delivered);
    let connections: Vec<usize> = server.mailbox().iter().map(|received| received.connection).collect();
    assert_eq!(connections, [1, 1, 1, 2]);
}

#[tokio::test]
async fn an_idle_connection_that_the_relay_closed_is_replaced() {
    let server = SmtpServer::start(PLAIN).await;
    let mailer = plain(&server);
    server.misbehave([Some(Fault { at: "NOOP", act: Act::Close })]);
    for _ in 0..2 {
        assert_eq!(mailer.deliver(&invitation()).await, DeliveryOutcome::Delivered);
    }
    assert_eq!(server.mailbox().last().unwrap().connection, 2);
}

#[tokio::test]
async fn a_letter_sent_twice_is_one_message() {
    let server = SmtpServer::start(PLAIN).await;
    for _ in 0..2 {
        assert_eq!(plain(&server).deliver(&invitation()).await, DeliveryOutcome::Delivered);
    }
    let [first, second] = server.mailbox().try_into().unwrap();
    assert_eq!(first.data, second.data);
    let message = MessageParser::default().parse(&first.data).unwrap();
    assert_eq!(message.message_id(), Some("00000000-0000-0000-0000-000000000007@mail.example"));
}

#[tokio::test]
async fn a_non_ascii_address_needs_a_relay_with_smtputf8() {
    let mut letter = invitation();
    letter.to = EmailAddress::parse("bücher@bücher.example").unwrap();
    let server = SmtpServer::start(PLAIN).await;
    let DeliveryOutcome::Final(why) = plain(&server).deliver(&letter).await else { panic!("not final") };
    assert!(why.contains("SMTPUTF8"), "{why}");

    let server = SmtpServer::start(SmtpOptions { utf8: true, ..PLAIN }).await;
    assert_eq!(plain(&server).deliver(&letter).await, DeliveryOutcome::Delivered);
    assert_eq!(server.mailbox()[0].to, "bücher@xn--bcher-kva.example");

    letter.to = EmailAddress::parse("सपंर्क@bücher.example").unwrap();
    assert_eq!(plain(&server).deliver(&letter).await, DeliveryOutcome::Delivered);
    assert_eq!(server.mailbox()[1].to, "सपंर्क@xn--bcher-kva.example");

    // With an ASCII local part, every relay accepts the ASCII form of the domain.
    letter.to = EmailAddress::parse("buch@bücher.example").unwrap();
    let server = SmtpServer::start(PLAIN).await;
    assert_eq!(plain(&server).deliver(&letter).await, DeliveryOutcome::Delivered);
    assert_eq!(server.mailbox()[0].to, "buch@xn--bcher-kva.example");
}

#[tokio::test]
async fn local_parts_that_are_no_dot_atom_are_quoted() {
    let server = SmtpServer::start(SmtpOptions { utf8: true, ..PLAIN }).await;
    let longest = format!("{}.@docomo.ne.jp", "a".repeat(61));
    for (given, sent) in [
        ("a..b@docomo.ne.jp", "\"a..b\"@docomo.ne.jp"),
        ("Ab.@ezweb.ne.jp", "\"Ab.\"@ezweb.ne.jp"),
        ("a.b@docomo.ne.jp", "a.b@docomo.ne.jp"),
        ("やまだ..@docomo.ne.jp", "\"やまだ..\"@docomo.ne.jp"),
        (&longest, &format!("\"{}.\"@docomo.ne.jp", "a".repeat(61))),
    ] {
        let mut letter = invitation();
        letter.to = EmailAddress::parse(given).unwrap();
        letter.reply_to = Some(letter.to.clone());
        assert_eq!(plain(&server).deliver(&letter).await, DeliveryOutcome::Delivered, "{given}");
        let received = server.mailbox().pop().unwrap();
        assert_eq!(received.to, sent);
        let headers = String::from_utf8(received.data).unwrap();
        for header in ["To", "Reply-To"] {
            let line = headers.replace("\r\n ", " ");
            let line = line.lines().find(|line| line.starts_with(&format!("{header}: "))).unwrap().to_owned();
            assert!(line.contains(sent), "{line}");
        }
        let rcpt = server.commands().into_iter().rev().find(|line| line.starts_with("RCPT")).unwrap();
        assert_eq!(rcpt, format!("RCPT TO:<{sent}>"));
    }
}

#[tokio::test]
async fn letters_can_be_written_to_a_directory() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("mail/out");
    let server = SmtpServer::start(PLAIN).await;
    let mut settings = settings(&server, Security::Plain);
    settings.kind = MailKind::Directory;
    settings.directory = Some(directory.clone());
    assert_eq!(mailer(&settings).deliver(&invitation()).await, DeliveryOutcome::Delivered);
    assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    let files: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    assert_eq!(file.extension().unwrap(), "eml");
    let bytes = std::fs::read(file).unwrap();
    let message = MessageParser::default().parse(&bytes).unwrap();
    assert!(message.body_text(0).unwrap().contains(TOKEN));
    assert!(server.mailbox().is_empty());

    std::fs::remove_dir_all(parent.path().join("mail")).unwrap();
    settings.directory = Some(directory.clone());
    let mailer = mailer(&settings);
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(matches!(mailer.deliver(&invitation()).await, DeliveryOutcome::Transient(_)));
}

#[tokio::test]
async fn debug_output_omits_the_password() {
    let server = SmtpServer::start(SmtpOptions { auth: Some("PLAIN"), ..PLAIN }).await;
    let mut settings = settings(&server, Security::Plain);
    settings.username = Some("another-user".to_owned());
    settings.password_file = Some(server.password_file());
    let outcome = mailer(&settings).deliver(&invitation()).await;
    assert!(!format!("{settings:?} {outcome:?}").contains(PASSWORD));
}
