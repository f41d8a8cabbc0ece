//! Which calls are those of one caller: a service is known by its name and by what vouches for the name. Issuers, API keys
//! and client certificates are namespaces, and equal names in two of them are two services.

use crate::architecture::SRC;
use crate::architecture::source::{Lexeme, Source};
use crate::harness::server::{Clients, Credential, ISSUER};
use crate::harness::tls::{Authority, channel};
use crate::harness::{Server, add, assert_refused, organization};
use crate::invitations::preview;
use crate::streams::soon;
use roster::authn::api_keys;
use roster::authn::mint::ClaimSet;
use roster::authn::settings::{ApiKeySettings, AuthSettings, ClientCertificateSettings, IssuerSettings};
use roster::domain::{Quota, Scope};
use roster::grpc::pb;
use roster::server::ServerSettings;
use roster::server::tls::ClientCertificateMode;
use std::collections::BTreeMap;
use tonic::codec::Streaming;
use tonic::{Code, Request, Response, Status};

/// The name of every service and operator here.
const NAME: &str = "billing";
const OTHER: &str = "https://other.test";
const SCOPES: [Scope; 4] = [Scope::Check, Scope::Manage, Scope::Model, Scope::ActAs];
const MAX_STREAMS: usize = 1;
/// The default of `failed_tokens_per_minute`.
const FAILED_TOKENS: usize = 20;

/// A server with two issuers, an API key and a client certificate, which all have a service of one name.
struct Fixture {
    server: Server,
    authority: Authority,
    api_key: String,
}

/// A service with [`NAME`].
struct Service {
    /// The issuer of its tokens; empty if it has another credential.
    issuer: &'static str,
    clients: Clients,
    /// Clients of `ada`, for whom it acts.
    for_ada: Clients,
}

impl Fixture {
    async fn new() -> Self {
        let (authority, api_key) = (Authority::new(), api_keys::generate());
        let configure = |auth: &mut AuthSettings| {
            let (issuer, user_id_prefix) = (OTHER.to_owned(), "other|".to_owned());
            auth.issuers.push(IssuerSettings { issuer, user_id_prefix, ..auth.issuers[0].clone() });
            let (name, scopes) = (NAME.to_owned(), SCOPES.to_vec());
            let (sha256, san) = (api_key.sha256.clone(), "billing.test".to_owned());
            auth.api_keys.push(ApiKeySettings { name: name.clone(), scopes: scopes.clone(), sha256 });
            auth.client_certificates.push(ClientCertificateSettings { name, san, scopes });
        };
        let settings = ServerSettings {
            tls: Some(authority.server_tls(Some(ClientCertificateMode::Optional))),
            max_streams_per_caller: Some(MAX_STREAMS),
            ..ServerSettings::default()
        };
        let server = Server::with_tls_and(settings, authority.anonymous_client(), configure).await;
        Self { server, authority, api_key: api_key.secret.expose().to_owned() }
    }

    /// A token of this issuer for a service or an operator with [`NAME`].
    fn token(&self, issuer: &str, scopes: &[Scope]) -> String {
        let words: Vec<String> = scopes.iter().map(|scope| format!("roster:{}", scope.as_str())).collect();
        self.server.mint(&ClaimSet { iss: issuer.to_owned(), scope: Some(words.join(" ")), ..Server::claims(NAME) })
    }

    async fn sql(&self, statement: &'static str) {
        sqlx::query(statement).execute(&self.server.database.pool).await.unwrap();
    }

    fn operator(&self, issuer: &str) -> Clients {
        self.server.with_token(&self.token(issuer, &[Scope::Operator]))
    }

    /// The user `other|<subject>` with a token of the other issuer.
    fn other_user(&self, subject: &str) -> Clients {
        self.server.with_token(&self.server.mint(&ClaimSet { iss: OTHER.to_owned(), ..Server::claims(subject) }))
    }

