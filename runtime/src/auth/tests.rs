//! Tokens good and bad, against keys of every kind, static and fetched.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256};
use aws_lc_rs::{hmac, rsa};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const NOW: i64 = 1_800_000_000;

#[derive(Debug, Clone)]
struct TestClock(Arc<Mutex<Timestamp>>);

impl TestClock {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(at(NOW))))
    }

    fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// One signer of every algorithm, made once: an RSA key takes its time.
struct Signers {
    rsa: rsa::KeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    secret: Vec<u8>,
}

fn signers() -> &'static Signers {
    static SIGNERS: OnceLock<Signers> = OnceLock::new();
    SIGNERS.get_or_init(|| Signers {
        rsa: rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap(),
        ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
        ed: Ed25519KeyPair::generate().unwrap(),
        secret: (0..32).collect(),
    })
}

impl Signers {
    fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        match algorithm {
            Algorithm::Hs256 => hmac_of(&self.secret, message),
            Algorithm::Rs256 => {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
            Algorithm::Es256 => self.ec.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Algorithm::EdDsa => self.ed.sign(message).as_ref().to_vec(),
        }
    }

    fn rsa_pem(&self) -> String {
        pem("PUBLIC KEY", self.rsa.public_key().as_der().unwrap().as_ref())
    }

    fn ec_pem(&self) -> String {
        pem("PUBLIC KEY", self.ec.public_key().as_der().unwrap().as_ref())
    }

    fn ed_pem(&self) -> String {
        pem("PUBLIC KEY", self.ed.public_key().as_der().unwrap().as_ref())
    }

    /// All four, named by their algorithm.
    fn keys(&self) -> KeySet {
        let pem = |kid: &str, pem: String| VerifyingKey::from_pem(Some(kid.to_owned()), pem.as_bytes()).unwrap();
        KeySet::new(vec![
            VerifyingKey::hs256(Some("HS256".to_owned()), &self.secret).unwrap(),
            pem("RS256", self.rsa_pem()),
            pem("ES256", self.ec_pem()),
            pem("EdDSA", self.ed_pem()),
        ])
        .unwrap()
    }

    /// The three public ones as JWK.
    fn jwks(&self) -> Vec<Value> {
        let der = self.rsa.public_key().as_ref();
        // SEQUENCE (4 bytes of head), INTEGER n (4 bytes of head, a zero), INTEGER e (2 bytes of head).
        let (n, e) = (&der[9..9 + 256], &der[9 + 256 + 2..]);
        let point = self.ec.public_key().as_ref();
        vec![
            json!({"kty": "RSA", "kid": "RS256", "n": base64url(n), "e": base64url(e)}),
            json!({"kty": "EC", "kid": "ES256", "crv": "P-256", "x": base64url(&point[1..33]), "y": base64url(&point[33..])}),
            json!({"kty": "OKP", "kid": "EdDSA", "crv": "Ed25519", "x": base64url(self.ed.public_key().as_ref())}),
        ]
    }
}

