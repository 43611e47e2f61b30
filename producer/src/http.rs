//! The bus that is a running Recado: `POST /events` in CloudEvents batch mode. Must not know: who calls it, or how often.
//!
//! What a status means is decided in one place, [`refusal`].

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use recado_domain::event::Event;
use recado_domain::failure::Failure;
use recado_domain::ports::{EventBus, Outcome};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;

/// Events of a request; the server takes 1,000.
const REQUEST_EVENTS: usize = 100;
/// Bytes of a request; the server takes 1 MiB.
const REQUEST_BYTES: usize = 512 * 1024;
/// Bytes of an answer that are read: 100 results with every violation are far below.
const ANSWER_BYTES: usize = 1024 * 1024;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a request may take: after a stop of the network as well as of the server.
const REQUEST: Duration = Duration::from_secs(10);
/// The longest wait that is believed.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Why there is no bus at an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// Not an address.
    #[error("the address of Recado is no `http(s)` URL, such as `http://127.0.0.1:8420`")]
    Address,
    /// Not a key.
    #[error("the publish key has characters that no header can carry")]
    Key,
    /// TLS could not be set up.
    #[error("the HTTP client cannot be built: {0}")]
    Client(String),
}

/// A running Recado.
pub struct HttpBus {
    client: Client,
    events: Url,
    headers: HeaderMap,
}

impl fmt::Debug for HttpBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpBus").field("events", &self.events.as_str()).finish_non_exhaustive()
    }
}

impl HttpBus {
    /// The Recado at `address` (such as `http://127.0.0.1:8420`), with a publish key where it asks for one. A key goes
    /// over the network as it is: use `https` for anything but this machine.
    ///
    /// # Errors
    /// When the address is no `http(s)` URL, or the key cannot be a header.
    pub fn new(address: &str, publish_key: Option<&str>) -> Result<Self, InvalidEndpoint> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/cloudevents-batch+json"));
        if let Some(key) = publish_key {
            let mut bearer = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| InvalidEndpoint::Key)?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        // A redirect would carry events and key to somewhere nobody configured.
        let client = Client::builder().connect_timeout(CONNECT).timeout(REQUEST).redirect(reqwest::redirect::Policy::none()).build();
        let client = client.map_err(|error| InvalidEndpoint::Client(error.without_url().to_string()))?;
        Ok(Self { client, events: events_url(address)?, headers })
    }

    /// One request; one answer per event.
    async fn send(&self, events: &[Event], body: String) -> Result<Vec<Outcome<()>>, Failure> {
        let request = self.client.post(self.events.clone()).headers(self.headers.clone()).body(body);
        let response = request.send().await.map_err(|error| unreachable(&error))?;
        match response.status() {
            StatusCode::ACCEPTED | StatusCode::MULTI_STATUS => {
                let wait = retry_after(response.headers());
                Ok(outcomes(events.len(), &read(response).await?, wait))
            }
            status => Err(refusal(status, retry_after(response.headers()))),
        }
    }
}

impl EventBus for HttpBus {
    async fn publish(&self, events: &[Event]) -> Vec<Outcome<()>> {
        let mut answers = Vec::with_capacity(events.len());
        let mut left = events;
        while !left.is_empty() {
            let (count, body) = cut(left);
            let (now, later) = left.split_at(count);
            match self.send(now, body).await {
                Ok(outcomes) => answers.extend(outcomes),
                // The rest would meet the same; whoever called tries again with backoff.
                Err(failure) => {
                    answers.extend(left.iter().map(|_| Err(failure.clone())));
                    return answers;
                }
            }
            left = later;
        }
        answers
    }
}

fn events_url(address: &str) -> Result<Url, InvalidEndpoint> {
    let mut url = Url::parse(address).map_err(|_| InvalidEndpoint::Address)?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(InvalidEndpoint::Address);
    }
    url.set_query(None);
    url.set_fragment(None);
    url.path_segments_mut().map_err(|()| InvalidEndpoint::Address)?.pop_if_empty().push("events");
    Ok(url)
}

/// The longest run of events from the front that fits a request, at least one, as a JSON array.
fn cut(events: &[Event]) -> (usize, String) {
    let mut body = String::from("[");
    let mut count = 0;
    for event in events.iter().take(REQUEST_EVENTS) {
        let json = event.to_json();
        if count > 0 && body.len() + json.len() + 2 > REQUEST_BYTES {
            break;
        }
        if count > 0 {
            body.push(',');
        }
        body.push_str(&json);
        count += 1;
    }
    body.push(']');
    (count, body)
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<EventAnswer>,
}

#[derive(Deserialize)]
struct EventAnswer {
    index: usize,
    status: String,
    #[serde(default)]
    violations: Vec<AnsweredViolation>,
    #[serde(default)]
    retry: Option<bool>,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Deserialize)]
