//! The statements of the newest release, on the present schema: `tests/compat` holds its `.sqlx`. Servers of the
//! release keep running while a newer program migrates the database, so a migration must leave each of these
//! statements valid.
//!
//! Every statement is prepared with the parameter types that the release recorded and must return the recorded columns.
//! Then it runs with one value for each type, in a transaction that is rolled back, and must not fail with an SQLSTATE
//! of class 42. The values name the rows of [`FIXTURE`]. An INSERT or UPDATE must also write a row that violates no
//! constraint, deferred ones included. Where the values of [`TYPES`] cannot do that, [`ARGUMENTS`] has other ones.

use crate::harness::Database;
use serde::Deserialize;
use sqlx::postgres::PgTypeInfo;
use sqlx::{AssertSqlSafe, Column, Connection, Executor, PgConnection, SqlSafeStr, Statement, TypeInfo};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// The recorded name of a type, its name in SQL, and a value that names a row of the fixture where there is one.
const TYPES: &[(&str, &str, &str)] = &[
    ("Bool", "bool", "true"),
    ("Bytea", "bytea", "decode(repeat('01', 32), 'hex')"),
    ("Int2", "int2", "1"),
    ("Int4", "int4", "1"),
    ("Int8", "int8", "1"),
    ("Interval", "interval", "'1 hour'"),
    ("Jsonb", "jsonb", "'{}'"),
    ("Text", "text", "'bob'"),
    ("Timestamptz", "timestamptz", "now()"),
    ("Uuid", "uuid", "'01000000-0000-4000-8000-000000000001'"),
    ("Void", "void", "null"),
];

/// Rows that the values of [`TYPES`] name: an organization in the organization bucket 1, its member bob in the user
/// bucket 1, and one row in each other table. dave is in the user bucket 1 too.
const FIXTURE: &str = "
    INSERT INTO users (user_bucket, id, state, deactivated_by_operator, email_verified, profile_issued_at, revision,
                       create_time, update_time)
    SELECT user_bucket_of(id), id, 'ACTIVE', false, false, 0, 1, now(), now() FROM unnest(ARRAY['ada', 'bob']) AS id;
    INSERT INTO organizations (bucket, id, slug, name, kind, attributes, state, deactivated_by_operator, owner_id,
                               revision, row_revision, create_time, update_time)
    VALUES (1, '01000000-0000-4000-8000-000000000001', 'bob', 'Acme', 'organization', '{}', 'ACTIVE', false, 'ada', 1,
            1, now(), now());
    INSERT INTO memberships (bucket, organization_id, user_id, role, attributes, revision, create_time, update_time)
    VALUES (1, '01000000-0000-4000-8000-000000000001', 'ada', 'admin', '{}', 1, now(), now()),
           (1, '01000000-0000-4000-8000-000000000001', 'bob', 'member', '{}', 1, now(), now());
    INSERT INTO slugs (slug, bucket, organization_id) VALUES ('bob', 1, '01000000-0000-4000-8000-000000000001');
    INSERT INTO events (bucket, organization_id, revision, type, actor_kind, actor_id, create_time)
    VALUES (1, '01000000-0000-4000-8000-000000000001', 1, 'ORGANIZATION_CREATED', 'user', 'ada', now());
    INSERT INTO user_events (user_bucket, user_id, revision, type, actor_kind, actor_id, create_time)
    VALUES (1, 'bob', 1, 'USER_CREATED', 'user', 'bob', now());
    INSERT INTO invitations (bucket, organization_id, id, identifier, identifier_normal, is_email, role, makes_owner,
                             attributes, state, inviter_kind, inviter_id, expire_time, sends, send_time, create_time,
                             update_time)
    SELECT 1, '01000000-0000-4000-8000-000000000001', id, identifier, identifier, true, 'member', false, '{}',
           'PENDING', 'user', 'ada', now() + time_left, 0, now(), now(), now()
    FROM (VALUES ('01000000-0000-4000-8000-000000000001'::uuid, 'bob', interval '1 day'),
                 ('01000000-0000-4000-8000-000000000002', 'expired', interval '-1 day'))
         AS i (id, identifier, time_left);
    INSERT INTO invitation_tokens (hash, bucket, organization_id, invitation_id, create_time)
    VALUES (decode(repeat('01', 32), 'hex'), 1, '01000000-0000-4000-8000-000000000001',
            '01000000-0000-4000-8000-000000000001', now());
    INSERT INTO outbox (bucket, id, organization_id, occasion, invitation_id, sender_kind, sender_id, attempts,
                        next_attempt_time, create_time)
    VALUES (1, '01000000-0000-4000-8000-000000000001', '01000000-0000-4000-8000-000000000001', 'INVITATION',
            '01000000-0000-4000-8000-000000000001', 'user', 'ada', 0, now(), now());
    INSERT INTO requests (caller, request_id, fingerprint, answer, forfeits, create_time)
    VALUES (decode(repeat('01', 32), 'hex'), '01000000-0000-4000-8000-000000000001', decode(repeat('01', 32), 'hex'),
            '{}', false, now() - interval '1 day');
    INSERT INTO quotas (subject, used, window_start)
    VALUES (decode(repeat('01', 32), 'hex'), 1, now() - interval '1 day')";

