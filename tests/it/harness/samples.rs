//! The registry of sample requests: one valid request for each method, for the tests that walk all methods.
//!
//! A new method needs one entry here: its caller, the state that it needs, and its message. The access matrix sends the
//! same messages about its own organizations. The input tests build their requests from the descriptors instead, by
//! field name, because they need every field set.

use super::dynamic::first;
use super::server::{Clients, Credential};
use super::{Database, IssuedInvitation, Server};
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

/// Calls a method with an encoded message and returns the encoded answer, the first one of a stream.
pub async fn call(channel: Channel, token: &str, path: &'static str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
    let credential = Credential { token: Some(token.to_owned()), on_behalf_of: None };
    let mut client = Grpc::new(InterceptedService::new(channel, credential));
    client.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let is_stream = roster::authz::rules::method(path).unwrap().streaming.any();
    first(&mut client, PathAndQuery::from_static(path), message, is_stream).await
}

/// The caller of a sample request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleCaller {
    /// `ada`, the owner of every organization of the fixture.
    Owner,
    /// `alan`, a plain member of every organization, with a verified address.
    Member,
    /// The operator of the deployment.
    Operator,
    /// `ivy`, with a verified address: the recipient of the invitation, where the method needs one.
    Invitee,
}

/// The state that a sample request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// An active organization with an active member. Several targets share it, since the request changes the member
    /// only.
    Member,
    /// An active organization for each target, since the request changes the organization itself.
    Organization,
    /// A deactivated organization.
    InactiveOrganization,
    /// A deleted organization.
    DeletedOrganization,
    /// A deactivated member of an active organization.
    InactiveMember,
    /// A deleted user, who was a member.
    DeletedMember,
    /// A pending invitation to `ivy`, into an organization for each target.
    InvitationToInvitee,
    /// A pending invitation to an identifier that is not an address.
    InvitationToIdentifier,
    /// A role of the organization: [`role_of`] the member.
    Role,
}

impl Setup {
    /// Whether each target needs an organization that no other target uses.
    fn needs_organization(self) -> bool {
        match self {
            Self::Member | Self::InactiveMember | Self::DeletedMember | Self::InvitationToIdentifier | Self::Role => {
                false
            }
            Self::Organization | Self::InactiveOrganization | Self::DeletedOrganization | Self::InvitationToInvitee => {
                true
            }
        }
    }
}

/// The resources that a sample request names. In the fixture: an organization of `ada` with `grace` as admin, and
/// `alan` and one more user as members.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// The id or the slug of the organization.
    pub organization: String,
    /// A member of the organization and of no other one.
    pub member: String,
    /// The user whose account a read asks for.
    pub account: String,
    /// The id of an invitation into the organization, for the methods that manage invitations.
    pub invitation: String,
    /// An invitation that the caller can answer.
    pub received: IssuedInvitation,
    /// Whether the caller answers the invitation by its id instead of its token.
    pub by_id: bool,
    /// The delivery of new invitation tokens where the method supports every kind; unspecified is the method's default.
    pub delivery: pb::InvitationDelivery,
}

/// The fields that every write has.
#[derive(Debug, Clone, Default)]
pub struct Write {
    pub reason: String,
    pub request_id: String,
    pub validate_only: bool,
}

impl Write {
    /// A write with a new request id.
    pub fn fresh() -> Self {
        Self { request_id: roster::random::uuid().to_string(), ..Self::default() }
    }
}

/// A server, and the callers of the samples.
pub struct Fixture {
    pub server: Server,
    pub ada: Clients,
    pub operator: Clients,
    tokens: [String; 4],
    targets: AtomicUsize,
}

impl Fixture {
    /// Starts the server and calls it once as each caller, so that no later call has a profile to store.
    pub async fn new() -> Self {
        let server = Server::start_generous().await;
        let with_address = |id: &str| {
            let email = Some(format!("{id}@example.com"));
            server.mint(&ClaimSet { email, email_verified: Some(true), ..Server::claims(id) })
        };
        let tokens = [
            server.mint(&Server::claims("ada")),
            with_address("alan"),
            server.service_token("root", &[roster::domain::Scope::Operator]),
            with_address("ivy"),
        ];
        let [ada, alan, operator, ivy] = tokens.each_ref().map(|token| server.with_token(token));
        for mut caller in [ada.clone(), alan, operator.clone(), ivy] {
            caller.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
        }
        Self { server, ada, operator, tokens, targets: AtomicUsize::new(0) }
    }

    pub fn database(&self) -> &Database {
        &self.server.database
    }

    /// The bearer token of a caller.
    pub fn token(&self, caller: SampleCaller) -> &str {
        match caller {
            SampleCaller::Owner => &self.tokens[0],
            SampleCaller::Member => &self.tokens[1],
            SampleCaller::Operator => &self.tokens[2],
            SampleCaller::Invitee => &self.tokens[3],
        }
    }

