//! The client's replica: the tables and their lease.

use super::super::{Answer, Check, CheckReason, Question, Source};
use crate::clock;
use crate::domain::check::{answer, role_and_revision};
use crate::domain::ids::ORGANIZATION_BUCKETS;
use crate::domain::{OrganizationId, OrganizationRef, OrganizationState, RoleName, RoleTable, StandingView, UserState};
use crate::random;
use crate::replica_tables::{Bucket, PublishedRoles, ReplicaTables};
use std::sync::Arc;
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
    /// Whether every bucket has the roles of an access model. Servers of releases up to 0.3 send none.
    follows_model: AtomicBool,
    /// Whether a model that the replica does not follow changes what `admin` or `member` hold: the server then answers what
    /// depends on it.
    built_in_roles_changed: AtomicBool,
}

impl ClientReplica {
    pub(super) fn new(is_complete: bool) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&random::secret()[..16]);
        Self {
            tables: ReplicaTables::new(key),
            lease: AtomicU64::new(0),
            is_complete: AtomicBool::new(is_complete),
            follows_model: AtomicBool::new(false),
            built_in_roles_changed: AtomicBool::new(false),
        }
    }

    /// Records that the replica has seen a change of an unknown type.
    pub(super) fn mark_incomplete(&self) {
        self.is_complete.store(false, Ordering::Release);
    }

    /// Records whether the access model changes what `admin` or `member` hold.
    pub(super) fn set_built_in_roles_changed(&self, is_changed: bool) {
        self.built_in_roles_changed.store(is_changed, Ordering::Release);
    }

    /// Sets the roles of an access model, for the changes that are applied next, unless the replica has this model or a newer
    /// one. Returns whether it does. [`Self::adopt_roles`] sets them for all organizations.
    pub(super) fn put_roles(&self, roles: PublishedRoles) -> bool {
        let is_newer = roles.at.position > self.tables.roles().at.position;
        // The first model may have the revision 0, as the roles without a model.
        let is_accepted = is_newer || !self.follows_model.load(Ordering::Acquire);
        if is_accepted {
            self.tables.put_roles(roles);
        }
        is_accepted
    }

    /// Makes every bucket adopt the roles. Only then does the replica know what `admin` and `member` hold.
    pub(super) fn adopt_roles(&self) {
        self.tables.adopt_roles();
        self.follows_model.store(true, Ordering::Release);
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

    /// Answers a check; `None` if the server must answer it.
    pub(super) fn answer(&self, check: &Check) -> Option<Answer> {
        let Some(id) = self.tables.organization(&check.organization) else {
            // The slug is moving: two organizations claim it until the change of its previous organization arrives.
            let is_moving = matches!(&check.organization, OrganizationRef::Slug(slug) if self.tables.is_claimed(slug));
            let roles = self.tables.roles();
            let standing = || self.without_organization(check, &roles.table);
            return if is_moving { None } else { to_answer(check, &standing()?) };
        };
        let bucket = self.tables.read(id.bucket());
        to_answer(check, &self.standing(bucket.as_ref()?, id, check)?)
    }

    /// Answers a batch, bucket by bucket under each bucket's lock; `None` if the server must answer one of the checks. An
    /// unknown slug may be another name of an organization that the batch names by id. The replica then cannot answer
    /// either, because answers about one organization could come from two states of it. Nor can it while the buckets adopt
    /// another access model: a batch sees one model.
    pub(super) fn answers(&self, checks: &[Check]) -> Option<Vec<Answer>> {
        let ids: Vec<OrganizationId> =
            checks.iter().map(|check| self.tables.organization(&check.organization)).collect::<Option<_>>()?;
        let mut order: Vec<usize> = (0..checks.len()).collect();
        order.sort_by_key(|index| ids[*index].bucket());
        let mut answers = vec![None; checks.len()];
        let mut model: Option<Arc<RoleTable>> = None;
        for group in order.chunk_by(|a, b| ids[*a].bucket() == ids[*b].bucket()) {
            let bucket = self.tables.read(ids[*group.first()?].bucket());
            let bucket = bucket.as_ref()?;
            let roles = &bucket.deployment_roles().table;
            if !Arc::ptr_eq(model.get_or_insert_with(|| roles.clone()), roles) {
                return None;
            }
            for index in group {
                let check = &checks[*index];
                answers[*index] = Some(to_answer(check, &self.standing(bucket, ids[*index], check)?)?);
            }
        }
        answers.into_iter().collect()
    }

    /// The standing of a user in an organization of this bucket; `None` if the replica does not know it.
    fn standing<'t>(&self, bucket: &'t Bucket, id: OrganizationId, check: &Check) -> Option<StandingView<'t>> {
        if let OrganizationRef::Slug(slug) = &check.organization
            && !self.tables.has_slug(bucket, id, slug)
        {
            // The slug has just moved to another organization, or the organization was renamed.
            return None;
        }
        let roles = &*bucket.deployment_roles().table;
        let member = bucket.find(id, Some(&check.user), roles)?;
        if member.organization.is_none() {
            return self.without_organization(check, roles);
        }
        let is_owner = member.role.is_some_and(|role| *role.name == RoleName::OWNER);
        if check.question != Question::Member && !is_owner && self.has_unknown_model() {
            return None;
        }
        let named_role = check.question.organization_role().and_then(|name| bucket.organization_role(id, name, roles));
        let user_state = self.tables.user_status(&check.user).state;
        Some(StandingView { organization: member.organization, role: member.role, user_state, roles, named_role })
    }

    /// Whether `admin` or `member` hold other permissions than those that the replica knows.
    fn has_unknown_model(&self) -> bool {
        !self.follows_model.load(Ordering::Acquire) && self.built_in_roles_changed.load(Ordering::Acquire)
    }

    /// The standing of a user in an organization that is not in the replica; `None` if the organization may be of
    /// another kind, or may have got this name by a change of an unknown type.
    fn without_organization<'t>(&self, check: &Check, roles: &'t RoleTable) -> Option<StandingView<'t>> {
        let user_state = self.tables.user_status(&check.user).state;
        let standing = StandingView { organization: None, role: None, user_state, roles, named_role: None };
        self.is_complete.load(Ordering::Acquire).then_some(standing)
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

/// The answer for this standing. `None` if it depends on a value that only the server knows: the server may be newer, or
/// may have a role or a permission that the replica does not have yet.
fn to_answer(check: &Check, standing: &StandingView<'_>) -> Option<Answer> {
    let is_state_known = standing.organization.is_none_or(|head| head.state != OrganizationState::Unknown);
    let is_role_known = standing.role.is_none_or(|role| role.permissions.is_some());
    if !is_state_known || !is_role_known || standing.user_state == Some(UserState::Unknown) {
        return None;
    }
    let reason = answer(&check.question, standing).ok()?;
    if matches!(reason, CheckReason::ValueUnknown | CheckReason::RoleNotFound) {
        return None;
    }
    let (role, revision) = role_and_revision(reason, standing);
    let role = role.cloned();
    Some(Answer { reason, role, revision, source: Source::Cache, consistency_token: String::new() })
}
