//! Speaks HTTP over the connections of a [`Door`], and gives up those that take their time.
//!
//! `axum::serve` waits for ever for the rest of a request's head, and keeps up to 400 KiB of it: a few thousand clients that send a byte a
//! minute would hold every place. Must not know: any route.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::door::{Door, Guest};

/// How long the head of a request may take, and how long a connection may wait for the next one, which is the same to the library. Longer
/// than proxies keep a connection that is idle (60 s: `idle_timeout.timeout_seconds` of an Application Load Balancer, `keepalive_timeout`
/// of an nginx upstream), so that it is they who close, and no request meets a close on its way.
const HEAD_WITHIN: Duration = Duration::from_secs(75);
/// The bytes of a request's head, three times the longest token in its URL; above, 431 (RFC 6585, 5).
const HEAD_BYTES: usize = 32 * 1024;

/// Serves `app` until `closing`, and then until the requests under way are answered. Upgraded connections are not waited for.
pub async fn serve(mut door: Door, app: Router, closing: CancellationToken) {
    let under_way = TaskTracker::new();
    while let Some(guest) = closing.run_until_cancelled(door.accept()).await {
        under_way.spawn(attend(guest, app.clone(), closing.clone()));
    }
    // Nobody waits for a server that takes in nothing more.
    drop(door);
    under_way.close();
    under_way.wait().await;
}

async fn attend(guest: Guest, app: Router, closing: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD_BYTES);
    let (meter, app) = (guest.meter.clone(), TowerToHyperService::new(app));
    // A socket finds the meter of its connection in its request.
    let metered = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(meter.clone());
        app.call(request)
    });
    let connection = http.serve_connection(TokioIo::new(guest), metered).with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = &mut connection => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection was given up");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::body::Bytes;
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::*;

    const PLACES: usize = 4;

    struct Server {
        address: SocketAddr,
        closing: CancellationToken,
        serving: JoinHandle<()>,
    }

    async fn server() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let large = Bytes::from(vec![0; 32 * 1024 * 1024]);
        let app = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/length", post(|body: Bytes| async move { body.len().to_string() }))
            // More than the buffers of two sockets hold.
            .route("/large", get(move || async move { large }));
        let closing = CancellationToken::new();
        let serving = tokio::spawn(serve(Door::new(listener, PLACES), app, closing.clone()));
        Server { address, closing, serving }
    }

    /// Everything that comes until the server closes; a reset is a close.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.ok();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    // Time moves by itself when nothing else does, so none of these takes as long as it says.
    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_is_given_up_however_often_a_byte_comes() {
        let server = server().await;
        let started = Instant::now();
        let mut slow = TcpStream::connect(server.address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ").await.unwrap();
        let (mut from, mut to) = slow.split();
        let drip = async {
            while to.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        };
        let mut answer = Vec::new();
        tokio::select! {
            _ = from.read_to_end(&mut answer) => {}
            () = drip => {}
        }
        let took = started.elapsed();
        assert!((HEAD_WITHIN..2 * HEAD_WITHIN).contains(&took), "{took:?}");
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_is_given_up() {
        let server = server().await;
        let started = Instant::now();
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        assert_eq!(rest(&mut silent).await, "");
        assert!(started.elapsed() >= HEAD_WITHIN);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_is_given_up_and_its_place_is_free_again() {
        let server = server().await;
        let mut greedy = Vec::new();
        for _ in 0..PLACES {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            greedy.push(stream);
        }
        // Every place is taken until then.
        let mut next = TcpStream::connect(server.address).await.unwrap();
        next.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(rest(&mut next).await.ends_with("here"));
        drop(greedy);
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let server = server().await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let long = "x".repeat(4 * HEAD_BYTES);
        // The server may be done before all is sent.
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n").as_bytes()).await.ok();
        assert!(rest(&mut stream).await.starts_with("HTTP/1.1 431"));
    }

    #[tokio::test]
    async fn a_connection_serves_several_requests_with_bodies_of_any_size() {
        let server = server().await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let body = "x".repeat(10 * HEAD_BYTES);
        let keep = format!("POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(keep.as_bytes()).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let answers = rest(&mut stream).await;
        assert!(answers.contains(&body.len().to_string()) && answers.ends_with("here"), "{answers}");
    }

    #[tokio::test]
    async fn a_server_that_closes_ends_with_its_last_request() {
        let server = server().await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nha").await.unwrap();
        // Its head has arrived for sure once a later connection was served.
        let mut other = TcpStream::connect(server.address).await.unwrap();
        other.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(rest(&mut other).await.ends_with("here"));
        server.closing.cancel();
        stream.write_all(b"lf").await.unwrap();
        assert!(rest(&mut stream).await.ends_with('4'));
        tokio::time::timeout(Duration::from_secs(20), server.serving).await.unwrap().unwrap();
        assert!(TcpStream::connect(server.address).await.is_err());
    }
}
