//! The reason for the locks: the interleavings of the other files in plain SQL on roster's tables, stepped on two
//! connections, with the locking of the service and with two wrong variants. The wrong variants break the rule every
//! time and the right one never does, so the races of the other files can fail, and do when a lock is missing.

use super::{execute, until_waiting, value};
use crate::harness::{Database, Server};
use WriterOutcome::{Committed, Refused, Rejected};
use sqlx::{Connection, PgConnection};

/// The way in which a writer reads the state that it decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Locking {
    /// The lock in a separate statement before the read, as in the service.
    LockThenRead,
    /// The lock and the read in one statement, whose snapshot is older than the lock.
    LockAndRead,
    /// Without any lock.
    WithoutLock,
}

const VARIANTS: [Locking; 3] = [Locking::LockThenRead, Locking::LockAndRead, Locking::WithoutLock];
const ROUNDS: usize = 5;

/// One of two writers in one organization.
struct Writer {
    /// A query that returns one number.
    query: String,
    /// The writer runs its statements if the number is at least this.
    minimum: i64,
    statements: Vec<String>,
}

/// The outcome of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriterOutcome {
    Committed,
    /// The number was too small.
    Refused,
    /// The write broke a rule, and a constraint rejected its commit.
    Rejected,
}

async fn write(connection: &mut PgConnection, writer: &Writer, number: i64) -> WriterOutcome {
    if number < writer.minimum {
        execute(connection, "ROLLBACK").await.unwrap();
        return Refused;
    }
    for statement in &writer.statements {
        execute(connection, statement).await.unwrap();
    }
    match execute(connection, "COMMIT").await {
        Ok(_) => Committed,
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("23503") => Rejected,
        Err(error) => panic!("{error}"),
    }
}

/// Runs both writers in one organization. The second reads after the first has read and before the first commits. If
/// the second has to wait for the lock, that commit releases it.
async fn step(database: &Database, id: &str, locking: Locking, [first, second]: [&Writer; 2]) -> [WriterOutcome; 2] {
    let begin = async || {
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        execute(&mut connection, "BEGIN").await.unwrap();
        connection
    };
    let (mut one, mut two) = (begin().await, begin().await);
    let read = async |connection: &mut PgConnection, writer: &Writer| -> i64 {
        let query = &writer.query;
        match locking {
            Locking::LockAndRead => {
                let both = format!("SELECT ({query}) FROM organizations o WHERE o.id = '{id}' FOR NO KEY UPDATE OF o");
                value(connection, &both).await
            }
            Locking::WithoutLock => value(connection, query).await,
            Locking::LockThenRead => {
                let lock = format!("SELECT FROM organizations WHERE id = '{id}' FOR NO KEY UPDATE");
                execute(connection, &lock).await.unwrap();
                value(connection, query).await
            }
        }
    };
    let number = read(&mut one, first).await;
    let (second_number, outcome) = if locking == Locking::WithoutLock {
        let second_number = read(&mut two, second).await;
        (second_number, write(&mut one, first, number).await)
    } else {
        let ahead = async {
            until_waiting(database, 1).await;
            write(&mut one, first, number).await
        };
        tokio::join!(read(&mut two, second), ahead)
    };
    [outcome, write(&mut two, second, second_number).await]
}

/// Runs two writers in new organizations with each variant of the locking. Passes both outcomes, and the number that
/// the query of `after` returns, to `check`.
async fn with_each_locking(
    setup: impl AsyncFn(&Server) -> String,
    writers: impl Fn(&str) -> [Writer; 2],
    after: impl Fn(&str) -> String,
    check: impl Fn(Locking, [WriterOutcome; 2], i64),
) {
    let server = Server::start_contended().await;
    for _ in 0..ROUNDS {
        for locking in VARIANTS {
            let id = setup(&server).await;
            let [first, second] = writers(&id);
            let outcomes = step(&server.database, &id, locking, [&first, &second]).await;
            let mut connection = server.database.pool.acquire().await.unwrap();
            check(locking, outcomes, value(&mut connection, &after(&id)).await);
        }
    }
}

