//! Postgres with memberships, the settings of the server, and the credentials of the callers and of the attacker.

use super::attacks::Target;
use super::process::{Process, SERVER_CORE};
use crate::tool::print_line;
use crate::tool::table::{self, Size};
use roster::authn::api_keys;
use roster::authn::mint::{ClaimSet, SigningKey};
use roster::clock::Clock;
use roster::postgres::{Binaries, Cluster, Options};
use roster::store::datastore_url::DatastoreUrl;
use roster::store::migrations;
use sqlx::Connection;
use std::fmt::Write as _;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ISSUER: &str = "https://siege.test";
const AUDIENCE: &str = "roster";
/// The number of memberships: enough for the checks to miss the caches of the processor, and loaded in a moment.
const MEMBERSHIPS: u32 = 100_000;
/// The members of the organization with large pages, and the bytes of the attributes of each.
const LARGE: (u32, u32) = (1000, 3000);

/// The environment of every attack.
pub(crate) struct Stage {
    directory: tempfile::TempDir,
    pub(crate) size: Size,
    /// The bearer token of the honest callers, with the scopes `check` and `manage`.
    pub(crate) token: String,
    attacker: Attacker,
    program: PathBuf,
    _cluster: Cluster,
}

/// What the attacker has.
struct Attacker {
    check_key: String,
    manage_key: String,
    user_token: String,
    user: String,
    organization: String,
    large: String,
}

