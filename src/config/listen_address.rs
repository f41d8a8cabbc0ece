//! An address to listen on.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The forms of an address, for messages and documents.
pub const FORM: &str = "an address or a host name, and a port, as 127.0.0.1:50051, localhost:50051, [::1]:50051, or \
                        :50051 for every address of the machine";

/// The longest path of a unix socket, in bytes. The operating systems set it: 108 on Linux and 104 on others, with a 0.
const SOCKET_PATH_BYTES: usize = 103;

/// An address and a port of this machine, or a unix socket. A host name stands for the first of its addresses, IPv4 before IPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    host: ListenHost,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ListenHost {
    /// Every address of the machine.
    Every,
    Ip(IpAddr),
    Name(String),
    UnixSocket(PathBuf),
}

impl ListenAddress {
    /// The port; 0 for one that the system chooses, and for a unix socket.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host name that has to be looked up; `None` if the address has none.
    #[must_use]
    pub fn host_name(&self) -> Option<&str> {
        match &self.host {
            ListenHost::Name(name) => Some(name),
            ListenHost::Every | ListenHost::Ip(_) | ListenHost::UnixSocket(_) => None,
        }
    }

    /// The path of the unix socket; `None` if the address is another one.
    #[must_use]
    pub fn unix_socket(&self) -> Option<&Path> {
        match &self.host {
            ListenHost::UnixSocket(path) => Some(path),
            ListenHost::Every | ListenHost::Ip(_) | ListenHost::Name(_) => None,
        }
    }

    /// Returns whether only this machine reaches the address, as far as the text says it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match &self.host {
            ListenHost::Every => false,
            ListenHost::Ip(address) => address.to_canonical().is_loopback(),
            ListenHost::Name(name) => {
                let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
                name == "localhost" || name.ends_with(".localhost")
            }
            ListenHost::UnixSocket(_) => true,
        }
    }

    /// The addresses to try in this order. `found` are those of the host name, if there is one.
    #[must_use]
    pub fn candidates(&self, found: Vec<SocketAddr>) -> Vec<SocketAddr> {
        match &self.host {
            // The IPv6 address takes IPv4 connections as well. A machine without IPv6 has the other one only.
            ListenHost::Every => [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)]
                .map(|address| SocketAddr::new(address, self.port))
                .to_vec(),
            ListenHost::Ip(address) => vec![SocketAddr::new(*address, self.port)],
            ListenHost::UnixSocket(_) => Vec::new(),
            ListenHost::Name(_) => {
                let mut found = found;
                found.sort_by_key(SocketAddr::is_ipv6);
                found
            }
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self { host: ListenHost::Ip(address.ip()), port: address.port() }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            ListenHost::Every => write!(f, ":{}", self.port),
            ListenHost::Ip(address) => SocketAddr::new(*address, self.port).fmt(f),
            ListenHost::Name(name) => write!(f, "{name}:{}", self.port),
            ListenHost::UnixSocket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A text that is no address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write {FORM}")]
pub struct InvalidAddress;

impl FromStr for ListenAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(address.into());
        }
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///path` is the form of URLs in gRPC.
            let path = path.strip_prefix("//").unwrap_or(path);
            let is_socket = path.starts_with('/') && !path.ends_with('/') && !path.contains('\0');
            let host = ListenHost::UnixSocket(path.into());
            return if is_socket && path.len() <= SOCKET_PATH_BYTES {
                Ok(Self { host, port: 0 })
            } else {
                Err(InvalidAddress)
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAddress)?;
        // `from_str` also accepts a sign.
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| is_number).ok_or(InvalidAddress)?;
        let host = if host.is_empty() {
            ListenHost::Every
        } else if is_host_name(host) {
            ListenHost::Name(host.to_owned())
        } else {
            return Err(InvalidAddress);
        };
        Ok(Self { host, port })
    }
}

/// Whether the text is a host name: labels of letters, digits, hyphens and underscores. A last label of digits alone is
/// a mistyped address.
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_with_a_port_are_accepted() {
        for (text, name) in [
            ("127.0.0.1:50051", None),
            ("0.0.0.0:0", None),
            ("[::1]:1", None),
            ("[::]:50051", None),
            (":50051", None),
            ("localhost:50051", Some("localhost")),
            ("roster-0.roster.default.svc:50051", Some("roster-0.roster.default.svc")),
            ("db_1:65535", Some("db_1")),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.host_name()), (text, name));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "localhost",
            "50051",
            "127.0.0.1",
            "[::1]",
            "::1",
            "::1:50051",
            "localhost:",
            "localhost:+1",
            "localhost:65536",
            "localhost:grpc",
            "http://localhost:50051",
            "127.0.0.1:50051/",
            "256.0.0.1:50051",
            "127.0.0.1.2:1",
            "a..b:1",
            "a b:1",
            "*:50051",
            "unix:",
            "unix:/",
            "unix:roster.sock",
            "unix://roster.sock",
            "unix:/run/roster/",
            &format!("unix:/{}", "a".repeat(SOCKET_PATH_BYTES)),
        ] {
            assert_eq!(text.parse::<ListenAddress>(), Err(InvalidAddress), "{text:?}");
        }
    }

    #[test]
    fn ipv4_comes_before_ipv6() {
        let candidates = |text: &str, found: &[&str]| -> Vec<String> {
            let found = found.iter().map(|address| address.parse().unwrap()).collect();
            text.parse::<ListenAddress>().unwrap().candidates(found).iter().map(SocketAddr::to_string).collect()
        };
        assert_eq!(candidates("localhost:1", &["[::1]:1", "127.0.0.1:1"]), ["127.0.0.1:1", "[::1]:1"]);
        assert_eq!(candidates(":1", &[]), ["[::]:1", "0.0.0.0:1"]);
        assert_eq!(candidates("[::1]:1", &[]), ["[::1]:1"]);
    }
}
