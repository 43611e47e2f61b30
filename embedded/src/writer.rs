//! The one thread that writes. It takes the work that is there, runs all of it in one transaction and answers
//! after the commit: the more arrives at once, the less a commit costs each. It never waits to fill a group.
//!
//! Must not know: what the work means.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use recado_domain::failure::Failure;
use recado_domain::ports::{Clock, Entropy, Outcome};
use recado_domain::position::Position;
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{mpsc, oneshot, watch};

use crate::failure::{closed, concerns_one_row, failure};
use crate::queue::QueueName;

/// Work that may wait for the writer; callers beyond wait themselves.
const WAITING: usize = 1024;
/// Work of one transaction, so that nobody waits long for an answer.
const GROUP: usize = 512;

/// What a commit must outlast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// A power cut: the log is synchronised before the answer. For what is acknowledged to somebody.
    PowerCut,
    /// The end of this process: for leases and connections, which a restart gives up anyway.
    Process,
}

/// Chance and time as the store was given them.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

/// A transaction under way.
pub(crate) struct Change<'a> {
    pub(crate) db: &'a Connection,
    /// The moment this piece of work began.
    pub(crate) now: Timestamp,
    surroundings: &'a Surroundings,
    last_position: Option<Position>,
    touched: [bool; QueueName::ALL.len()],
}

impl Change<'_> {
    /// A position of this moment, above all that were ever given (R6).
    pub(crate) fn next_position(&mut self) -> rusqlite::Result<Position> {
        let last = match self.last_position {
            Some(last) => last,
            None => self.stored_position()?,
        };
        // 64 of the 80 random bits, and never the floor of the moment, which queries use as their lower end.
        let random = (u128::from(self.surroundings.entropy.next_u64()) << 16) | 1;
        let position = Position::new(self.now, random).max(last.next());
        self.last_position = Some(position);
        Ok(position)
    }

    /// Says that receivers of this queue have something to look for.
    pub(crate) fn touch(&mut self, queue: QueueName) {
        self.touched[queue.index()] = true;
    }

    /// The highest position ever given.
    pub(crate) fn stored_position(&self) -> rusqlite::Result<Position> {
        let mut query = self.db.prepare_cached("SELECT value FROM facts WHERE name = 'last_position'")?;
        let stored = query.query_row([], |row| row.get(0)).optional()?;
        Ok(stored.map_or(Position::MIN, Position::from_bytes))
    }

    fn keep_position(&self) -> rusqlite::Result<()> {
        let Some(last) = self.last_position else { return Ok(()) };
        let mut keep = self.db.prepare_cached("INSERT OR REPLACE INTO facts (name, value) VALUES ('last_position', ?1)")?;
        keep.execute([last.to_bytes()]).map(drop)
    }
}

/// A piece of work. It may run twice (after a rollback that another one caused), so it must not consume what it needs.
trait Job: Send {
    fn durability(&self) -> Durability;
    /// Whether nobody waits for the answer any more, so that it need not be done.
    fn is_abandoned(&self) -> bool;
    fn run(&mut self, change: &mut Change<'_>) -> rusqlite::Result<()>;
    /// Answers, after the commit. What nobody took may ask for work that undoes it.
    fn answer(self: Box<Self>, committed: Outcome<()>) -> Option<Box<dyn Job>>;
}

/// Work with no answer of its own.
pub(crate) type Work = Box<dyn FnMut(&mut Change<'_>) -> rusqlite::Result<()> + Send>;

/// Makes the work that undoes what nobody took.
type Undo<T> = fn(T) -> Work;

struct Call<T, F> {
    durability: Durability,
    /// An abandoned lease need not be taken; an abandoned write was asked for, and is done.
    undo: Option<Undo<T>>,
    work: F,
    result: Option<T>,
    reply: oneshot::Sender<Outcome<T>>,
}

impl<T: Send + 'static, F: FnMut(&mut Change<'_>) -> rusqlite::Result<T> + Send> Job for Call<T, F> {
    fn durability(&self) -> Durability {
        self.durability
    }

    fn is_abandoned(&self) -> bool {
        self.undo.is_some() && self.reply.is_closed()
    }

    fn run(&mut self, change: &mut Change<'_>) -> rusqlite::Result<()> {
        self.result = Some((self.work)(change)?);
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Outcome<()>) -> Option<Box<dyn Job>> {
        let Self { undo, result, reply, .. } = *self;
        let answer = committed.and_then(|()| result.ok_or_else(closed));
        let untaken = reply.send(answer).err()?.ok()?;
        let work = undo?(untaken);
        let (reply, _) = oneshot::channel();
        Some(Box::new(Call { durability: Durability::Process, undo: None, work, result: None, reply }))
    }
}

enum Order {
    Do(Box<dyn Job>),
    Close(oneshot::Sender<()>),
}

/// The way to the writer.
#[derive(Clone)]
pub(crate) struct WriterHandle {
    orders: mpsc::Sender<Order>,
}

impl WriterHandle {
    /// Runs `work` in a transaction; `Ok` once it is committed.
    pub(crate) async fn write<T, F>(&self, durability: Durability, work: F) -> Outcome<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Change<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.order(durability, None, work).await
    }

