//! roster: who belongs to which organization, and what may they do there?
//!
//! This is the map of the house. A call comes in at the top and goes down:
//!
//! * [`server`] takes the connection and puts every request through the same steps, in one order: gate, deadline, load,
//!   authentication, method gate.
//! * [`auth`] says who is calling (credentials → [`auth::Caller`]) and what they may do (a rule and a standing →
//!   [`authz::decide::Access`]). Pure decisions; no SQL and no wire.
//! * [`grpc`] is the wire: [`grpc::admit`] opens a request only for a caller who may make it, then the handlers decode,
//!   call and encode. The one match from refusals to statuses is [`grpc::status`].
//! * [`service`] holds the use cases, one function for each rpc. Every write is a change that
//!   [`service::write`] runs: lock, decide again, change, event, log, commit.
//! * [`mail`] takes letters from the outbox, renders them and hands them to a relay.
//! * [`index`] looks up who stands where: in a copy that it keeps by following the change log, or at the primary.
//! * [`memory`] is that copy as a thing: tables and fingerprints, and how a line of the log changes them. Pure.
//! * [`store`] is the only room with SQL. Free functions over a connection.
//! * [`domain`] has the words: ids, slugs, addresses, roles, permissions, refusals, and every limit. Pure.
//!
//! Beside them: [`world`] is the door through which time and randomness come in, [`postgres`] supervises a private
//! Postgres for development and for the tests, [`config`], [`telemetry`], [`lifecycle`] and [`cli`] make a program of it.
//!
//! What a backend needs to ask roster is in this crate too: [`client`], over [`domain`], [`memory`] and [`pb`] (the messages,
//! and tonic's clients). With the feature `client` alone nothing else is built.
//!
//! Arrows point down only; a test reads the sources and says so.

// Shared by the server and its clients.
pub mod clock;
pub mod domain;
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
pub mod lifecycle;
#[cfg(feature = "server")]
pub mod mail;
#[cfg(feature = "server")]
pub mod postgres;
#[cfg(feature = "server")]
pub mod replica;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod service;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod telemetry;
