//! One good request for each method, on a place made for it: for tests that go over all methods.

use super::dynamic::first;
use super::server::{Clients, Credential};
use super::{Database, Server, add};
use http::uri::PathAndQuery;
use prost::Message;
use roster::authn::mint::ClaimSet;
use roster::authz::rules::Method;
use roster::grpc::pb;
use std::sync::atomic::{AtomicUsize, Ordering};
use tonic::Status;
use tonic::client::Grpc;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

/// Calls a method with the bytes of a message; of a stream, the first answer counts.
pub async fn call(channel: Channel, token: &str, path: &'static str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
    let shown = Credential { token: Some(token.to_owned()), on_behalf_of: None };
    let mut client = Grpc::new(InterceptedService::new(channel, shown));
    client.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let is_stream = roster::authz::rules::method(path).unwrap().streaming.any();
    first(&mut client, PathAndQuery::from_static(path), message, is_stream).await
}

/// Who makes a sample request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// `ada`, who owns every place.
    Owner,
    /// `alan`, a plain member of every place, with a verified address.
    Member,
    /// An operator.
    Operator,
    /// `ivy`, with a verified address, who is invited to every place that a sample needs it of.
    IssuedInvitation,
}

/// What a sample request is about: an organization of `ada`'s, with `grace` as admin, `alan` and one more as members.
#[derive(Debug, Clone)]
pub struct Place {
    pub organization: String,
    /// A member nobody else knows.
    pub subject: String,
    /// An invitation, where a sample needs one: its id and its token.
    pub invitation: String,
    pub token: String,
}

/// What every write carries.
#[derive(Debug, Clone, Default)]
pub struct Write {
    pub reason: String,
    pub request_id: String,
    pub validate_only: bool,
}

impl Write {
    /// A write under a fresh request id.
    pub fn fresh() -> Self {
        Self { request_id: roster::random::uuid().to_string(), ..Self::default() }
    }
}

/// A server, and the callers of the samples.
pub struct Stage {
    pub server: Server,
    pub ada: Clients,
    pub operator: Clients,
    tokens: [String; 4],
    places: AtomicUsize,
}

impl Stage {
    /// Sets it up, with every caller known, so that no later call has a profile to write down.
    pub async fn new() -> Self {
        let server = Server::start_generous().await;
        let address = |id: &str| {
            let email = Some(format!("{id}@example.com"));
            server.mint(&ClaimSet { email, email_verified: Some(true), ..Server::claims(id) })
        };
        let tokens = [
            server.mint(&Server::claims("ada")),
            address("alan"),
            server.service_token("root", &[roster::domain::Scope::Operator]),
            address("ivy"),
        ];
        let [ada, alan, operator, ivy] = tokens.each_ref().map(|token| server.with_token(token));
        for mut caller in [ada.clone(), alan, operator.clone(), ivy] {
            caller.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
        }
        Self { server, ada, operator, tokens, places: AtomicUsize::new(0) }
    }

    pub fn database(&self) -> &Database {
        &self.server.database
    }

    /// The token that a caller shows.
    pub fn token(&self, who: Who) -> &str {
        match who {
            Who::Owner => &self.tokens[0],
            Who::Member => &self.tokens[1],
            Who::Operator => &self.tokens[2],
            Who::IssuedInvitation => &self.tokens[3],
        }
    }

    /// Makes a place, in the state that the method's sample needs.
    pub async fn place(&self, method: &Method) -> Place {
        self.places(method, 1).await.remove(0)
    }

    /// Makes places: one organization for all of them, if the method's sample touches only the subject there.
    pub async fn places(&self, method: &Method, count: usize) -> Vec<Place> {
        let of_organization = [
            "UpdateOrganization",
            "ActivateOrganization",
            "DeactivateOrganization",
            "DeleteOrganization",
            "UndeleteOrganization",
            "LeaveOrganization",
            "TransferOwnership",
            "AcceptInvitation",
            "ListReceivedInvitations",
        ];
        let mut places = Vec::new();
        if of_organization.contains(&method.name) {
            for _ in 0..count {
                places.extend(self.organization(1).await);
            }
        } else {
            places = self.organization(count).await;
        }
        for place in &mut places {
            self.prepare(method, place).await;
        }
        places
    }

