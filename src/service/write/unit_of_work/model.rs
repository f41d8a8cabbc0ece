//! Changes of the access model, and of the roles of many members at once.

use super::UnitOfWork;
use crate::domain::event::EventType;
use crate::domain::ids::MODEL_BUCKET;
use crate::domain::{Organization, Refusal, Role, RoleName};
use crate::service::ServiceError;
use crate::store::access_model::{self, DeploymentRoleRow, StoredModel};
use crate::store::log::partitions;
use crate::store::log::tail::LogPosition;
use crate::store::{log, organization_roles, usage};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// Permissions that the access model takes away from the roles of organizations.
pub(super) struct WithdrawnPermissions {
    words: Vec<String>,
    /// The heads of the change log before the uses of the permissions were counted.
    heads: Vec<LogPosition>,
}

impl UnitOfWork<'_> {
    /// Locks the access model. The rest of the write is decided by it, and not by [`Self::roles`].
    pub(in crate::service) async fn lock_model(&mut self) -> Result<StoredModel, ServiceError> {
        let stored = access_model::lock(self.connection).await?;
        self.model = stored.at().in_bucket(MODEL_BUCKET);
        self.covers_model = true;
        Ok(stored)
    }

    /// Takes permissions away from the roles of organizations when the write ends. The calling code counts their uses after
    /// this. The write is repeated if a role of an organization gets one of them until it ends.
    pub(in crate::service) async fn withdraw_permissions(&mut self, words: Vec<String>) -> Result<(), ServiceError> {
        self.withdrawn = Some(WithdrawnPermissions { words, heads: log::positions(self.connection).await? });
        Ok(())
    }

    /// Writes the applied model to the heads of the change log, which excludes every other write until the commit.
    pub(super) async fn finish_model(&mut self) -> Result<(), ServiceError> {
        let Some(at) = self.applied_model else { return Ok(()) };
        access_model::write_to_heads(self.connection, at).await?;
        if let Some(WithdrawnPermissions { words, heads }) = &self.withdrawn
            && usage::are_permissions_used_since(self.connection, heads, words).await?
        {
            return Err(Refusal::Conflict.into());
        }
        Ok(())
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
        self.applied_model = Some(at);
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
        let now = partitions::now(self.connection).await?;
        self.move_members_since(organization, (from, to), Some(now), most).await
    }

    /// As [`Self::move_members`], for members who hold the other role since a time: to them, nothing changes.
    pub(in crate::service) async fn move_members_since(
        &mut self,
        organization: &mut Organization,
        (from, to): (&RoleName, &RoleName),
        since: Option<OffsetDateTime>,
        most: u32,
    ) -> Result<u32, ServiceError> {
        let moved =
            organization_roles::move_members(self.connection, organization, from, to, since, most.into()).await?;
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
