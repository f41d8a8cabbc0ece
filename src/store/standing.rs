//! Standings: the facts about one user in one organization that every check and every decision is based on.

use super::StoreError;
use super::log::tail::LogPosition;
use crate::domain::{
    OrganizationHead, OrganizationId, OrganizationRef, OrganizationState, Role, RoleName, RoleTable, Standing, UserId,
    UserState, UserStatus,
};
use sqlx::PgConnection;
use std::collections::HashMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// A question about a user in an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingKey {
    /// The organization, by id or slug.
    pub organization: OrganizationRef,
    /// The user; without one, the question is about the organization alone.
    pub user: Option<UserId>,
    /// A role of the organization's own that the answer depends on.
    pub named_role: Option<RoleName>,
}

/// The answers to some questions as the datastore has them, all from one snapshot. What the roles hold depends on the
/// access model at its revision.
pub struct StandingRows {
    rows: Vec<StandingRow>,
    /// For each question, the number of the first one that names the same role of the same organization.
    named_at: Vec<usize>,
    /// The position of the access model.
    pub model: LogPosition,
}

/// A standing, with the role that the question names.
#[derive(Debug, Clone)]
pub struct ResolvedStanding {
    /// The standing of the subject.
    pub standing: Standing,
    /// The role of the organization's own that the question names, or the role that replaces it; `None` if it has no such
    /// role.
    pub named_role: Option<Role>,
}

struct StandingRow {
    bucket: Option<i16>,
    organization_id: Option<Uuid>,
    state: Option<String>,
    deleted: Option<bool>,
    revision: Option<i64>,
    is_owner: Option<bool>,
    role: Option<String>,
    role_permissions: Option<Vec<String>>,
    named_role: Option<String>,
    named_role_permissions: Option<Vec<String>>,
    user_state: Option<String>,
    reinstated_at: Option<i64>,
    position: Option<i64>,
    write_time: Option<OffsetDateTime>,
    user_bucket: i16,
    user_position: i64,
    user_write_time: OffsetDateTime,
    model_revision: i64,
    model_write_time: OffsetDateTime,
}

impl StandingRows {
    /// The number of words of permissions in these rows.
    #[must_use]
    pub fn words(&self) -> usize {
        let lists = self.rows.iter().flat_map(|row| [&row.role_permissions, &row.named_role_permissions]);
        lists.flatten().map(Vec::len).sum()
    }

    /// Resolves the roles. The table is that of the access model at the position of these rows.
    #[must_use]
    pub fn resolve(self, roles: &RoleTable) -> Vec<ResolvedStanding> {
        let mut own = OrganizationRoles { deployment: roles, known: HashMap::new() };
        let mut named: Vec<Option<Role>> = Vec::with_capacity(self.rows.len());
        let standings = self.rows.into_iter().zip(self.named_at).map(|(mut row, named_at)| {
            let named_role = row.named_role.take();
            named.push(named_role.map(|name| own.role(row.organization_id, &name, row.named_role_permissions.take())));
            ResolvedStanding { standing: row.resolve(&mut own), named_role: named[named_at].clone() }
        });
        standings.collect()
    }
}

/// The roles of organizations in some rows. Only the first row with a role has its permissions: a thousand words, for each
/// of ten thousand members, would be too much to send.
struct OrganizationRoles<'a> {
    deployment: &'a RoleTable,
    known: HashMap<(Uuid, RoleName), Role>,
}

impl OrganizationRoles<'_> {
    /// A role by the name in a row, and the words of its permissions if the row has them.
    fn role(&mut self, organization: Option<Uuid>, name: &str, words: Option<Vec<String>>) -> Role {
        let name = RoleName::from_stored(name);
        let Some(organization) = organization.filter(|_| name.is_of_organization()) else {
            return self.deployment.role(name);
        };
        let key = (organization, name);
        if let Some(words) = words {
            let role = Role { name: key.1.clone(), permissions: RoleTable::set_of_words(&words) };
            self.known.insert(key, role.clone());
            return role;
        }
        self.known.get(&key).cloned().unwrap_or_else(|| self.deployment.role(key.1))
    }
}

