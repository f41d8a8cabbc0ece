//! Why a credential is refused.

use crate::domain::Refusal;

/// The header by which a service acts for a user.
pub(super) const ON_BEHALF_OF: &str = "roster-on-behalf-of";

/// The reason, for the log. It carries nothing that came with the request (and no parser's message, which might quote
/// it): neither tokens nor what they say of a person belong in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum CredentialError {
    #[error("more than one authorization header")]
    Repeated,
    #[error("the authorization header is not ASCII, not of the scheme Bearer, or empty")]
    NotBearer,
    #[error("the credential is too long")]
    TooLong,
    #[error("no such API key")]
    UnknownApiKey,
    #[error("not a JWT: three parts of base64url, the first two of them JSON objects")]
    NotAToken,
    #[error("the token's header lacks alg, or has alg or kid twice or of the wrong type")]
    Header,
    #[error("the token demands an extension (crit)")]
    Critical,
    #[error("the token's alg is none of RS256, ES256, EdDSA and HS256")]
    UnknownAlgorithm,
    #[error("a claim that roster reads is missing (iss, aud, sub, exp), of the wrong type, or there twice")]
    Claims,
    #[error("no such issuer is configured")]
    UnknownIssuer,
    #[error("the issuer has no key of this id and algorithm, or the token names none of several")]
    UnknownKey,
    #[error("the token's alg is not its key's")]
    WrongAlgorithm,
    #[error("the signature is wrong")]
    Signature,
    #[error("the token is for another audience")]
    Audience,
    #[error("the subject cannot be a user's id")]
    Subject,
    #[error("the token is not valid yet (nbf)")]
    NotYetValid,
    #[error("the token was issued in the future (iat)")]
    IssuedInFuture,
    #[error("the token has expired")]
    Expired,
    #[error("the token has a scope beginning with roster: that there is not")]
    UnknownScope,
    #[error("the token has a scope that its issuer may not grant")]
    ScopeNotGranted,
    #[error("{ON_BEHALF_OF} without a credential")]
    OnBehalfOfByNobody,
    #[error("{ON_BEHALF_OF} from a caller without the scope act-as")]
    OnBehalfOfNotAllowed,
    #[error("{ON_BEHALF_OF} is there twice or is not a user's id")]
    OnBehalfOfWhom,
}

impl CredentialError {
    /// What the caller hears. Of a bad credential no more than that it is bad, save that it has run out: only a good
    /// signature comes so far.
    pub(super) fn refusal(self) -> Refusal {
        match self {
            Self::Repeated
            | Self::NotBearer
            | Self::TooLong
            | Self::UnknownApiKey
            | Self::NotAToken
            | Self::Header
            | Self::Critical
            | Self::UnknownAlgorithm
            | Self::Claims
            | Self::UnknownIssuer
            | Self::UnknownKey
            | Self::WrongAlgorithm
            | Self::Signature
            | Self::Audience
            | Self::Subject
            | Self::NotYetValid
            | Self::IssuedInFuture
            | Self::UnknownScope
            | Self::ScopeNotGranted => Refusal::CredentialInvalid,
            Self::Expired => Refusal::CredentialExpired,
            Self::OnBehalfOfByNobody => Refusal::CredentialMissing,
            Self::OnBehalfOfNotAllowed => Refusal::OnBehalfOfNotAllowed,
            Self::OnBehalfOfWhom => {
                Refusal::field(ON_BEHALF_OF, "one user's id is needed: 1 to 255 bytes of printable ASCII")
            }
        }
    }
}
