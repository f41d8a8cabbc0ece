//! The audit trail, read.

use super::{Error, Roster};
use crate::auth::decide::Access;
use crate::domain::event::Recorded;
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
}
