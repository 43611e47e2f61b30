//! The server over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use recado_domain::connection::{CloseReason, Protocol, SUBPROTOCOL};
use recado_domain::ids::ConnectionId;
use recado_domain::limits;
use recado_domain::opening::Credential;
use recado_domain::ports::{Clock, Posted, Sockets};
use recado_runtime::system::SystemClock;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;

use super::*;

type Client = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

#[derive(Debug, PartialEq, Eq)]
enum Call {
    Connect(Opening),
    Message(ConnectionId, String),
    Disconnect(ConnectionId),
}

/// Tells what it is called with. A message waits for a permit of `gate`.
struct Recorder {
    calls: mpsc::UnboundedSender<Call>,
    token_lasts: Duration,
    connect_gate: Semaphore,
    message_gate: Semaphore,
    started: AtomicUsize,
}

impl Routes for Recorder {
    async fn on_connect(&self, opening: &Opening) -> Result<Accepted, Refusal> {
        self.calls.send(Call::Connect(opening.clone())).unwrap();
        self.connect_gate.acquire().await.unwrap().forget();
        match &opening.credential {
            Some(Credential::Token(token)) if token == "good" => Ok(Accepted { token_expires_at: SystemClock.now() + self.token_lasts }),
            _ => Err(Refusal::new(StatusCode::UNAUTHORIZED, "token_malformed", "the token is not valid")),
        }
    }

    async fn on_message(&self, id: &ConnectionId, text: &str) {
        self.started.fetch_add(1, Ordering::SeqCst);
        self.message_gate.acquire().await.unwrap().forget();
        self.calls.send(Call::Message(id.clone(), text.to_owned())).unwrap();
    }

    async fn on_disconnect(&self, id: &ConnectionId) {
        self.calls.send(Call::Disconnect(id.clone())).unwrap();
    }
}

struct Server {
    address: SocketAddr,
    sockets: OpenSockets,
    routes: Arc<Recorder>,
    calls: Mutex<mpsc::UnboundedReceiver<Call>>,
}

async fn server(options: SocketOptions) -> Server {
    server_with(options, Duration::from_secs(3600), Semaphore::MAX_PERMITS, Semaphore::MAX_PERMITS).await
}

async fn server_with(options: SocketOptions, token_lasts: Duration, connects: usize, messages: usize) -> Server {
    let (sender, calls) = mpsc::unbounded_channel();
    let routes = Arc::new(Recorder {
        calls: sender,
        token_lasts,
        connect_gate: Semaphore::new(connects),
        message_gate: Semaphore::new(messages),
        started: AtomicUsize::new(0),
    });
    let sockets = OpenSockets::new(options);
    let app = router(sockets.clone(), routes.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(Door::new(listener, 1000), app, CancellationToken::new()));
    Server { address, sockets, routes, calls: Mutex::new(calls) }
}

impl Server {
    async fn next_call(&self) -> Call {
        soon(self.calls.lock().await.recv()).await.unwrap()
    }

    async fn opening(&self) -> Opening {
        match self.next_call().await {
            Call::Connect(opening) => opening,
            other => panic!("not a connect: {other:?}"),
        }
    }

    async fn connect(&self, query: &str) -> Client {
        soon(connect_async(format!("ws://{}/ws?{query}", self.address))).await.unwrap().0
    }

