//! What may write the profile of a user.

use super::accepted::AcceptedCredentials;
use super::settings::ProfileSource;
use super::tenant::matched_prefix;
use crate::domain::UserId;
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// The sources of the profiles of all users, by the issuers that are accepted at the time of the question. Without
/// issuers, every profile has both sources.
#[derive(Clone, Default)]
pub struct ProfileSources(Option<watch::Receiver<Arc<AcceptedCredentials>>>);

impl ProfileSources {
    pub(super) fn new(accepted: watch::Receiver<Arc<AcceptedCredentials>>) -> Self {
        Self(Some(accepted))
    }

    /// Returns what may write the profile of a user. The issuer of the user is the one with the longest prefix that
    /// begins the id.
    #[must_use]
    pub fn of(&self, user: &UserId) -> ProfileSource {
        let Some(accepted) = &self.0 else { return ProfileSource::default() };
        let accepted = accepted.borrow();
        let issuers = accepted.issuers.iter().map(|issuer| issuer.settings());
        issuers
            .filter_map(|issuer| Some((matched_prefix(&issuer.user_id_prefix, user.as_str())?, issuer)))
            .max_by_key(|(length, _)| *length)
            .and_then(|(_, issuer)| issuer.profile_source)
            .unwrap_or_default()
    }
}

impl fmt::Debug for ProfileSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProfileSources")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::settings::IssuerSettings;
    use crate::authn::testing::{AuthFixture, Outcome};

    fn issuer(name: &str, prefix: &str, source: Option<ProfileSource>) -> IssuerSettings {
        IssuerSettings {
            issuer: name.to_owned(),
            audience: "roster".into(),
            user_id_prefix: prefix.to_owned(),
            profile_source: source,
            ..IssuerSettings::default()
        }
    }

    #[test]
    fn the_issuer_with_the_longest_prefix_decides() -> Outcome {
        use ProfileSource::{Both, PutUser, Tokens};
        let fixture = AuthFixture::with(vec![
            issuer("https://a.example", "", Some(Tokens)),
            issuer("https://b.example", "b|", None),
            issuer("https://c.example", "b|c|", Some(PutUser)),
            issuer("https://d.example/{tenant}/", "d:{tenant}:", Some(PutUser)),
        ])?;
        let sources = fixture.auth.profile_sources();
        for (user, expected) in [
            ("ada", Tokens),
            ("b", Tokens),
            ("b|ada", Both),
            ("b|c|ada", PutUser),
            ("d:acme:ada", PutUser),
            ("d::ada", Tokens),
            ("d:acme", Tokens),
        ] {
            assert_eq!(sources.of(&UserId::parse(user)?), expected, "{user}");
        }
        // A reload counts at once.
        let other = AuthFixture::with(vec![issuer("https://a.example", "", None)])?;
        let _ = fixture.auth.adopt(&other.auth);
        assert_eq!(sources.of(&UserId::parse("ada")?), Both);
        assert_eq!(ProfileSources::default().of(&UserId::parse("ada")?), Both);
        Ok(())
    }
}
