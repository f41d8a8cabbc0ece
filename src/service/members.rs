//! Members: added, changed, removed, leaving; and the owner among them.

use super::invitations::{inviter, revoke_all};
use super::organizations::{check_etag, check_user, check_writable};
use super::unit::{Deletion, Unit};
use super::write::{Meta, OrganizationChange, Written};
use super::{Error, Roster};
use crate::auth::Caller;
use crate::auth::decide::{Access, Grant};
use crate::domain::{
    Attributes, EmailAddress, Inviter, Member, Membership, Organization, OrganizationId, OrganizationState, Refusal,
    Role, User, UserId, limits,
};
use crate::store::outbox::{self, Subject};
use crate::store::{memberships, users};
use crate::world;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// A user, as a request names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Person {
    /// By id.
    Id(UserId),
    /// By an address that one active user has verified.
    Email(EmailAddress),
}

/// Somebody to add.
#[derive(Debug, Clone)]
pub struct AddMember {
    /// Who.
    pub person: Person,
    /// As what.
    pub role: Role,
    /// What the deployment keeps about the membership.
    pub attributes: Attributes,
    /// Who tells them by mail, if anybody does.
    pub notify: Option<Inviter>,
}

/// Whom to add, many at once.
#[derive(Debug, Clone)]
pub struct BatchAddMembers {
    /// Whom: at most 100.
    pub items: Vec<AddMember>,
    /// All of them or none.
    pub all_or_nothing: bool,
}

/// A member, and whether this call made them one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ensured {
    /// The member.
    pub member: Member,
    /// Whether this call added them.
    pub created: bool,
}

/// What to change about a member; what is none stays.
#[derive(Debug, Clone)]
pub struct UpdateMember {
    /// Whom.
    pub user: UserId,
    /// The new role.
    pub role: Option<Role>,
    /// The new attributes.
    pub attributes: Option<Attributes>,
    /// The etag that was read, if the change hangs on it.
    pub etag: Option<String>,
}

/// Whom to remove.
#[derive(Debug, Clone)]
pub struct RemoveMember {
    /// Whom.
    pub user: UserId,
    /// The etag that was read, if the change hangs on it.
    pub etag: Option<String>,
}

/// Whom to hand the organization to.
#[derive(Debug, Clone)]
pub struct TransferOwnership {
    /// To whom.
    pub person: Person,
    /// The etag of the organization that was read, if the change hangs on it.
    pub etag: Option<String>,
}

impl Roster {
    /// Adds a user.
    ///
    /// # Errors
    /// `ALREADY_MEMBER`, `ROLE_ABOVE_CALLER`, `USER_NOT_FOUND`, `USER_INACTIVE`, `USER_DELETED`, `EMAIL_AMBIGUOUS`,
    /// `ORGANIZATION_INACTIVE`.
    pub async fn add_member(&self, access: Access, meta: Meta, wish: AddMember) -> Result<Written<Member>, Error> {
        let wish = self.with_notice(&access, wish)?;
        let written = self.write_in(access, meta, wish).await;
        self.mail_due.notify_one();
        written
    }

    /// Who is added by address is told by mail, where mail is sent.
    fn with_notice(&self, access: &Access, wish: AddMember) -> Result<AddMember, Refusal> {
        let by_address = matches!(wish.person, Person::Email(_));
        let notify = if self.invitations.mail && by_address { Some(inviter(access.caller())?) } else { None };
        Ok(AddMember { notify, ..wish })
    }

    /// Adds a user, or finds them there.
    ///
    /// # Errors
    /// As [`Self::add_member`], but never `ALREADY_MEMBER`.
    pub async fn ensure_member(&self, access: Access, meta: Meta, wish: AddMember) -> Result<Written<Ensured>, Error> {
        let wish = self.with_notice(&access, wish)?;
        let written = self.write_in(access, meta, Ensure(wish)).await;
        self.mail_due.notify_one();
        written
    }

