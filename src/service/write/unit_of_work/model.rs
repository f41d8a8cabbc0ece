//! Changes of the access model, and of the roles of many members at once.

use super::UnitOfWork;
use crate::domain::event::EventType;
use crate::domain::ids::MODEL_BUCKET;
use crate::domain::{Organization, Role, RoleName};
use crate::service::ServiceError;
use crate::store::access_model::{self, DeploymentRoleRow, StoredModel};
use crate::store::organization_roles;
use serde_json::{Value, json};

impl UnitOfWork<'_> {
    /// Locks the access model. The rest of the write is decided by it, and not by [`Self::roles`].
    pub(in crate::service) async fn lock_model(&mut self) -> Result<StoredModel, ServiceError> {
        let stored = access_model::lock(self.connection).await?;
        self.model = stored.at().in_bucket(MODEL_BUCKET);
        self.covers_model = true;
        Ok(stored)
    }

    /// Stores the next access model, which must be locked. See [`access_model::apply`]. Returns its revision.
    pub(in crate::service) async fn apply_model(
        &mut self,
        model: &Value,
        roles: &[DeploymentRoleRow],
    ) -> Result<i64, ServiceError> {
        let at = access_model::apply(self.connection, model, roles, &self.cause).await?;
        self.model = at.in_bucket(MODEL_BUCKET);
        self.covers_model = true;
        Ok(at.position)
    }

    /// Gives the members of a locked organization with one role another one: the first `most` of them, by id. Returns their
    /// number. Neither `admin` nor `member` can be the former role.
    pub(in crate::service) async fn move_members(
        &mut self,
        organization: &mut Organization,
        from: &RoleName,
        to: &RoleName,
        most: u32,
    ) -> Result<u32, ServiceError> {
        let moved = organization_roles::move_members(self.connection, organization, from, to, most.into()).await?;
        // The change log has the name only.
        let stored = Role { name: to.clone(), permissions: None };
        for member in &moved {
            organization.revision = member.revision;
            let (old, new) = (Some(json!({ "role": from })), Some(json!({ "role": to })));
            self.record_member(organization, EventType::MemberUpdated, &member.user, old, new, Some(&stored));
        }
        Ok(u32::try_from(moved.len()).unwrap_or(u32::MAX))
    }
}
