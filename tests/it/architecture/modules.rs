//! Which top-level module may import which, and which crates each may use.

use super::paths::{Path, paths};
use super::source::Source;
use std::collections::BTreeMap;

/// Each top-level module with the modules that it may import.
pub(super) const ALLOWED_IMPORTS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("clock", &[]),
    ("random", &[]),
    ("pb", &[]),
    ("lifecycle", &[]),
    ("leaky_bucket", &[]),
    ("limited_log", &["clock"]),
    ("reset_causes", &[]),
    ("error_causes", &[]),
    ("postgres", &["random"]),
    ("store", &["domain", "error_causes"]),
    ("replica_tables", &["domain"]),
    ("replica", &["store", "replica_tables", "domain", "clock", "random"]),
    ("authn", &["domain", "clock", "random", "leaky_bucket", "limited_log", "error_causes"]),
    ("authz", &["authn", "domain"]),
    ("service", &["authn", "authz", "replica", "store", "domain", "clock", "random"]),
    ("grpc", &["service", "authn", "authz", "pb", "domain", "clock", "random"]),
    ("client", &["replica_tables", "pb", "domain", "clock", "random", "error_causes"]),
    ("mail", &["service", "authn", "domain", "clock"]),
    (
        "server",
        &[
            "grpc",
            "mail",
            "service",
            "authn",
            "authz",
            "store",
            "domain",
            "clock",
            "random",
            "leaky_bucket",
            "limited_log",
            "reset_causes",
        ],
    ),
    ("config", &["server", "mail", "service", "replica", "authn", "store", "domain", "clock"]),
    ("telemetry", &["config", "reset_causes", "error_causes"]),
    (
        "cli",
        &[
            "server",
            "client",
            "pb",
            "config",
            "telemetry",
            "error_causes",
            "lifecycle",
            "postgres",
            "mail",
            "service",
            "replica",
            "authn",
            "store",
            "domain",
            "clock",
            "random",
        ],
    ),
];

/// Each crate with the modules that may use it.
const CRATES: &[(&str, &[&str])] = &[
    ("tonic", &["grpc", "server", "client"]),
    ("tonic_types", &["grpc", "client"]),
    ("tonic_prost", &["grpc"]),
    ("tonic_reflection", &["grpc"]),
    ("hyper", &["server"]),
    ("hyper_util", &["server", "client"]),
    ("jsonwebtoken", &["authn"]),
    ("reqwest", &["authn"]),
    ("lettre", &["mail"]),
    ("minijinja", &["mail"]),
];

/// The supervisor of a private Postgres creates databases, which is no query on roster's tables.
const SQL: &[&str] = &["store", "postgres"];

/// Modules without `async` and `await`.
const PURE: &[&str] = &["domain", "replica_tables", "authz"];

/// Every path from one top-level module into another, as (source, module, path). The crate's root imports what it likes.
fn imports(sources: &[Source]) -> impl Iterator<Item = (&Source, String, Path)> {
    let inside = |path: &Path| path.segments[0] == "crate" && path.segments.len() > 1;
    sources.iter().filter(|source| !source.module().is_empty()).flat_map(move |source| {
        let module = source.module();
        let others = move |path: &Path| inside(path) && path.segments[1] != module;
        paths(source).into_iter().filter(others).map(move |path| (source, source.module(), path))
    })
}

pub(super) fn forbidden_imports(sources: &[Source]) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED_IMPORTS.iter().copied().collect();
    let mut violations = Vec::new();
    for (source, module, path) in imports(sources) {
        let target = path.segments[1].as_str();
        let Some(allowed) = allowed.get(module.as_str()) else { continue };
        if !allowed.contains(&target) {
            violations.push(format!("{}: {module} may not import {target}", source.place(path.line)));
        }
    }
    violations
}

/// One line for each circle of imports, with the place of each import in it.
pub(super) fn circles(sources: &[Source]) -> Vec<String> {
    let mut graph: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (source, module, mut path) in imports(sources) {
        let place = source.place(path.line);
        graph.entry(module).or_default().entry(path.segments.swap_remove(1)).or_insert(place);
    }
    let mut done = Vec::new();
    let mut circles = Vec::new();
    for module in graph.keys() {
        visit(&graph, module, &mut Vec::new(), &mut done, &mut circles);
    }
    circles
}

fn visit<'a>(
    graph: &'a BTreeMap<String, BTreeMap<String, String>>,
    module: &'a str,
    trail: &mut Vec<(&'a str, &'a str)>,
    done: &mut Vec<&'a str>,
    circles: &mut Vec<String>,
) {
    if let Some(start) = trail.iter().position(|(passed, _)| *passed == module) {
        let steps = trail[start..].iter().map(|(module, place)| format!("{module} ({place})"));
        circles.push(format!("{} → {module}", steps.collect::<Vec<_>>().join(" → ")));
        return;
    }
    if done.contains(&module) {
        return;
    }
    for (target, place) in graph.get(module).into_iter().flatten() {
        trail.push((module, place));
        visit(graph, target, trail, done, circles);
        trail.pop();
    }
    done.push(module);
}

