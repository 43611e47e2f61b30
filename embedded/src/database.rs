//! Opening SQLite as Recado needs it: settings, schema, versions. Must not know: what the tables mean.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OpenFlags, Row, TransactionBehavior};

use recado_domain::position::Position;

/// What made each version of the schema out of the one before it. A step that was released is never changed.
const STEPS: [&str; 3] = [include_str!("schema.sql"), include_str!("schema-2.sql"), include_str!("schema-3.sql")];
/// The version of the schema, kept in `user_version`: how many of [`STEPS`] were taken.
pub(crate) const VERSION: i64 = STEPS.len() as i64;

/// How long a process waits for another one's transaction.
const BUSY: Duration = Duration::from_secs(5);
/// Statements a connection keeps prepared; there are fewer in this crate.
const STATEMENTS: usize = 96;

/// What keeps a database from being used.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// SQLite says so.
    Sqlite(rusqlite::Error),
    /// It was written by another version.
    Version(i64),
}

impl From<rusqlite::Error> for Unusable {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Opens for writing; makes and migrates the schema.
pub(crate) fn open_writer(file: &Path) -> Result<Connection, Unusable> {
    let mut db = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    settle(&db)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    // 16 MiB of log between checkpoints, and no more than 64 MiB of it stay on disk after a burst.
    db.pragma_update(None, "wal_autocheckpoint", 4096)?;
    db.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    migrate(&mut db)?;
    Ok(db)
}

/// Opens for reading.
pub(crate) fn open_reader(file: &Path) -> Result<Connection, Unusable> {
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    settle(&db)?;
    db.pragma_update(None, "query_only", true)?;
    Ok(db)
}

fn settle(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(BUSY)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    // 8 MiB a connection. Nothing is mapped: an input/output error of a mapped page is a signal that ends the process.
    db.pragma_update(None, "cache_size", -8192)?;
    db.pragma_update(None, "mmap_size", 0)?;
    db.pragma_update(None, "temp_store", "MEMORY")
}

fn migrate(db: &mut Connection) -> Result<(), Unusable> {
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = change.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let missing = usize::try_from(found).ok().and_then(|taken| STEPS.get(taken..)).ok_or(Unusable::Version(found))?;
    if !missing.is_empty() {
        missing.iter().try_for_each(|step| change.execute_batch(step))?;
        change.pragma_update(None, "user_version", VERSION)?;
    }
    Ok(change.commit()?)
}

/// A moment as stored.
pub(crate) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// A moment `by` later, as stored; the far future where that ends.
pub(crate) fn micros_after(at: Timestamp, by: Duration) -> i64 {
    at.checked_add(by).unwrap_or(Timestamp::MAX).as_microsecond()
}

/// A stored moment.
pub(crate) fn moment(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    Timestamp::from_microsecond(row.get(column)?).map_err(|error| unreadable(column, Type::Integer, error))
}

/// A stored moment that may be missing.
pub(crate) fn optional_moment(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    match row.get::<_, Option<i64>>(column)? {
        Some(_) => moment(row, column).map(Some),
        None => Ok(None),
    }
}

/// A stored position that may be missing.
pub(crate) fn optional_position(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Position>> {
    Ok(row.get::<_, Option<[u8; 16]>>(column)?.map(Position::from_bytes))
}

/// A value from stored JSON.
pub(crate) fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| unreadable(column, Type::Text, error))
}

/// A column that does not hold what was written.
pub(crate) fn unreadable(column: usize, kind: Type, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
}
