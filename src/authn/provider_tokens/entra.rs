//! Tokens of Microsoft Entra ID, of one tenant and of any.

use super::*;

const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
const API: &str = "6e74172b-be56-4843-9ff4-e66a39bb12e3";
const OBJECT: &str = "690222be-ff1a-4d56-abd1-7e4f7d38e474";

/// An access token of version 2 for a user.
fn person() -> Value {
    json!({
        "aud": API, "iss": format!("https://login.microsoftonline.com/{TENANT}/v2.0"), "aio": "AXQAi",
        "azp": "6731de76-14a6-49ae-97bc-6eba6914391e", "azpacr": "0", "name": "Abe Lincoln", "oid": OBJECT,
        "preferred_username": "abeli@microsoft.com", "rh": "I", "scp": "access_as_user",
        "sub": "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ", "tid": TENANT, "uti": "fqiBqXLPj0eQa82S-IYFAA",
        "ver": "2.0",
    })
}

/// An access token of version 2 for an application, with the optional claim `idtyp`.
fn service() -> Value {
    let changes = json!({
        "scp": null, "name": null, "preferred_username": null, "azpacr": "1", "sub": OBJECT, "idtyp": "app",
    });
    but(&person(), changes)
}

#[tokio::test]
async fn users_of_one_tenant() -> Outcome {
    let person = person();
    let with_address = but(&person, json!({ "email": "abeli@microsoft.com", "xms_edov": true, "idtyp": "user" }));
    let without_a_word = json!({ "xms_edov": null, "email_verified": true });
    let user = format!("user {OBJECT}");
    let verified = format!("{user} abeli@microsoft.com verified");
    check(
        "Entra",
        0,
        vec![
            (person.clone(), &format!("{user} -")),
            (with_address.clone(), &verified),
            (but(&with_address, json!({ "xms_edov": "1" })), &verified),
            (but(&with_address, json!({ "xms_edov": null })), &format!("{user} abeli@microsoft.com")),
            // A claim that Entra does not make.
            (but(&with_address, without_a_word), &format!("{user} abeli@microsoft.com")),
            // What a client may do for every user is no scope of roster; an assigned role is.
            (but(&person, json!({ "scp": "roster:manage" })), &format!("{user} -")),
            (but(&person, json!({ "roles": ["Task.Read", "roster:manage"] })), &format!("service {OBJECT} manage")),
            (but(&person, json!({ "idtyp": 7 })), "InvalidClaims"),
            (but(&person, json!({ "oid": null })), "InvalidClaims"),
            // An ID token.
            (but(&person, json!({ "scp": null, "azp": null, "nonce": "12345" })), REFUSED),
        ],
    )
    .await
}

#[tokio::test]
async fn services_of_one_tenant() -> Outcome {
    let service = service();
    check(
        "Entra",
        0,
        vec![
            (service.clone(), REFUSED),
            (but(&service, json!({ "idtyp": null })), REFUSED),
            (but(&service, json!({ "idtyp": null, "roles": ["Task.Read"] })), REFUSED),
            (but(&service, json!({ "scp": "x" })), REFUSED),
            (but(&service, json!({ "roles": ["roster:check"] })), &format!("service {OBJECT} check")),
            (but(&service, json!({ "roles": ["roster:operator"] })), "ScopeNotGranted"),
        ],
    )
    .await
}

#[tokio::test]
async fn every_tenant() -> Outcome {
    let (person, service) = (person(), service());
    let other_tenant = but(&person, json!({ "iss": "https://login.microsoftonline.com/contoso/v2.0" }));
    check(
        "Entra",
        1,
        vec![
            (person.clone(), &format!("user entra:{TENANT}:{OBJECT} -")),
            (other_tenant, &format!("user entra:contoso:{OBJECT} -")),
            (service.clone(), REFUSED),
            // Any tenant could assign itself this role.
            (but(&service, json!({ "roles": ["roster:operator"] })), "ScopeNotGranted"),
        ],
    )
    .await?;
    let any = fixture(&pasted("Entra", 1))?;
    let (base, v1) = ("https://login.microsoftonline.com", "https://sts.windows.net/contoso/");
    for issuer in [&format!("{base}/a/b/v2.0"), &format!("{base}/contoso"), v1, "https://evil.example/contoso/v2.0"] {
        let claims = with_times(but(&person, json!({ "iss": issuer })));
        assert_eq!(outcome(&any, &claims).await?, "UnknownIssuer", "{issuer}");
    }
    Ok(())
}

/// An entry for one tenant comes before the pattern, which stands before it in the file.
#[tokio::test]
async fn one_tenant_beside_the_others() -> Outcome {
    let settings = |block, prefix: &str| -> Result<IssuerSettings, toml::de::Error> {
        Ok(IssuerSettings { user_id_prefix: prefix.to_owned(), ..toml::from_str(&pasted("Entra", block))? })
    };
    let fixture = AuthFixture::with(vec![settings(1, "entra:{tenant}:")?, settings(0, "")?])?;
    assert_eq!(outcome(&fixture, &with_times(person())).await?, format!("user {OBJECT} -"));
    let roles = json!({ "roles": ["roster:check"] });
    assert_eq!(outcome(&fixture, &with_times(but(&service(), roles))).await?, format!("service {OBJECT} check"));
    let other = but(&person(), json!({ "iss": "https://login.microsoftonline.com/contoso/v2.0" }));
    assert_eq!(outcome(&fixture, &with_times(other)).await?, format!("user entra:contoso:{OBJECT} -"));
    Ok(())
}

#[tokio::test]
async fn tokens_of_version_1() -> Outcome {
    let settings = pasted("Entra", 0).replace("https://login.microsoftonline.com/", "https://sts.windows.net/");
    let fixture = fixture(&settings.replace("/v2.0", "/"))?;
    // The client is in `appid`.
    let issuer = format!("https://sts.windows.net/{TENANT}/");
    let token = but(&person(), json!({ "iss": issuer, "azp": null, "appid": API, "ver": "1.0", "unique_name": "x" }));
    assert_eq!(outcome(&fixture, &with_times(token.clone())).await?, format!("user {OBJECT} -"));
    let service = but(&token, json!({ "scp": null, "unique_name": null, "sub": OBJECT }));
    assert_eq!(outcome(&fixture, &with_times(service)).await?, REFUSED);
    Ok(())
}
