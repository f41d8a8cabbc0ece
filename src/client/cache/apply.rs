//! Applies the messages of exports and watches to the client's replica.
//!
//! A watch delivers every change at least once, and each change is the state at that time: applied again after a stream
//! was interrupted, it would set the replica back. Revisions prevent that: the changes of an organization carry its
//! revisions, consecutive and without a gap. The replica skips changes that it has applied; a gap means that it has
//! missed one.

use super::super::Error;
use super::super::question::unreadable;
use super::model::{self, PermissionList};
use super::replica::ClientReplica;
use crate::domain::change::{ChangeDetail, LogEntry};
use crate::domain::ids::{ORGANIZATION_BUCKETS, USER_BUCKETS};
use crate::domain::{
    BucketPosition, Kind, LogMark, OrganizationId, OrganizationRef, OrganizationState, Role, RoleName, Slug, UserId,
    UserState, UserStatus,
};
use crate::pb::{self, memberships_change::Change as ChangeMessage};
use crate::replica_tables::{Bucket, PublishedRoles};
use std::collections::{BTreeMap, HashMap};

/// Why changes cannot be outcome.
#[derive(Debug)]
pub(super) enum ApplyError {
    /// An earlier change is missing.
    Gap,
    /// A change could not be parsed.
    Unreadable(Error),
}

impl From<Error> for ApplyError {
    fn from(error: Error) -> Self {
        Self::Unreadable(error)
    }
}

/// Revisions applied since the last answered ping that the replica itself does not store. Older changes are not
/// repeated.
#[derive(Debug, Default)]
pub(super) struct RecentChanges {
    purged: HashMap<OrganizationId, i64>,
    users: HashMap<UserId, i64>,
}

impl RecentChanges {
    pub(super) fn clear(&mut self) {
        self.purged.clear();
        self.users.clear();
    }
}

/// The result of applying a message's changes.
#[derive(Debug, Default)]
pub(super) struct ApplyOutcome {
    pub(super) changes: usize,
    pub(super) repetitions: usize,
    /// Whether an organization was purged.
    pub(super) purged: bool,
}

fn organization_id(text: &str) -> Result<OrganizationId, Error> {
    match OrganizationRef::parse(text) {
        Ok(OrganizationRef::Id(id)) => Ok(id),
        Ok(OrganizationRef::Slug(_)) | Err(_) => Err(unreadable("an organization's id", text)),
    }
}

/// The role of a membership. Ownership is not a stored role.
fn role(text: &str) -> Role {
    let role = Role::read(text);
    if role == Role::OWNER { Role::unknown() } else { role }
}

fn organization_state(number: i32) -> OrganizationState {
    match pb::OrganizationState::try_from(number) {
        Ok(pb::OrganizationState::Pending) => OrganizationState::Pending,
        Ok(pb::OrganizationState::Active) => OrganizationState::Active,
        Ok(pb::OrganizationState::Inactive) => OrganizationState::Inactive,
        Ok(pb::OrganizationState::Deleted) => OrganizationState::Deleted,
        Ok(pb::OrganizationState::Unspecified) | Err(_) => OrganizationState::Unknown,
    }
}

fn user_state(number: i32) -> UserState {
    match pb::UserState::try_from(number) {
        Ok(pb::UserState::Active) => UserState::Active,
        Ok(pb::UserState::Inactive) => UserState::Inactive,
        Ok(pb::UserState::Deleted) => UserState::Erased,
        Ok(pb::UserState::Unspecified) | Err(_) => UserState::Unknown,
    }
}

fn membership_entry(change: &pb::MembershipChange) -> Result<LogEntry, Error> {
    let role = (!change.role.is_empty()).then(|| role(&change.role));
    Ok(LogEntry {
        organization: organization_id(&change.organization_id)?,
        kind: Kind::from_stored(change.kind.clone()),
        revision: change.revision,
        detail: ChangeDetail::Membership { user: UserId::from_stored(change.user_id.clone()), role },
    })
}

fn organization_entry(change: &pb::OrganizationChange) -> Result<LogEntry, Error> {
    let detail = ChangeDetail::Organization {
        state: (!change.purged).then(|| organization_state(change.state)),
        owner: (!change.owner_id.is_empty()).then(|| UserId::from_stored(change.owner_id.clone())),
        slug: Slug::from_stored(change.slug.clone()),
    };
    let (organization, kind) = (organization_id(&change.organization_id)?, Kind::from_stored(change.kind.clone()));
    Ok(LogEntry { organization, kind, revision: change.revision, detail })
}

