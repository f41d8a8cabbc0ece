//! One key that verifies signatures, with the algorithms that it verifies.

use crate::authn::limits;
use crate::authn::settings::Algorithm;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, EcdsaVerificationAlgorithm, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
};
use aws_lc_rs::{hmac, rsa};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The algorithms of an RSA key whose set does not name one.
const RSA_ALGORITHMS: [Algorithm; 6] =
    [Algorithm::Rs256, Algorithm::Rs384, Algorithm::Rs512, Algorithm::Ps256, Algorithm::Ps384, Algorithm::Ps512];
/// The public exponents of RSA that the library uses, all of them odd.
const RSA_EXPONENTS: std::ops::Range<u64> = 3..1 << 33;

/// A key that verifies signatures.
pub(in crate::authn) struct VerificationKey {
    pub(in crate::authn) id: Option<String>,
    /// At least one. The library parses a key for one algorithm.
    verifiers: Vec<(Algorithm, KeyMaterial)>,
}

enum KeyMaterial {
    Public(ParsedPublicKey),
    Secret(Box<hmac::Key>),
}

/// Why a key cannot be used. It contains no part of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::authn) enum UnusableKey {
    #[error("not an RSA public key of 2048 to 4096 bits with an odd exponent of at least 3")]
    Rsa,
    #[error("not a point on the curve of its algorithm, each coordinate in full length")]
    Ec,
    #[error("not an Ed25519 public key, or a weak one")]
    Ed25519,
    #[error("the algorithm is not one of the type of the key")]
    WrongAlgorithm,
}

