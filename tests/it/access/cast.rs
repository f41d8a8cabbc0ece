//! The stage and the cast: three organizations, and everybody who may come to their door.

use crate::harness::raw::Call;
use crate::harness::{Server, add, organization, remove};
use crate::invitations::invite;
use roster::authn::mint::{ClaimSet, SigningKey};
use roster::domain::Scope;
use roster::grpc::pb;
use std::collections::BTreeMap;

/// The member that requests are about.
pub const TARGET: &str = "tom";
/// A member who was switched off, by a service.
pub const SWITCHED_OFF: &str = "dean";

/// An organization, by both of its names, and who is invited there.
#[derive(Debug, Clone)]
pub struct Place {
    pub id: String,
    pub slug: String,
    /// A pending invitation to an address of nobody's, by its id; revoked where the organization is deleted.
    pub invitation: String,
    /// The invitations of everybody whom there is, members or not, to their address.
    pub invited: BTreeMap<&'static str, IssuedInvitation>,
}

/// An invitation as the one invited knows it.
#[derive(Debug, Clone)]
pub struct IssuedInvitation {
    pub id: String,
    pub token: String,
}

/// Everybody who is invited everywhere.
const INVITED: [&str; 12] =
    ["olga", "adam", "mia", "fay", SWITCHED_OFF, TARGET, "ida", "ian", "della", "dan", "sid", "otto"];

/// Somebody who calls, and the organization that they call about.
pub struct Part {
    /// The column in the table of expectations.
    pub name: &'static str,
    pub token: Option<String>,
    pub on_behalf_of: Option<&'static str>,
    /// The user that they are, if they are one.
    pub user: Option<&'static str>,
    pub place: Place,
}

impl Part {
    /// The request with what this caller shows.
    pub fn shown(&self, mut call: Call) -> Call {
        if let Some(token) = &self.token {
            call = call.bearer(token);
        }
        match self.on_behalf_of {
            Some(user) => call.with("roster-on-behalf-of", user),
            None => call,
        }
    }
}

/// The stage.
pub struct Cast {
    pub server: Server,
    /// In use. Owned by olga; adam is admin; mia, dean and tom are in it; fay was.
    pub live: Place,
    /// Switched off by its owner ida; ian and tom are in it.
    pub off: Place,
    /// Deleted by its owner della; dan and tom are in it.
    pub gone: Place,
}

/// A user's own token, with a verified address.
pub fn user_token(server: &Server, id: &str) -> String {
    let email = Some(format!("{id}@example.com"));
    server.mint(&ClaimSet { email, email_verified: Some(true), ..Server::claims(id) })
}

async fn found(server: &Server, owner: &str, slug: &str, members: &[(&str, &str)]) -> Place {
    // Nobody's address is known yet, so that members, too, can be invited.
    let mut owner = server.user(owner);
    let wish = pb::CreateOrganizationRequest { slug: slug.to_owned(), ..organization("The organization") };
    let made = owner.organizations.create_organization(wish).await.unwrap().into_inner().organization.unwrap();
    for (user, role) in members {
        owner.organizations.add_member(add(&made.id, user, role)).await.unwrap();
    }
    let (id, slug) = (made.id, made.slug);
    Place { id, slug, invitation: String::new(), invited: BTreeMap::new() }
}

impl Place {
    /// Invites everybody, by a service: whom it has invited does not depend on any member.
    async fn invite_all(&mut self, server: &Server) {
        let mut backend = server.service(&[Scope::Manage]).invitations;
        for user in INVITED {
            let request = invite(&self.id, &format!("{user}@example.com"));
            let made = backend.create_invitation(request).await.unwrap().into_inner();
            let id = made.invitation.unwrap().invitation_id;
            self.invited.insert(user, IssuedInvitation { id, token: made.token });
        }
        let request = invite(&self.id, "nobody-yet@example.com");
        let made = backend.create_invitation(request).await.unwrap().into_inner();
        self.invitation = made.invitation.unwrap().invitation_id;
    }
}

