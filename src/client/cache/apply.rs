//! What an export and a watch tell, taken into a copy.
//!
//! A watch tells everything at least once, and each change is told as what is so then: one that is told again, after a
//! stream broke off, would take the copy back to what was. Revisions tell: an organization's changes have its revisions,
//! one after the other without a gap. What the copy has is passed over; a gap means that it lacks something.

use super::super::Error;
use super::super::question::unreadable;
use super::replica::ClientReplica;
use crate::domain::change::{ChangeDetail, LogEntry};
use crate::domain::ids::{ORGANIZATION_BUCKETS, USER_BUCKETS};
use crate::domain::{Kind, OrganizationId, OrganizationRef, OrganizationState, Role, Slug, UserId, UserState};
use crate::pb::{self, memberships_change::Change as ChangeMessage};
use crate::replica_tables::Bucket;
use std::collections::{BTreeMap, HashMap};

/// Why changes cannot be taken in.
#[derive(Debug)]
pub(super) enum ApplyError {
    /// One before them is missing.
    Gap,
    /// They are not understood.
    Unreadable(Error),
}

impl From<Error> for ApplyError {
    fn from(error: Error) -> Self {
        Self::Unreadable(error)
    }
}

/// What the copy itself does not remember of what was applied since the last ping came back: nothing older is repeated.
#[derive(Debug, Default)]
pub(super) struct RecentChanges {
    purged: HashMap<OrganizationId, i64>,
    users: HashMap<UserId, i64>,
}

impl RecentChanges {
    pub(super) fn forget(&mut self) {
        self.purged.clear();
        self.users.clear();
    }
}

/// What was done with changes.
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

fn user_id(text: &str) -> Result<UserId, Error> {
    UserId::parse(text).map_err(|_| unreadable("a user's id", text))
}

fn kind(text: &str) -> Result<Kind, Error> {
    Kind::parse(text).map_err(|_| unreadable("a kind", text))
}

fn slug(text: &str) -> Result<Slug, Error> {
    Slug::parse(text).map_err(|_| unreadable("a slug", text))
}

fn role(text: &str) -> Result<Role, Error> {
    Role::parse_assignable(text).map_err(|_| unreadable("a role", text))
}

fn optional<T>(text: &str, parse: impl Fn(&str) -> Result<T, Error>) -> Result<Option<T>, Error> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

fn organization_state(number: i32) -> Result<OrganizationState, Error> {
    match pb::OrganizationState::try_from(number) {
        Ok(pb::OrganizationState::Pending) => Ok(OrganizationState::Pending),
        Ok(pb::OrganizationState::Active) => Ok(OrganizationState::Active),
        Ok(pb::OrganizationState::Inactive) => Ok(OrganizationState::Inactive),
        Ok(pb::OrganizationState::Deleted) => Ok(OrganizationState::Deleted),
        Ok(pb::OrganizationState::Unspecified) | Err(_) => Err(unreadable("a state", &number.to_string())),
    }
}

fn user_state(number: i32) -> Result<UserState, Error> {
    match pb::UserState::try_from(number) {
        Ok(pb::UserState::Active) => Ok(UserState::Active),
        Ok(pb::UserState::Inactive) => Ok(UserState::Inactive),
        Ok(pb::UserState::Deleted) => Ok(UserState::Erased),
        Ok(pb::UserState::Unspecified) | Err(_) => Err(unreadable("a state", &number.to_string())),
    }
}

fn membership_line(told: &pb::MembershipChange) -> Result<LogEntry, Error> {
    Ok(LogEntry {
        organization: organization_id(&told.organization_id)?,
        kind: kind(&told.kind)?,
        revision: told.revision,
        detail: ChangeDetail::Membership { user: user_id(&told.user_id)?, role: optional(&told.role, role)? },
    })
}

fn organization_line(told: &pb::OrganizationChange) -> Result<LogEntry, Error> {
    let state = if told.purged { None } else { Some(organization_state(told.state)?) };
    let entry =
        ChangeDetail::Organization { state, owner: optional(&told.owner_id, user_id)?, slug: slug(&told.slug)? };
    let (organization, kind) = (organization_id(&told.organization_id)?, kind(&told.kind)?);
    Ok(LogEntry { organization, kind, revision: told.revision, detail: entry })
}

/// What a message of a watch says, read in full before anything of it is applied.
#[derive(Default)]
struct WatchBatch {
    lines: Vec<LogEntry>,
    users: Vec<(UserId, i64, UserState)>,
}

fn read(changes: &[pb::MembershipsChange]) -> Result<WatchBatch, Error> {
    let mut read = WatchBatch::default();
    for change in changes {
        match &change.change {
            Some(ChangeMessage::Membership(told)) => read.lines.push(membership_line(told)?),
            Some(ChangeMessage::Organization(told)) => read.lines.push(organization_line(told)?),
            Some(ChangeMessage::User(told)) => {
                read.users.push((user_id(&told.user_id)?, told.revision, user_state(told.state)?));
            }
            None => return Err(unreadable("a change", "of a new sort")),
        }
    }
    Ok(read)
}

