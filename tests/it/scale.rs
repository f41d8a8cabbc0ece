//! The cost of a list depends on its page, not on the size of the whole. The cost is the number of Postgres pages that a
//! call touches, which does not depend on the load of the machine.

use crate::harness::Database;
use crate::harness::bulk::Bulk;
use roster::domain::{OrganizationId, OrganizationState, UserId};
use roster::store::{events, memberships, organizations};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// The id of organization number n. The buckets take turns.
const ID: &str = "(lpad(to_hex(n % 256), 2, '0') || lpad(to_hex(n), 6, '0') || '-0000-4000-8000-000000000000')::uuid";
/// More calls than Postgres plans for their own parameters: after those it may use one generic plan.
const CALLS: usize = 8;

async fn run(database: &Database, statements: &str) {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&database.pool).await.unwrap();
}

/// Adds users and organizations, numbered from 1. `user-1` owns each organization.
async fn fill(database: &Database, users: usize, organizations: usize) {
    let made = format!(
        "SELECT {ID} AS id, 'acme-' || n AS slug, 'user-1' AS owner FROM generate_series(1, {organizations}) n"
    );
    Bulk {
        users: &format!("SELECT 'user-' || n AS id FROM generate_series(1, {users}) n"),
        organizations: &made,
        memberships: &format!("SELECT id, owner AS user_id FROM ({made}) owned"),
    }
    .insert(database)
    .await;
}

/// The pages that this connection has touched so far.
async fn pages(connection: &mut PgConnection) -> i64 {
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(&mut *connection).await.unwrap();
    let touched = "SELECT sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::bigint
        FROM pg_statio_user_tables WHERE relname IN ('users', 'organizations', 'memberships', 'events')";
    sqlx::query_scalar(touched).fetch_one(connection).await.unwrap()
}

/// The pages that one call touches, after a few calls before it.
async fn cost(connection: &mut PgConnection, call: impl AsyncFn(&mut PgConnection) -> usize) -> i64 {
    let mut last = 0;
    for _ in 0..CALLS {
        let before = pages(connection).await;
        assert_eq!(call(connection).await, 51);
        last = pages(connection).await - before;
    }
    assert!(last > 3, "{last} pages");
    last
}

/// Asserts that two calls cost the same within a half, both with and without statistics of the tables.
async fn assert_alike(
    database: &Database,
    small: impl AsyncFn(&mut PgConnection) -> usize,
    large: impl AsyncFn(&mut PgConnection) -> usize,
) {
    for statistics in ["SELECT 1", "ANALYZE"] {
        run(database, statistics).await;
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        let (of_small, of_large) = (cost(&mut connection, &small).await, cost(&mut connection, &large).await);
        assert!(2 * of_large <= 3 * of_small, "{statistics}: {of_small} and {of_large} pages");
    }
}

#[tokio::test]
async fn the_first_page_costs_the_same_for_users_with_a_hundred_and_ten_thousand_organizations() {
    let database = Database::new().await;
    fill(&database, 1_000, 10_000).await;
    run(
        &database,
        &format!(
            "INSERT INTO memberships
             SELECT n % 256, {ID}, 'user-2', 'member', '{{}}', 2, now(), now() FROM generate_series(100, 10000, 100) n;
             INSERT INTO memberships
             SELECT n % 256, {ID}, 'user-' || user_number, 'member', '{{}}', 2, now(), now()
             FROM generate_series(1, 10000) n, generate_series(3, 8) user_number"
        ),
    )
    .await;
    let first_page = |user: &'static str| {
        async move |connection: &mut PgConnection| {
            let filter = organizations::UserOrganizationFilter {
                kind: None,
                states: vec![OrganizationState::Active],
                after: None,
                limit: 51,
            };
            let user = UserId::parse(user).unwrap();
            organizations::list_of_user(connection, &user, &filter).await.unwrap().rows.len()
        }
    };
    assert_alike(&database, first_page("user-2"), first_page("user-1")).await;
}

#[tokio::test]
async fn the_first_page_costs_the_same_for_a_hundred_and_a_hundred_thousand_members() {
    let database = Database::new().await;
    fill(&database, 100_000, 2).await;
    run(
        &database,
        &format!(
            "INSERT INTO memberships
             SELECT n, {ID}, 'user-' || user_number, 'member', '{{}}', 2, now(), now()
             FROM (VALUES (1, 100), (2, 100000)) AS sizes (n, size), generate_series(2, size) user_number"
        ),
    )
    .await;
    let ids: Vec<uuid::Uuid> =
        sqlx::query_scalar("SELECT id FROM organizations ORDER BY id").fetch_all(&database.pool).await.unwrap();
    let first_page = |id: uuid::Uuid| {
        async move |connection: &mut PgConnection| {
            let filter = memberships::MemberFilter { roles: None, after: None, limit: 51 };
            memberships::list(connection, OrganizationId::from_uuid(id), &filter).await.unwrap().rows.len()
        }
    };
    assert_alike(&database, first_page(ids[0]), first_page(ids[1])).await;
}

#[tokio::test]
async fn the_first_page_costs_the_same_for_a_hundred_and_a_hundred_thousand_events() {
    let database = Database::new().await;
    // The rows of both organizations are mixed, as concurrent writes would mix them.
    run(
        &database,
        &format!(
            "INSERT INTO events (bucket, organization_id, revision, type, actor_kind, actor_id, create_time)
             SELECT n, {ID}, revision, 'member.updated', 'operator', 'root', now()
             FROM generate_series(1, 100000) revision, generate_series(1, 2) n WHERE n = 2 OR revision <= 100"
        ),
    )
    .await;
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT organization_id FROM events GROUP BY 1 ORDER BY count(*)")
        .fetch_all(&database.pool)
        .await
        .unwrap();
    let first_page = |id: uuid::Uuid| {
        async move |connection: &mut PgConnection| {
            let filter = events::EventFilter { types: None, user: None, before: None, limit: 51 };
            events::list(connection, OrganizationId::from_uuid(id), &filter).await.unwrap().rows.len()
        }
    };
    assert_alike(&database, first_page(ids[0]), first_page(ids[1])).await;
}
