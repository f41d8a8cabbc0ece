//! The access model of the deployment: reads and its events. [`apply`] changes it; [`effects`] counts what a change touches.

mod apply;
mod effects;
mod events;

pub use crate::domain::access_model::Difference;
pub use effects::{PermissionEffect, RoleEffect};
pub(super) use events::event;

use super::write::{Meta, WriteAnswer, WriteResult};
use super::{Roster, ServiceError};
use crate::authn::Caller;
use crate::domain::RoleName;
use crate::domain::access_model::AccessModel;
use crate::domain::event::EventRecord;
use crate::store::StoreError;
use crate::store::access_model;
use crate::store::row_page::RowPage;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// The present access model.
#[derive(Debug, Clone, PartialEq)]
pub struct PresentModel {
    /// The number of models that were applied.
    pub revision: i64,
    /// The time of the last one; 1970 before the first one.
    pub update_time: OffsetDateTime,
    /// The access model.
    pub model: AccessModel,
    /// Whether the deployment accepts access models and roles of organizations.
    pub is_enabled: bool,
}

impl PresentModel {
    /// The version, which clients send back as the etag.
    #[must_use]
    pub fn etag(&self) -> String {
        self.revision.to_string()
    }
}

/// The access model to apply.
#[derive(Debug, Clone)]
pub struct ApplyModel {
    /// The access model.
    pub model: AccessModel,
    /// For roles that the model removes or takes from a kind: the role that their members get.
    pub replace: BTreeMap<RoleName, RoleName>,
    /// Whether no client of an older release is in use any more.
    pub older_clients_gone: bool,
    /// The expected etag; `None` to skip the check.
    pub etag: Option<String>,
}

impl WriteAnswer for AppliedModel {}

/// What applying a model changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedModel {
    /// The etag after the change.
    pub etag: String,
    /// The members who got another role.
    pub moved: u32,
    /// The removed roles with more members than one transaction moves: they hold the replacement from now on, and
    /// housekeeping moves them.
    #[serde(default)]
    pub moving: Vec<RoleName>,
    /// The permissions of the application that differ.
    pub permissions: Vec<PermissionEffect>,
    /// The roles that differ.
    pub roles: Vec<RoleEffect>,
    /// Permissions of roster that the roles of organizations may hold from now on.
    pub newly_delegable: Vec<String>,
    /// Permissions of roster that the roles of organizations may no longer hold.
    pub no_longer_delegable: Vec<String>,
    /// What the operator should know, a sentence each.
    pub warnings: Vec<String>,
}

/// A page of the events of the access model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEventFilter {
    /// Only events before this revision; `None` from the newest one on.
    pub before: Option<i64>,
    /// The number of events at most.
    pub limit: i64,
}

impl Roster {
    /// Reads the access model.
    ///
    /// # Errors
    /// If the datastore does not answer, or a newer program wrote a model that this one cannot read.
    pub async fn access_model(&self) -> Result<PresentModel, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = access_model::current(&mut connection).await;
        let stored = connection.finish(outcome)?;
        Ok(PresentModel {
            revision: stored.revision,
            update_time: stored.write_time,
            model: AccessModel::from_stored(&stored.model).map_err(StoreError::from)?,
            is_enabled: stored.is_enabled,
        })
    }

    /// Replaces the access model.
    ///
    /// # Errors
    /// `ETAG_MISMATCH`, `ROLES_NOT_ENABLED`, `ROLE_IN_USE`, `PERMISSION_IN_USE`, `OLDER_CLIENTS_GONE_REQUIRED`;
    /// `INVALID_REQUEST` for a replacement that the models do not allow.
    pub async fn apply_access_model(
        &self,
        caller: Caller,
        meta: Meta,
        input: ApplyModel,
    ) -> Result<WriteResult<AppliedModel>, ServiceError> {
        self.write(Some(caller), meta, input).await
    }

    /// Records that every server knows roles and permissions that are not built in. The answer is false if that was
    /// recorded before.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn enable_roles(&self, caller: Caller, meta: Meta) -> Result<WriteResult<bool>, ServiceError> {
        self.write(Some(caller), meta, apply::EnableRoles).await
    }

    /// Lists the events of the access model, the newest first.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn list_model_events(&self, filter: &ModelEventFilter) -> Result<RowPage<EventRecord>, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = events::list(&mut connection, filter).await;
        Ok(connection.finish(outcome)?)
    }
}
