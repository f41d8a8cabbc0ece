//! The audit trail: one event per change, numbered by the revision that the change made.

use super::StoreError;
use crate::domain::event::{EventRecord, EventType};
use crate::domain::{ActorKind, OrganizationId, UserId};
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// Who did it, why, and by which request: the same for every event of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The kind of the actor; [`ActorKind::System`] for roster itself.
    pub actor_kind: ActorKind,
    /// The user's id, or the name of the service or operator.
    pub actor_id: String,
    /// The service that acted for the user, if one did.
    pub actor_via: Option<String>,
    /// The reason given.
    pub reason: Option<String>,
    /// The request id given.
    pub request_id: Option<Uuid>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The revision of the organization, or of the user, that it made.
    pub revision: i64,
    /// The type.
    pub kind: EventType,
    /// Whom it happened to, for events about members.
    pub user: Option<UserId>,
    /// What was before.
    pub old: Option<Value>,
    /// What is now.
    pub new: Option<Value>,
}

/// Writes one organization's events.
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
        r#"INSERT INTO events (bucket, organization_id, revision, type, actor_kind, actor_id, actor_via, user_id, old, new,
                               reason, request_id, create_time)
           SELECT $1, $2, q.revision, q.type, $3, $4, $5, q.user_id, q.old, q.new, $6, $7, clock_timestamp()
           FROM unnest($8::bigint[], $9::text[], $10::text[], $11::jsonb[], $12::jsonb[])
                AS q (revision, type, user_id, old, new)"#,
        organization.bucket(),
        organization.as_uuid(),
        cause.actor_kind.as_str(),
        cause.actor_id,
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

/// Writes one event about a user. It holds no profile data: that is erased with the user, the history is not.
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
        r#"INSERT INTO user_events (user_bucket, user_id, revision, type, actor_kind, actor_id, actor_via, old, new, reason,
                                    request_id, create_time)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, clock_timestamp())"#,
        user.bucket(),
        user.as_str(),
        event.revision,
        event.kind.as_str(),
        cause.actor_kind.as_str(),
        cause.actor_id,
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

/// Which events to list.
#[derive(Debug, Clone)]
pub struct EventFilter {
    /// Only these types; none for all.
    pub types: Option<Vec<EventType>>,
    /// Only those about this user.
    pub user: Option<UserId>,
    /// Only those before this revision.
    pub before: Option<i64>,
    /// How many at most.
    pub limit: i64,
}

struct EventRow {
    revision: i64,
    event_type: String,
    actor_kind: String,
    actor_id: String,
    actor_via: Option<String>,
    user_id: Option<String>,
    old: Option<Value>,
    new: Option<Value>,
    reason: Option<String>,
    request_id: Option<Uuid>,
    create_time: OffsetDateTime,
}

impl EventRow {
    fn read(self, organization: OrganizationId) -> Result<EventRecord, StoreError> {
        Ok(EventRecord {
            organization: Some(organization),
            revision: self.revision,
            event_type: EventType::parse(&self.event_type)?,
            actor_kind: ActorKind::parse(&self.actor_kind)?,
            actor_id: self.actor_id,
            actor_via: self.actor_via,
            user: self.user_id.map(|id| UserId::parse(&id)).transpose()?,
            old: self.old,
            new: self.new,
            reason: self.reason,
            request_id: self.request_id,
            create_time: self.create_time,
        })
    }
}

/// Lists an organization's events, the newest first.
///
/// # Errors
/// If Postgres does not answer.
pub async fn list(
    connection: &mut PgConnection,
    organization: OrganizationId,
    filter: &EventFilter,
) -> Result<Vec<EventRecord>, StoreError> {
    let types: Option<Vec<String>> =
        filter.types.as_ref().map(|types| types.iter().map(|known| known.as_str().to_owned()).collect());
    // The first page begins behind the highest revision that there can be: one index condition for every page.
    let rows = sqlx::query_as!(
        EventRow,
        r#"SELECT revision, type AS event_type, actor_kind, actor_id, actor_via, user_id, old, new, reason, request_id,
                  create_time
           FROM events
           WHERE bucket = $1 AND organization_id = $2 AND revision < $3
             AND ($4::text[] IS NULL OR type = ANY ($4)) AND ($5::text IS NULL OR user_id = $5)
           ORDER BY revision DESC
           LIMIT $6"#,
        organization.bucket(),
        organization.as_uuid(),
        filter.before.unwrap_or(i64::MAX),
        types.as_deref(),
        filter.user.as_ref().map(UserId::as_str),
        filter.limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|row| row.read(organization)).collect()
}

