//! The faults of a storm: of the servers, of the network in front of Postgres, and of Postgres.

use super::Progress;
use crate::harness::cluster::TestCluster;
use crate::harness::program::Serve;
use crate::harness::proxy::Proxy;
use crate::replica::endpoint::Deadline;
use crate::replica::traffic::SeededRandom;
use crate::replica::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roster::postgres::Stop;
use sqlx::{Connection, PgConnection};
use std::sync::Arc;
use std::time::Duration;

/// A server process, and the deadline of its calls.
pub struct StormServer {
    pub serve: Serve,
    pub deadline: Arc<Deadline>,
}

/// Sleeps for a random time in this range, in milliseconds.
async fn pause(random: &mut SeededRandom, shortest: usize, longest: usize) {
    let milliseconds = shortest + random.below(longest - shortest);
    tokio::time::sleep(Duration::from_millis(u64::try_from(milliseconds).unwrap())).await;
}

/// Faults in a random order. No kind is repeated before all others.
struct Deck<T> {
    kinds: Vec<T>,
    left: Vec<T>,
    /// Whether each kind has happened.
    is_repeated: bool,
}

impl<T: Copy> Deck<T> {
    fn new(kinds: Vec<T>) -> Self {
        Self { left: kinds.clone(), kinds, is_repeated: false }
    }

    /// The next fault; `None` if each kind has happened and the storm has reached its goal.
    fn draw(&mut self, random: &mut SeededRandom, progress: &Progress) -> Option<T> {
        if self.left.is_empty() {
            (self.left, self.is_repeated) = (self.kinds.clone(), true);
        }
        let is_over = self.is_repeated && progress.is_goal_reached();
        (!is_over).then(|| self.left.swap_remove(random.below(self.left.len())))
    }
}

/// Kills and suspends the servers until the storm is over.
pub async fn of_servers(servers: &mut [StormServer], mut random: SeededRandom, progress: &Progress) {
    let mut deck = Deck::new((0..servers.len()).flat_map(|index| [(index, false), (index, true)]).collect());
    while let Some((index, suspends)) = deck.draw(&mut random, progress) {
        let StormServer { serve, deadline } = &mut servers[index];
        deadline.begin_interruption();
        if suspends {
            serve.signal(Signal::SIGSTOP);
            pause(&mut random, 200, 2_000).await;
            serve.signal(Signal::SIGCONT);
            progress.count("server suspended");
        } else {
            serve.kill().await;
            pause(&mut random, 0, 500).await;
            serve.start_again().await;
            progress.count("server killed");
        }
        deadline.end_interruption();
        pause(&mut random, 300, progress.calm).await;
    }
}

#[derive(Debug, Clone, Copy)]
enum NetworkFault {
    /// The present connections are silent, and new ones work.
    Swallow,
    /// The present connections and new ones are silent.
    SwallowAll,
    /// New connections are refused, and the present ones end.
    Close,
}

/// Disturbs the network between the servers and Postgres until the storm is over.
pub async fn of_the_network(proxies: &[Proxy], mut random: SeededRandom, progress: &Progress) {
    use NetworkFault::{Close, Swallow, SwallowAll};
    let mut deck = Deck::new(vec![Swallow, Swallow, SwallowAll, Close]);
    while let Some(fault) = deck.draw(&mut random, progress) {
        // The network of one server, or of all.
        let first = random.below(proxies.len() + 1);
        let disturbed = if first == proxies.len() { proxies } else { &proxies[first..=first] };
        let name = match fault {
            Swallow => "connections swallowed",
            SwallowAll => "network silent",
            Close => "connections refused",
        };
        for proxy in disturbed {
            match fault {
                Swallow => proxy.swallow(),
                SwallowAll => proxy.swallow_all(),
                Close => proxy.close(true),
            }
        }
        pause(&mut random, 300, 2_500).await;
        // What piled up arrives late, or is lost.
        let arrives = random.below(2) == 0;
        for proxy in disturbed {
            if matches!(fault, Close) {
                proxy.close(false);
            } else if !arrives {
                proxy.cut();
            }
            proxy.resume();
        }
        progress.count(name);
        pause(&mut random, 300, progress.calm).await;
    }
}

#[derive(Debug, Clone, Copy)]
enum PostgresFault {
    Kill,
    Restart,
    /// One process is killed, and Postgres restarts all others.
    KillBackend,
    Suspend,
    /// Three processes are suspended, with the locks that they have.
    SuspendBackends,
    EndSessions,
}

/// Kills, restarts and suspends Postgres until the storm is over.
pub async fn of_postgres(cluster: &mut TestCluster, mut random: SeededRandom, progress: &Progress) {
    use PostgresFault::{EndSessions, Kill, KillBackend, Restart, Suspend, SuspendBackends};
    let mut deck = Deck::new(vec![Kill, Restart, KillBackend, Suspend, SuspendBackends, EndSessions]);
    while let Some(fault) = deck.draw(&mut random, progress) {
        let name = match fault {
            Kill => {
                cluster.kill().await;
                pause(&mut random, 0, 1_000).await;
                cluster.start_again().await.unwrap();
                "postgres killed"
            }
            Restart => {
                cluster.restart(Stop::Fast).await.unwrap();
                "postgres restarted"
            }
            KillBackend => {
                send(&sessions(cluster).await, 1, Signal::SIGKILL);
                until("Postgres accepts connections", async || connect(cluster).await.is_ok()).await;
                "backend killed"
            }
            Suspend => {
                cluster.pause();
                pause(&mut random, 200, 2_000).await;
                cluster.resume();
                "postgres suspended"
            }
            SuspendBackends => {
                let sessions = sessions(cluster).await;
                send(&sessions, 3, Signal::SIGSTOP);
                pause(&mut random, 200, 2_000).await;
                send(&sessions, 3, Signal::SIGCONT);
                "backends suspended"
            }
            EndSessions => {
                send(&sessions(cluster).await, usize::MAX, Signal::SIGTERM);
                "sessions ended"
            }
        };
        progress.count(name);
        pause(&mut random, 300, progress.calm).await;
    }
}

async fn connect(cluster: &TestCluster) -> Result<PgConnection, sqlx::Error> {
    PgConnection::connect(&cluster.database_url()).await
}

/// The processes of the servers' sessions, those in a transaction first. Waits until there is one.
async fn sessions(cluster: &TestCluster) -> Vec<Pid> {
    const SESSIONS: &str = "SELECT pid FROM pg_stat_activity
        WHERE application_name = 'roster' AND backend_type = 'client backend' ORDER BY xact_start NULLS LAST";
    let mut pids = Vec::new();
    until("there are sessions", async || {
        let Ok(mut connection) = connect(cluster).await else { return false };
        let found: Vec<i32> = sqlx::query_scalar(SESSIONS).fetch_all(&mut connection).await.unwrap_or_default();
        pids = found.into_iter().map(Pid::from_raw).collect();
        !pids.is_empty()
    })
    .await;
    pids
}

/// Sends a signal to the first processes, up to this number. A process may have ended.
fn send(processes: &[Pid], count: usize, signal: Signal) {
    for pid in processes.iter().take(count) {
        let _ = kill(*pid, signal);
    }
}