fn hmac_of(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn compact(header: &Value, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.as_bytes()));
    let signature = base64url(&sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn token_of(name: &str, algorithm: Algorithm, claims: &Value) -> String {
    compact(&json!({"alg": name, "kid": name}), &claims.to_string(), |message| signers().sign(algorithm, message))
}

fn hs256(claims: &Value) -> String {
    token_of("HS256", Algorithm::Hs256, claims)
}

fn good() -> Value {
    json!({"sub": "alice", "exp": NOW + 600})
}

/// The good claims with some changed; null takes one away.
fn good_but(changes: Value) -> Value {
    let Value::Object(mut claims) = good() else { unreachable!("claims are an object") };
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    for (name, value) in changes {
        if value.is_null() {
            claims.remove(&name)
        } else {
            claims.insert(name, value)
        };
    }
    Value::Object(claims)
}

fn verifier(config: TokenConfig) -> TokenVerifier<KeySet, TestClock> {
    TokenVerifier::new(config, signers().keys(), TestClock::new())
}

async fn verify(token: &str) -> Result<Identity, TokenError> {
    verifier(TokenConfig::default()).verify(token).await
}

#[tokio::test]
async fn a_token_of_every_algorithm_opens_its_own_inbox() {
    let algorithms = [("HS256", Algorithm::Hs256), ("RS256", Algorithm::Rs256), ("ES256", Algorithm::Es256), ("EdDSA", Algorithm::EdDsa)];
    for (name, algorithm) in algorithms {
        let identity = verify(&token_of(name, algorithm, &good_but(json!({"tenant": "acme"})))).await.unwrap();
        assert_eq!(identity.recipient.joined(), "acme#alice", "{name}");
        assert_eq!(identity.expires_at, at(NOW + 630), "{name}");
    }
}

#[tokio::test]
async fn a_token_without_a_tenant_speaks_for_the_default_one() {
    assert_eq!(verify(&hs256(&good())).await.unwrap().recipient.tenant, TenantId::default());
}

#[tokio::test]
async fn claims_that_break_a_rule_are_refused() {
    let cases = [
        ("no exp", json!({"exp": null}), TokenError::Times),
        ("exp as text", json!({"exp": "2030"}), TokenError::Times),
        ("exp long past", json!({"exp": NOW - 31}), TokenError::Expired),
        ("exp past by the leeway", json!({"exp": NOW - 30}), TokenError::Expired),
        ("exp before time began", json!({"exp": -1e300}), TokenError::Expired),
        ("nbf ahead", json!({"nbf": NOW + 31}), TokenError::NotYetValid),
        ("nbf as text", json!({"nbf": "now"}), TokenError::Times),
        ("no sub", json!({"sub": null}), TokenError::Subject),
        ("empty sub", json!({"sub": ""}), TokenError::Subject),
        ("sub as number", json!({"sub": 7}), TokenError::Subject),
        ("long sub", json!({"sub": "a".repeat(129)}), TokenError::Subject),
        ("sub with a control character", json!({"sub": "a\nb"}), TokenError::Subject),
        ("empty tenant", json!({"tenant": ""}), TokenError::Tenant),
        ("tenant as number", json!({"tenant": 1}), TokenError::Tenant),
        ("tenants as array", json!({"tenant": ["acme"]}), TokenError::Tenant),
    ];
    for (case, changes, refusal) in cases {
        assert_eq!(verify(&hs256(&good_but(changes))).await, Err(refusal), "{case}");
    }
}

#[tokio::test]
async fn a_tenant_that_is_null_is_no_default() {
    let claims = json!({"sub": "alice", "exp": NOW + 600, "tenant": null});
    assert_eq!(verify(&hs256(&claims)).await, Err(TokenError::Tenant));
}

#[tokio::test]
async fn clocks_may_differ_by_the_leeway() {
    for changes in [json!({"exp": NOW - 29}), json!({"exp": NOW as f64 - 28.5}), json!({"nbf": NOW + 30}), json!({"exp": u64::MAX})] {
        assert!(verify(&hs256(&good_but(changes.clone()))).await.is_ok(), "{changes}");
    }
}

#[tokio::test]
async fn a_token_expires_by_the_clock_that_was_passed() {
    let clock = TestClock::new();
    let verifier = TokenVerifier::new(TokenConfig::default(), signers().keys(), clock.clone());
    let token = hs256(&good());
    assert!(verifier.verify(&token).await.is_ok());
    clock.advance(Duration::from_secs(629));
    assert!(verifier.verify(&token).await.is_ok());
    clock.advance(Duration::from_secs(1));
    assert_eq!(verifier.verify(&token).await, Err(TokenError::Expired));
}

#[tokio::test]
async fn issuer_and_audience_are_checked_when_configured() {
    let config = TokenConfig { issuers: vec!["https://i".into()], audiences: vec!["recado".into()], ..TokenConfig::default() };
    let verifier = verifier(config);
    let cases = [
        (json!({}), Err(TokenError::Issuer)),
        (json!({"iss": "https://evil", "aud": "recado"}), Err(TokenError::Issuer)),
        (json!({"iss": "https://i"}), Err(TokenError::Audience)),
        (json!({"iss": "https://i", "aud": "other"}), Err(TokenError::Audience)),
        (json!({"iss": "https://i", "aud": []}), Err(TokenError::Audience)),
        (json!({"iss": "https://i", "aud": "recado"}), Ok(())),
        (json!({"iss": "https://i", "aud": ["other", "recado"]}), Ok(())),
    ];
    for (changes, expected) in cases {
        assert_eq!(verifier.verify(&hs256(&good_but(changes.clone()))).await.map(|_| ()), expected, "{changes}");
    }
}

#[tokio::test]
async fn the_tenant_claim_has_a_configurable_name() {
    let verifier = verifier(TokenConfig { tenant_claim: "https://acme.example/org".into(), ..TokenConfig::default() });
    let claims = good_but(json!({"https://acme.example/org": "acme", "tenant": "other"}));
    assert_eq!(verifier.verify(&hs256(&claims)).await.unwrap().recipient.tenant.as_str(), "acme");
}

#[tokio::test]
async fn a_token_cannot_choose_its_algorithm() {
    let claims = good().to_string();
    let rsa_pem = signers().rsa_pem();
    let rsa_der = signers().rsa.public_key().as_ref();
    let cases = [
        ("none", compact(&json!({"alg": "none", "kid": "HS256"}), &claims, |_| Vec::new()), TokenError::Malformed),
        ("None", compact(&json!({"alg": "None", "kid": "RS256"}), &claims, |_| Vec::new()), TokenError::Malformed),
        ("no alg", compact(&json!({"kid": "HS256"}), &claims, |m| signers().sign(Algorithm::Hs256, m)), TokenError::Malformed),
        (
            "rsa pem as secret",
            compact(&json!({"alg": "HS256", "kid": "RS256"}), &claims, |m| hmac_of(rsa_pem.as_bytes(), m)),
            TokenError::Algorithm,
        ),
        ("rsa der as secret", compact(&json!({"alg": "HS256", "kid": "RS256"}), &claims, |m| hmac_of(rsa_der, m)), TokenError::Algorithm),
        (
            "another hash",
            compact(&json!({"alg": "HS512", "kid": "HS256"}), &claims, |m| signers().sign(Algorithm::Hs256, m)),
            TokenError::Algorithm,
        ),
        (
            "rsa key by pss",
            compact(&json!({"alg": "PS256", "kid": "RS256"}), &claims, |m| signers().sign(Algorithm::Rs256, m)),
            TokenError::Algorithm,
        ),
        (
            "ec key as ed",
            compact(&json!({"alg": "EdDSA", "kid": "ES256"}), &claims, |m| signers().sign(Algorithm::EdDsa, m)),
            TokenError::Algorithm,
        ),
    ];
    for (case, token, refusal) in cases {
        assert_eq!(verify(&token).await, Err(refusal), "{case}");
    }
}

#[tokio::test]
async fn a_signature_by_anybody_else_is_refused() {
    let claims = good().to_string();
    for name in ["HS256", "RS256", "ES256", "EdDSA"] {
        let header = json!({"alg": name, "kid": name});
        for signature in [Vec::new(), vec![0; 32], vec![0; 64], vec![7; 256], hmac_of(&[9; 32], claims.as_bytes())] {
            let token = compact(&header, &claims, |_| signature.clone());
            assert_eq!(verify(&token).await, Err(TokenError::Signature), "{name}");
        }
    }
    let (head, rest) = hs256(&good()).split_once('.').map(|(head, rest)| (head.to_owned(), rest.to_owned())).unwrap();
    let forged = base64url(good_but(json!({"sub": "mallory"})).to_string().as_bytes());
    let signature = rest.split_once('.').unwrap().1;
    assert_eq!(verify(&format!("{head}.{forged}.{signature}")).await, Err(TokenError::Signature));
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    let valid = hs256(&good());
    let crit =
        compact(&json!({"alg": "HS256", "kid": "HS256", "crit": ["exp"]}), &good().to_string(), |m| signers().sign(Algorithm::Hs256, m));
    let list = compact(&json!({"alg": "HS256", "kid": "HS256"}), "[1]", |m| signers().sign(Algorithm::Hs256, m));
    for token in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", &valid[1..], &format!("{valid}.{valid}"), &format!(" {valid}"), &crit, &list] {
        let refusal = verify(token).await.unwrap_err();
        assert!(matches!(refusal, TokenError::Malformed), "{token}: {refusal:?}");
    }
    assert_eq!(verify(&"a".repeat(limits::TOKEN_BYTES)).await, Err(TokenError::Malformed));
    assert_eq!(verify(&"a".repeat(limits::TOKEN_BYTES + 1)).await, Err(TokenError::TooLong));
}

