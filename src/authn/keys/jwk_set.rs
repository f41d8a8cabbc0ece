//! The parser of key sets (RFC 7517). It parses each key alone: a key that cannot be used is skipped, and the others work.

use super::verification_key::{UnusableKey, VerificationKey};
use crate::authn::limits;
use crate::authn::mint::KEY_ID_PREFIX;
use crate::authn::settings::Algorithm;
use crate::limited_log::excerpt;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// The keys of a set.
pub(in crate::authn) struct JwkSet {
    /// The usable keys, in an order that does not depend on the one of the document.
    pub(super) keys: Vec<VerificationKey>,
    pub(super) skipped: Vec<SkippedKey>,
}

/// A key of a set that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::authn) struct SkippedKey {
    /// The position in the set, from 0.
    pub(super) index: usize,
    /// The key id, as it may stand in a log line.
    pub(super) id: Option<String>,
    pub(super) reason: SkipReason,
}

/// Why a key of a set is not used. It contains no part of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::authn) enum SkipReason {
    #[error("not a JWK: a member is missing or has the wrong type")]
    Malformed,
    #[error("a private or symmetric key, which its owner has to replace: a key set is public")]
    Private,
    #[error("not for signatures (use or key_ops)")]
    OtherPurpose,
    #[error("not of a type that roster uses: RSA, EC with P-256 or P-384, or OKP with Ed25519")]
    UnknownType,
    #[error("not of an algorithm that roster uses with this type of key")]
    UnknownAlgorithm,
    #[error(transparent)]
    Unusable(#[from] UnusableKey),
    #[error("a key before it has the same kid and algorithm")]
    Repeated,
    #[error("a key of `roster dev` and `roster token`, which only `roster dev` accepts")]
    Development,
    #[error("the set has more than {} keys", limits::KEYS_PER_SET)]
    TooMany,
}

/// Why a document is not a key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::authn) enum JwkSetError {
    // Only the position: the document may contain a private key, which the message must not quote.
    #[error("not a JWKS: error at line {0}, column {1}")]
    Malformed(usize, usize),
    #[error("contains no key that roster can use{}", first(.0))]
    NoKey(Vec<SkippedKey>),
}

fn first(skipped: &[SkippedKey]) -> String {
    skipped.first().map(|key| format!(": {key}")).unwrap_or_default()
}

impl std::fmt::Display for SkippedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = self.id.as_deref().map(|id| format!(" (kid {id})")).unwrap_or_default();
        write!(f, "key {}{id} is not used: {}", self.index, self.reason)
    }
}

#[derive(Deserialize)]
struct JwkList {
    keys: Vec<Value>,
}

/// One key, with the members that roster reads.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
    d: Option<IgnoredAny>,
    p: Option<IgnoredAny>,
    k: Option<IgnoredAny>,
}

impl JwkSet {
    /// Parses a key set with at least one usable key. Keys of `roster dev` are skipped, unless this is `roster dev`.
    ///
    /// Of keys with the same id and a common algorithm, the first one is used, so that a token selects at most one key.
    pub(super) fn parse(bytes: &[u8], development_keys: bool) -> Result<Self, JwkSetError> {
        let document: JwkList =
            serde_json::from_slice(bytes).map_err(|error| JwkSetError::Malformed(error.line(), error.column()))?;
        let mut set = Self { keys: Vec::new(), skipped: Vec::new() };
        for (index, value) in document.keys.into_iter().enumerate() {
            let id = value["kid"].as_str().map(excerpt);
            match set.usable(value, development_keys) {
                Ok(key) => set.keys.push(key),
                Err(reason) => set.skipped.push(SkippedKey { index, id, reason }),
            }
        }
        if set.keys.is_empty() {
            return Err(JwkSetError::NoKey(set.skipped));
        }
        set.keys.sort_by(|one, other| one.identity().cmp(&other.identity()));
        Ok(set)
    }

    fn usable(&self, value: Value, development_keys: bool) -> Result<VerificationKey, SkipReason> {
        if self.keys.len() == limits::KEYS_PER_SET {
            return Err(SkipReason::TooMany);
        }
        let key = parse(serde_json::from_value(value).map_err(|_| SkipReason::Malformed)?)?;
        if !development_keys && key.id.as_deref().is_some_and(is_development) {
            return Err(SkipReason::Development);
        }
        let is_repetition =
            |other: &VerificationKey| other.id == key.id && key.algorithms().any(|algorithm| other.accepts(algorithm));
        if key.id.is_some() && self.keys.iter().any(is_repetition) {
            return Err(SkipReason::Repeated);
        }
        Ok(key)
    }

