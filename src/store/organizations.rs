//! Rows of organizations.

use super::StoreError;
use super::row_page::RowPage;
use crate::domain::folding::fold;
use crate::domain::{
    Attributes, DeletionWindow, Kind, Name, Organization, OrganizationId, OrganizationState, Role, SearchText, Slug,
    UserId, ValueKind,
};
use crate::store::limits;
use sqlx::PgConnection;
use sqlx::postgres::types::PgInterval;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

#[derive(sqlx::FromRow)]
struct OrganizationRow {
    id: Uuid,
    slug: String,
    name: String,
    kind: String,
    #[sqlx(rename = "attributes: Json<Attributes>")]
    attributes: Json<Attributes>,
    state: String,
    deactivated_by_operator: bool,
    owner_id: Option<String>,
    revision: i64,
    row_revision: i64,
    create_time: OffsetDateTime,
    update_time: OffsetDateTime,
    delete_time: Option<OffsetDateTime>,
    purge_time: Option<OffsetDateTime>,
}

/// A statement that returns [`OrganizationRow`]s: the text before the column list, the text after it, the arguments.
/// The table has the alias `o`.
///
/// With `record` in front, the statement returns records, which may have more columns.
macro_rules! organization_query {
    (record $before:literal, $after:literal, $($argument:tt)*) => {
        organization_query!(@ query!(), $before, $after, $($argument)*)
    };
    (@ $query:ident!($($row:ident)?), $before:literal, $after:literal, $($argument:tt)*) => {
        sqlx::$query!(
            $($row,)?
            $before
                + r#" o.id, o.slug, o.name, o.kind, o.attributes AS "attributes: Json<Attributes>", o.state,
                      o.deactivated_by_operator, o.owner_id, o.revision, o.row_revision, o.create_time, o.update_time,
                      o.delete_time, o.purge_time "#
                + $after,
            $($argument)*
        )
    };
    ($before:literal, $after:literal, $($argument:tt)*) => {
        organization_query!(@ query_as!(OrganizationRow), $before, $after, $($argument)*)
    };
}

/// The [`OrganizationRow`] of a record that has more columns.
macro_rules! organization_row {
    ($record:ident) => {
        OrganizationRow {
            id: $record.id,
            slug: $record.slug,
            name: $record.name,
            kind: $record.kind,
            attributes: $record.attributes,
            state: $record.state,
            deactivated_by_operator: $record.deactivated_by_operator,
            owner_id: $record.owner_id,
            revision: $record.revision,
            row_revision: $record.row_revision,
            create_time: $record.create_time,
            update_time: $record.update_time,
            delete_time: $record.delete_time,
            purge_time: $record.purge_time,
        }
    };
}

mod purge;
mod search;
pub use purge::{due_for_purge, is_due};
pub use search::search_candidates;

impl From<OrganizationRow> for Organization {
    fn from(row: OrganizationRow) -> Self {
        let deletion = row.delete_time.zip(row.purge_time);
        Self {
            id: OrganizationId::from_uuid(row.id),
            slug: Slug::from_stored(row.slug),
            name: Name::from_stored(row.name),
            kind: Kind::from_stored(row.kind),
            attributes: row.attributes.0,
            stored_state: OrganizationState::read(&row.state),
            deactivated_by_operator: row.deactivated_by_operator,
            owner: row.owner_id.map(UserId::from_stored),
            revision: row.revision,
            row_revision: row.row_revision,
            create_time: row.create_time,
            update_time: row.update_time,
            deletion: deletion.map(|(delete_time, purge_time)| DeletionWindow { delete_time, purge_time }),
        }
    }
}

/// Rejects an organization whose state this program does not know: nothing can be decided in it.
fn require_known_state(row: OrganizationRow) -> Result<Organization, StoreError> {
    let organization = Organization::from(row);
    match organization.state() {
        OrganizationState::Unknown => Err(StoreError::ValueUnknown(ValueKind::OrganizationState)),
        _ => Ok(organization),
    }
}

