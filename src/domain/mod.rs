//! The domain types: ids, slugs, addresses, roles, permissions, states, and their valid values.
//!
//! This module is pure: it does not wait or read a clock, and knows neither SQL nor gRPC. Parsing is the only way to
//! construct a value from text, so every value is valid. A parse error is a sentence for the caller.

pub mod access_model;
pub mod actor;
pub mod attributes;
pub mod change;
pub mod characters;
pub mod check;
pub mod email;
pub mod event;
#[cfg(feature = "server")]
pub mod folding;
pub mod ids;
pub mod invitation;
pub mod limits;
pub mod locale;
pub mod model;
mod named_enum;
#[cfg(feature = "server")]
pub(crate) mod nearest;
pub mod permission;
pub mod permission_name;
pub mod permission_set;
pub mod quota;
pub mod refusal;
pub mod role;
pub mod role_name;
pub mod role_table;
pub mod scope;
pub mod slug;
pub mod state;
pub mod stored_value;
pub mod text;

pub use actor::ActorKind;
pub use attributes::Attributes;
pub use email::EmailAddress;
#[cfg(feature = "server")]
pub use folding::SearchText;
pub use ids::{OrganizationId, OrganizationRef, UserId};
pub use invitation::{Delivery, Invitation, InvitationId, InvitationState, Inviter, MailState, Recipient};
pub use locale::Locale;
pub use model::{
    BucketPosition, DeletionWindow, LogMark, Member, Membership, Organization, OrganizationHead, Standing,
    StandingView, User, UserStatus,
};
pub use permission::Permission;
pub use permission_name::PermissionName;
pub use permission_set::PermissionSet;
pub use quota::Quota;
pub use refusal::{Refusal, Violation};
pub use role::{Role, RoleView};
pub use role_name::RoleName;
pub use role_table::RoleTable;
pub use scope::Scope;
pub use slug::Slug;
pub use state::{OrganizationState, UserState};
pub use stored_value::{StoredValue, ValueKind};
pub use text::{AuditReason, DisplayName, Kind, Name};

/// A parse error: a sentence for the caller that never repeats the value itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl Invalid {
    /// Creates an error with this sentence.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}
