//! Pages of other sites, in the browser of somebody who uses Recado: they can send requests, and must get nothing by it.

use anyhow::{Context, ensure};
use recado_tests::harness::{Endpoints, Tested, event};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::frames::deep;
use super::victim::Victim;

/// Pages that are not `https://app.example.com`, however alike.
pub(crate) const FOREIGN: [&str; 7] = [
    "https://evil.example",
    "null",
    "http://localhost.evil.example",
    "http://127.0.0.1.evil.example",
    "https://app.example.com.evil.example",
    "http://app.example.com",
    "file://",
];

/// The status that a socket of this page is refused with.
async fn refused(victim: &Victim, origin: &str) -> anyhow::Result<Option<u16>> {
    let mut request = format!("{}?token={}", victim.ws, victim.token_of("alice")?).into_client_request()?;
    request.headers_mut().insert("origin", origin.parse()?);
    match connect_async(request).await {
        Ok(_) => Ok(None),
        Err(Error::Http(answer)) => Ok(Some(answer.status().as_u16())),
        Err(error) => Err(error.into()),
    }
}

#[tokio::test]
async fn a_page_of_another_origin_opens_no_socket() -> Tested {
    let victim = Victim::up(&["--allow-origin", "https://app.example.com"]).await?;
    for origin in FOREIGN {
        ensure!(refused(&victim, origin).await? == Some(403), "{origin}");
    }
    ensure!(refused(&victim, "https://app.example.com").await?.is_none());
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn a_page_of_another_origin_reads_no_answer() -> Tested {
    let victim = Victim::up(&["--allow-origin", "https://app.example.com"]).await?;
    let token = victim.token_of("alice")?;
    for origin in FOREIGN {
        for request in [
            victim.http.get(format!("{}/inbox", victim.url)),
            victim.http.post(format!("{}/connection-tickets", victim.url)),
            victim.http.request(reqwest::Method::OPTIONS, format!("{}/inbox", victim.url)).header("access-control-request-method", "GET"),
            victim.http.get(format!("{}/mail.json", victim.url)),
            victim.http.get(format!("{}/metrics", victim.url)),
        ] {
            let answer = request.bearer_auth(&token).header("origin", origin).send().await?;
            let allowed = answer.headers().get("access-control-allow-origin");
            ensure!(allowed.is_none(), "{origin} may read {}: {allowed:?}", answer.url().path());
        }
    }
    victim.has_kept_quiet().await
}

/// What a browser may send without asking.
pub(crate) const FORMS: [&str; 4] = ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", ""];

/// What a browser sends for a form of another site, with the cookies it may have.
pub(crate) fn form(at: &Endpoints, kind: &str, path: &str, body: &str) -> RequestBuilder {
    let request = at.http.post(format!("{}{path}", at.url)).header("origin", "https://evil.example");
    let request = request.header("cookie", "token=stolen; session=stolen").body(body.to_owned());
    if kind.is_empty() { request } else { request.header("content-type", kind) }
}

#[tokio::test]
async fn a_form_of_another_site_changes_nothing() -> Tested {
    let victim = Victim::up(&[]).await?;
    victim.publish(&event(&["alice"], "unread")).await?;
    let before = victim.inbox_of("alice", 1).await?;
    let body = json!({ "ids": [before[0]["id"]] }).to_string();
    for kind in FORMS {
        let form = |path: &str| form(&victim, kind, path, &body);
        for path in ["/inbox/read", "/inbox/archive", "/inbox/read-all", "/connection-tickets"] {
            victim.refuses(form(path).send().await?, 401, "unauthorized", path).await?;
        }
        victim.refuses(form("/events").send().await?, 403, "foreign-origin", "publishing").await?;
        // Even a form that had a token would not do: no page may send JSON unasked.
        let with_token = form("/inbox/read").bearer_auth(victim.token_of("alice")?);
        victim.refuses(with_token.send().await?, 415, "unsupported-media-type", kind).await?;
        let minted = form("/dev/token").send().await?;
        ensure!(minted.status().is_client_error(), "{kind}: a token was handed out: {}", minted.status());
    }
    ensure!(victim.inbox("alice").await? == before, "alice's inbox changed");
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn a_page_of_another_site_gets_no_token_and_publishes_nothing() -> Tested {
    let victim = Victim::up(&[]).await?;
    let body = event(&["alice"], "from elsewhere").to_string();
    let publish =
        || victim.http.post(format!("{}/events", victim.url)).header("content-type", "application/cloudevents+json").body(body.clone());
    let token = || victim.http.post(format!("{}/dev/token", victim.url)).json(&json!({ "user": "alice" }));
    for origin in FOREIGN {
        victim.refuses(publish().header("origin", origin).send().await?, 403, "foreign-origin", origin).await?;
    }
    for site in ["cross-site", "same-site"] {
        victim.refuses(token().header("sec-fetch-site", site).send().await?, 403, "cross-site", site).await?;
    }
    let rebound = |request: RequestBuilder, host: &str| request.header("host", host.to_owned());
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.nip.example:80", "evil.example:8420", "[::2]"] {
        for request in [publish(), token(), victim.http.get(format!("{}/inbox", victim.url)), victim.http.get(format!("{}/", victim.url))] {
            victim.refuses(rebound(request, host).send().await?, 421, "misdirected", host).await?;
        }
    }
    ensure!(victim.inbox("alice").await?.is_empty(), "something was published");
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn what_is_asked_for_in_a_wrong_way_is_refused_by_name() -> Tested {
    let victim = Victim::up(&[]).await?;
    let token = victim.token_of("alice")?;
    let marker = victim.secret("a-marker-in-a-body-4711");
    let send = |method: &str, path: &str| {
        victim.http.request(method.parse().expect("a method"), format!("{}{path}", victim.url)).bearer_auth(&token)
    };
    let json = |path: &str, body: String| send("POST", path).header("content-type", "application/json").body(body);
    let cases = [
        ("another method", send("DELETE", "/inbox"), 405, "method-not-allowed"),
        ("a method in a header", send("GET", "/inbox/read").header("x-http-method-override", "POST"), 405, "method-not-allowed"),
        ("TRACE", send("TRACE", "/inbox"), 405, "method-not-allowed"),
        ("a path that climbs", send("GET", "/inbox/..%2f..%2fetc%2fpasswd"), 404, "not-found"),
        ("a body above the limit", json("/inbox/read", " ".repeat(64 * 1024 + 1)), 413, "too-large"),
        ("a body that nests", json("/inbox/read", deep("[", "]", 10_000)), 422, "invalid-request"),
        ("ids that nest", json("/inbox/read", format!("{{\"ids\":{}}}", deep("[", "]", 5_000))), 422, "invalid-request"),
        ("no JSON", json("/inbox/read", marker.clone()), 400, "malformed-request"),
        ("another field", json("/inbox/read", format!("{{\"{marker}\":1}}")), 422, "invalid-request"),
        ("an id that is none", json("/inbox/read", json!({ "ids": [marker] }).to_string()), 422, "invalid-request"),
        ("no ids", json("/inbox/read", json!({ "ids": [] }).to_string()), 422, "invalid-request"),
        (
            "too many ids",
            json("/inbox/read", json!({ "ids": vec!["0c4g1rtd6xv2n8k0wq3m5h7e9a"; 1_001] }).to_string()),
            422,
            "invalid-request",
        ),
        ("a position that is none", json("/inbox/read-all", json!({ "up_to": marker }).to_string()), 422, "invalid-request"),
    ];
    for (what, request, status, kind) in cases {
        victim.refuses(request.send().await?, status, kind, what).await?;
    }
    let invalid = json("/inbox/read", String::new()).body(b"{\"ids\":[\"\xff\xfe\"]}".to_vec());
    victim.refuses(invalid.send().await?, 400, "malformed-request", "a body that is not UTF-8").await?;
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn nothing_an_event_says_becomes_markup_of_the_page() -> Tested {
    let victim = Victim::up(&[]).await?;
    let page = victim.http.get(format!("{}/", victim.url)).send().await?;
    let policy = page.headers().get("content-security-policy").context("the page has no policy")?.to_str()?.to_owned();
    for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
        ensure!(policy.contains(part), "{part} is missing in {policy}");
    }
    let script = victim.http.get(format!("{}/page.js", victim.url)).send().await?.text().await?;
    for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "href: item", "location ="] {
        ensure!(!script.contains(way), "the page's script uses {way}");
    }
    // Over HTTP and sockets an event is JSON, whatever it says, and no browser may take it for anything else.
    let mut hostile = event(&["alice"], "<script>alert(1)</script>");
    hostile["data"]["body"] = json!("</script><img src=x onerror=alert(1)>");
    victim.publish(&hostile).await?;
    victim.inbox_of("alice", 1).await?;
    let answer = victim.http.get(format!("{}/inbox", victim.url)).bearer_auth(victim.token_of("alice")?).send().await?;
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    ensure!(header("content-type").as_deref() == Some("application/json"));
    ensure!(header("x-content-type-options").as_deref() == Some("nosniff"));
    ensure!(header("cache-control").as_deref() == Some("no-store"));
    let items: Value = answer.json().await?;
    ensure!(items["items"][0]["title"] == "<script>alert(1)</script>", "passed on as it is: {items}");
    victim.has_kept_quiet().await
}
