//! `recado-http-api-lambda`: the inbox and connection tickets over HTTP, and where publish keys are set also `POST /events`,
//! behind an HTTP API.
//!
//! Only a composition root.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use recado_aws::dynamo::{DynamoConnections, DynamoInbox, DynamoTickets};
use recado_aws::settings::{Ended, Environment, Verifier};
use recado_aws::{Clients, GatewaySockets, SnsBus};
use recado_domain::opening::Origins;
use recado_http_api::{
    EventsState, InboxState, PublishKeys, TicketsState, admit_pages, complete, events_router, inbox_router, tickets_router,
};
use recado_runtime::settings::Contradiction;
use recado_runtime::system::{SystemClock, SystemEntropy};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use url::Url;

/// Less than the function may take, and than the 30 s that API Gateway waits ("Amazon API Gateway quotas", HTTP API
/// integration time-out).
const ANSWER_WITHIN: Duration = Duration::from_secs(25);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    Ended::report(run().await)
}

struct Settings {
    table: String,
    sockets_endpoint: String,
    sockets_url: Url,
    tokens: Verifier,
    origins: Origins,
    events: Option<(String, PublishKeys)>,
}

async fn run() -> Result<(), Ended> {
    let mut env = Environment::of_process();
    env.start_logging();
    let (table, endpoint, tokens, origins, events) = (env.table(), env.sockets_endpoint(), env.tokens(), env.origins(), events(&mut env));
    let url = endpoint.as_deref().and_then(|endpoint| env.sockets_url(endpoint));
    let settings = env.complete(|| {
        Some(Settings {
            table: table?,
            sockets_endpoint: endpoint?,
            sockets_url: url?,
            tokens: tokens?,
            origins: origins?,
            events: events?,
        })
    })?;
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
    let Settings { table, sockets_endpoint, sockets_url, tokens, origins, events } = settings;
    let tokens = Arc::new(tokens);
    let inbox = InboxState {
        auth: tokens.clone(),
        inbox: Arc::new(DynamoInbox::new(clients, &table, SystemClock, SystemEntropy)),
        connections: Arc::new(DynamoConnections::new(clients, &table, SystemClock, SystemEntropy)),
        sockets: Arc::new(GatewaySockets::new(clients, &sockets_endpoint)),
        clock: Arc::new(SystemClock),
    };
    let tickets = TicketsState {
        auth: tokens,
        tickets: Arc::new(DynamoTickets::new(clients, &table, SystemClock)),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        socket_url: sockets_url,
    };
    let mut router = admit_pages(inbox_router(inbox).merge(tickets_router(tickets)), origins);
    if let Some((topic, keys)) = events {
        router = router.merge(events_router(EventsState { bus: Arc::new(SnsBus::new(clients, topic)), keys }));
    }
    complete(router)
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, ANSWER_WITHIN))
        .layer(CatchPanicLayer::new())
        .layer(middleware::from_fn(log))
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
