//! Standings: the facts about one user in one organization that every check and every decision is based on.

use super::StoreError;
use super::log::tail::LogPosition;
use crate::domain::{
    OrganizationHead, OrganizationId, OrganizationRef, OrganizationState, Role, Standing, UserId, UserState,
};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

struct StandingRow {
    bucket: Option<i16>,
    organization_id: Option<Uuid>,
    state: Option<String>,
    deleted: Option<bool>,
    revision: Option<i64>,
    is_owner: Option<bool>,
    role: Option<String>,
    user_state: Option<String>,
    position: Option<i64>,
    write_time: Option<OffsetDateTime>,
    user_bucket: i16,
    user_position: i64,
    user_write_time: OffsetDateTime,
}

impl From<StandingRow> for Standing {
    fn from(row: StandingRow) -> Self {
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
        let role = row.role.map(|role| Role::read(&role));
        Self {
            organization,
            role: if row.is_owner == Some(true) { Some(Role::OWNER) } else { role },
            user_state: row.user_state.map(|state| UserState::read(&state)),
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

/// Reads the standings of several questions, in their order, with one statement and therefore from one snapshot.
///
/// A question without a user is about the organization alone. The user state is `None` for an active user: the
/// statement reads only the index of the inactive users, which is small. A role or state that this program does not know
/// is part of the standing in which it stands, and concerns no other question.
///
/// # Errors
/// If Postgres does not answer.
pub async fn many(
    connection: &mut PgConnection,
    questions: &[&(OrganizationRef, Option<UserId>)],
) -> Result<Vec<Standing>, StoreError> {
    let mut buckets = Vec::with_capacity(questions.len());
    let mut ids = Vec::with_capacity(questions.len());
    let mut slugs = Vec::with_capacity(questions.len());
    let mut users = Vec::with_capacity(questions.len());
    let mut user_buckets = Vec::with_capacity(questions.len());
    for (organization, user) in questions {
        let (bucket, id, slug) = match organization {
            OrganizationRef::Id(id) => (Some(id.bucket()), Some(id.as_uuid()), None),
            OrganizationRef::Slug(slug) => (None, None, Some(slug.as_str().to_owned())),
        };
        buckets.push(bucket);
        ids.push(id);
        slugs.push(slug);
        // A CHECK excludes the empty id, so a question without a user finds no membership.
        users.push(user.as_ref().map_or_else(String::new, |user| user.as_str().to_owned()));
        user_buckets.push(user.as_ref().map_or(0, UserId::bucket));
    }
    // LATERAL with LIMIT 1 makes the plan one index lookup for each question and table, whatever the statistics.
    let rows = sqlx::query_as!(
        StandingRow,
        r#"SELECT h.bucket AS "bucket?", o.id AS "organization_id?", o.state AS "state?",
                  (o.delete_time IS NOT NULL) AS deleted, o.revision AS "revision?", (o.owner_id = q.user_id) AS is_owner,
                  m.role AS "role?", u.state AS "user_state?", h.position AS "position?", h.write_time AS "write_time?",
                  uh.user_bucket, uh.position AS user_position, uh.write_time AS user_write_time
           FROM unnest($1::smallint[], $2::uuid[], $3::text[], $4::text[], $5::smallint[])
                WITH ORDINALITY AS q (bucket, organization_id, slug, user_id, user_bucket, number)
           JOIN user_log_heads uh ON uh.user_bucket = q.user_bucket
           LEFT JOIN LATERAL (SELECT bucket, organization_id FROM slugs WHERE slug = q.slug LIMIT 1) s ON true
           LEFT JOIN log_heads h ON h.bucket = coalesce(q.bucket, s.bucket)
           LEFT JOIN LATERAL (
               SELECT id, state, delete_time, revision, owner_id FROM organizations
               WHERE bucket = h.bucket AND id = coalesce(q.organization_id, s.organization_id) LIMIT 1) o ON true
           LEFT JOIN LATERAL (
               SELECT role FROM memberships
               WHERE bucket = h.bucket AND organization_id = coalesce(q.organization_id, s.organization_id)
                 AND user_id = q.user_id COLLATE "C" LIMIT 1) m ON true
           LEFT JOIN LATERAL (
               SELECT state FROM users
               WHERE user_bucket = q.user_bucket AND id = q.user_id COLLATE "C" AND state <> 'ACTIVE' LIMIT 1) u ON true
           ORDER BY q.number"#,
        &buckets as &[Option<i16>],
        &ids as &[Option<Uuid>],
        &slugs as &[Option<String>],
        &users,
        &user_buckets,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Standing::from).collect())
}