    /// As [`WriterHandle::write`], for what must not stay behind when its caller went away: then it is not begun, or undone.
    pub(crate) async fn take<T, F>(&self, undo: Undo<T>, work: F) -> Outcome<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Change<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.order(Durability::Process, Some(undo), work).await
    }

    async fn order<T, F>(&self, durability: Durability, undo: Option<Undo<T>>, work: F) -> Outcome<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Change<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Box::new(Call { durability, undo, work, result: None, reply });
        self.orders.send(Order::Do(call)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Has everything written that was asked for, the log folded into the database, and the files closed.
    pub(crate) async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self.orders.send(Order::Close(reply)).await.is_ok() {
            // An error means that the writer has ended already.
            done.await.unwrap_or_default();
        }
    }
}

/// What the writer owns.
pub(crate) struct Writer {
    pub(crate) db: Connection,
    pub(crate) surroundings: Surroundings,
    /// Raised, per queue, after each commit that left something to receive.
    pub(crate) wake: [watch::Sender<u64>; QueueName::ALL.len()],
    /// Held until the last write is done.
    pub(crate) lock: Option<std::fs::File>,
    /// For log lines.
    pub(crate) file: PathBuf,
}

/// Starts the writer's thread. It ends when it is closed or all handles are gone.
pub(crate) fn start(writer: Writer) -> std::io::Result<WriterHandle> {
    let (orders, queue) = mpsc::channel(WAITING);
    std::thread::Builder::new().name("recado-writer".to_owned()).spawn(move || serve(writer, queue))?;
    Ok(WriterHandle { orders })
}

fn serve(mut writer: Writer, mut orders: mpsc::Receiver<Order>) {
    let mut closing = Vec::new();
    let mut synchronous = Durability::PowerCut;
    while let Some(first) = orders.blocking_recv() {
        let mut group = Vec::new();
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Do(job) => group.push(job),
                Order::Close(reply) => {
                    orders.close();
                    closing.push(reply);
                }
            }
            next = if group.len() < GROUP { orders.try_recv().ok() } else { None };
        }
        while !group.is_empty() {
            group = writer.commit_together(group, &mut synchronous);
        }
    }
    let Writer { db, lock, file, .. } = writer;
    // Beside another process this would make it wait.
    if lock.is_some()
        && let Err(error) = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    {
        tracing::warn!(file = %file.display(), %error, "the log was not folded into the database; the next start does it");
    }
    drop(db);
    drop(lock);
    for reply in closing {
        // Whoever asked may have stopped waiting.
        reply.send(()).unwrap_or_default();
    }
}

impl Writer {
    /// Runs a group and answers it. Returns the work that undoes what nobody took.
    fn commit_together(&mut self, mut group: Vec<Box<dyn Job>>, synchronous: &mut Durability) -> Vec<Box<dyn Job>> {
        group.retain(|job| !job.is_abandoned());
        if group.is_empty() {
            return group;
        }
        match self.attempt(&mut group, synchronous) {
            Ok(()) => answer_all(group, &Ok(())),
            Err(error) if group.len() > 1 && concerns_one_row(&error) => self.commit_one_by_one(group, synchronous),
            Err(error) => answer_all(group, &Err(reported(&error))),
        }
    }

    /// One of them fails: the others must not fail with it.
    fn commit_one_by_one(&mut self, group: Vec<Box<dyn Job>>, synchronous: &mut Durability) -> Vec<Box<dyn Job>> {
        let mut undo = Vec::new();
        for job in group {
            let mut alone = vec![job];
            let outcome = self.attempt(&mut alone, synchronous).map_err(|error| reported(&error));
            undo.extend(answer_all(alone, &outcome));
        }
        undo
    }

    /// All of it in one transaction, or nothing.
    fn attempt(&mut self, group: &mut [Box<dyn Job>], synchronous: &mut Durability) -> rusqlite::Result<()> {
        self.end_transaction()?;
        self.require(group, synchronous)?;
        let done = self.transact(group);
        self.end_transaction()?;
        let touched = done?;
        metrics::counter!("recado_store_commits_total").increment(1);
        metrics::counter!("recado_store_writes_total").increment(group.len() as u64);
        for (wake, _) in self.wake.iter().zip(touched).filter(|(_, touched)| *touched) {
            wake.send_modify(|version| *version = version.wrapping_add(1));
        }
        Ok(())
    }

    /// Takes back what did not come to its commit. Some errors end a transaction by themselves.
    fn end_transaction(&self) -> rusqlite::Result<()> {
        if self.db.is_autocommit() { Ok(()) } else { self.db.execute_batch("ROLLBACK") }
    }

