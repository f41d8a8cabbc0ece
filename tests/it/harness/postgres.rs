//! One Postgres for the whole run, and a fresh database for each test that asks.

use roster::postgres::{Binaries, Cluster, Options};
use roster::store::pool;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const TEMPLATE: &str = "roster_template";

/// The shared Postgres, and the watchdog that ends it when this process ends, however it ends.
struct Shared {
    cluster: Cluster,
    _watchdog: Child,
}

static SHARED: OnceLock<Shared> = OnceLock::new();
static DATABASES: AtomicU64 = AtomicU64::new(0);

fn shared() -> &'static Shared {
    SHARED.get_or_init(|| {
        // A thread and a runtime of its own: tests bring runtimes that end with them.
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(start())
        })
        .join()
        .unwrap()
    })
}

async fn start() -> Shared {
    let binaries = Binaries::find(None).unwrap_or_else(|error| panic!("{error}"));
    // Nothing here must survive the machine, only the process: no fsync.
    let options = Options::temporary().with("fsync", "off").with("max_connections", "400");
    let cluster = Cluster::start(&binaries, options).await.unwrap_or_else(|error| panic!("{error}"));
    let watchdog = watch(&cluster);
    cluster.create_database(TEMPLATE).await.unwrap();
    pool::migrate(&PgConnectOptions::from_str(&cluster.url(TEMPLATE)).unwrap()).await.unwrap();
    Shared { cluster, _watchdog: watchdog }
}

/// A shell that waits for its standard input to end, which it does when this process does.
fn watch(cluster: &Cluster) -> Child {
    let script = format!(
        "read -r _; kill -QUIT {} 2>/dev/null; sleep 1; rm -rf '{}'",
        cluster.pid().unwrap(),
        cluster.data().display()
    );
    let mut child = Command::new("sh").arg("-c").arg(script).stdin(Stdio::piped()).spawn().unwrap();
    // Written, so that a shell that cannot even start is noticed here. The pipe stays open with the child.
    child.stdin.as_mut().unwrap().flush().unwrap();
    child
}

/// A database of its own, with the schema in it.
#[derive(Debug, Clone)]
pub struct Database {
    /// Its URL.
    pub url: String,
    /// Connections to it, for looking and for breaking things on purpose: not the server's.
    pub pool: PgPool,
}

impl Database {
    /// Makes one.
    pub async fn new() -> Self {
        let name = format!("t{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::Relaxed));
        let cluster = &shared().cluster;
        let mut connection = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
        let statement = format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        Self::at(cluster.url(&name))
    }

    /// A database that is there already.
    pub fn at(url: String) -> Self {
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(4).connect_lazy(&url).unwrap();
        Self { url, pool }
    }

    /// One number that a query gives.
    pub async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }
}
