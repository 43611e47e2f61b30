//! Puts the rooms and the embedded adapters together, in the order in which they need each other.
//!
//! Settings are judged first, then the port is taken, then the folder; only then does anything run. Must not know: any
//! rule of delivery.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{self, Next};
use axum::response::Response;
use recado_dispatcher::{Dispatcher, DispatcherConfig};
use recado_domain::ids::{TenantId, UserId};
use recado_domain::opening::Origins;
use recado_domain::ports::{Clock, Queue};
use recado_email_worker::EmailWorker;
use recado_embedded::Store;
use recado_embedded::sockets::{self, Door, OpenSockets, SocketOptions};
use recado_http_api::{EventsState, InboxState, TicketsState};
use recado_runtime::auth::DevelopmentKey;
use recado_runtime::backoff::RetrySchedule;
use recado_runtime::consumer::{ConsumerConfig, Drained, Handler, consume};
use recado_runtime::status::{self, Check, Measure, Status};
use recado_runtime::system::{SystemClock, SystemEntropy};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use url::Url;

use super::post::Prepared;
use super::routes::SocketRoutes;
use super::settings::Settings;
use super::tokens::{self, Verifier};
use super::{Ready, Running, StartError, guard, mailbox, page, watched};

/// How long a request may take: longer than the store ever needs.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Connections beside the sockets: requests, probes, and what lingers.
const SPARE_CONNECTIONS: usize = 512;
/// Open files that are no connections: the database's, templates, logs.
const SPARE_FILES: usize = 128;
/// Connections that wait in the system's queue, which may hold it to fewer (`net.core.somaxconn`): after a restart
/// everybody comes at once, and who finds the queue full tries again only after a second, and then three.
const BACKLOG: u32 = 4096;
/// How often what has ended is deleted, and how much of it in one transaction.
const COLLECT_EVERY: Duration = Duration::from_secs(60);
const COLLECT_AT_ONCE: usize = 500;
pub(super) async fn start(settings: Settings) -> Result<Running, StartError> {
    let keys = tokens::publish_keys(&settings)?;
    let mail = Prepared::new(&settings)?;
    let (verifier, development) = tokens::verifier(&settings)?;
    let metrics = status::recorder().map_err(anyhow::Error::msg)?;
    let listener = listen(&settings)?;
    let address = listener.local_addr().context("the port cannot be told")?;
    let store = open(&settings).await?;

    let max_sockets = sockets_within_the_systems_limit(settings.max_connections);
    let sockets = OpenSockets::new(socket_options(&settings, max_sockets));
    let verifier = Arc::new(verifier);
    let draining = Arc::new(AtomicBool::new(false));
    let (closing, stopping) = (CancellationToken::new(), CancellationToken::new());
    let (failure, failed) = watch::channel(None);

    let status = Status {
        draining: draining.clone(),
        checks: vec![store_answers(&store), parts_run(failed.clone())],
        measures: vec![queues(&store)],
        metrics: metrics.clone(),
    };
    let base = base_url(&settings, address);
    let events = recado_http_api::events_router(EventsState { bus: Arc::new(store.bus()), keys });
    let answers = events.merge(users(&settings, &base, &store, &sockets, &verifier)?).merge(status::router(status));
    let upgrades = sockets::router(sockets.clone(), Arc::new(socket_routes(&store, &sockets, &verifier)));
    let app = application(&settings, &store, answers, upgrades, development.clone());
    let door = Door::new(listener, max_sockets + SPARE_CONNECTIONS);
    let http = watched("http server", closing.clone(), failure.clone(), sockets::serve(door, app, closing.clone()));

    let work = Work { settings: &settings, stop: &stopping, failure: &failure };
    let consumers = vec![work.dispatch(&store, &sockets), work.mail(&store, mail)];
    let background = vec![
        watched("garbage collector", stopping.clone(), failure.clone(), collect_garbage(store.clone(), stopping.clone())),
        watched("metrics", stopping.clone(), failure.clone(), fold_metrics(metrics, stopping.clone())),
    ];
    let ready = ready(&settings, address, &base, development.as_ref());
    tracing::info!(%address, data_dir = %settings.data_dir.display(), development = settings.is_development(), "recado is ready");
    Ok(Running {
        ready,
        address,
        drain_deadline: settings.drain_deadline,
        draining,
        closing,
        stopping,
        http,
        consumers,
        background,
        sockets,
        store,
        failed,
    })
}

fn listen(settings: &Settings) -> anyhow::Result<TcpListener> {
    let listener = listen_at(settings.listen);
    let listener = listener.with_context(|| format!("cannot listen on {}; choose another address with --listen", settings.listen))?;
    if !settings.listen.ip().is_loopback() {
        tracing::warn!("there is no tls here: put a proxy with tls in front, or tokens travel in clear");
    }
    Ok(listener)
}

