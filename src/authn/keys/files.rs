//! Reads keys from files and rejects unusable keys.

use super::jwk_set::{JwkSet, JwkSetError, SkipReason, is_development};
use super::verification_key::VerificationKey;
use crate::authn::limits;
use crate::authn::settings::PemKey;
use std::io::Read;
use std::path::Path;

/// Reads a key file of at most [`limits::KEY_FILE_BYTES`].
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limits::KEY_FILE_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if bytes.len() <= limits::KEY_FILE_BYTES {
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
    let secret = bytes.trim_ascii_end();
    if secret.len() < limits::HS256_SECRET_MIN_BYTES {
        return Err("a secret needs at least 32 bytes".to_owned());
    }
    Ok(VerificationKey::secret(secret))
}

/// Reads a JWKS file with at least one usable key and without keys of `roster dev`, unless this is `roster dev`.
pub(super) fn load_jwks(path: &Path, development_keys: bool) -> Result<JwkSet, String> {
    let set = JwkSet::parse(&read_file(path)?, development_keys);
    let skipped = match &set {
        Ok(set) => &set.skipped,
        Err(JwkSetError::NoKey(skipped)) => skipped,
        Err(JwkSetError::Malformed(..)) => &Vec::new(),
    };
    if let Some(key) = skipped.iter().find(|key| key.reason == SkipReason::Development) {
        return Err(format!("{key}: remove it, or start `roster dev`"));
    }
    set.map_err(|error| error.to_string())
}

/// Reads public keys, each from its PEM file.
///
/// # Errors
/// All mistakes. Each begins with the name of the setting.
pub(super) fn load_pems(settings: &[PemKey], development_keys: bool) -> Result<Vec<VerificationKey>, Vec<String>> {
    let (mut keys, mut mistakes) = (Vec::with_capacity(settings.len()), Vec::new());
    for (index, setting) in settings.iter().enumerate() {
        if setting.algorithm.is_none() {
            mistakes.push(format!("keys[{index}].algorithm is needed, as RS256, ES256 or EdDSA"));
        }
        if setting.file.as_os_str().is_empty() {
            mistakes.push(format!("keys[{index}].file is needed: the PEM file"));
            continue;
        }
        if !development_keys && setting.kid.as_deref().is_some_and(is_development) {
            mistakes
                .push(format!("keys[{index}].kid: {}: remove the key, or start `roster dev`", SkipReason::Development));
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
    let pem = pem::parse(&bytes).map_err(|_| "not PEM".to_owned())?;
    let key = VerificationKey::der(setting.kid.clone(), algorithm, pem.contents());
    key.map(Some).map_err(|error| error.to_string())
}

/// Rejects a list of keys in which two keys have the same id.
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
    use crate::authn::settings::Algorithm;
    use std::path::PathBuf;

    /// Returns the path of a file in `tests/keys`.
    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name)
    }

    fn pem(algorithm: Algorithm, file: PathBuf) -> Result<VerificationKey, String> {
        let key = load_pem(&PemKey { algorithm: Some(algorithm), kid: None, file })?;
        key.ok_or_else(|| "no algorithm".to_owned())
    }

    #[test]
    fn keys_verify_tokens_that_openssl_signed() -> Result<(), String> {
        for (name, algorithm) in [("rs256", Algorithm::Rs256), ("es256", Algorithm::Es256)] {
            let jwt =
                String::from_utf8(read_file(&file(&format!("{name}.jwt")))?).map_err(|error| error.to_string())?;
            let (message, signature) = jwt.rsplit_once('.').ok_or("no token")?;
            let mut keys = load_jwks(&file(&format!("{name}.jwks.json")), false)?.keys;
            keys.push(pem(algorithm, file(&format!("{name}.pem")))?);
            for key in keys {
                assert!(key.accepts(algorithm));
                assert!(key.verifies(algorithm, message, signature));
                assert!(!key.verifies(Algorithm::Rs384, message, signature));
                assert!(!key.verifies(algorithm, &message[1..], signature));
                assert!(!key.verifies(algorithm, message, &signature[4..]));
                assert!(!key.verifies(algorithm, message, ""));
            }
        }
        Ok(())
    }

    #[test]
    fn unusable_keys_are_rejected_when_they_are_read() -> std::io::Result<()> {
        for (algorithm, name) in [
            (Algorithm::Rs256, "rsa-1024.pem"),
            (Algorithm::Ps512, "rsa-1024.pem"),
            (Algorithm::Ps512, "p384.pem"),
            (Algorithm::Es384, "es256.pem"),
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
    fn keys_of_roster_dev_are_for_roster_dev_only() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let key = SigningKey::generate();
        let (jwks, public) = (directory.path().join("jwks.json"), directory.path().join("public.pem"));
        std::fs::write(&public, key.public_pem())?;
        let mut set = key.public_jwks();
        let other = serde_json::from_slice::<serde_json::Value>(&read_file(&file("es256.jwks.json"))?)?;
        set["keys"].as_array_mut().ok_or("no keys")?.push(other["keys"][0].clone());
        // Alone, and beside a key of a provider.
        for set in [key.public_jwks(), set] {
            std::fs::write(&jwks, set.to_string())?;
            assert!(load_jwks(&jwks, false).is_err_and(|error| error.contains("a key of `roster dev`")));
            assert!(load_jwks(&jwks, true).is_ok());
        }
        let pem =
            |kid: &str| PemKey { algorithm: Some(Algorithm::EdDsa), kid: Some(kid.to_owned()), file: public.clone() };
        let mistakes = load_pems(&[pem("good"), pem(&key.id())], false).err().unwrap_or_default();
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(mistakes[0].starts_with("keys[1].kid: a key of `roster dev`"), "{mistakes:?}");
        assert!(load_pems(&[pem("good"), pem(&key.id())], true).is_ok());
        Ok(())
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
