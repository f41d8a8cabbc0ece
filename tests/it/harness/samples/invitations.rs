//! Samples of the writes of `InvitationService`.

use super::{Sample, SampleCaller, Setup, Target, Write, attributes};
use roster::grpc::pb;

pub(super) fn entry(name: &str, target: &Target, write: &Write) -> Option<Sample> {
    use SampleCaller::{Invitee, Operator, Owner};
    let Target { organization, member, invitation: invitation_id, received, by_id, delivery, .. } = target.clone();
    Some(match name {
        "CreateInvitation" => {
            use pb::create_invitation_request::Recipient;
            let recipient = Some(Recipient::Email(format!("guest-of-{member}@example.com")));
            let (role, attributes) = ("admin".to_owned(), Some(attributes()));
            // By mail, which waits in the outbox.
            let delivery = pb::InvitationDelivery::Email.into();
            let locale = "de-AT".to_owned();
            let lifetime = Some(prost_types::Duration { seconds: 7200, nanos: 0 });
            Owner.sends(write_request!(
                write,
                CreateInvitationRequest { organization, recipient, role, attributes, delivery, lifetime, locale }
            ))
        }
        "BatchCreateInvitations" => {
            use pb::batch_create_invitations_item::Recipient;
            let item = |recipient| pb::BatchCreateInvitationsItem { recipient: Some(recipient), ..Default::default() };
            let email = |id: &str| item(Recipient::Email(format!("{id}@example.com")));
            let identifier = item(Recipient::Identifier(format!("two of {member}")));
            // `alan` is a member in the fixture, so the answer has both kinds of results.
            let items = vec![email(&format!("one-of-{member}")), email("alan"), identifier];
            let delivery = delivery.into();
            Operator.sends(write_request!(write, BatchCreateInvitationsRequest { organization, items, delivery }))
        }
        "AcceptInvitation" => {
            use pb::accept_invitation_request::Invitation::{InvitationId, Token};
            let invitation = Some(if by_id { InvitationId(received.id) } else { Token(received.token) });
            let request = write_request!(write, AcceptInvitationRequest { invitation });
            Invitee.sends(request).after(Setup::InvitationToInvitee)
        }
        "DeclineInvitation" => {
            use pb::decline_invitation_request::Invitation::{InvitationId, Token};
            let invitation = Some(if by_id { InvitationId(received.id) } else { Token(received.token) });
            let request = write_request!(write, DeclineInvitationRequest { invitation });
            Invitee.sends(request).after(Setup::InvitationToIdentifier)
        }
        "RevokeInvitation" => {
            let request = write_request!(write, RevokeInvitationRequest { organization, invitation_id });
            Owner.sends(request).after(Setup::InvitationToIdentifier)
        }
        "RemindInvitation" => {
            let (delivery, rotate) = (delivery.into(), true);
            let request =
                write_request!(write, RemindInvitationRequest { organization, invitation_id, delivery, rotate });
            Operator.sends(request).after(Setup::InvitationToIdentifier)
        }
        _ => return None,
    })
}
