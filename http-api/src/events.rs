//! CloudEvents in, over HTTP: one (structured mode) or many (batch mode) per request, answered event by event.
//!
//! For applications that do not publish to the bus themselves. Must not know: what becomes of an event.
//!
//! **Who may publish.** With publish keys, whoever sends one as `Authorization: Bearer`. Without any, the endpoint
//! serves a developer's own machine: it refuses what a web page could send. A page of another origin shows in
//! `Origin`; a page that had its own name resolve to this machine (DNS rebinding) shows in a `Host` that is neither
//! an IP address nor `localhost`.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use recado_domain::event::{Event, InvalidEvent, Violation};
use recado_domain::failure::Failure;
use recado_domain::ids::NotificationId;
use recado_domain::limits;
use recado_domain::ports::{EventBus, Outcome};
use serde::Serialize;
use serde_json::Value;
use subtle::{Choice, ConstantTimeEq};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

use crate::problem::{Problem, bearer, media_type, read_body, violations as violations_schema};
use crate::protect;

/// The most bytes of a request body.
pub const EVENTS_BODY_BYTES: usize = 1024 * 1024;
/// The most events of a request.
pub const BATCH_EVENTS: usize = 1_000;
/// How long a publish key is, in bytes: long enough not to be guessed, short enough for a header.
pub const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=512;

const ONE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

/// The secrets that allow publishing. Several are valid at the same time, so that they can be rotated.
#[derive(Clone, Default)]
pub struct PublishKeys(Vec<String>);

/// Why a text is no publish key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a publish key has 16 to 512 visible ASCII characters")]
pub struct InvalidKey;

impl PublishKeys {
    /// Keys as configured; none at all opens the endpoint to the machine's own programs.
    ///
    /// # Errors
    /// When a key is too short, too long, or could not travel in a header.
    pub fn new(keys: impl IntoIterator<Item = String>) -> Result<Self, InvalidKey> {
        let keys: Vec<String> = keys.into_iter().collect();
        let fits = |key: &String| KEY_BYTES.contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        if keys.iter().all(fits) { Ok(Self(keys)) } else { Err(InvalidKey) }
    }

    /// Compares with every key, and each time with all of it, so that the time tells at most a length.
    fn allow(&self, given: &str) -> bool {
        let matched = self.0.iter().fold(Choice::from(0), |matched, key| matched | key.as_bytes().ct_eq(given.as_bytes()));
        matched.into()
    }
}

impl fmt::Debug for PublishKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublishKeys({} keys)", self.0.len())
    }
}

/// What the events route needs of the world.
#[derive(Debug)]
pub struct EventsState<B> {
    /// Where events go.
    pub bus: Arc<B>,
    /// Who may publish.
    pub keys: PublishKeys,
}

/// `POST /events`.
pub fn events_router<B: EventBus>(state: EventsState<B>) -> Router {
    let router =
        Router::new().route("/events", post(publish::<B>)).layer(DefaultBodyLimit::max(EVENTS_BODY_BYTES)).with_state(Arc::new(state));
    protect(router)
}

/// What one event came to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventResult {
    /// Which event of the request, from 0.
    index: usize,
    /// The event's `id`, where one could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The event's `source`, where one could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// What names the notification everywhere in Recado: derived from `source` and `id`, the same for a repetition.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = optional_text, required = false)]
    notification_id: Option<NotificationId>,
    /// What became of it.
    status: EventStatus,
    /// For `invalid`: every field that is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(schema_with = violations_schema, required = false)]
    violations: Vec<Violation>,
    /// For `failed`: whether publishing the same event again can help. It is safe in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<bool>,
    /// For `failed`: what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    reason: Option<&'static str>,
    #[serde(skip)]
    #[schema(ignore)]
    retry_after: Option<Duration>,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EventStatus {
    /// Stored durably.
    Accepted,
    /// Breaks a rule; never accepted as it is.
    Invalid,
    /// Not stored, or not known to be.
    Failed,
}

