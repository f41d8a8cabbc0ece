//! The rules, each a function from tokens to the reasons why they offend.

use super::tokens::{Kind, Sql, Token};

/// The tables that one statement may name together. Within a family, tables are joined by the bucket.
pub(super) const FAMILIES: &[&[&str]] = &[
    &[
        "organizations",
        "memberships",
        "organization_roles",
        "log_heads",
        "log",
        "log_default",
        "events",
        "invitations",
        "outbox",
    ],
    &["users", "user_log_heads", "user_log", "user_log_default", "user_events"],
    &["slugs"],
    &["invitation_tokens"],
    &["requests"],
    &["quotas"],
];

/// Small tables that every node has: they go with every family.
pub(super) const EVERYWHERE: &[&str] = &["datastore", "access_model", "access_model_revisions", "deployment_roles"];

/// Functions of time that are not a constant within a statement, or not the same on every node.
const CLOCKS: &[&str] = &[
    "clock_timestamp",
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
    "now",
    "timeofday",
    "transaction_timestamp",
];

/// The columns that find the rows of a table on one node.
fn key(table: &str) -> &'static [&'static str] {
    match table {
        "slugs" => &["slug"],
        "invitation_tokens" => &["hash"],
        "requests" => &["caller", "request_id"],
        "quotas" => &["subject"],
        table if EVERYWHERE.contains(&table) => &[],
        table if FAMILIES[1].contains(&table) => &["user_bucket"],
        _ => &["bucket"],
    }
}

/// The rules that a string of SQL offends, each with the reason. `text` is the string itself.
pub(super) fn offences(text: &str) -> Vec<(u8, &'static str)> {
    let sql = Sql::parse(text);
    let ddl = sql.statements().len() > 1 && sql.statements().iter().any(|statement| is_ddl(statement));
    let rules = [
        (1, clocks(&sql), "a clock in UPDATE, ON CONFLICT or RETURNING; pass the instant as a parameter"),
        (2, locks(&sql), "a lock without `bucket = $n` or `user_bucket = $n`; lock the rows one by one"),
        (3, families(&sql), "tables of several families; ask for each family's rows in its own statement"),
        (4, writes(&sql), "a write that does not name its bucket, or the key of its table, as parameters"),
        (5, skip_locked(&sql), "SKIP LOCKED; read candidates, then write each of them by its key"),
        (6, text.contains("plan_cache_mode"), "plan_cache_mode, which the distributed datastore does not support"),
        (7, ddl, "several statements with DDL in one string; use one string for each, or a DO block"),
    ];
    rules.into_iter().filter(|(_, offends, _)| *offends).map(|(rule, _, reason)| (rule, reason)).collect()
}

/// Whether an UPDATE statement starts here: not a lock, and not the action of ON CONFLICT.
fn is_update(sql: &Sql, at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| sql.word(before));
    sql.word(at) == Some("update") && !before.is_some_and(|before| ["for", "key", "do"].contains(&before))
}

fn clocks(sql: &Sql) -> bool {
    (0..sql.tokens.len()).any(|at| {
        let is_update = is_update(sql, at);
        if !is_update && !sql.has_words(at, &["on", "conflict"]) && sql.word(at) != Some("returning") {
            return false;
        }
        let end = sql.end(at);
        (at..end).any(|inner| match sql.word(inner) {
            Some(word) if CLOCKS.contains(&word) => true,
            // Evaluated once for the statement, so an UPDATE may use it, but not as an operand of these two.
            Some("statement_timestamp") => !is_update || is_in_condition(sql, at..inner),
            _ => is_column_shifted(sql, inner),
        })
    })
}

/// Whether the end of a range is inside of CASE or COALESCE.
fn is_in_condition(sql: &Sql, range: std::ops::Range<usize>) -> bool {
    let (mut cases, mut coalesces) = (0_usize, Vec::new());
    for at in range {
        match sql.word(at) {
            Some("case") => cases += 1,
            Some("end") => cases = cases.saturating_sub(1),
            Some("coalesce") => coalesces.push(sql.tokens[at].depth),
            _ if sql.is_mark(at, ")") => coalesces.retain(|depth| *depth < sql.tokens[at].depth),
            _ => {}
        }
    }
    cases > 0 || !coalesces.is_empty()
}

/// Whether an interval is added to a column here, or subtracted: that depends on the time zone of the connection.
fn is_column_shifted(sql: &Sql, at: usize) -> bool {
    let is_shift = sql.is_mark(at, "+") || sql.is_mark(at, "-");
    let is_cast =
        sql.is_kind(at + 1, Kind::Parameter) && sql.is_mark(at + 2, "::") && sql.word(at + 3) == Some("interval");
    is_shift && (is_cast || sql.word(at + 1) == Some("interval")) && at > 0 && sql.is_kind(at - 1, Kind::Word)
}

