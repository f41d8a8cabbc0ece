//! Changes of the roles that an organization defines for itself.

use super::UnitOfWork;
use crate::domain::change::ChangeDetail;
use crate::domain::event::EventType;
use crate::domain::{Organization, RoleName};
use crate::service::ServiceError;
use crate::store::events::Event;
use crate::store::organization_roles::{self, OrganizationRole, RoleContent};
use serde_json::Value;

impl UnitOfWork<'_> {
    /// Begins a change of a role of a locked organization: a new revision with its event. The functions below write the
    /// role and its entry of the change log.
    pub(in crate::service) fn record_role(
        &mut self,
        organization: &mut Organization,
        kind: EventType,
        old: Option<Value>,
        new: Option<Value>,
    ) {
        organization.revision += 1;
        self.revisions.insert(organization.id, organization.revision);
        let event = Event { revision: organization.revision, kind, user: None, old, new };
        self.events.entry(organization.id).or_default().push(event);
    }

    /// Adds a role at the present revision of the organization; `None` if the organization has a role of this name.
    pub(in crate::service) async fn insert_role(
        &mut self,
        organization: &Organization,
        name: &RoleName,
        content: &RoleContent,
    ) -> Result<Option<OrganizationRole>, ServiceError> {
        self.record_role_entry(organization, name, Some(content));
        Ok(organization_roles::insert(self.connection, organization, name, content).await?)
    }

    /// Overwrites a role at the present revision of the organization.
    pub(in crate::service) async fn update_role(
        &mut self,
        organization: &Organization,
        name: &RoleName,
        content: &RoleContent,
    ) -> Result<OrganizationRole, ServiceError> {
        self.record_role_entry(organization, name, Some(content));
        Ok(organization_roles::update(self.connection, organization, name, content).await?)
    }

    /// Makes the members of a role hold another one, at the present revision of the organization. Their rows keep the
    /// former role until housekeeping moves them. The former role can no longer be assigned, and holds nothing itself. The
    /// other role is not being replaced.
    pub(in crate::service) async fn replace_role(
        &mut self,
        organization: &Organization,
        former: OrganizationRole,
        by: &RoleName,
    ) -> Result<(), ServiceError> {
        let content = RoleContent { permissions: Vec::new(), replaced_by: Some(by.clone()), ..former.content };
        self.update_role(organization, &former.name, &content).await?;
        Ok(())
    }

    /// Deletes a role that no member holds and that replaces no other.
    pub(in crate::service) async fn delete_role(
        &mut self,
        organization: &Organization,
        name: &RoleName,
    ) -> Result<(), ServiceError> {
        self.record_role_entry(organization, name, None);
        organization_roles::delete(self.connection, organization.id, name).await?;
        Ok(())
    }

    fn record_role_entry(&mut self, organization: &Organization, name: &RoleName, content: Option<&RoleContent>) {
        let entry = ChangeDetail::Role {
            name: name.clone(),
            permissions: content.map(|content| content.permissions.clone()),
            replaced_by: content.and_then(|content| content.replaced_by.clone()),
        };
        self.record_entry(organization, entry);
    }
}
