//! Who a token speaks for: verification of JSON Web Tokens (RFC 7519).
//!
//! The recipient and the tenant come from here and from nowhere else (P5). The algorithm is fixed by the key, never by
//! the token: a token only names the key it wants to be judged by. Must not know: where a token came from (query
//! string, header) or what it is good for.

mod development;
#[cfg(feature = "jwks-http")]
mod http;
mod jwks;
mod keys;
mod remote;
#[cfg(feature = "jwks-http")]
mod settings;
mod sign;

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::Validation;
use recado_domain::ids::{RecipientKey, TenantId, UserId};
use recado_domain::limits;
use recado_domain::ports::Clock;
use serde_json::{Map, Value};

pub use self::development::{DEVELOPMENT_KID, DevelopmentKey, InvalidDevelopmentKey};
#[cfg(feature = "jwks-http")]
pub use self::http::{HttpJwks, InvalidJwksUrl, JWKS_BYTES};
pub use self::keys::{Algorithm, InvalidKey, KeyError, KeySet, KeySource, VerifyingKey};
pub use self::remote::{FetchFailed, FetchJwks, RemoteKeys, RemoteKeysConfig};
#[cfg(feature = "jwks-http")]
pub use self::settings::{ConfiguredKeys, TokenSettings};
pub use self::sign::sign;

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Whose inbox it opens: `sub`, and the tenant claim.
    pub recipient: RecipientKey,
    /// The moment from which it is refused: `exp` and the leeway.
    pub expires_at: Timestamp,
}

/// What is asked of a token beyond a good signature and an `exp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenConfig {
    /// `iss` must be one of these; empty: `iss` is not looked at.
    pub issuers: Vec<String>,
    /// `aud` must name one of these; empty: `aud` is not looked at.
    pub audiences: Vec<String>,
    /// The claim with the tenant; a token without it speaks for the default tenant.
    pub tenant_claim: String,
    /// How far the issuer's clock may be off: added to `exp`, taken from `nbf`.
    pub leeway: Duration,
}

impl Default for TokenConfig {
    /// Any issuer and audience, the claim `tenant`, and 30 s of leeway: twice what two of our own clocks may differ.
    fn default() -> Self {
        Self { issuers: Vec::new(), audiences: Vec::new(), tenant_claim: "tenant".to_owned(), leeway: Duration::from_secs(30) }
    }
}