struct AnsweredViolation {
    field: String,
    problem: String,
}

/// An outcome for each event. One the answer does not name may or may not be stored: asking again is safe.
fn outcomes(count: usize, answer: &[u8], wait: Option<Duration>) -> Vec<Outcome<()>> {
    let Ok(Answer { results }) = serde_json::from_slice(answer) else {
        return vec![Err(Failure::transient("recado's answer could not be read")); count];
    };
    let mut by_index: HashMap<usize, EventAnswer> = results.into_iter().map(|result| (result.index, result)).collect();
    let outcome = |at: usize| match by_index.remove(&at) {
        Some(result) => result.outcome(wait),
        None => Err(Failure::transient("recado's answer left this event out")),
    };
    (0..count).map(outcome).collect()
}

impl EventAnswer {
    fn outcome(self, wait: Option<Duration>) -> Outcome<()> {
        match self.status.as_str() {
            "accepted" => Ok(()),
            "invalid" => {
                let named: Vec<String> =
                    self.violations.iter().map(|violation| format!("{} {}", violation.field, violation.problem)).collect();
                Err(Failure::permanent(format!("not a valid event for this recado: {}", named.join("; "))))
            }
            _ => {
                let reason = self.reason.unwrap_or_else(|| "recado did not store the event".to_owned());
                if self.retry == Some(false) {
                    Err(Failure::permanent(reason))
                } else {
                    Err(Failure::Transient { retry_after: wait, reason })
                }
            }
        }
    }
}

/// What a status other than 202 and 207 means for every event of a request.
fn refusal(status: StatusCode, retry_after: Option<Duration>) -> Failure {
    let reason = match status {
        StatusCode::UNAUTHORIZED => "recado refused the publish key (401)".to_owned(),
        StatusCode::FORBIDDEN => "recado refused the request (403): it asks for a publish key from other machines and names".to_owned(),
        StatusCode::NOT_FOUND => "there is no recado at this address (404)".to_owned(),
        _ => format!("recado answered {}", status.as_u16()),
    };
    // 408 and 425 ask for the same request once more, 429 for a slower one.
    let may_pass =
        status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
    if may_pass { Failure::Transient { retry_after, reason } } else { Failure::permanent(reason) }
}

/// What went wrong without an answer. Nothing of it is final: addresses come up, certificates are renewed.
fn unreachable(error: &reqwest::Error) -> Failure {
    let what = if error.is_timeout() {
        "did not answer in time"
    } else if error.is_connect() {
        "cannot be reached"
    } else {
        "broke off"
    };
    Failure::transient(format!("recado {what}"))
}

/// Whole seconds (RFC 9110, 10.2.3). A date is not read: it would need the other side's clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

