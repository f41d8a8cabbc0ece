//! Checks: the question that roster is for.

use super::token::Token;
use super::{Error, Freshness, Roster, Source};
use crate::domain::check::{self, Question, Reason};
use crate::domain::{OrganizationRef, Role, Standing, UserId};
use crate::index::{Answers, Asks};

pub use crate::domain::check::Check;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Why; [`Reason::Allowed`] is the only yes.
    pub reason: Reason,
    /// The user's role; none for who is not a member.
    pub role: Option<Role>,
    /// The organization's revision that the answer reflects; 0 for one that is not there.
    pub revision: i64,
    /// Who answered.
    pub source: Source,
}

impl Answer {
    fn new(question: Question, standing: &Standing, source: Source) -> Self {
        let reason = check::answer(question, standing);
        let (role, revision) = check::beside(reason, standing);
        Self { reason, role, revision, source }
    }
}

impl Asks for Check {
    fn asks(&self) -> (&OrganizationRef, &UserId) {
        (&self.organization, &self.user)
    }
}

impl Roster {
    /// Answers one question from memory and at once, with the token that covers what the answer reflects; none if memory
    /// cannot say, or not as freshly as is asked.
    #[must_use]
    pub fn check_now(&self, check: &Check, freshness: &Freshness) -> Option<(Answer, Token)> {
        let standing = self.index.now(&check.organization, Some(&check.user), freshness)?;
        let mut token = Token::new(self.index.datastore_now()?);
        token.cover_standing(&standing);
        Some((Answer::new(check.question, &standing, Source::Memory), token))
    }

    /// Answers one question, with the token that covers what the answer reflects.
    ///
    /// # Errors
    /// If memory cannot say and the datastore does not answer.
    pub async fn check(&self, check: &Check, freshness: &Freshness) -> Result<(Answer, Token), Error> {
        if let Some(answered) = self.check_now(check, freshness) {
            return Ok(answered);
        }
        let mut token = Token::new(self.index.datastore().await?);
        let (standing, source) = self.index.standing(&check.organization, Some(&check.user), freshness).await?;
        token.cover_standing(&standing);
        Ok((Answer::new(check.question, &standing, source), token))
    }

    /// Answers many questions in their order, all about one organization from one state of it, with a token that covers
    /// all.
    ///
    /// # Errors
    /// If memory cannot say and the datastore does not answer.
    pub async fn check_batch(&self, checks: &[Check], freshness: &Freshness) -> Result<(Vec<Answer>, Token), Error> {
        let Answers { standings, sources, token } = self.index.standings(checks, freshness).await?;
        let answers = checks.iter().zip(&standings).zip(sources);
        let answers = answers.map(|((check, standing), source)| Answer::new(check.question, standing, source));
        Ok((answers.collect(), token))
    }
}