    /// Creates a target in the state that the method's sample needs.
    pub async fn target(&self, method: &Method) -> Target {
        self.targets(method, 1).await.remove(0)
    }

    /// Creates targets in the state that the method's sample needs, in one organization where they can share it.
    pub async fn targets(&self, method: &Method, count: usize) -> Vec<Target> {
        let setup = setup(method);
        let mut targets = Vec::new();
        if setup.needs_organization() {
            for _ in 0..count {
                targets.extend(self.organization(1).await);
            }
        } else {
            targets = self.organization(count).await;
        }
        for target in &mut targets {
            self.prepare(setup, target).await;
        }
        targets
    }

    /// Creates an organization with this many members as targets.
    async fn organization(&self, members: usize) -> Vec<Target> {
        let mut ada = self.ada.clone();
        let first = self.targets.fetch_add(members, Ordering::Relaxed);
        let organization = ada.create(&format!("Place {first}")).await;
        let item = |user: &str, role: &str| pb::BatchAddMembersItem {
            person: Some(pb::batch_add_members_item::Person::UserId(user.to_owned())),
            role: role.to_owned(),
            ..Default::default()
        };
        let mut items = vec![item("grace", "admin"), item("alan", "member")];
        let mut targets = Vec::new();
        for number in first..first + members {
            let member = format!("member-{number}");
            items.push(item(&member, "member"));
            let (organization, account) = (organization.clone(), member.clone());
            let delivery = pb::InvitationDelivery::Token;
            targets.push(Target { organization, member, account, delivery, ..Target::default() });
        }
        let batch = pb::BatchAddMembersRequest { organization, items, ..Default::default() };
        let answer = ada.organizations.batch_add_members(batch).await.unwrap().into_inner();
        assert!(answer.results.iter().all(|result| result.member.is_some()));
        targets
    }

    async fn prepare(&self, setup: Setup, target: &mut Target) {
        let (mut ada, mut operator) = (self.ada.clone(), self.operator.clone());
        let Target { organization, member, .. } = target.clone();
        match setup {
            Setup::Member | Setup::Organization => {}
            Setup::InvitationToInvitee => self.invite(target, "ivy@example.com").await,
            Setup::InvitationToIdentifier => self.invite(target, &format!("@{member}")).await,
            Setup::InactiveOrganization => {
                let request = pb::DeactivateOrganizationRequest { organization, ..Default::default() };
                ada.organizations.deactivate_organization(request).await.unwrap();
            }
            Setup::DeletedOrganization => {
                let request = pb::DeleteOrganizationRequest { organization, ..Default::default() };
                ada.organizations.delete_organization(request).await.unwrap();
            }
            Setup::InactiveMember => {
                let request = pb::DeactivateUserRequest { user_id: member, ..Default::default() };
                operator.users.deactivate_user(request).await.unwrap();
            }
            Setup::DeletedMember => {
                let request = pb::DeleteUserRequest { user_id: member, ..Default::default() };
                operator.users.delete_user(request).await.unwrap();
            }
            Setup::Role => {
                let request = pb::CreateRoleRequest { organization, name: role_of(&member), ..Default::default() };
                ada.roles.create_role(request).await.unwrap();
            }
        }
    }

    /// Invites an address, or an identifier that starts with `@`.
    async fn invite(&self, target: &mut Target, recipient: &str) {
        use pb::create_invitation_request::Recipient;
        let is_identifier = recipient.starts_with('@');
        let kind = if is_identifier { Recipient::Identifier } else { Recipient::Email };
        let request = pb::CreateInvitationRequest {
            organization: target.organization.clone(),
            recipient: Some(kind(recipient.to_owned())),
            delivery: pb::InvitationDelivery::Token.into(),
            ..Default::default()
        };
        let created = self.operator.clone().invitations.create_invitation(request).await.unwrap().into_inner();
        let id = created.invitation.unwrap().invitation_id;
        target.invitation.clone_from(&id);
        target.received = IssuedInvitation { id, token: created.token };
    }

    /// Makes the call of a sample.
    pub async fn call(&self, method: &Method, (caller, message): (SampleCaller, Vec<u8>)) -> Result<Vec<u8>, Status> {
        call(self.server.channel(), self.token(caller), method.path, message).await
    }
}

/// Attributes with numbers and characters that a lossy conversion through JSON would change.
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

/// The name of the role that the samples of a member change.
pub fn role_of(member: &str) -> String {
    format!("org:role-of-{member}")
}

/// One entry of the registry.
struct Sample {
    caller: SampleCaller,
    setup: Setup,
    message: Vec<u8>,
}