    /// Adds many users: one outcome for each, in their order.
    ///
    /// # Errors
    /// `ORGANIZATION_INACTIVE`; each item fails for itself with the reasons of [`Self::add_member`].
    pub async fn batch_add_members(
        &self,
        access: Access,
        meta: Meta,
        wish: BatchAddMembers,
    ) -> Result<Written<Vec<Result<Member, Refusal>>>, Error> {
        let items: Result<_, Refusal> = wish.items.into_iter().map(|item| self.with_notice(&access, item)).collect();
        let written = self.write_in(access, meta, BatchAddMembers { items: items?, ..wish }).await;
        self.mail_due.notify_one();
        written
    }

    /// Changes a member.
    ///
    /// # Errors
    /// `MEMBER_NOT_FOUND`, `OWNERSHIP_REQUIRED`, `ROLE_ABOVE_CALLER`, `ETAG_MISMATCH`, `ORGANIZATION_INACTIVE`.
    pub async fn update_member(
        &self,
        access: Access,
        meta: Meta,
        wish: UpdateMember,
    ) -> Result<Written<Member>, Error> {
        self.write_in(access, meta, wish).await
    }

    /// Removes a member.
    ///
    /// # Errors
    /// `MEMBER_NOT_FOUND`, `OWNERSHIP_REQUIRED`, `ROLE_ABOVE_CALLER`, `ETAG_MISMATCH`, `ORGANIZATION_INACTIVE`.
    pub async fn remove_member(
        &self,
        access: Access,
        meta: Meta,
        wish: RemoveMember,
    ) -> Result<Written<Member>, Error> {
        self.write_in(access, meta, wish).await
    }

    /// Lets the calling user leave.
    ///
    /// # Errors
    /// `CALLER_NOT_ALLOWED` for who is not a user, `OWNERSHIP_REQUIRED`, `ORGANIZATION_INACTIVE`.
    pub async fn leave_organization(&self, access: Access, meta: Meta) -> Result<Written<Member>, Error> {
        let Caller::User(user) = access.caller() else {
            let caller = access.caller().actor().map_or("nobody", |actor| actor.kind).to_owned();
            let advice = "only users leave; use RemoveMember, or act on behalf of the user".to_owned();
            return Err(Refusal::CallerNotAllowed { caller, advice }.into());
        };
        let user = user.id.clone();
        self.write_in(access, meta, Leave { user }).await
    }

    /// Hands an organization to another member.
    ///
    /// # Errors
    /// `TARGET_NOT_MEMBER`, `USER_INACTIVE`, `USER_NOT_FOUND`, `EMAIL_AMBIGUOUS`, `ETAG_MISMATCH`,
    /// `ORGANIZATION_PENDING`.
    pub async fn transfer_ownership(
        &self,
        access: Access,
        meta: Meta,
        wish: TransferOwnership,
    ) -> Result<Written<Organization>, Error> {
        self.write_in(access, meta, wish).await
    }
}

/// Finds whom a request names by address; who is named by id need not be known yet.
async fn find(unit: &mut Unit<'_>, person: &Person) -> Result<Result<UserId, Refusal>, Error> {
    Ok(match person {
        Person::Id(id) => Ok(id.clone()),
        Person::Email(email) => {
            let mut found = users::by_verified_email(unit.connection, email).await?;
            match (found.pop(), found.pop()) {
                (Some(id), None) => Ok(id),
                (None, _) => Err(Refusal::UserNotFound),
                (Some(_), Some(_)) => Err(Refusal::EmailAmbiguous),
            }
        }
    })
}

/// What became of one wish to add somebody.
pub(super) enum Outcome {
    /// They are a member now.
    Added(Member),
    /// They were one already.
    Present(Member),
}

