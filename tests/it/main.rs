//! Everything that is tested from outside, in one binary: a file per subject.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by them")]
#![expect(unreachable_pub, reason = "nothing is reached from outside a test binary")]

mod build_rules;
mod command_line;
mod harness;
mod house;
mod seed;
mod upkeep;
