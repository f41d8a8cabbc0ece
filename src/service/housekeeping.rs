//! Housekeeping: removes what has expired, moves the members of deleted roles, and maintains the partitions of the change
//! log. Several processes may run it at the same time, and nothing depends on when it runs.

use super::invitations::ExpireInvitations;
use super::organizations::PurgeIfDue;
use super::roles::replacement::MovePart;
use super::write::Meta;
use super::{Roster, ServiceError};
use crate::domain::{OrganizationId, RoleName};
use crate::service::limits;
use crate::store::log::partitions::{self, PartitionedTable};
use crate::store::{
    StoreError, access_model, folded_names, invitations, organization_roles, organizations, quotas, requests, usage,
};
use sqlx::PgConnection;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// The counters of one housekeeping round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TidyReport {
    /// The number of organizations purged.
    pub purged: u64,
    /// Invitations whose expiry was recorded.
    pub expired: usize,
    /// Invitations deleted after their retention.
    pub invitations: u64,
    /// Stored answers and quota windows deleted.
    pub forgotten: u64,
    /// Names of organizations folded after a write of an older release.
    pub names: usize,
    /// Members of deleted roles who got the new role.
    pub moved: u64,
    /// Daily partitions of the change log dropped.
    pub log_days: u64,
    /// Rows deleted from the change log's default partitions.
    pub log_rows: u64,
}

impl Roster {
    /// Runs one round of bounded size.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn tidy(&self) -> Result<TidyReport, ServiceError> {
        let mut report = TidyReport::default();
        for id in self.organizations_due_for_purge().await? {
            let deadline = Instant::now() + crate::store::limits::STATEMENT;
            let meta = Meta::own(deadline);
            match self.write(None, meta, PurgeIfDue(id)).await {
                Ok(written) => report.purged += u64::from(written.answer),
                // The organization stays for a later round; the others go on.
                Err(ServiceError::Refused(refusal)) => {
                    tracing::warn!(organization = %id, error = %refusal, "an organization cannot be purged");
                }
                Err(error) => return Err(error),
            }
        }
        let mut connection = self.pool.acquire().await?;
        let outcome = delete_expired(&mut connection, &mut report).await;
        connection.finish(outcome)?;
        let mut connection = self.pool.acquire().await?;
        let outcome = fold_names(&mut connection, &mut report).await;
        connection.finish(outcome)?;
        let mut connection = self.pool.acquire().await?;
        let outcome = maintain_log(&mut connection, self.log_retention, &mut report).await;
        connection.finish(outcome)?;
        self.move_members(&mut report).await?;
        // Last, because each of these writes may wait for other writes of its organization.
        self.expire_invitations(&mut report).await?;
        Ok(report)
    }

    /// Records the expiry of invitations, organization by organization.
    async fn expire_invitations(&self, report: &mut TidyReport) -> Result<(), ServiceError> {
        let mut connection = self.pool.acquire().await?;
        let outcome = invitations::with_expired(&mut connection, limits::TIDY_EXPIRED_ORGANIZATIONS).await;
        for id in connection.finish(outcome)? {
            let meta = Meta::own(Instant::now() + crate::store::limits::STATEMENT);
            match self.write(None, meta, ExpireInvitations(id)).await {
                Ok(written) => report.expired += written.answer,
                // The invitations stay for a later round; the other organizations go on.
                Err(ServiceError::Refused(refusal)) => {
                    tracing::warn!(organization = %id, error = %refusal, "expired invitations cannot be recorded");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Moves members of deleted roles to the roles that replace these, a part of each role in turn.
    async fn move_members(&self, report: &mut TidyReport) -> Result<(), ServiceError> {
        let mut connection = self.pool.acquire().await?;
        let outcome = roles_to_move(&mut connection).await;
        let mut open = connection.finish(outcome)?;
        for _ in 0..limits::TIDY_MOVED_PARTS {
            let Some((organization, role)) = open.pop_front() else { break };
            let meta = Meta::own(Instant::now() + crate::store::limits::STATEMENT);
            match self.write(None, meta, MovePart { organization, role: role.clone() }).await {
                Ok(written) => {
                    report.moved += u64::from(written.answer.members);
                    if written.answer.has_more {
                        open.push_back((organization, role));
                    }
                }
                // The members stay for a later round; the other roles go on.
                Err(ServiceError::Refused(refusal)) => {
                    tracing::warn!(%organization, %role, error = %refusal, "members of a deleted role cannot be moved");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn organizations_due_for_purge(&self) -> Result<Vec<OrganizationId>, ServiceError> {
        let mut connection = self.pool.acquire().await?;
        let outcome = organizations::due_for_purge(&mut connection, limits::TIDY_ORGANIZATIONS).await;
        Ok(connection.finish(outcome)?)
    }
}

/// The deleted roles with the organizations whose members still have them. Deletes removed roles of the deployment that no
/// member has any more.
async fn roles_to_move(connection: &mut PgConnection) -> Result<VecDeque<(OrganizationId, RoleName)>, StoreError> {
    let mut open = VecDeque::from(organization_roles::to_move(connection, limits::TIDY_MOVED_ROLES).await?);
    for role in access_model::replaced_roles(connection).await? {
        let organizations = usage::organizations_with(connection, &role.name, None, limits::TIDY_MOVED_ROLES).await?;
        if organizations.is_empty() {
            access_model::delete_replaced_role(connection, &role.name).await?;
        }
        open.extend(organizations.into_iter().map(|organization| (organization, role.name.clone())));
    }
    Ok(open)
}

/// Deletes invitations, stored answers and quota windows that are older than their retention.
async fn delete_expired(connection: &mut PgConnection, report: &mut TidyReport) -> Result<(), StoreError> {
    report.invitations =
        invitations::forget_old(connection, limits::INVITATION_RETENTION, limits::TIDY_INVITATIONS).await?;
    report.forgotten = requests::forget_old(connection, limits::TIDY_REQUESTS).await?;
    report.forgotten += quotas::forget_old(connection, limits::COUNTER_RETENTION, limits::TIDY_REQUESTS).await?;
    Ok(())
}

/// Folds the names of organizations that an older release wrote.
async fn fold_names(connection: &mut PgConnection, report: &mut TidyReport) -> Result<(), StoreError> {
    let most = i64::try_from(limits::TIDY_NAMES).unwrap_or(i64::MAX);
    for bucket in folded_names::stale_buckets(connection, most).await? {
        report.names += folded_names::fold_bucket(connection, bucket, limits::TIDY_NAMES - report.names).await?;
    }
    Ok(())
}

/// Creates the change log's next daily partitions, and drops those that ended before the retention began.
async fn maintain_log(
    connection: &mut PgConnection,
    retention: Duration,
    report: &mut TidyReport,
) -> Result<(), StoreError> {
    // Deleting rows needs no ownership of the tables. A role without ownership creates no partitions, and then the
    // default partitions hold every row.
    for log in PartitionedTable::ALL {
        report.log_rows += partitions::forget(connection, log, retention, limits::TIDY_LOG_ROWS).await?;
    }
    partitions::make_ahead(connection).await?;
    let oldest = partitions::now(connection).await? - retention;
    for log in PartitionedTable::ALL {
        // A day ends where the next one begins.
        for day in partitions::days(connection, log).await?.into_iter().filter(|day| *day < oldest.date()) {
            // A transaction that blocks one drop blocks all of them, and every reader of the log would wait for each
            // further attempt.
            if !partitions::drop(connection, log, day).await? {
                break;
            }
            tracing::info!(partition = log.partition(day), "dropped a partition of the change log");
            report.log_days += 1;
        }
    }
    Ok(())
}