impl Cast {
    /// Sets the stage.
    pub async fn assemble() -> Self {
        let server = Server::start_generous().await;
        let five =
            [("adam", "admin"), ("mia", "member"), ("fay", "admin"), (SWITCHED_OFF, "admin"), (TARGET, "member")];
        let mut live = found(&server, "olga", "the-live-one", &five).await;
        server.user("olga").organizations.remove_member(remove(&live.id, "fay")).await.unwrap();
        live.invite_all(&server).await;
        found(&server, "otto", "another-one", &[]).await;

        let two = [("ian", "member"), (TARGET, "member")];
        let mut off = found(&server, "ida", "the-one-switched-off", &two).await;
        off.invite_all(&server).await;
        let request = pb::DeactivateOrganizationRequest { organization: off.id.clone(), ..Default::default() };
        server.user("ida").organizations.deactivate_organization(request).await.unwrap();

        let two = [("dan", "member"), (TARGET, "member")];
        let mut gone = found(&server, "della", "the-deleted-one", &two).await;
        gone.invite_all(&server).await;
        let request = pb::DeleteOrganizationRequest { organization: gone.id.clone(), ..Default::default() };
        server.user("della").organizations.delete_organization(request).await.unwrap();

        let request = pb::DeactivateUserRequest { user_id: SWITCHED_OFF.to_owned(), ..Default::default() };
        server.service(&[Scope::Manage]).users.deactivate_user(request).await.unwrap();
        Self { server, live, off, gone }
    }

    /// Everybody. Each has called once, so that their profile is known and a call says nothing new about them.
    pub async fn parts(&self) -> Vec<Part> {
        let parts: Vec<Part> = self.users().into_iter().chain(self.services()).collect();
        for part in &parts {
            if let Some(token) = &part.token {
                let _ = self.server.with_token(token).users.get_caller(pb::GetCallerRequest {}).await;
            }
        }
        parts
    }

    fn users(&self) -> Vec<Part> {
        let part = |name, user: Option<&'static str>, token, place: &Place| Part {
            name,
            token,
            on_behalf_of: None,
            user,
            place: place.clone(),
        };
        let bad = SigningKey::generate().mint(&Server::claims("olga")).unwrap().expose().to_owned();
        let expired = self.server.mint(&ClaimSet { exp: Server::claims("").iat - 60, ..Server::claims("olga") });
        let mut parts = vec![
            part("nobody", None, None, &self.live),
            part("bad", None, Some(bad), &self.live),
            part("expired", None, Some(expired), &self.live),
        ];
        for (name, user, place) in [
            ("stranger", "sid", &self.live),
            ("other", "otto", &self.live),
            ("former", "fay", &self.live),
            ("off", SWITCHED_OFF, &self.live),
            ("member", "mia", &self.live),
            ("admin", "adam", &self.live),
            ("owner", "olga", &self.live),
            ("member@off", "ian", &self.off),
            ("owner@off", "ida", &self.off),
            ("member@gone", "dan", &self.gone),
            ("owner@gone", "della", &self.gone),
        ] {
            parts.push(part(name, Some(user), Some(user_token(&self.server, user)), place));
        }
        parts
    }

    fn services(&self) -> Vec<Part> {
        let part = |name, scope, on_behalf_of: Option<&'static str>, place: &Place| Part {
            name,
            token: Some(self.server.service_token("backend", &[scope])),
            on_behalf_of,
            user: on_behalf_of,
            place: place.clone(),
        };
        vec![
            part("check", Scope::Check, None, &self.live),
            part("manage", Scope::Manage, None, &self.live),
            part("act-as", Scope::ActAs, None, &self.live),
            part("operator", Scope::Operator, None, &self.live),
            part("manage@off", Scope::Manage, None, &self.off),
            part("manage@gone", Scope::Manage, None, &self.gone),
            part("operator@gone", Scope::Operator, None, &self.gone),
            part("for-owner", Scope::ActAs, Some("olga"), &self.live),
            part("for-member", Scope::ActAs, Some("mia"), &self.live),
            part("for-stranger", Scope::ActAs, Some("sid"), &self.live),
            part("operator-for-member", Scope::Operator, Some("mia"), &self.live),
        ]
    }
}
