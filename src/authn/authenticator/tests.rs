use super::*;
use crate::authn::ProfileClaims;
use crate::authn::api_keys::{GeneratedApiKey, generate};
use crate::authn::caller::Actor;
use crate::authn::credential_error::{ON_BEHALF_OF, ON_BEHALF_OF_BIN};
use crate::authn::mint::{ClaimSet, SigningKey};
use crate::authn::settings::ApiKeySettings;
use crate::authn::testing::{AuthFixture, ISSUER, NOW, Outcome, authenticate, claims, headers, issuer, peer, service};
use crate::domain::{ActorKind, DisplayName, EmailAddress, Scope, UserId};
use http::header::AUTHORIZATION;
use std::path::Path;

#[tokio::test]
async fn a_token_without_roster_scopes_identifies_a_user() -> Outcome {
    let fixture = AuthFixture::new(&Scope::ALL)?;
    for (email, verified, name, expected) in [
        (Some("Ada@X.example"), Some(true), Some(" Ada "), (Some("ada@x.example"), Some(true), Some("Ada"), 0)),
        (Some("ada@x.example"), None, None, (Some("ada@x.example"), None, None, 0)),
        (Some("not an address"), Some(true), Some("a\u{202e}b"), (None, Some(true), None, 2)),
        (None, Some(true), None, (None, Some(true), None, 0)),
    ] {
        let claims = ClaimSet {
            email: email.map(str::to_owned),
            email_verified: verified,
            name: name.map(str::to_owned),
            scope: Some("openid rosters:check ROSTER:operator".to_owned()),
            ..claims("ada")
        };
        let Caller::User(user) = &*authenticate(&fixture, &claims, &[]).await? else {
            return Err("not a user".into());
        };
        let claims = user.claims.as_ref().ok_or("no claims")?;
        let ProfileClaims { email, email_verified, display_name, ignored } = &claims.profile;
        let (email, name) = (email.as_ref().map(EmailAddress::normal), display_name.as_ref().map(DisplayName::as_str));
        assert_eq!((email, *email_verified, name, ignored.len()), expected);
        assert_eq!((user.id.as_str(), &user.via, claims.issued_at), ("ada", &None, NOW));
    }
    Ok(())
}

