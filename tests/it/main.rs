//! The tests from outside the crate, in one binary: a file or a folder per subject.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by them")]
#![expect(unreachable_pub, reason = "nothing is reached from outside a test binary")]

mod access;
mod architecture;
mod build_rules;
mod callers;
mod cancel;
mod client;
mod command_line;
mod compatibility;
mod constraints;
mod datastore;
mod django_organizations;
mod documents;
mod etags;
mod events;
mod fast_path;
mod faults;
mod harness;
mod history;
mod identity;
mod input;
mod interop;
mod invitations;
mod known_users;
mod lifecycle;
mod mail;
mod newer;
mod peers;
mod permissions;
mod pipeline;
mod pool;
mod profiles;
mod providers;
mod races;
mod random;
mod reinstatement;
mod replay;
mod replica;
mod retention;
mod roles;
mod scale;
mod search;
mod sql_rules;
mod streams;
mod tls;
mod tokens;
mod upkeep;
mod users;
mod versions;
