//! Parameters of the URL of the database: honoured, or refused with a sentence, and never ignored.

use crate::harness::program::output;

/// A configuration that is complete except for the URL of the database.
async fn config() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let (_, _, stanza) = output(&["api-key", "--name", "ops", "--scopes", "operator"]).await;
    let stanza = &stanza[stanza.find("[[api_keys]]").unwrap()..];
    let path = directory.path().join("roster.toml");
    std::fs::write(&path, format!("listen = '127.0.0.1:0'\n{stanza}\n[mail]\nkind = 'off'\n")).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}

/// What a command says about a URL: its exit code and the text on its standard error.
async fn verdict(command: &str, config: &str, url: &str) -> (Option<i32>, String) {
    let (code, _, stderr) = output(&[command, "--config", config, "--database-url", url]).await;
    assert!(!stderr.contains("s3cret"), "{url}: {stderr}");
    (code, stderr)
}

#[tokio::test]
async fn parameters_that_are_honoured_are_accepted() {
    let (directory, config) = config().await;
    let authority = directory.path().join("ca.pem");
    std::fs::write(&authority, "-----BEGIN CERTIFICATE-----\n").unwrap();
    let with_authority =
        format!("postgres://app:s3cret@db.example/roster?sslmode=verify-full&sslrootcert={}", authority.display());
    for url in [
        with_authority.as_str(),
        "postgres://app:s3cret@db.example/roster",
        "postgresql://app:s3cret@db.example:5433/roster",
        "postgres://app:s3cret@db.example/roster?target_session_attrs=read-write",
        "postgres://app:s3cret@db.example/roster?target_session_attrs=primary",
        "postgres://app:s3cret@one.example,two.example/roster",
        "postgres://app:s3cret@one.example:5432,two.example:5433/roster?target_session_attrs=read-write",
        "postgres://app:s3cret@[::1]:5432,two.example/roster",
        "postgres://app:s3cret@db.example/roster?sslmode=require",
        "postgres://postgres@%2Fvar%2Frun%2Fpostgresql:5432/roster",
    ] {
        assert_eq!(verdict("check-config", &config, url).await, (Some(0), String::new()), "{url}");
    }
}

#[tokio::test]
async fn parameters_that_are_not_honoured_are_refused_with_a_sentence() {
    let (_directory, config) = config().await;
    for (parameters, words) in [
        ("target_session_attrs=any", "target_session_attrs"),
        ("target_session_attrs=standby", "target_session_attrs"),
        ("target_session_attrs=read-only", "target_session_attrs"),
        ("target_session_attrs=prefer-standby", "target_session_attrs"),
        ("target_session_attrs=readwrite", "target_session_attrs"),
        ("target_session_attrs=", "target_session_attrs"),
        ("sslmod=require", "sslmod"),
        ("sslmode=required", "sslmode"),
        ("sslmode=require&sslmode=disable", "sslmode"),
        ("load_balance_hosts=random", "load_balance_hosts"),
        ("keepalives_idle=s3cret", "keepalives_idle"),
        ("channel_binding=require", "\"channel_binding\": it is one of libpq that roster does not honour"),
        ("sslmodee=", "sslmodee"),
        ("sslrootcert=/nope", "/nope cannot be read"),
        ("sslcert=/nope&sslkey=/nope", "/nope cannot be read"),
    ] {
        for hosts in ["db.example", "one.example,two.example"] {
            let url = format!("postgres://app:s3cret@{hosts}/roster?{parameters}");
            for command in ["check-config", "serve", "migrate"] {
                let (code, stderr) = verdict(command, &config, &url).await;
                assert!(code == Some(2) && stderr.contains(words), "{command} {url}: {code:?} {stderr}");
            }
        }
    }
    for url in [
        "postgres://app:s3cret@one.example,/roster",
        "postgres://app:s3cret@,one.example/roster",
        "postgres://app:s3cret@one.example:5432,two.example:x/roster",
        "mysql://app:s3cret@db.example/roster",
    ] {
        let (code, stderr) = verdict("check-config", &config, url).await;
        assert!(code == Some(2) && stderr.contains("database_url"), "{url}: {code:?} {stderr}");
    }
}
