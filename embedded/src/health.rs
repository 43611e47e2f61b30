//! Whether the database itself is whole: a look of bounded time after a crash, and a whole one when somebody asks.
//!
//! A whole check reads every page, which takes as long as the database is large; a start must not. So a start after a
//! clean stop checks nothing, one after a crash looks for [`LOOK`] at the most, and `recado check` reads all of it.
//!
//! Must not know: what the tables mean.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rusqlite::{Connection, Error, ErrorCode};

/// How long a start after a crash may look: a few hundred MiB of database that the system has in memory.
pub(crate) const LOOK: Duration = Duration::from_secs(1);
/// Findings that are told; more add nothing.
const FINDINGS: usize = 20;

/// What a check of bounded time came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// All of it was looked at.
    Whole,
    /// What was looked at in the time is whole.
    Unfinished,
    /// What is wrong.
    Damaged(String),
}

/// Looks at structure and content, indexes left out, no longer than `within`.
pub(crate) fn look(db: &Connection, within: Duration) -> rusqlite::Result<Look> {
    let interrupt = db.get_interrupt_handle();
    let (done, waiting) = channel::<()>();
    let found = std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut wait = within;
            // Again and again: one that comes before the check has begun ends nothing.
            while waiting.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                interrupt.interrupt();
                wait = Duration::from_millis(2);
            }
        });
        let found = findings(db, "PRAGMA quick_check(1)");
        drop(done);
        found
    });
    match found {
        Ok(found) => Ok(found.into_iter().next().map_or(Look::Whole, Look::Damaged)),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Ok(Look::Unfinished),
        Err(error) => damage(error).map(Look::Damaged),
    }
}

/// Reads all of it, indexes included; what is wrong, at most [`FINDINGS`].
pub(crate) fn examine(db: &Connection) -> rusqlite::Result<Vec<String>> {
    match findings(db, &format!("PRAGMA integrity_check({FINDINGS})")) {
        Ok(found) => Ok(found),
        Err(error) => damage(error).map(|found| vec![found]),
    }
}

fn findings(db: &Connection, check: &str) -> rusqlite::Result<Vec<String>> {
    let mut check = db.prepare(check)?;
    let found = check.query_map([], |row| row.get::<_, String>(0))?;
    found.filter(|line| !matches!(line, Ok(text) if text == "ok")).map(|line| Ok(line?.replace('\n', " "))).collect()
}

/// A check that meets damage it cannot read past ends with an error, which is the finding.
fn damage(error: Error) -> rusqlite::Result<String> {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Ok(error.to_string()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(rows: usize) -> (Connection, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let db = Connection::open(folder.path().join("some.db")).unwrap();
        db.execute_batch("CREATE TABLE rows (text); BEGIN").unwrap();
        for _ in 0..rows {
            db.execute("INSERT INTO rows VALUES (hex(randomblob(400)))", []).unwrap();
        }
        db.execute_batch("COMMIT; CREATE INDEX by_text ON rows (text)").unwrap();
        (db, folder)
    }

    #[test]
    fn a_whole_database_is_found_whole() {
        let (db, _folder) = database(100);
        assert_eq!(look(&db, Duration::from_secs(60)).unwrap(), Look::Whole);
        assert!(examine(&db).unwrap().is_empty());
    }

    #[test]
    fn a_look_ends_in_time() {
        let (db, _folder) = database(20_000);
        assert_eq!(look(&db, Duration::ZERO).unwrap(), Look::Unfinished);
        // And leaves nothing behind that would interrupt what comes next.
        assert_eq!(db.query_row("SELECT count(*) FROM rows", [], |row| row.get::<_, i64>(0)).unwrap(), 20_000);
    }

    #[test]
    fn a_changed_page_is_found() {
        let (db, folder) = database(2_000);
        drop(db);
        let file = folder.path().join("some.db");
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2 / 4096 * 4096;
        bytes[middle..middle + 4096].fill(0xa5);
        std::fs::write(&file, bytes).unwrap();
        let db = Connection::open(&file).unwrap();
        assert!(matches!(look(&db, Duration::from_secs(60)).unwrap(), Look::Damaged(_)));
        assert!(!examine(&db).unwrap().is_empty());
    }
}
