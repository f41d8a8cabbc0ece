//! Rows of users. A row, once there, stays: an erased id is never taken again.

use super::StoreError;
use crate::domain::{DisplayName, EmailAddress, User, UserId, UserState};
use sqlx::PgConnection;
use time::OffsetDateTime;

pub(super) struct UserRow {
    pub(super) id: String,
    pub(super) state: String,
    pub(super) deactivated_by_operator: bool,
    pub(super) email: Option<String>,
    pub(super) email_verified: bool,
    pub(super) display_name: Option<String>,
    pub(super) profile_issued_at: i64,
    pub(super) revision: i64,
    pub(super) create_time: OffsetDateTime,
    pub(super) update_time: OffsetDateTime,
}

impl TryFrom<UserRow> for User {
    type Error = StoreError;
    fn try_from(row: UserRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: UserId::parse(&row.id)?,
            state: UserState::parse(&row.state)?,
            deactivated_by_operator: row.deactivated_by_operator,
            email: row.email.as_deref().map(EmailAddress::parse).transpose()?,
            email_verified: row.email_verified,
            display_name: row.display_name.as_deref().map(DisplayName::parse).transpose()?,
            profile_issued_at: row.profile_issued_at,
            revision: row.revision,
            create_time: row.create_time,
            update_time: row.update_time,
        })
    }
}

/// Reads a user.
///
/// # Errors
/// If Postgres does not answer.
pub async fn get(connection: &mut PgConnection, id: &UserId) -> Result<Option<User>, StoreError> {
    sqlx::query_as!(
        UserRow,
        r#"SELECT id, state, deactivated_by_operator, email, email_verified, display_name, profile_issued_at, revision,
                  create_time, update_time
           FROM users WHERE user_bucket = $1 AND id = $2"#,
        id.bucket(),
        id.as_str()
    )
    .fetch_optional(connection)
    .await?
    .map(User::try_from)
    .transpose()
}

/// Makes bare rows for those of these users that have none; returns the ones it made. The ids must ascend, so that two
/// transactions never wait for each other in a circle.
///
/// # Errors
/// If Postgres does not answer.
pub async fn insert_missing(connection: &mut PgConnection, ids: &[&UserId]) -> Result<Vec<UserId>, StoreError> {
    let buckets: Vec<i16> = ids.iter().map(|id| id.bucket()).collect();
    let texts: Vec<String> = ids.iter().map(|id| id.as_str().to_owned()).collect();
    let made = sqlx::query_scalar!(
        r#"INSERT INTO users (user_bucket, id, state, deactivated_by_operator, email_verified, profile_issued_at, revision,
                              create_time, update_time)
           SELECT q.user_bucket, q.id, 'ACTIVE', false, false, 0, 1, clock_timestamp(), clock_timestamp()
           FROM unnest($1::smallint[], $2::text[]) AS q (user_bucket, id)
           ON CONFLICT DO NOTHING
           RETURNING id"#,
        &buckets,
        &texts
    )
    .fetch_all(connection)
    .await?;
    made.iter().map(|id| UserId::parse(id).map_err(StoreError::from)).collect()
}

/// Holds users as they are until the transaction ends, and reads them, ascending by id: their state does not change
/// under a write that depends on it. Many transactions may hold one user.
///
/// # Errors
/// If Postgres does not answer, or a lock does not come in time.
pub async fn hold(connection: &mut PgConnection, ids: &[&UserId]) -> Result<Vec<User>, StoreError> {
    let buckets: Vec<i16> = ids.iter().map(|id| id.bucket()).collect();
    let texts: Vec<String> = ids.iter().map(|id| id.as_str().to_owned()).collect();
    let rows = sqlx::query_as!(
        UserRow,
        r#"SELECT u.id, u.state, u.deactivated_by_operator, u.email, u.email_verified, u.display_name, u.profile_issued_at,
                  u.revision, u.create_time, u.update_time
           FROM users u JOIN unnest($1::smallint[], $2::text[]) AS q (user_bucket, id)
             ON u.user_bucket = q.user_bucket AND u.id = q.id
           ORDER BY u.id
           FOR SHARE OF u"#,
        &buckets,
        &texts
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(User::try_from).collect()
}

/// Locks a user against every other write to them and against writes that depend on their state, and reads them.
///
/// # Errors
/// If Postgres does not answer, or the lock does not come in time.
pub async fn lock(connection: &mut PgConnection, id: &UserId) -> Result<Option<User>, StoreError> {
    sqlx::query_as!(
        UserRow,
        r#"SELECT id, state, deactivated_by_operator, email, email_verified, display_name, profile_issued_at, revision,
                  create_time, update_time
           FROM users WHERE user_bucket = $1 AND id = $2 FOR NO KEY UPDATE"#,
        id.bucket(),
        id.as_str()
    )
    .fetch_optional(connection)
    .await?
    .map(User::try_from)
    .transpose()
}

/// Writes the row as it now is.
///
/// # Errors
/// If Postgres does not answer.
pub async fn update(connection: &mut PgConnection, user: &User) -> Result<User, StoreError> {
    sqlx::query_as!(
        UserRow,
        r#"UPDATE users
           SET state = $3, deactivated_by_operator = $4, email = $5, email_normal = $6, email_verified = $7,
               display_name = $8, profile_issued_at = $9, revision = $10, update_time = clock_timestamp()
           WHERE user_bucket = $1 AND id = $2
           RETURNING id, state, deactivated_by_operator, email, email_verified, display_name, profile_issued_at, revision,
                     create_time, update_time"#,
        user.id.bucket(),
        user.id.as_str(),
        user.state.as_str(),
        user.deactivated_by_operator,
        user.email.as_ref().map(EmailAddress::given),
        user.email.as_ref().map(EmailAddress::normal),
        user.email_verified,
        user.display_name.as_ref().map(DisplayName::as_str),
        user.profile_issued_at,
        user.revision,
    )
    .fetch_one(connection)
    .await?
    .try_into()
}

/// The active users who have verified this address: at most two, for more than one is already too many.
///
/// # Errors
/// If Postgres does not answer.
pub async fn by_verified_email(connection: &mut PgConnection, email: &EmailAddress) -> Result<Vec<UserId>, StoreError> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM users WHERE email_normal = $1 AND email_verified AND state = 'ACTIVE' LIMIT 2",
        email.normal()
    )
    .fetch_all(connection)
    .await?;
    ids.iter().map(|id| UserId::parse(id).map_err(StoreError::from)).collect()
}

/// A user's state; none for one not heard of.
///
/// # Errors
/// If Postgres does not answer.
pub async fn state(connection: &mut PgConnection, id: &UserId) -> Result<Option<UserState>, StoreError> {
    let state =
        sqlx::query_scalar!("SELECT state FROM users WHERE user_bucket = $1 AND id = $2", id.bucket(), id.as_str())
            .fetch_optional(connection)
            .await?;
    state.map(|state| UserState::parse(&state).map_err(StoreError::from)).transpose()
}

/// A user's state, which stays as it is until the transaction ends; none for one not heard of.
///
/// # Errors
/// If Postgres does not answer, or the lock does not come in time.
pub async fn hold_state(connection: &mut PgConnection, id: &UserId) -> Result<Option<UserState>, StoreError> {
    let state = sqlx::query_scalar!(
        "SELECT state FROM users WHERE user_bucket = $1 AND id = $2 FOR SHARE",
        id.bucket(),
        id.as_str()
    )
    .fetch_optional(connection)
    .await?;
    state.map(|state| UserState::parse(&state).map_err(StoreError::from)).transpose()
}
