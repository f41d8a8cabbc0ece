//! The decision about a caller in one organization. A pure function makes it: once when a request arrives and again, on
//! locked rows, inside each write.

use crate::authn::{Caller, UserCaller};
use crate::domain::{
    OrganizationHead, OrganizationId, OrganizationState, Permission, PermissionSet, Refusal, Role, RoleName, Standing,
    UserState, UserStatus, ValueKind,
};

/// The requirement that a method makes of its caller in the organization of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirement {
    /// The permission that the caller needs.
    pub permission: Permission,
    /// Whether the method also accepts members of a deleted organization. Their role must hold the permission.
    pub deleted: bool,
}

/// The rights of a caller in one organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The permissions of the caller.
    pub permissions: PermissionSet,
    /// The role of a member; `None` for operators and services, which are members of no organization.
    pub role: Option<RoleName>,
}

impl Grant {
    /// Checks the ceiling rule: a caller cannot grant, revoke or change a role with permissions that the caller lacks.
    ///
    /// # Errors
    /// [`Refusal::RoleAboveCaller`]; [`Refusal::ValueUnknown`] for a role that this program does not know.
    pub fn reaches(&self, role: &Role) -> Result<(), Refusal> {
        if self.permissions.includes(role.require()?) {
            Ok(())
        } else {
            Err(Refusal::RoleAboveCaller { role: role.name.clone() })
        }
    }

    /// Checks the ceiling rule for the removal of a member with this role. A role that this program does not know is
    /// within the reach of the owner and of operators, who hold every permission: access can be taken away during an
    /// upgrade too.
    ///
    /// # Errors
    /// [`Refusal::RoleAboveCaller`], [`Refusal::ValueUnknown`].
    pub fn reaches_removal(&self, role: &Role) -> Result<(), Refusal> {
        if !role.is_known() && self.permissions.is_everything() { Ok(()) } else { self.reaches(role) }
    }
}

/// The authorization of a caller in one organization. All code after the decision uses the organization id in here, and
/// never the organization reference in the message again.
#[derive(Debug, Clone)]
pub struct Access {
    caller: Caller,
    requirement: Requirement,
    organization: OrganizationId,
    grant: Grant,
}

impl Access {
    /// Authorizes a caller. This is the only constructor.
    ///
    /// # Errors
    /// The refusals of [`decide`].
    pub fn decide(requirement: Requirement, caller: Caller, standing: &Standing) -> Result<Self, Refusal> {
        let (organization, grant) = decide(requirement, &caller, standing)?;
        Ok(Self { caller, requirement, organization, grant })
    }

    /// Returns the authorized caller.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Returns the requirement that the caller met.
    #[must_use]
    pub fn requirement(&self) -> Requirement {
        self.requirement
    }

    /// Returns the id of the organization.
    #[must_use]
    pub fn organization(&self) -> OrganizationId {
        self.organization
    }

    /// Returns the rights of the caller at the time of the decision, for reads. A write decides again on locked rows.
    #[must_use]
    pub fn grant(&self) -> &Grant {
        &self.grant
    }
}

/// Decides whether a caller meets a requirement in an organization. A user who is not a member receives the same
/// refusal whether the organization exists or not. Services and operators may know, so they receive
/// [`Refusal::OrganizationNotFound`].
///
/// # Errors
/// [`Refusal::CredentialMissing`], the refusals of [`require_admissible`], [`Refusal::PermissionDenied`],
/// [`Refusal::RoleLacksPermission`], [`Refusal::ScopeMissing`] or [`Refusal::OrganizationNotFound`];
/// [`Refusal::ValueUnknown`] if the decision depends on a value that this program does not know.
pub fn decide(
    requirement: Requirement,
    caller: &Caller,
    standing: &Standing,
) -> Result<(OrganizationId, Grant), Refusal> {
    let permission = requirement.permission;
    match caller {
        Caller::Anonymous => Err(Refusal::CredentialMissing),
        Caller::Operator(_) => {
            let organization = standing.organization.ok_or(Refusal::OrganizationNotFound)?;
            require_known_state(organization)?;
            Ok((organization.id, Grant { permissions: PermissionSet::EVERYTHING, role: None }))
        }
        Caller::Service(service) => {
            super::rules::service_gate(permission, service)?;
            let permissions = service.permissions();
            match standing.organization {
                Some(organization) if organization.state != OrganizationState::Deleted => {
                    require_known_state(organization)?;
                    Ok((organization.id, Grant { permissions, role: None }))
                }
                _ => Err(Refusal::OrganizationNotFound),
            }
        }
        Caller::User(user) => {
            require_admissible(user, standing.user_status())?;
            let (Some(organization), Some(role)) = (standing.organization, &standing.role) else {
                return Err(Refusal::PermissionDenied { permission });
            };
            require_known_state(organization)?;
            let permissions = role.require()?;
            let deleted = organization.state == OrganizationState::Deleted;
            let grant = || Grant { permissions: permissions.clone(), role: Some(role.name.clone()) };
            match (deleted, permissions.contains(permission)) {
                (false, true) => Ok((organization.id, grant())),
                (true, true) if requirement.deleted => Ok((organization.id, grant())),
                (true, _) => Err(Refusal::PermissionDenied { permission }),
                (false, false) => Err(Refusal::RoleLacksPermission { permission, role: role.name.clone() }),
            }
        }
    }
}

fn require_known_state(organization: OrganizationHead) -> Result<(), Refusal> {
    match organization.state {
        OrganizationState::Unknown => Err(Refusal::ValueUnknown { value: ValueKind::OrganizationState }),
        _ => Ok(()),
    }
}

/// Checks that a calling user is neither deactivated nor deleted, and that the user's own token is newer than the last
/// reinstatement of the user.
///
/// # Errors
/// [`Refusal::CredentialExpired`] for an older token, whatever the state: a reinstatement is never taken back, so this
/// refusal holds even if a newer status is not known yet. [`Refusal::CallerInactive`]; [`Refusal::ValueUnknown`] for a state
/// that this program does not know.
pub fn require_admissible(user: &UserCaller, status: UserStatus) -> Result<(), Refusal> {
    if status.reinstated_at.is_some_and(|time| !user.is_issued_after(time)) {
        return Err(Refusal::CredentialExpired);
    }
    match status.state {
        None | Some(UserState::Active) => Ok(()),
        Some(UserState::Inactive | UserState::Erased) => Err(Refusal::CallerInactive),
        Some(UserState::Unknown) => Err(Refusal::ValueUnknown { value: ValueKind::UserState }),
    }
}
