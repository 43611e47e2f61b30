//! SQLite's write-ahead log as bytes on a disk: where its writing ended, and what a fault does to it.
//!
//! Written from SQLite's "Database File Format" (4: The Write-Ahead Log), and not with the code that is under test.
//!
//! Must not know: who wrote it.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// The log that a process left behind.
pub struct Log {
    path: PathBuf,
    bytes: Vec<u8>,
    page: usize,
    /// Ends of the frames that belong to this log and follow each other without a break, and whether each is a commit.
    frames: Vec<(usize, bool)>,
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn sum((mut a, mut b): (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    let word = |bytes: &[u8]| {
        let four: [u8; 4] = bytes.try_into().expect("four bytes");
        if big_endian { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
    };
    for pair in bytes.chunks_exact(8) {
        a = a.wrapping_add(word(&pair[..4])).wrapping_add(b);
        b = b.wrapping_add(word(&pair[4..])).wrapping_add(a);
    }
    (a, b)
}

impl Log {
    /// Reads the log of the database in a folder; none where it is empty.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(data: &Path) -> anyhow::Result<Option<Self>> {
        let path = data.join("recado.db-wal");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) if bytes.len() >= HEADER => bytes,
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("the log cannot be read"),
        };
        let page = number(&bytes, 8) as usize;
        ensure!(page.is_power_of_two() && (512..=65_536).contains(&page), "no log: pages of {page} bytes");
        let big_endian = number(&bytes, 0) & 1 == 1;
        let mut at = HEADER;
        let mut sums = (number(&bytes, 24), number(&bytes, 28));
        let mut frames = Vec::new();
        while let Some(frame) = bytes.get(at..at + FRAME_HEADER + page) {
            sums = sum(sum(sums, &frame[..8], big_endian), &frame[FRAME_HEADER..], big_endian);
            if frame[8..16] != bytes[16..24] || sums != (number(frame, 16), number(frame, 20)) {
                break;
            }
            at += frame.len();
            frames.push((at, number(frame, 4) != 0));
        }
        Ok(Some(Self { path, bytes, page, frames }))
    }

    /// Frames up to the last commit: what a process that opens it now reads.
    pub fn committed(&self) -> usize {
        self.frames.iter().rposition(|(_, commit)| *commit).map_or(0, |at| at + 1)
    }

    /// Which commits there are: places in the frames, from a place on.
    pub fn commits_from(&self, frame: usize) -> Vec<usize> {
        let frames = self.frames.iter().enumerate();
        frames.filter(|(at, (_, commit))| *at >= frame && *commit).map(|(at, _)| at).collect()
    }

    /// What tells this log from the one before it in the same file.
    pub fn salts(&self) -> &[u8] {
        &self.bytes[16..24]
    }

    fn end_of(&self, frames: usize) -> usize {
        frames.checked_sub(1).map_or(HEADER, |last| self.frames[last].0)
    }

    /// A frame that was begun behind the last commit, and not finished: its header, and `part` bytes of its page.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin_a_frame(&mut self, part: usize, noise: u64) -> anyhow::Result<()> {
        let part = part % self.page;
        let mut torn = Vec::with_capacity(FRAME_HEADER + part);
        torn.extend(7_u32.to_be_bytes());
        torn.extend(100_u32.to_be_bytes());
        torn.extend_from_slice(&self.bytes[16..24]);
        torn.extend(noise.to_be_bytes());
        torn.extend(noise.to_le_bytes().into_iter().cycle().take(part));
        self.write_behind_the_last_commit(&torn)
    }

    /// Space that the file system gave and nothing was written to, as after a power cut.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn grow_by_zeros(&mut self, pages: usize) -> anyhow::Result<()> {
        self.write_behind_the_last_commit(&vec![0; pages * (FRAME_HEADER + self.page)])
    }

    fn write_behind_the_last_commit(&mut self, what: &[u8]) -> anyhow::Result<()> {
        let at = self.end_of(self.committed());
        let end = (at + what.len()).max(self.bytes.len());
        self.bytes.resize(end, 0);
        self.bytes[at..at + what.len()].copy_from_slice(what);
        self.save()
    }

    /// A byte of this frame's page is another one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn rot(&mut self, frame: usize) -> anyhow::Result<()> {
        let page: Range<usize> = self.end_of(frame) + FRAME_HEADER..self.end_of(frame + 1);
        self.bytes[page.start + page.len() / 2] ^= 0x10;
        self.save()
    }

    /// The file ends within this frame.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn cut(&mut self, frame: usize) -> anyhow::Result<()> {
        self.bytes.truncate(self.end_of(frame) + FRAME_HEADER + self.page / 2);
        self.save()
    }

    fn save(&self) -> anyhow::Result<()> {
        std::fs::write(&self.path, &self.bytes).context("the log cannot be written")
    }
}
