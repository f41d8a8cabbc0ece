//! What a change must not meet: another version, a user or an organization that is switched off.

use crate::domain::{Organization, OrganizationState, Refusal, User, UserState};

/// Refuses a change that hangs on another version than the present one.
pub(in crate::service) fn check_etag(asked: Option<&str>, present: &str) -> Result<(), Refusal> {
    match asked {
        Some(asked) if asked != present => Err(Refusal::EtagMismatch),
        _ => Ok(()),
    }
}

/// Refuses a user who is switched off or deleted.
pub(in crate::service) fn check_user(user: &User) -> Result<(), Refusal> {
    match user.state {
        UserState::Active => Ok(()),
        UserState::Inactive => Err(Refusal::UserInactive { user_id: user.id.clone() }),
        UserState::Erased => Err(Refusal::UserDeleted { user_id: user.id.clone() }),
    }
}

/// Refuses a change in an organization that is switched off or deleted.
pub(in crate::service) fn check_writable(organization: &Organization) -> Result<(), Refusal> {
    match organization.state() {
        OrganizationState::Active | OrganizationState::Pending => Ok(()),
        OrganizationState::Inactive => Err(Refusal::OrganizationInactive),
        OrganizationState::Deleted => Err(Refusal::OrganizationDeleted),
    }
}
