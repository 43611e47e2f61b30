//! Who asks: the narrow view the routes of a user have of token verification.
//!
//! Must not know: how tokens look or where keys come from.

use axum::http::HeaderMap;
use recado_domain::limits;
use recado_runtime::auth::{Identity, TokenError, VerifyToken};

use crate::problem::{Problem, bearer};

/// Why a token was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The token is wrong, has ended, or is somebody else's.
    #[error("the token is not valid here")]
    Invalid,
    /// It could not be judged now, because its keys could not be loaded.
    #[error("tokens cannot be verified at the moment")]
    Unavailable,
}

/// Verifies bearer tokens.
pub trait Authenticate: Send + Sync + 'static {
    /// Whose token it is, and until when: tenant and user come from verified claims alone (P5).
    fn authenticate(&self, token: &str) -> impl Future<Output = Result<Identity, AuthError>> + Send;
}

/// Whose request this is: of the bearer token alone.
pub(crate) async fn identify(auth: &impl Authenticate, headers: &HeaderMap) -> Result<Identity, Problem> {
    let token = bearer(headers).filter(|token| !token.is_empty() && token.len() <= limits::TOKEN_BYTES);
    let Some(token) = token else {
        return Err(Problem::unauthorized("Send `Authorization: Bearer <token>`; a token elsewhere is not accepted."));
    };
    auth.authenticate(token).await.map_err(|error| match error {
        AuthError::Invalid => Problem::unauthorized("The token is not valid here, or has ended."),
        AuthError::Unavailable => Problem::unavailable(None, "Tokens cannot be verified at the moment."),
    })
}

impl<V: VerifyToken> Authenticate for V {
    async fn authenticate(&self, token: &str) -> Result<Identity, AuthError> {
        match self.verify(token).await {
            Ok(identity) => Ok(identity),
            Err(TokenError::Unavailable) => Err(AuthError::Unavailable),
            // Which check failed is for the operator: it tells a forger how far a token came.
            Err(refused) => {
                metrics::counter!("recado_tokens_refused_total", "code" => refused.code()).increment(1);
                tracing::debug!(code = refused.code(), "a token was refused");
                Err(AuthError::Invalid)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use recado_domain::ids::{RecipientKey, TenantId, UserId};
    use recado_domain::ports::Clock;
    use recado_memory::ManualClock;
    use recado_runtime::auth::{DevelopmentKey, KeySet, TokenConfig, TokenVerifier};

    use super::*;

    #[tokio::test]
    async fn a_verified_token_says_whose_inbox_it_is_until_it_ends() {
        let (key, clock) = (DevelopmentKey::generate(), ManualClock::default());
        let verifier = TokenVerifier::new(TokenConfig::default(), KeySet::new(vec![key.verifying_key()]).expect("one key"), clock.clone());
        let alice = RecipientKey::new(TenantId::new("acme").expect("a tenant"), UserId::new("alice").expect("a user"));
        let token = key.mint(&alice.user, &alice.tenant, Duration::from_secs(60), clock.now());
        assert_eq!(verifier.authenticate(&token).await.map(|identity| identity.recipient), Ok(alice));
        assert_eq!(verifier.authenticate("nonsense").await, Err(AuthError::Invalid));
        clock.advance(Duration::from_secs(3600));
        assert_eq!(verifier.authenticate(&token).await, Err(AuthError::Invalid));
    }
}
