//! The filter of log lines: levels and targets, of which each must be one that exists.

use crate::domain::nearest::nearest;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// What a filter consists of, for messages and documents.
pub(super) const FORM: &str = "a level (error, warn, info, debug, trace), or several as roster=debug,sqlx=warn";
/// The crates of the program that may log. The target of a line begins with the name of its crate.
const CRATES: [&str; 18] = [
    "roster",
    "axum",
    "h2",
    "hyper",
    "hyper_util",
    "lettre",
    "mio",
    "reqwest",
    "rustls",
    "rustls_platform_verifier",
    "sqlx",
    "sqlx_core",
    "sqlx_postgres",
    "tokio",
    "tokio_rustls",
    "tokio_util",
    "tonic",
    "tower",
];
/// The modules of this crate, which are the second part of its targets.
const MODULES: [&str; 23] = [
    "authn",
    "authz",
    "cli",
    "client",
    "clock",
    "config",
    "domain",
    "error_causes",
    "grpc",
    "leaky_bucket",
    "lifecycle",
    "limited_log",
    "mail",
    "pb",
    "postgres",
    "random",
    "replica",
    "replica_tables",
    "reset_causes",
    "server",
    "service",
    "store",
    "telemetry",
];

/// Checks a filter. Spaces around its parts do not count.
///
/// # Errors
/// All mistakes, each the end of a sentence that begins with "write". The library that applies a filter takes a
/// mistyped level for a target that no line has, and would then print nothing.
pub fn parse(text: &str) -> Result<String, Vec<String>> {
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Err(vec![FORM.to_owned()]);
    }
    let mistakes: Vec<String> = parts.iter().filter_map(|part| mistake(part)).collect();
    let filter = parts.join(",");
    if !mistakes.is_empty() {
        Err(mistakes)
    } else if EnvFilter::try_new(&filter).is_err() {
        Err(vec![FORM.to_owned()])
    } else {
        Ok(filter)
    }
}

/// The mistake in one part: `level`, `target`, `target=level`, or `target[span]=level`.
fn mistake(part: &str) -> Option<String> {
    let (target, rest) = part.find(['[', '=']).map_or((part, ""), |at| part.split_at(at));
    let level = match rest.rsplit_once(']') {
        Some((_, after)) => after.strip_prefix('='),
        None => rest.strip_prefix('='),
    };
    if rest.is_empty() {
        return (!is_level(part)).then(|| format!("a level (error, warn, info, debug, trace) in place of {part:?}"));
    }
    if level.is_some_and(|level| !is_level(level)) {
        return Some(format!("a level (error, warn, info, debug, trace) at the end of {part:?}"));
    }
    let mut segments = target.split("::");
    let (first, second) = (segments.next().unwrap_or_default(), segments.next());
    // Without a target, the part selects spans of every target.
    if !target.is_empty() && !CRATES.contains(&first) {
        return Some(format!(
            "a target that log lines have in place of {first:?}: the nearest is {}",
            nearest(first, CRATES)
        ));
    }
    let module = second.filter(|module| first == "roster" && !MODULES.contains(module))?;
    Some(format!(
        "a target that log lines have in place of \"roster::{module}\": the nearest is roster::{}",
        nearest(module, MODULES)
    ))
}

fn is_level(text: &str) -> bool {
    !text.is_empty() && text.parse::<LevelFilter>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn levels_and_existing_targets_are_accepted() {
        for (text, filter) in [
            ("info", "info"),
            ("WARN", "WARN"),
            ("off", "off"),
            ("roster=debug,sqlx=warn", "roster=debug,sqlx=warn"),
            (" info , h2=off,", "info,h2=off"),
            ("roster::replica::follower=trace", "roster::replica::follower=trace"),
            ("roster[rpc{path=a}]=debug,info", "roster[rpc{path=a}]=debug,info"),
            ("[rpc]=debug", "[rpc]=debug"),
            ("sqlx::query=debug", "sqlx::query=debug"),
        ] {
            assert_eq!(parse(text), Ok(filter.to_owned()), "{text}");
        }
    }

    #[test]
    fn every_mistyped_level_and_target_is_named() {
        for (text, words) in [
            ("", &["a level"][..]),
            (" , ", &["a level"]),
            ("inf", &["in place of \"inf\""]),
            ("roster", &["in place of \"roster\""]),
            ("roster=", &["at the end of \"roster=\""]),
            ("roster=loud", &["at the end of \"roster=loud\""]),
            ("=debug,inf", &["in place of \"inf\""]),
            ("rooster=debug", &["in place of \"rooster\": the nearest is roster"]),
            ("Roster=debug", &["in place of \"Roster\": the nearest is roster"]),
            ("hyper-util=debug", &["the nearest is hyper_util"]),
            ("roster::servr=debug", &["in place of \"roster::servr\": the nearest is roster::server"]),
            ("roster[rpc]=loud", &["at the end of"]),
            ("info,debg,sqlxx=warn,roster=loud", &["\"debg\"", "\"sqlxx\"", "\"roster=loud\""]),
        ] {
            let mistakes = parse(text).err().unwrap_or_default();
            assert_eq!(mistakes.len(), words.len(), "{text}: {mistakes:?}");
            for (mistake, words) in mistakes.iter().zip(words) {
                assert!(mistake.contains(words), "{text}: {mistake}");
            }
        }
    }

    #[test]
    fn the_targets_are_the_modules_and_the_crates_that_log() {
        // The build, and what no part of the program uses: drivers of other databases, HTTP/3, and other platforms.
        const UNUSED: &str = "prost-build sqlx-mysql sqlx-sqlite tracing tracing-log tracing-subscriber jni quinn \
                              quinn-proto quinn-udp";
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
        let library = read("src/lib.rs");
        let modules: Vec<&str> =
            library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
        let mut listed = MODULES.to_vec();
        assert!(modules.len() > 15, "{modules:?}");
        listed.sort_unstable();
        let mut modules = modules;
        modules.sort_unstable();
        assert_eq!(listed, modules);
        let unused: Vec<&str> = UNUSED.split_whitespace().collect();
        let lock = read("Cargo.lock");
        for package in lock
            .split("[[package]]")
            .filter(|package| package.contains("\n \"tracing\"") || package.contains("\n \"log\""))
        {
            let name = package.split('"').nth(1).unwrap();
            assert!(unused.contains(&name) || CRATES.contains(&&*name.replace('-', "_")), "{name} logs");
        }
        for name in CRATES {
            assert!(lock.contains(&format!("name = \"{}\"", name.replace('_', "-"))), "{name} is no crate");
        }
    }
}
