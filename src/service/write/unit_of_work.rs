//! A unit of work: what one write transaction does to organizations, members and users.
//!
//! Every change to a row goes through here, and takes its event, its revision and its log entry along: a use case cannot
//! change something and forget to say so. [`UnitOfWork::finish`] writes the log last of all.

use crate::authn::{Caller, UserCaller};
use crate::domain::change::{ChangeDetail, LogEntry};
use crate::domain::event::EventType;
use crate::domain::{Attributes, BucketPosition, Membership, Organization, OrganizationId, Role, Slug, User, UserId};
use crate::service::ServiceError;
use crate::service::consistency_token::ConsistencyToken;
use crate::store::events::{self, Cause, Event};
use crate::store::log;
use crate::store::{invitation_tokens, memberships, organizations, slugs, users};
use serde_json::{Value, json};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};

/// What a change does to an organization's time of deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::service) enum DeletionMark {
    /// It is (or becomes) deleted.
    Deleted,
    /// It is not, or no longer.
    No,
}

/// One write transaction under way.
pub(in crate::service) struct UnitOfWork<'t> {
    pub(in crate::service) connection: &'t mut PgConnection,
    /// Who writes; none for roster itself.
    pub(in crate::service) caller: Option<Caller>,
    cause: Cause,
    lines: BTreeMap<i16, Vec<LogEntry>>,
    events: BTreeMap<OrganizationId, Vec<Event>>,
    /// Organizations whose row does not yet hold the revision that its members' changes made.
    revisions: BTreeMap<OrganizationId, i64>,
    user_states: BTreeMap<(i16, UserId), User>,
    seen: BTreeSet<i16>,
    seen_users: BTreeSet<i16>,
    revokes_own_access: bool,
}

impl<'t> UnitOfWork<'t> {
    pub(in crate::service) fn new(connection: &'t mut PgConnection, caller: Option<Caller>, cause: Cause) -> Self {
        Self {
            connection,
            caller,
            cause,
            lines: BTreeMap::new(),
            events: BTreeMap::new(),
            revisions: BTreeMap::new(),
            user_states: BTreeMap::new(),
            seen: BTreeSet::new(),
            seen_users: BTreeSet::new(),
            revokes_own_access: false,
        }
    }

    /// The user who writes, if a user does.
    pub(in crate::service) fn user(&self) -> Option<&UserId> {
        match &self.caller {
            Some(Caller::User(UserCaller { id, .. })) => Some(id),
            _ => None,
        }
    }

    /// Whether an operator writes.
    pub(in crate::service) fn by_operator(&self) -> bool {
        self.caller.as_ref().is_some_and(Caller::is_operator)
    }

    /// Says that this write takes from its caller the right to repeat it, so that a repetition is answered all the same.
    pub(in crate::service) fn revoke_own_access(&mut self) {
        self.revokes_own_access = true;
    }

    /// Locks an organization. Several in one transaction: ascending by (bucket, id).
    pub(in crate::service) async fn lock(&mut self, id: OrganizationId) -> Result<Option<Organization>, ServiceError> {
        self.seen.insert(id.bucket());
        Ok(organizations::lock(self.connection, id).await?)
    }

    /// Notes a change of an organization: its event, and its line in the log, under its present revision.
    fn note(&mut self, organization: &Organization, event: Event, entry: ChangeDetail) {
        let line = LogEntry {
            organization: organization.id,
            revision: organization.revision,
            kind: organization.kind.clone(),
            detail: entry,
        };
        self.lines.entry(organization.id.bucket()).or_default().push(line);
        self.events.entry(organization.id).or_default().push(event);
    }

    /// Makes an organization; its owner's membership is for the caller of this to add.
    pub(in crate::service) async fn create(
        &mut self,
        new: &organizations::NewOrganization,
    ) -> Result<Organization, ServiceError> {
        let organization = organizations::insert(self.connection, new).await?;
        let what = json!({
            "slug": organization.slug, "name": organization.name, "kind": organization.kind, "state": organization.state().as_str(), "owner": organization.owner,
        });
        self.note_organization(&organization, EventType::OrganizationCreated, None, Some(what));
        Ok(organization)
    }

