//! A private Postgres of one test, for faults that the shared Postgres must not have.

use super::Database;
use roster::postgres::{Binaries, Cluster, Options, Stop};
use roster::store::datastore_url::DatastoreUrl;
use roster::store::migrations;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

/// The database of the private Postgres.
const DATABASE: &str = "roster";
/// Time limit of a change of the configuration, of a standby and of a program of Postgres.
pub const CLUSTER_TIMEOUT: Duration = Duration::from_secs(60);

/// A private Postgres with the database `roster`. It listens on a Unix socket only: a [`super::proxy::Proxy`] in front
/// of it has a TCP address. Dropping it stops the server and removes its data.
#[derive(Debug)]
pub struct TestCluster {
    cluster: Cluster,
    binaries: Binaries,
    /// Postgres settings, which a standby needs too.
    settings: Vec<(String, String)>,
}

impl Deref for TestCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for TestCluster {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl TestCluster {
    /// Starts a Postgres whose database has the schema.
    pub async fn with_schema() -> Self {
        Self::with_schema_and(&[]).await
    }

    /// Starts a Postgres with these settings, whose database has the schema.
    pub async fn with_schema_and(settings: &[(&str, &str)]) -> Self {
        let cluster = Self::start(settings).await;
        cluster.migrate().await;
        cluster
    }

    /// Starts a Postgres with these settings, whose database is empty.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let settings: Vec<_> = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let cluster = Self::start_with(Options::temporary(), settings).await;
        cluster.create_database(DATABASE).await.unwrap();
        cluster
    }

    /// Starts a Postgres whose data directory may exist.
    async fn start_with(options: Options, settings: Vec<(String, String)>) -> Self {
        let binaries = Binaries::find(None).unwrap_or_else(|error| panic!("{error}"));
        let options = settings.iter().fold(options, |options, (name, value)| options.with(name, value));
        let cluster = Cluster::start(&binaries, options).await.unwrap_or_else(|error| panic!("{error}"));
        Self { cluster, binaries, settings }
    }

    /// Starts a Postgres with a copy of this one's data and with the same settings.
    pub async fn base_backup(&self, arguments: &[&str]) -> Self {
        let options = Options::temporary();
        let mut backup = self.program("pg_basebackup");
        backup.args(["--checkpoint=fast", "--wal-method=stream", "--no-sync", "--dbname", &self.url("postgres")]);
        run(backup.arg("--pgdata").arg(options.data()).args(arguments)).await;
        // The socket is in the data directory, and the copy has its lock file.
        let mut lock = self.socket().file_name().unwrap().to_owned();
        lock.push(".lock");
        std::fs::remove_file(options.data().join(lock)).unwrap();
        Self::start_with(options, self.settings.clone()).await
    }

    /// Brings the schema of the database up to date.
    pub async fn migrate(&self) {
        migrations::migrate(&DatastoreUrl::parse(&self.database_url()).unwrap()).await.unwrap();
    }

    /// The URL of the database for the superuser.
    pub fn database_url(&self) -> String {
        self.url(DATABASE)
    }

    /// The URL of the database for this role.
    pub fn url_of(&self, role: &str, password: &str) -> String {
        self.database_url().replacen("postgres@", &format!("{role}:{password}@"), 1)
    }

    /// The database, for the superuser.
    pub fn database(&self) -> Database {
        Database::at(self.database_url())
    }

    /// The Unix socket of the server.
    pub fn socket(&self) -> PathBuf {
        let options = PgConnectOptions::from_str(&self.database_url()).unwrap();
        options.get_socket().unwrap().join(format!(".s.PGSQL.{}", options.get_port()))
    }