#[tokio::test]
async fn claims_about_the_profile_never_invalidate_a_token() -> Outcome {
    let fixture = AuthFixture::new(&[])?;
    let header = format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, fixture.key.id());
    for (claims, ignored) in [
        (r#""email":"a@x.example","email_verified":"true","name":["a"]"#, &["name"][..]),
        (r#""email":"a@x.example","email_verified":"false""#, &[]),
        (r#""email":"a@x.example","email_verified":1,"name":null"#, &["email_verified"]),
        (r#""email":["a@x.example"],"email_verified":true"#, &["email"]),
        (r#""email":{"a":{}},"email_verified":[],"name":{}"#, &["email", "email_verified", "name"]),
    ] {
        let claims = format!(r#"{{"iss":"https://id.example","aud":"roster","sub":"a","exp":1800000001.5,{claims}}}"#);
        let headers = headers(&format!("Bearer {}", fixture.key.sign(&header, &claims)), &[])?;
        let Caller::User(user) = &*fixture.auth.authenticate(&headers, &peer()).await? else {
            return Err("not a user".into());
        };
        let found = user.claims.as_ref().ok_or("no claims")?;
        let names: Vec<&str> = found.profile.ignored.iter().map(|ignored| ignored.claim.as_str()).collect();
        assert_eq!((&*names, found.issued_at), (ignored, 0), "{claims}");
    }
    Ok(())
}

#[tokio::test]
async fn roster_scopes_identify_services_and_operators() -> Outcome {
    let fixture = AuthFixture::new(&Scope::ALL)?;
    let Caller::Service(billing) =
        &*authenticate(&fixture, &service("openid roster:manage roster:check roster:check"), &[]).await?
    else {
        return Err("not a service".into());
    };
    assert_eq!((billing.identity.name.as_str(), &*billing.scopes), ("billing", &[Scope::Check, Scope::Manage][..]));
    let root = authenticate(&fixture, &service("roster:check roster:operator"), &[]).await?;
    assert!(matches!(&*root, Caller::Operator(operator) if operator.name == "billing"));
    assert!(matches!(*fixture.auth.authenticate(&HeaderMap::new(), &peer()).await?, Caller::Anonymous));
    Ok(())
}

#[tokio::test]
async fn only_operators_and_services_with_act_as_act_on_behalf_of_a_user() -> Outcome {
    const FOR_ADA: (&str, &str) = (ON_BEHALF_OF, "ada");
    let fixture = AuthFixture::new(&Scope::ALL)?;
    for scope in ["roster:act-as", "roster:operator"] {
        let caller = authenticate(&fixture, &service(scope), &[FOR_ADA]).await?;
        let (id, via) = ("ada".to_owned(), Some("billing".to_owned()));
        let ada = Actor { kind: ActorKind::User, id, issuer: Some(ISSUER.to_owned()), via };
        assert_eq!(caller.actor(), Some(ada));
        assert!(matches!(&*caller, Caller::User(user) if user.claims.is_none()));
        for bad in [&[FOR_ADA, FOR_ADA][..], &[(ON_BEHALF_OF, "")], &[(ON_BEHALF_OF, "\u{e9}")]] {
            let refusal = authenticate(&fixture, &service(scope), bad).await.err();
            assert!(matches!(refusal, Some(Refusal::InvalidRequest(fields)) if fields[0].field == ON_BEHALF_OF));
        }
    }
    for claims in [service("roster:check roster:manage"), claims("ada")] {
        assert_eq!(authenticate(&fixture, &claims, &[FOR_ADA]).await.err(), Some(Refusal::OnBehalfOfNotAllowed));
    }
    let mut anonymous = HeaderMap::new();
    anonymous.insert(ON_BEHALF_OF, http::HeaderValue::from_static("ada"));
    assert_eq!(fixture.auth.authenticate(&anonymous, &peer()).await.err(), Some(Refusal::CredentialMissing));
    Ok(())
}

#[tokio::test]
async fn a_cached_token_expires_like_any_other() -> Outcome {
    let fixture = AuthFixture::new(&[])?;
    let claims = ClaimSet { exp: NOW + 10, ..claims("ada") };
    let mut user_claims = Vec::new();
    for seconds in [0, 69] {
        fixture.advance(seconds);
        let Caller::User(user) = &*authenticate(&fixture, &claims, &[]).await? else {
            return Err("not a user".into());
        };
        user_claims.push(user.claims.clone().ok_or("no claims")?);
    }
    // The second call used the cached token, so it sees the `applied` flag of the first.
    assert!(Arc::ptr_eq(&user_claims[0], &user_claims[1]));
    fixture.advance(1);
    assert_eq!(authenticate(&fixture, &claims, &[]).await.err(), Some(Refusal::CredentialExpired));
    assert_eq!(fixture.auth.cached_tokens(), 0);
    Ok(())
}

#[tokio::test]
async fn a_valid_cached_token_is_recognized() -> Outcome {
    let fixture = AuthFixture::new(&[Scope::Check, Scope::ActAs])?;
    let claims = ClaimSet { exp: NOW + 10, ..service("roster:check roster:act-as") };
    let token = format!("Bearer {}", fixture.key.mint(&claims)?.expose());
    let once = headers(&token, &[])?;
    let recent = RecentCredentials::default();
    let recognize = |headers: &HeaderMap| fixture.auth.recognize(headers, &recent, &peer());
    assert!(recognize(&once)?.is_none());
    fixture.auth.authenticate(&once, &peer()).await?;
    assert!(recent.find(&once[AUTHORIZATION]).is_none());
    let caller = recognize(&once)?.ok_or("not in the cache")?;
    // The same header value is found by its address; an equal value elsewhere in memory is not.
    assert!(recent.find(&once[AUTHORIZATION]).is_some());
    assert!(recent.find(&headers(&token, &[])?[AUTHORIZATION]).is_none());
    assert!(matches!(&*caller, Caller::Service(service) if service.identity.name == "billing"));
    let for_ada = recognize(&headers(&token, &[(ON_BEHALF_OF, "ada")])?)?.ok_or("not in the cache")?;
    assert_eq!(for_ada.user().map(UserId::as_str), Some("ada"));
    let for_zoe = recognize(&headers(&token, &[(ON_BEHALF_OF_BIN, "Wm/Dqw")])?)?.ok_or("not in the cache")?;
    assert_eq!(for_zoe.user().map(UserId::as_str), Some("Zo\u{eb}"));
    for twice in ["Bearer x", &token] {
        let twice = headers(&token, &[("authorization", twice)])?;
        assert_eq!(recognize(&twice).err(), Some(Refusal::CredentialInvalid));
    }
    assert!(matches!(recognize(&HeaderMap::new())?.as_deref(), Some(Caller::Anonymous)));
    assert!(recognize(&headers(&format!("{token}x"), &[])?)?.is_none());
    fixture.advance(69);
    // The key file is due for a reload.
    fixture.auth.authenticate(&once, &peer()).await?;
    assert!(recognize(&once)?.is_some());
    fixture.advance(1);
    assert!(recognize(&once)?.is_none());
    Ok(())
}

#[tokio::test]
async fn no_token_is_recognized_if_its_key_is_removed_or_the_file_is_due_for_a_reload() -> Outcome {
    let fixture = AuthFixture::new(&[])?;
    let claims = ClaimSet { exp: NOW + 86_400, ..claims("ada") };
    let headers = headers(&format!("Bearer {}", fixture.key.mint(&claims)?.expose()), &[])?;
    let recent = RecentCredentials::default();
    let is_recognized = || fixture.auth.recognize(&headers, &recent, &peer()).map(|caller| caller.is_some());
    fixture.auth.authenticate(&headers, &peer()).await?;
    assert!(is_recognized()?);
    fixture.advance(limits::JWKS_MAX_AGE_SECONDS);
    assert!(!is_recognized()?);
    fixture.auth.authenticate(&headers, &peer()).await?;
    // The entry that the connection remembers is replaced as well.
    assert!(is_recognized()?);
    std::fs::write(fixture.jwks_file(), crate::authn::mint::SigningKey::generate().public_jwks().to_string())?;
    fixture.advance(limits::JWKS_MAX_AGE_SECONDS);
    assert!(fixture.auth.authenticate(&headers, &peer()).await.is_err());
    assert!(!is_recognized()?);
    Ok(())
}

#[test]
fn api_keys_are_recognized_or_refused_at_once() -> Outcome {
    let key = generate();
    let settings = format!("[[api_keys]]\nname = 'billing'\nscopes = ['check']\nsha256 = '{}'", key.sha256);
    let auth =
        Authenticator::new(&toml::from_str(&settings)?, Clock::system()).map_err(|mistakes| mistakes.join("; "))?;
    let recent = RecentCredentials::default();
    let good = headers(&format!("Bearer {}", key.secret.expose()), &[])?;
    for _ in 0..2 {
        let caller = auth.recognize(&good, &recent, &peer())?.ok_or("not recognized")?;
        assert!(matches!(&*caller, Caller::Service(service) if service.identity.name == "billing"));
    }
    for wrong in [format!("Bearer {}", generate().secret.expose()), "Basic eDp5".to_owned(), "Bearer ".to_owned()] {
        let refusal = auth.recognize(&headers(&wrong, &[])?, &recent, &peer()).err();
        assert_eq!(refusal, Some(Refusal::CredentialInvalid), "{wrong}");
    }
    Ok(())
}

#[tokio::test]
async fn hs256_tokens_and_api_keys_identify_callers() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (path, secret, key) = (directory.path().join("secret"), "0123456789abcdef0123456789abcdef", generate());
    std::fs::write(&path, format!("{secret}\n"))?;
    let settings = format!(
        "[[issuers]]\nissuer = 'https://id.example'\naudience = 'roster'\nhs256_secret_file = '{}'\n\
         [[api_keys]]\nname = 'billing'\nscopes = ['check']\nsha256 = '{}'",
        path.display(),
        key.sha256
    );
    let clock = Clock::from_fn(|| std::time::UNIX_EPOCH + std::time::Duration::from_secs(NOW.unsigned_abs()));
    let auth = Authenticator::new(&toml::from_str(&settings)?, clock).map_err(|mistakes| mistakes.join("; "))?;
    for (secret, good) in [(secret, true), ("another secret of at least 32 bytes", false)] {
        let secret = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes())?;
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims("ada"), &secret)?;
        assert_eq!(auth.authenticate(&headers(&format!("Bearer {token}"), &[])?, &peer()).await.is_ok(), good);
    }
    let caller = auth.authenticate(&headers(&format!("Bearer {}", key.secret.expose()), &[])?, &peer()).await?;
    assert!(matches!(&*caller, Caller::Service(service) if service.identity.name == "billing"));
    Ok(())
}

/// The settings of issuers whose names follow from their prefixes.
fn prefixed_issuers(prefixes: &[&str]) -> Vec<IssuerSettings> {
    let tenants = |prefix: &str| if prefix.contains("{tenant}") { "/{tenant}/" } else { "" };
    let issuers = prefixes.iter().enumerate().map(|(number, prefix)| IssuerSettings {
        user_id_prefix: (*prefix).to_owned(),
        ..issuer(&format!("https://{number}.example{}", tenants(prefix)), std::path::PathBuf::new(), &[])
    });
    issuers.collect()
}

#[tokio::test]
async fn user_id_prefixes_separate_the_users_of_issuers() -> Outcome {
    let fixture = AuthFixture::with(prefixed_issuers(&["", "a", "ab", "x|", "t:{tenant}:"]))?;
    for (issuer, subject, id) in [
        ("https://0.example", "bob", Some("bob")),
        ("https://0.example", "x", Some("x")),
        ("https://0.example", "t:acme", Some("t:acme")),
        ("https://1.example", "da", Some("ada")),
        ("https://2.example", "c", Some("abc")),
        ("https://3.example", "x|bob", Some("x|x|bob")),
        ("https://4.example/acme/", "bob", Some("t:acme:bob")),
        ("https://4.example/acme/", "x|bob", Some("t:acme:x|bob")),
        // Users of other issuers.
        ("https://0.example", "ada", None),
        ("https://0.example", "abc", None),
        ("https://0.example", "x|bob", None),
        ("https://0.example", "x|", None),
        ("https://0.example", "t:acme:bob", None),
        ("https://1.example", "b", None),
        ("https://1.example", "bc", None),
    ] {
        let claims = ClaimSet { iss: issuer.to_owned(), ..claims(subject) };
        match authenticate(&fixture, &claims, &[]).await {
            Ok(caller) => assert_eq!(caller.user().map(UserId::as_str), id, "{issuer} {subject}"),
            Err(refusal) => assert_eq!((refusal, id), (Refusal::CredentialInvalid, None), "{issuer} {subject}"),
        }
    }
    Ok(())
}

/// Tokens that were verified before count too: another issuer owns their users from the reload on.
#[tokio::test]
async fn a_reload_that_adds_a_longer_prefix_refuses_tokens_with_it() -> Outcome {
    let fixture = AuthFixture::with(prefixed_issuers(&["", "y|"]))?;
    let recent = RecentCredentials::default();
    let mut requests = Vec::new();
    for subject in ["x|bob", "bob"] {
        let token = fixture.key.mint(&ClaimSet { iss: "https://0.example".to_owned(), ..claims(subject) })?;
        let request = headers(&format!("Bearer {}", token.expose()), &[])?;
        fixture.auth.authenticate(&request, &peer()).await?;
        assert!(fixture.auth.recognize(&request, &recent, &peer())?.is_some());
        requests.push(request);
    }
    let with_file = |prefixes: &[&str]| -> Result<Authenticator, Box<dyn std::error::Error>> {
        let mut issuers = prefixed_issuers(prefixes);
        for issuer in &mut issuers {
            issuer.jwks_file = Some(fixture.jwks_file());
        }
        let clock = Clock::from_fn(|| std::time::UNIX_EPOCH + std::time::Duration::from_secs(NOW.unsigned_abs()));
        let settings = AuthSettings { issuers, development_keys: true, ..AuthSettings::default() };
        Ok(Authenticator::new(&settings, clock).map_err(|mistakes| mistakes.join("; "))?)
    };
    let changes = fixture.auth.adopt(&with_file(&["", "y|", "x|"])?);
    let added = CredentialChanges { added_issuers: vec!["https://2.example".to_owned()], ..Default::default() };
    assert_eq!(changes, added);
    for request in &requests {
        assert!(fixture.auth.recognize(request, &recent, &peer())?.is_none());
    }
    let [of_another, own] = &*requests else { return Err("two requests".into()) };
    assert_eq!(fixture.auth.authenticate(of_another, &peer()).await.err(), Some(Refusal::CredentialInvalid));
    fixture.auth.authenticate(own, &peer()).await?;
    // Without the issuer, its prefix is free again.
    let _ = fixture.auth.adopt(&with_file(&["", "y|"])?);
    fixture.auth.authenticate(of_another, &peer()).await?;
    Ok(())
}

#[test]
fn every_mistake_in_the_settings_is_reported_at_once() {
    let mistakes = |settings: &AuthSettings| Authenticator::new(settings, Clock::system()).err().unwrap_or_default();
    assert_eq!(mistakes(&AuthSettings::default()), [NO_CALLERS]);

    let absent = || std::path::PathBuf::from("absent.json");
    let two_sources = IssuerSettings { hs256_secret_file: Some(absent()), ..issuer("b", absent(), &[]) };
    let no_source = IssuerSettings { jwks_file: None, audience: "".into(), ..issuer("b", absent(), &[]) };
    let issuers = vec![issuer("", absent(), &[]), two_sources, no_source];
    let mistakes = mistakes(&AuthSettings { issuers, ..AuthSettings::default() });
    let settings: Vec<_> = mistakes.iter().filter_map(|mistake| mistake.split([':', ' ']).next()).collect();
    assert_eq!(
        settings,
        [
            "issuers[0].issuer",
            "issuers[0].jwks_file",
            "issuers[1].user_id_prefix",
            "issuers[1].jwks_file",
            "issuers[2].issuer",
            "issuers[2].audience",
            "issuers[2].user_id_prefix",
            "issuers[2].issuer"
        ]
    );
    for (source, expected) in [
        ("jwks_url = 'http://id.example/keys'", "issuers[0].jwks_url: an https:// URL "),
        ("jwks_url = 'https://id.example'\nca_file = 'absent.pem'", "issuers[0].ca_file: absent.pem cannot be read"),
        ("ca_file = 'Cargo.toml'", "issuers[0].ca_file: Cargo.toml holds no certificate"),
        ("jwks_file = 'absent.json'\nca_file = 'Cargo.toml'", "issuers[0].ca_file: it is for keys that come by URL"),
        ("jwks_url = 'https://id.example'\nhs256_secret_file = 'a'", "issuers[0].jwks_file: at most one of "),
    ] {
        let settings = format!("[[issuers]]\nissuer = 'https://id.example'\naudience = 'b'\n{source}");
        let mistakes =
            Authenticator::new(&toml::from_str(&settings).unwrap(), Clock::system()).err().unwrap_or_default();
        assert!(mistakes.len() == 1 && mistakes[0].starts_with(expected), "{source}: {mistakes:?}");
    }
    for unknown in ["audiences = ['x']", "scopes = ['admin']", "keys = [{ algorithm = 'HS256', file = 'x' }]"] {
        let settings = format!("[[issuers]]\nissuer = 'a'\naudience = 'b'\n{unknown}");
        assert!(toml::from_str::<AuthSettings>(&settings).is_err(), "{unknown}");
    }
}

/// The settings of two issuers, whose prefixes and JWKS files have their names, and of these API keys.
fn settings_of(directory: &Path, issuers: &[(&str, &SigningKey)], api_keys: &[ApiKeySettings]) -> AuthSettings {
    let issuer = |(name, key): &(&str, &SigningKey)| {
        let file = directory.join(name);
        std::fs::write(&file, key.public_jwks().to_string()).map(|()| IssuerSettings {
            user_id_prefix: format!("{name}:"),
            ..issuer(&format!("https://{name}.example"), file, &[])
        })
    };
    AuthSettings {
        issuers: issuers.iter().flat_map(issuer).collect(),
        api_keys: api_keys.to_vec(),
        development_keys: true,
        ..AuthSettings::default()
    }
}

#[tokio::test]
async fn a_reload_keeps_what_did_not_change_and_refuses_what_is_gone() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (one, two, three) = (SigningKey::generate(), SigningKey::generate(), SigningKey::generate());
    let (billing, search) = (generate(), generate());
    let entry = |name: &str, key: &GeneratedApiKey, scopes: &[Scope]| ApiKeySettings {
        name: name.to_owned(),
        scopes: scopes.to_vec(),
        sha256: key.sha256.clone(),
    };
    let clock = || Clock::from_fn(|| std::time::UNIX_EPOCH + std::time::Duration::from_secs(NOW.unsigned_abs()));
    let read = |issuers: &[(&str, &SigningKey)], api_keys: &[ApiKeySettings]| {
        let settings = settings_of(directory.path(), issuers, api_keys);
        Authenticator::new(&settings, clock()).map_err(|mistakes| mistakes.join("; "))
    };
    let token = |name: &str, key: &SigningKey| -> Result<_, Box<dyn std::error::Error>> {
        let claims = ClaimSet { iss: format!("https://{name}.example"), ..claims("ada") };
        Ok(headers(&format!("Bearer {}", key.mint(&claims)?.expose()), &[])?)
    };
    let api_key = |key: &GeneratedApiKey| headers(&format!("Bearer {}", key.secret.expose()), &[]);

    let auth = read(&[("one", &one), ("two", &two)], &[entry("billing", &billing, &[Scope::Check])])?;
    let (of_one, of_two, of_billing) = (token("one", &one)?, token("two", &two)?, api_key(&billing)?);
    let recent = RecentCredentials::default();
    for request in [&of_one, &of_two, &of_billing] {
        auth.authenticate(request, &peer()).await?;
        assert!(auth.recognize(request, &recent, &peer())?.is_some());
    }
    assert_eq!(auth.computed_signatures(), 2);

    // Nothing changed.
    let same = read(&[("one", &one), ("two", &two)], &[entry("billing", &billing, &[Scope::Check])])?;
    assert!(auth.adopt(&same).is_empty());
    assert!(auth.recognize(&of_one, &recent, &peer())?.is_some());

    // The second issuer has another key, a third one is new, and the API key has other scopes.
    let keys = [entry("billing", &billing, &[Scope::Manage]), entry("search", &search, &[Scope::Check])];
    let changes = auth.adopt(&read(&[("one", &one), ("two", &three), ("three", &three)], &keys)?);
    assert_eq!(changes.added_issuers, ["https://three.example"]);
    assert_eq!(changes.rekeyed_issuers, ["https://two.example"]);
    assert_eq!(changes.removed_issuers, Vec::<String>::new());
    assert_eq!(changes.added_api_keys, ["billing", "search"]);
    assert_eq!(changes.removed_api_keys, ["billing"]);
    // In the memory of the connection too.
    assert!(auth.recognize(&of_one, &recent, &peer())?.is_some());
    assert!(auth.recognize(&of_two, &recent, &peer())?.is_none());
    assert_eq!(auth.authenticate(&of_two, &peer()).await.err(), Some(Refusal::CredentialInvalid));
    assert_eq!(auth.computed_signatures(), 2);
    for name in ["two", "three"] {
        auth.authenticate(&token(name, &three)?, &peer()).await?;
    }
    let caller = auth.recognize(&of_billing, &recent, &peer())?.ok_or("not recognized")?;
    assert!(matches!(&*caller, Caller::Service(service) if *service.scopes == [Scope::Manage]));

    // Clones of the authenticator, as in open streams, have the new state too.
    let clone = auth.clone();
    let changes = auth.adopt(&read(&[("three", &three)], &[entry("search", &search, &[Scope::Check])])?);
    assert_eq!((changes.added_api_keys.len(), changes.removed_issuers.len()), (0, 2));
    for request in [&of_one, &of_billing] {
        assert_eq!(clone.authenticate(request, &peer()).await.err(), Some(Refusal::CredentialInvalid));
    }
    Ok(())
}
