//! The unit of work: the changes of one write transaction to organizations, members and users.
//!
//! Every change of a row goes through it and takes its event, its revision and its log entry along, so a use case cannot
//! change a row without them. [`UnitOfWork::finish`] writes the change log, last.

mod model;
mod roles;

use crate::authn::{Caller, UserCaller};
use crate::domain::change::{ChangeDetail, LogEntry};
use crate::domain::event::EventType;
use crate::domain::{
    Attributes, BucketPosition, Membership, Organization, OrganizationId, Refusal, Role, RoleName, RoleTable, Slug,
    User, UserId,
};
use crate::replica::PublishedRoles;
use crate::service::ServiceError;
use crate::service::consistency_token::ConsistencyToken;
use crate::store::events::{self, Cause, Event};
use crate::store::log::UserEntry;
use crate::store::log::tail::LogPosition;
use crate::store::{StoreError, log};
use crate::store::{invitation_tokens, memberships, organization_roles, organizations, slugs, users};
use model::WithdrawnPermissions;
use serde_json::{Value, json};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Whether a change leaves an organization deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::service) enum DeletionMark {
    /// The organization is deleted, or becomes deleted.
    Deleted,
    /// The organization is not deleted, or no longer.
    No,
}

/// The changes of one write transaction.
pub(in crate::service) struct UnitOfWork<'t> {
    pub(in crate::service) connection: &'t mut PgConnection,
    /// The caller; `None` for a write that roster makes itself.
    pub(in crate::service) caller: Option<Caller>,
    /// The roles of the deployment by which the write is decided. If they change before it ends, it is repeated.
    roles: Arc<RoleTable>,
    /// The position of the access model by which the write is decided.
    model: BucketPosition,
    /// Whether the write read or changed the access model itself.
    covers_model: bool,
    /// The access model that the write has stored, which is not yet in the heads of the change log.
    applied_model: Option<LogPosition>,
    withdrawn: Option<WithdrawnPermissions>,
    cause: Cause,
    entries: BTreeMap<i16, Vec<LogEntry>>,
    events: BTreeMap<OrganizationId, Vec<Event>>,
    /// The revisions of organizations that are not yet written to their rows.
    revisions: BTreeMap<OrganizationId, i64>,
    user_entries: BTreeMap<(i16, UserId), UserEntry>,
    locked: BTreeSet<i16>,
    locked_users: BTreeSet<i16>,
    revokes_own_access: bool,
}

impl<'t> UnitOfWork<'t> {
    pub(in crate::service) fn new(
        connection: &'t mut PgConnection,
        caller: Option<Caller>,
        roles: PublishedRoles,
        cause: Cause,
    ) -> Self {
        Self {
            connection,
            caller,
            roles: roles.table,
            model: roles.at,
            covers_model: false,
            applied_model: None,
            withdrawn: None,
            cause,
            entries: BTreeMap::new(),
            events: BTreeMap::new(),
            revisions: BTreeMap::new(),
            user_entries: BTreeMap::new(),
            locked: BTreeSet::new(),
            locked_users: BTreeSet::new(),
            revokes_own_access: false,
        }
    }

    /// The calling user, if the caller is a user.
    pub(in crate::service) fn user(&self) -> Option<&UserId> {
        self.calling_user().map(|user| &user.id)
    }

    /// The calling user with the claims of their token, if the caller is a user.
    pub(in crate::service) fn calling_user(&self) -> Option<&UserCaller> {
        self.caller.as_ref().and_then(Caller::calling_user)
    }

    /// Whether the caller is an operator.
    pub(in crate::service) fn by_operator(&self) -> bool {
        self.caller.as_ref().is_some_and(Caller::is_operator)
    }

    /// Records that this write takes away its caller's right to repeat it. A repetition then gets the stored answer.
    pub(in crate::service) fn revoke_own_access(&mut self) {
        self.revokes_own_access = true;
    }

    /// Locks an organization. A transaction that locks several does so in ascending order of (bucket, id).
    pub(in crate::service) async fn lock(&mut self, id: OrganizationId) -> Result<Option<Organization>, ServiceError> {
        self.locked.insert(id.bucket());
        let Some(locked) = organizations::lock(self.connection, id).await? else { return Ok(None) };
        if locked.model_revision > self.model.position {
            return Err(StoreError::ModelChanged.into());
        }
        Ok(Some(locked.organization))
    }

