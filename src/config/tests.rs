mod tls;

use super::*;
use crate::service::consistency_token::TokenForm;
use clap::CommandFactory;
use std::path::Path;

mod issuers;

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[derive(clap::Parser)]
struct Program {
    #[command(flatten)]
    flags: Flags,
}

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
    let path = directory.join("roster.toml");
    std::fs::write(&path, file).map_err(|error| vec![error.to_string()])?;
    let arguments = ["roster"].iter().chain(flags);
    let program: Program = clap::Parser::try_parse_from(arguments).map_err(|error| vec![error.to_string()])?;
    let config = path.display().to_string();
    let environment = Environment::new(variables.iter().copied().chain([("ROSTER_CONFIG", config.as_str())]));
    let clock = Clock::from_fn(|| std::time::UNIX_EPOCH);
    let shorten = |texts: Vec<String>| -> Vec<String> {
        texts.iter().map(|text| text.replace(&path.display().to_string(), "FILE")).collect()
    };
    match Settings::read(&program.flags, &environment, clock, UnknownVariables::Warn) {
        Ok(settings) => Ok(Settings { warnings: shorten(settings.warnings), ..settings }),
        Err(Mistakes(mistakes)) => Err(shorten(mistakes)),
    }
}

fn mistakes(flags: &[&str], variables: &[(&str, &str)], file: &str) -> Vec<String> {
    read(flags, variables, file).err().unwrap_or_default()
}

