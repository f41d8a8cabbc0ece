//! Random requests of every write method, about what exists.

use super::resources::Resources;
use crate::random::words::Random;
use prost::Message;
use prost_types::{FieldMask, Struct, Value, value::Kind};
use roster::grpc::pb;
use serde_json::json;

/// A request: the calling user, or `None` for an operator, and the message.
type Call = (Option<String>, Vec<u8>);

/// The resources that requests name.
pub struct Targets {
    organizations: Vec<pb::Organization>,
    members: Vec<pb::Member>,
    invitations: Vec<pb::Invitation>,
    roles: Vec<pb::Role>,
    model: pb::AccessModel,
}

fn all<M: Message + Default>(resources: &Resources, name: &str) -> Vec<M> {
    let found = resources.iter().filter(|((resource, _), _)| resource == name);
    found.map(|(_, message)| M::decode(message.encode_to_vec().as_slice()).unwrap()).collect()
}

/// A user, who may not exist.
fn person(random: &mut Random) -> String {
    format!("person-{}", random.below(9))
}

fn address(person: &str) -> String {
    format!("{person}@example.com")
}

/// Attributes, of which several are equal.
fn attributes(random: &mut Random) -> Option<Struct> {
    let number = |number| Value { kind: Some(Kind::NumberValue(number)) };
    let fields = match random.below(5) {
        0 => return None,
        1 => vec![("a", number(0.0))],
        2 => vec![("a", number(-0.0))],
        3 => vec![("a", number(7.0)), ("b", number(1e21))],
        _ => vec![("b", number(1e21)), ("a", number(7.0))],
    };
    Some(Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() })
}

fn mask(random: &mut Random, path: &str) -> Option<FieldMask> {
    random.one_in(3).then(|| FieldMask { paths: vec![path.to_owned()] })
}

/// An etag, or none.
fn maybe(random: &mut Random, etag: &str) -> String {
    if random.one_in(2) { etag.to_owned() } else { String::new() }
}

fn word(random: &mut Random, words: &[&str]) -> String {
    (*random.one_of(words)).to_owned()
}

fn delivery(random: &mut Random) -> i32 {
    i32::try_from(random.below(4)).unwrap()
}

fn pick<'a, T>(random: &mut Random, items: &'a [T]) -> Option<&'a T> {
    if items.is_empty() { None } else { Some(random.one_of(items)) }
}