impl EventStatus {
    fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Invalid => "invalid",
            Self::Failed => "failed",
        }
    }
}

/// One answer per event, in order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Results {
    results: Vec<EventResult>,
}

fn optional_text() -> Schema {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Null])).build().into()
}

/// Publishes events.
///
/// One as `application/cloudevents+json`, or up to 1,000 as `application/cloudevents-batch+json`; at most 1 MiB.
/// Publishing the same `source` and `id` again is safe and answers the same.
#[utoipa::path(post, path = "/events", tag = "events", security(("publish_key" = [])),
    request_body(content(
        (Object = "application/cloudevents+json"),
        (Vec<Object> = "application/cloudevents-batch+json"))),
    responses(
        (status = 202, body = Results, description = "Every event is stored durably"),
        (status = 207, body = Results, description = "Batch mode: some are not; each event's `status` says which"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 403, body = Problem, content_type = "application/problem+json", description = "No keys are configured, and a web page could have sent this"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 415, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Results, description = "Structured mode: the event breaks a rule"),
        (status = 500, body = Results, description = "Structured mode: not stored, and repeating does not help"),
        (status = 503, body = Results, description = "Structured mode: not stored; repeat after `Retry-After`")))]
async fn publish<B: EventBus>(
    State(state): State<Arc<EventsState<B>>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    may_publish(&state.keys, &headers)?;
    match media_type(&headers).as_deref() {
        Some(ONE) => {
            let body = read_body(body, EVENTS_BODY_BYTES)?;
            let entry = Entry::parse(&body)?;
            Ok(structured_answer(publish_all(&*state.bus, vec![entry]).await))
        }
        Some(BATCH) => {
            let body = read_body(body, EVENTS_BODY_BYTES)?;
            Ok(batch_answer(publish_all(&*state.bus, parse_batch(&body)?).await))
        }
        Some("application/json") => Err(Problem::unsupported(
            "Plain JSON is not read. Send one CloudEvent as `application/cloudevents+json`, or an array as \
             `application/cloudevents-batch+json`.",
        )),
        _ => Err(Problem::unsupported("Send `application/cloudevents+json` or `application/cloudevents-batch+json`.")),
    }
}

/// Whether this request may publish; see the module's own words.
fn may_publish(keys: &PublishKeys, headers: &HeaderMap) -> Result<(), Problem> {
    if !keys.0.is_empty() {
        return match bearer(headers) {
            Some(given) if keys.allow(given) => Ok(()),
            Some(_) => Err(Problem::unauthorized("The publish key is not known here.")),
            None => Err(Problem::unauthorized("Send a publish key as `Authorization: Bearer <key>`.")),
        };
    }
    if from_a_page(headers) {
        let detail = "Without publish keys only programs of this machine may publish: no foreign `Origin`, and a `Host` that is an \
                      IP address or `localhost`. Configure a publish key.";
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign-origin", detail));
    }
    Ok(())
}

/// Whether a page of a foreign site could have sent this.
fn from_a_page(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    let rebound = host.is_some_and(|host| !names_a_machine(host));
    let mut origins = headers.get_all(header::ORIGIN).iter().map(|origin| origin.to_str().unwrap_or_default());
    let foreign = origins.any(|origin| {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_none() || authority != host
    });
    rebound || foreign
}

/// Whether a `Host` is an IP address or `localhost`, which no foreign site can make its own name.
fn names_a_machine(host: &str) -> bool {
    let Ok(authority) = host.parse::<axum::http::uri::Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// One event of a request, as far as it could be read.
struct Entry {
    id: Option<String>,
    source: Option<String>,
    event: Result<Event, InvalidEvent>,
}

impl Entry {
    /// Structured mode. What is no JSON object has no event to answer for.
    fn parse(body: &[u8]) -> Result<Self, Problem> {
        Ok(Self::of(parse_json(body)?))
    }

    fn of(value: Value) -> Self {
        let id = named(&value, "id", limits::EVENT_ID_BYTES);
        let source = named(&value, "source", limits::SOURCE_BYTES);
        Self { id, source, event: Event::from_value(value) }
    }
}

/// A text that may stand in the answer: the caller's own, within its limit.
fn named(value: &Value, field: &str, limit: usize) -> Option<String> {
    value.get(field)?.as_str().filter(|text| text.len() <= limit).map(str::to_owned)
}

fn parse_json(body: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::malformed(format!("The body is not JSON (line {}, column {}).", error.line(), error.column())))
}

