//! The matrix's twin: whatever ann, who owns the organization A, sends with the ids of B in it, anywhere, changes nothing
//! of B and tells her nothing of B. (There is an ann and an A for each request: what she hears again of what she once
//! wrote into A is nothing that she has been told of B.)

use super::cast::user_token;
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

/// How many requests are made unless `ROSTER_TWIN_REQUESTS` says otherwise.
const REQUESTS: u32 = 300;
/// B's slug.
const SLUG: &str = "slug-of-b";

fn text(value: &str) -> prost_types::Value {
    prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(value.to_owned())) }
}

fn object(value: &str) -> prost_types::Struct {
    prost_types::Struct { fields: [("note".to_owned(), text(value))].into() }
}

/// B, as ann knows it and as she does not.
struct Theirs {
    id: String,
    /// What she may have heard: its names, some of its people, what was shown to its members.
    handles: Vec<String>,
    /// The ids of its invitations, which she may have heard too.
    invitations: Vec<String>,
    /// What she must not hear unless she has said it herself, in the same request. The profiles of bob and ben are not B's secrets: she knows
    /// their ids, may add them to A, and sees whom she has added. Of cleo she knows nothing.
    secrets: Vec<String>,
}

async fn found_theirs(server: &Server) -> Theirs {
    let mut bob = server.with_token(&user_token(server, "bob-of-b"));
    let wish = pb::CreateOrganizationRequest {
        slug: SLUG.to_owned(),
        attributes: Some(object("attribute-of-b")),
        owner_attributes: Some(object("desk-of-bob")),
        ..organization("Name of B")
    };
    let made = bob.organizations.create_organization(wish).await.unwrap().into_inner();
    let b = made.organization.unwrap();
    for user in ["ben-of-b", "cleo-of-b"] {
        let wish = pb::AddMemberRequest { attributes: Some(object("desk-of-b")), ..add(&b.id, user, "member") };
        bob.organizations.add_member(wish).await.unwrap();
        server.with_token(&user_token(server, user)).users.get_caller(pb::GetCallerRequest {}).await.unwrap();
    }
    let mut pages = Vec::new();
    for organization in [b.id.clone(), b.slug.clone()] {
        let request = pb::ListMembersRequest { organization, page_size: 1, ..Default::default() };
        pages.push(bob.organizations.list_members(request).await.unwrap().into_inner());
    }
    let request = pb::ListOrganizationsRequest { page_size: 1, ..Default::default() };
    // One more, ordered behind B, so that the token of a page of all organizations names B.
    server.with_token(&user_token(server, "ann")).create("Zebra").await;
    let all = server.operator().organizations.list_organizations(request).await.unwrap().into_inner();
    assert!(!all.next_page_token.is_empty());
    let invitations = invited_by_them(server, &b.id).await;
    let mut handles = vec![b.id.clone(), b.slug.clone(), b.id.to_uppercase(), b.etag, made.consistency_token];
    handles.extend(["bob-of-b", "ben-of-b", "bob-of-b@example.com", "ben-of-b@example.com"].map(str::to_owned));
    handles.extend(pages.iter().map(|page| page.next_page_token.clone()));
    handles.extend([pages[0].members[0].etag.clone(), all.next_page_token]);
    let mut secrets = vec![b.id.clone(), b.slug, b.name];
    secrets.extend(["cleo-of-b", "attribute-of-b", "desk-of-bob", "desk-of-b", "desk-of-guest"].map(str::to_owned));
    secrets.extend(["cleo@guests.example", "guests.example", "handle-of-guest"].map(str::to_owned));
    // Who has heard a token may know what it is for; of these ann has heard none.
    secrets.extend(invitations.iter().map(|(_, token)| token.clone()));
    let invitations: Vec<String> = invitations.into_iter().map(|(id, _)| id).collect();
    secrets.extend(invitations.iter().cloned());
    handles.extend(invitations.iter().cloned());
    Theirs { id: b.id, handles, invitations, secrets }
}

/// Whom B has invited: an address, somebody without one, and one to whom mail is under way. Their ids and tokens.
async fn invited_by_them(server: &Server, b: &str) -> Vec<(String, String)> {
    use pb::create_invitation_request::Recipient;
    let mut backend = server.service(&[Scope::Manage]).invitations;
    let mut made = Vec::new();
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
        let invited = backend.create_invitation(request).await.unwrap().into_inner();
        made.push((invited.invitation.unwrap().invitation_id, invited.token));
    }
    made.retain(|(_, token)| !token.is_empty());
    made
}

