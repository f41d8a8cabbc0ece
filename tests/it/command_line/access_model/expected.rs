//! The file with the access model that `roster serve` expects, and the one that `roster dev` applies.

use super::super::operators::handle_hangup;
use super::super::{DataDirectory, Dev};
use super::MODEL;
use crate::harness::Database;
use crate::harness::program::{Serve, free_port, output, roster};
use crate::peers::observers::{metric, scrape_at};
use crate::replica::until;
use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::path::Path;
use tonic_health::pb::health_check_response::ServingStatus;

const DIFFERS: &str = "the stored access model differs from access_model_file";

async fn apply(database: &Database, file: &Path) {
    let (code, _, stderr) =
        output(&["access-model", "apply", file.to_str().unwrap(), "--database-url", &database.url]).await;
    assert_eq!(code, Some(0), "{stderr}");
}

async fn differs(metrics: SocketAddr) -> Option<f64> {
    metric(&scrape_at(metrics).await, "roster_access_model_differs")
}

async fn until_differs(metrics: SocketAddr, expected: f64) {
    until("the metric follows", async || differs(metrics).await == Some(expected)).await;
}

fn warnings(serve: &Serve) -> usize {
    serve.log().matches(DIFFERS).count()
}

#[tokio::test]
async fn a_server_compares_the_stored_model_with_its_file() {
    handle_hangup();
    let database = Database::new().await;
    let directory = tempfile::tempdir().unwrap();
    let (file, other) = (directory.path().join("model.toml"), directory.path().join("other.toml"));
    std::fs::write(&file, MODEL).unwrap();
    std::fs::write(&other, "").unwrap();
    let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let settings = format!("metrics_listen = '{metrics}'\naccess_model_file = '{}'", file.display());
    let serve = Serve::start(&database.url, &settings).await;
    serve.until(ServingStatus::Serving).await;
    until_differs(metrics, 1.0).await;
    let summary = "change=\"adds the permissions billing.read; adds the roles accountant\"";
    let log = serve.log();
    assert!(log.contains(summary) && log.contains("revision=0"), "{log}");
    assert_eq!(warnings(&serve), 1);

    // The model changes.
    apply(&database, &file).await;
    until_differs(metrics, 0.0).await;
    apply(&database, &other).await;
    until_differs(metrics, 1.0).await;
    assert_eq!(warnings(&serve), 2);

    // The file changes, and then the settings name none.
    std::fs::rename(&other, &file).unwrap();
    serve.signal(Signal::SIGHUP);
    until_differs(metrics, 0.0).await;
    std::fs::write(&file, MODEL).unwrap();
    serve.signal(Signal::SIGHUP);
    until_differs(metrics, 1.0).await;
    assert_eq!(warnings(&serve), 3);
    serve.change_settings(|text| text.replace("access_model_file", "# access_model_file"));
    serve.signal(Signal::SIGHUP);
    until_differs(metrics, 0.0).await;
    assert_eq!(warnings(&serve), 3);
}

#[tokio::test]
async fn a_strict_server_does_not_start_with_another_model() {
    let database = Database::new().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("model.toml");
    std::fs::write(&file, MODEL).unwrap();
    let settings = format!("access_model_file = '{}'\naccess_model_strict = true", file.display());
    let mut serve = Serve::start(&database.url, &settings).await;
    assert_eq!(serve.exit_code().await, Some(3), "{}", serve.log());
    let log = serve.log();
    assert!(log.contains(DIFFERS) && log.contains("model.toml differs from revision 0 of the access model"), "{log}");

    apply(&database, &file).await;
    serve.start_again().await;
    serve.until(ServingStatus::Serving).await;
    // A later difference is a warning.
    let other = directory.path().join("other.toml");
    std::fs::write(&other, "").unwrap();
    apply(&database, &other).await;
    until("the difference is logged", async || warnings(&serve) == 2).await;
    serve.until(ServingStatus::Serving).await;
    serve.kill().await;

    // Without an answer of the database it does not know.
    let mut serve = Serve::start("postgres://127.0.0.1:1/absent", &settings).await;
    assert_eq!(serve.exit_code().await, Some(1), "{}", serve.log());
}

#[tokio::test]
async fn a_mistake_in_the_file_is_a_mistake_in_the_settings() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("model.toml");
    std::fs::write(&file, "[[roles]]\nname = 'owner'\n").unwrap();
    let named = format!("access_model_file = '{}'", file.display());
    for (settings, part) in [
        (named.as_str(), "roles[0].name (\"owner\")"),
        ("access_model_file = '/missing.toml'", "access_model_file: /missing.toml: "),
        ("access_model_strict = true", "access_model_strict needs access_model_file"),
        ("access_model_strict = 'perhaps'", "access_model_strict (from "),
    ] {
        let mut serve = Serve::start("postgres://127.0.0.1:1/absent", settings).await;
        assert_eq!(serve.exit_code().await, Some(2), "{settings}: {}", serve.log());
        assert!(serve.log().contains(part), "{settings}: {}", serve.log());
    }
}

#[tokio::test]
async fn dev_applies_a_model_at_the_start() {
    let directory = DataDirectory::new();
    std::fs::create_dir(&directory.0).unwrap();
    let file = directory.0.join("model.toml");
    let arguments = ["dev", "--listen", "127.0.0.1:0", "--data-dir", directory.0.to_str().unwrap()];
    let start = ["--access-model", file.to_str().unwrap()];
    let start = [&arguments[..], &start].concat();
    let shown = async |dev: &Dev| {
        let credential = directory.0.join("credential");
        std::fs::write(&credential, &dev.exports["OPERATOR"]).unwrap();
        let server = format!("http://{}", dev.address);
        let arguments = ["access-model", "show", "--server", &server, "--credential-file"];
        output(&[&arguments[..], &[credential.to_str().unwrap()]].concat()).await.1
    };

    std::fs::write(&file, "[[roles]]\nname = 'owner'\n").unwrap();
    let (code, _, stderr) = output(&start).await;
    assert!(code == Some(2) && stderr.contains("the owner always holds"), "{code:?} {stderr}");

    std::fs::write(&file, MODEL).unwrap();
    let dev = Dev::of(roster(&start)).await;
    assert_eq!(shown(&dev).await, MODEL);
    assert_eq!(dev.signal(Signal::SIGTERM).await, Some(0));
    // The model stays without the flag, and another one replaces it; no older clients ask for a confirmation.
    std::fs::write(&file, "[[roles]]\nname = \"member\"\npermissions = []\n").unwrap();
    let dev = Dev::start(&directory.0).await;
    assert_eq!(shown(&dev).await, MODEL);
    assert_eq!(dev.signal(Signal::SIGTERM).await, Some(0));
    let dev = Dev::of(roster(&start)).await;
    assert_eq!(shown(&dev).await, std::fs::read_to_string(&file).unwrap());
    assert_eq!(dev.signal(Signal::SIGTERM).await, Some(0));
}