impl StandingRow {
    fn resolve(self, roles: &mut OrganizationRoles<'_>) -> Standing {
        let row = self;
        let organization = match (row.organization_id, row.state, row.revision) {
            (Some(id), Some(state), Some(revision)) => Some(OrganizationHead {
                id: OrganizationId::from_uuid(id),
                state: if row.deleted == Some(true) {
                    OrganizationState::Deleted
                } else {
                    OrganizationState::read(&state)
                },
                revision,
            }),
            _ => None,
        };
        let user = row.user_state.map(|state| UserStatus::new(UserState::read(&state), row.reinstated_at));
        let user = user.unwrap_or_default();
        // Ownership is not a stored role.
        let role = row.role.map(|name| match name.as_str() {
            name if name == RoleName::OWNER.as_str() => Role::unknown(),
            name => roles.role(row.organization_id, name, row.role_permissions),
        });
        Standing {
            organization,
            role: if row.is_owner == Some(true) { Some(Role::OWNER) } else { role },
            user_state: user.state,
            reinstated_at: user.reinstated_at,
            position: match (row.bucket, row.position, row.write_time) {
                (Some(bucket), Some(position), Some(write_time)) => {
                    Some(LogPosition { position, write_time }.in_bucket(bucket))
                }
                _ => None,
            },
            user_position: LogPosition { position: row.user_position, write_time: row.user_write_time }
                .in_bucket(row.user_bucket),
        }
    }
}

/// Questions as the columns of the statement.
#[derive(Default)]
struct QuestionColumns {
    buckets: Vec<Option<i16>>,
    ids: Vec<Option<Uuid>>,
    slugs: Vec<Option<String>>,
    users: Vec<String>,
    user_buckets: Vec<i16>,
    named_roles: Vec<Option<String>>,
    /// For each question, the number of the first one that names the same role of the same organization.
    named_at: Vec<usize>,
}

impl QuestionColumns {
    fn of(questions: &[&StandingKey]) -> Self {
        let mut columns = Self::default();
        let mut first_named = HashMap::new();
        for (number, StandingKey { organization, user, named_role }) in questions.iter().enumerate() {
            let (bucket, id, slug) = match organization {
                OrganizationRef::Id(id) => (Some(id.bucket()), Some(id.as_uuid()), None),
                OrganizationRef::Slug(slug) => (None, None, Some(slug.as_str().to_owned())),
            };
            // A role that several questions name is read for the first of them.
            let named = named_role.as_ref().map(|name| (id, slug.clone(), name));
            let at = named.map_or(number, |named| *first_named.entry(named).or_insert(number));
            let named_role = named_role.as_ref().filter(|_| at == number);
            columns.named_roles.push(named_role.map(|name| name.as_str().to_owned()));
            columns.named_at.push(at);
            columns.buckets.push(bucket);
            columns.ids.push(id);
            columns.slugs.push(slug);
            // A CHECK excludes the empty id, so a question without a user finds no membership.
            columns.users.push(user.as_ref().map_or_else(String::new, |user| user.as_str().to_owned()));
            columns.user_buckets.push(user.as_ref().map_or(0, UserId::bucket));
        }
        columns
    }
}

