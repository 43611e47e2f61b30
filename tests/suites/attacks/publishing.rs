//! Publishing without the key, and events that would harm whoever reads them.

use anyhow::ensure;
use recado_tests::harness::{Tested, event};
use serde_json::{Value, json};

use super::victim::Victim;

const KEY: &str = "correct-horse-battery-staple-4711";

#[tokio::test]
async fn without_the_whole_key_nothing_is_published() -> Tested {
    let victim = Victim::up(&["--publish-key", KEY]).await?;
    victim.secret(KEY);
    let post = || {
        let request = victim.http.post(format!("{}/events", victim.url)).header("content-type", "application/cloudevents+json");
        request.body(event(&["alice"], "forged").to_string())
    };
    let keys = [
        ("a prefix", KEY[..KEY.len() - 1].to_owned()),
        ("one more", format!("{KEY}x")),
        ("another last character", format!("{}2", &KEY[..KEY.len() - 1])),
        ("another first character", format!("C{}", &KEY[1..])),
        ("upper case", KEY.to_uppercase()),
        ("a list", format!("{KEY},{KEY}")),
        ("another key", "another-key-of-16-characters".to_owned()),
        ("a long one", "k".repeat(6_000)),
        ("a user's token", victim.token_of("alice")?),
    ];
    for (what, key) in keys {
        victim.secret(&key);
        victim.refuses(post().bearer_auth(&key).send().await?, 401, "unauthorized", what).await?;
    }
    let elsewhere = [
        ("none", post()),
        ("empty", post().bearer_auth("")),
        ("in the query", post().query(&[("key", KEY), ("access_token", KEY)])),
        ("with another scheme", post().header("authorization", format!("Basic {KEY}"))),
        ("without a scheme", post().header("authorization", KEY)),
        ("in another header", post().header("x-api-key", KEY)),
        ("twice", post().bearer_auth(KEY).bearer_auth(KEY)),
        ("in a cookie", post().header("cookie", format!("key={KEY}"))),
    ];
    for (what, request) in elsewhere {
        victim.refuses(request.send().await?, 401, "unauthorized", what).await?;
    }
    ensure!(victim.inbox("alice").await?.is_empty(), "something was published");
    ensure!(post().bearer_auth(KEY).send().await?.status() == 202, "the key itself publishes");
    victim.has_kept_quiet().await
}

/// What `data` of an event breaks a rule with.
fn hostile_data() -> Vec<(&'static str, Value, &'static str)> {
    let marker = "a-value-that-nobody-repeats-4711";
    let recipients = |recipient: Value| json!({ "recipients": [recipient], "channels": ["inbox", "email"] });
    let mail = |email: &str| recipients(json!({ "id": "alice", "email": email }));
    let url = |url: &str| json!({ "recipients": [{ "id": "alice" }], "url": url });
    let mut cases = vec![
        (
            "too many recipients",
            json!({ "recipients": (0..101).map(|n| json!({ "id": format!("u{n}") })).collect::<Vec<_>>() }),
            "data.recipients",
        ),
        ("no recipient", json!({ "recipients": [] }), "data.recipients"),
        ("a recipient twice", json!({ "recipients": [{ "id": "alice" }, { "id": "alice" }] }), "data.recipients[1].id"),
        ("an id with a line break", json!({ "recipients": [{ "id": "alice\nbob" }] }), "data.recipients[0].id"),
        ("a long id", json!({ "recipients": [{ "id": "x".repeat(129) }] }), "data.recipients[0].id"),
        (
            "a name with a header",
            recipients(json!({ "id": "alice", "email": "alice@example.com", "name": "Alice\r\nBcc: evil@example.com" })),
            "data.recipients[0].name",
        ),
        (
            "a locale that climbs",
            recipients(json!({ "id": "alice", "email": "alice@example.com", "locale": "../../etc" })),
            "data.recipients[0].locale",
        ),
        ("a title with a header", json!({ "recipients": [{ "id": "alice" }], "title": "Hi\r\nBcc: evil@example.com" }), "data.title"),
        ("a long title", json!({ "recipients": [{ "id": "alice" }], "title": marker.repeat(20) }), "data.title"),
        ("a long body", json!({ "recipients": [{ "id": "alice" }], "body": marker.repeat(300) }), "data.body"),
        ("a large payload", json!({ "recipients": [{ "id": "alice" }], "payload": { "x": marker.repeat(1_000) } }), "data"),
        ("an unknown channel", json!({ "recipients": [{ "id": "alice" }], "channels": [marker] }), "data.channels[0]"),
        ("a tenant with a zero byte", json!({ "tenant": "a\u{0}", "recipients": [{ "id": "alice" }] }), "data.tenant"),
    ];
    let addresses = [
        "alice@example.com\r\nBcc: evil@example.com",
        "alice@example.com, evil@example.com",
        "alice@example.com;evil@example.com",
        "<alice@example.com>",
        "Alice <alice@example.com>",
        "alice@example.com\u{0}",
        "alice@[127.0.0.1]",
        "alice",
        "@example.com",
    ];
    cases.extend(addresses.map(|address| ("an address that is more", mail(address), "data.recipients[0].email")));
    let urls = [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        " javascript:alert(1)",
        "java\tscript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "vbscript:x",
        "file:///etc/passwd",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "https://",
        "evil.example",
        "mailto:evil@example.com",
        "ws://evil.example",
    ];
    cases.extend(urls.map(|given| ("a URL that leads elsewhere", url(given), "data.url")));
    cases
}

