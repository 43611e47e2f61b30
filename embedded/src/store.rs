//! The folder that holds everything, and the handles to its parts.
//!
//! One process at a time works on a folder ([`Store::open`], which locks it); an operator's command may look in
//! beside it ([`Store::open_shared`]).

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use recado_domain::failure::Failure;
use recado_domain::limits;
use recado_domain::ports::{Clock, Entropy, Outcome};
use recado_domain::position::Position;
use rusqlite::{Connection, ErrorCode, params};
use tokio::sync::watch;

use crate::bus::StoredBus;
use crate::claims::StoredClaims;
use crate::connections::StoredConnections;
use crate::database::{Unusable, VERSION, micros, moment, open_reader, open_writer};
use crate::dead_letters::StoredDeadLetters;
use crate::health::{self, Look};
use crate::inbox::StoredInbox;
use crate::mailbox::Mailbox;
use crate::queue::{QueueName, StoredQueue};
use crate::readers::{self, Readers};
use crate::suppressions::StoredSuppressions;
use crate::tickets::StoredTickets;
use crate::wal::{self, Damage, Kept};
use crate::writer::{self, Change, Durability, Surroundings, Writer, WriterHandle};

/// The database within the folder. `-wal` and `-shm` beside it belong to it: they hold what is not folded in yet.
pub const DATABASE_FILE: &str = "recado.db";
/// The file whose lock says that a process works on the folder.
pub const LOCK_FILE: &str = "recado.lock";

/// Why a store does not open, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody works on it.
    #[error("another recado process works on {}; stop it, or give this one a folder of its own", dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// There is nothing to look into.
    #[error("{} holds no recado data; start `recado up` with this folder once, or name another one", dir.display())]
    Missing {
        /// The folder.
        dir: PathBuf,
    },
    /// The file system refuses.
    #[error("{} cannot be used: {source}; make it a folder that this user may read and write", path.display())]
    Io {
        /// What was tried.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is no database, or a broken one.
    #[error(
        "{} is damaged ({found}): copy the whole folder first, then restore a backup of it, or move it away to start empty; \
         `recado check` lists what is damaged, `sqlite3 {} .recover` can save what is readable",
        file.display(), file.display()
    )]
    Damaged {
        /// The database.
        file: PathBuf,
        /// What SQLite says, or found.
        found: String,
    },
    /// Another version of Recado wrote it.
    #[error("{} has format {found}, this recado knows {VERSION}; use the version of recado that wrote it, or another folder", file.display())]
    Version {
        /// The database.
        file: PathBuf,
        /// The format of the file.
        found: i64,
    },
    /// Anything else SQLite says.
    #[error("{} does not open: {source}; check that the disk has space and that this user may write there", file.display())]
    Database {
        /// The database.
        file: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

fn unusable(file: &Path, why: Unusable) -> OpenError {
    let file = file.to_owned();
    match why {
        Unusable::Version(found) => OpenError::Version { file, found },
        Unusable::Sqlite(source) => match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => OpenError::Damaged { file, found: source.to_string() },
            _ => OpenError::Database { file, source },
        },
    }
}

/// What every handle holds.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) writer: WriterHandle,
    pub(crate) readers: Readers,
    pub(crate) wake: [watch::Receiver<u64>; QueueName::ALL.len()],
    pub(crate) clock: Arc<dyn Clock>,
}

/// An open folder. Clones are cheap and mean the same one.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Shared,
}

/// How full one queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFigures {
    /// Which.
    pub queue: QueueName,
    /// Messages that could be received now.
    pub visible: u64,
    /// Messages under a lease, given back for later, or sent with a delay.
    pub hidden: u64,
    /// Since when the longest waiting of the visible ones is visible.
    pub oldest_visible: Option<Timestamp>,
    /// Messages that were given up.
    pub dead: u64,
}

