//! Adding members, one or a batch.

use super::notification::Notifier;
use super::{AddMember, AddedMember, BatchAddMembers, EnsuredMember, Person};
use crate::authz::decide::Grant;
use crate::domain::event::EventType;
use crate::domain::{
    EmailAddress, Member, Organization, OrganizationId, OrganizationState, Refusal, Role, RoleName, User, UserId,
};
use crate::service::invitations::revoke_all;
use crate::service::write::OrganizationChange;
use crate::service::write::preconditions::{check_user, check_writable};
use crate::service::write::unit_of_work::{DeletionMark, UnitOfWork};
use crate::service::{ItemResult, ServiceError};
use crate::store::invitations::PendingInvitations;
use crate::store::users;
use serde_json::json;
use std::collections::BTreeSet;

/// Finds the id of a user. A user named by id need not exist yet.
pub(super) async fn find(tx: &mut UnitOfWork<'_>, person: &Person) -> Result<UserId, ServiceError> {
    match person {
        Person::Id(id) => Ok(id.clone()),
        Person::Email(email) => {
            let mut users = users::by_verified_email(tx.connection, email).await?;
            match (users.pop(), users.pop()) {
                (Some(id), None) => Ok(id),
                (None, _) => Err(Refusal::UserNotFound.into()),
                (Some(_), Some(_)) => Err(Refusal::EmailAmbiguous.into()),
            }
        }
    }
}

/// The outcome of adding a user.
pub(in crate::service) enum AddOutcome {
    /// The user became a member.
    Added(Member),
    /// The user was a member already.
    Present(Member),
}

/// Adds a held user to the locked organization. The first member of a pending organization becomes its
/// owner, whatever role the input has, and activates it.
pub(in crate::service) async fn add(
    tx: &mut UnitOfWork<'_>,
    organization: &mut Organization,
    input: &AddMember,
    user: &User,
) -> Result<AddOutcome, ServiceError> {
    if let Some(membership) = tx.membership(organization.id, &user.id).await? {
        return Ok(AddOutcome::Present(Member { membership, user: user.clone() }));
    }
    check_user(user)?;
    let is_first = organization.state() == OrganizationState::Pending;
    let role = tx.role(organization.id, if is_first { &RoleName::ADMIN } else { &input.role }).await?;
    let Some(mut membership) = tx.add_member(organization, &user.id, &role, &input.attributes).await? else {
        return Err(Refusal::Conflict.into());
    };
    if is_first {
        organization.owner = Some(user.id.clone());
        organization.stored_state = OrganizationState::Active;
        let old = json!({ "owner": null, "state": OrganizationState::Pending.as_str() });
        let new = json!({ "owner": user.id, "state": OrganizationState::Active.as_str() });
        tx.save(organization, DeletionMark::No, EventType::OwnerChanged, old, new).await?;
        membership.role = Role::OWNER;
        // They offered the ownership, which is taken now.
        revoke_all(tx, organization, PendingInvitations::OfOwner).await?;
    }
    Ok(AddOutcome::Added(Member { membership, user: user.clone() }))
}

/// Finds and holds the users of all inputs. A user named by address must still have that verified address once held.
async fn hold(
    tx: &mut UnitOfWork<'_>,
    organization: &Organization,
    inputs: &[AddMember],
    grant: &Grant,
) -> Result<Vec<ItemResult<User>>, ServiceError> {
    let mut ids = Vec::with_capacity(inputs.len());
    for input in inputs {
        ids.push(match find_allowed(tx, organization, input, grant).await {
            Ok(id) => Ok(id),
            Err(error) => Err(error.into_refusal()?),
        });
    }
    let found_ids: BTreeSet<UserId> = ids.iter().filter_map(|id| id.as_ref().ok()).cloned().collect();
    let users = tx.lock_users_for_share(&found_ids).await?;
    let pick = |id: ItemResult<UserId>, input: &AddMember| {
        let user = users.get(&id?).cloned().ok_or(Refusal::UserNotFound)?;
        check_person(&input.person, &user)?;
        Ok(user)
    };
    Ok(ids.into_iter().zip(inputs).map(|(id, input)| pick(id, input)).collect())
}

/// Finds the user of an input whose role the caller may give.
async fn find_allowed(
    tx: &mut UnitOfWork<'_>,
    organization: &Organization,
    input: &AddMember,
    grant: &Grant,
) -> Result<UserId, ServiceError> {
    grant.reaches(&tx.assignable_role(organization, &input.role).await?)?;
    find(tx, &input.person).await
}

