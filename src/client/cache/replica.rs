//! The client's replica: the tables and their lease.

use super::super::{Check, Question};
use crate::clock;
use crate::domain::ids::ORGANIZATION_BUCKETS;
use crate::domain::{
    BucketPosition, OrganizationId, OrganizationRef, OrganizationState, Role, RoleName, RoleTable, RoleView, Standing,
    UserId, UserState,
};
use crate::random;
use crate::replica_tables::{Bucket, ReplicaTables};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A replica that an export has loaded and consecutive watches keep up to date. Its log positions only count the
/// applied changes; the server's positions are inside the cursors, which are opaque to the client.
#[derive(Debug)]
pub(super) struct ClientReplica {
    pub(super) tables: ReplicaTables,
    /// The lease: a [`clock::uptime`] in nanoseconds, or 0 for no lease.
    lease: AtomicU64,
    /// Whether the replica has the organizations of all kinds, and has seen no change of an unknown type, which may have
    /// renamed one. Then an organization that is not in it does not exist.
    is_complete: AtomicBool,
    /// Whether the access model changes what `admin` or `member` hold: the server then answers what depends on it.
    built_in_roles_changed: AtomicBool,
    /// The roles without an access model.
    pub(super) roles: RoleTable,
}

/// The position of an answer from the cache: its position in the server's log is unknown.
const NO_POSITION: BucketPosition = BucketPosition::start(0);

impl ClientReplica {
    pub(super) fn new(is_complete: bool) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&random::secret()[..16]);
        let (lease, is_complete) = (AtomicU64::new(0), AtomicBool::new(is_complete));
        let (built_in_roles_changed, roles) = (AtomicBool::new(false), RoleTable::built_in());
        Self { tables: ReplicaTables::new(key), lease, is_complete, built_in_roles_changed, roles }
    }

    /// Records that the replica has seen a change of an unknown type.
    pub(super) fn mark_incomplete(&self) {
        self.is_complete.store(false, Ordering::Release);
    }

    /// Records whether the access model changes what `admin` or `member` hold.
    pub(super) fn set_built_in_roles_changed(&self, is_changed: bool) {
        self.built_in_roles_changed.store(is_changed, Ordering::Release);
    }

    /// Renews the lease: the replica includes every write acknowledged before this time.
    pub(super) fn renew_lease(&self, lease: u64) {
        self.lease.fetch_max(lease, Ordering::AcqRel);
    }

    /// Drops the lease: the replica no longer answers.
    pub(super) fn drop_lease(&self) {
        self.lease.store(0, Ordering::Release);
    }

    /// The age of the lease; `None` without a lease.
    pub(super) fn age(&self) -> Option<Duration> {
        let lease = self.lease.load(Ordering::Acquire);
        (lease > 0).then(|| clock::uptime().saturating_sub(Duration::from_nanos(lease)))
    }

    /// Looks up a user in an organization; `None` if the replica cannot answer.
    pub(super) fn standing(&self, check: &Check) -> Option<Standing> {
        let Some(id) = self.tables.organization(&check.organization) else {
            // The slug is moving: two organizations claim it until the change of its previous organization arrives.
            let is_moving = matches!(&check.organization, OrganizationRef::Slug(slug) if self.tables.is_claimed(slug));
            return if is_moving { None } else { self.without_organization(&check.user) };
        };
        let bucket = self.tables.read(id.bucket());
        self.find(bucket.as_ref()?, id, check)
    }

    /// Looks up a batch, bucket by bucket under each bucket's lock; `None` if the replica cannot answer every check. An
    /// unknown slug may be another name of an organization that the batch names by id. The replica then cannot answer
    /// either, because answers about one organization could come from two states of it.
    pub(super) fn standings(&self, checks: &[Check]) -> Option<Vec<Standing>> {
        let ids: Vec<OrganizationId> =
            checks.iter().map(|check| self.tables.organization(&check.organization)).collect::<Option<_>>()?;
        let mut order: Vec<usize> = (0..checks.len()).collect();
        order.sort_by_key(|index| ids[*index].bucket());
        let mut standings = vec![None; checks.len()];
        for group in order.chunk_by(|a, b| ids[*a].bucket() == ids[*b].bucket()) {
            let bucket = self.tables.read(ids[*group.first()?].bucket());
            for index in group {
                standings[*index] = self.find(bucket.as_ref()?, ids[*index], &checks[*index]);
            }
        }
        standings.into_iter().collect()
    }

    fn find(&self, bucket: &Bucket, id: OrganizationId, check: &Check) -> Option<Standing> {
        if let OrganizationRef::Slug(slug) = &check.organization
            && !self.tables.has_slug(bucket, id, slug)
        {
            // The slug has just moved to another organization, or the organization was renamed.
            return None;
        }
        let member = bucket.find(id, Some(&check.user), &self.roles)?;
        if member.organization.is_none() {
            return self.without_organization(&check.user);
        }
        let is_owner = member.role.as_ref().is_some_and(|role| *role.name == RoleName::OWNER);
        if check.question != Question::Member && !is_owner && self.built_in_roles_changed.load(Ordering::Acquire) {
            return None;
        }
        let standing = Standing {
            organization: member.organization,
            role: member.role.map(RoleView::to_role),
            ..self.user_standing(&check.user)
        };
        Self::if_known(standing)
    }

    /// The standing of a user in an organization that is not in the replica; `None` if the organization may be of
    /// another kind, or may have got this name by a change of an unknown type.
    fn without_organization(&self, user: &UserId) -> Option<Standing> {
        if self.is_complete.load(Ordering::Acquire) { Self::if_known(self.user_standing(user)) } else { None }
    }

    /// The standing, if this client knows its values. The server may be newer and know more.
    fn if_known(standing: Standing) -> Option<Standing> {
        let is_state_known = standing.organization.is_none_or(|head| head.state != OrganizationState::Unknown);
        let is_role_known = standing.role.as_ref().is_none_or(Role::is_known);
        let is_known = is_state_known && is_role_known && standing.user_state != Some(UserState::Unknown);
        is_known.then_some(standing)
    }

    fn user_standing(&self, user: &UserId) -> Standing {
        let user_state = self.tables.user_state(user);
        Standing { organization: None, role: None, user_state, position: None, user_position: NO_POSITION }
    }

    /// Whether a new export would free a worthwhile amount of memory of purged organizations.
    pub(super) fn is_littered(&self) -> bool {
        (0..ORGANIZATION_BUCKETS).any(|number| self.tables.read(number).as_ref().is_some_and(Bucket::is_littered))
    }

    pub(super) fn memberships(&self) -> usize {
        self.sum(Bucket::memberships)
    }

    pub(super) fn bytes(&self) -> usize {
        self.sum(Bucket::bytes) + self.tables.user_bytes()
    }

    fn sum(&self, measure: impl Fn(&Bucket) -> usize) -> usize {
        (0..ORGANIZATION_BUCKETS).map(|number| self.tables.read(number).as_ref().map_or(0, &measure)).sum()
    }
}