impl Store {
    /// Opens a folder for the one process that works on it; makes what is missing (the folder for this user alone).
    /// Leases and connection tickets do not survive a process: what the last one had received is visible again at once.
    ///
    /// Blocks on the disk: call it at start-up.
    ///
    /// # Errors
    /// Says what is in the way and what to do.
    pub fn open(dir: &Path, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Result<Self, OpenError> {
        make_folder(dir).map_err(|source| OpenError::Io { path: dir.to_owned(), source })?;
        let lock = lock(dir)?;
        let file = dir.join(DATABASE_FILE);
        private_file(&file).map_err(|source| OpenError::Io { path: file.clone(), source })?;
        let crashed = wal::is_left(&file);
        let damaged_log = keep_damaged_log(&file, clock.now())?;
        let db = open_writer(&file).map_err(|why| unusable(&file, why))?;
        if let Some(kept) = damaged_log {
            say_what_is_missing(&file, &kept, &db);
        }
        if crashed {
            look_at(&file, &db)?;
        }
        db.execute("UPDATE messages SET visible_at = ?1, lease = NULL WHERE lease IS NOT NULL AND visible_at > ?1", [micros(clock.now())])
            .map_err(|error| unusable(&file, error.into()))?;
        db.execute("DELETE FROM tickets", []).map_err(|error| unusable(&file, error.into()))?;
        Self::start(file, db, Some(lock), Surroundings { clock, entropy })
    }

    /// Opens a folder that another process may be working on, for an operator's command.
    ///
    /// Blocks on the disk, and up to 5 s on the other process.
    ///
    /// # Errors
    /// Says what is in the way and what to do.
    pub fn open_shared(dir: &Path, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Result<Self, OpenError> {
        let file = dir.join(DATABASE_FILE);
        if !file.is_file() {
            return Err(OpenError::Missing { dir: dir.to_owned() });
        }
        // Where nobody works on the folder, this opening takes the log over.
        let damaged_log = keep_if_alone(dir, &file, &*clock)?;
        let db = open_writer(&file).map_err(|why| unusable(&file, why))?;
        if let Some(kept) = damaged_log {
            say_what_is_missing(&file, &kept, &db);
        }
        Self::start(file, db, None, Surroundings { clock, entropy })
    }

    /// Reads the whole database of a folder, beside a process that works on it or not, and says what is damaged.
    ///
    /// Blocks for as long as that takes.
    ///
    /// # Errors
    /// When it cannot be read at all.
    pub fn examine(dir: &Path, clock: &dyn Clock) -> Result<Vec<String>, OpenError> {
        let file = dir.join(DATABASE_FILE);
        if !file.is_file() {
            return Err(OpenError::Missing { dir: dir.to_owned() });
        }
        let log = keep_if_alone(dir, &file, clock)?;
        let db = open_reader(&file).map_err(|why| unusable(&file, why))?;
        let mut found = health::examine(&db).map_err(|error| unusable(&file, error.into()))?;
        if let Some(Kept { damage, copy }) = log {
            let copy = copy.map_or_else(|error| format!("could not be copied: {error}"), |copy| format!("copied to {}", copy.display()));
            found.push(format!(
                "the log was damaged: {} commits behind {} readable frames are lost; it was {copy}",
                damage.commits, damage.readable
            ));
        }
        Ok(found)
    }

    fn start(file: PathBuf, db: Connection, lock: Option<File>, surroundings: Surroundings) -> Result<Self, OpenError> {
        let no_thread = |source| OpenError::Io { path: file.clone(), source };
        let clock = Arc::clone(&surroundings.clock);
        let readers = readers::start(&file, Arc::clone(&clock)).map_err(|why| unusable(&file, why))?.map_err(no_thread)?;
        let raise: [watch::Sender<u64>; QueueName::ALL.len()] = std::array::from_fn(|_| watch::Sender::new(0));
        let wake = std::array::from_fn(|at| raise[at].subscribe());
        let writer = writer::start(Writer { db, surroundings, wake: raise, lock, file: file.clone() }).map_err(no_thread)?;
        Ok(Self { shared: Shared { writer, readers, wake, clock } })
    }

    /// The topic.
    pub fn bus(&self) -> StoredBus {
        StoredBus { shared: self.shared.clone() }
    }

    /// The queue of the dispatcher.
    pub fn inbox_queue(&self) -> StoredQueue {
        self.queue(QueueName::Inbox)
    }

    /// The queue of the e-mail worker.
    pub fn email_queue(&self) -> StoredQueue {
        self.queue(QueueName::Email)
    }

    /// A queue by name.
    pub fn queue(&self, name: QueueName) -> StoredQueue {
        StoredQueue { shared: self.shared.clone(), name }
    }

    /// What a queue gave up.
    pub fn dead_letters(&self, queue: QueueName) -> StoredDeadLetters {
        StoredDeadLetters { shared: self.shared.clone(), queue }
    }

    /// People's inboxes.
    pub fn inbox(&self) -> StoredInbox {
        StoredInbox { shared: self.shared.clone() }
    }

    /// Who is connected.
    pub fn connections(&self) -> StoredConnections {
        StoredConnections { shared: self.shared.clone() }
    }

    /// Who sends which mail.
    pub fn claims(&self) -> StoredClaims {
        StoredClaims { shared: self.shared.clone() }
    }

    /// To whom nothing more is sent.
    pub fn suppressions(&self) -> StoredSuppressions {
        StoredSuppressions { shared: self.shared.clone() }
    }

    /// Connection tickets.
    pub fn tickets(&self) -> StoredTickets {
        StoredTickets { shared: self.shared.clone() }
    }

    /// The mailbox that captures mail.
    pub fn mailbox(&self) -> Mailbox {
        Mailbox { shared: self.shared.clone() }
    }

    /// Forgets every connection: no socket survives a process. For start-up, before the first one opens.
    ///
    /// # Errors
    /// Transient ones of the store.
    pub async fn forget_connections(&self) -> Outcome<()> {
        let work = |change: &mut Change<'_>| change.db.execute_batch("DELETE FROM connections; DELETE FROM connection_owners");
        self.shared.writer.write(Durability::Process, work).await
    }

    /// How full the queues are, in the order of [`QueueName::ALL`].
    ///
    /// # Errors
    /// Transient ones of the store.
    pub async fn queue_figures(&self) -> Outcome<[QueueFigures; QueueName::ALL.len()]> {
        let query = |db: &Connection, now| {
            let [inbox, email] = QueueName::ALL.map(|queue| figures(db, queue, now));
            Ok([inbox?, email?])
        };
        self.shared.readers.read(query).await
    }

    /// Proves that the store still writes and reads: for readiness.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn check(&self) -> Outcome<()> {
        let write = |change: &mut Change<'_>| {
            let mut write = change.db.prepare_cached("INSERT OR REPLACE INTO facts (name, value) VALUES ('last_check', ?1)")?;
            write.execute([change.now.as_microsecond().to_be_bytes()])?;
            Ok(change.stored_position()?.at().duration_since(change.now))
        };
        let ahead = self.shared.writer.write(Durability::Process, write).await?;
        if ahead > SignedDuration::try_from(limits::CLOCK_SKEW).unwrap_or(SignedDuration::MAX) {
            return Err(set_back(ahead));
        }
        self.shared.readers.read(|db, _| db.query_row("SELECT 1 FROM facts LIMIT 1", [], |_| Ok(()))).await
    }

