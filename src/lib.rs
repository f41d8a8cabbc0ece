//! roster, a membership service: which users belong to which organization, and what may they do there?
//!
//! A module uses only modules further down in this list. An architecture test reads the sources and enforces this.
//! `docs/ARCHITECTURE.md` walks through one request of each kind and gives the reasons for the design.
//!
//! * [`cli`] implements the commands of the program, [`config`] reads its settings.
//! * [`server`] accepts connections and runs every request through one pipeline: gate, deadline, load limits,
//!   authentication, method gate. Checks take the fast path if they can.
//! * [`grpc`] contains the gRPC layer. [`grpc::admit`] opens a request only for a caller that may send it; then the
//!   handlers decode, call the service and encode. [`grpc::status`] maps every refusal to a status, in one `match`.
//! * [`mail`] takes messages from the outbox, renders them and delivers them to a relay.
//! * [`service`] contains the use cases, one function per rpc. Every write is a change that [`service::write`]
//!   executes: lock, authorize again, change, event, change log, commit.
//! * [`replica`] looks up standings, either in a replica of all memberships in memory, which it updates from the change
//!   log, or at the primary.
//! * [`store`] contains all SQL, as free functions that take a connection.
//! * [`replica_tables`] contains the tables and fingerprints of the replica, and applies entries of the change log to
//!   them. Pure: no await, no SQL, no clock.
//! * [`authz`] decides what a caller may do: from a rule and a standing to an [`authz::decide::Access`]. Pure as well.
//! * [`authn`] identifies the caller: from a credential to an [`authn::Caller`].
//! * [`domain`] defines the types of the domain (ids, slugs, email addresses, roles, permissions, refusals) and the
//!   limits of their values. Pure as well.
//!
//! [`clock`] and [`random`] are the only sources of time and randomness. [`limited_log`] bounds the log lines that a peer
//! causes, and [`leaky_bucket`] is a budget that refills. [`reset_causes`] keeps what the HTTP/2 library reports about
//! requests that it resets. [`postgres`] runs a private Postgres for development and for the tests. [`telemetry`] and
//! [`lifecycle`] set up logging and shutdown signals for [`cli`]. [`error_causes`] prints an error with its causes.
//!
//! [`client`] is the library for backends that send checks. It uses only [`domain`], [`replica_tables`], [`clock`],
//! [`random`], [`error_causes`] and [`pb`] (the generated messages and clients). With only the feature `client`, no other
//! module is compiled.

// Shared by the server and its clients.
pub mod clock;
pub mod domain;
pub mod error_causes;
pub mod pb;
pub mod random;
pub mod replica_tables;

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "server")]
pub mod authn;
#[cfg(feature = "server")]
pub mod authz;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod grpc;
#[cfg(feature = "server")]
pub mod leaky_bucket;
#[cfg(feature = "server")]
pub mod lifecycle;
#[cfg(feature = "server")]
pub mod limited_log;
#[cfg(feature = "server")]
pub mod mail;
#[cfg(feature = "server")]
pub mod postgres;
#[cfg(feature = "server")]
pub mod replica;
#[cfg(feature = "server")]
pub mod reset_causes;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod service;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod telemetry;
