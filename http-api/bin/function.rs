//! `recado-http-api-lambda`: the inbox over HTTP, and where publish keys are set also `POST /events`, behind an HTTP API.
//!
//! Only a composition root.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use recado_aws::dynamo::{DynamoConnections, DynamoInbox};
use recado_aws::settings::{Ended, Environment, Verifier};
use recado_aws::{Clients, GatewaySockets, SnsBus};
use recado_domain::opening::Origins;
use recado_http_api::{EventsState, InboxState, PublishKeys, complete, events_router, inbox_router};
use recado_runtime::settings::Contradiction;
use recado_runtime::system::{SystemClock, SystemEntropy};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::timeout::TimeoutLayer;

/// Less than the function may take, and than the 30 s that API Gateway waits ("Amazon API Gateway quotas", HTTP API
/// integration time-out).
const ANSWER_WITHIN: Duration = Duration::from_secs(25);
/// How long a browser may remember what it may ask.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3600);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    Ended::report(run().await)
}

struct Settings {
    table: String,
    sockets_endpoint: String,
    tokens: Verifier,
    origins: Origins,
    events: Option<(String, PublishKeys)>,
}

async fn run() -> Result<(), Ended> {
    let mut env = Environment::of_process();
    env.start_logging();
    let (table, endpoint, tokens, origins, events) = (env.table(), env.sockets_endpoint(), env.tokens(), env.origins(), events(&mut env));
    let settings = env
        .complete(|| Some(Settings { table: table?, sockets_endpoint: endpoint?, tokens: tokens?, origins: origins?, events: events? }))?;
    let clients = Clients::load().await;
    lambda_http::run(application(settings, &clients)).await.map_err(Ended::Platform)
}

/// The topic and the keys that allow publishing to it; none where no key is set.
fn events(env: &mut Environment) -> Option<Option<(String, PublishKeys)>> {
    let keys = env.list("RECADO_PUBLISH_KEY");
    if keys.is_empty() {
        return Some(None);
    }
    let topic = env.topic_arn();
    let problem = |error| Contradiction::new(format!("RECADO_PUBLISH_KEY: {error}"), "make one with `openssl rand -hex 32`, for example");
    let keys = env.noted(PublishKeys::new(keys).map_err(problem));
    Some(Some((topic?, keys?)))
}

fn application(settings: Settings, clients: &Clients) -> Router {
    let inbox = InboxState {
        auth: Arc::new(settings.tokens),
        inbox: Arc::new(DynamoInbox::new(clients, &settings.table, SystemClock, SystemEntropy)),
        connections: Arc::new(DynamoConnections::new(clients, &settings.table, SystemClock, SystemEntropy)),
        sockets: Arc::new(GatewaySockets::new(clients, &settings.sockets_endpoint)),
        clock: Arc::new(SystemClock),
    };
    let mut router = inbox_router(inbox);
    if let Some((topic, keys)) = settings.events {
        router = router.merge(events_router(EventsState { bus: Arc::new(SnsBus::new(clients, topic)), keys }));
    }
    complete(router)
        .layer(cors(settings.origins))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, ANSWER_WITHIN))
        .layer(CatchPanicLayer::new())
        .layer(middleware::from_fn(log))
}

/// Pages of other origins may ask where they are allowed to; tokens travel in a header, never in a cookie.
fn cors(origins: Origins) -> CorsLayer {
    let admit =
        move |origin: &HeaderValue, _: &axum::http::request::Parts| origin.to_str().is_ok_and(|origin| origins.admit(Some(origin), None));
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(admit))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
        .expose_headers([header::RETRY_AFTER, HeaderName::from_static("x-request-id")])
        .max_age(PREFLIGHT_AGE)
}

/// One line for each request, by route: a path may hold anything.
async fn log(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("none", |route| route.as_str()).to_owned();
    let response = next.run(request).await;
    let (status, ms) = (response.status().as_u16(), started.elapsed().as_millis());
    metrics::counter!("recado_http_requests_total", "route" => route.clone(), "status" => status.to_string()).increment(1);
    tracing::info!(%method, route, status, ms, "request answered");
    response
}