#[tokio::test]
async fn an_event_that_would_harm_its_reader_is_refused_with_the_field_and_without_the_value() -> Tested {
    let victim = Victim::up(&[]).await?;
    victim.secret("a-value-that-nobody-repeats-4711");
    victim.secret("evil@example.com");
    for (what, data, field) in hostile_data() {
        let document = json!({ "specversion": "1.0", "id": "hostile", "source": "/attacks", "type": "attack.tried", "data": data });
        let answer = victim.post_events("application/cloudevents+json", document.to_string()).await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status == 422, "{what}: {status} {text}");
        let named: Value = serde_json::from_str(&text)?;
        let violations = named["results"][0]["violations"].as_array().or(named["violations"].as_array()).cloned().unwrap_or_default();
        let fields: Vec<&str> = violations.iter().filter_map(|violation| violation["field"].as_str()).collect();
        ensure!(fields.iter().any(|named| named.starts_with(field)), "{what} ({}): {text}", data["url"]);
        ensure!(!text.contains("a-value-that-nobody-repeats") && !text.contains("evil@"), "{what}: {text}");
    }
    ensure!(victim.inbox("alice").await?.is_empty(), "something was published");
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn a_body_that_is_no_event_is_refused_whatever_its_size_and_depth() -> Tested {
    let victim = Victim::up(&[]).await?;
    let marker = victim.secret("a-body-that-nobody-repeats-4711");
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let with_payload = |payload: String| {
        format!(
            r#"{{"specversion":"1.0","id":"1","source":"/a","type":"t.t","data":{{"recipients":[{{"id":"alice"}}],"payload":{payload}}}}}"#
        )
    };
    let batch = serde_json::to_string(&(0..1_001).map(|_| event(&["alice"], "one of many")).collect::<Vec<_>>())?;
    let (one, many) = ("application/cloudevents+json", "application/cloudevents-batch+json");
    let cases: [(&str, &str, Vec<u8>, u16); 9] = [
        ("no JSON", one, marker.clone().into_bytes(), 422),
        ("not UTF-8", one, b"\xff\xfe{}".to_vec(), 422),
        ("nested arrays", one, deep(100_000).into_bytes(), 422),
        ("a nested payload", one, with_payload(deep(10_000)).into_bytes(), 422),
        ("more behind it", one, format!("{}{}", event(&["alice"], "first"), event(&["alice"], "second")).into_bytes(), 422),
        ("above the limit", one, vec![b' '; 1024 * 1024 + 1], 413),
        ("a batch that is none", many, marker.clone().into_bytes(), 400),
        ("too many events", many, batch.into_bytes(), 413),
        ("another kind", "text/plain", event(&["alice"], "as text").to_string().into_bytes(), 415),
    ];
    for (what, kind, body, status) in cases {
        let answer = victim.http.post(format!("{}/events", victim.url)).header("content-type", kind).body(body).send().await?;
        let (given, text) = (answer.status().as_u16(), answer.text().await?);
        ensure!(given == status, "{what}: {given} {text}");
        ensure!(!text.contains(&marker), "{what}: {text}");
    }
    ensure!(victim.inbox("alice").await?.is_empty(), "something was published");
    victim.has_kept_quiet().await
}
