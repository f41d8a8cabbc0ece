//! The attacks. Each is one peer with one address.

mod client;
mod credentials;
mod data;
mod memory;
mod silent;
mod standard;
mod streams;

use crate::questions::Kind;
use crate::tool::print_line;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The server, and what the attacker has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: SocketAddr,
    /// The address from which the attacker connects.
    pub(crate) local: IpAddr,
    /// API keys of two services of the attacker, with the scopes `check` and `manage`.
    pub(crate) check_key: String,
    pub(crate) manage_key: String,
    /// The bearer token of a user, who owns `organization`.
    pub(crate) user_token: String,
    pub(crate) user: String,
    pub(crate) organization: String,
    /// An organization whose first page of members has 3 MiB.
    pub(crate) large: String,
    /// An organization and a member, for checks.
    pub(crate) membership: (String, String),
}

impl Attack {
    /// The kind of honest calls that compete with the attack for the same places, besides checks and writes.
    pub(crate) fn competitor(&self) -> Option<Kind> {
        match self.name {
            "streams" => Some(Kind::Stream),
            "exports" => Some(Kind::Export),
            _ => None,
        }
    }
}

/// What the attacker counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) opened: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) answers: AtomicU64,
    pub(crate) resets: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// An attack by name.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    /// Starts the tasks of the attack.
    start: fn(&Target, &Arc<Tally>),
}

/// Every attack, in the order of the table.
pub(crate) const ATTACKS: &[Attack] = &[
    Attack { name: "idle", description: "no attack: the noise of the machine", start: |_, _| {} },
    Attack {
        name: "slow-bodies",
        description: "1 024 PreviewInvitation calls without a credential, one byte a second",
        start: silent::slow_bodies,
    },
    Attack {
        name: "slow-bodies-key",
        description: "1 024 ListMembers calls with a key, one byte a second",
        start: silent::slow_bodies_with_key,
    },
    Attack {
        name: "slow-headers",
        description: "1 024 PreviewInvitation calls, headers alone",
        start: silent::slow_headers,
    },
    Attack {
        name: "reflection-endless",
        description: "200 reflection streams with a message that never ends",
        start: standard::endless,
    },
    Attack { name: "health-watches", description: "25 500 idle health watches", start: standard::watches },
    Attack {
        name: "reflection-amplify",
        description: "reflection of large files, answers read",
        start: standard::amplify,
    },
    Attack { name: "silent", description: "4 100 silent sockets, reopened", start: silent::sockets },
    Attack { name: "half-preface", description: "4 100 sockets with half a preface", start: silent::half_prefaces },
    Attack {
        name: "open-block",
        description: "4 100 connections with a header block that never ends",
        start: silent::open_blocks,
    },
    Attack {
        name: "continuation-drip",
        description: "1 000 connections, CONTINUATION of one byte a second",
        start: silent::continuation_drip,
    },
    Attack {
        name: "unread-window-0",
        description: "640 ListMembers pages of 3 MiB with a window of 0",
        start: data::unread_0,
    },
    Attack {
        name: "unread-window-1",
        description: "640 ListMembers pages of 3 MiB with a window of 1 byte",
        start: data::unread_1,
    },
    Attack {
        name: "unread-socket",
        description: "640 ListMembers pages of 3 MiB, the socket never read",
        start: data::unread_socket,
    },
    Attack {
        name: "numbers",
        description: "one user lists members whose attributes are 1e308, 24 calls at once",
        start: data::numbers,
    },
    Attack { name: "bombs", description: "1 MiB of empty items, 48 calls at once", start: data::bombs },
    Attack {
        name: "struct-bombs",
        description: "256 KiB of empty values in attributes, 48 calls at once",
        start: data::struct_bombs,
    },
    Attack {
        name: "one-user-writes",
        description: "256 writes at once of one user into one organization",
        start: data::writes,
    },
    Attack { name: "streams", description: "1 024 StreamChecks that are never read", start: streams::checks },
    Attack { name: "exports", description: "exports that are never read", start: streams::exports },
    Attack { name: "bad-signatures", description: "8 400 bad signatures a second", start: credentials::bad_signatures },
    Attack { name: "bad-keys", description: "unknown API keys, as fast as answered", start: credentials::bad_keys },
    Attack {
        name: "metrics",
        description: "2 000 silent connections to the metrics listener, and 32 that scrape",
        start: credentials::metrics,
    },
    Attack {
        name: "memory",
        description: "unfinished bodies, unread answers, streams, exports and header blocks, from seven addresses",
        start: memory::everything,
    },
];

/// Runs an attack until this process is killed. Prints its counts four times a second.
pub(crate) async fn run(name: &str) {
    let target: Target = serde_json::from_str(&std::env::var("ROSTER_SIEGE_TARGET").unwrap()).unwrap();
    let attack = ATTACKS.iter().find(|attack| attack.name == name).unwrap();
    let tally = Arc::new(Tally::default());
    (attack.start)(&target, &tally);
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let Tally { opened, closed, calls, answers, resets, bytes } = &*tally;
        let [opened, closed, calls, answers, resets, bytes] =
            [opened, closed, calls, answers, resets, bytes].map(|count| count.load(Ordering::Relaxed));
        let mebibytes = bytes >> 20;
        print_line(&format!(
            "{opened} connections ({closed} ended), {calls} calls ({answers} ended, {resets} reset), {mebibytes} MiB read"
        ));
    }
}

/// A message in its gRPC frame.
fn framed(message: &impl prost::Message) -> Vec<u8> {
    prefixed(&message.encode_to_vec())
}

fn prefixed(message: &[u8]) -> Vec<u8> {
    [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}
