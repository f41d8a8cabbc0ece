//! Rows of users. A row is never deleted, so that an erased id is not reused unless an operator reinstates it.

use super::StoreError;
use crate::domain::{DisplayName, EmailAddress, User, UserId, UserState, UserStatus};
use sqlx::PgConnection;
use std::collections::BTreeMap;
use time::OffsetDateTime;

pub(super) struct UserRow {
    pub(super) id: String,
    pub(super) state: String,
    pub(super) deactivated_by_operator: bool,
    pub(super) email: Option<String>,
    pub(super) email_verified: bool,
    pub(super) display_name: Option<String>,
    pub(super) profile_issued_at: i64,
    pub(super) email_issued_at: i64,
    pub(super) display_name_issued_at: i64,
    pub(super) known: bool,
    pub(super) revision: i64,
    pub(super) create_time: OffsetDateTime,
    pub(super) update_time: OffsetDateTime,
}

/// A statement that returns [`UserRow`]s: the text before the column list, the text after it, the arguments. The table
/// has the alias `u`.
macro_rules! user_query {
    ($before:literal, $after:literal, $($argument:tt)*) => {
        sqlx::query_as!(
            UserRow,
            $before
                + " u.id, u.state, u.deactivated_by_operator, u.email, u.email_verified, u.display_name,
                    u.profile_issued_at, u.email_issued_at, u.display_name_issued_at, u.known, u.revision, u.create_time,
                    u.update_time "
                + $after,
            $($argument)*
        )
    };
}

impl From<UserRow> for User {
    fn from(row: UserRow) -> Self {
        let latest = row.email_issued_at.max(row.display_name_issued_at);
        let (email_issued_at, display_name_issued_at) = if latest < row.profile_issued_at {
            // A server of a former release wrote the profile last: the whole of it.
            (row.profile_issued_at, row.profile_issued_at)
        } else {
            (row.email_issued_at, row.display_name_issued_at)
        };
        Self {
            id: UserId::from_stored(row.id),
            state: UserState::read(&row.state),
            deactivated_by_operator: row.deactivated_by_operator,
            email: row.email.map(EmailAddress::from_stored),
            email_verified: row.email_verified,
            display_name: row.display_name.map(DisplayName::from_stored),
            profile_issued_at: row.profile_issued_at,
            email_issued_at,
            display_name_issued_at,
            // A server of a former release writes a profile without marking its user as known.
            is_known: row.known || latest < row.profile_issued_at,
            revision: row.revision,
            create_time: row.create_time,
            update_time: row.update_time,
        }
    }
}

/// Reads a user.
///
/// # Errors
/// If Postgres does not answer.
pub async fn get(connection: &mut PgConnection, id: &UserId) -> Result<Option<User>, StoreError> {
    let row = user_query!("SELECT", "FROM users u WHERE u.user_bucket = $1 AND u.id = $2", id.bucket(), id.as_str());
    Ok(row.fetch_optional(connection).await?.map(User::from))
}

/// Reads users. Unknown ids are left out.
///
/// # Errors
/// If Postgres does not answer.
pub async fn get_all(connection: &mut PgConnection, ids: &[UserId]) -> Result<BTreeMap<UserId, User>, StoreError> {
    let buckets: Vec<i16> = ids.iter().map(UserId::bucket).collect();
    let texts: Vec<String> = ids.iter().map(|id| id.as_str().to_owned()).collect();
    let rows = user_query!(
        "SELECT",
        "FROM users u JOIN unnest($1::smallint[], $2::text[]) AS q (user_bucket, id)
           ON u.user_bucket = q.user_bucket AND u.id = q.id",
        &buckets,
        &texts
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(User::from).map(|user| (user.id.clone(), user)).collect())
}

/// The users to list.
#[derive(Debug, Clone)]
pub struct UserFilter {
    /// The states to include. Users in states that this program does not know are included as well.
    pub states: Vec<UserState>,
    /// Only users with this address, verified or not.
    pub email: Option<EmailAddress>,
    /// Only users after this one in the order of (bucket, id).
    pub after: Option<UserId>,
    /// The maximum number of users.
    pub limit: i64,
}

