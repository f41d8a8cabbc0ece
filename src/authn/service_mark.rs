//! Marks of services: what the tokens of services have in their claims, and those of people do not.

use super::claims::{ClaimValue, Claims};
use super::credential_error::CredentialError;

/// A mark of the tokens of services. A token with one of the marks of its issuer never identifies a user.
pub(super) enum ServiceMark {
    /// The token has the claim.
    Present(String),
    /// The token does not have the claim.
    Absent(String),
    /// The token has neither of the claims.
    NoneOf([String; 2]),
    /// The token has the first claim and not the second one.
    Without(String, String),
    /// The claim has this value, or is a list with it.
    Equals(String, String),
    /// The claim begins with this text.
    StartsWith(String, String),
    /// The claim ends with this text, in any case of its letters.
    EndsWith(String, String),
    /// The token has the claim, which does not end with this text.
    EndsOtherwise(String, String),
    /// The token has both claims, with the same value.
    Same(String, String),
}

impl ServiceMark {
    /// Reads the setting `service_claim`: the name of a claim, or `claim=value`; `None` if it is neither.
    pub(super) fn parse(setting: &str) -> Option<Self> {
        let (claim, value) = setting.split_once('=').map_or((setting, None), |(claim, value)| (claim, Some(value)));
        let is_blank = |text: &str| text.is_empty() || text.contains(char::is_whitespace);
        if is_blank(claim) || value.is_some_and(str::is_empty) {
            return None;
        }
        Some(match value {
            None => Self::Present(claim.to_owned()),
            Some(value) => Self::Equals(claim.to_owned(), value.to_owned()),
        })
    }

    /// Returns the names of the claims that it looks at.
    pub(super) fn claims(&self) -> Vec<&String> {
        match self {
            Self::Present(claim)
            | Self::Absent(claim)
            | Self::Equals(claim, _)
            | Self::StartsWith(claim, _)
            | Self::EndsWith(claim, _)
            | Self::EndsOtherwise(claim, _) => vec![claim],
            Self::NoneOf([first, second]) | Self::Without(first, second) | Self::Same(first, second) => {
                vec![first, second]
            }
        }
    }

    /// Returns whether a token has this mark.
    ///
    /// # Errors
    /// [`CredentialError::InvalidClaims`] if the claim has a type that says nothing. Such a token could be a service's.
    pub(super) fn is_on(&self, claims: &Claims) -> Result<bool, CredentialError> {
        let has = |claim: &str| match claims.find(claim)? {
            Some(ClaimValue::Null) => Err(CredentialError::InvalidClaims),
            found => Ok(found.is_some()),
        };
        let text = |claim: &String| claims.text(std::slice::from_ref(claim));
        Ok(match self {
            Self::Present(claim) => has(claim)?,
            Self::Absent(claim) => !has(claim)?,
            Self::NoneOf([first, second]) => !has(first)? && !has(second)?,
            Self::Without(first, second) => has(first)? && !has(second)?,
            Self::Equals(claim, value) => match claims.find(claim)? {
                None => false,
                Some(ClaimValue::Bool(found)) => found.to_string() == *value,
                Some(found) => found.as_texts().ok_or(CredentialError::InvalidClaims)?.iter().any(|text| text == value),
            },
            Self::StartsWith(claim, start) => text(claim)?.is_some_and(|found| found.starts_with(start)),
            Self::EndsWith(claim, end) => text(claim)?.is_some_and(|found| found.to_ascii_lowercase().ends_with(end)),
            Self::EndsOtherwise(claim, end) => text(claim)?.is_some_and(|found| !found.ends_with(end)),
            Self::Same(first, second) => match (text(first)?, text(second)?) {
                (Some(first), Some(second)) => first == second,
                _ => false,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_on(mark: &ServiceMark, json: &str) -> Result<bool, CredentialError> {
        let names: Vec<String> = mark.claims().into_iter().cloned().collect();
        mark.is_on(&Claims::parse(json.as_bytes(), &names)?)
    }

    #[test]
    fn a_mark_of_the_settings_is_a_claim_or_its_value() {
        for wrong in ["", "=", "=x", "claim=", "a claim", " "] {
            assert!(ServiceMark::parse(wrong).is_none(), "{wrong:?}");
        }
        for (setting, json, expected) in [
            ("machine", "{}", Ok(false)),
            ("machine", r#"{"machine":"x"}"#, Ok(true)),
            // The setting is for `machine=true`; a token that has the claim at all is refused rather than a user.
            ("machine", r#"{"machine":false}"#, Ok(true)),
            ("machine", r#"{"machine":null}"#, Err(CredentialError::InvalidClaims)),
            ("machine", r#"{"machine":1,"machine":1}"#, Err(CredentialError::InvalidClaims)),
            ("machine=true", r#"{"machine":true}"#, Ok(true)),
            ("machine=true", r#"{"machine":"true"}"#, Ok(true)),
            ("machine=true", r#"{"machine":false}"#, Ok(false)),
            ("machine=true", r#"{"machine":1}"#, Err(CredentialError::InvalidClaims)),
            ("machine=true", r#"{"machine":{}}"#, Err(CredentialError::InvalidClaims)),
            ("gty=client_credentials", r#"{"gty":["refresh_token","client_credentials"]}"#, Ok(true)),
            ("gty=client_credentials", r#"{"gty":["refresh_token",7]}"#, Err(CredentialError::InvalidClaims)),
            ("gty=a=b", r#"{"gty":"a=b"}"#, Ok(true)),
            ("account.kind=service", r#"{"account":{"kind":"service"}}"#, Ok(true)),
            ("account.kind=service", r#"{"account":{}}"#, Ok(false)),
            ("account.kind=service", r#"{"account":"service"}"#, Err(CredentialError::InvalidClaims)),
        ] {
            assert_eq!(is_on(&ServiceMark::parse(setting).unwrap(), json), expected, "{setting} {json}");
        }
    }
}
