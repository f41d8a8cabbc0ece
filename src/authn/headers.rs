//! The headers of a request that concern authentication.

use super::caller::{Caller, UserCaller};
use super::credential_error::{CredentialError, ON_BEHALF_OF, ON_BEHALF_OF_BIN};
use super::limits;
use crate::domain::{Scope, UserId};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use std::sync::Arc;

/// The encoding of binary headers in gRPC, which has the padding or leaves it out.
const BINARY_HEADER: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Returns the only `authorization` header, if the request has one.
pub(super) fn authorization_header(headers: &HeaderMap) -> Result<Option<&HeaderValue>, CredentialError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next();
    if values.next().is_some() { Err(CredentialError::DuplicateHeader) } else { Ok(value) }
}

/// Returns the credential in `authorization: Bearer …`.
pub(super) fn bearer(value: &HeaderValue) -> Result<&str, CredentialError> {
    let (scheme, text) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(CredentialError::NotBearer)?;
    let text = text.trim_start_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || text.is_empty() {
        return Err(CredentialError::NotBearer);
    }
    if text.len() > limits::CREDENTIAL_BYTES {
        return Err(CredentialError::TooLong);
    }
    Ok(text)
}

/// Returns the user whom the header `roster-on-behalf-of` or `roster-on-behalf-of-bin` names, or the caller itself without
/// these headers.
pub(super) fn apply_on_behalf_of(caller: Arc<Caller>, headers: &HeaderMap) -> Result<Arc<Caller>, CredentialError> {
    if !headers.contains_key(ON_BEHALF_OF) && !headers.contains_key(ON_BEHALF_OF_BIN) {
        return Ok(caller);
    }
    let via = match &*caller {
        Caller::Anonymous => return Err(CredentialError::OnBehalfOfWithoutCredential),
        Caller::Service(service) if service.has(Scope::ActAs) => service.identity.clone(),
        Caller::Operator(identity) => identity.clone(),
        Caller::User(_) | Caller::Service(_) => return Err(CredentialError::OnBehalfOfNotAllowed),
    };
    let id = represented_user(headers)?;
    Ok(Arc::new(Caller::User(UserCaller { id, via: Some(via), claims: None })))
}

/// Reads the user for whom the caller acts.
fn represented_user(headers: &HeaderMap) -> Result<UserId, CredentialError> {
    let is_binary = headers.contains_key(ON_BEHALF_OF_BIN);
    if is_binary && headers.contains_key(ON_BEHALF_OF) {
        return Err(CredentialError::OnBehalfOfTwice);
    }
    let (name, error) = if is_binary {
        (ON_BEHALF_OF_BIN, CredentialError::InvalidOnBehalfOfBin)
    } else {
        (ON_BEHALF_OF, CredentialError::InvalidOnBehalfOf)
    };
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(error) };
    let text = if is_binary {
        // Several values in one header are separated by commas, which are not base64.
        BINARY_HEADER.decode(value).ok().and_then(|bytes| String::from_utf8(bytes).ok())
    } else {
        value.to_str().ok().map(str::to_owned)
    };
    text.and_then(|text| UserId::parse_new(&text).ok()).ok_or(error)
}

#[cfg(test)]
mod tests;