fn parse_batch(body: &[u8]) -> Result<Vec<Entry>, Problem> {
    let Value::Array(values) = parse_json(body)? else {
        return Err(Problem::malformed("A batch is a JSON array of events; send one event as `application/cloudevents+json`."));
    };
    if values.len() > BATCH_EVENTS {
        let detail = format!("A request has at most {BATCH_EVENTS} events; this one has {}.", values.len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail));
    }
    Ok(values.into_iter().map(Entry::of).collect())
}

/// Publishes what is valid; answers each, in order.
async fn publish_all<B: EventBus>(bus: &B, entries: Vec<Entry>) -> Vec<EventResult> {
    let events: Vec<Event> = entries.iter().filter_map(|entry| entry.event.as_ref().ok().cloned()).collect();
    let answers = if events.is_empty() { Vec::new() } else { bus.publish(&events).await };
    let mut answers = answers.into_iter();
    let mut results = Vec::with_capacity(entries.len());
    for (index, Entry { id, source, event }) in entries.into_iter().enumerate() {
        let blank = EventResult {
            index,
            id,
            source,
            notification_id: event.as_ref().ok().map(Event::notification_id),
            status: EventStatus::Accepted,
            violations: Vec::new(),
            retry: None,
            reason: None,
            retry_after: None,
        };
        let result = match event {
            Err(invalid) => EventResult { status: EventStatus::Invalid, violations: invalid.violations, ..blank },
            Ok(_) => {
                let unanswered = || Err(Failure::transient("the bus gave no answer for this event"));
                answered(blank, answers.next().unwrap_or_else(unanswered))
            }
        };
        metrics::counter!("recado_http_events_total", "status" => result.status.name()).increment(1);
        results.push(result);
    }
    results
}

/// What the bus said, logged for the operator and kept from the caller.
fn answered(blank: EventResult, answer: Outcome<()>) -> EventResult {
    let Err(failure) = answer else { return blank };
    let notification_id = blank.notification_id.map(tracing::field::display);
    tracing::warn!(notification_id, reason = failure.reason(), "event not published");
    let failed = EventResult { status: EventStatus::Failed, retry: Some(failure.is_transient()), ..blank };
    match failure {
        Failure::Transient { retry_after, .. } => {
            EventResult { reason: Some("the event was not stored; publish it again with the same id"), retry_after, ..failed }
        }
        Failure::Permanent { .. } => EventResult { reason: Some("the event was refused on the server's side; its log says why"), ..failed },
    }
}

