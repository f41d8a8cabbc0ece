//! Rules that keep the SQL fit for a datastore whose tables are distributed over several machines by bucket:
//!
//! 1. UPDATE, ON CONFLICT and RETURNING use no clock: each node would ask its own one. An UPDATE may use
//!    `statement_timestamp()`, outside of CASE and COALESCE, and adds no interval to a column.
//! 2. A lock (FOR UPDATE and so on) has a condition `bucket = $n` or `user_bucket = $n`, or is on a table that every node
//!    has.
//! 3. A statement names tables of one family.
//! 4. A write names its bucket, or the key of a table without one.
//! 5. No statement skips locked rows.
//! 6. No string sets `plan_cache_mode`.
//! 7. A string holds one statement of DDL, or a DO block. A migration is one of the two, and adds columns and named
//!    constraints in separate statements.
//!
//! The checker reads `.sqlx`, the strings of `src` and the migrations. `sql_rules/offenders.txt` lists what offended
//! when the rules were introduced. That list may only shrink: new SQL keeps the rules.

mod rules;
mod tokens;

use crate::architecture::{SRC, files, root};
use std::collections::BTreeSet;
use std::fs;
use tokens::Sql;

/// The number of lines in the list of offenders. A change that corrects an offender lowers it.
const OFFENDERS: usize = 42;

/// Migrations that are older than rule 7. Released migrations do not change.
const OLD_MIGRATIONS: [&str; 3] = ["0001_storage.sql", "0002_invitations.sql", "0003_log_partitions.sql"];

/// A line of the list: a rule, and a fragment of the statement that offends it, or the whole of it.
type Offender = (u8, String);

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The statements that sqlx recorded.
fn recorded() -> Vec<String> {
    let statement = |file| {
        let record: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        one_line(record["query"].as_str().unwrap())
    };
    let statements: Vec<String> = files(&root().join(".sqlx"), "json").into_iter().map(statement).collect();
    assert!(statements.len() > 50, ".sqlx holds {} statements", statements.len());
    statements
}

/// The strings of `src` that hold SQL or name a parameter of the datastore, and are no part of a recorded statement.
fn built(recorded: &[String]) -> Vec<String> {
    const FIRST_WORDS: [&str; 12] =
        ["ALTER", "BEGIN", "COPY", "CREATE", "DELETE", "DO", "DROP", "INSERT", "SELECT", "SET", "UPDATE", "WITH"];
    let mut strings = Vec::new();
    for source in SRC.iter() {
        let outside_tests = source.strings.iter().filter(|(token, _)| !source.tokens[*token].in_test);
        for (_, text) in outside_tests {
            let text = one_line(&text.replace("\\\n", "\n").replace("\\\"", "\""));
            let is_sql = text.split_once(' ').is_some_and(|(first, _)| FIRST_WORDS.contains(&first));
            let is_setting = text == "plan_cache_mode";
            if (is_sql || is_setting) && !recorded.iter().any(|statement| statement.contains(&text)) {
                strings.push(text);
            }
        }
    }
    assert!(strings.iter().any(|text| text.starts_with("COPY")), "the strings of src were not found");
    strings
}

/// Every offence in the repository: the rule, the statement or the file, and the reason.
fn offences() -> Vec<(u8, String, &'static str)> {
    let mut statements = recorded();
    statements.extend(built(&statements));
    let mut offences = Vec::new();
    for statement in statements {
        let found = rules::offences(&statement);
        offences.extend(found.into_iter().map(|(rule, reason)| (rule, statement.clone(), reason)));
    }
    for file in files(&root().join("migrations"), "sql") {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        if !OLD_MIGRATIONS.contains(&name.as_str()) {
            let reasons = rules::migration_offences(&fs::read_to_string(&file).unwrap());
            offences.extend(reasons.into_iter().map(|reason| (7, name.clone(), reason)));
        }
    }
    offences
}

/// The list of offenders: lines of a rule, a colon and a fragment. `#` begins a comment.
fn listed() -> Vec<Offender> {
    let text = include_str!("sql_rules/offenders.txt");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let line = |line: &str| {
        let (rule, fragment) = line.split_once(": ").unwrap();
        (rule.parse().unwrap(), fragment.to_owned())
    };
    lines.map(line).collect()
}