/// The columns of a new organization.
#[derive(Debug, Clone)]
pub struct NewOrganization {
    /// A random id.
    pub id: OrganizationId,
    /// The slug, claimed earlier in the same transaction.
    pub slug: Slug,
    /// The display name.
    pub name: Name,
    /// The kind, which never changes.
    pub kind: Kind,
    /// The attributes that the deployment stores.
    pub attributes: Attributes,
    /// `PENDING`, `ACTIVE` or `INACTIVE`.
    pub state: OrganizationState,
    /// Whether an operator deactivated it; then the state is `INACTIVE`.
    pub deactivated_by_operator: bool,
    /// The owner; `None` exactly for `PENDING`.
    pub owner: Option<UserId>,
}

/// Inserts an organization at revision 1. The membership of the owner must follow in the same transaction.
///
/// # Errors
/// If Postgres does not answer.
pub async fn insert(connection: &mut PgConnection, new: &NewOrganization) -> Result<Organization, StoreError> {
    Ok(organization_query!(
        "INSERT INTO organizations AS o (bucket, id, slug, name, kind, attributes, state, deactivated_by_operator,
                                         owner_id, revision, row_revision, create_time, update_time, folded_name,
                                         folded_revision)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, 1, clock_timestamp(), clock_timestamp(), $10, 1)
         RETURNING",
        "",
        new.id.bucket(),
        new.id.as_uuid(),
        new.slug.as_str(),
        new.name.as_str(),
        new.kind.as_str(),
        new.attributes.to_value(),
        new.state.as_str(),
        new.deactivated_by_operator,
        new.owner.as_ref().map(UserId::as_str),
        fold(new.name.as_str()),
    )
    .fetch_one(connection)
    .await?
    .into())
}

/// Reads an organization under a lock that excludes every other write to it until the transaction ends.
///
/// The lock puts all changes of an organization into one order. Read everything else with later statements: only their
/// snapshots are younger than the lock.
///
/// # Errors
/// If Postgres does not answer, the lock is not granted in time, or the state of the organization is unknown.
pub async fn lock(connection: &mut PgConnection, id: OrganizationId) -> Result<Option<LockedOrganization>, StoreError> {
    // NO KEY: an insert that only references this row (a membership) does not wait.
    let row = organization_query!(
        record
        "SELECT",
        r#", (SELECT revision FROM access_model) AS "model_revision!"
           FROM organizations o WHERE o.bucket = $1 AND o.id = $2 FOR NO KEY UPDATE"#,
        id.bucket(),
        id.as_uuid(),
    )
    .fetch_optional(connection)
    .await?;
    row.map(|record| {
        let model_revision = record.model_revision;
        Ok(LockedOrganization { organization: require_known_state(organization_row!(record))?, model_revision })
    })
    .transpose()
}

/// An organization whose row is locked.
#[derive(Debug, Clone)]
pub struct LockedOrganization {
    /// The organization whose row is locked.
    pub organization: Organization,
    /// The revision of the access model when the statement began.
    pub model_revision: i64,
}

/// Reads an organization.
///
/// # Errors
/// If Postgres does not answer, or the state of the organization is unknown.
pub async fn get(connection: &mut PgConnection, id: OrganizationId) -> Result<Option<Organization>, StoreError> {
    organization_query!("SELECT", "FROM organizations o WHERE o.bucket = $1 AND o.id = $2", id.bucket(), id.as_uuid(),)
        .fetch_optional(connection)
        .await?
        .map(require_known_state)
        .transpose()
}

