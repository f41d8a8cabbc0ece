//! The index: that no answer is outside the contract, whatever happens to the log, to the servers and to Postgres.

mod change;
mod failover;
mod faults;
mod model;
mod oracle;
mod process;
mod schedules;
mod shares;
mod soak;
mod tables;
mod traffic;

use crate::harness::{Database, Server};
use roster::random;
use roster::replica::ReplicaStatistics;
use roster::service::ReplicaSettings;
use std::sync::Arc;
use std::time::Duration;
use traffic::{Pipeline, Scene};

/// How long any condition is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Servers over one database, loaded, and what is known of the organizations there.
struct Rig {
    database: Database,
    servers: Vec<Server>,
    scene: Arc<Scene>,
}

impl Rig {
    async fn new(database: Database, settings: &[ReplicaSettings], places: usize, seed: u64) -> Self {
        let mut servers = Vec::new();
        for settings in settings {
            servers.push(Server::with_replica_over(database.clone(), settings.clone()).await);
        }
        let door = |(server, settings): (&Server, &ReplicaSettings)| Pipeline {
            clients: server.operator(),
            staleness: settings.max_staleness,
            stale: settings.serve_stale,
        };
        let doors = servers.iter().zip(settings).map(door).collect();
        let rig = Self { database, servers, scene: Scene::new(doors, places, seed).await };
        rig.caught_up().await;
        rig
    }

    /// Two servers with the usual settings.
    async fn pair(database: Database) -> Self {
        let usual = ReplicaSettings::default();
        Self::new(database, &[usual.clone(), usual], 12, random::bits()).await
    }

    /// Waits until every server has in memory whatever is acknowledged now.
    async fn caught_up(&self) {
        for server in &self.servers {
            let caught_up = async {
                server.roster.replica().loaded().await;
                server.roster.replica().caught_up().await;
            };
            let told = || server.roster.replica().statistics();
            assert!(tokio::time::timeout(PATIENCE, caught_up).await.is_ok(), "never caught up: {:?}", told());
        }
    }

    fn statistics(&self) -> Vec<ReplicaStatistics> {
        self.servers.iter().map(|server| server.roster.replica().statistics()).collect()
    }

    /// Asserts that every server's memory is what the tables hold, and that these are whole. Nobody may write meanwhile.
    async fn assert_equal_to_tables(&self) {
        for server in &self.servers {
            let compared = tables::assert_equal(&self.database, server.roster.replica()).await;
            assert_eq!(compared, self.scene.oracle.places.len());
        }
        self.database.assert_invariants().await;
        self.database.assert_no_open_transactions().await;
    }
}

/// Waits until a condition holds.
pub async fn until(change: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "it never happened that {change}");
}