/// What is wrong with the list, for these offences: an offence without a line, and a line without exactly one offence.
fn differences(offences: &[(u8, String, &str)], listed: &[Offender]) -> Vec<String> {
    let covers = |(rule, fragment): &Offender, offence: &(u8, String, &str)| {
        // The whole of one statement may be a fragment of another.
        let is_whole = offences.iter().any(|(_, statement, _)| statement == fragment);
        *rule == offence.0 && if is_whole { offence.1 == *fragment } else { offence.1.contains(fragment) }
    };
    let new = offences.iter().filter(|offence| !listed.iter().any(|line| covers(line, offence)));
    let new = new.map(|(rule, statement, reason)| format!("rule {rule}: {reason}:\n    {statement}"));
    let counts = listed.iter().map(|line| (line, offences.iter().filter(|offence| covers(line, offence)).count()));
    let wrong = counts.filter(|(_, count)| *count != 1);
    let wrong = wrong.map(|((rule, fragment), count)| match count {
        0 => format!("offenders.txt: remove the line `{rule}: {fragment}`, and lower OFFENDERS: nothing offends so"),
        count => format!("offenders.txt: `{rule}: {fragment}` stands for {count} statements, and must for one"),
    });
    new.chain(wrong).collect()
}

#[test]
fn sql_keeps_the_rules_or_is_a_listed_offender() {
    let listed = listed();
    let differences = differences(&offences(), &listed);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(listed.len(), OFFENDERS, "the list may only shrink");
}

#[test]
fn every_table_belongs_to_a_family() {
    let mut tables = BTreeSet::new();
    for file in files(&root().join("migrations"), "sql") {
        let sql = Sql::parse(&fs::read_to_string(file).unwrap());
        for part in rules::blocks(&sql).iter().chain([&sql]) {
            let created = (0..part.tokens.len()).filter(|at| part.has_words(*at, &["create", "table"]));
            tables.extend(created.filter_map(|at| part.word(at + 2)).map(str::to_owned));
        }
    }
    let mut listed: BTreeSet<String> = rules::FAMILIES.concat().into_iter().map(str::to_owned).collect();
    listed.extend(rules::EVERYWHERE.iter().map(|table| (*table).to_owned()));
    assert_eq!(tables, listed);
}

#[test]
fn a_planted_violation_of_each_rule_is_found() {
    let rules = |text: &str| rules::offences(text).into_iter().map(|(rule, _)| rule).collect::<Vec<_>>();
    for (rule, planted) in [
        (1, "UPDATE outbox SET next_attempt_time = now() WHERE bucket = $1 AND id = $2"),
        (1, "UPDATE outbox SET attempts = 0 WHERE bucket = $1 AND next_attempt_time < clock_timestamp()"),
        (1, "UPDATE outbox SET next_attempt_time = next_attempt_time + $2::interval WHERE bucket = $1"),
        (1, "UPDATE outbox SET create_time = CASE WHEN $2 THEN statement_timestamp() END WHERE bucket = $1"),
        (1, "UPDATE outbox SET create_time = coalesce(create_time, statement_timestamp()) WHERE bucket = $1"),
        (1, "INSERT INTO quotas (subject) VALUES ($1) ON CONFLICT (subject) DO UPDATE SET window_start = now()"),
        (1, "DELETE FROM outbox WHERE bucket = $1 RETURNING statement_timestamp() - create_time"),
        (1, "WITH head AS (UPDATE log_heads SET write_time = now() WHERE bucket = $1) SELECT 1"),
        (2, "SELECT id FROM users WHERE id = $1 FOR SHARE"),
        (2, "SELECT u.id FROM users u JOIN unnest($1) AS q (b) ON u.user_bucket = q.b FOR NO KEY UPDATE"),
        (2, "SELECT FROM (SELECT FROM outbox WHERE bucket = $1) o FOR UPDATE"),
        (2, "SELECT FROM memberships m JOIN deployment_roles r ON r.name = m.deployment_role FOR UPDATE"),
        (3, "SELECT FROM organizations o JOIN slugs s ON s.bucket = o.bucket"),
        (3, "SELECT FROM memberships WHERE user_id IN (SELECT id FROM users)"),
        (4, "DELETE FROM events WHERE revision < $1"),
        (4, "DELETE FROM events"),
        (4, "DELETE FROM events WHERE bucket = $1 OR revision < $2"),
        (4, "UPDATE outbox o SET attempts = 0 FROM unnest($1) AS q (bucket) WHERE o.bucket = q.bucket"),
        (4, "DELETE FROM requests WHERE caller = $1"),
        (4, "INSERT INTO invitation_tokens (bucket, invitation_id) VALUES ($1, $2)"),
        (4, "WITH old AS (DELETE FROM outbox WHERE id = $1) SELECT 1"),
        (5, "SELECT id FROM outbox WHERE bucket = $1 LIMIT 1 FOR UPDATE SKIP LOCKED"),
        (6, "SET plan_cache_mode = force_generic_plan"),
        (7, "CREATE TABLE a (); ALTER TABLE b ATTACH PARTITION a DEFAULT"),
    ] {
        assert_eq!(rules(planted), [rule], "{planted}");
    }
    for sound in [
        "UPDATE outbox SET create_time = statement_timestamp(), attempts = attempts + 1 WHERE bucket = $1 AND id = $2",
        "UPDATE log_heads SET write_time = greatest(statement_timestamp(), \
         (write_time AT TIME ZONE 'UTC' + interval '1 microsecond') AT TIME ZONE 'UTC') WHERE bucket = $1",
        "UPDATE users u SET create_time = statement_timestamp() + $2::interval WHERE u.user_bucket = $1",
        "INSERT INTO requests (caller, request_id, create_time) VALUES ($1, $2, clock_timestamp())",
        "SELECT clock_timestamp() FROM organizations WHERE bucket = $1 AND id = $2 FOR NO KEY UPDATE",
        "SELECT FROM datastore d JOIN log_heads h ON h.bucket = $1 JOIN log l ON l.bucket = h.bucket",
        "DELETE FROM quotas WHERE subject = $1 AND used = 0",
        "UPDATE datastore SET epoch = $1 WHERE epoch < $1",
        "SELECT name FROM deployment_roles WHERE name <> ALL ($1) ORDER BY name FOR UPDATE",
        "DO $$ BEGIN CREATE TABLE a (); CREATE INDEX b ON a (c); END $$",
        "-- now\nSELECT 'FOR UPDATE SKIP LOCKED'",
    ] {
        assert_eq!(rules(sound), [0; 0], "{sound}");
    }
}

