//! A proxy between processes and an endpoint of AWS that makes calls go wrong as they do there: errors, throttles, resets,
//! answers that come late, never, or not for every entry.
//!
//! It speaks HTTP/1.1 without TLS, as the local AWS does. What goes wrong is decided by a seed ([`Mix`] says how much); what it
//! does not know passes untouched. A test may also [catch](FaultProxy::catch) one call at a chosen moment,
//! [refuse](FaultProxy::refuse) all of them, or have AWS [reject](FaultProxy::reject) what is about somebody for good. Must not
//! know: who calls, and what for.

mod answers;
mod call;
mod connection;
mod fault;
mod partial;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use recado_domain::ports::Entropy;
use recado_memory::SeededEntropy;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::call::{Call, Operation, Reply};
use self::connection::{Door, Reset};
use self::fault::Chance;
pub use self::fault::{Counts, Fault, Mix};
use self::partial::Partial;
use super::DEADLINE;

/// No call of Recado is larger: a batch of SQS or SNS has 256 KiB.
const LARGEST: usize = 4 * 1024 * 1024;
/// Longer than any caller waits for what may time out here, so that what is late is later than that.
const LATER: Duration = Duration::from_secs(9);
/// The longest that a slow answer takes: seconds less than anybody waits.
const SLOWEST: Duration = Duration::from_millis(1_200);

/// A running proxy. It ends when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    /// Its URL.
    pub endpoint: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    http: reqwest::Client,
    chance: Chance,
    gates: Mutex<Vec<Gate>>,
    rejections: Mutex<Vec<Rejection>>,
    refusing: Arc<AtomicBool>,
}

/// What AWS will not do however often it is asked.
#[derive(Debug, Clone, Copy)]
pub struct Rejection {
    /// Asked for by this operation.
    pub operation: &'static str,
    /// In a request, or an entry of a batch, that says this.
    pub about: &'static str,
    /// Answered with this code.
    pub code: &'static str,
}

/// When a call is caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It has not happened.
    Before,
    /// It has happened, and its caller does not know.
    After,
}

#[derive(Debug)]
struct Gate {
    operation: &'static str,
    moment: Moment,
    arrived: oneshot::Sender<()>,
    open: oneshot::Receiver<()>,
}

/// A call that is waited for, or held. Dropped, its connection is reset.
#[derive(Debug)]
pub struct Catch {
    arrived: oneshot::Receiver<()>,
    /// Held for its drop.
    _open: oneshot::Sender<()>,
}

impl Catch {
    /// Waits until the call is there.
    ///
    /// # Errors
    /// When none comes.
    pub async fn caught(&mut self) -> anyhow::Result<()> {
        tokio::time::timeout(DEADLINE, &mut self.arrived).await.context("no such call came")?.context("the proxy has ended")
    }
}

