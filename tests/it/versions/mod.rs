//! The versions of resources: `etag` and `update_time` move when a covered field changes, and only then.
//!
//! The option `version_exclusion` marks the fields that the version does not cover. The test reads the marks and the
//! resources from the descriptors, and the write methods from the access rules: a new one of each has to take part.

mod resources;
mod writes;

use crate::harness::Server;
use crate::harness::dynamic::{self, Caller};
use crate::random::words::Random;
use prost::Message;
use prost_reflect::{DynamicMessage, MethodDescriptor, ReflectMessage, Value};
use resources::{Key, Reader, Resources, collect, exclusion, is_version, method, types};
use roster::authn::mint::ClaimSet;
use roster::authz::rules::METHODS;
use roster::domain::Scope;
use roster::service::outbox::DeliveryOutcome;
use std::collections::{BTreeMap, BTreeSet};
use writes::Targets;

/// How often each write method is called.
const ROUNDS: usize = 4;
/// How often what did not occur by then is tried.
const FURTHER_ROUNDS: usize = 60;
/// The methods that make resources, or make them changeable.
const BUILDERS: [&str; 8] = [
    "CreateOrganization",
    "UndeleteOrganization",
    "ActivateOrganization",
    "ReactivateUser",
    "ApplyAccessModel",
    "EnsureMember",
    "CreateRole",
    "CreateInvitation",
];
/// A method for each resource that changes it.
const CHANGES: [&str; 5] = ["UpdateOrganization", "UpdateMember", "UpdateRole", "PutUser", "RemindInvitation"];

/// What happens beside the calls.
const EVENTS: [&str; 4] =
    ["a mail is due", "an invitation expires", "housekeeping", "an organization is due for purge"];

/// How a resource may differ from what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    /// The version moved, with a covered field.
    Version,
    /// Only fields changed that the version does not cover.
    Excluded,
}

/// Two readings of a resource.
struct Pair<'p> {
    key: &'p Key,
    old: &'p DynamicMessage,
    new: &'p DynamicMessage,
}

impl Pair<'_> {
    /// The names of the fields that differ, out of those that this function selects.
    fn changed(&self, select: impl Fn(&prost_reflect::FieldDescriptor) -> bool) -> Vec<String> {
        let differs = |field: &prost_reflect::FieldDescriptor| self.old.get_field(field) != self.new.get_field(field);
        let fields = self.old.descriptor();
        let changed = fields.fields().filter(|field| select(field) && differs(field));
        changed.map(|field| field.name().to_owned()).collect()
    }

    /// Compares the version with the fields that it covers.
    fn check(&self, event: &str) -> Option<Difference> {
        let covered = self.changed(|field| !is_version(field) && exclusion(field).is_none());
        let excluded = self.changed(|field| exclusion(field).is_some());
        let moved = self.changed(is_version);
        let context = format!("{event}: {:?}: {covered:?} changed, {moved:?} moved", self.key);
        let versions = self.old.descriptor().fields().filter(is_version).count();
        if covered.is_empty() {
            assert!(moved.is_empty(), "{context}");
            return (!excluded.is_empty()).then_some(Difference::Excluded);
        }
        if !has_version(self.old) || !has_version(self.new) {
            return None;
        }
        assert_eq!(moved.len(), versions, "{context}");
        assert!(time(self.new) > time(self.old), "{context}: {} {}", self.old, self.new);
        Some(Difference::Version)
    }
}

/// Whether a resource has a version: roles of the deployment, and roles that are replaced, have none.
fn has_version(message: &DynamicMessage) -> bool {
    message.has_field_by_name("update_time") || etag(message).is_some_and(|etag| !etag.is_empty())
}

fn etag(message: &DynamicMessage) -> Option<String> {
    message.get_field_by_name("etag").map(|etag| etag.as_str().unwrap().to_owned())
}

/// The update time; `None` if it is unset.
fn time(message: &DynamicMessage) -> Option<(i64, i32)> {
    let field = message.get_field_by_name("update_time").unwrap();
    let time: prost_types::Timestamp = field.as_message().unwrap().transcode_to().unwrap();
    message.has_field_by_name("update_time").then_some((time.seconds, time.nanos))
}

/// A server, and what was read of it.
struct Run {
    server: Server,
    reader: Reader,
    random: Random,
    present: Resources,
    /// Every etag that a resource has had.
    etags: BTreeSet<(Key, String)>,
    differences: BTreeSet<(String, Difference)>,
    succeeded: BTreeMap<String, usize>,
}

impl Run {
    async fn start(seed: u64) -> Self {
        let server = Server::start_generous().await;
        let token = server.service_token("reader", &[Scope::Operator]);
        let reader = Reader(Caller::with_token(&server.channel(), token));
        sqlx::query("UPDATE access_model SET enabled = false").execute(&server.database.pool).await.unwrap();
        let (etags, differences, succeeded) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        let random = Random::new(seed);
        let mut run = Self { server, reader, random, present: Resources::new(), etags, differences, succeeded };
        run.present = run.reader.all().await;
        run
    }

