//! The settings of issuers: how their tokens are read.

use super::*;

#[test]
fn every_mistake_about_tokens_is_reported_with_its_field() {
    let file = "
        database_url = 'postgres:///roster'
        [[issuers]]
        issuer = 'https://a.example'
        audience = ['roster', 7]
        preset = 'okto'
        callers = 's3cret'
        [issuers.claims]
        e_mail = 'mail'
        name = 7
        scopes = { s3cret = 1 }
        [[issuers]]
        issuer = 'https://b.example/{tenant}'
        audience = []
        preset = 'google'
        claims = 's3cret'
        callers = 'people'
        service_claim = '='
        scope_prefix = ''
        [[issuers]]
        issuer = 'https://c.example'
        audience = 7
        user_id_prefix = 'c'
        tenants = 'x'
        scopes = ['check']
        [issuers.claims]
        user_id = ''
        scopes = []
        [mail]
        kind = 'off'
    ";
    let found = mistakes(&[], &[], file);
    assert!(!found.join("").contains("s3cret"), "{found:?}");
    let starts: Vec<&str> =
        short(&found).iter().map(|text| text.split([';', ',']).next().unwrap_or_default()).collect();
    assert_eq!(
        starts,
        [
            "issuers[0].audience[1] (from FILE): write a text in quotation marks",
            "issuers[0].callers (from FILE): write people or services",
            "issuers[0].claims.e_mail (from FILE): no such setting",
            "issuers[0].claims.name (from FILE): write a text in quotation marks",
            "issuers[0].claims.scopes (from FILE): write a text in quotation marks",
            "issuers[0].preset (from FILE): write one of apple",
            "issuers[1].claims (from FILE): write a table",
            "issuers[2].audience (from FILE): write a text in quotation marks",
            "issuers[2].tenants (from FILE): write a list in square brackets",
            "issuers[1].audience: the aud of tokens for this server is needed (in FILE)",
            "issuers[1].scope_prefix: without a prefix",
            "issuers[1].user_id_prefix: write {tenant} in it once",
            "issuers[1].service_claim: write the name of a claim",
            "issuers[1].callers: the preset or service_claim says which tokens are those of services: remove it (in \
             FILE)",
            "issuers[1].user_id_prefix: another entry has the same",
            "issuers[1].issuer: without jwks_url",
            "issuers[2].claims.user_id: write the name of a claim",
            "issuers[2].scopes: no claim of its tokens is read for scopes: name one in claims.scopes",
        ]
    );
}

#[test]
fn a_prefix_that_no_user_id_can_have_is_a_mistake() {
    for prefix in [" b:", "\u{a0}b:", "b\u{200b}:", "\u{202e}b:", "b\u{fe0f}:"] {
        let file = format!(
            "[[issuers]]\nissuer = 'https://b.example'\naudience = 'roster'\njwks_url = 'https://b.example/keys'\n\
             callers = 'people'\nuser_id_prefix = '{prefix}'\n[mail]\nkind = 'off'\n"
        );
        let found = mistakes(&[DATABASE], &[], &file);
        let [mistake] = found.as_slice() else { panic!("{prefix:?}: {found:?}") };
        assert!(mistake.starts_with("issuers[0].user_id_prefix: write at most 254 bytes"), "{mistake}");
    }
}

#[test]
fn an_issuer_that_names_no_kind_of_callers_is_a_warning() -> Outcome {
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join("jwks.json"), include_str!("../../../tests/keys/es256.jwks.json"))?;
    let table = |name: &str, rest: &str| {
        format!(
            "[[issuers]]\nissuer = '{name}'\naudience = 'roster'\njwks_file = 'jwks.json'\n\
             user_id_prefix = '{name}'\n{rest}"
        )
    };
    let file = ["", "callers = 'people'\n", "preset = 'auth0'\n", "callers = 5\n"]
        .map(|rest| table(&rest.len().to_string(), rest));
    let settings = read_in(directory.path(), &[DATABASE], &[], &format!("{}{KEY}", file[..3].concat()));
    let warnings = settings.map_err(|mistakes| mistakes.join("\n"))?.warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("issuers[0].callers: write \"people\" or \"services\""), "{warnings:?}");
    assert!(warnings[0].ends_with(" (in FILE)"), "{warnings:?}");
    // A mistake in the setting itself is not repeated.
    let found = read_in(directory.path(), &[DATABASE], &[], &format!("{}{KEY}", file[3])).err().unwrap_or_default();
    assert_eq!(short(&found), ["issuers[0].callers (from FILE): write a text in quotation marks"]);
    Ok(())
}