/// Why a token was refused. Neither form shows the token or a claim's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`limits::TOKEN_BYTES`].
    #[error("the token is longer than {} bytes", limits::TOKEN_BYTES)]
    TooLong,
    /// Not a signed JWT in compact form, or with a header this server must understand and does not (`crit`).
    #[error("the token is no signed JWT in compact form (RFC 7519) with an algorithm of HS256, RS256, ES256 or EdDSA")]
    Malformed,
    /// No key of that `kid`, or no `kid` where keys have one.
    #[error("the token's key (`kid`) is not known here")]
    UnknownKey,
    /// The header's `alg` is not the key's.
    #[error("the token's `alg` is not that of its key")]
    Algorithm,
    /// Not signed by the key.
    #[error("the token's signature does not match")]
    Signature,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` lies ahead.
    #[error("the token is not valid yet (`nbf`)")]
    NotYetValid,
    /// `iss` is missing or another.
    #[error("the token's `iss` is not an issuer this server accepts")]
    Issuer,
    /// `aud` is missing or another.
    #[error("the token's `aud` is not an audience of this server")]
    Audience,
    /// `exp` or `nbf` is missing or of the wrong kind.
    #[error("the token's `exp` is missing, or its `exp` or `nbf` is no number of seconds")]
    Times,
    /// `sub` is missing or no user id.
    #[error("the token's `sub` is missing or no user id: 1 to {} bytes without control characters", limits::ID_BYTES)]
    Subject,
    /// The tenant claim is there and no tenant id.
    #[error("the token's tenant is no tenant id: 1 to {} bytes without control characters", limits::ID_BYTES)]
    Tenant,
    /// The keys cannot be reached: not the token's fault, try again.
    #[error("the keys that verify tokens cannot be reached at the moment")]
    Unavailable,
}

impl TokenError {
    /// For programs and metrics; never changes.
    pub fn code(self) -> &'static str {
        match self {
            Self::TooLong => "token_too_long",
            Self::Malformed => "token_malformed",
            Self::UnknownKey => "token_key_unknown",
            Self::Algorithm => "token_algorithm",
            Self::Signature => "token_signature",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Issuer => "token_issuer",
            Self::Audience => "token_audience",
            Self::Times => "token_times",
            Self::Subject => "token_subject",
            Self::Tenant => "token_tenant",
            Self::Unavailable => "token_keys_unavailable",
        }
    }

    /// The HTTP status that answers it: 503 when the keys are out of reach, 401 otherwise.
    pub fn status(self) -> u16 {
        if self == Self::Unavailable { 503 } else { 401 }
    }
}

impl From<KeyError> for TokenError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Unknown => Self::UnknownKey,
            KeyError::Unavailable => Self::Unavailable,
        }
    }
}

/// Whoever can tell whom a token speaks for. The rooms take this; [`TokenVerifier`] is the one for the real world.
pub trait VerifyToken: Send + Sync + 'static {
    /// Judges a token now.
    ///
    /// # Errors
    /// Why it is refused, or that nobody can say at the moment ([`TokenError::Unavailable`]).
    fn verify(&self, token: &str) -> impl Future<Output = Result<Identity, TokenError>> + Send;
}

/// Verifies tokens against keys, by a clock.
#[derive(Debug)]
pub struct TokenVerifier<K, C> {
    config: TokenConfig,
    keys: K,
    clock: C,
}

impl<K: KeySource, C: Clock> TokenVerifier<K, C> {
    /// A verifier. `clock` decides what has expired.
    pub fn new(config: TokenConfig, keys: K, clock: C) -> Self {
        Self { config, keys, clock }
    }

    /// Judges a token now.
    ///
    /// # Errors
    /// As [`VerifyToken::verify`].
    pub async fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        if token.len() > limits::TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        // RFC 7515, 4.1.11: an extension that must be understood and is not refuses the token. None is understood here.
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let key = self.keys.key(header.kid.as_deref()).await?;
        if header.alg != key.algorithm().of_library() {
            return Err(TokenError::Algorithm);
        }
        let claims = signed_claims(token, &key)?;
        self.judge(&claims, self.clock.now())
    }

    fn judge(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<Identity, TokenError> {
        let expires_at = add(moment(claims.get("exp").ok_or(TokenError::Times)?)?, self.config.leeway);
        if expires_at <= now {
            return Err(TokenError::Expired);
        }
        if let Some(not_before) = claims.get("nbf")
            && moment(not_before)? > add(now, self.config.leeway)
        {
            return Err(TokenError::NotYetValid);
        }
        if !names_one_of(claims.get("iss"), &self.config.issuers) {
            return Err(TokenError::Issuer);
        }
        if !names_one_of(claims.get("aud"), &self.config.audiences) {
            return Err(TokenError::Audience);
        }
        let user = claims.get("sub").and_then(Value::as_str).and_then(|sub| UserId::new(sub).ok()).ok_or(TokenError::Subject)?;
        let tenant = match claims.get(&self.config.tenant_claim) {
            None => TenantId::default(),
            Some(claim) => claim.as_str().and_then(|tenant| TenantId::new(tenant).ok()).ok_or(TokenError::Tenant)?,
        };
        Ok(Identity { recipient: RecipientKey::new(tenant, user), expires_at })
    }
}

impl<K: KeySource, C: Clock> VerifyToken for TokenVerifier<K, C> {
    async fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        Self::verify(self, token).await
    }
}

/// The claims of a token whose signature holds.
fn signed_claims(token: &str, key: &VerifyingKey) -> Result<Map<String, Value>, TokenError> {
    let mut validation = Validation::new(key.algorithm().of_library());
    // The library judges times by the operating system's clock; ours is passed in, and the other claims are judged
    // where every refusal has its own code.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    match jsonwebtoken::decode(token, key.of_library(), &validation) {
        Ok(data) => Ok(data.claims),
        Err(error) if matches!(error.kind(), jsonwebtoken::errors::ErrorKind::InvalidSignature) => Err(TokenError::Signature),
        Err(_) => Err(TokenError::Malformed),
    }
}

/// A NumericDate (RFC 7519, 2): seconds, perhaps with a fraction, which is dropped. What lies beyond the calendar is its end.
fn moment(claim: &Value) -> Result<Timestamp, TokenError> {
    let seconds = match (claim.as_i64(), claim.as_f64()) {
        (Some(seconds), _) => seconds,
        // A cast from f64 saturates, and JSON has no NaN.
        (None, Some(seconds)) => seconds as i64,
        (None, None) => return Err(TokenError::Times),
    };
    let beyond = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Ok(Timestamp::from_second(seconds).unwrap_or(beyond))
}

fn add(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// Whether a claim, one text or an array of them, names one that is accepted; without a list everything is.
fn names_one_of(claim: Option<&Value>, accepted: &[String]) -> bool {
    let is_accepted = |value: &Value| value.as_str().is_some_and(|text| accepted.iter().any(|one| one == text));
    accepted.is_empty()
        || match claim {
            Some(Value::Array(several)) => several.iter().any(is_accepted),
            Some(one) => is_accepted(one),
            None => false,
        }
}

#[cfg(test)]
mod tests;
