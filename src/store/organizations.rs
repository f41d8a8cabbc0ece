//! Rows of organizations.

use super::StoreError;
use crate::domain::{
    Attributes, DeletionWindow, Kind, Name, Organization, OrganizationId, OrganizationState, Role, Slug, UserId,
};
use crate::store::limits;
use sqlx::PgConnection;
use sqlx::postgres::types::PgInterval;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

#[expect(clippy::struct_field_names, reason = "the columns' names")]
pub(super) struct OrganizationRow {
    pub(super) id: Uuid,
    pub(super) slug: String,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) attributes: Json<Attributes>,
    pub(super) state: String,
    pub(super) deactivated_by_operator: bool,
    pub(super) owner_id: Option<String>,
    pub(super) revision: i64,
    pub(super) row_revision: i64,
    pub(super) create_time: OffsetDateTime,
    pub(super) update_time: OffsetDateTime,
    pub(super) delete_time: Option<OffsetDateTime>,
    pub(super) purge_time: Option<OffsetDateTime>,
}

impl TryFrom<OrganizationRow> for Organization {
    type Error = StoreError;
    fn try_from(row: OrganizationRow) -> Result<Self, StoreError> {
        let deletion = row.delete_time.zip(row.purge_time);
        Ok(Self {
            id: OrganizationId::from_uuid(row.id),
            slug: Slug::parse(&row.slug)?,
            name: Name::parse(&row.name)?,
            kind: Kind::parse(&row.kind)?,
            attributes: row.attributes.0,
            stored_state: OrganizationState::parse(&row.state)?,
            deactivated_by_operator: row.deactivated_by_operator,
            owner: row.owner_id.as_deref().map(UserId::parse).transpose()?,
            revision: row.revision,
            row_revision: row.row_revision,
            create_time: row.create_time,
            update_time: row.update_time,
            deletion: deletion.map(|(delete_time, purge_time)| DeletionWindow { delete_time, purge_time }),
        })
    }
}

/// What a new organization is made of.
#[derive(Debug, Clone)]
pub struct NewOrganization {
    /// The id, random.
    pub id: OrganizationId,
    /// The slug, claimed already.
    pub slug: Slug,
    /// The name.
    pub name: Name,
    /// The kind.
    pub kind: Kind,
    /// The attributes.
    pub attributes: Attributes,
    /// PENDING, ACTIVE or INACTIVE.
    pub state: OrganizationState,
    /// Whether an operator made it inactive.
    pub deactivated_by_operator: bool,
    /// The owner; none for PENDING.
    pub owner: Option<UserId>,
}

/// Writes a new organization, at revision 1. The owner's membership must follow in the same transaction.
///
/// # Errors
/// If Postgres does not answer.
pub async fn insert(connection: &mut PgConnection, new: &NewOrganization) -> Result<Organization, StoreError> {
    sqlx::query_as!(
        OrganizationRow,
        r#"INSERT INTO organizations (bucket, id, slug, name, kind, attributes, state, deactivated_by_operator, owner_id,
                                      revision, row_revision, create_time, update_time)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, 1, clock_timestamp(), clock_timestamp())
           RETURNING id, slug, name, kind, attributes AS "attributes: Json<Attributes>", state, deactivated_by_operator,
                     owner_id, revision, row_revision, create_time, update_time, delete_time, purge_time"#,
        new.id.bucket(),
        new.id.as_uuid(),
        new.slug.as_str(),
        new.name.as_str(),
        new.kind.as_str(),
        new.attributes.to_value(),
        new.state.as_str(),
        new.deactivated_by_operator,
        new.owner.as_ref().map(UserId::as_str),
    )
    .fetch_one(connection)
    .await?
    .try_into()
}

/// Locks an organization against every other write, and reads it. The lock orders all that happens to an organization;
/// what else is read must be read by later statements, whose snapshots are younger than the lock.
///
/// # Errors
/// If Postgres does not answer, or the lock does not come in time.
pub async fn lock(connection: &mut PgConnection, id: OrganizationId) -> Result<Option<Organization>, StoreError> {
    // NO KEY: an insert that only refers to this row (a membership) need not wait.
    sqlx::query_as!(
        OrganizationRow,
        r#"SELECT id, slug, name, kind, attributes AS "attributes: Json<Attributes>", state, deactivated_by_operator,
                  owner_id, revision, row_revision, create_time, update_time, delete_time, purge_time
           FROM organizations WHERE bucket = $1 AND id = $2 FOR NO KEY UPDATE"#,
        id.bucket(),
        id.as_uuid(),
    )
    .fetch_optional(connection)
    .await?
    .map(Organization::try_from)
    .transpose()
}