/// Whether a method can change this member: the owner neither leaves nor is removed.
fn fits(name: &str, member: &pb::Member) -> bool {
    match name {
        "RemoveMember" => member.role != "owner",
        "LeaveOrganization" => member.role != "owner" && member.user_state() == pb::UserState::Active,
        _ => true,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the calls of some methods need a target")]
#[expect(clippy::needless_pass_by_value, reason = "each call builds its message in place")]
fn operator(message: impl Message) -> Option<Call> {
    Some((None, message.encode_to_vec()))
}

impl Targets {
    pub fn of(resources: &Resources) -> Self {
        let mut models: Vec<pb::GetAccessModelResponse> = all(resources, "GetAccessModelResponse");
        Self {
            organizations: all(resources, "Organization"),
            members: all(resources, "Member"),
            invitations: all(resources, "Invitation"),
            roles: all(resources, "Role"),
            model: models.remove(0).model.unwrap(),
        }
    }

    /// A call of a write method; `None` if nothing that it could name exists.
    pub fn call(&self, name: &str, random: &mut Random) -> Option<Call> {
        match name {
            "CreateOrganization" => self.create(random),
            "PutUser" => put(random),
            "DeactivateUser" => operator(pb::DeactivateUserRequest { user_id: person(random), ..Default::default() }),
            "ReactivateUser" => operator(pb::ReactivateUserRequest { user_id: person(random), ..Default::default() }),
            // Few users, so that the others are not deleted most of the time.
            "DeleteUser" => {
                let user_id = format!("person-{}", 7 + random.below(2));
                operator(pb::DeleteUserRequest { user_id, ..Default::default() })
            }
            "ReinstateUser" => {
                let user_id = format!("person-{}", 7 + random.below(2));
                operator(pb::ReinstateUserRequest { user_id, ..Default::default() })
            }
            "AcceptInvitation" | "DeclineInvitation" => self.answer(name, random),
            "RevokeInvitation" | "RemindInvitation" => self.manage(name, random),
            "ApplyAccessModel" => self.apply(random),
            "EnableRoles" => operator(pb::EnableRolesRequest::default()),
            "UpdateRole" | "DeleteRole" => self.change_role(name, random),
            "UpdateMember" | "RemoveMember" | "LeaveOrganization" | "TransferOwnership" => {
                self.change_member(name, random)
            }
            _ => {
                let organization = pick(random, &self.organizations)?;
                in_organization(name, organization, random)
            }
        }
    }

    fn create(&self, random: &mut Random) -> Option<Call> {
        if self.organizations.len() >= 3 {
            return None;
        }
        let name = word(random, &["Acme", "Beta"]);
        let (attributes, owner_attributes) = (attributes(random), attributes(random));
        let request = pb::CreateOrganizationRequest { name, attributes, ..Default::default() };
        operator(match random.below(3) {
            0 => request,
            1 => pb::CreateOrganizationRequest { owner_email: address(&person(random)), owner_attributes, ..request },
            _ => pb::CreateOrganizationRequest { owner_user_id: person(random), owner_attributes, ..request },
        })
    }

    fn change_member(&self, name: &str, random: &mut Random) -> Option<Call> {
        let members: Vec<&pb::Member> = self.members.iter().filter(|member| fits(name, member)).collect();
        let member = (*pick(random, &members)?).clone();
        let (organization, user_id, etag) = (member.organization, member.user_id, maybe(random, &member.etag));
        match name {
            "UpdateMember" => operator(pb::UpdateMemberRequest {
                organization,
                user_id,
                role: word(random, &["", "admin", "member", "clerk", "org:auditor"]),
                attributes: attributes(random),
                update_mask: mask(random, "attributes"),
                etag,
                ..Default::default()
            }),
            "RemoveMember" if random.one_in(2) => {
                operator(pb::RemoveMemberRequest { organization, user_id, etag, ..Default::default() })
            }
            "LeaveOrganization" => {
                let request = pb::LeaveOrganizationRequest { organization, ..Default::default() };
                Some((Some(user_id), request.encode_to_vec()))
            }
            "TransferOwnership" => operator(crate::harness::transfer(&organization, &user_id)),
            _ => None,
        }
    }

    fn answer(&self, name: &str, random: &mut Random) -> Option<Call> {
        let is_open = |invitation: &&pb::Invitation| {
            invitation.state() == pb::InvitationState::Pending && invitation.email.starts_with("person-")
        };
        let open: Vec<&pb::Invitation> = self.invitations.iter().filter(is_open).collect();
        let invitation = pick(random, &open)?;
        let (user, id) = (invitation.email.split('@').next()?.to_owned(), invitation.invitation_id.clone());
        let message = if name == "AcceptInvitation" {
            crate::invitations::accept_id(&id).encode_to_vec()
        } else {
            let by_id = pb::decline_invitation_request::Invitation::InvitationId(id);
            pb::DeclineInvitationRequest { invitation: Some(by_id), ..Default::default() }.encode_to_vec()
        };
        Some((Some(user), message))
    }

    fn manage(&self, name: &str, random: &mut Random) -> Option<Call> {
        let is_pending = |invitation: &&pb::Invitation| invitation.state() == pb::InvitationState::Pending;
        let pending: Vec<&pb::Invitation> = self.invitations.iter().filter(is_pending).collect();
        let all: Vec<&pb::Invitation> = self.invitations.iter().collect();
        let selected = if random.one_in(4) { &all } else { &pending };
        let invitation = *pick(random, selected)?;
        let (organization, invitation_id) = (invitation.organization.clone(), invitation.invitation_id.clone());
        if name == "RevokeInvitation" {
            return operator(pb::RevokeInvitationRequest { organization, invitation_id, ..Default::default() });
        }
        let (delivery, rotate) = (delivery(random), !random.one_in(3));
        operator(pb::RemindInvitationRequest { organization, invitation_id, delivery, rotate, ..Default::default() })
    }

    fn apply(&self, random: &mut Random) -> Option<Call> {
        let (title, stock) = (word(random, &["", "A clerk"]), json!([{ "name": "stock.read" }]));
        let clerk = json!([{ "name": "clerk", "title": title, "permissions": ["stock.read"] }]);
        let (roles, is_removed) = if random.one_in(3) { (json!([]), true) } else { (clerk, false) };
        let mut request = crate::roles::apply(json!({ "permissions": stock, "roles": roles }));
        if is_removed && self.model.roles.iter().any(|role| role.name == "clerk") {
            request.replace_roles.insert("clerk".to_owned(), "member".to_owned());
        }
        operator(request)
    }

    fn change_role(&self, name: &str, random: &mut Random) -> Option<Call> {
        let own: Vec<&pb::Role> = self.roles.iter().filter(|role| role.name.starts_with("org:")).collect();
        let role = pick(random, &own)?;
        let (organization, name_of_role) = (role.organization.clone(), role.name.clone());
        let etag = maybe(random, &role.etag);
        if name == "DeleteRole" {
            let replace_with = word(random, &["", "member"]);
            let request =
                pb::DeleteRoleRequest { organization, name: name_of_role, replace_with, ..Default::default() };
            return operator(pb::DeleteRoleRequest { etag, ..request });
        }
        operator(pb::UpdateRoleRequest {
            organization,
            name: name_of_role,
            title: word(random, &["", "An auditor"]),
            permissions: permissions(random),
            update_mask: mask(random, "permissions"),
            etag,
            ..Default::default()
        })
    }
}

fn permissions(random: &mut Random) -> Vec<String> {
    let all = [vec![], vec!["stock.read"], vec!["members.list", "stock.read"], vec!["stock.read", "members.list"]];
    random.one_of(&all).iter().map(|word| (*word).to_owned()).collect()
}

fn put(random: &mut Random) -> Option<Call> {
    let user_id = person(random);
    operator(pb::PutUserRequest {
        email: word(random, &["", &address(&user_id), &address(&user_id), &address(&user_id).to_uppercase()]),
        email_verified: random.one_in(2),
        display_name: word(random, &["", "Ada", "Grace"]),
        user_id,
        ..Default::default()
    })
}

fn in_organization(name: &str, target: &pb::Organization, random: &mut Random) -> Option<Call> {
    let organization = target.id.clone();
    match name {
        "UpdateOrganization" => operator(pb::UpdateOrganizationRequest {
            organization,
            name: word(random, &["", "Acme", "Beta"]),
            slug: word(random, &["", &target.slug, "one", "two"]),
            attributes: attributes(random),
            update_mask: mask(random, "attributes"),
            etag: maybe(random, &target.etag),
            ..Default::default()
        }),
        "ActivateOrganization" => operator(pb::ActivateOrganizationRequest { organization, ..Default::default() }),
        "DeactivateOrganization" if random.one_in(2) => {
            operator(pb::DeactivateOrganizationRequest { organization, ..Default::default() })
        }
        "DeleteOrganization" => {
            let (purge, etag) = (random.one_in(4), maybe(random, &target.etag));
            operator(pb::DeleteOrganizationRequest { organization, purge, etag, ..Default::default() })
        }
        "UndeleteOrganization" => operator(pb::UndeleteOrganizationRequest { organization, ..Default::default() }),
        "DeactivateOrganization" => None,
        "CreateRole" => operator(pb::CreateRoleRequest {
            organization,
            name: word(random, &["org:auditor", "org:editor"]),
            permissions: permissions(random),
            ..Default::default()
        }),
        "CreateInvitation" => operator(pb::CreateInvitationRequest {
            recipient: Some(pb::create_invitation_request::Recipient::Email(address(&person(random)))),
            delivery: delivery(random),
            attributes: attributes(random),
            organization,
            ..Default::default()
        }),
        "BatchCreateInvitations" => {
            use pb::batch_create_invitations_item::Recipient;
            let item = |recipient| pb::BatchCreateInvitationsItem { recipient: Some(recipient), ..Default::default() };
            let items = vec![
                item(Recipient::Email(address(&person(random)))),
                item(Recipient::Identifier(person(random))),
                item(Recipient::Email(address(&person(random)))),
            ];
            operator(pb::BatchCreateInvitationsRequest { organization, items, ..Default::default() })
        }
        _ => add(name, organization, random),
    }
}

fn add(name: &str, organization: String, random: &mut Random) -> Option<Call> {
    let (user, attributes) = (person(random), attributes(random));
    let role = word(random, &["member", "member", "admin", "clerk", "org:auditor"]);
    match name {
        "AddMember" => {
            operator(pb::AddMemberRequest { attributes, ..crate::harness::add(&organization, &user, &role) })
        }
        "EnsureMember" => {
            let person = Some(pb::ensure_member_request::Person::UserId(user));
            operator(pb::EnsureMemberRequest { organization, person, role, attributes, ..Default::default() })
        }
        "BatchAddMembers" => {
            let item = |user| pb::BatchAddMembersItem {
                person: Some(pb::batch_add_members_item::Person::UserId(user)),
                role: role.clone(),
                ..Default::default()
            };
            let items = vec![item(user), item(person(random))];
            operator(pb::BatchAddMembersRequest { organization, items, ..Default::default() })
        }
        other => panic!("{other} has no random request here"),
    }
}