impl ClientReplica {
    /// Takes in the changes of one message: those of one organization at once.
    pub(super) fn apply(
        &self,
        changes: &[pb::MembershipsChange],
        recent: &mut RecentChanges,
    ) -> Result<ApplyOutcome, ApplyError> {
        let read = read(changes)?;
        let mut applied = ApplyOutcome::default();
        let mut buckets: BTreeMap<i16, Vec<LogEntry>> = BTreeMap::new();
        let mut revisions: HashMap<OrganizationId, i64> = HashMap::new();
        for line in read.lines {
            let id = line.organization;
            let known = revisions.entry(id).or_insert_with(|| self.revision(id, recent));
            if line.revision <= *known {
                applied.repetitions += 1;
                continue;
            }
            let is_purge = matches!(line.detail, ChangeDetail::Organization { state: None, .. });
            // What is gone for good needs nothing before it.
            if line.revision != *known + 1 && !is_purge {
                return Err(ApplyError::Gap);
            }
            *known = line.revision;
            if is_purge {
                recent.purged.insert(id, line.revision);
                applied.purged = true;
            }
            buckets.entry(id.bucket()).or_default().push(line);
        }
        for (number, lines) in &buckets {
            let position = self.memory.read(*number).as_ref().map_or(0, Bucket::position);
            let last = position + i64::try_from(lines.len()).unwrap_or(i64::MAX);
            self.memory.apply(*number, (position + 1..).zip(lines), last);
            applied.changes += lines.len();
        }
        for (user, revision, state) in read.users {
            let known = recent.users.entry(user.clone()).or_default();
            if revision <= *known {
                applied.repetitions += 1;
                continue;
            }
            *known = revision;
            let bucket = user.bucket();
            self.memory.apply_users(bucket, std::iter::once((&user, state)), self.memory.user_position(bucket) + 1);
            applied.changes += 1;
        }
        Ok(applied)
    }

    /// The revision of an organization that is applied; 0 for one that has not been heard of.
    fn revision(&self, id: OrganizationId, recent: &RecentChanges) -> i64 {
        let held = self.memory.read(id.bucket());
        let held = held.as_ref().and_then(|held| held.find(id, None).organization);
        held.map(|held| held.revision).or_else(|| recent.purged.get(&id).copied()).unwrap_or_default()
    }
}

/// An export as it comes in.
pub(super) struct ExportLoader {
    copy: ClientReplica,
    buckets: Vec<Bucket>,
    users: BTreeMap<i16, Vec<(UserId, UserState)>>,
}

impl ExportLoader {
    pub(super) fn new(is_complete: bool) -> Self {
        let copy = ClientReplica::new(is_complete);
        let buckets = (0..ORGANIZATION_BUCKETS).map(|_| copy.memory.bucket(0)).collect();
        Self { copy, buckets, users: BTreeMap::new() }
    }

    /// Takes in a message.
    pub(super) fn take(&mut self, message: &pb::ExportMembershipsResponse) -> Result<(), Error> {
        for exported in &message.organizations {
            let told = exported.organization.as_ref();
            let told = told.ok_or_else(|| unreadable("an organization", "without a name"))?;
            let line = organization_line(told)?;
            let ChangeDetail::Organization { state: Some(state), owner, slug } = line.detail else {
                return Err(unreadable("an organization", "that is gone for good"));
            };
            let id = line.organization;
            let bucket = usize::from(id.bucket().unsigned_abs());
            let bucket = self.buckets.get_mut(bucket).ok_or_else(|| unreadable("a bucket", "of a new sort"))?;
            // One with many members comes in parts.
            if bucket.find(id, None).organization.is_none() {
                bucket.put_organization(id, state, line.revision, owner.as_ref(), &slug);
            }
            for member in &exported.members {
                bucket.put_member(id, user_id(&member.user_id)?.as_str(), role(&member.role)?);
            }
        }
        for told in &message.users {
            let user = user_id(&told.user_id)?;
            self.users.entry(user.bucket()).or_default().push((user, user_state(told.state)?));
        }
        Ok(())
    }

    /// The copy, once everything is in it.
    pub(super) fn finish(mut self) -> ClientReplica {
        for (number, bucket) in (0..).zip(self.buckets) {
            self.copy.memory.put(number, bucket);
        }
        for bucket in 0..USER_BUCKETS {
            let states = self.users.remove(&bucket).unwrap_or_default();
            self.copy.memory.put_users(bucket, 0, &states);
        }
        self.copy
    }
}
