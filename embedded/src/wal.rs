//! Whether the write-ahead log that a process left behind ends where its writing ended, or was damaged before.
//!
//! SQLite reads a log up to the first frame whose checksum is wrong, and drops the rest without a word: that is how it
//! forgets what was being written when the process died. A disk that changed a frame *in the middle* makes it forget
//! commits that were answered, in the same silence. The two differ: behind an unfinished frame there is nothing whole.
//! So the log is looked at before SQLite opens it, and one that lost commits is kept, and said.
//!
//! The format is SQLite's ("Database File Format", 4: The Write-Ahead Log). Must not know: tables.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// The magic number, without the bit that says in which order bytes are summed.
const MAGIC: u32 = 0x377f_0682;

/// A log that lost commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Frames before the first unreadable one: what SQLite will read.
    pub(crate) readable: u64,
    /// Whole commits behind it: what SQLite will drop. 0 where the log's own header is unreadable, and nothing can be told.
    pub(crate) commits: u64,
}

/// A damaged log, and where it was copied to before SQLite took it over.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) damage: Damage,
    /// What the system said where there is none.
    pub(crate) copy: Result<PathBuf, std::io::Error>,
}

/// The log of a database.
pub(crate) fn path_of(database: &Path) -> PathBuf {
    beside(database, "-wal")
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(suffix);
    name.into()
}

/// Whether the process before left a log: it did not close the database.
pub(crate) fn is_left(database: &Path) -> bool {
    std::fs::metadata(path_of(database)).is_ok_and(|log| log.len() > 0)
}

/// Looks at the log that is left, and copies a damaged one. For whoever has the folder alone, before SQLite opens it.
pub(crate) fn keep_if_damaged(database: &Path, now: Timestamp) -> std::io::Result<Option<Kept>> {
    let log = path_of(database);
    let file = match File::open(&log) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(damage) = scan(BufReader::with_capacity(256 * 1024, file))? else { return Ok(None) };
    let copy = beside(&log, &format!("-damaged-{}", now.strftime("%Y%m%dT%H%M%SZ")));
    Ok(Some(Kept { damage, copy: std::fs::copy(&log, &copy).map(|_| copy) }))
}

/// Sums as SQLite does, in the order of bytes that the header names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum(u32, u32);

impl Sum {
    fn add(mut self, bytes: &[u8], big_endian: bool) -> Self {
        let word = |bytes: &[u8]| {
            let four = [bytes[0], bytes[1], bytes[2], bytes[3]];
            if big_endian { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
        };
        for pair in bytes.chunks_exact(8) {
            self.0 = self.0.wrapping_add(word(&pair[..4])).wrapping_add(self.1);
            self.1 = self.1.wrapping_add(word(&pair[4..])).wrapping_add(self.0);
        }
        self
    }
}

/// A number of a header: those are always big-endian.
fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

/// Fills the buffer, or says that the log ends before.
fn filled(log: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match log.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn scan(mut log: impl Read) -> std::io::Result<Option<Damage>> {
    let mut header = [0; HEADER_BYTES];
    // Too short to hold a commit, or a header that was never written.
    if !filled(&mut log, &mut header)? || header == [0; HEADER_BYTES] {
        return Ok(None);
    }
    let (big_endian, page) = (number(&header, 0) & 1 == 1, number(&header, 8));
    let mut sum = Sum(0, 0).add(&header[..24], big_endian);
    if number(&header, 0) & !1 != MAGIC || !page.is_power_of_two() || !(512..=65_536).contains(&page) || sum != stored(&header, 24) {
        return Ok(Some(Damage { readable: 0, commits: 0 }));
    }
    let mut frame = vec![0; FRAME_HEADER_BYTES + page as usize];
    let (mut readable, mut commits, mut unbroken) = (0, 0, true);
    while filled(&mut log, &mut frame)? {
        let of_this_log = frame[8..16] == header[16..24];
        let whole = of_this_log && sum.add(&frame[..8], big_endian).add(&frame[FRAME_HEADER_BYTES..], big_endian) == stored(&frame, 16);
        unbroken &= whole;
        readable += u64::from(unbroken);
        let commit = number(&frame, 4) != 0;
        commits += u64::from(whole && commit && !unbroken);
        // A frame goes on from the sum of the one before it, readable or not.
        sum = stored(&frame, 16);
    }
    Ok((commits > 0).then_some(Damage { readable, commits }))
}

fn stored(header: &[u8], at: usize) -> Sum {
    Sum(number(header, at), number(header, at + 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    const PAGE: usize = 4096;
    const FRAME: usize = FRAME_HEADER_BYTES + PAGE;

    /// The log of ten commits, as a process that was killed leaves it.
    fn log_left_behind() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("some.db");
        let db = Connection::open(&file).unwrap();
        db.pragma_update(None, "journal_mode", "WAL").unwrap();
        db.execute_batch("CREATE TABLE rows (text)").unwrap();
        for _ in 0..9 {
            db.execute("INSERT INTO rows VALUES (hex(randomblob(500)))", []).unwrap();
        }
        std::fs::read(path_of(&file)).unwrap()
    }

    #[test]
    fn a_log_that_ends_where_its_writing_ended_is_whole() {
        let log = log_left_behind();
        assert!(log.len() > 10 * FRAME);
        assert_eq!(scan(log.as_slice()).unwrap(), None);
        assert_eq!(scan([].as_slice()).unwrap(), None);
        // Cut anywhere, as by a process that died while it wrote.
        for end in (HEADER_BYTES..log.len()).step_by(997) {
            assert_eq!(scan(&log[..end]).unwrap(), None, "cut at {end}");
        }
    }

    #[test]
    fn an_unfinished_frame_at_the_end_is_no_damage() {
        let mut log = log_left_behind();
        let last = log.len() - FRAME;
        let mut unfinished = log[last..].to_vec();
        unfinished[FRAME_HEADER_BYTES + 100..].fill(0);
        log.extend(unfinished);
        assert_eq!(scan(log.as_slice()).unwrap(), None);
    }

    #[test]
    fn frames_of_the_log_before_are_no_damage() {
        let mut log = log_left_behind();
        let mut older = log[log.len() - 2 * FRAME..].to_vec();
        older[8] ^= 1;
        older[FRAME + 8] ^= 1;
        log.extend(older);
        assert_eq!(scan(log.as_slice()).unwrap(), None);
    }

    #[test]
    fn a_changed_byte_before_whole_commits_is_damage() {
        let log = log_left_behind();
        let frames = (log.len() - HEADER_BYTES) / FRAME;
        for at in [HEADER_BYTES + 3 * FRAME + 200, HEADER_BYTES + 3 * FRAME + 2] {
            let mut log = log.clone();
            log[at] ^= 0x40;
            let damage = scan(log.as_slice()).unwrap().expect("damaged");
            assert_eq!(damage.readable, 3);
            assert!(damage.commits > 0 && damage.commits < frames as u64, "{damage:?}");
        }
    }

    #[test]
    fn an_unreadable_header_is_damage() {
        let mut log = log_left_behind();
        log[17] ^= 1;
        assert_eq!(scan(log.as_slice()).unwrap(), Some(Damage { readable: 0, commits: 0 }));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..9000)) {
            scan(bytes.as_slice()).unwrap();
        }
    }
}