/// Every row that belongs to B or is about one of its people alone.
async fn rows_of(database: &Database, id: &str) -> Vec<(String, String)> {
    const PEOPLE: &str = "('bob-of-b', 'ben-of-b', 'cleo-of-b')";
    let of_organization = ["memberships", "slugs", "log", "events", "invitations", "invitation_tokens", "outbox"]
        .map(|table| (table, "organization_id::text = $1"));
    let of_users = [("users", "id"), ("user_events", "user_id"), ("user_log", "user_id")];
    let selects = [("organizations", "id::text = $1")]
        .into_iter()
        .chain(of_organization)
        .map(|(table, belongs)| format!("SELECT '{table}', t::text FROM {table} t WHERE {belongs}"))
        .chain(
            of_users.map(|(table, user)| format!("SELECT '{table}', t::text FROM {table} t WHERE {user} IN {PEOPLE}")),
        );
    let all = format!("{} ORDER BY 1, 2", selects.collect::<Vec<_>>().join(" UNION ALL "));
    sqlx::query_as(AssertSqlSafe(all)).bind(id).fetch_all(&database.pool).await.unwrap()
}

/// Where in a request their ids stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// Any of them in any string.
    Everywhere,
    /// Any of them in a few strings of a request that is otherwise ann's.
    Seldom,
    /// A request of ann's about B and its people, sensible but for the one who makes it.
    AtThem,
}

/// Turns random bytes into a request. Everything that may be chosen is chosen by the next of them.
struct Filler<'a> {
    bytes: std::iter::Cycle<std::slice::Iter<'a, u8>>,
    aim: Aim,
    ours: &'a Ours,
    theirs: &'a Theirs,
}

/// What a sensible request of ann's is made of.
struct Ours {
    id: String,
    owner: String,
    token: String,
    invitation: String,
}

impl Filler<'_> {
    fn choose(&mut self, count: u8) -> u8 {
        self.bytes.next().unwrap() % count
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        let index = self.choose(u8::try_from(all.len()).unwrap());
        all[usize::from(index)].clone()
    }

    fn word(&mut self, field: &str) -> String {
        let invitations: Vec<&str> = self.theirs.invitations.iter().map(String::as_str).collect();
        let aimed: &[&str] = match field {
            "organization" => &[&self.theirs.id, SLUG],
            "invitation_id" => &invitations,
            "user_id" => &["ben-of-b", "bob-of-b", &self.ours.owner],
            "email" => &["ben-of-b@example.com", "bob-of-b@example.com"],
            _ => &[],
        };
        if self.aim == Aim::AtThem && !aimed.is_empty() {
            return self.one_of(aimed).to_owned();
        }
        if self.aim == Aim::Everywhere || (self.aim == Aim::Seldom && self.choose(12) == 0) {
            return self.one_of(&self.theirs.handles);
        }
        let sensible: &[&str] = match field {
            "organization" => &[&self.ours.id],
            "user_id" => &[&self.ours.owner, "abe", "amy", "al", "art"],
            "email" => &["abe@example.com", "guest@example.com"],
            "invitation_id" => &[&self.ours.invitation],
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
        self.one_of(sensible).to_owned()
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
            let Kind::Message(entry) = field.kind() else { panic!("a map has entries") };
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
            // Seldom: most of what could be seen would not happen.
            Kind::Bool => Value::Bool(self.choose(12) == 0),
            Kind::Int32 => Value::I32(self.choose(3).into()),
            Kind::Double => Value::F64(self.choose(3).into()),
            // Seconds: an hour or a few.
            Kind::Int64 => Value::I64(3600 * (1 + i64::from(self.choose(3)))),
            // By mail or, for users in vain, in the answer.
            Kind::Enum(kind) if kind.name() == "InvitationDelivery" => Value::EnumNumber(self.choose(3).into()),
            // ACTIVE or INACTIVE; of invitations, ACCEPTED or DECLINED.
            Kind::Enum(_) => Value::EnumNumber(2 + i32::from(self.choose(2))),
            Kind::Message(kind) => Value::Message(self.message(&kind, depth + 1)),
            other => panic!("a request has a field of a kind that there was not: {other:?}"),
        }
    }
}

/// What can be read in these bytes: they themselves, and what the opaque tokens in them are made of.
fn readable(bytes: &[u8]) -> Vec<u8> {
    let mut all = bytes.to_vec();
    let opaque = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    for word in bytes.split(|byte| !opaque(byte)).filter(|word| word.len() > 16) {
        // The bytes before a text are its field and its length, which may look like a part of it.
        for inside in (0..4).filter_map(|start| URL_SAFE_NO_PAD.decode(&word[start..]).ok()) {
            all.extend(inside);
        }
    }
    all
}

