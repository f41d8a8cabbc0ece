//! The copy itself: what is in memory, and how fresh that is.

use super::super::Check;
use crate::clock;
use crate::domain::ids::ORGANIZATION_BUCKETS;
use crate::domain::{BucketPosition, OrganizationId, OrganizationRef, Standing, UserId};
use crate::random;
use crate::replica_tables::{Bucket, ReplicaTables};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What one export began and one watch after the other goes on with. Positions in it only count what was applied: the
/// server's are in its cursors, which nobody but it reads.
#[derive(Debug)]
pub(super) struct ClientReplica {
    pub(super) memory: ReplicaTables,
    /// [`clock::uptime`] in nanoseconds; 0 for none.
    lease: AtomicU64,
    /// Whether it has the organizations of all kinds: then what is not in it is not there.
    is_complete: bool,
}

/// Answers come from no known place of the server's log.
const NOWHERE: BucketPosition = BucketPosition { bucket: 0, position: 0 };

impl ClientReplica {
    pub(super) fn new(is_complete: bool) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&random::secret()[..16]);
        Self { memory: ReplicaTables::new(key), lease: AtomicU64::new(0), is_complete }
    }

    /// Says that everything is in it that was acknowledged before this moment.
    pub(super) fn renew(&self, lease: u64) {
        self.lease.fetch_max(lease, Ordering::AcqRel);
    }

    /// Says that it is not to be trusted.
    pub(super) fn distrust(&self) {
        self.lease.store(0, Ordering::Release);
    }

    /// How old the lease is; none without one.
    pub(super) fn age(&self) -> Option<Duration> {
        let lease = self.lease.load(Ordering::Acquire);
        (lease > 0).then(|| clock::uptime().saturating_sub(Duration::from_nanos(lease)))
    }

    /// What it knows of one user in one organization; none if it cannot say.
    pub(super) fn standing(&self, check: &Check) -> Option<Standing> {
        let Some(id) = self.memory.organization(&check.organization) else {
            // Two have it, for as long as it is not said of the one that it has let go.
            let moving = matches!(&check.organization, OrganizationRef::Slug(slug) if self.memory.is_claimed(slug));
            return if moving { None } else { self.nothing_there(&check.user) };
        };
        let held = self.memory.read(id.bucket());
        self.find(held.as_ref()?, id, check)
    }

    /// What it knows of many, each bucket standing still while it is asked; none if it cannot say it of all. A name that is
    /// not known may be another name of an organization that is: then it cannot say either, lest one organization be
    /// seen in two states.
    pub(super) fn standings(&self, checks: &[Check]) -> Option<Vec<Standing>> {
        let ids: Vec<OrganizationId> =
            checks.iter().map(|check| self.memory.organization(&check.organization)).collect::<Option<_>>()?;
        let mut order: Vec<usize> = (0..checks.len()).collect();
        order.sort_by_key(|index| ids[*index].bucket());
        let mut standings = vec![None; checks.len()];
        for group in order.chunk_by(|a, b| ids[*a].bucket() == ids[*b].bucket()) {
            let held = self.memory.read(ids[*group.first()?].bucket());
            for index in group {
                standings[*index] = self.find(held.as_ref()?, ids[*index], &checks[*index]);
            }
        }
        standings.into_iter().collect()
    }

    fn find(&self, held: &Bucket, id: OrganizationId, check: &Check) -> Option<Standing> {
        if let OrganizationRef::Slug(slug) = &check.organization
            && !self.memory.has_slug(held, id, slug)
        {
            // It has just been renamed.
            return None;
        }
        let found = held.find(id, Some(&check.user));
        if found.organization.is_none() {
            return self.nothing_there(&check.user);
        }
        Some(Standing { organization: found.organization, role: found.role, ..self.of(&check.user) })
    }

    /// What is so of a user where there is no organization; none if there may be one of another kind.
    fn nothing_there(&self, user: &UserId) -> Option<Standing> {
        self.is_complete.then(|| self.of(user))
    }

    fn of(&self, user: &UserId) -> Standing {
        let user_state = self.memory.user_state(user);
        Standing { organization: None, role: None, user_state, position: None, user_position: NOWHERE }
    }

    /// Whether a bucket is better exported anew, because of what purged organizations left in it.
    pub(super) fn is_littered(&self) -> bool {
        (0..ORGANIZATION_BUCKETS).any(|number| self.memory.read(number).as_ref().is_some_and(Bucket::is_littered))
    }

    pub(super) fn memberships(&self) -> usize {
        self.sum(Bucket::memberships)
    }

    pub(super) fn bytes(&self) -> usize {
        self.sum(Bucket::bytes) + self.memory.user_bytes()
    }

    fn sum(&self, of: impl Fn(&Bucket) -> usize) -> usize {
        (0..ORGANIZATION_BUCKETS).map(|number| self.memory.read(number).as_ref().map_or(0, &of)).sum()
    }
}