    /// Reads everything, and compares each resource with what it was.
    async fn compare(&mut self, event: &str) {
        let after = self.reader.all().await;
        for (key, new) in &after {
            let old = self.present.get(key);
            let difference = old.and_then(|old| Pair { key, old, new }.check(event));
            if let Some(difference) = difference {
                self.differences.insert((key.0.clone(), difference));
            }
            if let Some(etag) = etag(new).filter(|etag| !etag.is_empty()) {
                let is_new = self.etags.insert((key.clone(), etag.clone()));
                let must_be_new = old.is_none() || difference == Some(Difference::Version);
                assert!(is_new || !must_be_new, "{event}: {key:?} had the etag {etag} before");
            }
        }
        self.present = after;
    }

    fn caller(&self, user: Option<&str>) -> Caller {
        let token = match user {
            Some(user) => {
                let email = Some(format!("{user}@example.com"));
                self.server.mint(&ClaimSet { email, email_verified: Some(true), ..Server::claims(user) })
            }
            None => self.server.service_token("root", &[Scope::Operator]),
        };
        Caller::with_token(&self.server.channel(), token)
    }

    /// Makes a random call of a write method: sometimes as a forecast, sometimes repeated.
    async fn write(&mut self, name: &'static str) {
        let Some((user, bytes)) = Targets::of(&self.present).call(name, &mut self.random) else { return };
        let method = method(name);
        let mut caller = self.caller(user.as_deref());
        let mut message = DynamicMessage::decode(method.input(), bytes.as_slice()).unwrap();
        if let Some(user) = &user {
            // The first call of a user stores the claims of the token.
            caller.call(&resources::method("GetCaller"), Vec::new()).await.map(drop).unwrap_or_default();
            self.compare(&format!("{user} calls")).await;
        }
        if self.random.one_in(4) {
            message.set_field_by_name("validate_only", Value::Bool(true));
            let _ = caller.call(&method, message.encode_to_vec()).await;
            self.assert_unchanged(&format!("a forecast of {message}")).await;
            message.set_field_by_name("validate_only", Value::Bool(false));
        }
        let request_id = roster::random::uuid().to_string();
        message.set_field_by_name("request_id", Value::String(request_id));
        let event = format!("{name} {message}");
        let answer = caller.call(&method, message.encode_to_vec()).await;
        self.compare(&event).await;
        let Ok(answer) = answer else { return };
        *self.succeeded.entry(name.to_owned()).or_default() += 1;
        self.check_answer(&method, &answer, &event);
        if self.random.one_in(3) {
            let again = caller.call(&method, message.encode_to_vec()).await;
            assert!(again.is_ok() || name == "DeleteOrganization", "{event}, repeated: {again:?}");
            self.assert_unchanged(&format!("{event}, repeated")).await;
        }
        if self.random.one_in(3) {
            message.clear_field_by_name("request_id");
            let _ = caller.call(&method, message.encode_to_vec()).await;
            self.compare(&format!("{event}, and the same again")).await;
        }
    }

    /// Asserts that the resources in an answer have the versions that reads show.
    fn check_answer(&self, method: &MethodDescriptor, answer: &[u8], event: &str) {
        let mut answered = Resources::new();
        collect(&DynamicMessage::decode(method.output(), answer).unwrap(), &mut answered);
        for (key, shown) in answered {
            // DeleteRole shows the role before its deletion.
            if let Some(read) = self.present.get(&key) {
                assert_eq!((etag(&shown), time(&shown)), (etag(read), time(read)), "{event}: {key:?}");
            }
        }
    }

    /// What did not occur yet: the success of a method, a change of a resource, and one of a field that is not covered.
    fn missing(&self, writes: &[&str]) -> Vec<String> {
        let failed = writes.iter().filter(|method| !self.succeeded.contains_key(**method));
        let mut missing: Vec<String> = failed.map(|method| (*method).to_owned()).collect();
        for resource in types() {
            let has_excluded = resource.fields().any(|field| exclusion(&field).is_some());
            let expected = [(Difference::Version, true), (Difference::Excluded, has_excluded)];
            for (difference, _) in expected.into_iter().filter(|(_, expected)| *expected) {
                if !self.differences.contains(&(resource.name().to_owned(), difference)) {
                    missing.push(format!("{difference:?} of {}", resource.name()));
                }
            }
        }
        missing
    }

    async fn assert_unchanged(&mut self, event: &str) {
        let after = self.reader.all().await;
        for (key, new) in &after {
            assert_eq!(self.present.get(key), Some(new), "{event}");
        }
        assert_eq!(after.len(), self.present.len(), "{event}");
    }

