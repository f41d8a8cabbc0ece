//! Who is calling, and what may they do.
//!
//! From headers to [`Caller`]: [`Authenticator`] takes the credential out of the headers and asks [`api_keys`] or, for
//! a token, `jwt`, which checks it with the `keys` of its issuer. Every way to be refused is one `fault`, told to the
//! log; the caller hears less. [`mint`] is the other side, for `roster dev` and for tests.

pub mod api_keys;
pub mod authenticator;
pub mod caller;
mod credential_error;
mod jwt;
mod key_files;
mod keys;
pub mod limits;
pub mod mint;
pub mod secret;
pub mod settings;
mod stream_credential;

#[cfg(test)]
mod bad_tokens;
#[cfg(test)]
mod testing;

pub use authenticator::{Authenticator, CachedCaller, LastCredential};
pub use caller::{Actor, Caller, OperatorCaller, Profile, ServiceCaller, UserCaller, UserClaims};
pub use secret::Secret;
pub use settings::AuthSettings;
pub use stream_credential::StreamCredential;
