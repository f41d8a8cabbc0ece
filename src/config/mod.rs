//! The settings of `roster serve`: from flags, the environment and a file, the first of them that names one.
//!
//! Every mistake is reported at once, as a sentence that says which setting, where it was given and what to write. It
//! never repeats what was given: that may be a password.

mod parse;
mod reader;
#[cfg(test)]
mod tests;

use crate::authn::{AuthSettings, Authenticator};
use crate::clock::Clock;
use crate::mail::Mailer;
use crate::mail::settings::MailSettings;
use crate::server::ServerSettings;
use crate::service::{InvitationSettings, ReplicaSettings};
use crate::store::pool;
use parse::{address, filter, one_of, whole};
use reader::{InvalidSetting, SettingsReader};
use sqlx::postgres::PgConnectOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Where a server listens, unless told otherwise: not reachable from other machines.
pub const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 50051);
/// Connections to Postgres, unless told otherwise. More than a few for each of its processors only wait for each other.
const DATABASE_CONNECTIONS: u32 = 16;
/// What is logged, unless told otherwise.
const LOG: &str = "info";

/// Settings as flags. They may hold a password, so nothing here can be printed.
#[derive(Default, clap::Args)]
#[command(
    after_help = "Each setting can also be given in the environment, as ROSTER_LISTEN, or in the file, as listen. \
                        A flag goes before the environment, and that before the file.\n\
                        Whose credentials are accepted is said by [[issuers]] and [[api_keys]] in the file,\n\
                        how mail is sent by [mail], and limits of invitations by [invitations]."
)]
pub struct Flags {
    #[command(flatten)]
    datastore: DatastoreFlags,
    /// Where to listen, an address and a port [default: 127.0.0.1:50051]
    #[arg(long)]
    listen: Option<String>,
    /// Where to tell metrics by HTTP, an address and a port; they are for anybody who asks [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<String>,
    /// Connections to Postgres at most; the copy of the memberships has up to 7 more [default: 16]
    #[arg(long, value_name = "NUMBER")]
    database_connections: Option<String>,
    /// Time for a call that names no deadline [default: 5000]
    #[arg(long, value_name = "MILLISECONDS")]
    default_deadline_ms: Option<String>,
    /// Time for any call, whatever deadline it names [default: 30000]
    #[arg(long, value_name = "MILLISECONDS")]
    max_deadline_ms: Option<String>,
    /// Calls at once; more are refused with UNAVAILABLE [default: 1024]
    #[arg(long, value_name = "NUMBER")]
    max_concurrent_requests: Option<String>,
    /// Streams at once; more are refused with UNAVAILABLE [default: 1024]
    #[arg(long, value_name = "NUMBER")]
    max_streams: Option<String>,
    /// Time for a caller to read what a stream has sent before it is ended [default: 10000]
    #[arg(long, value_name = "MILLISECONDS")]
    slow_reader_ms: Option<String>,
    /// Connections at once; more wait to be accepted [default: 4096]
    #[arg(long, value_name = "NUMBER")]
    max_connections: Option<String>,
    /// Threads that serve connections [default: one for each core]
    #[arg(long, value_name = "NUMBER")]
    workers: Option<String>,
    /// Time for calls under way to end when the server is told to stop [default: 10000]
    #[arg(long, value_name = "MILLISECONDS")]
    drain_ms: Option<String>,
    /// How long the change log is kept for those who follow it [default: 168]
    #[arg(long, value_name = "HOURS")]
    change_log_hours: Option<String>,
    /// How old an answer of a check may be that asks for nothing better [default: 1000]
    #[arg(long, value_name = "MILLISECONDS")]
    max_staleness_ms: Option<String>,
    /// Memory for the copy of the memberships; what does not fit is asked of the datastore. 0: no copy [default: 1024]
    #[arg(long, value_name = "MIB")]
    index_memory_mib: Option<String>,
    /// How old an answer may be while the datastore does not answer; it says so [default: none is given]
    #[arg(long, value_name = "MILLISECONDS")]
    serve_stale_ms: Option<String>,
    /// How log lines look, text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// What is logged, a level or `target=level,…` [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Whether clients may ask for the protos (server reflection), true or false [default: true]
    #[arg(long, value_name = "BOOL")]
    reflection: Option<String>,
}

/// The settings that lead to the datastore, as flags.
#[derive(Default, clap::Args)]
pub struct DatastoreFlags {
    /// The settings file, in TOML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The datastore, as `postgres://user:password@host:port/database`. Other users of this machine can see flags: a
    /// password is better off in the environment or in the file
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
}

