//! The table of settings. A row makes the flag, the variable, the key in the file, the range check, the default, the
//! line of `--help` and the line of the documents.
//!
//! To add a setting: write its row here, and use its value in [`super::Settings::read`]. The compiler warns of a row
//! whose value is not used.

use super::format::{
    Setting, SettingRow, address, address_or_socket, database_url, file, filter, hours, mebibytes, milliseconds,
    milliseconds_or_none, networks, number, one_of,
};
use super::listen_address::ListenAddress;
use super::reader::SettingsReader;
use super::{LISTEN, LogFormat, LogSettings};
use crate::replica::limits::{MAX_STALENESS_MS, SERVE_STALE_MS};
use crate::server::tls::ClientCertificateMode;
use crate::server::{ServerSettings, TrustedProxies};
use crate::service::consistency_token::TokenForm;
use crate::service::limits::{LOG_RETENTION, LOG_RETENTION_HOURS};
use crate::service::{ReplicaSettings, UnknownOwners};
use crate::store::datastore_url::DatastoreUrl;
use crate::store::limits::STATEMENT;
use std::fmt::Write;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// The longest age of a connection, and the longest time for its streams to end.
const DAY: Duration = Duration::from_hours(24);
/// Connections to Postgres by default. More than a few for each of its cores only wait for each other.
pub(super) const DATABASE_CONNECTIONS: u32 = 16;