/// Lists users in the order of (bucket, id), which is the order of the primary key and of `users_by_any_email`.
///
/// # Errors
/// If Postgres does not answer.
pub async fn list(connection: &mut PgConnection, filter: &UserFilter) -> Result<Vec<User>, StoreError> {
    let excluded = UserState::names_except(&filter.states);
    // Every id is after the empty text in bucket 0: one index condition serves every page.
    let (bucket, id) = filter.after.as_ref().map_or((0, ""), |after| (after.bucket(), after.as_str()));
    // Two statements, so that each has the plan of its index.
    let rows = match &filter.email {
        Some(email) => {
            user_query!(
                "SELECT",
                "FROM users u
                 WHERE u.email_normal = $1 AND (u.user_bucket, u.id) > ($2, $3) AND u.state <> ALL ($4)
                 ORDER BY u.user_bucket, u.id LIMIT $5",
                email.normal(),
                bucket,
                id,
                &excluded,
                filter.limit
            )
            .fetch_all(connection)
            .await?
        }
        None => {
            user_query!(
                "SELECT",
                "FROM users u WHERE (u.user_bucket, u.id) > ($1, $2) AND u.state <> ALL ($3)
                 ORDER BY u.user_bucket, u.id LIMIT $4",
                bucket,
                id,
                &excluded,
                filter.limit
            )
            .fetch_all(connection)
            .await?
        }
    };
    Ok(rows.into_iter().map(User::from).collect())
}

/// Inserts rows without a profile for those of the users that have no row. `known` says whether the users have given a
/// sign. Returns the users inserted. The ids must ascend, so that concurrent transactions cannot deadlock.
///
/// # Errors
/// If Postgres does not answer.
pub async fn insert_missing(
    connection: &mut PgConnection,
    ids: &[&UserId],
    known: bool,
) -> Result<Vec<UserId>, StoreError> {
    let buckets: Vec<i16> = ids.iter().map(|id| id.bucket()).collect();
    let texts: Vec<String> = ids.iter().map(|id| id.as_str().to_owned()).collect();
    let inserted = sqlx::query_scalar!(
        r#"INSERT INTO users (user_bucket, id, state, deactivated_by_operator, email_verified, profile_issued_at, known,
                              revision, create_time, update_time)
           SELECT q.user_bucket, q.id, 'ACTIVE', false, false, 0, $3, 1, clock_timestamp(), clock_timestamp()
           FROM unnest($1::smallint[], $2::text[]) AS q (user_bucket, id)
           ON CONFLICT DO NOTHING
           RETURNING id"#,
        &buckets,
        &texts,
        known
    )
    .fetch_all(connection)
    .await?;
    Ok(inserted.into_iter().map(UserId::from_stored).collect())
}

/// Reads users under a shared lock, ascending by id. Their rows do not change until the transaction ends, so a write
/// can depend on their state. Several transactions can hold the lock at the same time.
///
/// # Errors
/// If Postgres does not answer, or a lock is not granted in time.
pub async fn hold(connection: &mut PgConnection, ids: &[&UserId]) -> Result<Vec<User>, StoreError> {
    let buckets: Vec<i16> = ids.iter().map(|id| id.bucket()).collect();
    let texts: Vec<String> = ids.iter().map(|id| id.as_str().to_owned()).collect();
    let rows = user_query!(
        "SELECT",
        "FROM users u JOIN unnest($1::smallint[], $2::text[]) AS q (user_bucket, id)
           ON u.user_bucket = q.user_bucket AND u.id = q.id
         ORDER BY u.id
         FOR SHARE OF u",
        &buckets,
        &texts
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(User::from).collect())
}

/// Reads a user under an exclusive lock: until the transaction ends, other writes to the user wait, and so do writes
/// that depend on the user's state.
///
/// # Errors
/// If Postgres does not answer, or the lock is not granted in time.
pub async fn lock(connection: &mut PgConnection, id: &UserId) -> Result<Option<User>, StoreError> {
    Ok(user_query!(
        "SELECT",
        "FROM users u WHERE u.user_bucket = $1 AND u.id = $2 FOR NO KEY UPDATE",
        id.bucket(),
        id.as_str()
    )
    .fetch_optional(connection)
    .await?
    .map(User::from))
}