fn listen_at(address: std::net::SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart finds its port in TIME_WAIT. On Windows this would mean another thing.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Opens the folder and forgets the connections of the process before this one.
async fn open(settings: &Settings) -> anyhow::Result<Store> {
    let dir = settings.data_dir.clone();
    let opening = tokio::task::spawn_blocking(move || Store::open(&dir, Arc::new(SystemClock), Arc::new(SystemEntropy)));
    let store = opening.await.context("the store did not open")??;
    store.forget_connections().await.context("the connections of the last run cannot be forgotten")?;
    Ok(store)
}

/// Each socket is an open file: beyond what the system allows, accepting fails for everybody. The limit that a shell or a
/// service gives is often 1,024, for the sake of programs that use `select`, with one far above that a process may ask for.
fn sockets_within_the_systems_limit(wanted: usize) -> usize {
    let needed = u64::try_from(wanted.saturating_add(SPARE_CONNECTIONS + SPARE_FILES)).unwrap_or(u64::MAX);
    if status::open_files_limit().is_some_and(|files| files < needed) {
        raise_the_limit_of_open_files();
    }
    let Some(files) = status::open_files_limit() else { return wanted };
    let possible = usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(SPARE_CONNECTIONS.min(wanted) + SPARE_FILES).max(1);
    if possible < wanted {
        tracing::warn!(
            wanted,
            possible,
            open_files = files,
            "fewer connections than --max-connections: raise the hard limit of open files (`ulimit -Hn`, or LimitNOFILE= of a systemd unit)"
        );
    }
    wanted.min(possible)
}

fn raise_the_limit_of_open_files() {
    #[cfg(unix)]
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// The pages that may connect and call the routes of a user.
fn origins(settings: &Settings) -> Origins {
    Origins { allowed: settings.allow_origin.clone(), loopback: settings.listen.ip().is_loopback() }
}

fn socket_options(settings: &Settings, max_sockets: usize) -> SocketOptions {
    SocketOptions { origins: origins(settings), max_sockets, ..SocketOptions::default() }
}

/// The routes of users: their inboxes, and tickets for their sockets.
fn users(settings: &Settings, base: &str, store: &Store, sockets: &OpenSockets, verifier: &Arc<Verifier>) -> anyhow::Result<Router> {
    let inbox = InboxState {
        auth: verifier.clone(),
        inbox: Arc::new(store.inbox()),
        connections: Arc::new(store.connections()),
        sockets: Arc::new(sockets.clone()),
        clock: Arc::new(SystemClock),
    };
    let tickets = TicketsState {
        auth: verifier.clone(),
        tickets: Arc::new(store.tickets()),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        socket_url: socket_url(base).parse().context("--public-url makes no URL of a socket")?,
    };
    let users = recado_http_api::inbox_router(inbox).merge(recado_http_api::tickets_router(tickets));
    Ok(recado_http_api::admit_pages(users, origins(settings)))
}

/// What answers a socket's three routes.
fn socket_routes(store: &Store, sockets: &OpenSockets, verifier: &Arc<Verifier>) -> SocketRoutes {
    SocketRoutes {
        tokens: verifier.clone(),
        tickets: store.tickets(),
        inbox: store.inbox(),
        connections: store.connections(),
        inbox_queue: store.inbox_queue(),
        sockets: sockets.clone(),
    }
}

/// Every route of the server; `answers` are those that answer within their time.
fn application(settings: &Settings, store: &Store, answers: Router, sockets: Router, development: Option<DevelopmentKey>) -> Router {
    let answers = answers.layer(TimeoutLayer::with_status_code(axum::http::StatusCode::SERVICE_UNAVAILABLE, ANSWER_WITHIN));
    let pages = development.map(|key| {
        let mailbox = settings.smtp.is_none().then(|| mailbox::router(store.mailbox()));
        page::router(key).merge(mailbox.unwrap_or_default())
    });
    let app = answers.merge(pages.unwrap_or_default()).merge(sockets);
    let app = recado_http_api::complete(app).layer(CatchPanicLayer::new()).layer(middleware::from_fn(count));
    if settings.is_development() || settings.publishes_openly() { guard::for_this_machine(app, public_authority(settings)) } else { app }
}

/// Counts requests by route, never by path: a path may hold anything.
async fn count(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", |route| route.as_str()).to_owned();
    let response = next.run(request).await;
    metrics::counter!("recado_http_requests_total", "route" => route, "status" => response.status().as_u16().to_string()).increment(1);
    response
}

fn public_authority(settings: &Settings) -> Option<String> {
    let url = settings.public_url.as_ref()?;
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// What the consumers share.
struct Work<'a> {
    settings: &'a Settings,
    stop: &'a CancellationToken,
    failure: &'a watch::Sender<Option<String>>,
}

impl Work<'_> {
    fn dispatch(&self, store: &Store, sockets: &OpenSockets) -> JoinHandle<Option<Drained>> {
        let ports = recado_dispatcher::Ports {
            inbox_queue: store.inbox_queue(),
            email_queue: store.email_queue(),
            inbox: store.inbox(),
            connections: store.connections(),
            sockets: sockets.pushes(),
            clock: SystemClock,
            entropy: SystemEntropy,
        };
        self.consume("inbox", store.inbox_queue(), Dispatcher::new(ports, DispatcherConfig::default()), RetrySchedule::default())
    }

    fn mail(&self, store: &Store, mail: Prepared) -> JoinHandle<Option<Drained>> {
        let (mailer, config, templates) = mail.open(store);
        let ports = recado_email_worker::Ports {
            mailer: Arc::new(mailer),
            claims: Arc::new(store.claims()),
            suppressions: Arc::new(store.suppressions()),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        };
        self.consume("email", store.email_queue(), EmailWorker::new(ports, templates, config), recado_email_worker::RETRY)
    }

    fn consume<Q: Queue, H: Handler>(&self, name: &'static str, queue: Q, handler: H, retry: RetrySchedule) -> JoinHandle<Option<Drained>> {
        let config = ConsumerConfig { retry, drain: self.settings.drain_deadline.mul_f64(0.5), ..ConsumerConfig::named(name) };
        let consuming = consume(Arc::new(queue), Arc::new(handler), Arc::new(SystemEntropy), config, self.stop.clone());
        watched(name, self.stop.clone(), self.failure.clone(), consuming)
    }
}

fn store_answers(store: &Store) -> Check {
    let store = store.clone();
    Box::new(move || {
        let store = store.clone();
        Box::pin(async move { store.check().await.map_err(|failure| format!("the store does not answer: {}", failure.reason())) })
    })
}

fn parts_run(failed: watch::Receiver<Option<String>>) -> Check {
    Box::new(move || {
        let failed = failed.borrow().clone();
        Box::pin(async move { failed.map_or(Ok(()), Err) })
    })
}

fn queues(store: &Store) -> Measure {
    let store = store.clone();
    Box::new(move || {
        let store = store.clone();
        Box::pin(async move {
            let Ok(figures) = store.queue_figures().await else { return };
            for figures in figures {
                let queue = figures.queue.as_str();
                for (state, count) in [("visible", figures.visible), ("hidden", figures.hidden)] {
                    metrics::gauge!("recado_queue_messages", "queue" => queue, "state" => state).set(count as f64);
                }
                metrics::gauge!("recado_dead_letters", "queue" => queue).set(figures.dead as f64);
                let age = figures.oldest_visible.map_or(0.0, |since| SystemClock.now().duration_since(since).as_secs_f64());
                metrics::gauge!("recado_queue_oldest_seconds", "queue" => queue).set(age.max(0.0));
            }
        })
    })
}

/// Deletes in small steps what nobody can see any more.
async fn collect_garbage(store: Store, stop: CancellationToken) {
    while every(COLLECT_EVERY, &stop).await {
        loop {
            match store.collect_garbage(COLLECT_AT_ONCE).await {
                Ok(deleted) if deleted > 0 && !stop.is_cancelled() => {
                    metrics::counter!("recado_collected_total").increment(deleted as u64);
                    tokio::task::yield_now().await;
                }
                Ok(_) => break,
                Err(failure) => {
                    tracing::warn!(reason = failure.reason(), "what has ended could not be deleted");
                    break;
                }
            }
        }
    }
}

async fn fold_metrics(metrics: status::Metrics, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        never = status::fold(metrics) => match never {},
    }
}

