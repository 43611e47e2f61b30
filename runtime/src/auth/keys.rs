//! Keys that verify tokens, each with its one algorithm, and where they are found.
//!
//! A key that is too weak, or that is a private key, never becomes a [`VerifyingKey`].

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey};
use jsonwebtoken::{DecodingKey, DecodingKeyKind};

use super::jwks;

/// The least length of an HS256 secret, in bytes: that of its hash (RFC 7518, 3.2).
pub(super) const SECRET_BYTES: usize = 32;

/// How a key signs. There is no other: `none` least of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// RSA, PKCS #1 v1.5, with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    pub(super) fn of_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

/// Why a configured key is refused. Never shows the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// A short secret can be guessed.
    #[error("the secret has {bytes} bytes; HS256 needs {SECRET_BYTES} random bytes at least (`openssl rand -base64 32`)")]
    ShortSecret {
        /// How long it is.
        bytes: usize,
    },
    /// A server that only verifies must not hold what signs.
    #[error("the PEM holds a private key; give the public one (`openssl pkey -in key.pem -pubout`)")]
    PrivateKey,
    /// Not a PEM of a public key we know.
    #[error(
        "is no PEM of a public RSA, P-256 or Ed25519 key (`-----BEGIN PUBLIC KEY-----`); of a certificate give the key alone (`openssl x509 -pubkey -noout`)"
    )]
    Pem,
    /// Smaller than 2,048 or larger than 8,192 bits, or no RSA key at all.
    #[error("is no RSA public key of 2,048 to 8,192 bits")]
    Rsa,
    /// Another curve, or no point on it.
    #[error("is no public key on the curve P-256")]
    Ec,
    /// No Ed25519 key.
    #[error("is no Ed25519 public key")]
    Ed,
    /// Not a JWKS document.
    #[error("is no JWKS document: a JSON object with an array `keys` (RFC 7517)")]
    Jwks,
    /// No key at all, or none in a document that verifies tokens.
    #[error("has no key that verifies tokens (public RSA with RS256, P-256 with ES256, Ed25519 with EdDSA, for signatures)")]
    NoKey,
    /// Two keys with one `kid`.
    #[error("two keys have the `kid` {0:?}; give each its own")]
    RepeatedKid(String),
    /// Two keys without a `kid`.
    #[error("two keys have no `kid`; a token could not say which it means")]
    RepeatedAnonymous,
}

/// A key, its name, and its algorithm.
#[derive(Clone)]
pub struct VerifyingKey {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey").field("kid", &self.kid).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl VerifyingKey {
    /// A shared secret.
    ///
    /// # Errors
    /// When it is shorter than 32 bytes.
    pub fn hs256(kid: Option<String>, secret: &[u8]) -> Result<Self, InvalidKey> {
        if secret.len() < SECRET_BYTES {
            return Err(InvalidKey::ShortSecret { bytes: secret.len() });
        }
        Ok(Self { kid, algorithm: Algorithm::Hs256, key: DecodingKey::from_secret(secret) })
    }

    /// A public key in PEM: RSA verifies RS256, P-256 verifies ES256, Ed25519 verifies EdDSA.
    ///
    /// # Errors
    /// When it is none of them, too weak, or private.
    pub fn from_pem(kid: Option<String>, pem: &[u8]) -> Result<Self, InvalidKey> {
        let text = String::from_utf8_lossy(pem);
        if text.contains("PRIVATE KEY-----") {
            return Err(InvalidKey::PrivateKey);
        }
        // The library would also take the first bit string of a certificate, which is another thing.
        if !text.contains("PUBLIC KEY-----") {
            return Err(InvalidKey::Pem);
        }
        if let Ok(key) = DecodingKey::from_ec_pem(pem) {
            return Self::es256(kid, secret_or_der(&key)?);
        }
        if let Ok(key) = DecodingKey::from_ed_pem(pem) {
            return Self::ed25519(kid, secret_or_der(&key)?);
        }
        let key = DecodingKey::from_rsa_pem(pem).map_err(|_| InvalidKey::Pem)?;
        Self::rs256_of_der(kid, secret_or_der(&key)?)
    }

    /// From a DER `RSAPublicKey` (RFC 8017, A.1.1).
    fn rs256_of_der(kid: Option<String>, der: &[u8]) -> Result<Self, InvalidKey> {
        let info = rsa::PublicKey::from_der(der).and_then(|key| key.as_der().map_err(Into::into)).map_err(|_| InvalidKey::Rsa)?;
        // An encrypting key is refused below 2,048 and above 8,192 bits.
        rsa::PublicEncryptingKey::from_der(info.as_ref()).map_err(|_| InvalidKey::Rsa)?;
        Ok(Self { kid, algorithm: Algorithm::Rs256, key: DecodingKey::from_rsa_der(der) })
    }