fn role_entry(change: &pb::OrganizationRoleChange) -> Result<LogEntry, Error> {
    let detail = ChangeDetail::Role {
        name: RoleName::from_stored(&change.role),
        permissions: (!change.deleted).then(|| change.permissions.clone()),
        replaced_by: (!change.replaced_by.is_empty()).then(|| RoleName::from_stored(&change.replaced_by)),
    };
    let (organization, kind) = (organization_id(&change.organization_id)?, Kind::from_stored(change.kind.clone()));
    Ok(LogEntry { organization, kind, revision: change.revision, detail })
}

/// A position that counts the applied changes of a bucket. The client knows no marks.
fn local_position(bucket: i16, position: i64) -> BucketPosition {
    BucketPosition { bucket, position, mark: LogMark::START }
}

/// The entry of a change of a type that this client does not know; `None` if it concerns no organization.
fn unknown_entry(change: &pb::MembershipsChange) -> Result<Option<LogEntry>, Error> {
    let entry = |organization| LogEntry {
        organization,
        kind: Kind::from_stored(String::new()),
        revision: change.revision,
        detail: ChangeDetail::Unknown,
    };
    if change.organization_id.is_empty() {
        return Ok(None);
    }
    Ok(Some(entry(organization_id(&change.organization_id)?)))
}

/// The changes of one watch message, parsed completely before any of them is outcome.
#[derive(Default)]
struct WatchBatch {
    /// The newest access model.
    model: Option<PublishedRoles>,
    /// The number of access models.
    models: usize,
    entries: Vec<LogEntry>,
    users: Vec<(UserId, i64, UserState)>,
}

fn parse(changes: &[pb::MembershipsChange]) -> Result<WatchBatch, Error> {
    let mut batch = WatchBatch::default();
    for change in changes {
        match &change.change {
            Some(ChangeMessage::Membership(change)) => batch.entries.push(membership_entry(change)?),
            Some(ChangeMessage::Organization(change)) => batch.entries.push(organization_entry(change)?),
            Some(ChangeMessage::User(change)) => {
                batch.users.push((
                    UserId::from_stored(change.user_id.clone()),
                    change.revision,
                    user_state(change.state),
                ));
            }
            Some(ChangeMessage::Role(change)) => batch.entries.push(role_entry(change)?),
            Some(ChangeMessage::AccessModel(change)) => {
                let newest = batch.model.as_ref().map(|roles| roles.at.position);
                if newest.is_none_or(|newest| change.revision > newest) {
                    batch.model = Some(model::published(change));
                }
                batch.models += 1;
            }
            None => batch.entries.extend(unknown_entry(change)?),
        }
    }
    Ok(batch)
}

/// Whether an entry deletes a role. After a move of members that ends with no member left to move, it has the revision of
/// the change before.
fn deletes_role(entry: &LogEntry) -> bool {
    matches!(entry.detail, ChangeDetail::Role { permissions: None, .. })
}

impl ClientReplica {
    /// Applies the changes of one message; the changes of one organization take effect together.
    pub(super) fn apply(
        &self,
        changes: &[pb::MembershipsChange],
        recent: &mut RecentChanges,
    ) -> Result<ApplyOutcome, ApplyError> {
        let batch = parse(changes)?;
        let mut outcome = ApplyOutcome::default();
        let mut buckets: BTreeMap<i16, Vec<LogEntry>> = BTreeMap::new();
        // The revision of each organization, and whether this message has reached it: several entries may have it.
        let mut revisions: HashMap<OrganizationId, (i64, bool)> = HashMap::new();
        for entry in batch.entries {
            let id = entry.organization;
            let (known, is_new) = revisions.entry(id).or_insert_with(|| (self.revision(id, recent), false));
            if entry.revision < *known || (entry.revision == *known && !*is_new && !deletes_role(&entry)) {
                outcome.repetitions += 1;
                continue;
            }
            let is_purge = matches!(entry.detail, ChangeDetail::Organization { state: None, .. });
            // A purge does not depend on earlier changes.
            if entry.revision > *known + 1 && !is_purge {
                return Err(ApplyError::Gap);
            }
            (*known, *is_new) = (entry.revision, true);
            if entry.detail == ChangeDetail::Unknown {
                self.mark_incomplete();
            }
            if is_purge {
                recent.purged.insert(id, entry.revision);
                outcome.purged = true;
            }
            buckets.entry(id.bucket()).or_default().push(entry);
        }
        // Before the entries: each bucket adopts the model together with its entries of the same message.
        let has_newer_model = batch.model.is_some_and(|roles| self.put_roles(roles));
        outcome.changes += usize::from(has_newer_model);
        outcome.repetitions += batch.models - usize::from(has_newer_model);
        for (number, entries) in &buckets {
            let position = self.tables.read(*number).as_ref().map_or(0, Bucket::position);
            let last = position + i64::try_from(entries.len()).unwrap_or(i64::MAX);
            self.tables.apply((position + 1..).zip(entries), local_position(*number, last));
            outcome.changes += entries.len();
        }
        if has_newer_model {
            self.adopt_roles();
        }
        for (user, revision, state) in batch.users {
            let known = recent.users.entry(user.clone()).or_default();
            if revision <= *known {
                outcome.repetitions += 1;
                continue;
            }
            *known = revision;
            let last = self.tables.user_position(user.bucket()).position + 1;
            let status = UserStatus::new(state, None);
            self.tables.apply_users(std::iter::once((&user, status)), local_position(user.bucket(), last));
            outcome.changes += 1;
        }
        Ok(outcome)
    }