impl VerificationKey {
    /// An RSA key, from its modulus and exponent (big-endian). Without an algorithm it verifies all six.
    pub(super) fn rsa(
        id: Option<String>,
        algorithm: Option<Algorithm>,
        modulus: &[u8],
        exponent: &[u8],
    ) -> Result<Self, UnusableKey> {
        let (n, e) = (without_leading_zeros(modulus), without_leading_zeros(exponent));
        let first_bits = n.first().map_or(0, |first| first.leading_zeros() as usize);
        let is_odd = n.last().is_some_and(|last| last % 2 == 1) && e.last().is_some_and(|last| last % 2 == 1);
        let number = (e.len() <= 8).then(|| e.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)));
        let has_exponent = number.is_some_and(|number| RSA_EXPONENTS.contains(&number));
        if !limits::RSA_BITS.contains(&(8 * n.len()).saturating_sub(first_bits)) || !is_odd || !has_exponent {
            return Err(UnusableKey::Rsa);
        }
        let one = algorithm.map(|algorithm| [algorithm]);
        let algorithms = one.as_ref().map_or(&RSA_ALGORITHMS[..], |one| one);
        let verifier = |algorithm: &Algorithm| {
            let parameters = rsa_parameters(*algorithm).ok_or(UnusableKey::WrongAlgorithm)?;
            let key = RsaPublicKeyComponents { n, e }.to_parsed_public_key(parameters);
            Ok((*algorithm, KeyMaterial::Public(key.map_err(|_| UnusableKey::Rsa)?)))
        };
        Ok(Self { id, verifiers: algorithms.iter().map(verifier).collect::<Result<_, _>>()? })
    }

    /// A key on the curve of this algorithm, as an uncompressed point or as `SubjectPublicKeyInfo` in DER.
    pub(super) fn ec(id: Option<String>, algorithm: Algorithm, key: &[u8]) -> Result<Self, UnusableKey> {
        let curve = ec_curve(algorithm).ok_or(UnusableKey::WrongAlgorithm)?;
        // The library checks that the point is on the curve.
        let key = ParsedPublicKey::new(curve, key).map_err(|_| UnusableKey::Ec)?;
        Ok(Self { id, verifiers: vec![(algorithm, KeyMaterial::Public(key))] })
    }

    /// An Ed25519 key, as 32 bytes or as `SubjectPublicKeyInfo` in DER, which ends with them.
    ///
    /// Bytes that are no point of the curve are accepted: the library does not check it, and such a key verifies nothing.
    pub(super) fn ed25519(id: Option<String>, key: &[u8]) -> Result<Self, UnusableKey> {
        let parsed = ParsedPublicKey::new(&ED25519, key).map_err(|_| UnusableKey::Ed25519)?;
        let mut point: [u8; 32] = *key.last_chunk().ok_or(UnusableKey::Ed25519)?;
        // The highest bit is the sign of x, which does not affect the order of a point.
        point[31] &= 0x7f;
        if SMALL_ORDER_POINTS.contains(&point) {
            return Err(UnusableKey::Ed25519);
        }
        Ok(Self { id, verifiers: vec![(Algorithm::EdDsa, KeyMaterial::Public(parsed))] })
    }

    /// A key in DER (`SubjectPublicKeyInfo`), for one algorithm.
    pub(super) fn der(id: Option<String>, algorithm: Algorithm, der: &[u8]) -> Result<Self, UnusableKey> {
        if algorithm == Algorithm::EdDsa {
            return Self::ed25519(id, der);
        }
        if ec_curve(algorithm).is_some() {
            return Self::ec(id, algorithm, der);
        }
        let key = rsa::PublicKey::from_der(der).map_err(|_| UnusableKey::Rsa)?;
        let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(&key);
        Self::rsa(id, Some(algorithm), &n, &e)
    }

    /// A shared secret, for HS256.
    pub(super) fn secret(secret: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Self { id: None, verifiers: vec![(Algorithm::Hs256, KeyMaterial::Secret(Box::new(key)))] }
    }

    /// Returns whether the key verifies signatures of this algorithm.
    pub(super) fn accepts(&self, algorithm: Algorithm) -> bool {
        self.algorithms().any(|own| own == algorithm)
    }

    pub(super) fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.verifiers.iter().map(|(algorithm, _)| *algorithm)
    }

    /// Returns whether the signature (in base64url) of the message was made with this key and this algorithm.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &str, signature: &str) -> bool {
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
        self.verifiers.iter().any(|(own, verifier)| {
            *own == algorithm
                && match verifier {
                    KeyMaterial::Public(key) => key.verify_sig(message.as_bytes(), &signature).is_ok(),
                    KeyMaterial::Secret(key) => hmac::verify(key, message.as_bytes(), &signature).is_ok(),
                }
        })
    }

    /// What distinguishes the key from others, for the comparison of two versions of a set. It contains no secret: a shared
    /// secret has the signature of an empty message.
    pub(super) fn identity(&self) -> (Option<&str>, Vec<Algorithm>, Vec<u8>) {
        let bytes = match &self.verifiers[0].1 {
            KeyMaterial::Public(key) => key.as_ref().to_vec(),
            KeyMaterial::Secret(key) => hmac::sign(key, &[]).as_ref().to_vec(),
        };
        (self.id.as_deref(), self.algorithms().collect(), bytes)
    }
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::Rs256 => Some(&RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Some(&RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&RSA_PSS_2048_8192_SHA512),
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa | Algorithm::Hs256 => None,
    }
}

fn ec_curve(algorithm: Algorithm) -> Option<&'static EcdsaVerificationAlgorithm> {
    match algorithm {
        Algorithm::Es256 => Some(&ECDSA_P256_SHA256_FIXED),
        Algorithm::Es384 => Some(&ECDSA_P384_SHA384_FIXED),
        Algorithm::Rs256
        | Algorithm::Rs384
        | Algorithm::Rs512
        | Algorithm::Ps256
        | Algorithm::Ps384
        | Algorithm::Ps512
        | Algorithm::EdDsa
        | Algorithm::Hs256 => None,
    }
}

/// The y coordinates of the points of Ed25519 whose order is at most 8, in every encoding: a signature for such a key
/// needs no private key. The numbers are 0, 1, p - 1, p, p + 1 and the two roots of order 8 ("Taming the many `EdDSAs`",
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