/// The answer's body, as much of it as is believed.
async fn read(mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
        if body.len() + chunk.len() > ANSWER_BYTES {
            return Err(Failure::transient("recado's answer is too long"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::extract::State;
    use axum::routing::post;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::Notify;

    fn event(id: usize) -> Event {
        Notify::new("/tests", "test.happened").id(id.to_string()).recipient("alice").build().expect("a valid event")
    }

    fn accepted(index: usize) -> Value {
        json!({ "index": index, "status": "accepted" })
    }

    type Seen = Arc<Mutex<Vec<(axum::http::HeaderMap, Value)>>>;
    type Script = Arc<dyn Fn(&Value) -> (u16, Value) + Send + Sync>;

    /// A server that answers by a script and remembers what it was sent.
    async fn serve(script: impl Fn(&Value) -> (u16, Value) + Send + Sync + 'static) -> (HttpBus, Seen) {
        async fn answer(
            State((seen, script)): State<(Seen, Script)>,
            headers: axum::http::HeaderMap,
            body: String,
        ) -> (axum::http::StatusCode, [(&'static str, &'static str); 1], String) {
            let body: Value = serde_json::from_str(&body).expect("JSON");
            let (status, answer) = script(&body);
            seen.lock().expect("no test panicked").push((headers, body));
            (axum::http::StatusCode::from_u16(status).expect("a status"), [("retry-after", "7")], answer.to_string())
        }
        let seen = Seen::default();
        let script: Script = Arc::new(script);
        let router = Router::new().route("/recado/events", post(answer)).with_state((seen.clone(), script));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        (HttpBus::new(&format!("http://{address}/recado/"), Some("a-key-of-some-length")).expect("a bus"), seen)
    }

    #[tokio::test]
    async fn each_event_gets_its_own_outcome() {
        let (bus, seen) = serve(|_| {
            let invalid = json!({ "index": 1, "status": "invalid", "violations": [{ "field": "data", "problem": "is too long" }] });
            let failed = json!({ "index": 2, "status": "failed", "retry": true, "reason": "busy" });
            (207, json!({ "results": [accepted(0), failed, invalid, { "index": 4, "status": "failed", "retry": false }] }))
        })
        .await;
        let events: Vec<Event> = (0..5).map(event).collect();
        let outcomes = bus.publish(&events).await;
        assert_eq!(outcomes[0], Ok(()));
        assert_eq!(outcomes[1], Err(Failure::permanent("not a valid event for this recado: data is too long")));
        assert_eq!(outcomes[2], Err(Failure::Transient { retry_after: Some(Duration::from_secs(7)), reason: "busy".to_owned() }));
        assert!(outcomes[3].as_ref().is_err_and(Failure::is_transient), "left out of the answer");
        assert!(outcomes[4].as_ref().is_err_and(|failure| !failure.is_transient()));
        let seen = seen.lock().expect("no test panicked");
        assert_eq!(seen[0].0["authorization"], "Bearer a-key-of-some-length");
        assert_eq!(seen[0].0["content-type"], "application/cloudevents-batch+json");
        assert_eq!(seen[0].1[3]["id"], "3");
    }

    #[tokio::test]
    async fn many_events_are_cut_into_requests() {
        let (bus, seen) = serve(|body| {
            let count = body.as_array().map_or(0, Vec::len);
            (202, json!({ "results": (0..count).map(accepted).collect::<Vec<_>>() }))
        })
        .await;
        let events: Vec<Event> = (0..REQUEST_EVENTS * 2 + 1).map(event).collect();
        assert!(bus.publish(&events).await.iter().all(Result::is_ok));
        let sizes: Vec<usize> =
            seen.lock().expect("no test panicked").iter().map(|(_, body)| body.as_array().map_or(0, Vec::len)).collect();
        assert_eq!(sizes, [REQUEST_EVENTS, REQUEST_EVENTS, 1]);
    }

    #[test]
    fn a_request_has_a_bounded_size() {
        let large =
            |id: usize| Notify::new("/tests", "test.happened").id(id.to_string()).recipient("alice").payload(&"x".repeat(20_000)).build();
        let events: Vec<Event> = (0..60).map(|id| large(id).expect("a valid event")).collect();
        let (count, body) = cut(&events);
        assert!(count > 20 && body.len() <= REQUEST_BYTES, "{count} events in {} bytes", body.len());
        assert_eq!(serde_json::from_str::<Vec<Value>>(&body).expect("JSON").len(), count);
    }

    #[tokio::test]
    async fn a_status_says_whether_trying_again_can_help() {
        for (status, may_pass) in
            [(401, false), (403, false), (404, false), (413, false), (302, false), (408, true), (429, true), (500, true), (503, true)]
        {
            let (bus, _) = serve(move |_| (status, Value::Null)).await;
            let outcomes = bus.publish(&[event(0), event(1)]).await;
            assert_eq!(outcomes.len(), 2);
            assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_err_and(|failure| failure.is_transient() == may_pass)), "{status}");
        }
        let (bus, _) = serve(|_| (503, Value::Null)).await;
        let expected = Failure::Transient { retry_after: Some(Duration::from_secs(7)), reason: "recado answered 503".to_owned() };
        assert_eq!(bus.publish(&[event(0)]).await, [Err(expected)]);
    }

    #[tokio::test]
    async fn nobody_there_may_pass() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let bus = HttpBus::new(&format!("http://{address}"), None).expect("a bus");
        assert_eq!(bus.publish(&[event(0)]).await, [Err(Failure::transient("recado cannot be reached"))]);
        assert!(bus.publish(&[]).await.is_empty());
    }

    #[test]
    fn addresses_and_keys_are_checked_and_the_key_is_not_shown() {
        for wrong in ["", "127.0.0.1:8420", "ftp://example.com", "http://", "/events"] {
            assert_eq!(HttpBus::new(wrong, None).err(), Some(InvalidEndpoint::Address), "{wrong}");
        }
        assert_eq!(HttpBus::new("http://127.0.0.1:8420", Some("a\nb")).err(), Some(InvalidEndpoint::Key));
        let bus = HttpBus::new("http://127.0.0.1:8420", Some("a-key-of-some-length")).expect("a bus");
        assert_eq!(format!("{bus:?}"), r#"HttpBus { events: "http://127.0.0.1:8420/events", .. }"#);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_answers_give_an_outcome_for_each_event(answer in proptest::collection::vec(any::<u8>(), 0..256), count in 0_usize..20) {
            prop_assert_eq!(outcomes(count, &answer, None).len(), count);
        }
    }
}
