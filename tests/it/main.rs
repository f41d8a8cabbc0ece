//! Everything that is tested from outside, in one binary: a file per subject.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by them")]
#![expect(unreachable_pub, reason = "nothing is reached from outside a test binary")]

mod access;
mod build_rules;
mod cancel;
mod client;
mod command_line;
mod constraints;
mod door;
mod etags;
mod events;
mod faults;
mod harness;
mod house;
mod index;
mod input;
mod invitations;
mod lane;
mod lifecycle;
mod mail;
mod pool;
mod races;
mod random;
mod replay;
mod retention;
mod scale;
mod seed;
mod streams;
mod tokens;
mod upkeep;
