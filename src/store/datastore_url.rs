//! The URL of the datastore: where the primary is, and how to connect to it.

use crate::domain::Invalid;
use sqlx::postgres::PgConnectOptions;
use std::str::FromStr;

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
/// The form of a URL, for error messages.
pub const FORM: &str = "a URL of the form postgres://user:password@host:port/database";

/// The hosts of a datastore and how to connect to each. It may hold a password and implements no `Debug`.
///
/// Several hosts, as `postgres://user@first:5432,second:5432/database`, are the same datastore: one is its primary, the
/// others are its standbys. roster uses the host that is the primary.
#[derive(Clone)]
pub struct DatastoreUrl(Vec<PgConnectOptions>);

impl DatastoreUrl {
    /// Parses a `postgres://` or `postgresql://` URL.
    ///
    /// # Errors
    /// If it is anything else, or has a parameter that would not take effect. The error does not repeat the text, which
    /// may hold a password, except the name of a parameter.
    pub fn parse(url: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::new(FORM);
        let (scheme, rest) = url.split_once("://").ok_or_else(invalid)?;
        if !matches!(scheme, "postgres" | "postgresql") {
            return Err(invalid());
        }
        let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
        let query = checked_query(query)?;
        let (authority, path) = before.split_once('/').unwrap_or((before, ""));
        // The user and the password end at the last `@`.
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let at = if authority.contains('@') { "@" } else { "" };
        let one = |host: &str| {
            let options = PgConnectOptions::from_str(&format!("postgres://{user}{at}{host}/{path}?{query}"));
            options.map(|options| options.application_name("roster")).map_err(|_| invalid())
        };
        let hosts: Vec<&str> = hosts.split(',').collect();
        if hosts.len() > 1 && hosts.iter().any(|host| host.is_empty()) {
            return Err(Invalid::new(
                "a URL that names each of its hosts, as postgres://user@first:5432,second:5432/database",
            ));
        }
        Ok(Self(hosts.into_iter().map(one).collect::<Result<_, _>>()?))
    }

    /// How to connect to each host, in the order of the URL. There is at least one.
    #[must_use]
    pub fn hosts(&self) -> &[PgConnectOptions] {
        &self.0
    }
}

/// The query of a URL without `target_session_attrs`, which the driver does not know.
fn checked_query(query: &str) -> Result<String, Invalid> {
    let mut kept = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name == SESSION {
            if !WRITABLE.contains(&value) {
                return Err(Invalid::new(
                    "a URL without target_session_attrs, or with target_session_attrs=read-write: roster always uses a \
                     session that can write",
                ));
            }
        } else if name.contains("host") && value.contains(',') {
            return Err(Invalid::new(
                "a URL that lists several hosts before the database, as first:5432,second:5432/database",
            ));
        } else if kept.iter().any(|(kept, _)| *kept == name) && !name.starts_with("options") {
            return Err(Invalid::new(format!("a URL with the parameter {name:?} once")));
        } else if PARAMETERS.contains(&name) || (name.starts_with("options[") && name.ends_with(']')) {
            let alone = format!("postgres://host/database?{pair}");
            if PgConnectOptions::from_str(&alone).is_err() {
                return Err(Invalid::new(format!("a URL with a value of {name:?} that it can have")));
            }
            kept.push((name, pair));
        } else {
            return Err(Invalid::new(format!("a URL without the parameter {name:?}, which has no effect")));
        }
    }
    Ok(kept.into_iter().map(|(_, pair)| pair).collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(url: &str) -> Vec<(String, u16)> {
        let url = DatastoreUrl::parse(url).unwrap_or_else(|invalid| panic!("{url}: {}", invalid.0));
        url.hosts().iter().map(|host| (host.get_host().to_owned(), host.get_port())).collect()
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
        for host in url.ok().unwrap().hosts() {
            assert_eq!((host.get_username(), host.get_database()), ("u@x", Some("db")));
        }
        assert_eq!(hosts("postgres:///db?host=a&port=7"), [one("a", 7)]);
    }

    #[test]
    fn parameters_without_effect_are_refused() {
        for url in [
            "mysql://a/db",
            "a",
            "postgres://a,/db",
            "postgres://,/db",
            "postgres://a/db?sslmod=require",
            "postgres://a/db?sslmode=required",
            "postgres://a/db?target_session_attrs=any",
            "postgres://a/db?target_session_attrs=standby",
            "postgres://a/db?target_session_attrs=",
            "postgres://a/db?host=a,b",
            "postgres://a/db?sslmode=require&sslmode=disable",
            "postgres://a/db?port=x",
            "postgres://a/db?connect_timeout=3",
            "postgres://a:x/db",
        ] {
            assert!(DatastoreUrl::parse(url).is_err(), "{url}");
        }
    }
}