/// Reads an organization.
///
/// # Errors
/// If Postgres does not answer.
pub async fn get(connection: &mut PgConnection, id: OrganizationId) -> Result<Option<Organization>, StoreError> {
    sqlx::query_as!(
        OrganizationRow,
        r#"SELECT id, slug, name, kind, attributes AS "attributes: Json<Attributes>", state, deactivated_by_operator,
                  owner_id, revision, row_revision, create_time, update_time, delete_time, purge_time
           FROM organizations WHERE bucket = $1 AND id = $2"#,
        id.bucket(),
        id.as_uuid(),
    )
    .fetch_optional(connection)
    .await?
    .map(Organization::try_from)
    .transpose()
}

/// Writes the row as it now is, and tells when. `purge_time` follows from `deleted` and the time of the datastore.
///
/// # Errors
/// If Postgres does not answer.
pub async fn update(
    connection: &mut PgConnection,
    organization: &Organization,
    deleted: bool,
) -> Result<Organization, StoreError> {
    let purge_after =
        PgInterval::try_from(limits::PURGE_AFTER).map_err(|error| StoreError::Unreadable(error.to_string()))?;
    sqlx::query_as!(
        OrganizationRow,
        r#"UPDATE organizations
           SET slug = $3, name = $4, attributes = $5, state = $6, deactivated_by_operator = $7, owner_id = $8, revision = $9,
               row_revision = $10, update_time = clock_timestamp(),
               delete_time = CASE WHEN $11 THEN coalesce(delete_time, clock_timestamp()) END,
               purge_time = CASE WHEN $11 THEN coalesce(purge_time, clock_timestamp() + $12) END
           WHERE bucket = $1 AND id = $2
           RETURNING id, slug, name, kind, attributes AS "attributes: Json<Attributes>", state, deactivated_by_operator,
                     owner_id, revision, row_revision, create_time, update_time, delete_time, purge_time"#,
        organization.id.bucket(),
        organization.id.as_uuid(),
        organization.slug.as_str(),
        organization.name.as_str(),
        organization.attributes.to_value(),
        organization.stored_state.as_str(),
        organization.deactivated_by_operator,
        organization.owner.as_ref().map(UserId::as_str),
        organization.revision,
        organization.row_revision,
        deleted,
        purge_after,
    )
    .fetch_one(connection)
    .await?
    .try_into()
}

/// Writes how many changes the organization has seen.
///
/// # Errors
/// If Postgres does not answer.
pub async fn set_revision(connection: &mut PgConnection, id: OrganizationId, revision: i64) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE organizations SET revision = $3 WHERE bucket = $1 AND id = $2",
        id.bucket(),
        id.as_uuid(),
        revision
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes the row, and its memberships with it.
///
/// # Errors
/// If Postgres does not answer.
pub async fn delete(connection: &mut PgConnection, id: OrganizationId) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM organizations WHERE bucket = $1 AND id = $2", id.bucket(), id.as_uuid())
        .execute(connection)
        .await?;
    Ok(())
}

/// The organizations whose time to be purged has come: deleted ones, the longest overdue first, and pending ones that
/// nobody can make active any more. At most this many of each.
///
/// # Errors
/// If Postgres does not answer.
pub async fn due_for_purge(connection: &mut PgConnection, most: i64) -> Result<Vec<OrganizationId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"(SELECT id AS "id!" FROM organizations WHERE purge_time <= clock_timestamp() ORDER BY purge_time LIMIT $1)
           UNION ALL
           (SELECT o.id FROM organizations o
            WHERE o.state = 'PENDING' AND o.purge_time IS NULL AND o.create_time < clock_timestamp() - $2::interval
              AND NOT EXISTS (
                  SELECT FROM invitations i WHERE i.bucket = o.bucket AND i.organization_id = o.id AND i.state = 'PENDING'
                  AND i.expire_time > clock_timestamp())
            LIMIT $1)"#,
        most,
        super::invitations::interval(limits::PURGE_AFTER)?,
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(OrganizationId::from_uuid).collect())
}

/// Where a list goes on: behind this name and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrganizationPageKey {
    /// The name of the last one shown.
    pub name: String,
    /// Its id.
    pub id: OrganizationId,
}

/// Which organizations to list.
#[derive(Debug, Clone)]
pub struct OrganizationFilter {
    /// Only this kind.
    pub kind: Option<Kind>,
    /// Only these states.
    pub states: Vec<OrganizationState>,
    /// Only those whose name or slug contains this, without regard to case.
    pub search: Option<String>,
    /// Where to go on.
    pub after: Option<OrganizationPageKey>,
    /// How many at most.
    pub limit: i64,
}

fn state_names(states: &[OrganizationState]) -> Vec<String> {
    states.iter().map(|state| state.as_str().to_owned()).collect()
}