    /// From modulus and exponent, big-endian; leading zeros do no harm.
    pub(super) fn rs256(kid: Option<String>, n: &[u8], e: &[u8]) -> Result<Self, InvalidKey> {
        let (n, e) = (without_leading_zeros(n), without_leading_zeros(e));
        // Of components the library checks sizes alone: with an exponent of 1 every message is its own signature.
        if e == [1] || e.last().is_none_or(|byte| byte % 2 == 0) {
            return Err(InvalidKey::Rsa);
        }
        let checked: Result<rsa::PublicEncryptingKey, _> = rsa::PublicKeyComponents { n, e }.try_into();
        checked.map_err(|_| InvalidKey::Rsa)?;
        Ok(Self { kid, algorithm: Algorithm::Rs256, key: DecodingKey::from_rsa_raw_components(n, e) })
    }

    /// From an uncompressed point: 4, x, y.
    pub(super) fn es256(kid: Option<String>, point: &[u8]) -> Result<Self, InvalidKey> {
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map_err(|_| InvalidKey::Ec)?;
        Ok(Self { kid, algorithm: Algorithm::Es256, key: DecodingKey::from_ec_der(point) })
    }

    /// From the 32 bytes of RFC 8032.
    pub(super) fn ed25519(kid: Option<String>, key: &[u8]) -> Result<Self, InvalidKey> {
        if key.len() != 32 {
            return Err(InvalidKey::Ed);
        }
        ParsedPublicKey::new(&ED25519, key).map_err(|_| InvalidKey::Ed)?;
        Ok(Self { kid, algorithm: Algorithm::EdDsa, key: DecodingKey::from_ed_der(key) })
    }

    /// The only algorithm it verifies.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn of_library(&self) -> &DecodingKey {
        &self.key
    }
}

fn secret_or_der(key: &DecodingKey) -> Result<&[u8], InvalidKey> {
    match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => Ok(bytes),
        DecodingKeyKind::RsaModulusExponent { .. } => Err(InvalidKey::Pem),
    }
}

fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

/// Why a key was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// There is none of that name.
    Unknown,
    /// Nobody can say at the moment.
    Unavailable,
}

/// Where the key of a token is found.
pub trait KeySource: Send + Sync + 'static {
    /// The key of this `kid`; without one, the key that has none.
    ///
    /// # Errors
    /// Whether there is no such key, or nobody can say at the moment.
    fn key(&self, kid: Option<&str>) -> impl Future<Output = Result<Arc<VerifyingKey>, KeyError>> + Send;
}

/// Keys that do not change: configured ones, or a JWKS file.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: Vec<Arc<VerifyingKey>>,
}

impl KeySet {
    /// Configured keys. One of them may go without a `kid`: it serves the tokens without one.
    ///
    /// # Errors
    /// When there is none, or two share a name.
    pub fn new(keys: Vec<VerifyingKey>) -> Result<Self, InvalidKey> {
        if keys.is_empty() {
            return Err(InvalidKey::NoKey);
        }
        for (at, key) in keys.iter().enumerate() {
            if keys[..at].iter().any(|other| other.kid == key.kid) {
                return Err(key.kid.clone().map_or(InvalidKey::RepeatedAnonymous, InvalidKey::RepeatedKid));
            }
        }
        Ok(Self { keys: keys.into_iter().map(Arc::new).collect() })
    }

    /// The keys of a JWKS document (RFC 7517) that verify tokens. The others, and private or symmetric ones, are skipped.
    ///
    /// # Errors
    /// When it is no such document, or holds no key that verifies.
    pub fn from_jwks(json: &[u8]) -> Result<Self, InvalidKey> {
        let set = jwks::parse(json)?;
        if set.is_empty() { Err(InvalidKey::NoKey) } else { Ok(set) }
    }

    /// Keys of a document we do not write: the first of a name counts, and of several without one none does.
    pub(super) fn of_document(keys: Vec<VerifyingKey>) -> Self {
        let anonymous = keys.iter().filter(|key| key.kid.is_none()).count();
        let mut kept: Vec<Arc<VerifyingKey>> = Vec::new();
        for key in keys {
            let ambiguous = key.kid.is_none() && anonymous > 1;
            if !ambiguous && !kept.iter().any(|other| other.kid == key.kid) {
                kept.push(Arc::new(key));
            }
        }
        Self { keys: kept }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key of this name.
    pub fn find(&self, kid: Option<&str>) -> Option<Arc<VerifyingKey>> {
        self.keys.iter().find(|key| key.kid.as_deref() == kid).cloned()
    }
}

impl KeySource for KeySet {
    async fn key(&self, kid: Option<&str>) -> Result<Arc<VerifyingKey>, KeyError> {
        self.find(kid).ok_or(KeyError::Unknown)
    }
}

/// Keys that may not be configured: without them every key is unknown.
impl<K: KeySource> KeySource for Option<K> {
    async fn key(&self, kid: Option<&str>) -> Result<Arc<VerifyingKey>, KeyError> {
        match self {
            Some(keys) => keys.key(kid).await,
            None => Err(KeyError::Unknown),
        }
    }
}

/// Two sources: the second is asked for what the first does not know.
impl<A: KeySource, B: KeySource> KeySource for (A, B) {
    async fn key(&self, kid: Option<&str>) -> Result<Arc<VerifyingKey>, KeyError> {
        match self.0.key(kid).await {
            Err(KeyError::Unknown) => self.1.key(kid).await,
            first => first,
        }
    }
}
