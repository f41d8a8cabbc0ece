//! The settings of `roster serve`, from flags, the environment and a file. A flag takes precedence over a variable, and
//! a variable over the file.
//!
//! All mistakes are reported at once. Each names the setting, where it was given and what to write instead. It never
//! repeats a value that may be a password. [`reader`] collects them: each flag, variable and key of the file is checked
//! alone, and a mistake in one hides none in another.

mod environment;
mod file_table;
mod format;
pub mod listen_address;
pub mod log_filter;
pub mod model_file;
mod reader;
mod table;
#[cfg(test)]
mod tests;
mod tls;

pub use environment::Environment;
pub use table::markdown;

use crate::authn::{AuthSettings, Authenticator, unmarked_issuers};
use crate::clock::Clock;
use crate::mail::Mailer;
use crate::mail::settings::MailSettings;
use crate::server::ServerSettings;
use crate::server::expected_model::{ExpectedModel, ModelFile};
use crate::server::tls::ServerTls;
use crate::service::{InvitationSettings, ReplicaSettings, UnknownOwners};
use crate::store::datastore_url::{DatastoreUrl, read_password};
use listen_address::ListenAddress;
pub use reader::FixedSettings;
use reader::{InvalidSetting, SettingsReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use table::{DatastoreSettingFlags, DatastoreValues, ServerSettingFlags, ServerValues};

/// The default address to listen on. Other machines cannot reach it.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50051);
/// The default filter of log lines.
const LOG: &str = "info";

const PROXY_WITHOUT_TRUST: &str = "proxy_protocol needs trusted_proxies: name the addresses of the proxies that send the \
                                   header, because a peer that may send one chooses its own address";

const TWO_PASSWORDS: &str = "database_password_file and a password in database_url are given: remove one of them";

const STRICT_WITHOUT_FILE: &str = "access_model_strict needs access_model_file: name the file that the access model is \
                                   compared with";

const SAME_ADDRESS: &str = "metrics_listen has the address and port of listen: give it another port";

/// All settings, as flags. It implements no `Debug`: the flags may hold a password.
#[derive(Clone, Default, clap::Args)]
#[command(
    after_help = "Each setting can also be given as a variable, as ROSTER_LISTEN, or in the settings file, as listen. \
                  A flag takes precedence over the variable, and the variable over the file.\n\
                  Only the file can hold the credentials that are accepted ([[issuers]], [[api_keys]] and [[client_certificates]]), \
                  how mail is sent ([mail]) and the limits of invitations ([invitations])."
)]
pub struct Flags {
    #[command(flatten)]
    datastore: DatastoreFlags,
    #[command(flatten)]
    server: ServerSettingFlags,
}

/// The settings that `roster migrate` needs, as flags.
#[derive(Clone, Default, clap::Args)]
pub struct DatastoreFlags {
    /// The settings file, in TOML; the variable is `ROSTER_CONFIG`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: DatastoreSettingFlags,
}

/// The checked settings.
pub struct Settings {
    /// The address to listen on.
    pub listen: ListenAddress,
    /// How to connect to the database. It may hold a password, so the settings implement no `Debug`.
    pub database: DatastoreUrl,
    /// The address of the metrics endpoint; `None` to serve no metrics.
    pub metrics_listen: Option<ListenAddress>,
    /// The maximum number of connections to the database.
    pub database_connections: u32,
    /// Limits of the server.
    pub server: ServerSettings,
    /// Which log lines are written, and their format.
    pub log: LogSettings,
    /// Verifies the credentials of callers.
    pub authenticator: Authenticator,
    /// Sends mail; `None` if mail is switched off.
    pub mailer: Option<Mailer>,
    /// The limits of invitations.
    pub invitations: InvitationSettings,
    /// Whether ownership may be transferred to a user who is not known.
    pub transfer_to_unknown: UnknownOwners,
    /// How long the change log is kept.
    pub change_log_retention: Duration,
    /// Memory and staleness of the replica.
    pub replica: ReplicaSettings,
    /// Whether the server refuses to start if the stored access model differs from the file.
    pub access_model_strict: bool,
    /// Deprecated settings that are in use, one sentence each, for the log.
    pub warnings: Vec<String>,
    /// The files that a reload reads again: the settings file, and those that settings name which a reload takes over.
    pub files: Vec<PathBuf>,
    /// The names of the settings that take effect at a restart only, each with a hash of its value.
    pub fixed: FixedSettings,
}

/// Which log lines are written, and their format.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// A level, or `target=level,…`.
    pub filter: String,
    /// The format of a line.
    pub format: LogFormat,
}

