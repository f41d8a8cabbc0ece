//! The answers of the service to response messages.

use super::pb;
use crate::authn::{Caller, IgnoredClaim};
use crate::authz::decide::Grant;
use crate::domain::check::CheckReason;
use crate::domain::event::EventRecord;
use crate::domain::{
    Attributes, EmailAddress, Member, Organization, OrganizationState, Permission, User, UserId, UserState,
};
use crate::domain::{Invitation, InvitationState, MailState, Recipient};
use crate::service::AnswerSource;
use crate::service::checks::CheckAnswer;
use crate::service::invitations::InvitationPreview;
use prost::{Message, length_delimiter_len};
use serde_json::{Map, Value};
use time::OffsetDateTime;

/// The caller as the viewer of members. Members see each other's names; the rest needs `members.read`, or is about the
/// viewer.
#[derive(Debug, Clone)]
pub(super) struct Viewer {
    user: Option<UserId>,
    reads_members: bool,
}

impl Viewer {
    /// The viewer of a caller with this grant; without a grant, a viewer of the caller's own data only.
    pub(super) fn new(caller: &Caller, grant: Option<&Grant>) -> Self {
        let reads_members = grant.is_some_and(|grant| grant.permissions.contains(Permission::MEMBERS_READ));
        Self { user: caller.user().cloned(), reads_members }
    }

    fn sees(&self, user: &UserId) -> bool {
        self.reads_members || self.user.as_ref() == Some(user)
    }
}

/// The bytes that an item of a list takes in its message, in a field with a number below 16.
pub(super) fn field_bytes(item: &impl Message) -> usize {
    let bytes = item.encoded_len();
    1 + length_delimiter_len(bytes) + bytes
}

/// A timestamp, to the nanosecond.
pub(super) fn timestamp(time: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.unix_timestamp(), nanos: i32::try_from(time.nanosecond()).unwrap_or(0) }
}

fn text(email: Option<&EmailAddress>) -> String {
    email.map(|email| email.given().to_owned()).unwrap_or_default()
}

/// Attributes as a `Struct`.
pub(super) fn attributes(attributes: &Attributes) -> prost_types::Struct {
    structure(attributes.as_map())
}

fn structure(object: &Map<String, Value>) -> prost_types::Struct {
    prost_types::Struct { fields: object.iter().map(|(key, item)| (key.clone(), value(item))).collect() }
}

fn value(json: &Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match json {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(*flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(0.0)),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) => Kind::ListValue(prost_types::ListValue { values: items.iter().map(value).collect() }),
        Value::Object(object) => Kind::StructValue(structure(object)),
    };
    prost_types::Value { kind: Some(kind) }
}

/// The state of an organization.
pub(super) fn organization_state(state: OrganizationState) -> pb::OrganizationState {
    match state {
        OrganizationState::Pending => pb::OrganizationState::Pending,
        OrganizationState::Active => pb::OrganizationState::Active,
        OrganizationState::Inactive => pb::OrganizationState::Inactive,
        OrganizationState::Deleted => pb::OrganizationState::Deleted,
        OrganizationState::Unknown => pb::OrganizationState::Unspecified,
    }
}

/// An organization message.
pub(super) fn organization(organization: &Organization) -> pb::Organization {
    let state = organization_state(organization.state());
    pb::Organization {
        id: organization.id.to_string(),
        slug: organization.slug.to_string(),
        name: organization.name.as_str().to_owned(),
        kind: organization.kind.as_str().to_owned(),
        attributes: Some(attributes(&organization.attributes)),
        state: state.into(),
        owner_user_id: organization.owner.as_ref().map(ToString::to_string).unwrap_or_default(),
        create_time: Some(timestamp(organization.create_time)),
        update_time: Some(timestamp(organization.update_time)),
        delete_time: organization.deletion.map(|deletion| timestamp(deletion.delete_time)),
        purge_time: organization.deletion.map(|deletion| timestamp(deletion.purge_time)),
        revision: organization.revision,
        etag: organization.etag(),
        deactivated_by_operator: organization.deactivated_by_operator,
    }
}

