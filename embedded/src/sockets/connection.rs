//! One open socket: reads messages one after the other, writes what is posted, pings, and ends it for a reason.
//!
//! Reading and writing are two loops of one task; whichever finds a reason to end tells the other one. Must not know:
//! the other sockets, HTTP.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use recado_domain::connection::CloseReason;
use recado_domain::failure::Failure;
use recado_domain::frame::ServerFrame;
use recado_domain::ids::ConnectionId;
use recado_domain::ports::{Clock, Entropy, Outcome, Posted};
use recado_runtime::system::{SystemClock, SystemEntropy};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite;
use tokio_util::sync::CancellationToken;

use super::accept::Registered;
use super::meter::Meter;
use super::rate::Bucket;
use super::{Accepted, Routes, SocketOptions};

/// How long a message may take to be handled ("Amazon API Gateway quotas", integration timeout).
pub(super) const HANDLE_WITHIN: Duration = Duration::from_secs(29);
/// Frames that wait for one socket, at the most.
const BUFFER_FRAMES: usize = 64;
/// Frames written before they are flushed together, at the most.
const WRITE_TOGETHER: usize = 32;
/// How long the peer may take to answer our close frame.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// When a push is tried again for which a client had no room.
const PUSH_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Why a socket ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// We end it.
    Reason(CloseReason),
    /// The peer broke the protocol: a code of RFC 6455, 7.4.1, and what it did.
    Protocol(u16, &'static str),
    /// The peer said goodbye.
    Peer,
    /// The connection broke, or the peer is not heard of any more.
    Lost,
}

impl Ending {
    fn frame(self) -> Option<CloseFrame> {
        let (code, text) = match self {
            Self::Reason(reason) => (reason.code(), reason.text()),
            Self::Protocol(code, text) => (code, text),
            Self::Peer | Self::Lost => return None,
        };
        Some(CloseFrame { code, reason: Utf8Bytes::from_static(text) })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Reason(reason) => reason.text(),
            Self::Protocol(_, text) => text,
            Self::Peer => "closed by the client",
            Self::Lost => "connection lost",
        }
    }
}

/// What others hold of an open socket.
pub(super) struct Handle {
    outgoing: mpsc::Sender<Outgoing>,
    /// Free bytes of the buffer.
    room: Arc<Semaphore>,
    write_within: Duration,
    opened: Instant,
    /// Since when a write is under way, in milliseconds since the socket opened, and one; 0: none is.
    writing_since: AtomicU64,
    ending: OnceLock<Ending>,
    ended: CancellationToken,
}

/// A frame on its way out.
pub(super) struct Outgoing {
    frame: Utf8Bytes,
    /// Told when the frame was written. Nobody waits any more: skip the frame, its entry is tried again.
    written: oneshot::Sender<()>,
    _room: OwnedSemaphorePermit,
}

impl Handle {
    pub(super) fn new(options: &SocketOptions) -> (Self, mpsc::Receiver<Outgoing>) {
        let (outgoing, incoming) = mpsc::channel(BUFFER_FRAMES);
        let handle = Self {
            outgoing,
            room: Arc::new(Semaphore::new(options.buffer_bytes as usize)),
            write_within: options.write_within,
            opened: Instant::now(),
            writing_since: AtomicU64::new(0),
            ending: OnceLock::new(),
            ended: CancellationToken::new(),
        };
        (handle, incoming)
    }

    /// Ends the socket; the first reason stands.
    pub(super) fn end(&self, ending: Ending) {
        self.ending.get_or_init(|| ending);
        self.ended.cancel();
    }

    fn ending(&self) -> Ending {
        self.ending.get().copied().unwrap_or(Ending::Lost)
    }

