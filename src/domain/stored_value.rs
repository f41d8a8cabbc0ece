//! Values of closed lists as they are stored or received. A newer roster may have written a value that this one does
//! not know: such a value concerns only the membership, organization, user or invitation in which it stands.

use super::Invalid;
use super::named_enum::named_enum;
use serde::{Deserialize, Serialize};

/// A value of a closed list, or the text of a value that this program does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StoredValue<T> {
    /// A value that this program knows.
    Known(T),
    /// The text of a value that a newer program wrote. No decision is made from it.
    Unknown(Box<str>),
}

impl<T: Copy + Into<&'static str>> StoredValue<T> {
    /// Reads a stored text. `parse` knows the values of the list.
    pub fn read(text: &str, parse: impl FnOnce(&str) -> Result<T, Invalid>) -> Self {
        parse(text).map_or_else(|_| Self::Unknown(text.into()), Self::Known)
    }

    /// The text, as stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(value) => (*value).into(),
            Self::Unknown(text) => text,
        }
    }

    /// The value; `None` if this program does not know it.
    #[must_use]
    pub fn known(&self) -> Option<T> {
        match self {
            Self::Known(value) => Some(*value),
            Self::Unknown(_) => None,
        }
    }
}

named_enum! {
    /// What a stored value is that this program does not know. Sent to callers with [`super::Refusal::ValueUnknown`].
    ValueKind else "no such kind of value";
    /// The role in a membership or an invitation.
    Role = "role",
    /// The state of an organization.
    OrganizationState = "organization_state",
    /// The state of a user.
    UserState = "user_state",
    /// The state of an invitation.
    InvitationState = "invitation_state",
    /// The kind of the caller who created an invitation.
    InviterKind = "inviter_kind",
    /// The answer that was stored for a `request_id`.
    Answer = "answer",
}
