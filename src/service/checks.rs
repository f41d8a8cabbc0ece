//! Checks: the question that roster is for.

use super::token::Token;
use super::{Error, Roster};
use crate::domain::check::{self, Question, Reason};
use crate::domain::{OrganizationRef, Role, Standing, UserId};

/// One question.
#[derive(Debug, Clone)]
pub struct Check {
    /// Where.
    pub organization: OrganizationRef,
    /// Who.
    pub user: UserId,
    /// What.
    pub question: Question,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Why; [`Reason::Allowed`] is the only yes.
    pub reason: Reason,
    /// The user's role; none for who is not a member.
    pub role: Option<Role>,
    /// The organization's revision that the answer reflects; 0 for one that is not there.
    pub revision: i64,
}

impl Answer {
    fn new(question: Question, standing: &Standing) -> Self {
        let reason = check::answer(question, standing);
        let there = standing.organization.filter(|_| reason != Reason::OrganizationNotFound);
        Self { reason, role: there.and(standing.role), revision: there.map_or(0, |organization| organization.revision) }
    }
}

impl Roster {
    /// Answers one question, with the token that covers what the answer reflects. Every kind of consistency asked for is
    /// met, because the primary answers.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn check(&self, check: &Check) -> Result<(Answer, Token), Error> {
        let mut token = Token::new(self.datastore().await?);
        let standing = self.index.standing(&check.organization, Some(&check.user)).await?;
        cover(&mut token, &standing);
        Ok((Answer::new(check.question, &standing), token))
    }

    /// Answers one question from memory, if that can be done. Nothing is in memory yet.
    #[must_use]
    #[expect(clippy::unused_self, reason = "the copy in memory will stand here")]
    pub fn check_now(&self, _: &Check) -> Option<(Answer, Token)> {
        None
    }

    /// Answers many questions from one state of the datastore, in their order, each with a token of its own.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn check_each(&self, checks: &[Check]) -> Result<Vec<(Answer, Token)>, Error> {
        let datastore = self.datastore().await?;
        let asked: Vec<_> = checks.iter().map(|check| (check.organization.clone(), check.user.clone())).collect();
        let standings = self.index.standings(&asked).await?;
        let answers = checks.iter().zip(&standings).map(|(check, standing)| {
            let mut token = Token::new(datastore);
            cover(&mut token, standing);
            (Answer::new(check.question, standing), token)
        });
        Ok(answers.collect())
    }

    /// Answers many questions from one state of the datastore, in their order.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn check_batch(&self, checks: &[Check]) -> Result<(Vec<Answer>, Token), Error> {
        let mut token = Token::new(self.datastore().await?);
        let asked: Vec<_> = checks.iter().map(|check| (check.organization.clone(), check.user.clone())).collect();
        let standings = self.index.standings(&asked).await?;
        for standing in &standings {
            cover(&mut token, standing);
        }
        let answers =
            checks.iter().zip(&standings).map(|(check, standing)| Answer::new(check.question, standing)).collect();
        Ok((answers, token))
    }
}

fn cover(token: &mut Token, standing: &Standing) {
    if let Some(position) = standing.position {
        token.cover(position);
    }
    token.cover_user(standing.user_position);
}
