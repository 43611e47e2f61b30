//! Tokens that open nothing, over every way that takes one.

use anyhow::ensure;
use recado_tests::harness::{Endpoints, Tested};
use serde_json::{Value, json};

use super::problems::is_problem;
use super::secrets::Secrets;
use super::signers::{AUDIENCE, ISSUER, base64url, claims, claims_but, compact, hs256, issuer, now, stranger};
use super::victim::Victim;

/// A server that trusts the public keys of an issuer.
async fn victim(folder: &tempfile::TempDir) -> anyhow::Result<Victim> {
    let jwks = folder.path().join("jwks.json");
    std::fs::write(&jwks, issuer().jwks().to_string())?;
    let keys = jwks.to_string_lossy();
    Victim::up(&["--token-keys", &keys, "--token-issuer", ISSUER, "--token-audience", AUDIENCE, "--token-leeway", "5s"]).await
}

/// Every way in: the query of a socket, its header, the inbox, a ticket.
async fn try_all(victim: &Victim, token: &str, status: u16, kind: &str, what: &str) -> Tested {
    victim.secret(token);
    let upgrade = |request: reqwest::RequestBuilder| {
        let headers = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")];
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    };
    let socket = format!("{}/ws", victim.url);
    let by_query = upgrade(victim.http.get(&socket).query(&[("token", token)])).send().await?;
    victim.refuses(by_query, status, kind, &format!("{what}, in the query of a socket")).await?;
    if token.bytes().all(|byte| byte.is_ascii_graphic()) && !token.is_empty() {
        let by_header = upgrade(victim.http.get(&socket).bearer_auth(token)).send().await?;
        victim.refuses(by_header, status, kind, &format!("{what}, in the header of a socket")).await?;
        // The HTTP API does not say how far a token came.
        for request in [victim.http.get(format!("{}/inbox", victim.url)), victim.http.post(format!("{}/connection-tickets", victim.url))] {
            let answer = request.bearer_auth(token).send().await?;
            victim.refuses(answer, 401, "unauthorized", &format!("{what}, over HTTP")).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_token_of_the_issuer_opens_a_socket_an_inbox_and_a_ticket() -> Tested {
    let folder = tempfile::tempdir()?;
    let victim = victim(&folder).await?;
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let token = victim.secret(issuer().token(algorithm, &claims("alice")));
        victim.connect_with(&token, true).await?.sync(None, &[]).await?;
        let answer = victim.http.post(format!("{}/connection-tickets", victim.url)).bearer_auth(&token).send().await?;
        ensure!(answer.status() == 201, "{algorithm}: {}", answer.status());
    }
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn a_token_cannot_choose_how_it_is_judged() -> Tested {
    let folder = tempfile::tempdir()?;
    let victim = victim(&folder).await?;
    let good = claims("alice");
    let unsigned = |header: Value| compact(&header, &good, |_| Vec::new());
    let with_secret = |secret: &[u8]| compact(&json!({ "alg": "HS256", "kid": "RS256" }), &good, |message| hs256(secret, message));
    let (der, pem) = issuer().rsa_public();
    let mut cases = vec![
        ("HS256 with the PEM of the RSA key", with_secret(pem.as_bytes()), "token-algorithm"),
        ("HS256 with its PEM, trimmed", with_secret(pem.trim().as_bytes()), "token-algorithm"),
        ("HS256 with its DER", with_secret(&der), "token-algorithm"),
        ("HS256 with an empty secret", with_secret(b""), "token-algorithm"),
        ("RS384 with the RSA key", issuer().token_with(&json!({ "alg": "RS384", "kid": "RS256" }), "RS384", &good), "token-algorithm"),
        (
            "ES256 under the RSA key's name",
            issuer().token_with(&json!({ "alg": "ES256", "kid": "RS256" }), "ES256", &good),
            "token-algorithm",
        ),
        ("RS256 signed by the EC key", issuer().token_with(&json!({ "alg": "RS256", "kid": "RS256" }), "ES256", &good), "token-signature"),
        ("no `alg`", unsigned(json!({ "kid": "RS256" })), "token-malformed"),
        ("an unknown `alg`", unsigned(json!({ "alg": "XX999", "kid": "RS256" })), "token-malformed"),
    ];
    for none in ["none", "None", "NONE", "nOnE"] {
        cases.push(("alg none", unsigned(json!({ "alg": none, "kid": "RS256" })), "token-malformed"));
        cases.push(("alg none, without a key", unsigned(json!({ "alg": none })), "token-malformed"));
    }
    for (what, token, kind) in cases {
        try_all(&victim, &token, 401, kind, what).await?;
    }
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn a_token_cannot_bring_its_own_key_or_point_at_one() -> Tested {
    let folder = tempfile::tempdir()?;
    let victim = victim(&folder).await?;
    let good = claims("alice");
    let forged = |header: Value| stranger().token_with(&header, "RS256", &good);
    let long = "k".repeat(4096);
    let kids = [
        "RS257",
        "rs256",
        "RS256 ",
        "",
        "../../../../dev/null",
        "/dev/null",
        "' OR '1'='1",
        "RS256' UNION SELECT 'key",
        "$(id)",
        "RS256\u{0}",
        "*",
        long.as_str(),
    ];
    for kid in kids {
        try_all(&victim, &forged(json!({ "alg": "RS256", "kid": kid })), 401, "token-key-unknown", &format!("kid {:.20}", kid)).await?;
    }
    for header in [
        json!({ "alg": "RS256", "kid": ["RS256"] }),
        json!({ "alg": "RS256", "kid": { "$ne": "" } }),
        json!({ "alg": "RS256", "kid": 256 }),
    ] {
        try_all(&victim, &forged(header.clone()), 401, "token-malformed", &header.to_string()).await?;
    }
    try_all(&victim, &forged(json!({ "alg": "RS256" })), 401, "token-key-unknown", "no kid").await?;
    let pointing = [
        ("jwk", stranger().rsa_jwk()),
        ("jku", json!(format!("{}/jwks", victim.url))),
        ("x5u", json!("https://evil.example/cert.pem")),
        ("x5c", json!(["MIIB"])),
    ];
    for (name, value) in pointing {
        let header = json!({ "alg": "RS256", "kid": "RS256", name: value });
        try_all(&victim, &forged(header), 401, "token-signature", name).await?;
    }
    let critical = json!({ "alg": "RS256", "kid": "RS256", "crit": ["b64"], "b64": false });
    try_all(&victim, &issuer().token_with(&critical, "RS256", &good), 401, "token-malformed", "an extension that must be understood")
        .await?;
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn a_signature_holds_for_its_own_message_alone() -> Tested {
    let folder = tempfile::tempdir()?;
    let victim = victim(&folder).await?;
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let token = issuer().token(algorithm, &claims("mallory"));
        let parts: Vec<&str> = token.split('.').collect();
        let (header, payload, signature) = (parts[0], parts[1], parts[2]);
        let alice = base64url(claims("alice").to_string().as_bytes());
        let mut flipped = signature.to_owned().into_bytes();
        flipped[10] = if flipped[10] == b'A' { b'B' } else { b'A' };
        let flipped = String::from_utf8(flipped)?;
        let cases = [
            ("other claims", format!("{header}.{alice}.{signature}"), "token-signature"),
            ("no signature", format!("{header}.{payload}."), "token-signature"),
            ("no signature and no dot", format!("{header}.{payload}"), "token-malformed"),
            ("half a signature", format!("{header}.{payload}.{}", &signature[..signature.len() / 8 * 4]), "token-signature"),
            ("a flipped bit", format!("{header}.{payload}.{flipped}"), "token-signature"),
            ("a fourth part", format!("{token}.{signature}"), "token-malformed"),
            ("by a stranger", stranger().token(algorithm, &claims("alice")), "token-signature"),
            ("zeros", format!("{header}.{payload}.{}", base64url(&[0; 64])), "token-signature"),
        ];
        for (what, token, kind) in cases {
            try_all(&victim, &token, 401, kind, &format!("{algorithm}, {what}")).await?;
        }
    }
    victim.has_kept_quiet().await
}

/// Changes of good claims, and what a token with them is refused as.
pub(crate) fn claims_that_do_not_hold() -> Vec<(Value, &'static str)> {
    let long = "x".repeat(129);
    vec![
        (json!({ "exp": now() - 10 }), "token-expired"),
        (json!({ "exp": 0 }), "token-expired"),
        (json!({ "exp": -1e300 }), "token-expired"),
        (json!({ "exp": null }), "token-times"),
        (json!({ "exp": "9999999999" }), "token-times"),
        (json!({ "exp": [now() + 3600] }), "token-malformed"),
        (json!({ "nbf": now() + 60 }), "token-not-yet-valid"),
        (json!({ "nbf": 1e300 }), "token-not-yet-valid"),
        (json!({ "nbf": "0" }), "token-times"),
        (json!({ "iss": null }), "token-issuer"),
        (json!({ "iss": "https://login.example.com.evil.example" }), "token-issuer"),
        (json!({ "iss": format!("{ISSUER}/") }), "token-issuer"),
        (json!({ "iss": { "any": ISSUER } }), "token-issuer"),
        (json!({ "aud": null }), "token-audience"),
        (json!({ "aud": "another" }), "token-audience"),
        (json!({ "aud": ["another", "one"] }), "token-audience"),
        (json!({ "aud": [] }), "token-audience"),
        (json!({ "aud": { AUDIENCE: true } }), "token-audience"),
        (json!({ "sub": null }), "token-subject"),
        (json!({ "sub": "" }), "token-subject"),
        (json!({ "sub": 7 }), "token-subject"),
        (json!({ "sub": ["alice"] }), "token-malformed"),
        (json!({ "sub": long }), "token-subject"),
        (json!({ "sub": "alice\nuser=bob" }), "token-subject"),
        (json!({ "tenant": "" }), "token-tenant"),
        (json!({ "tenant": 7 }), "token-tenant"),
        (json!({ "tenant": ["acme"] }), "token-tenant"),
        (json!({ "tenant": long }), "token-tenant"),
        (json!({ "tenant": "acme\u{0}" }), "token-tenant"),
    ]
}

#[tokio::test]
async fn claims_that_do_not_hold_open_nothing() -> Tested {
    let folder = tempfile::tempdir()?;
    let victim = victim(&folder).await?;
    for (changes, kind) in claims_that_do_not_hold() {
        let token = issuer().token("EdDSA", &claims_but(changes.clone()));
        try_all(&victim, &token, 401, kind, &changes.to_string()).await?;
    }
    for text in ["[]", "7", "null", "\"alice\"", "{", ""] {
        let header = base64url(br#"{"alg":"EdDSA","kid":"EdDSA"}"#);
        let message = format!("{header}.{}", base64url(text.as_bytes()));
        let token = format!("{message}.{}", base64url(&issuer().sign("EdDSA", message.as_bytes())));
        try_all(&victim, &token, 401, "token-malformed", &format!("claims that are {text:?}")).await?;
    }
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn what_is_no_token_or_too_long_opens_nothing() -> Tested {
    let folder = tempfile::tempdir()?;
    let victim = victim(&folder).await?;
    let nested = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    let deep = format!("{}.{}.x", base64url(nested.as_bytes()), base64url(nested.as_bytes()));
    for token in ["", ".", "..", "a.b.c", "not a token", "\u{1f600}.\u{1f600}.\u{1f600}", "%00.%00.%00", &deep] {
        try_all(&victim, token, 401, "token-malformed", &format!("{token:.20}")).await?;
    }
    // A good one, but for its length.
    let padded = issuer().token("EdDSA", &claims_but(json!({ "padding": "p".repeat(8 * 1024) })));
    try_all(&victim, &padded, 400, "malformed-request", "a token above the limit").await?;
    victim.has_kept_quiet().await
}

/// That a good token opens nothing from where it does not belong.
pub(crate) async fn counts_nowhere_else(at: &Endpoints, secrets: &Secrets, token: &str) -> Tested {
    let inbox = format!("{}/inbox", at.url);
    let elsewhere = [
        ("in the query", at.http.get(&inbox).query(&[("token", token)])),
        ("in the query as an access token", at.http.get(&inbox).query(&[("access_token", token)])),
        ("in a cookie", at.http.get(&inbox).header("cookie", format!("token={token}; Authorization=Bearer {token}"))),
        ("in another header", at.http.get(&inbox).header("x-authorization", format!("Bearer {token}"))),
        ("with another scheme", at.http.get(&inbox).header("authorization", format!("Basic {token}"))),
        ("without a scheme", at.http.get(&inbox).header("authorization", token)),
    ];
    for (what, request) in elsewhere {
        is_problem(request.send().await?, 401, "unauthorized", what, secrets).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_token_counts_once_and_where_it_belongs() -> Tested {
    let folder = tempfile::tempdir()?;
    let victim = victim(&folder).await?;
    let token = victim.secret(issuer().token("EdDSA", &claims("alice")));
    counts_nowhere_else(&victim, victim.secrets(), &token).await?;
    let twice = victim.http.get(format!("{}/inbox", victim.url)).bearer_auth(&token).bearer_auth(&token);
    victim.refuses(twice.send().await?, 401, "unauthorized", "twice").await?;
    let bad = victim.secret(stranger().token("EdDSA", &claims("alice")));
    for (first, second) in [(&token, &token), (&token, &bad), (&bad, &token)] {
        let query = format!("{first}&token={second}");
        ensure!(victim.try_connect(&query, true).await?.err() == Some(400), "a socket opened with two tokens");
    }
    victim.has_kept_quiet().await
}
