//! What the comments of the fields say of every answer: which fields are set or empty, in which order lists are, and which
//! fields agree with each other.

use prost::Message;
use prost_reflect::{DynamicMessage, ReflectMessage, Value};
use roster::domain::Slug;
use roster::grpc::pb::{self, CheckReason, InvitationState, MailState, OrganizationState, RoleOrigin, UserState};

/// What is wrong in one message.
#[derive(Debug, Default)]
struct Faults(Vec<String>);

impl Faults {
    /// Adds a fault unless the statement about this field is true.
    fn expect(&mut self, field: &str, is_true: bool) {
        if !is_true {
            self.0.push(field.to_owned());
        }
    }
}

/// The fields, with their messages, that are not as their comments say, in an answer and in all messages inside it.
pub(super) fn faults(answer: &DynamicMessage) -> Vec<String> {
    let mut faults = Faults::default();
    of_message(answer, &mut faults);
    let name = answer.descriptor().name().to_owned();
    let mut all: Vec<_> = faults.0.into_iter().map(|field| format!("{name}.{field}")).collect();
    for (_, value) in answer.fields() {
        match value {
            Value::Message(inner) => all.extend(self::faults(inner)),
            Value::List(items) => all.extend(items.iter().filter_map(Value::as_message).flat_map(self::faults)),
            _ => {}
        }
    }
    all
}

fn typed<M: Message + Default>(message: &DynamicMessage) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

fn of_message(message: &DynamicMessage, faults: &mut Faults) {
    let text = |field: &str| message.get_field_by_name(field).and_then(|value| value.as_str().map(str::len));
    faults.expect("next_page_token", text("next_page_token").is_none_or(|length| length <= 2048));
    faults.expect("consistency_token", text("consistency_token").is_none_or(|length| length <= 8192));
    match message.descriptor().full_name() {
        "roster.v1.Organization" => organization(&typed(message), faults),
        "roster.v1.Member" => member(&typed(message), faults),
        "roster.v1.User" => user(&typed(message), faults),
        "roster.v1.Invitation" => invitation(&typed(message), faults),
        "roster.v1.ReceivedInvitation" => received(&typed(message), faults),
        "roster.v1.Role" => role(&typed(message), faults),
        "roster.v1.CheckResult" => check(&typed(message), faults),
        "roster.v1.GetEffectivePermissionsResponse" => permissions(&typed(message), faults),
        "roster.v1.GetCallerResponse" => caller(&typed(message), faults),
        "roster.v1.AccessModel" => model(&typed(message), faults),
        "roster.v1.Event" => event(&typed(message), faults),
        "roster.v1.BatchAddMembersResult" => {
            let result: pb::BatchAddMembersResult = typed(message);
            let is_ok = result.status.unwrap_or_default().code == 0;
            faults.expect("member", result.member.is_some() == is_ok);
        }
        "roster.v1.BatchCreateInvitationsResult" => {
            let result: pb::BatchCreateInvitationsResult = typed(message);
            let is_ok = result.status.unwrap_or_default().code == 0;
            faults.expect("invitation", result.invitation.is_some() == is_ok);
            faults.expect("token", is_ok || result.token.is_empty());
        }
        _ => {}
    }
}

fn in_order(earlier: Option<&prost_types::Timestamp>, later: Option<&prost_types::Timestamp>) -> bool {
    let nanoseconds = |time: &prost_types::Timestamp| (time.seconds, time.nanos);
    earlier.is_some() && earlier.map(nanoseconds) <= later.map(nanoseconds)
}

fn is_ascending<T: Ord>(items: &[T]) -> bool {
    items.is_sorted_by(|one, next| one < next)
}

fn organization(organization: &pb::Organization, faults: &mut Faults) {
    let state = organization.state();
    let is_deleted = state == OrganizationState::Deleted;
    faults.expect("state", state != OrganizationState::Unspecified);
    faults.expect("delete_time", organization.delete_time.is_some() == is_deleted);
    faults.expect("purge_time", organization.purge_time.is_some() == is_deleted);
    let may_lack_owner = is_deleted || state == OrganizationState::Pending;
    faults.expect("owner_user_id", !organization.owner_user_id.is_empty() || may_lack_owner);
    faults.expect("owner_user_id", organization.owner_user_id.is_empty() || state != OrganizationState::Pending);
    let may_be_deactivated = is_deleted || state == OrganizationState::Inactive;
    faults.expect("deactivated_by_operator", !organization.deactivated_by_operator || may_be_deactivated);
    faults.expect("id", uuid::Uuid::try_parse(&organization.id).is_ok());
    faults.expect("slug", Slug::parse(&organization.slug).is_ok_and(|slug| slug.as_str() == organization.slug));
    faults.expect("name", (1..=200).contains(&organization.name.chars().count()));
    faults.expect("revision", organization.revision > 0);
    faults.expect("etag", !organization.etag.is_empty());
    faults.expect("update_time", in_order(organization.create_time.as_ref(), organization.update_time.as_ref()));
}

fn member(member: &pb::Member, faults: &mut Faults) {
    faults.expect("display_name", !member.display_name.is_empty());
    faults.expect("role", !member.role.is_empty());
    faults.expect("etag", !member.etag.is_empty());
    faults.expect("user_state", member.user_state() != UserState::Unspecified);
    faults.expect("update_time", in_order(member.create_time.as_ref(), member.update_time.as_ref()));
}

