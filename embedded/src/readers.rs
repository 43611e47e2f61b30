//! A few threads that read, each with a connection of its own. A read begins a new snapshot, so it sees every
//! write that was answered before it (R2).
//!
//! Must not know: what is read.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use recado_domain::ports::{Clock, Outcome};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::database::{Unusable, open_reader};
use crate::failure::{closed, failure};

/// Threads, and so connections: reads are short and mostly from memory; a slow one must not stop the others.
const THREADS: usize = 3;
/// Reads that may wait; callers beyond wait themselves.
const WAITING: usize = 256;

type Read = Box<dyn FnOnce(&Connection) + Send>;

/// The way to the readers.
#[derive(Clone)]
pub(crate) struct Readers {
    queue: mpsc::Sender<Read>,
    clock: Arc<dyn Clock>,
}

/// Starts the readers' threads. They end when all handles are gone.
pub(crate) fn start(file: &Path, clock: Arc<dyn Clock>) -> Result<std::io::Result<Readers>, Unusable> {
    let (queue, reads) = mpsc::channel::<Read>(WAITING);
    let reads = Arc::new(Mutex::new(reads));
    for number in 1..=THREADS {
        let db = open_reader(file)?;
        let reads = Arc::clone(&reads);
        let thread = std::thread::Builder::new().name(format!("recado-reader-{number}"));
        if let Err(error) = thread.spawn(move || serve(&db, &reads)) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(Readers { queue, clock }))
}

fn serve(db: &Connection, reads: &Mutex<mpsc::Receiver<Read>>) {
    // One idle thread waits in the channel, the others for the lock: a read wakes exactly one.
    while let Some(read) = next(reads) {
        read(db);
    }
}

fn next(reads: &Mutex<mpsc::Receiver<Read>>) -> Option<Read> {
    reads.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv()
}

impl Readers {
    /// Runs a query; it is given the present moment.
    pub(crate) async fn read<T, F>(&self, query: F) -> Outcome<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, Timestamp) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let clock = Arc::clone(&self.clock);
        let read = Box::new(move |db: &Connection| {
            if !reply.is_closed() {
                // Whoever asked may have stopped waiting meanwhile.
                drop(reply.send(query(db, clock.now()).map_err(|error| failure(&error))));
            }
        });
        self.queue.send(read).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}