#[test]
fn a_database_credentials_and_mail_are_enough() -> Outcome {
    let settings = read(&["--database-url", "postgres:///roster"], &[], KEY).map_err(|mistakes| mistakes.join("\n"))?;
    assert_eq!(settings.listen, LISTEN.into());
    assert_eq!(settings.database.hosts().unwrap()[0].get_database(), Some("roster"));
    assert_eq!(settings.database_connections, table::DATABASE_CONNECTIONS);
    assert_eq!(settings.log.format, LogFormat::Text);
    assert_eq!(settings.server.max_deadline, crate::store::limits::STATEMENT);
    assert_eq!(settings.change_log_retention, crate::service::limits::LOG_RETENTION);
    // The next release issues the newest form by default.
    let expected = ReplicaSettings { token_form: TokenForm::Positions, ..ReplicaSettings::default() };
    assert_eq!(settings.replica, expected);
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
fn flags_override_variables_and_variables_override_the_file() -> Outcome {
    let file = format!(
        "database_url = 'postgres:///file'\ndrain_ms = 1\nreflection = false\nlog = 'debug'\ntoken_form = 2\n{KEY}"
    );
    let settings = read(
        &[
            "--drain-ms",
            "3",
            "--log-format=json",
            "--change-log-hours=2",
            "--replica-memory-mib=0",
            "--serve-stale-ms=5000",
            "--max-connection-age-ms=0",
            "--lame-duck-ms=0",
        ],
        &[("ROSTER_DRAIN_MS", "2"), ("ROSTER_DATABASE_URL", "postgres:///variable"), ("ROSTER_LOG_FORMAT", "nonsense")],
        &file,
    )
    .map_err(|mistakes| mistakes.join("\n"))?;
    assert_eq!(settings.server.drain, Duration::from_millis(3));
    assert_eq!(settings.database.hosts().unwrap()[0].get_database(), Some("variable"));
    assert_eq!(settings.change_log_retention, Duration::from_hours(2));
    let serve_stale = Some(Duration::from_secs(5));
    assert_eq!(settings.replica, ReplicaSettings { memory_bytes: 0, serve_stale, ..ReplicaSettings::default() });
    assert!(!settings.server.reflection);
    // 0 is no maximum.
    assert_eq!((settings.server.max_connection_age, settings.server.lame_duck), (None, Duration::ZERO));
    assert_eq!((settings.log.filter.as_str(), settings.log.format), ("debug", LogFormat::Json));
    Ok(())
}

/// The first line of each mistake, which ends before the list of the settings that there are.
fn short(mistakes: &[String]) -> Vec<&str> {
    mistakes.iter().map(|mistake| mistake.split("; there are ").next().unwrap_or_default()).collect()
}

/// A file with a mistake of each kind.
const MISTAKES: &str = "
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
    jwks_url = 'https://id.example/keys'
    jwks_file = 'jwks.json'
    [[issuers]]
    isuer = 'https://id.example'
    [[api_keys]]
    name = 'billing'
    scopes = []
    sha256 = '00'
    [mail]
    kind = 'smtp'
    from = 'roster'
    [invitations]
    cooldown = 5
";

#[test]
fn all_mistakes_are_reported_with_their_origin_and_without_the_value() {
    let found = mistakes(
        &["--log", "roster=loud,inf", "--log-format", "xml"],
        &[
            ("ROSTER_DATABASE_URL", "postgres://root:s3cret@db/roster?sslmod=x&sslmode=s3cret"),
            ("ROSTER_DRAIN_MS", "-1"),
            ("ROSTER_LISTN", "s3cret"),
        ],
        MISTAKES,
    );
    assert_eq!(
        short(&found),
        [
            "database_url (from ROSTER_DATABASE_URL): write a URL without the parameter \"sslmod\", which has no \
             effect",
            "database_url (from ROSTER_DATABASE_URL): write a URL with a value of \"sslmode\" that it can have",
            "listen (from FILE): write an address or a host name, and a port, as 127.0.0.1:50051, localhost:50051, \
             [::1]:50051, or :50051 for every address of the machine, or unix: with the absolute path of a unix socket",
            "database_connections (from FILE): write a whole number from 1 to 1000",
            "max_deadline_ms (from FILE): write a whole number from 1 to 30000",
            "drain_ms (from ROSTER_DRAIN_MS): write a whole number from 1 to 600000",
            "change_log_hours (from FILE): write a whole number from 1 to 8760",
            "max_staleness_ms (from FILE): write a whole number from 500 to 60000",
            "log_format (from --log-format): write text or json",
            "log (from --log): write a level (error, warn, info, debug, trace) at the end of \"roster=loud\"",
            "log (from --log): write a level (error, warn, info, debug, trace) in place of \"inf\"",
            "reflection (from FILE): write true or false",
            "issuers[1].isuer (from FILE): no such setting; the nearest is issuer",
            "issuers[0].jwks_file: at most one of jwks_url, jwks_file, keys and hs256_secret_file is possible (in FILE)",
            "issuers[1].issuer: the iss of its tokens is needed (in FILE)",
            "issuers[1].audience: the aud of tokens for this server is needed (in FILE)",
            "issuers[1].user_id_prefix: another entry has the same, or one that {tenant} can stand for, so that one issuer \
             could name the other's users (in FILE)",
            "api_keys[0].scopes: a key without a scope can do nothing: name at least one (in FILE)",
            "api_keys[0].sha256: the SHA-256 of the key is needed, as 64 hexadecimal digits (in FILE)",
            "mail.from: write an address, as roster@example.com or Example <roster@example.com> (in FILE)",
            "mail.link_base_url: write the page that links lead to, as https://example.com/join (in FILE)",
            "mail.host: write the relay's name, or its address (in FILE)",
            "mail.security: write starttls, tls or plain (in FILE)",
            "invitations.cooldown (from FILE): no such setting; the nearest is cooldown_seconds",
            "colour (from FILE): no such setting; the nearest is log",
            "ROSTER_LISTN: no such setting; the nearest is ROSTER_LISTEN",
        ]
    );
    assert!(found[12].contains("; there are issuer, audience, jwks_url, "), "{}", found[12]);
    assert!(found[24].contains("; there are database_url, database_password_file, listen, "), "{}", found[24]);
}

#[test]
fn every_value_of_a_table_is_checked_alone() {
    let file = "
        database_url = 'postgres:///roster'
        issuers = [5, 'x']
        [[api_keys]]
        name = ['s3cret']
        scopes = ['check', 'inspect', 5]
        sha256 = 7
        [[api_keys]]
        name = { s3cret = 1 }
        scopes = 's3cret'
        secret = 's3cret'
        [mail]
        kind = 'sendmail'
        port = 's3cret'
        hots = 's3cret'
        security = 's3cret'
        timeout_ms = -1
        allow_plain = 's3cret'
        [invitations]
        cooldown_seconds = 's3cret'
        pending_per_organization = 4294967296
        [invitations.limits]
        a = 1
    ";
    let found = mistakes(&[], &[], file);
    assert!(!found.join("").contains("s3cret"), "{found:?}");
    assert_eq!(
        short(&found),
        [
            "issuers (from FILE): write tables, each under [[issuers]]",
            "api_keys[0].name (from FILE): write a text in quotation marks",
            "api_keys[0].scopes[1] (from FILE): no such scope: one of check, manage, operator, act-as, model",
            "api_keys[0].scopes[2] (from FILE): write a text in quotation marks",
            "api_keys[0].sha256 (from FILE): write a text in quotation marks",
            "api_keys[1].name (from FILE): write a text in quotation marks",
            "api_keys[1].scopes (from FILE): write a list in square brackets",
            "api_keys[1].secret (from FILE): no such setting; the nearest is scopes",
            "api_keys[1].sha256: the SHA-256 of the key is needed, as 64 hexadecimal digits (in FILE)",
            "mail.allow_plain (from FILE): write true or false",
            "mail.hots (from FILE): no such setting; the nearest is host",
            "mail.kind (from FILE): write one of off, directory, smtp",
            "mail.port (from FILE): write a whole number from 0 to 65535",
            "mail.security (from FILE): write one of starttls, tls, plain",
            "mail.timeout_ms (from FILE): write a whole number that is not negative",
            "invitations.cooldown_seconds (from FILE): write a whole number from 0 to 4294967295",
            "invitations.limits (from FILE): no such setting; the nearest is failed_tokens_per_minute",
            "invitations.pending_per_organization (from FILE): write a whole number from 0 to 4294967295",
        ]
    );
}

#[test]
fn every_key_of_an_issuer_is_checked_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("key.pem"), "-----BEGIN PUBLIC KEY-----\n").unwrap();
    let file = "
        database_url = 'postgres:///roster'
        [[issuers]]
        issuer = 'https://id.example'
        audience = 'roster'
        [[issuers.keys]]
        algorithm = 'HS256'
        file = 'absent.pem'
        [[issuers.keys]]
        file = 'key.pem'
        [[issuers.keys]]
        algorithm = 'RS256'
        files = 'key.pem'
        [[issuers.keys]]
        algorithm = 'ES256'
        file = 'key.pem'
        [mail]
        host = 'x'
    ";
    let found = read_in(directory.path(), &[], &[], file).err().unwrap_or_default();
    let names: Vec<&str> = found.iter().filter_map(|mistake| mistake.split([':', ' ']).next()).collect();
    assert_eq!(
        names,
        [
            "issuers[0].keys[0].algorithm",
            "issuers[0].keys[2].files",
            "issuers[0].keys[0].file",
            "issuers[0].keys[1].algorithm",
            "issuers[0].keys[2].file",
            "issuers[0].keys[3].file",
            "mail.kind",
        ],
        "{found:?}"
    );
}

