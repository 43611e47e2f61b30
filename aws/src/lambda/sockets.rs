//! The routes of a WebSocket API: `$connect`, `$default` and `$disconnect` as events of a function, and what they
//! answer.
//!
//! The answer to `$connect` decides whether the socket opens. `$default` never answers with a body and never fails: an
//! emulator, and an API with a route response, would send either to the client, which gets its answers through
//! `@connections`. Must not know: what connecting or a frame means.

use std::future::Future;
use std::time::Duration;

use aws_lambda_events::event::apigw::{ApiGatewayProxyResponse, ApiGatewayWebsocketProxyRequest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lambda_runtime::tower::BoxError;
use recado_domain::connection::{Protocol, SUBPROTOCOL};
use recado_domain::ids::ConnectionId;
use recado_domain::opening::{Declared, Origins};
use serde_json::json;
use tokio::time::Instant;

use super::{Invocation, serve};
use crate::settings::Ended;

/// What stays of an invocation's time for its answer: a function that is ended at its deadline answers an error.
const MARGIN: Duration = Duration::from_millis(500);
const SUBPROTOCOL_HEADER: &str = "sec-websocket-protocol";

/// Which route a function serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `$connect`
    Connect,
    /// `$default`
    Message,
    /// `$disconnect`
    Disconnect,
}

impl Route {
    fn name(self) -> &'static str {
        match self {
            Self::Connect => "$connect",
            Self::Message => "$default",
            Self::Disconnect => "$disconnect",
        }
    }
}

/// One event of a socket.
#[derive(Debug)]
pub struct Event(ApiGatewayWebsocketProxyRequest);

/// What a client asks for when it connects, beside the connection's id. Nothing of it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Token or ticket, protocol and device.
    pub declared: Declared,
    /// Whether it offered [`SUBPROTOCOL`]: then the answer must choose it, or browsers close the socket (RFC 6455, 4.1).
    pub offered: bool,
}

/// What a route answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    /// For programs, such as `ticket_invalid`.
    code: &'static str,
    /// For the developer who reads it, of a refused connection. No token, no address.
    detail: Option<String>,
    subprotocol: bool,
}

impl Answer {
    /// It is done; a socket opens.
    pub fn ok() -> Self {
        Self { status: 200, code: "done", detail: None, subprotocol: false }
    }

    /// The socket opens, with the subprotocol if the client offered it.
    pub fn accepted(opening: &Opening) -> Self {
        Self { subprotocol: opening.offered, ..Self::ok() }
    }

    /// It is not done; a socket does not open.
    pub fn refused(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: Some(detail.into()), subprotocol: false }
    }

    /// A problem document (RFC 9457).
    fn problem(&self, detail: &str) -> String {
        let kind = format!("urn:recado:problem:{}", self.code.replace('_', "-"));
        json!({"type": kind, "title": "refused", "status": self.status, "detail": detail}).to_string()
    }

    fn response(self) -> ApiGatewayProxyResponse {
        let mut response = ApiGatewayProxyResponse::default();
        response.status_code = self.status.into();
        if self.subprotocol {
            response.headers.insert(SUBPROTOCOL_HEADER, SUBPROTOCOL.parse().expect("a name of visible characters"));
        }
        if let Some(detail) = &self.detail {
            response.headers.insert("content-type", "application/problem+json".parse().expect("a media type"));
            response.body = Some(self.problem(detail).into());
        }
        response
    }
}

impl Event {
    fn parse(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok().map(Self)
    }

    /// Which socket it is about.
    ///
    /// # Errors
    /// The answer to an event that names none, or one that cannot be a name.
    pub fn connection(&self) -> Result<ConnectionId, Answer> {
        let id = self.0.request_context.connection_id.as_deref().and_then(|id| ConnectionId::new(id).ok());
        id.ok_or_else(|| Answer::refused(400, "malformed_request", "the event names no connection"))
    }