impl FaultProxy {
    /// A proxy before an endpoint, on a free port.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn before(upstream: &str, seed: u64, mix: Mix) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let refusing = Arc::new(AtomicBool::new(false));
        let http = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build()?;
        let (upstream, chance) = (upstream.trim_end_matches('/').to_owned(), Chance::new(seed, mix));
        let shared =
            Arc::new(Shared { upstream, http, chance, gates: Mutex::default(), rejections: Mutex::default(), refusing: refusing.clone() });
        let app = Router::new().fallback(answer).with_state(shared.clone()).into_make_service_with_connect_info::<Reset>();
        let server = tokio::spawn(async move {
            // It never ends by itself.
            axum::serve(Door { listener, refusing }, app).await.ok();
        });
        Ok(Self { endpoint, shared, server })
    }

    /// Changes how much goes wrong from the next call on.
    pub fn set(&self, mix: Mix) {
        self.shared.chance.set(mix);
    }

    /// What went wrong so far.
    pub fn counts(&self) -> Counts {
        self.shared.chance.counts()
    }

    /// Catches the next call of an operation.
    pub fn catch(&self, operation: &'static str, moment: Moment) -> Catch {
        let ((arriving, arrived), (opening, open)) = (oneshot::channel(), oneshot::channel());
        self.shared.gates().push(Gate { operation, moment, arrived: arriving, open });
        Catch { arrived, _open: opening }
    }

    /// Has AWS reject these things alone from now on; nothing where there are none.
    pub fn reject(&self, rejections: &[Rejection]) {
        *self.shared.rejections.lock().unwrap_or_else(PoisonError::into_inner) = rejections.to_vec();
    }

    /// Resets every connection from now on, or lets them through again.
    pub fn refuse(&self, refusing: bool) {
        self.shared.refusing.store(refusing, Ordering::Release);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Answers a request, or resets its connection.
async fn answer(State(shared): State<Arc<Shared>>, ConnectInfo(reset): ConnectInfo<Reset>, request: Request) -> Response {
    match shared.answer(request).await {
        Some(reply) => reply.into_response(),
        None => {
            reset.now();
            // Nobody reads it.
            StatusCode::OK.into_response()
        }
    }
}

impl Shared {
    /// The answer; none where the connection is to be reset.
    async fn answer(self: &Arc<Self>, request: Request) -> Option<Reply> {
        let (parts, body) = request.into_parts();
        let call = Call::new(parts, read(body).await?);
        if self.refusing.load(Ordering::Acquire) {
            return None;
        }
        let Some(operation) = call.operation() else { return self.forward(call).await };
        match self.gate(operation) {
            Some(gate) => self.hold(gate, call).await,
            None => self.with_fault(operation, call).await,
        }
    }

    async fn with_fault(self: &Arc<Self>, operation: &'static Operation, call: Call) -> Option<Reply> {
        let (fault, entropy) = self.chance.next(operation, call.is_last_attempt());
        match fault {
            None => self.forward(call).await,
            Some(Fault::ServerError) => Some(answers::server_error(operation, &entropy)),
            Some(Fault::Throttled) => Some(answers::throttle(operation, &entropy)),
            Some(Fault::TimedOut) => never().await,
            Some(Fault::Late) => {
                let shared = self.clone();
                // A task of its own, since this one ends with the caller's patience.
                tokio::spawn(async move {
                    tokio::time::sleep(LATER).await;
                    shared.forward(call).await
                });
                never().await
            }
            Some(Fault::Reset) => None,
            Some(Fault::LostAnswer) => self.forward(call).await.and(None),
            Some(Fault::Slow) => {
                tokio::time::sleep(SLOWEST.mul_f64(entropy.fraction())).await;
                self.forward(call).await
            }
            Some(Fault::Partial) => self.in_part(operation, call, &entropy).await,
        }
    }

    async fn in_part(&self, operation: &Operation, call: Call, entropy: &SeededEntropy) -> Option<Reply> {
        let Some(partial) = Partial::of(operation.name, &call.body, entropy) else { return self.forward(call).await };
        let served = match partial.request() {
            Some(body) => Some(self.forward(Call { body, ..call }).await?),
            None => None,
        };
        Some(partial.answer(served))
    }

    /// What AWS answers: what it always does, or what it rejects.
    async fn forward(&self, call: Call) -> Option<Reply> {
        let Some((operation, rejection)) = self.rejection(&call) else { return self.ask(call).await };
        let Some(partial) = Partial::about(operation.name, &call.body, rejection) else {
            return Some(answers::rejected(operation, rejection.code));
        };
        let served = match partial.request() {
            Some(body) => Some(self.ask(Call { body, ..call }).await?),
            None => None,
        };
        Some(partial.answer(served))
    }

    fn rejection(&self, call: &Call) -> Option<(&'static Operation, Rejection)> {
        let operation = call.operation()?;
        let rejections = self.rejections.lock().unwrap_or_else(PoisonError::into_inner);
        let rejects = |rejection: &&Rejection| rejection.operation == operation.name && call.says(rejection.about);
        rejections.iter().find(rejects).map(|rejection| (operation, *rejection))
    }

    /// Asks the endpoint. Where it does not answer, neither does the proxy.
    async fn ask(&self, call: Call) -> Option<Reply> {
        let uri = call.uri.path_and_query().map_or("/", |path| path.as_str());
        let request = self.http.request(call.method, format!("{}{uri}", self.upstream));
        let answer = request.headers(end_to_end(call.headers)).body(call.body).send().await.ok()?;
        let (status, headers) = (answer.status(), end_to_end(answer.headers().clone()));
        Some(Reply { status, headers, body: answer.bytes().await.ok()? })
    }

    async fn hold(&self, gate: Gate, call: Call) -> Option<Reply> {
        if gate.moment == Moment::After {
            self.forward(call).await?;
        }
        // Where nobody waits any more, the call is let go.
        gate.arrived.send(()).ok();
        gate.open.await.ok();
        None
    }

    fn gate(&self, operation: &Operation) -> Option<Gate> {
        let mut gates = self.gates();
        // One whose catch was dropped catches nothing.
        gates.retain(|gate| !gate.arrived.is_closed());
        let at = gates.iter().position(|gate| gate.operation == operation.name)?;
        Some(gates.remove(at))
    }

    fn gates(&self) -> std::sync::MutexGuard<'_, Vec<Gate>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(body: Body) -> Option<Bytes> {
    to_bytes(body, LARGEST).await.ok()
}

/// No answer, until the caller has given up long since.
async fn never() -> Option<Reply> {
    tokio::time::sleep(DEADLINE).await;
    None
}

/// Without what belongs to one connection (RFC 9110, 7.6.1), and without the host and length, which are set anew.
fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    for name in [CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// An endpoint that counts, and a proxy before it.
    async fn before_counting(mix: Mix) -> (FaultProxy, Arc<AtomicU64>, JoinHandle<()>) {
        let count = Arc::new(AtomicU64::new(0));
        let counting = count.clone();
        let served = move |request: Request| {
            counting.fetch_add(1, Ordering::SeqCst);
            std::future::ready(format!("{} {}", request.method(), request.uri()))
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, Router::new().fallback(served)).await.unwrap() });
        (FaultProxy::before(&upstream, 1, mix).await.unwrap(), count, serving)
    }

    fn get_item(proxy: &FaultProxy) -> reqwest::RequestBuilder {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.post(format!("{}/x?y=1", proxy.endpoint)).header("x-amz-target", "DynamoDB_20120810.GetItem").body("{}")
    }

    #[tokio::test]
    async fn what_it_does_not_know_passes_untouched() {
        let (proxy, count, serving) = before_counting(Mix { rate: 1.0, ..Mix::HEAVY }).await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.put(format!("{}/a%20b?c=%2F", proxy.endpoint)).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "PUT /a%20b?c=%2F");
        assert_eq!(count.load(Ordering::SeqCst), 1);
        serving.abort();
    }

    #[tokio::test]
    async fn each_fault_does_or_does_not_reach_the_endpoint() {
        let (proxy, count, serving) = before_counting(Mix { rate: 1.0, in_a_row: 1_000, time_outs: 0, ..Mix::HEAVY }).await;
        let (mut resets, mut refusals, mut answers) = (0, 0, 0);
        for _ in 0..60 {
            match get_item(&proxy).send().await {
                Err(_) => resets += 1,
                Ok(answer) if answer.status().is_success() => answers += 1,
                Ok(_) => refusals += 1,
            }
        }
        let counts = proxy.counts();
        assert_eq!(resets, counts.of(Fault::Reset) + counts.of(Fault::LostAnswer), "{counts}");
        assert_eq!(refusals, counts.of(Fault::ServerError) + counts.of(Fault::Throttled), "{counts}");
        assert_eq!(answers, counts.of(Fault::Slow), "{counts}");
        assert_eq!(count.load(Ordering::SeqCst), counts.of(Fault::Slow) + counts.of(Fault::LostAnswer), "{counts}");
        assert!([resets, refusals, answers].iter().all(|seen| *seen > 0) && counts.of(Fault::LostAnswer) > 0, "{counts}");
        serving.abort();
    }

    #[tokio::test]
    async fn a_call_is_caught_before_or_after_it_happened() {
        let (proxy, count, serving) = before_counting(Mix::CALM).await;
        for (moment, happened) in [(Moment::Before, 0), (Moment::After, 1)] {
            let mut catch = proxy.catch("GetItem", moment);
            let calling = tokio::spawn(get_item(&proxy).send());
            catch.caught().await.unwrap();
            assert_eq!(count.load(Ordering::SeqCst), happened);
            drop(catch);
            assert!(calling.await.unwrap().is_err(), "its connection is reset");
        }
        assert!(get_item(&proxy).send().await.unwrap().status().is_success());
        serving.abort();
    }

    #[tokio::test]
    async fn what_is_rejected_never_reaches_the_endpoint_and_the_rest_does() {
        let (proxy, count, serving) = before_counting(Mix::CALM).await;
        proxy.reject(&[Rejection { operation: "GetItem", about: "mallory", code: "ValidationException" }]);
        let answer = get_item(&proxy).body(r#"{"Key":"U#t#mallory"}"#).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        assert!(answer.text().await.unwrap().contains("#ValidationException"));
        assert!(get_item(&proxy).body(r#"{"Key":"U#t#alice"}"#).send().await.unwrap().status().is_success());
        assert_eq!(count.load(Ordering::SeqCst), 1);
        proxy.reject(&[]);
        assert!(get_item(&proxy).body(r#"{"Key":"U#t#mallory"}"#).send().await.unwrap().status().is_success());
        serving.abort();
    }

    #[tokio::test]
    async fn an_outage_refuses_open_and_new_connections_until_it_ends() {
        let (proxy, _, serving) = before_counting(Mix::CALM).await;
        let request = get_item(&proxy);
        assert!(request.try_clone().unwrap().send().await.is_ok());
        proxy.refuse(true);
        assert!(request.try_clone().unwrap().send().await.is_err());
        assert!(get_item(&proxy).send().await.is_err());
        proxy.refuse(false);
        assert!(request.send().await.is_ok());
        serving.abort();
    }
}