#[test]
fn an_unknown_variable_is_a_warning_at_the_start_and_a_mistake_of_the_check() -> Outcome {
    let unknown = "ROSTER_LISTN: no such setting; the nearest is ROSTER_LISTEN";
    let variables = [("ROSTER_LISTN", "x"), ("ROSTER_SERVICE_HOST", "10.0.0.1"), ("ROSTER_PORT", "tcp://10.0.0.1:1")];
    let settings = read(&[DATABASE], &variables, KEY).map_err(|mistakes| mistakes.join("\n"))?;
    assert_eq!(settings.warnings, [unknown]);
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("roster.toml").display().to_string();
    std::fs::write(&path, KEY)?;
    let program: Program = clap::Parser::try_parse_from(["roster", DATABASE, "--config", &path])?;
    let clock = Clock::from_fn(|| std::time::UNIX_EPOCH);
    let checked = |variables: &[(&str, &str)]| {
        let environment = Environment::new(variables.iter().copied());
        Settings::read(&program.flags, &environment, clock.clone(), UnknownVariables::Reject).map(drop)
    };
    assert_eq!(checked(&variables), Err(Mistakes(vec![unknown.to_owned()])));
    assert_eq!(checked(&variables[1..]), Ok(()));
    Ok(())
}

#[test]
fn a_variable_that_is_not_unicode_is_a_mistake() {
    use std::os::unix::ffi::OsStrExt;
    let text = std::ffi::OsStr::from_bytes(b"127.0.0.1:\xff");
    let environment = Environment::new([("ROSTER_LISTEN", text)]);
    let clock = Clock::from_fn(|| std::time::UNIX_EPOCH);
    let found = Settings::read(&Flags::default(), &environment, clock, UnknownVariables::Warn).err();
    assert!(found.is_some_and(|found| found.0[1].starts_with("listen (from ROSTER_LISTEN): write ")));
}