    /// Makes an organization with so many subjects.
    async fn organization(&self, subjects: usize) -> Vec<Place> {
        let mut ada = self.ada.clone();
        let first = self.places.fetch_add(subjects, Ordering::Relaxed);
        let organization = ada.create(&format!("Place {first}")).await;
        let item = |user: &str, role: &str| pb::BatchAddMembersItem {
            person: Some(pb::batch_add_members_item::Person::UserId(user.to_owned())),
            role: role.to_owned(),
            ..Default::default()
        };
        let mut items = vec![item("grace", "admin"), item("alan", "member")];
        let mut places = Vec::new();
        for number in first..first + subjects {
            let subject = format!("subject-{number}");
            items.push(item(&subject, "member"));
            let (invitation, token) = (String::new(), String::new());
            places.push(Place { organization: organization.clone(), subject, invitation, token });
        }
        let batch = pb::BatchAddMembersRequest { organization, items, ..Default::default() };
        let answer = ada.organizations.batch_add_members(batch).await.unwrap().into_inner();
        assert!(answer.results.iter().all(|result| result.member.is_some()));
        places
    }

    async fn prepare(&self, method: &Method, place: &mut Place) {
        let (mut ada, mut operator) = (self.ada.clone(), self.operator.clone());
        let Place { organization, subject, .. } = place.clone();
        match method.name {
            "AcceptInvitation" | "ListReceivedInvitations" => self.invite(place, "ivy@example.com").await,
            "DeclineInvitation" | "GetInvitation" | "ListInvitations" | "PreviewInvitation" | "RevokeInvitation"
            | "RemindInvitation" => self.invite(place, &format!("@{subject}")).await,
            "ActivateOrganization" => {
                let off = pb::DeactivateOrganizationRequest { organization, ..Default::default() };
                ada.organizations.deactivate_organization(off).await.unwrap();
            }
            "UndeleteOrganization" => {
                let off = pb::DeleteOrganizationRequest { organization, ..Default::default() };
                ada.organizations.delete_organization(off).await.unwrap();
            }
            "ReactivateUser" => {
                let off = pb::DeactivateUserRequest { user_id: subject, ..Default::default() };
                operator.users.deactivate_user(off).await.unwrap();
            }
            _ => {}
        }
    }

    /// Invites to an address, or to an identifier that is none.
    async fn invite(&self, place: &mut Place, recipient: &str) {
        use pb::create_invitation_request::Recipient;
        let other = recipient.starts_with('@');
        let named = if other { Recipient::Identifier } else { Recipient::Email };
        let request = pb::CreateInvitationRequest {
            organization: place.organization.clone(),
            recipient: Some(named(recipient.to_owned())),
            delivery: pb::InvitationDelivery::Token.into(),
            ..Default::default()
        };
        let made = self.operator.clone().invitations.create_invitation(request).await.unwrap().into_inner();
        (place.invitation, place.token) = (made.invitation.unwrap().invitation_id, made.token);
    }

    /// Makes a call as a sample says.
    pub async fn call(&self, method: &Method, (who, message): (Who, Vec<u8>)) -> Result<Vec<u8>, Status> {
        call(self.server.channel(), self.token(who), method.path, message).await
    }
}

/// Attributes with numbers that a careless path through JSON would spoil.
pub fn attributes() -> prost_types::Struct {
    use prost_types::value::Kind;
    let value = |kind| prost_types::Value { kind: Some(kind) };
    let numbers = [0.1, -0.0, 1e21, 5.0, f64::MIN_POSITIVE, 9_007_199_254_740_993.0];
    let list = prost_types::ListValue { values: numbers.map(|number| value(Kind::NumberValue(number))).to_vec() };
    let fields = [
        ("numbers", Kind::ListValue(list)),
        ("text", Kind::StringValue("\u{130} \u{212a} \"".to_owned())),
        ("none", Kind::NullValue(0)),
    ];
    prost_types::Struct { fields: fields.map(|(key, kind)| (key.to_owned(), value(kind))).into() }
}

/// The sample of a method: a request that succeeds on its place, and, if it is a write, changes something there. None
/// for a method that has no sample yet: the tests fail on that.
pub fn sample(method: &Method, place: &Place, write: &Write) -> Option<(Who, Vec<u8>)> {
    if method.write { sample_of_write(method.name, place, write) } else { sample_of_read(method.name, place) }
}