    /// Writes an organization's row as it now is.
    pub(in crate::service) async fn save(
        &mut self,
        organization: &mut Organization,
        deletion: DeletionMark,
        kind: EventType,
        old: Value,
        new: Value,
    ) -> Result<(), ServiceError> {
        organization.revision += 1;
        organization.row_revision = organization.revision;
        *organization = organizations::update(self.connection, organization, deletion == DeletionMark::Deleted).await?;
        self.revisions.remove(&organization.id);
        self.note_organization(organization, kind, Some(old), Some(new));
        Ok(())
    }

    fn note_organization(
        &mut self,
        organization: &Organization,
        kind: EventType,
        old: Option<Value>,
        new: Option<Value>,
    ) {
        let event = Event { revision: organization.revision, kind, user: None, old, new };
        let entry = ChangeDetail::Organization {
            state: Some(organization.state()),
            owner: organization.owner.clone(),
            slug: organization.slug.clone(),
        };
        self.note(organization, event, entry);
    }

    /// Notes what happened to an invitation. Copies of the memberships need not know of it, but of the revision.
    pub(in crate::service) fn note_invitation(&mut self, organization: &mut Organization, kind: EventType, new: Value) {
        organization.revision += 1;
        self.revisions.insert(organization.id, organization.revision);
        self.note_organization(organization, kind, None, Some(new));
    }

    /// Removes an organization for good, with its members, its invitations and its slug.
    pub(in crate::service) async fn purge(&mut self, organization: &mut Organization) -> Result<(), ServiceError> {
        organization.revision += 1;
        slugs::release(self.connection, &organization.slug, organization.id).await?;
        organizations::delete(self.connection, organization.id).await?;
        invitation_tokens::drop_all(self.connection, organization.id).await?;
        self.revisions.remove(&organization.id);
        let old = json!({ "slug": organization.slug, "name": organization.name, "kind": organization.kind, "owner": organization.owner });
        let event = Event {
            revision: organization.revision,
            kind: EventType::OrganizationPurged,
            user: None,
            old: Some(old),
            new: None,
        };
        self.note(
            organization,
            event,
            ChangeDetail::Organization { state: None, owner: None, slug: organization.slug.clone() },
        );
        Ok(())
    }

    /// Claims a slug for an organization; false if another one has it.
    pub(in crate::service) async fn claim_slug(
        &mut self,
        slug: &Slug,
        id: OrganizationId,
    ) -> Result<bool, ServiceError> {
        Ok(slugs::claim(self.connection, slug, id).await?)
    }

    /// Adds a member; none if the user is one already.
    pub(in crate::service) async fn add_member(
        &mut self,
        organization: &mut Organization,
        user: &UserId,
        role: Role,
        attributes: &Attributes,
    ) -> Result<Option<Membership>, ServiceError> {
        organization.revision += 1;
        let Some(membership) = memberships::insert(self.connection, organization, user, role, attributes).await? else {
            organization.revision -= 1;
            return Ok(None);
        };
        let new = json!({ "role": role, "attributes": attributes });
        self.note_member(organization, EventType::MemberAdded, user, None, Some(new), Some(role));
        Ok(Some(membership))
    }

    /// Changes a member. `role` is the stored one: for the owner, admin.
    pub(in crate::service) async fn update_member(
        &mut self,
        organization: &mut Organization,
        before: &Membership,
        role: Role,
        attributes: &Attributes,
    ) -> Result<Membership, ServiceError> {
        organization.revision += 1;
        let after = memberships::update(self.connection, organization, &before.user, role, attributes).await?;
        let describe =
            |membership: &Membership| json!({ "role": membership.role, "attributes": membership.attributes });
        let (old, new) = (Some(describe(before)), Some(describe(&after)));
        self.note_member(organization, EventType::MemberUpdated, &before.user, old, new, Some(role));
        Ok(after)
    }

    /// Removes a member, who must be one.
    pub(in crate::service) async fn remove_member(
        &mut self,
        organization: &mut Organization,
        member: &Membership,
    ) -> Result<(), ServiceError> {
        organization.revision += 1;
        memberships::delete(self.connection, organization.id, &member.user).await?;
        let old = json!({ "role": member.role });
        self.note_member(organization, EventType::MemberRemoved, &member.user, Some(old), None, None);
        Ok(())
    }