impl SampleCaller {
    /// An entry for this caller, whose target needs no further state.
    #[expect(clippy::needless_pass_by_value, reason = "each entry builds its message in place")]
    fn sends(self, message: impl Message) -> Sample {
        Sample { caller: self, setup: Setup::Member, message: message.encode_to_vec() }
    }
}

impl Sample {
    /// The entry with the state that its target needs.
    fn after(self, setup: Setup) -> Self {
        Self { setup, ..self }
    }
}

/// The caller and the message of a method's sample. The request succeeds on its target; a write changes something
/// there. `None` for a method without an entry: the tests that walk the methods fail on it.
pub fn sample(method: &Method, target: &Target, write: &Write) -> Option<(SampleCaller, Vec<u8>)> {
    entry(method, target, write).map(|sample| (sample.caller, sample.message))
}

/// The state that a method's sample needs.
pub fn setup(method: &Method) -> Setup {
    entry(method, &Target::default(), &Write::default()).map_or(Setup::Member, |sample| sample.setup)
}

fn entry(method: &Method, target: &Target, write: &Write) -> Option<Sample> {
    if !method.write {
        return read_entry(method.name, target);
    }
    organization_entry(method.name, target, write)
        .or_else(|| member_entry(method.name, target, write))
        .or_else(|| user_entry(method.name, target, write))
        .or_else(|| invitations::entry(method.name, target, write))
        .or_else(|| roles::entry(method.name, target, write))
}

fn read_entry(name: &str, target: &Target) -> Option<Sample> {
    use SampleCaller::{Invitee, Member, Operator, Owner};
    let Target { organization, member, account, invitation: invitation_id, received, .. } = target.clone();
    Some(match name {
        "GetCaller" => Owner.sends(pb::GetCallerRequest {}),
        "GetOrganization" => Member.sends(pb::GetOrganizationRequest { organization }),
        "ListOrganizations" => Operator.sends(pb::ListOrganizationsRequest::default()),
        "ListUserOrganizations" => {
            Operator.sends(pb::ListUserOrganizationsRequest { user_id: account, ..Default::default() })
        }
        "GetMember" => Member.sends(pb::GetMemberRequest { organization, user_id: member }),
        "ListMembers" => Owner.sends(pb::ListMembersRequest { organization, ..Default::default() }),
        "ListMembersWithPermission" => {
            let permission = "members.list".to_owned();
            Owner.sends(pb::ListMembersWithPermissionRequest { organization, permission, ..Default::default() })
        }
        "GetInvitation" => {
            let request = pb::GetInvitationRequest { organization, invitation_id };
            Owner.sends(request).after(Setup::InvitationToIdentifier)
        }
        "ListInvitations" => {
            let request = pb::ListInvitationsRequest { organization, ..Default::default() };
            Owner.sends(request).after(Setup::InvitationToIdentifier)
        }
        "ListEvents" => Owner.sends(pb::ListEventsRequest { organization, ..Default::default() }),
        "ListUserEvents" => Operator.sends(pb::ListUserEventsRequest { user_id: account, ..Default::default() }),
        "ListReceivedInvitations" => {
            let request = pb::ListReceivedInvitationsRequest::default();
            Invitee.sends(request).after(Setup::InvitationToInvitee)
        }
        "PreviewInvitation" => {
            let request = pb::PreviewInvitationRequest { token: received.token };
            Member.sends(request).after(Setup::InvitationToIdentifier)
        }
        "ListUsers" => Operator.sends(pb::ListUsersRequest::default()),
        "GetAccessModel" => Owner.sends(pb::GetAccessModelRequest {}),
        "ListModelEvents" => Operator.sends(pb::ListModelEventsRequest::default()),
        "GetRole" => Owner.sends(pb::GetRoleRequest { organization, name: "admin".to_owned() }),
        "ListRoles" => Owner.sends(pb::ListRolesRequest { organization, ..Default::default() }),
        "GetUser" => Operator.sends(pb::GetUserRequest { user_id: account }),
        // Their requests have the same first fields.
        "CheckMembership" | "StreamChecks" | "GetEffectivePermissions" | "ExplainCheck" => {
            Operator.sends(super::is_member(&organization, &member))
        }
        "WatchMemberships" => Operator.sends(pb::WatchMembershipsRequest { organization, ..Default::default() }),
        "WatchEvents" => Operator.sends(pb::WatchEventsRequest { organization, ..Default::default() }),
        "ExportMemberships" => Operator.sends(pb::ExportMembershipsRequest::default()),
        "BatchCheckMembership" | "BatchGetEffectivePermissions" => {
            let item = pb::CheckItem { organization, user_id: member, ..Default::default() };
            Operator.sends(pb::BatchCheckMembershipRequest { items: vec![item; 20], ..Default::default() })
        }
        _ => return None,
    })
}

