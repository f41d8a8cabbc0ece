//! Filters: what a filtered watch sends, applied to an export that is filtered alike, equals the tables filtered alike.

use super::events::{Key, key};
use super::memberships::Memberships;
use super::writers::{apply_model, define};
use super::{Watch, soon};
use crate::client::{client, from_memory};
use crate::harness::server::Clients;
use crate::harness::{Server, add, assert_refused, organization, remove, set_role, transfer};
use pb::memberships_change::Change;
use roster::client::{CacheSettings, Check, Client, Consistency, MembershipCache};
use roster::domain::{Kind, Scope};
use roster::grpc::pb;
use roster::server::ServerSettings;
use std::collections::{BTreeMap, BTreeSet};
use tonic::Code;

const KINDS: [&str; 2] = ["account", "vendor"];
/// The organizations that filters name.
const WATCHED: usize = 4;
/// A user who is added and removed, never owns, and is deleted in the end.
const LEAVER: &str = "leaver";

/// Makes random changes of every kind.
struct World<'s> {
    server: &'s Server,
    operator: Clients,
    seed: u64,
    /// The organizations that are not known to be purged.
    organizations: Vec<String>,
    /// The kind of each organization, of purged ones too.
    kinds: BTreeMap<String, String>,
    /// How often each kind of change succeeded.
    done: BTreeMap<&'static str, u32>,
}

