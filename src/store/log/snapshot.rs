//! Snapshots for loading the replica: the contents of some buckets, and the log positions that they correspond to.

use super::copy::{CopyFields, CopyRows};
use super::tail::LogPosition;
use crate::domain::{OrganizationId, OrganizationState, RoleName, Slug, UserId, UserState, UserStatus};
use crate::store::{StoreError, in_time, limits, transaction};
use futures_util::TryStreamExt;
use sqlx::{PgConnection, Postgres, Transaction};
use uuid::Uuid;

/// An open read-only snapshot of a range of buckets of organizations.
pub struct BucketSnapshot<'c> {
    transaction: Transaction<'c, Postgres>,
    first: i16,
    last: i16,
}

/// An organization in a snapshot.
pub struct SnapshotOrganization {
    /// The id of the organization.
    pub id: OrganizationId,
    /// The state, `DELETED` included.
    pub state: OrganizationState,
    /// The revision: the number of its changes.
    pub revision: i64,
    /// The owner; `None` until the organization is activated.
    pub owner: Option<UserId>,
    /// The slug, unique over all organizations.
    pub slug: Slug,
}

impl<'c> BucketSnapshot<'c> {
    /// Opens a snapshot of the buckets `first` to `last`, both included. Returns it with the end of the log of each
    /// bucket.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn begin(
        connection: &'c mut PgConnection,
        first: i16,
        last: i16,
    ) -> Result<(Self, Vec<LogPosition>), StoreError> {
        let mut transaction = transaction::begin_snapshot(connection).await?;
        let positions = sqlx::query_as!(
            LogPosition,
            "SELECT position, write_time FROM log_heads WHERE bucket BETWEEN $1 AND $2 ORDER BY bucket",
            first,
            last
        )
        .fetch_all(&mut *transaction);
        let positions = in_time(limits::COPY_SILENCE, positions).await?;
        Ok((Self { transaction, first, last }, positions))
    }

    /// Reads every organization of the buckets, deleted organizations included.
    ///
    /// # Errors
    /// If Postgres does not answer, or a row is not readable.
    pub async fn organizations(&mut self, mut each: impl FnMut(SnapshotOrganization)) -> Result<(), StoreError> {
        let (first, last) = (self.first, self.last);
        let statement = format!(
            "COPY (SELECT id, state, delete_time IS NOT NULL, revision, owner_id, slug FROM organizations
                   WHERE bucket BETWEEN {first} AND {last}) TO STDOUT (FORMAT binary)"
        );
        self.copy(&statement, |row: CopyFields<'_, 6>| {
            let [id, state, deleted, revision, owner, slug] = row;
            let deleted = deleted == Some(&[1]);
            each(SnapshotOrganization {
                id: organization_id(id)?,
                state: if deleted { OrganizationState::Deleted } else { OrganizationState::read(text(state)?) },
                revision: i64::from_be_bytes(fixed(revision)?),
                owner: owner.map(|owner| user_id(Some(owner))).transpose()?,
                slug: Slug::from_stored(text(slug)?.to_owned()),
            });
            Ok(())
        })
        .await
    }

    /// Reads every membership of the buckets: the organization, the user, and the name of the role as stored.
    ///
    /// # Errors
    /// If Postgres does not answer, or a row is not readable.
    pub async fn members(&mut self, mut each: impl FnMut(OrganizationId, &str, &str)) -> Result<(), StoreError> {
        let (first, last) = (self.first, self.last);
        let statement = format!(
            "COPY (SELECT organization_id, user_id, role FROM memberships WHERE bucket BETWEEN {first} AND {last})
             TO STDOUT (FORMAT binary)"
        );
        self.copy(&statement, |row: CopyFields<'_, 3>| {
            let [organization, user, role] = row;
            each(organization_id(organization)?, text(user)?, text(role)?);
            Ok(())
        })
        .await
    }

    /// Reads every role that an organization of the buckets defines: the organization, the name, the words of its
    /// permissions, as stored, and the role that replaces it.
    ///
    /// # Errors
    /// If Postgres does not answer, or a row is not readable.
    pub async fn roles(
        &mut self,
        mut each: impl FnMut(OrganizationId, RoleName, &mut dyn Iterator<Item = &str>, Option<RoleName>),
    ) -> Result<(), StoreError> {
        let (first, last) = (self.first, self.last);
        // A word has no space.
        let statement = format!(
            "COPY (SELECT organization_id, name, array_to_string(permissions, ' '), replaced_by FROM organization_roles
                   WHERE bucket BETWEEN {first} AND {last}) TO STDOUT (FORMAT binary)"
        );
        self.copy(&statement, |row: CopyFields<'_, 4>| {
            let [organization, name, permissions, replaced_by] = row;
            let name = RoleName::from_stored(text(name)?);
            let replaced_by = replaced_by.map(|name| text(Some(name)).map(RoleName::from_stored)).transpose()?;
            each(organization_id(organization)?, name, &mut text(permissions)?.split_terminator(' '), replaced_by);
            Ok(())
        })
        .await
    }

    async fn copy<const N: usize>(
        &mut self,
        statement: &str,
        mut each: impl FnMut(CopyFields<'_, N>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut chunks = in_time(limits::COPY_SILENCE, self.transaction.copy_out_raw(statement)).await?;
        let mut rows = CopyRows::new();
        while let Some(chunk) = in_time(limits::COPY_SILENCE, chunks.try_next()).await? {
            rows.feed(&chunk, &mut each)?;
        }
        rows.end()
    }

    /// Closes the snapshot. A snapshot that is dropped closes before the next statement of its connection.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn end(self) -> Result<(), StoreError> {
        in_time(limits::COPY_SILENCE, self.transaction.rollback()).await
    }
}

