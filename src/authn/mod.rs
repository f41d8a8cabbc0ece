//! Authentication: identifies the caller of a request.
//!
//! [`Authenticator`] takes the credential from the request headers and returns a [`Caller`]. It verifies an API key
//! with [`api_keys`], a client certificate with [`client_certificates`], and a bearer token with `jwt`, using the `keys` of
//! the token's issuer. The `token_rules` of the issuer say which `claims` hold what; `presets` know the providers, and
//! `profile_claims` are the claims about the profile of the user. The `verifier` computes signatures on separate threads,
//! and [`PeerShare`] bounds what one address can make it compute. Each rejected credential has one `credential_error` reason.
//! The log contains the reason; the caller receives only a general refusal, so that it cannot probe the checks. [`mint`] creates tokens for `roster dev`, `roster token` and the tests.

mod accepted;
pub mod api_keys;
pub mod authenticator;
pub mod caller;
mod claims;
pub mod client_certificates;
mod credential_error;
mod headers;
mod jwt;
mod keys;
pub mod limits;
pub mod mint;
mod peer_share;
mod presets;
pub mod profile_claims;
mod profile_sources;
mod retirement;
pub mod secret;
mod service_mark;
pub mod settings;
mod stream_credential;
mod tenant;
mod token_cache;
mod token_rules;
mod verifier;

#[cfg(test)]
mod bad_tokens;
#[cfg(test)]
mod provider_tokens;
#[cfg(test)]
mod testing;

pub use accepted::CredentialChanges;
pub use authenticator::Authenticator;
pub use caller::{Actor, Caller, CallerKey, Namespace, ServiceCaller, ServiceIdentity, UserCaller, UserClaims};
pub use client_certificates::{CertificateName, ClientCertificate};
pub use keys::KeyStatistics;
pub use peer_share::PeerShare;
pub use profile_claims::{IgnoredClaim, ProfileClaims};
pub use profile_sources::ProfileSources;
pub use secret::Secret;
pub use settings::AuthSettings;
pub use stream_credential::StreamCredential;
pub use token_cache::RecentCredentials;
pub use token_rules::unmarked_issuers;