    /// Posts a frame and waits until it was written.
    pub(super) async fn post(&self, frame: &str) -> Outcome<Posted> {
        match tokio::time::timeout(self.write_within, self.write(frame)).await {
            Ok(Some(())) => Ok(Posted::Delivered),
            Ok(None) => Ok(Posted::Gone),
            Err(_) => {
                self.end(Ending::Reason(CloseReason::SlowConsumer));
                Err(Failure::transient("slow consumer: the frame was not taken in time"))
            }
        }
    }

    /// Posts a frame for somebody who has others to serve: fails once a write to this client, this one or the one before
    /// it, takes longer than `patience`. Whether the client is to be closed is for the write itself to find.
    pub(super) async fn push(&self, frame: &str, patience: Duration) -> Outcome<Posted> {
        let left = patience.saturating_sub(self.writing_for());
        if left.is_zero() {
            return Err(has_no_room());
        }
        match tokio::time::timeout(left, self.write(frame)).await {
            Ok(Some(())) => Ok(Posted::Delivered),
            Ok(None) => Ok(Posted::Gone),
            Err(_) => Err(has_no_room()),
        }
    }

    /// How long the write has taken that is under way.
    fn writing_for(&self) -> Duration {
        match self.writing_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.opened.elapsed().saturating_sub(Duration::from_millis(since - 1)),
        }
    }

    fn write_begins(&self) {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.writing_since.store(now + 1, Ordering::Relaxed);
    }

    fn write_ended(&self) {
        self.writing_since.store(0, Ordering::Relaxed);
    }

    /// `None` when the socket ended before the frame was written.
    async fn write(&self, frame: &str) -> Option<()> {
        let bytes = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let queued = async {
            let room = self.room.clone().acquire_many_owned(bytes).await.ok()?;
            let (written, answer) = oneshot::channel();
            self.outgoing.send(Outgoing { frame: Utf8Bytes::from(frame), written, _room: room }).await.ok()?;
            answer.await.ok()
        };
        tokio::select! {
            biased;
            written = queued => written,
            // The writer may have ended with room taken; nothing would give it back.
            () = self.ended.cancelled() => None,
        }
    }
}

fn has_no_room() -> Failure {
    Failure::Transient { retry_after: Some(PUSH_AGAIN_AFTER), reason: "the client does not read: its buffer is full".to_owned() }
}

/// Runs a socket until it ended and the peer was told why. `registered` is dropped at the moment it takes no more posts.
#[expect(clippy::too_many_arguments, reason = "the parts of one connection, put together in one place")]
pub(super) async fn run<R: Routes>(
    socket: WebSocket,
    meter: Meter,
    id: &ConnectionId,
    handle: Arc<Handle>,
    outgoing: mpsc::Receiver<Outgoing>,
    accepted: Accepted,
    routes: &R,
    options: &SocketOptions,
    registered: Registered,
) {
    let (sink, stream) = socket.split();
    let clock = Heard::new();
    let mut reader = Reader { stream, meter, handle: &handle, heard: &clock, id, routes };
    let mut writer = Writer { sink, outgoing, handle: &handle, heard: &clock, times: Timetable::new(accepted, options) };
    let write = async {
        writer.run().await;
        drop(registered);
        let ending = handle.ending();
        metrics::counter!("recado_sockets_closed_total", "reason" => ending.name()).increment(1);
        writer.say_goodbye().await;
    };
    tokio::join!(reader.run(options), write);
    let ending = handle.ending();
    if ending != Ending::Lost {
        reader.await_goodbye().await;
    }
    tracing::debug!(connection = %id, reason = ending.name(), "socket closed");
}

/// When the peer was heard of last, in milliseconds since the socket opened.
struct Heard {
    opened: Instant,
    last: AtomicU64,
}

impl Heard {
    fn new() -> Self {
        Self { opened: Instant::now(), last: AtomicU64::new(0) }
    }

