//! A queue with leases on a table. Must not know: what a message carries.
//!
//! A token names a message and the receive that leased it, so it becomes stale when the message is received again,
//! given back, or gone.

use std::time::Duration;

use jiff::Timestamp;
use recado_domain::failure::Failure;
use recado_domain::limits;
use recado_domain::message::{ATTRIBUTE_REASON, Attributes};
use recado_domain::ports::{AckToken, Outcome, Outgoing, Queue, Received};
use rusqlite::{OptionalExtension, params};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::database::{json, micros, micros_after};
use crate::failure::spread;
use crate::store::Shared;
use crate::writer::{Change, Durability, Work};

/// Messages of one receive: as many as fill a batch of the dispatcher.
const MAX_BATCH: usize = 256;
/// Another process may send or redrive: look at least so often.
const LOOK: Duration = Duration::from_secs(1);

/// The queues there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueName {
    /// What the dispatcher drains.
    Inbox,
    /// What the e-mail worker drains.
    Email,
}

impl QueueName {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Inbox, Self::Email];

    /// For commands, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbox => "inbox",
            Self::Email => "email",
        }
    }

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Inbox => 0,
            Self::Email => 1,
        }
    }

    /// As stored.
    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Inbox => 1,
            Self::Email => 2,
        }
    }
}

/// A text that names no queue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no queue; there are `inbox` and `email`")]
pub struct UnknownQueue;

impl std::str::FromStr for QueueName {
    type Err = UnknownQueue;

    fn from_str(text: &str) -> Result<Self, UnknownQueue> {
        Self::ALL.into_iter().find(|queue| queue.as_str() == text).ok_or(UnknownQueue)
    }
}

/// One queue of a store.
#[derive(Clone)]
pub struct StoredQueue {
    pub(crate) shared: Shared,
    pub(crate) name: QueueName,
}

/// Puts a message into a queue.
pub(crate) fn insert(change: &mut Change<'_>, queue: QueueName, body: &str, attributes: &str, delay: Duration) -> rusqlite::Result<()> {
    let visible_at = micros_after(change.now, delay.min(limits::QUEUE_DELAY));
    change.db.prepare_cached("INSERT INTO messages (queue, visible_at, attributes, body) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
        queue.number(),
        visible_at,
        attributes,
        body
    ])?;
    change.touch(queue);
    Ok(())
}

/// Attributes as stored.
pub(crate) fn attributes_json(attributes: &Attributes) -> String {
    serde_json::to_string(attributes).expect("attributes are text")
}

/// What a lease transaction found.
struct Leased {
    messages: Vec<Received>,
    /// When the next one becomes visible, where none is now.
    next: Option<i64>,
}

impl StoredQueue {
    async fn lease(&self, max: usize, visibility: Duration) -> Outcome<Leased> {
        let queue = self.name;
        let give_back = |leased: Leased| -> Work {
            let tokens: Vec<_> = leased.messages.into_iter().map(|message| message.token).collect();
            Box::new(move |change| tokens.iter().try_for_each(|token| undo_lease(change, token)))
        };
        self.shared.writer.take(give_back, move |change| lease(change, queue, max, visibility)).await
    }

