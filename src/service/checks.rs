//! Checks: the question that roster is for.

use super::consistency_token::ConsistencyToken;
use super::{AnswerSource, Freshness, Roster, ServiceError};
use crate::domain::check::{self, CheckReason, Question};
use crate::domain::{OrganizationRef, Role, Standing, UserId};
use crate::replica::{CheckQuestion, StandingBatch};

pub use crate::domain::check::Check;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckAnswer {
    /// Why; [`CheckReason::Allowed`] is the only yes.
    pub reason: CheckReason,
    /// The user's role; none for who is not a member.
    pub role: Option<Role>,
    /// The organization's revision that the answer reflects; 0 for one that is not there.
    pub revision: i64,
    /// Who answered.
    pub source: AnswerSource,
}

impl CheckAnswer {
    fn new(question: Question, standing: &Standing, source: AnswerSource) -> Self {
        let reason = check::answer(question, standing);
        let (role, revision) = check::beside(reason, standing);
        Self { reason, role, revision, source }
    }
}

impl CheckQuestion for Check {
    fn subject(&self) -> (&OrganizationRef, &UserId) {
        (&self.organization, &self.user)
    }
}

impl Roster {
    /// StandingBatch one question from memory and at once, with the token that covers what the answer reflects; none if memory
    /// cannot say, or not as freshly as is asked.
    #[must_use]
    pub fn check_now(&self, check: &Check, freshness: &Freshness) -> Option<(CheckAnswer, ConsistencyToken)> {
        let standing = self.replica.standing_now(&check.organization, Some(&check.user), freshness)?;
        let mut token = ConsistencyToken::new(self.replica.datastore_now()?);
        token.cover_standing(&standing);
        Some((CheckAnswer::new(check.question, &standing, AnswerSource::Memory), token))
    }

    /// StandingBatch one question, with the token that covers what the answer reflects.
    ///
    /// # Errors
    /// If memory cannot say and the datastore does not answer.
    pub async fn check(
        &self,
        check: &Check,
        freshness: &Freshness,
    ) -> Result<(CheckAnswer, ConsistencyToken), ServiceError> {
        if let Some(answered) = self.check_now(check, freshness) {
            return Ok(answered);
        }
        let mut token = ConsistencyToken::new(self.replica.datastore().await?);
        let (standing, source) = self.replica.standing(&check.organization, Some(&check.user), freshness).await?;
        token.cover_standing(&standing);
        Ok((CheckAnswer::new(check.question, &standing, source), token))
    }

    /// StandingBatch many questions in their order, all about one organization from one state of it, with a token that covers
    /// all.
    ///
    /// # Errors
    /// If memory cannot say and the datastore does not answer.
    pub async fn check_batch(
        &self,
        checks: &[Check],
        freshness: &Freshness,
    ) -> Result<(Vec<CheckAnswer>, ConsistencyToken), ServiceError> {
        let StandingBatch { standings, sources, token } = self.replica.standings(checks, freshness).await?;
        let answers = checks.iter().zip(&standings).zip(sources);
        let answers = answers.map(|((check, standing), source)| CheckAnswer::new(check.question, standing, source));
        Ok((answers.collect(), token))
    }
}
