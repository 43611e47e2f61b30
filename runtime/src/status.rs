//! How the process is: `/healthz` (it runs), `/readyz` (it works), `/metrics` (how much and how fast).
//!
//! Must not know: what a check looks at.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::future::{BoxFuture, join_all};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The process's metrics.
pub use metrics_exporter_prometheus::PrometheusHandle as Metrics;

/// Says what is wrong, if anything.
pub type Check = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Brings gauges up to date that nobody else keeps so.
pub type Measure = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// How long a check may take; a load balancer asks every few seconds.
const CHECK_WITHIN: Duration = Duration::from_secs(2);
/// How long an answer holds. Whoever asks more often, and anybody may, makes no more work for the store.
const HOLDS: Duration = Duration::from_secs(1);

/// How long a probe waits: longer than a check may take.
const PROBE_WITHIN: Duration = Duration::from_secs(4);
/// The most that is read of an answer.
const PROBE_BYTES: u64 = 64 * 1024;

/// What was found last, and when. Who asks while somebody looks waits for the same answer.
struct Recent<T>(Mutex<Option<(Instant, T)>>);

impl<T: Clone> Recent<T> {
    fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// What was found within the last [`HOLDS`], or what `look` finds now.
    async fn or(&self, look: impl AsyncFnOnce() -> T) -> T {
        let mut found = self.0.lock().await;
        match &*found {
            Some((at, answer)) if at.elapsed() < HOLDS => answer.clone(),
            _ => {
                let answer = look().await;
                *found = Some((Instant::now(), answer.clone()));
                answer
            }
        }
    }
}

/// The endpoints, and what they found last.
struct Endpoints {
    status: Status,
    problems: Recent<Vec<String>>,
    measured: Recent<()>,
}

impl Endpoints {
    fn new(status: Status) -> Arc<Self> {
        Arc::new(Self { status, problems: Recent::new(), measured: Recent::new() })
    }
}

/// What the three endpoints show.
pub struct Status {
    /// Set when the process begins to stop.
    pub draining: Arc<AtomicBool>,
    /// What has to hold for the process to be ready.
    pub checks: Vec<Check>,
    /// What is measured when metrics are asked for.
    pub measures: Vec<Measure>,
    /// The process's metrics.
    pub metrics: Metrics,
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Status").field("draining", &self.draining).finish_non_exhaustive()
    }
}

/// How often histograms are folded, so that they do not grow between two scrapes.
const FOLD_EVERY: Duration = Duration::from_secs(5);

/// Keeps the process's metrics small; never ends.
pub async fn fold(metrics: Metrics) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(FOLD_EVERY).await;
        metrics.run_upkeep();
    }
}

/// The answer of `/readyz`.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    /// What is wrong, for people.
    reasons: Vec<String>,
}

/// The routes.
pub fn router(status: Status) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Endpoints::new(status))
}

/// Serves the three, and nothing else, until dropped: for a process that serves nothing besides.
///
/// # Errors
/// When the socket fails.
pub async fn serve(listener: TcpListener, status: Status) -> std::io::Result<()> {
    axum::serve(listener, router(status)).await
}

/// Asks the `/readyz` at an address, as a container's health check does that has no other program to ask with.
///
/// # Errors
/// What it answered, or that it did not.
pub async fn probe(address: SocketAddr) -> Result<(), String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.take(PROBE_BYTES).read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    match tokio::time::timeout(PROBE_WITHIN, ask).await {
        Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200 ") => Ok(()),
        Ok(Ok(answer)) => Err(answer.lines().last().unwrap_or("it closed the connection").to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {PROBE_WITHIN:?}")),
    }
}

async fn readyz(State(endpoints): State<Arc<Endpoints>>) -> Response {
    let mut reasons = Vec::new();
    if endpoints.status.draining.load(Ordering::Acquire) {
        reasons.push("the process stops".to_owned());
    }
    reasons.extend(endpoints.problems.or(async || problems(&endpoints.status.checks, CHECK_WITHIN).await).await);
    let code = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Readiness { ready: reasons.is_empty(), reasons })).into_response()
}