    /// Runs one statement's worth of work for each token, in one transaction.
    async fn each<T, F>(&self, durability: Durability, entries: Vec<T>, mut work: F) -> Vec<Outcome<()>>
    where
        T: Send + 'static,
        F: FnMut(&mut Change<'_>, &T) -> rusqlite::Result<bool> + Send + 'static,
    {
        if entries.is_empty() {
            return Vec::new();
        }
        let count = entries.len();
        let batch = self.shared.writer.write(durability, move |change| {
            entries.iter().map(|entry| Ok(if work(change, entry)? { Ok(()) } else { Err(stale()) })).collect::<rusqlite::Result<Vec<_>>>()
        });
        spread(batch.await, count)
    }
}

fn stale() -> Failure {
    Failure::permanent("the lease is over: the message was received again, given back or settled")
}

fn token(id: i64, lease: i64) -> AckToken {
    AckToken(format!("{id}.{lease}"))
}

/// Message and lease of a token; a foreign one names none.
fn parse(token: &AckToken) -> (i64, i64) {
    let parts = token.0.split_once('.').and_then(|(id, lease)| Some((id.parse().ok()?, lease.parse().ok()?)));
    parts.unwrap_or((-1, -1))
}

fn lease(change: &mut Change<'_>, queue: QueueName, max: usize, visibility: Duration) -> rusqlite::Result<Leased> {
    let now = micros(change.now);
    let messages: Vec<(i64, Received)> = change
        .db
        .prepare_cached(
            "SELECT id, received + 1, attributes, body FROM messages
             WHERE queue = ?1 AND visible_at <= ?2 ORDER BY visible_at, id LIMIT ?3",
        )?
        .query_map(params![queue.number(), now, max as i64], |row| {
            let (id, count): (i64, i64) = (row.get(0)?, row.get(1)?);
            let receive_count = u32::try_from(count).unwrap_or(u32::MAX);
            let (attributes, body) = (json(row, 2)?, row.get(3)?);
            Ok((id, Received { token: token(id, count), message_id: id.to_string(), body, attributes, receive_count }))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let until = micros_after(change.now, visibility.min(limits::QUEUE_VISIBILITY));
    let mut hide =
        change.db.prepare_cached("UPDATE messages SET visible_at = ?2, received = received + 1, lease = received + 1 WHERE id = ?1")?;
    for (id, _) in &messages {
        hide.execute(params![id, until])?;
    }
    let next = if messages.is_empty() { next_visible(change, queue)? } else { None };
    Ok(Leased { messages: messages.into_iter().map(|(_, message)| message).collect(), next })
}

fn next_visible(change: &Change<'_>, queue: QueueName) -> rusqlite::Result<Option<i64>> {
    let mut query = change.db.prepare_cached("SELECT min(visible_at) FROM messages WHERE queue = ?1")?;
    query.query_row([queue.number()], |row| row.get(0))
}

/// As if the message had not been received.
fn undo_lease(change: &mut Change<'_>, token: &AckToken) -> rusqlite::Result<()> {
    let (id, lease) = parse(token);
    let queue = change
        .db
        .prepare_cached(
            "UPDATE messages SET visible_at = ?3, received = received - 1, lease = NULL WHERE id = ?1 AND lease = ?2 RETURNING queue",
        )?
        .query_row(params![id, lease, micros(change.now)], |row| row.get::<_, i64>(0))
        .optional()?;
    if let Some(queue) = QueueName::ALL.into_iter().find(|name| Some(name.number()) == queue) {
        change.touch(queue);
    }
    Ok(())
}

fn hide_for(change: &mut Change<'_>, queue: QueueName, token: &AckToken, by: Duration, keep_lease: bool) -> rusqlite::Result<bool> {
    let (id, lease) = parse(token);
    let visible_at = micros_after(change.now, by.min(limits::QUEUE_VISIBILITY));
    let mut update = change
        .db
        .prepare_cached("UPDATE messages SET visible_at = ?3, lease = iif(?4, lease, NULL) WHERE id = ?1 AND lease = ?2 AND queue = ?5")?;
    Ok(update.execute(params![id, lease, visible_at, keep_lease, queue.number()])? == 1)
}

fn reject(change: &mut Change<'_>, queue: QueueName, message: &AckToken, reason: &str) -> rusqlite::Result<bool> {
    let (id, lease) = parse(message);
    let removed = change
        .db
        .prepare_cached("DELETE FROM messages WHERE id = ?1 AND lease = ?2 AND queue = ?3 RETURNING attributes, body")?
        .query_row(params![id, lease, queue.number()], |row| Ok((json::<Attributes>(row, 0)?, row.get::<_, String>(1)?)))
        .optional()?;
    let Some((mut attributes, body)) = removed else { return Ok(false) };
    attributes.insert(ATTRIBUTE_REASON.to_owned(), reason.to_owned());
    change.db.prepare_cached("INSERT INTO dead_letters (queue, dead_at, attributes, body) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
        queue.number(),
        micros(change.now),
        attributes_json(&attributes),
        body
    ])?;
    Ok(true)
}

/// Waits until there may be something: a commit that touched the queue, the next visible message, or the next look.
async fn something_new(wake: &mut watch::Receiver<u64>, next: Option<i64>, now: Timestamp, left: Duration) {
    let due = next.map_or(LOOK, |at| Duration::from_micros(u64::try_from(at.saturating_sub(micros(now))).unwrap_or(0)));
    // A millisecond more than nothing: a clock that stands still must not make this spin.
    let pause = due.clamp(Duration::from_millis(1), LOOK).min(left);
    tokio::select! {
        changed = wake.changed() => if changed.is_err() { tokio::time::sleep(pause).await },
        () = tokio::time::sleep(pause) => {}
    }
}

impl Queue for StoredQueue {
    fn max_batch(&self) -> usize {
        MAX_BATCH
    }

    async fn receive(&self, max: usize, wait: Duration, visibility: Duration) -> Outcome<Vec<Received>> {
        let max = max.min(MAX_BATCH);
        if max == 0 {
            return Ok(Vec::new());
        }
        let deadline = Instant::now() + wait.min(limits::QUEUE_POLL);
        let mut wake = self.shared.wake[self.name.index()].clone();
        loop {
            // Before the look, so that what is committed during it wakes the wait.
            wake.mark_unchanged();
            let leased = self.lease(max, visibility).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            if !leased.messages.is_empty() || left.is_zero() {
                return Ok(leased.messages);
            }
            something_new(&mut wake, leased.next, self.shared.clock.now(), left).await;
        }
    }

    async fn ack(&self, tokens: &[AckToken]) -> Vec<Outcome<()>> {
        let queue = self.name.number();
        // A power cut may take it back: then the message is received again, which its receiver must bear anyway.
        self.each(Durability::Process, tokens.to_vec(), move |change, token| {
            let (id, lease) = parse(token);
            let mut delete = change.db.prepare_cached("DELETE FROM messages WHERE id = ?1 AND lease = ?2 AND queue = ?3")?;
            Ok(delete.execute(params![id, lease, queue])? == 1)
        })
        .await
    }

    async fn extend(&self, tokens: &[AckToken], visibility: Duration) -> Vec<Outcome<()>> {
        let queue = self.name;
        let hide = move |change: &mut Change<'_>, token: &AckToken| hide_for(change, queue, token, visibility, true);
        self.each(Durability::Process, tokens.to_vec(), hide).await
    }

    async fn release(&self, messages: &[(AckToken, Duration)]) -> Vec<Outcome<()>> {
        let queue = self.name;
        self.each(Durability::Process, messages.to_vec(), move |change, (token, hidden)| {
            change.touch(queue);
            hide_for(change, queue, token, *hidden, false)
        })
        .await
    }

    async fn reject(&self, messages: &[(Received, String)]) -> Vec<Outcome<()>> {
        let queue = self.name;
        let messages: Vec<_> = messages.iter().map(|(message, reason)| (message.token.clone(), reason.clone())).collect();
        self.each(Durability::PowerCut, messages, move |change, (token, reason)| reject(change, queue, token, reason)).await
    }

    async fn send(&self, messages: &[Outgoing]) -> Vec<Outcome<()>> {
        let queue = self.name;
        let messages: Vec<_> =
            messages.iter().map(|message| (message.body.clone(), attributes_json(&message.attributes), message.delay)).collect();
        self.each(Durability::PowerCut, messages, move |change, (body, attributes, delay)| {
            insert(change, queue, body, attributes, *delay).map(|()| true)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_names_its_message_and_its_lease() {
        assert_eq!(parse(&token(17, 3)), (17, 3));
    }

    #[test]
    fn queues_have_names() {
        assert_eq!("email".parse(), Ok(QueueName::Email));
        assert_eq!("mail".parse::<QueueName>(), Err(UnknownQueue));
    }

    proptest! {
        #[test]
        fn any_text_as_a_token_is_read_without_a_panic(text in ".*") {
            let _: (i64, i64) = parse(&AckToken(text));
        }
    }
}