    /// The roles of the deployment by which the write is decided.
    pub(in crate::service) fn roles(&self) -> &RoleTable {
        &self.roles
    }

    /// The role with this name in a locked organization, as its members hold it: a role that is being replaced is the one
    /// that replaces it. Unknown if it does not exist.
    pub(in crate::service) async fn role(
        &mut self,
        organization: OrganizationId,
        name: &RoleName,
    ) -> Result<Role, ServiceError> {
        let mut holder = name.clone();
        // Twice at most: a replacement is never replaced itself.
        while holder.is_of_organization() {
            let Some(stored) = organization_roles::get(self.connection, organization, &holder).await? else {
                return Ok(Role { name: holder, permissions: None });
            };
            let Some(replacement) = stored.content.replaced_by else {
                let permissions = RoleTable::set_of_words(&stored.content.permissions);
                return Ok(Role { name: holder, permissions });
            };
            holder = replacement;
        }
        Ok(self.roles.role(holder))
    }

    /// The role with this name, for a member of a locked organization who is to get it.
    pub(in crate::service) async fn assignable_role(
        &mut self,
        organization: &Organization,
        name: &RoleName,
    ) -> Result<Role, ServiceError> {
        let exists = if name.is_of_organization() {
            let stored = organization_roles::get(self.connection, organization.id, name).await?;
            stored.is_some_and(|stored| stored.content.replaced_by.is_none())
        } else {
            self.roles.exists_for(name, &organization.kind)
        };
        if !exists {
            return Err(Refusal::field("role", "no such role in this organization: ListRoles has its roles").into());
        }
        let role = self.role(organization.id, name).await?;
        role.require()?;
        Ok(role)
    }

    /// Reads a membership in a locked organization, with what its role holds.
    pub(in crate::service) async fn membership(
        &mut self,
        organization: OrganizationId,
        user: &UserId,
    ) -> Result<Option<Membership>, ServiceError> {
        let Some(mut membership) = memberships::get(self.connection, organization, user).await? else {
            return Ok(None);
        };
        membership.role = self.role(organization, &membership.role.name).await?;
        Ok(Some(membership))
    }

    /// Records a change of an organization under its present revision: the event, and the entry of the change log.
    fn record(&mut self, organization: &Organization, event: Event, entry: ChangeDetail) {
        self.record_entry(organization, entry);
        self.events.entry(organization.id).or_default().push(event);
    }

    /// Records an entry of the change log under the present revision of an organization.
    fn record_entry(&mut self, organization: &Organization, entry: ChangeDetail) {
        let line = LogEntry {
            organization: organization.id,
            revision: organization.revision,
            kind: organization.kind.clone(),
            detail: entry,
        };
        self.entries.entry(organization.id.bucket()).or_default().push(line);
    }

    /// Inserts an organization. The calling code adds the owner's membership.
    pub(in crate::service) async fn create(
        &mut self,
        new: &organizations::NewOrganization,
    ) -> Result<Organization, ServiceError> {
        let organization = organizations::insert(self.connection, new).await?;
        let Organization { slug, name, kind, owner, .. } = &organization;
        let state = organization.state().as_str();
        let new_values = json!({ "slug": slug, "name": name, "kind": kind, "state": state, "owner": owner });
        self.record_organization(&organization, EventType::OrganizationCreated, None, Some(new_values));
        Ok(organization)
    }

