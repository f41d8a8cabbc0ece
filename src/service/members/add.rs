//! Adding members, one or many.

use super::{AddMember, BatchAddMembers, EnsuredMember, Person};
use crate::authz::decide::Grant;
use crate::domain::event::EventType;
use crate::domain::{
    EmailAddress, Member, Organization, OrganizationId, OrganizationState, Refusal, Role, User, UserId,
};
use crate::random;
use crate::service::ServiceError;
use crate::service::write::OrganizationChange;
use crate::service::write::preconditions::{check_user, check_writable};
use crate::service::write::unit_of_work::{DeletionMark, UnitOfWork};
use crate::store::outbox::{self, Subject};
use crate::store::{memberships, users};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Finds whom a request names by address; who is named by id need not be known yet.
pub(super) async fn find(tx: &mut UnitOfWork<'_>, person: &Person) -> Result<Result<UserId, Refusal>, ServiceError> {
    Ok(match person {
        Person::Id(id) => Ok(id.clone()),
        Person::Email(email) => {
            let mut found = users::by_verified_email(tx.connection, email).await?;
            match (found.pop(), found.pop()) {
                (Some(id), None) => Ok(id),
                (None, _) => Err(Refusal::UserNotFound),
                (Some(_), Some(_)) => Err(Refusal::EmailAmbiguous),
            }
        }
    })
}

/// What became of one wish to add somebody.
pub(in crate::service) enum AddOutcome {
    /// They are a member now.
    Added(Member),
    /// They were one already.
    Present(Member),
}

/// Adds one user to the locked organization. The users are held already. The first member of a pending organization
/// becomes its owner, whatever role was wished for, and activates it.
pub(in crate::service) async fn add(
    tx: &mut UnitOfWork<'_>,
    organization: &mut Organization,
    input: &AddMember,
    user: &User,
) -> Result<Result<AddOutcome, Refusal>, ServiceError> {
    if let Some(membership) = memberships::get(tx.connection, organization.id, &user.id).await? {
        return Ok(Ok(AddOutcome::Present(Member { membership, user: user.clone() })));
    }
    if let Err(refusal) = check_user(user) {
        return Ok(Err(refusal));
    }
    let first = organization.state() == OrganizationState::Pending;
    let role = if first { Role::ADMIN } else { input.role };
    let Some(mut membership) = tx.add_member(organization, &user.id, role, &input.attributes).await? else {
        return Ok(Err(Refusal::Conflict));
    };
    if first {
        organization.owner = Some(user.id.clone());
        organization.stored_state = OrganizationState::Active;
        let old = json!({ "owner": null, "state": OrganizationState::Pending.as_str() });
        let new = json!({ "owner": user.id, "state": OrganizationState::Active.as_str() });
        tx.save(organization, DeletionMark::No, EventType::OwnerChanged, old, new).await?;
        membership.role = Role::OWNER;
    }
    if let Some(sender) = &input.notify {
        let subject = Subject::Added(user.id.clone());
        outbox::put(tx.connection, organization.id, random::uuid(), &subject, sender).await?;
    }
    Ok(Ok(AddOutcome::Added(Member { membership, user: user.clone() })))
}

/// Finds and holds everybody whom the wishes name. By address, only who still has verified it once held.
async fn hold(
    tx: &mut UnitOfWork<'_>,
    inputs: &[AddMember],
    grant: Grant,
) -> Result<Vec<Result<User, Refusal>>, ServiceError> {
    let mut found = Vec::with_capacity(inputs.len());
    for input in inputs {
        found.push(match grant.reaches(input.role) {
            Ok(()) => find(tx, &input.person).await?,
            Err(refusal) => Err(refusal),
        });
    }
    let ids: BTreeSet<UserId> = found.iter().filter_map(|found| found.as_ref().ok()).cloned().collect();
    let held = tx.hold_users(&ids).await?;
    let pick = |found: Result<UserId, Refusal>, input: &AddMember| {
        let user = held.get(&found?).cloned().ok_or(Refusal::UserNotFound)?;
        check_person(&input.person, &user)?;
        Ok(user)
    };
    Ok(found.into_iter().zip(inputs).map(|(found, input)| pick(found, input)).collect())
}

/// Whether a user, once held, still is the one whom the request named by address.
pub(super) fn check_person(person: &Person, user: &User) -> Result<(), Refusal> {
    let same = |email: &EmailAddress| user.email.as_ref().is_some_and(|own| own.normal() == email.normal());
    match person {
        Person::Email(email) if !(user.email_verified && same(email)) => Err(Refusal::UserNotFound),
        Person::Id(_) | Person::Email(_) => Ok(()),
    }
}

async fn add_one(
    tx: &mut UnitOfWork<'_>,
    mut organization: Organization,
    input: &AddMember,
    grant: Grant,
) -> Result<AddOutcome, ServiceError> {
    check_writable(&organization)?;
    grant.reaches(input.role)?;
    let held = hold(tx, std::slice::from_ref(input), grant).await?;
    let user = held.into_iter().next().ok_or(Refusal::UserNotFound)??;
    Ok(add(tx, &mut organization, input, &user).await??)
}

impl OrganizationChange for AddMember {
    type Answer = Member;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        organization: Organization,
        grant: Grant,
    ) -> Result<Member, ServiceError> {
        match add_one(tx, organization, self, grant).await? {
            AddOutcome::Added(member) => Ok(member),
            AddOutcome::Present(_) => Err(Refusal::AlreadyMember.into()),
        }
    }
}

pub(super) struct Ensure(pub(super) AddMember);

impl OrganizationChange for Ensure {
    type Answer = EnsuredMember;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        organization: Organization,
        grant: Grant,
    ) -> Result<EnsuredMember, ServiceError> {
        Ok(match add_one(tx, organization, &self.0, grant).await? {
            AddOutcome::Added(member) => EnsuredMember { member, created: true },
            AddOutcome::Present(member) => EnsuredMember { member, created: false },
        })
    }
}

impl OrganizationChange for BatchAddMembers {
    type Answer = Vec<Result<Member, Refusal>>;

    async fn apply(
        &self,
        tx: &mut UnitOfWork<'_>,
        mut organization: Organization,
        grant: Grant,
    ) -> Result<Self::Answer, ServiceError> {
        check_writable(&organization)?;
        let mut held = hold(tx, &self.items, grant).await?;
        if self.all_or_nothing {
            refuse_all(tx, organization.id, &mut held).await?;
        }
        let mut results = Vec::with_capacity(held.len());
        for (user, input) in held.into_iter().zip(&self.items) {
            results.push(match user {
                Err(refusal) => Err(refusal),
                Ok(user) => match add(tx, &mut organization, input, &user).await? {
                    Ok(AddOutcome::Added(member)) => Ok(member),
                    Ok(AddOutcome::Present(_)) => Err(Refusal::AlreadyMember),
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
    tx: &mut UnitOfWork<'_>,
    organization: OrganizationId,
    held: &mut [Result<User, Refusal>],
) -> Result<(), ServiceError> {
    let mut named = BTreeMap::new();
    for (replica, item) in held.iter_mut().enumerate() {
        let Ok(user) = item else { continue };
        let present = memberships::get(tx.connection, organization, &user.id).await?.is_some();
        let again = named.insert(user.id.clone(), replica).is_some();
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
