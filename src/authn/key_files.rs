//! Reads keys from files and rejects unusable keys.

use super::limits;
use super::settings::{Algorithm, PemKey};
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use jsonwebtoken::{DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::io::Read;
use std::path::Path;

/// A key that verifies signatures, with its only algorithm.
pub(super) struct VerificationKey {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    material: DecodingKey,
}

impl VerificationKey {
    /// Creates a key after checking that it fits its algorithm. The library itself checks a key only when it verifies
    /// the first token, and it slices an Ed25519 key without checking its length.
    fn new(id: Option<String>, algorithm: Algorithm, material: DecodingKey) -> Result<Self, String> {
        let problem = match algorithm {
            Algorithm::Rs256 => {
                let bits = rsa_bits(&material);
                (!limits::RSA_BITS.contains(&bits)).then_some("not an RSA public key of 2048 to 4096 bits")
            }
            Algorithm::Es256 => (DEFAULT_PROVIDER.verifier_factory)(&jsonwebtoken::Algorithm::ES256, &material)
                .is_err()
                .then_some("not a public key on P-256"),
            Algorithm::EdDsa => (!is_ed25519(&material)).then_some("not an Ed25519 public key, or a weak one"),
            Algorithm::Hs256 => {
                let bytes = material.try_get_as_bytes().map_or(0, <[u8]>::len);
                (bytes < limits::HS256_SECRET_MIN_BYTES).then_some("a secret needs at least 32 bytes")
            }
        };
        problem.map_or(Ok(Self { id, algorithm, material }), |problem| Err(problem.to_owned()))
    }

    /// Returns whether the signature (in base64url) of the message was made with this key.
    pub(super) fn verifies(&self, message: &str, signature: &str) -> bool {
        let algorithm = match self.algorithm {
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
        };
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.material, algorithm).unwrap_or(false)
    }
}

fn rsa_bits(key: &DecodingKey) -> usize {
    let modulus = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.clone(),
        DecodingKeyKind::SecretOrDer(der) => {
            (DEFAULT_PROVIDER.key_utils.rsa_pub_components_from_public_key)(der).map(|(n, _)| n).unwrap_or_default()
        }
    };
    let first = modulus.iter().position(|byte| *byte != 0).unwrap_or(modulus.len());
    8 * (modulus.len() - first) - modulus.get(first).map_or(0, |byte| byte.leading_zeros() as usize)
}

fn is_ed25519(key: &DecodingKey) -> bool {
    let bytes = key.try_get_as_bytes().ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes.is_some_and(|mut bytes| {
        // The highest bit is the sign of x, which does not affect the order of a point.
        bytes[31] &= 0x7f;
        !SMALL_ORDER_POINTS.contains(&bytes)
    })
}

/// The y coordinates of the points of Ed25519 whose order is at most 8, in every encoding: a signature for such a key
/// needs no private key. The numbers are 0, 1, p - 1, p, p + 1 and the two roots of order 8 (Taming the many `EdDSAs`,
/// Chalkias et al. 2020, table 1).
const SMALL_ORDER_POINTS: [[u8; 32]; 7] = [
    [0; 32],
    small_number(1),
    near_prime(0xec),
    near_prime(0xed),
    near_prime(0xee),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

const fn small_number(number: u8) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0] = number;
    bytes
}

/// A number near p = 2^255 - 19, whose lowest byte is 0xed.
const fn near_prime(lowest: u8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    bytes[0] = lowest;
    bytes[31] = 0x7f;
    bytes
}

/// Reads a key file of at most [`limits::KEY_FILE_BYTES`].
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limits::KEY_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= limits::KEY_FILE_BYTES) {
        Ok(bytes)
    } else {
        Err(format!("{} is larger than 256 KiB", path.display()))
    }
}

/// Reads the secret that an issuer shares.
pub(super) fn load_secret(path: &Path) -> Result<VerificationKey, String> {
    let bytes = read_file(path)?;
    if bytes.starts_with(b"-----BEGIN") {
        return Err("contains a PEM key, not a shared secret; configure a public key in `keys`".to_owned());
    }
    let secret =
        DecodingKey::from_secret(bytes.trim_ascii_end()).map_err(|_| "cannot be used as a secret".to_owned())?;
    VerificationKey::new(None, Algorithm::Hs256, secret)
}

