//! Snapshots for exports. They stream a bucket row by row, because an export must not keep a whole bucket in memory.

use super::access_model::{self, StoredModel};
use super::{StoreError, in_time, limits, log, transaction};
use crate::domain::{
    BucketPosition, Kind, OrganizationId, OrganizationState, PermissionSet, Role, RoleName, RoleTable, Slug, UserId,
    UserState,
};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use sqlx::{PgConnection, Postgres, Transaction};

/// An organization in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportHead {
    /// The id of the organization.
    pub id: OrganizationId,
    /// The slug, unique over all organizations.
    pub slug: Slug,
    /// The kind, by which an export can be filtered.
    pub kind: Kind,
    /// The state, `DELETED` included.
    pub state: OrganizationState,
    /// The owner; `None` until the organization is activated.
    pub owner: Option<UserId>,
    /// The revision: the number of its changes.
    pub revision: i64,
}

/// A row of an export: an organization, a member, or an organization with its first member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRow {
    /// The organization, in the first of its rows only.
    pub head: Option<ExportHead>,
    /// A member and the role as stored; `None` for an organization without members.
    pub member: Option<(UserId, Role)>,
}

/// A role that an organization defines, in an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRole {
    /// The organization that defines it.
    pub organization: OrganizationId,
    /// The name, which begins with `org:`.
    pub name: RoleName,
    /// What the role holds; `None` if this program does not know one of its permissions.
    pub permissions: Option<PermissionSet>,
    /// The role that replaces it, while its members move there: they hold what that role holds, and the permissions are
    /// empty. Never a role that is itself replaced.
    pub replaced_by: Option<RoleName>,
}

/// A read-only snapshot of the database.
pub struct ExportSnapshot<'c>(Transaction<'c, Postgres>);

impl<'c> ExportSnapshot<'c> {
    /// Opens a snapshot. Keep it short: while it is open, vacuum cannot remove rows that are deleted after it began.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn begin(connection: &'c mut PgConnection) -> Result<Self, StoreError> {
        Ok(Self(transaction::begin_snapshot(connection).await?))
    }

    /// The last position in the change log of a bucket of organizations.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn position(&mut self, bucket: i16) -> Result<BucketPosition, StoreError> {
        in_time(limits::COPY_SILENCE, log::position(&mut self.0, bucket)).await
    }

    /// The last position in the change log of a bucket of users.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn user_position(&mut self, bucket: i16) -> Result<BucketPosition, StoreError> {
        in_time(limits::COPY_SILENCE, log::user_position(&mut self.0, bucket)).await
    }

    /// Streams the organizations of a bucket, or those of one kind, with their members. The rows of an organization are
    /// consecutive.
    pub fn organizations<'s>(
        &'s mut self,
        bucket: i16,
        kind: Option<&'s Kind>,
    ) -> BoxStream<'s, Result<ExportRow, StoreError>> {
        let rows = sqlx::query!(
            r#"SELECT o.id, o.slug, o.kind, o.state, (o.delete_time IS NOT NULL) AS "deleted!", o.owner_id, o.revision,
                      m.user_id AS "user_id?", m.role AS "role?"
               FROM organizations o
               LEFT JOIN memberships m ON m.bucket = o.bucket AND m.organization_id = o.id
               WHERE o.bucket = $1 AND ($2::text IS NULL OR o.kind = $2)
               ORDER BY o.id"#,
            bucket,
            kind.map(Kind::as_str),
        )
        .fetch(&mut *self.0);
        let mut last = None;
        rows.map(move |row| {
            let row = row?;
            let is_first = last.replace(row.id) != Some(row.id);
            let head = is_first.then(|| ExportHead {
                id: OrganizationId::from_uuid(row.id),
                slug: Slug::from_stored(row.slug),
                kind: Kind::from_stored(row.kind),
                state: if row.deleted { OrganizationState::Deleted } else { OrganizationState::read(&row.state) },
                owner: row.owner_id.map(UserId::from_stored),
                revision: row.revision,
            });
            let member = row.user_id.zip(row.role);
            let member = member.map(|(user, role)| (UserId::from_stored(user), Role::read(&role)));
            Ok(ExportRow { head, member })
        })
        .boxed()
    }

    /// The access model.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn access_model(&mut self) -> Result<StoredModel, StoreError> {
        in_time(limits::COPY_SILENCE, access_model::current(&mut self.0)).await
    }

    /// Streams the roles that the organizations of a bucket, or those of one kind, define. The rows of an organization are
    /// consecutive.
    pub fn organization_roles<'s>(
        &'s mut self,
        bucket: i16,
        kind: Option<&'s Kind>,
    ) -> BoxStream<'s, Result<ExportRole, StoreError>> {
        let rows = sqlx::query!(
            "SELECT r.organization_id, r.name, r.permissions, r.replaced_by
             FROM organization_roles r JOIN organizations o ON o.bucket = r.bucket AND o.id = r.organization_id
             WHERE r.bucket = $1 AND ($2::text IS NULL OR o.kind = $2)
             ORDER BY r.organization_id, r.name",
            bucket,
            kind.map(Kind::as_str),
        )
        .fetch(&mut *self.0);
        rows.map(|row| {
            let row = row?;
            Ok(ExportRole {
                organization: OrganizationId::from_uuid(row.organization_id),
                name: RoleName::from_stored(&row.name),
                permissions: RoleTable::set_of_words(&row.permissions),
                replaced_by: row.replaced_by.as_deref().map(RoleName::from_stored),
            })
        })
        .boxed()
    }

    /// Streams the users of a bucket who are not active.
    pub fn users(&mut self, bucket: i16) -> BoxStream<'_, Result<(UserId, UserState), StoreError>> {
        let rows = sqlx::query!(
            "SELECT id, state FROM users WHERE user_bucket = $1 AND state <> 'ACTIVE' ORDER BY id",
            bucket
        )
        .fetch(&mut *self.0);
        let read = |row: Result<_, sqlx::Error>| row.map_err(StoreError::from);
        rows.map(read).map(|row| row.map(|row| (UserId::from_stored(row.id), UserState::read(&row.state)))).boxed()
    }

    /// Closes the snapshot. A snapshot that is dropped closes before the next statement of its connection.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn end(self) -> Result<(), StoreError> {
        in_time(limits::COPY_SILENCE, self.0.rollback()).await
    }
}
