//! Reads JWKS documents (RFC 7517), of which only the keys that verify tokens are kept.
//!
//! A document is foreign input: one key we cannot use never hides the others. Must not know: where it came from.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::{InvalidKey, KeySet, VerifyingKey};

/// The members that make a key private or symmetric (RFC 7518, 6.2.2, 6.3.2, 6.4; RFC 8037, 2). Who publishes one has a
/// leak, and what was leaked must not let anybody in.
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

/// The keys of a document that verify tokens; perhaps none.
pub(super) fn parse(json: &[u8]) -> Result<KeySet, InvalidKey> {
    let document: Document = serde_json::from_slice(json).map_err(|_| InvalidKey::Jwks)?;
    let mut keys = Vec::new();
    for value in &document.keys {
        match verifying_key(value) {
            Ok(key) => keys.push(key),
            Err(reason) => {
                let kid = value.get("kid").and_then(Value::as_str);
                tracing::warn!(kid, reason, "skipped a key of a jwks document");
            }
        }
    }
    Ok(KeySet::of_document(keys))
}

fn verifying_key(value: &Value) -> Result<VerifyingKey, &'static str> {
    let Value::Object(jwk) = value else { return Err("is no object") };
    if PRIVATE_MEMBERS.iter().any(|member| jwk.contains_key(*member)) {
        return Err("has private parts");
    }
    if jwk.get("use").is_some_and(|purpose| purpose.as_str() != Some("sig")) {
        return Err("is not for signatures");
    }
    if jwk.get("key_ops").is_some_and(|ops| !ops.as_array().is_some_and(|ops| ops.iter().any(|op| op.as_str() == Some("verify")))) {
        return Err("is not for verification");
    }
    let kid = match jwk.get("kid") {
        None => None,
        Some(kid) => Some(kid.as_str().ok_or("has a kid that is no text")?.to_owned()),
    };
    match (text(jwk, "kty"), text(jwk, "crv")) {
        (Some("RSA"), _) if signs(jwk, &["RS256"]) => {
            VerifyingKey::rs256(kid, &bytes(jwk, "n")?, &bytes(jwk, "e")?).map_err(|_| "is no rsa key of 2048 to 8192 bits")
        }
        (Some("EC"), Some("P-256")) if signs(jwk, &["ES256"]) => {
            let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
            // RFC 7518, 6.2.1.2: a coordinate has all its octets. Otherwise the two could not be told apart again.
            if x.len() != 32 || y.len() != 32 {
                return Err("has a coordinate that is not 32 bytes");
            }
            VerifyingKey::es256(kid, &[&[4], &x[..], &y[..]].concat()).map_err(|_| "is no point on p-256")
        }
        // RFC 9864 names the algorithm after the curve; both names are in use.
        (Some("OKP"), Some("Ed25519")) if signs(jwk, &["EdDSA", "Ed25519"]) => {
            VerifyingKey::ed25519(kid, &bytes(jwk, "x")?).map_err(|_| "is no ed25519 key")
        }
        _ => Err("has a kty, crv or alg that is not served"),
    }
}

/// Whether the key's `alg`, where it names one, is among these.
fn signs(jwk: &Map<String, Value>, algorithms: &[&str]) -> bool {
    jwk.get("alg").is_none_or(|alg| alg.as_str().is_some_and(|alg| algorithms.contains(&alg)))
}

fn text<'a>(jwk: &'a Map<String, Value>, member: &str) -> Option<&'a str> {
    jwk.get(member).and_then(Value::as_str)
}

fn bytes(jwk: &Map<String, Value>, member: &str) -> Result<Vec<u8>, &'static str> {
    let text = text(jwk, member).ok_or("lacks a member of its kty")?;
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| "has a member that is no base64url")
}
