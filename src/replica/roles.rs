//! The roles of the deployment in memory, and their refresh from the primary.

use super::{Replica, ReplicaState};
use crate::domain::RoleTable;
use crate::domain::access_model::AccessModel;
use crate::replica::limits;
use crate::store::{StoreError, access_model};
use std::sync::{Arc, PoisonError};
use tokio::time::timeout;

impl ReplicaState {
    /// The roles of the deployment as this process knows them.
    pub(super) fn roles(&self) -> Arc<RoleTable> {
        self.roles.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes a role table, unless a newer one is published already. Returns the newest one.
    pub(super) fn publish_roles(&self, table: RoleTable) -> Arc<RoleTable> {
        let mut roles = self.roles.write().unwrap_or_else(PoisonError::into_inner);
        if table.revision() > roles.revision() {
            *roles = Arc::new(table);
        }
        roles.clone()
    }
}

impl Replica {
    /// The roles of the deployment as this process knows them: as fresh as every answer from memory.
    #[must_use]
    pub fn roles(&self) -> Arc<RoleTable> {
        self.0.roles()
    }

    /// Reads the roles of the deployment from the primary, and keeps them.
    ///
    /// # Errors
    /// If the datastore does not answer, or its access model is not readable by this release.
    pub async fn refresh_roles(&self) -> Result<Arc<RoleTable>, StoreError> {
        let mut connection = self.0.pool.acquire_read().await?;
        let outcome = timeout(limits::POLL_TIMEOUT, access_model::current(&mut connection)).await;
        let stored = connection.finish(outcome.unwrap_or(Err(StoreError::Silent)))?;
        let model =
            AccessModel::from_stored(&stored.model).map_err(|error| StoreError::Unreadable(error.to_string()))?;
        Ok(self.0.publish_roles(RoleTable::new(stored.revision, &model)))
    }
}