/// Reads the standings of several questions, in their order, with one statement and therefore from one snapshot.
///
/// A question without a user is about the organization alone. The user state is `None` for an active user: the
/// statement reads only the index of the users who are not active or were reinstated, which is small. What a role holds depends on the access model
/// whose position comes with the rows. A role or state that this program does not know is part of the standing in which it
/// stands, and concerns no other question.
///
/// # Errors
/// If Postgres does not answer.
pub async fn many(connection: &mut PgConnection, questions: &[&StandingKey]) -> Result<StandingRows, StoreError> {
    let QuestionColumns { buckets, ids, slugs, users, user_buckets, named_roles, named_at } =
        QuestionColumns::of(questions);
    // LATERAL with LIMIT 1 makes the plan one index lookup for each question and table, whatever the statistics. A join with
    // the replacement of a role would read every role of the organization.
    let rows = sqlx::query_as!(
        StandingRow,
        r#"SELECT h.bucket AS "bucket?", o.id AS "organization_id?", o.state AS "state?",
                  (o.delete_time IS NOT NULL) AS deleted, o.revision AS "revision?", (o.owner_id = q.user_id) AS is_owner,
                  coalesce(r.name, m.role) AS "role?",
                  CASE WHEN row_number() OVER (
                           PARTITION BY h.bucket, o.id, m.organization_role ORDER BY q.number) = 1
                       THEN r.permissions END AS "role_permissions?",
                  n.name AS "named_role?", n.permissions AS "named_role_permissions?", u.state AS "user_state?",
                  u.reinstated_at AS "reinstated_at?", h.position AS "position?", h.write_time AS "write_time?",
                  uh.user_bucket, uh.position AS user_position, uh.write_time AS user_write_time,
                  am.revision AS model_revision, am.write_time AS model_write_time
           FROM unnest($1::smallint[], $2::uuid[], $3::text[], $4::text[], $5::smallint[], $6::text[])
                WITH ORDINALITY AS q (bucket, organization_id, slug, user_id, user_bucket, named_role, number)
           CROSS JOIN (SELECT revision, write_time FROM access_model) am
           JOIN user_log_heads uh ON uh.user_bucket = q.user_bucket
           LEFT JOIN LATERAL (SELECT bucket, organization_id FROM slugs WHERE slug = q.slug LIMIT 1) s ON true
           LEFT JOIN log_heads h ON h.bucket = coalesce(q.bucket, s.bucket)
           LEFT JOIN LATERAL (
               SELECT id, state, delete_time, revision, owner_id FROM organizations
               WHERE bucket = h.bucket AND id = coalesce(q.organization_id, s.organization_id) LIMIT 1) o ON true
           LEFT JOIN LATERAL (
               SELECT role, organization_role FROM memberships
               WHERE bucket = h.bucket AND organization_id = coalesce(q.organization_id, s.organization_id)
                 AND user_id = q.user_id COLLATE "C" LIMIT 1) m ON true
           LEFT JOIN LATERAL (
               SELECT coalesce(own.replaced_by, own.name) AS name,
                      CASE WHEN own.replaced_by IS NULL THEN own.permissions
                           ELSE (SELECT new.permissions FROM organization_roles new
                                 WHERE new.bucket = own.bucket AND new.organization_id = own.organization_id
                                   AND new.name = own.replaced_by LIMIT 1) END AS permissions
               FROM organization_roles own
               WHERE own.bucket = h.bucket
                 AND own.organization_id = coalesce(q.organization_id, s.organization_id)
                 AND own.name = m.organization_role LIMIT 1) r ON true
           LEFT JOIN LATERAL (
               SELECT coalesce(own.replaced_by, own.name) AS name,
                      CASE WHEN own.replaced_by IS NULL THEN own.permissions
                           ELSE (SELECT new.permissions FROM organization_roles new
                                 WHERE new.bucket = own.bucket AND new.organization_id = own.organization_id
                                   AND new.name = own.replaced_by LIMIT 1) END AS permissions
               FROM organization_roles own
               WHERE own.bucket = h.bucket
                 AND own.organization_id = coalesce(q.organization_id, s.organization_id)
                 AND own.name = q.named_role COLLATE "C" LIMIT 1) n ON true
           LEFT JOIN LATERAL (
               SELECT state, reinstated_at FROM users
               WHERE user_bucket = q.user_bucket AND id = q.user_id COLLATE "C"
                 AND (state <> 'ACTIVE' OR reinstated_at IS NOT NULL) LIMIT 1) u ON true
           ORDER BY q.number"#,
        &buckets as &[Option<i16>],
        &ids as &[Option<Uuid>],
        &slugs as &[Option<String>],
        &users,
        &user_buckets,
        &named_roles as &[Option<String>],
    )
    .fetch_all(connection)
    .await?;
    let start = LogPosition { position: 0, write_time: OffsetDateTime::UNIX_EPOCH };
    let model = |row: &StandingRow| LogPosition { position: row.model_revision, write_time: row.model_write_time };
    let model = rows.first().map_or(start, model);
    Ok(StandingRows { rows, named_at, model })
}