/// The settings, all of them checked.
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The datastore. It may hold a password, so nothing here can be printed.
    pub database: PgConnectOptions,
    /// Where to tell metrics; none to tell nobody.
    pub metrics_listen: Option<SocketAddr>,
    /// Connections to it at most.
    pub database_connections: u32,
    /// How to serve.
    pub server: ServerSettings,
    /// What to log, and how.
    pub log: LogSettings,
    /// Who is let in.
    pub authenticator: Authenticator,
    /// What sends mail; none where that is switched off.
    pub mailer: Option<Mailer>,
    /// The limits of invitations.
    pub invitations: InvitationSettings,
    /// For how long the change log is kept.
    pub change_log_retention: Duration,
    /// How the copy of the memberships is kept.
    pub index: ReplicaSettings,
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// A level, or `target=level,…`.
    pub filter: String,
    /// The form of a line.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: LOG.to_owned(), format: LogFormat::Text }
    }
}

/// Everything that is wrong with the settings, one sentence each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("these settings will not do:\n{}", .0.join("\n"))]
pub struct Mistakes(pub Vec<String>);

/// The environment: what a variable of this name holds.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process. An empty variable counts as none.
#[must_use]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Settings {
    /// Reads and checks every setting, and the keys that they name.
    ///
    /// # Errors
    /// Every mistake.
    pub fn read(flags: &Flags, environment: Environment, clock: Clock) -> Result<Self, Mistakes> {
        let mut reader = SettingsReader::new(flags.datastore.config.as_ref(), environment);
        let database = datastore(&mut reader, &flags.datastore);
        let listen = reader.setting("listen", flags.listen.as_ref(), address).unwrap_or(LISTEN);
        let metrics_listen = reader.setting("metrics_listen", flags.metrics_listen.as_ref(), address);
        let database_connections = reader
            .setting("database_connections", flags.database_connections.as_ref(), whole(1..=1_000))
            .unwrap_or(DATABASE_CONNECTIONS);
        let server = server(&mut reader, flags);
        let change_log_retention = reader
            .setting(
                "change_log_hours",
                flags.change_log_hours.as_ref(),
                whole(crate::service::limits::LOG_RETENTION_HOURS),
            )
            .map_or(crate::service::limits::LOG_RETENTION, Duration::from_hours);
        let index = index(&mut reader, flags);
        let log = LogSettings {
            filter: reader.setting("log", flags.log.as_ref(), filter).unwrap_or_else(|| LOG.to_owned()),
            format: reader
                .setting(
                    "log_format",
                    flags.log_format.as_ref(),
                    one_of(&[("text", LogFormat::Text), ("json", LogFormat::Json)]),
                )
                .unwrap_or(LogFormat::Text),
        };
        let authenticator = authenticator(&mut reader, clock.clone());
        let mailer = mailer(&mut reader, clock);
        let invitations = invitations(&mut reader, matches!(mailer, Ok(Some(_))));
        let mistakes = reader.finish();
        match (database, authenticator, mailer) {
            (Some(database), Some(authenticator), Ok(mailer)) if mistakes.is_empty() => Ok(Self {
                listen,
                database,
                metrics_listen,
                database_connections,
                server,
                log,
                authenticator,
                mailer,
                invitations,
                change_log_retention,
                index,
            }),
            _ => Err(Mistakes(mistakes)),
        }
    }
}

/// Reads where the datastore is, and nothing else: what a migration needs. The other settings in the file are not looked
/// at.
///
/// # Errors
/// Every mistake.
pub fn read_datastore(flags: &DatastoreFlags, environment: Environment) -> Result<PgConnectOptions, Mistakes> {
    let mut reader = SettingsReader::new(flags.config.as_ref(), environment);
    let database = datastore(&mut reader, flags);
    database.ok_or_else(|| Mistakes(reader.mistakes()))
}

fn datastore(reader: &mut SettingsReader, flags: &DatastoreFlags) -> Option<PgConnectOptions> {
    reader.required("database_url", flags.database_url.as_ref(), |text| {
        pool::parse_url(text).map_err(|invalid| invalid.to_string())
    })
}

