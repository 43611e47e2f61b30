//! Publishes without making the caller wait: collects events for a moment, sends batches, several at a time.
//!
//! Memory is bounded, and every accepted event ends in an answer. Must not know: which bus it is.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use recado_domain::event::Event;
use recado_domain::ids::NotificationId;
use recado_domain::limits;
use recado_domain::message::attributes_of;
use recado_domain::ports::EventBus;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use crate::{Producer, PublishError, Receipt};

/// How much is collected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// How long the first event of a batch waits for others.
    pub linger: Duration,
    /// Events of a batch. SNS takes 10 ([`limits::AWS_BATCH_ENTRIES`]).
    pub batch_events: usize,
    /// Bytes of a batch, attributes included. SNS takes 256 KiB for the whole batch.
    pub batch_bytes: usize,
    /// Batches sent at the same time.
    pub batches_in_flight: usize,
    /// Events in memory, those in flight included.
    pub max_events: usize,
    /// Bytes in memory, those in flight included; at least one event of the largest size fits.
    pub max_bytes: usize,
}

/// The largest event with its attributes.
const LARGEST: usize = 256 * 1024;

impl Default for Buffer {
    /// Batches of up to 10 events and 256 KiB after at most 20 ms, four at a time; 10,000 events and 16 MiB in memory.
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(20),
            batch_events: limits::AWS_BATCH_ENTRIES,
            batch_bytes: LARGEST,
            batches_in_flight: 4,
            max_events: 10_000,
            max_bytes: 16 * 1024 * 1024,
        }
    }
}

impl Buffer {
    /// The nearest sizes with which every event can be sent.
    fn workable(self) -> Self {
        Self {
            batch_events: self.batch_events.max(1),
            batches_in_flight: self.batches_in_flight.max(1),
            max_events: self.max_events.clamp(1, Semaphore::MAX_PERMITS),
            max_bytes: self.max_bytes.clamp(LARGEST, u32::MAX as usize),
            ..self
        }
    }
}

/// An event that was not accepted, handed back.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Unaccepted {
    /// There is no room now.
    #[error("the publisher's buffer is full")]
    Full(Box<Event>),
    /// The publisher was shut down.
    #[error("the publisher was shut down")]
    Stopped(Box<Event>),
}

/// An accepted event's answer, to await. Dropping it is fine: a failure is then logged.
#[must_use = "await it to know whether the event was published; drop it to have failures logged"]
pub struct Pending {
    notification_id: NotificationId,
    answer: oneshot::Receiver<Result<Receipt, PublishError>>,
}

impl Pending {
    /// What names the event everywhere in Recado.
    pub fn notification_id(&self) -> NotificationId {
        self.notification_id
    }
}

impl Future for Pending {
    type Output = Result<Receipt, PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or(Err(PublishError::Stopped)))
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("notification_id", &self.notification_id).finish_non_exhaustive()
    }
}

/// What shutting down came to.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use = "what was not published is in here"]
pub struct Shutdown {
    /// Accepted and not known to be published: those without an answer at the deadline, and those that failed since
    /// the shutdown began. Publishing them again is safe.
    pub unpublished: Vec<Event>,
}

/// Publishes in the background. Share it in an `Arc`.
///
/// Dropping it without [`BufferedPublisher::shutdown`] logs how many events still waited; they are sent as long as
/// the runtime lives.
#[derive(Debug)]
pub struct BufferedPublisher {
    commands: mpsc::UnboundedSender<Command>,
    events: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    buffer: Buffer,
    stopped: AtomicBool,
}

