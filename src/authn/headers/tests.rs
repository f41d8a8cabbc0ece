use super::*;
use crate::authn::StreamCredential;
use crate::authn::testing::{AuthFixture, Outcome, authenticate, claims, headers, peer, service};
use crate::domain::Refusal;
use base64::engine::general_purpose::STANDARD;

#[tokio::test]
async fn a_binary_header_names_every_user() -> Outcome {
    let fixture = AuthFixture::new(&Scope::ALL)?;
    let (longest, too_long) = ("\u{e9}".repeat(127), "\u{e9}".repeat(128));
    for id in
        ["ada", "Zo\u{eb}", "\u{5c71}\u{7530}", "auth0|\u{43e}\u{43b}\u{44f}", "e\u{301}", "a,b", longest.as_str()]
    {
        let padded = STANDARD.encode(id);
        for value in [padded.trim_end_matches('='), &padded] {
            let caller = authenticate(&fixture, &service("roster:act-as"), &[(ON_BEHALF_OF_BIN, value)]).await?;
            assert_eq!(caller.user().map(UserId::as_str), Some(id), "{value}");
            assert!(
                matches!(&*caller, Caller::User(user) if user.via.as_ref().is_some_and(|via| via.name == "billing"))
            );
        }
    }
    let encode = |bytes: &[u8]| STANDARD.encode(bytes);
    let (zoe, other) = (encode("Zo\u{eb}".as_bytes()), encode(b"ada"));
    for values in [
        vec![""],
        vec!["ada"],
        // Not base64, another alphabet, a space, bits behind the end, and too much padding.
        vec!["Zo\u{eb}"],
        vec!["-_-_"],
        vec![" YWRh"],
        vec!["YWR="],
        vec!["YWRh="],
        // Several values: in a list, repeated, and equal.
        vec![&*format!("{zoe},{other}")],
        vec![&*format!("{zoe}, {zoe}")],
        vec![","],
        vec![&zoe, &other],
        vec![&zoe, &zoe],
        // No UTF-8, and no ids of new users.
        vec![&*encode(b"\xff\xfe")],
        vec![&*encode(b" ada")],
        vec![&*encode(b"a\0b")],
        vec![&*encode("a\u{200b}da".as_bytes())],
        vec![&*encode(too_long.as_bytes())],
    ] {
        let headers: Vec<_> = values.iter().map(|value| (ON_BEHALF_OF_BIN, *value)).collect();
        let refusal = authenticate(&fixture, &service("roster:act-as"), &headers).await.err();
        assert!(
            matches!(&refusal, Some(Refusal::InvalidRequest(fields)) if fields[0].field == ON_BEHALF_OF_BIN),
            "{values:?}: {refusal:?}"
        );
        assert!(!format!("{refusal:?}").contains(&zoe));
    }
    // Both headers, whether they agree or not.
    for text in ["ada", "bob", ""] {
        let both = [(ON_BEHALF_OF, text), (ON_BEHALF_OF_BIN, &*other)];
        let refusal = authenticate(&fixture, &service("roster:operator"), &both).await.err();
        assert!(
            matches!(&refusal, Some(Refusal::InvalidRequest(fields))
                if fields.len() == 1 && fields[0].sentence.contains("send one of the two")),
            "{refusal:?}"
        );
    }
    // Who may not act for a user learns nothing about the value.
    for value in [&*other, "?"] {
        let header = [(ON_BEHALF_OF_BIN, value)];
        let refusal = authenticate(&fixture, &claims("ada"), &header).await.err();
        assert_eq!(refusal, Some(Refusal::OnBehalfOfNotAllowed));
        let mut anonymous = HeaderMap::new();
        anonymous.insert(ON_BEHALF_OF_BIN, value.parse()?);
        assert_eq!(fixture.auth.authenticate(&anonymous, &peer()).await.err(), Some(Refusal::CredentialMissing));
    }
    Ok(())
}

#[tokio::test]
async fn the_credential_of_a_stream_names_the_same_user() -> Outcome {
    let fixture = AuthFixture::new(&Scope::ALL)?;
    let token = format!("Bearer {}", fixture.key.mint(&service("roster:act-as"))?.expose());
    for (header, expected) in [((ON_BEHALF_OF, "ada"), "ada"), ((ON_BEHALF_OF_BIN, "Wm/Dqw"), "Zo\u{eb}")] {
        let headers = headers(&token, &[header])?;
        let credential = StreamCredential::new(fixture.auth.clone(), &headers, None, Arc::new(peer()));
        assert_eq!(credential.verify().await?.user().map(UserId::as_str), Some(expected));
    }
    Ok(())
}
