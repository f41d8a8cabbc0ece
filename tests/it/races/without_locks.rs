//! What the locks are for: the same interleavings in plain SQL on roster's own tables, stepped by hand on two
//! connections, in the order that the service keeps and in two wrong ones. The wrong ones break the rule every time and
//! the right one never does: so the races of the other files can fail, and do when a lock is missing.

use super::{execute, until_waiting, value};
use crate::harness::{Database, Server};
use sqlx::{Connection, PgConnection};

/// How a writer looks at what it decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looks {
    /// The lock in a statement of its own, then the look: as the service does.
    LockThenLook,
    /// The lock and the look in one statement, whose snapshot is older than the lock.
    AtOnce,
    /// No lock.
    WithoutLock,
}

const WAYS: [Looks; 3] = [Looks::LockThenLook, Looks::AtOnce, Looks::WithoutLock];
const ROUNDS: usize = 5;

/// One of two writers in one organization.
struct Writer {
    /// A query for one number.
    look: String,
    /// It acts if the number is at least this.
    needs: i64,
    act: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Done,
    /// It saw that it must not.
    Refused,
    /// It was about to break a rule, and a constraint stood in the way when it committed.
    Stopped,
}

async fn act(connection: &mut PgConnection, writer: &Writer, seen: i64) -> Told {
    if seen < writer.needs {
        execute(connection, "ROLLBACK").await.unwrap();
        return Told::Refused;
    }
    for statement in &writer.act {
        execute(connection, statement).await.unwrap();
    }
    match execute(connection, "COMMIT").await {
        Ok(_) => Told::Done,
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("23503") => Told::Stopped,
        Err(error) => panic!("{error}"),
    }
}

/// Runs both writers in one organization. The second looks after the first has looked and before the first commits; if
/// it has to wait for the lock, it gets it by that commit.
async fn step(database: &Database, id: &str, looks: Looks, [first, second]: [&Writer; 2]) -> [Told; 2] {
    let begin = async || {
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        execute(&mut connection, "BEGIN").await.unwrap();
        connection
    };
    let (mut one, mut two) = (begin().await, begin().await);
    let look = async |connection: &mut PgConnection, writer: &Writer| -> i64 {
        let query = &writer.look;
        match looks {
            Looks::AtOnce => {
                let both = format!("SELECT ({query}) FROM organizations o WHERE o.id = '{id}' FOR NO KEY UPDATE OF o");
                value(connection, &both).await
            }
            Looks::WithoutLock => value(connection, query).await,
            Looks::LockThenLook => {
                let lock = format!("SELECT FROM organizations WHERE id = '{id}' FOR NO KEY UPDATE");
                execute(connection, &lock).await.unwrap();
                value(connection, query).await
            }
        }
    };
    let seen = look(&mut one, first).await;
    let (seen_second, told) = if looks == Looks::WithoutLock {
        let seen_second = look(&mut two, second).await;
        (seen_second, act(&mut one, first, seen).await)
    } else {
        let ahead = async {
            until_waiting(database, 1).await;
            act(&mut one, first, seen).await
        };
        tokio::join!(look(&mut two, second), ahead)
    };
    [told, act(&mut two, second, seen_second).await]
}

/// Runs two writers in fresh organizations, in the right order and in the two wrong ones, and tells what each way came
/// to: what both were told, and the number that `after` then gives.
async fn in_each_way(
    setup: impl AsyncFn(&Server) -> String,
    writers: impl Fn(&str) -> [Writer; 2],
    after: impl Fn(&str) -> String,
    judge: impl Fn(Looks, [Told; 2], i64),
) {
    let server = Server::start().await;
    for _ in 0..ROUNDS {
        for looks in WAYS {
            let id = setup(&server).await;
            let [first, second] = writers(&id);
            let told = step(&server.database, &id, looks, [&first, &second]).await;
            let mut connection = server.database.pool.acquire().await.unwrap();
            judge(looks, told, value(&mut connection, &after(&id)).await);
        }
    }
}

/// An organization of ada's with two more admins, grace and alan.
async fn with_two_admins(server: &Server) -> String {
    let mut ada = server.user("ada");
    let id = ada.create("Acme").await;
    ada.add(&id, "grace", "admin").await;
    ada.add(&id, "alan", "admin").await;
    id
}

