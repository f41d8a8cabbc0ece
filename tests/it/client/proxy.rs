//! A way to the server that can be cut, stalled, closed, and led elsewhere.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How the way is.
#[derive(Debug, Clone)]
struct State {
    /// Where it leads.
    target: SocketAddr,
    /// Whether nobody gets in.
    closed: bool,
    /// Connections from this number on get nothing through.
    stalled_from: usize,
}

/// The way.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    state: watch::Sender<State>,
    /// Ends every connection that is there now.
    cut: Arc<Mutex<CancellationToken>>,
    end: CancellationToken,
    /// Held once by each connection.
    open: Arc<()>,
}

impl Proxy {
    /// A way to there.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, _) = watch::channel(State { target, closed: false, stalled_from: usize::MAX });
        let (cut, end) = (Arc::new(Mutex::new(CancellationToken::new())), CancellationToken::new());
        let open = Arc::new(());
        let accepting = accept(listener, state.clone(), cut.clone(), open.clone());
        tokio::spawn(end.clone().run_until_cancelled_owned(accepting));
        Self { address, state, cut, end, open }
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        // Two are held by the way itself.
        Arc::strong_count(&self.open) - 2
    }

    /// Cuts every connection; new ones get through.
    pub fn cut(&self) {
        std::mem::take(&mut *self.cut.lock().unwrap()).cancel();
    }

    /// Cuts every connection, and lets no new one through, or lets them through again.
    pub fn close(&self, closed: bool) {
        self.state.send_modify(|state| state.closed = closed);
        self.cut();
    }

    /// Lets nothing through any more on connections from this number on (counted from 0 since the beginning), though they
    /// stay open, and new ones are let in.
    pub fn stall_from(&self, number: usize) {
        self.state.send_modify(|state| state.stalled_from = number);
    }

    /// Lets everything through again, what has piled up first.
    pub fn go_on(&self) {
        self.stall_from(usize::MAX);
    }

    /// Leads elsewhere from now on.
    pub fn lead_to(&self, target: SocketAddr) {
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
    let there = pump(from_client, to_server, state.clone(), number);
    let back = pump(from_server, to_client, state, number);
    tokio::select! {
        () = there => {}
        () = back => {}
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
