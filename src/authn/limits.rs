//! Limits of authentication, each with its unit and its reason.

use std::time::Duration;

/// Maximum size of a credential, in bytes. Tokens of Keycloak reach 16 KiB, with the roles of many clients in them. A
/// token of this size takes 20 µs to hash and 30 µs to read; one that is made to be slow takes ten times as long to read.
pub const CREDENTIAL_BYTES: usize = 24 * 1024;
/// Maximum length of the name of a tenant in an issuer, in bytes. The ids of Entra have 36.
pub const TENANT_BYTES: usize = 64;
/// Maximum difference between the clocks of an issuer and of this machine, in seconds. It extends the validity of each
/// token by the same time.
pub const LEEWAY_SECONDS: i64 = 30;
/// Maximum number of verified tokens in the cache. An entry takes a few hundred bytes; the cache evicts the least used
/// entries first.
pub const CACHED_TOKENS: usize = 10_000;
/// Credentials that a connection remembers: more tokens of common size than fit into its HPACK table.
pub const RECENT_CREDENTIALS: usize = 8;
/// The size of the HPACK table of a connection, in bytes: the default of HTTP/2.
pub const HPACK_TABLE_BYTES: usize = 4096;
/// Minimum time between two reloads of a JWKS file that unknown key ids cause, in seconds. Any client can invent key
/// ids, so the rate needs a bound.
pub const JWKS_RELOAD_SECONDS: u64 = 10;
/// Age at which a JWKS file is reloaded even if no token has an unknown key id, in seconds. A key that was removed from
/// the file stops working within this time.
pub const JWKS_MAX_AGE_SECONDS: u64 = 60;
/// Maximum size of a key file, in bytes. The largest published JWKS are a tenth of this.
pub const KEY_FILE_BYTES: u64 = 256 * 1024;
/// Size of an RSA modulus, in bits. RFC 7518 §3.3 requires at least 2048; the library verifies at most 4096.
pub const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// Minimum size of an HS256 secret, in bytes (RFC 7518 §3.2).
pub const HS256_SECRET_MIN_BYTES: usize = 32;
/// Verifications of signatures at once for one peer address. Two, so that one that waits for a thread does not hold up the
/// next; a verification is pure computation, and more at once only take the cores from others.
pub const PEER_VERIFICATIONS: usize = 2;
/// Calls of one peer address that wait for a verification. A connection may have this number of calls open, and each may
/// carry another token: a web server that has just started, for example. They wait for about 10 ms.
pub const PEER_WAITING: usize = 256;
/// Calls of all peers that wait for a verification. Each limited address has at most [`PEER_VERIFICATIONS`] among them, so
/// the others are calls through trusted proxies.
pub const WAITING: usize = 1024;
/// Refused tokens of one peer address in a row. Many users behind one address (NAT) may have expired tokens at the same
/// time, as after an outage.
pub const REFUSAL_BURST: u32 = 500;
/// Time in which an address may have one more token refused: 100 a second, which take half a percent of a core, and a few
/// percent if each has the largest size and the worst claims.
pub const REFUSAL_REFILL: Duration = Duration::from_millis(10);
