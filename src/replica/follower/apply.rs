//! Applies the rows of a poll to the tables.

use super::super::feed::Commits;
use super::super::roles::published;
use super::{Follower, index};
use crate::domain::change::{ChangeDetail, LogEntry};
use crate::domain::ids::{MODEL_BUCKET, ORGANIZATION_BUCKETS};
use crate::domain::{UserId, UserStatus};
use crate::store::log::tail::{LogChange, LogRow};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Follower<'_> {
    /// Applies the transactions of a poll. The model is published first, so that no bucket has rows that a model which is
    /// not published has decided; its position is applied last, when every bucket has adopted it.
    pub(super) fn apply_poll(&mut self, commits: Vec<Commits>) {
        let (models, others): (Vec<_>, Vec<_>) =
            commits.into_iter().partition(|commits| commits.bucket == MODEL_BUCKET);
        let last = models.iter().filter_map(|commits| commits.rows.last()).next_back();
        if let Some(LogRow { at, change: LogChange::Model { model, .. }, .. }) = last {
            self.shared.publish_roles(published(*at, model));
        }
        for commits in others.into_iter().chain(models) {
            self.apply(commits);
        }
    }

    /// Applies transactions to the replica and sends them to the feed.
    fn apply(&mut self, commits: Commits) {
        let Some(last) = commits.rows.last().map(|row| row.at) else { return };
        let count = u64::try_from(commits.rows.len()).unwrap_or_default();
        self.shared.counters.lines.fetch_add(count, Ordering::Relaxed);
        let bucket = commits.bucket;
        let tables = &self.shared.tables;
        if bucket < ORGANIZATION_BUCKETS {
            let last = last.in_bucket(bucket);
            tables.apply(entries(&commits.rows), last);
            if let Some(bucket) = self.staging.get_mut(&bucket) {
                tables.apply_to(bucket, entries(&commits.rows), last);
            }
        } else if bucket == MODEL_BUCKET {
            tables.adopt_roles();
        } else {
            tables.apply_users(user_changes(&commits.rows), last.in_bucket(bucket - ORGANIZATION_BUCKETS));
        }
        for row in commits.rows.iter().filter(|row| is_unknown(row)) {
            tracing::debug!(
                bucket,
                position = row.at.position,
                "the change log has a change of a newer version of roster"
            );
        }
        if commits.rows.iter().any(is_purge)
            && let Some(bytes) = self.omitted_bytes.get_mut(&bucket)
        {
            // The bucket is smaller now, by an unknown number of bytes: the next load measures it.
            *bytes = 0;
        }
        self.positions[index(bucket)] = last;
        self.shared.applied.extend(commits.rows.iter().map(|row| row.at.in_bucket(bucket)));
        // Fails only if there is no subscriber.
        let _ = self.shared.feed.send(Arc::new(commits));
    }
}

fn entries(rows: &[LogRow]) -> impl Iterator<Item = (i64, &LogEntry)> {
    rows.iter().filter_map(|row| match &row.change {
        LogChange::Organization(entry) => Some((row.at.position, entry)),
        LogChange::User { .. } | LogChange::Model { .. } | LogChange::Unknown => None,
    })
}

fn is_unknown(row: &LogRow) -> bool {
    matches!(&row.change, LogChange::Unknown | LogChange::Organization(LogEntry { detail: ChangeDetail::Unknown, .. }))
}

fn is_purge(row: &LogRow) -> bool {
    matches!(
        &row.change,
        LogChange::Organization(LogEntry { detail: ChangeDetail::Organization { state: None, .. }, .. })
    )
}

fn user_changes(rows: &[LogRow]) -> impl Iterator<Item = (&UserId, UserStatus)> {
    rows.iter().filter_map(|row| match &row.change {
        LogChange::User { user, state, reinstated_at, .. } => Some((user, UserStatus::new(*state, *reinstated_at))),
        LogChange::Organization(_) | LogChange::Model { .. } | LogChange::Unknown => None,
    })
}
