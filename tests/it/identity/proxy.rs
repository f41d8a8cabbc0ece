//! The proxy variables of the environment, which apply to a whole process.

use super::issuer_keys::IssuerKey;
use super::provider::{KEYS, Provider};
use super::tls::PrivateCa;
use crate::harness::program::{free_port, roster};
use crate::replica::until;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;

/// An HTTP proxy that connects every client to one place. It keeps the first line of each request.
struct Proxy {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let seen = seen.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(client.read_u8().await?);
                    }
                    let head = String::from_utf8(head).unwrap();
                    seen.lock().unwrap().push(head.lines().next().unwrap_or_default().to_owned());
                    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?;
                    copy_bidirectional(&mut client, &mut TcpStream::connect(target).await?).await
                });
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Starts the program with one issuer and this proxy, without a database. Returns the address of its metrics.
fn serve(directory: &tempfile::TempDir, issuer: &str, proxy: &Proxy) -> (Child, String) {
    let metrics = format!("127.0.0.1:{}", free_port());
    let path = directory.path().join("roster.toml");
    let text = format!(
        "listen = '127.0.0.1:{}'\nmetrics_listen = '{metrics}'\ndatabase_url = 'postgres://127.0.0.1:1/absent'\n\
         [[issuers]]\n{issuer}\naudience = 'roster'\n[mail]\nkind = 'off'\n",
        free_port()
    );
    std::fs::write(&path, text).unwrap();
    let mut command = roster(&["serve", "--config", path.to_str().unwrap()]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"] {
        command.env(name, format!("http://{}", proxy.address));
    }
    (command.stdout(Stdio::null()).spawn().unwrap(), metrics)
}

/// Waits until the program has fetched the keys.
async fn until_fetched(metrics: &str) {
    let has_keys = async || {
        let Ok(mut stream) = TcpStream::connect(metrics).await else { return false };
        let mut text = String::new();
        let request = b"GET /metrics HTTP/1.1\r\nhost: metrics\r\nconnection: close\r\n\r\n";
        if stream.write_all(request).await.is_err() || stream.read_to_string(&mut text).await.is_err() {
            return false;
        }
        text.lines().any(|line| line.starts_with("roster_issuer_keys_age_seconds{") && !line.ends_with(" -1"))
    };
    until("the keys are fetched", has_keys).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_fetched_through_the_proxy_of_the_environment() {
    let (key, ca, directory) = (IssuerKey::ed25519(), PrivateCa::new(), tempfile::tempdir().unwrap());
    let provider = Provider::start_tls(&[&key], ca.server("id.example", false)).await;
    let proxy = Proxy::start(provider.address).await;
    let issuer = format!(
        "issuer = 'https://id.example'\njwks_url = 'https://id.example{KEYS}'\nca_file = '{}'",
        ca.file().display()
    );
    let (_process, metrics) = serve(&directory, &issuer, &proxy);
    until_fetched(&metrics).await;
    assert_eq!(proxy.requests(), ["CONNECT id.example:443 HTTP/1.1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_proxy_is_asked_for_a_provider_on_this_machine() {
    let (key, directory) = (IssuerKey::ed25519(), tempfile::tempdir().unwrap());
    let provider = Provider::start(&[&key]).await;
    let proxy = Proxy::start(provider.address).await;
    let (_process, metrics) = serve(&directory, &format!("issuer = '{}'", provider.issuer()), &proxy);
    until_fetched(&metrics).await;
    assert!(proxy.requests().is_empty(), "{:?}", proxy.requests());
}