    /// Updates the row of an organization.
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
        self.record_organization(organization, kind, Some(old), Some(new));
        Ok(())
    }

    fn record_organization(
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
        self.record(organization, event, entry);
    }

    /// Records an event of an invitation. Replicas need the new revision only.
    pub(in crate::service) fn record_invitation(
        &mut self,
        organization: &mut Organization,
        kind: EventType,
        new: Value,
    ) {
        organization.revision += 1;
        self.revisions.insert(organization.id, organization.revision);
        self.record_organization(organization, kind, None, Some(new));
    }

    /// Deletes an organization permanently, with its members, invitations and slug.
    pub(in crate::service) async fn purge(&mut self, organization: &mut Organization) -> Result<(), ServiceError> {
        organization.revision += 1;
        slugs::release(self.connection, &organization.slug, organization.id).await?;
        organizations::delete(self.connection, organization.id).await?;
        invitation_tokens::drop_all(self.connection, organization.id).await?;
        self.revisions.remove(&organization.id);
        let Organization { slug, name, kind, owner, .. } = &*organization;
        let old = json!({ "slug": slug, "name": name, "kind": kind, "owner": owner });
        let event = Event {
            revision: organization.revision,
            kind: EventType::OrganizationPurged,
            user: None,
            old: Some(old),
            new: None,
        };
        self.record(
            organization,
            event,
            ChangeDetail::Organization { state: None, owner: None, slug: organization.slug.clone() },
        );
        Ok(())
    }

    /// Claims a slug for an organization; false if another organization has it.
    pub(in crate::service) async fn claim_slug(
        &mut self,
        slug: &Slug,
        id: OrganizationId,
    ) -> Result<bool, ServiceError> {
        Ok(slugs::claim(self.connection, slug, id).await?)
    }

    /// Adds a member; `None` if the user is a member already.
    pub(in crate::service) async fn add_member(
        &mut self,
        organization: &mut Organization,
        user: &UserId,
        role: &Role,
        attributes: &Attributes,
    ) -> Result<Option<Membership>, ServiceError> {
        organization.revision += 1;
        let Some(mut membership) = memberships::insert(self.connection, organization, user, role, attributes).await?
        else {
            organization.revision -= 1;
            return Ok(None);
        };
        membership.role = role.clone();
        let new = json!({ "role": role, "attributes": attributes });
        self.record_member(organization, EventType::MemberAdded, user, None, Some(new), Some(role));
        Ok(Some(membership))
    }

    /// Changes a member. `role` is the stored role: admin for the owner.
    pub(in crate::service) async fn update_member(
        &mut self,
        organization: &mut Organization,
        before: &Membership,
        role: &Role,
        attributes: &Attributes,
    ) -> Result<Membership, ServiceError> {
        organization.revision += 1;
        let after = memberships::update(self.connection, organization, &before.user, role, attributes).await?;
        // An event holds attributes only if they changed: a row of a former release may have hundreds of kilobytes of them.
        let same_attributes = before.attributes == after.attributes;
        let describe = |membership: &Membership| {
            if same_attributes {
                json!({ "role": membership.role })
            } else {
                json!({ "role": membership.role, "attributes": membership.attributes })
            }
        };
        let (old, new) = (Some(describe(before)), Some(describe(&after)));
        self.record_member(organization, EventType::MemberUpdated, &before.user, old, new, Some(role));
        Ok(after)
    }

    /// Removes a present member.
    pub(in crate::service) async fn remove_member(
        &mut self,
        organization: &mut Organization,
        member: &Membership,
    ) -> Result<(), ServiceError> {
        organization.revision += 1;
        memberships::delete(self.connection, organization.id, &member.user).await?;
        let old = json!({ "role": member.role });
        self.record_member(organization, EventType::MemberRemoved, &member.user, Some(old), None, None);
        Ok(())
    }

    fn record_member(
        &mut self,
        organization: &Organization,
        kind: EventType,
        user: &UserId,
        old: Option<Value>,
        new: Option<Value>,
        stored: Option<&Role>,
    ) {
        self.revisions.insert(organization.id, organization.revision);
        let event = Event { revision: organization.revision, kind, user: Some(user.clone()), old, new };
        self.record(organization, event, ChangeDetail::Membership { user: user.clone(), role: stored.cloned() });
    }

    /// Locks users for share until the transaction ends, so that their state cannot change while the write relies on it.
    /// Creates absent users without a profile, who do not count as known. One call locks all users of a transaction, after the organization's lock.
    pub(in crate::service) async fn lock_users_for_share(
        &mut self,
        ids: &BTreeSet<UserId>,
    ) -> Result<BTreeMap<UserId, User>, ServiceError> {
        let ids: Vec<&UserId> = ids.iter().collect();
        let mut locked = users::hold(self.connection, &ids).await?;
        if locked.len() < ids.len() {
            let missing: Vec<&UserId> =
                ids.iter().copied().filter(|id| locked.iter().all(|user| user.id != **id)).collect();
            for id in users::insert_missing(self.connection, &missing, false).await? {
                self.record_new_user(&id).await?;
            }
            locked = users::hold(self.connection, &ids).await?;
        }
        Ok(locked.into_iter().map(|user| (user.id.clone(), user)).collect())
    }

    /// Locks a user against every other write; `None` for an unknown user. Refuses a user in a state that this program
    /// does not know.
    pub(in crate::service) async fn lock_user(&mut self, id: &UserId) -> Result<Option<User>, ServiceError> {
        self.locked_users.insert(id.bucket());
        let user = users::lock(self.connection, id).await?;
        user.as_ref().map(User::require_known_state).transpose()?;
        Ok(user)
    }

    /// Creates an absent user, without a profile, who counts as known.
    pub(in crate::service) async fn create_user(&mut self, id: &UserId) -> Result<(), ServiceError> {
        if !users::insert_missing(self.connection, &[id], true).await?.is_empty() {
            self.record_new_user(id).await?;
        }
        Ok(())
    }

    async fn record_new_user(&mut self, id: &UserId) -> Result<(), ServiceError> {
        let event = Event { revision: 1, kind: EventType::UserCreated, user: None, old: None, new: None };
        Ok(events::insert_user(self.connection, id, &self.cause, &event).await?)
    }

    /// Updates the row of a user. A new state goes to the change log.
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
            let entry = UserEntry { revision: user.revision, state: user.state, reinstated_at: None };
            self.user_entries.insert((user.id.bucket(), user.id.clone()), entry);
        }
        Ok(())
    }

    /// Saves a user who becomes active again by a reinstatement at this time, in whole seconds since 1970. The change log
    /// gets the time together with the state.
    pub(in crate::service) async fn reinstate_user(&mut self, user: &mut User, at: i64) -> Result<(), ServiceError> {
        let at = users::set_reinstated(self.connection, &user.id, at).await?;
        // The first second whose tokens count: an older token that is still under way fills no profile.
        let first = at.saturating_add(1);
        (user.profile_issued_at, user.email_issued_at, user.display_name_issued_at) = (first, first, first);
        let new = json!({ "state": user.state.as_str() });
        self.save_user(user, EventType::UserReinstated, true, new).await?;
        let entry = UserEntry { revision: user.revision, state: user.state, reinstated_at: Some(at) };
        self.user_entries.insert((user.id.bucket(), user.id.clone()), entry);
        Ok(())
    }

    /// Writes the pending revisions and events, then the change log, and covers them with the consistency token. Returns
    /// whether the write took away its caller's right to repeat it.
    pub(in crate::service) async fn finish(mut self, token: &mut ConsistencyToken) -> Result<bool, ServiceError> {
        for (id, revision) in &self.revisions {
            organizations::set_revision(self.connection, *id, *revision).await?;
        }
        for (id, events) in &self.events {
            events::insert(self.connection, *id, &self.cause, events).await?;
        }
        for ((bucket, id), entry) in &self.user_entries {
            token.cover_user(log::append_user(self.connection, id, *entry).await?);
            self.locked_users.remove(bucket);
        }
        self.finish_model().await?;
        for (bucket, entries) in &self.entries {
            let appended = log::append(self.connection, *bucket, entries).await?;
            // The marks are compared too. After a failover that lost a revision, another model may have its number before
            // this process notices the loss. A write that is decided by the lost model must not be committed.
            if appended.model != self.model {
                return Err(StoreError::ModelChanged.into());
            }
            token.cover(appended.at);
            self.locked.remove(bucket);
        }
        // For rows that were locked and not changed, the token covers the present position.
        for bucket in self.locked_users {
            token.cover_user(log::user_position(self.connection, bucket).await?);
        }
        for bucket in self.locked {
            let at: BucketPosition = log::position(self.connection, bucket).await?;
            token.cover(at);
        }
        if self.covers_model {
            token.cover(self.model);
        }
        Ok(self.revokes_own_access)
    }
}