    /// What a `$connect` asks for.
    ///
    /// # Errors
    /// The answer that refuses it: 403 for its origin, 400 for its query.
    pub fn opening(&self, origins: &Origins) -> Result<Opening, Answer> {
        if !origins.admit(self.header("origin"), self.header("host")) {
            return Err(Answer::refused(
                403,
                "foreign_origin",
                "this Origin may not connect; allow it in the stack's parameter AllowOrigins",
            ));
        }
        let declared = Declared::read(self.query(), self.header("authorization"))
            .map_err(|problem| Answer::refused(400, "malformed_request", problem))?;
        let offered = self.offers_subprotocol();
        let protocol = if offered { Protocol::Recado } else { declared.protocol };
        Ok(Opening { declared: Declared { protocol, ..declared }, offered })
    }

    /// What a client said. Binary data is no frame, and is passed on as what its bytes say, to be answered as such.
    pub fn text(&self) -> String {
        let body = self.0.body.as_deref().unwrap_or_default();
        if !self.0.is_base64_encoded {
            return body.to_owned();
        }
        STANDARD.decode(body).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// A header that is no text counts as empty.
    fn header(&self, name: &str) -> Option<&str> {
        self.0.headers.get(name).map(|value| value.to_str().unwrap_or_default())
    }

    /// Every pair: of a parameter given twice the gateway puts one into the single values, and both into the multiple.
    fn query(&self) -> Vec<(String, String)> {
        let pairs =
            |map: &aws_lambda_events::query_map::QueryMap| map.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let all: Vec<(String, String)> = pairs(&self.0.multi_value_query_string_parameters);
        if all.is_empty() { pairs(&self.0.query_string_parameters) } else { all }
    }

    /// A client may offer several, in one header or in more (RFC 6455, 11.3.4).
    fn offers_subprotocol(&self) -> bool {
        let several = self.0.multi_value_headers.get_all(SUBPROTOCOL_HEADER).iter();
        let all = several.chain(self.0.headers.get(SUBPROTOCOL_HEADER));
        all.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|name| name.trim() == SUBPROTOCOL)
    }
}

/// Answers the events of a route, each within its time.
///
/// # Errors
/// When the platform cannot be reached.
pub async fn serve_sockets<F>(route: Route, handle: impl Fn(Event) -> F) -> Result<(), Ended>
where
    F: Future<Output = Answer>,
{
    let handle = &handle;
    serve(|invocation| async move { Ok::<_, BoxError>(answer(route, handle, invocation).await.response()) }).await
}

