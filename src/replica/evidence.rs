//! Evidence that answers of the primary are not behind: they cover the consistency token of their question, and the writes
//! that this process had acknowledged.

use super::consistency_token::ConsistencyToken;
use super::history::AppliedHistory;
use super::user_bucket;
use crate::domain::{BucketPosition, LogMark};
use crate::replica_tables::PublishedRoles;
use crate::store::datastore::Datastore;
use crate::store::log::history::{LogEvidence, LogHistory};
use crate::store::standing::ResolvedStanding;
use std::collections::HashMap;
use std::time::Duration;

/// Answers of the primary, all from one state of the datastore.
#[derive(Debug)]
pub(super) struct PrimaryAnswers {
    /// In the order of the questions.
    pub(super) standings: Vec<ResolvedStanding>,
    /// The roles of the deployment by which they are resolved, of the same state.
    pub(super) roles: PublishedRoles,
    /// The [`crate::clock::uptime`] at which the session was opened that gave the answers.
    pub(super) session_begin: Duration,
}

impl PrimaryAnswers {
    /// Whether the answers reach these positions, which the primary had before, and do not contradict the applied history.
    pub(super) fn are_own_history(&self, known: &[i64], applied: &AppliedHistory) -> bool {
        self.positions().all(|at| {
            let known = known.get(usize::from(at.bucket.unsigned_abs()));
            known.is_none_or(|known| at.position >= *known)
                && applied.mark(at.bucket, at.position).is_none_or(|mark| mark == at.mark)
        })
    }

    /// The positions that the answers reflect. The buckets of users follow those of organizations.
    fn positions(&self) -> impl Iterator<Item = BucketPosition> {
        let of_answer = |ResolvedStanding { standing, .. }: &ResolvedStanding| {
            let user = standing.user_position;
            let user = BucketPosition { bucket: user_bucket(user.bucket), ..user };
            standing.position.into_iter().chain([user])
        };
        self.standings.iter().flat_map(of_answer).chain([self.roles.at])
    }
}

/// A consistency token that answers must cover.
pub(super) struct TokenRequirement<'t> {
    token: &'t ConsistencyToken,
    /// The position of each bucket that the answers reflect. All answers are from one snapshot.
    heads: HashMap<i16, BucketPosition>,
    /// Whether a slug was not found. It has no bucket: any position may be that of its organization.
    has_unknown_slug: bool,
}

impl<'t> TokenRequirement<'t> {
    pub(super) fn new(token: &'t ConsistencyToken, answers: &PrimaryAnswers) -> Self {
        Self {
            token,
            heads: answers.positions().map(|at| (at.bucket, at)).collect(),
            has_unknown_slug: answers.standings.iter().any(|answer| answer.standing.position.is_none()),
        }
    }

    /// The positions that must be compared with the log of the primary: those of the token that neither an answer's own
    /// position nor the applied history confirms, and the answers' positions in these buckets, so that it is the log that the
    /// answers come from. Empty if the answers cover the token.
    ///
    /// `known` is the datastore as of the last poll, and `is_polled` whether the answers are from the same database.
    pub(super) fn unconfirmed(
        &self,
        known: Option<Datastore>,
        applied: &AppliedHistory,
        is_polled: bool,
    ) -> Vec<BucketPosition> {
        if known.is_some_and(|known| self.is_void(known)) {
            return Vec::new();
        }
        let is_current = known.is_some_and(|known| self.token.is_of(known));
        let is_confirmed = |at: BucketPosition| match self.heads.get(&at.bucket) {
            Some(head) if !self.token.has_marks() => at.position <= head.position,
            Some(head) if is_polled && applied.contains(at) => at.position <= head.position,
            Some(head) => applied.confirms(*head, at),
            // No answer is about this bucket.
            None if self.has_unknown_slug && !is_polled => false,
            None => applied.contains(at) || !(self.token.has_marks() || self.has_unknown_slug),
        };
        let mut unconfirmed: Vec<BucketPosition> =
            self.token.positions().filter(|at| !is_current || !is_confirmed(*at)).collect();
        let heads: Vec<BucketPosition> =
            unconfirmed.iter().filter_map(|at| self.heads.get(&at.bucket).copied()).collect();
        unconfirmed.extend(heads);
        unconfirmed
    }

    /// Whether the token counts as `fully_consistent` in this datastore: it belongs to another one, or to an earlier epoch.
    pub(super) fn is_void(&self, datastore: Datastore) -> bool {
        !self.token.is_of_any_epoch(datastore) || self.token.epoch < datastore.epoch
    }

    /// Whether the token belongs to this datastore and to its epoch. A later epoch belongs to a history that the datastore
    /// does not have.
    pub(super) fn is_of(&self, datastore: Datastore) -> bool {
        self.token.is_of(datastore)
    }

    /// Whether the answers cover the token, by what a log has at the unconfirmed positions.
    pub(super) fn is_covered(&self, history: &LogHistory) -> bool {
        let has_row = |at: BucketPosition, mark: Option<LogMark>| match history.at(at.bucket, at.position) {
            Some(LogEvidence::Row(row)) => mark.is_none_or(|mark| mark == row),
            Some(LogEvidence::Beyond) => false,
            // The row is too old to tell: the token counts as `fully_consistent`. Or it was confirmed before.
            Some(LogEvidence::Dropped) | None => true,
        };
        let mark = |at: BucketPosition| Some(at.mark).filter(|_| self.token.has_marks());
        let reaches = |at: BucketPosition| self.heads.get(&at.bucket).is_none_or(|head| at.position <= head.position);
        self.heads.values().all(|head| has_row(*head, Some(head.mark)))
            && self.token.positions().all(|at| reaches(at) && has_row(at, mark(at)))
    }
}
