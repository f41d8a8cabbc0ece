//! The memberships that a client obtains from an export and a watch, and those of the datastore, for comparison.

use crate::harness::Database;
use crate::harness::server::Clients;
use pb::memberships_change::Change;
use roster::grpc::pb;
use std::collections::BTreeMap;

/// All organizations, memberships and inactive users.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Memberships {
    /// Each organization's slug, kind, state and owner.
    pub organizations: BTreeMap<String, (String, String, String, String)>,
    /// The role of each member of each organization.
    pub members: BTreeMap<(String, String), String>,
    /// Users who are not active.
    pub users: BTreeMap<String, String>,
}

fn fields(organization: &pb::OrganizationChange) -> (String, String, String, String) {
    let state = organization.state().as_str_name().replace("ORGANIZATION_STATE_", "");
    (organization.slug.clone(), organization.kind.clone(), state, organization.owner_id.clone())
}

fn state(state: pb::UserState) -> String {
    state.as_str_name().replace("USER_STATE_", "")
}

impl Memberships {
    /// Reads an export. Also returns the cursor to watch from.
    pub async fn export(clients: &Clients, kind: &str) -> (Self, String) {
        let request = pb::ExportMembershipsRequest { kind: kind.to_owned() };
        let mut parts = clients.checks.clone().export_memberships(request).await.unwrap().into_inner();
        let (mut memberships, mut cursor) = (Self::default(), String::new());
        while let Some(part) = parts.message().await.unwrap() {
            assert!(cursor.is_empty(), "a part follows the cursor");
            cursor = part.cursor;
            for exported in part.organizations {
                let organization = exported.organization.unwrap();
                assert!(!organization.purged && organization.revision > 0);
                memberships.organizations.insert(organization.organization_id.clone(), fields(&organization));
                for member in exported.members {
                    let twice =
                        memberships.members.insert((organization.organization_id.clone(), member.user_id), member.role);
                    assert_eq!(twice, None);
                }
            }
            for user in part.users {
                let state = state(user.state());
                assert_eq!(memberships.users.insert(user.user_id, state), None);
            }
        }
        assert!(!cursor.is_empty(), "the export ended without a cursor");
        (memberships, cursor)
    }

    /// Applies the changes of a watch message.
    pub fn apply(&mut self, message: &pb::WatchMembershipsResponse) {
        for change in &message.changes {
            assert!(change.change_time.is_some());
            match change.change.as_ref().unwrap() {
                Change::Membership(change) => {
                    let key = (change.organization_id.clone(), change.user_id.clone());
                    if change.role.is_empty() {
                        self.members.remove(&key);
                    } else {
                        self.members.insert(key, change.role.clone());
                    }
                }
                Change::Organization(change) if change.purged => {
                    self.organizations.remove(&change.organization_id);
                    self.members.retain(|(organization, _), _| *organization != change.organization_id);
                }
                Change::Organization(change) => {
                    self.organizations.insert(change.organization_id.clone(), fields(change));
                }
                Change::User(change) => {
                    let state = state(change.state());
                    if state == "ACTIVE" {
                        self.users.remove(&change.user_id);
                    } else {
                        self.users.insert(change.user_id.clone(), state);
                    }
                }
            }
        }
    }

    /// Reads the tables of the datastore.
    pub async fn of(database: &Database) -> Self {
        let organizations: Vec<(String, String, String, String, String)> = sqlx::query_as(
            "SELECT id::text, slug, kind, CASE WHEN delete_time IS NULL THEN state ELSE 'DELETED' END,
                    coalesce(owner_id, '') FROM organizations",
        )
        .fetch_all(&database.pool)
        .await
        .unwrap();
        let members: Vec<(String, String, String)> =
            sqlx::query_as("SELECT organization_id::text, user_id, role FROM memberships")
                .fetch_all(&database.pool)
                .await
                .unwrap();
        let users: Vec<(String, String)> = sqlx::query_as(
            "SELECT id, CASE state WHEN 'ERASED' THEN 'DELETED' ELSE state END FROM users WHERE state <> 'ACTIVE'",
        )
        .fetch_all(&database.pool)
        .await
        .unwrap();
        Self {
            organizations: organizations.into_iter().map(|(id, a, b, c, d)| (id, (a, b, c, d))).collect(),
            members: members.into_iter().map(|(organization, user, role)| ((organization, user), role)).collect(),
            users: users.into_iter().collect(),
        }
    }
}