fn holds(texts: &[u8], secret: &str) -> bool {
    texts.windows(secret.len()).any(|window| window == secret.as_bytes())
}

struct Twin {
    server: Server,
    pool: DescriptorPool,
    theirs: Theirs,
    anns: Cell<u32>,
    /// How many calls were answered, how many of these were writes, and how many came to a closed door.
    answered: Cell<u32>,
    written: Cell<u32>,
    denied: Cell<u32>,
}

impl Twin {
    async fn begin() -> Self {
        let server = Server::start_generous().await;
        let theirs = found_theirs(&server).await;
        server.with_token(&user_token(&server, "abe")).users.get_caller(pb::GetCallerRequest {}).await.unwrap();
        let pool = DescriptorPool::decode(grpc::FILE_DESCRIPTOR_SET).unwrap();
        let count = || Cell::new(0);
        Self { server, pool, theirs, anns: count(), answered: count(), written: count(), denied: count() }
    }

    async fn found_ours(&self) -> Ours {
        self.anns.set(self.anns.get() + 1);
        let owner = format!("ann-{}", self.anns.get());
        let token = user_token(&self.server, &owner);
        let mut ann = self.server.with_token(&token);
        let id = ann.create("The organization A").await;
        ann.add(&id, "amy", "member").await;
        let delivery = pb::InvitationDelivery::None.into();
        let request = pb::CreateInvitationRequest { delivery, ..invite(&id, "ivy@example.com") };
        let made = ann.invitations.create_invitation(request).await.unwrap().into_inner();
        let invitation = made.invitation.unwrap().invitation_id;
        Ours { id, owner, token, invitation }
    }

    fn request(&self, method: &Method, ours: &Ours, bytes: &[u8]) -> Vec<u8> {
        let service = self.pool.get_service_by_name(method.service).unwrap();
        let descriptor = service.methods().find(|descriptor| descriptor.name() == method.name).unwrap();
        let mut filler = Filler { bytes: bytes.iter().cycle(), aim: Aim::AtThem, ours, theirs: &self.theirs };
        filler.aim = filler.one_of(&[Aim::Everywhere, Aim::Seldom, Aim::Seldom, Aim::AtThem, Aim::AtThem]);
        let mut message = filler.message(&descriptor.input(), 0);
        let used = message.encode_to_vec();
        let strings: Vec<FieldDescriptor> = (descriptor.input().fields())
            .filter(|field| field.kind() == Kind::String && !field.is_list() && field.containing_oneof().is_none())
            .collect();
        if !strings.is_empty() && !self.theirs.handles.iter().any(|handle| holds(&used, handle)) {
            message.set_field(&filler.one_of(&strings), Value::String(filler.one_of(&self.theirs.handles)));
        }
        message.encode_to_vec()
    }

    async fn try_one(&self, method: &Method, bytes: &[u8]) -> Result<(), TestCaseError> {
        let ours = self.found_ours().await;
        let request = self.request(method, &ours, bytes);
        let before = rows_of(&self.server.database, &self.theirs.id).await;
        let call = Call::grpc(method.path, &request).bearer(&ours.token);
        let answer = raw::send(self.server.address, call).await;
        let code = Code::from_i32(answer.grpc_status.unwrap());
        let status = answer.status().unwrap();
        let told = readable(&[&answer.body, status.message().as_bytes(), status.details()].join(&0));
        let said = readable(&request);
        for secret in self.theirs.secrets.iter().filter(|secret| !holds(&said, secret)) {
            if holds(&told, secret) {
                return Err(TestCaseError::fail(format!("{} tells {secret}", method.name)));
            }
        }
        if rows_of(&self.server.database, &self.theirs.id).await != before {
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
fn the_ids_of_another_organization_open_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let twin = runtime.block_on(Twin::begin());
    let wanted = std::env::var("ROSTER_TWIN_REQUESTS").ok();
    let cases = wanted.map_or(REQUESTS, |number| number.parse().unwrap());
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcome = runner.run(&(0..METHODS.len(), vec(any::<u8>(), 40..80)), |(method, bytes)| {
        runtime.block_on(twin.try_one(&METHODS[method], &bytes))
    });
    outcome.unwrap();
    // The requests were no mere noise.
    let (answered, written, denied) = (twin.answered.get(), twin.written.get(), twin.denied.get());
    assert!(written > cases / 50 && answered > written, "{answered} answered, {written} of them written");
    assert!(denied > cases / 5, "{denied} denied");
    runtime.block_on(twin.server.database.assert_invariants());
}
