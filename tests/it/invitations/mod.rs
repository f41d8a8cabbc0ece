//! Invitations: the whole life.

mod life;

use roster::grpc::pb;

/// A request to invite an address, with the token in the answer.
pub fn invite(organization: &str, email: &str) -> pb::CreateInvitationRequest {
    pb::CreateInvitationRequest {
        organization: organization.to_owned(),
        recipient: Some(pb::create_invitation_request::Recipient::Email(email.to_owned())),
        delivery: pb::InvitationDelivery::Token.into(),
        ..Default::default()
    }
}

/// A request to accept by token.
pub fn accept(token: &str) -> pb::AcceptInvitationRequest {
    pb::AcceptInvitationRequest {
        invitation: Some(pb::accept_invitation_request::Invitation::Token(token.to_owned())),
        ..Default::default()
    }
}
