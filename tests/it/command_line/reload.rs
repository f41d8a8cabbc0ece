//! What a running `roster serve` takes over from its settings, at a SIGHUP and when a file changes.

use super::operators::handle_hangup;
use crate::harness::cluster::TestCluster;
use crate::harness::program::{self, PATIENCE, Serve, channel, clients, free_port, output, roster};
use crate::harness::server::{Clients, Server};
use crate::harness::{Database, reason};
use crate::replica::until;
use jsonwebtoken::{EncodingKey, Header};
use nix::sys::signal::Signal;
use roster::authn::mint::{ClaimSet, SigningKey};
use roster::grpc::pb;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tonic::Status;
use tonic_health::pb::health_check_response::ServingStatus;

/// A new API key of this name, and its table in the settings file.
async fn api_key(name: &str) -> (String, String) {
    let (_, key, stanza) = output(&["api-key", "--name", name, "--scopes", "check,manage"]).await;
    (key.trim_end().to_owned(), stanza[stanza.find("[[api_keys]]").unwrap()..].to_owned())
}

async fn serving(settings: &str) -> Serve {
    handle_hangup();
    let serve = Serve::start(&Database::new().await.url, settings).await;
    serve.until(ServingStatus::Serving).await;
    serve
}

async fn name_of(caller: &Clients) -> Result<String, Status> {
    let answer = caller.clone().users.get_caller(pb::GetCallerRequest {}).await?.into_inner();
    Ok(answer.id)
}

async fn until_logged(serve: &Serve, words: &str) {
    until(words, async || serve.log().contains(words)).await;
}

async fn is_invalid(caller: &Clients) -> bool {
    name_of(caller).await.is_err_and(|status| reason(&status) == "CREDENTIAL_INVALID")
}

#[tokio::test]
async fn api_keys_come_and_go_without_a_restart() {
    let serve = serving("").await;
    let ((old, old_table), (new, new_table)) = (api_key("billing").await, api_key("search").await);
    // On one connection, which remembers the credentials that it has seen.
    let (old, new) = (clients(&serve.channel, &old), clients(&serve.channel, &new));
    assert!(is_invalid(&old).await);

    serve.change_settings(|text| format!("{text}\n{old_table}"));
    serve.signal(Signal::SIGHUP);
    until("the key is accepted", async || name_of(&old).await.is_ok_and(|name| name == "billing")).await;
    until_logged(&serve, "reloaded the API keys added=[\"billing\"] removed=[]").await;

    // Without a signal: the file has changed.
    serve.change_settings(|text| text.replace(&old_table, &new_table));
    until("the key is refused", async || is_invalid(&old).await).await;
    assert_eq!(name_of(&new).await.unwrap(), "search");
    assert_eq!(name_of(&serve.clients).await.unwrap(), "ops");
    until_logged(&serve, "reloaded the API keys added=[\"search\"] removed=[\"billing\"]").await;
}

#[tokio::test]
async fn issuers_and_their_key_files_are_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let table = |host: &str, source: &str, file: &str| {
        format!(
            "\n[[issuers]]\nissuer = 'https://{host}.example'\naudience = 'roster'\nuser_id_prefix = '{host}:'\n\
             {source} = '{}'\n",
            path(file).display()
        )
    };
    let (secret, key) = ("0123456789abcdef0123456789abcdef", SigningKey::generate());
    std::fs::write(path("secret"), secret).unwrap();
    // Without the id, which is that of a key for development.
    let write_key = |key: &SigningKey| {
        let mut jwks = key.public_jwks();
        jwks["keys"][0].as_object_mut().unwrap().remove("kid");
        std::fs::write(path("jwks.json"), jwks.to_string()).unwrap();
    };
    write_key(&key);
    let (one, two) = (table("one", "hs256_secret_file", "secret"), table("two", "jwks_file", "jwks.json"));
    let serve = serving("").await;
    let claims = |host: &str| ClaimSet { iss: format!("https://{host}.example"), ..Server::claims("ada") };
    let with_secret = |secret: &str| {
        let secret = EncodingKey::from_secret(secret.as_bytes()).unwrap();
        clients(&serve.channel, &jsonwebtoken::encode(&Header::default(), &claims("one"), &secret).unwrap())
    };
    let with_key = |key: &SigningKey| clients(&serve.channel, key.mint(&claims("two")).unwrap().expose());

    serve.change_settings(|text| format!("{text}{one}"));
    serve.signal(Signal::SIGHUP);
    let ada = with_secret(secret);
    until("the issuer is accepted", async || name_of(&ada).await.is_ok_and(|name| name == "one:ada")).await;
    until_logged(&serve, "reloaded the issuers added=[\"https://one.example\"] removed=[]").await;

    // A further issuer. The first one stays as it is.
    serve.change_settings(|text| format!("{text}{two}"));
    until_logged(&serve, "reloaded the issuers added=[\"https://two.example\"] removed=[]").await;
    assert_eq!(name_of(&with_key(&key)).await.unwrap(), "two:ada");

    // Other keys in files whose names are the same. The tokens in the cache are refused too.
    let (next_secret, next) = ("another secret of at least 32 bytes", SigningKey::generate());
    std::fs::write(path("secret"), next_secret).unwrap();
    write_key(&next);
    until_logged(&serve, "reloaded the keys of issuers issuers=[\"https://").await;
    until("the former secret is refused", async || is_invalid(&ada).await).await;
    until("the former key is refused", async || is_invalid(&with_key(&key)).await).await;
    assert_eq!(name_of(&with_secret(next_secret)).await.unwrap(), "one:ada");
    assert_eq!(name_of(&with_key(&next)).await.unwrap(), "two:ada");

    serve.change_settings(|text| text.replace(&two, ""));
    serve.signal(Signal::SIGHUP);
    until("the issuer is refused", async || is_invalid(&with_key(&next)).await).await;
}