/// The format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people, with colours on a terminal.
    Text,
    /// One JSON object for each line.
    Json,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: LOG.to_owned(), format: LogFormat::Text }
    }
}

impl LogSettings {
    /// The settings of a command whose log has no other setting than the variable `ROSTER_LOG`.
    ///
    /// # Errors
    /// The mistakes in the variable.
    pub fn of_variable(environment: &Environment) -> Result<Self, Mistakes> {
        let Some(text) = environment.find("ROSTER_LOG") else { return Ok(Self::default()) };
        let filter = log_filter::parse(text.as_deref().unwrap_or_default());
        let sentence = |instead| format!("log (from ROSTER_LOG): write {instead}");
        let filter = filter.map_err(|mistakes| Mistakes(mistakes.into_iter().map(sentence).collect()))?;
        Ok(Self { filter, ..Self::default() })
    }
}

/// All mistakes in the settings, one sentence each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid settings:\n{}", .0.join("\n"))]
pub struct Mistakes(pub Vec<String>);

/// What becomes of a variable that begins with `ROSTER_` and is no setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownVariables {
    /// It is a warning: another program may have set it.
    Warn,
    /// It is a mistake.
    Reject,
}

/// The value of a variable in the environment of this process; `None` if it is absent or empty.
#[must_use]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// One sentence for each variable that is no setting.
#[must_use]
pub fn unknown_variables_of(environment: &Environment) -> Vec<String> {
    environment.unknown_variables(&table::variables())
}

impl Settings {
    /// Reads and checks every setting, including the key files and templates that the settings name.
    ///
    /// # Errors
    /// All mistakes.
    pub fn read(
        flags: &Flags,
        environment: &Environment,
        clock: Clock,
        unknown_variables: UnknownVariables,
    ) -> Result<Self, Mistakes> {
        let mut reader = SettingsReader::new(flags.datastore.config.as_ref(), environment);
        let database = database(&mut reader, &flags.datastore.settings);
        let values = ServerValues::read(&mut reader, &flags.server);
        let mut files: Vec<PathBuf> = reader.file().map(Path::to_owned).into_iter().collect();
        let authenticator = authenticator(&mut reader, clock.clone(), &mut files);
        let mailer = mailer(&mut reader, clock.clone());
        let invitations = invitations(&mut reader, matches!(mailer, Ok(Some(_))));
        let certificates = authenticator.as_ref().is_some_and(Authenticator::accepts_client_certificates);
        let tls = tls::read(&mut reader, &values, certificates, clock);
        files.extend(tls.iter().flat_map(ServerTls::files));
        let expected_model = expected_model(&mut reader, &values);
        files.extend(values.access_model_file.clone());
        check_addresses(&mut reader, &values);
        let replica = replica(&values);
        let fixed = reader.fixed();
        let (mistakes, mut warnings) = reader.finish(unknown_variables, unknown_variables_of(environment));
        warnings.extend(authenticator.iter().flat_map(Authenticator::warnings));
        match (database, authenticator, mailer) {
            (Some(database), Some(authenticator), Ok(mailer)) if mistakes.is_empty() => Ok(Self {
                listen: values.listen,
                database,
                metrics_listen: values.metrics_listen,
                database_connections: values.database_connections,
                server: ServerSettings {
                    // A shorter limit for all calls also applies to calls without a deadline.
                    default_deadline: values.default_deadline_ms.min(values.max_deadline_ms),
                    max_deadline: values.max_deadline_ms,
                    max_concurrent_requests: values.max_concurrent_requests,
                    max_streams: values.max_streams,
                    request_memory: values.request_memory_mib,
                    response_memory: values.response_memory_mib,
                    max_streams_per_caller: values.max_streams_per_caller,
                    slow_reader: values.slow_reader_ms,
                    max_connections: values.max_connections,
                    max_connections_per_address: values.max_connections_per_address,
                    proxy_protocol: values.proxy_protocol,
                    trusted_proxies: values.trusted_proxies,
                    tls,
                    workers: values.workers,
                    max_connection_age: values.max_connection_age_ms,
                    connection_age_grace: values.max_connection_age_grace_ms,
                    lame_duck: values.lame_duck_ms,
                    drain: values.drain_ms,
                    reflection: values.reflection,
                    expected_model,
                },
                log: LogSettings { filter: values.log, format: values.log_format },
                authenticator,
                mailer,
                invitations,
                transfer_to_unknown: values.transfer_to_unknown,
                change_log_retention: values.change_log_hours,
                replica,
                access_model_strict: values.access_model_strict,
                warnings,
                files,
                fixed,
            }),
            _ => Err(Mistakes(mistakes)),
        }
    }
}

