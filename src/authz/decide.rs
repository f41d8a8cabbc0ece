//! What a caller may do in one organization: one pure function, asked when a request comes in and again, on locked rows,
//! inside each write.

use crate::authn::Caller;
use crate::domain::{OrganizationId, OrganizationState, Permission, PermissionSet, Refusal, Role, Standing, UserState};

/// What a method needs of its caller in the organization it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirement {
    /// The permission.
    pub permission: Permission,
    /// Whether the method also serves those who hold the permission in a deleted organization.
    pub deleted: bool,
}

/// What the caller may do here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Everything they may do.
    pub permissions: PermissionSet,
    /// The role by which they may, if they are a member. Operators and services are members of nothing.
    pub role: Option<Role>,
}

impl Grant {
    /// The ceiling rule: nobody gives, takes or changes a role that holds what they do not have.
    ///
    /// # Errors
    /// [`Refusal::RoleAboveCaller`].
    pub fn reaches(&self, role: Role) -> Result<(), Refusal> {
        if self.permissions.includes(role.permissions()) { Ok(()) } else { Err(Refusal::RoleAboveCaller { role }) }
    }
}

/// A caller who has been let into one organization. Everything behind the door works with the organization in here; the
/// name in the message is not used again.
#[derive(Debug, Clone)]
pub struct Access {
    caller: Caller,
    need: Requirement,
    organization: OrganizationId,
    grant: Grant,
}

impl Access {
    /// Lets a caller in, or says why not. The only way to make an access.
    ///
    /// # Errors
    /// The refusals of [`decide`].
    pub fn decide(need: Requirement, caller: Caller, standing: &Standing) -> Result<Self, Refusal> {
        let (organization, grant) = decide(need, &caller, standing)?;
        Ok(Self { caller, need, organization, grant })
    }

    /// Who was let in.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// For what.
    #[must_use]
    pub fn need(&self) -> Requirement {
        self.need
    }

    /// Where.
    #[must_use]
    pub fn organization(&self) -> OrganizationId {
        self.organization
    }

    /// What they may do there, as it was when they were let in: for reads. Writes decide again.
    #[must_use]
    pub fn grant(&self) -> Grant {
        self.grant
    }
}

/// Decides. Strangers are told the same whether there is such an organization or not; services and operators, who may
/// know, are told.
///
/// # Errors
/// [`Refusal::CredentialMissing`], [`Refusal::CallerInactive`], [`Refusal::PermissionDenied`],
/// [`Refusal::RoleLacksPermission`], [`Refusal::ScopeMissing`] or [`Refusal::OrganizationNotFound`].
pub fn decide(need: Requirement, caller: &Caller, standing: &Standing) -> Result<(OrganizationId, Grant), Refusal> {
    let permission = need.permission;
    match caller {
        Caller::Anonymous => Err(Refusal::CredentialMissing),
        Caller::Operator(_) => {
            let organization = standing.organization.ok_or(Refusal::OrganizationNotFound)?;
            Ok((organization.id, Grant { permissions: PermissionSet::of(Permission::ALL), role: None }))
        }
        Caller::Service(service) => {
            super::rules::service_gate(permission, service)?;
            let permissions = service.permissions();
            match standing.organization {
                Some(organization) if organization.state != OrganizationState::Deleted => {
                    Ok((organization.id, Grant { permissions, role: None }))
                }
                _ => Err(Refusal::OrganizationNotFound),
            }
        }
        Caller::User(_) => {
            require_active(standing.user_state)?;
            let (Some(organization), Some(role)) = (standing.organization, standing.role) else {
                return Err(Refusal::PermissionDenied { permission });
            };
            let deleted = organization.state == OrganizationState::Deleted;
            let permissions = role.permissions();
            match (deleted, permissions.contains(permission)) {
                (false, true) => Ok((organization.id, Grant { permissions, role: Some(role) })),
                (true, true) if need.deleted => Ok((organization.id, Grant { permissions, role: Some(role) })),
                (true, _) => Err(Refusal::PermissionDenied { permission }),
                (false, false) => Err(Refusal::RoleLacksPermission { permission, role }),
            }
        }
    }
}

/// A calling user must not be switched off or deleted. One not heard of yet is active.
///
/// # Errors
/// [`Refusal::CallerInactive`].
pub fn require_active(state: Option<UserState>) -> Result<(), Refusal> {
    match state {
        None | Some(UserState::Active) => Ok(()),
        Some(UserState::Inactive | UserState::Erased) => Err(Refusal::CallerInactive),
    }
}