/// A fragment of a statement's text, and arguments that replace the values of [`TYPES`], by number. A statement with
/// several entries runs once for each.
const ARGUMENTS: &[(&str, &[(usize, &str)])] = &[
    ("set_config('lock_timeout', $1", &[(1, "'100'")]),
    ("set_config('lock_timeout', $2", &[(2, "'100'")]),
    ("INSERT INTO users", &[(2, "ARRAY['dave']")]),
    ("UPDATE users u", &[(3, "'INACTIVE'")]),
    ("INSERT INTO user_events", &[(3, "2"), (5, "'user'")]),
    ("INSERT INTO user_log", &[(4, "'INACTIVE'")]),
    (
        "INSERT INTO organizations",
        &[(2, "'01000000-0000-4000-8000-000000000003'"), (7, "'PENDING'"), (8, "false"), (9, "null")],
    ),
    ("UPDATE organizations o", &[(6, "'ACTIVE'"), (7, "false"), (8, "'ada'")]),
    ("INSERT INTO slugs", &[(1, "'beta'")]),
    ("INSERT INTO memberships", &[(3, "'dave'"), (4, "'member'")]),
    ("UPDATE memberships m", &[(4, "'admin'")]),
    ("INSERT INTO events", &[(3, "'user'"), (8, "ARRAY[2]"), (12, "ARRAY[null::jsonb]")]),
    // A change of bob's role, and of the organization.
    ("INSERT INTO log", &[(5, "ARRAY['MEMBERSHIP']"), (7, "ARRAY['member']"), (8, NONE), (9, NONE), (10, NONE)]),
    ("INSERT INTO log", &[(5, "ARRAY['ORGANIZATION']"), (6, NONE), (7, NONE), (8, "ARRAY['ACTIVE']")]),
    (
        "INSERT INTO invitations",
        &[(3, "'01000000-0000-4000-8000-000000000003'"), (5, "'dave'"), (7, "'member'"), (8, "false"), (10, "'user'")],
    ),
    ("UPDATE invitations SET state = $4", &[(4, "'ACCEPTED'")]),
    ("UPDATE invitations SET state = 'EXPIRED'", &[(4, "'expired'")]),
    ("UPDATE invitations SET mail_state", &[(4, "'SENT'"), (5, "null")]),
    ("INSERT INTO invitation_tokens", &[(4, "decode(repeat('02', 32), 'hex')")]),
    (
        "INSERT INTO outbox",
        &[(2, "'01000000-0000-4000-8000-000000000003'"), (4, "'INVITATION'"), (6, "null"), (7, "'user'")],
    ),
    (
        "INSERT INTO outbox",
        &[(2, "'01000000-0000-4000-8000-000000000003'"), (4, "'ADDED'"), (5, "null"), (7, "'user'")],
    ),
    ("UPDATE outbox o SET attempts", &[(2, "ARRAY['INVITATION']")]),
    // The row of the fixture, which is old enough to be replaced, and a new one.
    ("INSERT INTO requests", &[]),
    ("INSERT INTO requests", &[(1, "decode(repeat('02', 32), 'hex')")]),
    ("INSERT INTO quotas", &[]),
    ("INSERT INTO quotas", &[(1, "decode(repeat('02', 32), 'hex')")]),
];

const NONE: &str = "ARRAY[null]";

/// A file of `.sqlx`.
#[derive(Deserialize)]
struct RecordedStatement {
    query: String,
    describe: Description,
}

#[derive(Deserialize)]
struct Description {
    columns: Vec<RecordedColumn>,
    parameters: Parameters,
}

#[derive(Deserialize)]
struct RecordedColumn {
    name: String,
    type_info: String,
}

#[derive(Deserialize)]
struct Parameters {
    #[serde(rename = "Left")]
    types: Vec<String>,
}

/// The name in SQL of a recorded type, and a value.
fn sql_type(recorded: &str) -> (String, String) {
    let element = recorded.strip_suffix("Array");
    let name = element.unwrap_or(recorded);
    let found = TYPES.iter().find(|(type_name, ..)| *type_name == name);
    let (_, sql, value) = found.unwrap_or_else(|| panic!("TYPES needs an entry for the type {name}"));
    let value = format!("{value}::{sql}");
    if element.is_some() { (format!("{sql}[]"), format!("ARRAY[{value}]")) } else { ((*sql).to_owned(), value) }
}