    /// The applied revision of an organization; 0 for an unknown one.
    fn revision(&self, id: OrganizationId, recent: &RecentChanges) -> i64 {
        let bucket = self.tables.read(id.bucket());
        let applied = bucket.as_ref().and_then(|bucket| bucket.revision(id));
        applied.or_else(|| recent.purged.get(&id).copied()).unwrap_or_default()
    }
}

/// Builds a replica from the messages of an export.
pub(super) struct ExportLoader {
    replica: ClientReplica,
    buckets: Vec<Bucket>,
    users: BTreeMap<i16, Vec<(UserId, UserStatus)>>,
}

impl ExportLoader {
    pub(super) fn new(is_complete: bool) -> Self {
        let replica = ClientReplica::new(is_complete);
        let buckets = (0..ORGANIZATION_BUCKETS).map(|bucket| replica.tables.bucket(BucketPosition::start(bucket)));
        let buckets = buckets.collect();
        Self { replica, buckets, users: BTreeMap::new() }
    }

    /// Adds the content of a message.
    pub(super) fn add(&mut self, message: &pb::ExportMembershipsResponse) -> Result<(), Error> {
        if let Some(model) = &message.access_model {
            self.replica.put_roles(model::published(model));
            self.replica.adopt_roles();
        }
        let permissions = PermissionList::new(&message.permissions);
        for exported in &message.organizations {
            let organization = exported.organization.as_ref();
            let organization = organization.ok_or_else(|| unreadable("an organization", "without an id"))?;
            let entry = organization_entry(organization)?;
            let ChangeDetail::Organization { state: Some(state), owner, slug } = entry.detail else {
                return Err(unreadable("an organization", "that is purged"));
            };
            let id = entry.organization;
            let bucket = usize::from(id.bucket().unsigned_abs());
            let bucket = self.buckets.get_mut(bucket).ok_or_else(|| unreadable("a bucket", "of an unknown number"))?;
            // An organization with many members is split over several messages.
            if bucket.revision(id).is_none() {
                bucket.put_organization(id, state, entry.revision, owner.as_ref(), &slug);
            }
            for role in &exported.roles {
                let name = RoleName::from_stored(&role.name);
                if role.replaced_by.is_empty() {
                    bucket.put_role(id, &name, permissions.set(&role.permissions));
                } else {
                    bucket.put_replaced_role(id, &name, &RoleName::from_stored(&role.replaced_by));
                }
            }
            for member in &exported.members {
                bucket.put_member(id, &member.user_id, role(&member.role).name.as_str());
            }
        }
        for exported in &message.users {
            let user = UserId::from_stored(exported.user_id.clone());
            // A client answers checks only: for these, a reinstated user is an active one.
            let status = UserStatus::new(user_state(exported.state), None);
            self.users.entry(user.bucket()).or_default().push((user, status));
        }
        Ok(())
    }

    /// Publishes every bucket and returns the replica. It has no lease yet.
    pub(super) fn finish(mut self) -> ClientReplica {
        for bucket in self.buckets {
            self.replica.tables.put(bucket);
        }
        for bucket in 0..USER_BUCKETS {
            let states = self.users.remove(&bucket).unwrap_or_default();
            self.replica.tables.put_users(BucketPosition::start(bucket), &states);
        }
        self.replica
    }
}
