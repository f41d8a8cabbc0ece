//! For each method, a request that somebody who may make it would make.

use super::cast::{Place, SWITCHED_OFF, TARGET};
use crate::harness::{add, is_member, organization, remove, set_role, transfer};
use prost::Message;
use roster::grpc::pb;

/// The same request in each of the ways to make it: the two names of an organization are looked up in two ways, and so are
/// those of an invitation.
pub fn ways(method: &str, place: &Place, user: Option<&str>) -> Vec<Vec<u8>> {
    let own = &place.invited[user.unwrap_or(TARGET)];
    match method {
        "AcceptInvitation" => {
            use pb::accept_invitation_request::Invitation;
            let named = [Invitation::Token(own.token.clone()), Invitation::InvitationId(own.id.clone())];
            let message = |named| pb::AcceptInvitationRequest { invitation: Some(named), ..Default::default() };
            named.map(|named| message(named).encode_to_vec()).to_vec()
        }
        "DeclineInvitation" => {
            use pb::decline_invitation_request::Invitation;
            let named = [Invitation::Token(own.token.clone()), Invitation::InvitationId(own.id.clone())];
            let message = |named| pb::DeclineInvitationRequest { invitation: Some(named), ..Default::default() };
            named.map(|named| message(named).encode_to_vec()).to_vec()
        }
        "PreviewInvitation" => vec![pb::PreviewInvitationRequest { token: own.token.clone() }.encode_to_vec()],
        _ => {
            let mut ways = [&place.id, &place.slug].map(|name| request(method, name, &place.invitation, user)).to_vec();
            ways.dedup();
            ways
        }
    }
}

/// The request of this method about the organization of this name, or an invitation there. Where a method is about a user,
/// users ask about themselves.
pub fn request(method: &str, place: &str, invitation: &str, user: Option<&str>) -> Vec<u8> {
    let place = place.to_owned();
    let invitation_id = invitation.to_owned();
    let user_id = user.unwrap_or(TARGET).to_owned();
    match method {
        "CreateOrganization" => organization("A new one").encode_to_vec(),
        "GetOrganization" => pb::GetOrganizationRequest { organization: place }.encode_to_vec(),
        "ListOrganizations" => pb::ListOrganizationsRequest::default().encode_to_vec(),
        "UpdateOrganization" => {
            let name = "Another name".to_owned();
            pb::UpdateOrganizationRequest { organization: place, name, ..Default::default() }.encode_to_vec()
        }
        "ActivateOrganization" => {
            pb::ActivateOrganizationRequest { organization: place, ..Default::default() }.encode_to_vec()
        }
        "DeactivateOrganization" => {
            pb::DeactivateOrganizationRequest { organization: place, ..Default::default() }.encode_to_vec()
        }
        "DeleteOrganization" => {
            pb::DeleteOrganizationRequest { organization: place, ..Default::default() }.encode_to_vec()
        }
        "UndeleteOrganization" => {
            pb::UndeleteOrganizationRequest { organization: place, ..Default::default() }.encode_to_vec()
        }
        "GetMember" => pb::GetMemberRequest { organization: place, user_id: TARGET.to_owned() }.encode_to_vec(),
        "ListMembers" => pb::ListMembersRequest { organization: place, ..Default::default() }.encode_to_vec(),
        "LeaveOrganization" => {
            pb::LeaveOrganizationRequest { organization: place, ..Default::default() }.encode_to_vec()
        }
        "AddMember" => add(&place, "nina", "member").encode_to_vec(),
        "EnsureMember" => ensure(place).encode_to_vec(),
        "BatchAddMembers" => batch_add(place).encode_to_vec(),
        "UpdateMember" => set_role(&place, TARGET, "admin").encode_to_vec(),
        "RemoveMember" => remove(&place, TARGET).encode_to_vec(),
        "TransferOwnership" => transfer(&place, TARGET).encode_to_vec(),
        "ListUserOrganizations" => pb::ListUserOrganizationsRequest { user_id, ..Default::default() }.encode_to_vec(),
        "WatchMemberships" => pb::WatchMembershipsRequest { organization: place, ..Default::default() }.encode_to_vec(),
        "WatchEvents" => pb::WatchEventsRequest { organization: place, ..Default::default() }.encode_to_vec(),
        "ExportMemberships" => pb::ExportMembershipsRequest::default().encode_to_vec(),
        "CheckMembership" | "StreamChecks" => is_member(&place, TARGET).encode_to_vec(),
        "BatchCheckMembership" => {
            let item = pb::CheckItem { organization: place, user_id: TARGET.to_owned(), question: None };
            pb::BatchCheckMembershipRequest { items: vec![item], consistency: None }.encode_to_vec()
        }
        "GetCaller" => pb::GetCallerRequest {}.encode_to_vec(),
        "GetUser" => pb::GetUserRequest { user_id }.encode_to_vec(),
        "PutUser" => {
            let (user_id, display_name) = (TARGET.to_owned(), "Tom".to_owned());
            pb::PutUserRequest { user_id, display_name, ..Default::default() }.encode_to_vec()
        }
        "DeactivateUser" => {
            pb::DeactivateUserRequest { user_id: TARGET.to_owned(), ..Default::default() }.encode_to_vec()
        }
        "ReactivateUser" => {
            pb::ReactivateUserRequest { user_id: SWITCHED_OFF.to_owned(), ..Default::default() }.encode_to_vec()
        }
        "DeleteUser" => pb::DeleteUserRequest { user_id: TARGET.to_owned(), ..Default::default() }.encode_to_vec(),
        "CreateInvitation" => {
            let recipient = Some(pb::create_invitation_request::Recipient::Email("nina@example.com".to_owned()));
            pb::CreateInvitationRequest { organization: place, recipient, ..Default::default() }.encode_to_vec()
        }
        "BatchCreateInvitations" => {
            let recipient = Some(pb::batch_create_invitations_item::Recipient::Identifier("@nina".to_owned()));
            let items = vec![pb::BatchCreateInvitationsItem { recipient, ..Default::default() }];
            pb::BatchCreateInvitationsRequest { organization: place, items, ..Default::default() }.encode_to_vec()
        }
        "GetInvitation" => pb::GetInvitationRequest { organization: place, invitation_id }.encode_to_vec(),
        "ListInvitations" => pb::ListInvitationsRequest { organization: place, ..Default::default() }.encode_to_vec(),
        "ListEvents" => pb::ListEventsRequest { organization: place, ..Default::default() }.encode_to_vec(),
        "ListReceivedInvitations" => pb::ListReceivedInvitationsRequest::default().encode_to_vec(),
        "RevokeInvitation" => {
            pb::RevokeInvitationRequest { organization: place, invitation_id, ..Default::default() }.encode_to_vec()
        }
        "RemindInvitation" => {
            pb::RemindInvitationRequest { organization: place, invitation_id, ..Default::default() }.encode_to_vec()
        }
        unknown => panic!("{unknown}: say here what a sensible request of this method is"),
    }
}

fn ensure(organization: String) -> pb::EnsureMemberRequest {
    let person = Some(pb::ensure_member_request::Person::UserId("nina".to_owned()));
    pb::EnsureMemberRequest { organization, person, ..Default::default() }
}

fn batch_add(organization: String) -> pb::BatchAddMembersRequest {
    let person = Some(pb::batch_add_members_item::Person::UserId("nina".to_owned()));
    let items = vec![pb::BatchAddMembersItem { person, ..Default::default() }];
    pb::BatchAddMembersRequest { organization, items, ..Default::default() }
}
