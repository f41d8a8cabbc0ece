//! Tokens of the shapes that identity providers document, with the settings of `docs/providers.md`.

use super::caller::Caller;
use super::credential_error::CredentialError;
use super::settings::IssuerSettings;
use super::testing::{AuthFixture, NOW, Outcome, headers, peer};
use crate::domain::EmailAddress;
use serde_json::{Value, json};

mod entra;
mod settings;

const PAGE: &str = include_str!("../../docs/providers.md");
const REFUSED: &str = "SERVICE_WITHOUT_SCOPE";

/// The settings to paste in this section of the page. Its keys come from elsewhere.
fn pasted(section: &str, block: usize) -> String {
    let section = PAGE.split("\n## ").find(|text| text.starts_with(&format!("{section}\n"))).unwrap();
    let mut blocks = section.split("```toml\n[[issuers]]\n").skip(1);
    let block = blocks.nth(block).and_then(|rest| rest.split("```").next()).unwrap();
    block.split_inclusive('\n').filter(|line| !line.starts_with("jwks_url")).collect()
}

fn fixture(settings: &str) -> Result<AuthFixture, Box<dyn std::error::Error>> {
    let settings: IssuerSettings = toml::from_str(&settings.replace("[issuers.claims]", "[claims]"))?;
    AuthFixture::with(vec![settings])
}

/// Claims with the times of a valid token.
fn with_times(mut claims: Value) -> String {
    for (name, time) in [("exp", NOW + 3600), ("iat", NOW)] {
        claims[name] = time.into();
    }
    claims.to_string()
}

/// What a token with these claims becomes.
async fn outcome(fixture: &AuthFixture, claims: &str) -> Result<String, Box<dyn std::error::Error>> {
    let header = json!({ "alg": "EdDSA", "kid": fixture.key.id() }).to_string();
    let headers = headers(&format!("Bearer {}", fixture.key.sign(&header, claims)), &[])?;
    let cached = fixture.auth.cached_tokens();
    let caller = match fixture.auth.identify(&headers, &peer()).await {
        Ok(caller) => caller,
        Err(rejection) => {
            assert_eq!(fixture.auth.cached_tokens(), cached, "a rejection was remembered");
            return Ok(match rejection.error {
                CredentialError::ServiceWithoutScope => REFUSED.to_owned(),
                error => format!("{error:?}"),
            });
        }
    };
    Ok(match &*caller {
        Caller::Anonymous => "anonymous".to_owned(),
        Caller::Operator(operator) => format!("operator {}", operator.name),
        Caller::Service(service) => {
            let scopes: Vec<_> = service.scopes.iter().map(|scope| scope.as_str()).collect();
            format!("service {} {}", service.identity.name, scopes.join(","))
        }
        Caller::User(user) => {
            let profile = &user.claims.as_ref().ok_or("no claims")?.profile;
            let email = profile.email.as_ref().map_or("-", EmailAddress::normal);
            let is_verified = profile.email.is_some() && profile.email_verified == Some(true);
            let verified = if is_verified { " verified" } else { "" };
            format!("user {} {email}{verified}", user.id)
        }
    })
}

/// Checks what each token of the provider becomes, and that no mark can be removed from a service's token unnoticed.
async fn check(section: &str, block: usize, tokens: Vec<(Value, &str)>) -> Outcome {
    let fixture = fixture(&pasted(section, block))?;
    for (claims, expected) in tokens {
        assert_eq!(outcome(&fixture, &with_times(claims.clone())).await?, expected, "{section}: {claims}");
        // For another service, from another issuer, without the user id.
        let mut other = claims.clone();
        for audience in ["aud", "client_id"] {
            if other.get(audience).is_some() {
                other[audience] = "another".into();
            }
        }
        assert_eq!(outcome(&fixture, &with_times(other)).await?, "WrongAudience", "{section}: {claims}");
        let mut other = claims.clone();
        other["iss"] = format!("{}x", claims["iss"].as_str().ok_or("no issuer")?).into();
        assert_eq!(outcome(&fixture, &with_times(other)).await?, "UnknownIssuer", "{section}: {claims}");
    }
    Ok(())
}

/// The object with these members replaced; one given as `null` is removed.
fn but(base: &Value, changes: Value) -> Value {
    let mut claims = base.clone();
    if let (Value::Object(claims), Value::Object(changes)) = (&mut claims, changes) {
        claims.extend(changes);
        claims.retain(|_, value| !value.is_null());
    }
    claims
}

