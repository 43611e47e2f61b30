//! A `sync`: everything since a cursor, or the newest page and what is pending, in frames that tell a client how far
//! it may move its cursor (P3, R5).
//!
//! Order is everything here: settle what was shown, become live, and only *then* read (R2), so that an entry appended at
//! any moment is either read here or pushed by its dispatcher. Frames go out as pages come in, so an answer of any
//! length needs the memory of a page and a frame. Must not know: who asks, or on which device.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use recado_domain::frame::{Notifications, ServerFrame, Sync, Verdict, cut_into_frames};
use recado_domain::ids::NotificationId;
use recado_domain::limits;
use recado_domain::notification::{InboxEntry, Item};
use recado_domain::ports::{Clock, Connections, Entropy, Inbox, Marks, Page, PageFilter, Sockets};
use recado_domain::position::{Cursor, Position, Resume};

use crate::message::{Client, Stop};

/// How long before [`limits::CONNECTION_AGE`] a client is told to connect again, at the latest: its next `sync` may be
/// 9 minutes away.
const GOAWAY_MARGIN: Duration = Duration::from_secs(10 * 60);
/// And how much earlier at random, so that clients that came at once do not leave at once.
const GOAWAY_SPREAD: Duration = Duration::from_secs(5 * 60);
/// The longest a client is asked to wait before it connects again.
const RECONNECT_WITHIN: Duration = Duration::from_secs(30);

impl<I: Inbox, C: Connections, S: Sockets, K: Clock, E: Entropy> Client<'_, I, C, S, K, E> {
    /// Answers a `sync`. It may end at any await: the client that misses the last frame keeps its cursor and repeats.
    pub(crate) async fn sync(&mut self, sync: &Sync) -> Result<(), Stop> {
        self.acknowledge(&sync.ack).await?;
        self.ports.connections.mark_live(&self.recipient, &self.row, true).await.map_err(Stop::Store)?;
        self.row = self.row.live();

        let began = self.ports.clock.now();
        let since = sync.since.as_deref().map(|text| Cursor::resume(text, &self.recipient, began));
        let verdict = match since {
            Some(Resume::From(_)) | None => Verdict::Complete,
            Some(Resume::Gap) => Verdict::Gap,
        };
        match since {
            Some(Resume::From(since)) => self.resume(&sync.request, since, began).await?,
            Some(Resume::Gap) | None => self.load_anew(&sync.request, verdict, began).await?,
        }
        let outcome = if verdict == Verdict::Gap { "gap" } else { "complete" };
        metrics::counter!("recado_syncs_total", "verdict" => outcome).increment(1);
        self.warn_of_age().await
    }

    /// Everything since a cursor, and the overlap before it: what was in flight when the cursor was taken (R5).
    async fn resume(&self, request: &str, since: Position, began: Timestamp) -> Result<(), Stop> {
        let mut answer = Answer::new(request);
        let mut next = Some(since.back(limits::W));
        while let Some(after) = next {
            let page = self.ports.inbox.since(&self.recipient, after, limits::PAGE_ENTRIES).await.map_err(Stop::Store)?;
            next = next_of(&page);
            self.post_all(answer.take(page.entries)).await?;
        }
        let cursor = cursor(Some(since), answer.highest, began);
        self.post(&answer.last(Cursor::new(cursor).encode(&self.recipient), Verdict::Complete)).await
    }

    /// The newest page and everything pending, merged by position.
    async fn load_anew(&self, request: &str, verdict: Verdict, began: Timestamp) -> Result<(), Stop> {
        let mut answer = Answer::new(request);
        let Newest { entries: newest, marks, whole } = self.newest_page().await?;
        let known: HashMap<NotificationId, Position> = newest.iter().map(|entry| (entry.notification.id, entry.position)).collect();
        let mut newest = newest.into_iter().peekable();

        let pending_began = self.ports.clock.now();
        let mut lowest: Option<Position> = None;
        let mut next = Some(Position::MIN);
        while let Some(after) = next {
            let page = self.ports.inbox.pending(&self.recipient, marks, after, limits::PAGE_ENTRIES).await.map_err(Stop::Store)?;
            next = next_of(&page);
            let mut merged = Vec::new();
            for entry in page.entries {
                lowest = Some(lowest.map_or(entry.position, |lowest| lowest.min(entry.position)));
                while let Some(earlier) = newest.next_if(|newest| newest.position < entry.position) {
                    merged.push(earlier);
                }
                if !known.contains_key(&entry.notification.id) {
                    merged.push(entry);
                }
            }
            self.post_all(answer.take(merged)).await?;
        }
        self.post_all(answer.take(newest.collect())).await?;
        let cursor = cursor(None, answer.highest, began);
        self.post(&answer.last(Cursor::new(cursor).encode(&self.recipient), verdict)).await?;
        let passes = |to: Position| known.values().any(|position| *position < to && Some(*position) >= marks.pending_from);
        // Where the mark would pass over nothing that the next query reads, moving it is a call for nothing.
        if let Some(to) = marks.pending_after(lowest, pending_began).filter(|to| !whole || passes(*to)) {
            self.advance_pending(marks.pending_from, to).await;
        }
        Ok(())
    }

    /// The newest entries that are not archived.
    async fn newest_page(&self) -> Result<Newest, Stop> {
        let (mut entries, mut marks) = (Vec::new(), None);
        let mut before = None;
        loop {
            let wanted = limits::PAGE_ENTRIES - entries.len();
            let page = self.ports.inbox.page(&self.recipient, before, PageFilter::Inbox, wanted).await.map_err(Stop::Store)?;
            let whole = before.is_none() && !page.more;
            before = next_of(&page);
            entries.extend(page.entries.into_iter().take(wanted));
            let marks = *marks.get_or_insert(page.marks);
            if before.is_none() || entries.len() == limits::PAGE_ENTRIES {
                entries.reverse();
                return Ok(Newest { entries, marks, whole });
            }
        }
    }

    /// Spares later queries what this one found settled (R7). It settles nothing itself, so a failure costs a longer
    /// query and no more.
    async fn advance_pending(&self, old: Option<Position>, to: Position) {
        if let Err(failure) = self.ports.inbox.advance_pending(&self.recipient, old, to).await {
            tracing::debug!(user = %self.recipient.user, reason = failure.reason(), "pending_from not advanced");
        }
    }

    /// Asks a client whose connection nears its age to connect again, after its answer, so that it leaves nothing behind.
    async fn warn_of_age(&self) -> Result<(), Stop> {
        let entropy = self.ports.entropy;
        let margin = GOAWAY_MARGIN + GOAWAY_SPREAD.mul_f64(entropy.fraction());
        if self.ports.clock.now() < self.row.registered_at + limits::CONNECTION_AGE.saturating_sub(margin) {
            return Ok(());
        }
        let wait = RECONNECT_WITHIN.mul_f64(entropy.fraction());
        let reconnect_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.post(&ServerFrame::Goaway { reconnect_after_ms }.to_json()).await
    }

    /// Posts frames in order and stops at the first that does not arrive: a client that got a later frame of an answer
    /// has the earlier ones.
    async fn post_all(&self, frames: Vec<String>) -> Result<(), Stop> {
        for frame in &frames {
            self.post(frame).await?;
        }
        Ok(())
    }
}