    /// Returns whether the set has the same keys, and skips the same, as another one.
    pub(super) fn is_same(&self, keys: &[VerificationKey], skipped: &[SkippedKey]) -> bool {
        are_same((&self.keys, &self.skipped), (keys, skipped))
    }
}

/// Returns whether two versions of a set have the same usable keys, and skip the same. The order of a document is of no
/// importance: the servers of one provider may differ in it.
pub(super) fn are_same(
    (keys, skipped): (&[VerificationKey], &[SkippedKey]),
    (others, others_skipped): (&[VerificationKey], &[SkippedKey]),
) -> bool {
    let sorted = |skipped: &[SkippedKey]| {
        let mut causes: Vec<_> = skipped.iter().map(|key| (key.id.clone(), key.reason.to_string())).collect();
        causes.sort_unstable();
        causes
    };
    keys.iter().map(VerificationKey::identity).eq(others.iter().map(VerificationKey::identity))
        && sorted(skipped) == sorted(others_skipped)
}

/// Whether this is the id of a key of `roster dev`.
pub(super) fn is_development(id: &str) -> bool {
    id.starts_with(KEY_ID_PREFIX)
}

/// Parses one key.
fn parse(jwk: Jwk) -> Result<VerificationKey, SkipReason> {
    let Jwk { kty, usage, key_ops, alg, kid, crv, n, e, x, y, d, p, k } = jwk;
    if kty == "oct" || d.is_some() || p.is_some() || k.is_some() {
        return Err(SkipReason::Private);
    }
    if usage.is_some_and(|usage| usage != "sig")
        || key_ops.is_some_and(|operations| operations.iter().all(|operation| operation != "verify"))
    {
        return Err(SkipReason::OtherPurpose);
    }
    let algorithm = match alg.as_deref().map(Algorithm::parse) {
        Some(None | Some(Algorithm::Hs256)) => return Err(SkipReason::UnknownAlgorithm),
        Some(algorithm) => algorithm,
        None => None,
    };
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| SkipReason::Malformed);
    let (only, key) = match (kty.as_str(), crv.as_deref()) {
        ("RSA", _) => return Ok(VerificationKey::rsa(kid, algorithm, &decode(&n)?, &decode(&e)?)?),
        ("EC", Some("P-256")) => (Algorithm::Es256, point(&decode(&x)?, &decode(&y)?, 32)?),
        ("EC", Some("P-384")) => (Algorithm::Es384, point(&decode(&x)?, &decode(&y)?, 48)?),
        ("OKP", Some("Ed25519")) => (Algorithm::EdDsa, decode(&x)?),
        _ => return Err(SkipReason::UnknownType),
    };
    if algorithm.is_some_and(|algorithm| algorithm != only) {
        return Err(SkipReason::UnknownAlgorithm);
    }
    Ok(match only {
        Algorithm::EdDsa if key.len() != 32 => return Err(UnusableKey::Ed25519.into()),
        Algorithm::EdDsa => VerificationKey::ed25519(kid, &key)?,
        _ => VerificationKey::ec(kid, only, &key)?,
    })
}