#[tokio::test]
async fn google() -> Outcome {
    let client = "1234987819200.apps.googleusercontent.com";
    let person = json!({
        "iss": "https://accounts.google.com", "azp": client, "aud": client, "sub": "110169484474386276334",
        "hd": "example.com", "email": "jsmith@example.com", "email_verified": true, "at_hash": "HK6E_P6Dh8Y93mRNtsDB1Q",
        "name": "J Smith", "picture": "https://x.example/p.jpg", "given_name": "J", "family_name": "Smith",
    });
    let service = json!({
        "iss": "https://accounts.google.com", "aud": client, "azp": "104029292853099978293",
        "sub": "104029292853099978293", "email": "bot@acme.iam.gserviceaccount.com", "email_verified": true,
    });
    check(
        "Google",
        0,
        vec![
            (person.clone(), "user 110169484474386276334 jsmith@example.com verified"),
            (but(&person, json!({ "email": null, "email_verified": null })), "user 110169484474386276334 -"),
            (but(&person, json!({ "email_verified": false })), "user 110169484474386276334 jsmith@example.com"),
            (
                but(&person, json!({ "azp": "987.apps.googleusercontent.com" })),
                "user 110169484474386276334 jsmith@example.com verified",
            ),
            (but(&person, json!({ "azp": null })), "user 110169484474386276334 jsmith@example.com verified"),
            // Google has no scopes: a claim of this name says nothing.
            (
                but(&person, json!({ "scope": "roster:operator" })),
                "user 110169484474386276334 jsmith@example.com verified",
            ),
            (service.clone(), REFUSED),
            // Without the option to include the address, and for services of Google itself.
            (but(&service, json!({ "email": null, "email_verified": null })), REFUSED),
            (but(&service, json!({ "azp": null })), REFUSED),
            (but(&service, json!({ "azp": client, "email": "1-compute@developer.GServiceAccount.com" })), REFUSED),
            (but(&service, json!({ "email": null, "azp": 7 })), "InvalidClaims"),
        ],
    )
    .await
}

#[tokio::test]
async fn auth0() -> Outcome {
    let person = json!({
        "iss": "https://example.eu.auth0.com/", "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
        "aud": ["https://roster.example.com", "https://example.eu.auth0.com/userinfo"], "azp": "my_client_id",
        "scope": "openid profile email", "permissions": [],
    });
    let service = json!({
        "iss": "https://example.eu.auth0.com/", "sub": "my_client_id@clients", "aud": "https://roster.example.com",
        "azp": "my_client_id", "gty": "client-credentials",
    });
    check(
        "Auth0",
        0,
        vec![
            (person.clone(), "user auth0|5f7c8ec7c33c6c004bbafe82 -"),
            // Without RBAC, a client of people can ask for every scope of the API.
            (but(&person, json!({ "scope": "openid roster:manage" })), "user auth0|5f7c8ec7c33c6c004bbafe82 -"),
            (but(&person, json!({ "gty": "password" })), "user auth0|5f7c8ec7c33c6c004bbafe82 -"),
            (service.clone(), REFUSED),
            (but(&service, json!({ "scope": "roster:check" })), REFUSED),
            // The profile of RFC 9068 has no `gty`.
            (but(&service, json!({ "gty": null, "azp": null, "jti": "x" })), REFUSED),
            (but(&service, json!({ "sub": "my_client_id" })), REFUSED),
            (but(&service, json!({ "sub": "my_client_id", "gty": ["x", "client-credentials"] })), REFUSED),
            (but(&service, json!({ "sub": "my_client_id", "gty": { "x": 1 } })), "InvalidClaims"),
            (
                but(&service, json!({ "permissions": ["roster:check", "roster:manage"] })),
                "service my_client_id@clients check,manage",
            ),
            (but(&service, json!({ "permissions": ["roster:act-as"] })), "ScopeNotGranted"),
        ],
    )
    .await?;

    let claims =
        "claims = { email = \"https://example.com/email\", email_verified = \"https://example.com/email_verified\" }";
    assert!(PAGE.contains(claims));
    let fixture = fixture(&format!("{}{claims}\n", pasted("Auth0", 0)))?;
    let namespaced = json!({
        "https://example.com/email": "ada@x.example", "https://example.com/email_verified": true,
        "email": "no@x.example",
    });
    let token = with_times(but(&person, namespaced));
    assert_eq!(outcome(&fixture, &token).await?, "user auth0|5f7c8ec7c33c6c004bbafe82 ada@x.example verified");
    Ok(())
}

