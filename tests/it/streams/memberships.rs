//! The memberships that a client obtains from an export and a watch, and those of the datastore, for comparison.

use crate::harness::Database;
use crate::harness::server::Clients;
use pb::memberships_change::Change;
use roster::domain::access_model::AccessModel;
use roster::domain::{Permission, Role};
use roster::grpc::pb;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The access model, as far as checks depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The number of models that were applied.
    pub revision: i64,
    /// Every permission that exists.
    pub permissions: BTreeSet<String>,
    /// The kind and the permissions of each role but `owner`.
    pub roles: BTreeMap<String, (String, BTreeSet<String>)>,
}

impl Model {
    /// The model in a message, which must be in order.
    pub fn of_message(message: &pb::AccessModelChange) -> Self {
        let is_ascending = |list: &[u32]| list.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(message.permissions.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(message.roles.windows(2).all(|pair| pair[0].name < pair[1].name));
        let role = |role: &pb::DeploymentRole| {
            assert!(is_ascending(&role.permissions) && role.replaced_by.is_empty());
            (role.name.clone(), (role.kind.clone(), words(&role.permissions, &message.permissions)))
        };
        Self {
            revision: message.revision,
            permissions: message.permissions.iter().cloned().collect(),
            roles: message.roles.iter().map(role).collect(),
        }
    }

    /// The model in the datastore.
    pub async fn of(database: &Database) -> Self {
        let (revision, stored): (i64, Value) =
            sqlx::query_as("SELECT revision, model FROM access_model").fetch_one(&database.pool).await.unwrap();
        let model = AccessModel::from_stored(&stored).unwrap();
        let built_in = [("admin", Role::ADMIN), ("member", Role::MEMBER)].map(|(name, role)| {
            let words = role.permissions.unwrap().iter().map(|permission| permission.to_string()).collect();
            (name.to_owned(), (String::new(), words))
        });
        let mut roles = BTreeMap::from(built_in);
        for role in model.roles() {
            let kind = role.kind.as_ref().map(|kind| kind.as_str().to_owned()).unwrap_or_default();
            let words = role.permissions.iter().map(ToString::to_string).collect();
            roles.insert(role.name.to_string(), (kind, words));
        }
        let declared = model.permissions().iter().map(|permission| permission.name.to_string());
        let permissions = Permission::RESERVED.iter().map(ToString::to_string).chain(declared).collect();
        Self { revision, permissions, roles }
    }
}

/// The words with these indexes.
fn words(indexes: &[u32], words: &[String]) -> BTreeSet<String> {
    indexes.iter().map(|index| words[usize::try_from(*index).unwrap()].clone()).collect()
}

/// The access model, all organizations, roles, memberships and inactive users.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Memberships {
    /// The access model; `None` if it was not received.
    pub model: Option<Model>,
    /// The permissions of each role that an organization defines.
    pub roles: BTreeMap<(String, String), BTreeSet<String>>,
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
            if let Some(model) = &part.access_model {
                assert!(memberships == Self::default(), "the model comes first, and once");
                memberships.model = Some(Model::of_message(model));
            }
            for exported in part.organizations {
                let organization = exported.organization.unwrap();
                assert!(!organization.purged && organization.revision > 0);
                let id = organization.organization_id.clone();
                memberships.organizations.insert(id.clone(), fields(&organization));
                for role in exported.roles {
                    assert!(role.replaced_by.is_empty());
                    assert!(!memberships.members.keys().any(|(other, _)| *other == id), "roles come before members");
                    let held = words(&role.permissions, &part.permissions);
                    assert_eq!(memberships.roles.insert((id.clone(), role.name), held), None);
                }
                for member in exported.members {
                    let twice = memberships.members.insert((id.clone(), member.user_id), member.role);
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
            let of_unknown_type = (change.organization_id.as_str(), change.revision);
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
                    self.roles.retain(|(organization, _), _| *organization != change.organization_id);
                }
                Change::Organization(change) => {
                    self.organizations.insert(change.organization_id.clone(), fields(change));
                }
                Change::Role(change) => {
                    assert_eq!(of_unknown_type, (change.organization_id.as_str(), change.revision));
                    let key = (change.organization_id.clone(), change.role.clone());
                    if change.deleted {
                        self.roles.remove(&key);
                    } else {
                        self.roles.insert(key, change.permissions.iter().cloned().collect());
                    }
                }
                Change::AccessModel(change) => self.model = Some(Model::of_message(change)),
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
        let roles: Vec<(String, String, Vec<String>)> =
            sqlx::query_as("SELECT organization_id::text, name, permissions FROM organization_roles")
                .fetch_all(&database.pool)
                .await
                .unwrap();
        let users: Vec<(String, String)> = sqlx::query_as(
            "SELECT id, CASE state WHEN 'ERASED' THEN 'DELETED' ELSE state END FROM users WHERE state <> 'ACTIVE'",
        )
        .fetch_all(&database.pool)
        .await
        .unwrap();
        let role =
            |(organization, name, words): (_, _, Vec<String>)| ((organization, name), words.into_iter().collect());
        Self {
            model: Some(Model::of(database).await),
            roles: roles.into_iter().map(role).collect(),
            organizations: organizations.into_iter().map(|(id, a, b, c, d)| (id, (a, b, c, d))).collect(),
            members: members.into_iter().map(|(organization, user, role)| ((organization, user), role)).collect(),
            users: users.into_iter().collect(),
        }
    }
}