/// Creates an organization of `ada` with two more admins, `grace` and `alan`.
async fn with_two_admins(server: &Server) -> String {
    let mut ada = server.user("ada");
    let id = ada.create("Acme").await;
    ada.add(&id, "grace", "admin").await;
    ada.add(&id, "alan", "admin").await;
    id
}

/// The change of the locked row, which every write makes.
fn bump(id: &str) -> String {
    format!("UPDATE organizations SET revision = revision + 1 WHERE id = '{id}'")
}

fn insert(id: &str, user: &str) -> String {
    format!(
        "INSERT INTO memberships SELECT bucket, id, '{user}', 'admin', '{{}}', 9, now(), now()
         FROM organizations WHERE id = '{id}'"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_the_last_two_admins_stays() {
    let admins = |id: &str| {
        format!(
            "SELECT count(*) FROM memberships WHERE organization_id = '{id}' AND role = 'admin' AND user_id <> 'ada'"
        )
    };
    let remove = |id: &str, user: &str| Writer {
        query: admins(id),
        minimum: 2,
        statements: vec![
            format!("DELETE FROM memberships WHERE organization_id = '{id}' AND user_id = '{user}'"),
            bump(id),
        ],
    };
    let check = |locking, outcomes, left| match locking {
        Locking::LockThenRead => assert_eq!((outcomes, left), ([Committed, Refused], 1)),
        Locking::LockAndRead | Locking::WithoutLock => {
            assert_eq!((outcomes, left), ([Committed, Committed], 0), "{locking:?}");
        }
    };
    with_each_locking(with_two_admins, |id| [remove(id, "grace"), remove(id, "alan")], admins, check).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_permission_authorizes_no_write() {
    let writers = |id: &str| {
        let is_admin = format!(
            "SELECT count(*) FROM memberships WHERE organization_id = '{id}' AND user_id = 'grace' AND role = 'admin'"
        );
        let demote =
            format!("UPDATE memberships SET role = 'member' WHERE organization_id = '{id}' AND user_id = 'grace'");
        [
            Writer { query: is_admin.clone(), minimum: 1, statements: vec![demote, bump(id)] },
            Writer { query: is_admin, minimum: 1, statements: vec![insert(id, "by-grace"), bump(id)] },
        ]
    };
    let written =
        |id: &str| format!("SELECT count(*) FROM memberships WHERE organization_id = '{id}' AND user_id = 'by-grace'");
    let check = |locking, outcomes, written| match locking {
        Locking::LockThenRead => assert_eq!((outcomes, written), ([Committed, Refused], 0)),
        Locking::LockAndRead | Locking::WithoutLock => {
            assert_eq!((outcomes, written), ([Committed, Committed], 1), "{locking:?}");
        }
    };
    with_each_locking(with_two_admins, writers, written, check).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_first_members_becomes_the_owner() {
    let pending = async |server: &Server| server.operator().create("Waiting").await;
    let first = |id: &str, user: &str| Writer {
        query: format!("SELECT count(*) FROM organizations WHERE id = '{id}' AND owner_id IS NULL"),
        minimum: 1,
        statements: vec![
            insert(id, user),
            format!("UPDATE organizations SET owner_id = '{user}', state = 'ACTIVE' WHERE id = '{id}'"),
        ],
    };
    let owner = |id: &str| format!("SELECT count(*) FROM organizations WHERE id = '{id}' AND owner_id = 'ada'");
    // With a wrong variant both writers commit, but `ada` does not own the organization.
    let check = |locking, outcomes, ada_owns| match locking {
        Locking::LockThenRead => assert_eq!((outcomes, ada_owns), ([Committed, Refused], 1)),
        Locking::LockAndRead | Locking::WithoutLock => {
            assert_eq!((outcomes, ada_owns), ([Committed, Committed], 0), "{locking:?}");
        }
    };
    with_each_locking(pending, |id| [first(id, "ada"), first(id, "grace")], owner, check).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_rule_holds_without_a_lock_but_only_by_a_constraint() {
    let writers = |id: &str| {
        let (is_member, owns_not) = (
            format!("SELECT count(*) FROM memberships WHERE organization_id = '{id}' AND user_id = 'grace'"),
            format!("SELECT count(*) FROM organizations WHERE id = '{id}' AND owner_id <> 'grace'"),
        );
        let remove = format!("DELETE FROM memberships WHERE organization_id = '{id}' AND user_id = 'grace'");
        let transfer = format!("UPDATE organizations SET owner_id = 'grace' WHERE id = '{id}'");
        [
            Writer { query: owns_not, minimum: 1, statements: vec![remove, bump(id)] },
            Writer { query: is_member, minimum: 1, statements: vec![transfer, bump(id)] },
        ]
    };
    let owner = |id: &str| format!("SELECT count(*) FROM organizations WHERE id = '{id}' AND owner_id = 'ada'");
    // The foreign key is the last line of defence. The service does not rely on it to detect the conflict.
    let check = |locking, outcomes, ada_owns| match locking {
        Locking::LockThenRead => assert_eq!((outcomes, ada_owns), ([Committed, Refused], 1)),
        Locking::LockAndRead | Locking::WithoutLock => {
            assert_eq!((outcomes, ada_owns), ([Committed, Rejected], 1), "{locking:?}");
        }
    };
    with_each_locking(with_two_admins, writers, owner, check).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_numbered_by_a_sequence_loses_late_commits_and_has_gaps() {
    const SEQUENCE: &str = "INSERT INTO by_sequence VALUES (nextval('numbers'))";
    const HEAD: &str = "WITH head AS (UPDATE heads SET position = position + 1 RETURNING position)
        INSERT INTO by_head SELECT position FROM head";
    const READ: &str = "SELECT coalesce(max(position), 0)";
    let database = Database::new().await;
    let connect = async || PgConnection::connect(&database.url).await.unwrap();
    let (mut reader, mut one, mut two) = (connect().await, connect().await, connect().await);
    for statement in [
        "CREATE SEQUENCE numbers",
        "CREATE TABLE by_sequence (position bigint)",
        "CREATE TABLE heads (position bigint)",
        "INSERT INTO heads VALUES (0)",
        "CREATE TABLE by_head (position bigint)",
        "BEGIN",
    ] {
        let connection = if statement == "BEGIN" { &mut one } else { &mut reader };
        execute(connection, statement).await.unwrap();
    }
    // By a sequence: the second commits first, a reader uses its position as the cursor, and never sees the first.
    execute(&mut one, SEQUENCE).await.unwrap();
    execute(&mut two, SEQUENCE).await.unwrap();
    let cursor: i64 = value(&mut reader, &format!("{READ} FROM by_sequence")).await;
    execute(&mut one, "COMMIT").await.unwrap();
    let after = format!("SELECT count(*) FROM by_sequence WHERE position > {cursor}");
    let (visible, all): (i64, i64) =
        (value(&mut reader, &after).await, value(&mut reader, "SELECT count(*) FROM by_sequence").await);
    assert_eq!((cursor, visible, all), (2, 0, 2), "one of two rows is lost");
    // A rollback leaves a gap.
    for statement in ["BEGIN", SEQUENCE, "ROLLBACK", SEQUENCE] {
        execute(&mut one, statement).await.unwrap();
    }
    let last: i64 = value(&mut reader, &format!("{READ} FROM by_sequence")).await;
    assert_eq!((last, value::<i64>(&mut reader, "SELECT count(*) FROM by_sequence").await), (4, 3));

    // By the head's row: the second has to wait for the first, so a reader sees either no row or the first.
    for statement in ["BEGIN", HEAD] {
        execute(&mut one, statement).await.unwrap();
    }
    let late = tokio::spawn(async move { execute(&mut two, HEAD).await.map(|_| two) });
    until_waiting(&database, 1).await;
    let cursor: i64 = value(&mut reader, &format!("{READ} FROM by_head")).await;
    assert_eq!(cursor, 0);
    execute(&mut one, "COMMIT").await.unwrap();
    late.await.unwrap().unwrap();
    for statement in ["BEGIN", HEAD, "ROLLBACK", HEAD] {
        execute(&mut one, statement).await.unwrap();
    }
    let last: i64 = value(&mut reader, &format!("{READ} FROM by_head")).await;
    assert_eq!((last, value::<i64>(&mut reader, "SELECT count(*) FROM by_head").await), (3, 3));
}
