//! Effective permissions: everything that a user may do in an organization.
//!
//! A permission is effective exactly if a check of it answers yes.

use super::checks::Check;
use super::consistency_token::ConsistencyToken;
use super::{AnswerSource, Freshness, Roster, ServiceError};
use crate::domain::check::{self, CheckReason, Question, unknown_value};
use crate::domain::{PermissionSet, Refusal, RoleName, RoleTable, Standing};
use crate::replica::StandingBatch;

/// What a user may do in an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectivePermissions {
    /// The answer of a check of the membership. [`CheckReason::Allowed`] is the only one with permissions.
    pub reason: CheckReason,
    /// The user's role; `None` if the user is not a member.
    pub role: Option<RoleName>,
    /// The permissions: those of the role that are roster's own or declared by the access model.
    pub permissions: PermissionSet,
    /// The organization's revision that the answer reflects; 0 if the organization does not exist.
    pub revision: i64,
    /// The replica or the primary, whichever answered.
    pub source: AnswerSource,
}

impl EffectivePermissions {
    fn new(standing: &Standing, roles: &RoleTable, source: AnswerSource) -> Self {
        let reason = check::answer(&Question::Member, standing);
        let (role, revision) = check::role_and_revision(reason, standing);
        let held = standing.role.as_ref().and_then(|role| role.permissions.as_ref());
        let permissions = held
            .filter(|_| reason == CheckReason::Allowed)
            .map_or(PermissionSet::NONE, |held| held.intersection(roles.declared()));
        Self { reason, role, permissions, revision, source }
    }
}

impl Roster {
    /// Answers with the effective permissions of the user of a check, whose question is not considered, and with the
    /// consistency token that covers the answer.
    ///
    /// # Errors
    /// `VALUE_UNKNOWN` if the answer depends on a role or state that this program does not know; if the replica cannot
    /// answer and the datastore does not.
    pub async fn effective_permissions(
        &self,
        check: &Check,
        freshness: &Freshness,
    ) -> Result<(EffectivePermissions, ConsistencyToken), ServiceError> {
        let mut token = self.replica.token(self.replica.datastore().await?);
        let (standing, source) = self.replica.standing(&check.organization, Some(&check.user), freshness).await?;
        token.cover_standing(&standing);
        let answer = EffectivePermissions::new(&standing, &self.replica.roles(), source);
        if answer.reason == CheckReason::ValueUnknown {
            return Err(Refusal::ValueUnknown { value: unknown_value(&standing) }.into());
        }
        Ok((answer, token))
    }

    /// Answers with the effective permissions of the users of a batch of checks, in their order, and with a consistency
    /// token that covers all answers. All answers about one organization reflect one state of it. Where an answer depends
    /// on a value that this program does not know, its reason is [`CheckReason::ValueUnknown`].
    ///
    /// # Errors
    /// If the replica cannot answer and the datastore does not.
    pub async fn effective_permissions_of_batch(
        &self,
        checks: &[Check],
        freshness: &Freshness,
    ) -> Result<(Vec<EffectivePermissions>, ConsistencyToken), ServiceError> {
        let StandingBatch { standings, sources, token } = self.replica.standings(checks, freshness).await?;
        let roles = self.replica.roles();
        let answers = standings.iter().zip(sources);
        let answers = answers.map(|(standing, source)| EffectivePermissions::new(standing, &roles, source));
        Ok((answers.collect(), token))
    }
}
