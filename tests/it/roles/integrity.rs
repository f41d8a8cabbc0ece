//! Statements that would leave a member with a role that does not exist: Postgres refuses each, and names the constraint.

use super::{DANGLING, connect, database, execute, run};
use sqlx::Connection;

/// The start of an INSERT of a membership of `joan`: the two roles and the role follow.
fn insert(bucket: u8, role: &str, deployment: &str, organization: &str) -> String {
    format!(
        "INSERT INTO memberships (bucket, organization_id, user_id, role, deployment_role, organization_role, attributes,
                                  revision, create_time, update_time)
         VALUES ({bucket}, '0{bucket}000000-0000-4000-8000-000000000000', 'joan', {role}, {deployment}, {organization},
                 '{{}}', 1, now(), now())"
    )
}

fn update(bucket: u8, role: &str, deployment: &str, organization: &str) -> String {
    format!(
        "UPDATE memberships SET role = {role}, deployment_role = {deployment}, organization_role = {organization}
         WHERE bucket = {bucket} AND user_id = 'bob'"
    )
}

/// A role in three columns that no membership of Acme may have, and the constraint.
const REFUSED: &[([&str; 3], &str)] = &[
    // The role does not exist.
    (["'ghost'", "'ghost'", "NULL"], "memberships_deployment_role"),
    (["'org:ghost'", "NULL", "'org:ghost'"], "memberships_organization_role"),
    // It exists in another organization only.
    (["'org:lead'", "NULL", "'org:lead'"], "memberships_organization_role"),
    // It exists, and no foreign key would hold it.
    (["'auditor'", "NULL", "NULL"], "memberships_role"),
    (["'org:editor'", "NULL", "NULL"], "memberships_role"),
    // The name is another one.
    (["'clerk'", "'auditor'", "NULL"], "memberships_role"),
    (["'org:unused'", "NULL", "'org:editor'"], "memberships_role"),
    (["'admin'", "'auditor'", "NULL"], "memberships_role"),
    (["'member'", "NULL", "'org:editor'"], "memberships_role"),
    // It is both.
    (["'auditor'", "'auditor'", "'org:editor'"], "memberships_role"),
    (["'org:editor'", "'org:editor'", "'org:editor'"], "memberships_role"),
    // It is in the wrong column.
    (["'org:editor'", "'org:editor'", "NULL"], "memberships_role"),
    (["'auditor'", "NULL", "'auditor'"], "memberships_role"),
    // A role that always exists is in none.
    (["'admin'", "'admin'", "NULL"], "memberships_role"),
    (["'member'", "'member'", "NULL"], "memberships_role"),
    (["'owner'", "'owner'", "NULL"], "memberships_role"),
    (["'owner'", "NULL", "NULL"], "memberships_role"),
    (["''", "NULL", "NULL"], "memberships_role"),
    (["''", "''", "NULL"], "memberships_deployment_role"),
    (["'Auditor'", "'Auditor'", "NULL"], "memberships_deployment_role"),
    (["'org:'", "NULL", "'org:'"], "memberships_organization_role"),
];

#[tokio::test]
async fn no_insert_or_update_stores_a_role_that_does_not_exist() {
    let database = database().await;
    let mut connection = connect(&database).await;
    for ([role, deployment, organization], constraint) in REFUSED {
        let code = if *constraint == "memberships_role" { "23514" } else { "23503" };
        for statement in [insert(1, role, deployment, organization), update(1, role, deployment, organization)] {
            let refused = execute(&mut connection, &statement).await;
            assert_eq!(refused, Err((code.to_owned(), (*constraint).to_owned())), "{statement}");
        }
    }
    // The same roles, where they exist.
    for (bucket, [role, deployment, organization]) in [
        (1, ["'admin'", "NULL", "NULL"]),
        (1, ["'member'", "NULL", "NULL"]),
        (1, ["'clerk'", "'clerk'", "NULL"]),
        (1, ["'org:unused'", "NULL", "'org:unused'"]),
        (2, ["'org:lead'", "NULL", "'org:lead'"]),
    ] {
        assert_eq!(execute(&mut connection, &insert(bucket, role, deployment, organization)).await, Ok(1));
        assert_eq!(execute(&mut connection, &update(bucket, role, deployment, organization)).await, Ok(1));
        run(&database, "DELETE FROM memberships WHERE user_id = 'joan'").await;
    }
    assert_eq!(database.count(DANGLING).await, 0);
}

