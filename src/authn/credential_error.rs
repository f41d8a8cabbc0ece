//! Reasons for which authentication rejects a credential.

use crate::domain::Refusal;

/// The metadata header that names the user for whom a service acts.
pub(super) const ON_BEHALF_OF: &str = "roster-on-behalf-of";
/// The same for an id that is not ASCII: as in each header with this ending, the value is base64.
pub(super) const ON_BEHALF_OF_BIN: &str = "roster-on-behalf-of-bin";

/// The reason of a rejection, for the log. It contains no data from the request, and no parser message either, because
/// a parser message can quote the request: tokens and personal data do not belong in a log. It is also the kind of the log
/// line: see [`LimitedLog`](crate::limited_log::LimitedLog).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(super) enum CredentialError {
    #[error("more than one authorization header")]
    DuplicateHeader,
    #[error("the authorization header is not ASCII, does not use the scheme Bearer, or is empty")]
    NotBearer,
    #[error("the credential is longer than {} bytes", super::limits::CREDENTIAL_BYTES)]
    TooLong,
    #[error("unknown API key")]
    UnknownApiKey,
    #[error("not a JWT: expected three parts of base64url, the first two of them JSON objects")]
    MalformedToken,
    #[error("the token header lacks alg, or contains alg or kid twice or with the wrong type")]
    InvalidHeader,
    #[error("the token requires an extension (crit)")]
    CriticalExtension,
    #[error("the token's alg is none of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA and HS256")]
    UnsupportedAlgorithm,
    #[error(
        "a required claim (iss, exp, the audience, the user id) is missing, or a claim has the wrong type or is \
             repeated"
    )]
    InvalidClaims,
    #[error("the token's issuer is not configured")]
    UnknownIssuer,
    #[error("the issuer has no key with this id and algorithm, or several keys match a token without a key id")]
    UnknownKey,
    #[error("the keys of the issuer could not be fetched from its identity provider")]
    KeysUnavailable,
    #[error("the token's alg differs from the algorithm of its key")]
    AlgorithmMismatch,
    #[error("the signature is invalid")]
    InvalidSignature,
    #[error("the token is for another audience")]
    WrongAudience,
    #[error("the subject is not a valid user id")]
    InvalidSubject,
    #[error("the user id begins with the longer user_id_prefix of another issuer")]
    ForeignUser,
    #[error("the token is not valid yet (nbf)")]
    NotYetValid,
    #[error("the token was issued in the future (iat)")]
    IssuedInFuture,
    #[error("the token has expired")]
    Expired,
    #[error("the client certificate of the connection has expired")]
    CertificateExpired,
    #[error("the token has an unknown scope with the prefix of roster")]
    UnknownScope,
    #[error("the token has a scope that its issuer may not grant")]
    ScopeNotGranted,
    #[error("the token is a service's and has no roster scope: grant it one at the provider, and list it in scopes")]
    ServiceWithoutScope,
    #[error("a fault in roster: the verification of the signature panicked")]
    VerificationPanic,
    #[error("the address had too many tokens refused: for some seconds, only tokens in the cache are accepted from it")]
    TooManyRefusals,
    #[error("too many tokens wait for their verification, of this address or of all")]
    VerificationsBusy,
    #[error("{ON_BEHALF_OF} without a credential")]
    OnBehalfOfWithoutCredential,
    #[error("{ON_BEHALF_OF} from a caller without the scope act-as")]
    OnBehalfOfNotAllowed,
    #[error("{ON_BEHALF_OF} occurs twice or is not a valid user id")]
    InvalidOnBehalfOf,
    #[error("{ON_BEHALF_OF_BIN} occurs twice or is not a valid user id in base64")]
    InvalidOnBehalfOfBin,
    #[error("{ON_BEHALF_OF} and {ON_BEHALF_OF_BIN} in one call")]
    OnBehalfOfTwice,
}

impl CredentialError {
    /// Returns whether the token was refused for what it is, which counts against the budget of its peer.
    pub(super) fn is_charged(self) -> bool {
        !matches!(self, Self::TooManyRefusals | Self::VerificationsBusy | Self::KeysUnavailable)
    }

    /// The refusal that the caller receives. It hides the reason, except for a token that has expired or is a service's
    /// without a scope: these are checked last, so only a token with a valid signature reaches them. The size of a
    /// credential says nothing about the checks. A client certificate was verified before, too.
    pub(super) fn to_refusal(self) -> Refusal {
        match self {
            Self::DuplicateHeader
            | Self::NotBearer
            | Self::UnknownApiKey
            | Self::MalformedToken
            | Self::InvalidHeader
            | Self::CriticalExtension
            | Self::UnsupportedAlgorithm
            | Self::InvalidClaims
            | Self::UnknownIssuer
            | Self::UnknownKey
            | Self::AlgorithmMismatch
            | Self::InvalidSignature
            | Self::WrongAudience
            | Self::InvalidSubject
            | Self::ForeignUser
            | Self::NotYetValid
            | Self::IssuedInFuture
            | Self::UnknownScope
            | Self::ScopeNotGranted
            | Self::VerificationPanic => Refusal::CredentialInvalid,
            Self::TooManyRefusals | Self::VerificationsBusy => Refusal::Overloaded,
            Self::KeysUnavailable => Refusal::KeysUnavailable,
            Self::TooLong => Refusal::CredentialTooLarge { limit_bytes: super::limits::CREDENTIAL_BYTES },
            Self::ServiceWithoutScope => Refusal::ServiceWithoutScope,
            Self::Expired | Self::CertificateExpired => Refusal::CredentialExpired,
            Self::OnBehalfOfWithoutCredential => Refusal::CredentialMissing,
            Self::OnBehalfOfNotAllowed => Refusal::OnBehalfOfNotAllowed,
            Self::InvalidOnBehalfOf => Refusal::field(
                ON_BEHALF_OF,
                format!(
                    "one user's id is needed: 1 to 255 bytes of printable ASCII, without blanks at its ends; {ON_BEHALF_OF_BIN} \
                     takes other ids"
                ),
            ),
            Self::InvalidOnBehalfOfBin => Refusal::field(
                ON_BEHALF_OF_BIN,
                "one user's id is needed: 1 to 255 bytes of UTF-8 in base64, without blanks at its ends, control characters \
                 and invisible ones",
            ),
            Self::OnBehalfOfTwice => {
                Refusal::field(ON_BEHALF_OF_BIN, format!("{ON_BEHALF_OF} names a user too: send one of the two"))
            }
        }
    }
}