#[test]
fn addresses_to_listen_on_may_be_names_and_must_differ() -> Outcome {
    for text in ["localhost:50051", "[::1]:1", ":50051", "0.0.0.0:0"] {
        for flag in ["--listen", "--metrics-listen"] {
            let settings = read(&[DATABASE, flag, text], &[], KEY).map_err(|mistakes| mistakes.join("\n"))?;
            let address = if flag == "--listen" { Some(settings.listen) } else { settings.metrics_listen };
            assert_eq!(address.map(|address| address.to_string()).as_deref(), Some(text));
        }
    }
    let same = |address: &str| mistakes(&[DATABASE, "--listen", address, "--metrics-listen", address], &[], KEY);
    assert_eq!(same("localhost:1"), [SAME_ADDRESS]);
    assert_eq!(same("localhost:0"), Vec::<String>::new());
    Ok(())
}

#[test]
fn a_database_credentials_and_mail_are_required() {
    assert_eq!(
        mistakes(&[], &[], ""),
        [
            "database_url is needed: give --database-url, ROSTER_DATABASE_URL, or database_url in the settings file",
            "no issuer, no api key and no client certificate is configured: configure one, or no caller can \
             authenticate (in FILE)",
            "mail.kind is needed: off, directory or smtp, in a table [mail] (in FILE)",
        ]
    );
}

#[test]
fn a_syntax_error_in_the_file_is_reported_with_its_line_and_without_its_text() {
    let found = mistakes(&["--listen", "x"], &[], "log = 'info'\ndatabase_url = postgres://root:s3cret@db/roster\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("the settings file FILE is not TOML: line 2: "), "{found:?}");
    assert!(!found.join("").contains("s3cret"), "{found:?}");
}

#[test]
fn an_absent_settings_file_is_a_mistake() {
    let found = mistakes(&["--config", "/nowhere/roster.toml"], &[], "");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("the settings file /nowhere/roster.toml cannot be read: "), "{found:?}");
}

#[test]
fn key_files_are_relative_to_the_settings_file() -> Outcome {
    let directory = tempfile::tempdir()?;
    let file = "
        database_url = 'postgres:///roster'
        [[issuers]]
        issuer = 'https://id.example'
        audience = 'roster'
        callers = 'people'
        jwks_file = 'jwks.json'
        [mail]
        kind = 'off'
    ";
    let found = read_in(directory.path(), &[], &[], file).err().unwrap_or_default();
    assert!(found.iter().all(|mistake| mistake.starts_with("issuers[0].jwks_file: ")), "{found:?}");
    assert_eq!(found.len(), 1);
    std::fs::copy("tests/keys/es256.jwks.json", directory.path().join("jwks.json"))?;
    assert!(read_in(directory.path(), &[], &[], file).is_ok());
    Ok(())
}

#[test]
fn a_migration_reads_only_the_database_url() {
    let flags = DatastoreFlags::default();
    let environment = |name: &str| Environment::new([(name, "postgres:///roster")]);
    assert!(read_datastore(&flags, &environment("ROSTER_DATABASE_URL")).is_ok_and(|(_, warnings)| warnings.is_empty()));
    let found = read_datastore(&flags, &environment("ROSTER_DATABASE_URI")).err();
    let unknown = "ROSTER_DATABASE_URI: no such setting; the nearest is ROSTER_DATABASE_URL".to_owned();
    assert!(found.is_some_and(|found| found.0.len() == 2 && found.0[1] == unknown));
}

const DATABASE: &str = "--database-url=postgres:///roster";

#[test]
fn the_former_name_of_a_setting_works_everywhere_with_one_warning() -> Outcome {
    let file = format!("index_memory_mib = 3\n{KEY}");
    let variable = [("ROSTER_INDEX_MEMORY_MIB", "2")];
    for (settings, mebibytes, origin) in [
        (read(&[DATABASE, "--index-memory-mib=1"], &variable, &file), 1, "--index-memory-mib"),
        (read(&[DATABASE], &variable, &file), 2, "ROSTER_INDEX_MEMORY_MIB"),
        (read(&[DATABASE], &[], &file), 3, "FILE"),
    ] {
        let settings = settings.map_err(|mistakes| mistakes.join("\n"))?;
        assert_eq!(settings.replica.memory_bytes, mebibytes << 20);
        let warning = format!(
            "index_memory_mib (from {origin}) is deprecated and will be removed in 1.0: \
             use replica_memory_mib"
        );
        assert_eq!(settings.warnings, [warning]);
    }
    for new in ["--replica-memory-mib=0", "--log=info"] {
        assert!(read(&[DATABASE, new], &[], KEY).is_ok_and(|settings| settings.warnings.is_empty()));
    }
    let out_of_range = mistakes(&[DATABASE], &[("ROSTER_INDEX_MEMORY_MIB", "-1")], KEY);
    assert_eq!(
        out_of_range,
        ["index_memory_mib (from ROSTER_INDEX_MEMORY_MIB): write a whole number from 0 to 1048576"]
    );
    Ok(())
}

