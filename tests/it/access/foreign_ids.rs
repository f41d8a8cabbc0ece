//! Random requests with the ids of another organization. The user `ann` owns the organization A and puts ids of the
//! organization B into any field of a request. No request changes B, and no answer discloses anything of B. (Each
//! request has a new `ann` and a new A, so that an answer cannot repeat what an earlier request wrote into A.)

use super::fixture::user_token;
use crate::harness::raw::{self, Call};
use crate::harness::{Database, Server, add, organization};
use crate::invitations::invite;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use roster::authz::rules::{METHODS, Method};
use roster::domain::Scope;
use roster::grpc::{self, pb};
use sqlx::AssertSqlSafe;
use std::cell::Cell;
use std::collections::HashMap;
use tonic::Code;

/// Default number of requests; `ROSTER_FOREIGN_ID_REQUESTS` overrides it.
const REQUESTS: u32 = 300;
/// The slug of B.
const SLUG: &str = "slug-of-b";

fn text(value: &str) -> prost_types::Value {
    prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(value.to_owned())) }
}

fn object(value: &str) -> prost_types::Struct {
    prost_types::Struct { fields: [("note".to_owned(), text(value))].into() }
}

/// The organization B.
struct OrganizationB {
    id: String,
    /// Values that `ann` may know: names of B, ids of some members, and values that members of B see.
    handles: Vec<String>,
    /// The ids of the invitations into B, which `ann` may know too.
    invitations: Vec<String>,
    /// Values that an answer must not contain unless the request contains them. The profiles of `bob` and `ben` are not
    /// among them: `ann` knows their ids, may add them to A, and sees the members that she has added. She knows nothing
    /// of `cleo`.
    secrets: Vec<String>,
}

async fn create_b(server: &Server) -> OrganizationB {
    let mut bob = server.with_token(&user_token(server, "bob-of-b"));
    let request = pb::CreateOrganizationRequest {
        slug: SLUG.to_owned(),
        attributes: Some(object("attribute-of-b")),
        owner_attributes: Some(object("desk-of-bob")),
        ..organization("Name of B")
    };
    let created = bob.organizations.create_organization(request).await.unwrap().into_inner();
    let b = created.organization.unwrap();
    for user in ["ben-of-b", "cleo-of-b"] {
        let request = pb::AddMemberRequest { attributes: Some(object("desk-of-b")), ..add(&b.id, user, "member") };
        bob.organizations.add_member(request).await.unwrap();
        server.with_token(&user_token(server, user)).users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    }
    let mut pages = Vec::new();
    for organization in [b.id.clone(), b.slug.clone()] {
        let request = pb::ListMembersRequest { organization, page_size: 1, ..Default::default() };
        pages.push(bob.organizations.list_members(request).await.unwrap().into_inner());
    }
    let request = pb::ListOrganizationsRequest { page_size: 1, ..Default::default() };
    // A further organization, sorted after B, so that the page token of the list of all organizations names B.
    server.with_token(&user_token(server, "ann")).create("Zebra").await;
    let all = server.operator().organizations.list_organizations(request).await.unwrap().into_inner();
    assert!(!all.next_page_token.is_empty());
    let invitations = invite_to_b(server, &b.id).await;
    let mut handles = vec![b.id.clone(), b.slug.clone(), b.id.to_uppercase(), b.etag, created.consistency_token];
    handles.extend(["bob-of-b", "ben-of-b", "bob-of-b@example.com", "ben-of-b@example.com"].map(str::to_owned));
    handles.extend(pages.iter().map(|page| page.next_page_token.clone()));
    handles.extend([pages[0].members[0].etag.clone(), all.next_page_token]);
    let mut secrets = vec![b.id.clone(), b.slug, b.name];
    secrets.extend(["cleo-of-b", "attribute-of-b", "desk-of-bob", "desk-of-b", "desk-of-guest"].map(str::to_owned));
    secrets.extend(["cleo@guests.example", "guests.example", "handle-of-guest"].map(str::to_owned));
    // The holder of an invitation token may preview it; `ann` holds none of these tokens.
    secrets.extend(invitations.iter().map(|(_, token)| token.clone()));
    let invitations: Vec<String> = invitations.into_iter().map(|(id, _)| id).collect();
    secrets.extend(invitations.iter().cloned());
    handles.extend(invitations.iter().cloned());
    OrganizationB { id: b.id, handles, invitations, secrets }
}