fn server(reader: &mut SettingsReader, flags: &Flags) -> ServerSettings {
    let default = ServerSettings::default();
    let mut time = |name, flag: &Option<String>, most: Duration, default| {
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        reader.setting(name, flag.as_ref(), whole(1..=most)).map_or(default, Duration::from_millis)
    };
    let longest = crate::store::limits::STATEMENT;
    let max_deadline = time("max_deadline_ms", &flags.max_deadline_ms, longest, default.max_deadline);
    let default_deadline = time("default_deadline_ms", &flags.default_deadline_ms, longest, default.default_deadline);
    let drain = time("drain_ms", &flags.drain_ms, Duration::from_mins(10), default.drain);
    let slow_reader = time("slow_reader_ms", &flags.slow_reader_ms, Duration::from_mins(10), default.slow_reader);
    let workers = reader.setting("workers", flags.workers.as_ref(), whole(1..=1_024)).unwrap_or(default.workers);
    let mut count = |name, flag: &Option<String>, default| {
        reader.setting(name, flag.as_ref(), whole(1..=1_000_000)).unwrap_or(default)
    };
    ServerSettings {
        // One who shortens all calls means those without a deadline too.
        default_deadline: default_deadline.min(max_deadline),
        max_deadline,
        max_concurrent_requests: count(
            "max_concurrent_requests",
            &flags.max_concurrent_requests,
            default.max_concurrent_requests,
        ),
        max_streams: count("max_streams", &flags.max_streams, default.max_streams),
        slow_reader,
        max_connections: count("max_connections", &flags.max_connections, default.max_connections),
        workers,
        drain,
        reflection: reader
            .setting("reflection", flags.reflection.as_ref(), one_of(&[("true", true), ("false", false)]))
            .unwrap_or(default.reflection),
    }
}

fn index(reader: &mut SettingsReader, flags: &Flags) -> ReplicaSettings {
    let default = ReplicaSettings::default();
    let mut time = |name, flag: &Option<String>, range| {
        reader.setting(name, flag.as_ref(), whole(range)).map(Duration::from_millis)
    };
    ReplicaSettings {
        max_staleness: time("max_staleness_ms", &flags.max_staleness_ms, crate::replica::limits::MAX_STALENESS_MS)
            .unwrap_or(default.max_staleness),
        serve_stale: time("serve_stale_ms", &flags.serve_stale_ms, crate::replica::limits::SERVE_STALE_MS),
        memory_bytes: reader
            .setting("index_memory_mib", flags.index_memory_mib.as_ref(), whole(0..=1024 * 1024))
            .map_or(default.memory_bytes, |mebibytes: usize| mebibytes << 20),
    }
}

fn authenticator(reader: &mut SettingsReader, clock: Clock) -> Option<Authenticator> {
    let (issuers, api_keys) = (reader.tables("issuers"), reader.tables("api_keys"));
    let readable = issuers.is_some() && api_keys.is_some();
    let settings = AuthSettings { issuers: issuers.unwrap_or_default(), api_keys: api_keys.unwrap_or_default() };
    if !readable && settings.issuers.is_empty() && settings.api_keys.is_empty() {
        // That there is nothing would be a consequence, and no mistake of its own.
        return None;
    }
    let authenticator = Authenticator::new(&reader.resolve(settings), clock);
    authenticator.map_err(|mistakes| reader.add(mistakes)).ok().filter(|_| readable)
}

/// How mail leaves. It must be said, even that none does.
fn mailer(reader: &mut SettingsReader, clock: Clock) -> Result<Option<Mailer>, InvalidSetting> {
    let Some(mut settings) = reader.table::<MailSettings>("mail")? else {
        reader.add(vec!["mail.kind is needed: off, directory or smtp, in a table [mail]".to_owned()]);
        return Err(InvalidSetting);
    };
    settings.resolve(&reader.directory());
    Mailer::new(&settings, clock).map_err(|mistakes| {
        reader.add(mistakes);
        InvalidSetting
    })
}

/// The table `[invitations]`: limits, each of which may be left out.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct InvitationTable {
    pending_per_organization: Option<u32>,
    per_organization_and_day: Option<u32>,
    sends_per_invitation: Option<u32>,
    cooldown_seconds: Option<u32>,
    mails_per_recipient_and_day: Option<u32>,
    failed_tokens_per_minute: Option<u32>,
}

fn invitations(reader: &mut SettingsReader, mail: bool) -> InvitationSettings {
    let table: InvitationTable = reader.table("invitations").ok().flatten().unwrap_or_default();
    let default = InvitationSettings::default();
    InvitationSettings {
        mail,
        pending_per_organization: table.pending_per_organization.unwrap_or(default.pending_per_organization),
        per_organization_and_day: table.per_organization_and_day.unwrap_or(default.per_organization_and_day),
        sends_per_invitation: table.sends_per_invitation.unwrap_or(default.sends_per_invitation),
        cooldown: table.cooldown_seconds.map_or(default.cooldown, |seconds| Duration::from_secs(seconds.into())),
        mails_per_recipient_and_day: table.mails_per_recipient_and_day.unwrap_or(default.mails_per_recipient_and_day),
        failed_tokens_per_minute: table.failed_tokens_per_minute.unwrap_or(default.failed_tokens_per_minute),
    }
}
