//! HTTP/2 connections, on the library `h2`.
//!
//! hyper, which stands between tonic and `h2` elsewhere, has no limit of time for the start of a connection, does not
//! end connections that have not started when the server stops, and hands a whole response to the library as soon as the
//! peer has room for one byte of it. Here every wait on a peer has a limit, and a response is handed over as the peer
//! takes it, so that roster knows, and bounds, what waits for each peer. The services behind it are tonic's.
//!
//! - [`guarded_io`]: limits the time in which the peer neither ends a frame nor reads.
//! - [`connection`]: accepts calls, pings silent peers, and ends the connection.
//! - [`call`]: one call; the fast path answers it at once, or it runs in a task.
//! - [`respond`]: sends a response as the peer takes it.
//! - [`without_tls`]: answers calls in plaintext on a port with TLS.

mod call;
mod connection;
mod frames;
mod guarded_io;
mod respond;
mod response_bytes;
mod without_tls;

pub(super) use connection::serve;
pub(super) use without_tls::refuse_calls;
