//! A hot standby of a private Postgres: with paused replay, behind its primary, or promoted.

use super::cluster::{CLUSTER_TIMEOUT, TestCluster};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// A hot standby. It streams from its primary and replays at once, until a test stops one of both.
///
/// A standby promoted without the last commits: [`Standby::stop_receiving`], writes on the primary,
/// [`TestCluster::kill`] of the primary, [`Standby::promote`].
#[derive(Debug)]
pub struct Standby(TestCluster);

impl Deref for Standby {
    type Target = TestCluster;

    fn deref(&self) -> &TestCluster {
        &self.0
    }
}

impl DerefMut for Standby {
    fn deref_mut(&mut self) -> &mut TestCluster {
        &mut self.0
    }
}

impl Standby {
    /// Starts a standby of this primary, and waits until it has replayed the primary's log.
    pub async fn of(primary: &TestCluster) -> Self {
        let standby = Self(primary.base_backup(&["--write-recovery-conf"]).await);
        assert!(standby.is_in_recovery().await);
        standby.until("SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')").await;
        standby.catch_up(primary).await;
        standby
    }

    pub async fn is_in_recovery(&self) -> bool {
        self.value("SELECT pg_is_in_recovery()").await
    }

    /// Waits until the standby has replayed what the primary has written before this call.
    pub async fn catch_up(&self, primary: &TestCluster) {
        let written: String = primary.value("SELECT pg_current_wal_flush_lsn()::text").await;
        let mut connection = self.connect().await;
        let replayed = async {
            let query = "SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn";
            while !sqlx::query_scalar::<_, bool>(query).bind(&written).fetch_one(&mut connection).await.unwrap() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(CLUSTER_TIMEOUT, replayed).await.is_ok(), "the standby did not catch up");
    }

    /// Pauses the replay: the standby receives the primary's writes, and its sessions do not see them.
    pub async fn pause_replay(&self) {
        self.execute("SELECT pg_wal_replay_pause()").await;
        self.until("SELECT pg_get_wal_replay_pause_state() = 'paused'").await;
    }

    /// Resumes the replay.
    pub async fn resume_replay(&self) {
        self.execute("SELECT pg_wal_replay_resume()").await;
    }

    /// Ends the streaming: the standby lacks every later write of the primary, also after its promotion.
    pub async fn stop_receiving(&self) {
        self.alter_system("primary_conninfo", "''").await;
        self.until("SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)").await;
    }

    /// Promotes the standby to a primary, and waits until it accepts writes. It first replays what it has received.
    pub async fn promote(&self) {
        assert!(self.value::<bool>("SELECT pg_promote()").await, "the standby was not promoted in time");
        self.until("SELECT NOT pg_is_in_recovery()").await;
    }
}
