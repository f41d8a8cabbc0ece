//! Who is calling, and what may they do.
//!
//! From headers to [`Caller`]: [`Authenticator`] takes the credential out of the headers and asks [`api_keys`] or, for
//! a token, `jwt`, which checks it with the `keys` of its issuer. Every way to be refused is one `fault`, told to the
//! log; the caller hears less. [`mint`] is the other side, for `roster dev` and for tests.

pub mod api_keys;
pub mod authenticator;
pub mod caller;
pub mod decide;
mod fault;
mod jwt;
mod key_files;
mod keys;
mod lasting;
pub mod limits;
pub mod mint;
pub mod rules;
pub mod secret;
pub mod settings;

#[cfg(test)]
mod bad_tokens;
#[cfg(test)]
mod testing;

pub use authenticator::{Authenticator, Recalled, Shown};
pub use caller::{Actor, Caller, OperatorCaller, Profile, ServiceCaller, UserCaller, UserClaims};
pub use lasting::Lasting;
pub use secret::Secret;
pub use settings::AuthSettings;
