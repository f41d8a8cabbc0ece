//! The audit trail: one event per change, numbered by the revision that the change made.

use super::row_page::RowPage;
use super::{StoreError, limits};
use crate::domain::event::{EventRecord, EventType};
use crate::domain::{ActorKind, OrganizationId, UserId};
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// The actor, reason and request of a write, the same for all events of its transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The kind of the actor; [`ActorKind::System`] for roster itself.
    pub actor_kind: ActorKind,
    /// The id of the user, or the name of the service or operator.
    pub actor_id: String,
    /// The issuer of the token with which the call was made, if it was made with one.
    pub actor_issuer: Option<String>,
    /// The service that acted on behalf of the user, if any.
    pub actor_via: Option<String>,
    /// The reason that the caller stated.
    pub reason: Option<String>,
    /// The request id that the caller chose.
    pub request_id: Option<Uuid>,
}

/// An event to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The revision of the organization or user that the change made.
    pub revision: i64,
    /// The type of the event.
    pub kind: EventType,
    /// The member concerned, for events about members.
    pub user: Option<UserId>,
    /// The values before the change.
    pub old: Option<Value>,
    /// The values after the change.
    pub new: Option<Value>,
}

/// Inserts the events of one organization.
///
/// # Errors
/// If Postgres does not answer.
pub async fn insert(
    connection: &mut PgConnection,
    organization: OrganizationId,
    cause: &Cause,
    events: &[Event],
) -> Result<(), StoreError> {
    let revisions: Vec<i64> = events.iter().map(|event| event.revision).collect();
    let kinds: Vec<String> = events.iter().map(|event| event.kind.as_str().to_owned()).collect();
    let users: Vec<Option<String>> = events.iter().map(|event| event.user.as_ref().map(ToString::to_string)).collect();
    let old: Vec<Option<Value>> = events.iter().map(|event| event.old.clone()).collect();
    let new: Vec<Option<Value>> = events.iter().map(|event| event.new.clone()).collect();
    sqlx::query!(
        r#"INSERT INTO events (bucket, organization_id, revision, type, actor_kind, actor_id, actor_issuer, actor_via,
                               user_id, old, new, reason, request_id, create_time)
           SELECT $1, $2, q.revision, q.type, $3, $4, $5, $6, q.user_id, q.old, q.new, $7, $8, clock_timestamp()
           FROM unnest($9::bigint[], $10::text[], $11::text[], $12::jsonb[], $13::jsonb[])
                AS q (revision, type, user_id, old, new)"#,
        organization.bucket(),
        organization.as_uuid(),
        cause.actor_kind.as_str(),
        cause.actor_id,
        cause.actor_issuer,
        cause.actor_via,
        cause.reason,
        cause.request_id,
        &revisions,
        &kinds,
        &users as &[Option<String>],
        &old as &[Option<Value>],
        &new as &[Option<Value>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Inserts an event about a user. The caller leaves profile data out of it: the profile is erased with the user, the
/// events are not.
///
/// # Errors
/// If Postgres does not answer.
pub async fn insert_user(
    connection: &mut PgConnection,
    user: &UserId,
    cause: &Cause,
    event: &Event,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"INSERT INTO user_events (user_bucket, user_id, revision, type, actor_kind, actor_id, actor_issuer, actor_via,
                                    old, new, reason, request_id, create_time)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, clock_timestamp())"#,
        user.bucket(),
        user.as_str(),
        event.revision,
        event.kind.as_str(),
        cause.actor_kind.as_str(),
        cause.actor_id,
        cause.actor_issuer,
        cause.actor_via,
        event.old,
        event.new,
        cause.reason,
        cause.request_id,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A page of an organization's events.
#[derive(Debug, Clone)]
pub struct EventFilter {
    /// Only events of these types; `None` for every type.
    pub types: Option<Vec<EventType>>,
    /// Only events about this user.
    pub user: Option<UserId>,
    /// Only revisions less than this one: the last of the previous page.
    pub before: Option<i64>,
    /// Maximum number of events.
    pub limit: i64,
}

struct EventRow {
    /// The index of the event's key in a [`find`]; absent in a [`list`].
    number: Option<i64>,
    /// Absent for an event of a user.
    organization_id: Option<Uuid>,
    revision: i64,
    event_type: String,
    actor_kind: String,
    actor_id: String,
    actor_issuer: Option<String>,
    actor_via: Option<String>,
    user_id: Option<String>,
    old: Option<Value>,
    new: Option<Value>,
    reason: Option<String>,
    request_id: Option<Uuid>,
    create_time: OffsetDateTime,
    /// Whether the statement found another event of an organization after this one.
    has_next: Option<bool>,
}

/// A statement that returns [`EventRow`]s: its number, organization, user and `has_next` columns, the text after the
/// column list, the arguments. The table has the alias `e`.
macro_rules! event_query {
    ($columns:literal, $after:literal, $($argument:tt)*) => {
        sqlx::query_as!(
            EventRow,
            "SELECT "
                + $columns
                + ", e.revision, e.type AS event_type, e.actor_kind, e.actor_id, e.actor_issuer, e.actor_via, e.old,
                     e.new, e.reason, e.request_id, e.create_time "
                + $after,
            $($argument)*
        )
    };
}

impl From<EventRow> for EventRecord {
    fn from(row: EventRow) -> Self {
        Self {
            organization: row.organization_id.map(OrganizationId::from_uuid),
            revision: row.revision,
            event_type: row.event_type,
            actor_kind: row.actor_kind,
            actor_id: row.actor_id,
            actor_issuer: row.actor_issuer,
            actor_via: row.actor_via,
            user: row.user_id.map(UserId::from_stored),
            old: row.old,
            new: row.new,
            reason: row.reason,
            request_id: row.request_id,
            create_time: row.create_time,
        }
    }
}

fn type_names(types: Option<&[EventType]>) -> Option<Vec<String>> {
    types.map(|types| types.iter().map(|event_type| event_type.as_str().to_owned()).collect())
}

/// Lists the events of an organization, the newest first.
///
/// # Errors
/// If Postgres does not answer.
pub async fn list(
    connection: &mut PgConnection,
    organization: OrganizationId,
    filter: &EventFilter,
) -> Result<RowPage<EventRecord>, StoreError> {
    let types = type_names(filter.types.as_deref());
    // The first page starts before the highest possible revision: every page uses the same index condition.
    let rows = event_query!(
        r#"NULL::bigint AS number, e.organization_id AS "organization_id?", e.user_id, e.has_next"#,
        "FROM (
             SELECT * FROM (
                 SELECT s.*, sum(coalesce(octet_length(s.old::text), 0) + coalesce(octet_length(s.new::text), 0))
                             OVER before AS text_before
                 FROM (
                     SELECT p.*,
                            sum(coalesce(pg_column_size(p.old || '{}'), 0) + coalesce(pg_column_size(p.new || '{}'), 0))
                                OVER before AS stored_before,
                            lead(true) OVER (ORDER BY p.revision DESC) AS has_next
                     FROM (
                         SELECT * FROM events
                         WHERE bucket = $1 AND organization_id = $2 AND revision < $3
                           AND ($4::text[] IS NULL OR type = ANY ($4)) AND ($5::text IS NULL OR user_id = $5)
                         ORDER BY revision DESC
                         LIMIT $6) p
                     WINDOW before AS (ORDER BY p.revision DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) s
                 WHERE coalesce(s.stored_before, 0) < $7
                 WINDOW before AS (ORDER BY s.revision DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) t
             WHERE coalesce(t.text_before, 0) < $8) e
         ORDER BY e.revision DESC",
        organization.bucket(),
        organization.as_uuid(),
        filter.before.unwrap_or(i64::MAX),
        types.as_deref(),
        filter.user.as_ref().map(UserId::as_str),
        filter.limit,
        limits::PAGE_STORED_BYTES,
        limits::PAGE_TEXT_BYTES,
    )
    .fetch_all(connection)
    .await?;
    Ok(RowPage::new(rows, |row| row.has_next, EventRecord::from))
}

/// A page of a user's events.
#[derive(Debug, Clone)]
pub struct UserEventFilter {
    /// The user whose events are listed.
    pub user: UserId,
    /// Only events of these types; `None` for every type.
    pub types: Option<Vec<EventType>>,
    /// Only revisions less than this one: the last of the previous page.
    pub before: Option<i64>,
    /// Maximum number of events.
    pub limit: i64,
}

/// Lists the events of a user, the newest first, by the primary key. They hold no large values.
///
/// # Errors
/// If Postgres does not answer.
pub async fn list_of_user(
    connection: &mut PgConnection,
    filter: &UserEventFilter,
) -> Result<Vec<EventRecord>, StoreError> {
    let types = type_names(filter.types.as_deref());
    let rows = event_query!(
        r#"NULL::bigint AS number, NULL::uuid AS organization_id, e.user_id AS "user_id?", NULL::boolean AS has_next"#,
        "FROM user_events e
         WHERE e.user_bucket = $1 AND e.user_id = $2 AND e.revision < $3 AND ($4::text[] IS NULL OR e.type = ANY ($4))
         ORDER BY e.revision DESC
         LIMIT $5",
        filter.user.bucket(),
        filter.user.as_str(),
        filter.before.unwrap_or(i64::MAX),
        types.as_deref(),
        filter.limit,
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(EventRecord::from).collect())
}

/// Whether an organization has events: whether it has ever existed, because its events outlive it.
///
/// # Errors
/// If Postgres does not answer.
pub async fn exist(connection: &mut PgConnection, organization: OrganizationId) -> Result<bool, StoreError> {
    let exist = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM events WHERE bucket = $1 AND organization_id = $2) AS "exist!""#,
        organization.bucket(),
        organization.as_uuid(),
    );
    Ok(exist.fetch_one(connection).await?)
}