#[test]
fn every_refusal_has_a_code_that_never_changes() {
    let refusals = [
        (TokenError::TooLong, "token_too_long", 401),
        (TokenError::Malformed, "token_malformed", 401),
        (TokenError::UnknownKey, "token_key_unknown", 401),
        (TokenError::Algorithm, "token_algorithm", 401),
        (TokenError::Signature, "token_signature", 401),
        (TokenError::Expired, "token_expired", 401),
        (TokenError::NotYetValid, "token_not_yet_valid", 401),
        (TokenError::Issuer, "token_issuer", 401),
        (TokenError::Audience, "token_audience", 401),
        (TokenError::Times, "token_times", 401),
        (TokenError::Subject, "token_subject", 401),
        (TokenError::Tenant, "token_tenant", 401),
        (TokenError::Unavailable, "token_keys_unavailable", 503),
    ];
    for (refusal, code, status) in refusals {
        assert_eq!((refusal.code(), refusal.status()), (code, status));
    }
}

#[tokio::test]
async fn a_key_without_a_name_serves_tokens_without_one_and_no_others() {
    let secret = &signers().secret;
    let keys = KeySet::new(vec![VerifyingKey::hs256(None, secret).unwrap()]).unwrap();
    let verifier = TokenVerifier::new(TokenConfig::default(), keys, TestClock::new());
    let anonymous = compact(&json!({"alg": "HS256"}), &good().to_string(), |m| signers().sign(Algorithm::Hs256, m));
    assert!(verifier.verify(&anonymous).await.is_ok());
    assert_eq!(verifier.verify(&hs256(&good())).await, Err(TokenError::UnknownKey));
    assert_eq!(verify(&anonymous).await, Err(TokenError::UnknownKey));
}

