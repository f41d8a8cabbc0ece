//! The stated bound of what peers can make a server hold, for the tests and the siege. `docs/operations.md` gives the same
//! formula.

/// The most that this number of connections adds to the resident memory of a server, in bytes, whatever the peers do.
/// `budget` is what the server reserves for messages and answers together, in bytes.
pub const fn peer_bytes(connections: u64, budget: u64) -> u64 {
    // Its task, its buffers, the tables of its headers, and the entries of its streams.
    const CONNECTION: u64 = 64 << 10;
    connections * CONNECTION + budget
}
