//! What must be done now and then: purging what was deleted long ago, forgetting old answers. Several processes may do it
//! at once; nothing hangs on when it happens.

use super::organizations::PurgeIfDue;
use super::write::Meta;
use super::{Roster, ServiceError};
use crate::service::limits;
use crate::store::log::partitions::{self, PartitionedTable};
use crate::store::{invitations, organizations, quotas, requests};
use tokio::time::Instant;

/// What one round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TidyReport {
    /// Organizations purged.
    pub purged: u64,
    /// Invitations forgotten that came to their end long ago.
    pub invitations: u64,
    /// Answers and used-up limits forgotten.
    pub forgotten: u64,
    /// Days of the change log dropped.
    pub log_days: u64,
    /// Rows of the change log forgotten that no day had taken.
    pub log_rows: u64,
}

impl Roster {
    /// Does one round, of bounded size.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn tidy(&self) -> Result<TidyReport, ServiceError> {
        let mut tidied = TidyReport::default();
        let due = organizations::due_for_purge(&mut *self.pool.acquire().await?, limits::TIDY_ORGANIZATIONS).await?;
        for id in due {
            let deadline = Instant::now() + crate::store::limits::STATEMENT;
            let meta = Meta::own(deadline);
            if self.write(None, meta, PurgeIfDue(id)).await?.answer {
                tidied.purged += 1;
            }
        }
        tidied.invitations = invitations::forget_old(
            &mut *self.pool.acquire().await?,
            limits::INVITATION_RETENTION,
            limits::TIDY_INVITATIONS,
        )
        .await?;
        tidied.forgotten = requests::forget_old(&mut *self.pool.acquire().await?, limits::TIDY_REQUESTS).await?;
        tidied.forgotten += quotas::forget_old(
            &mut *self.pool.acquire().await?,
            crate::store::limits::PURGE_AFTER,
            limits::TIDY_REQUESTS,
        )
        .await?;
        self.tend_log(&mut tidied).await?;
        Ok(tidied)
    }

    /// Makes the log's next days, and drops those that ended longer ago than it is kept.
    async fn tend_log(&self, tidied: &mut TidyReport) -> Result<(), ServiceError> {
        let mut connection = self.pool.acquire().await?;
        // First what needs no ownership of the tables: without it, everything is in the default partition.
        for log in PartitionedTable::ALL {
            tidied.log_rows +=
                partitions::forget(&mut connection, log, self.log_retention, limits::TIDY_LOG_ROWS).await?;
        }
        partitions::make_ahead(&mut connection).await?;
        let oldest = partitions::now(&mut connection).await? - self.log_retention;
        for log in PartitionedTable::ALL {
            // A day ends where the next one begins.
            for day in partitions::days(&mut connection, log).await?.into_iter().filter(|day| *day < oldest.date()) {
                // Whoever is in the way of one is in the way of all: everybody would wait for each once more.
                if !partitions::drop(&mut connection, log, day).await? {
                    break;
                }
                tracing::info!(partition = log.partition(day), "dropped a day of the change log");
                tidied.log_days += 1;
            }
        }
        Ok(())
    }
}