#[tokio::test]
async fn cognito() -> Outcome {
    let (issuer, client) = ("https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Example", "1example23456789");
    let sub = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
    let access = json!({
        "sub": sub, "cognito:groups": ["testgroup"], "iss": issuer, "version": 2, "client_id": client,
        "origin_jti": "x", "event_id": "y", "token_use": "access", "scope": "phone openid profile email",
        "auth_time": NOW, "jti": "z", "username": "my-test-user",
    });
    let id = json!({
        "sub": sub, "cognito:groups": ["testgroup"], "email_verified": true, "iss": issuer,
        "cognito:username": "my-test-user", "aud": client, "event_id": "y", "token_use": "id", "auth_time": NOW,
        "email": "my-test-user@example.com", "name": "Test",
    });
    let service = json!({
        "sub": client, "token_use": "access", "scope": "sample/read", "auth_time": NOW, "iss": issuer, "version": 2,
        "jti": "x", "client_id": client,
    });
    check(
        "Cognito",
        0,
        vec![
            (access.clone(), &format!("user {sub} -")),
            (id.clone(), &format!("user {sub} my-test-user@example.com verified")),
            (but(&id, json!({ "email_verified": "true" })), &format!("user {sub} my-test-user@example.com verified")),
            (but(&id, json!({ "email_verified": "false" })), &format!("user {sub} my-test-user@example.com")),
            (service.clone(), REFUSED),
            (but(&service, json!({ "scope": "roster:check" })), REFUSED),
            (but(&service, json!({ "scope": "sample/read roster/check" })), &format!("service {client} check")),
            (but(&service, json!({ "scope": "roster/delete" })), "UnknownScope"),
            (but(&service, json!({ "username": null, "cognito:username": null })), REFUSED),
        ],
    )
    .await?;
    // An audience of its own comes before the client.
    let fixture = fixture(&pasted("Cognito", 0))?;
    let bound = with_times(but(&access, json!({ "aud": "https://other.example.com" })));
    assert_eq!(outcome(&fixture, &bound).await?, "WrongAudience");
    Ok(())
}

#[tokio::test]
async fn keycloak() -> Outcome {
    let (issuer, sub) = ("https://keycloak.example.com/realms/example", "1d2d88f8-8b68-4b6b-883f-1af68b598612");
    let person = json!({
        "jti": "onrtac:1", "iss": issuer, "aud": ["roster", "account"], "sub": sub, "typ": "Bearer", "azp": "app",
        "sid": "s", "acr": "1", "allowed-origins": ["/*"],
        "realm_access": { "roles": ["default-roles-example", "offline_access", "uma_authorization"] },
        "resource_access": {
            "account": { "roles": ["manage-account", "view-profile"] }, "my.app": { "roles": ["roster:manage"] },
        },
        "scope": "openid email profile", "email_verified": true, "name": "Alice A", "preferred_username": "alice",
        "given_name": "Alice", "family_name": "A", "email": "alice@example.com",
    });
    let service = but(
        &person,
        json!({
            "sid": null, "scope": "email profile", "name": null, "email": null, "email_verified": false,
            "azp": "orders-job", "preferred_username": "service-account-orders-job", "clientHost": "172.17.0.1",
            "clientAddress": "172.17.0.1",
            "client_id": "orders-job",
        }),
    );
    let user = format!("user {sub} alice@example.com verified");
    let roles = |roles: Value| json!({ "realm_access": { "roles": roles } });
    check(
        "Keycloak",
        0,
        vec![
            (person.clone(), &user),
            (but(&person, json!({ "typ": "ID", "realm_access": null, "resource_access": null })), &user),
            (but(&person, json!({ "scope": "openid roster:manage" })), &user),
            (but(&person, roles(json!(["roster:check"]))), &format!("service {sub} check")),
            (service.clone(), REFUSED),
            (but(&service, json!({ "client_id": null, "clientHost": null })), REFUSED),
            // The client has no scope `profile`.
            (but(&service, json!({ "preferred_username": null })), REFUSED),
            (but(&service, roles(json!(["default-roles-example", "roster:check"]))), &format!("service {sub} check")),
            (but(&service, roles(json!(["roster:operator"]))), "ScopeNotGranted"),
            (but(&service, roles(json!([7]))), "InvalidClaims"),
            (but(&service, json!({ "realm_access": "roster:check" })), "InvalidClaims"),
            (but(&service, json!({ "preferred_username": ["service-account-x"] })), "InvalidClaims"),
            // Lightweight access tokens.
            (but(&person, json!({ "preferred_username": null, "sub": null })), "InvalidClaims"),
        ],
    )
    .await?;

    let of_client =
        fixture(&format!("{}claims = {{ scopes = [\"resource_access.my.app.roles\"] }}\n", pasted("Keycloak", 0)))?;
    assert_eq!(outcome(&of_client, &with_times(service.clone())).await?, format!("service {sub} manage"));
    // A token of the size that Keycloak reaches.
    let many: Vec<_> = (0..500).map(|number| format!("a-role-of-the-client-{number}")).collect();
    let large = but(&person, json!({ "resource_access": { "account": { "roles": many } } }));
    let claims = with_times(large);
    assert!((12_288..18_432).contains(&claims.len()), "{}", claims.len());
    assert_eq!(outcome(&of_client, &claims).await?, user);
    Ok(())
}

