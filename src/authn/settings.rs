//! Settings of authentication.

use crate::domain::Scope;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::path::PathBuf;

/// The accepted issuers, API keys and client certificates.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthSettings {
    /// The identity providers whose tokens are accepted.
    pub issuers: Vec<IssuerSettings>,
    /// The API keys of services. Several keys may have the same name, for rotation.
    pub api_keys: Vec<ApiKeySettings>,
    /// The client certificates of services. Several may have the same name.
    pub client_certificates: Vec<ClientCertificateSettings>,
    /// Whether keys whose id begins with [`KEY_ID_PREFIX`](super::mint::KEY_ID_PREFIX) are accepted. Only `roster dev` and
    /// the tests set it: such a key lies unprotected on the machine of a developer.
    #[serde(skip)]
    pub development_keys: bool,
}

impl AuthSettings {
    /// Whether no caller can have a credential.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty() && self.api_keys.is_empty() && self.client_certificates.is_empty()
    }

    /// The files that the settings name.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let of_issuer = |issuer: &IssuerSettings| {
            let keys = issuer.keys.iter().map(|key| &key.file);
            let files = keys.chain(&issuer.jwks_file).chain(&issuer.hs256_secret_file);
            files.chain(&issuer.ca_file).cloned().collect::<Vec<_>>()
        };
        self.issuers.iter().flat_map(of_issuer).collect()
    }
}

/// One identity provider. Its keys come from one of `jwks_url`, `jwks_file`, `keys` and `hs256_secret_file`, and without any
/// of them from the discovery document of `issuer`.
///
/// Every field has a default, so that one missing key hides no other mistake. The authenticator requires what is
/// needed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IssuerSettings {
    /// The `iss` of its tokens, compared byte for byte. `{tenant}` in it, as a whole segment of the path, stands for
    /// the name of a tenant.
    pub issuer: String,
    /// The accepted audiences: one of them equals `aud` or is in it.
    pub audience: TextList,
    /// The URL of its key set. The server fetches it in the background.
    pub jwks_url: Option<String>,
    /// A PEM file with the certificates that the URL of its keys needs, in place of those of the platform.
    pub ca_file: Option<PathBuf>,
    /// A JWKS file with RSA, P-256, P-384 or Ed25519 keys. The server reloads it when it changes.
    pub jwks_file: Option<PathBuf>,
    /// Public keys, each in a PEM file. The server reads them at the start and at a reload.
    pub keys: Vec<PemKey>,
    /// A file with the secret that the provider shares, at least 32 bytes. Trailing white space does not count.
    pub hs256_secret_file: Option<PathBuf>,
    /// The roster scopes that its tokens may contain; empty by default. Many providers let any client request any
    /// scope, and such a request must not create an operator.
    pub scopes: Vec<Scope>,
    /// The prefix that turns a `sub` of this issuer into a user id; empty by default. Each issuer needs a different
    /// prefix: an issuer chooses its subjects freely, so it could otherwise name the users of another issuer. A token whose
    /// user id begins with a longer prefix of another issuer is refused.
    pub user_id_prefix: String,

    /// The provider, which says what the other settings do not: the claims, and the mark of services.
    pub preset: Option<Preset>,
    /// The claims that are read; each has a default, which the preset may change.
    pub claims: ClaimSettings,
    /// The prefix of the words in the scope claims that are scopes of roster; `roster:` by default.
    pub scope_prefix: Option<String>,
    /// The mark of the tokens of services: the name of a claim that they have, or `claim=value`. It is added to the
    /// marks of the preset.
    pub service_claim: Option<String>,
    /// What a token without a roster scope and without a mark is. Absent, it is a user's.
    pub callers: Option<Callers>,
    /// The tenants that are accepted, if `issuer` contains `{tenant}`; absent, all of them are.
    pub tenants: Option<Vec<String>>,
    /// What may write the profiles of its users. Absent, both may.
    pub profile_source: Option<ProfileSource>,
}

/// The claims of an issuer's tokens. Each is the name of a claim, or a path into objects, as `realm_access.roles`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimSettings {
    /// The claim with the user's id, or with the name of a service; `sub` by default.
    pub user_id: Option<String>,
    /// The claim with the email address; `email` by default.
    pub email: Option<String>,
    /// The claim that says whether the address is verified: `true`, as a Boolean or a text. `email_verified` by
    /// default; `trusted` if the provider verifies every address.
    pub email_verified: Option<String>,
    /// The claim with the display name; `name` by default.
    pub name: Option<String>,
    /// The claims with scopes: texts with blanks between the scopes, lists of texts, or objects whose members are named
    /// after them. `scope` by default.
    pub scopes: Option<TextList>,
    /// The claim with the audience; `aud` by default.
    pub audience: Option<String>,
}