/// The size of the memberships table in bytes, dead rows included.
///
/// # Errors
/// If Postgres does not answer.
pub async fn membership_bytes(connection: &mut PgConnection) -> Result<i64, StoreError> {
    let size = sqlx::query_scalar!(r#"SELECT pg_relation_size('memberships') AS "size!""#);
    Ok(size.fetch_one(connection).await?)
}

/// The users of a bucket who are not active or were reinstated, from one snapshot.
pub struct ExceptionalUsers {
    /// The bucket: 0 to 31.
    pub bucket: i16,
    /// The end of the bucket's log in the snapshot.
    pub at: LogPosition,
    /// The users with their status.
    pub users: Vec<(UserId, UserStatus)>,
}

/// Reads the users who are not active or were reinstated, of all buckets from one snapshot.
///
/// # Errors
/// If Postgres does not answer, or a row is not readable.
pub async fn exceptional_users(connection: &mut PgConnection) -> Result<Vec<ExceptionalUsers>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT h.user_bucket, h.position, h.write_time,
                  array_agg(u.id) FILTER (WHERE u.id IS NOT NULL) AS "ids: Vec<String>",
                  array_agg(u.state) FILTER (WHERE u.id IS NOT NULL) AS "states: Vec<String>",
                  array_agg(u.reinstated_at) FILTER (WHERE u.id IS NOT NULL) AS "reinstated: Vec<Option<i64>>"
           FROM user_log_heads h
           LEFT JOIN users u
             ON u.user_bucket = h.user_bucket AND (u.state <> 'ACTIVE' OR u.reinstated_at IS NOT NULL)
           GROUP BY h.user_bucket, h.position, h.write_time"#
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let statuses = row.states.unwrap_or_default().into_iter().zip(row.reinstated.unwrap_or_default());
            let statuses = statuses.map(|(state, at)| UserStatus::new(UserState::read(&state), at));
            let ids = row.ids.unwrap_or_default().into_iter().map(UserId::from_stored);
            let at = LogPosition { position: row.position, write_time: row.write_time };
            ExceptionalUsers { bucket: row.user_bucket, at, users: ids.zip(statuses).collect() }
        })
        .collect())
}

fn text(field: Option<&[u8]>) -> Result<&str, StoreError> {
    let text = field.and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.ok_or_else(|| StoreError::Unreadable("a binary copy: a text is missing or not UTF-8".to_owned()))
}

fn fixed<const N: usize>(field: Option<&[u8]>) -> Result<[u8; N], StoreError> {
    let bytes = field.and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| StoreError::Unreadable("a binary copy: a number or id has the wrong length".to_owned()))
}

fn user_id(field: Option<&[u8]>) -> Result<UserId, StoreError> {
    Ok(UserId::from_stored(text(field)?.to_owned()))
}

fn organization_id(field: Option<&[u8]>) -> Result<OrganizationId, StoreError> {
    Ok(OrganizationId::from_uuid(Uuid::from_bytes(fixed(field)?)))
}
