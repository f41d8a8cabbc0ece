//! `PgBouncer` between roster and Postgres: in session mode roster works, in transaction mode it refuses. `make interop`
//! runs these tests, because they need the program of another project: its path is in `ROSTER_PGBOUNCER`.

use super::assert_unavailable;
use crate::harness::cluster::TestCluster;
use crate::harness::organization;
use crate::harness::program::{PATIENCE, Serve, free_port, output};
use crate::replica::until;
use roster::grpc::pb;
use sqlx::{Connection, PgConnection};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tonic_health::pb::health_check_response::ServingStatus;

/// A running `PgBouncer` in front of a private Postgres.
struct Pooler {
    url: String,
    _process: Child,
    _directory: tempfile::TempDir,
}

impl Pooler {
    async fn start(cluster: &TestCluster, mode: &str, ignored: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let socket = cluster.socket();
        // Fewer sessions than roster has connections, so that transaction mode changes them often.
        let size = if mode == "transaction" { 4 } else { 100 };
        let settings = format!(
            "[databases]\nroster = host={} port=5432 dbname=roster user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = {mode}\ndefault_pool_size = {size}\nmax_client_conn = 500\n\
             ignore_startup_parameters = {ignored}\n",
            socket.parent().unwrap().display()
        );
        let path = directory.path().join("pgbouncer.ini");
        std::fs::write(&path, settings).unwrap();
        let program = std::env::var_os("ROSTER_PGBOUNCER").unwrap_or_else(|| "pgbouncer".into());
        let mut command = Command::new(program);
        if nix::unistd::Uid::effective().is_root() {
            // PgBouncer does not run as root: it becomes the account that owns the socket.
            let owner = nix::unistd::Uid::from_raw(cluster.data().metadata().unwrap().uid());
            command.args(["-u", &nix::unistd::User::from_uid(owner).unwrap().unwrap().name]);
        }
        let process = command.arg(&path).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let url = format!("postgres://postgres@127.0.0.1:{port}/roster");
        until("PgBouncer listens", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        Self { url, _process: process, _directory: directory }
    }
}

/// Runs `roster migrate`, and returns its exit code and its errors.
async fn migrate(url: &str) -> (Option<i32>, String) {
    let (code, _, stderr) = tokio::time::timeout(PATIENCE, output(&["migrate", "--database-url", url])).await.unwrap();
    (code, stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PgBouncer: make interop runs it"]
async fn roster_works_through_session_mode() {
    for ignored in ["extra_float_digits,options", "extra_float_digits"] {
        let cluster = TestCluster::start(&[("max_connections", "200")]).await;
        let pooler = Pooler::start(&cluster, "session", ignored).await;
        for _ in 0..2 {
            assert_eq!(migrate(&pooler.url).await.0, Some(0), "{ignored}");
        }
        let mut serve = Serve::start(&pooler.url, "").await;
        serve.until(ServingStatus::Serving).await;
        let clients = &mut serve.clients;
        let request = pb::CreateOrganizationRequest { owner_user_id: "ada".to_owned(), ..organization("Acme") };
        let created = clients.organizations.create_organization(request).await.unwrap().into_inner();
        let id = created.organization.unwrap().id;
        for number in 0..50 {
            let user = format!("user-{number}");
            clients.add(&id, &user, "member").await;
            let question = super::check(&id, &user, super::FULLY_CONSISTENT);
            let answer = clients.checks.check_membership(question).await.unwrap().into_inner();
            assert!(answer.result.unwrap().allowed);
        }
        let request = pb::ListMembersRequest { organization: id, ..Default::default() };
        assert!(!clients.organizations.list_members(request).await.unwrap().into_inner().members.is_empty());
        // The settings of a session hold, although the pooler ignores the startup parameters.
        let timeouts = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'roster'";
        assert!(cluster.value::<i64>(timeouts).await > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PgBouncer: make interop runs it"]
async fn roster_refuses_transaction_mode_with_a_sentence() {
    for ignored in ["extra_float_digits,options", "extra_float_digits"] {
        let cluster = TestCluster::with_schema_and(&[("max_connections", "200")]).await;
        let pooler = Pooler::start(&cluster, "transaction", ignored).await;
        let (code, stderr) = migrate(&pooler.url).await;
        assert!(code == Some(1) && stderr.contains("transaction"), "{code:?} {stderr}");
        let mut serve = Serve::start(&pooler.url, "").await;
        until("the log names the mode", async || serve.log().contains("transaction")).await;
        serve.until(ServingStatus::NotServing).await;
        for number in 0..100 {
            let request = pb::CreateOrganizationRequest { owner_user_id: "ada".to_owned(), ..organization("Acme") };
            let answer = serve.clients.organizations.create_organization(request).await;
            assert_unavailable(&format!("write {number}"), answer);
            let question = super::check("acme", "ada", super::FULLY_CONSISTENT);
            assert_unavailable(&format!("check {number}"), serve.clients.checks.check_membership(question).await);
        }
        serve.until(ServingStatus::NotServing).await;
        let log = serve.log();
        let lines = log.lines().filter(|line| line.contains("transaction")).count();
        assert!((1..=3).contains(&lines), "{log}");
        // The pooler itself works.
        let mut connection = PgConnection::connect(&pooler.url).await.unwrap();
        let ping = tokio::time::timeout(Duration::from_secs(5), connection.ping()).await;
        ping.unwrap().unwrap();
    }
}
