//! Tokens for whoever holds a secret: development, operators, tests. People's tokens come from an identity provider.
//!
//! Must not know: where the secret is kept.

use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::{EncodingKey, Header};
use recado_domain::ids::{TenantId, UserId};
use serde::Serialize;

use super::keys::{InvalidKey, VerifyingKey};

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    tenant: &'a str,
    iat: i64,
    exp: i64,
}

/// A token for a user, signed with HS256, without `kid`. `ttl` counts in whole seconds, rounded up.
///
/// # Errors
/// When the secret is shorter than the algorithm asks for.
pub fn sign(secret: &[u8], user: &UserId, tenant: &TenantId, ttl: Duration, now: Timestamp) -> Result<String, InvalidKey> {
    // What cannot verify shall not sign.
    VerifyingKey::hs256(None, secret)?;
    Ok(signed(secret, None, user, tenant, ttl, now))
}

pub(super) fn signed(secret: &[u8], kid: Option<&str>, user: &UserId, tenant: &TenantId, ttl: Duration, now: Timestamp) -> String {
    let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).saturating_add(i64::from(ttl.subsec_nanos() > 0));
    let iat = now.as_second();
    let claims = Claims { sub: user.as_str(), tenant: tenant.as_str(), iat, exp: iat.saturating_add(seconds) };
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(jsonwebtoken::Algorithm::HS256) };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)).expect("text and numbers are signed with a secret")
}

#[cfg(test)]
mod tests {
    use recado_memory::ManualClock;

    use super::*;
    use crate::auth::{KeySet, TokenConfig, TokenVerifier};
    use recado_domain::ports::Clock;

    #[tokio::test]
    async fn whoever_has_the_secret_signs_for_anybody_and_nobody_with_a_short_one() {
        let (secret, clock) = (b"0123456789abcdef0123456789abcdef", ManualClock::default());
        let (user, tenant) = (UserId::new("alice").unwrap(), TenantId::new("acme").unwrap());
        let token = sign(secret, &user, &tenant, Duration::from_secs(60), clock.now()).unwrap();
        let keys = KeySet::new(vec![VerifyingKey::hs256(None, secret).unwrap()]).unwrap();
        let verified = TokenVerifier::new(TokenConfig::default(), keys, clock.clone()).verify(&token).await.unwrap();
        assert_eq!((verified.recipient.user, verified.recipient.tenant), (user.clone(), tenant.clone()));
        let ends = async |ttl| {
            let token = sign(secret, &user, &tenant, ttl, clock.now()).unwrap();
            let keys = KeySet::new(vec![VerifyingKey::hs256(None, secret).unwrap()]).unwrap();
            let config = TokenConfig { leeway: Duration::ZERO, ..TokenConfig::default() };
            let verified = TokenVerifier::new(config, keys, clock.clone()).verify(&token).await.unwrap();
            verified.expires_at.as_second() - clock.now().as_second()
        };
        assert_eq!(ends(Duration::from_secs(60)).await, 60);
        assert_eq!(ends(Duration::from_millis(60_001)).await, 61, "rounded up to whole seconds");
        assert!(sign(&secret[1..], &user, &tenant, Duration::from_secs(60), clock.now()).is_err());
    }
}