fn sample_of_read(name: &str, place: &Place) -> Option<(Who, Vec<u8>)> {
    let Place { organization, subject, invitation: invitation_id, token } = place.clone();
    let check = super::is_member(&organization, &subject);
    Some(match name {
        "GetCaller" => (Who::Owner, pb::GetCallerRequest {}.encode_to_vec()),
        "GetOrganization" => (Who::Member, pb::GetOrganizationRequest { organization }.encode_to_vec()),
        "ListOrganizations" => (Who::Operator, pb::ListOrganizationsRequest::default().encode_to_vec()),
        "ListUserOrganizations" => (Who::Member, pb::ListUserOrganizationsRequest::default().encode_to_vec()),
        "GetMember" => (Who::Member, pb::GetMemberRequest { organization, user_id: subject }.encode_to_vec()),
        "ListMembers" => (Who::Owner, pb::ListMembersRequest { organization, ..Default::default() }.encode_to_vec()),
        "GetInvitation" => (Who::Owner, pb::GetInvitationRequest { organization, invitation_id }.encode_to_vec()),
        "ListInvitations" => {
            (Who::Owner, pb::ListInvitationsRequest { organization, ..Default::default() }.encode_to_vec())
        }
        "ListEvents" => (Who::Owner, pb::ListEventsRequest { organization, ..Default::default() }.encode_to_vec()),
        "ListReceivedInvitations" => {
            (Who::IssuedInvitation, pb::ListReceivedInvitationsRequest::default().encode_to_vec())
        }
        "PreviewInvitation" => (Who::Member, pb::PreviewInvitationRequest { token }.encode_to_vec()),
        "GetUser" => (Who::Operator, pb::GetUserRequest { user_id: subject }.encode_to_vec()),
        "CheckMembership" | "StreamChecks" => (Who::Operator, check.encode_to_vec()),
        "WatchMemberships" => {
            (Who::Operator, pb::WatchMembershipsRequest { organization, ..Default::default() }.encode_to_vec())
        }
        "WatchEvents" => (Who::Operator, pb::WatchEventsRequest { organization, ..Default::default() }.encode_to_vec()),
        "ExportMemberships" => (Who::Operator, pb::ExportMembershipsRequest::default().encode_to_vec()),
        "BatchCheckMembership" => {
            let item = pb::CheckItem { organization, user_id: subject, ..Default::default() };
            (
                Who::Operator,
                pb::BatchCheckMembershipRequest { items: vec![item; 20], ..Default::default() }.encode_to_vec(),
            )
        }
        _ => return None,
    })
}

