//! Random histories, applied to the tables and to plain maps as their model.

use super::*;
use crate::domain::access_model::AccessModel;
use crate::domain::change::ChangeDetail;
use crate::domain::{
    Kind, LogMark, OrganizationHead, OrganizationState, Role, RoleName, RoleTable, RoleView, UserState,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

const ORGANIZATIONS: u128 = 6;
const USERS: [&str; 4] = ["ada", "bob", "cat", "a-user-whose-id-is-quite-long-as-those-of-providers-are"];
const SLUGS: [&str; 3] = ["acme", "globex", "initech"];
const ORGANIZATION_ROLES: [&str; 3] = ["org:auditor", "org:clerk", "org:intern"];
/// The words of roles. The last one is a word of roster's own that this program does not know.
const WORDS: [&[&str]; 4] =
    [&[], &["members.list"], &["members.list", "billing.tables-read"], &["members.list", "members.fly"]];

/// The role tables of two access models.
fn role_tables() -> [RoleTable; 2] {
    let table = |revision, words: &[&str]| {
        let model = serde_json::json!({
            "permissions": [{ "name": "billing.tables-read" }, { "name": "billing.tables-write" }],
            "roles": [{ "name": "accountant", "permissions": words }, { "name": "member", "permissions": ["members.list"] }],
        });
        RoleTable::new(revision, &AccessModel::from_stored(&model).unwrap())
    };
    [table(1, &["billing.tables-read"]), table(2, &["billing.tables-write", "members.list"])]
}

/// Three organizations in each of two buckets.
fn id(number: u128) -> OrganizationId {
    OrganizationId::from_uuid(Uuid::from_u128((number % 2) << 120 | number))
}

fn user(index: usize) -> UserId {
    UserId::parse(USERS[index]).unwrap()
}

fn slug(index: usize) -> Slug {
    Slug::parse(SLUGS[index]).unwrap()
}

/// A position with a mark of its own.
fn at(bucket: i16, position: i64) -> BucketPosition {
    BucketPosition { bucket, position, mark: LogMark::from_bits(u32::try_from(position).unwrap() ^ 7) }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Organization {
        number: u128,
        state: OrganizationState,
        owner: Option<usize>,
        slug: usize,
    },
    Purge {
        number: u128,
    },
    Member {
        number: u128,
        user: usize,
        /// A stored role; `auditor` is one that this program does not know.
        role: Option<&'static str>,
    },
    /// A role of the organization is defined, changed, or deleted if no member holds it.
    Role {
        number: u128,
        name: usize,
        words: Option<usize>,
    },
    /// The members of a role of the organization hold another role from now on.
    Replace {
        number: u128,
        name: usize,
        by: &'static str,
    },
    /// A change of a type that this program does not know, perhaps of an organization that the log had not named before.
    Unknown {
        number: u128,
    },
    /// The bucket is reloaded from a snapshot of the present state.
    Reload {
        bucket: i16,
    },
    Drop {
        bucket: i16,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0..ORGANIZATIONS;
    let states = prop::sample::select([&OrganizationState::ALL[..], &[OrganizationState::Unknown]].concat());
    let names = ["member", "admin", "auditor", "accountant"].into_iter().chain(ORGANIZATION_ROLES);
    let names: Vec<_> = names.collect();
    let replacements = prop::sample::select(names.clone());
    let roles = prop::option::of(prop::sample::select(names));
    prop_oneof![
        4 => (number(), states, prop::option::of(0..USERS.len()), 0..SLUGS.len())
            .prop_map(|(number, state, owner, slug)| Step::Organization { number, state, owner, slug }),
        1 => number().prop_map(|number| Step::Purge { number }),
        8 => (number(), 0..USERS.len(), roles).prop_map(|(number, user, role)| Step::Member { number, user, role }),
        6 => (number(), 0..ORGANIZATION_ROLES.len(), prop::option::of(0..WORDS.len()))
            .prop_map(|(number, name, words)| Step::Role { number, name, words }),
        3 => (number(), 0..ORGANIZATION_ROLES.len(), replacements)
            .prop_map(|(number, name, by)| Step::Replace { number, name, by }),
        1 => number().prop_map(|number| Step::Unknown { number }),
        1 => (0..2i16).prop_map(|bucket| Step::Reload { bucket }),
        1 => (0..2i16).prop_map(|bucket| Step::Drop { bucket }),
    ]
}

/// A role of an organization: its words, or the role that replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnRole {
    Defined(&'static [&'static str]),
    ReplacedBy(&'static str),
}

#[derive(Debug)]
struct Purge {
    position: i64,
    members: BTreeSet<usize>,
    /// Whether the bucket has followed the log since before the purge, and knew every change of the organizations that
    /// were purged since.
    is_known: bool,
}

#[derive(Default)]
struct Model {
    position: i64,
    organizations: BTreeMap<u128, (OrganizationHead, Option<usize>, usize)>,
    /// The stored roles.
    members: BTreeMap<(u128, usize), &'static str>,
    /// The organizations' own roles.
    roles: BTreeMap<(u128, &'static str), OwnRole>,
    /// Organizations with an unknown change since the bucket was loaded.
    changed: BTreeSet<u128>,
    /// The id of a purged organization is never reused.
    purged: BTreeMap<u128, Purge>,
    loaded: [bool; 2],
}

impl Model {
    fn log(&mut self, number: u128, detail: ChangeDetail) -> LogEntry {
        self.position += 1;
        let keeps_head = !matches!(detail, ChangeDetail::Organization { .. });
        if let Some((head, ..)) = self.organizations.get_mut(&number).filter(|_| keeps_head) {
            head.revision = self.position;
        }
        LogEntry { organization: id(number), kind: Kind::parse("account").unwrap(), revision: self.position, detail }
    }

    fn load(&mut self, tables: &ReplicaTables, number: i16) {
        let mut bucket = tables.bucket(at(number, self.position));
        for (organization, (head, owner, named)) in &self.organizations {
            if head.id.bucket() == number {
                let owner = owner.map(user);
                bucket.put_organization(id(*organization), head.state, head.revision, owner.as_ref(), &slug(*named));
            }
        }
        for ((organization, name), role) in &self.roles {
            let (organization, name) = (id(*organization), RoleName::from_stored(name));
            match role {
                _ if organization.bucket() != number => {}
                OwnRole::Defined(words) => bucket.put_role(organization, &name, RoleTable::set_of_words(*words)),
                OwnRole::ReplacedBy(by) => bucket.put_replaced_role(organization, &name, &RoleName::from_stored(by)),
            }
        }
        for ((organization, member), role) in &self.members {
            if id(*organization).bucket() == number {
                bucket.put_member(id(*organization), USERS[*member], role);
            }
        }
        tables.put(bucket);
        self.changed.retain(|changed| id(*changed).bucket() != number);
        self.forget_purges(number);
        self.loaded[usize::from(number.unsigned_abs())] = true;
    }

    /// The bucket no longer knows the members of the organizations that were purged.
    fn forget_purges(&mut self, bucket: i16) {
        for (_, purge) in self.purged.iter_mut().filter(|(number, _)| id(**number).bucket() == bucket) {
            purge.is_known = false;
        }
    }

    fn purge(&mut self, number: u128) -> Option<ChangeDetail> {
        let of_purged = self.members.keys().filter(|(organization, _)| *organization == number);
        let members = of_purged.map(|(_, member)| *member).collect();
        self.members.retain(|(organization, _), _| *organization != number);
        self.roles.retain(|(organization, _), _| *organization != number);
        let (_, _, named) = self.organizations.remove(&number)?;
        let bucket = id(number).bucket();
        let has_unknown_change = self.changed.remove(&number);
        if has_unknown_change {
            self.forget_purges(bucket);
        }
        let is_known = self.loaded[usize::from(bucket.unsigned_abs())] && !has_unknown_change;
        self.purged.insert(number, Purge { position: self.position + 1, members, is_known });
        Some(ChangeDetail::Organization { state: None, owner: None, slug: slug(named) })
    }

    fn step(&mut self, tables: &ReplicaTables, step: Step) {
        let (number, detail) = match step {
            Step::Reload { bucket } => return self.load(tables, bucket),
            Step::Drop { bucket } => {
                self.loaded[usize::from(bucket.unsigned_abs())] = false;
                return tables.take(bucket);
            }
            Step::Purge { number } => {
                let Some(detail) = self.purge(number) else { return };
                (number, detail)
            }
            Step::Organization { number, state, owner, slug: named } => {
                // A slug belongs to one organization.
                let taken = self.organizations.iter().any(|(other, (.., taken))| *other != number && *taken == named);
                if taken || self.purged.contains_key(&number) {
                    return;
                }
                let head = OrganizationHead { id: id(number), state, revision: self.position + 1 };
                self.organizations.insert(number, (head, owner, named));
                (number, ChangeDetail::Organization { state: Some(state), owner: owner.map(user), slug: slug(named) })
            }
            Step::Member { number, user: member, role } => {
                let is_role =
                    |name: &str| !name.starts_with("org:") || self.roles.keys().any(|key| *key == (number, name));
                if !self.organizations.contains_key(&number) || !role.is_none_or(is_role) {
                    return;
                }
                match role {
                    Some(role) => drop(self.members.insert((number, member), role)),
                    None => drop(self.members.remove(&(number, member))),
                }
                (number, ChangeDetail::Membership { user: user(member), role: role.map(Role::read) })
            }
            Step::Role { number, name, words } => {
                let Some(detail) = self.change_role((number, ORGANIZATION_ROLES[name]), words) else { return };
                (number, detail)
            }
            Step::Replace { number, name, by } => {
                let Some(detail) = self.replace_role((number, ORGANIZATION_ROLES[name]), by) else { return };
                (number, detail)
            }
            Step::Unknown { number } => {
                if self.purged.contains_key(&number) {
                    return;
                }
                if self.loaded[usize::from(id(number).bucket().unsigned_abs())] {
                    self.changed.insert(number);
                }
                (number, ChangeDetail::Unknown)
            }
        };
        let entry = self.log(number, detail);
        let position = self.position;
        // Twice: a bucket must skip the entries that it has already applied.
        for _ in 0..2 {
            tables.apply(std::iter::once((position, &entry)), at(id(number).bucket(), position));
        }
    }

    /// Defines, changes or deletes a role, if that is possible.
    fn change_role(&mut self, key: (u128, &'static str), words: Option<usize>) -> Option<ChangeDetail> {
        let is_held = self.members.iter().any(|((other, _), role)| (*other, *role) == key) || self.has_replaced(key);
        let is_replaced = matches!(self.roles.get(&key), Some(OwnRole::ReplacedBy(_)));
        let is_refused = if words.is_none() { is_held } else { is_replaced };
        if !self.organizations.contains_key(&key.0) || is_refused {
            return None;
        }
        match words {
            Some(words) => drop(self.roles.insert(key, OwnRole::Defined(WORDS[words]))),
            None => drop(self.roles.remove(&key)),
        }
        let permissions = words.map(|words| WORDS[words].iter().map(ToString::to_string).collect());
        Some(ChangeDetail::Role { name: RoleName::from_stored(key.1), permissions, replaced_by: None })
    }

    /// Replaces a role by another one, if that is possible.
    fn replace_role(&mut self, key: (u128, &'static str), by: &'static str) -> Option<ChangeDetail> {
        let exists = |key| matches!(self.roles.get(&key), Some(OwnRole::Defined(_)));
        let can_replace = !by.starts_with("org:") || (by != key.1 && exists((key.0, by)));
        if !exists(key) || !can_replace || self.has_replaced(key) {
            return None;
        }
        self.roles.insert(key, OwnRole::ReplacedBy(by));
        let (name, replaced_by) = (RoleName::from_stored(key.1), Some(RoleName::from_stored(by)));
        Some(ChangeDetail::Role { name, permissions: Some(Vec::new()), replaced_by })
    }

    /// Whether a role is the replacement of another one.
    fn has_replaced(&self, (number, name): (u128, &'static str)) -> bool {
        self.roles.iter().any(|((other, _), role)| *other == number && *role == OwnRole::ReplacedBy(name))
    }

    /// The role that a member with a stored role has, by this table of the deployment's roles.
    fn held(&self, number: u128, stored: &'static str, table: &RoleTable) -> Role {
        match self.roles.get(&(number, stored)) {
            Some(OwnRole::Defined(words)) => {
                Role { name: RoleName::from_stored(stored), permissions: RoleTable::set_of_words(*words) }
            }
            Some(OwnRole::ReplacedBy(by)) => self.held(number, by, table),
            None => table.role(RoleName::from_stored(stored)),
        }
    }

    fn assert_agrees(&self, tables: &ReplicaTables) {
        for (number, table) in (0..ORGANIZATIONS).zip(role_tables().iter().cycle()) {
            let bucket = id(number).bucket();
            let read = tables.read(bucket);
            assert_eq!(read.is_some(), self.loaded[usize::from(bucket.unsigned_abs())]);
            let Some(read) = read.as_ref() else { continue };
            let organization = self.organizations.get(&number);
            for member in 0..USERS.len() {
                if let Some(Purge { position, members, is_known }) = self.purged.get(&number) {
                    let was_member = read.was_member_at_purge(id(number), &user(member), *position);
                    assert_eq!(was_member, is_known.then(|| members.contains(&member)));
                }
                let role = self.members.get(&(number, member)).copied();
                let is_owner = organization.is_some_and(|(_, owner, _)| *owner == Some(member));
                let lookup = read.find(id(number), Some(&user(member)), table);
                assert_eq!(lookup.is_none(), self.changed.contains(&number));
                let Some(lookup) = lookup else { continue };
                assert_eq!(lookup.organization, organization.map(|(head, ..)| *head));
                let role = if is_owner { Some("owner") } else { role }.filter(|_| organization.is_some());
                let role = role.map(|role| self.held(number, role, table));
                assert_eq!(lookup.role.map(RoleView::to_role), role);
            }
            for name in ORGANIZATION_ROLES {
                let role = read.organization_role(id(number), &RoleName::from_stored(name), table);
                let held = self.roles.contains_key(&(number, name)).then(|| self.held(number, name, table));
                assert_eq!(role.map(RoleView::to_role), held);
            }
        }
        for (index, _) in SLUGS.iter().enumerate() {
            let owner =
                self.organizations.iter().find(|(_, (.., named))| *named == index).map(|(number, _)| id(*number));
            let owner = owner.filter(|id| self.loaded[usize::from(id.bucket().unsigned_abs())]);
            assert_eq!(tables.resolve(&slug(index)), owner);
        }
    }
}

proptest! {
    #[test]
    fn the_tables_agree_with_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let tables = ReplicaTables::new([3; 16]);
        let mut model = Model::default();
        model.load(&tables, 0);
        model.load(&tables, 1);
        for step in steps {
            model.step(&tables, step);
            model.assert_agrees(&tables);
        }
    }
}

#[test]
fn slots_of_purged_organizations_are_not_counted_as_memberships() {
    let tables = ReplicaTables::new([3; 16]);
    let mut model = Model::default();
    model.load(&tables, 0);
    let create = Step::Organization { number: 0, state: OrganizationState::Active, owner: None, slug: 0 };
    model.step(&tables, create);
    for member in 0..USERS.len() {
        model.step(&tables, Step::Member { number: 0, user: member, role: Some("member") });
    }
    assert_eq!(tables.read(0).as_ref().map(Bucket::memberships), Some(USERS.len()));
    model.step(&tables, Step::Purge { number: 0 });
    assert_eq!(tables.read(0).as_ref().map(Bucket::memberships), Some(0));
    model.assert_agrees(&tables);
}

#[test]
fn inactive_and_erased_users_are_kept_and_active_ones_are_not() {
    let tables = ReplicaTables::new([3; 16]);
    let ada = user(0);
    let bucket = ada.bucket();
    let status = |state| UserStatus::new(state, None);
    assert_eq!(tables.user(&ada), (UserStatus::default(), BucketPosition::start(bucket)));
    tables.put_users(at(bucket, 5), &[(ada.clone(), status(UserState::Inactive))]);
    assert_eq!(tables.user(&ada), (status(UserState::Inactive), at(bucket, 5)));
    tables.apply_users([(&ada, status(UserState::Erased))].into_iter(), at(bucket, 6));
    assert_eq!(tables.user(&ada), (status(UserState::Erased), at(bucket, 6)));
    tables.apply_users([(&ada, status(UserState::Unknown))].into_iter(), at(bucket, 7));
    assert_eq!(tables.user(&ada), (status(UserState::Unknown), at(bucket, 7)));
    tables.apply_users([(&ada, status(UserState::Active))].into_iter(), at(bucket, 7));
    assert_eq!(tables.user(&ada), (UserStatus::default(), at(bucket, 7)));
    assert_eq!(tables.user_status(&ada), UserStatus::default());
    assert!(tables.user_bytes() > 0);
    tables.put_users(at(bucket, 8), &[]);
    assert_eq!(tables.user(&ada), (UserStatus::default(), at(bucket, 8)));
}

#[test]
fn a_reinstatement_stays_whatever_the_later_entries_say() {
    use UserState::{Active, Erased, Inactive};
    let tables = ReplicaTables::new([3; 16]);
    let (ada, other) = (user(0), user(1));
    let bucket = ada.bucket();
    let mut apply = {
        let mut position = 0;
        let (tables, ada) = (&tables, &ada);
        move |state, reinstated_at| {
            position += 1;
            tables.apply_users([(ada, UserStatus::new(state, reinstated_at))].into_iter(), at(bucket, position));
            tables.user_status(ada)
        }
    };
    for (state, reinstated_at, expected) in [
        (Erased, None, (Some(Erased), None)),
        (Active, Some(100), (None, Some(100))),
        // Servers of release 0.3 write no such time.
        (Inactive, None, (Some(Inactive), Some(100))),
        (Active, None, (None, Some(100))),
        (Erased, None, (Some(Erased), Some(100))),
        (Active, Some(200), (None, Some(200))),
        // A row that is applied again.
        (Active, Some(100), (None, Some(200))),
    ] {
        let found = apply(state, reinstated_at);
        assert_eq!((found.state, found.reinstated_at), expected, "{state:?} {reinstated_at:?}");
    }
    assert_eq!(tables.user_status(&other), UserStatus::default());
    // Only a snapshot takes it back: that of a database that has lost the write.
    tables.put_users(at(bucket, 3), &[(ada.clone(), UserStatus::new(Active, Some(150)))]);
    assert_eq!(tables.user_status(&ada), UserStatus::new(Active, Some(150)));
    tables.put_users(at(bucket, 3), &[]);
    assert_eq!(tables.user_status(&ada), UserStatus::default());
}
