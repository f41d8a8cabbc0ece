//! A TCP proxy in front of a server that can cut, stall, refuse and redirect connections.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The behaviour of the proxy.
#[derive(Debug, Clone)]
struct State {
    /// The address of the server.
    target: SocketAddr,
    /// Whether new connections are refused.
    closed: bool,
    /// Connections from this number on are stalled.
    stalled_from: usize,
}

/// A TCP proxy between client and server.
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
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, _) = watch::channel(State { target, closed: false, stalled_from: usize::MAX });
        let (cut, end) = (Arc::new(Mutex::new(CancellationToken::new())), CancellationToken::new());
        let open = Arc::new(());
        let acceptor = accept(listener, state.clone(), cut.clone(), open.clone());
        tokio::spawn(end.clone().run_until_cancelled_owned(acceptor));
        Self { address, state, cut, end, open }
    }

    /// The number of open connections.
    pub fn connections(&self) -> usize {
        // The proxy itself holds two references.
        Arc::strong_count(&self.open) - 2
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

    /// Stalls connections from this number on (counted from 0 since the start): they stay open and new ones are
    /// accepted, but no data passes.
    pub fn stall_from(&self, number: usize) {
        self.state.send_modify(|state| state.stalled_from = number);
    }

    /// Ends the stall; the data that has piled up passes first.
    pub fn resume(&self) {
        self.stall_from(usize::MAX);
    }

    /// Sends new connections to another address.
    pub fn redirect(&self, target: SocketAddr) {
        self.state.send_modify(|state| state.target = target);
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
    let target = state.borrow().target;
    let Ok(server) = TcpStream::connect(target).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let upstream = pump(from_client, to_server, state.clone(), number);
    let downstream = pump(from_server, to_client, state, number);
    tokio::select! {
        () = upstream => {}
        () = downstream => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>, number: usize) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if state.wait_for(|state| number < state.stalled_from).await.is_err() {
            return;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
