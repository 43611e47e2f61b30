//! Publishing without the key, and events that would harm whoever reads them.

use std::time::{Duration, Instant};

use anyhow::ensure;
use recado_tests::harness::{Endpoints, Tested, event};
use serde_json::{Value, json};

use super::frames::deep;
use super::problems::is_problem;
use super::secrets::Secrets;
use super::victim::Victim;

const KEY: &str = "correct-horse-battery-staple-4711";

/// That nothing but the whole key publishes, in its one place.
pub(crate) async fn takes_the_whole_key_alone(at: &Endpoints, secrets: &Secrets, key: &str, token: &str) -> Tested {
    secrets.keep(key);
    let post = || {
        let request = at.http.post(format!("{}/events", at.url)).header("content-type", "application/cloudevents+json");
        request.body(event(&["alice"], "forged").to_string())
    };
    let keys = [
        ("a prefix", key[..key.len() - 1].to_owned()),
        ("one more", format!("{key}x")),
        ("another last character", format!("{}_", &key[..key.len() - 1])),
        ("another first character", format!("_{}", &key[1..])),
        ("a list", format!("{key},{key}")),
        ("another key", "another-key-of-16-characters".to_owned()),
        ("a long one", "k".repeat(6_000)),
        ("a user's token", token.to_owned()),
    ];
    for (what, key) in keys {
        secrets.keep(&key);
        is_problem(post().bearer_auth(&key).send().await?, 401, "unauthorized", what, secrets).await?;
    }
    let elsewhere = [
        ("none", post()),
        ("empty", post().bearer_auth("")),
        ("in the query", post().query(&[("key", key), ("access_token", key)])),
        ("with another scheme", post().header("authorization", format!("Basic {key}"))),
        ("without a scheme", post().header("authorization", key)),
        ("in another header", post().header("x-api-key", key)),
        ("in a cookie", post().header("cookie", format!("key={key}"))),
    ];
    for (what, request) in elsewhere {
        is_problem(request.send().await?, 401, "unauthorized", what, secrets).await?;
    }
    ensure!(post().bearer_auth(key).send().await?.status() == 202, "the key itself publishes");
    Ok(())
}

#[tokio::test]
async fn without_the_whole_key_nothing_is_published() -> Tested {
    let victim = Victim::up(&["--publish-key", KEY]).await?;
    takes_the_whole_key_alone(&victim, victim.secrets(), KEY, &victim.token_of("alice")?).await?;
    let twice = victim.http.post(format!("{}/events", victim.url)).header("content-type", "application/cloudevents+json");
    let twice = twice.bearer_auth(KEY).bearer_auth(KEY).body(event(&["alice"], "forged").to_string());
    victim.refuses(twice.send().await?, 401, "unauthorized", "twice").await?;
    ensure!(victim.inbox_of("alice", 1).await?.len() == 1, "more was published than with the key");
    victim.has_kept_quiet().await
}

/// What comparing a wrong key takes does not depend on how much of it is right. How it is compared is fixed by construction
/// (`subtle`, http-api/src/events.rs); this would only see a comparison that is grossly otherwise, and measures the least of many.
#[tokio::test]
async fn how_long_a_key_is_compared_does_not_tell_how_much_of_it_is_right() -> Tested {
    let victim = Victim::up(&["--publish-key", KEY]).await?;
    let mut least = [Duration::MAX; 2];
    let wrong = [format!("_{}", &KEY[1..]), format!("{}_", &KEY[..KEY.len() - 1])];
    for _ in 0..300 {
        for (least, key) in least.iter_mut().zip(&wrong) {
            let request = victim.http.post(format!("{}/events", victim.url)).bearer_auth(key);
            let started = Instant::now();
            let answer = request.header("content-type", "application/cloudevents+json").body("{}").send().await?;
            *least = (*least).min(started.elapsed());
            ensure!(answer.status() == 401, "{}", answer.status());
        }
    }
    let (first, last) = (least[0].as_secs_f64(), least[1].as_secs_f64());
    ensure!((0.5..2.0).contains(&(first / last)), "wrong at its first character: {first:.6} s, at its last: {last:.6} s");
    victim.has_kept_quiet().await
}

/// A value that no answer and no log repeats.
const MARKER: &str = "a-value-that-nobody-repeats-4711";

/// What `data` of an event breaks a rule with.
fn hostile_data() -> Vec<(&'static str, Value, &'static str)> {
    let marker = MARKER;
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

/// That each of these events is refused, with the field and without the value.
pub(crate) async fn refuses_hostile_events(at: &Endpoints, secrets: &Secrets) -> Tested {
    secrets.keep(MARKER);
    secrets.keep("evil@example.com");
    for (what, data, field) in hostile_data() {
        let document = json!({ "specversion": "1.0", "id": "hostile", "source": "/attacks", "type": "attack.tried", "data": data });
        let (status, named) = at.post_event(document.to_string()).await?;
        ensure!(status == 422, "{what}: {status} {named}");
        let violations = named["results"][0]["violations"].as_array().or(named["violations"].as_array()).cloned().unwrap_or_default();
        let fields: Vec<&str> = violations.iter().filter_map(|violation| violation["field"].as_str()).collect();
        ensure!(fields.iter().any(|named| named.starts_with(field)), "{what} ({}): {named}", data["url"]);
        secrets.not_in(&named.to_string(), what)?;
    }
    ensure!(at.inbox("alice").await?.is_empty(), "something was published");
    Ok(())
}

#[tokio::test]
async fn an_event_that_would_harm_its_reader_is_refused_with_the_field_and_without_the_value() -> Tested {
    let victim = Victim::up(&[]).await?;
    refuses_hostile_events(&victim, victim.secrets()).await?;
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn a_body_that_is_no_event_is_refused_whatever_its_size_and_depth() -> Tested {
    let victim = Victim::up(&[]).await?;
    let marker = victim.secret("a-body-that-nobody-repeats-4711");
    let with_payload = |payload: String| {
        format!(
            r#"{{"specversion":"1.0","id":"1","source":"/a","type":"t.t","data":{{"recipients":[{{"id":"alice"}}],"payload":{payload}}}}}"#
        )
    };
    let batch = serde_json::to_string(&(0..1_001).map(|_| event(&["alice"], "one of many")).collect::<Vec<_>>())?;
    let (one, many) = ("application/cloudevents+json", "application/cloudevents-batch+json");
    let cases: [(&str, &str, Vec<u8>, u16); 9] = [
        ("no JSON", one, marker.clone().into_bytes(), 400),
        ("not UTF-8", one, b"\xff\xfe{}".to_vec(), 400),
        ("nested arrays", one, deep("[", "]", 100_000).into_bytes(), 400),
        ("a nested payload", one, with_payload(deep("[", "]", 10_000)).into_bytes(), 400),
        ("more behind it", one, format!("{}{}", event(&["alice"], "first"), event(&["alice"], "second")).into_bytes(), 400),
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