/// What the checks say is wrong.
async fn problems(checks: &[Check], within: Duration) -> Vec<String> {
    let answers = join_all(checks.iter().map(|check| tokio::time::timeout(within, check()))).await;
    let problem = |answer| match answer {
        Ok(Ok(())) => None,
        Ok(Err(reason)) => Some(reason),
        Err(_) => Some(format!("a check did not answer within {within:?}")),
    };
    answers.into_iter().filter_map(problem).collect()
}

async fn metrics(State(endpoints): State<Arc<Endpoints>>) -> Response {
    endpoints.measured.or(async || measure(&endpoints.status.measures).await).await;
    let text = endpoints.status.metrics.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Brings every gauge up to date.
async fn measure(measures: &[Measure]) {
    let measured = join_all(measures.iter().map(|measure| measure()));
    if tokio::time::timeout(CHECK_WITHIN, measured).await.is_err() {
        tracing::warn!("some gauges could not be brought up to date");
    }
    if let Some(bytes) = resident_bytes() {
        metrics::gauge!("process_resident_memory_bytes").set(bytes as f64);
    }
}

/// Seconds, from a push within the process to a client on another continent.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// Things in a batch.
const SIZES: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0];

/// The process's metrics, set up at the first call.
///
/// # Errors
/// When something else of the process records metrics.
pub fn recorder() -> Result<Metrics, String> {
    static RECORDER: OnceLock<Result<Metrics, String>> = OnceLock::new();
    let install = || {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .and_then(|builder| builder.set_buckets(&SIZES));
        builder.and_then(PrometheusBuilder::install_recorder).map_err(|error| error.to_string())
    };
    RECORDER.get_or_init(install).clone().map_err(|error| format!("metrics cannot be set up: {error}"))
}