impl<'s> World<'s> {
    fn new(server: &'s Server, seed: u64) -> Self {
        let operator = server.operator();
        let (organizations, kinds, done) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self { server, operator, seed, organizations, kinds, done }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.seed >> 33).unwrap() % bound
    }

    fn user(&mut self) -> String {
        format!("user-{}", self.below(4))
    }

    async fn create(&mut self, kind: &str) -> String {
        let (kind_name, owner_user_id) = (kind.to_owned(), "owner".to_owned());
        let request = pb::CreateOrganizationRequest { kind: kind_name, owner_user_id, ..organization("Some") };
        let created = self.operator.organizations.create_organization(request).await.unwrap().into_inner();
        let id = created.organization.unwrap().id;
        self.organizations.push(id.clone());
        self.kinds.insert(id.clone(), kind.to_owned());
        id
    }

    /// Whether each kind of change has succeeded.
    fn has_done_everything(&self) -> bool {
        self.done.len() == 18 && self.done.values().all(|times| *times > 0)
    }

    /// Makes one change, which may be refused.
    async fn change(&mut self) {
        if self.organizations.len() < WATCHED {
            let kind = KINDS[self.below(2)];
            self.create(kind).await;
        }
        let index = self.below(self.organizations.len());
        let organization = self.organizations[index].clone();
        let user = if self.below(4) == 0 { LEAVER.to_owned() } else { self.user() };
        let (name, is_done) = match self.below(10) {
            0..=4 => self.change_member(&organization, &user).await,
            5 | 6 => self.change_organization(&organization).await,
            7 => self.change_user(&user).await,
            _ => self.change_roles(&organization).await,
        };
        *self.done.entry(name).or_default() += u32::from(is_done);
    }

    async fn change_member(&mut self, organization: &str, user: &str) -> (&'static str, bool) {
        let (kind, role) = (self.below(8), ["member", "admin", "clerk", "org:own"][self.below(4)]);
        let api = &mut self.operator.organizations;
        match kind {
            0..=2 => ("add", api.add_member(add(organization, user, role)).await.is_ok()),
            3 => ("remove", api.remove_member(remove(organization, user)).await.is_ok()),
            4 | 5 => ("role", api.update_member(set_role(organization, user, role)).await.is_ok()),
            _ if user == LEAVER => ("nothing", true),
            _ => ("transfer", api.transfer_ownership(transfer(organization, user)).await.is_ok()),
        }
    }

    async fn change_organization(&mut self, organization: &str) -> (&'static str, bool) {
        let (kind, slug, purge) = (self.below(9), format!("slug-{}", self.below(6)), self.below(2) == 0);
        let organization = organization.to_owned();
        let api = &mut self.operator.organizations;
        match kind {
            0 => {
                let request = pb::UpdateOrganizationRequest { organization, slug, ..Default::default() };
                ("rename", api.update_organization(request).await.is_ok())
            }
            1 => {
                let request = pb::DeactivateOrganizationRequest { organization, ..Default::default() };
                ("deactivate", api.deactivate_organization(request).await.is_ok())
            }
            2 | 3 => {
                let request = pb::ActivateOrganizationRequest { organization, ..Default::default() };
                ("activate", api.activate_organization(request).await.is_ok())
            }
            4 => {
                let request = pb::DeleteOrganizationRequest { organization, ..Default::default() };
                ("delete", api.delete_organization(request).await.is_ok())
            }
            5..=7 => {
                let request = pb::UndeleteOrganizationRequest { organization, ..Default::default() };
                ("undelete", api.undelete_organization(request).await.is_ok())
            }
            _ if purge => ("purge", self.purge(&organization).await),
            _ => ("housekeeping", self.purge_by_housekeeping(&organization).await),
        }
    }

    async fn purge(&mut self, organization: &str) -> bool {
        self.organizations.retain(|other| other != organization);
        let organization = organization.to_owned();
        let request = pb::DeleteOrganizationRequest { organization, purge: true, ..Default::default() };
        self.operator.organizations.delete_organization(request).await.is_ok()
    }

    /// Deletes an organization, lets the time of its purge pass, and runs housekeeping.
    async fn purge_by_housekeeping(&mut self, organization: &str) -> bool {
        self.organizations.retain(|other| other != organization);
        let request = pb::DeleteOrganizationRequest { organization: organization.to_owned(), ..Default::default() };
        let _ = self.operator.organizations.delete_organization(request).await;
        let due = "UPDATE organizations SET purge_time = now() - interval '1 minute' WHERE id = $1::uuid";
        sqlx::query(due).bind(organization).execute(&self.server.database.pool).await.unwrap();
        self.server.roster.tidy().await.unwrap().purged == 1
    }

    async fn change_user(&mut self, user: &str) -> (&'static str, bool) {
        let (kind, user_id) = (self.below(3), user.to_owned());
        let api = &mut self.operator.users;
        if kind == 0 {
            let request = pb::DeactivateUserRequest { user_id, ..Default::default() };
            return ("deactivate user", api.deactivate_user(request).await.is_ok());
        }
        let request = pb::ReactivateUserRequest { user_id, ..Default::default() };
        ("reactivate user", api.reactivate_user(request).await.is_ok())
    }

    async fn change_roles(&mut self, organization: &str) -> (&'static str, bool) {
        let (kind, number, organization, name) =
            (self.below(6), self.below(4), organization.to_owned(), "org:own".to_owned());
        let words: &[&str] = if number < 2 { &["billing.read"] } else { &[] };
        let api = &mut self.operator.roles;
        match kind {
            0 | 1 => ("define", api.create_role(define(&organization, &name, words)).await.is_ok()),
            2 | 3 => {
                let permissions = words.iter().map(|word| (*word).to_owned()).collect();
                let update_mask = Some(prost_types::FieldMask { paths: vec!["permissions".to_owned()] });
                let request =
                    pb::UpdateRoleRequest { organization, name, permissions, update_mask, ..Default::default() };
                ("redefine", api.update_role(request).await.is_ok())
            }
            4 => {
                let replace_with = "member".to_owned();
                let request = pb::DeleteRoleRequest { organization, name, replace_with, ..Default::default() };
                ("undefine", api.delete_role(request).await.is_ok())
            }
            _ => {
                let model = apply_model(number.try_into().unwrap());
                ("model", self.operator.models.apply_access_model(model).await.is_ok())
            }
        }
    }
}

/// The filter of a watch of memberships. Empty for everything.
#[derive(Debug, Clone, Default)]
struct Filter {
    organization: String,
    user: String,
    kind: String,
}

impl Filter {
    fn new(organization: &str, user: &str, kind: &str) -> Self {
        Self { organization: organization.to_owned(), user: user.to_owned(), kind: kind.to_owned() }
    }

    /// The part that a watch with this filter covers, as the comments of `WatchMembershipsRequest` say.
    fn part(&self, all: &Memberships) -> Memberships {
        let fits = |filter: &str, value: &str| filter.is_empty() || filter == value;
        let in_organization = |id: &String| fits(&self.organization, id) && fits(&self.kind, &all.organizations[id].1);
        let has_organizations = |id: &String| self.user.is_empty() && in_organization(id);
        let has_users = |id: &String| self.organization.is_empty() && fits(&self.user, id);
        let mut part = all.clone();
        part.model = part.model.filter(|_| self.user.is_empty());
        part.organizations.retain(|id, _| has_organizations(id));
        part.roles.retain(|(id, _), _| has_organizations(id));
        part.members.retain(|(id, user), _| in_organization(id) && fits(&self.user, user));
        part.users.retain(|id, _| has_users(id));
        part
    }
}

