//! The environment variables that may be settings.

use crate::domain::nearest::nearest;
use std::collections::BTreeMap;
use std::ffi::OsString;

/// How the names of all variables of roster begin.
pub(super) const PREFIX: &str = "ROSTER_";
/// The variable that names the settings file.
pub(super) const CONFIG: &str = "ROSTER_CONFIG";
/// Begins of names, behind [`PREFIX`], of variables for the tests, the benchmarks and the private Postgres. They are no
/// settings, and no setting may have such a name.
const OTHER_USES: [&str; 3] = ["TEST_", "BENCH_", "POSTGRES_"];
/// The tables of the settings file, which no variable can hold.
const TABLES: [&str; 4] = ["ISSUERS", "API_KEYS", "MAIL", "INVITATIONS"];

/// The variables of a process whose names begin with `ROSTER_`. An empty variable counts as absent.
#[derive(Clone)]
pub struct Environment(BTreeMap<String, VariableText>);

/// The text of a variable; `None` if it is not Unicode.
type VariableText = Option<String>;

impl Environment {
    /// The environment of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self::new(std::env::vars_os())
    }

    /// An environment with these variables.
    pub fn new<N: Into<OsString>, V: Into<OsString>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let variables = variables.into_iter().filter_map(|(name, value)| {
            let name = name.into().into_string().ok().filter(|name| name.starts_with(PREFIX))?;
            let value: OsString = value.into();
            (!value.is_empty()).then(|| (name, value.into_string().ok()))
        });
        Self(variables.collect())
    }

    /// The text of a variable; `None` if the variable is absent.
    pub(super) fn find(&self, name: &str) -> Option<&VariableText> {
        self.0.get(name)
    }

    /// One sentence for each variable that is no setting. A variable with the name of a setting and one of another use
    /// ([`is_other_use`]) are left out. `settings` are the variables of all settings.
    #[must_use]
    pub(super) fn unknown_variables(&self, settings: &[String]) -> Vec<String> {
        let unknown = self.0.keys().filter(|name| {
            !settings.contains(name) && *name != CONFIG && !is_other_use(name.strip_prefix(PREFIX).unwrap_or(name))
        });
        unknown.map(|name| sentence(name, settings)).collect()
    }
}

fn sentence(name: &str, settings: &[String]) -> String {
    let rest = name.strip_prefix(PREFIX).unwrap_or(name);
    let table = TABLES
        .iter()
        .find(|table| rest.strip_prefix(**table).is_some_and(|end| end.is_empty() || end.starts_with('_')));
    if let Some(table) = table {
        format!("{name}: no such setting; only the settings file can hold the table {}", table.to_lowercase())
    } else {
        let names = settings.iter().map(String::as_str).chain([CONFIG]);
        format!("{name}: no such setting; the nearest is {}", nearest(name, names))
    }
}

/// Whether a variable with this name behind [`PREFIX`] belongs to another program. Kubernetes sets variables for each
/// Service in the namespace of a pod, so a Service named `roster` or `roster-metrics` causes some that begin with
/// `ROSTER_`: `…_SERVICE_HOST`, `…_SERVICE_PORT`, `…_SERVICE_PORT_<port name>`, `…_PORT` and `…_PORT_<number>_TCP…`.
pub(super) fn is_other_use(name: &str) -> bool {
    if OTHER_USES.iter().any(|begin| name.starts_with(begin)) {
        return true;
    }
    let words: Vec<&str> = name.split('_').collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    (0..words.len()).any(|at| match &words[at..] {
        ["SERVICE", "HOST"] | ["SERVICE", "PORT", ..] | ["PORT"] => true,
        ["PORT", number, "TCP" | "UDP" | "SCTP", ..] => is_number(number),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::table;

    fn unknown(names: &[&str]) -> Vec<String> {
        Environment::new(names.iter().map(|name| (*name, "x"))).unknown_variables(&table::variables())
    }

    #[test]
    fn variables_of_other_uses_are_ignored() {
        let others = [
            "ROSTER_SERVICE_HOST",
            "ROSTER_SERVICE_PORT",
            "ROSTER_SERVICE_PORT_GRPC",
            "ROSTER_SERVICE_PORT_GRPC_WEB",
            "ROSTER_PORT",
            "ROSTER_PORT_50051_TCP",
            "ROSTER_PORT_50051_TCP_PROTO",
            "ROSTER_PORT_50051_TCP_PORT",
            "ROSTER_PORT_50051_TCP_ADDR",
            "ROSTER_PORT_53_UDP_ADDR",
            "ROSTER_METRICS_SERVICE_HOST",
            "ROSTER_METRICS_SERVICE_PORT_HTTP",
            "ROSTER_METRICS_PORT",
            "ROSTER_METRICS_PORT_9464_TCP_ADDR",
            "ROSTER_TEST_CITUS_URL",
            "ROSTER_BENCH_SECONDS",
            "ROSTER_POSTGRES_BIN",
            "ROSTER_CONFIG",
            "ROSTER_LISTEN",
            "ROSTER_INDEX_MEMORY_MIB",
            "PATH",
            "ROSTERS",
        ];
        assert_eq!(unknown(&others), Vec::<String>::new());
        assert_eq!(
            Environment::new([("ROSTER_LISTN", "")]).unknown_variables(&table::variables()),
            Vec::<String>::new()
        );
    }

    #[test]
    fn an_unknown_variable_is_named_with_the_nearest_setting() {
        for (name, nearest) in [
            ("ROSTER_LISTN", "ROSTER_LISTEN"),
            ("ROSTER_listen", "ROSTER_LISTEN"),
            ("ROSTER_DATABASE_URI", "ROSTER_DATABASE_URL"),
            ("ROSTER_DATABASEURL", "ROSTER_DATABASE_URL"),
            ("ROSTER_LOG_LEVEL", "ROSTER_LOG_FORMAT"),
            ("ROSTER_CONFIG_FILE", "ROSTER_CONFIG"),
            ("ROSTER_PORTS", "ROSTER_WORKERS"),
            ("ROSTER_DRAIN", "ROSTER_DRAIN_MS"),
            ("ROSTER_PORT_X_TCP", "ROSTER_"),
            ("ROSTER_TESTS", "ROSTER_"),
        ] {
            let found = unknown(&[name]);
            let expected = format!("{name}: no such setting; the nearest is {nearest}");
            assert!(found.len() == 1 && found[0].starts_with(&expected), "{found:?}");
        }
        assert_eq!(
            unknown(&["ROSTER_MAIL_HOST", "ROSTER_API_KEYS"]),
            [
                "ROSTER_API_KEYS: no such setting; only the settings file can hold the table api_keys",
                "ROSTER_MAIL_HOST: no such setting; only the settings file can hold the table mail",
            ]
        );
    }

    #[test]
    fn no_setting_has_the_name_of_another_use() {
        for variable in table::variables() {
            assert!(!is_other_use(variable.strip_prefix(PREFIX).unwrap()), "{variable}");
        }
    }
}
