//! Random histories, applied to the copy and to plain maps beside it.

use super::*;
use crate::domain::change::ChangeDetail;
use crate::domain::{Kind, OrganizationHead, OrganizationState, Role};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

const ORGANIZATIONS: u128 = 6;
const USERS: [&str; 4] = ["ada", "bob", "cat", "a-user-whose-id-is-quite-long-as-those-of-providers-are"];
const SLUGS: [&str; 3] = ["acme", "globex", "initech"];

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
        role: Option<Role>,
    },
    /// The bucket is loaded anew, as a snapshot of now would hold it.
    Reload {
        bucket: i16,
    },
    Drop {
        bucket: i16,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0..ORGANIZATIONS;
    let states = prop::sample::select(OrganizationState::ALL.to_vec());
    let roles = prop::option::of(prop::sample::select(vec![Role::MEMBER, Role::ADMIN]));
    prop_oneof![
        4 => (number(), states, prop::option::of(0..USERS.len()), 0..SLUGS.len())
            .prop_map(|(number, state, owner, slug)| Step::Organization { number, state, owner, slug }),
        1 => number().prop_map(|number| Step::Purge { number }),
        8 => (number(), 0..USERS.len(), roles).prop_map(|(number, user, role)| Step::Member { number, user, role }),
        1 => (0..2i16).prop_map(|bucket| Step::Reload { bucket }),
        1 => (0..2i16).prop_map(|bucket| Step::Drop { bucket }),
    ]
}

#[derive(Default)]
struct Truth {
    position: i64,
    organizations: BTreeMap<u128, (OrganizationHead, Option<usize>, usize)>,
    members: BTreeMap<(u128, usize), Role>,
    /// An id is never taken again.
    purged: BTreeSet<u128>,
    held: [bool; 2],
}

impl Truth {
    fn line(&mut self, number: u128, entry: ChangeDetail) -> LogEntry {
        self.position += 1;
        if let (ChangeDetail::Membership { .. }, Some((head, ..))) = (&entry, self.organizations.get_mut(&number)) {
            head.revision = self.position;
        }
        LogEntry { organization: id(number), kind: Kind::parse("account").unwrap(), revision: self.position, entry }
    }

    fn load(&mut self, memory: &ReplicaTables, number: i16) {
        let mut bucket = memory.bucket(self.position);
        for (organization, (head, owner, named)) in &self.organizations {
            if head.id.bucket() == number {
                let owner = owner.map(user);
                bucket.put_organization(id(*organization), head.state, head.revision, owner.as_ref(), &slug(*named));
            }
        }
        for ((organization, member), role) in &self.members {
            if id(*organization).bucket() == number {
                bucket.put_member(id(*organization), USERS[*member], *role);
            }
        }
        memory.put(number, bucket);
        self.held[usize::from(number.unsigned_abs())] = true;
    }

    fn take(&mut self, memory: &ReplicaTables, step: Step) {
        let (number, entry) = match step {
            Step::Reload { bucket } => return self.load(memory, bucket),
            Step::Drop { bucket } => {
                self.held[usize::from(bucket.unsigned_abs())] = false;
                return memory.take(bucket);
            }
            Step::Purge { number } => {
                self.members.retain(|(organization, _), _| *organization != number);
                let Some((_, _, named)) = self.organizations.remove(&number) else { return };
                self.purged.insert(number);
                (number, ChangeDetail::Organization { state: None, owner: None, slug: slug(named) })
            }
            Step::Organization { number, state, owner, slug: named } => {
                // A slug belongs to one organization.
                let taken = self.organizations.iter().any(|(other, (.., taken))| *other != number && *taken == named);
                if taken || self.purged.contains(&number) {
                    return;
                }
                let head = OrganizationHead { id: id(number), state, revision: self.position + 1 };
                self.organizations.insert(number, (head, owner, named));
                (number, ChangeDetail::Organization { state: Some(state), owner: owner.map(user), slug: slug(named) })
            }
            Step::Member { number, user: member, role } => {
                if !self.organizations.contains_key(&number) {
                    return;
                }
                match role {
                    Some(role) => drop(self.members.insert((number, member), role)),
                    None => drop(self.members.remove(&(number, member))),
                }
                (number, ChangeDetail::Membership { user: user(member), role })
            }
        };
        let line = self.line(number, entry);
        let position = self.position;
        // Twice: what a bucket has already is passed over.
        for _ in 0..2 {
            memory.apply(id(number).bucket(), std::iter::once((position, &line)), position);
        }
    }