/// Checks that a held user still has the address by which the request names them.
pub(super) fn check_person(person: &Person, user: &User) -> Result<(), Refusal> {
    let has = |email: &EmailAddress| user.verified_email().is_some_and(|own| own.normal() == email.normal());
    match person {
        Person::Email(email) if !has(email) => Err(Refusal::UserNotFound),
        Person::Id(_) | Person::Email(_) => Ok(()),
    }
}

async fn add_one(
    tx: &mut UnitOfWork<'_>,
    mut organization: Organization,
    input: &AddMember,
    grant: &Grant,
    notifier: &Notifier,
) -> Result<EnsuredMember, ServiceError> {
    check_writable(&organization)?;
    let users = hold(tx, &organization, std::slice::from_ref(input), grant).await?;
    let user = users.into_iter().next().ok_or(Refusal::UserNotFound)??;
    match add(tx, &mut organization, input, &user).await? {
        AddOutcome::Added(member) => {
            let mut added = AddedMember { member, notified: false };
            notifier.notify(tx, &organization, vec![(input, &mut added)]).await?;
            Ok(EnsuredMember { member: added.member, created: true, notified: added.notified })
        }
        AddOutcome::Present(member) => Ok(EnsuredMember { member, created: false, notified: false }),
    }
}

/// Adds a user who is no member.
pub(super) struct Add {
    pub(super) input: AddMember,
    pub(super) notifier: Notifier,
}

impl OrganizationChange for Add {
    type Answer = AddedMember;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        organization: Organization,
        grant: Grant,
    ) -> Result<AddedMember, ServiceError> {
        match add_one(tx, organization, &self.input, &grant, &self.notifier).await? {
            EnsuredMember { member, created: true, notified } => Ok(AddedMember { member, notified }),
            EnsuredMember { created: false, .. } => Err(Refusal::AlreadyMember.into()),
        }
    }
}

/// Adds a user, or finds the membership.
pub(super) struct Ensure {
    pub(super) input: AddMember,
    pub(super) notifier: Notifier,
}

impl OrganizationChange for Ensure {
    type Answer = EnsuredMember;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        organization: Organization,
        grant: Grant,
    ) -> Result<EnsuredMember, ServiceError> {
        add_one(tx, organization, &self.input, &grant, &self.notifier).await
    }
}

/// Adds the users of a batch.
pub(super) struct AddAll {
    pub(super) batch: BatchAddMembers,
    pub(super) notifier: Notifier,
}

impl OrganizationChange for AddAll {
    type Answer = Vec<ItemResult<AddedMember>>;

    fn is_success(answer: &Self::Answer) -> bool {
        answer.iter().any(Result::is_ok)
    }

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        mut organization: Organization,
        grant: Grant,
    ) -> Result<Self::Answer, ServiceError> {
        check_writable(&organization)?;
        let BatchAddMembers { items, all_or_nothing } = &self.batch;
        let mut users = hold(tx, &organization, items, &grant).await?;
        if *all_or_nothing {
            abort_on_refusal(tx, organization.id, &mut users).await?;
        }
        let mut results: Self::Answer = Vec::with_capacity(users.len());
        for (user, input) in users.into_iter().zip(items) {
            results.push(match user {
                Err(refusal) => Err(refusal),
                Ok(user) => match add(tx, &mut organization, input, &user).await {
                    Ok(AddOutcome::Added(member)) => Ok(AddedMember { member, notified: false }),
                    Ok(AddOutcome::Present(_)) => Err(Refusal::AlreadyMember),
                    Err(error) => Err(error.into_refusal()?),
                },
            });
        }
        let added = items.iter().zip(&mut results).filter_map(|(input, result)| Some((input, result.as_mut().ok()?)));
        self.notifier.notify(tx, &organization, added.collect()).await?;
        // In a pending organization, the first user added is the owner now.
        Ok(results)
    }
}

/// Refuses every item of a batch if one item would be refused, before anything is written. The organization is locked
/// and the users are held, so no item can be refused later.
async fn abort_on_refusal(
    tx: &mut UnitOfWork<'_>,
    organization: OrganizationId,
    users: &mut [ItemResult<User>],
) -> Result<(), ServiceError> {
    let mut named = BTreeSet::new();
    for item in users.iter_mut() {
        let Ok(user) = item else { continue };
        let is_member = tx.membership(organization, &user.id).await?.is_some();
        let is_repeated = !named.insert(user.id.clone());
        if is_member || is_repeated {
            *item = Err(Refusal::AlreadyMember);
        } else if let Err(refusal) = check_user(user) {
            *item = Err(refusal);
        }
    }
    if users.iter().any(Result::is_err) {
        for item in users.iter_mut().filter(|item| item.is_ok()) {
            *item = Err(Refusal::BatchAborted);
        }
    }
    Ok(())
}
