//! Reads of the audit trail.

use super::change_feed::LogChange;
use super::{Roster, ServiceError};
use crate::authz::decide::Access;
use crate::domain::event::{EventRecord, EventType};
use crate::store::events;
use crate::store::row_page::RowPage;

pub use crate::store::events::EventFilter;

impl Roster {
    /// Lists the events of the organization, the newest first.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn list_events(
        &self,
        access: &Access,
        filter: &EventFilter,
    ) -> Result<RowPage<EventRecord>, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = events::list(&mut connection, access.organization(), filter).await;
        Ok(connection.finish(outcome)?)
    }

    /// Reads the events of these changes, in the order of the changes and each with the index of its change, and the number
    /// of changes that were looked up: fewer than all if the events are large. If types are given, only events of these
    /// types.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn events_of(
        &self,
        changes: &[&LogChange],
        types: Option<&[EventType]>,
    ) -> Result<(Vec<(usize, EventRecord)>, usize), ServiceError> {
        let keys: Vec<events::EventKey> = changes
            .iter()
            .map(|change| match change {
                LogChange::Organization(entry) => events::EventKey::Organization(entry.organization, entry.revision),
                LogChange::User { user, revision, .. } => events::EventKey::User(user.clone(), *revision),
                LogChange::Model { .. } | LogChange::Unknown => events::EventKey::Unknown,
            })
            .collect();
        let mut connection = self.pool.acquire_read().await?;
        let outcome = events::find(&mut connection, &keys, types).await;
        Ok(connection.finish(outcome)?)
    }
}