    /// Deletes what nobody can see any more, up to `limit` notifications, claims, mails and tickets each: small steps, so that
    /// nothing waits behind them. Says how many it deleted; call again soon while that is not 0.
    ///
    /// # Errors
    /// Transient ones of the store.
    pub async fn collect_garbage(&self, limit: usize) -> Outcome<usize> {
        self.shared.writer.write(Durability::Process, move |change| collect(change, limit)).await
    }

    /// Has everything written that was asked for and folds the log into the database. Every handle fails from then on.
    pub async fn close(&self) {
        self.shared.writer.close().await;
    }
}

/// Positions go on above the highest one (R6), but what waits in a queue waits until the clock is there again.
fn set_back(by: SignedDuration) -> Failure {
    Failure::transient(format!(
        "the clock of this machine is {} s behind the newest entry; what was published or given back before it was set back may wait as long: set the clock by NTP",
        by.as_secs()
    ))
}

fn make_folder(dir: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// Makes a file for this user alone, whatever the folder's permissions are; SQLite gives those of the database to the
/// files beside it.
fn private_file(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK_FILE);
    let refused = |source| OpenError::Io { path: path.clone(), source };
    let file = private_file(&path).map_err(refused)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(refused(source)),
    }
}

fn keep_damaged_log(file: &Path, now: Timestamp) -> Result<Option<Kept>, OpenError> {
    wal::keep_if_damaged(file, now).map_err(|source| OpenError::Io { path: wal::path_of(file), source })
}

/// As [`keep_damaged_log`], where nobody works on the folder: a log that is being written looks damaged.
fn keep_if_alone(dir: &Path, file: &Path, clock: &dyn Clock) -> Result<Option<Kept>, OpenError> {
    match if wal::is_left(file) { lock(dir).ok() } else { None } {
        Some(_alone) => keep_damaged_log(file, clock.now()),
        None => Ok(None),
    }
}

