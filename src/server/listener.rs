//! The listener of the gRPC services: a TCP port or a unix socket.

use super::peer_socket::AcceptedSocket;
use super::peers::PeerAddress;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, UnixListener};

/// What a server accepts connections from.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixSocket),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl Listener {
    /// Returns the address on which clients connect, for messages. A unix socket is `unix:` with its path.
    ///
    /// # Errors
    /// If the operating system does not say it.
    pub fn address(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(|address| address.to_string()),
            Self::Unix(socket) => Ok(format!("unix:{}", socket.path.display())),
        }
    }

    /// Accepts a connection.
    pub(super) async fn accept(&self) -> io::Result<(AcceptedSocket, PeerAddress)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((AcceptedSocket::Tcp(stream.into_std()?), address.ip().into()))
            }
            Self::Unix(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                Ok((AcceptedSocket::Unix(stream.into_std()?), PeerAddress::Unix))
            }
        }
    }
}

/// The reason why a server cannot listen on a unix socket.
#[derive(Debug, thiserror::Error)]
pub enum UnixSocketError {
    /// Another process serves the socket.
    #[error("{} is served by another process: stop it, or choose another path", .0.display())]
    InUse(PathBuf),
    /// The path names a file of another kind, which is not removed.
    #[error("{} exists and is no socket: remove it, or choose another path", .0.display())]
    OtherFile(PathBuf),
    /// The operating system refused.
    #[error("cannot listen on the unix socket {}", path.display())]
    Io {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// A listening unix socket. Dropping it removes its file.
///
/// A lock on the file `<path>.lock` keeps a second server from replacing the socket of a first one that is just starting.
/// The lock file stays, because a removed one could be locked twice.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket file.
    identity: (u64, u64),
    _lock: File,
}

impl UnixSocket {
    /// Listens on this path. It removes a socket file that a former process left.
    ///
    /// The file has the permissions that the umask of the process leaves: clients need the right to write it.
    ///
    /// # Errors
    /// See [`UnixSocketError`].
    pub fn bind(path: &Path) -> Result<Self, UnixSocketError> {
        let failed = |source| UnixSocketError::Io { path: path.to_owned(), source };
        let lock = lock(path)?;
        remove_stale(path)?;
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(UnixSocketError::InUse(path.to_owned()));
            }
            bound => bound.map_err(failed)?,
        };
        let identity = identity(path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), identity, _lock: lock })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // Another file may have taken its place.
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn lock(path: &Path) -> Result<File, UnixSocketError> {
    let failed = |source| UnixSocketError::Io { path: path.to_owned(), source };
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    // Only this user may open it: another one could hold the lock.
    let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(name).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(UnixSocketError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Removes a socket file that no process serves.
fn remove_stale(path: &Path) -> Result<(), UnixSocketError> {
    let failed = |source| UnixSocketError::Io { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(UnixSocketError::OtherFile(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(failed),
        // Another program than roster may serve it.
        Ok(_) => Err(UnixSocketError::InUse(path.to_owned())),
        Err(error) => Err(failed(error)),
    }
}