/// Builds a write with what every write carries.
macro_rules! write_request {
    ($write:ident, $request:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {{
        let Write { reason, request_id, validate_only } = $write.clone();
        #[allow(clippy::needless_update, reason = "some requests have no other fields")]
        pb::$request { reason, request_id, validate_only, $($field $(: $value)?,)* ..Default::default() }.encode_to_vec()
    }};
}

fn sample_of_write(name: &str, place: &Place, write: &Write) -> Option<(Who, Vec<u8>)> {
    let Place { organization, subject, .. } = place.clone();
    let alan = "alan".to_owned();
    let added = add(&organization, &format!("new-of-{subject}"), "admin");
    let attributes = Some(attributes());
    Some(match name {
        "CreateOrganization" => {
            let name = format!("By sample {subject}");
            let owner_attributes = attributes.clone();
            (Who::Owner, write_request!(write, CreateOrganizationRequest { name, attributes, owner_attributes }))
        }
        "UpdateOrganization" => {
            let (name, slug) = (format!("Renamed {subject}"), format!("renamed-{subject}"));
            (Who::Owner, write_request!(write, UpdateOrganizationRequest { organization, name, slug, attributes }))
        }
        "ActivateOrganization" => (Who::Owner, write_request!(write, ActivateOrganizationRequest { organization })),
        "DeactivateOrganization" => (Who::Owner, write_request!(write, DeactivateOrganizationRequest { organization })),
        "DeleteOrganization" => (Who::Owner, write_request!(write, DeleteOrganizationRequest { organization })),
        "UndeleteOrganization" => (Who::Owner, write_request!(write, UndeleteOrganizationRequest { organization })),
        "AddMember" => {
            let (person, role) = (added.person, added.role);
            (Who::Owner, write_request!(write, AddMemberRequest { organization, person, role, attributes }))
        }
        "EnsureMember" => {
            let person = Some(pb::ensure_member_request::Person::UserId(format!("new-of-{subject}")));
            (Who::Owner, write_request!(write, EnsureMemberRequest { organization, person, attributes }))
        }
        "BatchAddMembers" => {
            let item = |user: String| pb::BatchAddMembersItem {
                person: Some(pb::batch_add_members_item::Person::UserId(user)),
                ..Default::default()
            };
            // One of them is in already: an answer with both kinds of results.
            let items = vec![item(format!("one-of-{subject}")), item(alan), item(format!("two-of-{subject}"))];
            (Who::Owner, write_request!(write, BatchAddMembersRequest { organization, items }))
        }
        "UpdateMember" => {
            let (role, user_id) = ("admin".to_owned(), subject);
            (Who::Owner, write_request!(write, UpdateMemberRequest { organization, user_id, role, attributes }))
        }
        "RemoveMember" => (Who::Owner, write_request!(write, RemoveMemberRequest { organization, user_id: subject })),
        "LeaveOrganization" => (Who::Member, write_request!(write, LeaveOrganizationRequest { organization })),
        "TransferOwnership" => {
            let person = Some(pb::transfer_ownership_request::Person::UserId(alan));
            (Who::Owner, write_request!(write, TransferOwnershipRequest { organization, person }))
        }
        "PutUser" => {
            let (email, display_name) = (format!("{subject}@example.com"), "Some Body".to_owned());
            let request = write_request!(write, PutUserRequest { user_id: subject, email, display_name });
            (Who::Operator, request)
        }
        "DeactivateUser" => (Who::Operator, write_request!(write, DeactivateUserRequest { user_id: subject })),
        "ReactivateUser" => (Who::Operator, write_request!(write, ReactivateUserRequest { user_id: subject })),
        "DeleteUser" => (Who::Operator, write_request!(write, DeleteUserRequest { user_id: subject })),
        _ => return sample_of_invitation(name, place, write),
    })
}

fn sample_of_invitation(name: &str, place: &Place, write: &Write) -> Option<(Who, Vec<u8>)> {
    let Place { organization, subject, invitation: invitation_id, token } = place.clone();
    let in_the_answer = i32::from(pb::InvitationDelivery::Token);
    Some(match name {
        "CreateInvitation" => {
            use pb::create_invitation_request::Recipient;
            let recipient = Some(Recipient::Email(format!("guest-of-{subject}@example.com")));
            let (role, attributes) = ("admin".to_owned(), Some(attributes()));
            // By mail, which waits in the outbox.
            let delivery = pb::InvitationDelivery::Email.into();
            let lifetime = Some(prost_types::Duration { seconds: 7200, nanos: 0 });
            let request = write_request!(
                write,
                CreateInvitationRequest { organization, recipient, role, attributes, delivery, lifetime }
            );
            (Who::Owner, request)
        }
        "BatchCreateInvitations" => {
            use pb::batch_create_invitations_item::Recipient;
            let item = |recipient| pb::BatchCreateInvitationsItem { recipient: Some(recipient), ..Default::default() };
            let email = |id: &str| item(Recipient::Email(format!("{id}@example.com")));
            let other = item(Recipient::Identifier(format!("two of {subject}")));
            // One of them is a member: an answer with both kinds of results.
            let items = vec![email(&format!("one-of-{subject}")), email("alan"), other];
            let delivery = in_the_answer;
            (Who::Operator, write_request!(write, BatchCreateInvitationsRequest { organization, items, delivery }))
        }
        "AcceptInvitation" => {
            let invitation = Some(pb::accept_invitation_request::Invitation::Token(token));
            (Who::IssuedInvitation, write_request!(write, AcceptInvitationRequest { invitation }))
        }
        "DeclineInvitation" => {
            let invitation = Some(pb::decline_invitation_request::Invitation::Token(token));
            (Who::IssuedInvitation, write_request!(write, DeclineInvitationRequest { invitation }))
        }
        "RevokeInvitation" => {
            (Who::Owner, write_request!(write, RevokeInvitationRequest { organization, invitation_id }))
        }
        "RemindInvitation" => {
            let (delivery, rotate) = (in_the_answer, true);
            let request =
                write_request!(write, RemindInvitationRequest { organization, invitation_id, delivery, rotate });
            (Who::Operator, request)
        }
        _ => return None,
    })
}