#[test]
fn a_setting_under_both_names_is_a_mistake() {
    let file = format!("index_memory_mib = 3\n{KEY}");
    for (flags, variables, file, new, old) in [
        (&["--replica-memory-mib=1"][..], &[][..], file.as_str(), "--replica-memory-mib", "FILE"),
        (
            &["--index-memory-mib=1"],
            &[("ROSTER_REPLICA_MEMORY_MIB", "1")],
            KEY,
            "ROSTER_REPLICA_MEMORY_MIB",
            "--index-memory-mib",
        ),
    ] {
        let mistake = format!(
            "index_memory_mib (from {old}) is the former name of replica_memory_mib (from {new}), and both are given: \
             remove index_memory_mib"
        );
        assert_eq!(mistakes(&[&[DATABASE], flags].concat(), variables, file), [mistake]);
    }
}

#[test]
fn the_share_of_an_address_is_a_quarter_of_all_connections_by_default() -> Outcome {
    for (flags, expected) in [
        (&[][..], 1024),
        (&["--max-connections=100"], 25),
        (&["--max-connections=3"], 1),
        (&["--max-connections=100", "--max-connections-per-address=60"], 60),
    ] {
        let settings = read(&[&[DATABASE], flags].concat(), &[], KEY).map_err(|mistakes| mistakes.join("\n"))?;
        assert_eq!(settings.server.connections_per_address(), expected, "{flags:?}");
    }
    Ok(())
}

#[test]
fn the_proxy_protocol_needs_trusted_proxies() -> Outcome {
    let trusted = "trusted_proxies = '10.0.0.0/8, 2001:db8::1'\n";
    for (file, protocol) in [(trusted.to_owned(), false), (format!("{trusted}proxy_protocol = true\n"), true)] {
        let settings = read(&[DATABASE], &[], &format!("{file}{KEY}")).map_err(|mistakes| mistakes.join("\n"))?;
        assert_eq!(settings.server.proxy_protocol, protocol);
        assert!(settings.server.trusted_proxies.contains("10.1.2.3".parse()?));
    }
    assert_eq!(mistakes(&[DATABASE, "--proxy-protocol=true"], &[], KEY), [PROXY_WITHOUT_TRUST]);
    assert_eq!(
        mistakes(&[DATABASE, "--trusted-proxies=10.1.2.3/8"], &[], KEY),
        [
            "trusted_proxies (from --trusted-proxies): write networks without bits behind the prefix: 10.0.0.0/8 and not \
          10.1.2.3/8"
        ]
    );
    Ok(())
}

#[test]
fn the_documents_and_the_help_describe_each_setting() {
    let (table, help) = (markdown(), Program::command().render_long_help().to_string());
    let command = Program::command();
    let arguments = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let ids = arguments.map(|argument| argument.get_id().as_str());
    let names: Vec<&str> = ids.filter(|name| *name != "config").collect();
    assert_eq!(table.lines().count(), names.len() + 2, "{table}");
    for name in names {
        let (flag, variable) = (name.replace('_', "-"), name.to_ascii_uppercase());
        let row = format!("| `{name}` | `--{flag}` | `ROSTER_{variable}` | ");
        let row = table.lines().find_map(|line| line.strip_prefix(&row)).unwrap_or_default();
        let cells: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
        assert!(cells.len() == 4 && cells.iter().all(|cell| !cell.is_empty()), "{name}: {table}");
        assert!(help.contains(&format!("--{flag} <")), "{name}: {help}");
    }
    let memory = "Postgres answers for memberships that do not fit. 0: no replica (formerly `index_memory_mib`) |";
    assert!(table.lines().any(|line| line.ends_with(memory)), "{table}");
    assert!(!help.contains("index-memory-mib"), "{help}");
}