/// Reads public keys, each from its PEM file.
///
/// # Errors
/// All mistakes. Each begins with the name of the setting.
pub(super) fn load_pems(settings: &[PemKey]) -> Result<Vec<VerificationKey>, Vec<String>> {
    let (mut keys, mut mistakes) = (Vec::with_capacity(settings.len()), Vec::new());
    for (index, setting) in settings.iter().enumerate() {
        if setting.algorithm.is_none() {
            mistakes.push(format!("keys[{index}].algorithm is needed: RS256, ES256 or EdDSA"));
        }
        if setting.file.as_os_str().is_empty() {
            mistakes.push(format!("keys[{index}].file is needed: the PEM file"));
            continue;
        }
        match load_pem(setting) {
            Ok(key) => keys.extend(key),
            Err(error) => mistakes.push(format!("keys[{index}].file: {error}")),
        }
    }
    if mistakes.is_empty() {
        require_unique_ids(keys).map_err(|error| vec![format!("keys: {error}")])
    } else {
        Err(mistakes)
    }
}

/// Reads one key; `None` if its file is one and its algorithm is not known.
fn load_pem(setting: &PemKey) -> Result<Option<VerificationKey>, String> {
    let bytes = read_file(&setting.file)?;
    // The library also accepts certificates and private keys, and uses the first bit string that it finds in them.
    if !bytes.trim_ascii_start().starts_with(b"-----BEGIN PUBLIC KEY-----") {
        return Err("must be a PEM file that begins with -----BEGIN PUBLIC KEY-----".to_owned());
    }
    let Some(algorithm) = setting.algorithm else { return Ok(None) };
    let key = match algorithm {
        Algorithm::Rs256 => DecodingKey::from_rsa_pem(&bytes),
        Algorithm::Es256 => DecodingKey::from_ec_pem(&bytes),
        Algorithm::EdDsa => DecodingKey::from_ed_pem(&bytes),
        Algorithm::Hs256 => return Err("HS256 needs a shared secret, not a public key".to_owned()),
    };
    let key = key.map_err(|_| "not a public key for its algorithm".to_owned())?;
    VerificationKey::new(setting.kid.clone(), algorithm, key).map(Some)
}

/// A JWKS (RFC 7517), with the members that roster reads.
#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
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
}

/// Parses the keys of a JWKS, at least one.
pub(super) fn parse_jwks(bytes: &[u8]) -> Result<Vec<VerificationKey>, String> {
    // The message contains only the position: the file may contain a private key, which the message must not quote.
    let jwks: Jwks = serde_json::from_slice(bytes)
        .map_err(|error| format!("not a JWKS: error at line {}, column {}", error.line(), error.column()))?;
    let mut keys = Vec::with_capacity(jwks.keys.len());
    for (index, jwk) in jwks.keys.into_iter().enumerate() {
        keys.extend(parse_jwk(jwk).map_err(|error| format!("key {index}: {error}"))?);
    }
    if keys.is_empty() {
        return Err("contains no RS256, ES256 or EdDSA key for signatures".to_owned());
    }
    require_unique_ids(keys)
}

/// Parses one key of a JWKS; `None` if it is for another purpose or an algorithm that roster does not support.
fn parse_jwk(jwk: Jwk) -> Result<Option<VerificationKey>, String> {
    if jwk.kty == "oct" || jwk.d.is_some() {
        return Err("symmetric or private key: a JWKS file may contain only public keys".to_owned());
    }
    if jwk.usage.is_some_and(|usage| usage != "sig") {
        return Ok(None);
    }
    let (algorithm, key) = match (jwk.kty.as_str(), jwk.crv.as_deref(), jwk.alg.as_deref()) {
        ("RSA", _, None | Some("RS256")) => (Algorithm::Rs256, DecodingKey::from_rsa_components(&jwk.n, &jwk.e)),
        ("EC", Some("P-256"), None | Some("ES256")) => {
            (Algorithm::Es256, DecodingKey::from_ec_components(&jwk.x, &jwk.y))
        }
        ("OKP", Some("Ed25519"), None | Some("EdDSA")) => (Algorithm::EdDsa, DecodingKey::from_ed_components(&jwk.x)),
        _ => return Ok(None),
    };
    VerificationKey::new(jwk.kid, algorithm, key.map_err(|_| "not base64url".to_owned())?).map(Some)
}