#[tokio::test]
async fn okta() -> Outcome {
    let (issuer, client) = ("https://example.okta.com/oauth2/default", "0oabskvc6442nkvQO0h7");
    let access = json!({
        "ver": 1, "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE", "iss": issuer, "aud": "api://default",
        "sub": "jsmith@example.com", "cid": client, "uid": "00ujmkLgagxeRrAg20g3", "scp": ["openid", "email"],
    });
    let id = json!({
        "ver": 1, "sub": "00ujmkLgagxeRrAg20g3", "iss": issuer, "aud": "api://default", "jti": "ID.x", "amr": ["pwd"],
        "idp": "00o", "nonce": "n", "name": "J Smith", "email": "jsmith@example.com", "email_verified": true,
        "preferred_username": "jsmith@example.com", "auth_time": NOW, "at_hash": "x",
    });
    let service = json!({
        "ver": 1, "jti": "AT.x", "iss": issuer, "aud": "api://default", "cid": client, "sub": client,
        "scp": ["customScope"],
    });
    check(
        "Okta",
        0,
        vec![
            (access.clone(), "user 00ujmkLgagxeRrAg20g3 -"),
            (id.clone(), "user 00ujmkLgagxeRrAg20g3 jsmith@example.com verified"),
            (service.clone(), REFUSED),
            // The subject of a custom authorization server can be changed.
            (but(&service, json!({ "sub": "a-service" })), REFUSED),
            (but(&service, json!({ "cid": [client] })), "InvalidClaims"),
            (
                but(&service, json!({ "scp": ["customScope", "roster:check", "roster:check"] })),
                &format!("service {client} check"),
            ),
            (but(&service, json!({ "scp": ["roster:operator"] })), "ScopeNotGranted"),
            (but(&access, json!({ "uid": 7 })), "InvalidClaims"),
        ],
    )
    .await
}

#[tokio::test]
async fn zitadel() -> Outcome {
    let (issuer, project) = ("https://example.zitadel.cloud", "69234237810729019");
    let roles = format!("urn:zitadel:iam:org:project:{project}:roles");
    let id = json!({
        "iss": issuer, "aud": ["69234237810729234", project], "azp": "69234237810729234", "nbf": NOW,
        "client_id": "69234237810729234", "sub": "77776025198584418", "amr": ["pwd"],
        "email": "road.runner@acme.example", "email_verified": true,
        "name": "Road Runner", "preferred_username": "road.runner@acme.example",
    });
    let service = json!({
        "iss": issuer, "aud": [project], "client_id": "orders", "sub": "88886025198584418", "nbf": NOW, "jti": "V2_1",
    });
    check(
        "Zitadel",
        0,
        vec![
            (id.clone(), "user 77776025198584418 road.runner@acme.example verified"),
            (service.clone(), REFUSED),
            // With the scopes `openid profile`.
            (but(&service, json!({ "name": "Orders", "preferred_username": "orders" })), REFUSED),
            (
                but(&service, json!({ &*roles: { "roster:check": { "695": "acme.example" }, "other": {} } })),
                "service 88886025198584418 check",
            ),
            (
                but(&service, json!({ &*roles: [{ "roster:manage": { "695": "acme.example" } }] })),
                "service 88886025198584418 manage",
            ),
            (but(&service, json!({ &*roles: { "roster:operator": {} } })), "ScopeNotGranted"),
            (but(&service, json!({ &*roles: true })), "InvalidClaims"),
            // The access token of a person has no address.
            (but(&id, json!({ "email": null, "email_verified": null })), REFUSED),
        ],
    )
    .await
}

#[tokio::test]
async fn apple() -> Outcome {
    let person = json!({
        "iss": "https://appleid.apple.com", "aud": "com.example.app", "nonce_supported": true,
        "sub": "000544.5e201aec537347aeb79d23cbc345170a.1321", "email": "x7@privaterelay.appleid.com",
        "email_verified": "true", "is_private_email": "true",
        "auth_time": NOW, "real_user_status": 2,
    });
    let user = "user 000544.5e201aec537347aeb79d23cbc345170a.1321";
    check(
        "Apple",
        0,
        vec![
            (person.clone(), &format!("{user} x7@privaterelay.appleid.com verified")),
            (but(&person, json!({ "email_verified": true })), &format!("{user} x7@privaterelay.appleid.com verified")),
            (but(&person, json!({ "email": "" })), &format!("{user} -")),
        ],
    )
    .await
}