/// Overwrites the row of an organization. Returns it with its new times: Postgres sets `update_time`, and from
/// `deleted` `delete_time` and `purge_time`.
///
/// # Errors
/// If Postgres does not answer, or the organization has no row.
pub async fn update(
    connection: &mut PgConnection,
    organization: &Organization,
    deleted: bool,
) -> Result<Organization, StoreError> {
    let purge_after =
        PgInterval::try_from(limits::PURGE_AFTER).map_err(|error| StoreError::Unreadable(error.to_string()))?;
    Ok(organization_query!(
        "UPDATE organizations o
         SET slug = $3, name = $4, attributes = $5, state = $6, deactivated_by_operator = $7, owner_id = $8,
             revision = $9, row_revision = $10, folded_name = $13, folded_revision = $10,
             update_time = clock_timestamp(),
             delete_time = CASE WHEN $11 THEN coalesce(o.delete_time, clock_timestamp()) END,
             purge_time = CASE WHEN $11 THEN coalesce(o.purge_time, clock_timestamp() + $12) END
         WHERE o.bucket = $1 AND o.id = $2
         RETURNING",
        "",
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
        fold(organization.name.as_str()),
    )
    .fetch_one(connection)
    .await?
    .into())
}

/// Overwrites the revision of an organization: the number of its changes.
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

/// Deletes the row of an organization and its memberships.
///
/// # Errors
/// If Postgres does not answer.
pub async fn delete(connection: &mut PgConnection, id: OrganizationId) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM organizations WHERE bucket = $1 AND id = $2", id.bucket(), id.as_uuid())
        .execute(connection)
        .await?;
    Ok(())
}

/// The last organization of the previous page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrganizationPageKey {
    /// The name of the organization.
    pub name: String,
    /// The id of the organization.
    pub id: OrganizationId,
}

/// A page of all organizations.
#[derive(Debug, Clone)]
pub struct OrganizationFilter {
    /// Only this kind.
    pub kind: Option<Kind>,
    /// Only these states, and states that this program does not know.
    pub states: Vec<OrganizationState>,
    /// Only organizations that this text finds.
    pub search: Option<SearchText>,
    /// Only organizations after this one.
    pub after: Option<OrganizationPageKey>,
    /// Maximum number of organizations.
    pub limit: i64,
}

impl OrganizationFilter {
    /// Whether the filter selects an organization, wherever the page begins.
    #[must_use]
    pub fn selects(&self, organization: &Organization) -> bool {
        let Organization { kind, name, slug, .. } = organization;
        self.kind.as_ref().is_none_or(|wanted| wanted == kind)
            && (self.states.contains(&organization.state()) || organization.state() == OrganizationState::Unknown)
            && self.search.as_ref().is_none_or(|search| search.finds(name, slug))
    }
}

