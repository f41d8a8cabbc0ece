//! The headers of a request that concern authentication.

use super::caller::{Caller, UserCaller};
use super::credential_error::{CredentialError, ON_BEHALF_OF};
use super::limits;
use crate::domain::{Scope, UserId};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use std::sync::Arc;

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

/// Returns the user whom the header `roster-on-behalf-of` names, or the caller itself without that header.
pub(super) fn apply_on_behalf_of(caller: Arc<Caller>, headers: &HeaderMap) -> Result<Arc<Caller>, CredentialError> {
    let mut values = headers.get_all(ON_BEHALF_OF).iter();
    let Some(value) = values.next() else { return Ok(caller) };
    let via = match &*caller {
        Caller::Anonymous => return Err(CredentialError::OnBehalfOfWithoutCredential),
        Caller::Service(service) if service.has(Scope::ActAs) => service.identity.clone(),
        Caller::Operator(identity) => identity.clone(),
        Caller::User(_) | Caller::Service(_) => return Err(CredentialError::OnBehalfOfNotAllowed),
    };
    let id = value.to_str().ok().and_then(|text| UserId::parse_new(text).ok());
    match (id, values.next()) {
        (Some(id), None) => Ok(Arc::new(Caller::User(UserCaller { id, via: Some(via), claims: None }))),
        _ => Err(CredentialError::InvalidOnBehalfOf),
    }
}
