//! An assignment of a role against the end of the role, in both orders, with every outcome of the first transaction and
//! every isolation level. The second transaction has reached the lock of the first one before that ends.

use super::{DANGLING, ROWS, connect, database, execute, run, until_waiting};
use crate::harness::Database;

/// A statement that assigns a role, and one that ends it. Each statement touches one row.
struct Sides {
    assign: &'static str,
    end: &'static str,
    constraint: &'static str,
}

const INSERT: &str =
    "INSERT INTO memberships (bucket, organization_id, user_id, attributes, revision, create_time, update_time,
                                               role, ";

const SIDES: &[Sides] = &[
    Sides {
        assign:
            "deployment_role) VALUES (1, '01000000-0000-4000-8000-000000000000', 'joan', '{}', 1, now(), now(), 'clerk',
                 'clerk')",
        end: "DELETE FROM deployment_roles WHERE name = 'clerk'",
        constraint: "memberships_deployment_role",
    },
    Sides {
        assign: "organization_role) VALUES (1, '01000000-0000-4000-8000-000000000000', 'joan', '{}', 1, now(), now(),
                 'org:unused', 'org:unused')",
        end: "DELETE FROM organization_roles WHERE name = 'org:unused'",
        constraint: "memberships_organization_role",
    },
    Sides {
        assign: "UPDATE memberships SET role = 'clerk', deployment_role = 'clerk', organization_role = NULL
                 WHERE bucket = 1 AND user_id = 'eve'",
        end: "UPDATE deployment_roles SET name = 'scribe' WHERE name = 'clerk'",
        constraint: "memberships_deployment_role",
    },
    Sides {
        assign: "UPDATE memberships SET role = 'org:unused', organization_role = 'org:unused', deployment_role = NULL
                 WHERE bucket = 1 AND user_id = 'bob'",
        end: "UPDATE organization_roles SET name = 'org:used' WHERE name = 'org:unused'",
        constraint: "memberships_organization_role",
    },
];

const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

impl Sides {
    fn assign(&self) -> String {
        if self.assign.starts_with("UPDATE") { self.assign.to_owned() } else { format!("{INSERT}{}", self.assign) }
    }
}

/// Runs `first`, starts `second` and waits until it waits, ends the first one, and returns the outcome of the second one,
/// which commits if it can.
async fn race(database: &Database, level: &str, first: &str, end: &str, second: &str) -> Result<u64, (String, String)> {
    let begin = format!("BEGIN ISOLATION LEVEL {level}");
    let mut ahead = connect(database).await;
    execute(&mut ahead, &begin).await.unwrap();
    assert_eq!(execute(&mut ahead, first).await, Ok(1), "{first}");
    let mut behind = connect(database).await;
    execute(&mut behind, &begin).await.unwrap();
    // The snapshot of the levels above READ COMMITTED.
    execute(&mut behind, "SELECT 1").await.unwrap();
    let statement = second.to_owned();
    let waiter = tokio::spawn(async move {
        let outcome = execute(&mut behind, &statement).await;
        let commit = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
        execute(&mut behind, commit).await.and(outcome)
    });
    until_waiting(database, 1).await;
    execute(&mut ahead, end).await.unwrap();
    waiter.await.unwrap()
}

#[tokio::test]
async fn the_first_of_an_assignment_and_the_end_of_a_role_wins() {
    let database = database().await;
    for sides in SIDES {
        for level in LEVELS {
            for (first, second) in [(sides.assign(), sides.end.to_owned()), (sides.end.to_owned(), sides.assign())] {
                for end in ["COMMIT", "ROLLBACK"] {
                    run(&database, "TRUNCATE users, organizations, deployment_roles CASCADE").await;
                    run(&database, ROWS).await;
                    let outcome = race(&database, level, &first, end, &second).await;
                    let case = format!("{level}: {first}; {end}; {second}");
                    match outcome {
                        Ok(rows) => assert!(rows == 1 && end == "ROLLBACK", "{case}: {rows}"),
                        Err((code, constraint)) => {
                            // Above READ COMMITTED, Postgres may refuse what it cannot put into an order.
                            let is_conflict = level != "READ COMMITTED" && code == "40001";
                            let is_violation = code == "23503" && constraint == sides.constraint;
                            assert!(end == "COMMIT" && (is_violation || is_conflict), "{case}: {code} {constraint}");
                        }
                    }
                    assert_eq!(database.count(DANGLING).await, 0, "{case}");
                }
            }
        }
    }
}

#[tokio::test]
async fn the_end_of_a_role_waits_for_several_assignments_and_fails_if_one_of_them_stays() {
    let database = database().await;
    for (kept, expected) in [(0, Ok(1)), (1, Err("23503"))] {
        let mut writers = Vec::new();
        for number in 0..3 {
            let mut writer = connect(&database).await;
            execute(&mut writer, "BEGIN").await.unwrap();
            let insert = format!("{INSERT}{}", SIDES[0].assign).replace("'joan'", &format!("'joan-{kept}-{number}'"));
            assert_eq!(execute(&mut writer, &insert).await, Ok(1));
            writers.push(writer);
        }
        let mut remover = connect(&database).await;
        let remove = tokio::spawn(async move {
            execute(&mut remover, "BEGIN").await.unwrap();
            let outcome = execute(&mut remover, SIDES[0].end).await;
            execute(&mut remover, "ROLLBACK").await.unwrap();
            outcome.map_err(|(code, _)| code)
        });
        until_waiting(&database, 1).await;
        for (number, writer) in writers.iter_mut().enumerate() {
            execute(writer, if number < kept { "COMMIT" } else { "ROLLBACK" }).await.unwrap();
        }
        assert_eq!(remove.await.unwrap(), expected.map_err(str::to_owned));
        assert_eq!(database.count(DANGLING).await, 0);
    }
}