/// Lists organizations by name, then id.
///
/// # Errors
/// If Postgres does not answer.
pub async fn list(connection: &mut PgConnection, filter: &OrganizationFilter) -> Result<Vec<Organization>, StoreError> {
    let after = filter.after.as_ref();
    // No name is empty, so the first page begins behind the empty one: one index condition for every page.
    let rows = sqlx::query_as!(
        OrganizationRow,
        r#"SELECT id, slug, name, kind, attributes AS "attributes: Json<Attributes>", state, deactivated_by_operator,
                  owner_id, revision, row_revision, create_time, update_time, delete_time, purge_time
           FROM organizations
           WHERE ($1::text IS NULL OR kind = $1)
             AND CASE WHEN delete_time IS NULL THEN state ELSE 'DELETED' END = ANY ($2::text[])
             AND ($3::text IS NULL OR position(lower($3) IN lower(name)) > 0 OR position(lower($3) IN slug) > 0)
             AND (name, id) > (coalesce($4::text, ''), coalesce($5, '00000000-0000-0000-0000-000000000000'::uuid))
           ORDER BY name, id
           LIMIT $6"#,
        filter.kind.as_ref().map(Kind::as_str),
        &state_names(&filter.states),
        filter.search,
        after.map(|after| after.name.as_str()),
        after.map(|after| after.id.as_uuid()),
        filter.limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Organization::try_from).collect()
}

/// Which of a user's organizations to list.
#[derive(Debug, Clone)]
pub struct UserOrganizationFilter {
    /// Only this kind.
    pub kind: Option<Kind>,
    /// Only these states.
    pub states: Vec<OrganizationState>,
    /// Only those behind this id.
    pub after: Option<OrganizationId>,
    /// How many at most.
    pub limit: i64,
}

/// Lists the organizations that a user is in, by id, with the role in each.
///
/// # Errors
/// If Postgres does not answer.
pub async fn list_of_user(
    connection: &mut PgConnection,
    user: &UserId,
    filter: &UserOrganizationFilter,
) -> Result<Vec<(Organization, Role)>, StoreError> {
    // The memberships in the order of their index, and each one's organization by key: OFFSET 0 keeps the planner, who
    // does not know how many are asked for, from reading and sorting all of them. The bucket is the first byte of the
    // id, so by bucket and id is by id; none is below 0, where the first page begins.
    let rows = sqlx::query!(
        r#"SELECT o.id, o.slug, o.name, o.kind, o.attributes AS "attributes: Json<Attributes>", o.state,
                  o.deactivated_by_operator, o.owner_id, o.revision, o.row_revision, o.create_time, o.update_time,
                  o.delete_time, o.purge_time, m.role
           FROM memberships m
           CROSS JOIN LATERAL (
               SELECT * FROM organizations
               WHERE bucket = m.bucket AND id = m.organization_id AND delete_time IS NULL
                 AND ($2::text IS NULL OR kind = $2) AND state = ANY ($3::text[])
               OFFSET 0) o
           WHERE m.user_id = $1 AND (m.bucket, m.organization_id) > ($4::smallint, $5::uuid)
           ORDER BY m.bucket, m.organization_id
           LIMIT $6"#,
        user.as_str(),
        filter.kind.as_ref().map(Kind::as_str),
        &state_names(&filter.states),
        filter.after.map_or(-1, OrganizationId::bucket),
        filter.after.map_or(Uuid::nil(), OrganizationId::as_uuid),
        filter.limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let stored = Role::parse(&row.role)?;
            let organization = Organization::try_from(OrganizationRow {
                id: row.id,
                slug: row.slug,
                name: row.name,
                kind: row.kind,
                attributes: row.attributes,
                state: row.state,
                deactivated_by_operator: row.deactivated_by_operator,
                owner_id: row.owner_id,
                revision: row.revision,
                row_revision: row.row_revision,
                create_time: row.create_time,
                update_time: row.update_time,
                delete_time: row.delete_time,
                purge_time: row.purge_time,
            })?;
            let role = organization.role_of(user, stored);
            Ok((organization, role))
        })
        .collect()
}

/// Whether this organization's time to be purged has come.
///
/// # Errors
/// If Postgres does not answer.
pub async fn is_due(connection: &mut PgConnection, id: OrganizationId) -> Result<bool, StoreError> {
    let due = sqlx::query_scalar!(
        r#"SELECT coalesce(o.purge_time <= clock_timestamp(),
                           o.state = 'PENDING' AND o.create_time < clock_timestamp() - $3::interval AND NOT EXISTS (
                               SELECT FROM invitations i WHERE i.bucket = o.bucket AND i.organization_id = o.id
                               AND i.state = 'PENDING' AND i.expire_time > clock_timestamp())) AS due
           FROM organizations o WHERE o.bucket = $1 AND o.id = $2"#,
        id.bucket(),
        id.as_uuid(),
        super::invitations::interval(limits::PURGE_AFTER)?,
    )
    .fetch_optional(connection)
    .await?;
    Ok(due.flatten() == Some(true))
}