/// The state of a user.
pub(super) fn user_state(state: UserState) -> pb::UserState {
    match state {
        UserState::Active => pb::UserState::Active,
        UserState::Inactive => pb::UserState::Inactive,
        UserState::Erased => pb::UserState::Deleted,
        UserState::Unknown => pb::UserState::Unspecified,
    }
}

/// A member, as the viewer may see it. The display name is never empty: the name, else the e-mail address if the viewer
/// may see it, else the id.
pub(super) fn member(viewer: &Viewer, member: &Member) -> pb::Member {
    let Member { membership, user } = member;
    let visible = viewer.sees(&user.id);
    let email = if visible { text(user.email.as_ref()) } else { String::new() };
    let display_name = match &user.display_name {
        Some(name) => name.as_str().to_owned(),
        None if !email.is_empty() => email.clone(),
        None => user.id.to_string(),
    };
    pb::Member {
        organization: membership.organization.to_string(),
        user_id: user.id.to_string(),
        role: membership.role.name.to_string(),
        display_name,
        email,
        attributes: visible.then(|| attributes(&membership.attributes)),
        user_state: user_state(user.state).into(),
        create_time: Some(timestamp(membership.create_time)),
        update_time: Some(timestamp(membership.update_time)),
        etag: membership.etag(),
    }
}

/// A user message.
pub(super) fn user(user: &User) -> pb::User {
    pb::User {
        user_id: user.id.to_string(),
        email: text(user.email.as_ref()),
        email_verified: user.email_verified,
        display_name: user.display_name.as_ref().map(|name| name.as_str().to_owned()).unwrap_or_default(),
        state: user_state(user.state).into(),
        deactivated_by_operator: user.deactivated_by_operator,
        create_time: Some(timestamp(user.create_time)),
        update_time: Some(timestamp(user.update_time)),
    }
}

/// A claim of a token that cannot be used.
pub(super) fn ignored_claim(ignored: &IgnoredClaim) -> pb::IgnoredClaim {
    let IgnoredClaim { claim, reason } = ignored;
    pb::IgnoredClaim { claim: claim.clone(), reason: reason.clone() }
}

/// The reason for the answer to a check.
pub(super) fn check_reason(reason: CheckReason) -> pb::CheckReason {
    match reason {
        CheckReason::Allowed => pb::CheckReason::Allowed,
        CheckReason::NotAMember => pb::CheckReason::NotAMember,
        CheckReason::OrganizationNotFound => pb::CheckReason::OrganizationNotFound,
        CheckReason::OrganizationInactive => pb::CheckReason::OrganizationInactive,
        CheckReason::OrganizationPending => pb::CheckReason::OrganizationPending,
        CheckReason::UserInactive => pb::CheckReason::UserInactive,
        CheckReason::RoleNotFound => pb::CheckReason::RoleNotFound,
        CheckReason::RoleTooLow => pb::CheckReason::RoleTooLow,
        CheckReason::RoleLacksPermission => pb::CheckReason::RoleLacksPermission,
        CheckReason::ValueUnknown => pb::CheckReason::ValueUnknown,
    }
}

/// The source of an answer.
pub(super) fn check_source(source: AnswerSource) -> pb::CheckSource {
    match source {
        AnswerSource::Memory => pb::CheckSource::Memory,
        AnswerSource::Primary => pb::CheckSource::Primary,
        AnswerSource::StaleMemory => pb::CheckSource::StaleMemory,
    }
}

/// The result of a check.
pub(super) fn check_result(answer: CheckAnswer, token: String) -> pb::CheckResult {
    pb::CheckResult {
        allowed: answer.reason == CheckReason::Allowed,
        reason: check_reason(answer.reason).into(),
        role: answer.role.unwrap_or_default(),
        revision: answer.revision,
        consistency_token: token,
        source: check_source(answer.source).into(),
    }
}