impl BufferedPublisher {
    /// Starts the background task.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start<B: EventBus>(producer: Producer<B>, buffer: Buffer) -> Self {
        let buffer = buffer.workable();
        let (commands, received) = mpsc::unbounded_channel();
        tokio::spawn(Worker::new(producer, buffer, received).run());
        let (events, bytes) = (Arc::new(Semaphore::new(buffer.max_events)), Arc::new(Semaphore::new(buffer.max_bytes)));
        Self { commands, events, bytes, buffer, stopped: AtomicBool::new(false) }
    }

    /// Accepts an event once there is room for it. What is returned is its answer, to await or to drop.
    ///
    /// # Errors
    /// [`Unaccepted::Stopped`] with the event.
    pub async fn publish(&self, event: Event) -> Result<Pending, Unaccepted> {
        let size = size_of(&event);
        let Ok(place) = self.events.clone().acquire_owned().await else { return Err(Unaccepted::Stopped(event.into())) };
        let Ok(room) = self.bytes.clone().acquire_many_owned(permits(size)).await else { return Err(Unaccepted::Stopped(event.into())) };
        self.accept(event, size, (place, room))
    }

    /// Accepts an event if there is room for it now.
    ///
    /// # Errors
    /// [`Unaccepted`] with the event.
    pub fn try_publish(&self, event: Event) -> Result<Pending, Unaccepted> {
        let size = size_of(&event);
        let place = self.events.clone().try_acquire_owned();
        let room = place.and_then(|place| Ok((place, self.bytes.clone().try_acquire_many_owned(permits(size))?)));
        match room {
            Ok(room) => self.accept(event, size, room),
            Err(TryAcquireError::NoPermits) => Err(Unaccepted::Full(event.into())),
            Err(TryAcquireError::Closed) => Err(Unaccepted::Stopped(event.into())),
        }
    }

    /// Waits until everything accepted before this call is answered.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.commands.send(Command::Flush(done)).is_ok() {
            // A worker that ended has nothing left to flush.
            flushed.await.unwrap_or_default();
        }
    }

    /// Accepts nothing any more, sends what waits, and reports what is not published after `within`.
    /// A second call reports nothing.
    pub async fn shutdown(&self, within: Duration) -> Shutdown {
        self.stopped.store(true, Ordering::Release);
        self.events.close();
        self.bytes.close();
        let (done, report) = oneshot::channel();
        if self.commands.send(Command::Shutdown(Instant::now() + within, done)).is_err() {
            return Shutdown::default();
        }
        report.await.unwrap_or_default()
    }

    /// How many accepted events have no answer yet.
    pub fn unanswered(&self) -> usize {
        self.buffer.max_events.saturating_sub(self.events.available_permits())
    }

    fn accept(&self, event: Event, size: usize, room: Room) -> Result<Pending, Unaccepted> {
        let notification_id = event.notification_id();
        let (answer, pending) = oneshot::channel();
        let entry = Entry { event, size, since: Instant::now(), answer, room };
        match self.commands.send(Command::Publish(Box::new(entry))) {
            Ok(()) => Ok(Pending { notification_id, answer: pending }),
            Err(mpsc::error::SendError(Command::Publish(entry))) => Err(Unaccepted::Stopped(entry.event.into())),
            Err(_) => unreachable!("a channel hands back what was sent"),
        }
    }
}

impl Drop for BufferedPublisher {
    fn drop(&mut self) {
        let unanswered = self.unanswered();
        if unanswered > 0 && !self.stopped.load(Ordering::Acquire) {
            tracing::warn!(unanswered, "publisher dropped without shutdown; events may be lost with the process");
        }
    }
}

/// What an event takes of a batch: its JSON and its attributes (SNS counts name, type and value of each).
fn size_of(event: &Event) -> usize {
    const TYPE_NAME: usize = "String.Array".len();
    let attributes: usize = attributes_of(event).iter().map(|(name, value)| name.len() + TYPE_NAME + value.len()).sum();
    event.to_json().len() + attributes
}

/// A valid event is smaller than the whole buffer, so that there can be room for it.
fn permits(size: usize) -> u32 {
    u32::try_from(size.min(LARGEST)).unwrap_or(u32::MAX)
}

/// An event's place and bytes in memory, given back when it is dropped.
type Room = (OwnedSemaphorePermit, OwnedSemaphorePermit);

struct Entry {
    event: Event,
    size: usize,
    since: Instant,
    answer: oneshot::Sender<Result<Receipt, PublishError>>,
    room: Room,
}