/// What names an event: whose it is, and the revision that it made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKey {
    /// An organization's.
    Organization(OrganizationId, i64),
    /// A user's.
    User(UserId, i64),
}

/// Finds events, of these types if any are named, in the order of their keys.
///
/// # Errors
/// If Postgres does not answer.
pub async fn find(
    connection: &mut PgConnection,
    keys: &[EventKey],
    types: Option<&[EventType]>,
) -> Result<Vec<EventRecord>, StoreError> {
    let types: Option<Vec<String>> = types.map(|types| types.iter().map(|known| known.as_str().to_owned()).collect());
    let mut found = find_of_organizations(connection, keys, types.as_deref()).await?;
    found.extend(find_of_users(connection, keys, types.as_deref()).await?);
    found.sort_by_key(|(number, _)| *number);
    Ok(found.into_iter().map(|(_, recorded)| recorded).collect())
}

type NumberedEvent = (i64, EventRecord);

async fn find_of_organizations(
    connection: &mut PgConnection,
    keys: &[EventKey],
    types: Option<&[String]>,
) -> Result<Vec<NumberedEvent>, StoreError> {
    let (mut numbers, mut buckets, mut ids, mut revisions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (number, key) in (0_i64..).zip(keys) {
        if let EventKey::Organization(id, revision) = key {
            numbers.push(number);
            buckets.push(id.bucket());
            ids.push(id.as_uuid());
            revisions.push(*revision);
        }
    }
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        r#"SELECT k.number AS "number!", k.id AS "id!", e.revision, e.type AS event_type, e.actor_kind, e.actor_id,
                  e.actor_via, e.user_id, e.old, e.new, e.reason, e.request_id, e.create_time
           FROM unnest($1::bigint[], $2::smallint[], $3::uuid[], $4::bigint[]) AS k (number, bucket, id, revision)
           JOIN events e ON e.bucket = k.bucket AND e.organization_id = k.id AND e.revision = k.revision
           WHERE $5::text[] IS NULL OR e.type = ANY ($5)"#,
        &numbers,
        &buckets,
        &ids,
        &revisions,
        types,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let found = EventRow {
                revision: row.revision,
                event_type: row.event_type,
                actor_kind: row.actor_kind,
                actor_id: row.actor_id,
                actor_via: row.actor_via,
                user_id: row.user_id,
                old: row.old,
                new: row.new,
                reason: row.reason,
                request_id: row.request_id,
                create_time: row.create_time,
            };
            Ok((row.number, found.read(OrganizationId::from_uuid(row.id))?))
        })
        .collect()
}

async fn find_of_users(
    connection: &mut PgConnection,
    keys: &[EventKey],
    types: Option<&[String]>,
) -> Result<Vec<NumberedEvent>, StoreError> {
    let (mut numbers, mut buckets, mut ids, mut revisions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (number, key) in (0_i64..).zip(keys) {
        if let EventKey::User(id, revision) = key {
            numbers.push(number);
            buckets.push(id.bucket());
            ids.push(id.to_string());
            revisions.push(*revision);
        }
    }
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        r#"SELECT k.number AS "number!", e.user_id, e.revision, e.type AS event_type, e.actor_kind, e.actor_id, e.actor_via,
                  e.old, e.new, e.reason, e.request_id, e.create_time
           FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::bigint[]) AS k (number, bucket, id, revision)
           JOIN user_events e ON e.user_bucket = k.bucket AND e.user_id = k.id COLLATE "C" AND e.revision = k.revision
           WHERE $5::text[] IS NULL OR e.type = ANY ($5)"#,
        &numbers,
        &buckets,
        &ids,
        &revisions,
        types,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let recorded = EventRecord {
                organization: None,
                revision: row.revision,
                event_type: EventType::parse(&row.event_type)?,
                actor_kind: ActorKind::parse(&row.actor_kind)?,
                actor_id: row.actor_id,
                actor_via: row.actor_via,
                user: Some(UserId::parse(&row.user_id)?),
                old: row.old,
                new: row.new,
                reason: row.reason,
                request_id: row.request_id,
                create_time: row.create_time,
            };
            Ok((row.number, recorded))
        })
        .collect()
}
