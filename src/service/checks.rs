//! Checks: is a user a member of an organization, and with which role or permission?

use super::consistency_token::ConsistencyToken;
use super::{AnswerSource, Freshness, Roster, ServiceError};
use crate::domain::check::{self, CheckReason, Question, UndeclaredWord, unknown_value};
use crate::domain::{OrganizationRef, Refusal, RoleName, UserId, ValueKind};
use crate::replica::{AnswerBatch, Facts, SourcedAnswer, StandingQuestion};

pub use crate::domain::check::Check;

/// The answer of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckAnswer {
    /// The reason. [`CheckReason::Allowed`] is the only positive answer.
    pub reason: CheckReason,
    /// The name of the user's role; `None` if the user is not a member.
    pub role: Option<String>,
    /// The organization's revision that the answer reflects; 0 if the organization does not exist.
    pub revision: i64,
    /// The replica or the primary, whichever answered.
    pub source: AnswerSource,
    /// What the value is, if the reason is [`CheckReason::ValueUnknown`].
    pub unknown_value: Option<ValueKind>,
}

impl StandingQuestion for Check {
    type Answer = Result<CheckAnswer, UndeclaredWord>;

    fn subject(&self) -> (&OrganizationRef, Option<&UserId>) {
        (&self.organization, Some(&self.user))
    }

    fn named_role(&self) -> Option<&RoleName> {
        self.question.organization_role()
    }

    fn depends_on_model(&self) -> bool {
        self.question != Question::Member
    }

    fn answer(&self, Facts { standing, .. }: &Facts<'_>) -> Self::Answer {
        let reason = check::answer(&self.question, standing)?;
        let (role, revision) = check::role_and_revision(reason, standing);
        // The text, which the response takes: a copy of the name would count references that all callers share.
        let role = role.map(|name| name.as_str().to_owned());
        let unknown_value = (reason == CheckReason::ValueUnknown).then(|| unknown_value(standing));
        Ok(CheckAnswer { reason, role, revision, source: AnswerSource::Memory, unknown_value })
    }

    /// The primary may have a model that declares what the question names.
    fn is_final(answer: &Self::Answer) -> bool {
        answer.is_ok()
    }
}

impl Roster {
    /// Answers a check from the replica without waiting, with the consistency token that covers the answer. `None` if
    /// the replica does not have the answer, or not as fresh as requested, or the answer depends on a value that this
    /// program does not know.
    #[must_use]
    pub fn check_now(&self, check: &Check, freshness: &Freshness) -> Option<(CheckAnswer, ConsistencyToken)> {
        let answered = self.replica.answer_now(check, freshness)?;
        let mut token = self.replica.token(self.replica.datastore_now()?);
        answered.cover(&mut token);
        let answer = answered.answer.ok()?;
        (answer.reason != CheckReason::ValueUnknown).then_some((answer, token))
    }

    /// Answers a check, with the consistency token that covers the answer.
    ///
    /// # Errors
    /// `INVALID_REQUEST` if the access model does not declare the permission or the role in the question; `VALUE_UNKNOWN`
    /// if the answer depends on a role or state that this program does not know; if the replica cannot answer and the
    /// datastore does not.
    pub async fn check(
        &self,
        check: &Check,
        freshness: &Freshness,
    ) -> Result<(CheckAnswer, ConsistencyToken), ServiceError> {
        if let Some(answer) = self.check_now(check, freshness) {
            return Ok(answer);
        }
        let mut token = self.replica.token(self.replica.datastore().await?);
        let answered = self.replica.answer(check, freshness).await?;
        answered.cover(&mut token);
        let SourcedAnswer { answer, source, .. } = answered;
        let answer = answer.map_err(|undeclared| Refusal::field(undeclared.field(), undeclared.invalid().0))?;
        match answer.unknown_value {
            Some(value) => Err(Refusal::ValueUnknown { value }.into()),
            None => Ok((CheckAnswer { source, ..answer }, token)),
        }
    }

    /// Answers a batch of checks in their order, with a consistency token that covers all answers. All answers about
    /// one organization reflect one state of it, and all answers one access model. A check that names a permission or a role
    /// that the model does not declare has no answer. Where an answer depends on a value that this program does not know, its
    /// reason is [`CheckReason::ValueUnknown`].
    ///
    /// # Errors
    /// If the replica cannot answer and the datastore does not.
    pub async fn check_batch(
        &self,
        checks: &[Check],
        freshness: &Freshness,
    ) -> Result<(Vec<Result<CheckAnswer, UndeclaredWord>>, ConsistencyToken), ServiceError> {
        let AnswerBatch { mut answers, sources, token } = self.replica.answers(checks, freshness).await?;
        for (answer, from) in answers.iter_mut().zip(sources) {
            if let Ok(CheckAnswer { source, .. }) = answer {
                *source = from;
            }
        }
        Ok((answers, token))
    }
}
