//! What SQLite says, as the one decision that matters. Must not know: who asked.

use recado_domain::failure::Failure;
use recado_domain::ports::Outcome;
use rusqlite::{Error, ErrorCode};

/// Classifies an error of SQLite. What concerns the store as a whole may pass and is transient, so that no message
/// becomes a dead letter because a disk was full.
pub(crate) fn failure(error: &Error) -> Failure {
    let Error::SqliteFailure(sqlite, _) = error else {
        return Failure::permanent("a row of the database does not read as what was written");
    };
    match sqlite.code {
        ErrorCode::DiskFull => Failure::transient("the disk of the data folder is full; free some space"),
        ErrorCode::SystemIoFailure => {
            Failure::transient(format!("the data folder cannot be read or written (sqlite code {})", sqlite.extended_code))
        }
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Failure::transient("another process holds the database of the data folder"),
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen => {
            Failure::transient("the database of the data folder cannot be opened for writing; check its permissions")
        }
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            Failure::transient("the database of the data folder is damaged; stop and restore it")
        }
        ErrorCode::TooBig | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch => {
            Failure::permanent(format!("the database refuses the row (sqlite code {})", sqlite.extended_code))
        }
        _ => Failure::transient(format!("the database failed (sqlite code {})", sqlite.extended_code)),
    }
}

/// Whether the error concerns the row at hand alone, so that other work of the same transaction may still succeed.
pub(crate) fn concerns_one_row(error: &Error) -> bool {
    !failure(error).is_transient()
}

/// What is answered once the store was closed.
pub(crate) fn closed() -> Failure {
    Failure::transient("the store is closed")
}

/// One answer per entry of a batch: its own, or what went wrong with the batch.
pub(crate) fn spread<T>(batch: Outcome<Vec<Outcome<T>>>, entries: usize) -> Vec<Outcome<T>> {
    match batch {
        Ok(answers) => answers,
        Err(failure) => (0..entries).map(|_| Err(failure.clone())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_code(code: i32) -> Failure {
        failure(&Error::SqliteFailure(rusqlite::ffi::Error::new(code), None))
    }

    #[test]
    fn trouble_of_the_whole_store_may_pass() {
        // SQLITE_BUSY, SQLITE_IOERR, SQLITE_CORRUPT, SQLITE_FULL.
        for code in [5, 10, 11, 13] {
            assert!(of_code(code).is_transient(), "{code}");
        }
    }

    #[test]
    fn a_refused_row_is_final() {
        // SQLITE_TOOBIG, SQLITE_CONSTRAINT.
        assert!(!of_code(18).is_transient());
        assert!(!of_code(19).is_transient());
    }
}