/// Adds one user to the locked organization. The users are held already. The first member of a pending organization
/// becomes its owner, whatever role was wished for, and activates it.
pub(super) async fn add(
    unit: &mut Unit<'_>,
    here: &mut Organization,
    wish: &AddMember,
    user: &User,
) -> Result<Result<Outcome, Refusal>, Error> {
    if let Some(membership) = memberships::get(unit.connection, here.id, &user.id).await? {
        return Ok(Ok(Outcome::Present(Member { membership, user: user.clone() })));
    }
    if let Err(refusal) = check_user(user) {
        return Ok(Err(refusal));
    }
    let first = here.state() == OrganizationState::Pending;
    let role = if first { Role::ADMIN } else { wish.role };
    let Some(mut membership) = unit.add_member(here, &user.id, role, &wish.attributes).await? else {
        return Ok(Err(Refusal::Conflict));
    };
    if first {
        here.owner = Some(user.id.clone());
        here.stored_state = OrganizationState::Active;
        let old = json!({ "owner": null, "state": OrganizationState::Pending.as_str() });
        let new = json!({ "owner": user.id, "state": OrganizationState::Active.as_str() });
        unit.save(here, Deletion::No, "owner.changed", old, new).await?;
        membership.role = Role::OWNER;
    }
    if let Some(sender) = &wish.notify {
        let subject = Subject::Added(user.id.clone());
        outbox::put(unit.connection, here.id, world::random_uuid(), &subject, sender).await?;
    }
    Ok(Ok(Outcome::Added(Member { membership, user: user.clone() })))
}

/// Finds and holds everybody whom the wishes name. By address, only who still has verified it once held.
async fn hold(unit: &mut Unit<'_>, wishes: &[AddMember], grant: Grant) -> Result<Vec<Result<User, Refusal>>, Error> {
    let mut found = Vec::with_capacity(wishes.len());
    for wish in wishes {
        found.push(match grant.reaches(wish.role) {
            Ok(()) => find(unit, &wish.person).await?,
            Err(refusal) => Err(refusal),
        });
    }
    let ids: BTreeSet<UserId> = found.iter().filter_map(|found| found.as_ref().ok()).cloned().collect();
    let held = unit.hold_users(&ids).await?;
    let pick = |found: Result<UserId, Refusal>, wish: &AddMember| {
        let user = held.get(&found?).cloned().ok_or(Refusal::UserNotFound)?;
        check_person(&wish.person, &user)?;
        Ok(user)
    };
    Ok(found.into_iter().zip(wishes).map(|(found, wish)| pick(found, wish)).collect())
}

/// Whether a user, once held, still is the one whom the request named by address.
fn check_person(person: &Person, user: &User) -> Result<(), Refusal> {
    let same = |email: &EmailAddress| user.email.as_ref().is_some_and(|own| own.normal() == email.normal());
    match person {
        Person::Email(email) if !(user.email_verified && same(email)) => Err(Refusal::UserNotFound),
        Person::Id(_) | Person::Email(_) => Ok(()),
    }
}

async fn add_one(
    unit: &mut Unit<'_>,
    mut here: Organization,
    wish: &AddMember,
    grant: Grant,
) -> Result<Outcome, Error> {
    check_writable(&here)?;
    grant.reaches(wish.role)?;
    let held = hold(unit, std::slice::from_ref(wish), grant).await?;
    let user = held.into_iter().next().ok_or(Refusal::UserNotFound)??;
    Ok(add(unit, &mut here, wish, &user).await??)
}

impl OrganizationChange for AddMember {
    type Answer = Member;

    async fn apply(&self, unit: &mut Unit<'_>, here: Organization, grant: Grant) -> Result<Member, Error> {
        match add_one(unit, here, self, grant).await? {
            Outcome::Added(member) => Ok(member),
            Outcome::Present(_) => Err(Refusal::AlreadyMember.into()),
        }
    }
}

struct Ensure(AddMember);

impl OrganizationChange for Ensure {
    type Answer = Ensured;

    async fn apply(&self, unit: &mut Unit<'_>, here: Organization, grant: Grant) -> Result<Ensured, Error> {
        Ok(match add_one(unit, here, &self.0, grant).await? {
            Outcome::Added(member) => Ensured { member, created: true },
            Outcome::Present(member) => Ensured { member, created: false },
        })
    }
}

