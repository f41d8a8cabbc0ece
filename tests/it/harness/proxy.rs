//! A TCP proxy in front of a server or a Postgres that can cut, stall, refuse and redirect connections.

use super::Database;
use super::cluster::TestCluster;
use sqlx::postgres::PgConnectOptions;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The address of the server behind a proxy.
#[derive(Debug, Clone)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<&TestCluster> for Target {
    fn from(cluster: &TestCluster) -> Self {
        Self::Unix(cluster.socket())
    }
}

impl From<&Database> for Target {
    fn from(database: &Database) -> Self {
        let options = PgConnectOptions::from_str(&database.url).unwrap();
        Self::Unix(options.get_socket().unwrap().join(format!(".s.PGSQL.{}", options.get_port())))
    }
}

/// The behaviour of the proxy.
#[derive(Debug, Clone)]
struct State {
    target: Target,
    /// Whether new connections are refused.
    closed: bool,
    /// The numbers of the stalled connections.
    stalled: Range<usize>,
    /// The number of connections since the start.
    accepted: usize,
}

/// A TCP proxy between client and server. It numbers its connections from 0. A stalled connection stays open on both
/// sides and no data passes, as in a network that drops every packet: the end of one side does not reach the other.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    state: watch::Sender<State>,
    /// Closes every present connection.
    cut: Arc<Mutex<CancellationToken>>,
    end: CancellationToken,
    /// Each connection holds one reference.
    open: Arc<()>,
}

impl Proxy {
    /// Starts a proxy to this address.
    pub async fn to(target: impl Into<Target>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { target: target.into(), closed: false, stalled: 0..0, accepted: 0 };
        let (state, _) = watch::channel(state);
        let (cut, end) = (Arc::new(Mutex::new(CancellationToken::new())), CancellationToken::new());
        let open = Arc::new(());
        let acceptor = accept(listener, state.clone(), cut.clone(), open.clone());
        tokio::spawn(end.clone().run_until_cancelled_owned(acceptor));
        Self { address, state, cut, end, open }
    }

    /// Starts a proxy in front of a database, and returns the database with the proxy's address in its URL. The test's
    /// own connections do not pass the proxy.
    pub async fn before(database: &Database) -> (Self, Database) {
        let proxy = Self::to(database).await;
        let options = PgConnectOptions::from_str(&database.url).unwrap();
        let url = format!("postgres://postgres@{}/{}", proxy.address, options.get_database().unwrap());
        (proxy, Database { url, ..database.clone() })
    }

    /// The URL of a private Postgres through the proxy, for its superuser.
    pub fn url(&self) -> String {
        format!("postgres://postgres@{}/roster", self.address)
    }

    /// The number of open connections.
    pub fn connections(&self) -> usize {
        // The proxy itself holds two references.
        Arc::strong_count(&self.open) - 2
    }

    /// The number of connections since the start.
    pub fn accepted(&self) -> usize {
        self.state.borrow().accepted
    }

    /// Closes every present connection; new ones are accepted.
    pub fn cut(&self) {
        std::mem::take(&mut *self.cut.lock().unwrap()).cancel();
    }

    /// Closes every present connection, and refuses new ones (`true`) or accepts them (`false`).
    pub fn close(&self, closed: bool) {
        self.state.send_modify(|state| state.closed = closed);
        self.cut();
    }

    /// Stalls connections from this number on, present and new ones.
    pub fn stall_from(&self, number: usize) {
        self.state.send_modify(|state| state.stalled = number..usize::MAX);
    }

    /// Stalls the present connections; new ones are forwarded.
    pub fn swallow(&self) {
        self.state.send_modify(|state| state.stalled = 0..state.accepted);
    }

    /// Stalls the first connections since the start, up to this number; others are forwarded.
    pub fn swallow_first(&self, count: usize) {
        self.state.send_modify(|state| state.stalled = 0..count.min(state.accepted));
    }

    /// Stalls the present connections and new ones, which are accepted.
    pub fn swallow_all(&self) {
        self.stall_from(0);
    }

    /// Ends the stall; the data that has piled up passes first.
    pub fn resume(&self) {
        self.state.send_modify(|state| state.stalled = 0..0);
    }

    /// Sends new connections to another address.
    pub fn redirect(&self, target: impl Into<Target>) {
        self.state.send_modify(|state| state.target = target.into());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end.cancel();
        self.cut();
    }
}

async fn accept(listener: TcpListener, state: watch::Sender<State>, cut: Arc<Mutex<CancellationToken>>, open: Arc<()>) {
    for number in 0.. {
        let (client, _) = listener.accept().await.unwrap();
        state.send_modify(|state| state.accepted = number + 1);
        let cut = cut.lock().unwrap().clone();
        let state = state.subscribe();
        if !state.borrow().closed {
            let open = open.clone();
            tokio::spawn(cut.run_until_cancelled_owned(async move {
                connection(client, state, number).await;
                drop(open);
            }));
        }
    }
}

async fn connection(client: TcpStream, state: watch::Receiver<State>, number: usize) {
    let target = state.borrow().target.clone();
    client.set_nodelay(true).unwrap();
    match target {
        Target::Tcp(address) => {
            let Ok(server) = TcpStream::connect(address).await else { return };
            server.set_nodelay(true).unwrap();
            forward(client, server, state, number).await;
        }
        Target::Unix(path) => {
            let Ok(server) = UnixStream::connect(path).await else { return };
            forward(client, server, state, number).await;
        }
    }
}

async fn forward(
    client: TcpStream,
    server: impl AsyncRead + AsyncWrite + Send,
    state: watch::Receiver<State>,
    number: usize,
) {
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), tokio::io::split(server));
    let upstream = pump(from_client, to_server, state.clone(), number);
    let downstream = pump(from_server, to_client, state.clone(), number);
    tokio::select! {
        () = upstream => {}
        () = downstream => {}
    }
}

/// Forwards one direction until its end. The end of a stalled connection is data too: it does not pass.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
    number: usize,
) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut bytes).await.unwrap_or(0);
        if state.wait_for(|state| !state.stalled.contains(&number)).await.is_err() || count == 0 {
            return;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