/// The state of an invitation.
pub(super) fn invitation_state(state: InvitationState) -> pb::InvitationState {
    match state {
        InvitationState::Pending => pb::InvitationState::Pending,
        InvitationState::Accepted => pb::InvitationState::Accepted,
        InvitationState::Declined => pb::InvitationState::Declined,
        InvitationState::Revoked => pb::InvitationState::Revoked,
        InvitationState::Expired => pb::InvitationState::Expired,
        InvitationState::Unknown => pb::InvitationState::Unspecified,
    }
}

/// An invitation, for callers who may read the organization's invitations.
pub(super) fn invitation(invitation: &Invitation) -> pb::Invitation {
    let mail_state = match invitation.mail_state {
        None | Some(MailState::Unknown) => pb::MailState::Unspecified,
        Some(MailState::Waiting) => pb::MailState::Waiting,
        Some(MailState::Sent) => pb::MailState::Sent,
        Some(MailState::Failed) => pb::MailState::Failed,
        Some(MailState::NotSent) => pb::MailState::NotSent,
    };
    let (email, identifier) = match &invitation.recipient {
        Some(Recipient::Email(email)) => (email.given().to_owned(), String::new()),
        Some(Recipient::Other(text)) => (String::new(), text.clone()),
        None => (String::new(), String::new()),
    };
    pb::Invitation {
        organization: invitation.organization.to_string(),
        invitation_id: invitation.id.to_string(),
        email,
        identifier,
        role: invitation.role.name.to_string(),
        makes_owner: invitation.makes_owner,
        attributes: Some(attributes(&invitation.attributes)),
        state: invitation_state(invitation.state).into(),
        inviter_id: invitation.inviter.id.clone(),
        inviter_kind: invitation.inviter.kind.as_str().to_owned(),
        accepted_by_user_id: invitation.accepted_by.as_ref().map(ToString::to_string).unwrap_or_default(),
        create_time: Some(timestamp(invitation.create_time)),
        expire_time: Some(timestamp(invitation.expire_time)),
        update_time: Some(timestamp(invitation.update_time)),
        sends: invitation.sends,
        mail_state: mail_state.into(),
        mail_error: invitation.mail_error.clone().unwrap_or_default(),
        locale: invitation.locale.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// An invitation, for its recipient.
pub(super) fn received(preview: &InvitationPreview) -> pb::ReceivedInvitation {
    let InvitationPreview { invitation, inviter_name, member_role, .. } = preview;
    pb::ReceivedInvitation {
        invitation_id: invitation.id.to_string(),
        organization_id: invitation.organization.to_string(),
        organization_slug: preview.organization_slug.clone(),
        organization_kind: preview.organization_kind.clone(),
        organization_name: preview.organization_name.clone(),
        inviter_name: inviter_name.clone().unwrap_or_default(),
        role: member_role.as_ref().unwrap_or(invitation.granted_role()).to_string(),
        expire_time: Some(timestamp(invitation.expire_time)),
        recipient: invitation.recipient.as_ref().map(Recipient::masked).unwrap_or_default(),
    }
}

/// An event message.
pub(super) fn event(event: &EventRecord) -> pb::Event {
    let object = |value: Option<&Value>| value.and_then(Value::as_object).map(structure);
    pb::Event {
        organization_id: event.organization.map(|id| id.to_string()).unwrap_or_default(),
        revision: event.revision,
        r#type: event.event_type.clone(),
        actor: Some(pb::Actor {
            kind: event.actor_kind.clone(),
            id: event.actor_id.clone(),
            issuer: event.actor_issuer.clone().unwrap_or_default(),
            via: event.actor_via.clone().unwrap_or_default(),
        }),
        user_id: event.user.as_ref().map(ToString::to_string).unwrap_or_default(),
        old: object(event.old.as_ref()),
        new: object(event.new.as_ref()),
        reason: event.reason.clone().unwrap_or_default(),
        request_id: event.request_id.map(|id| id.to_string()).unwrap_or_default(),
        create_time: Some(timestamp(event.create_time)),
    }
}