/// What every write does beside its own: the row that is locked is also changed.
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
async fn of_the_last_two_admins_one_stays() {
    let admins = |id: &str| {
        format!(
            "SELECT count(*) FROM memberships WHERE organization_id = '{id}' AND role = 'admin' AND user_id <> 'ada'"
        )
    };
    let remove = |id: &str, user: &str| Writer {
        look: admins(id),
        needs: 2,
        act: vec![format!("DELETE FROM memberships WHERE organization_id = '{id}' AND user_id = '{user}'"), bump(id)],
    };
    let judge = |looks, told, left| match looks {
        Looks::LockThenLook => assert_eq!((told, left), ([Told::Done, Told::Refused], 1)),
        Looks::AtOnce | Looks::WithoutLock => assert_eq!((told, left), ([Told::Done, Told::Done], 0), "{looks:?}"),
    };
    in_each_way(with_two_admins, |id| [remove(id, "grace"), remove(id, "alan")], admins, judge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_acts_by_a_permission_that_is_gone() {
    let writers = |id: &str| {
        let is_admin = format!(
            "SELECT count(*) FROM memberships WHERE organization_id = '{id}' AND user_id = 'grace' AND role = 'admin'"
        );
        let demote =
            format!("UPDATE memberships SET role = 'member' WHERE organization_id = '{id}' AND user_id = 'grace'");
        [
            Writer { look: is_admin.clone(), needs: 1, act: vec![demote, bump(id)] },
            Writer { look: is_admin, needs: 1, act: vec![insert(id, "by-grace"), bump(id)] },
        ]
    };
    let written =
        |id: &str| format!("SELECT count(*) FROM memberships WHERE organization_id = '{id}' AND user_id = 'by-grace'");
    let judge = |looks, told, written| match looks {
        Looks::LockThenLook => assert_eq!((told, written), ([Told::Done, Told::Refused], 0)),
        Looks::AtOnce | Looks::WithoutLock => assert_eq!((told, written), ([Told::Done, Told::Done], 1), "{looks:?}"),
    };
    in_each_way(with_two_admins, writers, written, judge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_first_members_one_owns() {
    let pending = async |server: &Server| server.operator().create("Waiting").await;
    let first = |id: &str, user: &str| Writer {
        look: format!("SELECT count(*) FROM organizations WHERE id = '{id}' AND owner_id IS NULL"),
        needs: 1,
        act: vec![
            insert(id, user),
            format!("UPDATE organizations SET owner_id = '{user}', state = 'ACTIVE' WHERE id = '{id}'"),
        ],
    };
    let owner = |id: &str| format!("SELECT count(*) FROM organizations WHERE id = '{id}' AND owner_id = 'ada'");
    // Told that she owns it, ada does not where the other did not wait or looked too early.
    let judge = |looks, told, ada_owns| match looks {
        Looks::LockThenLook => assert_eq!((told, ada_owns), ([Told::Done, Told::Refused], 1)),
        Looks::AtOnce | Looks::WithoutLock => assert_eq!((told, ada_owns), ([Told::Done, Told::Done], 0), "{looks:?}"),
    };
    in_each_way(pending, |id| [first(id, "ada"), first(id, "grace")], owner, judge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_rule_holds_without_a_lock_but_then_has_no_name() {
    let writers = |id: &str| {
        let (is_member, owns_not) = (
            format!("SELECT count(*) FROM memberships WHERE organization_id = '{id}' AND user_id = 'grace'"),
            format!("SELECT count(*) FROM organizations WHERE id = '{id}' AND owner_id <> 'grace'"),
        );
        let remove = format!("DELETE FROM memberships WHERE organization_id = '{id}' AND user_id = 'grace'");
        let transfer = format!("UPDATE organizations SET owner_id = 'grace' WHERE id = '{id}'");
        [
            Writer { look: owns_not, needs: 1, act: vec![remove, bump(id)] },
            Writer { look: is_member, needs: 1, act: vec![transfer, bump(id)] },
        ]
    };
    let owner = |id: &str| format!("SELECT count(*) FROM organizations WHERE id = '{id}' AND owner_id = 'ada'");
    // The foreign key is the last line of defence, never the way to learn something.
    let judge = |looks, told, ada_owns| match looks {
        Looks::LockThenLook => assert_eq!((told, ada_owns), ([Told::Done, Told::Refused], 1)),
        Looks::AtOnce | Looks::WithoutLock => {
            assert_eq!((told, ada_owns), ([Told::Done, Told::Stopped], 1), "{looks:?}");
        }
    };
    in_each_way(with_two_admins, writers, owner, judge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_by_sequence_loses_what_commits_late_and_has_holes() {
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
    // By sequence: the second commits first, a reader takes its position for the cursor, and never sees the first.
    execute(&mut one, SEQUENCE).await.unwrap();
    execute(&mut two, SEQUENCE).await.unwrap();
    let cursor: i64 = value(&mut reader, &format!("{READ} FROM by_sequence")).await;
    execute(&mut one, "COMMIT").await.unwrap();
    let after = format!("SELECT count(*) FROM by_sequence WHERE position > {cursor}");
    let (seen, all): (i64, i64) =
        (value(&mut reader, &after).await, value(&mut reader, "SELECT count(*) FROM by_sequence").await);
    assert_eq!((cursor, seen, all), (2, 0, 2), "one of two is lost");
    // And a rollback leaves a hole.
    for statement in ["BEGIN", SEQUENCE, "ROLLBACK", SEQUENCE] {
        execute(&mut one, statement).await.unwrap();
    }
    let last: i64 = value(&mut reader, &format!("{READ} FROM by_sequence")).await;
    assert_eq!((last, value::<i64>(&mut reader, "SELECT count(*) FROM by_sequence").await), (4, 3));

    // By the head's row: the second has to wait for the first, so a reader sees either none or the first.
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
