//! Everything that is tested from outside, in one binary: a file per subject.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by them")]

mod build_rules;