    /// Opens a connection of the superuser to the database.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.database_url()).await.unwrap()
    }

    /// Runs statements as the superuser, in a new connection to the database.
    pub async fn execute(&self, statements: &str) {
        let mut connection = self.connect().await;
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// The value that a query returns, in a new connection of the superuser.
    pub async fn value<T>(&self, query: &'static str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let mut connection = self.connect().await;
        let value = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        value
    }

    /// Waits until a query returns true.
    pub async fn until(&self, query: &'static str) {
        let holds = async {
            while !self.value::<bool>(query).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(CLUSTER_TIMEOUT, holds).await.is_ok(), "timed out waiting until {query}");
    }

    /// Creates a role that owns the database and all in it, with a password and with what `options` grants, for example
    /// `CONNECTION LIMIT 5`. A test can then change the role; the superuser ignores most of it.
    pub async fn create_owner(&self, role: &str, password: &str, options: &str) {
        self.execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD '{password}' {options};
             ALTER DATABASE {DATABASE} OWNER TO {role};
             ALTER SCHEMA public OWNER TO {role};
             DO $$ DECLARE part text; BEGIN
                 FOR part IN SELECT oid::regclass FROM pg_class WHERE relnamespace = 'public'::regnamespace
                     AND relkind IN ('r', 'p') LOOP
                     EXECUTE 'ALTER TABLE ' || part || ' OWNER TO {role}';
                 END LOOP;
                 FOR part IN SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'public'::regnamespace
                     AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e') LOOP
                     EXECUTE 'ALTER ROUTINE ' || part || ' OWNER TO {role}';
                 END LOOP;
             END $$"
        ))
        .await;
    }

    /// Changes a setting of the server with `ALTER SYSTEM`, and waits until new sessions have it.
    pub async fn alter_system(&self, name: &str, value: &str) {
        let mut connection = self.connect().await;
        let statement = format!("ALTER SYSTEM SET {name} = {value}");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        self.reload().await;
    }

    /// Replaces the rules of `pg_hba.conf`, and waits until they hold for new sessions. The superuser is never rejected.
    pub async fn set_access(&self, rules: &str) {
        let text = format!("local all postgres trust\nlocal replication postgres trust\n{rules}\n");
        std::fs::write(self.data().join("pg_hba.conf"), text).unwrap();
        self.reload().await;
    }

    /// Reads the configuration again, and waits until new sessions have it.
    pub async fn reload(&self) {
        let loaded = "SELECT pg_conf_load_time()::text";
        let before: String = self.value(loaded).await;
        assert!(self.value::<bool>("SELECT pg_reload_conf()").await);
        let reloaded = async {
            while self.value::<String>(loaded).await == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(CLUSTER_TIMEOUT, reloaded).await.is_ok(), "the configuration was not reloaded");
    }

    /// Ends every session of a role, and waits until they have ended.
    pub async fn end_sessions(&self, role: &str) {
        let query = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE usename = $1";
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        sqlx::query(query).bind(role).execute(&mut connection).await.unwrap();
    }

    /// Kills every process of the server, as a crash of the machine does.
    pub async fn kill(&mut self) {
        self.cluster.stop(Stop::Kill).await;
    }

    /// A command for a program of this Postgres, as the account that the server runs as.
    pub fn program(&self, name: &str) -> Command {
        // The directory may hold links to the programs of the server only.
        let server = self.binaries.directory().join("postgres").canonicalize().unwrap();
        let mut command = self.as_account(Command::new(server.with_file_name(name)));
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null());
        command
    }

    /// The command, as the account that the server runs as: some programs refuse to run as root.
    pub fn as_account(&self, mut command: Command) -> Command {
        if nix::unistd::Uid::effective().is_root() {
            let owner = self.data().metadata().unwrap();
            command.uid(owner.uid()).gid(owner.gid());
        }
        command.current_dir("/");
        command
    }
}

/// Runs a program of Postgres to its end, and returns its output.
pub async fn run(command: &mut Command) -> String {
    let program = format!("{command:?}");
    let mut replaced = Command::new("true");
    std::mem::swap(command, &mut replaced);
    let output = tokio::process::Command::from(replaced).kill_on_drop(true).output();
    let output = tokio::time::timeout(CLUSTER_TIMEOUT, output).await.expect("the program did not end in time").unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
