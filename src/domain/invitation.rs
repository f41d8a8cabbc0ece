//! Invitations and their states.

use super::{
    ActorKind, Attributes, EmailAddress, Invalid, Locale, Organization, OrganizationId, Role, RoleName, StoredValue,
    UserId, limits,
};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use time::OffsetDateTime;
use uuid::Uuid;

/// An invitation's id: a random UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InvitationId(Uuid);

impl InvitationId {
    /// Wraps an id from the datastore or from the random source.
    #[must_use]
    pub fn from_uuid(id: Uuid) -> Self {
        Self(id)
    }

    /// Parses an id.
    ///
    /// # Errors
    /// If it is not a UUID in its 36-character form.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        super::ids::parse_uuid(text).map(Self).ok_or_else(|| Invalid::new("an invitation's id is a UUID with hyphens"))
    }

    /// The id as a UUID.
    #[must_use]
    pub fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for InvitationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// The recipient of an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recipient {
    /// An e-mail address. Only a user with this verified address may answer.
    Email(EmailAddress),
    /// Another identifier, such as a phone number or a handle, to which the calling service delivers. Any user with the
    /// invitation token may answer.
    Other(String),
}

impl Recipient {
    /// Parses an identifier that is not an e-mail address.
    ///
    /// # Errors
    /// If it is empty, longer than 1 000 characters, or contains control characters.
    pub fn parse_other(text: &str) -> Result<Self, Invalid> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Invalid::new("an identifier is needed"));
        }
        if text.chars().count() > limits::IDENTIFIER_CHARACTERS {
            return Err(Invalid::new("an identifier has at most 1 000 characters"));
        }
        if text.chars().any(char::is_control) {
            return Err(Invalid::new("an identifier holds no control characters"));
        }
        Ok(Self::Other(text.to_owned()))
    }

    /// A recipient of the datastore. Its rules were checked when it was written, by a program that may have newer ones.
    #[must_use]
    pub fn from_stored(text: String, is_email: bool) -> Self {
        if is_email { Self::Email(EmailAddress::from_stored(text)) } else { Self::Other(text) }
    }

    /// The recipient as the caller wrote it, trimmed.
    #[must_use]
    pub fn given(&self) -> &str {
        match self {
            Self::Email(email) => email.given(),
            Self::Other(text) => text,
        }
    }

    /// The normal form, by which recipients are compared.
    #[must_use]
    pub fn normal(&self) -> &str {
        match self {
            Self::Email(email) => email.normal(),
            Self::Other(text) => text,
        }
    }

    /// The e-mail address; `None` for another identifier.
    #[must_use]
    pub fn email(&self) -> Option<&EmailAddress> {
        match self {
            Self::Email(email) => Some(email),
            Self::Other(_) => None,
        }
    }

    /// A masked form that its owner recognizes and that reveals little to others: the first character and the domain of
    /// an address, or the last two characters of another identifier with at least six.
    #[must_use]
    pub fn masked(&self) -> String {
        match self {
            Self::Email(email) => {
                let (local, domain) = email.given().rsplit_once('@').unwrap_or((email.given(), ""));
                let first: String = local.chars().take(1).collect();
                format!("{first}…@{domain}")
            }
            Self::Other(text) => {
                let characters: Vec<char> = text.chars().collect();
                let suffix = if characters.len() >= 6 { &characters[characters.len() - 2..] } else { &[] };
                format!("…{}", suffix.iter().collect::<String>())
            }
        }
    }
}

/// The state of an invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum InvitationState {
    /// Not answered yet.
    Pending,
    /// Accepted: the user became a member.
    Accepted,
    /// Declined by its recipient.
    Declined,
    /// Revoked by the organization.
    Revoked,
    /// Past its expire time without an answer.
    Expired,
    /// A state that this program does not know, because a newer one wrote it. Never written.
    #[serde(other)]
    Unknown,
}

impl InvitationState {
    /// Every known state, in the order of the protos.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Accepted, Self::Declined, Self::Revoked, Self::Expired];

    /// The name in Postgres and in error metadata.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Accepted => "ACCEPTED",
            Self::Declined => "DECLINED",
            Self::Revoked => "REVOKED",
            Self::Expired => "EXPIRED",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// Reads a stored state.
    #[must_use]
    pub fn read(text: &str) -> Self {
        Self::ALL.into_iter().find(|state| state.as_str() == text).unwrap_or(Self::Unknown)
    }

    /// The names of the states that are not among these. A list leaves out the invitations in these states; one in an
    /// unknown state is in every list.
    #[must_use]
    pub fn names_except(states: &[Self]) -> Vec<String> {
        Self::ALL.iter().filter(|state| !states.contains(state)).map(|state| state.as_str().to_owned()).collect()
    }
}

/// The way an invitation token reaches the recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// roster sends it by e-mail.
    Email,
    /// The response returns it, once, for the caller to deliver.
    Token,
    /// No token is created.
    None,
}