fn locks(sql: &Sql) -> bool {
    const STRENGTHS: [&[&str]; 4] =
        [&["for", "update"], &["for", "no", "key", "update"], &["for", "share"], &["for", "key", "share"]];
    (0..sql.tokens.len()).any(|at| {
        let depth = sql.tokens[at].depth;
        let start = || {
            let within = (0..at).rev().take_while(|before| sql.tokens[*before].depth >= depth);
            within.last().unwrap_or(at)
        };
        STRENGTHS.iter().any(|words| sql.has_words(at, words))
            && !is_everywhere(sql)
            && !["bucket", "user_bucket"].iter().any(|column| is_bound(sql, start()..at, depth, column))
    })
}

/// Whether the statement names tables that every node has, and no other.
fn is_everywhere(sql: &Sql) -> bool {
    let names = |table: &&str| (0..sql.tokens.len()).any(|at| sql.word(at) == Some(table));
    EVERYWHERE.iter().any(names) && !FAMILIES.concat().iter().any(names)
}

/// Whether a condition at this depth says that a column equals a parameter.
fn is_bound(sql: &Sql, range: std::ops::Range<usize>, depth: usize, column: &str) -> bool {
    range.into_iter().any(|at| {
        sql.tokens[at].depth == depth
            && sql.word(at) == Some(column)
            && sql.is_mark(at + 1, "=")
            && sql.is_kind(at + 2, Kind::Parameter)
    })
}

fn families(sql: &Sql) -> bool {
    let names =
        |family: &[&str]| (0..sql.tokens.len()).any(|at| sql.word(at).is_some_and(|word| family.contains(&word)));
    FAMILIES.iter().filter(|family| names(family)).count() > 1
}

fn writes(sql: &Sql) -> bool {
    (0..sql.tokens.len()).any(|at| {
        let end = sql.end(at);
        let is_insert = sql.has_words(at, &["insert", "into"]);
        let table = if is_insert || sql.has_words(at, &["delete", "from"]) {
            sql.word(at + 2)
        } else if is_update(sql, at) {
            sql.word(at + 1)
        } else {
            None
        };
        let Some(table) = table else { return false };
        let depth = sql.tokens[at].depth;
        if is_insert {
            // The first list in parentheses names the columns.
            let Some(open) = (at..end).find(|at| sql.is_mark(*at, "(")) else { return true };
            let columns = open + 1..sql.end(open + 1);
            return !key(table).iter().all(|column| columns.clone().any(|at| sql.word(at) == Some(column)));
        }
        let condition = (at..end).find(|at| sql.tokens[*at].depth == depth && sql.word(*at) == Some("where"));
        let Some(condition) = condition else { return !key(table).is_empty() };
        let is_choice = (condition..end).any(|at| sql.tokens[at].depth == depth && sql.word(at) == Some("or"));
        is_choice || !key(table).iter().all(|column| is_bound(sql, condition..end, depth, column))
    })
}

fn skip_locked(sql: &Sql) -> bool {
    (0..sql.tokens.len()).any(|at| sql.has_words(at, &["skip", "locked"]))
}

fn is_ddl(statement: &[Token]) -> bool {
    let first = &statement[0];
    first.kind == Kind::Word && ["create", "alter", "drop"].contains(&first.text.as_str())
}

/// The bodies of the DO blocks of a migration.
pub(super) fn blocks(file: &Sql) -> Vec<Sql> {
    let statements = file.statements();
    let blocks = statements.iter().filter(|statement| statement[0].text == "do");
    let bodies = blocks.filter_map(|block| block.iter().find(|token| token.kind == Kind::Quoted));
    bodies.map(|body| Sql::parse(&body.text)).collect()
}

/// The reasons why a migration offends rule 7.
pub(super) fn migration_offences(text: &str) -> Vec<&'static str> {
    let file = Sql::parse(text);
    let statements = file.statements();
    let mut reasons = Vec::new();
    if statements.len() != 1 {
        reasons.push("several statements; use a migration for each, or a DO block");
    }
    // The statements of DO blocks are looked at too.
    let bodies = blocks(&file);
    for statement in statements.into_iter().chain(bodies.iter().flat_map(Sql::statements)) {
        reasons.extend(addition_offences(statement));
    }
    reasons
}

/// The reasons why the ADD actions of a statement offend: Postgres accepts them, the distributed datastore does not.
fn addition_offences(statement: &[Token]) -> Option<&'static str> {
    const CONSTRAINTS: [&str; 5] = ["check", "foreign", "primary", "unique", "exclude"];
    let words: Vec<&str> = statement.iter().map(|token| token.text.as_str()).collect();
    let additions: Vec<&str> = words.windows(2).filter(|pair| pair[0] == "add").map(|pair| pair[1]).collect();
    if additions.iter().any(|added| CONSTRAINTS.contains(added)) {
        return Some("a constraint without a name");
    }
    let adds_column = additions.iter().any(|added| *added != "constraint");
    let has_constraint =
        words.iter().any(|word| [&CONSTRAINTS[..], &["constraint", "references"]].concat().contains(word));
    (adds_column && has_constraint).then_some("a column and a constraint in one statement")
}
