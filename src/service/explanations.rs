//! Explanations of checks: the answer with the role, its definition, and the states that stand in the way.

use super::checks::{Check, CheckAnswer};
use super::consistency_token::ConsistencyToken;
use super::roles::RoleOrigin;
use super::{AnswerSource, Freshness, Roster, ServiceError};
use crate::domain::check::{self, CheckReason, unknown_value};
use crate::domain::{
    OrganizationHead, OrganizationId, OrganizationState, Refusal, RoleName, Standing, UserId, UserState,
};
use crate::service::limits;
use crate::store::memberships::{self, MembershipOrigin};

/// The answer of a check with its explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The answer.
    pub answer: CheckAnswer,
    /// The role of the user; `None` if the user is not a member.
    pub role: Option<RolePath>,
    /// Whether the role holds what the question asks for, whatever the states are.
    pub role_suffices: bool,
    /// The state of the organization; `None` if it does not exist.
    pub organization_state: Option<OrganizationState>,
    /// The state of the user.
    pub user_state: UserState,
}

/// The role of a member, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolePath {
    /// The name of the role.
    pub role: RoleName,
    /// Where the role is defined.
    pub origin: RoleOrigin,
    /// The revision of its definition: of the organization for a role of it, otherwise of the access model.
    pub origin_revision: i64,
    /// The revision of the organization that the latest change of the membership made.
    pub membership_revision: i64,
    /// The role that replaces it, while its members move there.
    pub replaced_by: Option<RoleName>,
}

impl From<MembershipOrigin> for RolePath {
    fn from(stored: MembershipOrigin) -> Self {
        let is_built_in = [RoleName::OWNER, RoleName::ADMIN, RoleName::MEMBER].contains(&stored.role);
        let (origin, origin_revision) = match stored.role_revision {
            // The owner's own membership may hold any role.
            Some(revision) if !is_built_in => (RoleOrigin::Organization, revision),
            _ if is_built_in => (RoleOrigin::BuiltIn, stored.model_revision),
            _ => (RoleOrigin::Deployment, stored.model_revision),
        };
        Self {
            role: stored.role,
            origin,
            origin_revision,
            membership_revision: stored.revision,
            replaced_by: stored.replaced_by,
        }
    }
}

impl Roster {
    /// Answers a check from the primary and explains the answer, with the consistency token that covers it. Without a
    /// consistency requirement, the answer includes every write acknowledged before.
    ///
    /// # Errors
    /// `VALUE_UNKNOWN` if the answer depends on a role or state that this program does not know; `CONFLICT` if the
    /// organization changed each time that it was read; if the datastore does not answer.
    pub async fn explain_check(
        &self,
        check: &Check,
        freshness: &Freshness,
    ) -> Result<(Explanation, ConsistencyToken), ServiceError> {
        for _ in 0..limits::READ_ATTEMPTS {
            let mut token = self.replica.token(self.replica.datastore().await?);
            let standing = self.replica.standing_on_primary(&check.organization, &check.user, freshness).await?;
            token.cover_standing(&standing);
            let answer = CheckAnswer::new(&check.question, &standing, AnswerSource::Primary);
            if answer.reason == CheckReason::ValueUnknown {
                return Err(Refusal::ValueUnknown { value: unknown_value(&standing) }.into());
            }
            let role = match standing.organization.filter(|_| standing.role.is_some()) {
                None => None,
                Some(organization) => match self.role_path(organization, &check.user).await? {
                    // The organization has changed in between.
                    None => continue,
                    path => path,
                },
            };
            let explanation = Explanation {
                answer,
                role,
                role_suffices: role_suffices(check, &standing),
                organization_state: standing.organization.map(|organization| organization.state),
                user_state: standing.user_state.unwrap_or(UserState::Active),
            };
            return Ok((explanation, token));
        }
        Err(Refusal::Conflict.into())
    }

    /// Reads where the role of a member comes from; `None` if the organization has changed.
    async fn role_path(&self, organization: OrganizationHead, user: &UserId) -> Result<Option<RolePath>, ServiceError> {
        let OrganizationHead { id, revision, .. } = organization;
        let stored = self.membership_origin(id, user).await?;
        Ok(stored.filter(|stored| stored.organization_revision == revision).map(RolePath::from))
    }

    async fn membership_origin(
        &self,
        organization: OrganizationId,
        user: &UserId,
    ) -> Result<Option<MembershipOrigin>, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = memberships::origin(&mut connection, organization, user).await;
        Ok(connection.finish(outcome)?)
    }
}

/// Whether the role of the user would be enough in an active organization.
fn role_suffices(check: &Check, standing: &Standing) -> bool {
    let organization = standing.organization.map(|head| OrganizationHead { state: OrganizationState::Active, ..head });
    let active = Standing { organization, user_state: None, ..standing.clone() };
    check::answer(&check.question, &active) == CheckReason::Allowed
}
