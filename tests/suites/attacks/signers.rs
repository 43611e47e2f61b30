//! An issuer of tokens, good ones and such as nobody should accept.

use std::sync::OnceLock;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384};
use aws_lc_rs::{hmac, rsa};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use recado_domain::ports::Clock;
use recado_runtime::system::SystemClock;
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://login.example.com";
pub(crate) const AUDIENCE: &str = "recado-tests";

/// One key of each kind, made once: an RSA key takes its time.
pub(crate) struct Signers {
    rsa: rsa::KeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

/// The issuer that the servers trust.
pub(crate) fn issuer() -> &'static Signers {
    static ISSUER: OnceLock<Signers> = OnceLock::new();
    ISSUER.get_or_init(Signers::new)
}

/// Somebody else.
pub(crate) fn stranger() -> &'static Signers {
    static STRANGER: OnceLock<Signers> = OnceLock::new();
    STRANGER.get_or_init(Signers::new)
}

impl Signers {
    fn new() -> Self {
        Self {
            rsa: rsa::KeyPair::generate(rsa::KeySize::Rsa2048).expect("a key"),
            ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"),
            ed: Ed25519KeyPair::generate().expect("a key"),
        }
    }

    /// Signs as a key of these names does: `RS256`, `RS384`, `ES256` and `EdDSA`.
    pub(crate) fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let rsa = |encoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(encoding, &SystemRandom::new(), message, &mut signature).expect("it signs");
            signature
        };
        match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "ES256" => self.ec.sign(&SystemRandom::new(), message).expect("it signs").as_ref().to_vec(),
            "EdDSA" => self.ed.sign(message).as_ref().to_vec(),
            other => panic!("nobody here signs with {other}"),
        }
    }

    /// The public RSA key, as DER and as PEM.
    pub(crate) fn rsa_public(&self) -> (Vec<u8>, String) {
        let der = self.rsa.public_key().as_der().expect("a public key").as_ref().to_vec();
        let text = STANDARD.encode(&der);
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64")).collect();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
        (der, pem)
    }

    /// The public RSA key as a JWK, named as its algorithm is.
    pub(crate) fn rsa_jwk(&self) -> Value {
        let der = self.rsa.public_key().as_ref();
        // SEQUENCE (4 bytes of head), INTEGER n (4 bytes of head, a zero), INTEGER e (2 bytes of head).
        let (n, e) = (&der[9..9 + 256], &der[9 + 256 + 2..]);
        json!({ "kty": "RSA", "kid": "RS256", "n": base64url(n), "e": base64url(e) })
    }

    /// All public keys, named as their algorithms are.
    pub(crate) fn jwks(&self) -> Value {
        let point = self.ec.public_key().as_ref();
        let ec = json!({ "kty": "EC", "kid": "ES256", "crv": "P-256", "x": base64url(&point[1..33]), "y": base64url(&point[33..]) });
        let ed = json!({ "kty": "OKP", "kid": "EdDSA", "crv": "Ed25519", "x": base64url(self.ed.public_key().as_ref()) });
        json!({ "keys": [self.rsa_jwk(), ec, ed] })
    }

    /// A token of these claims, with its algorithm's name as its key's.
    pub(crate) fn token(&self, algorithm: &str, claims: &Value) -> String {
        self.token_with(&json!({ "alg": algorithm, "kid": algorithm }), algorithm, claims)
    }

    /// A token with any header.
    pub(crate) fn token_with(&self, header: &Value, algorithm: &str, claims: &Value) -> String {
        compact(header, claims, |message| self.sign(algorithm, message))
    }
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn hs256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

/// A JWT in compact form.
pub(crate) fn compact(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
    let signature = base64url(&sign(message.as_bytes()));
    format!("{message}.{signature}")
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    SystemClock.now().as_second()
}

/// Claims that the servers accept.
pub(crate) fn claims(user: &str) -> Value {
    json!({ "sub": user, "iss": ISSUER, "aud": AUDIENCE, "exp": now() + 3600 })
}

/// Those, with other values in places; `null` takes a claim out.
pub(crate) fn claims_but(changes: Value) -> Value {
    let mut claims = claims("alice");
    for (name, value) in changes.as_object().expect("changes by name") {
        match value {
            Value::Null => drop(claims.as_object_mut().expect("claims by name").remove(name)),
            _ => claims[name] = value.clone(),
        }
    }
    claims
}
