//! Permissions of the application and roles of every kind, answered from the client's replica.

use super::{cached, client, from_memory, soon};
use crate::harness::server::Clients;
use crate::harness::{Server, organization, remove, set_role};
use crate::roles::apply;
use roster::client::{
    Answer, CacheSettings, Check, CheckReason, Client, Consistency, MembershipCache, Question, Source,
};
use roster::domain::{Permission, RoleName};
use roster::grpc::pb;
use roster::grpc::pb::ErrorReason;
use serde_json::{Value, json};
use std::time::Duration;

use CheckReason::{Allowed, NotAMember, RoleLacksPermission, RoleTooLow};

/// Replaces the access model. Returns whether the server accepts it.
async fn put(operator: &mut Clients, model: Value) -> bool {
    let request = pb::ApplyAccessModelRequest { older_clients_gone: true, ..apply(model) };
    operator.models.apply_access_model(request).await.is_ok()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn creation(organization: &str, name: &str, permissions: &[&str]) -> pb::CreateRoleRequest {
    let (organization, name) = (organization.to_owned(), name.to_owned());
    pb::CreateRoleRequest { organization, name, permissions: words(permissions), ..Default::default() }
}

fn update(organization: &str, name: &str, permissions: &[&str]) -> pb::UpdateRoleRequest {
    pb::UpdateRoleRequest {
        organization: organization.to_owned(),
        name: name.to_owned(),
        permissions: words(permissions),
        update_mask: Some(prost_types::FieldMask { paths: vec!["permissions".to_owned()] }),
        ..Default::default()
    }
}

fn deletion(organization: &str, name: &str, replace_with: &str) -> pb::DeleteRoleRequest {
    let replace_with = replace_with.to_owned();
    pb::DeleteRoleRequest {
        organization: organization.to_owned(),
        name: name.to_owned(),
        replace_with,
        ..Default::default()
    }
}

fn permission(organization: &str, user: &str, word: &str) -> Check {
    Check::permission(organization, user, Permission::new(word).unwrap()).unwrap()
}

fn role(organization: &str, user: &str, role: &str) -> Check {
    Check::role(organization, user, RoleName::parse(role).unwrap()).unwrap()
}

/// Asserts the reasons of answers from memory, by a replica that has caught up.
async fn assert_reasons(cache: &MembershipCache, answers: &[(Check, CheckReason)]) {
    soon(cache.caught_up()).await;
    for (check, reason) in answers {
        let answer = from_memory(cache, check).await;
        assert_eq!((answer.reason, answer.source), (*reason, Source::Cache), "{check:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_and_permissions_of_the_application_are_answered_from_memory() {
    let (server, _proxy, cache) = cached().await;
    let mut operator = server.operator();
    let seller = |words: &[&str]| json!([{ "name": "seller", "permissions": words }]);
    let model =
        |roles: Value| json!({ "permissions": [{ "name": "shop.sell" }, { "name": "shop.refund" }], "roles": roles });
    assert!(put(&mut operator, model(seller(&["shop.sell"]))).await);
    let id = server.user("ada").create("Acme").await;
    operator.roles.create_role(creation(&id, "org:support", &["shop.refund"])).await.unwrap();
    for (user, role) in [("grace", "seller"), ("alan", "org:support"), ("joan", "admin")] {
        operator.add(&id, user, role).await;
    }
    assert_reasons(
        &cache,
        &[
            (permission(&id, "grace", "shop.sell"), Allowed),
            (permission("acme", "grace", "shop.refund"), RoleLacksPermission),
            (role(&id, "grace", "seller"), Allowed),
            (role(&id, "grace", "org:support"), RoleTooLow),
            (permission(&id, "alan", "shop.refund"), Allowed),
            (role(&id, "alan", "org:support"), Allowed),
            (permission(&id, "joan", "shop.sell"), RoleLacksPermission),
            (permission(&id, "joan", "members.add"), Allowed),
            (permission(&id, "ada", "shop.refund"), Allowed),
            (role(&id, "ada", "seller"), Allowed),
            (permission(&id, "eve", "shop.sell"), NotAMember),
        ],
    )
    .await;
    let named = from_memory(&cache, &Check::member(&id, "alan").unwrap()).await.role;
    assert_eq!(named, Some(RoleName::parse("org:support").unwrap()));

    // A change of a role concerns all its members at once, and so does one of what `admin` holds.
    operator.roles.update_role(update(&id, "org:support", &["shop.sell"])).await.unwrap();
    let admin = json!({ "name": "admin", "permissions": ["organization.read", "members.list", "membership.leave", "shop.sell"] });
    assert!(put(&mut operator, model(json!([seller(&["shop.refund"])[0], admin]))).await);
    assert_reasons(
        &cache,
        &[
            (permission(&id, "grace", "shop.sell"), RoleLacksPermission),
            (permission(&id, "grace", "shop.refund"), Allowed),
            (permission(&id, "alan", "shop.sell"), Allowed),
            (permission(&id, "alan", "shop.refund"), RoleLacksPermission),
            (permission(&id, "joan", "shop.sell"), Allowed),
            (permission(&id, "joan", "members.add"), RoleLacksPermission),
            (role(&id, "joan", "org:support"), Allowed),
        ],
    )
    .await;
    operator.roles.delete_role(deletion(&id, "org:support", "seller")).await.unwrap();
    assert_reasons(&cache, &[(permission(&id, "alan", "shop.refund"), Allowed)]).await;
    let statistics = cache.statistics();
    assert_eq!((statistics.from_server, statistics.exports, statistics.gaps), (0, 1, 0), "{statistics:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_answers_about_permissions_and_roles_that_the_replica_does_not_know() {
    let (server, _proxy, cache) = cached().await;
    let mut operator = server.operator();
    let id = server.user("ada").create("Acme").await;
    soon(cache.caught_up()).await;
    // The server refuses what does not exist; the cache never answers no to it.
    let refund = permission(&id, "ada", "shop.refund");
    for check in [&refund, &role(&id, "ada", "cashier")] {
        assert!(cache.check_now(check).is_none());
        let error = cache.check(check).await.unwrap_err();
        assert!(!error.is_unavailable() && error.reason() == Some(ErrorReason::InvalidRequest), "{error:?}");
    }
    let ghost = role(&id, "ada", "org:ghost");
    assert!(cache.check_now(&ghost).is_none());
    assert_eq!(cache.check(&ghost).await.unwrap().reason, CheckReason::RoleNotFound);
    // One of them in a batch leaves the batch to the server.
    let batch = [Check::member(&id, "ada").unwrap(), ghost.clone()];
    let answers = cache.check_batch(&batch, &Consistency::Recent).await.unwrap();
    assert!(answers.iter().all(|answer| answer.source != Source::Cache), "{answers:?}");

    let model = json!({
        "permissions": [{ "name": "shop.refund" }],
        "roles": [{ "name": "cashier", "permissions": ["shop.refund"] }],
    });
    assert!(put(&mut operator, model).await);
    operator.roles.create_role(creation(&id, "org:ghost", &[])).await.unwrap();
    assert_reasons(&cache, &[(refund, Allowed), (role(&id, "ada", "cashier"), Allowed), (ghost, Allowed)]).await;
}

/// The permissions that random models may declare.
const WORDS: [&str; 5] = ["shop.sell", "shop.refund", "shop.audit", "members.list", "members.add"];
/// The roles of the deployment in random models, `vip` only for organizations of the kind `vendor`.
const DEPLOYMENT: [&str; 3] = ["seller", "cashier", "vip"];
/// The roles that organizations may define.
const OWN: [&str; 3] = ["org:lead", "org:helper", "org:guest"];
const USERS: [&str; 5] = ["grace", "alan", "joan", "kurt", "emmy"];
/// The organization that is purged and created again is the last one.
const KINDS: [&str; 3] = ["account", "vendor", "vendor"];

/// Reproducible random numbers (Knuth, volume 2, section 3.3.4).
struct Seed(u64);

impl Seed {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    fn some_of<T: Copy>(&mut self, items: &[T]) -> Vec<T> {
        items.iter().copied().filter(|_| self.below(2) == 0).collect()
    }

    /// A model of which the first words are declared, and in which `admin` includes `member`.
    fn model(&mut self) -> Value {
        let declared = &WORDS[..3 - self.below(2)];
        let held: Vec<&str> = declared.iter().chain(&WORDS[3..]).copied().collect();
        let member = self.some_of(&held);
        let admin: Vec<&str> = self.some_of(&held).into_iter().chain(member.iter().copied()).collect();
        let mut roles: Vec<Value> = Vec::new();
        if self.below(2) == 0 {
            roles.push(json!({ "name": "member", "permissions": member }));
            roles.push(json!({ "name": "admin", "permissions": distinct(admin) }));
        }
        for name in DEPLOYMENT {
            if self.below(4) > 0 {
                let kind = if name == "vip" { "vendor" } else { "" };
                roles.push(json!({ "name": name, "kind": kind, "permissions": self.some_of(&held) }));
            }
        }
        let permissions: Vec<Value> = declared.iter().map(|name| json!({ "name": name })).collect();
        json!({ "permissions": permissions, "roles": roles, "delegable": self.some_of(&WORDS[3..]) })
    }
}

fn distinct(mut words: Vec<&str>) -> Vec<&str> {
    words.sort_unstable();
    words.dedup();
    words
}

/// A deployment that changes at random.
struct RandomDeployment {
    seed: Seed,
    operator: Clients,
    organizations: Vec<String>,
}

impl RandomDeployment {
    async fn new(server: &Server, seed: u64) -> Self {
        let mut deployment = Self { seed: Seed(seed), operator: server.operator(), organizations: Vec::new() };
        for index in 0..KINDS.len() {
            deployment.create(index).await;
        }
        deployment
    }

    async fn create(&mut self, index: usize) {
        let request = pb::CreateOrganizationRequest {
            owner_user_id: "ada".to_owned(),
            kind: KINDS[index].to_owned(),
            ..organization("Some")
        };
        let created = self.operator.organizations.create_organization(request).await.unwrap().into_inner();
        self.organizations.insert(index, created.organization.unwrap().id);
    }

    /// Makes a random change. Returns whether the server accepts it.
    async fn change(&mut self) -> bool {
        let index = self.seed.below(self.organizations.len());
        let id = self.organizations[index].clone();
        let user = self.seed.one_of(&USERS);
        let own = self.seed.one_of(&OWN);
        let role = self.seed.one_of(&[&["admin", "member"][..], &DEPLOYMENT, &OWN].concat());
        let held = self.seed.some_of(&WORDS);
        let operator = &mut self.operator;
        match self.seed.below(12) {
            0..=2 => {
                let request = crate::harness::add(&id, user, role);
                operator.organizations.add_member(request).await.is_ok()
            }
            3 | 4 => operator.organizations.update_member(set_role(&id, user, role)).await.is_ok(),
            5 => operator.organizations.remove_member(remove(&id, user)).await.is_ok(),
            6 => operator.roles.create_role(creation(&id, own, &held)).await.is_ok(),
            7 | 8 => operator.roles.update_role(update(&id, own, &held)).await.is_ok(),
            9 => {
                let replace_with = self.seed.one_of(&["", role]);
                operator.roles.delete_role(deletion(&id, own, replace_with)).await.is_ok()
            }
            10 if index == KINDS.len() - 1 => {
                let request = pb::DeleteOrganizationRequest { organization: id, purge: true, ..Default::default() };
                operator.organizations.delete_organization(request).await.unwrap();
                self.organizations.remove(index);
                self.create(index).await;
                true
            }
            _ => {
                let model = self.seed.model();
                put(operator, model).await
            }
        }
    }

    /// Questions about every user in every organization: the membership, every permission, and every role.
    fn checks(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        for id in &self.organizations {
            for user in USERS.iter().chain(&["ada", "stranger"]) {
                checks.push(Check::member(id, user).unwrap());
                checks.extend(WORDS.map(|word| permission(id, user, word)));
                let roles = ["owner", "admin", "member"].iter().chain(&DEPLOYMENT).chain(&OWN);
                checks.extend(roles.map(|name| role(id, user, name)));
            }
        }
        checks
    }
}

/// The answers of the primary; `None` for a question that it refuses, or answers with a role that does not exist.
async fn expected(client: &Client, checks: &[Check]) -> Vec<Option<Answer>> {
    // A batch with a question that it refuses has no answers. All questions with the same word have the same fate.
    let subject = checks[0].clone();
    let mut refused: Vec<Question> = Vec::new();
    for check in checks.iter().filter(|check| check.organization == subject.organization && check.user == subject.user)
    {
        if let Err(error) = client.check(check, &Consistency::Full).await {
            assert_eq!(error.reason(), Some(ErrorReason::InvalidRequest), "{check:?}");
            refused.push(check.question.clone());
        }
    }
    let is_asked = |check: &&Check| !refused.contains(&check.question);
    let asked: Vec<Check> = checks.iter().filter(is_asked).cloned().collect();
    let mut answers = client.check_batch(&asked, &Consistency::Full).await.unwrap().0.into_iter();
    let mut expected = Vec::with_capacity(checks.len());
    for check in checks {
        let answer = if is_asked(&check) { answers.next() } else { None };
        expected.push(answer.filter(|answer| answer.reason != CheckReason::RoleNotFound));
    }
    expected
}

/// Asserts that a replica which has caught up answers as the primary does, and one by one as in a batch.
async fn assert_equal(cache: &MembershipCache, checks: &[Check], expected: &[Option<Answer>], context: &str) {
    soon(cache.caught_up()).await;
    let facts = |answer: &Answer| (answer.reason, answer.role.clone(), answer.revision);
    let mut known = (Vec::new(), Vec::new());
    for (check, expected) in checks.iter().zip(expected) {
        if let Some(expected) = expected {
            let answer = from_memory(cache, check).await;
            assert_eq!(facts(&answer), facts(expected), "{context}: {check:?}");
            known.0.push(check.clone());
            known.1.push(facts(expected));
        } else {
            assert!(cache.check_now(check).is_none(), "{context}: {check:?}");
        }
    }
    let answers = cache.check_batch(&known.0, &Consistency::Recent).await.unwrap();
    assert_eq!(answers.iter().map(facts).collect::<Vec<_>>(), known.1, "{context}");
}

/// Makes random changes. After each one, a replica that follows must answer as the primary does; so must one that loads an
/// export, at the end.
async fn compare(seed: u64, changes: usize) {
    let server = Server::start_generous().await;
    let client = client(&server).await;
    let settings = CacheSettings { ping_every: Duration::from_millis(10), ..CacheSettings::default() };
    let following = MembershipCache::start(&client, settings.clone());
    soon(following.caught_up()).await;
    let mut deployment = RandomDeployment::new(&server, seed).await;
    let mut accepted = 0;
    while accepted < changes {
        if !deployment.change().await {
            continue;
        }
        accepted += 1;
        let checks = deployment.checks();
        let expected = expected(&client, &checks).await;
        assert_equal(&following, &checks, &expected, &format!("seed {seed}, change {accepted}")).await;
    }
    let checks = deployment.checks();
    let loading = MembershipCache::start(&client, settings);
    let expected = expected(&client, &checks).await;
    assert_equal(&loading, &checks, &expected, &format!("seed {seed}, an export")).await;
    let statistics = following.statistics();
    assert_eq!((statistics.exports, statistics.gaps, statistics.interruptions), (1, 0, 0), "{statistics:?}");
    assert!(statistics.from_memory > 100 * u64::try_from(changes).unwrap(), "{statistics:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_replica_equals_the_server_under_random_changes_of_members_roles_and_models() {
    compare(1, 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: many seeds"]
async fn the_replica_equals_the_server_for_many_seeds() {
    for seed in 2..40 {
        compare(seed, 60).await;
    }
}