impl RecordedStatement {
    /// The text of the statement in one line.
    fn line(&self) -> String {
        self.query.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn is_query(&self) -> bool {
        let first = self.query.trim_start_matches(['(', ' ']).split_whitespace().next();
        first.is_some_and(|word| ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"].contains(&word))
    }

    /// Whether the statement inserts or updates rows, at its top or in a WITH.
    fn stores_rows(&self) -> bool {
        let words = self.query.split_whitespace().map(|word| word.trim_start_matches('(')).collect::<Vec<_>>();
        words.windows(3).any(|words| {
            // Not FOR UPDATE, FOR NO KEY UPDATE and DO UPDATE.
            words[1..] == ["INSERT", "INTO"] || (words[1] == "UPDATE" && !["FOR", "KEY", "DO"].contains(&words[0]))
        }) || matches!(words[0], "INSERT" | "UPDATE")
    }

    /// The lists of arguments to run with.
    fn arguments(&self) -> Vec<&'static [(usize, &'static str)]> {
        let contains = |fragment: &str| {
            let mut matches = self.query.match_indices(fragment);
            matches.any(|(at, _)| {
                let next = self.query[at + fragment.len()..].chars().next();
                !next.is_some_and(|next| next.is_alphanumeric() || next == '_')
            })
        };
        ARGUMENTS.iter().filter(|(fragment, _)| contains(fragment)).map(|(_, arguments)| *arguments).collect()
    }

    /// The statement that runs the prepared one with these arguments.
    fn execute(&self, arguments: &[(usize, &str)]) -> String {
        let types = &self.describe.parameters.types;
        let unknown = arguments.iter().find(|(number, _)| *number == 0 || *number > types.len());
        assert!(unknown.is_none(), "ARGUMENTS names a parameter {unknown:?} that is not there: {}", self.line());
        let values = types.iter().zip(1..).map(|(recorded, number)| {
            let (sql, value) = sql_type(recorded);
            let given = arguments.iter().find(|(given, _)| *given == number);
            given.map_or(value, |(_, given)| format!("({given})::{sql}"))
        });
        let values = values.collect::<Vec<_>>().join(", ");
        if values.is_empty() { "EXECUTE recorded".to_owned() } else { format!("EXECUTE recorded ({values})") }
    }
}

/// The folder of the newest release.
fn newest_release() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat");
    let releases: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(releases.len(), 1, "tests/compat holds the newest release and no other: {releases:?}");
    releases.into_iter().next().unwrap()
}

fn read(folder: &Path) -> Vec<RecordedStatement> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 50, "{} holds {} statements", folder.display(), files.len());
    files.iter().map(|file| serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()).collect()
}

/// Runs statements in a transaction that is rolled back. Returns the number of rows of the last one.
async fn run(connection: &mut PgConnection, statements: &[String]) -> Result<u64, String> {
    let mut transaction = connection.begin().await.unwrap();
    let mut rows = Ok(0);
    for statement in statements {
        let done = sqlx::query(AssertSqlSafe(statement.clone())).execute(&mut *transaction).await;
        rows = done.map(|done| done.rows_affected()).map_err(|error| describe(&error));
        if rows.is_err() {
            break;
        }
    }
    if rows.is_ok() {
        let check = sqlx::query("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *transaction).await;
        rows = check.map_err(|error| describe(&error)).and(rows);
    }
    transaction.rollback().await.unwrap();
    // Fails if the statement was not prepared.
    let _ = sqlx::query("DEALLOCATE recorded").execute(connection).await;
    rows
}

/// The SQLSTATE and the message of an error.
fn describe(error: &sqlx::Error) -> String {
    let error = error.as_database_error().unwrap_or_else(|| panic!("{error}"));
    format!("{}: {}", error.code().unwrap_or_default(), error.message())
}

/// Compares the columns of a statement with the recorded ones.
async fn check_columns(connection: &mut PgConnection, statement: &RecordedStatement) -> Result<(), String> {
    let types = statement.describe.parameters.types.iter().map(|recorded| match recorded.strip_suffix("Array") {
        Some(element) => PgTypeInfo::array_of(name_of(element)),
        None => PgTypeInfo::with_name(name_of(recorded)),
    });
    let types: Vec<PgTypeInfo> = types.collect();
    let text = AssertSqlSafe(statement.query.clone()).into_sql_str();
    let prepared = connection.prepare_with(text, &types).await.map_err(|error| describe(&error))?;
    let found = prepared.columns().iter();
    let found: Vec<_> =
        found.map(|column| (column.name().to_owned(), column.type_info().name().to_lowercase())).collect();
    let recorded = statement.describe.columns.iter();
    let recorded: Vec<_> = recorded.map(|column| (column.name.clone(), sql_type(&column.type_info).0)).collect();
    if found == recorded { Ok(()) } else { Err(format!("the columns are {found:?} instead of {recorded:?}")) }
}

/// The name in SQL of a recorded type that is not an array.
fn name_of(recorded: &str) -> &'static str {
    TYPES.iter().find(|(name, ..)| *name == recorded).map(|(_, sql, _)| *sql).unwrap()
}

