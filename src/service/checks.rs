//! Checks: is a user a member of an organization, and with which role or permission?

use super::consistency_token::ConsistencyToken;
use super::{AnswerSource, Freshness, Roster, ServiceError};
use crate::domain::check::{self, CheckReason, Question, unknown_value};
use crate::domain::{OrganizationRef, Refusal, RoleName, Standing, UserId};
use crate::replica::{CheckQuestion, StandingBatch};

pub use crate::domain::check::Check;

/// The answer of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckAnswer {
    /// The reason. [`CheckReason::Allowed`] is the only positive answer.
    pub reason: CheckReason,
    /// The user's role; `None` if the user is not a member.
    pub role: Option<RoleName>,
    /// The organization's revision that the answer reflects; 0 if the organization does not exist.
    pub revision: i64,
    /// The replica or the primary, whichever answered.
    pub source: AnswerSource,
}

impl CheckAnswer {
    pub(super) fn new(question: &Question, standing: &Standing, source: AnswerSource) -> Self {
        let reason = check::answer(question, standing);
        let (role, revision) = check::role_and_revision(reason, standing);
        Self { reason, role, revision, source }
    }
}

impl CheckQuestion for Check {
    fn subject(&self) -> (&OrganizationRef, &UserId) {
        (&self.organization, &self.user)
    }
}

impl Roster {
    /// Answers a check from the replica without waiting, with the consistency token that covers the answer. `None` if
    /// the replica does not have the answer, or not as fresh as requested, or the answer depends on a value that this
    /// program does not know.
    #[must_use]
    pub fn check_now(&self, check: &Check, freshness: &Freshness) -> Option<(CheckAnswer, ConsistencyToken)> {
        let standing = self.replica.standing_now(&check.organization, Some(&check.user), freshness)?;
        let mut token = self.replica.token(self.replica.datastore_now()?);
        token.cover_standing(&standing);
        let answer = CheckAnswer::new(&check.question, &standing, AnswerSource::Memory);
        (answer.reason != CheckReason::ValueUnknown).then_some((answer, token))
    }

    /// Answers a check, with the consistency token that covers the answer.
    ///
    /// # Errors
    /// `VALUE_UNKNOWN` if the answer depends on a role or state that this program does not know; if the replica cannot answer and the datastore does not.
    pub async fn check(
        &self,
        check: &Check,
        freshness: &Freshness,
    ) -> Result<(CheckAnswer, ConsistencyToken), ServiceError> {
        if let Some(answer) = self.check_now(check, freshness) {
            return Ok(answer);
        }
        let mut token = self.replica.token(self.replica.datastore().await?);
        let (standing, source) = self.replica.standing(&check.organization, Some(&check.user), freshness).await?;
        token.cover_standing(&standing);
        let answer = CheckAnswer::new(&check.question, &standing, source);
        if answer.reason == CheckReason::ValueUnknown {
            return Err(Refusal::ValueUnknown { value: unknown_value(&standing) }.into());
        }
        Ok((answer, token))
    }

    /// Answers a batch of checks in their order, with a consistency token that covers all answers. All answers about
    /// one organization reflect one state of it. Where an answer depends on a value that this program does not know, its
    /// reason is [`CheckReason::ValueUnknown`].
    ///
    /// # Errors
    /// If the replica cannot answer and the datastore does not.
    pub async fn check_batch(
        &self,
        checks: &[Check],
        freshness: &Freshness,
    ) -> Result<(Vec<CheckAnswer>, ConsistencyToken), ServiceError> {
        let StandingBatch { standings, sources, token } = self.replica.standings(checks, freshness).await?;
        let answers = checks.iter().zip(&standings).zip(sources);
        let answers = answers.map(|((check, standing), source)| CheckAnswer::new(&check.question, standing, source));
        Ok((answers.collect(), token))
    }
}
