//! Events: what happened, to whom, and who did it.

use super::{Invalid, OrganizationId, UserId};
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

/// Every type of event: what is not here is not written.
const TYPES: [&str; 23] = [
    "organization.created",
    "organization.updated",
    "organization.activated",
    "organization.deactivated",
    "organization.deleted",
    "organization.undeleted",
    "organization.purged",
    "owner.changed",
    "member.added",
    "member.updated",
    "member.removed",
    "invitation.created",
    "invitation.reminded",
    "invitation.accepted",
    "invitation.declined",
    "invitation.revoked",
    "invitation.expired",
    "invitation.mail_failed",
    "user.created",
    "user.updated",
    "user.deactivated",
    "user.reactivated",
    "user.deleted",
];

/// What sort of thing happened: a dotted word, as `member.added`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventType(&'static str);

impl EventType {
    /// How many there are.
    pub const COUNT: usize = TYPES.len();

    /// Finds one by its dotted word.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let known = TYPES.into_iter().find(|known| *known == text);
        known.map(Self).ok_or_else(|| Invalid::new("each is the type of an event, as member.added"))
    }

    /// The dotted word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

/// Something that happened, as it was written down.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRecord {
    /// The organization that it happened to; none if it happened to a user and no organization.
    pub organization: Option<OrganizationId>,
    /// The revision that it made.
    pub revision: i64,
    /// What happened. Not parsed: a later version may have written it.
    pub event_type: String,
    /// Who did it: `user`, `service`, `operator` or `system`.
    pub actor_kind: String,
    /// The user's id, or the name of the service or operator.
    pub actor_id: String,
    /// The service that acted for the user, if one did.
    pub actor_via: Option<String>,
    /// Whom it happened to, for events about members and users.
    pub user: Option<UserId>,
    /// What was before.
    pub old: Option<Value>,
    /// What is now.
    pub new: Option<Value>,
    /// The reason given.
    pub reason: Option<String>,
    /// The request id given.
    pub request_id: Option<Uuid>,
    /// When.
    pub create_time: OffsetDateTime,
}