/// The delivery state of the latest mail of an invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MailState {
    /// In the outbox: not sent yet, or to be retried.
    Waiting,
    /// Accepted by the mail server.
    Sent,
    /// Failed for good.
    Failed,
    /// Removed from the outbox before the mail server accepted it: the invitation ended, or its tokens were replaced.
    NotSent,
    /// A state that this program does not know, because a newer one wrote it. Never written.
    #[serde(other)]
    Unknown,
}

impl MailState {
    /// The name in Postgres.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "WAITING",
            Self::Sent => "SENT",
            Self::Failed => "FAILED",
            Self::NotSent => "NOT_SENT",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// Reads a stored state.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let known = [Self::Waiting, Self::Sent, Self::Failed, Self::NotSent];
        known.into_iter().find(|state| state.as_str() == text).unwrap_or(Self::Unknown)
    }
}

/// The caller who created an invitation or added a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inviter {
    /// The kind of the inviter; never [`ActorKind::System`].
    pub kind: StoredValue<ActorKind>,
    /// The user id, or the name of the service or operator.
    pub id: String,
}

impl Inviter {
    /// The user id; `None` if a service or an operator invited.
    #[must_use]
    pub fn user(&self) -> Option<UserId> {
        if self.kind.known() == Some(ActorKind::User) { UserId::parse(&self.id).ok() } else { None }
    }
}

/// An invitation to become a member of an organization.
///
/// The serialized form, which stored answers have, leaves out the recipient. Answers of release 0.3 and earlier have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invitation {
    /// The organization that invites.
    pub organization: OrganizationId,
    /// The invitation's id, unique over all organizations.
    pub id: InvitationId,
    /// The recipient: an e-mail address, or another identifier. `None` if it was erased with the user.
    #[serde(serialize_with = "serialize_no_recipient")]
    pub recipient: Option<Recipient>,
    /// The role of the future member: one that a membership may hold.
    pub role: Role,
    /// Whether accepting it makes the user the owner of a pending organization.
    pub makes_owner: bool,
    /// The attributes of the future membership.
    pub attributes: Attributes,
    /// The state: [`InvitationState::Expired`] as soon as the expire time has passed, whatever state is stored.
    pub state: InvitationState,
    /// The locale of its mails; `None` for that of the deployment.
    #[serde(default)]
    pub locale: Option<Locale>,
    /// The caller who created it.
    pub inviter: Inviter,
    /// The user who accepted it; `None` unless accepted.
    pub accepted_by: Option<UserId>,
    /// The time from which it can no longer be accepted.
    pub expire_time: OffsetDateTime,
    /// The number of deliveries: mails queued and invitation tokens returned.
    pub sends: i32,
    /// The delivery state of its latest mail; `None` if it has no mail.
    pub mail_state: Option<MailState>,
    /// The mail server's latest error, if it had one.
    pub mail_error: Option<String>,
    /// The time of creation.
    pub create_time: OffsetDateTime,
    /// The time of the last change.
    pub update_time: OffsetDateTime,
}

/// Serializes an empty identifier: release 0.3 cannot read an invitation without a recipient.
#[expect(clippy::ref_option, reason = "serde passes a reference")]
fn serialize_no_recipient<S: Serializer>(_: &Option<Recipient>, serializer: S) -> Result<S::Ok, S::Error> {
    Recipient::Other(String::new()).serialize(serializer)
}

impl Invitation {
    /// The role that the recipient receives: the owner's, or that of the future member.
    #[must_use]
    pub fn granted_role(&self) -> &RoleName {
        if self.makes_owner { &RoleName::OWNER } else { &self.role.name }
    }

    /// Whether it would make the owner of an organization that has one. It has no effect any more; a server of release 0.3
    /// leaves it pending.
    #[must_use]
    pub fn is_void_in(&self, organization: &Organization) -> bool {
        self.makes_owner && organization.owner.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_recipients_reveal_little() {
        let email = EmailAddress::parse("ada@example.com").map(Recipient::Email);
        assert_eq!(email.map(|email| email.masked()), Ok("a…@example.com".to_owned()));
        for (given, masked) in [("+44 20 7946 0018", "…18"), ("@ada", "…")] {
            assert_eq!(Recipient::parse_other(given).map(|other| other.masked()), Ok(masked.to_owned()));
        }
    }

    /// Answers are stored for 24 hours, so a new version reads inviters that the previous version wrote.
    #[test]
    fn a_stored_inviter_keeps_its_json_form() {
        let inviter = Inviter { kind: StoredValue::Known(ActorKind::Service), id: "billing".to_owned() };
        let json = r#"{"kind":"service","id":"billing"}"#;
        assert_eq!(serde_json::to_string(&inviter).ok().as_deref(), Some(json));
        assert_eq!(serde_json::from_str(json).ok(), Some(inviter));
    }

    #[test]
    fn identifiers_are_bounded() {
        assert!(Recipient::parse_other(&"é".repeat(1000)).is_ok());
        for bad in ["", "  ", "a\0", &"é".repeat(1001)] {
            assert!(Recipient::parse_other(bad).is_err());
        }
    }
}
