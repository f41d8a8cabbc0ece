//! Reading keys from files, and refusing those that cannot be used.

use super::limits;
use super::settings::{Algorithm, PemKey};
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
use jsonwebtoken::{DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::io::Read;
use std::path::Path;

/// One key, and the one algorithm that it is used with.
pub(super) struct VerificationKey {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    material: DecodingKey,
}

impl VerificationKey {
    /// Takes a key if it is one that its algorithm can work with: the library itself looks no sooner than at the first
    /// token, and slices an Ed25519 key without asking for its length.
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
                (bytes < limits::HS256_SECRET_BYTES).then_some("a secret needs at least 32 bytes")
            }
        };
        problem.map_or(Ok(Self { id, algorithm, material }), |problem| Err(problem.to_owned()))
    }

    /// Whether this key made this signature (in base64url) of this message.
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
    let bytes = key.try_get_as_bytes().ok().and_then(|bytes| <&[u8; 32]>::try_from(bytes).ok());
    bytes.and_then(|bytes| ed25519_dalek::VerifyingKey::from_bytes(bytes).ok()).is_some_and(|key| !key.is_weak())
}

/// Reads a file of keys.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
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

/// Reads the secret that is shared with an issuer.
pub(super) fn read_secret(path: &Path) -> Result<VerificationKey, String> {
    let bytes = read(path)?;
    if bytes.starts_with(b"-----BEGIN") {
        return Err("holds a PEM key, which is no shared secret; a public key belongs into `keys`".to_owned());
    }
    VerificationKey::new(None, Algorithm::Hs256, DecodingKey::from_secret(bytes.trim_ascii_end()))
}

/// Reads public keys, each from its PEM file. An error names the setting.
pub(super) fn parse_pems(settings: &[PemKey]) -> Result<Vec<VerificationKey>, String> {
    let mut keys = Vec::with_capacity(settings.len());
    for (index, setting) in settings.iter().enumerate() {
        keys.push(parse_pem(setting).map_err(|why| format!("keys[{index}].file: {why}"))?);
    }
    unambiguous(keys)
}

fn parse_pem(setting: &PemKey) -> Result<VerificationKey, String> {
    let bytes = read(&setting.file)?;
    // The library takes certificates and private keys too, and then the first bit string that it finds in them.
    if !bytes.trim_ascii_start().starts_with(b"-----BEGIN PUBLIC KEY-----") {
        return Err("a PEM file that begins with -----BEGIN PUBLIC KEY----- is needed".to_owned());
    }
    let key = match setting.algorithm {
        Algorithm::Rs256 => DecodingKey::from_rsa_pem(&bytes),
        Algorithm::Es256 => DecodingKey::from_ec_pem(&bytes),
        Algorithm::EdDsa => DecodingKey::from_ed_pem(&bytes),
        Algorithm::Hs256 => return Err("a public key is not used with HS256".to_owned()),
    };
    VerificationKey::new(
        setting.kid.clone(),
        setting.algorithm,
        key.map_err(|_| "not a public key for its algorithm".to_owned())?,
    )
}

/// A JWKS (RFC 7517), as much of it as matters here.
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

/// Reads the keys of a JWKS: at least one.
pub(super) fn parse_jwks(bytes: &[u8]) -> Result<Vec<VerificationKey>, String> {
    // Only where, not what: should a private key stand there, the message must not quote it.
    let jwks: Jwks = serde_json::from_slice(bytes)
        .map_err(|error| format!("not a JWKS: see line {}, column {}", error.line(), error.column()))?;
    let mut keys = Vec::with_capacity(jwks.keys.len());
    for (index, jwk) in jwks.keys.into_iter().enumerate() {
        keys.extend(parse_jwk(jwk).map_err(|why| format!("its key {index}: {why}"))?);
    }
    if keys.is_empty() {
        return Err("holds no RS256, ES256 or EdDSA key for signatures".to_owned());
    }
    unambiguous(keys)
}

/// One key of a JWKS; none if it is for another purpose or an algorithm that roster does not know.
fn parse_jwk(jwk: Jwk) -> Result<Option<VerificationKey>, String> {
    if jwk.kty == "oct" || jwk.d.is_some() {
        return Err("a symmetric or private key: a JWKS file is for public keys".to_owned());
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

fn unambiguous(keys: Vec<VerificationKey>) -> Result<Vec<VerificationKey>, String> {
    let mut ids: Vec<_> = keys.iter().filter_map(|key| key.id.as_deref()).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("two keys have one key id".to_owned());
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::mint::SigningKey;
    use std::path::PathBuf;

    /// The files in `tests/keys`.
    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name)
    }

    fn pem(algorithm: Algorithm, file: PathBuf) -> Result<VerificationKey, String> {
        parse_pem(&PemKey { algorithm, kid: None, file })
    }

    /// Why a JWKS with these keys is refused; else how many of them are used.
    fn jwks(keys: &[&str]) -> Result<usize, String> {
        parse_jwks(format!("{{\"keys\":[{}]}}", keys.join(",")).as_bytes()).map(|keys| keys.len())
    }

    #[test]
    fn openssl_and_this_agree() -> Result<(), String> {
        for (name, algorithm) in [("rs256", Algorithm::Rs256), ("es256", Algorithm::Es256)] {
            let jwt = String::from_utf8(read(&file(&format!("{name}.jwt")))?).map_err(|error| error.to_string())?;
            let (message, signature) = jwt.rsplit_once('.').ok_or("no token")?;
            let mut keys = parse_jwks(&read(&file(&format!("{name}.jwks.json")))?)?;
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
    fn keys_that_cannot_be_used_are_refused_when_they_are_read() -> std::io::Result<()> {
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
    fn a_jwks_is_read_with_care() {
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
            // The neutral element: with it, anybody can sign.
            r#"{"kty":"OKP","crv":"Ed25519","x":"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#,
            r#"{"kty":"OKP","crv":"Ed25519"}"#,
            r#"{"kty":"EC","crv":"P-256","x":"AQAB","y":"AQAB"}"#,
            r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#,
            r#"{"kid":"no type"}"#,
            good,
        ] {
            assert!(jwks(&[good, bad]).is_err(), "{bad}");
        }
        assert!(jwks(&[r#"{"kty":"oct","k":7,"kid":"c2VjcmV0"}"#]).is_err_and(|why| !why.contains("c2VjcmV0")));
    }

    #[test]
    fn a_shared_secret_is_long_and_no_public_key() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("secret");
        for (text, good) in [
            ("x".repeat(32), true),
            (format!("{}\n", "x".repeat(32)), true),
            (format!("{}\n", "x".repeat(31)), false),
            (String::from_utf8(read(&file("rs256.pem"))?)?, false),
            ("x".repeat(300_000), false),
        ] {
            std::fs::write(&path, &text)?;
            assert_eq!(read_secret(&path).is_ok(), good, "{} bytes", text.len());
        }
        Ok(())
    }
}
