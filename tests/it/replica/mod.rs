//! The replica: every answer fulfils the consistency contract, also under faults of the log, the servers and Postgres.

mod change;
mod endpoint;
mod failover;
mod faults;
mod model;
mod oracle;
mod process;
mod questions;
mod roles;
mod schedules;
mod shares;
mod soak;
mod storm;
mod tables;
mod traffic;

use crate::harness::{Database, Server};
use endpoint::Endpoint;
use roster::random;
use roster::replica::ReplicaStatistics;
use roster::service::ReplicaSettings;
use std::sync::Arc;
use std::time::Duration;
use traffic::Workload;

/// Timeout of every expected condition.
const CONDITION_TIMEOUT: Duration = Duration::from_secs(30);

/// Servers of one database with loaded replicas, and the workload with its oracle.
struct Rig {
    database: Database,
    servers: Vec<Server>,
    workload: Arc<Workload>,
}

impl Rig {
    async fn new(database: Database, settings: &[ReplicaSettings], organizations: usize, seed: u64) -> Self {
        let mut servers = Vec::new();
        for settings in settings {
            servers.push(Server::with_replica_over(database.clone(), settings.clone()).await);
        }
        let endpoint = |(server, settings): (&Server, &ReplicaSettings)| Endpoint {
            clients: server.operator(),
            staleness: settings.max_staleness,
            stale: settings.serve_stale,
            deadline: None,
        };
        let endpoints = servers.iter().zip(settings).map(endpoint).collect();
        let rig = Self { database, servers, workload: Workload::new(endpoints, organizations, seed).await };
        rig.caught_up().await;
        rig
    }

    /// Two servers with default settings.
    async fn pair(database: Database) -> Self {
        let settings = ReplicaSettings::default();
        Self::new(database, &[settings.clone(), settings], 12, random::bits()).await
    }

    /// Waits until every server's replica includes every write acknowledged before this call.
    async fn caught_up(&self) {
        for server in &self.servers {
            let caught_up = async {
                server.roster.replica().loaded().await;
                server.roster.replica().caught_up().await;
            };
            let statistics = || server.roster.replica().statistics();
            assert!(
                tokio::time::timeout(CONDITION_TIMEOUT, caught_up).await.is_ok(),
                "the replica did not catch up in time: {:?}",
                statistics()
            );
        }
    }

    fn statistics(&self) -> Vec<ReplicaStatistics> {
        self.servers.iter().map(|server| server.roster.replica().statistics()).collect()
    }

    /// Asserts that every server's replica equals the database and that the database's invariants hold. No write may
    /// run at the same time.
    async fn assert_equal_to_tables(&self) {
        for server in &self.servers {
            let compared = tables::assert_equal(&self.database, server.roster.replica()).await;
            assert_eq!(compared, self.workload.oracle.organizations.len());
        }
        self.database.assert_invariants().await;
        self.database.assert_no_open_transactions().await;
    }
}

/// The number in an environment variable, if it is set.
fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Waits until a condition holds.
pub async fn until(condition: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(CONDITION_TIMEOUT, waiting).await.is_ok(), "timed out waiting until {condition}");
}
