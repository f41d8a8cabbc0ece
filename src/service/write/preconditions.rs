//! Preconditions of a change: the etag, an active user, a writable organization.

use crate::domain::{Organization, OrganizationState, Refusal, User, UserState, ValueKind};

/// Refuses a change that was requested for another version than the present one. `None` asks for any version.
pub(in crate::service) fn check_etag(requested: Option<&str>, present: &str) -> Result<(), Refusal> {
    match requested {
        Some(requested) if requested != present => Err(Refusal::EtagMismatch),
        _ => Ok(()),
    }
}

/// Refuses an inactive or deleted user.
pub(in crate::service) fn check_user(user: &User) -> Result<(), Refusal> {
    match user.state {
        UserState::Active => Ok(()),
        UserState::Inactive => Err(Refusal::UserInactive { user_id: user.id.clone() }),
        UserState::Erased => Err(Refusal::UserDeleted { user_id: user.id.clone() }),
        UserState::Unknown => Err(Refusal::ValueUnknown { value: ValueKind::UserState }),
    }
}

/// The refusal of a change in an organization whose state this program does not know.
pub(in crate::service) fn unknown_state() -> Refusal {
    Refusal::ValueUnknown { value: ValueKind::OrganizationState }
}

/// Refuses a change in an inactive or deleted organization.
pub(in crate::service) fn check_writable(organization: &Organization) -> Result<(), Refusal> {
    match organization.state() {
        OrganizationState::Active | OrganizationState::Pending => Ok(()),
        OrganizationState::Inactive => Err(Refusal::OrganizationInactive),
        OrganizationState::Deleted => Err(Refusal::OrganizationDeleted),
        OrganizationState::Unknown => Err(unknown_state()),
    }
}
