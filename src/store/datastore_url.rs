//! The URL of the datastore: where the primary is, and how to connect to it.

use super::limits;
use sqlx::postgres::PgConnectOptions;
use std::fmt::Display;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use url::form_urlencoded;

/// The parameters of a URL that roster passes on to the driver. The driver ignores every other parameter, so a mistyped
/// `sslmode` would switch TLS off.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];
/// The parameter that names the kind of session that is wanted.
const SESSION: &str = "target_session_attrs";
/// The values of [`SESSION`] that mean what roster always requires: a session that can write.
const WRITABLE: [&str; 2] = ["read-write", "primary"];
/// The parameters that name files in PEM, each with the line that such a file must hold.
const FILES: [(&str, &str); 7] = [
    ("sslrootcert", "-----BEGIN CERTIFICATE-----"),
    ("ssl-root-cert", "-----BEGIN CERTIFICATE-----"),
    ("ssl-ca", "-----BEGIN CERTIFICATE-----"),
    ("sslcert", "-----BEGIN CERTIFICATE-----"),
    ("ssl-cert", "-----BEGIN CERTIFICATE-----"),
    ("sslkey", "PRIVATE KEY-----"),
    ("ssl-key", "PRIVATE KEY-----"),
];
/// The parameters of libpq that roster does not honour. Providers of databases put some of them into their URLs.
const LIBPQ: [&str; 39] = [
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "passfile",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "scram_client_key",
    "scram_server_key",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkeylogfile",
    "sslnegotiation",
    "sslpassword",
    "sslsni",
    "tcp_user_timeout",
];
/// The form of a URL, for error messages.
pub const FORM: &str = "a URL of the form postgres://user:password@host:port/database";
/// What to write if a character of the user or the password probably ended it.
const ESCAPES: &str = "a URL whose user and password hold no /, ?, # or @: write them as %2F, %3F, %23 and %40";

/// All mistakes in a URL, each the end of a sentence that begins with "write". They do not repeat the text, which may
/// hold a password, except the name of a parameter and the path of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid URL of the database: write {}", .0.join("; write "))]
pub struct InvalidUrl(pub Vec<String>);

/// The hosts of a datastore and how to connect to each. It may hold a password and implements no `Debug`.
///
/// Several hosts, as `postgres://user@first:5432,second:5432/database`, are the same datastore: one is its primary, the
/// others are its standbys. roster uses the host that is the primary.
#[derive(Clone)]
pub struct DatastoreUrl {
    hosts: Vec<PgConnectOptions>,
    has_password: bool,
    password_file: Option<PathBuf>,
}

impl DatastoreUrl {
    /// Parses a `postgres://` or `postgresql://` URL, and looks into the files that it names.
    ///
    /// # Errors
    /// If it is anything else, has a parameter that would not take effect, or names a file that cannot be used.
    pub fn parse(url: &str) -> Result<Self, InvalidUrl> {
        let invalid = |mistake: &str| InvalidUrl(vec![mistake.to_owned()]);
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid(FORM))?;
        if !matches!(scheme, "postgres" | "postgresql") {
            return Err(invalid(FORM));
        }
        let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = before.split_once('/').unwrap_or((before, ""));
        if url.contains('#') || path.contains('@') || is_part_of_password(authority, query) {
            return Err(invalid(ESCAPES));
        }
        let mut mistakes = Vec::new();
        let query = checked_query(query, &mut mistakes);
        // The user and the password end at the last `@`.
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let at = if authority.contains('@') { "@" } else { "" };
        let hosts: Vec<&str> = hosts.split(',').collect();
        let mut options = Vec::new();
        if hosts.len() > 1 && hosts.iter().any(|host| host.is_empty()) {
            mistakes
                .push("a URL that names each of its hosts, as postgres://user@first:5432,second:5432/database".into());
        } else {
            let parse = |host| PgConnectOptions::from_str(&format!("postgres://{user}{at}{host}/{path}?{query}"));
            match hosts.into_iter().map(parse).collect::<Result<Vec<_>, _>>() {
                Ok(hosts) => options = hosts.into_iter().map(|host| host.application_name("roster")).collect(),
                Err(_) => mistakes.push(FORM.to_owned()),
            }
        }
        let has_password = user.contains(':') || query.split('&').any(|pair| pair.starts_with("password="));
        if mistakes.is_empty() {
            Ok(Self { hosts: options, has_password, password_file: None })
        } else {
            Err(InvalidUrl(mistakes))
        }
    }

    /// Whether the URL itself holds a password.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.has_password
    }

    /// Takes the password from this file, which is read for every connection: a changed password needs no restart. White
    /// space at the end of the file does not count.
    #[must_use]
    pub fn with_password_file(self, file: PathBuf) -> Self {
        Self { password_file: Some(file), ..self }
    }

    /// How to connect to each host, in the order of the URL. There is at least one.
    ///
    /// # Errors
    /// If the password file cannot be read.
    pub fn hosts(&self) -> io::Result<Vec<PgConnectOptions>> {
        let Some(file) = &self.password_file else { return Ok(self.hosts.clone()) };
        let password = read_password(file)?;
        Ok(self.hosts.iter().map(|host| host.clone().password(&password)).collect())
    }
}

