//! The rooms of the house, and which doors there are between them: read off the sources.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room with the rooms that it may look into. What is not here is at the top (`server`, `cli` …) and sees all.
const DOORS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("clock", &[]),
    ("random", &[]),
    ("pb", &[]),
    ("postgres", &["random"]),
    ("store", &["domain"]),
    ("replica_tables", &["domain"]),
    ("replica", &["store", "replica_tables", "domain", "clock", "random"]),
    ("authn", &["domain", "clock", "random"]),
    ("authz", &["authn", "domain"]),
    ("service", &["authn", "authz", "replica", "store", "domain", "clock", "random"]),
    ("grpc", &["service", "authn", "authz", "pb", "domain", "clock", "random"]),
    ("client", &["replica_tables", "pb", "domain", "clock", "random"]),
    ("mail", &["service", "authn", "domain", "clock"]),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Every line of code, with its room and file: comments left out.
fn lines() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut lines = Vec::new();
    for file in sources(&root) {
        let inside = file.strip_prefix(&root).unwrap().to_owned();
        let first = inside.iter().next().unwrap().to_str().unwrap();
        let name = first.trim_end_matches(".rs").to_owned();
        for line in fs::read_to_string(&file).unwrap().lines() {
            let code = line.split("//").next().unwrap_or_default();
            lines.push((name.clone(), inside.clone(), code.to_owned()));
        }
    }
    assert!(lines.len() > 1000, "the sources were not found");
    lines
}

#[test]
fn arrows_point_one_way() {
    let doors: BTreeMap<&str, &[&str]> = DOORS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (room, file, code) in lines() {
        let Some(allowed) = doors.get(room.as_str()) else { continue };
        for used in code.split("crate::").skip(1) {
            let target = used.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            let is_room = DOORS.iter().any(|(name, _)| *name == target)
                || ["server", "cli", "config", "lifecycle", "telemetry"].contains(&target);
            if is_room && target != room && !allowed.contains(&target) {
                wrong.push(format!("{}: {}", file.display(), code.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "these look into a room that is not theirs to see: {wrong:#?}");
}

#[test]
fn sql_is_in_the_store_only_and_the_wire_in_its_own_rooms() {
    let at_home = |needle: &str, homes: &[&str]| {
        let strays: Vec<String> = lines()
            .into_iter()
            .filter(|(room, _, code)| !homes.contains(&room.as_str()) && code.contains(needle))
            .map(|(_, file, code)| format!("{}: {}", file.display(), code.trim()))
            .collect();
        assert!(strays.is_empty(), "`{needle}` belongs into {homes:?}: {strays:#?}");
    };
    // The supervisor of a private Postgres makes databases, which is no query of roster's.
    for needle in ["query!(", "query_as!(", "query_scalar!(", "sqlx::query"] {
        at_home(needle, &["store", "postgres"]);
    }
    at_home("tonic::", &["grpc", "server", "client"]);
    at_home("hyper", &["server"]);
    at_home("jsonwebtoken", &["authn"]);
    at_home("lettre", &["mail"]);
    at_home("minijinja", &["mail"]);
}

#[test]
fn files_and_functions_fit_in_a_head() {
    const LINES: usize = 520;
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let count = fs::read_to_string(&file).unwrap().lines().count();
        assert!(count <= LINES, "{} has {count} lines: move a wall", file.display());
    }
}