/// The key of an event: the organization or user that it belongs to, and the revision that it made there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKey {
    /// An event of an organization.
    Organization(OrganizationId, i64),
    /// An event of a user.
    User(UserId, i64),
    /// A change whose event this program cannot find.
    Unknown,
}

/// Finds events by their keys and returns them in the order of the keys, each with the index of its key, and the number of
/// keys that were looked up: all of them, unless the events are too large to be read at once. With `types`, only events of
/// these types.
///
/// # Errors
/// If Postgres does not answer.
pub async fn find(
    connection: &mut PgConnection,
    keys: &[EventKey],
    types: Option<&[EventType]>,
) -> Result<(Vec<(usize, EventRecord)>, usize), StoreError> {
    let types = type_names(types);
    let mut rows = find_of_organizations(connection, keys, types.as_deref()).await?;
    let last = rows.last().filter(|last| last.has_next == Some(true)).and_then(|last| last.number);
    let end = last.and_then(|last| usize::try_from(last + 1).ok()).unwrap_or(keys.len());
    // Events of users hold no large values.
    let keys = keys.get(..end).unwrap_or(keys);
    rows.extend(find_of_users(connection, keys, types.as_deref()).await?);
    rows.sort_by_key(|row| row.number);
    let index = |row: &EventRow| row.number.and_then(|number| usize::try_from(number).ok());
    Ok((rows.into_iter().filter_map(|row| Some((index(&row)?, row.into()))).collect(), keys.len()))
}

