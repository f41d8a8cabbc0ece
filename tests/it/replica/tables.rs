//! Whether the copy in memory is what the tables hold.

use crate::harness::Database;
use roster::domain::{OrganizationId, OrganizationRef, Role, Slug, Standing, UserId, UserState};
use roster::replica::Replica;
use roster::service::Freshness;
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(sqlx::FromRow)]
struct Organization {
    id: Uuid,
    state: String,
    revision: i64,
    owner_id: Option<String>,
    slug: String,
}

/// Asserts that memory, once caught up, knows every organization and every membership, and nothing else about these.
/// Nobody may write meanwhile. Buckets that are not held are passed over; tells how many organizations were compared.
pub async fn assert_equal(database: &Database, index: &Replica) -> usize {
    let caught_up = async {
        index.loaded().await;
        index.caught_up().await;
    };
    assert!(tokio::time::timeout(PATIENCE, caught_up).await.is_ok(), "never caught up: {:?}", index.statistics());
    let organizations = "SELECT id, CASE WHEN delete_time IS NULL THEN state ELSE 'DELETED' END AS state, revision,
        owner_id, slug FROM organizations";
    let organizations: Vec<Organization> = sqlx::query_as(organizations).fetch_all(&database.pool).await.unwrap();
    let roles = "SELECT organization_id, user_id, role FROM memberships";
    let roles: Vec<(Uuid, String, String)> = sqlx::query_as(roles).fetch_all(&database.pool).await.unwrap();
    let roles: BTreeMap<(Uuid, String), String> = roles.into_iter().map(|(at, who, role)| ((at, who), role)).collect();
    let users: Vec<(String, String)> =
        sqlx::query_as("SELECT id, state FROM users").fetch_all(&database.pool).await.unwrap();
    let mut compared = 0;
    for here in &organizations {
        let id = OrganizationId::from_uuid(here.id);
        for (user, state) in users.iter().map(|(user, state)| (user.as_str(), state.as_str())).chain([("nobody", "")]) {
            let by_id = look_up(index, &OrganizationRef::Id(id), user).await;
            let Some(told) = by_id else { break };
            compared += usize::from(user == "nobody");
            let stored = roles.get(&(here.id, user.to_owned())).map(String::as_str);
            let role = stored.map(|role| if here.owner_id.as_deref() == Some(user) { "owner" } else { role });
            assert_eq!(told.role.map(Role::as_str), role, "{user} in {}", here.id);
            let head = told.organization.unwrap_or_else(|| panic!("{} is not in memory", here.id));
            assert_eq!((head.state.as_str(), head.revision), (here.state.as_str(), here.revision), "{}", here.id);
            let switched_off = told.user_state.filter(|state| *state != UserState::Active).map(UserState::as_str);
            assert_eq!(switched_off, Some(state).filter(|state| !["ACTIVE", ""].contains(state)), "{user}");
        }
        let slug = OrganizationRef::Slug(Slug::parse(&here.slug).unwrap());
        if let Some(told) = look_up(index, &slug, "nobody").await {
            assert_eq!(told.organization.map(|head| head.id), Some(id), "{} is called otherwise", here.slug);
        }
    }
    let told = index.statistics();
    if told.buckets == 256 {
        assert_eq!(compared, organizations.len());
        assert_eq!(told.memberships, u64::try_from(roles.len()).unwrap());
    }
    compared
}

/// What memory says; none if it does not hold that bucket.
async fn look_up(index: &Replica, named: &OrganizationRef, user: &str) -> Option<Standing> {
    let user = UserId::parse(user).unwrap();
    for _ in 0..3 {
        if let Some(found) = index.now(named, Some(&user), &Freshness::Recent) {
            return Some(found);
        }
        // Perhaps only because the lease has run out on a busy machine.
        index.caught_up().await;
    }
    None
}
