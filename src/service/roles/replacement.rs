//! The members of a deleted role who still have to move to the role that replaces it: one transaction for each part of them.
//!
//! Every part is a separate write under the lock of the organization. So servers that move the same members, changes of
//! the owner in between, and a purge exclude each other, and a server that is stopped leaves a state that the next round of
//! any server continues.

use crate::domain::{Organization, OrganizationId, RoleName};
use crate::service::write::queue::QueueKey;
use crate::service::write::unit_of_work::UnitOfWork;
use crate::service::write::{Change, WriteAnswer};
use crate::service::{ServiceError, limits};
use crate::store::{access_model, organization_roles};
use serde::{Deserialize, Serialize};

/// The move of some members of a role. The last part also removes the role, if it is the organization's own.
#[derive(Debug, Clone)]
pub(in crate::service) struct MovePart {
    /// The organization of the members.
    pub(in crate::service) organization: OrganizationId,
    /// The deleted role, of the organization or of the deployment.
    pub(in crate::service) role: RoleName,
}

/// What a [`MovePart`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::service) struct MovedPart {
    /// The members who were moved.
    pub(in crate::service) members: u32,
    /// Whether members may be left.
    pub(in crate::service) has_more: bool,
}

impl WriteAnswer for MovedPart {}

impl Change for MovePart {
    type Place = Option<Organization>;
    type Answer = MovedPart;

    fn queue(&self) -> Option<QueueKey> {
        Some(QueueKey::Organization(self.organization))
    }

    async fn enter(&self, tx: &mut UnitOfWork<'_>) -> Result<Self::Place, ServiceError> {
        tx.lock(self.organization).await
    }

    async fn apply(&self, tx: &mut UnitOfWork<'_>, organization: Self::Place) -> Result<MovedPart, ServiceError> {
        // Read again under the lock: the organization may have been purged, and another server may have removed the role.
        let Some(mut organization) = organization else { return Ok(MovedPart::default()) };
        let (new, since) = if self.role.is_of_organization() {
            let stored = organization_roles::get(tx.connection, organization.id, &self.role).await?;
            stored.map(|role| (role.content.replaced_by, Some(role.update_time))).unwrap_or_default()
        } else {
            let since = access_model::replace_time(tx.connection, &self.role).await?;
            (tx.roles().replacement(&self.role).cloned(), since)
        };
        let Some(new) = new else { return Ok(MovedPart::default()) };
        let most = limits::MOVED_MEMBERS_OF_A_PART;
        let members = tx.move_members_since(&mut organization, (&self.role, &new), since, most).await?;
        let has_more = members == most;
        if !has_more && self.role.is_of_organization() {
            tx.delete_role(&organization, &self.role).await?;
        }
        Ok(MovedPart { members, has_more })
    }
}
