//! `roster check-config` and `roster serve` with keys of issuers.

use super::issuer_keys::IssuerKey;
use super::provider::Provider;
use crate::harness::program::output;
use roster::authn::mint::SigningKey;
use serde_json::{Value, json};
use std::path::Path;

/// The exit code and the messages of a command with this issuer and a file of these keys.
async fn run(command: &str, directory: &Path, issuer: &str, keys: &[Value]) -> (Option<i32>, String) {
    std::fs::write(directory.join("jwks.json"), json!({ "keys": keys }).to_string()).unwrap();
    let path = directory.join("roster.toml");
    let text = format!(
        "database_url = 'postgres:///absent'\n[[issuers]]\n{issuer}\naudience = 'roster'\ncallers = 'people'\n[mail]\nkind = 'off'\n"
    );
    std::fs::write(&path, text).unwrap();
    let (code, _, stderr) = output(&[command, "--config", path.to_str().unwrap()]).await;
    (code, stderr)
}

#[tokio::test]
async fn keys_that_are_not_used_are_warnings_and_keys_of_roster_dev_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let issuer = "issuer = 'https://id.example'\njwks_file = 'jwks.json'";
    let (good, development) = (IssuerKey::ed25519().public(), SigningKey::generate().public_jwks()["keys"][0].clone());
    let encryption = json!({"kty": "RSA", "use": "enc", "kid": "e", "n": "", "e": ""});
    let (code, stderr) = run("check-config", directory.path(), issuer, &[good.clone(), encryption]).await;
    let warning = "warning: issuers[0].jwks_file: key 1 (kid e) is not used: not for signatures (use or key_ops)\n";
    assert_eq!((code, stderr.as_str()), (Some(0), warning));
    for command in ["check-config", "serve"] {
        let (code, stderr) = run(command, directory.path(), issuer, &[good.clone(), development.clone()]).await;
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains("issuers[0].jwks_file: key 1 (kid roster-dev-"), "{stderr}");
        assert!(stderr.contains("a key of `roster dev` and `roster token`"), "{stderr}");
    }
}

#[tokio::test]
async fn check_config_fetches_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let provider = Provider::start(&[&IssuerKey::ed25519()]).await;
    let issuer = format!("issuer = '{}'", provider.issuer());
    assert_eq!(run("check-config", directory.path(), &issuer, &[]).await, (Some(0), String::new()));
    assert_eq!(provider.connections(), 0);
    let (code, stderr) = run("check-config", directory.path(), "issuer = 'http://id.example'", &[]).await;
    assert!(code == Some(2) && stderr.contains("issuers[0].issuer: without jwks_url, "), "{stderr}");
}