/// Checks one statement. The error says what fails, without the statement.
async fn check(connection: &mut PgConnection, statement: &RecordedStatement) -> Result<(), String> {
    check_columns(connection, statement).await?;
    if !statement.is_query() {
        assert!(statement.describe.parameters.types.is_empty(), "{}", statement.line());
        return run(connection, std::slice::from_ref(&statement.query)).await.map(|_| ());
    }
    let mut prepare = "PREPARE recorded".to_owned();
    let types: Vec<String> = statement.describe.parameters.types.iter().map(|recorded| sql_type(recorded).0).collect();
    if !types.is_empty() {
        write!(prepare, " ({})", types.join(", ")).unwrap();
    }
    write!(prepare, " AS {}", statement.query).unwrap();
    let generic = run(connection, &[prepare.clone(), statement.execute(&[])]).await;
    if let Err(error) = generic.as_ref()
        && error.starts_with("42")
    {
        return Err(error.clone());
    }
    let lists = statement.arguments();
    let mut outcomes = if lists.is_empty() { vec![generic] } else { Vec::new() };
    for list in lists {
        outcomes.push(run(connection, &[prepare.clone(), statement.execute(list)]).await);
    }
    for outcome in outcomes {
        if outcome? == 0 && statement.stores_rows() {
            return Err("no row is written: ARGUMENTS needs an entry".to_owned());
        }
    }
    Ok(())
}

/// The statements that fail on this schema, each with its error.
async fn failures(connection: &mut PgConnection, statements: &[RecordedStatement]) -> Vec<String> {
    let mut failures = Vec::new();
    for statement in statements {
        if let Err(error) = check(connection, statement).await {
            failures.push(format!("{error}\n    {}", statement.line()));
        }
    }
    failures
}

/// A database with the fixture, after a change of the schema.
async fn changed(change: &'static str) -> PgConnection {
    let database = Database::new().await;
    sqlx::raw_sql(FIXTURE).execute(&database.pool).await.unwrap();
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    sqlx::raw_sql(change).execute(&mut connection).await.unwrap();
    connection
}

#[tokio::test]
async fn every_statement_of_the_newest_release_runs_on_the_present_schema() {
    let release = newest_release();
    let failures = failures(&mut changed("").await, &read(&release)).await;
    assert!(failures.is_empty(), "statements of {}:\n{}", release.display(), failures.join("\n"));
}

#[test]
fn every_list_of_arguments_belongs_to_a_statement() {
    // A statement that is newer than the release may have its arguments already.
    let present = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx"));
    let statements: Vec<RecordedStatement> = read(&newest_release()).into_iter().chain(present).collect();
    let unused = ARGUMENTS.iter().filter(|(_, arguments)| {
        !statements.iter().any(|statement| statement.arguments().iter().any(|list| list == arguments))
    });
    assert_eq!(unused.collect::<Vec<_>>(), [] as [&(&str, &[(usize, &str)]); 0]);
    let writes = statements.iter().filter(|statement| statement.stores_rows()).count();
    assert!(writes > 40, "only {writes} inserts and updates were found");
}

#[tokio::test]
async fn a_planted_incompatible_change_names_the_statements() {
    let statements = read(&newest_release());
    for (change, error, statement) in [
        (
            "ALTER TABLE users DROP COLUMN display_name CASCADE",
            "42703: column u.display_name does not exist",
            "SELECT u.id, u.state, u.deactivated_by_operator",
        ),
        (
            "ALTER TABLE organizations ALTER COLUMN revision TYPE integer",
            "the columns are",
            "SELECT o.id, o.slug, o.name",
        ),
        (
            "ALTER TABLE memberships ADD COLUMN title text NOT NULL DEFAULT '';
             ALTER TABLE memberships ALTER title DROP DEFAULT",
            "23502: null value in column \"title\"",
            "INSERT INTO memberships AS m",
        ),
        (
            "ALTER TABLE invitations ADD CONSTRAINT sender CHECK (mail_state <> 'SENT')",
            "23514: new row for relation \"invitations\" violates check constraint \"sender\"",
            "UPDATE invitations SET mail_state = $4",
        ),
    ] {
        let failures = failures(&mut changed(change).await, &statements).await;
        let named = |failure: &String| {
            failure.starts_with(error) && failure.lines().nth(1).is_some_and(|line| line.trim().starts_with(statement))
        };
        assert!(failures.iter().any(named), "{change}: {error} of {statement} is not among {failures:#?}");
        assert!(failures.len() < statements.len() / 2, "{change}: {failures:#?}");
    }
}
