//! The stated bounds of what peers can make a server hold, for the tests and the siege. `docs/operations.md` gives the
//! same formula.

/// The most that the peers of a server with the default settings add to its resident memory, in bytes, whatever they do.
pub const PEER_BYTES: u64 = 512 << 20;

/// The same for a server with [`REDUCED_SETTINGS`].
pub const REDUCED_PEER_BYTES: u64 = 48 << 20;

/// Settings with small budgets, so that a test reaches them in a moment.
pub const REDUCED_SETTINGS: &str = "";
