//! The settings of TLS, plaintext and unix sockets.

use super::{KEY, Outcome, read, read_in};
use crate::server::tls::ClientCertificateMode;
use rcgen::{CertificateParams, KeyPair};
use std::path::Path;

/// Writes a certificate that is valid from 1970 for this number of days, and its key.
fn write(directory: &Path, name: &str, days: i64) -> Outcome {
    let mut params = CertificateParams::new(vec!["roster.test".to_owned()])?;
    params.not_before = time::OffsetDateTime::UNIX_EPOCH;
    params.not_after = params.not_before + time::Duration::days(days);
    let key = KeyPair::generate()?;
    std::fs::write(directory.join(format!("{name}.pem")), params.self_signed(&key)?.pem())?;
    std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem())?;
    Ok(())
}

fn file(settings: &str) -> String {
    format!("database_url = 'postgres:///roster'\n{settings}\n{KEY}")
}

#[test]
fn certificate_files_are_relative_to_the_settings_file() -> Outcome {
    let directory = tempfile::tempdir()?;
    write(directory.path(), "a", 100)?;
    let tls = "tls_certificate_file = 'a.pem'\ntls_key_file = 'a.key'\nlisten = ':50051'\n";
    let settings = read_in(directory.path(), &[], &[], &file(tls)).map_err(|mistakes| mistakes.join("\n"))?;
    assert_eq!(settings.warnings, Vec::<String>::new());
    let tls = settings.server.tls.ok_or("no TLS")?;
    assert_eq!(tls.expires_at(), 100 * 24 * 3600);
    assert_eq!(tls.files(), ["a.pem", "a.key"].map(|name| directory.path().join(name)));
    // A flag is relative to the directory of the process.
    let flags = ["--tls-certificate-file", "a.pem"];
    let mistakes = read_in(directory.path(), &flags, &[], &file("tls_key_file = 'a.key'")).err().unwrap_or_default();
    assert!(mistakes.len() == 1 && mistakes[0].starts_with("tls_certificate_file: a.pem: the file cannot be read"));
    Ok(())
}

#[test]
fn every_mistake_of_tls_is_reported() -> Outcome {
    let directory = tempfile::tempdir()?;
    write(directory.path(), "a", 100)?;
    write(directory.path(), "b", 100)?;
    std::fs::write(directory.path().join("empty"), "")?;
    let certificates = "[[client_certificates]]\nname = 'a'\nsan = 'a.test'\nscopes = ['check']\n";
    for (settings, expected) in [
        ("tls_certificate_file = 'a.pem'", &["tls_certificate_file needs tls_key_file"][..]),
        ("tls_key_file = 'a.key'", &["tls_key_file needs tls_certificate_file"]),
        ("tls_certificate_file = 'a.pem'\ntls_key_file = 'b.key'", &["tls_key_file: the key in "]),
        ("tls_certificate_file = 'empty'\ntls_key_file = 'empty'", &["tls_certificate_file: ", "tls_key_file: "]),
        (
            "tls_certificate_file = ''\ntls_key_file = 7.5",
            &[
                "tls_certificate_file (from FILE): write the path of a file",
                "tls_key_file (from FILE): write the path of a file",
            ],
        ),
        ("tls_client_ca_file = 'a.pem'", &["tls_client_ca_file needs tls_certificate_file"]),
        ("tls_client_certificates = 'required'", &["tls_client_certificates needs tls_client_ca_file"]),
        ("tls_client_certificates = 'sometimes'", &["tls_client_certificates (from FILE): write optional or required"]),
        (
            "tls_certificate_file = 'a.pem'\ntls_key_file = 'a.key'\ntls_client_ca_file = 'empty'",
            &["tls_client_ca_file: "],
        ),
    ] {
        let mistakes = read_in(directory.path(), &[], &[], &file(settings)).err().unwrap_or_default();
        let fits = mistakes.iter().zip(expected).all(|(mistake, expected)| mistake.starts_with(expected));
        assert!(fits && mistakes.len() == expected.len(), "{settings}: {mistakes:?}");
    }
    let mistakes = read(&[], &[], &format!("{}{certificates}", file(""))).err().unwrap_or_default();
    assert!(
        mistakes.len() == 1 && mistakes[0].starts_with("client_certificates needs tls_client_ca_file"),
        "{mistakes:?}"
    );
    let mistakes =
        read(&[], &[], &format!("{}{}", file(""), certificates.replace("a.test", "*.test"))).err().unwrap_or_default();
    assert!(mistakes.iter().any(|mistake| mistake.starts_with("client_certificates[0].san: ")), "{mistakes:?}");
    Ok(())
}