#[test]
fn weak_private_and_foreign_keys_are_refused_at_configuration() {
    assert_eq!(VerifyingKey::hs256(None, &[1; 31]).unwrap_err(), InvalidKey::ShortSecret { bytes: 31 });
    let private = pem("PRIVATE KEY", AsDer::as_der(&signers().rsa).unwrap().as_ref());
    assert_eq!(VerifyingKey::from_pem(None, private.as_bytes()).unwrap_err(), InvalidKey::PrivateKey);
    // RSAPublicKey of 1,024 bits: SEQUENCE { INTEGER n, INTEGER 65537 }.
    let weak = [&[0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00], &[0xff_u8; 128][..], &[0x02, 0x03, 1, 0, 1]].concat();
    assert_eq!(VerifyingKey::from_pem(None, pem("RSA PUBLIC KEY", &weak).as_bytes()).unwrap_err(), InvalidKey::Rsa);
    let pkcs1 = pem("RSA PUBLIC KEY", signers().rsa.public_key().as_ref());
    assert_eq!(VerifyingKey::from_pem(None, pkcs1.as_bytes()).unwrap().algorithm(), Algorithm::Rs256);
    let p384 = EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let p384 = pem("PUBLIC KEY", p384.public_key().as_der().unwrap().as_ref());
    assert_eq!(VerifyingKey::from_pem(None, p384.as_bytes()).unwrap_err(), InvalidKey::Ec);
    for text in ["", "-----BEGIN PUBLIC KEY-----", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert_eq!(VerifyingKey::from_pem(None, text.as_bytes()).unwrap_err(), InvalidKey::Pem, "{text}");
    }
}

#[cfg(feature = "jwks-http")]
#[tokio::test]
async fn each_kind_of_key_that_settings_name_verifies_its_tokens() {
    use crate::settings::{Secret, Spelling};

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (ec, jwks) = (file("ec.pem", &signers().ec_pem()), file("jwks.json", &json!({"keys": signers().jwks()}).to_string()));
    let settings = TokenSettings::default;
    let secret = Some(Secret("s".repeat(32)));
    let anonymous = |alg: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>| compact(&json!({"alg": alg}), &good().to_string(), sign);
    let of_secret = anonymous("HS256", &|message| hmac_of("s".repeat(32).as_bytes(), message));
    let of_ec = anonymous("ES256", &|message| signers().sign(Algorithm::Es256, message));
    let named = token_of("ES256", Algorithm::Es256, &good());
    let cases = [
        ("a secret", TokenSettings { secret, ..settings() }, of_secret),
        ("a file", TokenSettings { keys: vec![ec.clone()], ..settings() }, of_ec.clone()),
        ("a file whose name has a =", TokenSettings { keys: vec![format!("={ec}")], ..settings() }, of_ec),
        ("a named file", TokenSettings { keys: vec![format!("ES256={ec}")], ..settings() }, named.clone()),
        ("a document", TokenSettings { jwks: Some(jwks.clone()), ..settings() }, named),
    ];
    for (case, settings, token) in cases {
        assert!(settings.has_key(), "{case}");
        let verifier = settings.verifier(Spelling::Flags, None, TestClock::new()).unwrap();
        assert_eq!(verifier.verify(&token).await.map(|identity| identity.recipient.joined()), Ok("default#alice".to_owned()), "{case}");
        assert!(verifier.verify(&hs256(&good())).await.is_err(), "{case}");
    }
    let also = Some(DevelopmentKey::generate().verifying_key());
    let beside = TokenSettings { jwks: Some(jwks), ..settings() }.verifier(Spelling::Flags, also, TestClock::new()).map(|_| ());
    assert!(beside.unwrap_err().to_string().contains("--token-keys names a file beside --token-key"));
}

