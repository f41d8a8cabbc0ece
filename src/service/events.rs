//! The audit trail, read.

use super::follow::Change;
use super::{Error, Roster};
use crate::auth::decide::Access;
use crate::domain::event::{EventType, Recorded};
use crate::store::events;

pub use crate::store::events::Filter as EventFilter;

impl Roster {
    /// Lists what happened to the organization that the caller has been let into, the newest first.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn list_events(&self, access: &Access, filter: &EventFilter) -> Result<Vec<Recorded>, Error> {
        Ok(events::list(&mut *self.pool.acquire().await?, access.organization(), filter).await?)
    }

    /// The events of these changes, of these types if any are named, in the order of the changes.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn events_of(&self, changes: &[&Change], types: Option<&[EventType]>) -> Result<Vec<Recorded>, Error> {
        let keys: Vec<events::Key> = changes
            .iter()
            .map(|change| match change {
                Change::Organization(line) => events::Key::Organization(line.organization, line.revision),
                Change::User { user, revision, .. } => events::Key::User(user.clone(), *revision),
            })
            .collect();
        Ok(events::find(&mut *self.pool.acquire().await?, &keys, types).await?)
    }
}