/// Invites an address, an identifier and an address with a pending mail into B. Returns the ids and the tokens of the
/// invitations that have a token in the answer.
async fn invite_to_b(server: &Server, b: &str) -> Vec<(String, String)> {
    use pb::create_invitation_request::Recipient;
    let mut backend = server.service(&[Scope::Manage]).invitations;
    let mut created = Vec::new();
    for (recipient, delivery) in [
        (Recipient::Email("cleo@guests.example".to_owned()), pb::InvitationDelivery::Token),
        (Recipient::Identifier("handle-of-guest".to_owned()), pb::InvitationDelivery::Token),
        (Recipient::Email("carl@guests.example".to_owned()), pb::InvitationDelivery::Email),
    ] {
        let request = pb::CreateInvitationRequest {
            recipient: Some(recipient),
            delivery: delivery.into(),
            attributes: Some(object("desk-of-guest")),
            ..invite(b, "")
        };
        let answer = backend.create_invitation(request).await.unwrap().into_inner();
        created.push((answer.invitation.unwrap().invitation_id, answer.token));
    }
    created.retain(|(_, token)| !token.is_empty());
    created
}

/// Every row of B, and every row about one of its members.
async fn rows_of(database: &Database, id: &str) -> Vec<(String, String)> {
    const MEMBERS: &str = "('bob-of-b', 'ben-of-b', 'cleo-of-b')";
    let of_organization = ["memberships", "slugs", "log", "events", "invitations", "invitation_tokens", "outbox"]
        .map(|table| (table, "organization_id::text = $1"));
    let of_users = [("users", "id"), ("user_events", "user_id"), ("user_log", "user_id")];
    let selects = [("organizations", "id::text = $1")]
        .into_iter()
        .chain(of_organization)
        .map(|(table, belongs)| format!("SELECT '{table}', t::text FROM {table} t WHERE {belongs}"))
        .chain(
            of_users.map(|(table, user)| format!("SELECT '{table}', t::text FROM {table} t WHERE {user} IN {MEMBERS}")),
        );
    let all = format!("{} ORDER BY 1, 2", selects.collect::<Vec<_>>().join(" UNION ALL "));
    sqlx::query_as(AssertSqlSafe(all)).bind(id).fetch_all(&database.pool).await.unwrap()
}

/// The placement of the foreign ids in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placement {
    /// Any value of B in every string.
    Everywhere,
    /// Any value of B in a few strings of a request about A.
    Rare,
    /// A valid request about B and its members, made by a caller without access.
    Targeted,
}

/// Turns random bytes into a request. Each choice consumes one byte.
struct RequestGenerator<'a> {
    bytes: std::iter::Cycle<std::slice::Iter<'a, u8>>,
    placement: Placement,
    a: &'a OrganizationA,
    b: &'a OrganizationB,
}

/// The organization A, which `ann` owns.
struct OrganizationA {
    id: String,
    owner: String,
    /// The bearer token of the owner.
    token: String,
    invitation: String,
}

