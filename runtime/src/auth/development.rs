//! The key of a machine nobody else reaches: it mints the tokens it verifies.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use recado_domain::ids::{TenantId, UserId};

use super::keys::{SECRET_BYTES, VerifyingKey};
use super::sign::signed;

/// The `kid` of tokens minted for development.
pub const DEVELOPMENT_KID: &str = "recado-development";

/// Why a text is no development key. Never shows the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no development key: {SECRET_BYTES} bytes as base64url; delete the file and one is made anew")]
pub struct InvalidDevelopmentKey;

/// 32 random bytes that sign with HS256.
#[derive(Clone, PartialEq, Eq)]
pub struct DevelopmentKey([u8; SECRET_BYTES]);

impl fmt::Debug for DevelopmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DevelopmentKey")
    }
}

impl DevelopmentKey {
    /// A new one, from the thread's cryptographic generator.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// For a file that only its owner reads.
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// From such a file; white space around it does no harm.
    ///
    /// # Errors
    /// When it is not what [`Self::to_text`] wrote.
    pub fn from_text(text: &str) -> Result<Self, InvalidDevelopmentKey> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim()).map_err(|_| InvalidDevelopmentKey)?;
        bytes.try_into().map(Self).map_err(|_| InvalidDevelopmentKey)
    }

    /// What verifies its tokens.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey::hs256(Some(DEVELOPMENT_KID.to_owned()), &self.0).expect("the key has the length that is asked for")
    }

    /// A token for a user. `ttl` counts in whole seconds, rounded up.
    pub fn mint(&self, user: &UserId, tenant: &TenantId, ttl: Duration, now: Timestamp) -> String {
        signed(&self.0, Some(DEVELOPMENT_KID), user, tenant, ttl, now)
    }
}