pub(super) fn misplaced_crates(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        let module = source.module();
        for path in paths(source) {
            let rule = CRATES.iter().find(|(name, _)| path.segments[0] == *name);
            if let Some((name, modules)) = rule.filter(|(_, modules)| !modules.contains(&module.as_str())) {
                violations.push(format!("{}: {name} belongs in {modules:?}", source.place(path.line)));
            }
        }
    }
    violations
}

pub(super) fn misplaced_sql(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources.iter().filter(|source| !SQL.contains(&source.module().as_str())) {
        let is_query = |word: &str| word.starts_with("query") || ["raw_sql", "QueryBuilder"].contains(&word);
        let macros = source.tokens.windows(2).filter_map(|tokens| {
            let is_macro = tokens[1].mark() == Some('!') && tokens[0].word().is_some_and(is_query);
            is_macro.then_some(tokens[0].line)
        });
        let functions = paths(source).into_iter().filter_map(|path| {
            let (first, rest) = path.segments.split_first()?;
            (first == "sqlx" && rest.iter().any(|segment| is_query(segment))).then_some(path.line)
        });
        let mut lines: Vec<usize> = macros.chain(functions).collect();
        lines.sort_unstable();
        lines.dedup();
        violations.extend(lines.into_iter().map(|line| format!("{}: SQL belongs in {SQL:?}", source.place(line))));
    }
    violations
}

pub(super) fn asynchronous_code(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources.iter().filter(|source| PURE.contains(&source.module().as_str())) {
        for token in &source.tokens {
            if let Some(word @ ("async" | "await")) = token.word() {
                violations.push(format!("{}: `{word}`", source.place(token.line)));
            }
        }
    }
    violations
}

#[test]
fn a_planted_import_is_named() {
    for (path, text, expected) in [
        ("src/store/pool.rs", "\nuse crate::grpc::Page;", "src/store/pool.rs:2: store may not import grpc"),
        ("src/store/pool.rs", "use crate::{domain, grpc::Page};", "src/store/pool.rs:1: store may not import grpc"),
        ("src/store/mod.rs", "use crate::{\n    cli,\n};", "src/store/mod.rs:2: store may not import cli"),
        ("src/store/mod.rs", "fn f() { crate::service::f() }", "src/store/mod.rs:1: store may not import service"),
        ("src/authn/jwt.rs", "use super::super::store::a;", "src/authn/jwt.rs:1: authn may not import store"),
        ("src/authn/mod.rs", "mod a { use super::super::b; }", "src/authn/mod.rs:1: authn may not import b"),
        ("src/clock.rs", "use super::random;", "src/clock.rs:1: clock may not import random"),
        ("src/domain/role.rs", "use roster::pb::Role;", "src/domain/role.rs:1: domain may not import pb"),
    ] {
        assert_eq!(forbidden_imports(&[Source::parse(path, text)]), [expected]);
    }
    let allowed = "// crate::grpc\nuse crate::domain::Role;\nuse super::log;\nconst A: &str = \"crate::grpc::a\";";
    assert!(forbidden_imports(&[Source::parse("src/store/pool.rs", allowed)]).is_empty());
}

#[test]
fn a_planted_circle_is_named() {
    let sources = [
        Source::parse("src/a.rs", "use crate::b::B;"),
        Source::parse("src/b/mod.rs", "\nuse crate::c;"),
        Source::parse("src/c.rs", "\n\nfn f() { crate::a::f() }"),
    ];
    assert_eq!(circles(&sources), ["a (src/a.rs:1) → b (src/b/mod.rs:2) → c (src/c.rs:3) → a"]);
    assert!(circles(&sources[..2]).is_empty());
}

#[test]
fn a_planted_crate_is_named() {
    let source = Source::parse("src/service/a.rs", "use std::fmt;\nuse {tonic::Status, x};\nfn f() -> hyper::Body {}");
    let expected = [
        "src/service/a.rs:2: tonic belongs in [\"grpc\", \"server\", \"client\"]",
        "src/service/a.rs:3: hyper belongs in [\"server\"]",
    ];
    assert_eq!(misplaced_crates(&[source]), expected);
    assert!(misplaced_crates(&[Source::parse("src/grpc/a.rs", "use tonic::Status;")]).is_empty());
}

#[test]
fn planted_sql_is_named() {
    let text = "use sqlx::{Error, query_as};\nfn f() { sqlx::query(\"\") }\nfn g() { query_scalar!(\"\") }";
    let expected = [1, 2, 3].map(|line| format!("src/service/a.rs:{line}: SQL belongs in [\"store\", \"postgres\"]"));
    assert_eq!(misplaced_sql(&[Source::parse("src/service/a.rs", text)]), expected);
    assert!(misplaced_sql(&[Source::parse("src/store/a.rs", text)]).is_empty());
}

#[test]
fn planted_asynchronous_code_is_named() {
    let source = Source::parse("src/domain/a.rs", "\nasync fn f() {}");
    assert_eq!(asynchronous_code(&[source]), ["src/domain/a.rs:2: `async`"]);
}
