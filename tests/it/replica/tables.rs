//! Compares a replica with the database tables.

use crate::harness::Database;
use roster::domain::{OrganizationId, OrganizationRef, Slug, Standing, UserId, UserState};
use roster::replica::Replica;
use roster::service::Freshness;
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(sqlx::FromRow)]
struct Organization {
    id: Uuid,
    state: String,
    revision: i64,
    owner_id: Option<String>,
    slug: String,
}

/// Asserts that the replica, once it has caught up, has every organization and every membership of the database, and no
/// others in these organizations. No write may run at the same time. Skips buckets that are not loaded. Returns the
/// number of compared organizations.
pub async fn assert_equal(database: &Database, replica: &Replica) -> usize {
    // A gap that the first poll finds takes a bucket out of memory until it is loaded again.
    let caught_up = async {
        replica.caught_up().await;
        replica.loaded().await;
        replica.caught_up().await;
    };
    assert!(
        tokio::time::timeout(CATCH_UP_TIMEOUT, caught_up).await.is_ok(),
        "the replica did not catch up in time: {:?}",
        replica.statistics()
    );
    let organizations = "SELECT id, CASE WHEN delete_time IS NULL THEN state ELSE 'DELETED' END AS state, revision,
        owner_id, slug FROM organizations";
    let organizations: Vec<Organization> = sqlx::query_as(organizations).fetch_all(&database.pool).await.unwrap();
    let roles = "SELECT organization_id, user_id, role FROM memberships";
    let roles: Vec<(Uuid, String, String)> = sqlx::query_as(roles).fetch_all(&database.pool).await.unwrap();
    let roles: BTreeMap<(Uuid, String), String> =
        roles.into_iter().map(|(organization, user, role)| ((organization, user), role)).collect();
    let users: Vec<(String, String, Option<i64>)> =
        sqlx::query_as("SELECT id, state, reinstated_at FROM users").fetch_all(&database.pool).await.unwrap();
    let mut compared = 0;
    for organization in &organizations {
        let id = OrganizationId::from_uuid(organization.id);
        let users = users.iter().map(|(user, state, reinstated_at)| (user.as_str(), state.as_str(), *reinstated_at));
        for (user, state, reinstated_at) in users.chain([("unknown", "", None)]) {
            let Some(standing) = lookup(replica, &OrganizationRef::Id(id), user).await else { break };
            compared += usize::from(user == "unknown");
            let stored = roles.get(&(organization.id, user.to_owned())).map(String::as_str);
            let role = stored.map(|role| if organization.owner_id.as_deref() == Some(user) { "owner" } else { role });
            assert_eq!(standing.role.as_ref().map(|role| role.name.as_str()), role, "{user} in {}", organization.id);
            let head = standing.organization.unwrap_or_else(|| panic!("{} is not in memory", organization.id));
            assert_eq!(
                (head.state.as_str(), head.revision),
                (organization.state.as_str(), organization.revision),
                "{}",
                organization.id
            );
            assert_eq!(standing.reinstated_at, reinstated_at, "{user}");
            let user_state = standing.user_state.filter(|state| *state != UserState::Active).map(UserState::as_str);
            assert_eq!(user_state, Some(state).filter(|state| !["ACTIVE", ""].contains(state)), "{user}");
        }
        let slug = OrganizationRef::Slug(Slug::parse(&organization.slug).unwrap());
        if let Some(standing) = lookup(replica, &slug, "unknown").await {
            assert_eq!(
                standing.organization.map(|head| head.id),
                Some(id),
                "{} resolves to another organization",
                organization.slug
            );
        }
    }
    let statistics = replica.statistics();
    if statistics.buckets == 256 {
        assert_eq!(compared, organizations.len());
        assert_eq!(statistics.memberships, u64::try_from(roles.len()).unwrap());
    }
    compared
}

/// The standing in memory; `None` if the bucket is not loaded.
async fn lookup(replica: &Replica, reference: &OrganizationRef, user: &str) -> Option<Standing> {
    let user = UserId::parse(user).unwrap();
    for _ in 0..3 {
        if let Some(standing) = replica.standing_now(reference, Some(&user), &Freshness::Recent) {
            return Some(standing);
        }
        // On a busy machine, the lease may just have run out.
        replica.caught_up().await;
    }
    None
}
