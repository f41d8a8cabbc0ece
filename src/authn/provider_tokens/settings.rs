//! Issuers without a preset: what each setting makes of a token.

use super::*;

#[tokio::test]
async fn issuers_without_a_preset() -> Outcome {
    let issuer = "issuer = 'https://id.example'\naudience = ['a', 'b']\nscopes = ['check']\n";
    let token = |changes| with_times(but(&json!({ "iss": "https://id.example", "aud": "b", "sub": "ada" }), changes));
    for (settings, changes, expected) in [
        ("callers = 'people'", json!({}), "user ada -"),
        ("", json!({}), "user ada -"),
        ("callers = 'services'", json!({}), REFUSED),
        ("callers = 'services'", json!({ "scope": "roster:check" }), "service ada check"),
        // An operator of roster is a person.
        ("callers = 'people'", json!({ "scope": "roster:check" }), "service ada check"),
        ("service_claim = 'kind=machine'", json!({ "kind": "machine" }), REFUSED),
        ("service_claim = 'kind=machine'", json!({ "kind": "human" }), "user ada -"),
        (
            "service_claim = 'kind=machine'",
            json!({ "kind": "machine", "scope": ["roster:check"] }),
            "service ada check",
        ),
        ("service_claim = 'kind=machine'", json!({ "kind": null, "aud": ["c", "a"] }), "user ada -"),
        ("", json!({ "aud": ["c", "d"] }), "WrongAudience"),
        ("", json!({ "aud": null }), "InvalidClaims"),
        (
            "scope_prefix = 'https://roster.example/'",
            json!({ "scope": "https://roster.example/check roster:x" }),
            "service ada check",
        ),
        // Without a prefix, the words of others are none of roster's.
        ("scope_prefix = ''", json!({ "scope": "openid check operator manage" }), "service ada check"),
        ("scope_prefix = ''", json!({ "scope": "openid operator" }), "user ada -"),
        (
            "claims = { scopes = ['roles', 'scope'] }",
            json!({ "scope": "roster:check", "roles": ["x"] }),
            "service ada check",
        ),
        ("claims = { scopes = [] }\nscopes = []", json!({ "scope": "roster:check" }), "user ada -"),
        ("claims = { audience = 'client_id' }", json!({ "client_id": "a", "aud": "c" }), "user ada -"),
        ("claims = { audience = 'client_id' }", json!({}), "InvalidClaims"),
        ("claims = { user_id = 'account.id' }", json!({ "account": { "id": "7" } }), "user 7 -"),
        ("claims = { user_id = 'account.id' }", json!({ "account": { "id": 7 } }), "InvalidClaims"),
        ("claims = { user_id = 'account.id' }", json!({ "account": "7" }), "InvalidClaims"),
        ("claims = { email_verified = 'trusted' }", json!({ "email": "a@x.example" }), "user ada a@x.example verified"),
        ("claims = { email_verified = 'trusted' }", json!({ "email": 7 }), "user ada -"),
        (
            "claims = { email = 'mail' }",
            json!({ "mail": "a@x.example", "email_verified": "1" }),
            "user ada a@x.example verified",
        ),
    ] {
        let text =
            if settings.contains("\nscopes") { issuer.replace("scopes = ['check']\n", "") } else { issuer.to_owned() };
        let fixture = fixture(&format!("{text}{settings}\n"))?;
        assert_eq!(outcome(&fixture, &token(changes.clone())).await?, expected, "{settings}: {changes}");
    }
    Ok(())
}