    fn note_member(
        &mut self,
        organization: &Organization,
        kind: EventType,
        user: &UserId,
        old: Option<Value>,
        new: Option<Value>,
        stored: Option<Role>,
    ) {
        self.revisions.insert(organization.id, organization.revision);
        let event = Event { revision: organization.revision, kind, user: Some(user.clone()), old, new };
        self.note(organization, event, ChangeDetail::Membership { user: user.clone(), role: stored });
    }

    /// Holds users as they are until the end, making bare ones of those not heard of: nobody switches them off while a
    /// write relies on their state. All users of one transaction in one call, after the organization's lock.
    pub(in crate::service) async fn hold_users(
        &mut self,
        ids: &BTreeSet<UserId>,
    ) -> Result<BTreeMap<UserId, User>, ServiceError> {
        let ids: Vec<&UserId> = ids.iter().collect();
        let mut held = users::hold(self.connection, &ids).await?;
        if held.len() < ids.len() {
            let missing: Vec<&UserId> =
                ids.iter().copied().filter(|id| held.iter().all(|user| user.id != **id)).collect();
            for made in users::insert_missing(self.connection, &missing).await? {
                self.note_new_user(&made).await?;
            }
            held = users::hold(self.connection, &ids).await?;
        }
        Ok(held.into_iter().map(|user| (user.id.clone(), user)).collect())
    }

    /// Locks a user against every other write; none if not heard of.
    pub(in crate::service) async fn lock_user(&mut self, id: &UserId) -> Result<Option<User>, ServiceError> {
        self.seen_users.insert(id.bucket());
        Ok(users::lock(self.connection, id).await?)
    }

    /// Makes a bare user of one not heard of.
    pub(in crate::service) async fn create_user(&mut self, id: &UserId) -> Result<(), ServiceError> {
        if !users::insert_missing(self.connection, &[id]).await?.is_empty() {
            self.note_new_user(id).await?;
        }
        Ok(())
    }

    async fn note_new_user(&mut self, id: &UserId) -> Result<(), ServiceError> {
        let event = Event { revision: 1, kind: EventType::UserCreated, user: None, old: None, new: None };
        Ok(events::insert_user(self.connection, id, &self.cause, &event).await?)
    }

    /// Writes a user's row as it now is; a new state goes to the log.
    pub(in crate::service) async fn save_user(
        &mut self,
        user: &mut User,
        kind: EventType,
        state_changed: bool,
        new: Value,
    ) -> Result<(), ServiceError> {
        user.revision += 1;
        *user = users::update(self.connection, user).await?;
        let event = Event { revision: user.revision, kind, user: None, old: None, new: Some(new) };
        events::insert_user(self.connection, &user.id, &self.cause, &event).await?;
        if state_changed {
            self.user_states.insert((user.id.bucket(), user.id.clone()), user.clone());
        }
        Ok(())
    }

    /// Writes what is still to be written, the log last, and covers all of it with the token. Tells whether the caller
    /// forfeits the right to repeat it.
    pub(in crate::service) async fn finish(mut self, token: &mut ConsistencyToken) -> Result<bool, ServiceError> {
        for (id, revision) in &self.revisions {
            organizations::set_revision(self.connection, *id, *revision).await?;
        }
        for (id, events) in &self.events {
            events::insert(self.connection, *id, &self.cause, events).await?;
        }
        for ((bucket, id), user) in &self.user_states {
            token.cover_user(log::append_user(self.connection, id, user.revision, user.state).await?);
            self.seen_users.remove(bucket);
        }
        for (bucket, lines) in &self.lines {
            token.cover(log::append(self.connection, *bucket, lines).await?);
            self.seen.remove(bucket);
        }
        // Where nothing was changed, the token covers what was seen.
        for bucket in self.seen_users {
            token.cover_user(log::user_position(self.connection, bucket).await?);
        }
        for bucket in self.seen {
            let at: BucketPosition = log::position(self.connection, bucket).await?;
            token.cover(at);
        }
        Ok(self.revokes_own_access)
    }
}