    fn now(&self) {
        self.last.store(u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.opened + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

struct Reader<'a, R> {
    stream: SplitStream<WebSocket>,
    meter: Meter,
    handle: &'a Handle,
    heard: &'a Heard,
    id: &'a ConnectionId,
    routes: &'a R,
}

impl<R: Routes> Reader<'_, R> {
    /// Reads until the socket ends. A message that is being handled then is handled to its end.
    async fn run(&mut self, options: &SocketOptions) {
        let mut allowance = Bucket::new(options.client_frames_per_second, options.client_frames_burst, Instant::now());
        loop {
            self.meter.begin();
            let next = tokio::select! {
                biased;
                () = self.handle.ended.cancelled() => return,
                next = self.stream.next() => next,
            };
            self.heard.now();
            let message = match next {
                Some(Ok(message)) => message,
                Some(Err(_)) if self.meter.is_exceeded() => return self.handle.end(Ending::Reason(CloseReason::RateLimited)),
                Some(Err(error)) => return self.handle.end(ending_of(error)),
                None => return self.handle.end(Ending::Lost),
            };
            // Whatever it is, it costs a turn: a pong that nobody asked for as much as a frame.
            if !matches!(message, Message::Close(_)) && !allowance.take(Instant::now()) {
                return self.handle.end(Ending::Reason(CloseReason::RateLimited));
            }
            match message {
                Message::Text(text) => self.handle_message(&text).await,
                Message::Binary(_) => return self.handle.end(Ending::Protocol(1003, "frames are JSON text")),
                // Answered below us.
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Close(_) => return self.handle.end(Ending::Peer),
            }
        }
    }

    async fn handle_message(&self, text: &str) {
        metrics::counter!("recado_socket_messages_total").increment(1);
        // Boxed, so that an idle socket does not keep room for it.
        let handled = Box::pin(self.routes.on_message(self.id, text));
        if tokio::time::timeout(HANDLE_WITHIN, handled).await.is_err() {
            metrics::counter!("recado_socket_messages_late_total").increment(1);
            tracing::warn!(connection = %self.id, "a message was not handled in time");
        }
    }

    /// Reads on for a moment, so that the peer's answer to a close frame is seen (RFC 6455, 7.1.1).
    async fn await_goodbye(&mut self) {
        let rest = async { while let Some(Ok(_)) = self.stream.next().await {} };
        if tokio::time::timeout(CLOSE_WITHIN, rest).await.is_err() {
            tracing::trace!(connection = %self.id, "the peer did not answer the close frame");
        }
    }
}

fn ending_of(error: axum::Error) -> Ending {
    match error.into_inner().downcast_ref::<tungstenite::Error>() {
        Some(tungstenite::Error::Capacity(_)) => Ending::Reason(CloseReason::TooLarge),
        Some(tungstenite::Error::Utf8(_)) => Ending::Protocol(1007, "text is not UTF-8"),
        Some(tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => Ending::Lost,
        Some(tungstenite::Error::Protocol(_)) => Ending::Protocol(1002, "protocol error"),
        _ => Ending::Lost,
    }
}

struct Writer<'a> {
    sink: SplitSink<WebSocket, Message>,
    outgoing: mpsc::Receiver<Outgoing>,
    handle: &'a Handle,
    heard: &'a Heard,
    times: Timetable,
}

impl Writer<'_> {
    /// Writes until the socket ends. What was not written then is answered as gone.
    async fn run(&mut self) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = self.handle.ended.cancelled() => break,
                taken = self.outgoing.recv_many(&mut batch, WRITE_TOGETHER) => match taken {
                    0 => break,
                    _ => self.deliver(&mut batch).await,
                },
                () = tokio::time::sleep_until(self.times.next()) => self.keep_time().await,
            }
        }
        self.outgoing.close();
        while self.outgoing.try_recv().is_ok() {}
    }

    async fn deliver(&mut self, batch: &mut Vec<Outgoing>) {
        batch.retain(|outgoing| !outgoing.written.is_closed());
        let frames = batch.iter().map(|outgoing| Message::Text(outgoing.frame.clone())).collect();
        if self.send(frames).await {
            metrics::counter!("recado_frames_posted_total").increment(batch.len() as u64);
            for outgoing in batch.drain(..) {
                // Nobody waits any more: it was written all the same, and the client deduplicates by id.
                outgoing.written.send(()).ok();
            }
        }
        batch.clear();
    }

    /// Hands frames to the operating system; `false` when the socket ended before.
    async fn send(&mut self, frames: Vec<Message>) -> bool {
        let sink = &mut self.sink;
        let write = async {
            for frame in frames {
                sink.feed(frame).await?;
            }
            sink.flush().await
        };
        self.handle.write_begins();
        let ending = tokio::select! {
            biased;
            () = self.handle.ended.cancelled() => return false,
            written = tokio::time::timeout(self.handle.write_within, write) => match written {
                Ok(Ok(())) => {
                    self.handle.write_ended();
                    return true;
                }
                Ok(Err(_)) => Ending::Lost,
                Err(_) => Ending::Reason(CloseReason::SlowConsumer),
            },
        };
        self.handle.end(ending);
        false
    }

    /// Does what is due.
    async fn keep_time(&mut self) {
        match self.times.due(Instant::now(), self.heard.last()) {
            Some(Due::Ping) => {
                self.send(vec![Message::Ping(bytes::Bytes::new())]).await;
            }
            Some(Due::Goaway(reconnect_after)) => {
                let reconnect_after_ms = u64::try_from(reconnect_after.as_millis()).unwrap_or(u64::MAX);
                self.send(vec![Message::Text(ServerFrame::Goaway { reconnect_after_ms }.to_json().into())]).await;
            }
            Some(Due::End(ending)) => self.handle.end(ending),
            None => {}
        }
    }

    async fn say_goodbye(&mut self) {
        let Some(&ending) = self.handle.ending.get() else { return };
        let goodbye = async {
            match ending.frame() {
                Some(frame) => self.sink.send(Message::Close(Some(frame))).await,
                // The answer to the peer's close frame was queued below us.
                None => self.sink.flush().await,
            }
        };
        // A client that begins to read again as late as this still learns why it was closed.
        let within = if ending == Ending::Reason(CloseReason::SlowConsumer) { self.handle.write_within } else { CLOSE_WITHIN };
        if ending != Ending::Lost && !matches!(tokio::time::timeout(within, goodbye).await, Ok(Ok(()))) {
            tracing::trace!(reason = ending.name(), "the close frame was not taken");
        }
    }
}