/// An identity provider whose tokens roster knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Sign in with Apple.
    Apple,
    /// Auth0, by Okta.
    Auth0,
    /// User pools of Amazon Cognito.
    Cognito,
    /// Microsoft Entra ID.
    Entra,
    /// Google accounts and Workspace.
    Google,
    /// A realm of Keycloak.
    Keycloak,
    /// Okta Workforce Identity.
    Okta,
    /// An instance of Zitadel.
    Zitadel,
}

/// What the tokens of an issuer identify if nothing in them says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Callers {
    /// Users, that is people.
    People,
    /// Services. A token without a roster scope is refused.
    Services,
}

/// What may write the profiles of the users of an issuer: the address, its verification and the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileSource {
    /// The claims of tokens. `PutUser` is for operators only.
    Tokens,
    /// `PutUser`. The claims of tokens about the profile are not read.
    PutUser,
    /// Both: the newer one counts, claim by claim.
    #[default]
    Both,
}

/// One text, or a list of texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextList(pub Vec<String>);

impl From<&str> for TextList {
    fn from(text: &str) -> Self {
        Self(vec![text.to_owned()])
    }
}

impl<'de> Deserialize<'de> for TextList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextListVisitor;
        impl<'de> Visitor<'de> for TextListVisitor {
            type Value = TextList;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text in quotation marks, or a list of them")
            }
            fn visit_str<E>(self, text: &str) -> Result<TextList, E> {
                Ok(text.into())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<TextList, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(TextList(texts))
            }
        }
        deserializer.deserialize_any(TextListVisitor)
    }
}

impl IssuerSettings {
    /// Returns whether a source of keys is given, beside the issuer itself.
    pub(super) fn has_keys(&self) -> bool {
        let is_file = self.jwks_file.is_some() || self.hs256_secret_file.is_some();
        is_file || self.jwks_url.is_some() || !self.keys.is_empty()
    }
}

/// One public key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PemKey {
    /// The only algorithm that the key verifies. Required.
    pub algorithm: Option<Algorithm>,
    /// The key id, compared with the `kid` of a token. A key without an id matches every `kid`.
    pub kid: Option<String>,
    /// The PEM file; it begins with `-----BEGIN PUBLIC KEY-----`. Required.
    pub file: PathBuf,
}

/// The API key of a service. `roster api-key` generates one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiKeySettings {
    /// The service's name, for the audit trail.
    pub name: String,
    /// The scopes of the service.
    pub scopes: Vec<Scope>,
    /// The SHA-256 of the whole key, in hexadecimal.
    pub sha256: String,
}

/// The client certificate of a service. The server verifies it in the TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientCertificateSettings {
    /// The service's name, for the audit trail.
    pub name: String,
    /// A DNS name or a URI in the subject alternative name of the certificate. DNS names are compared without case, URIs
    /// byte for byte.
    pub san: String,
    /// The scopes of the service.
    pub scopes: Vec<Scope>,
}

/// A signature algorithm. A token that names another one than those of its key is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    #[serde(rename = "RS384")]
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    #[serde(rename = "RS512")]
    Rs512,
    /// RSASSA-PSS with SHA-256.
    #[serde(rename = "PS256")]
    Ps256,
    /// RSASSA-PSS with SHA-384.
    #[serde(rename = "PS384")]
    Ps384,
    /// RSASSA-PSS with SHA-512.
    #[serde(rename = "PS512")]
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// ECDSA on P-384 with SHA-384.
    #[serde(rename = "ES384")]
    Es384,
    /// `EdDSA` with the curve Ed25519 (RFC 8037).
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// HMAC with SHA-256. It does not apply to a public key, so no setting can name it.
    #[serde(skip)]
    Hs256,
}

impl Algorithm {
    /// Parses the `alg` of a token or of a key; `None` if roster does not support it.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "RS384" => Some(Self::Rs384),
            "RS512" => Some(Self::Rs512),
            "PS256" => Some(Self::Ps256),
            "PS384" => Some(Self::Ps384),
            "PS512" => Some(Self::Ps512),
            "ES256" => Some(Self::Es256),
            "ES384" => Some(Self::Es384),
            // The second name is the one of RFC 9864, which replaces the first.
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            "HS256" => Some(Self::Hs256),
            _ => None,
        }
    }
}
