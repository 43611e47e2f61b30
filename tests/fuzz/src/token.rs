//! A token, whether made up as a whole or signed with claims that are.

use std::cell::LazyCell;

use jsonwebtoken::{EncodingKey, Header};
use recado_domain::limits;
use recado_memory::ManualClock;
use recado_runtime::auth::{Identity, KeySet, TokenConfig, TokenVerifier, VerifyingKey};
use serde_json::{Map, Value};

use crate::{now, run};

const SECRET: &[u8] = b"a secret that nobody outside of this property knows";

/// Bytes that nobody signed speak for nobody; what was signed speaks for the subject it names, and not after its end (P5).
pub fn token(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    assert!(verify(text).is_none(), "a token that nobody signed was accepted");
    let Ok(claims) = serde_json::from_str::<Map<String, Value>>(text) else { return };
    let signed = jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET)).expect("claims are signed");
    if let Some(identity) = verify(&signed) {
        holds(&identity, &claims);
    }
    for broken in [format!("{signed}A"), signed[..signed.len() - 1].to_owned(), signed.replacen('.', "..", 1)] {
        assert!(verify(&broken).is_none(), "a token whose signature was changed was accepted");
    }
}

/// What a verified token must have said, read without the verifier.
fn holds(identity: &Identity, claims: &Map<String, Value>) {
    let user = claims.get("sub").and_then(Value::as_str).expect("a subject that is text");
    assert_eq!(identity.recipient.user.as_str(), user);
    assert!((1..=limits::ID_BYTES).contains(&user.len()) && !user.chars().any(char::is_control), "a subject that is no id");
    let tenant = claims.get("tenant").map(|tenant| tenant.as_str().expect("a tenant that is text"));
    assert_eq!(tenant.unwrap_or("default"), identity.recipient.tenant.as_str());
    let end = claims.get("exp").and_then(Value::as_f64).expect("an end that is a number");
    assert!(end + 30.0 > now().as_second() as f64, "a token that ended at {end}");
    assert!(identity.expires_at > now());
    let start = claims.get("nbf").map_or(0.0, |start| start.as_f64().expect("a start that is a number"));
    assert!(start - 31.0 <= now().as_second() as f64, "a token that starts at {start}");
}

fn verify(token: &str) -> Option<Identity> {
    thread_local! {
        static VERIFIER: LazyCell<TokenVerifier<KeySet, ManualClock>> = const { LazyCell::new(verifier) };
    }
    VERIFIER.with(|verifier| run(verifier.verify(token)).ok())
}

fn verifier() -> TokenVerifier<KeySet, ManualClock> {
    let key = VerifyingKey::hs256(None, SECRET).expect("the secret is long enough");
    TokenVerifier::new(TokenConfig::default(), KeySet::new(vec![key]).expect("a key"), ManualClock::new(now()))
}
