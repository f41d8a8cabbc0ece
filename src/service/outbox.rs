//! Mail that waits to be sent: what a change leaves behind for the mail worker.

use crate::auth::secret::Secret;
use crate::domain::{DisplayName, EmailAddress, Name, Role};
use time::OffsetDateTime;
use uuid::Uuid;

/// Why somebody gets mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// They are invited to an organization.
    Invitation,
    /// They were invited some time ago and have not answered.
    Reminder,
    /// They were added to an organization.
    Added,
    /// An organization was registered for them, and waits for them to take it over.
    OwnerActivation,
}

/// A mail to be sent, claimed from the outbox. It holds a token, so it cannot be printed.
pub struct Letter {
    /// The outbox row's id. The Message-ID is made from it, so that it stays the same over retries.
    pub id: Uuid,
    /// What the mail is about.
    pub occasion: Occasion,
    /// Whom it goes to.
    pub to: EmailAddress,
    /// The organization that it is about.
    pub organization: Name,
    /// Who invites or adds, for the text and for the name in Reply-To.
    pub sender: Option<DisplayName>,
    /// The sender's verified address, if one is known: where answers go.
    pub reply_to: Option<EmailAddress>,
    /// The role that is offered, or was given.
    pub role: Role,
    /// What the link carries. None for [`Occasion::Added`], which asks for nothing.
    pub token: Option<Secret>,
    /// Until when the link is good. None for [`Occasion::Added`].
    pub expire_time: Option<OffsetDateTime>,
}

/// What became of a letter. The texts are sentences for operators: no addresses, no tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// The relay has taken it.
    Delivered,
    /// Not yet: worth another try.
    Transient(String),
    /// Not now and not later.
    Final(String),
}