impl OrganizationChange for BatchAddMembers {
    type Answer = Vec<Result<Member, Refusal>>;

    async fn apply(&self, unit: &mut Unit<'_>, mut here: Organization, grant: Grant) -> Result<Self::Answer, Error> {
        check_writable(&here)?;
        let mut held = hold(unit, &self.items, grant).await?;
        if self.all_or_nothing {
            refuse_all(unit, here.id, &mut held).await?;
        }
        let mut results = Vec::with_capacity(held.len());
        for (user, wish) in held.into_iter().zip(&self.items) {
            results.push(match user {
                Err(refusal) => Err(refusal),
                Ok(user) => match add(unit, &mut here, wish, &user).await? {
                    Ok(Outcome::Added(member)) => Ok(member),
                    Ok(Outcome::Present(_)) => Err(Refusal::AlreadyMember),
                    Err(refusal) => Err(refusal),
                },
            });
        }
        // The first of a pending organization has become its owner; the row has the last word on the etags.
        Ok(results)
    }
}

/// Where one item would fail, fails all the others with it, before anything is written. Under the organization's lock and
/// with the users held, nothing else can make an item fail later.
async fn refuse_all(
    unit: &mut Unit<'_>,
    here: OrganizationId,
    held: &mut [Result<User, Refusal>],
) -> Result<(), Error> {
    let mut named = BTreeMap::new();
    for (index, item) in held.iter_mut().enumerate() {
        let Ok(user) = item else { continue };
        let present = memberships::get(unit.connection, here, &user.id).await?.is_some();
        let again = named.insert(user.id.clone(), index).is_some();
        if present || again {
            *item = Err(Refusal::AlreadyMember);
        } else if let Err(refusal) = check_user(user) {
            *item = Err(refusal);
        }
    }
    if held.iter().any(Result::is_err) {
        for item in held.iter_mut().filter(|item| item.is_ok()) {
            *item = Err(Refusal::BatchAborted);
        }
    }
    Ok(())
}

/// Reads a member of the locked organization.
async fn member(unit: &mut Unit<'_>, here: &Organization, user: &UserId) -> Result<Membership, Error> {
    Ok(memberships::get(unit.connection, here.id, user).await?.ok_or(Refusal::MemberNotFound)?)
}

/// The membership with what is shown of its user.
async fn with_user(unit: &mut Unit<'_>, membership: Membership) -> Result<Member, Error> {
    let user = users::get(unit.connection, &membership.user).await?.ok_or(Refusal::UserNotFound)?;
    Ok(Member { membership, user })
}

/// The one rule that no path breaks: the owner stays until ownership moves.
fn check_not_owner(here: &Organization, user: &UserId) -> Result<(), Refusal> {
    if here.owner.as_ref() == Some(user) {
        return Err(Refusal::OwnershipRequired { organizations: vec![here.id.to_string()], count: 1 });
    }
    Ok(())
}

impl OrganizationChange for UpdateMember {
    type Answer = Member;

    async fn apply(&self, unit: &mut Unit<'_>, mut here: Organization, grant: Grant) -> Result<Member, Error> {
        check_writable(&here)?;
        let before = member(unit, &here, &self.user).await?;
        if self.role.is_some() {
            check_not_owner(&here, &self.user)?;
        }
        grant.reaches(before.role)?;
        if let Some(role) = self.role {
            grant.reaches(role)?;
        }
        check_etag(self.etag.as_deref(), &before.etag())?;
        let stored = if before.role == Role::OWNER { Role::ADMIN } else { before.role };
        let role = self.role.unwrap_or(stored);
        let attributes = self.attributes.as_ref().unwrap_or(&before.attributes);
        if role == stored && *attributes == before.attributes {
            return with_user(unit, before).await;
        }
        if role < stored && unit.user() == Some(&self.user) {
            unit.forfeit();
        }
        let after = unit.update_member(&mut here, &before, role, attributes).await?;
        with_user(unit, after).await
    }
}

