//! A token, whether made up as a whole or signed with claims that are.

use std::cell::LazyCell;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use recado_domain::limits;
use recado_memory::ManualClock;
use recado_runtime::auth::{Identity, KeySet, TokenConfig, TokenVerifier, VerifyingKey};
use serde_json::{Map, Value};

use crate::{now, run};

const SECRET: &[u8] = b"a secret that nobody outside of this property knows";

/// The key pair of the first test of RFC 8032, 7.1, as PKCS #8 and as a public key.
const ED_PRIVATE: [u8; 48] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20, //
    0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, //
    0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
];
const ED_PUBLIC: &str =
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
const ED_KID: &str = "ed";

/// Bytes that nobody signed speak for nobody; what was signed speaks for the subject it names, and not after its end (P5).
pub fn token(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    assert!(verify(text).is_none(), "a token that nobody signed was accepted");
    let Ok(claims) = serde_json::from_str::<Map<String, Value>>(text) else { return };
    for signed in [sign(Algorithm::HS256, None, &claims), sign(Algorithm::EdDSA, Some(ED_KID), &claims)] {
        if let Some(identity) = verify(&signed) {
            holds(&identity, &claims);
        }
        for broken in [format!("{signed}A"), signed[..signed.len() - 1].to_owned(), signed.replacen('.', "..", 1)] {
            assert!(verify(&broken).is_none(), "a token whose signature was changed was accepted");
        }
    }
    for (algorithm, kid) in
        [(Algorithm::HS256, Some(ED_KID)), (Algorithm::EdDSA, None), (Algorithm::EdDSA, Some(text)), (Algorithm::HS256, Some(text))]
    {
        assert!(verify(&sign(algorithm, kid, &claims)).is_none(), "a token was accepted whose key is another one's");
    }
}

/// Signs with the key of an algorithm, whatever key the head names.
fn sign(algorithm: Algorithm, kid: Option<&str>, claims: &Map<String, Value>) -> String {
    let key = match algorithm {
        Algorithm::EdDSA => EncodingKey::from_ed_der(&ED_PRIVATE),
        _ => EncodingKey::from_secret(SECRET),
    };
    let head = Header { kid: kid.map(ToOwned::to_owned), ..Header::new(algorithm) };
    jsonwebtoken::encode(&head, claims, &key).expect("claims are signed")
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
    let secret = VerifyingKey::hs256(None, SECRET).expect("the secret is long enough");
    let public = VerifyingKey::from_pem(Some(ED_KID.to_owned()), ED_PUBLIC.as_bytes()).expect("a public key");
    TokenVerifier::new(TokenConfig::default(), KeySet::new(vec![secret, public]).expect("two keys"), ManualClock::new(now()))
}
