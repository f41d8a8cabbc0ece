//! Effective permissions: everything that a user may do in an organization.
//!
//! A permission is effective exactly if a check of it answers yes.

use super::checks::Check;
use super::consistency_token::ConsistencyToken;
use super::{AnswerSource, Freshness, Roster, ServiceError};
use crate::domain::check::{self, CheckReason, unknown_value};
use crate::domain::{OrganizationRef, PermissionSet, Refusal, UserId, ValueKind};
use crate::replica::{AnswerBatch, Facts, SourcedAnswer, StandingQuestion};

/// What a user may do in an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectivePermissions {
    /// The answer of a check of the membership. [`CheckReason::Allowed`] is the only one with permissions.
    pub reason: CheckReason,
    /// The name of the user's role; `None` if the user is not a member.
    pub role: Option<String>,
    /// The permissions: those of the role that are roster's own or declared by the access model.
    pub permissions: PermissionSet,
    /// The organization's revision that the answer reflects; 0 if the organization does not exist.
    pub revision: i64,
    /// The replica or the primary, whichever answered.
    pub source: AnswerSource,
    /// What the value is, if the reason is [`CheckReason::ValueUnknown`].
    pub unknown_value: Option<ValueKind>,
}

/// The question for the effective permissions of the user of a check. Its own question is not considered.
struct PermissionsQuestion<'c>(&'c Check);

impl StandingQuestion for PermissionsQuestion<'_> {
    type Answer = EffectivePermissions;

    fn subject(&self) -> (&OrganizationRef, Option<&UserId>) {
        (&self.0.organization, Some(&self.0.user))
    }

    fn answer(&self, Facts { standing, .. }: &Facts<'_>) -> EffectivePermissions {
        let reason = check::membership(standing);
        let (role, revision) = check::role_and_revision(reason, standing);
        let held = standing.role.and_then(|role| role.permissions).filter(|_| reason == CheckReason::Allowed);
        EffectivePermissions {
            reason,
            role: role.map(|name| name.as_str().to_owned()),
            permissions: held.map_or(PermissionSet::NONE, |held| held.intersection(standing.roles.declared())),
            revision,
            source: AnswerSource::Memory,
            unknown_value: (reason == CheckReason::ValueUnknown).then(|| unknown_value(standing)),
        }
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
        let answered = self.replica.answer(&PermissionsQuestion(check), freshness).await?;
        answered.cover(&mut token);
        let SourcedAnswer { answer, source, .. } = answered;
        match answer.unknown_value {
            Some(value) => Err(Refusal::ValueUnknown { value }.into()),
            None => Ok((EffectivePermissions { source, ..answer }, token)),
        }
    }

    /// Answers with the effective permissions of the users of a batch of checks, in their order, and with a consistency
    /// token that covers all answers. All answers about one organization reflect one state of it, and all answers one access
    /// model. Where an answer depends on a value that this program does not know, its reason is
    /// [`CheckReason::ValueUnknown`].
    ///
    /// # Errors
    /// If the replica cannot answer and the datastore does not.
    pub async fn effective_permissions_of_batch(
        &self,
        checks: &[Check],
        freshness: &Freshness,
    ) -> Result<(Vec<EffectivePermissions>, ConsistencyToken), ServiceError> {
        let questions: Vec<_> = checks.iter().map(PermissionsQuestion).collect();
        let AnswerBatch { answers, sources, token } = self.replica.answers(&questions, freshness).await?;
        let with_source = |(answer, source)| EffectivePermissions { source, ..answer };
        Ok((answers.into_iter().zip(sources).map(with_source).collect(), token))
    }
}