/// Overwrites the row of a user. Returns it with its new update time.
///
/// # Errors
/// If Postgres does not answer, or the user has no row.
pub async fn update(connection: &mut PgConnection, user: &User) -> Result<User, StoreError> {
    Ok(user_query!(
        "UPDATE users u
         SET state = $3, deactivated_by_operator = $4, email = $5, email_normal = $6, email_verified = $7,
             display_name = $8, profile_issued_at = $9, email_issued_at = $10, display_name_issued_at = $11, known = $12,
             revision = $13, update_time = clock_timestamp()
         WHERE u.user_bucket = $1 AND u.id = $2
         RETURNING",
        "",
        user.id.bucket(),
        user.id.as_str(),
        user.state.as_str(),
        user.deactivated_by_operator,
        user.email.as_ref().map(EmailAddress::given),
        user.email.as_ref().map(EmailAddress::normal),
        user.email_verified,
        user.display_name.as_ref().map(DisplayName::as_str),
        user.profile_issued_at,
        user.email_issued_at,
        user.display_name_issued_at,
        user.is_known,
        user.revision,
    )
    .fetch_one(connection)
    .await?
    .into())
}

/// Overwrites what clients do not see of a user: the times at which the profile was issued, and whether the user is known.
/// The update time stays.
///
/// # Errors
/// If Postgres does not answer.
pub async fn update_unseen(connection: &mut PgConnection, user: &User) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE users SET profile_issued_at = $3, email_issued_at = $4, display_name_issued_at = $5, known = $6
         WHERE user_bucket = $1 AND id = $2",
        user.id.bucket(),
        user.id.as_str(),
        user.profile_issued_at,
        user.email_issued_at,
        user.display_name_issued_at,
        user.is_known,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Stores that the user is reinstated at this time, in whole seconds since 1970. Returns the time that counts: a later one
/// that is stored already stays.
///
/// # Errors
/// If Postgres does not answer, or the user has no row.
pub async fn set_reinstated(connection: &mut PgConnection, id: &UserId, at: i64) -> Result<i64, StoreError> {
    let stored = sqlx::query_scalar!(
        r#"UPDATE users SET reinstated_at = greatest(reinstated_at, $3) WHERE user_bucket = $1 AND id = $2
           RETURNING reinstated_at AS "reinstated_at!""#,
        id.bucket(),
        id.as_str(),
        at
    );
    Ok(stored.fetch_one(connection).await?)
}

/// Finds the active users with this verified address. At most two, which is enough to detect that it is ambiguous.
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
    Ok(ids.into_iter().map(UserId::from_stored).collect())
}

/// Reads the status of a user: active for an unknown id.
///
/// # Errors
/// If Postgres does not answer.
pub async fn status(connection: &mut PgConnection, id: &UserId) -> Result<UserStatus, StoreError> {
    let row = sqlx::query!(
        "SELECT state, reinstated_at FROM users WHERE user_bucket = $1 AND id = $2",
        id.bucket(),
        id.as_str()
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map_or_else(UserStatus::default, |row| UserStatus::new(UserState::read(&row.state), row.reinstated_at)))
}

/// Reads the status of a user under a shared lock, so that it does not change until the transaction ends: active for an
/// unknown id.
///
/// # Errors
/// If Postgres does not answer, or the lock is not granted in time.
pub async fn hold_status(connection: &mut PgConnection, id: &UserId) -> Result<UserStatus, StoreError> {
    let row = sqlx::query!(
        "SELECT state, reinstated_at FROM users WHERE user_bucket = $1 AND id = $2 FOR SHARE",
        id.bucket(),
        id.as_str()
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map_or_else(UserStatus::default, |row| UserStatus::new(UserState::read(&row.state), row.reinstated_at)))
}