/// Keys as the columns of a statement: number, bucket, id, revision.
type KeyColumns<Id> = (Vec<i64>, Vec<i16>, Vec<Id>, Vec<i64>);

async fn find_of_organizations(
    connection: &mut PgConnection,
    keys: &[EventKey],
    types: Option<&[String]>,
) -> Result<Vec<EventRow>, StoreError> {
    let keys = (0_i64..).zip(keys).filter_map(|(number, key)| match key {
        EventKey::Organization(id, revision) => Some((number, id.bucket(), id.as_uuid(), *revision)),
        EventKey::User(..) | EventKey::Unknown => None,
    });
    let (numbers, buckets, ids, revisions): KeyColumns<Uuid> = keys.collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = event_query!(
        r#"e.number, e.organization_id AS "organization_id?", e.user_id, e.has_next"#,
        "FROM (
             SELECT * FROM (
                 SELECT s.*, sum(coalesce(octet_length(s.old::text), 0) + coalesce(octet_length(s.new::text), 0))
                             OVER before AS text_before
                 FROM (
                     SELECT p.*,
                            sum(coalesce(pg_column_size(p.old || '{}'), 0) + coalesce(pg_column_size(p.new || '{}'), 0))
                                OVER before AS stored_before,
                            lead(true) OVER (ORDER BY p.number) AS has_next
                     FROM (
                         SELECT k.number, e.* FROM unnest($1::bigint[], $2::smallint[], $3::uuid[], $4::bigint[])
                             AS k (number, bucket, id, revision)
                         JOIN events e ON e.bucket = k.bucket AND e.organization_id = k.id AND e.revision = k.revision
                         WHERE $5::text[] IS NULL OR e.type = ANY ($5)) p
                     WINDOW before AS (ORDER BY p.number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) s
                 WHERE coalesce(s.stored_before, 0) < $6
                 WINDOW before AS (ORDER BY s.number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) t
             WHERE coalesce(t.text_before, 0) < $7) e
         ORDER BY e.number",
        &numbers,
        &buckets,
        &ids,
        &revisions,
        types,
        limits::PAGE_STORED_BYTES,
        limits::EVENTS_TEXT_BYTES,
    );
    Ok(rows.fetch_all(connection).await?)
}

async fn find_of_users(
    connection: &mut PgConnection,
    keys: &[EventKey],
    types: Option<&[String]>,
) -> Result<Vec<EventRow>, StoreError> {
    let keys = (0_i64..).zip(keys).filter_map(|(number, key)| match key {
        EventKey::User(id, revision) => Some((number, id.bucket(), id.to_string(), *revision)),
        EventKey::Organization(..) | EventKey::Unknown => None,
    });
    let (numbers, buckets, ids, revisions): KeyColumns<String> = keys.collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = event_query!(
        r#"k.number, NULL::uuid AS organization_id, e.user_id AS "user_id?", NULL::boolean AS has_next"#,
        r#"FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::bigint[]) AS k (number, bucket, id, revision)
         JOIN user_events e ON e.user_bucket = k.bucket AND e.user_id = k.id COLLATE "C" AND e.revision = k.revision
         WHERE $5::text[] IS NULL OR e.type = ANY ($5)"#,
        &numbers,
        &buckets,
        &ids,
        &revisions,
        types,
    );
    Ok(rows.fetch_all(connection).await?)
}
