//! The events of the access model, made of its revisions.

use super::ModelEventFilter;
use crate::domain::access_model::{AccessModel, Difference, ModelPlan};
use crate::domain::event::{EventRecord, EventType};
use crate::store::StoreError;
use crate::store::access_model::{self, ModelRevision};
use crate::store::row_page::RowPage;
use serde_json::{Map, Value, json};
use sqlx::PgConnection;

/// Lists events, the newest first.
pub(super) async fn list(
    connection: &mut PgConnection,
    filter: &ModelEventFilter,
) -> Result<RowPage<EventRecord>, StoreError> {
    let RowPage { rows, is_cut } = access_model::history(connection, filter.before, filter.limit).await?;
    let mut events = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let former = match rows.get(index + 1) {
            Some(former) => Some(former.model.clone()),
            None => former_model(connection, row.revision).await?,
        };
        events.push(record(row, former.as_ref()));
    }
    Ok(RowPage { rows: events, is_cut })
}

/// The event of a revision; `None` if there is no such revision.
pub(in crate::service) async fn event(
    connection: &mut PgConnection,
    revision: i64,
) -> Result<Option<EventRecord>, StoreError> {
    let Some(row) = access_model::revision(connection, revision).await? else { return Ok(None) };
    let former = former_model(connection, revision).await?;
    Ok(Some(record(&row, former.as_ref())))
}

async fn former_model(connection: &mut PgConnection, revision: i64) -> Result<Option<Value>, StoreError> {
    Ok(access_model::revision(connection, revision - 1).await?.map(|former| former.model))
}

/// The event of a revision, given the model before it: `None` for the first one, before which nothing was declared.
fn record(row: &ModelRevision, former: Option<&Value>) -> EventRecord {
    let read = |model: &Value| AccessModel::from_stored(model).ok();
    let former = former.map_or_else(|| Some(AccessModel::default()), read);
    // A model of a newer program may not be readable.
    let new = former.zip(read(&row.model)).map(|(former, model)| summary(&ModelPlan::between(&former, &model)));
    EventRecord {
        organization: None,
        revision: row.revision,
        event_type: EventType::ModelChanged.as_str().to_owned(),
        actor_kind: row.actor_kind.clone(),
        actor_id: row.actor_id.clone(),
        actor_issuer: row.actor_issuer.clone(),
        actor_via: row.actor_via.clone(),
        user: None,
        old: None,
        new,
        reason: row.reason.clone(),
        request_id: row.request_id,
        create_time: row.create_time,
    }
}

/// The names of what differs. Only `EnableRoles` makes a revision without a difference.
fn summary(plan: &ModelPlan) -> Value {
    if plan.is_empty() {
        return json!({ "roles_enabled": true });
    }
    let mut summary = Map::new();
    let permissions = plan.permissions.iter().map(|change| (change.difference(), change.name()));
    add(&mut summary, "permissions", permissions);
    add(&mut summary, "roles", plan.roles.iter().map(|change| (change.difference(), change.name.as_str())));
    let added = plan.newly_delegable.iter().map(|word| (Difference::Added, &**word));
    let removed = plan.no_longer_delegable.iter().map(|word| (Difference::Removed, &**word));
    add(&mut summary, "delegable", added.chain(removed));
    Value::Object(summary)
}

/// Adds a list of names for each kind of difference that occurs.
fn add<'a>(summary: &mut Map<String, Value>, of: &str, names: impl Iterator<Item = (Difference, &'a str)>) {
    let mut lists: Map<String, Value> = Map::new();
    for (difference, name) in names {
        if let Value::Array(list) = lists.entry(difference.as_str()).or_insert_with(|| json!([])) {
            list.push(name.into());
        }
    }
    if !lists.is_empty() {
        summary.insert(of.to_owned(), Value::Object(lists));
    }
}