#[tokio::test]
async fn a_mistake_leaves_everything_as_it_is() {
    let serve = serving("").await;
    let (key, table) = api_key("billing").await;
    let caller = clients(&serve.channel, &key);
    serve.change_settings(|text| format!("{text}\n{table}\nmax_streems = 7\n"));
    serve.signal(Signal::SIGHUP);
    until_logged(&serve, "cannot reload the settings: the former ones stay in effect").await;
    assert!(serve.log().contains("max_streems"), "{}", serve.log());
    assert!(is_invalid(&caller).await);
    assert_eq!(name_of(&serve.clients).await.unwrap(), "ops");

    serve.change_settings(|text| text.replace("max_streems = 7", ""));
    until("the key is accepted", async || name_of(&caller).await.is_ok()).await;
    assert_eq!(serve.log().matches("cannot reload the settings").count(), 1, "{}", serve.log());
}

#[tokio::test]
async fn a_file_that_arrives_after_the_settings_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    let serve = serving("").await;
    let issuer = format!(
        "\n[[issuers]]\nissuer = 'https://one.example'\naudience = 'roster'\ncallers = 'people'\n\
         hs256_secret_file = '{}'\n",
        secret.display()
    );
    serve.change_settings(|text| format!("{text}{issuer}"));
    serve.signal(Signal::SIGHUP);
    until_logged(&serve, "cannot reload the settings: the former ones stay in effect").await;
    std::fs::write(secret, "0123456789abcdef0123456789abcdef").unwrap();
    until_logged(&serve, "reloaded the issuers added=[\"https://one.example\"] removed=[]").await;
    assert_eq!(serve.log().matches("cannot reload the settings").count(), 1, "{}", serve.log());
}

#[tokio::test]
async fn the_log_filter_is_reloaded_and_other_settings_are_named() {
    let serve = serving("max_streams = 7").await;
    serve.signal(Signal::SIGHUP);
    until_logged(&serve, "the settings have not changed").await;

    serve.change_settings(|text| text.replace("log = 'info'", "log = 'roster=debug'").replace("= 7", "= 8"));
    serve.signal(Signal::SIGHUP);
    until_logged(&serve, "reloaded the log filter filter=\"roster=debug\"").await;
    until_logged(&serve, "changed settings take effect at a restart only settings=[\"max_streams\"]").await;
    name_of(&serve.clients).await.unwrap();
    until_logged(&serve, "answered").await;

    // A setting that needs a restart is named once for each change.
    serve.change_settings(|text| text.replace("log = 'roster=debug'", "log = 'info'"));
    serve.signal(Signal::SIGHUP);
    until_logged(&serve, "reloaded the log filter filter=\"info\"").await;
    assert_eq!(serve.log().matches("take effect at a restart only").count(), 1, "{}", serve.log());
}

#[tokio::test]
async fn the_password_of_the_database_is_read_for_every_connection() {
    let cluster = TestCluster::with_schema().await;
    cluster.create_owner("app", "first", "").await;
    // Not SCRAM, whose client side is slow without optimization.
    cluster.set_access("local all all password").await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let url = cluster.database_url().replacen("postgres@", "app@", 1);
    let serve = Serve::start(&url, &format!("database_password_file = '{}'", file.display())).await;
    serve.until(ServingStatus::Serving).await;

    cluster.execute("ALTER ROLE app PASSWORD 'second'").await;
    std::fs::write(&file, "second").unwrap();
    cluster.end_sessions("app").await;
    until("a new connection works", async || {
        let request = pb::CreateOrganizationRequest { name: "Acme".to_owned(), ..Default::default() };
        serve.clients.clone().organizations.create_organization(request).await.is_ok()
    })
    .await;
    // Without a file the error names it.
    std::fs::remove_file(&file).unwrap();
    cluster.end_sessions("app").await;
    until_logged(&serve, &format!("the password file {} cannot be used", file.display())).await;
    assert!(!serve.log().contains("second"), "{}", serve.log());
}

#[tokio::test]
async fn settings_from_a_pipe_are_read_once() {
    handle_hangup();
    let directory = tempfile::tempdir().unwrap();
    let (key, table) = api_key("billing").await;
    let (address, log) = (format!("127.0.0.1:{}", free_port()), directory.path().join("log"));
    let mut command = roster(&["serve", "--config", "/dev/stdin", "--listen", &address]);
    command.env("ROSTER_LOG", "info").env("ROSTER_DATABASE_URL", &Database::new().await.url);
    let mut serve = command.stdin(Stdio::piped()).stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let mut pipe = serve.stdin.take().unwrap();
    pipe.write_all(format!("{table}\n[mail]\nkind = 'off'\n").as_bytes()).await.unwrap();
    drop(pipe);
    let channel = channel(&address);
    program::until(&channel, ServingStatus::Serving).await;
    program::send(&serve, Signal::SIGHUP);
    until("the signal is logged", async || {
        std::fs::read_to_string(&log).unwrap().contains("SIGHUP has no effect: a file of the settings is a pipe")
    })
    .await;
    assert_eq!(name_of(&clients(&channel, &key)).await.unwrap(), "billing");
    program::send(&serve, Signal::SIGTERM);
    assert!(tokio::time::timeout(PATIENCE, serve.wait()).await.unwrap().unwrap().success());
}