/// Defines a group of settings: a struct of flags, a struct of values, and a function for each row.
macro_rules! settings {
    ($(#[$attribute:meta])* $flags:ident => $values:ident {
        $($(#[doc = $help:literal])+ $name:ident: $type:ty = $setting:expr $(, formerly $former:ident)?;)+
    }) => {
        $(#[$attribute])*
        #[derive(Clone, Default, clap::Args)]
        pub(super) struct $flags {$(
            #[arg(long, value_name = $values::$name().row.value_name, help = $values::$name().row.help())]
            $name: Option<String>,
            $(#[arg(long, hide = true)]
            $former: Option<String>,)?
        )+}

        /// The values of these settings.
        pub(super) struct $values {$(
            $(#[doc = $help])+
            pub(super) $name: $type,
        )+}

        impl $values {
            /// Reads every setting of the group. A mistake is added to the reader's, and gives the default.
            pub(super) fn read(reader: &mut SettingsReader, flags: &$flags) -> Self {
                Self {$(
                    $name: {
                        let former_flag = None$(.or(flags.$former.as_ref()))?;
                        reader.setting(Self::$name(), flags.$name.as_ref(), former_flag)
                    },
                )+}
            }

            fn rows() -> Vec<SettingRow> {
                vec![$(Self::$name().row),+]
            }

            $(fn $name() -> Setting<$type> {
                let former = None$(.or(Some(stringify!($former))))?;
                $setting.named(stringify!($name), former, concat!($($help),+))
            })+
        }
    };
}

settings! {
    /// The settings of the datastore, as flags.
    DatastoreSettingFlags => DatastoreValues {
        /// The Postgres database, as `postgres://user:password@host:port/database`. Other users of this machine can see
        /// flags: give a password in the environment or in the file. Several hosts, as `first:5432,second:5432`, are the
        /// primary and its standbys: roster uses the one that is the primary
        database_url: Option<DatastoreUrl> = database_url().required();
        /// A file with the password for `database_url`, which then holds none. It is read again for every new connection
        database_password_file: Option<PathBuf> = file().optional("the password in `database_url`, or none");
    }
}

settings! {
    /// The settings of the server, as flags.
    ServerSettingFlags => ServerValues {
        /// Address and port to listen on, or a unix socket
        listen: ListenAddress = address_or_socket().or(LISTEN.into());
        /// PEM file of the certificate of the server, followed by its intermediate certificates. It switches TLS on, and needs
        /// `tls_key_file`
        tls_certificate_file: Option<PathBuf> = file().optional("no TLS").reloaded();
        /// PEM file of the private key of the certificate: PKCS#8, SEC1 or PKCS#1, without a password
        tls_key_file: Option<PathBuf> = file().optional("no TLS").reloaded();
        /// PEM file with the authorities of client certificates
        tls_client_ca_file: Option<PathBuf> = file().optional("no client certificates").reloaded();
        /// Whether each client needs a certificate of these authorities
        tls_client_certificates: Option<ClientCertificateMode> =
            one_of("MODE", [("optional", ClientCertificateMode::Optional), ("required", ClientCertificateMode::Required)])
                .optional("`optional`")
                .reloaded();
        /// Whether the operator knows that `listen` has no TLS, because a proxy or a service mesh encrypts: there is no
        /// warning then
        plaintext: bool = one_of("BOOL", [("true", true), ("false", false)]).or(false);
        /// Address and port of the HTTP endpoint for metrics, which asks for no credentials
        metrics_listen: Option<ListenAddress> = address().optional("no endpoint");
        /// Maximum number of connections to Postgres; the replica, health and metrics open up to 10 more
        database_connections: u32 = number("NUMBER", 1..=1_000).or(DATABASE_CONNECTIONS);
        /// Deadline of a call that names none
        default_deadline_ms: Duration = milliseconds(up_to(STATEMENT)).or(server().default_deadline);
        /// Longest deadline of any call; a longer one is shortened
        max_deadline_ms: Duration = milliseconds(up_to(STATEMENT)).or(server().max_deadline);
        /// Maximum number of concurrent reads, of concurrent writes, and of checks that wait for Postgres (each worker has
        /// its part of these, at least 256); without a credential an eighth. One address gets half of each; more are
        /// rejected with UNAVAILABLE
        max_concurrent_requests: usize = number("NUMBER", 1..=1_000_000).or(server().max_concurrent_requests);
        /// Maximum number of concurrent streams; more are rejected with UNAVAILABLE
        max_streams: usize = number("NUMBER", 1..=1_000_000).or(server().max_streams);
        /// Maximum number of concurrent streams of one caller (a service or an operator by name and issuer, or a user);
        /// more are rejected with UNAVAILABLE
        max_streams_per_caller: Option<usize> = number("NUMBER", 1..=1_000_000).optional("half of `max_streams`");
        /// Memory of the requests of all calls: 8 KiB for each, and eight times the size of its message. One address gets a
        /// quarter, one connection a sixteenth; more is rejected with UNAVAILABLE
        request_memory_mib: usize = mebibytes(1..=1024 * 1024).or(server().request_memory);
        /// Memory of the responses that wait to be sent. One address gets a quarter, one connection a sixteenth; a call
        /// beyond waits for three seconds, and is then rejected with UNAVAILABLE
        response_memory_mib: usize = mebibytes(1..=1024 * 1024).or(server().response_memory);
        /// Time for a client to read what a stream has sent, before the server ends the stream
        slow_reader_ms: Duration = milliseconds(up_to(Duration::from_mins(10))).or(server().slow_reader);
        /// Maximum number of open connections; more wait to be accepted
        max_connections: usize = number("NUMBER", 1..=1_000_000).or(server().max_connections);
        /// Maximum number of open connections of one IPv4 address, or of one IPv6 network of 64 bits; addresses in
        /// `trusted_proxies` have no such limit
        max_connections_per_address: Option<usize> =
            number("NUMBER", 1..=1_000_000).optional("a quarter of `max_connections`");
        /// Addresses of the proxies in front of the server. They stand for many clients, so no limit for each address
        /// applies to them
        trusted_proxies: TrustedProxies = networks().or_described(TrustedProxies::default(), "none");
        /// Whether each connection of a trusted proxy begins with a PROXY header (version 1 or 2), whose address then counts
        /// for the limits. It needs `trusted_proxies`, or a unix socket to listen on, whose peers are all proxies then
        proxy_protocol: bool = one_of("BOOL", [("true", true), ("false", false)]).or(server().proxy_protocol);
        /// Number of threads that serve connections
        workers: usize = number("NUMBER", 1..=1_024).or_described(server().workers, "one for each core");
        /// Age at which a connection ends, up to a tenth earlier or later, so that new servers get their part of the calls.
        /// Calls under way go on, and the next ones come over another connection. 0: no maximum
        max_connection_age_ms: Option<Duration> = milliseconds_or_none(zero_to(DAY)).or(server().max_connection_age);
        /// Time between the age of a connection and the end of its streams with `SERVER_STOPPING`; calls that are still under
        /// way half a second later are lost
        max_connection_age_grace_ms: Duration = milliseconds(up_to(DAY)).or(server().connection_age_grace);
        /// Time between `NOT_SERVING` and the closed listener when the server stops: longer than a proxy takes to notice.
        /// New connections and calls are served in it
        lame_duck_ms: Duration = milliseconds(zero_to(Duration::from_mins(10))).or(server().lame_duck);
        /// Time for open calls to end when the server stops
        drain_ms: Duration = milliseconds(up_to(Duration::from_mins(10))).or(server().drain);
        /// Whether the owner of an organization may transfer it to a user who is not known, which may be a typing mistake:
        /// nothing but a method that adds members has named the id. Operators always may
        transfer_to_unknown: UnknownOwners =
            one_of("MODE", [("allow", UnknownOwners::Allow), ("refuse", UnknownOwners::Refuse)]).or(UnknownOwners::Allow);
        /// How long the change log is kept, and so how long a follower of changes may be away
        change_log_hours: Duration = hours(LOG_RETENTION_HOURS).or(LOG_RETENTION);
        /// Maximum staleness of a check that names no consistency requirement
        max_staleness_ms: Duration = milliseconds(MAX_STALENESS_MS).or(replica().max_staleness);
        /// Memory of the replica; Postgres answers for memberships that do not fit. 0: no replica
        replica_memory_mib: usize = mebibytes(0..=1024 * 1024).or(replica().memory_bytes), formerly index_memory_mib;
        /// Maximum staleness of answers while Postgres is unavailable; such answers are marked as stale
        serve_stale_ms: Option<Duration> = milliseconds(SERVE_STALE_MS).optional("no stale answers");
        /// File with the access model that the deployment should have, in TOML if its name ends in `.toml`, otherwise in JSON.
        /// The server changes nothing: a difference from the stored model is a warning and a metric
        access_model_file: Option<PathBuf> = file().optional("no comparison").reloaded();
        /// Whether the server refuses to start if the stored access model differs from `access_model_file`, or cannot be
        /// read. A later difference stays a warning
        access_model_strict: bool = one_of("BOOL", [("true", true), ("false", false)]).or(false);
        /// Form of the consistency tokens and cursors that the server issues; it accepts both. 1 while servers of release
        /// 0.2 run: they do not read form 2. A token of form 1 counts as `fully_consistent`. The next release issues 2 by
        /// default
        token_form: TokenForm =
            one_of("FORM", [("1", TokenForm::Positions), ("2", TokenForm::Marks)]).or(TokenForm::Positions);
        /// Format of log lines
        log_format: LogFormat =
            one_of("FORMAT", [("text", LogFormat::Text), ("json", LogFormat::Json)]).or(LogFormat::Text);
        /// Which log lines are written: a level or `target=level,…`
        log: String = filter().or(LogSettings::default().filter).reloaded();
        /// Whether clients may read the protos by server reflection
        reflection: bool = one_of("BOOL", [("true", true), ("false", false)]).or(server().reflection);
    }
}

fn server() -> ServerSettings {
    ServerSettings::default()
}

fn replica() -> ReplicaSettings {
    ReplicaSettings::default()
}

fn up_to(longest: Duration) -> RangeInclusive<u64> {
    1..=longest_ms(longest)
}

/// As [`up_to`], and 0 too.
fn zero_to(longest: Duration) -> RangeInclusive<u64> {
    0..=longest_ms(longest)
}

fn longest_ms(longest: Duration) -> u64 {
    u64::try_from(longest.as_millis()).unwrap_or(u64::MAX)
}

/// The variable of every setting, under its present name and its former one.
pub(super) fn variables() -> Vec<String> {
    let rows = DatastoreValues::rows().into_iter().chain(ServerValues::rows());
    rows.flat_map(|row| [Some(row.name), row.former]).flatten().map(SettingRow::variable).collect()
}

/// Every setting that is a flag, a variable and a key of the file, as a Markdown table for the documents.
#[must_use]
pub fn markdown() -> String {
    let mut table =
        "| setting | flag | variable | default | range | takes effect | meaning |\n|---|---|---|---|---|---|---|\n"
            .to_owned();
    for row in DatastoreValues::rows().into_iter().chain(ServerValues::rows()) {
        let former = row.former.map(|former| format!(" (formerly `{former}`)")).unwrap_or_default();
        let cells = [
            format!("`{}`", row.name),
            format!("`{}`", SettingRow::flag(row.name)),
            format!("`{}`", SettingRow::variable(row.name)),
            row.default.unwrap_or_else(|| "required".to_owned()),
            row.range,
            if row.is_reloaded { "at a reload" } else { "at the start" }.to_owned(),
            format!("{}{former}", row.help),
        ];
        // Writing to a string cannot fail.
        let _ = writeln!(table, "| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
    }
    table
}
