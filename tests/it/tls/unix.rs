//! Unix sockets: `listen = "unix:/path"`.

use crate::harness::Database;
use crate::harness::program::{self, PATIENCE, roster, until};
use crate::harness::server::{Clients, Credential};
use crate::replica;
use crate::tls::open_watch;
use nix::sys::signal::Signal;
use roster::server::listener::{UnixSocket, UnixSocketError};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::process::Child;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;

/// A program with a settings file whose socket is in the same directory.
struct Rig {
    directory: TempDir,
    key: String,
    _database: Database,
}

impl Rig {
    async fn new(settings: &str) -> Self {
        let database = Database::new().await;
        let directory = tempfile::tempdir().unwrap();
        let (_, key, stanza) = program::output(&["api-key", "--name", "ops", "--scopes", "operator,check"]).await;
        let stanza = &stanza[stanza.find("[[api_keys]]").unwrap()..];
        let socket = directory.path().join("roster.sock");
        let text = format!(
            "listen = 'unix:{}'\ndatabase_url = '{}'\n{settings}\n{stanza}\n[mail]\nkind = 'off'\n",
            socket.display(),
            database.url
        );
        std::fs::write(directory.path().join("roster.toml"), text).unwrap();
        Self { directory, key: key.trim_end().to_owned(), _database: database }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("roster.sock")
    }

    fn spawn(&self) -> Child {
        let config = self.directory.path().join("roster.toml");
        let mut serve = roster(&["serve", "--config", config.to_str().unwrap()]);
        serve.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn channel(&self) -> Channel {
        channel(&self.socket())
    }
}

fn channel(path: &Path) -> Channel {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    });
    Endpoint::from_static("http://roster.test").connect_with_connector_lazy(connector)
}

#[tokio::test]
async fn a_unix_socket_is_served_and_removed_and_a_stale_one_is_replaced() {
    let rig = Rig::new("max_connections = 8\nmax_connections_per_address = 1").await;
    for _ in 0..2 {
        let mut process = rig.spawn();
        until(&rig.channel(), ServingStatus::Serving).await;
        // No limit for each address applies.
        let mut clients: Vec<_> = (0..4)
            .map(|_| Clients::new(&rig.channel(), Credential { token: Some(rig.key.clone()), on_behalf_of: None }))
            .collect();
        for (number, clients) in clients.iter_mut().enumerate() {
            clients.create(&format!("Acme {number}")).await;
        }
        // A second server does not take the socket.
        let second = tokio::time::timeout(PATIENCE, rig.spawn().wait_with_output()).await.unwrap().unwrap();
        let message = String::from_utf8(second.stderr).unwrap();
        assert!(message.contains("is served by another process"), "{message}");
        assert!(clients[0].users.get_caller(roster::grpc::pb::GetCallerRequest::default()).await.is_ok());
        // Killed, so that the file stays.
        process.kill().await.unwrap();
        assert!(std::fs::symlink_metadata(rig.socket()).unwrap().file_type().is_socket());
    }
    let mut process = rig.spawn();
    until(&rig.channel(), ServingStatus::Serving).await;
    program::send(&process, Signal::SIGTERM);
    let status = tokio::time::timeout(PATIENCE, process.wait()).await.unwrap().unwrap();
    assert!(status.success() && !rig.socket().exists());
}

#[tokio::test]
async fn only_a_socket_that_no_process_serves_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("roster.sock");
    // One of another program, without a lock.
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(matches!(UnixSocket::bind(&path), Err(UnixSocketError::InUse(_))));
    drop(other);
    let socket = UnixSocket::bind(&path).unwrap();
    assert!(matches!(UnixSocket::bind(&path), Err(UnixSocketError::InUse(_))));
    // The file of another process that has taken its place stays.
    std::fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(socket);
    assert!(path.exists());
    drop(other);
    drop(UnixSocket::bind(&path).unwrap());
    assert!(!path.exists());
    for text in ["", "precious"] {
        std::fs::write(&path, text).unwrap();
        assert!(matches!(UnixSocket::bind(&path), Err(UnixSocketError::OtherFile(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(directory.path().join("elsewhere"), &path).unwrap();
    assert!(matches!(UnixSocket::bind(&path), Err(UnixSocketError::OtherFile(_))));
    assert!(matches!(UnixSocket::bind(&directory.path().join("none/roster.sock")), Err(UnixSocketError::Io { .. })));
}

#[tokio::test]
async fn the_umask_sets_the_permissions_and_a_proxy_header_may_come_first() {
    let rig = Rig::new("proxy_protocol = true\nmax_connections_per_address = 2").await;
    let _process = rig.spawn();
    replica::until("the socket is there", async || rig.socket().exists()).await;
    let mode = std::fs::metadata(rig.socket()).unwrap().permissions().mode() & 0o777;
    let umask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    nix::sys::stat::umask(umask);
    assert_eq!(mode, 0o777 & !umask.bits());
    let connect = async |header: &'static str| {
        let mut stream = UnixStream::connect(rig.socket()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, header.as_bytes()).await.unwrap();
        open_watch(stream).await
    };
    let first = "PROXY TCP4 192.0.2.7 192.0.2.1 40000 50051\r\n";
    let held = [connect(first).await, connect(first).await];
    assert!(held.iter().all(Option::is_some));
    assert!(connect(first).await.is_none(), "the address in the header does not count");
    assert!(connect("PROXY TCP4 192.0.2.8 192.0.2.1 40000 50051\r\n").await.is_some());
    assert!(connect("").await.is_none(), "a connection without a header was served");
}