    fn compare(&self, memory: &ReplicaTables) {
        for number in 0..ORGANIZATIONS {
            let bucket = id(number).bucket();
            let held = memory.read(bucket);
            assert_eq!(held.is_some(), self.held[usize::from(bucket.unsigned_abs())]);
            let Some(held) = held.as_ref() else { continue };
            let there = self.organizations.get(&number);
            for member in 0..USERS.len() {
                let found = held.find(id(number), Some(&user(member)));
                assert_eq!(found.organization, there.map(|(head, ..)| *head));
                let owns = there.is_some_and(|(_, owner, _)| *owner == Some(member));
                let role = if owns { Some(Role::OWNER) } else { self.members.get(&(number, member)).copied() };
                assert_eq!(found.role, role.filter(|_| there.is_some()));
            }
        }
        for (index, _) in SLUGS.iter().enumerate() {
            let holder =
                self.organizations.iter().find(|(_, (.., named))| *named == index).map(|(number, _)| id(*number));
            let held = holder.filter(|id| self.held[usize::from(id.bucket().unsigned_abs())]);
            assert_eq!(memory.resolve(&slug(index)), held);
        }
    }
}

proptest! {
    #[test]
    fn the_copy_says_what_happened(steps in prop::collection::vec(step(), 1..60)) {
        let memory = ReplicaTables::new([3; 16]);
        let mut truth = Truth::default();
        truth.load(&memory, 0);
        truth.load(&memory, 1);
        for step in steps {
            truth.take(&memory, step);
            truth.compare(&memory);
        }
    }
}

#[test]
fn what_a_purge_leaves_behind_counts_for_nothing() {
    let memory = ReplicaTables::new([3; 16]);
    let mut truth = Truth::default();
    truth.load(&memory, 0);
    let made = Step::Organization { number: 0, state: OrganizationState::Active, owner: None, slug: 0 };
    truth.take(&memory, made);
    for member in 0..USERS.len() {
        truth.take(&memory, Step::Member { number: 0, user: member, role: Some(Role::MEMBER) });
    }
    assert_eq!(memory.read(0).as_ref().map(Bucket::memberships), Some(USERS.len()));
    truth.take(&memory, Step::Purge { number: 0 });
    assert_eq!(memory.read(0).as_ref().map(Bucket::memberships), Some(0));
    truth.compare(&memory);
}

#[test]
fn users_who_are_not_active_are_known() {
    let memory = ReplicaTables::new([3; 16]);
    let ada = user(0);
    let bucket = ada.bucket();
    assert_eq!(memory.user(&ada, bucket), (None, 0));
    memory.put_users(bucket, 5, &[(ada.clone(), UserState::Inactive)]);
    assert_eq!(memory.user(&ada, bucket), (Some(UserState::Inactive), 5));
    memory.apply_users(bucket, [(&ada, UserState::Erased)].into_iter(), 6);
    assert_eq!(memory.user(&ada, bucket), (Some(UserState::Erased), 6));
    memory.apply_users(bucket, [(&ada, UserState::Active)].into_iter(), 7);
    assert_eq!(memory.user(&ada, bucket), (None, 7));
    assert_eq!(memory.user_state(&ada), None);
    memory.put_users(bucket, 8, &[]);
    assert_eq!(memory.user(&ada, bucket), (None, 8));
}