impl RequestGenerator<'_> {
    fn choose(&mut self, count: u8) -> u8 {
        self.bytes.next().unwrap() % count
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        let index = self.choose(u8::try_from(all.len()).unwrap());
        all[usize::from(index)].clone()
    }

    fn word(&mut self, field: &str) -> String {
        let invitations: Vec<&str> = self.b.invitations.iter().map(String::as_str).collect();
        let targeted: &[&str] = match field {
            "organization" => &[&self.b.id, SLUG],
            "invitation_id" => &invitations,
            "user_id" => &["ben-of-b", "bob-of-b", &self.a.owner],
            "email" => &["ben-of-b@example.com", "bob-of-b@example.com"],
            _ => &[],
        };
        if self.placement == Placement::Targeted && !targeted.is_empty() {
            return self.one_of(targeted).to_owned();
        }
        if self.placement == Placement::Everywhere || (self.placement == Placement::Rare && self.choose(12) == 0) {
            return self.one_of(&self.b.handles);
        }
        let valid: &[&str] = match field {
            "organization" => &[&self.a.id],
            "user_id" => &[&self.a.owner, "abe", "amy", "al", "art"],
            "email" => &["abe@example.com", "guest@example.com"],
            "invitation_id" => &[&self.a.invitation],
            "identifier" => &["@guest"],
            "role" => &["admin", "member", ""],
            "paths" => &["attributes", "*"],
            "permission" => &["members.add"],
            "kind" => &["account", ""],
            "types" => &["member.added"],
            "slug" | "owner_user_id" | "owner_email" | "request_id" | "etag" | "page_token" | "at_least_as_fresh" => {
                &[""]
            }
            "name" | "display_name" => &["A name"],
            "key" => &["note"],
            _ => &["", "words"],
        };
        self.one_of(valid).to_owned()
    }

    fn message(&mut self, kind: &MessageDescriptor, depth: u8) -> DynamicMessage {
        let mut message = DynamicMessage::new(kind.clone());
        let mut chosen = HashMap::new();
        for oneof in kind.oneofs() {
            let fields: Vec<FieldDescriptor> = oneof.fields().collect();
            chosen.insert(oneof.full_name().to_owned(), self.one_of(&fields).number());
        }
        for field in kind.fields() {
            let other = field.containing_oneof().is_some_and(|oneof| chosen[oneof.full_name()] != field.number());
            let too_deep = depth > 3 && matches!(field.kind(), Kind::Message(_));
            if !other && !too_deep {
                let value = self.field(&field, depth);
                message.set_field(&field, value);
            }
        }
        message
    }

    fn field(&mut self, field: &FieldDescriptor, depth: u8) -> Value {
        if field.is_map() {
            let Kind::Message(entry) = field.kind() else { panic!("a map field has an entry message") };
            let value = self.value(&entry.map_entry_value_field(), depth);
            return Value::Map(HashMap::from([(MapKey::String(self.word("key")), value)]));
        }
        if field.is_list() {
            let count = self.choose(3);
            return Value::List((0..count).map(|_| self.value(field, depth)).collect());
        }
        self.value(field, depth)
    }

    fn value(&mut self, field: &FieldDescriptor, depth: u8) -> Value {
        match field.kind() {
            Kind::String => Value::String(self.word(field.name())),
            // Rarely true: most flags, such as `validate_only`, prevent effects that the test could observe.
            Kind::Bool => Value::Bool(self.choose(12) == 0),
            Kind::Int32 => Value::I32(self.choose(3).into()),
            Kind::Double => Value::F64(self.choose(3).into()),
            // Seconds of a duration: one to three hours.
            Kind::Int64 => Value::I64(3600 * (1 + i64::from(self.choose(3)))),
            // By mail or in the answer, which is refused to users.
            Kind::Enum(kind) if kind.name() == "InvitationDelivery" => Value::EnumNumber(self.choose(3).into()),
            // ACTIVE or INACTIVE; for invitations, ACCEPTED or DECLINED.
            Kind::Enum(_) => Value::EnumNumber(2 + i32::from(self.choose(2))),
            Kind::Message(kind) => Value::Message(self.message(&kind, depth + 1)),
            other => panic!("a request has a field of an unknown kind: {other:?}"),
        }
    }
}

/// The bytes, followed by the decoded content of the opaque tokens in them.
fn with_decoded_tokens(bytes: &[u8]) -> Vec<u8> {
    let mut all = bytes.to_vec();
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    for word in bytes.split(|byte| !is_token(byte)).filter(|word| word.len() > 16) {
        // The field key and the length before a text may look like characters of it.
        for decoded in (0..4).filter_map(|start| URL_SAFE_NO_PAD.decode(&word[start..]).ok()) {
            all.extend(decoded);
        }
    }
    all
}

fn contains(texts: &[u8], secret: &str) -> bool {
    texts.windows(secret.len()).any(|window| window == secret.as_bytes())
}

struct Fixture {
    server: Server,
    pool: DescriptorPool,
    b: OrganizationB,
    /// The number of owners created.
    owners: Cell<u32>,
    /// The number of successful calls.
    answered: Cell<u32>,
    /// The number of successful writes.
    written: Cell<u32>,
    /// The number of calls refused with `PERMISSION_DENIED`.
    denied: Cell<u32>,
}

impl Fixture {
    async fn new() -> Self {
        let server = Server::start_generous().await;
        let b = create_b(&server).await;
        server.with_token(&user_token(&server, "abe")).users.get_caller(pb::GetCallerRequest {}).await.unwrap();
        let pool = DescriptorPool::decode(grpc::FILE_DESCRIPTOR_SET).unwrap();
        let count = || Cell::new(0);
        Self { server, pool, b, owners: count(), answered: count(), written: count(), denied: count() }
    }