/// A consumer of a filtered watch.
#[derive(Debug, Clone)]
struct Consumer {
    filter: Filter,
    memberships: Memberships,
    cursor: String,
}

impl Consumer {
    fn new(filter: Filter, export: &Memberships, cursor: &str) -> Self {
        Self { memberships: filter.part(export), cursor: cursor.to_owned(), filter }
    }

    async fn watch(&self, clients: &Clients) -> Watch {
        let Filter { organization, user, kind } = self.filter.clone();
        let cursor = self.cursor.clone();
        Watch::open(clients, pb::WatchMembershipsRequest { cursor, organization, user_id: user, kind, ping: 0 }).await
    }

    fn apply(&mut self, message: pb::WatchMembershipsResponse) {
        self.memberships.apply(&message);
        if let Some(checkpoint) = message.checkpoint {
            self.cursor = checkpoint.cursor;
        }
    }

    /// Reads the first message of a new stream, which has the changes of one bucket. If the consumer does not keep the
    /// cursor of the message, it receives these changes again.
    async fn read_one(&mut self, clients: &Clients, keeps_cursor: bool) {
        let cursor = self.cursor.clone();
        let message = self.watch(clients).await.next().await;
        self.apply(message);
        if !keeps_cursor {
            self.cursor = cursor;
        }
    }

    /// Reads everything that was acknowledged, and compares.
    async fn assert_equal(&mut self, clients: &Clients, table: &Memberships) {
        let mut watch = self.watch(clients).await;
        for message in watch.until(1).await {
            self.apply(message);
        }
        assert_eq!(self.memberships, self.filter.part(table), "{:?}", self.filter);
    }
}

/// A consumer of filtered events, with the keys that it received.
#[derive(Debug, Clone, Default)]
struct EventConsumer {
    organization: String,
    kind: String,
    types: Vec<String>,
    cursor: String,
    received: BTreeSet<Key>,
}

impl EventConsumer {
    fn new(organization: &str, kind: &str, types: &[&str], cursor: &str) -> Self {
        Self {
            organization: organization.to_owned(),
            kind: kind.to_owned(),
            types: types.iter().map(|one| (*one).to_owned()).collect(),
            cursor: cursor.to_owned(),
            received: BTreeSet::new(),
        }
    }

    /// The events of the filter, as the comments of `WatchEventsRequest` say.
    fn part(&self, all: &BTreeSet<Key>, kinds: &BTreeMap<String, String>) -> BTreeSet<Key> {
        let fits = |filter: &str, value: &str| filter.is_empty() || filter == value;
        let is_in = |(subject, _, event_type): &&Key| {
            let in_scope = match kinds.get(subject) {
                Some(kind) => fits(&self.organization, subject) && fits(&self.kind, kind),
                None => self.organization.is_empty(),
            };
            in_scope && (self.types.is_empty() || self.types.contains(event_type))
        };
        all.iter().filter(is_in).cloned().collect()
    }

    /// Reads until nothing is missing and some further messages have come, and compares.
    async fn assert_equal(&mut self, clients: &Clients, expected: &BTreeSet<Key>) {
        let request = pb::WatchEventsRequest {
            cursor: self.cursor.clone(),
            organization: self.organization.clone(),
            kind: self.kind.clone(),
            types: self.types.clone(),
        };
        let mut watch = clients.events.clone().watch_events(request).await.unwrap().into_inner();
        let mut checkpoints = 0;
        while checkpoints == 0 || !expected.is_subset(&self.received) {
            let message = soon(watch.message()).await.unwrap().expect("the watch ended");
            self.received.extend(message.events.iter().map(key));
            if !message.cursor.is_empty() {
                (self.cursor, checkpoints) = (message.cursor, checkpoints + 1);
            }
        }
        assert_eq!(&self.received, expected, "{self:?}");
    }
}

