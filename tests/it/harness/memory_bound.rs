//! The stated bound of the memory of a server, for the tests and the siege. `docs/operations.md` gives the same formula.

/// The most resident memory that a server with the default settings takes, in bytes, whatever its peers do: without the
/// memberships in its replica.
pub const fn memory_bound() -> u64 {
    // The program with empty tables, its caches and its connections to Postgres.
    const BASE: u64 = 128 << 20;
    // What connections, streams and messages may take together.
    const BUDGETS: u64 = 512 << 20;
    BASE + BUDGETS
}