#[test]
fn names_of_configured_keys_are_told_apart() {
    let key = |kid: Option<&str>| VerifyingKey::hs256(kid.map(str::to_owned), &[1; 32]).unwrap();
    assert_eq!(KeySet::new(vec![]).unwrap_err(), InvalidKey::NoKey);
    assert_eq!(KeySet::new(vec![key(Some("a")), key(Some("a"))]).unwrap_err(), InvalidKey::RepeatedKid("a".to_owned()));
    assert_eq!(KeySet::new(vec![key(None), key(None)]).unwrap_err(), InvalidKey::RepeatedAnonymous);
    assert_eq!(KeySet::new(vec![key(None), key(Some("a"))]).unwrap().len(), 2);
}

#[test]
fn a_key_and_a_refusal_show_neither_secret_nor_token() {
    let key = VerifyingKey::hs256(Some("k".into()), b"a secret of more than 32 bytes, yes").unwrap();
    assert_eq!(format!("{key:?}"), r#"VerifyingKey { kid: Some("k"), algorithm: Hs256, .. }"#);
    assert_eq!(format!("{:?}", DevelopmentKey::generate()), "DevelopmentKey");
}

#[tokio::test]
async fn the_keys_of_a_jwks_document_verify() {
    let json = json!({"keys": signers().jwks()}).to_string();
    let verifier = TokenVerifier::new(TokenConfig::default(), KeySet::from_jwks(json.as_bytes()).unwrap(), TestClock::new());
    for (name, algorithm) in [("RS256", Algorithm::Rs256), ("ES256", Algorithm::Es256), ("EdDSA", Algorithm::EdDsa)] {
        assert!(verifier.verify(&token_of(name, algorithm, &good())).await.is_ok(), "{name}");
    }
}

#[test]
fn keys_of_a_document_that_cannot_verify_are_skipped() {
    let [rsa, ec, ed] = <[Value; 3]>::try_from(signers().jwks()).unwrap();
    let with = |key: &Value, member: &str, value: Value| {
        let mut key = key.clone();
        key[member] = value;
        key
    };
    let skipped = [
        ("for encryption", with(&rsa, "use", json!("enc"))),
        ("to sign with", with(&rsa, "key_ops", json!(["sign"]))),
        ("of another algorithm", with(&rsa, "alg", json!("RS512"))),
        ("with private parts", with(&rsa, "d", json!("AQAB"))),
        ("with odd private parts", with(&ed, "d", json!(null))),
        ("of an unknown kind", with(&rsa, "kty", json!("AKP"))),
        ("symmetric", json!({"kty": "oct", "kid": "HS256", "k": base64url(&[1; 32])})),
        ("weak", with(&rsa, "n", json!(base64url(&[0xff; 128])))),
        ("with an exponent of one", with(&rsa, "e", json!("AQ"))),
        ("without a modulus", with(&rsa, "n", json!(null))),
        ("off the curve", with(&ec, "x", json!(base64url(&[1; 32])))),
        ("with a short coordinate", with(&ec, "x", json!(base64url(&[1; 31])))),
        ("of another curve", with(&ec, "crv", json!("P-384"))),
        ("of another algorithm than its curve's", with(&ec, "alg", json!("ES384"))),
        ("ed25519 of another algorithm", with(&ed, "alg", json!("ES256"))),
        ("with an even exponent", with(&rsa, "e", json!("AQAA"))),
        ("of ed448", with(&ed, "crv", json!("Ed448"))),
        ("too short", with(&ed, "x", json!(base64url(&[1; 31])))),
        ("with a number as name", with(&ed, "kid", json!(7))),
        ("that is no object", json!("key")),
    ];
    for (case, key) in skipped {
        let alone = json!({"keys": [key.clone()]}).to_string();
        assert_eq!(KeySet::from_jwks(alone.as_bytes()).unwrap_err(), InvalidKey::NoKey, "{case}");
        let beside = json!({"keys": [key, with(&ec, "kid", json!("good"))]}).to_string();
        assert_eq!(KeySet::from_jwks(beside.as_bytes()).unwrap().len(), 1, "{case}");
    }
    for key in [with(&rsa, "use", json!("sig")), with(&rsa, "alg", json!("RS256")), with(&ed, "key_ops", json!(["verify"]))] {
        assert_eq!(KeySet::from_jwks(json!({"keys": [key]}).to_string().as_bytes()).unwrap().len(), 1);
    }
    for document in ["", "[]", "{}", r#"{"keys":{}}"#] {
        assert_eq!(KeySet::from_jwks(document.as_bytes()).unwrap_err(), InvalidKey::Jwks, "{document}");
    }
}

#[test]
fn several_keys_of_a_document_without_a_name_serve_nobody() {
    let nameless = |mut key: Value| {
        key.as_object_mut().unwrap().remove("kid");
        key
    };
    let [rsa, ec, _] = <[Value; 3]>::try_from(signers().jwks()).unwrap();
    let one = json!({"keys": [nameless(rsa.clone())]}).to_string();
    assert!(KeySet::from_jwks(one.as_bytes()).unwrap().find(None).is_some());
    let two = json!({"keys": [nameless(rsa), nameless(ec)]}).to_string();
    assert_eq!(KeySet::from_jwks(two.as_bytes()).unwrap_err(), InvalidKey::NoKey);
}

#[tokio::test]
async fn a_development_key_mints_what_it_verifies() {
    let key = DevelopmentKey::from_text(&format!("{}\n", DevelopmentKey::generate().to_text())).unwrap();
    let verifier = TokenVerifier::new(TokenConfig::default(), KeySet::new(vec![key.verifying_key()]).unwrap(), TestClock::new());
    let (alice, acme) = (UserId::new("alice").unwrap(), TenantId::new("acme").unwrap());
    let token = key.mint(&alice, &acme, Duration::from_millis(60_500), at(NOW));
    let identity = verifier.verify(&token).await.unwrap();
    assert_eq!((identity.recipient.user, identity.recipient.tenant), (alice.clone(), acme.clone()));
    assert_eq!(identity.expires_at, at(NOW + 61 + 30));
    let other = DevelopmentKey::generate().mint(&alice, &acme, Duration::from_secs(60), at(NOW));
    assert_eq!(verifier.verify(&other).await, Err(TokenError::Signature));
    assert!(verifier.verify(&key.mint(&alice, &acme, Duration::MAX, at(NOW))).await.is_ok());
    for text in ["", "short", "!"] {
        assert_eq!(DevelopmentKey::from_text(text), Err(InvalidDevelopmentKey));
    }
}

/// Answers what it was told to, in order, and counts; waits for the gate where one is set.
#[derive(Debug, Clone, Default)]
struct TestIssuer {
    answers: Arc<Mutex<VecDeque<Result<String, FetchFailed>>>>,
    fetches: Arc<AtomicUsize>,
    gate: Option<Arc<tokio::sync::Semaphore>>,
}

impl TestIssuer {
    fn publish(&self, keys: &[Value]) {
        self.answers.lock().unwrap().push_back(Ok(json!({ "keys": keys }).to_string()));
    }

    fn fail(&self) {
        self.answers.lock().unwrap().push_back(Err(FetchFailed("refused".to_owned())));
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

impl FetchJwks for TestIssuer {
    async fn fetch(&self) -> Result<Vec<u8>, FetchFailed> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        let answer = self.answers.lock().unwrap().pop_front().unwrap_or_else(|| Err(FetchFailed("nothing left".to_owned())));
        answer.map(String::into_bytes)
    }
}

fn remote(issuer: &TestIssuer) -> (RemoteKeys<TestIssuer, TestClock>, TestClock) {
    let clock = TestClock::new();
    (RemoteKeys::new(issuer.clone(), clock.clone(), RemoteKeysConfig::default()), clock)
}

#[tokio::test]
async fn a_document_is_fetched_once_and_kept() {
    let issuer = TestIssuer::default();
    issuer.publish(&signers().jwks());
    let (keys, _) = remote(&issuer);
    for kid in ["RS256", "ES256", "EdDSA", "RS256"] {
        assert!(keys.key(Some(kid)).await.is_ok(), "{kid}");
    }
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn a_new_key_is_fetched_when_a_token_names_it_but_not_more_often_than_allowed() {
    let issuer = TestIssuer::default();
    let jwks = signers().jwks();
    issuer.publish(&jwks[..1]);
    issuer.publish(&jwks[1..]);
    let (keys, clock) = remote(&issuer);
    assert!(keys.key(Some("RS256")).await.is_ok());
    assert_eq!(keys.key(Some("ES256")).await.unwrap_err(), KeyError::Unknown);
    assert_eq!(issuer.fetches(), 1);
    clock.advance(Duration::from_secs(10));
    assert!(keys.key(Some("ES256")).await.is_ok());
    assert_eq!(keys.key(Some("RS256")).await.unwrap_err(), KeyError::Unknown);
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn old_keys_are_fetched_again_and_a_withdrawn_one_is_refused() {
    let issuer = TestIssuer::default();
    let jwks = signers().jwks();
    issuer.publish(&jwks);
    issuer.publish(&jwks[..1]);
    let (keys, clock) = remote(&issuer);
    assert!(keys.key(Some("ES256")).await.is_ok());
    clock.advance(Duration::from_secs(599));
    assert!(keys.key(Some("ES256")).await.is_ok());
    clock.advance(Duration::from_secs(1));
    assert_eq!(keys.key(Some("ES256")).await.unwrap_err(), KeyError::Unknown);
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn old_keys_serve_while_the_url_fails() {
    let issuer = TestIssuer::default();
    issuer.publish(&signers().jwks());
    issuer.fail();
    issuer.answers.lock().unwrap().push_back(Ok("<html>".to_owned()));
    let (keys, clock) = remote(&issuer);
    assert!(keys.key(Some("ES256")).await.is_ok());
    for fetches in [2, 3, 4] {
        clock.advance(Duration::from_secs(3600));
        assert!(keys.key(Some("ES256")).await.is_ok());
        assert!(keys.key(Some("ES256")).await.is_ok());
        assert_eq!(issuer.fetches(), fetches);
    }
}

#[tokio::test]
async fn keys_of_yesterday_are_not_used_however_long_the_url_fails() {
    let issuer = TestIssuer::default();
    issuer.publish(&signers().jwks());
    issuer.fail();
    issuer.fail();
    issuer.publish(&signers().jwks());
    let (keys, clock) = remote(&issuer);
    assert!(keys.key(Some("ES256")).await.is_ok());
    clock.advance(Duration::from_secs(24 * 3600 - 1));
    assert!(keys.key(Some("ES256")).await.is_ok());
    clock.advance(Duration::from_secs(10));
    assert_eq!(keys.key(Some("ES256")).await.unwrap_err(), KeyError::Unavailable);
    assert_eq!(keys.key(Some("unheard of")).await.unwrap_err(), KeyError::Unavailable);
    clock.advance(Duration::from_secs(10));
    assert!(keys.key(Some("ES256")).await.is_ok());
    assert_eq!(issuer.fetches(), 4);
}

#[tokio::test]
async fn without_any_keys_the_answer_is_unavailable_and_not_invalid() {
    let issuer = TestIssuer::default();
    issuer.fail();
    issuer.publish(&signers().jwks());
    let (keys, clock) = remote(&issuer);
    let verifier = TokenVerifier::new(TokenConfig::default(), keys, clock.clone());
    let token = token_of("ES256", Algorithm::Es256, &good());
    let error = verifier.verify(&token).await.unwrap_err();
    assert_eq!((error, error.status()), (TokenError::Unavailable, 503));
    assert_eq!(verifier.verify(&token).await, Err(TokenError::Unavailable));
    assert_eq!(issuer.fetches(), 1);
    clock.advance(Duration::from_secs(10));
    assert!(verifier.verify(&token).await.is_ok());
}

#[tokio::test]
async fn many_tokens_at_once_cause_one_fetch() {
    let issuer = TestIssuer { gate: Some(Arc::new(tokio::sync::Semaphore::new(0))), ..TestIssuer::default() };
    issuer.publish(&signers().jwks());
    let (keys, _) = remote(&issuer);
    let lookups = async { tokio::join!(keys.key(Some("RS256")), keys.key(Some("ES256")), keys.key(Some("EdDSA"))) };
    let open = async {
        while issuer.fetches() == 0 {
            tokio::task::yield_now().await;
        }
        issuer.gate.as_ref().unwrap().add_permits(1);
    };
    let ((a, b, c), ()) = tokio::join!(lookups, open);
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn a_fetch_goes_on_when_its_caller_hangs_up() {
    let issuer = TestIssuer { gate: Some(Arc::new(tokio::sync::Semaphore::new(0))), ..TestIssuer::default() };
    issuer.publish(&signers().jwks());
    let (keys, _) = remote(&issuer);
    {
        let first = std::pin::pin!(keys.key(Some("RS256")));
        let begun = std::pin::pin!(async {
            while issuer.fetches() == 0 {
                tokio::task::yield_now().await;
            }
        });
        tokio::select! {
            biased;
            _ = first => panic!("the gate is shut"),
            () = begun => {}
        }
    }
    issuer.gate.as_ref().unwrap().add_permits(1);
    assert!(keys.key(Some("RS256")).await.is_ok());
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn a_second_source_is_asked_for_what_the_first_does_not_know() {
    let issuer = TestIssuer::default();
    issuer.publish(&signers().jwks());
    let development = DevelopmentKey::generate();
    let both = (KeySet::new(vec![development.verifying_key()]).unwrap(), Some(remote(&issuer).0));
    assert!(both.key(Some(DEVELOPMENT_KID)).await.is_ok());
    assert_eq!(issuer.fetches(), 0);
    assert!(both.key(Some("ES256")).await.is_ok());
    assert_eq!(None::<KeySet>.key(None).await.unwrap_err(), KeyError::Unknown);
}

fn now_or_never<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(future)
}

proptest! {
    #[test]
    fn arbitrary_text_is_no_token(text in any::<String>()) {
        prop_assert!(now_or_never(verify(&text)).is_err());
    }

    #[test]
    fn arbitrary_parts_are_no_token(header in any::<Vec<u8>>(), claims in any::<Vec<u8>>(), signature in any::<Vec<u8>>()) {
        let token = format!("{}.{}.{}", base64url(&header), base64url(&claims), base64url(&signature));
        prop_assert!(now_or_never(verify(&token)).is_err());
    }

    #[test]
    fn arbitrary_claims_well_signed_are_judged_without_a_panic(exp in any::<f64>(), nbf in any::<i64>(), sub in any::<String>(), tenant in any::<String>()) {
        let claims = json!({"exp": exp, "nbf": nbf, "sub": sub, "tenant": tenant});
        if let Ok(identity) = now_or_never(verify(&hs256(&claims))) {
            prop_assert_eq!(identity.recipient.user.as_str(), sub);
            prop_assert_eq!(identity.recipient.tenant.as_str(), tenant);
        }
    }

    #[test]
    fn an_arbitrary_document_is_read_without_a_panic(bytes in any::<Vec<u8>>(), n in any::<Vec<u8>>(), x in any::<Vec<u8>>()) {
        prop_assert!(KeySet::from_jwks(&bytes).is_err());
        let keys = json!({"keys": [
            {"kty": "RSA", "n": base64url(&n), "e": base64url(&x)},
            {"kty": "EC", "crv": "P-256", "x": base64url(&x), "y": base64url(&n)},
            {"kty": "OKP", "crv": "Ed25519", "x": base64url(&x)},
        ]});
        prop_assert!(KeySet::from_jwks(keys.to_string().as_bytes()).map_or(true, |set| set.len() <= 1));
    }

    #[test]
    fn an_arbitrary_pem_is_refused(bytes in any::<Vec<u8>>()) {
        prop_assert!(VerifyingKey::from_pem(None, &bytes).is_err());
        for label in ["PUBLIC KEY", "RSA PUBLIC KEY"] {
            prop_assert!(VerifyingKey::from_pem(None, pem(label, &bytes).as_bytes()).is_err());
        }
    }
}
