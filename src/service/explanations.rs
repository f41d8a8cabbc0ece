//! Explanations of checks: the answer with the role, its definition, and the states that stand in the way.

use super::checks::{Check, CheckAnswer};
use super::consistency_token::ConsistencyToken;
use super::roles::RoleOrigin;
use super::{AnswerSource, Freshness, Roster, ServiceError};
use crate::domain::check::{self, UndeclaredWord};
use crate::domain::{
    OrganizationHead, OrganizationId, OrganizationRef, OrganizationState, Refusal, RoleName, UserId, UserState,
};
use crate::replica::{Facts, StandingQuestion};
use crate::service::limits;
use crate::store::memberships::{self, MembershipOrigin};

/// The answer of a check with its explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The answer, as a check gives it.
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

/// A check to explain.
struct ExplanationQuestion<'c>(&'c Check);

/// The explanation of an answer without the role, and the state that it is of.
struct ExplanationFacts {
    explanation: Explanation,
    /// The organization in which the user is a member.
    organization: Option<OrganizationHead>,
    /// The revision of the access model.
    model_revision: i64,
}

impl StandingQuestion for ExplanationQuestion<'_> {
    type Answer = Result<ExplanationFacts, UndeclaredWord>;

    fn subject(&self) -> (&OrganizationRef, Option<&UserId>) {
        self.0.subject()
    }

    fn named_role(&self) -> Option<&RoleName> {
        self.0.named_role()
    }

    fn answer(&self, facts: &Facts<'_>) -> Self::Answer {
        let standing = &facts.standing;
        let explanation = Explanation {
            answer: CheckAnswer { source: AnswerSource::Primary, ..self.0.answer(facts)? },
            role: None,
            role_suffices: standing.organization.is_some() && check::role_suffices(&self.0.question, standing),
            organization_state: standing.organization.map(|organization| organization.state),
            user_state: standing.user_state.unwrap_or(UserState::Active),
        };
        let organization = standing.organization.filter(|_| standing.role.is_some());
        Ok(ExplanationFacts { explanation, organization, model_revision: facts.model.position })
    }
}

impl Roster {
    /// Answers a check from the primary and explains the answer, with the consistency token that covers it. Without a
    /// consistency requirement, the answer includes every write acknowledged before.
    ///
    /// # Errors
    /// `INVALID_REQUEST` if the access model does not declare the permission or the role in the question; `VALUE_UNKNOWN`
    /// if the answer depends on a role or state that this program does not know; `CONFLICT` if the organization or the
    /// access model changed each time that it was read; if the datastore does not answer.
    pub async fn explain_check(
        &self,
        check: &Check,
        freshness: &Freshness,
    ) -> Result<(Explanation, ConsistencyToken), ServiceError> {
        for _ in 0..limits::READ_ATTEMPTS {
            let mut token = self.replica.token(self.replica.datastore().await?);
            let answered = self.replica.answer_on_primary(&ExplanationQuestion(check), freshness).await?;
            answered.cover(&mut token);
            let facts = answered.answer;
            let facts = facts.map_err(|undeclared| Refusal::field(undeclared.field(), undeclared.invalid().0))?;
            if let Some(value) = facts.explanation.answer.unknown_value {
                return Err(Refusal::ValueUnknown { value }.into());
            }
            let Some(OrganizationHead { id, revision, .. }) = facts.organization else {
                return Ok((facts.explanation, token));
            };
            let path = self.membership_origin(id, &check.user).await?;
            let is_same = |origin: &MembershipOrigin| {
                (origin.organization_revision, origin.model_revision) == (revision, facts.model_revision)
            };
            if let Some(origin) = path.filter(is_same) {
                return Ok((Explanation { role: Some(origin.into()), ..facts.explanation }, token));
            }
        }
        Err(Refusal::Conflict.into())
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