    /// A service for each namespace.
    fn services(&self) -> Vec<Service> {
        let plain = self.server.channel();
        let certified = channel(self.server.address, self.authority.named_client(&["billing.test"]));
        let credentials = [
            (ISSUER, &plain, Some(self.token(ISSUER, &SCOPES))),
            (OTHER, &plain, Some(self.token(OTHER, &SCOPES))),
            ("", &plain, Some(self.api_key.clone())),
            ("", &certified, None),
        ];
        let service = |(issuer, channel, token): (_, _, Option<String>)| Service {
            issuer,
            clients: Clients::new(channel, Credential { token: token.clone(), on_behalf_of: None }),
            for_ada: Clients::new(channel, Credential { token, on_behalf_of: Some("ada".to_owned()) }),
        };
        credentials.into_iter().map(service).collect()
    }
}

async fn watch(clients: &Clients) -> Result<Streaming<pb::WatchEventsResponse>, Status> {
    clients.events.clone().watch_events(pb::WatchEventsRequest::default()).await.map(Response::into_inner)
}

#[tokio::test]
async fn each_service_has_its_own_share_of_the_streams() {
    let fixture = Fixture::new().await;
    let mut open = Vec::new();
    for service in fixture.services() {
        open.push(watch(&service.clients).await.unwrap());
        assert_refused(watch(&service.clients).await, Code::Unavailable, "OVERLOADED");
    }
    // Another token of an issuer for the same name is the same caller, whatever its scopes are.
    for issuer in [ISSUER, OTHER] {
        assert_refused(watch(&fixture.operator(issuer)).await, Code::Unavailable, "OVERLOADED");
    }
}

/// Presents one invalid token more than the caller may, and asserts that only the last call is refused for it.
async fn use_up_failed_tokens(clients: &Clients) {
    let mut invitations = clients.invitations.clone();
    for _ in 0..FAILED_TOKENS {
        assert_refused(invitations.preview_invitation(preview("x")).await, Code::NotFound, "INVITATION_NOT_FOUND");
    }
    assert_no_tokens_left(clients).await;
}

async fn assert_no_tokens_left(clients: &Clients) {
    let refused = clients.invitations.clone().preview_invitation(preview("x")).await;
    assert_refused(refused, Code::ResourceExhausted, "QUOTA_EXCEEDED");
}

/// Every quota stands here: a new one does not compile until it says what it counts by.
#[tokio::test]
async fn each_service_has_its_own_quotas() {
    let fixture = Fixture::new().await;
    for quota in Quota::ALL {
        match quota {
            Quota::FailedTokensPerMinute => {
                for service in fixture.services() {
                    use_up_failed_tokens(&service.clients).await;
                    use_up_failed_tokens(&service.for_ada).await;
                }
                // Operators too, and apart from services of their name.
                for issuer in [ISSUER, OTHER] {
                    use_up_failed_tokens(&fixture.operator(issuer)).await;
                    let token = fixture.token(issuer, &[Scope::Check]);
                    assert_no_tokens_left(&fixture.server.with_token(&token)).await;
                }
                // The ids of users are unique over all issuers.
                use_up_failed_tokens(&fixture.server.user("ada")).await;
                use_up_failed_tokens(&fixture.other_user("ada")).await;
                assert_no_tokens_left(&fixture.server.user_with_email("ada")).await;
            }
            // By organization.
            Quota::PendingPerOrganization | Quota::PerOrganizationAndDay | Quota::RolesPerOrganization
            // By invitation.
            | Quota::SendsPerInvitation | Quota::Cooldown
            // By mailbox, and by user and mailbox: services count in the total only.
            | Quota::MailsPerRecipientAndDay | Quota::MailsPerSenderToRecipientAndDay => {}
        }
    }
}

/// The code outside `src/authn` that identifies callers. What counts by caller uses `CallerKey`; `Caller::actor` is for what
/// is shown and stored.
const IDENTIFIED_BY: &[(&str, &str, &str)] = &[
    ("src/grpc/admit/stream.rs", "CallerKey", "the origin of an export"),
    ("src/grpc/admit/stream/shares.rs", "CallerKey", "streams by caller"),
    ("src/grpc/invitation.rs", "actor", "the kind of the caller in a refusal"),
    ("src/grpc/user.rs", "actor", "the answer of GetCaller"),
    ("src/service/export_queue.rs", "CallerKey", "turns of exports by caller"),
    ("src/service/invitations/manage.rs", "actor", "the inviter, whose id is compared if it is a user's"),
    ("src/service/invitations/respond.rs", "CallerKey", "failed tokens by caller"),
    ("src/service/invitations/respond.rs", "actor", "failed tokens: the user for whom a service acts"),
    ("src/service/members/mod.rs", "actor", "the kind of the caller in a refusal"),
    ("src/service/write/mod.rs", "actor", "the key of stored answers, and the actor of an event"),
];