enum Command {
    Publish(Box<Entry>),
    Flush(oneshot::Sender<()>),
    Shutdown(Instant, oneshot::Sender<Shutdown>),
}

/// The numbers of events in the order they were accepted.
type Number = u64;

struct Flight {
    events: Arc<Vec<Event>>,
    numbers: Vec<Number>,
}

/// The background task. It alone holds what waits.
struct Worker<B> {
    producer: Producer<B>,
    buffer: Buffer,
    commands: mpsc::UnboundedReceiver<Command>,
    waiting: VecDeque<(Number, Entry)>,
    waiting_bytes: usize,
    next: Number,
    unanswered: BTreeSet<Number>,
    /// Events below are sent without lingering.
    hurry: Number,
    flushes: Vec<(Number, oneshot::Sender<()>)>,
    /// Each task answers which events of its batch failed.
    tasks: JoinSet<Vec<usize>>,
    flights: HashMap<Id, Flight>,
    /// No command comes any more.
    closed: bool,
    stopping: Option<(Instant, oneshot::Sender<Shutdown>)>,
    unpublished: Vec<Event>,
}

impl<B: EventBus> Worker<B> {
    fn new(producer: Producer<B>, buffer: Buffer, commands: mpsc::UnboundedReceiver<Command>) -> Self {
        Self {
            producer,
            buffer,
            commands,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            next: 0,
            unanswered: BTreeSet::new(),
            hurry: 0,
            flushes: Vec::new(),
            tasks: JoinSet::new(),
            flights: HashMap::new(),
            closed: false,
            stopping: None,
            unpublished: Vec::new(),
        }
    }

    async fn run(mut self) {
        loop {
            while self.is_due() && self.has_capacity() {
                self.send_batch();
            }
            self.answer_flushes();
            if self.closed && self.unanswered.is_empty() {
                break;
            }
            let due = self.waiting.front().filter(|_| self.has_capacity()).map(|(_, entry)| entry.since + self.buffer.linger);
            let deadline = self.stopping.as_ref().map(|(deadline, _)| *deadline);
            tokio::select! {
                command = self.commands.recv(), if !self.closed => self.obey(command),
                Some(joined) = self.tasks.join_next_with_id() => self.settle(joined),
                () = reached(due) => {}
                () = reached(deadline) => break,
            }
        }
        self.report();
    }

    fn obey(&mut self, command: Option<Command>) {
        match command {
            Some(Command::Publish(entry)) => {
                self.unanswered.insert(self.next);
                self.waiting_bytes += entry.size;
                self.waiting.push_back((self.next, *entry));
                self.next += 1;
            }
            Some(Command::Flush(done)) => {
                self.hurry = self.next;
                self.flushes.push((self.next, done));
            }
            // What was accepted before still comes; then the channel says that it is closed.
            Some(Command::Shutdown(deadline, done)) => {
                self.commands.close();
                self.stopping.get_or_insert((deadline, done));
            }
            None => self.closed = true,
        }
    }

    fn has_capacity(&self) -> bool {
        self.flights.len() < self.buffer.batches_in_flight
    }

    fn is_due(&self) -> bool {
        let Some((number, entry)) = self.waiting.front() else { return false };
        self.closed
            || self.stopping.is_some()
            || *number < self.hurry
            || self.waiting.len() >= self.buffer.batch_events
            || self.waiting_bytes >= self.buffer.batch_bytes
            || entry.since + self.buffer.linger <= Instant::now()
    }

