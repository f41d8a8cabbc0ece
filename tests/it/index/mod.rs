//! The index: that no answer is outside the contract, whatever happens to the log, to the servers and to Postgres.

mod change;
mod faults;
mod model;
mod oracle;
mod schedules;
mod soak;
mod tables;
mod traffic;