    /// The first key of a resource with this value in a field.
    fn find(&mut self, resource: &str, field: &str, value: i32) -> Option<Key> {
        let state = |message: &DynamicMessage| message.get_field_by_name(field).unwrap().as_enum_number();
        let fits = |(key, message): &(&Key, &DynamicMessage)| key.0 == resource && state(message) == Some(value);
        let found: Vec<Key> = self.present.iter().filter(fits).map(|(key, _)| key.clone()).collect();
        if found.is_empty() { None } else { Some(self.random.one_of(&found).clone()) }
    }

    /// Changes rows without a call, and compares nothing: it stands for time that passes.
    async fn prepare(&mut self, sql: &str, id: &str) {
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).execute(&self.server.database.pool).await.unwrap();
        self.present = self.reader.all().await;
    }

    async fn happen(&mut self, event: &'static str) {
        let roster = self.server.roster.clone();
        match event {
            "a mail is due" => {
                let now = "UPDATE outbox SET next_attempt_time = clock_timestamp() WHERE $1::text IS NOT NULL";
                self.prepare(now, "").await;
                let letter = roster.claim_letter().await.unwrap();
                self.compare("a mail is claimed").await;
                let Some(letter) = letter else { return };
                let outcomes = [
                    DeliveryOutcome::Delivered,
                    DeliveryOutcome::Transient("later".to_owned()),
                    DeliveryOutcome::Final("never".to_owned()),
                ];
                let outcome = self.random.one_of(&outcomes).clone();
                roster.settle_letter(letter.id, outcome.clone()).await.unwrap();
                self.compare(&format!("a mail is {outcome:?}")).await;
            }
            "an invitation expires" => {
                let Some(key) = self.find("Invitation", "state", 1) else { return };
                let soon = "UPDATE invitations SET expire_time = clock_timestamp() + interval '300 milliseconds'
                            WHERE id = $1::uuid";
                self.prepare(soon, &key.1[1]).await;
                let time = "SELECT expire_time <= clock_timestamp() FROM invitations WHERE id = $1::uuid";
                let is_over =
                    || sqlx::query_scalar::<_, bool>(time).bind(&key.1[1]).fetch_one(&self.server.database.pool);
                while !is_over().await.unwrap() {}
                self.compare("an invitation expires").await;
            }
            "an organization is due for purge" => {
                let Some(key) = self.find("Organization", "state", 4) else { return };
                let due = "UPDATE organizations SET purge_time = clock_timestamp() WHERE id = $1::uuid";
                self.prepare(due, &key.1[0]).await;
            }
            _ => {
                roster.tidy().await.unwrap();
                self.compare("housekeeping").await;
            }
        }
    }
}

#[tokio::test]
async fn the_version_of_a_resource_moves_exactly_when_a_covered_field_changes() {
    let seed = std::env::var("ROSTER_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut run = Run::start(seed).await;
    let writes: Vec<&str> = METHODS.iter().filter(|method| method.write).map(|method| method.name).collect();
    run.write("EnableRoles").await;
    for _ in 0..4 {
        run.write("CreateOrganization").await;
    }
    for _ in 0..ROUNDS {
        let mut steps: Vec<&'static str> = writes.iter().chain(&EVENTS).copied().collect();
        while !steps.is_empty() {
            let step = steps.swap_remove(run.random.below(steps.len()));
            if EVENTS.contains(&step) { run.happen(step).await } else { run.write(step).await }
        }
    }
    // What did not occur by chance.
    for _ in 0..FURTHER_ROUNDS {
        let missing = run.missing(&writes);
        if missing.is_empty() {
            break;
        }
        let failed = writes.iter().filter(|method| missing.iter().any(|name| name == **method));
        for step in BUILDERS.iter().chain(&CHANGES).chain(failed).copied() {
            run.write(step).await;
        }
    }
    run.server.database.assert_invariants().await;
    assert!(run.missing(&writes).is_empty(), "with seed {seed} nothing was seen of {:?}", run.missing(&writes));
}

#[test]
fn every_resource_has_an_update_time_and_only_resources_have_marks() {
    let resources = types();
    let names: BTreeSet<&str> = resources.iter().map(prost_reflect::MessageDescriptor::name).collect();
    let known = ["GetAccessModelResponse", "Invitation", "Member", "Organization", "Role", "User"];
    assert_eq!(names, BTreeSet::from(known), "a resource needs its key in `resources.rs`");
    for message in dynamic::descriptors().all_messages().filter(|message| message.package_name() == "roster.v1") {
        let is_resource = names.contains(message.name());
        assert!(!is_resource || message.get_field_by_name("update_time").is_some(), "{}", message.name());
        for field in message.fields() {
            let reason = exclusion(&field);
            assert_ne!(reason, Some(0), "{}: an exclusion needs a reason", field.full_name());
            assert!(reason.is_none() || (is_resource && !is_version(&field)), "{}", field.full_name());
        }
    }
}