async fn answer<F: Future<Output = Answer>>(route: Route, handle: impl Fn(Event) -> F, invocation: Invocation) -> Answer {
    let started = Instant::now();
    let within = invocation.within.saturating_sub(MARGIN);
    let answer = match Event::parse(invocation.event.get()) {
        None => {
            tracing::error!(route = route.name(), "the event is no event of a WebSocket API; attach this function to its route");
            Answer::refused(400, "malformed_request", "the event is no event of a WebSocket API")
        }
        Some(event) => match tokio::time::timeout(within, handle(event)).await {
            Ok(answer) => answer,
            Err(_) => Answer::refused(503, "unavailable", "it took too long; try again"),
        },
    };
    let ms = started.elapsed().as_millis();
    // Two levels of one line: a function that answers 503 has not failed for its platform, and an alarm looks for errors.
    match answer.status {
        500.. => {
            tracing::error!(route = route.name(), status = answer.status, code = answer.code, detail = answer.detail, ms, "route failed")
        }
        _ => tracing::info!(route = route.name(), status = answer.status, code = answer.code, detail = answer.detail, ms, "route answered"),
    }
    // Nobody is told: a client that gets no answer repeats its frame.
    if route == Route::Message { Answer::ok() } else { answer }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use recado_domain::opening::Credential;
    use serde_json::Value;
    use serde_json::value::RawValue;

    use super::*;

    const CONNECT: &str = include_str!("samples/connect.json");
    const MESSAGE: &str = include_str!("samples/message.json");
    const DISCONNECT: &str = include_str!("samples/disconnect.json");
    const EMULATED_CONNECT: &str = include_str!("samples/emulated-connect.json");
    const EMULATED_MESSAGE: &str = include_str!("samples/emulated-message.json");

    fn event(json: &str) -> Event {
        Event::parse(json).expect("an event")
    }

    /// A `$connect` with something else in it.
    fn changed(change: impl FnOnce(&mut Value)) -> Event {
        let mut value: Value = serde_json::from_str(CONNECT).unwrap();
        change(&mut value);
        event(&value.to_string())
    }

    fn anywhere() -> Origins {
        Origins { allowed: vec!["*".to_owned()], loopback: false }
    }

    #[test]
    fn a_connect_says_who_asks_for_what() {
        for sample in [CONNECT, EMULATED_CONNECT] {
            let event = event(sample);
            let opening = event.opening(&anywhere()).unwrap();
            assert_eq!(opening.declared.credential, Some(Credential::Token("a.b.c".to_owned())));
            assert_eq!(opening.declared.device.as_deref(), Some("my phone"));
            assert_eq!(opening.declared.protocol, Protocol::Recado);
            assert!(opening.offered);
            assert!(event.connection().is_ok());
        }
        assert_eq!(event(CONNECT).connection().unwrap().as_str(), "L0SM9cOFvHcCIhw=");
    }

    #[test]
    fn the_subprotocol_is_answered_where_it_was_offered() {
        let offered = event(CONNECT).opening(&anywhere()).unwrap();
        let response = serde_json::to_value(Answer::accepted(&offered).response()).unwrap();
        assert_eq!(response["statusCode"], 200);
        assert_eq!(response["headers"]["sec-websocket-protocol"], "recado.v1");
        let none = changed(|event| {
            event["headers"].as_object_mut().unwrap().remove("Sec-WebSocket-Protocol");
            event["multiValueHeaders"].as_object_mut().unwrap().remove("Sec-WebSocket-Protocol");
        });
        let opening = none.opening(&anywhere()).unwrap();
        assert_eq!((opening.offered, opening.declared.protocol), (false, Protocol::Plain));
        assert_eq!(serde_json::to_value(Answer::accepted(&opening).response()).unwrap()["headers"], json!({}));
    }

    #[test]
    fn one_of_several_subprotocols_is_found() {
        let several = changed(|event| {
            event["headers"]["Sec-WebSocket-Protocol"] = json!("other, recado.v1");
            event["multiValueHeaders"].as_object_mut().unwrap().remove("Sec-WebSocket-Protocol");
        });
        assert!(several.opening(&anywhere()).unwrap().offered);
        let other = changed(|event| {
            event["headers"]["Sec-WebSocket-Protocol"] = json!("xrecado.v1");
            event["multiValueHeaders"]["Sec-WebSocket-Protocol"] = json!(["xrecado.v1"]);
        });
        assert!(!other.opening(&anywhere()).unwrap().offered);
    }

    #[test]
    fn a_page_of_another_origin_is_refused_before_its_token_is_looked_at() {
        let refused = event(CONNECT).opening(&Origins::default()).unwrap_err();
        assert_eq!(refused.status, 403);
        let allowed = Origins { allowed: vec!["https://app.example.com".to_owned()], loopback: false };
        assert!(event(CONNECT).opening(&allowed).is_ok());
        let no_page = changed(|event| drop(event["headers"].as_object_mut().unwrap().remove("Origin")));
        assert!(no_page.opening(&Origins::default()).is_ok());
    }

    #[test]
    fn a_parameter_given_twice_is_refused() {
        let twice = changed(|event| event["multiValueQueryStringParameters"]["token"] = json!(["a.b.c", "d.e.f"]));
        let refused = twice.opening(&anywhere()).unwrap_err();
        assert_eq!(refused.status, 400);
        let body = serde_json::to_value(refused.response()).unwrap()["body"].to_string();
        assert!(body.contains("given twice") && !body.contains("d.e.f"), "{body}");
    }

    #[test]
    fn a_token_may_come_as_a_bearer_token() {
        let bearer = changed(|event| {
            event["queryStringParameters"] = Value::Null;
            event["multiValueQueryStringParameters"] = Value::Null;
            event["headers"]["Authorization"] = json!("Bearer x.y.z");
        });
        assert_eq!(bearer.opening(&anywhere()).unwrap().declared.credential, Some(Credential::Token("x.y.z".to_owned())));
    }

    #[test]
    fn a_message_is_its_text() {
        for sample in [MESSAGE, EMULATED_MESSAGE] {
            assert_eq!(event(sample).text(), r#"{"type":"ack","ids":[]}"#);
            assert!(event(sample).connection().is_ok());
        }
        let mut binary: Value = serde_json::from_str(MESSAGE).unwrap();
        (binary["isBase64Encoded"], binary["body"]) = (json!(true), json!("/wB7"));
        assert_eq!(event(&binary.to_string()).text(), "\u{fffd}\0{");
        binary["body"] = json!("no base64!");
        assert_eq!(event(&binary.to_string()).text(), "");
    }

    #[test]
    fn a_disconnect_names_its_connection() {
        assert_eq!(event(DISCONNECT).connection().unwrap().as_str(), "L0SM9cOFvHcCIhw=");
    }

    #[test]
    fn an_event_without_a_connection_is_answered() {
        let nameless = changed(|event| event["requestContext"]["connectionId"] = Value::Null);
        assert_eq!(nameless.connection().unwrap_err().status, 400);
    }

    async fn invoke<F: Future<Output = Answer>>(route: Route, event: &str, handle: impl Fn(Event) -> F) -> Value {
        let invocation = Invocation { event: RawValue::from_string(event.to_owned()).unwrap(), within: Duration::from_secs(10) };
        serde_json::to_value(answer(route, handle, invocation).await.response()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_is_never_answered_with_a_body_or_an_error() {
        for (event, answer) in
            [(MESSAGE, Answer::refused(503, "unavailable", "x")), (MESSAGE, Answer::ok()), ("{}", Answer::ok()), ("7", Answer::ok())]
        {
            let response = invoke(Route::Message, event, |_| async { answer.clone() }).await;
            assert_eq!((&response["statusCode"], response.get("body")), (&json!(200), None), "{event}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_reaches_a_connect() {
        let response = invoke(Route::Connect, CONNECT, |_| async { Answer::refused(401, "token_expired", "the token has expired") }).await;
        assert_eq!(response["statusCode"], 401);
        let body = response["body"].as_str().unwrap();
        assert!(body.contains("expired") && body.contains("urn:recado:problem:token-expired"), "{body}");
        assert_eq!(invoke(Route::Connect, "{}", |_| async { Answer::ok() }).await["statusCode"], 400);
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_answered_before_the_deadline() {
        let started = Instant::now();
        let response = invoke(Route::Connect, CONNECT, |_| std::future::pending()).await;
        assert_eq!(response["statusCode"], 503);
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    proptest! {
        #[test]
        fn arbitrary_events_are_read_or_refused(text in ".*", value in ".*") {
            // Either answer is fine; what counts is that there is one.
            Event::parse(&text);
            let mut event: Value = serde_json::from_str(CONNECT).unwrap();
            event["headers"]["Origin"] = json!(value);
            event["queryStringParameters"]["device"] = json!(value);
            event["requestContext"]["connectionId"] = json!(value);
            event["body"] = json!(value);
            if let Some(event) = Event::parse(&event.to_string()) {
                event.opening(&anywhere()).ok();
                event.connection().ok();
                event.text();
            }
        }
    }
}
