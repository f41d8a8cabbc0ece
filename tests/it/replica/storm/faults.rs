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

/// The next fault of a deck that holds each kind once, in a random order.
fn draw<T: Copy>(random: &mut SeededRandom, deck: &mut Vec<T>) -> Option<T> {
    (!deck.is_empty()).then(|| deck.swap_remove(random.below(deck.len())))
}

/// Kills and suspends the servers until the storm is over.
pub async fn of_servers(servers: &mut [StormServer], mut random: SeededRandom, progress: &Progress) {
    while progress.goes_on() {
        let mut deck: Vec<_> = (0..servers.len()).flat_map(|index| [(index, false), (index, true)]).collect();
        while let Some((index, suspends)) = draw(&mut random, &mut deck) {
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
    while progress.goes_on() {
        let mut deck =
            vec![NetworkFault::Swallow, NetworkFault::Swallow, NetworkFault::SwallowAll, NetworkFault::Close];
        while let Some(fault) = draw(&mut random, &mut deck) {
            // The network of one server, or of all.
            let first = random.below(proxies.len() + 1);
            let disturbed = if first == proxies.len() { proxies } else { &proxies[first..=first] };
            let name = match fault {
                NetworkFault::Swallow => "connections swallowed",
                NetworkFault::SwallowAll => "network silent",
                NetworkFault::Close => "connections refused",
            };
            for proxy in disturbed {
                match fault {
                    NetworkFault::Swallow => proxy.swallow(),
                    NetworkFault::SwallowAll => proxy.swallow_all(),
                    NetworkFault::Close => proxy.close(true),
                }
            }
            pause(&mut random, 300, 2_500).await;
            // What piled up arrives late, or is lost.
            let arrives = random.below(2) == 0;
            for proxy in disturbed {
                if matches!(fault, NetworkFault::Close) {
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
    while progress.goes_on() {
        let mut deck = vec![Kill, Restart, KillBackend, Suspend, SuspendBackends, EndSessions];
        while let Some(fault) = draw(&mut random, &mut deck) {
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
