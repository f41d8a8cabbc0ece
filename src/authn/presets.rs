//! What roster knows about the tokens of identity providers. `docs/providers.md` has the facts and where they are from.

use super::service_mark::ServiceMark;
use super::settings::Preset;

/// What the tokens of a provider contain, as far as the settings do not say it.
pub(super) struct TokenShape {
    /// The claims with the user id: the first one that the token has.
    pub(super) user_id: &'static [&'static str],
    pub(super) email: &'static str,
    pub(super) email_verified: &'static str,
    pub(super) name: &'static str,
    /// The claims with scopes or roles. The words of all of them count.
    pub(super) scopes: &'static [&'static str],
    pub(super) scope_prefix: &'static str,
    /// The claims with the audience: the first one that the token has.
    pub(super) audience: &'static [&'static str],
}

/// The claims of OpenID Connect, and the scopes of RFC 8693 in a text or a list.
const STANDARD: TokenShape = TokenShape {
    user_id: &["sub"],
    email: "email",
    email_verified: "email_verified",
    name: "name",
    scopes: &["scope"],
    scope_prefix: "roster:",
    audience: &["aud"],
};

/// Returns what tokens contain if the settings do not say it.
pub(super) fn shape(preset: Option<Preset>) -> TokenShape {
    match preset {
        None => STANDARD,
        // Their ID tokens have no scopes.
        Some(Preset::Apple | Preset::Google) => TokenShape { scopes: &[], ..STANDARD },
        // The permissions that a role grants. The claim `scope` is what the client asked for.
        Some(Preset::Auth0) => TokenShape { scopes: &["permissions"], ..STANDARD },
        // Only ID tokens have an audience; access tokens may have one, or name the client. A scope is the identifier of
        // a resource server, a slash, and a name.
        Some(Preset::Cognito) => TokenShape { scope_prefix: "roster/", audience: &["aud", "client_id"], ..STANDARD },
        // `sub` differs between the applications of a tenant; `oid` does not. `scp` holds what a client may do for any
        // user, and `roles` what a user or a service was assigned.
        Some(Preset::Entra) => {
            TokenShape { user_id: &["oid"], email_verified: "xms_edov", scopes: &["roles"], ..STANDARD }
        }
        Some(Preset::Keycloak) => TokenShape { scopes: &["realm_access.roles"], ..STANDARD },
        // The `sub` of an access token is the login, which can change. That of an ID token is the `uid`.
        Some(Preset::Okta) => TokenShape { user_id: &["uid", "sub"], scopes: &["scp"], ..STANDARD },
        Some(Preset::Zitadel) => TokenShape { scopes: &["urn:zitadel:iam:org:project:roles"], ..STANDARD },
    }
}

/// Returns the marks of the tokens of services. Where a provider documents what every token of a person has, its
/// absence is a mark: a token of an unknown kind is then refused instead of becoming a user.
pub(super) fn service_marks(preset: Preset) -> Vec<ServiceMark> {
    let absent = |claim: &str| ServiceMark::Absent(claim.to_owned());
    let equals = |claim: &str, value: &str| ServiceMark::Equals(claim.to_owned(), value.to_owned());
    let starts_with = |claim: &str, start: &str| ServiceMark::StartsWith(claim.to_owned(), start.to_owned());
    let ends_with = |claim: &str, end: &str| ServiceMark::EndsWith(claim.to_owned(), end.to_owned());
    match preset {
        // It has no services.
        Preset::Apple => Vec::new(),
        Preset::Auth0 => vec![equals("gty", "client-credentials"), ends_with("sub", "@clients")],
        Preset::Cognito => vec![ServiceMark::NoneOf(["username".to_owned(), "cognito:username".to_owned()])],
        Preset::Entra => vec![equals("idtyp", "app"), absent("scp")],
        Preset::Google => vec![
            ends_with("email", ".gserviceaccount.com"),
            // A service account without its address in the token: `azp` is its id, and that of a person's token is an
            // OAuth client.
            ServiceMark::EndsOtherwise("azp".to_owned(), ".apps.googleusercontent.com".to_owned()),
        ],
        Preset::Keycloak => vec![starts_with("preferred_username", "service-account-"), absent("preferred_username")],
        Preset::Okta => vec![
            ServiceMark::Same("sub".to_owned(), "cid".to_owned()),
            ServiceMark::Without("cid".to_owned(), "uid".to_owned()),
        ],
        Preset::Zitadel => vec![absent("email")],
    }
}