    async fn create_a(&self) -> OrganizationA {
        self.owners.set(self.owners.get() + 1);
        let owner = format!("ann-{}", self.owners.get());
        let token = user_token(&self.server, &owner);
        let mut ann = self.server.with_token(&token);
        let id = ann.create("The organization A").await;
        ann.add(&id, "amy", "member").await;
        let delivery = pb::InvitationDelivery::None.into();
        let request = pb::CreateInvitationRequest { delivery, ..invite(&id, "ivy@example.com") };
        let created = ann.invitations.create_invitation(request).await.unwrap().into_inner();
        let invitation = created.invitation.unwrap().invitation_id;
        OrganizationA { id, owner, token, invitation }
    }

    fn request(&self, method: &Method, a: &OrganizationA, bytes: &[u8]) -> Vec<u8> {
        use Placement::{Everywhere, Rare, Targeted};
        let service = self.pool.get_service_by_name(method.service).unwrap();
        let descriptor = service.methods().find(|descriptor| descriptor.name() == method.name).unwrap();
        let mut generator = RequestGenerator { bytes: bytes.iter().cycle(), placement: Targeted, a, b: &self.b };
        generator.placement = generator.one_of(&[Everywhere, Rare, Rare, Targeted, Targeted]);
        let mut message = generator.message(&descriptor.input(), 0);
        let used = message.encode_to_vec();
        let strings: Vec<FieldDescriptor> = (descriptor.input().fields())
            .filter(|field| field.kind() == Kind::String && !field.is_list() && field.containing_oneof().is_none())
            .collect();
        if !strings.is_empty() && !self.b.handles.iter().any(|handle| contains(&used, handle)) {
            message.set_field(&generator.one_of(&strings), Value::String(generator.one_of(&self.b.handles)));
        }
        message.encode_to_vec()
    }

    async fn check(&self, method: &Method, bytes: &[u8]) -> Result<(), TestCaseError> {
        let a = self.create_a().await;
        let request = self.request(method, &a, bytes);
        let before = rows_of(&self.server.database, &self.b.id).await;
        let call = Call::grpc(method.path, &request).bearer(&a.token);
        let answer = raw::send(self.server.address, call).await;
        let code = Code::from_i32(answer.grpc_status.unwrap());
        let status = answer.status().unwrap();
        let received = with_decoded_tokens(&[&answer.body, status.message().as_bytes(), status.details()].join(&0));
        let sent = with_decoded_tokens(&request);
        for secret in self.b.secrets.iter().filter(|secret| !contains(&sent, secret)) {
            if contains(&received, secret) {
                return Err(TestCaseError::fail(format!("{} discloses {secret}", method.name)));
            }
        }
        if rows_of(&self.server.database, &self.b.id).await != before {
            return Err(TestCaseError::fail(format!("{} changes B", method.name)));
        }
        if matches!(code, Code::Internal | Code::Unknown | Code::DeadlineExceeded) {
            return Err(TestCaseError::fail(format!("{} ends as {code:?}: {:?}", method.name, answer.reason)));
        }
        let count = |counter: &Cell<u32>, counts: bool| counter.set(counter.get() + u32::from(counts));
        count(&self.answered, code == Code::Ok);
        count(&self.written, code == Code::Ok && method.write);
        count(&self.denied, answer.reason.as_deref() == Some("PERMISSION_DENIED"));
        Ok(())
    }
}

#[test]
fn requests_with_the_ids_of_another_organization_change_and_disclose_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let fixture = runtime.block_on(Fixture::new());
    let count = std::env::var("ROSTER_FOREIGN_ID_REQUESTS").ok();
    let cases = count.map_or(REQUESTS, |number| number.parse().unwrap());
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcome = runner.run(&(0..METHODS.len(), vec(any::<u8>(), 40..80)), |(method, bytes)| {
        runtime.block_on(fixture.check(&METHODS[method], &bytes))
    });
    outcome.unwrap();
    // The requests were meaningful: some succeeded, and many were denied.
    let (answered, written, denied) = (fixture.answered.get(), fixture.written.get(), fixture.denied.get());
    assert!(written > cases / 50 && answered > written, "{answered} answered, {written} of them writes");
    assert!(denied > cases / 5, "{denied} denied");
    runtime.block_on(fixture.server.database.assert_invariants());
}
