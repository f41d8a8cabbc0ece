//! The ceiling: no member grants or takes away what the member lacks. Random models, definitions of roles and
//! assignments by random members; after each step, what everyone holds is read and compared with what it was before.
//!
//! `ROSTER_TEST_STEPS` sets the number of steps, `ROSTER_TEST_SEED` the seed.

use super::apply;
use crate::harness::server::Clients;
use crate::harness::{Server, add, reason, remove, set_role};
use roster::domain::Permission;
use roster::grpc::pb;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use tonic::Status;

const STEPS: u64 = 250;
const APPLICATION: [&str; 6] =
    ["billing.read", "billing.write", "billing.refunds.make", "reports.read", "reports.share", "keys.rotate"];
const USERS: [&str; 7] = ["olga", "adam", "mia", "tom", "ida", "ian", "sid"];
const DEPLOYMENT: [&str; 3] = ["auditor", "clerk", "lead"];
const OWN: [&str; 3] = ["org:one", "org:two", "org:three"];

type Words = BTreeSet<String>;
/// What every member holds.
type Holdings = BTreeMap<String, Words>;

struct Random(u64);

impl Random {
    /// `SplitMix64` (Steele, Lea, Flood, 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// Each item with a probability of `sixteenths` / 16.
    fn some<'a>(&mut self, items: impl Iterator<Item = &'a str>, sixteenths: usize) -> Vec<&'a str> {
        items.filter(|_| self.below(16) < sixteenths).collect()
    }
}

/// Every permission: roster's own, and those of the application.
fn words() -> impl Iterator<Item = &'static str> {
    Permission::RESERVED.iter().map(|permission| permission.as_str()).chain(APPLICATION)
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

struct Fixture {
    server: Server,
    organization: String,
    /// The number of steps of each kind that were accepted.
    accepted: BTreeMap<&'static str, u64>,
}

impl Fixture {
    async fn new(random: &mut Random) -> Self {
        let server = Server::start_generous().await;
        let organization = server.user(USERS[0]).create("Acme").await;
        let mut fixture = Self { server, organization, accepted: BTreeMap::new() };
        fixture.apply_model(random).await;
        for user in &USERS[1..5] {
            fixture.server.operator().add(&fixture.organization, user, "admin").await;
        }
        fixture
    }

    /// Applies a model with other contents of the same roles.
    async fn apply_model(&mut self, random: &mut Random) {
        let member = random.some(words(), 3);
        let admin: BTreeSet<&str> = random.some(words(), 10).into_iter().chain(member.iter().copied()).collect();
        let delegable = random.some(Permission::RESERVED.iter().map(|permission| permission.as_str()), 8);
        let mut roles =
            vec![json!({ "name": "member", "permissions": member }), json!({ "name": "admin", "permissions": admin })];
        roles.extend(DEPLOYMENT.map(|name| json!({ "name": name, "permissions": random.some(words(), 6) })));
        let model = json!({
            "permissions": APPLICATION.map(|name| json!({ "name": name })),
            "roles": roles,
            "delegable": delegable,
        });
        let request = pb::ApplyAccessModelRequest { older_clients_gone: true, ..apply(model) };
        if let Err(refusal) = self.server.operator().models.apply_access_model(request).await {
            // Roles of the organization hold what the model would no longer mark as delegable.
            assert_eq!(reason(&refusal), "PERMISSION_IN_USE");
        }
    }

    /// What each role of the organization holds.
    async fn roles(&self) -> BTreeMap<String, Words> {
        let request = pb::ListRolesRequest { organization: self.organization.clone(), ..Default::default() };
        let listed = self.server.operator().roles.list_roles(request).await.unwrap().into_inner().roles;
        listed.into_iter().map(|role| (role.name, role.permissions.into_iter().collect())).collect()
    }

    async fn holdings(&self) -> Holdings {
        let roles = self.roles().await;
        let request = pb::ListMembersRequest { organization: self.organization.clone(), ..Default::default() };
        let members = self.server.operator().organizations.list_members(request).await.unwrap().into_inner().members;
        members.into_iter().map(|member| (member.user_id, roles[&member.role].clone())).collect()
    }

