use super::*;
use std::collections::HashMap;
use std::path::Path;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const KEY: &str = r#"
    [[api_keys]]
    name = "billing"
    scopes = ["check"]
    sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
    [mail]
    kind = "off"
"#;

/// Reads settings from these flags, variables and lines of a file.
fn read(flags: &[&str], variables: &[(&str, &str)], file: &str) -> Result<Settings, Vec<String>> {
    let directory = tempfile::tempdir().map_err(|error| vec![error.to_string()])?;
    read_in(directory.path(), flags, variables, file)
}

fn read_in(directory: &Path, flags: &[&str], variables: &[(&str, &str)], file: &str) -> Result<Settings, Vec<String>> {
    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        flags: Flags,
    }
    let path = directory.join("roster.toml");
    std::fs::write(&path, file).map_err(|error| vec![error.to_string()])?;
    let arguments = ["roster"].iter().chain(flags);
    let program: Program = clap::Parser::try_parse_from(arguments).map_err(|error| vec![error.to_string()])?;
    let variables: HashMap<&str, &str> = variables.iter().copied().collect();
    let environment = |name: &str| match name {
        "ROSTER_CONFIG" => Some(path.display().to_string()),
        _ => variables.get(name).map(|value| (*value).to_owned()),
    };
    let clock = Clock::from_fn(|| std::time::UNIX_EPOCH);
    let place = path.display().to_string();
    let short = |mistakes: Mistakes| mistakes.0.iter().map(|mistake| mistake.replace(&place, "FILE")).collect();
    Settings::read(&program.flags, &environment, clock).map_err(short)
}

fn mistakes(flags: &[&str], variables: &[(&str, &str)], file: &str) -> Vec<String> {
    read(flags, variables, file).err().unwrap_or_default()
}

#[test]
fn little_is_needed() -> Outcome {
    let settings = read(&["--database-url", "postgres:///roster"], &[], KEY).map_err(|mistakes| mistakes.join("\n"))?;
    assert_eq!(settings.listen, LISTEN);
    assert_eq!(settings.database.get_database(), Some("roster"));
    assert_eq!(settings.database_connections, DATABASE_CONNECTIONS);
    assert_eq!(settings.log.format, LogFormat::Text);
    assert_eq!(settings.server.max_deadline, crate::store::limits::STATEMENT);
    assert_eq!(settings.change_log_retention, crate::service::limits::LOG_RETENTION);
    assert_eq!(settings.index, ReplicaSettings::default());
    assert!(settings.mailer.is_none() && settings.invitations == InvitationSettings::default());
    Ok(())
}

#[test]
fn mail_and_the_limits_of_invitations_are_tables_of_the_file() -> Outcome {
    let file = format!(
        "database_url = 'postgres:///roster'\n{}\n[invitations]\npending_per_organization = 7\ncooldown_seconds = 5\n",
        KEY.replace(
            "\"off\"",
            "'directory'\nfrom = 'roster@example.com'\nlink_base_url = 'https://example.com'\ndirectory = 'mail'"
        )
    );
    let settings = read(&[], &[], &file).map_err(|mistakes| mistakes.join("\n"))?;
    assert!(settings.mailer.is_some() && settings.invitations.mail);
    assert_eq!(settings.invitations.pending_per_organization, 7);
    assert_eq!(settings.invitations.cooldown, Duration::from_secs(5));
    Ok(())
}

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_file() -> Outcome {
    let file = format!("database_url = 'postgres:///file'\ndrain_ms = 1\nreflection = false\nlog = 'debug'\n{KEY}");
    let settings = read(
        &[
            "--drain-ms",
            "3",
            "--log-format=json",
            "--change-log-hours=2",
            "--index-memory-mib=0",
            "--serve-stale-ms=5000",
        ],
        &[("ROSTER_DRAIN_MS", "2"), ("ROSTER_DATABASE_URL", "postgres:///variable"), ("ROSTER_LOG_FORMAT", "nonsense")],
        &file,
    )
    .map_err(|mistakes| mistakes.join("\n"))?;
    assert_eq!(settings.server.drain, Duration::from_millis(3));
    assert_eq!(settings.database.get_database(), Some("variable"));
    assert_eq!(settings.change_log_retention, Duration::from_hours(2));
    let serve_stale = Some(Duration::from_secs(5));
    assert_eq!(settings.index, ReplicaSettings { memory_bytes: 0, serve_stale, ..ReplicaSettings::default() });
    assert!(!settings.server.reflection);
    assert_eq!((settings.log.filter.as_str(), settings.log.format), ("debug", LogFormat::Json));
    Ok(())
}

