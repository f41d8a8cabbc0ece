//! The addresses of peers.

use std::net::{IpAddr, Ipv4Addr};

/// What counts as one peer address: an IPv4 address, or the /64 of an IPv6 address, which one site controls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum PeerKey {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl PeerKey {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}