/// An uncompressed point of a curve whose coordinates have this length.
fn point(x: &[u8], y: &[u8], length: usize) -> Result<Vec<u8>, SkipReason> {
    if x.len() != length || y.len() != length {
        return Err(UnusableKey::Ec.into());
    }
    Ok([&[4], x, y].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ED25519: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    /// A usable key with this id.
    fn good(id: &str) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": ED25519})
    }

    /// A usable key with other members.
    fn changed(members: &[(&str, Value)]) -> Value {
        let mut key = good("other");
        for (name, value) in members {
            key[*name] = value.clone();
        }
        key
    }

    /// A 2048-bit RSA modulus, and a P-256 point, of the tests.
    fn published(name: &str) -> Value {
        let text = match name {
            "rs256" => include_str!("../../../tests/keys/rs256.jwks.json"),
            _ => include_str!("../../../tests/keys/es256.jwks.json"),
        };
        let set: Value = serde_json::from_str(text).unwrap();
        set["keys"][0].clone()
    }

    fn parse(keys: &[Value]) -> Result<JwkSet, JwkSetError> {
        JwkSet::parse(json!({ "keys": keys }).to_string().as_bytes(), false)
    }

    fn with(key: &Value, name: &str, value: impl Into<Value>) -> Value {
        let mut key = key.clone();
        key[name] = value.into();
        key
    }

    /// Keys that cannot be used, each with the reason.
    fn unusable() -> Vec<(Value, SkipReason)> {
        let (rsa, ec) = (published("rs256"), published("es256"));
        let weak_rsa = SkipReason::Unusable(UnusableKey::Rsa);
        let off_curve = SkipReason::Unusable(UnusableKey::Ec);
        let okp_error = SkipReason::Unusable(UnusableKey::Ed25519);
        let modulus = URL_SAFE_NO_PAD.decode(rsa["n"].as_str().unwrap()).unwrap();
        let mut even = modulus.clone();
        *even.last_mut().unwrap() &= 0xfe;
        let [even, short, padded] =
            [&even[..], &modulus[1..], &[&[0; 200], &modulus[..56]].concat()].map(|n| URL_SAFE_NO_PAD.encode(n));
        let huge = URL_SAFE_NO_PAD.encode([&modulus[..], &modulus, &modulus].concat());
        let swapped = with(&with(&ec, "x", ec["y"].clone()), "y", ec["x"].clone());
        vec![
            (json!(7), SkipReason::Malformed),
            (json!([]), SkipReason::Malformed),
            (json!({"kid": "no type"}), SkipReason::Malformed),
            (changed(&[("kid", json!(7))]), SkipReason::Malformed),
            (changed(&[("x", json!("not base64url!"))]), SkipReason::Malformed),
            (json!({"kty": "oct", "k": "c2VjcmV0"}), SkipReason::Private),
            (changed(&[("d", json!("c2VjcmV0"))]), SkipReason::Private),
            (with(&rsa, "p", "c2VjcmV0"), SkipReason::Private),
            (changed(&[("k", json!("c2VjcmV0"))]), SkipReason::Private),
            (with(&rsa, "use", "enc"), SkipReason::OtherPurpose),
            (changed(&[("key_ops", json!(["encrypt", "wrapKey"]))]), SkipReason::OtherPurpose),
            (changed(&[("key_ops", json!([]))]), SkipReason::OtherPurpose),
            (json!({"kty": "AKP", "alg": "ML-DSA-44"}), SkipReason::UnknownAlgorithm),
            (json!({"kty": "AKP"}), SkipReason::UnknownType),
            (json!({"kty": "EC", "crv": "P-521", "x": "AQAB", "y": "AQAB"}), SkipReason::UnknownType),
            (json!({"kty": "EC", "crv": "secp256k1", "x": "AQAB", "y": "AQAB"}), SkipReason::UnknownType),
            (changed(&[("crv", json!("Ed448"))]), SkipReason::UnknownType),
            (changed(&[("crv", json!("X25519"))]), SkipReason::UnknownType),
            (with(&rsa, "alg", "RSA-OAEP"), SkipReason::UnknownAlgorithm),
            (with(&rsa, "alg", "HS256"), SkipReason::UnknownAlgorithm),
            (with(&rsa, "alg", "none"), SkipReason::UnknownAlgorithm),
            (with(&ec, "alg", "ES384"), SkipReason::UnknownAlgorithm),
            (changed(&[("alg", json!("RS256"))]), SkipReason::UnknownAlgorithm),
            (with(&rsa, "alg", "ES256"), SkipReason::Unusable(UnusableKey::WrongAlgorithm)),
            (with(&rsa, "n", "AQAB"), weak_rsa),
            (with(&rsa, "n", ""), weak_rsa),
            (with(&rsa, "n", short), weak_rsa),
            (with(&rsa, "n", padded), weak_rsa),
            (with(&rsa, "n", huge), weak_rsa),
            (with(&rsa, "n", even), weak_rsa),
            (with(&rsa, "e", "AQ"), weak_rsa),
            (with(&rsa, "e", "AA"), weak_rsa),
            (with(&rsa, "e", "CA"), weak_rsa),
            (with(&rsa, "e", ""), weak_rsa),
            (with(&rsa, "e", "AQAAAAAAAAAAAAAB"), weak_rsa),
            (swapped, off_curve),
            (with(&ec, "x", "AQAB"), off_curve),
            (with(&ec, "y", ""), off_curve),
            (with(&ec, "crv", "P-384"), off_curve),
            (changed(&[("x", json!("AQAB"))]), okp_error),
            (json!({"kty": "OKP", "crv": "Ed25519"}), okp_error),
            // The neutral element: a signature for this key needs no private key.
            (changed(&[("x", json!("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))]), okp_error),
            (good("good"), SkipReason::Repeated),
            (good("roster-dev-1"), SkipReason::Development),
        ]
    }

    #[test]
    fn a_key_that_cannot_be_used_is_skipped_with_its_reason_and_the_others_work() {
        for (key, reason) in unusable() {
            let id = key["kid"].as_str().map(str::to_owned);
            let set = parse(&[good("good"), key.clone(), good("last")]).unwrap();
            let ids: Vec<_> = set.keys.iter().filter_map(|key| key.id.as_deref()).collect();
            assert_eq!(ids, ["good", "last"], "{key}");
            assert_eq!(set.skipped, [SkippedKey { index: 1, id, reason }], "{key}");
            if reason != SkipReason::Repeated {
                let error = parse(std::slice::from_ref(&key)).err().map(|error| error.to_string()).unwrap_or_default();
                assert!(error.starts_with("contains no key that roster can use: key 0"), "{key}: {error}");
                assert!(!error.contains("c2VjcmV0") && !error.contains(ED25519), "{error}");
            }
        }
    }

    #[test]
    fn a_key_verifies_its_algorithm_or_all_of_its_type() {
        let rsa = published("rs256");
        for (key, expected) in [
            (&with(&rsa, "alg", "RS256"), &[Algorithm::Rs256][..]),
            (&with(&rsa, "alg", "PS384"), &[Algorithm::Ps384]),
            (&rsa, &RSA),
            (&with(&rsa, "n", format!("AAAA{}", rsa["n"].as_str().unwrap())), &RSA),
            (&with(&rsa, "key_ops", json!(["verify"])), &RSA),
            (&with(&rsa, "alg", Value::Null), &RSA),
            (&published("es256"), &[Algorithm::Es256]),
            (&changed(&[("alg", json!("Ed25519"))]), &[Algorithm::EdDsa]),
        ] {
            let set = parse(std::slice::from_ref(key)).unwrap();
            assert_eq!(set.keys[0].algorithms().collect::<Vec<_>>(), expected, "{key}");
        }
    }

    const RSA: [Algorithm; 6] =
        [Algorithm::Rs256, Algorithm::Rs384, Algorithm::Rs512, Algorithm::Ps256, Algorithm::Ps384, Algorithm::Ps512];

    #[test]
    fn of_keys_with_one_id_the_first_of_each_algorithm_is_used() {
        let rsa = with(&published("rs256"), "kid", "same");
        let (rs256, ps256, all) = (with(&rsa, "alg", "RS256"), with(&rsa, "alg", "PS256"), rsa);
        let set = parse(&[good("same"), rs256, ps256, all, good("same")]).unwrap();
        let mut algorithms: Vec<_> = set.keys.iter().flat_map(VerificationKey::algorithms).collect();
        algorithms.sort_unstable();
        assert_eq!(algorithms, [Algorithm::Rs256, Algorithm::Ps256, Algorithm::EdDsa]);
        let skipped: Vec<_> = set.skipped.iter().map(|key| (key.index, key.reason)).collect();
        assert_eq!(skipped, [(3, SkipReason::Repeated), (4, SkipReason::Repeated)]);
        // Keys without an id are distinguished by their algorithms only.
        let without_id = with(&good(""), "kid", Value::Null);
        assert_eq!(parse(&[without_id.clone(), without_id]).unwrap().keys.len(), 2);
    }

    #[test]
    fn the_order_of_a_document_does_not_change_the_set() {
        let (one, other) = (published("rs256"), good("a"));
        let (set, reversed) = (parse(&[one.clone(), other.clone()]).unwrap(), parse(&[other.clone(), one]).unwrap());
        assert!(set.is_same(&reversed.keys, &reversed.skipped));
        let fewer = parse(std::slice::from_ref(&other)).unwrap();
        assert!(!fewer.is_same(&set.keys, &set.skipped));
        let with_skipped = parse(&[other, json!(7)]).unwrap();
        assert!(!with_skipped.is_same(&fewer.keys, &fewer.skipped));
    }

    #[test]
    fn a_document_that_is_no_key_set_is_an_error_without_its_text() {
        for text in ["", "{", "[]", "7", r#"{"keys":{}}"#, r#"{"keys":null}"#, r#"{"kty":"oct","k":"c2VjcmV0"}"#] {
            let error = JwkSet::parse(text.as_bytes(), false).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.starts_with("not a JWKS: error at line "), "{text}: {error}");
        }
        let error = parse(&[]).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("contains no key that roster can use"));
        let nested = format!("{{\"keys\":[{}1{}]}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(JwkSet::parse(nested.as_bytes(), false).is_err());
    }

    #[test]
    fn a_large_set_is_cut() {
        let keys: Vec<_> = (0..200).map(|number| good(&format!("key-{number}"))).collect();
        let set = parse(&keys).unwrap();
        assert_eq!((set.keys.len(), set.skipped.len()), (limits::KEYS_PER_SET, 200 - limits::KEYS_PER_SET));
        assert!(set.skipped.iter().all(|key| key.reason == SkipReason::TooMany));
    }
}