/// What a socket does by itself, and when.
struct Timetable {
    ping_every: Duration,
    ping_at: Instant,
    goaway: Option<(Instant, Duration)>,
    age_at: Instant,
    token_at: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Due {
    Ping,
    /// Connect again after so long.
    Goaway(Duration),
    End(Ending),
}

impl Timetable {
    fn new(accepted: Accepted, options: &SocketOptions) -> Self {
        let now = Instant::now();
        let token_left = Duration::try_from(accepted.token_expires_at.duration_since(SystemClock.now())).unwrap_or(Duration::ZERO);
        let lead = options.goaway_lead;
        let notice = options.age.saturating_sub(lead + lead.mul_f64(SystemEntropy.fraction()));
        Self {
            ping_every: options.ping_every,
            ping_at: now + options.ping_every,
            goaway: Some((now + notice, lead.mul_f64(SystemEntropy.fraction()))),
            age_at: now + options.age,
            // Beyond its age the token's end does not matter, and a far one would overflow.
            token_at: now + token_left.min(options.age + Duration::from_secs(1)),
        }
    }

    fn next(&self) -> Instant {
        let ends = self.age_at.min(self.token_at).min(self.ping_at);
        self.goaway.map_or(ends, |(at, _)| at.min(ends))
    }

    fn due(&mut self, now: Instant, heard: Instant) -> Option<Due> {
        if self.token_at <= now {
            return Some(Due::End(Ending::Reason(CloseReason::TokenExpired)));
        }
        if let Some((at, reconnect_after)) = self.goaway
            && at <= now
        {
            self.goaway = None;
            return Some(Due::Goaway(reconnect_after));
        }
        if self.age_at <= now {
            return Some(Due::End(Ending::Reason(CloseReason::GoingAway)));
        }
        if self.ping_at <= now {
            if now.saturating_duration_since(heard) > self.ping_every.mul_f64(2.5) {
                return Some(Due::End(Ending::Lost));
            }
            self.ping_at = now + self.ping_every;
            return Some(Due::Ping);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timetable(options: &SocketOptions, token: Duration) -> Timetable {
        Timetable::new(Accepted { token_expires_at: SystemClock.now() + token }, options)
    }

    /// How many of so many posts of this size wait in the buffer of a socket that writes nothing.
    fn buffered(options: &SocketOptions, posts: usize, bytes: usize) -> usize {
        let (handle, outgoing) = Handle::new(options);
        let frame = "x".repeat(bytes);
        // Unconstrained: a test of many polls in one turn is no task that should yield.
        let mut waiting: Vec<_> = (0..posts).map(|_| Box::pin(tokio::task::unconstrained(handle.write(&frame)))).collect();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.iter_mut().all(|post| post.as_mut().poll(&mut context).is_pending()));
        outgoing.len()
    }

    #[tokio::test]
    async fn a_socket_that_writes_nothing_holds_no_more_than_its_buffer() {
        let options = SocketOptions { buffer_bytes: 100_000, ..SocketOptions::default() };
        assert_eq!(buffered(&options, 200, 30_000), 3);
        assert_eq!(buffered(&options, 200, 100_000), 1);
        assert_eq!(buffered(&options, 200, 10), BUFFER_FRAMES);
        let default = SocketOptions::default();
        assert_eq!(
            buffered(&default, 200, recado_domain::limits::FRAME_BYTES),
            default.buffer_bytes as usize / recado_domain::limits::FRAME_BYTES
        );
        assert!(default.buffer_bytes <= 256 * 1024 && BUFFER_FRAMES <= 64);
    }

    #[test]
    fn the_token_ends_a_socket_before_its_age_does() {
        let mut times = timetable(&SocketOptions::default(), Duration::from_secs(5));
        let later = Instant::now() + Duration::from_secs(6);
        assert!(times.next() <= later);
        assert_eq!(times.due(later, later), Some(Due::End(Ending::Reason(CloseReason::TokenExpired))));
    }

    #[test]
    fn a_socket_is_told_to_go_before_its_age_ends_it() {
        let options = SocketOptions::default();
        let mut times = timetable(&options, Duration::from_secs(24 * 3600));
        let notice = Instant::now() + options.age - options.goaway_lead;
        let told = times.due(notice, notice);
        assert!(matches!(told, Some(Due::Goaway(after)) if after < options.goaway_lead), "{told:?}");
        let end = Instant::now() + options.age;
        assert_eq!(times.due(end, end), Some(Due::End(Ending::Reason(CloseReason::GoingAway))));
    }

    #[test]
    fn a_peer_that_is_not_heard_of_is_dead_after_two_pings() {
        let options = SocketOptions::default();
        let mut times = timetable(&options, Duration::from_secs(24 * 3600));
        let opened = Instant::now();
        let after = |seconds| opened + Duration::from_secs(seconds);
        assert_eq!(times.due(after(31), opened), Some(Due::Ping));
        assert_eq!(times.due(after(31), opened), None);
        assert_eq!(times.due(after(61), opened), Some(Due::Ping));
        assert_eq!(times.due(after(91), after(90)), Some(Due::Ping));
        assert_eq!(times.due(after(121), opened), Some(Due::End(Ending::Lost)));
    }
}