/// A running server.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: SocketAddr,
    log: PathBuf,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let binaries = Binaries::find(None).unwrap_or_else(|error| panic!("{error}"));
        let options = Options::temporary().with("shared_buffers", "512MB").with("max_connections", "100");
        // Postgres inherits the core of this process.
        pin(SERVER_CORE);
        let cluster = Cluster::start(&binaries, options).await.unwrap();
        cluster.create_database("roster").await.unwrap();
        let url = cluster.url("roster");
        migrations::migrate(&DatastoreUrl::parse(&url).unwrap()).await.unwrap();
        print_line(&format!("loading {MEMBERSHIPS} memberships"));
        let size = Size::of(MEMBERSHIPS);
        table::fill(&url, size, 0).await;
        let (user, organization, large) = add_attacker(&url).await;
        let key = SigningKey::generate();
        let jwks = directory.path().join("jwks.json");
        // Without its id, which marks a key of `roster dev`: `roster serve` refuses such a key.
        let mut set = key.public_jwks();
        set["keys"][0].as_object_mut().unwrap().remove("kid");
        std::fs::write(&jwks, set.to_string()).unwrap();
        let mut settings = format!(
            "database_url = '{url}'\n[mail]\nkind = 'off'\n[[issuers]]\nissuer = '{ISSUER}'\n\
             audience = '{AUDIENCE}'\njwks_file = '{}'\nscopes = ['check', 'manage']\n",
            jwks.display()
        );
        let [check_key, manage_key] = [("attacker", "check"), ("attacker-manage", "manage")].map(|(name, scope)| {
            let key = api_keys::generate();
            let sha256 = &key.sha256;
            write!(settings, "[[api_keys]]\nname = '{name}'\nscopes = ['{scope}']\nsha256 = '{sha256}'\n").unwrap();
            key.secret.expose().to_owned()
        });
        std::fs::write(directory.path().join("roster.toml"), settings).unwrap();
        let user_token = sign(&key, &user, None);
        let token = sign(&key, "honest", Some("roster:check roster:manage"));
        let attacker = Attacker { check_key, manage_key, user_token, user, organization, large };
        Self { directory, size, token, attacker, program: program(), _cluster: cluster }
    }

    /// Starts a server, and waits until its replica has loaded.
    pub(crate) fn start(&self, name: &str) -> Server {
        let (address, metrics) = (free_address(), free_address());
        let config = self.directory.path().join("roster.toml");
        let log = self.directory.path().join(format!("{name}.log"));
        let arguments = [
            "serve",
            "--config",
            config.to_str().unwrap(),
            "--listen",
            &address.to_string(),
            "--metrics-listen",
            &metrics.to_string(),
        ];
        let errors = Stdio::from(File::create(&log).unwrap());
        let process = Process::start(&self.program, &arguments, (SERVER_CORE, 0), &[], errors);
        let server = Server { process, address, metrics, log };
        let begin = Instant::now();
        let is_loaded = || {
            let loaded = server.metric("replica_memberships").is_some_and(|count| count >= f64::from(MEMBERSHIPS));
            loaded && server.metric("replica_age_seconds").is_some_and(|age| age >= 0.0)
        };
        while !is_loaded() {
            let log = || std::fs::read_to_string(&server.log).unwrap();
            assert!(begin.elapsed() < Duration::from_secs(30), "the server has not started: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// What an attacker at this address needs.
    pub(crate) fn target(&self, server: &Server, local: IpAddr) -> Target {
        let attacker = &self.attacker;
        Target {
            address: server.address,
            metrics: server.metrics,
            local,
            check_key: attacker.check_key.clone(),
            manage_key: attacker.manage_key.clone(),
            user_token: attacker.user_token.clone(),
            user: attacker.user.clone(),
            organization: attacker.organization.clone(),
            large: attacker.large.clone(),
            membership: table::ids(0, self.size.users),
        }
    }
}

impl Server {
    /// The value of one of the server's metrics. `None` if there is no answer.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        use std::io::{Read, Write};
        let mut socket = TcpStream::connect(self.metrics).ok()?;
        write!(socket, "GET /metrics HTTP/1.1\r\nhost: siege\r\nconnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).ok()?;
        text.lines().find_map(|line| line.strip_prefix(&format!("roster_{name} ")))?.parse().ok()
    }

    /// The length of the log, in bytes.
    pub(crate) fn log_bytes(&self) -> u64 {
        std::fs::metadata(&self.log).unwrap().len()
    }

    /// Whether a thread of the server has panicked.
    pub(crate) fn has_panicked(&self) -> bool {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).contains("panicked")
    }
}

/// Adds the user with an organization of a thousand members and the organization with large pages, and returns the ids.
async fn add_attacker(url: &str) -> (String, String, String) {
    let user = table::add_busy(url, 1).await;
    let large = table::add_large(url, LARGE.0).await;
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    let organization: String = sqlx::query_scalar("SELECT id::text FROM organizations WHERE owner_id = $1")
        .bind(&user)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO memberships (bucket, organization_id, user_id, role, attributes, revision, create_time, update_time)
         SELECT organization_bucket_of($2::uuid), $2::uuid, user_id, 'member', '{}', 1, now(), now() FROM memberships
         WHERE organization_id = $1::uuid",
    )
    .bind(&large)
    .bind(&organization)
    .execute(&mut connection)
    .await
    .unwrap();
    sqlx::query(
        "UPDATE memberships SET attributes = jsonb_build_object('a', repeat('x', $2)) WHERE organization_id = $1::uuid",
    )
    .bind(&large)
    .bind(i32::try_from(LARGE.1).unwrap())
    .execute(&mut connection)
    .await
    .unwrap();
    (user, organization, large)
}

/// A bearer token of a user, or of a service with these scopes.
fn sign(key: &SigningKey, sub: &str, scope: Option<&str>) -> String {
    let now = Clock::system().unix_seconds();
    let claims = ClaimSet {
        iss: ISSUER.to_owned(),
        aud: AUDIENCE.to_owned(),
        sub: sub.to_owned(),
        scope: scope.map(str::to_owned),
        exp: now + 24 * 3600,
        iat: now,
        ..ClaimSet::default()
    };
    key.mint(&claims).unwrap().expose().to_owned()
}

/// Pins all threads of this process, and the processes that it starts later.
pub(crate) fn pin(core: &str) {
    let pid = std::process::id().to_string();
    let pinned = Command::new("taskset").args(["-a", "-p", "-c", core, &pid]).stdout(Stdio::null()).status();
    assert!(pinned.is_ok_and(|status| status.success()), "taskset pins processes to cores, and is missing");
}

/// The program under attack: a release build, unless the variable names another one.
fn program() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/roster").into();
    let program = PathBuf::from(std::env::var_os("ROSTER_SIEGE_SERVER").unwrap_or_else(default));
    assert!(program.exists(), "{} is missing: run make siege", program.display());
    program
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