/// Reads a password file of at most [`limits::PASSWORD_FILE_BYTES`].
///
/// # Errors
/// If it cannot be read, is larger, or holds no text.
pub fn read_password(file: &Path) -> io::Result<String> {
    let named =
        |error: &dyn Display| io::Error::other(format!("the password file {} cannot be used: {error}", file.display()));
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(|error| named(&error))?;
    opened.take(limits::PASSWORD_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| named(&error))?;
    let password = text.trim_ascii_end();
    if u64::try_from(text.len()).is_ok_and(|bytes| bytes > limits::PASSWORD_FILE_BYTES) {
        Err(named(&"it is larger than 4 KiB"))
    } else if password.is_empty() {
        Err(named(&"it is empty"))
    } else {
        Ok(password.to_owned())
    }
}

/// Whether what follows the first `?` probably is the rest of a password: no user stands before it, and behind it stand
/// an `@` and something that is no parameter. Its text may not be reported then.
fn is_part_of_password(authority: &str, query: &str) -> bool {
    let is_parameter = |pair: &str| is_known(pair.split('=').next().unwrap_or_default());
    !authority.contains('@') && query.contains('@') && !query.split('&').all(is_parameter)
}

fn is_known(name: &str) -> bool {
    PARAMETERS.contains(&name) || LIBPQ.contains(&name) || name == SESSION || is_option(name)
}

/// Whether a parameter sets one of Postgres's settings, as `options[work_mem]`.
fn is_option(name: &str) -> bool {
    name.starts_with("options[") && name.ends_with(']')
}

/// The query of a URL without `target_session_attrs`, which the driver does not know, and without what is a mistake.
fn checked_query(query: &str, mistakes: &mut Vec<String>) -> String {
    let mut kept: Vec<(&str, &str)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split('=').next().unwrap_or_default();
        match parameter_mistake(name, pair, &kept) {
            Some(mistake) => mistakes.push(mistake),
            None if name == SESSION => {}
            None => kept.push((name, pair)),
        }
    }
    let has = |names: [&str; 2]| kept.iter().any(|(name, _)| names.contains(name));
    if has(["sslcert", "ssl-cert"]) != has(["sslkey", "ssl-key"]) {
        mistakes.push("a URL with both sslcert and sslkey, or with neither".to_owned());
    }
    kept.into_iter().map(|(_, pair)| pair).collect::<Vec<_>>().join("&")
}