    /// A step by a member, what it needs, and its outcome.
    async fn act(&self, actor: &str, random: &mut Random) -> (&'static str, &'static str, Result<(), Status>) {
        let Clients { organizations, roles, .. } = &mut self.server.user(actor);
        let organization = self.organization.clone();
        let target = random.pick(&USERS);
        let role = random.pick(&[&DEPLOYMENT[..], &OWN, &["admin", "member"]].concat());
        let name = random.pick(&OWN).to_owned();
        // Few of roster's own: most models do not mark them as delegable.
        let reserved = if random.below(3) == 0 { random.some(words(), 1) } else { Vec::new() };
        let permissions =
            random.some(APPLICATION.into_iter(), 6).into_iter().chain(reserved).map(str::to_owned).collect();
        match random.below(8) {
            0 | 7 => ("add", "members.add", organizations.add_member(add(&organization, target, role)).await.map(drop)),
            1 => {
                ("remove", "members.remove", organizations.remove_member(remove(&organization, target)).await.map(drop))
            }
            2 | 3 => {
                let request = set_role(&organization, target, role);
                ("assign", "members.update", organizations.update_member(request).await.map(drop))
            }
            4 => {
                let request = pb::CreateRoleRequest { organization, name, permissions, ..Default::default() };
                ("define", "roles.manage", roles.create_role(request).await.map(drop))
            }
            5 => {
                let update_mask = Some(prost_types::FieldMask { paths: vec!["permissions".to_owned()] });
                let request =
                    pb::UpdateRoleRequest { organization, name, permissions, update_mask, ..Default::default() };
                ("change", "roles.manage", roles.update_role(request).await.map(drop))
            }
            _ => {
                let replace_with = role.to_owned();
                let request = pb::DeleteRoleRequest { organization, name, replace_with, ..Default::default() };
                ("delete", "roles.manage", roles.delete_role(request).await.map(drop))
            }
        }
    }
}

/// Compares what everyone held before a step with what they hold after it.
fn check(step: &str, actor: &str, needed: &str, is_accepted: bool, before: &Holdings, after: &Holdings) {
    let own = &before[actor];
    if !is_accepted {
        assert_eq!(before, after, "{step} by {actor} was refused");
        return;
    }
    assert!(own.contains(needed), "{step} by {actor} needs {needed}");
    let nothing = Words::new();
    for user in before.keys().chain(after.keys()) {
        let (held, holds) = (before.get(user).unwrap_or(&nothing), after.get(user).unwrap_or(&nothing));
        let changed: Vec<_> = held.symmetric_difference(holds).filter(|word| !own.contains(*word)).collect();
        assert!(changed.is_empty(), "{step} by {actor} gave to or took from {user} what the actor lacks: {changed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_grants_or_takes_what_they_lack() {
    let seed = setting("ROSTER_TEST_SEED", 18);
    let mut random = Random(seed);
    let mut fixture = Fixture::new(&mut random).await;
    let mut before = fixture.holdings().await;
    for step in 0..setting("ROSTER_TEST_STEPS", STEPS) {
        if step % 40 == 39 {
            fixture.apply_model(&mut random).await;
            before = fixture.holdings().await;
        }
        let members: Vec<&str> = USERS.into_iter().filter(|user| before.contains_key(*user)).collect();
        // The owner acts often, so that there are roles to assign.
        let actor = if random.below(3) == 0 { USERS[0] } else { random.pick(&members) };
        let (kind, needed, outcome) = fixture.act(actor, &mut random).await;
        let after = fixture.holdings().await;
        check(
            &format!("seed {seed}, step {step}: {kind} ({outcome:?})"),
            actor,
            needed,
            outcome.is_ok(),
            &before,
            &after,
        );
        if outcome.is_ok() {
            *fixture.accepted.entry(kind).or_default() += 1;
        }
        before = after;
    }
    for kind in ["add", "remove", "assign", "define", "change", "delete"] {
        assert!(fixture.accepted.contains_key(kind), "no {kind} was accepted: {:?}", fixture.accepted);
    }
}