/// Each filter of memberships, and combinations of them.
fn filters(organizations: &[String]) -> Vec<Filter> {
    let [a, b, ..] = organizations else { panic!("there are too few organizations") };
    let users = ["user-0", "user-1", LEAVER, "never-known"];
    let mut filters = vec![Filter::default(), Filter::new("", "", "vendor"), Filter::new("", "", "no-such-kind")];
    filters.extend(users.map(|user| Filter::new("", user, "")));
    filters.extend([Filter::new("", "user-0", "vendor"), Filter::new("", LEAVER, "account")]);
    for id in organizations {
        filters.extend([Filter::new(id, "", ""), Filter::new(id, "user-0", "")]);
    }
    filters.extend([Filter::new(a, "", "vendor"), Filter::new(b, "", "vendor"), Filter::new(a, LEAVER, "account")]);
    filters
}

fn event_consumers(organizations: &[String], cursor: &str) -> Vec<EventConsumer> {
    let [a, b, ..] = organizations else { panic!("there are too few organizations") };
    let some = ["member.added", "organization.purged", "user.deleted"];
    [
        ("", "", &[][..]),
        ("", "vendor", &[]),
        ("", "", &some),
        ("", "account", &some),
        (a, "", &[]),
        (b, "account", &some),
    ]
    .map(|(organization, kind, types)| EventConsumer::new(organization, kind, types, cursor))
    .into()
}

/// Asserts that a cache of vendors answers as the server does, and never from memory about an organization that is gone.
async fn assert_cache_equals(cache: &MembershipCache, client: &Client, world: &World<'_>, table: &Memberships) {
    soon(cache.caught_up()).await;
    for (organization, kind) in world.kinds.iter().filter(|(_, kind)| *kind == "vendor") {
        for user in ["user-0", "user-1", LEAVER] {
            let check = Check::member(organization, user).unwrap();
            let expected = client.check(&check, &Consistency::Full).await.unwrap();
            let answer = if table.organizations.contains_key(organization) {
                from_memory(cache, &check).await
            } else {
                assert!(cache.check_now(&check).is_none(), "{kind} {check:?}");
                cache.check(&check).await.unwrap()
            };
            assert_eq!((answer.reason, answer.role), (expected.reason, expected.role), "{check:?}");
        }
    }
}