    /// Sends the longest run of events from the front that fits a batch, at least one.
    fn send_batch(&mut self) {
        let (mut events, mut numbers, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = 0;
        let fits =
            |bytes: usize, count: usize, entry: &Entry| count < self.buffer.batch_events && bytes + entry.size <= self.buffer.batch_bytes;
        while self.waiting.front().is_some_and(|(_, entry)| events.is_empty() || fits(bytes, events.len(), entry))
            && let Some((number, entry)) = self.waiting.pop_front()
        {
            bytes += entry.size;
            numbers.push(number);
            events.push(entry.event);
            answers.push((entry.answer, entry.room));
        }
        self.waiting_bytes -= bytes;
        let events = Arc::new(events);
        let task = self.tasks.spawn(publish(self.producer.clone(), events.clone(), answers));
        self.flights.insert(task.id(), Flight { events, numbers });
    }

    fn settle(&mut self, joined: Result<(Id, Vec<usize>), JoinError>) {
        let (id, failed) = match joined {
            Ok((id, failed)) => (id, Some(failed)),
            Err(error) => (error.id(), None),
        };
        let Some(Flight { events, numbers }) = self.flights.remove(&id) else { return };
        for number in &numbers {
            self.unanswered.remove(number);
        }
        let failed = failed.unwrap_or_else(|| {
            tracing::error!(events = events.len(), "a bus panicked while it published; the events were answered as stopped");
            (0..events.len()).collect()
        });
        if self.stopping.is_some() {
            self.unpublished.extend(failed.into_iter().filter_map(|at| events.get(at).cloned()));
        }
    }

    fn answer_flushes(&mut self) {
        let first = self.unanswered.first().copied();
        for (_, done) in self.flushes.extract_if(.., |(upto, _)| first.is_none_or(|first| first >= *upto)) {
            // Whoever asked may have gone.
            done.send(()).unwrap_or_default();
        }
    }

    /// Ends: says what is not published. Answers that were not given are dropped, which their owners see as stopped.
    fn report(mut self) {
        self.tasks.abort_all();
        let mut unpublished = self.unpublished;
        // In the order they were accepted.
        let mut flights: Vec<_> = self.flights.into_values().collect();
        flights.sort_by_key(|flight| flight.numbers.first().copied());
        unpublished.extend(flights.iter().flat_map(|flight| flight.events.iter().cloned()));
        unpublished.extend(self.waiting.into_iter().map(|(_, entry)| entry.event));
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Publish(entry) = command {
                unpublished.push(entry.event);
            }
        }
        if !unpublished.is_empty() {
            tracing::warn!(unpublished = unpublished.len(), "publisher stopped with events that are not published");
        }
        if let Some((_, done)) = self.stopping {
            done.send(Shutdown { unpublished }).unwrap_or_default();
        }
    }
}