#[test]
fn every_mistake_is_told_at_once_with_its_place_and_without_what_was_given() {
    let file = "
        listen = 'localhost'
        database_connections = 0
        max_deadline_ms = 30001
        reflection = [true]
        change_log_hours = 0
        max_staleness_ms = 100
        colour = 'blue'
        [[issuers]]
        issuer = 'https://id.example'
        audience = 'roster'
        [[issuers]]
        isuer = 'https://id.example'
        [[api_keys]]
        name = 'billing'
        scopes = []
        sha256 = '00'
        [mail]
        kind = 'smtp'
        from = 'nobody'
        [invitations]
        cooldown = 5
    ";
    let told = mistakes(
        &["--log", "roster=loud", "--log-format", "xml"],
        &[("ROSTER_DATABASE_URL", "mysql://root:s3cret@db/roster"), ("ROSTER_DRAIN_MS", "-1")],
        file,
    );
    assert_eq!(
        told,
        [
            "database_url (from ROSTER_DATABASE_URL): write a URL of the form postgres://user:password@host:port/database",
            "listen (from FILE): write an address and a port, as 127.0.0.1:50051",
            "database_connections (from FILE): write a whole number from 1 to 1000",
            "max_deadline_ms (from FILE): write a whole number from 1 to 30000",
            "drain_ms (from ROSTER_DRAIN_MS): write a whole number from 1 to 600000",
            "reflection (from FILE): write a text, a whole number, or true or false",
            "change_log_hours (from FILE): write a whole number from 1 to 8760",
            "max_staleness_ms (from FILE): write a whole number from 500 to 60000",
            "log (from --log): write a level (error, warn, info, debug, trace), or several as roster=debug,sqlx=warn",
            "log_format (from --log-format): write text or json",
            "issuers[1] (from FILE): unknown field `isuer`, expected one of `issuer`, `audience`, `jwks_file`, `keys`, \
             `hs256_secret_file`, `scopes`, `user_id_prefix`",
            "api_keys[0].scopes: a key without a scope can do nothing: name at least one (in FILE)",
            "api_keys[0].sha256: the SHA-256 of the key is needed, as 64 hexadecimal digits (in FILE)",
            "mail.from: write an address, as roster@example.com or Example <roster@example.com> (in FILE)",
            "mail.link_base_url: write the page that links lead to, as https://example.com/join (in FILE)",
            "mail.host: write the relay's name, or its address (in FILE)",
            "mail.security: write starttls, tls or plain (in FILE)",
            "invitations (from FILE): unknown field `cooldown`, expected one of `pending_per_organization`, \
             `per_organization_and_day`, `sends_per_invitation`, `cooldown_seconds`, `mails_per_recipient_and_day`, \
             `failed_tokens_per_minute`",
            "colour (from FILE): no such setting; there are database_url, listen, metrics_listen, \
             database_connections, max_deadline_ms, default_deadline_ms, drain_ms, slow_reader_ms, workers, max_concurrent_requests, max_streams, max_connections, reflection, change_log_hours, max_staleness_ms, serve_stale_ms, index_memory_mib, log, log_format, \
             issuers, api_keys, mail, invitations",
        ]
    );
}

#[test]
fn without_a_datastore_or_anybody_to_let_in_it_does_not_start() {
    assert_eq!(
        mistakes(&[], &[], ""),
        [
            "database_url is needed: give --database-url, ROSTER_DATABASE_URL, or database_url in the settings file",
            "no issuer and no api key is configured: configure one, or no caller can authenticate (in FILE)",
            "mail.kind is needed: off, directory or smtp, in a table [mail] (in FILE)",
        ]
    );
}

#[test]
fn a_broken_file_is_told_by_its_line_and_not_repeated() {
    let told = mistakes(&["--listen", "x"], &[], "log = 'info'\ndatabase_url = postgres://root:s3cret@db/roster\n");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("the settings file FILE is not TOML: line 2: "), "{told:?}");
    assert!(!told.join("").contains("s3cret"), "{told:?}");
}

#[test]
fn a_file_that_is_not_there_is_a_mistake() {
    let told = mistakes(&["--config", "/nowhere/roster.toml"], &[], "");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("the settings file /nowhere/roster.toml cannot be read: "), "{told:?}");
}

#[test]
fn key_files_are_found_beside_the_settings_file() -> Outcome {
    let directory = tempfile::tempdir()?;
    let file = "
        database_url = 'postgres:///roster'
        [[issuers]]
        issuer = 'https://id.example'
        audience = 'roster'
        jwks_file = 'jwks.json'
        [mail]
        kind = 'off'
    ";
    let told = read_in(directory.path(), &[], &[], file).err().unwrap_or_default();
    assert!(told.iter().all(|mistake| mistake.starts_with("issuers[0].jwks_file: ")), "{told:?}");
    assert_eq!(told.len(), 1);
    let jwks = crate::authn::mint::SigningKey::generate().public_jwks().to_string();
    std::fs::write(directory.path().join("jwks.json"), jwks)?;
    assert!(read_in(directory.path(), &[], &[], file).is_ok());
    Ok(())
}

#[test]
fn a_migration_looks_at_nothing_but_the_datastore() {
    let flags = DatastoreFlags { config: None, database_url: None };
    let environment = |name: &str| (name == "ROSTER_DATABASE_URL").then(|| "postgres:///roster".to_owned());
    assert!(read_datastore(&flags, &environment).is_ok());
    let told = read_datastore(&flags, &|_| None).err();
    assert!(told.is_some_and(|told| told.0.len() == 1));
}
