//! The fixture of the access tests: three organizations, and a caller of every kind.

use crate::harness::raw::Call;
use crate::harness::samples::role_of;
use crate::harness::{IssuedInvitation, Server, add, organization, remove};
use crate::invitations::invite;
use roster::authn::mint::{ClaimSet, SigningKey};
use roster::domain::Scope;
use roster::grpc::pb;
use std::collections::BTreeMap;

/// The member that requests name.
pub const MEMBER: &str = "tom";
/// A member whom a service deactivated.
pub const INACTIVE_USER: &str = "dean";
/// A user who was deleted.
pub const DELETED_USER: &str = "gil";

/// An organization of the fixture with its invitations.
#[derive(Debug, Clone)]
pub struct Organization {
    pub id: String,
    pub slug: String,
    /// The id of a pending invitation to an address that no user has; revoked in the deleted organization.
    pub invitation: String,
    /// For each user, member or not, the invitation to their address.
    pub invited: BTreeMap<&'static str, IssuedInvitation>,
}

/// The users whom every organization has invited.
const INVITED: [&str; 12] =
    ["olga", "adam", "mia", "fay", INACTIVE_USER, MEMBER, "ida", "ian", "della", "dan", "sid", "otto"];

/// A caller, and the organization that its requests name.
pub struct Caller {
    /// The column in the table of expectations.
    pub name: &'static str,
    pub token: Option<String>,
    pub on_behalf_of: Option<&'static str>,
    /// The user who calls, or for whom a service calls; `None` for a service without a user.
    pub user: Option<&'static str>,
    pub organization: Organization,
}

impl Caller {
    /// The request with the caller's credential.
    pub fn authenticate(&self, mut call: Call) -> Call {
        if let Some(token) = &self.token {
            call = call.bearer(token);
        }
        match self.on_behalf_of {
            Some(user) => call.with("roster-on-behalf-of", user),
            None => call,
        }
    }
}

/// A server with the three organizations.
pub struct Fixture {
    pub server: Server,
    /// Active. `olga` owns it, `adam` is admin, `mia`, `dean` and `tom` are members; `fay` was removed.
    pub active: Organization,
    /// Deactivated by its owner `ida`; `ian` and `tom` are members.
    pub inactive: Organization,
    /// Deleted by its owner `della`; `dan` and `tom` are members.
    pub deleted: Organization,
}

/// The bearer token of a user, with a verified address.
pub fn user_token(server: &Server, id: &str) -> String {
    let email = Some(format!("{id}@example.com"));
    server.mint(&ClaimSet { email, email_verified: Some(true), ..Server::claims(id) })
}

async fn create(server: &Server, owner: &str, slug: &str, members: &[(&str, &str)]) -> Organization {
    // The owner's token has no address, so that members can be invited too: no address is known yet.
    let mut owner = server.user(owner);
    let request = pb::CreateOrganizationRequest { slug: slug.to_owned(), ..organization("The organization") };
    let created = owner.organizations.create_organization(request).await.unwrap().into_inner().organization.unwrap();
    for (user, role) in members {
        owner.organizations.add_member(add(&created.id, user, role)).await.unwrap();
    }
    let role = pb::CreateRoleRequest { organization: created.id.clone(), name: role_of(MEMBER), ..Default::default() };
    owner.roles.create_role(role).await.unwrap();
    let (id, slug) = (created.id, created.slug);
    Organization { id, slug, invitation: String::new(), invited: BTreeMap::new() }
}

impl Organization {
    /// Invites all users, as a service, so that the invitations depend on no member.
    async fn invite_all(&mut self, server: &Server) {
        let mut backend = server.service(&[Scope::Manage]).invitations;
        for user in INVITED {
            let request = invite(&self.id, &format!("{user}@example.com"));
            let created = backend.create_invitation(request).await.unwrap().into_inner();
            let id = created.invitation.unwrap().invitation_id;
            self.invited.insert(user, IssuedInvitation { id, token: created.token });
        }
        let request = invite(&self.id, "unused@example.com");
        let created = backend.create_invitation(request).await.unwrap().into_inner();
        self.invitation = created.invitation.unwrap().invitation_id;
    }
}