#[test]
fn a_planted_violation_in_a_migration_is_found() {
    for (planted, reason) in [
        ("CREATE TABLE a (); CREATE INDEX ON a (b);", "several statements; use a migration for each, or a DO block"),
        ("ALTER TABLE a ADD COLUMN b text CHECK (b <> '');", "a column and a constraint in one statement"),
        ("ALTER TABLE a ADD b text, ADD CONSTRAINT c CHECK (b <> '')", "a column and a constraint in one statement"),
        ("ALTER TABLE a ADD CHECK (b <> '')", "a constraint without a name"),
        ("DO $$ BEGIN ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES c (d); END $$", "a constraint without a name"),
    ] {
        assert_eq!(rules::migration_offences(planted), [reason], "{planted}");
    }
    for sound in [
        "-- A comment; with a semicolon.\nCREATE TABLE a (b text PRIMARY KEY, CHECK (b <> ''));\n",
        "DO $$ BEGIN ALTER TABLE a ADD COLUMN b text; ALTER TABLE a ADD CONSTRAINT c CHECK (b <> ''); END $$;",
    ] {
        assert_eq!(rules::migration_offences(sound), [] as [&str; 0], "{sound}");
    }
}

#[test]
fn a_new_offender_and_a_line_without_an_offender_fail() {
    let offence = |statement: &str| (4, statement.to_owned(), "a reason");
    let line = |fragment: &str| (4, fragment.to_owned());
    let offences = [offence("DELETE FROM events"), offence("DELETE FROM log")];
    let complete = [line("FROM events"), line("FROM log")];
    assert_eq!(differences(&offences, &complete), [] as [&str; 0]);
    assert!(differences(&offences, &complete[..1])[0].starts_with("rule 4: a reason:\n    DELETE FROM log"));
    assert!(differences(&offences[..1], &complete)[0].starts_with("offenders.txt: remove the line `4: FROM log`"));
    let whole = [offence("DELETE FROM log"), offence("DELETE FROM log WHERE a")];
    assert_eq!(differences(&whole, &[line("DELETE FROM log"), line("WHERE a")]), [] as [&str; 0]);
    assert!(differences(&offences, &[line("DELETE")])[0].ends_with("stands for 2 statements, and must for one"));
}