/// Rejects a set of keys in which two keys have the same id.
fn require_unique_ids(keys: Vec<VerificationKey>) -> Result<Vec<VerificationKey>, String> {
    let mut ids: Vec<_> = keys.iter().filter_map(|key| key.id.as_deref()).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("two keys have the same key id".to_owned());
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::mint::SigningKey;
    use std::path::PathBuf;

    /// Returns the path of a file in `tests/keys`.
    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name)
    }

    fn pem(algorithm: Algorithm, file: PathBuf) -> Result<VerificationKey, String> {
        let key = load_pem(&PemKey { algorithm: Some(algorithm), kid: None, file })?;
        key.ok_or_else(|| "no algorithm".to_owned())
    }

    /// Parses a JWKS with these keys and returns the number of usable keys.
    fn jwks(keys: &[&str]) -> Result<usize, String> {
        parse_jwks(format!("{{\"keys\":[{}]}}", keys.join(",")).as_bytes()).map(|keys| keys.len())
    }

    #[test]
    fn keys_verify_tokens_that_openssl_signed() -> Result<(), String> {
        for (name, algorithm) in [("rs256", Algorithm::Rs256), ("es256", Algorithm::Es256)] {
            let jwt =
                String::from_utf8(read_file(&file(&format!("{name}.jwt")))?).map_err(|error| error.to_string())?;
            let (message, signature) = jwt.rsplit_once('.').ok_or("no token")?;
            let mut keys = parse_jwks(&read_file(&file(&format!("{name}.jwks.json")))?)?;
            keys.push(pem(algorithm, file(&format!("{name}.pem")))?);
            for key in keys {
                assert_eq!(key.algorithm, algorithm);
                assert!(key.verifies(message, signature));
                assert!(!key.verifies(&message[1..], signature));
                assert!(!key.verifies(message, &signature[4..]));
                assert!(!key.verifies(message, ""));
            }
        }
        Ok(())
    }

    #[test]
    fn unusable_keys_are_rejected_when_they_are_read() -> std::io::Result<()> {
        for (algorithm, name) in [
            (Algorithm::Rs256, "rsa-1024.pem"),
            (Algorithm::Rs256, "es256.pem"),
            (Algorithm::Es256, "rs256.pem"),
            (Algorithm::Es256, "p384.pem"),
            (Algorithm::EdDsa, "es256.pem"),
            (Algorithm::Hs256, "es256.pem"),
            (Algorithm::Es256, "rs256.jwt"),
            (Algorithm::Es256, "absent.pem"),
        ] {
            assert!(pem(algorithm, file(name)).is_err(), "{algorithm:?} {name}");
        }
        let directory = tempfile::tempdir()?;
        let private = directory.path().join("key.pem");
        SigningKey::generate().save(&private)?;
        assert!(pem(Algorithm::EdDsa, private).is_err());
        let certificate = directory.path().join("certificate.pem");
        let text = std::fs::read_to_string(file("es256.pem"))?.replace("PUBLIC KEY", "CERTIFICATE");
        std::fs::write(&certificate, text)?;
        assert!(pem(Algorithm::Es256, certificate).is_err());
        Ok(())
    }

    #[test]
    fn a_jwks_skips_foreign_keys_and_rejects_unsafe_ones() {
        let good = r#"{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        assert_eq!(jwks(&[good]), Ok(1));
        for other in [
            r#"{"kty":"RSA","use":"enc","n":"AQAB","e":"AQAB"}"#,
            r#"{"kty":"RSA","alg":"RSA-OAEP","n":"AQAB","e":"AQAB"}"#,
            r#"{"kty":"RSA","alg":"HS256","n":"AQAB","e":"AQAB"}"#,
            r#"{"kty":"EC","crv":"P-384","x":"AQAB","y":"AQAB"}"#,
            r#"{"kty":"AKP"}"#,
        ] {
            assert_eq!(jwks(&[good, other]), Ok(1), "{other}");
            assert!(jwks(&[other]).is_err(), "{other}");
        }
        for bad in [
            r#"{"kty":"oct","k":"c2VjcmV0"}"#,
            r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"c2VjcmV0"}"#,
            r#"{"kty":"OKP","crv":"Ed25519","x":"AQAB"}"#,
            // The neutral element: a signature for this key needs no private key.
            r#"{"kty":"OKP","crv":"Ed25519","x":"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#,
            r#"{"kty":"OKP","crv":"Ed25519"}"#,
            r#"{"kty":"EC","crv":"P-256","x":"AQAB","y":"AQAB"}"#,
            r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#,
            r#"{"kid":"no type"}"#,
            good,
        ] {
            assert!(jwks(&[good, bad]).is_err(), "{bad}");
        }
        assert!(jwks(&[r#"{"kty":"oct","k":7,"kid":"c2VjcmV0"}"#]).is_err_and(|error| !error.contains("c2VjcmV0")));
    }

    #[test]
    fn a_shared_secret_is_long_enough_and_not_a_public_key() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("secret");
        for (text, good) in [
            ("x".repeat(32), true),
            (format!("{}\n", "x".repeat(32)), true),
            (format!("{}\n", "x".repeat(31)), false),
            (String::from_utf8(read_file(&file("rs256.pem"))?)?, false),
            ("x".repeat(300_000), false),
        ] {
            std::fs::write(&path, &text)?;
            assert_eq!(load_secret(&path).is_ok(), good, "{} bytes", text.len());
        }
        Ok(())
    }
}
