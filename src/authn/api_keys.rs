//! API keys: random texts that a service sends as its bearer credential.
//!
//! The settings contain only the SHA-256 of a key. A key has 256 random bits, so a fast hash protects it sufficiently,
//! and the duration of the digest lookup reveals nothing useful to an attacker.

use super::caller::{Caller, Namespace, ServiceCaller, ServiceIdentity};
use super::retirement::Retirement;
use super::secret::Secret;
use super::settings::ApiKeySettings;
use crate::domain::{Scope, UserId};
use crate::random;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// The prefix of every key. It distinguishes keys from tokens, and lets secret scanners find leaked keys.
pub(super) const PREFIX: &str = "roster_";

/// A newly generated key.
pub struct GeneratedApiKey {
    /// The key, for its owner. It cannot be recovered from the digest.
    pub secret: Secret,
    /// The digest for the setting `sha256`, in hexadecimal.
    pub sha256: String,
}

/// Generates a key.
#[must_use]
pub fn generate() -> GeneratedApiKey {
    let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random::secret()));
    let digits = Sha256::digest(&text).into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let sha256 = digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect();
    GeneratedApiKey { secret: Secret::new(text), sha256 }
}

/// The configured keys, by the SHA-256 of the key.
pub(super) struct ApiKeys(HashMap<[u8; 32], Arc<AcceptedApiKey>>);

/// An API key, for as long as the settings name it.
pub(super) struct AcceptedApiKey {
    pub(super) caller: Arc<Caller>,
    pub(super) settings: ApiKeySettings,
    pub(super) retired: Retirement,
}

impl ApiKeys {
    /// Reads the configured keys, and adds every error in the settings to `mistakes`.
    pub(super) fn new(settings: &[ApiKeySettings], mistakes: &mut Vec<String>) -> Self {
        let mut keys = HashMap::new();
        for (index, key) in settings.iter().enumerate() {
            let mut reject =
                |field: &str, sentence: &str| mistakes.push(format!("api_keys[{index}].{field}: {sentence}"));
            if UserId::parse_new(&key.name).is_err() {
                reject("name", "a name has 1 to 255 bytes, no invisible characters, and no blanks at its ends");
            }
            if key.scopes.is_empty() {
                reject("scopes", "a key without a scope can do nothing: name at least one");
            }
            match parse_digest(&key.sha256).map(|digest| keys.entry(digest)) {
                None => reject("sha256", "the SHA-256 of the key is needed, as 64 hexadecimal digits"),
                Some(Entry::Occupied(_)) => reject("sha256", "another entry has the same key"),
                Some(Entry::Vacant(entry)) => {
                    let identity = ServiceIdentity { name: key.name.clone(), namespace: Namespace::ApiKeys };
                    let caller = Arc::new(caller_with_scopes(identity, key.scopes.clone()));
                    entry.insert(Arc::new(AcceptedApiKey {
                        caller,
                        settings: key.clone(),
                        retired: Retirement::default(),
                    }));
                }
            }
        }
        Self(keys)
    }

    /// Returns the key with this text.
    pub(super) fn find(&self, text: &str) -> Option<Arc<AcceptedApiKey>> {
        self.0.get::<[u8; 32]>(&Sha256::digest(text).into()).cloned()
    }

    /// Returns these keys without those that `next` lacks and with those that it adds; then the added and the removed
    /// ones, in the order of their names.
    pub(super) fn replaced_by(&self, next: &Self) -> (Self, Vec<Arc<AcceptedApiKey>>, Vec<Arc<AcceptedApiKey>>) {
        let (mut keys, mut added) = (HashMap::new(), Vec::new());
        for (digest, key) in &next.0 {
            let old = self.0.get(digest).filter(|old| old.settings == key.settings);
            if old.is_none() {
                added.push(key.clone());
            }
            keys.insert(*digest, old.unwrap_or(key).clone());
        }
        let is_kept = |(digest, old): &(&[u8; 32], &Arc<AcceptedApiKey>)| {
            keys.get(*digest).is_some_and(|key| Arc::ptr_eq(key, old))
        };
        let mut removed: Vec<_> = self.0.iter().filter(|entry| !is_kept(entry)).map(|(_, key)| key.clone()).collect();
        for list in [&mut added, &mut removed] {
            list.sort_by(|one, other| one.settings.name.cmp(&other.settings.name));
        }
        (Self(keys), added, removed)
    }
}

/// Returns the caller with these scopes: an operator if they contain [`Scope::Operator`], otherwise a service.
pub(super) fn caller_with_scopes(identity: ServiceIdentity, mut scopes: Vec<Scope>) -> Caller {
    if scopes.contains(&Scope::Operator) {
        return Caller::Operator(identity);
    }
    scopes.sort_unstable();
    scopes.dedup();
    Caller::Service(ServiceCaller { identity, scopes: scopes.into() })
}

fn parse_digest(text: &str) -> Option<[u8; 32]> {
    // Checks the digits first, because `from_str_radix` also accepts a sign.
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, scopes: &[Scope], sha256: &str) -> ApiKeySettings {
        ApiKeySettings { name: name.to_owned(), scopes: scopes.to_vec(), sha256: sha256.to_owned() }
    }

    #[test]
    fn keys_are_found_by_their_digest() {
        let (old, new, root) = (generate(), generate(), generate());
        assert_eq!(old.secret.expose().len(), PREFIX.len() + 43);
        let settings = [
            entry("billing", &[Scope::Check], &old.sha256),
            entry("billing", &[Scope::Check, Scope::Manage, Scope::Check], &new.sha256.to_uppercase()),
            entry("root", &[Scope::Check, Scope::Operator], &root.sha256),
        ];
        let mut mistakes = Vec::new();
        let keys = ApiKeys::new(&settings, &mut mistakes);
        assert_eq!(mistakes, Vec::<String>::new());

        let scopes = |key: &GeneratedApiKey| match keys.find(key.secret.expose()).as_deref().map(|key| &*key.caller) {
            Some(Caller::Service(service)) if service.identity.name == "billing" => service.scopes.to_vec(),
            _ => Vec::new(),
        };
        assert_eq!(scopes(&old), [Scope::Check]);
        assert_eq!(scopes(&new), [Scope::Check, Scope::Manage]);
        assert!(
            matches!(keys.find(root.secret.expose()).as_deref().map(|key| &*key.caller), Some(Caller::Operator(operator)) if operator.name == "root")
        );
        assert!(keys.find(generate().secret.expose()).is_none());
        assert!(keys.find(&old.sha256).is_none());
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let shared = generate().sha256;
        let settings = [
            entry("a", &[Scope::Check], &shared),
            entry("", &[], &shared),
            entry("b", &[Scope::Check], &format!("+{}", &shared[1..])),
        ];
        let mut mistakes = Vec::new();
        ApiKeys::new(&settings, &mut mistakes);
        let settings: Vec<_> = mistakes.iter().filter_map(|mistake| mistake.split(':').next()).collect();
        assert_eq!(settings, ["api_keys[1].name", "api_keys[1].scopes", "api_keys[1].sha256", "api_keys[2].sha256"]);
    }
}
