//! Who is calling, and what may they do.

pub mod caller;
pub mod decide;
pub mod rules;

pub use caller::{Actor, Caller, OperatorCaller, Profile, ServiceCaller, UserCaller, UserClaims};