fn parameter_mistake(name: &str, pair: &str, kept: &[(&str, &str)]) -> Option<String> {
    let value = form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value).unwrap_or_default();
    if LIBPQ.contains(&name) {
        return Some(format!("a URL without the parameter {name:?}: it is one of libpq that roster does not honour"));
    }
    if !is_known(name) {
        let is_word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.[]".contains(&byte));
        let unknown = format!("a URL without the parameter {name:?}, which has no effect");
        return Some(if is_word { unknown } else { ESCAPES.to_owned() });
    }
    if name == SESSION {
        return (!WRITABLE.contains(&&*value)).then(|| {
            "a URL without target_session_attrs, or with target_session_attrs=read-write: roster always uses a session \
             that can write"
                .to_owned()
        });
    }
    if name.contains("host") && value.contains(',') {
        return Some(
            "a URL that lists several hosts before the database, as first:5432,second:5432/database".to_owned(),
        );
    }
    if kept.iter().any(|(kept, _)| *kept == name) && !name.starts_with("options") {
        return Some(format!("a URL with the parameter {name:?} once"));
    }
    if PgConnectOptions::from_str(&format!("postgres://host/database?{pair}")).is_err() {
        return Some(format!("a URL with a value of {name:?} that it can have"));
    }
    let (_, line) = FILES.iter().find(|(file, _)| *file == name)?;
    let problem = match std::fs::read(&*value) {
        Ok(bytes) if bytes.windows(line.len()).any(|window| window == line.as_bytes()) => return None,
        Ok(_) => format!("has no line {line}"),
        Err(error) => format!("cannot be read: {error}"),
    };
    Some(format!("a URL whose {name} is a PEM file: {value} {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(url: &str) -> Vec<(String, u16)> {
        let url = DatastoreUrl::parse(url).unwrap_or_else(|invalid| panic!("{url}: {invalid}"));
        url.hosts().unwrap().iter().map(|host| (host.get_host().to_owned(), host.get_port())).collect()
    }

    #[test]
    fn several_hosts_are_several_connections_with_the_same_user_and_database() {
        let one = |host: &str, port| (host.to_owned(), port);
        assert_eq!(hosts("postgres://u:p@a:1/db"), [one("a", 1)]);
        assert_eq!(
            hosts("postgresql://u:p,@a:1,[::1]:2,c/db?sslmode=require"),
            [one("a", 1), one("[::1]", 2), one("c", 5432)]
        );
        let url = DatastoreUrl::parse("postgres://u%40x:p@a,b/db?target_session_attrs=read-write&sslmode=disable");
        for host in url.ok().unwrap().hosts().unwrap() {
            assert_eq!((host.get_username(), host.get_database()), ("u@x", Some("db")));
        }
        assert_eq!(hosts("postgres:///db?host=a&port=7"), [one("a", 7)]);
    }

    fn mistakes(url: &str) -> Vec<String> {
        DatastoreUrl::parse(url).err().map(|invalid| invalid.0).unwrap_or_default()
    }

    #[test]
    fn parameters_without_effect_are_refused() {
        for url in [
            "mysql://a/db",
            "a",
            "postgres://a,/db",
            "postgres://,/db",
            "postgres://a/db?sslmod=require",
            "postgres://a/db?sslmodee=",
            "postgres://a/db?sslmode=required",
            "postgres://a/db?target_session_attrs=any",
            "postgres://a/db?target_session_attrs=standby",
            "postgres://a/db?target_session_attrs=",
            "postgres://a/db?host=a,b",
            "postgres://a/db?sslmode=require&sslmode=disable",
            "postgres://a/db?port=x",
            "postgres://a/db?connect_timeout=3",
            "postgres://a/db?sslrootcert=/nope",
            "postgres://a/db?sslrootcert=/",
            "postgres://a/db?sslrootcert=",
            "postgres://a/db?sslrootcert=system",
            "postgres://a/db?sslcert=/nope&sslkey=/nope",
            "postgres://a:x/db",
        ] {
            assert_ne!(mistakes(url), Vec::<String>::new(), "{url}");
        }
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let found = mistakes("postgres://a:x/db?sslmodee=x&channel_binding=require&sslmode=on&sslcert=/nope");
        let words = ["sslmodee", "channel_binding\": it is one of libpq", "\"sslmode\"", "/nope cannot be read", FORM];
        assert_eq!(found.len(), words.len(), "{found:?}");
        for (found, words) in found.iter().zip(words) {
            assert!(found.contains(words), "{found}");
        }
        for name in LIBPQ {
            let found = mistakes(&format!("postgres://a/db?{name}=1"));
            assert!(found.len() == 1 && found[0].contains("one of libpq"), "{found:?}");
            assert!(!PARAMETERS.contains(&name), "{name}");
        }
    }

    #[test]
    fn files_are_looked_into() {
        let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = (directory.path().join("a b.pem"), directory.path().join("key.pem"));
        std::fs::write(&certificate, "-----BEGIN CERTIFICATE-----\n").unwrap();
        std::fs::write(&key, "-----BEGIN EC PRIVATE KEY-----\n").unwrap();
        let escaped = certificate.display().to_string().replace(' ', "%20");
        let url = |query: &str| format!("postgres://a/db?{query}");
        assert_eq!(mistakes(&url(&format!("sslrootcert={escaped}&sslmode=verify-full"))), Vec::<String>::new());
        assert_eq!(mistakes(&url(&format!("sslcert={escaped}&sslkey={}", key.display()))), Vec::<String>::new());
        let alone = mistakes(&url(&format!("sslcert={escaped}")));
        assert_eq!(alone, ["a URL with both sslcert and sslkey, or with neither"]);
        let other = mistakes(&url(&format!("sslrootcert={keys}/es256.pem")));
        assert_eq!(other.len(), 1);
        assert!(other[0].contains("has no line -----BEGIN CERTIFICATE-----"), "{other:?}");
    }

    #[test]
    fn a_password_with_delimiters_is_neither_used_nor_repeated() {
        for password in ["12#s3cret", "12/s3cret", "12?s3cret", "p?s3cret=1", "p#s3cret", "x/s3cret@y", "x@y?s3cret"] {
            assert_eq!(mistakes(&format!("postgres://u:{password}@host/db")), [ESCAPES], "{password}");
        }
        assert_eq!(hosts("postgres://u:p@x@host/db"), [("host".to_owned(), 5432)]);
    }
}