#[tokio::test]
async fn a_role_in_use_cannot_go_away() {
    let database = database().await;
    let mut connection = connect(&database).await;
    let deployment = "memberships_deployment_role";
    let organization = "memberships_organization_role";
    for (statement, constraint) in [
        ("DELETE FROM deployment_roles", deployment),
        ("DELETE FROM deployment_roles WHERE name = 'auditor'", deployment),
        ("UPDATE deployment_roles SET name = 'inspector' WHERE name = 'auditor'", deployment),
        ("DELETE FROM organization_roles", organization),
        ("DELETE FROM organization_roles WHERE name = 'org:editor'", organization),
        ("UPDATE organization_roles SET name = 'org:writer' WHERE name = 'org:editor'", organization),
        (
            "UPDATE organization_roles SET bucket = 2, organization_id = '02000000-0000-4000-8000-000000000000'
             WHERE name = 'org:editor'",
            organization,
        ),
        // The member moves to an organization without the role.
        (
            "UPDATE memberships SET bucket = 2, organization_id = '02000000-0000-4000-8000-000000000000', user_id = 'joan'
             WHERE organization_role IS NOT NULL",
            organization,
        ),
    ] {
        let refused = execute(&mut connection, statement).await;
        assert_eq!(refused, Err(("23503".to_owned(), constraint.to_owned())), "{statement}");
    }
    for statement in ["TRUNCATE deployment_roles", "TRUNCATE organization_roles"] {
        // Postgres refuses to truncate a table that a foreign key refers to.
        assert_eq!(execute(&mut connection, statement).await, Err(("0A000".to_owned(), String::new())));
    }
    assert_eq!(database.count(DANGLING).await, 0);
    assert_eq!(execute(&mut connection, "DELETE FROM deployment_roles WHERE name = 'clerk'").await, Ok(1));
    assert_eq!(execute(&mut connection, "DELETE FROM organization_roles WHERE name = 'org:unused'").await, Ok(1));
}

#[tokio::test]
async fn a_purged_organization_takes_its_roles_and_the_members_with_them_along() {
    let database = database().await;
    // The foreign keys act in the order of their creation.
    for again in [
        "",
        "ALTER TABLE memberships DROP CONSTRAINT memberships_organization;
         ALTER TABLE memberships ADD CONSTRAINT memberships_organization FOREIGN KEY (bucket, organization_id)
             REFERENCES organizations (bucket, id) ON DELETE CASCADE",
    ] {
        let mut connection = connect(&database).await;
        sqlx::raw_sql(again).execute(&mut connection).await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        assert_eq!(execute(&mut transaction, "DELETE FROM organizations WHERE bucket = 1").await, Ok(1));
        let left = "SELECT (SELECT count(*) FROM memberships WHERE bucket = 1)
                           + (SELECT count(*) FROM organization_roles WHERE bucket = 1)";
        assert_eq!(sqlx::query_scalar::<_, i64>(left).fetch_one(&mut *transaction).await.unwrap(), 0);
        sqlx::query("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *transaction).await.unwrap();
        transaction.rollback().await.unwrap();
    }
    run(&database, "DELETE FROM organizations WHERE bucket = 1").await;
    assert_eq!(database.count("SELECT count(*) FROM memberships").await, 3);
}

#[tokio::test]
async fn the_writes_of_a_former_release_store_the_roles_that_always_exist_and_no_other() {
    let database = database().await;
    let mut connection = connect(&database).await;
    let former_insert = |role: &str| {
        format!(
            "INSERT INTO memberships AS m (bucket, organization_id, user_id, role, attributes, revision, create_time,
                                           update_time)
             VALUES (1, '01000000-0000-4000-8000-000000000000', 'joan', '{role}', '{{}}', 2, now(), now())
             ON CONFLICT DO NOTHING"
        )
    };
    let former_update = |user: &str, role: &str| {
        format!("UPDATE memberships m SET role = '{role}', revision = 3 WHERE bucket = 1 AND user_id = '{user}'")
    };
    for role in ["admin", "member"] {
        assert_eq!(execute(&mut connection, &former_insert(role)).await, Ok(1));
        for other in ["member", "admin"] {
            assert_eq!(execute(&mut connection, &former_update("joan", other)).await, Ok(1));
        }
        run(&database, "DELETE FROM memberships WHERE user_id = 'joan'").await;
    }
    let refused = Err(("23514".to_owned(), "memberships_role".to_owned()));
    assert_eq!(execute(&mut connection, &former_insert("auditor")).await, refused);
    // A former release does not know the columns: it cannot change a member with another role, and can remove one.
    for user in ["bob", "eve"] {
        assert_eq!(execute(&mut connection, &former_update(user, "member")).await, refused);
    }
    let remove = "DELETE FROM memberships WHERE bucket = 1 AND user_id IN ('bob', 'eve')";
    assert_eq!(execute(&mut connection, remove).await, Ok(2));
}
