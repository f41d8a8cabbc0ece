//! The roles of the deployment in memory, and their refresh from the primary.

use super::{Replica, ReplicaState};
use crate::domain::access_model::{AccessModel, ReplacedRoles};
use crate::domain::ids::MODEL_BUCKET;
use crate::domain::{BucketPosition, RoleTable};
use crate::replica::limits;
use crate::replica_tables::PublishedRoles;
use crate::store::log::tail::LogPosition;
use crate::store::{StoreError, access_model};
use serde_json::Value;
use sqlx::PgConnection;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::time::timeout;

/// The newest roles of the deployment that this process knows, and those of some other revisions.
pub(super) struct RoleCache {
    newest: RwLock<NewestRoles>,
    /// Roles of revisions that the primary had when it answered, the newest last.
    recent: Mutex<VecDeque<PublishedRoles>>,
}

struct NewestRoles {
    roles: PublishedRoles,
    /// The number of times that the history of the model began again. What was read before may have been lost.
    histories: u64,
}

/// The roles in a row of the access model's log. A model that this release cannot read makes every role unknown.
pub(super) fn published(at: LogPosition, model: &Value) -> PublishedRoles {
    if at.position == 0 {
        return PublishedRoles::built_in();
    }
    let table = match AccessModel::from_stored(model) {
        Ok(parsed) => RoleTable::new(at.position, &parsed).with_replaced(ReplacedRoles::from_stored(model)),
        Err(error) => {
            tracing::error!(
                revision = at.position,
                error = &error as &dyn std::error::Error,
                "the access model is unreadable: no role is known"
            );
            RoleTable::unreadable(at.position)
        }
    };
    PublishedRoles { table: Arc::new(table), at: at.in_bucket(MODEL_BUCKET) }
}

impl RoleCache {
    pub(super) fn new() -> Self {
        let newest = NewestRoles { roles: PublishedRoles::built_in(), histories: 0 };
        Self { newest: RwLock::new(newest), recent: Mutex::default() }
    }

    /// The newest roles, and the number of their history.
    pub(super) fn newest(&self) -> (PublishedRoles, u64) {
        let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner);
        (newest.roles.clone(), newest.histories)
    }

    /// Keeps roles that were read in this history, unless newer ones are known. Returns the newest ones.
    pub(super) fn publish(&self, roles: PublishedRoles, history: u64) -> PublishedRoles {
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        if newest.histories == history && roles.at.position > newest.roles.at.position {
            newest.roles = roles;
        }
        newest.roles.clone()
    }

    /// Begins another history with these roles, whatever was known before: the primary may have lost it.
    pub(super) fn restart(&self, roles: PublishedRoles) {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        *newest = NewestRoles { roles, histories: newest.histories + 1 };
    }

    /// The roles at exactly this position. Reads them from the database of the connection if they are not known.
    pub(super) async fn at(
        &self,
        connection: &mut PgConnection,
        at: LogPosition,
    ) -> Result<PublishedRoles, StoreError> {
        let (newest, history) = self.newest();
        if let Some(known) = self.find(&newest, at.in_bucket(MODEL_BUCKET)) {
            return Ok(known);
        }
        let row = access_model::revision(connection, at.position).await?;
        let row = row.filter(|row| row.create_time == at.write_time);
        let row = row.ok_or_else(|| StoreError::Unreadable(format!("revision {} of the access model", at.position)))?;
        let roles = published(at, &row.model);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back(roles.clone());
        if recent.len() > limits::RECENT_MODELS {
            recent.pop_front();
        }
        drop(recent);
        self.publish(roles.clone(), history);
        Ok(roles)
    }

    fn find(&self, newest: &PublishedRoles, at: BucketPosition) -> Option<PublishedRoles> {
        if at.position == 0 {
            return Some(PublishedRoles::built_in());
        }
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().chain([newest]).find(|known| known.at == at).cloned()
    }
}

impl ReplicaState {
    /// Sets the roles of the tables, which the buckets then adopt.
    pub(super) fn publish_roles(&self, roles: PublishedRoles) {
        let (_, history) = self.roles.newest();
        self.roles.publish(roles.clone(), history);
        self.tables.put_roles(roles);
    }

    /// Begins another history of the model with these roles, in the tables too.
    pub(super) fn restart_roles(&self, roles: PublishedRoles) {
        self.roles.restart(roles.clone());
        self.tables.put_roles(roles);
        self.tables.adopt_roles();
    }
}

impl Replica {
    /// The newest roles of the deployment that this process knows: at least as fresh as every answer from memory.
    #[must_use]
    pub fn roles(&self) -> Arc<RoleTable> {
        self.published_roles().table
    }

    /// [`Self::roles`], with the position of their model.
    #[must_use]
    pub fn published_roles(&self) -> PublishedRoles {
        self.0.roles.newest().0
    }

    /// Asks the primary whether the access model has changed, and reads it if it has. Returns the roles that the primary
    /// has, even if this process has newer ones: the primary may have lost those.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn refresh_roles(&self) -> Result<PublishedRoles, StoreError> {
        let (known, history) = self.0.roles.newest();
        let mut connection = self.0.pool.acquire_read().await?;
        let read = async {
            let at = access_model::position(&mut connection).await?;
            if at.in_bucket(MODEL_BUCKET) == known.at {
                return Ok(None);
            }
            access_model::current(&mut connection).await.map(Some)
        };
        let outcome = timeout(limits::POLL_TIMEOUT, read).await;
        let stored = connection.finish(outcome.unwrap_or(Err(StoreError::Silent)))?;
        let Some(stored) = stored else { return Ok(known) };
        let roles = published(stored.at(), &stored.model);
        self.0.roles.publish(roles.clone(), history);
        Ok(roles)
    }
}
