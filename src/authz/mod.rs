//! Authorization: what a caller may do.
//!
//! [`rules`] contains the access rule of each method; [`decide`] decides about a caller in one organization. Both are
//! pure: no SQL, no wire types, no clock. [`crate::authn`] identifies the caller.

pub mod decide;
pub mod rules;