/// The lines outside tests that name `CallerKey` or call `actor` without further arguments.
fn identifications(source: &Source) -> Vec<&'static str> {
    let word = |at: usize| match source.tokens.get(at).map(|token| &token.lexeme) {
        Some(Lexeme::Word(word)) => Some(word.as_str()),
        _ => None,
    };
    let mark = |at: usize| match source.tokens.get(at).map(|token| &token.lexeme) {
        Some(Lexeme::Mark(mark)) => Some(*mark),
        _ => None,
    };
    let mut found = Vec::new();
    for at in 1..source.tokens.len() {
        if source.tokens[at].in_test {
            continue;
        }
        match word(at) {
            Some("CallerKey") => found.push("CallerKey"),
            Some("actor") if mark(at + 1) == Some('(') => found.push("actor"),
            // As a function: `and_then(Caller::actor)`.
            Some("actor") if mark(at - 1) == Some(':') && mark(at - 2) == Some(':') => found.push("actor"),
            _ => {}
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn the_table_lists_everything_that_identifies_callers() {
    let outside = SRC.iter().filter(|source| !source.path.starts_with("src/authn/"));
    let mut found: Vec<(&str, &str)> =
        outside.flat_map(|source| identifications(source).into_iter().map(|how| (source.path.as_str(), how))).collect();
    found.sort_unstable();
    let listed: Vec<(&str, &str)> = IDENTIFIED_BY.iter().map(|(path, how, _)| (*path, *how)).collect();
    assert_eq!(found, listed);
}

fn actor(kind: &str, id: &str, issuer: &str, via: &str) -> pb::Actor {
    pb::Actor { kind: kind.to_owned(), id: id.to_owned(), issuer: issuer.to_owned(), via: via.to_owned() }
}

/// The actors of the events that add a member or deactivate a user, by member and user.
fn actors(events: &[pb::Event]) -> BTreeMap<String, pb::Actor> {
    let chosen = events.iter().filter(|event| ["member.added", "user.deactivated"].contains(&event.r#type.as_str()));
    chosen.map(|event| (event.user_id.clone(), event.actor.clone().unwrap())).collect()
}

/// The actors of this number of such events.
async fn watched(stream: &mut Streaming<pb::WatchEventsResponse>, number: usize) -> BTreeMap<String, pb::Actor> {
    let mut found = BTreeMap::new();
    let all = async {
        while found.len() < number {
            found.extend(actors(&stream.message().await.unwrap().unwrap().events));
        }
    };
    soon(all).await;
    found
}

#[tokio::test]
async fn an_event_names_the_issuer_of_the_token_that_made_it() {
    let fixture = Fixture::new().await;
    let acme = fixture.server.user("ada").create("Acme").await;
    let mut callers = vec![
        (fixture.server.user("ada"), actor("user", "ada", ISSUER, "")),
        (fixture.operator(ISSUER), actor("operator", NAME, ISSUER, "")),
        (fixture.operator(OTHER), actor("operator", NAME, OTHER, "")),
    ];
    for service in fixture.services() {
        callers.push((service.clients, actor("service", NAME, service.issuer, "")));
        callers.push((service.for_ada, actor("user", "ada", service.issuer, NAME)));
    }
    let mut stream = watch(&fixture.server.service(&[Scope::Manage])).await.unwrap();
    soon(stream.message()).await.unwrap();
    let mut expected = BTreeMap::new();
    for (number, (clients, actor)) in callers.iter_mut().enumerate() {
        let member = format!("member-{number}");
        clients.organizations.add_member(add(&acme, &member, "member")).await.unwrap();
        expected.insert(member, actor.clone());
    }
    assert_eq!(watched(&mut stream, expected.len()).await, expected);

    let list = || pb::ListEventsRequest { organization: acme.clone(), page_size: 100, ..Default::default() };
    let mut ada = fixture.server.user("ada");
    expected.insert("ada".to_owned(), actor("user", "ada", ISSUER, ""));
    assert_eq!(actors(&ada.events.list_events(list()).await.unwrap().into_inner().events), expected);
    // What a server of a release up to 0.3 wrote.
    fixture.sql("UPDATE events SET actor_issuer = NULL").await;
    for actor in expected.values_mut() {
        actor.issuer.clear();
    }
    assert_eq!(actors(&ada.events.list_events(list()).await.unwrap().into_inner().events), expected);
}

#[tokio::test]
async fn the_events_of_users_and_of_the_model_name_the_issuer_and_those_of_roster_none() {
    let fixture = Fixture::new().await;
    let mut stream = watch(&fixture.server.service(&[Scope::Manage])).await.unwrap();
    soon(stream.message()).await.unwrap();
    let mut expected = BTreeMap::new();
    for (number, service) in fixture.services().iter().enumerate() {
        let user = format!("user-{number}");
        let put = pb::PutUserRequest { user_id: user.clone(), ..Default::default() };
        let mut users = service.clients.users.clone();
        users.put_user(put).await.unwrap();
        let deactivate = pb::DeactivateUserRequest { user_id: user.clone(), ..Default::default() };
        users.deactivate_user(deactivate).await.unwrap();
        expected.insert(user, actor("service", NAME, service.issuer, ""));
    }
    assert_eq!(watched(&mut stream, expected.len()).await, expected);

    let model = || pb::ApplyAccessModelRequest {
        model: Some(pb::AccessModel { delegable: vec!["members.list".to_owned()], ..Default::default() }),
        ..Default::default()
    };
    let mut operator = fixture.operator(OTHER);
    operator.models.apply_access_model(model()).await.unwrap();
    let listed = operator.models.list_model_events(pb::ListModelEventsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.events[0].actor, Some(actor("operator", NAME, OTHER, "")));

    let acme = fixture.server.user("ada").create("Acme").await;
    let delete = pb::DeleteOrganizationRequest { organization: acme, ..Default::default() };
    fixture.server.user("ada").organizations.delete_organization(delete).await.unwrap();
    fixture.sql("UPDATE organizations SET purge_time = now() - interval '1 second'").await;
    fixture.server.roster.tidy().await.unwrap();
    let purged = async {
        loop {
            let events = stream.message().await.unwrap().unwrap().events;
            if let Some(event) = events.into_iter().find(|event| event.r#type == "organization.purged") {
                return event;
            }
        }
    };
    assert_eq!(soon(purged).await.actor, Some(actor("system", "roster", "", "")));
}

/// Until the key of stored answers has the issuer, which two releases beside each other must agree on.
#[tokio::test]
async fn services_of_one_name_share_stored_answers_if_they_may_make_the_request() {
    let fixture = Fixture::new().await;
    let request_id = roster::random::uuid().to_string();
    let create = |name: &str| {
        Request::new(pb::CreateOrganizationRequest { request_id: request_id.clone(), ..organization(name) })
    };
    let mut ids = Vec::new();
    for service in fixture.services() {
        let created = service.clients.organizations.clone().create_organization(create("Acme")).await.unwrap();
        ids.push(created.into_inner().organization.unwrap().id);
        let reused = service.clients.organizations.clone().create_organization(create("Beta")).await;
        assert_refused(reused, Code::AlreadyExists, "REQUEST_ID_REUSED");
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let mut checks = fixture.server.with_token(&fixture.token(OTHER, &[Scope::Check]));
    let refused = checks.organizations.create_organization(create("Acme")).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    // An operator of the same name has another key.
    let mut operator = fixture.operator(OTHER);
    let created = operator.organizations.create_organization(create("Acme")).await.unwrap().into_inner();
    assert_ne!(created.organization.unwrap().id, ids[0]);
}