/// The memory of this process, where the system says it.
fn resident_bytes() -> Option<u64> {
    proc_value(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:").map(|kibibytes| kibibytes * 1024)
}

/// The number after a name, in what /proc writes.
fn proc_value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// How many files (and sockets) this process may have open, where the system says it.
pub fn open_files_limit() -> Option<u64> {
    proc_value(&std::fs::read_to_string("/proc/self/limits").ok()?, "Max open files")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use axum::body::to_bytes;

    fn status(checks: Vec<Check>, draining: bool) -> Status {
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        Status { draining: Arc::new(AtomicBool::new(draining)), checks, measures: Vec::new(), metrics }
    }

    async fn readiness(status: Status) -> (StatusCode, String) {
        let response = readyz(State(Endpoints::new(status))).await;
        let code = response.status();
        (code, String::from_utf8(to_bytes(response.into_body(), 4096).await.unwrap().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_is_said_when_every_check_holds() {
        let holds: Check = Box::new(|| Box::pin(async { Ok(()) }));
        assert_eq!(readiness(status(vec![holds], false)).await, (StatusCode::OK, r#"{"ready":true,"reasons":[]}"#.to_owned()));
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_and_so_is_stopping() {
        let fails: Check = Box::new(|| Box::pin(async { Err("the disk is full".to_owned()) }));
        let (code, body) = readiness(status(vec![fails], true)).await;
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("the disk is full") && body.contains("the process stops"), "{body}");
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_there_is_one_look_in_a_second() {
        let looks = Arc::new(AtomicUsize::new(0));
        let looking = looks.clone();
        let slow = move || {
            let (looks, slow) = (looking.clone(), Duration::from_millis(100));
            async move {
                tokio::time::sleep(slow).await;
                looks.fetch_add(1, Ordering::AcqRel) + 1
            }
        };
        let recent = Recent::new();
        let (one, other) = tokio::join!(recent.or(async || slow().await), recent.or(async || slow().await));
        tokio::time::advance(HOLDS - Duration::from_millis(1)).await;
        assert_eq!((one, other, recent.or(async || slow().await).await), (1, 1, 1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!((recent.or(async || slow().await).await, looks.load(Ordering::Acquire)), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_and_metrics_ask_no_more_often_than_that() {
        let (checks, measures) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (checking, measuring) = (checks.clone(), measures.clone());
        let check: Check = Box::new(move || {
            checking.fetch_add(1, Ordering::AcqRel);
            Box::pin(async { Ok(()) })
        });
        let measure: Measure = Box::new(move || {
            measuring.fetch_add(1, Ordering::AcqRel);
            Box::pin(async {})
        });
        let endpoints = Endpoints::new(Status { measures: vec![measure], ..status(vec![check], false) });
        for _ in 0..5 {
            assert_eq!(readyz(State(endpoints.clone())).await.status(), StatusCode::OK);
            assert_eq!(super::metrics(State(endpoints.clone())).await.status(), StatusCode::OK);
        }
        assert_eq!((checks.load(Ordering::Acquire), measures.load(Ordering::Acquire)), (1, 1));
        tokio::time::advance(HOLDS).await;
        assert_eq!(readyz(State(endpoints.clone())).await.status(), StatusCode::OK);
        assert_eq!(checks.load(Ordering::Acquire), 2);
    }

    #[tokio::test]
    async fn a_check_that_hangs_is_a_problem() {
        let hangs: Check = Box::new(|| Box::pin(std::future::pending()));
        assert!(problems(&[hangs], Duration::from_millis(1)).await[0].contains("did not answer"));
    }

    #[tokio::test]
    async fn a_probe_says_what_is_wrong() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let failing = Arc::new(AtomicBool::new(false));
        let seen = failing.clone();
        let check: Check = Box::new(move || {
            let fails = seen.load(Ordering::Acquire);
            Box::pin(async move { if fails { Err("the queue does not answer".to_owned()) } else { Ok(()) } })
        });
        let status = Status {
            draining: Arc::default(),
            checks: vec![check],
            measures: Vec::new(),
            metrics: PrometheusBuilder::new().build_recorder().handle(),
        };
        let serving = tokio::spawn(serve(listener, status));
        assert_eq!(probe(address).await, Ok(()));
        failing.store(true, Ordering::Release);
        let unready = async {
            loop {
                match probe(address).await {
                    // An answer holds for a moment.
                    Ok(()) => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(reason) => return reason,
                }
            }
        };
        let reason = tokio::time::timeout(Duration::from_secs(20), unready).await.unwrap();
        assert!(reason.contains("the queue does not answer"), "{reason}");
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
        assert!(probe(address).await.is_err());
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_long_list_of_problems_reaches_who_probes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let long = "the queue does not answer; ".repeat(1_000);
        let check: Check = Box::new(move || {
            let long = long.clone();
            Box::pin(async move { Err(long) })
        });
        let status = status(vec![check], false);
        assert!(format!("{status:?}").starts_with("Status { draining: false"));
        tokio::spawn(serve(listener, status));
        assert!(probe(address).await.unwrap_err().ends_with("answer; \"]}"), "the whole of it");
    }

    #[tokio::test]
    async fn metrics_are_measured_when_they_are_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let measured = Arc::new(AtomicBool::new(false));
        let seen = measured.clone();
        let measure: Measure = Box::new(move || {
            seen.store(true, Ordering::Release);
            metrics::histogram!("test_seconds").record(0.002);
            metrics::histogram!("test_size").record(3.0);
            Box::pin(async {})
        });
        let status = Status { draining: Arc::default(), checks: Vec::new(), measures: vec![measure], metrics: recorder().unwrap() };
        tokio::spawn(serve(listener, status));
        let answer = get(address, "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(measured.load(Ordering::Acquire));
        for line in [r#"test_seconds_bucket{le="0.0025"} 1"#, r#"test_size_bucket{le="5"} 1"#] {
            assert!(answer.contains(line), "{line} is missing in {answer}");
        }
        let resident = answer.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")).unwrap();
        // A program of this size has some mebibytes, and not gibibytes.
        assert!((1e6..1e9).contains(&resident.parse::<f64>().unwrap()), "{resident}");
        assert!(open_files_limit().unwrap() >= 16);
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200 "));
        assert!(get(address, "/nothing").await.starts_with("HTTP/1.1 404 "));
    }

    #[test]
    fn numbers_are_found_in_what_proc_writes() {
        assert_eq!(proc_value("Name:\tx\nVmRSS:\t    1234 kB\n", "VmRSS:"), Some(1234));
        assert_eq!(proc_value("Max open files            1024                 4096                 files\n", "Max open files"), Some(1024));
        assert_eq!(proc_value("Max open files            unlimited\n", "Max open files"), None);
        assert_eq!(proc_value("", "VmRSS:"), None);
    }
}
