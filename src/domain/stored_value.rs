//! Values of closed lists as they are stored or received. A newer roster may have written a value that this one does
//! not know: such a value concerns only the membership, organization, user or invitation in which it stands.

use super::named_enum::named_enum;
use super::{Invalid, Refusal, Role};
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

impl StoredValue<Role> {
    /// Reads a stored role.
    #[must_use]
    pub fn read_role(text: &str) -> Self {
        Self::read(text, Role::parse)
    }

    /// The role, for a decision that depends on it.
    ///
    /// # Errors
    /// [`Refusal::ValueUnknown`] if this program does not know the role.
    pub fn require(&self) -> Result<Role, Refusal> {
        self.known().ok_or(Refusal::ValueUnknown { value: ValueKind::Role })
    }
}

named_enum! {
    /// What a stored value is that this program does not know. Sent to callers with [`Refusal::ValueUnknown`].
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_keeps_its_text_and_its_json_form() {
        for (text, known) in [("admin", Some(Role::ADMIN)), ("auditor", None), ("", None)] {
            let role = StoredValue::read_role(text);
            assert_eq!((role.as_str(), role.known()), (text, known));
            // Release 0.2.0 reads and writes the bare text.
            let json = format!("{text:?}");
            assert_eq!(serde_json::to_string(&role).ok(), Some(json.clone()));
            assert_eq!(serde_json::from_str(&json).ok(), Some(role));
        }
    }
}