fn user(user: &pb::User, faults: &mut Faults) {
    let is_deleted = user.state() == UserState::Deleted;
    faults.expect("state", user.state() != UserState::Unspecified);
    faults.expect("email_verified", !user.email_verified || !user.email.is_empty());
    faults.expect("email", user.email.is_empty() || !is_deleted);
    faults.expect("display_name", user.display_name.is_empty() || !is_deleted);
    faults.expect("deactivated_by_operator", !user.deactivated_by_operator || user.state() == UserState::Inactive);
    faults.expect("update_time", in_order(user.create_time.as_ref(), user.update_time.as_ref()));
}

fn invitation(invitation: &pb::Invitation, faults: &mut Faults) {
    let state = invitation.state();
    faults.expect("state", state != InvitationState::Unspecified);
    // Both are empty if the recipient was erased with a user.
    faults.expect("identifier", invitation.email.is_empty() || invitation.identifier.is_empty());
    faults.expect("role", !["", "owner"].contains(&invitation.role.as_str()));
    faults.expect("inviter_kind", ["user", "service", "operator"].contains(&invitation.inviter_kind.as_str()));
    let is_accepted = state == InvitationState::Accepted;
    faults.expect("accepted_by_user_id", invitation.accepted_by_user_id.is_empty() != is_accepted);
    let is_waiting = invitation.mail_state() == MailState::Waiting;
    faults.expect("mail_state", !is_waiting || state == InvitationState::Pending);
    let is_sent = invitation.mail_state() == MailState::Sent;
    faults.expect("mail_error", !is_sent || invitation.mail_error.is_empty());
    faults.expect("sends", invitation.sends >= 0);
    faults.expect("update_time", in_order(invitation.create_time.as_ref(), invitation.update_time.as_ref()));
    faults.expect("expire_time", in_order(invitation.create_time.as_ref(), invitation.expire_time.as_ref()));
}

fn received(invitation: &pb::ReceivedInvitation, faults: &mut Faults) {
    faults.expect("invitation_id", uuid::Uuid::try_parse(&invitation.invitation_id).is_ok());
    faults.expect("organization_name", !invitation.organization_name.is_empty());
    faults.expect("role", !invitation.role.is_empty());
}

fn role(role: &pb::Role, faults: &mut Faults) {
    let is_own = role.origin() == RoleOrigin::Organization;
    faults.expect("name", role.name.starts_with("org:") == is_own);
    faults.expect("create_time", role.create_time.is_some() == is_own);
    let has_version = is_own && role.replaced_by.is_empty();
    faults.expect("update_time", role.update_time.is_some() == has_version);
    faults.expect("etag", role.etag.is_empty() != has_version);
    faults.expect("replaced_by", is_own || role.replaced_by.is_empty());
    faults.expect("permissions", is_ascending(&role.permissions));
}

/// What the reason of a check says about the role and the revision of the answer.
fn state_of_answer(reason: CheckReason, role: &str, revision: i64, faults: &mut Faults) {
    let is_member = !role.is_empty();
    faults.expect("reason", reason != CheckReason::Unspecified);
    faults.expect("role", reason != CheckReason::NotAMember || !is_member);
    faults.expect("role", reason != CheckReason::OrganizationNotFound || !is_member);
    faults.expect("role", reason != CheckReason::Allowed || is_member);
    faults.expect("revision", revision > 0 || reason == CheckReason::OrganizationNotFound);
}

fn check(result: &pb::CheckResult, faults: &mut Faults) {
    faults.expect("allowed", result.allowed == (result.reason() == CheckReason::Allowed));
    state_of_answer(result.reason(), &result.role, result.revision, faults);
}

fn permissions(answer: &pb::GetEffectivePermissionsResponse, faults: &mut Faults) {
    faults.expect("permissions", is_ascending(&answer.permissions));
    faults.expect("permissions", answer.permissions.is_empty() || answer.reason() == CheckReason::Allowed);
    state_of_answer(answer.reason(), &answer.role, answer.revision, faults);
}

fn caller(caller: &pb::GetCallerResponse, faults: &mut Faults) {
    let is_user = caller.kind == "user";
    faults.expect("kind", is_user || ["service", "operator"].contains(&caller.kind.as_str()));
    faults.expect("id", !caller.id.is_empty());
    let is_direct_user = is_user && caller.via_service.is_empty();
    faults.expect("user", caller.user.is_some() == is_user);
    faults.expect("scopes", caller.scopes.is_empty() == (caller.kind != "service"));
    faults.expect("via_service", is_user || caller.via_service.is_empty());
    faults.expect("ignored_claims", is_direct_user || caller.ignored_claims.is_empty());
}

fn model(model: &pb::AccessModel, faults: &mut Faults) {
    let permissions: Vec<_> = model.permissions.iter().map(|permission| &permission.name).collect();
    let roles: Vec<_> = model.roles.iter().map(|role| (&role.name, &role.kind)).collect();
    faults.expect("permissions", is_ascending(&permissions));
    faults.expect("roles", is_ascending(&roles));
    faults.expect("delegable", is_ascending(&model.delegable));
}

fn event(event: &pb::Event, faults: &mut Faults) {
    let kind = event.actor.as_ref().map_or("", |actor| &actor.kind);
    faults.expect("actor", ["user", "service", "operator", "system"].contains(&kind));
    faults.expect("type", event.r#type.contains('.'));
    faults.expect("revision", event.revision > 0);
    faults.expect("create_time", event.create_time.is_some());
}
