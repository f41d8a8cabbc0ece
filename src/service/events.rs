//! The audit trail, read.

use super::change_feed::LogChange;
use super::{Roster, ServiceError};
use crate::authz::decide::Access;
use crate::domain::event::{EventRecord, EventType};
use crate::store::events;

pub use crate::store::events::EventFilter;

impl Roster {
    /// Lists what happened to the organization that the caller has been let into, the newest first.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn list_events(&self, access: &Access, filter: &EventFilter) -> Result<Vec<EventRecord>, ServiceError> {
        Ok(events::list(&mut *self.pool.acquire().await?, access.organization(), filter).await?)
    }

    /// The events of these changes, of these types if any are named, in the order of the changes.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn events_of(
        &self,
        changes: &[&LogChange],
        types: Option<&[EventType]>,
    ) -> Result<Vec<EventRecord>, ServiceError> {
        let keys: Vec<events::EventKey> = changes
            .iter()
            .map(|change| match change {
                LogChange::Organization(line) => events::EventKey::Organization(line.organization, line.revision),
                LogChange::User { user, revision, .. } => events::EventKey::User(user.clone(), *revision),
            })
            .collect();
        Ok(events::find(&mut *self.pool.acquire().await?, &keys, types).await?)
    }
}