async fn remove(unit: &mut Unit<'_>, mut here: Organization, membership: Membership) -> Result<Member, Error> {
    if unit.user() == Some(&membership.user) {
        unit.forfeit();
    }
    unit.remove_member(&mut here, &membership).await?;
    let member = with_user(unit, membership).await?;
    revoke_theirs(unit, &mut here, &member.user).await?;
    Ok(member)
}

/// Who is removed is not let in again by an invitation that was still on its way.
async fn revoke_theirs(unit: &mut Unit<'_>, here: &mut Organization, user: &User) -> Result<(), Error> {
    match &user.email {
        Some(email) => revoke_all(unit, here, Some(email)).await,
        None => Ok(()),
    }
}

impl OrganizationChange for RemoveMember {
    type Answer = Member;

    async fn apply(&self, unit: &mut Unit<'_>, here: Organization, grant: Grant) -> Result<Member, Error> {
        check_writable(&here)?;
        let membership = member(unit, &here, &self.user).await?;
        check_not_owner(&here, &self.user)?;
        grant.reaches(membership.role)?;
        check_etag(self.etag.as_deref(), &membership.etag())?;
        remove(unit, here, membership).await
    }
}

struct Leave {
    user: UserId,
}

impl OrganizationChange for Leave {
    type Answer = Member;

    async fn apply(&self, unit: &mut Unit<'_>, here: Organization, _: Grant) -> Result<Member, Error> {
        check_writable(&here)?;
        check_not_owner(&here, &self.user)?;
        let membership = member(unit, &here, &self.user).await?;
        remove(unit, here, membership).await
    }
}

impl OrganizationChange for TransferOwnership {
    type Answer = Organization;

    async fn apply(&self, unit: &mut Unit<'_>, mut here: Organization, _: Grant) -> Result<Organization, Error> {
        match here.state() {
            OrganizationState::Active | OrganizationState::Inactive => {}
            OrganizationState::Pending => return Err(Refusal::OrganizationPending.into()),
            OrganizationState::Deleted => return Err(Refusal::OrganizationDeleted.into()),
        }
        check_etag(self.etag.as_deref(), &here.etag())?;
        let target = find(unit, &self.person).await??;
        if here.owner.as_ref() == Some(&target) {
            return Ok(here);
        }
        let membership = memberships::get(unit.connection, here.id, &target).await?.ok_or(Refusal::TargetNotMember)?;
        for user in unit.hold_users(&BTreeSet::from([target.clone()])).await?.values() {
            check_user(user)?;
            check_person(&self.person, user)?;
        }
        if membership.role != Role::ADMIN {
            unit.update_member(&mut here, &membership, Role::ADMIN, &membership.attributes).await?;
        }
        // The owner who hands it over is an admin from now on, and could not repeat the request.
        unit.forfeit();
        let old = json!({ "owner": here.owner });
        let new = json!({ "owner": target });
        here.owner = Some(target);
        unit.save(&mut here, Deletion::No, "owner.changed", old, new).await?;
        Ok(here)
    }
}

/// Removes a user from one locked organization, where they are a member and not the owner.
pub(super) async fn remove_deleted_user(
    unit: &mut Unit<'_>,
    here: &mut Organization,
    user: &User,
) -> Result<bool, Error> {
    let Some(membership) = memberships::get(unit.connection, here.id, &user.id).await? else { return Ok(false) };
    unit.remove_member(here, &membership).await?;
    revoke_theirs(unit, here, user).await?;
    Ok(true)
}

/// Names at most as many organizations as an error may.
pub(super) fn ownership_required(owned: &[OrganizationId]) -> Refusal {
    Refusal::OwnershipRequired {
        organizations: owned.iter().take(limits::NAMED_ORGANIZATIONS).map(ToString::to_string).collect(),
        count: u64::try_from(owned.len()).unwrap_or(u64::MAX),
    }
}