/// Builds a write with the fields that every write has.
macro_rules! write_request {
    ($write:ident, $request:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {{
        let Write { reason, request_id, validate_only } = $write.clone();
        #[allow(clippy::needless_update, reason = "some requests have no other fields")]
        pb::$request { reason, request_id, validate_only, $($field $(: $value)?,)* ..Default::default() }
    }};
}

mod invitations;
mod roles;

fn organization_entry(name: &str, target: &Target, write: &Write) -> Option<Sample> {
    use SampleCaller::Owner;
    let Target { organization, member, .. } = target.clone();
    let attributes = Some(attributes());
    Some(match name {
        "CreateOrganization" => {
            let name = format!("By sample {member}");
            Owner.sends(write_request!(write, CreateOrganizationRequest { name, attributes }))
        }
        "UpdateOrganization" => {
            let (name, slug) = (format!("Renamed {member}"), format!("renamed-{member}"));
            let request = write_request!(write, UpdateOrganizationRequest { organization, name, slug, attributes });
            Owner.sends(request).after(Setup::Organization)
        }
        "ActivateOrganization" => {
            let request = write_request!(write, ActivateOrganizationRequest { organization });
            Owner.sends(request).after(Setup::InactiveOrganization)
        }
        "DeactivateOrganization" => {
            let request = write_request!(write, DeactivateOrganizationRequest { organization });
            Owner.sends(request).after(Setup::Organization)
        }
        "DeleteOrganization" => {
            let request = write_request!(write, DeleteOrganizationRequest { organization });
            Owner.sends(request).after(Setup::Organization)
        }
        "UndeleteOrganization" => {
            let request = write_request!(write, UndeleteOrganizationRequest { organization });
            Owner.sends(request).after(Setup::DeletedOrganization)
        }
        _ => return None,
    })
}

fn member_entry(name: &str, target: &Target, write: &Write) -> Option<Sample> {
    use SampleCaller::{Member, Owner};
    let Target { organization, member, .. } = target.clone();
    let new_user = format!("new-of-{member}");
    let attributes = Some(attributes());
    Some(match name {
        "AddMember" => {
            let person = Some(pb::add_member_request::Person::UserId(new_user));
            let role = "admin".to_owned();
            Owner.sends(write_request!(write, AddMemberRequest { organization, person, role, attributes }))
        }
        "EnsureMember" => {
            let person = Some(pb::ensure_member_request::Person::UserId(new_user));
            Owner.sends(write_request!(write, EnsureMemberRequest { organization, person, attributes }))
        }
        "BatchAddMembers" => {
            let item = |user: String| pb::BatchAddMembersItem {
                person: Some(pb::batch_add_members_item::Person::UserId(user)),
                ..Default::default()
            };
            // One user is a member already, so the answer has both kinds of results.
            let items = vec![item(format!("one-of-{member}")), item(member.clone()), item(format!("two-of-{member}"))];
            Owner.sends(write_request!(write, BatchAddMembersRequest { organization, items }))
        }
        "UpdateMember" => {
            let (role, user_id) = ("admin".to_owned(), member);
            Owner.sends(write_request!(write, UpdateMemberRequest { organization, user_id, role, attributes }))
        }
        "RemoveMember" => Owner.sends(write_request!(write, RemoveMemberRequest { organization, user_id: member })),
        "LeaveOrganization" => {
            let request = write_request!(write, LeaveOrganizationRequest { organization });
            Member.sends(request).after(Setup::Organization)
        }
        "TransferOwnership" => {
            let person = Some(pb::transfer_ownership_request::Person::UserId(member));
            let request = write_request!(write, TransferOwnershipRequest { organization, person });
            Owner.sends(request).after(Setup::Organization)
        }
        _ => return None,
    })
}

fn user_entry(name: &str, target: &Target, write: &Write) -> Option<Sample> {
    use SampleCaller::Operator;
    let Target { member, .. } = target.clone();
    Some(match name {
        "PutUser" => {
            let (email, display_name) = (format!("{member}@example.com"), "A name".to_owned());
            Operator.sends(write_request!(write, PutUserRequest { user_id: member, email, display_name }))
        }
        "DeactivateUser" => Operator.sends(write_request!(write, DeactivateUserRequest { user_id: member })),
        "ReactivateUser" => {
            let request = write_request!(write, ReactivateUserRequest { user_id: member });
            Operator.sends(request).after(Setup::InactiveMember)
        }
        "DeleteUser" => Operator.sends(write_request!(write, DeleteUserRequest { user_id: member })),
        "ReinstateUser" => {
            let request = write_request!(write, ReinstateUserRequest { user_id: member });
            Operator.sends(request).after(Setup::DeletedMember)
        }
        _ => return None,
    })
}