/// Waits; `false` once stopped.
async fn every(period: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = tokio::time::sleep(period) => true,
    }
}

/// Where this server is reached, without a slash at the end.
fn base_url(settings: &Settings, address: std::net::SocketAddr) -> String {
    settings.public_url.as_ref().map_or_else(|| format!("http://{address}"), trimmed)
}

/// http becomes ws, and https wss.
fn socket_url(base: &str) -> String {
    format!("{}/ws", base.replacen("http", "ws", 1))
}

fn ready(settings: &Settings, address: std::net::SocketAddr, base: &str, development: Option<&DevelopmentKey>) -> Ready {
    let token = development.map(|key| {
        let alice = UserId::new("alice").expect("five letters");
        key.mint(&alice, &TenantId::default(), page::TOKEN_TTL, SystemClock.now())
    });
    Ready {
        ready: true,
        listen: address.to_string(),
        page: settings.is_development().then(|| format!("{base}/")),
        ws: socket_url(base),
        events: format!("{base}/events"),
        mail: (settings.is_development() && settings.smtp.is_none()).then(|| format!("{base}/mail")),
        token,
        data_dir: settings.data_dir.display().to_string(),
    }
}

fn trimmed(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_public_url() {
        let settings = Settings { public_url: Some("https://recado.example/notify/".parse().unwrap()), ..Settings::default() };
        let address = ([127, 0, 0, 1], 80).into();
        let ready = ready(&settings, address, &base_url(&settings, address), None);
        assert_eq!(ready.ws, "wss://recado.example/notify/ws");
        assert_eq!(ready.events, "https://recado.example/notify/events");
        assert_eq!(ready.listen, "127.0.0.1:80");
        assert_eq!(public_authority(&settings).as_deref(), Some("recado.example"));
    }

    #[test]
    fn no_more_sockets_are_promised_than_files_can_be_opened() {
        assert_eq!(sockets_within_the_systems_limit(1), 1);
        assert!(status::open_files_limit().is_none_or(|files| sockets_within_the_systems_limit(usize::MAX) < files as usize));
    }
}