    fn transact(&self, group: &mut [Box<dyn Job>]) -> rusqlite::Result<[bool; QueueName::ALL.len()]> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let now = self.surroundings.clock.now();
        let mut change = Change { db: &self.db, now, surroundings: &self.surroundings, last_position: None, touched: Default::default() };
        for job in group {
            change.now = self.surroundings.clock.now();
            job.run(&mut change)?;
        }
        change.keep_position()?;
        let touched = change.touched;
        self.db.prepare_cached("COMMIT")?.execute([])?;
        Ok(touched)
    }

    /// Sets how the next commit is synchronised. A later synchronised commit covers earlier ones of the same log.
    fn require(&self, group: &[Box<dyn Job>], synchronous: &mut Durability) -> rusqlite::Result<()> {
        let full = group.iter().any(|job| job.durability() == Durability::PowerCut);
        let wanted = if full { Durability::PowerCut } else { Durability::Process };
        if wanted != *synchronous {
            let level = if full { "FULL" } else { "NORMAL" };
            self.db.pragma_update(None, "synchronous", level)?;
            *synchronous = wanted;
        }
        Ok(())
    }
}

fn answer_all(group: Vec<Box<dyn Job>>, outcome: &Outcome<()>) -> Vec<Box<dyn Job>> {
    group.into_iter().filter_map(|job| job.answer(outcome.clone())).collect()
}

fn reported(error: &rusqlite::Error) -> Failure {
    let failure = failure(error);
    metrics::counter!("recado_store_failures_total").increment(1);
    tracing::warn!(reason = failure.reason(), "a write to the store failed");
    failure
}

#[cfg(test)]
mod tests {
    use super::*;
    use recado_runtime::system::{SystemClock, SystemEntropy};

    fn writer() -> (Writer, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("writer.db");
        let db = crate::database::open_writer(&file).unwrap();
        let surroundings = Surroundings { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) };
        let wake = std::array::from_fn(|_| watch::Sender::new(0));
        (Writer { db, surroundings, wake, lock: None, file }, folder)
    }

    fn insert(name: &'static str) -> impl FnMut(&mut Change<'_>) -> rusqlite::Result<usize> {
        move |change| change.db.execute("INSERT INTO facts (name, value) VALUES (?1, x'00')", [name])
    }

    fn job(name: &'static str) -> (Box<dyn Job>, oneshot::Receiver<Outcome<usize>>) {
        let (reply, answer) = oneshot::channel();
        (Box::new(Call { durability: Durability::PowerCut, undo: None, work: insert(name), result: None, reply }), answer)
    }

    #[test]
    fn one_refused_row_does_not_fail_the_others_of_its_transaction() {
        let (mut writer, _folder) = writer();
        let (group, mut answers): (Vec<_>, Vec<_>) = ["a", "b", "a", "c"].into_iter().map(job).unzip();
        let undo = writer.commit_together(group, &mut Durability::PowerCut.clone());
        assert!(undo.is_empty());
        let came_to: Vec<_> = answers.iter_mut().map(|answer| answer.try_recv().unwrap().is_ok()).collect();
        assert_eq!(came_to, [true, true, false, true]);
        let stored: i64 = writer.db.query_row("SELECT count(*) FROM facts", [], |row| row.get(0)).unwrap();
        assert_eq!(stored, 3);
    }

    #[tokio::test]
    async fn what_was_asked_before_closing_is_written_and_what_comes_later_is_refused() {
        let (writer, folder) = writer();
        let handle = start(writer).unwrap();
        let (written, ()) = tokio::join!(biased_write(&handle), handle.close());
        written.unwrap();
        assert!(handle.write(Durability::PowerCut, insert("late")).await.unwrap_err().is_transient());
        let db = Connection::open(folder.path().join("writer.db")).unwrap();
        assert_eq!(db.query_row("SELECT count(*) FROM facts", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    }

    async fn biased_write(handle: &WriterHandle) -> Outcome<usize> {
        handle.write(Durability::PowerCut, insert("early")).await
    }

    #[tokio::test]
    async fn an_untaken_answer_is_undone() {
        let (writer, _folder) = writer();
        let handle = start(writer).unwrap();
        let (begun, wait_begun) = std::sync::mpsc::channel();
        let (go, wait_go) = std::sync::mpsc::channel::<()>();
        let undo: Undo<usize> = |_| Box::new(|change| change.db.execute("DELETE FROM facts", []).map(drop));
        let taking = {
            let handle = handle.clone();
            tokio::spawn(async move {
                let mut add = insert("leased");
                let work = move |change: &mut Change<'_>| {
                    begun.send(()).unwrap();
                    wait_go.recv().unwrap();
                    add(change)
                };
                handle.take(undo, work).await
            })
        };
        tokio::task::spawn_blocking(move || wait_begun.recv()).await.unwrap().unwrap();
        taking.abort();
        assert!(taking.await.unwrap_err().is_cancelled());
        go.send(()).unwrap();
        let count = |change: &mut Change<'_>| change.db.query_row("SELECT count(*) FROM facts", [], |row| row.get::<_, i64>(0));
        assert_eq!(handle.write(Durability::Process, count).await, Ok(0));
    }
}