/// Lists organizations by name, then id. The search of the filter is for [`search_candidates`].
///
/// # Errors
/// If Postgres does not answer.
pub async fn list(
    connection: &mut PgConnection,
    filter: &OrganizationFilter,
) -> Result<RowPage<Organization>, StoreError> {
    let after = filter.after.as_ref();
    // No name is empty, so the first page starts after the empty name: every page uses the same index condition.
    let rows = organization_query!(
        record
        "SELECT",
        ", o.has_next
         FROM (
             SELECT * FROM (
                 SELECT s.*, sum(octet_length(s.attributes::text)) OVER before AS text_before
                 FROM (
                     SELECT p.*, sum(pg_column_size(p.attributes || '{}')) OVER before AS stored_before,
                            lead(true) OVER (ORDER BY p.name, p.id) AS has_next
                     FROM (
                         SELECT * FROM organizations
                         WHERE ($1::text IS NULL OR kind = $1)
                           AND CASE WHEN delete_time IS NULL THEN state ELSE 'DELETED' END <> ALL ($2::text[])
                           AND (name, id) > (coalesce($3::text, ''),
                                             coalesce($4, '00000000-0000-0000-0000-000000000000'::uuid))
                         ORDER BY name, id
                         LIMIT $5) p
                     WINDOW before AS (ORDER BY p.name, p.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) s
                 WHERE coalesce(s.stored_before, 0) < $6
                 WINDOW before AS (ORDER BY s.name, s.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) t
             WHERE coalesce(t.text_before, 0) < $7) o
         ORDER BY o.name, o.id",
        filter.kind.as_ref().map(Kind::as_str),
        &OrganizationState::names_except(&filter.states),
        after.map(|after| after.name.as_str()),
        after.map(|after| after.id.as_uuid()),
        filter.limit,
        limits::PAGE_STORED_BYTES,
        limits::PAGE_TEXT_BYTES,
    )
    .fetch_all(connection)
    .await?;
    Ok(RowPage::new(rows, |row| row.has_next, |row| organization_row!(row).into()))
}

/// A page of a user's organizations.
#[derive(Debug, Clone)]
pub struct UserOrganizationFilter {
    /// Only this kind.
    pub kind: Option<Kind>,
    /// Only these states, and states that this program does not know.
    pub states: Vec<OrganizationState>,
    /// Only ids greater than this one: the last of the previous page.
    pub after: Option<OrganizationId>,
    /// Maximum number of organizations.
    pub limit: i64,
}

/// Lists the organizations of a user by id, with the user's role in each. Deleted organizations are left out.
///
/// # Errors
/// If Postgres does not answer.
pub async fn list_of_user(
    connection: &mut PgConnection,
    user: &UserId,
    filter: &UserOrganizationFilter,
) -> Result<RowPage<(Organization, Role)>, StoreError> {
    // The plan reads the memberships in the order of their index, then the organization of each by key: the planner
    // does not know the size of the page, and without OFFSET 0 it would read and sort all of them. The bucket is the
    // first byte of the id, so the order by bucket and id is the order by id. No bucket is negative, so the first page
    // starts after bucket -1.
    let rows = organization_query!(
        record
        "SELECT",
        r#", coalesce(r.replaced_by, d.replaced_by, o.role) AS "role!", o.has_next
         FROM (
             SELECT * FROM (
                 SELECT s.*, sum(octet_length(s.attributes::text)) OVER before AS text_before
                 FROM (
                     SELECT p.*, sum(pg_column_size(p.attributes || '{}')) OVER before AS stored_before,
                            lead(true) OVER (ORDER BY p.bucket, p.id) AS has_next
                     FROM (
                         SELECT found.*, m.role, m.organization_role, m.deployment_role FROM memberships m
                         CROSS JOIN LATERAL (
                             SELECT * FROM organizations
                             WHERE bucket = m.bucket AND id = m.organization_id AND delete_time IS NULL
                               AND ($2::text IS NULL OR kind = $2) AND state <> ALL ($3::text[])
                             OFFSET 0) found
                         WHERE m.user_id = $1 AND (m.bucket, m.organization_id) > ($4::smallint, $5::uuid)
                         ORDER BY m.bucket, m.organization_id
                         LIMIT $6) p
                     WINDOW before AS (ORDER BY p.bucket, p.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) s
                 WHERE coalesce(s.stored_before, 0) < $7
                 WINDOW before AS (ORDER BY s.bucket, s.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) t
             WHERE coalesce(t.text_before, 0) < $8) o
         LEFT JOIN LATERAL (
             SELECT replaced_by FROM deployment_roles WHERE name = o.deployment_role OFFSET 0) d ON true
         LEFT JOIN LATERAL (
             SELECT replaced_by FROM organization_roles
             WHERE bucket = o.bucket AND organization_id = o.id AND name = o.organization_role OFFSET 0) r ON true
         ORDER BY o.bucket, o.id"#,
        user.as_str(),
        filter.kind.as_ref().map(Kind::as_str),
        &OrganizationState::names_except(&filter.states),
        filter.after.map_or(-1, OrganizationId::bucket),
        filter.after.map_or(Uuid::nil(), OrganizationId::as_uuid),
        filter.limit,
        limits::PAGE_STORED_BYTES,
        limits::PAGE_TEXT_BYTES,
    )
    .fetch_all(connection)
    .await?;
    Ok(RowPage::new(
        rows,
        |row| row.has_next,
        |row| {
            let stored = Role::read(&row.role);
            let organization = Organization::from(organization_row!(row));
            let role = organization.role_of(user, stored);
            (organization, role)
        },
    ))
}