/// The newest page of an inbox.
struct Newest {
    /// Ascending.
    entries: Vec<InboxEntry>,
    marks: Marks,
    /// Whether one query read all there is.
    whole: bool,
}

/// Where a query goes on, if it does.
fn next_of(page: &Page) -> Option<Position> {
    page.next.filter(|_| page.more)
}

/// How far a client may move its cursor (R5): the lower of the highest position read and the moment the first query
/// began, and never back. What was appended after that moment may have overtaken an entry still in flight.
///
/// An answer that was read to its end leaves no cursor older than [`limits::CURSOR_AGE`] before it began (ADR 7): nothing
/// is in flight that long, and a cursor that stood still with a quiet inbox would end as a gap.
fn cursor(since: Option<Position>, highest: Option<Position>, began: Timestamp) -> Position {
    let moment = Position::floor(began);
    let reached = highest.map_or(since.unwrap_or(moment), |highest| highest.min(moment));
    reached.max(since.unwrap_or(Position::MIN)).max(moment.back(limits::CURSOR_AGE))
}

/// The frames of one answer, cut as entries come in. The last frame is held back, since only the end of the query
/// tells whether another follows it.
struct Answer<'a> {
    request: &'a str,
    held: Vec<InboxEntry>,
    highest: Option<Position>,
}

impl<'a> Answer<'a> {
    fn new(request: &'a str) -> Self {
        Self { request, held: Vec::new(), highest: None }
    }

    /// Takes entries, ascending, and gives the frames that are full.
    fn take(&mut self, entries: Vec<InboxEntry>) -> Vec<String> {
        self.highest = self.highest.max(entries.iter().map(|entry| entry.position).max());
        self.held.extend(entries);
        let mut runs = cut_into_frames(&self.held);
        let kept = runs.pop().map_or(0, <[InboxEntry]>::len);
        let frames = runs.into_iter().map(|run| self.frame(run, true, None, None)).collect();
        self.held.drain(..self.held.len() - kept);
        frames
    }

    /// The frame that ends the answer.
    fn last(&self, cursor: String, verdict: Verdict) -> String {
        self.frame(&self.held, false, Some(cursor), Some(verdict))
    }

    fn frame(&self, entries: &[InboxEntry], more: bool, cursor: Option<String>, verdict: Option<Verdict>) -> String {
        let items = entries.iter().map(Item::of).collect();
        let (request, more) = (Some(self.request), Some(more));
        ServerFrame::Notifications(Notifications { request, items, more, cursor, verdict }).to_json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_cursor_is_the_lower_of_what_was_read_and_the_moment_the_query_began() {
        let position = |second| Position::new(at(second), 7);
        assert_eq!(cursor(None, Some(position(90)), at(100)), position(90));
        assert_eq!(cursor(None, Some(position(110)), at(100)), Position::floor(at(100)));
        assert_eq!(cursor(Some(position(80)), Some(position(90)), at(100)), position(90));
    }

    #[test]
    fn a_cursor_never_moves_back() {
        let since = Position::new(at(95), 7);
        assert_eq!(cursor(Some(since), Some(Position::new(at(60), 7)), at(100)), since);
        let ahead = Position::new(at(110), 7);
        assert_eq!(cursor(Some(ahead), Some(Position::new(at(120), 7)), at(100)), ahead);
    }

    #[test]
    fn a_cursor_does_not_grow_old_with_a_quiet_inbox() {
        let now = at(100 * 24 * 3600);
        let day = Position::floor(now - Duration::from_secs(24 * 3600));
        let old = Position::new(now - Duration::from_secs(29 * 24 * 3600), 7);
        assert_eq!(cursor(Some(old), None, now), day);
        assert_eq!(cursor(Some(old), Some(old.next()), now), day);
        assert_eq!(cursor(None, Some(old), now), day, "of an entry that outlives retention");
        assert_eq!(cursor(Some(old), Some(day.next()), now), day.next());
    }

    #[test]
    fn an_empty_answer_keeps_the_cursor_or_gives_the_moment() {
        let since = Position::new(at(95), 7);
        assert_eq!(cursor(Some(since), None, at(100)), since);
        assert_eq!(cursor(None, None, at(100)), Position::floor(at(100)));
    }
}
