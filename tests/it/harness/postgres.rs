//! One Postgres for the whole run, and a new database for each test that needs one.

use roster::postgres::{Binaries, Cluster, Options};
use roster::store::datastore_url::DatastoreUrl;
use roster::store::migrations;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const TEMPLATE: &str = "roster_template";

/// The Postgres that all tests share. It stops when this process ends, however it ends.
static SHARED: OnceLock<Cluster> = OnceLock::new();
static DATABASES: AtomicU64 = AtomicU64::new(0);

fn shared() -> &'static Cluster {
    SHARED.get_or_init(|| {
        // A separate thread and runtime: the runtime of a test ends with the test.
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(start())
        })
        .join()
        .unwrap()
    })
}

async fn start() -> Cluster {
    let binaries = Binaries::find(None).unwrap_or_else(|error| panic!("{error}"));
    // The data need not survive a crash of the machine: no fsync.
    let options = Options::temporary().with("fsync", "off").with("max_connections", "400");
    let cluster = Cluster::start(&binaries, options).await.unwrap_or_else(|error| panic!("{error}"));
    cluster.create_database(TEMPLATE).await.unwrap();
    migrations::migrate(&DatastoreUrl::parse(&cluster.url(TEMPLATE)).unwrap()).await.unwrap();
    cluster
}

/// A database for one test.
#[derive(Debug, Clone)]
pub struct Database {
    /// The URL that a server connects to.
    pub url: String,
    /// The test's own connections, for queries and for injected faults.
    pub pool: PgPool,
}

impl Database {
    /// Creates a database with the schema.
    pub async fn new() -> Self {
        Self::from_template(TEMPLATE).await
    }

    /// Creates a database without the schema.
    pub async fn empty() -> Self {
        Self::from_template("template0").await
    }

    async fn from_template(template: &str) -> Self {
        Self::with_options(&format!("TEMPLATE {template}")).await.unwrap()
    }

    /// Creates a database with these options of CREATE DATABASE. Fails if this Postgres does not have the locale.
    pub async fn with_options(options: &str) -> Result<Self, sqlx::Error> {
        let name = format!("t{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::Relaxed));
        let cluster = shared();
        let mut connection = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
        let statement = format!("CREATE DATABASE {name} {options}");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        connection.close().await?;
        Ok(Self::at(cluster.url(&name)))
    }

    /// Applies the migrations.
    pub async fn migrate(&self) {
        migrations::migrate(&DatastoreUrl::parse(&self.url).unwrap()).await.unwrap();
    }

    /// An existing database.
    pub fn at(url: String) -> Self {
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(4).connect_lazy(&url).unwrap();
        Self { url, pool }
    }

    /// The number that a query returns.
    pub async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }
}