impl Fixture {
    /// Starts the server and creates the organizations.
    pub async fn new() -> Self {
        let server = Server::start_generous().await;
        let members =
            [("adam", "admin"), ("mia", "member"), ("fay", "admin"), (INACTIVE_USER, "admin"), (MEMBER, "member")];
        let mut active = create(&server, "olga", "the-active-one", &members).await;
        server.user("olga").organizations.remove_member(remove(&active.id, "fay")).await.unwrap();
        active.invite_all(&server).await;
        create(&server, "otto", "another-one", &[]).await;

        let members = [("ian", "member"), (MEMBER, "member")];
        let mut inactive = create(&server, "ida", "the-inactive-one", &members).await;
        inactive.invite_all(&server).await;
        let request = pb::DeactivateOrganizationRequest { organization: inactive.id.clone(), ..Default::default() };
        server.user("ida").organizations.deactivate_organization(request).await.unwrap();

        let members = [("dan", "member"), (MEMBER, "member")];
        let mut deleted = create(&server, "della", "the-deleted-one", &members).await;
        deleted.invite_all(&server).await;
        let request = pb::DeleteOrganizationRequest { organization: deleted.id.clone(), ..Default::default() };
        server.user("della").organizations.delete_organization(request).await.unwrap();

        let request = pb::DeactivateUserRequest { user_id: INACTIVE_USER.to_owned(), ..Default::default() };
        let mut backend = server.service(&[Scope::Manage]).users;
        backend.deactivate_user(request).await.unwrap();
        backend.put_user(pb::PutUserRequest { user_id: DELETED_USER.to_owned(), ..Default::default() }).await.unwrap();
        let request = pb::DeleteUserRequest { user_id: DELETED_USER.to_owned(), ..Default::default() };
        backend.delete_user(request).await.unwrap();
        Self { server, active, inactive, deleted }
    }

    /// A caller of every kind. Each has called once, so that its profile is stored and a later call does not change it.
    pub async fn callers(&self) -> Vec<Caller> {
        let callers: Vec<Caller> = self.users().into_iter().chain(self.services()).collect();
        for caller in &callers {
            if let Some(token) = &caller.token {
                let _ = self.server.with_token(token).users.get_caller(pb::GetCallerRequest {}).await;
            }
        }
        callers
    }

    fn users(&self) -> Vec<Caller> {
        let caller = |name, user: Option<&'static str>, token, organization: &Organization| Caller {
            name,
            token,
            on_behalf_of: None,
            user,
            organization: organization.clone(),
        };
        let bad = SigningKey::generate().mint(&Server::claims("olga")).unwrap().expose().to_owned();
        let expired = self.server.mint(&ClaimSet { exp: Server::claims("").iat - 60, ..Server::claims("olga") });
        let mut callers = vec![
            caller("anonymous", None, None, &self.active),
            caller("bad", None, Some(bad), &self.active),
            caller("expired", None, Some(expired), &self.active),
        ];
        for (name, user, organization) in [
            ("stranger", "sid", &self.active),
            ("other", "otto", &self.active),
            ("former", "fay", &self.active),
            ("off", INACTIVE_USER, &self.active),
            ("member", "mia", &self.active),
            ("admin", "adam", &self.active),
            ("owner", "olga", &self.active),
            ("member@off", "ian", &self.inactive),
            ("owner@off", "ida", &self.inactive),
            ("member@gone", "dan", &self.deleted),
            ("owner@gone", "della", &self.deleted),
        ] {
            callers.push(caller(name, Some(user), Some(user_token(&self.server, user)), organization));
        }
        callers
    }

    fn services(&self) -> Vec<Caller> {
        let caller = |name, scope, on_behalf_of: Option<&'static str>, organization: &Organization| Caller {
            name,
            token: Some(self.server.service_token("backend", &[scope])),
            on_behalf_of,
            user: on_behalf_of,
            organization: organization.clone(),
        };
        vec![
            caller("check", Scope::Check, None, &self.active),
            caller("manage", Scope::Manage, None, &self.active),
            caller("act-as", Scope::ActAs, None, &self.active),
            caller("operator", Scope::Operator, None, &self.active),
            caller("manage@off", Scope::Manage, None, &self.inactive),
            caller("manage@gone", Scope::Manage, None, &self.deleted),
            caller("operator@gone", Scope::Operator, None, &self.deleted),
            caller("for-owner", Scope::ActAs, Some("olga"), &self.active),
            caller("for-member", Scope::ActAs, Some("mia"), &self.active),
            caller("for-stranger", Scope::ActAs, Some("sid"), &self.active),
            caller("operator-for-member", Scope::Operator, Some("mia"), &self.active),
        ]
    }
}