    /// Connects and waits until posts arrive.
    async fn join(&self) -> (Client, ConnectionId) {
        let client = self.connect("token=good").await;
        let id = self.opening().await.connection;
        while self.sockets.post(&id, "hello").await != Ok(Posted::Delivered) {
            tokio::task::yield_now().await;
        }
        (client, id)
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("within 20 s")
}

async fn next_text(client: &mut Client) -> String {
    loop {
        match soon(client.next()).await.unwrap().unwrap() {
            Message::Text(text) => return text.as_str().to_owned(),
            Message::Ping(_) => {}
            other => panic!("not a text: {other:?}"),
        }
    }
}

/// The code the server closes with, whatever comes before.
async fn close_code(client: &mut Client) -> u16 {
    loop {
        match soon(client.next()).await {
            Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
            Some(Ok(_)) => {}
            other => panic!("ended without a close frame: {other:?}"),
        }
    }
}

fn refusal_of(result: Result<impl Sized, Error>) -> (u16, String) {
    match result {
        Err(Error::Http(response)) => (response.status().as_u16(), String::from_utf8(response.into_body().unwrap_or_default()).unwrap()),
        Err(other) => panic!("not refused: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

#[tokio::test]
async fn a_post_arrives_and_a_message_is_handled_and_the_end_is_told_once() {
    let server = server(SocketOptions::default()).await;
    let (mut client, id) = server.join().await;
    assert_eq!(next_text(&mut client).await, "hello");
    client.send(Message::text("one")).await.unwrap();
    assert_eq!(server.next_call().await, Call::Message(id.clone(), "one".to_owned()));
    client.close(None).await.unwrap();
    assert_eq!(server.next_call().await, Call::Disconnect(id.clone()));
    assert_eq!(server.sockets.post(&id, "late").await, Ok(Posted::Gone));
    assert_eq!(server.sockets.close_all(Duration::from_secs(20)).await, 0);
    assert!(server.calls.lock().await.try_recv().is_err());
}

#[tokio::test]
async fn until_on_connect_has_answered_a_post_is_gone() {
    let server = Arc::new(server_with(SocketOptions::default(), Duration::from_secs(3600), 0, Semaphore::MAX_PERMITS).await);
    let connecting = tokio::spawn({
        let server = server.clone();
        async move { server.connect("token=good").await }
    });
    let id = server.opening().await.connection;
    assert_eq!(server.sockets.post(&id, "early").await, Ok(Posted::Gone));
    server.routes.connect_gate.add_permits(1);
    let mut client = connecting.await.unwrap();
    soon(async {
        while server.sockets.post(&id, "now").await != Ok(Posted::Delivered) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(next_text(&mut client).await, "now");
}

#[tokio::test]
async fn a_refusal_answers_the_upgrade_as_a_problem_document_and_nothing_disconnects() {
    let server = server(SocketOptions::default()).await;
    let (status, body) = refusal_of(connect_async(format!("ws://{}/ws?token=bad", server.address)).await);
    assert_eq!(status, 401);
    assert!(body.contains("the token is not valid"), "{body}");
    assert!(matches!(server.next_call().await, Call::Connect(_)));
    assert_eq!(server.sockets.close_all(Duration::from_secs(20)).await, 0);
    assert!(server.calls.lock().await.try_recv().is_err());
}

#[tokio::test]
async fn a_client_that_gives_up_while_connecting_is_disconnected() {
    let server = server_with(SocketOptions::default(), Duration::from_secs(3600), 0, Semaphore::MAX_PERMITS).await;
    let address = server.address;
    let connecting = tokio::spawn(async move { connect_async(format!("ws://{address}/ws?token=good")).await.map(|_| ()) });
    let id = server.opening().await.connection;
    connecting.abort();
    assert!(connecting.await.unwrap_err().is_cancelled());
    server.routes.connect_gate.add_permits(1);
    assert_eq!(server.next_call().await, Call::Disconnect(id));
}

#[tokio::test]
async fn the_subprotocol_is_echoed_and_the_url_declares_it_too() {
    let server = server(SocketOptions::default()).await;
    let mut request = format!("ws://{}/ws?token=good&device=phone", server.address).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", format!("other, {SUBPROTOCOL}").parse().unwrap());
    let (_client, response) = soon(connect_async(request)).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], SUBPROTOCOL);
    let opening = server.opening().await;
    assert_eq!((opening.protocol, opening.device.as_deref()), (Protocol::Recado, Some("phone")));

    let _by_url = server.connect("token=good&protocol=recado.v1").await;
    assert_eq!(server.opening().await.protocol, Protocol::Recado);
    let _plain = server.connect("token=good").await;
    assert_eq!(server.opening().await.protocol, Protocol::Plain);
}

#[tokio::test]
async fn a_doubled_parameter_a_foreign_origin_and_a_plain_get_are_refused() {
    let server = server(SocketOptions::default()).await;
    let (status, body) = refusal_of(connect_async(format!("ws://{}/ws?token=good&token=good", server.address)).await);
    assert_eq!(status, 400);
    assert!(body.contains("`token` is given twice"), "{body}");

    let mut request = format!("ws://{}/ws?token=good", server.address).into_client_request().unwrap();
    request.headers_mut().insert("origin", "https://evil.example".parse().unwrap());
    assert_eq!(refusal_of(connect_async(request).await).0, 403);

    assert_eq!(plain_get_status(server.address).await, "HTTP/1.1 426 Upgrade Required");
}

async fn plain_get_status(address: SocketAddr) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /ws?token=good HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn one_socket_more_than_the_limit_is_refused_until_another_ends() {
    let server = server(SocketOptions { max_sockets: 1, ..SocketOptions::default() }).await;
    let (mut first, id) = server.join().await;
    assert_eq!(refusal_of(connect_async(format!("ws://{}/ws?token=good", server.address)).await).0, 503);
    first.close(None).await.unwrap();
    assert_eq!(server.next_call().await, Call::Disconnect(id));
    soon(async { while connect_async(format!("ws://{}/ws?token=good", server.address)).await.is_err() {} }).await;
}

#[tokio::test]
async fn messages_of_one_connection_are_handled_one_after_the_other() {
    let server = server_with(SocketOptions::default(), Duration::from_secs(3600), Semaphore::MAX_PERMITS, 1).await;
    let (mut client, id) = server.join().await;
    for text in ["one", "two", "three"] {
        client.send(Message::text(text)).await.unwrap();
    }
    assert_eq!(server.next_call().await, Call::Message(id.clone(), "one".to_owned()));
    // Posts go out while a message is being handled.
    assert_eq!(server.sockets.post(&id, "meanwhile").await, Ok(Posted::Delivered));
    server.routes.message_gate.add_permits(2);
    assert_eq!(server.next_call().await, Call::Message(id.clone(), "two".to_owned()));
    assert_eq!(server.next_call().await, Call::Message(id, "three".to_owned()));
}

#[tokio::test]
async fn a_message_that_is_being_handled_when_its_socket_ends_is_handled_to_its_end() {
    let server = server_with(SocketOptions::default(), Duration::from_secs(3600), Semaphore::MAX_PERMITS, 0).await;
    let (mut client, id) = server.join().await;
    client.send(Message::text("last words")).await.unwrap();
    soon(async {
        while server.routes.started.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.sockets.close(&id, CloseReason::Replaced).await.unwrap();
    assert_eq!(close_code(&mut client).await, CloseReason::Replaced.code());
    server.routes.message_gate.add_permits(1);
    assert_eq!(server.next_call().await, Call::Message(id.clone(), "last words".to_owned()));
    assert_eq!(server.next_call().await, Call::Disconnect(id));
}

#[tokio::test]
async fn a_frame_or_message_above_the_limit_closes_with_1009() {
    let server = server(SocketOptions::default()).await;
    let (mut framed, _) = server.join().await;
    framed.send(Message::text("x".repeat(limits::CLIENT_FRAME_BYTES + 1))).await.unwrap();
    assert_eq!(close_code(&mut framed).await, 1009);
    assert!(matches!(server.next_call().await, Call::Disconnect(_)));

    let (mut fragmented, _) = server.join().await;
    for n in 0..6 {
        let opcode = OpCode::Data(if n == 0 { Data::Text } else { Data::Continue });
        let part = Frame::message(vec![b'x'; 30 * 1024], opcode, n == 5);
        if fragmented.send(Message::Frame(part)).await.is_err() {
            break;
        }
    }
    assert_eq!(close_code(&mut fragmented).await, 1009);
}

#[tokio::test]
async fn a_message_of_several_frames_within_the_limit_is_one_message() {
    let server = server(SocketOptions::default()).await;
    let (mut client, id) = server.join().await;
    for (opcode, last) in [(Data::Text, false), (Data::Continue, false), (Data::Continue, true)] {
        let part = Frame::message(vec![b'x'; 30 * 1024], OpCode::Data(opcode), last);
        client.send(Message::Frame(part)).await.unwrap();
    }
    assert_eq!(server.next_call().await, Call::Message(id, "x".repeat(90 * 1024)));
}

#[tokio::test]
async fn binary_frames_and_what_is_not_utf8_are_closed_with_their_code() {
    let server = server(SocketOptions::default()).await;
    let (mut binary, _) = server.join().await;
    binary.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(close_code(&mut binary).await, 1003);
    assert!(matches!(server.next_call().await, Call::Disconnect(_)));
    let (mut garbled, _) = server.join().await;
    let frame = Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true);
    garbled.send(Message::Frame(frame)).await.unwrap();
    assert_eq!(close_code(&mut garbled).await, 1007);
}

#[tokio::test]
async fn a_client_that_sends_too_fast_is_closed() {
    let server = server(SocketOptions { client_frames_per_second: 1, client_frames_burst: 3, ..SocketOptions::default() }).await;
    let (mut client, _) = server.join().await;
    for _ in 0..10 {
        if client.send(Message::text("again")).await.is_err() {
            break;
        }
    }
    assert_eq!(close_code(&mut client).await, CloseReason::RateLimited.code());
}

#[tokio::test]
async fn a_socket_ends_with_its_token() {
    let server = server_with(SocketOptions::default(), Duration::from_millis(300), Semaphore::MAX_PERMITS, Semaphore::MAX_PERMITS).await;
    let mut client = server.connect("token=good").await;
    assert_eq!(close_code(&mut client).await, CloseReason::TokenExpired.code());
}

#[tokio::test]
async fn before_its_age_ends_a_socket_it_is_told_to_connect_again() {
    let options = SocketOptions { age: Duration::from_millis(500), goaway_lead: Duration::from_millis(200), ..SocketOptions::default() };
    let server = server(options).await;
    let mut client = server.connect("token=good").await;
    assert!(next_text(&mut client).await.contains("goaway"));
    assert_eq!(close_code(&mut client).await, CloseReason::GoingAway.code());
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_ends() {
    let server = server(SocketOptions { ping_every: Duration::from_millis(50), ..SocketOptions::default() }).await;
    let (_silent, id) = server.join().await;
    assert_eq!(server.next_call().await, Call::Disconnect(id));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_the_post_may_be_tried_again() {
    let server = server(SocketOptions { write_within: Duration::from_millis(300), ..SocketOptions::default() }).await;
    let (_client, id) = server.join().await;
    let frame = "x".repeat(limits::FRAME_BYTES);
    let failure = soon(async {
        loop {
            match server.sockets.post(&id, &frame).await {
                Ok(Posted::Delivered) => {}
                other => break other,
            }
        }
    })
    .await;
    // The writer notices at the same moment as the post: either says so.
    assert!(failure.as_ref().is_ok_and(|posted| *posted == Posted::Gone) || failure.is_err_and(|failure| failure.is_transient()));
    assert_eq!(server.next_call().await, Call::Disconnect(id.clone()));
    assert_eq!(server.sockets.post(&id, &frame).await, Ok(Posted::Gone));
}

/// Pushes until the client has no room for more.
async fn fill(server: &Server, id: &ConnectionId) -> Failure {
    let (pushes, frame) = (server.sockets.pushes(), "x".repeat(limits::FRAME_BYTES));
    soon(async {
        loop {
            match pushes.post(id, &frame).await {
                Ok(posted) => assert_eq!(posted, Posted::Delivered),
                // On a busy machine it may only have been late.
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
            if let Some(Err(failure)) = pushes.post(id, &frame).now_or_never() {
                break failure;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_push_to_a_client_that_does_not_read_fails_soon_and_the_next_at_once_until_it_reads_again() {
    let options =
        SocketOptions { push_within: Duration::from_millis(100), write_within: Duration::from_secs(20), ..SocketOptions::default() };
    let server = server(options).await;
    let (mut client, id) = server.join().await;
    let failure = fill(&server, &id).await;
    assert!(matches!(failure, Failure::Transient { retry_after: Some(_), .. }), "{failure}");
    // Without waiting: it is refused at the first look.
    let pushes = server.sockets.pushes();
    let next = pushes.post(&id, "next").now_or_never().expect("answered at once");
    assert!(next.unwrap_err().is_transient());
    assert_eq!(server.sockets.count(), 1, "it is not closed yet");
    let reading = tokio::spawn(async move { while next_text(&mut client).await != "seen again" {} });
    soon(async {
        while pushes.post(&id, "seen again").await != Ok(Posted::Delivered) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    soon(reading).await.unwrap();
}

#[tokio::test]
async fn a_client_that_reads_again_learns_why_it_was_closed() {
    let options =
        SocketOptions { push_within: Duration::from_millis(50), write_within: Duration::from_secs(3), ..SocketOptions::default() };
    let server = server(options).await;
    let (mut client, id) = server.join().await;
    fill(&server, &id).await;
    soon(async {
        while server.sockets.count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(close_code(&mut client).await, CloseReason::SlowConsumer.code());
}

#[tokio::test]
async fn a_frame_above_the_limit_is_never_posted() {
    let server = server(SocketOptions::default()).await;
    let (_client, id) = server.join().await;
    let failure = server.sockets.post(&id, &"x".repeat(limits::FRAME_BYTES + 1)).await.unwrap_err();
    assert!(!failure.is_transient());
}

#[tokio::test]
async fn draining_tells_everybody_and_closes_and_refuses_new_ones() {
    let server = server(SocketOptions::default()).await;
    let (mut first, _) = server.join().await;
    let (mut second, _) = server.join().await;
    server.sockets.say_goaway(Duration::from_secs(20)).await;
    assert_eq!(refusal_of(connect_async(format!("ws://{}/ws?token=good", server.address)).await).0, 503);
    let sockets = server.sockets.clone();
    let drain = tokio::spawn(async move { sockets.close_all(Duration::from_secs(20)).await });
    for client in [&mut first, &mut second] {
        assert_eq!(next_text(client).await, "hello");
        assert!(next_text(client).await.contains("reconnect_after_ms"));
        assert_eq!(close_code(client).await, 1001);
    }
    assert_eq!(drain.await.unwrap(), 0);
    assert_eq!(server.sockets.count(), 0);
}