/// What a damaged log took with it is beyond saving, but not beyond publishing again.
fn say_what_is_missing(file: &Path, kept: &Kept, db: &Connection) {
    metrics::counter!("recado_store_log_damaged_total").increment(1);
    let last = db.query_row("SELECT value FROM facts WHERE name = 'last_position'", [], |row| row.get(0));
    // A file that cannot answer this fails below, with a reason of its own.
    let there_until = last.map_or(Timestamp::UNIX_EPOCH, |bytes| Position::from_bytes(bytes).at());
    let Kept { damage: Damage { readable, commits }, copy } = kept;
    let copy = copy.as_ref().map_or_else(|error| format!("none: {error}"), |copy| copy.display().to_string());
    tracing::error!(
        file = %wal::path_of(file).display(),
        readable,
        commits_lost = commits,
        %there_until,
        copy,
        "the disk changed the log of the database: commits behind the damage are lost, accepted events among them. Publish again, with the same \
         ids, what was published since `there_until` (what is there is not shown twice), and check the disk"
    );
}

/// After a crash, for a bounded time.
fn look_at(file: &Path, db: &Connection) -> Result<(), OpenError> {
    match health::look(db, health::LOOK).map_err(|error| unusable(file, error.into()))? {
        Look::Whole => Ok(()),
        Look::Unfinished => {
            tracing::info!("the database is too large to be checked whole at a start; `recado check` does it");
            Ok(())
        }
        Look::Damaged(found) => Err(OpenError::Damaged { file: file.to_owned(), found }),
    }
}

fn figures(db: &Connection, queue: QueueName, now: Timestamp) -> rusqlite::Result<QueueFigures> {
    let number = queue.number();
    let (visible, oldest_visible) = db
        .prepare_cached("SELECT count(*), min(visible_at) FROM messages WHERE queue = ?1 AND visible_at <= ?2")?
        .query_row(params![number, micros(now)], |row| {
            let count: i64 = row.get(0)?;
            Ok((count, if count > 0 { Some(moment(row, 1)?) } else { None }))
        })?;
    let count = |query: &str, values: &[&dyn rusqlite::ToSql]| db.prepare_cached(query)?.query_row(values, |row| row.get::<_, i64>(0));
    let hidden = count("SELECT count(*) FROM messages WHERE queue = ?1 AND visible_at > ?2", &[&number, &micros(now)])?;
    let dead = count("SELECT count(*) FROM dead_letters WHERE queue = ?1", &[&number])?;
    let [visible, hidden, dead] = [visible, hidden, dead].map(|count| u64::try_from(count).unwrap_or(0));
    Ok(QueueFigures { queue, visible, hidden, oldest_visible, dead })
}

fn collect(change: &mut Change<'_>, limit: usize) -> rusqlite::Result<usize> {
    let (now, rows) = (micros(change.now), i64::try_from(limit).unwrap_or(i64::MAX));
    let ended: Vec<i64> = change
        .db
        .prepare_cached("SELECT id FROM notifications WHERE collect_at <= ?1 ORDER BY collect_at LIMIT ?2")?
        .query_map(params![now, rows], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut entries = change.db.prepare_cached("DELETE FROM entries WHERE notification = ?1")?;
    let mut content = change.db.prepare_cached("DELETE FROM notifications WHERE id = ?1")?;
    for id in &ended {
        entries.execute([id])?;
        content.execute([id])?;
    }
    let delete = |query: &str, before: i64| change.db.prepare_cached(query)?.execute(params![before, rows]);
    let of_claims = "DELETE FROM mail_claims WHERE (recipient, notification) IN
         (SELECT recipient, notification FROM mail_claims WHERE collect_at <= ?1 ORDER BY collect_at LIMIT ?2)";
    let claims = delete(of_claims, now)?;
    let back = |by| change.now.checked_sub(by).unwrap_or(Timestamp::MIN).as_microsecond();
    // Ids ascend as moments do: the oldest are the first.
    let of_mails = "DELETE FROM mails WHERE id IN (SELECT id FROM mails ORDER BY id LIMIT ?2) AND sent_at <= ?1";
    let mails = delete(of_mails, back(limits::RETENTION))?;
    let of_owners = "DELETE FROM connection_owners WHERE id IN (SELECT id FROM connection_owners WHERE registered_at <= ?1 LIMIT ?2)";
    let owners = delete(of_owners, back(limits::CONNECTION_ROW_AGE))?;
    let tickets = delete("DELETE FROM tickets WHERE key IN (SELECT key FROM tickets WHERE until <= ?1 LIMIT ?2)", now)?;
    Ok(ended.len() + claims + mails + owners + tickets)
}
