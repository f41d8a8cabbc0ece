//! The cost of a list depends on its page, not on the size of the whole. The cost is the number of Postgres pages that a
//! call touches, which does not depend on the load of the machine.

use crate::harness::Database;
use crate::harness::bulk::Bulk;
use roster::domain::{OrganizationId, OrganizationRef, OrganizationState, RoleName, RoleTable, UserId};
use roster::store::standing::{self, StandingKey};
use roster::store::usage::{self, CountLimits, PermissionUsage, RoleUsage};
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
        FROM pg_statio_user_tables WHERE relname IN ('users', 'organizations', 'memberships', 'events', 'organization_roles')";
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

/// 5 000 roles of organizations hold a common permission, each holds one of 50 other ones, and one role holds a rare one.
/// 20 000 members have a common role of the deployment, and one member has a rare one.
#[tokio::test]
async fn the_plan_of_an_access_model_reads_a_part_of_the_roles_and_of_the_members() {
    let database = Database::new().await;
    fill(&database, 200, 100).await;
    run(
        &database,
        "INSERT INTO organization_roles (bucket, organization_id, name, title, description, permissions, revision,
                                         create_time, update_time)
         SELECT bucket, id, 'org:role-' || n, '', repeat('x', 200),
                ARRAY['app.common', 'app.word-' || n] || CASE WHEN slug = 'acme-7' AND n = 7 THEN '{app.rare}' END::text[],
                1, now(), now()
         FROM organizations, generate_series(1, 50) n;
         INSERT INTO deployment_roles (name) VALUES ('common'), ('rare'), ('none');
         INSERT INTO memberships (bucket, organization_id, user_id, role, deployment_role, attributes, revision, create_time,
                                  update_time)
         SELECT bucket, id, 'user-' || n, role, role, '{}', 1, now(), now()
         FROM organizations, generate_series(2, 200) n,
              LATERAL (SELECT CASE WHEN slug = 'acme-7' AND n = 7 THEN 'rare' ELSE 'common' END AS role) r",
    )
    .await;
    let limits = CountLimits { rows_of_each: 60, rows: 10_000, table_bytes: 256 * 1024 };
    let whole: i64 = database.count("SELECT pg_relation_size('memberships') / 8192").await;
    assert!(whole > 250, "{whole} pages");
    for statistics in ["SELECT 1", "ANALYZE"] {
        run(&database, statistics).await;
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        let before = pages(&mut connection).await;
        let words = ["app.common", "app.rare", "app.none", "app.word-3"].map(str::to_owned);
        let used = usage::permissions(&mut connection, &words, &limits).await.unwrap();
        assert!(used[0].is_estimate && (1_000..10_000).contains(&used[0].roles), "{:?}", used[0]);
        let one = PermissionUsage { roles: 1, organizations: 1, is_estimate: false };
        assert_eq!(used[1..3], [one, PermissionUsage::default()]);
        assert!(used[3].is_estimate && used[3].roles > 60, "{:?}", used[3]);
        let roles = ["common", "rare", "none", "admin"].map(|role| RoleName::parse(role).unwrap());
        let used = usage::roles(&mut connection, &roles, &limits).await.unwrap();
        assert!(used[0].is_estimate && (4_000..40_000).contains(&used[0].members), "{:?}", used[0]);
        let one = RoleUsage { members: 1, organizations: 1, is_estimate: false };
        assert_eq!(used[1..3], [one, RoleUsage::default()]);
        assert!(used[3].is_estimate, "{:?}", used[3]);
        let read = pages(&mut connection).await - before;
        // The samples have 32 pages each on average. The index of permissions returns 61 roles in as many pages.
        assert!(read < whole, "{statistics}: {read} of {whole} pages");
    }
}

/// Each organization has one role with 1 000 permissions, and members who hold it.
#[tokio::test]
async fn what_a_role_holds_is_read_once_for_all_its_members() {
    let database = Database::new().await;
    fill(&database, 200, 2).await;
    run(
        &database,
        "INSERT INTO organization_roles (bucket, organization_id, name, title, description, permissions, revision,
                                         create_time, update_time)
         SELECT bucket, id, 'org:all', '', '', ARRAY(SELECT 'once.' || slug || '-' || n FROM generate_series(1, 1000) n), 1,
                now(), now() FROM organizations;
         INSERT INTO memberships (bucket, organization_id, user_id, role, organization_role, attributes, revision,
                                  create_time, update_time)
         SELECT bucket, id, 'user-' || n, 'org:all', 'org:all', '{}', 1, now(), now()
         FROM organizations, generate_series(2, 200) n",
    )
    .await;
    let ids: Vec<uuid::Uuid> =
        sqlx::query_scalar("SELECT id FROM organizations ORDER BY slug").fetch_all(&database.pool).await.unwrap();
    let all = RoleName::parse("org:all").unwrap();
    let question = |number: usize| StandingKey {
        organization: OrganizationRef::Id(OrganizationId::from_uuid(ids[number % 2])),
        user: Some(UserId::parse(&format!("user-{}", number / 2 + 1)).unwrap()),
        named_role: (!number.is_multiple_of(3)).then(|| all.clone()),
    };
    let questions: Vec<StandingKey> = (0..400).map(question).collect();
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let questions: Vec<&StandingKey> = questions.iter().collect();
    let rows = standing::many(&mut connection, &questions).await.unwrap();
    // For each organization once as the role of members, and once as the role that is named.
    assert_eq!(rows.words(), 4 * 1_000);
    let answers = rows.resolve(&RoleTable::built_in());
    assert_eq!(answers.len(), 400);
    for (number, answer) in answers.iter().enumerate() {
        let holds = |role: &roster::domain::Role, number: usize| {
            let word = format!("once.acme-{}-1000", number % 2 + 1);
            role.permissions.as_ref().unwrap().contains(roster::domain::Permission::find(&word).unwrap())
        };
        let role = answer.standing.role.as_ref().unwrap();
        // `user-1` owns both organizations.
        assert!(holds(role, number) && (number < 2) == holds(role, number + 1), "{number}: {role:?}");
        assert_eq!(answer.named_role.is_some(), number % 3 > 0);
        assert!(answer.named_role.iter().all(|role| holds(role, number) && !holds(role, number + 1)), "{number}");
    }
}