fn structured_answer(results: Vec<EventResult>) -> Response {
    let first = results.first();
    let status = match first.map(|result| (result.status, result.retry)) {
        None | Some((EventStatus::Accepted, _)) => StatusCode::ACCEPTED,
        Some((EventStatus::Invalid, _)) => StatusCode::UNPROCESSABLE_ENTITY,
        Some((EventStatus::Failed, Some(false))) => StatusCode::INTERNAL_SERVER_ERROR,
        Some((EventStatus::Failed, _)) => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer(status, results)
}

fn batch_answer(results: Vec<EventResult>) -> Response {
    let all = results.iter().all(|result| result.status == EventStatus::Accepted);
    answer(if all { StatusCode::ACCEPTED } else { StatusCode::MULTI_STATUS }, results)
}

/// Says how long to wait where something may be repeated.
fn answer(status: StatusCode, results: Vec<EventResult>) -> Response {
    let again = results.iter().filter(|result| result.retry == Some(true));
    let wait = again.map(|result| result.retry_after.map_or(1, |wait| wait.as_secs().max(1))).max();
    let mut response = (status, Json(Results { results })).into_response();
    if let Some(seconds) = wait {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The paths of this module, for the OpenAPI document.
pub(crate) mod paths {
    pub(crate) use super::__path_publish;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::test_client::{World, event};

    const KEY: &str = "a-key-of-some-length";

    #[tokio::test]
    async fn one_event_is_accepted_and_on_the_bus() {
        let world = World::new(&[]);
        let answer = world.publish(ONE, &[], event("one").to_string()).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
        let id = NotificationId::of("/tests", "one");
        let expected = json!({ "results": [{ "index": 0, "id": "one", "source": "/tests", "notification_id": id, "status": "accepted" }] });
        assert_eq!(answer.body, expected);
        assert_eq!(world.queue.depth(), 1);
    }

    #[tokio::test]
    async fn a_repetition_is_answered_the_same() {
        let world = World::new(&[]);
        let first = world.publish(ONE, &[], event("one").to_string()).await;
        let again = world.publish(ONE, &[], event("one").to_string()).await;
        assert_eq!((first.status, first.body), (again.status, again.body));
    }

    #[tokio::test]
    async fn every_event_of_a_batch_is_answered_in_order() {
        let world = World::new(&[]);
        world.bus.faults().fail_entries("publish", &[1], Failure::transient("secret of the bus"));
        let mut wrong = event("wrong");
        wrong["data"]["recipients"] = json!([]);
        let batch = json!([event("one"), wrong, event("two"), 7, event("three")]).to_string();
        let answer = world.publish(BATCH, &[], batch).await;
        assert_eq!(answer.status, StatusCode::MULTI_STATUS);
        let results = answer.body["results"].as_array().expect("results");
        let statuses: Vec<_> = results.iter().map(|result| result["status"].as_str().unwrap_or_default()).collect();
        assert_eq!(statuses, ["accepted", "invalid", "failed", "invalid", "accepted"]);
        assert_eq!(results[1]["violations"][0]["field"], "data.recipients");
        assert_eq!((&results[2]["retry"], &results[2]["id"]), (&json!(true), &json!("two")));
        assert_eq!(results[3]["id"], Value::Null);
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(!answer.body.to_string().contains("secret"));
        assert_eq!(world.queue.depth(), 2);
    }

    #[tokio::test]
    async fn a_batch_that_is_accepted_as_a_whole_says_so() {
        let world = World::new(&[]);
        assert_eq!(world.publish(BATCH, &[], json!([event("one"), event("two")]).to_string()).await.status, StatusCode::ACCEPTED);
        let empty = world.publish(BATCH, &[], "[]").await;
        assert_eq!((empty.status, empty.body), (StatusCode::ACCEPTED, json!({ "results": [] })));
    }

    #[tokio::test]
    async fn a_single_events_status_is_its_own() {
        let world = World::new(&[]);
        let invalid = world.publish(ONE, &[], json!({ "id": "one" }).to_string()).await;
        assert_eq!((invalid.status, &invalid.body["results"][0]["id"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("one")));
        let wait = Failure::Transient { retry_after: Some(Duration::from_secs(7)), reason: "busy".to_owned() };
        world.bus.faults().fail_next("publish", wait);
        let busy = world.publish(ONE, &[], event("one").to_string()).await;
        assert_eq!((busy.status, busy.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("7")));
        world.bus.faults().fail_next("publish", Failure::permanent("no such topic"));
        let refused = world.publish(ONE, &[], event("one").to_string()).await;
        assert_eq!((refused.status, &refused.body["results"][0]["retry"]), (StatusCode::INTERNAL_SERVER_ERROR, &json!(false)));
    }

    #[tokio::test]
    async fn plain_json_is_refused_with_a_hint() {
        let world = World::new(&[]);
        let answer = world.publish("application/json", &[], event("one").to_string()).await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains(ONE)));
        let charset = world.publish("application/cloudevents+json; charset=UTF-8", &[], event("one").to_string()).await;
        assert_eq!(charset.status, StatusCode::ACCEPTED);
    }

    #[tokio::test]
    async fn sizes_are_limited_and_named() {
        let world = World::new(&[]);
        let long = world.publish(ONE, &[], vec![b' '; EVENTS_BODY_BYTES + 1]).await;
        let many = world.publish(BATCH, &[], json!(vec![0; BATCH_EVENTS + 1]).to_string()).await;
        for answer in [long, many] {
            assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
            assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains("at most")));
        }
    }

    #[tokio::test]
    async fn any_configured_key_allows_and_nothing_else_does() {
        let other = "another-key-while-rotating";
        let world = World::new(&[KEY, other]);
        for key in [KEY, other] {
            let bearer = format!("Bearer {key}");
            let answer = world.publish(ONE, &[("authorization", &bearer), ("origin", "https://a.example")], event("one").to_string()).await;
            assert_eq!(answer.status, StatusCode::ACCEPTED);
        }
        for wrong in ["Bearer ", "Bearer a-key-of-some-lengtH", "Bearer a-key-of-some-length-and-more", "Basic a-key-of-some-length"] {
            let answer = world.publish(ONE, &[("authorization", wrong)], event("one").to_string()).await;
            assert_eq!((answer.status, answer.header("www-authenticate")), (StatusCode::UNAUTHORIZED, Some("Bearer")), "{wrong}");
        }
        assert_eq!(world.publish(ONE, &[], event("one").to_string()).await.status, StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn without_keys_no_web_page_may_publish() {
        let world = World::new(&[]);
        for (headers, allowed) in [
            (vec![("host", "127.0.0.1:8420")], true),
            (vec![("host", "[::1]:8420")], true),
            (vec![("host", "localhost:8420"), ("origin", "http://localhost:8420")], true),
            (vec![("host", "localhost:8420"), ("origin", "http://localhost:9999")], false),
            (vec![("host", "127.0.0.1:8420"), ("origin", "https://attacker.example")], false),
            (vec![("host", "127.0.0.1:8420"), ("origin", "null")], false),
            // The attacker's name resolves to this machine: origin and host agree.
            (vec![("host", "attacker.example:8420"), ("origin", "http://attacker.example:8420")], false),
            (vec![("host", "attacker.example:8420")], false),
            (vec![("host", "localhost.attacker.example")], false),
        ] {
            let answer = world.publish(ONE, &headers, event("one").to_string()).await;
            assert_eq!(answer.status == StatusCode::ACCEPTED, allowed, "{headers:?}");
            assert!(allowed || answer.status == StatusCode::FORBIDDEN);
        }
    }

    #[test]
    fn keys_are_neither_short_nor_shown() {
        assert_eq!(PublishKeys::new(["short".to_owned()]).err(), Some(InvalidKey));
        assert_eq!(PublishKeys::new(["with a space in its middle".to_owned()]).err(), Some(InvalidKey));
        let keys = PublishKeys::new([KEY.to_owned()]).expect("a key");
        assert_eq!(format!("{keys:?}"), "PublishKeys(1 keys)");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_bodies_are_answered(body in proptest::collection::vec(any::<u8>(), 0..512)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let world = World::new(&[]);
                for media_type in [ONE, BATCH] {
                    let answer = world.publish(media_type, &[], body.clone()).await;
                    assert!(answer.status.is_client_error() || answer.status.is_success());
                }
            });
        }

        #[test]
        fn arbitrary_hosts_and_origins_are_judged(host in "[!-~]{0,40}", origin in "[!-~]{0,40}") {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().expect("visible characters"));
            headers.insert(header::ORIGIN, origin.parse().expect("visible characters"));
            let named = host.parse::<axum::http::uri::Authority>().is_ok();
            prop_assert!(from_a_page(&headers) || named);
        }
    }
}