/// Publishes a batch and gives each event its answer.
async fn publish<B: EventBus>(
    producer: Producer<B>,
    events: Arc<Vec<Event>>,
    answers: Vec<(oneshot::Sender<Result<Receipt, PublishError>>, Room)>,
) -> Vec<usize> {
    let results = producer.publish_batch(&events).await;
    let mut failed = Vec::new();
    for (at, (result, (answer, room))) in results.into_iter().zip(answers).enumerate() {
        if result.is_err() {
            failed.push(at);
        }
        if let Err(Err(error)) = answer.send(result) {
            tracing::warn!(notification_id = %events[at].notification_id(), %error, "event not published, and nobody waits for its answer");
        }
        drop(room);
    }
    failed
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use recado_domain::failure::Failure;
    use recado_domain::ports::Outcome;
    use recado_memory::{ManualClock, MemoryBus, MemoryQueue, SeededEntropy};

    use super::*;
    use crate::{Notify, Retry};

    fn event(id: usize) -> Event {
        sized_event(id, 0)
    }

    fn sized_event(id: usize, bytes: usize) -> Event {
        let notify = Notify::new("/tests", "test.happened").id(id.to_string()).time(jiff::Timestamp::UNIX_EPOCH).recipient("alice");
        notify.payload(&"x".repeat(bytes)).build().expect("a valid event")
    }

    /// A bus that shows its batches and answers when it is told to.
    #[derive(Clone)]
    struct Gate {
        batches: Arc<Mutex<Vec<usize>>>,
        open: Arc<Semaphore>,
        answer: Outcome<()>,
    }

    impl Gate {
        fn closed() -> Self {
            Self { batches: Arc::default(), open: Arc::new(Semaphore::new(0)), answer: Ok(()) }
        }

        fn open() -> Self {
            let gate = Self::closed();
            gate.open.add_permits(10_000);
            gate
        }

        fn batches(&self) -> Vec<usize> {
            self.batches.lock().expect("no test panicked").clone()
        }
    }

    impl EventBus for Gate {
        async fn publish(&self, events: &[Event]) -> Vec<Outcome<()>> {
            self.batches.lock().expect("no test panicked").push(events.len());
            self.open.acquire().await.expect("never closed").forget();
            vec![self.answer.clone(); events.len()]
        }
    }

    /// Lets the worker do all it can without time passing.
    async fn settle_down() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    fn start(bus: impl EventBus, buffer: Buffer) -> BufferedPublisher {
        BufferedPublisher::start(Producer::new(bus).with_retry(Retry { total: Duration::from_secs(3600), ..Retry::default() }), buffer)
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_collected_into_batches_of_ten_or_until_they_lingered() {
        let gate = Gate::open();
        let publisher = start(gate.clone(), Buffer::default());
        let mut pending = Vec::new();
        for id in 0..23 {
            pending.push(publisher.publish(event(id)).await.expect("room"));
        }
        settle_down().await;
        assert_eq!(gate.batches(), [10, 10]);
        for (id, pending) in pending.into_iter().enumerate() {
            assert_eq!(pending.await, Ok(Receipt { notification_id: event(id).notification_id() }));
        }
        assert_eq!((gate.batches(), publisher.unanswered()), (vec![10, 10, 3], 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_stays_below_its_bytes() {
        let gate = Gate::open();
        let publisher = start(gate.clone(), Buffer { batch_bytes: 50 * 1024, ..Buffer::default() });
        for id in 0..5 {
            drop(publisher.publish(sized_event(id, 20_000)).await.expect("room"));
        }
        publisher.flush().await;
        assert_eq!(gate.batches(), [2, 2, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_publishing_waits_for_room() {
        let gate = Gate::closed();
        let publisher = start(gate.clone(), Buffer { max_events: 2, linger: Duration::ZERO, ..Buffer::default() });
        let first = publisher.try_publish(event(0)).expect("room");
        drop(publisher.try_publish(event(1)).expect("room"));
        assert_eq!(publisher.try_publish(event(2)).unwrap_err(), Unaccepted::Full(event(2).into()));
        let mut waiting = std::pin::pin!(publisher.publish(event(2)));
        assert!(tokio::time::timeout(Duration::from_secs(60), &mut waiting).await.is_err(), "there is no room yet");
        gate.open.add_permits(10);
        assert!(first.await.is_ok());
        assert!(waiting.await.expect("room").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_bounded_too() {
        let gate = Gate::closed();
        let publisher = start(gate.clone(), Buffer { max_bytes: 0, ..Buffer::default() });
        let mut accepted = 0;
        while publisher.try_publish(sized_event(accepted, 20_000)).is_ok() {
            accepted += 1;
        }
        assert_eq!(accepted, LARGEST / 20_300, "a buffer of no bytes is made one of the largest event");
        gate.open.add_permits(1000);
        publisher.flush().await;
        assert_eq!(publisher.unanswered(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_batches_fly_at_the_same_time_and_no_more() {
        let gate = Gate::closed();
        let publisher = start(gate.clone(), Buffer { batches_in_flight: 2, batch_events: 1, ..Buffer::default() });
        for id in 0..5 {
            drop(publisher.publish(event(id)).await.expect("room"));
        }
        settle_down().await;
        assert_eq!(gate.batches().len(), 2);
        gate.open.add_permits(1);
        settle_down().await;
        assert_eq!(gate.batches().len(), 3);
        gate.open.add_permits(10);
        publisher.flush().await;
        assert_eq!(gate.batches().len(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn every_event_has_its_own_answer() {
        let queue = || MemoryQueue::new(ManualClock::default(), SeededEntropy::new(1));
        let bus = MemoryBus::new(queue(), queue());
        bus.faults().fail_entries("publish", &[1], Failure::permanent("too strange"));
        let publisher = start(bus, Buffer::default());
        let (good, bad) = (publisher.publish(event(0)).await.expect("room"), publisher.publish(event(1)).await.expect("room"));
        assert_eq!(bad.await, Err(PublishError::Refused { reason: "too strange".to_owned() }));
        assert!(good.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_waits_for_what_came_before_and_not_for_what_comes_after() {
        let gate = Gate::closed();
        let publisher = start(gate.clone(), Buffer { batch_events: 1, linger: Duration::from_secs(3600), ..Buffer::default() });
        let before = publisher.publish(event(0)).await.expect("room");
        let mut flush = std::pin::pin!(publisher.flush());
        tokio::select! {
            biased;
            () = &mut flush => panic!("nothing was answered yet"),
            () = settle_down() => {}
        }
        drop(publisher.publish(event(1)).await.expect("room"));
        settle_down().await;
        gate.open.add_permits(1);
        flush.await;
        assert!(before.await.is_ok());
        assert_eq!(publisher.unanswered(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_sends_what_waits_and_then_accepts_nothing() {
        let gate = Gate::open();
        let publisher = start(gate.clone(), Buffer { linger: Duration::from_secs(3600), ..Buffer::default() });
        let pending = publisher.publish(event(0)).await.expect("room");
        assert_eq!(publisher.shutdown(Duration::from_secs(5)).await, Shutdown::default());
        assert!(pending.await.is_ok());
        assert_eq!(publisher.try_publish(event(1)).unwrap_err(), Unaccepted::Stopped(event(1).into()));
        assert_eq!(publisher.publish(event(1)).await.unwrap_err(), Unaccepted::Stopped(event(1).into()));
        assert_eq!(publisher.shutdown(Duration::from_secs(5)).await, Shutdown::default());
        publisher.flush().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_hands_back_what_is_not_published_at_its_deadline() {
        let gate = Gate::closed();
        let publisher = start(gate.clone(), Buffer { batch_events: 1, batches_in_flight: 1, ..Buffer::default() });
        let mut pending = Vec::new();
        for id in 0..3 {
            pending.push(publisher.publish(event(id)).await.expect("room"));
        }
        gate.open.add_permits(1);
        let left = publisher.shutdown(Duration::from_secs(5)).await;
        assert_eq!(left.unpublished, [event(1), event(2)]);
        let answers = [pending.remove(0).await.is_ok(), pending.remove(0).await.is_ok(), pending.remove(0).await.is_ok()];
        assert_eq!(answers, [true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_hands_back_what_fails_on_the_way() {
        let gate = Gate { answer: Err(Failure::permanent("too strange")), ..Gate::open() };
        let publisher = start(gate, Buffer { linger: Duration::from_secs(3600), ..Buffer::default() });
        let pending = publisher.publish(event(0)).await.expect("room");
        assert_eq!(publisher.shutdown(Duration::from_secs(5)).await.unpublished, [event(0)]);
        assert!(matches!(pending.await, Err(PublishError::Refused { .. })));
    }

    struct Panicking;

    impl EventBus for Panicking {
        async fn publish(&self, _: &[Event]) -> Vec<Outcome<()>> {
            panic!("a bus with a mistake")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bus_that_panics_is_answered_as_stopped_and_the_publisher_goes_on() {
        let publisher = start(Panicking, Buffer::default());
        for id in 0..2 {
            assert_eq!(publisher.publish(event(id)).await.expect("room").await, Err(PublishError::Stopped));
        }
        publisher.flush().await;
        assert_eq!(publisher.unanswered(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waited_when_the_publisher_was_dropped_is_still_sent() {
        let gate = Gate::open();
        let publisher = start(gate.clone(), Buffer { linger: Duration::from_secs(3600), ..Buffer::default() });
        let pending = publisher.publish(event(0)).await.expect("room");
        drop(publisher);
        assert!(pending.await.is_ok());
    }
}
