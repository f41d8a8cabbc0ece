//! An identity provider: its discovery document and its key set over HTTP or HTTPS, and every way in which it can fail.

use super::issuer_keys::IssuerKey;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

pub const DISCOVERY: &str = "/.well-known/openid-configuration";
pub const KEYS: &str = "/keys";

/// How the provider answers a request.
#[derive(Clone)]
pub enum Behaviour {
    /// As it should.
    Answer,
    /// It reads the request and never answers.
    Silent,
    /// It answers with one byte every 100 ms, and never ends.
    Drip,
    /// It answers, and sends a body without an end.
    Endless,
    /// It closes the connection.
    Close,
    /// It answers with these bytes.
    Bytes(String),
    /// It answers with this document, whatever the path.
    Document(String),
    /// It redirects each path to another place.
    Redirect(String),
    /// It redirects this number of times within itself, and then answers.
    Hops(usize),
}

pub struct Provider {
    pub address: SocketAddr,
    scheme: &'static str,
    state: Arc<Mutex<State>>,
    tls: Option<TlsAcceptor>,
    task: Option<AbortHandle>,
}

struct State {
    keys: Vec<Value>,
    behaviour: Behaviour,
    /// The `issuer` of the discovery document, if it is not the right one.
    issuer: Option<String>,
    cache_control: Option<String>,
    /// The path of each request.
    requests: Vec<String>,
    connections: usize,
}

impl Provider {
    /// Starts a provider with these keys.
    pub async fn start(keys: &[&IssuerKey]) -> Self {
        Self::start_with(keys, None).await
    }

    /// Starts a provider with these keys, over TLS.
    pub async fn start_tls(keys: &[&IssuerKey], tls: TlsAcceptor) -> Self {
        Self::start_with(keys, Some(tls)).await
    }

    async fn start_with(keys: &[&IssuerKey], tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = State {
            keys: keys.iter().map(|key| key.public()).collect(),
            behaviour: Behaviour::Answer,
            issuer: None,
            cache_control: None,
            requests: Vec::new(),
            connections: 0,
        };
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut provider = Self { address, scheme, state: Arc::new(Mutex::new(state)), tls, task: None };
        provider.serve(listener);
        provider
    }

    pub fn issuer(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Closes the listener and every connection.
    pub fn go_down(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// Listens again, at the same address.
    pub async fn come_back(&mut self) {
        self.go_down();
        let listener = loop {
            // The task of the listener before may not have ended yet.
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        self.serve(listener);
    }

    /// Publishes these keys in place of the ones before.
    pub fn publish(&self, keys: &[&IssuerKey]) {
        self.publish_all(keys.iter().map(|key| key.public()).collect());
    }

    pub fn publish_all(&self, keys: Vec<Value>) {
        self.state().keys = keys;
    }

    pub fn behave(&self, behaviour: Behaviour) {
        self.state().behaviour = behaviour;
    }

    pub fn claim_issuer(&self, issuer: &str) {
        self.state().issuer = Some(issuer.to_owned());
    }

    pub fn cache_control(&self, value: &str) {
        self.state().cache_control = Some(value.to_owned());
    }

    /// The number of requests for this path so far.
    pub fn requests(&self, path: &str) -> usize {
        self.state().requests.iter().filter(|request| request.starts_with(path)).count()
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn serve(&mut self, listener: TcpListener) {
        let (state, tls, issuer) = (self.state.clone(), self.tls.clone(), self.issuer());
        let accept = async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                state.lock().unwrap().connections += 1;
                let (state, tls, issuer) = (state.clone(), tls.clone(), issuer.clone());
                connections.spawn(async move {
                    match tls {
                        None => answer(stream, &state, &issuer).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => answer(stream, &state, &issuer).await,
                            Err(_) => Ok(()),
                        },
                    }
                });
            }
        };
        self.task = Some(tokio::spawn(accept).abort_handle());
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.go_down();
    }
}

/// Answers one request.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    state: &Mutex<State>,
    issuer: &str,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let request = String::from_utf8(request).unwrap();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let (behaviour, document, cache_control) = {
        let mut state = state.lock().unwrap();
        state.requests.push(path.clone());
        (state.behaviour.clone(), document(&state, &path, issuer), state.cache_control.clone())
    };
    let cache_control = cache_control.map(|value| format!("cache-control: {value}\r\n")).unwrap_or_default();
    let ok = |body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n{cache_control}\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let redirect = |place: &str| format!("HTTP/1.1 302 Found\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n");
    let text = match behaviour {
        Behaviour::Answer => ok(&document),
        Behaviour::Bytes(bytes) => bytes,
        Behaviour::Document(document) => ok(&document),
        Behaviour::Redirect(place) => redirect(&place),
        Behaviour::Hops(hops) => {
            let hop = path.split_once("?hop=").map_or(0, |(_, hop)| hop.parse::<usize>().unwrap());
            let path = path.split('?').next().unwrap_or_default();
            if hop == hops { ok(&document) } else { redirect(&format!("{path}?hop={}", hop + 1)) }
        }
        Behaviour::Close => return Ok(()),
        Behaviour::Silent => return std::future::pending().await,
        Behaviour::Drip => {
            for byte in ok(&document).into_bytes().into_iter().chain(std::iter::repeat(b' ')) {
                stream.write_u8(byte).await?;
                stream.flush().await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            return Ok(());
        }
        Behaviour::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await?;
            loop {
                stream.write_all(&[b' '; 1024]).await?;
            }
        }
    };
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

/// The document at this path.
fn document(state: &State, path: &str, issuer: &str) -> String {
    if path.starts_with(DISCOVERY) {
        let named = state.issuer.as_deref().unwrap_or(issuer);
        json!({"issuer": named, "jwks_uri": format!("{issuer}{KEYS}"), "other": [1]}).to_string()
    } else {
        json!({ "keys": state.keys }).to_string()
    }
}