fn replica(values: &ServerValues) -> ReplicaSettings {
    ReplicaSettings {
        max_staleness: values.max_staleness_ms,
        memory_bytes: values.replica_memory_mib,
        serve_stale: values.serve_stale_ms,
        token_form: values.token_form,
    }
}

/// Reads the file with the access model that the deployment should have, and adds its mistakes.
fn expected_model(reader: &mut SettingsReader, values: &ServerValues) -> ExpectedModel {
    let Some(path) = &values.access_model_file else {
        if values.access_model_strict {
            reader.add_sentence(STRICT_WITHOUT_FILE);
        }
        return ExpectedModel::default();
    };
    match model_file::read(path) {
        Ok(model) => ExpectedModel::new(ModelFile { path: path.clone(), model }),
        Err(error) => {
            reader.add_sentence(&format!("access_model_file: {}: {error}", path.display()));
            ExpectedModel::default()
        }
    }
}

/// Adds the mistakes in the addresses to listen on, and in those of proxies.
fn check_addresses(reader: &mut SettingsReader, values: &ServerValues) {
    if values.proxy_protocol && values.trusted_proxies.is_empty() && values.listen.unix_socket().is_none() {
        reader.add_sentence(PROXY_WITHOUT_TRUST);
    }
    if values.metrics_listen.as_ref() == Some(&values.listen) && values.listen.port() != 0 {
        reader.add_sentence(SAME_ADDRESS);
    }
}

/// Reads only how to connect to the database, for a migration. Other settings in the file are not checked. Returns the
/// warnings too.
///
/// # Errors
/// All mistakes.
pub fn read_datastore(
    flags: &DatastoreFlags,
    environment: &Environment,
) -> Result<(DatastoreUrl, Vec<String>), Mistakes> {
    let mut reader = SettingsReader::new(flags.config.as_ref(), environment);
    let database = database(&mut reader, &flags.settings);
    let (mistakes, warnings) = reader.finish_part(unknown_variables_of(environment));
    database.filter(|_| mistakes.is_empty()).map(|database| (database, warnings)).ok_or(Mistakes(mistakes))
}

/// How to connect to the database; `None` after a mistake.
fn database(reader: &mut SettingsReader, flags: &DatastoreSettingFlags) -> Option<DatastoreUrl> {
    let DatastoreValues { database_url, database_password_file } = DatastoreValues::read(reader, flags);
    let Some(file) = database_password_file else { return database_url };
    if database_url.as_ref().is_some_and(DatastoreUrl::has_password) {
        reader.add_sentence(TWO_PASSWORDS);
    }
    if let Err(error) = read_password(&file) {
        reader.add_sentence(&format!("database_password_file: {error}"));
    }
    database_url.map(|url| url.with_password_file(file))
}

fn authenticator(reader: &mut SettingsReader, clock: Clock, files: &mut Vec<PathBuf>) -> Option<Authenticator> {
    let (issuers, api_keys) = (reader.tables("issuers"), reader.tables("api_keys"));
    let client_certificates = reader.tables("client_certificates");
    let readable = issuers.is_some() && api_keys.is_some() && client_certificates.is_some();
    let settings = AuthSettings {
        issuers: issuers.unwrap_or_default(),
        api_keys: api_keys.unwrap_or_default(),
        client_certificates: client_certificates.unwrap_or_default(),
        ..AuthSettings::default()
    };
    if !readable && settings.is_empty() {
        // "No credentials are configured" would only repeat the mistake in the tables.
        return None;
    }
    reader.warn(&unmarked_issuers(&settings.issuers));
    let settings = reader.resolve(settings);
    files.extend(settings.files());
    let authenticator = Authenticator::new(&settings, clock);
    authenticator.map_err(|mistakes| reader.add(mistakes)).ok().filter(|_| readable)
}

/// The mailer; `None` if mail is switched off. The table `[mail]` is required even then.
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

/// The table `[invitations]`: limits. An absent one keeps its default.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct InvitationTable {
    pending_per_organization: Option<u32>,
    per_organization_and_day: Option<u32>,
    sends_per_invitation: Option<u32>,
    cooldown_seconds: Option<u32>,
    mails_per_recipient_and_day: Option<u32>,
    mails_per_sender_to_recipient_and_day: Option<u32>,
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
        mails_per_sender_to_recipient_and_day: table
            .mails_per_sender_to_recipient_and_day
            .unwrap_or(default.mails_per_sender_to_recipient_and_day),
        failed_tokens_per_minute: table.failed_tokens_per_minute.unwrap_or(default.failed_tokens_per_minute),
    }
}
