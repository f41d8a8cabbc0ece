//! Limits of authentication, each with its unit and its reason.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Maximum size of a credential, in bytes. Tokens of Keycloak reach 16 KiB, with the roles of many clients in them. A
/// token of this size takes 20 µs to hash and 30 µs to read; one that is made to be slow takes ten times as long to read.
pub const CREDENTIAL_BYTES: usize = 24 * 1024;
/// Maximum length of the name of a tenant in an issuer, in bytes. The ids of Entra have 36.
pub const TENANT_BYTES: usize = 64;
/// Maximum difference between the clocks of an issuer and of this machine, in seconds. It extends the validity of each
/// token by the same time. A minute: machines without NTP drift by some seconds a day, and most libraries of providers
/// and backends accept a minute or more.
pub const LEEWAY_SECONDS: i64 = 60;
/// Maximum number of verified tokens in the cache. An entry takes a few hundred bytes; the cache evicts the least used
/// entries first.
pub const CACHED_TOKENS: usize = 10_000;
/// Users whose unusable claims were logged, which are remembered so that each is logged once. An entry takes the length of
/// the id and about 50 bytes.
pub const REPORTED_USERS: usize = 10_000;
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
/// Maximum size of a key file and of a document of an identity provider, in bytes. The largest published JWKS are a tenth
/// of this.
pub const KEY_FILE_BYTES: usize = 256 * 1024;
/// Maximum number of keys of a set that are used. Providers publish fewer than ten; a token compares its key id with each,
/// and a log line names them all.
pub const KEYS_PER_SET: usize = 128;
/// Log lines about keys of one set that cannot be used.
pub const SKIPPED_KEYS_LOGGED: usize = 16;
/// Time between two fetches of the keys of an issuer, in seconds, within which `max-age` of the answer chooses. The upper
/// bound is the time after which a key that the provider has withdrawn is no longer accepted. The lower one bounds the
/// requests to a provider that forbids caching.
pub const KEY_REFRESH_SECONDS: RangeInclusive<u64> = 60..=3600;
/// Time between two fetches after an answer without `max-age`, in seconds.
pub const KEY_REFRESH_DEFAULT_SECONDS: u64 = 600;
/// Time before the next fetch after one that failed, in seconds. It doubles with each failure in a row.
pub const KEY_RETRY_SECONDS: RangeInclusive<u64> = 1..=30;
/// Minimum time between two fetches that unknown key ids cause, in seconds. Any client can invent key ids, so the rate
/// needs a bound. A provider that rotates its keys usually publishes the next key days before it signs with it.
pub const UNKNOWN_KEY_SECONDS: u64 = 60;
/// Age at which keys are no longer used if the provider did not answer since, in seconds. A day, so that an outage of a
/// provider over night stops no caller; a key that was withdrawn in that time may still be accepted until then.
pub const KEYS_LAST_SECONDS: u64 = 24 * 60 * 60;
/// Time limit of a fetch: discovery and key set, connections, redirects and all bytes included.
pub const KEY_FETCH: Duration = Duration::from_secs(5);
/// Redirects that a request to an identity provider follows. All of them lead to the same scheme, host and port.
pub const KEY_REDIRECTS: usize = 3;
/// Time that a call waits for the first keys of an issuer, or for the key with the id of its token. Shorter than the
/// default deadline of a call, so that the caller receives the reason.
pub const KEY_WAIT: Duration = Duration::from_secs(2);
/// Calls that wait for the keys of one issuer at once. Each of them holds a place among the calls of the server.
pub const KEY_WAITERS: usize = 128;
/// Characters of the cause of a failed fetch in the log. A certificate that is not valid for the provider may name thousands
/// of hosts.
pub const KEY_CAUSE_CHARS: usize = 400;
/// Time between two looks at the clock while no fetch is due. The machine may have been suspended since the last one.
pub const KEY_TICK: Duration = Duration::from_secs(1);
/// Size of an RSA modulus, in bits. RFC 7518 §3.3 requires at least 2048. No provider uses more than 4096, and the time of
/// a verification grows with the square of the size.
pub const RSA_BITS: RangeInclusive<usize> = 2048..=4096;
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
