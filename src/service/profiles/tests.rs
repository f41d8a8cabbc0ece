use super::*;
use crate::random;
use time::OffsetDateTime;

fn address(text: &str) -> EmailAddress {
    EmailAddress::parse(text).unwrap()
}

/// A user whose address was issued at 100 and whose name was issued at 200.
fn stored(email: Option<&str>, verified: bool) -> User {
    User {
        id: UserId::parse("ada").unwrap(),
        state: UserState::Active,
        deactivated_by_operator: false,
        email: email.map(address),
        email_verified: verified,
        display_name: DisplayName::parse("Ada").ok(),
        profile_issued_at: 200,
        email_issued_at: 100,
        display_name_issued_at: 200,
        is_known: true,
        revision: 1,
        create_time: OffsetDateTime::UNIX_EPOCH,
        update_time: OffsetDateTime::UNIX_EPOCH,
    }
}

fn token(email: Option<&str>, verified: Option<bool>, name: Option<&str>, issued_at: i64) -> Refresh {
    let claims = ProfileClaims {
        email: email.map(address),
        email_verified: verified,
        display_name: name.map(|name| DisplayName::parse(name).unwrap()),
        ignored: Vec::new(),
    };
    Refresh { id: UserId::parse("ada").unwrap(), claims, issued_at }
}

#[test]
fn verification_belongs_to_the_address_of_the_same_token() {
    const OWN: Option<&str> = Some("ada@x.example");
    const NEW: Option<&str> = Some("new@x.example");
    for (stored_email, was_verified, email, verified, expected) in [
        // The same address: an absent claim keeps the verification, a present one counts.
        (OWN, true, OWN, None, (OWN, true)),
        (OWN, false, OWN, None, (OWN, false)),
        (OWN, true, OWN, Some(false), (OWN, false)),
        (OWN, false, OWN, Some(true), (OWN, true)),
        (OWN, true, Some("ADA@X.example"), None, (Some("ADA@X.example"), true)),
        // Another address: verified only if the same token says so.
        (OWN, true, NEW, None, (NEW, false)),
        (OWN, true, NEW, Some(false), (NEW, false)),
        (OWN, true, NEW, Some(true), (NEW, true)),
        (None, false, NEW, None, (NEW, false)),
        (None, false, NEW, Some(true), (NEW, true)),
        // Without an address, the verification says nothing.
        (OWN, true, None, Some(false), (OWN, true)),
        (OWN, false, None, Some(true), (OWN, false)),
        (None, false, None, Some(true), (None, false)),
        (OWN, true, None, None, (OWN, true)),
    ] {
        let user = token(email, verified, None, 300).applied_to(&stored(stored_email, was_verified));
        let found = (user.email.as_ref().map(EmailAddress::given), user.email_verified);
        assert_eq!(found, expected, "{stored_email:?} {was_verified} {email:?} {verified:?}");
        assert_eq!(user.display_name, stored(None, false).display_name);
    }
}

#[test]
fn each_claim_has_its_own_time_of_issue() {
    let user = stored(Some("ada@x.example"), true);
    for (issued_at, expected) in [
        (99, ("ada@x.example", "Ada", 100, 200)),
        (100, ("new@x.example", "Ada", 100, 200)),
        (150, ("new@x.example", "Ada", 150, 200)),
        (200, ("new@x.example", "Grace", 200, 200)),
        (201, ("new@x.example", "Grace", 201, 201)),
    ] {
        let found = token(Some("new@x.example"), Some(true), Some("Grace"), issued_at).applied_to(&user);
        let (email, name) = (found.email.unwrap(), found.display_name.unwrap());
        let found = (email.given(), name.as_str(), found.email_issued_at, found.display_name_issued_at);
        assert_eq!(found, expected, "{issued_at}");
    }
    let erased = User { state: UserState::Erased, ..stored(None, false) };
    assert_eq!(token(Some("new@x.example"), Some(true), Some("Grace"), 300).applied_to(&erased), erased);
}

/// In any order, the tokens of a user lead to the newest claims.
#[test]
fn the_order_of_tokens_does_not_matter() {
    let pick = |choices: u64| random::bits() % choices;
    for _ in 0..500 {
        let tokens: Vec<Refresh> = (1..=4_i64)
            .map(|number| {
                let email = (pick(2) == 0).then(|| format!("{number}@x.example"));
                let name = (pick(2) == 0).then(|| format!("Ada {number}"));
                token(email.as_deref(), Some(pick(2) == 0), name.as_deref(), 300 + number)
            })
            .collect();
        let apply = |order: &mut dyn Iterator<Item = &Refresh>| {
            order.fold(stored(None, false), |user, token| token.applied_to(&user))
        };
        let forwards = apply(&mut tokens.iter());
        let claims = || tokens.iter().map(|token| &token.claims).collect::<Vec<_>>();
        assert_eq!(apply(&mut tokens.iter().rev()), forwards, "{:?}", claims());
        assert_eq!(apply(&mut tokens[2..].iter().chain(&tokens[..2])), forwards, "{:?}", claims());
        let newest = tokens.iter().rev().find(|token| token.claims.email.is_some());
        assert_eq!(forwards.email.as_ref(), newest.and_then(|token| token.claims.email.as_ref()), "{:?}", claims());
        assert_eq!(forwards.email_issued_at, newest.map_or(100, |token| token.issued_at), "{:?}", claims());
    }
}