/// Purges the watched organizations, in either way, and deletes a watched user.
async fn end_everything(world: &mut World<'_>, watched: &[String]) {
    for (number, id) in watched.iter().enumerate() {
        if world.organizations.contains(id) {
            let undelete = pb::UndeleteOrganizationRequest { organization: id.clone(), ..Default::default() };
            let _ = world.operator.organizations.undelete_organization(undelete).await;
            let activate = pb::ActivateOrganizationRequest { organization: id.clone(), ..Default::default() };
            let _ = world.operator.organizations.activate_organization(activate).await;
            for user in ["user-0", "user-1", LEAVER] {
                let _ = world.operator.organizations.add_member(add(id, user, "member")).await;
            }
            assert!(if number % 2 == 0 { world.purge(id).await } else { world.purge_by_housekeeping(id).await });
        }
    }
    let other = world.create("account").await;
    let reactivate = pb::ReactivateUserRequest { user_id: LEAVER.to_owned(), ..Default::default() };
    world.operator.users.reactivate_user(reactivate).await.unwrap();
    world.operator.organizations.add_member(add(&other, LEAVER, "member")).await.unwrap();
    let delete = pb::DeleteUserRequest { user_id: LEAVER.to_owned(), ..Default::default() };
    world.operator.users.delete_user(delete.clone()).await.unwrap();
    let reinstate = pb::ReinstateUserRequest { user_id: LEAVER.to_owned(), ..Default::default() };
    world.operator.users.reinstate_user(reinstate).await.unwrap();
    world.operator.organizations.add_member(add(&other, LEAVER, "member")).await.unwrap();
    world.operator.users.delete_user(delete).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_filtered_watch_sends_applied_to_a_filtered_export_equals_the_tables() {
    const ROUNDS: u32 = 16;
    let seed = std::env::var("ROSTER_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    let server = Server::start().await;
    let (clients, client) = (server.service(&[Scope::Manage]), client(&server).await);
    let mut world = World::new(&server, seed);
    world.operator.models.apply_access_model(apply_model(0)).await.unwrap();
    for kind in [KINDS, KINDS].concat() {
        world.create(kind).await;
    }
    let watched = world.organizations.clone();
    let (export, start) = Memberships::export(&clients, "").await;
    let before = super::events::table(&server).await;
    let new = |filter: Filter| Consumer::new(filter, &export, &start);
    let mut consumers: Vec<Consumer> = filters(&watched).into_iter().map(new).collect();
    // These are away until everything has happened.
    let mut late = consumers.clone();
    let mut events = event_consumers(&watched, &start);
    let kind = Some(Kind::parse("vendor").unwrap());
    let cache = MembershipCache::start(&client, CacheSettings { kind, ..CacheSettings::default() });
    for round in 0..=ROUNDS {
        if round == ROUNDS {
            // What did not occur by chance.
            for _ in 0..2_000 {
                if world.has_done_everything() {
                    break;
                }
                world.change().await;
            }
            end_everything(&mut world, &watched).await;
        }
        for _ in 0..32 {
            world.change().await;
        }
        let table = Memberships::of(&server.database).await;
        let all = super::events::table(&server).await.difference(&before).cloned().collect();
        for consumer in &mut consumers {
            let keeps_cursor = world.below(2) == 0;
            consumer.read_one(&clients, keeps_cursor).await;
            if round % 4 == 0 {
                consumer.assert_equal(&clients, &table).await;
            }
        }
        if round % 8 == 0 {
            late.extend(consumers.clone());
            assert_cache_equals(&cache, &client, &world, &table).await;
            for consumer in &mut events {
                let expected = consumer.part(&all, &world.kinds);
                consumer.assert_equal(&clients, &expected).await;
            }
        }
    }
    let table = Memberships::of(&server.database).await;
    for consumer in &mut late {
        consumer.assert_equal(&clients, &table).await;
    }
    assert!(world.has_done_everything(), "{:?}", world.done);
    server.database.assert_invariants().await;
}

/// The changes of a watch from a cursor.
async fn changes(clients: &Clients, cursor: &str, organization: &str, user: &str) -> Vec<Change> {
    let consumer = Consumer::new(Filter::new(organization, user, ""), &Memberships::default(), cursor);
    let messages = consumer.watch(clients).await.until(1).await;
    messages.into_iter().flat_map(|message| message.changes).map(|change| change.change.unwrap()).collect()
}

#[tokio::test]
async fn a_purge_is_the_end_of_the_membership_of_a_watched_user_and_nothing_for_a_stranger() {
    let server = Server::start().await;
    let (clients, mut ada, mut operator) = (server.service(&[Scope::Check]), server.user("ada"), server.operator());
    server.roster.replica().loaded().await;
    let acme = ada.create("Acme").await;
    ada.add(&acme, "alan", "member").await;
    ada.add(&acme, "former", "member").await;
    ada.organizations.remove_member(remove(&acme, "former")).await.unwrap();
    let (_, cursor) = Memberships::export(&clients, "").await;
    let purge = pb::DeleteOrganizationRequest { organization: acme.clone(), purge: true, ..Default::default() };
    operator.organizations.delete_organization(purge).await.unwrap();
    let end = |user: &str| {
        Change::Membership(pb::MembershipChange {
            organization_id: acme.clone(),
            user_id: user.to_owned(),
            role: String::new(),
            revision: 6,
            kind: "organization".to_owned(),
        })
    };
    for (organization, user) in [("", "alan"), ("", "ada"), (acme.as_str(), "alan")] {
        assert_eq!(changes(&clients, &cursor, organization, user).await, [end(user)]);
    }
    for user in ["former", "eve"] {
        assert_eq!(changes(&clients, &cursor, "", user).await, []);
    }
    // A server that loaded its replica after the purge does not know who was a member.
    let other = Server::over(server.database.clone(), ServerSettings::default()).await;
    let others = other.service(&[Scope::Check]);
    for user in ["alan", "former", "eve"] {
        assert_eq!(changes(&others, &cursor, "", user).await, [end(user)]);
    }
    // Neither a slug nor the id of an organization that never was.
    for unknown in ["acme", "7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11"] {
        let (organization, cursor) = (unknown.to_owned(), cursor.clone());
        let first = pb::WatchMembershipsRequest { organization, cursor, ..Default::default() };
        let error = Watch::open(&clients, first).await.try_next().await;
        assert_refused(error, Code::NotFound, "ORGANIZATION_NOT_FOUND");
    }
    let first = pb::WatchMembershipsRequest { organization: acme, ..Default::default() };
    assert_refused(Watch::open(&clients, first).await.try_next().await, Code::NotFound, "ORGANIZATION_NOT_FOUND");
}
