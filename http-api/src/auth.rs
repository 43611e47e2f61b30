//! Who asks: the narrow view the inbox has of token verification.
//!
//! Must not know: how tokens look or where keys come from.

use recado_domain::ids::RecipientKey;

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
    /// Whose token it is: tenant and user come from verified claims alone (P5).
    fn authenticate(&self, token: &str) -> impl Future<Output = Result<RecipientKey, AuthError>> + Send;
}