#[test]
fn client_certificates_are_optional_by_default() -> Outcome {
    let directory = tempfile::tempdir()?;
    write(directory.path(), "a", 100)?;
    let tls = "tls_certificate_file = 'a.pem'\ntls_key_file = 'a.key'\ntls_client_ca_file = 'a.pem'\n";
    for (mode, expected) in [
        ("", ClientCertificateMode::Optional),
        ("tls_client_certificates = 'optional'", ClientCertificateMode::Optional),
        ("tls_client_certificates = 'required'", ClientCertificateMode::Required),
    ] {
        let settings = read_in(directory.path(), &[], &[], &file(&format!("{tls}{mode}")));
        let settings = settings.map_err(|mistakes| mistakes.join("\n"))?;
        let shown = format!("{:?}", settings.server.tls.ok_or("no TLS")?);
        assert!(shown.contains(&format!("client_certificates: {expected:?}")), "{shown}");
    }
    Ok(())
}

#[test]
fn an_old_certificate_and_plaintext_on_the_network_are_warnings() -> Outcome {
    let directory = tempfile::tempdir()?;
    // The clock of these tests stands at the start of 1970.
    for (name, days) in [("new", 14), ("old", 13), ("expired", -1)] {
        write(directory.path(), name, days)?;
    }
    let tls = |name: &str| format!("tls_certificate_file = '{name}.pem'\ntls_key_file = '{name}.key'");
    for (settings, expected) in [
        (tls("new"), None),
        (tls("old"), Some("expires in 13 days")),
        (tls("expired"), Some("has expired")),
        (String::new(), None),
        ("listen = 'localhost:1'".to_owned(), None),
        ("listen = '[::1]:1'".to_owned(), None),
        ("listen = '127.1.2.3:1'".to_owned(), None),
        ("listen = 'unix:/run/roster.sock'".to_owned(), None),
        ("listen = ':1'".to_owned(), Some("listen (:1) is reachable from other machines without TLS")),
        ("listen = '10.0.0.1:1'".to_owned(), Some("listen (10.0.0.1:1) is reachable")),
        ("listen = 'localhost.example:1'".to_owned(), Some("listen (localhost.example:1) is reachable")),
        ("listen = ':1'\nplaintext = false".to_owned(), Some("is reachable")),
        ("listen = ':1'\nplaintext = true".to_owned(), None),
    ] {
        let read = read_in(directory.path(), &[], &[], &file(&settings)).map_err(|mistakes| mistakes.join("\n"))?;
        let warnings = read.warnings;
        assert_eq!(warnings.len(), usize::from(expected.is_some()), "{settings}: {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains(expected.unwrap_or_default())), "{warnings:?}");
    }
    Ok(())
}

#[test]
fn a_unix_socket_is_for_calls_only_and_trusts_its_peers() {
    let socket = "listen = 'unix:/run/roster.sock'\nproxy_protocol = true";
    assert!(read(&[], &[], &file(socket)).is_ok());
    let mistakes = read(&[], &[], &file("metrics_listen = 'unix:/run/roster.sock'")).err().unwrap_or_default();
    assert_eq!(mistakes, ["metrics_listen takes no unix socket: write an address and a port"]);
}
