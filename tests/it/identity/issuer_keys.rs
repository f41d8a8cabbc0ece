//! Keys of an identity provider, which sign tokens of any content.

use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
    RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

pub struct IssuerKey {
    pub id: String,
    pair: Pair,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl IssuerKey {
    fn new(pair: Pair) -> Self {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        Self { id: format!("key-{}", KEYS.fetch_add(1, Ordering::Relaxed)), pair }
    }

    /// An Ed25519 key with an id of its own.
    pub fn ed25519() -> Self {
        Self::new(Pair::Ed25519(Ed25519KeyPair::generate().unwrap()))
    }

    pub fn p256() -> Self {
        Self::new(Pair::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()))
    }

    pub fn p384() -> Self {
        Self::new(Pair::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()))
    }

    pub fn rsa() -> Self {
        Self::new(Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    pub fn with_id(self, id: &str) -> Self {
        Self { id: id.to_owned(), ..self }
    }

    /// The public key as a JWK without `alg`.
    pub fn public(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let id = &self.id;
        match &self.pair {
            Pair::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": text(pair.public_key().as_ref())})
            }
            Pair::P256(pair) | Pair::P384(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "kid": id, "x": text(x), "y": text(y)})
            }
            Pair::Rsa(pair) => {
                let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "kid": id, "n": text(&n), "e": text(&e)})
            }
        }
    }

    /// The private key as a JWK with `alg`, for another program that signs with it.
    pub fn private(&self) -> Value {
        let mut key = self.public();
        key["alg"] = self.algorithms()[0].into();
        let private = match &self.pair {
            Pair::Ed25519(pair) => pair.seed().unwrap().as_be_bytes().unwrap().as_ref().to_vec(),
            Pair::P256(pair) | Pair::P384(pair) => pair.private_key().as_be_bytes().unwrap().as_ref().to_vec(),
            Pair::Rsa(_) => panic!("not needed"),
        };
        key["d"] = URL_SAFE_NO_PAD.encode(private).into();
        key
    }

    /// The algorithms of the key.
    pub fn algorithms(&self) -> &'static [&'static str] {
        match &self.pair {
            Pair::Ed25519(_) => &["EdDSA", "Ed25519"],
            Pair::P256(_) => &["ES256"],
            Pair::P384(_) => &["ES384"],
            Pair::Rsa(_) => &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
        }
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(self.algorithms()[0], claims)
    }

    /// A token with these claims and this algorithm.
    pub fn sign_with(&self, algorithm: &str, claims: &Value) -> String {
        self.sign_as(&json!({"alg": algorithm, "typ": "JWT", "kid": self.id}), claims)
    }

    /// A token with this header and these claims.
    pub fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(header), encode(claims));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Ed25519(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Pair::P256(pair) | Pair::P384(pair) => pair.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match header["alg"].as_str().unwrap() {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
