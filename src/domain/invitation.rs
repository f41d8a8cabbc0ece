//! Invitations: who is asked in, and what may become of it.

use super::{ActorKind, Attributes, EmailAddress, Invalid, OrganizationId, Role, UserId, limits};
use serde::{Deserialize, Serialize};
use std::fmt;
use time::OffsetDateTime;
use uuid::Uuid;

/// An invitation's id: a random UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InvitationId(Uuid);

impl InvitationId {
    /// Takes an id that came from the datastore or from the source of randomness.
    #[must_use]
    pub fn from_uuid(id: Uuid) -> Self {
        Self(id)
    }

    /// Reads an id.
    ///
    /// # Errors
    /// If it is not a UUID in its form of 36 characters.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        super::ids::parse_uuid(text).map(Self).ok_or_else(|| Invalid::new("an invitation's id is a UUID with hyphens"))
    }

    /// The UUID itself.
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

/// Whom an invitation is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recipient {
    /// An e-mail address: only who has verified it may answer.
    Email(EmailAddress),
    /// Anything else that somebody else delivers to: a phone number, a handle. Whoever holds the token may answer.
    Other(String),
}

impl Recipient {
    /// Reads an identifier that is not an address.
    ///
    /// # Errors
    /// If it is empty, too long, or holds control characters.
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

    /// As given.
    #[must_use]
    pub fn given(&self) -> &str {
        match self {
            Self::Email(email) => email.given(),
            Self::Other(text) => text,
        }
    }

    /// The form by which two are compared.
    #[must_use]
    pub fn normal(&self) -> &str {
        match self {
            Self::Email(email) => email.normal(),
            Self::Other(text) => text,
        }
    }

    /// The address, if it is one.
    #[must_use]
    pub fn email(&self) -> Option<&EmailAddress> {
        match self {
            Self::Email(email) => Some(email),
            Self::Other(_) => None,
        }
    }

    /// Enough to recognize, too little to learn: the first character and the domain of an address, the last two
    /// characters of anything else that is long enough.
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
                let shown = if characters.len() >= 6 { &characters[characters.len() - 2..] } else { &[] };
                format!("…{}", shown.iter().collect::<String>())
            }
        }
    }
}

/// Where an invitation is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum InvitationState {
    /// Waiting for an answer.
    Pending,
    /// Accepted.
    Accepted,
    /// Declined by the one invited.
    Declined,
    /// Taken back.
    Revoked,
    /// Its time is over.
    Expired,
}

impl InvitationState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Accepted, Self::Declined, Self::Revoked, Self::Expired];

    /// As stored and as written in error metadata.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Accepted => "ACCEPTED",
            Self::Declined => "DECLINED",
            Self::Revoked => "REVOKED",
            Self::Expired => "EXPIRED",
        }
    }

    /// Reads a stored state.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| Invalid::new("no such state"))
    }
}

/// How a token gets to the one invited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// By e-mail.
    Email,
    /// In the answer, once.
    Token,
    /// Not at all.
    None,
}

/// Where the latest mail of an invitation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MailState {
    /// Waiting to be sent, perhaps again.
    Waiting,
    /// Handed to the mail server.
    Sent,
    /// Given up.
    Failed,
}

impl MailState {
    /// As stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "WAITING",
            Self::Sent => "SENT",
            Self::Failed => "FAILED",
        }
    }

    /// Reads a stored state.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        [Self::Waiting, Self::Sent, Self::Failed]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| Invalid::new("no such state"))
    }
}

/// Who invited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inviter {
    /// The kind of the inviter; never [`ActorKind::System`].
    pub kind: ActorKind,
    /// The user's id, or the name of the service or operator.
    pub id: String,
}

impl Inviter {
    /// The user who invited, if a user did.
    #[must_use]
    pub fn user(&self) -> Option<UserId> {
        if self.kind == ActorKind::User { UserId::parse(&self.id).ok() } else { None }
    }
}

/// An invitation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invitation {
    /// Where.
    pub organization: OrganizationId,
    /// The id.
    pub id: InvitationId,
    /// Whom.
    pub recipient: Recipient,
    /// As what: a role that a membership may hold.
    pub role: Role,
    /// Whether it makes the owner of a pending organization.
    pub makes_owner: bool,
    /// What the deployment will keep about the membership.
    pub attributes: Attributes,
    /// Where it is in its life: [`InvitationState::Expired`] as soon as its time is over, whatever is stored.
    pub state: InvitationState,
    /// Who invited.
    pub inviter: Inviter,
    /// Who accepted it, if somebody has.
    pub accepted_by: Option<UserId>,
    /// When its time is over.
    pub expire_time: OffsetDateTime,
    /// How often a token was sent or given out.
    pub sends: i32,
    /// Where its latest mail is; none if there is none.
    pub mail_state: Option<MailState>,
    /// Why the mail server did not take it.
    pub mail_error: Option<String>,
    /// When it was created.
    pub create_time: OffsetDateTime,
    /// When it last changed.
    pub update_time: OffsetDateTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_tell_too_little() {
        let email = EmailAddress::parse("ada@example.com").map(Recipient::Email);
        assert_eq!(email.map(|email| email.masked()), Ok("a…@example.com".to_owned()));
        for (given, masked) in [("+44 20 7946 0018", "…18"), ("@ada", "…")] {
            assert_eq!(Recipient::parse_other(given).map(|other| other.masked()), Ok(masked.to_owned()));
        }
    }

    /// Answers are stored for 24 hours, so a new version reads inviters that the previous version wrote.
    #[test]
    fn a_stored_inviter_keeps_its_json_form() {
        let inviter = Inviter { kind: ActorKind::Service, id: "billing".to_owned() };
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
