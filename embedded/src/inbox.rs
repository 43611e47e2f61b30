//! People's inboxes. Positions are taken inside the write transaction, so they become visible in their own order (R6).
//!
//! What an event shows is stored once per tenant; an entry refers to it. `expires_at` hides an entry,
//! `collect_at` of its notification ends it.

use std::sync::Arc;

use jiff::Timestamp;
use recado_domain::failure::Failure;
use recado_domain::ids::{DeliveryKey, NotificationId, RecipientKey, TenantId};
use recado_domain::limits;
use recado_domain::notification::{Appended, InboxEntry, NewEntry, Notification};
use recado_domain::ports::{Inbox, Marks, Outcome, Page, PageFilter, ReadAll, Unread};
use recado_domain::position::Position;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use crate::database::{json, micros, moment, optional_moment, optional_position};
use crate::failure::spread;
use crate::store::Shared;
use crate::writer::{Change, Durability};

/// The inboxes of a store.
#[derive(Clone)]
pub struct StoredInbox {
    pub(crate) shared: Shared,
}

/// One entry to append, with its content rendered once for all recipients of it.
struct Prepared {
    recipient: String,
    tenant: TenantId,
    notification: Arc<Notification>,
    content: Arc<str>,
}

fn prepare(entries: &[NewEntry]) -> Vec<Prepared> {
    let mut rendered: Option<(Arc<Notification>, Arc<str>)> = None;
    let mut prepared = Vec::with_capacity(entries.len());
    for NewEntry { recipient, notification } in entries {
        let content = match &rendered {
            Some((of, content)) if Arc::ptr_eq(of, notification) => Arc::clone(content),
            _ => serde_json::to_string(&**notification).expect("a notification has string keys only").into(),
        };
        rendered = Some((Arc::clone(notification), Arc::clone(&content)));
        let (key, tenant) = (recipient.joined(), recipient.tenant.clone());
        prepared.push(Prepared { recipient: key, tenant, notification: Arc::clone(notification), content });
    }
    prepared
}

/// A recipient's number and mark.
struct Reader {
    id: i64,
    read_up_to: Option<Position>,
    pending_from: Option<Position>,
}

impl Reader {
    fn marks(&self) -> Marks {
        Marks { read_up_to: self.read_up_to, pending_from: self.pending_from }
    }
}

fn reader(db: &Connection, key: &str) -> rusqlite::Result<Option<Reader>> {
    db.prepare_cached("SELECT id, read_up_to, pending_from FROM recipients WHERE key = ?1")?
        .query_row([key], |row| {
            Ok(Reader { id: row.get(0)?, read_up_to: optional_position(row, 1)?, pending_from: optional_position(row, 2)? })
        })
        .optional()
}

fn reader_or_new(change: &Change<'_>, key: &str) -> rusqlite::Result<Reader> {
    if let Some(reader) = reader(change.db, key)? {
        return Ok(reader);
    }
    let id = change.db.prepare_cached("INSERT INTO recipients (key) VALUES (?1)")?.insert([key])?;
    Ok(Reader { id, read_up_to: None, pending_from: None })
}

/// When an entry was read: by id, or by `read_all`, whose moment is that of its mark.
fn effective_read_at(read_at: Option<Timestamp>, position: Position, read_up_to: Option<Position>) -> Option<Timestamp> {
    read_at.or_else(|| read_up_to.filter(|mark| position <= *mark).map(Position::at))
}

/// What is stored of an entry, `read_all` included.
fn stored(db: &Connection, reader: &Reader, notification: i64) -> rusqlite::Result<Option<Appended>> {
    db.prepare_cached("SELECT position, acked_at, read_at, archived_at FROM entries WHERE notification = ?1 AND recipient = ?2")?
        .query_row(params![notification, reader.id], |row| {
            let position = Position::from_bytes(row.get(0)?);
            let read_at = effective_read_at(optional_moment(row, 2)?, position, reader.read_up_to);
            Ok(Appended { position, inserted: false, acked_at: optional_moment(row, 1)?, read_at, archived_at: optional_moment(row, 3)? })
        })
        .optional()
}

/// The number of a notification and when it may be forgotten.
fn content_of(db: &Connection, tenant: &TenantId, name: NotificationId) -> rusqlite::Result<Option<(i64, Timestamp)>> {
    db.prepare_cached("SELECT id, collect_at FROM notifications WHERE tenant = ?1 AND name = ?2")?
        .query_row(params![tenant.as_str(), name.to_bytes()], |row| Ok((row.get(0)?, moment(row, 1)?)))
        .optional()
}

/// Stores the content if it is new, and keeps it as long as the entry about to refer to it.
fn content_for(change: &Change<'_>, new: &Prepared, known: Option<(i64, Timestamp)>) -> rusqlite::Result<i64> {
    let collect_at = new.notification.collect_at(change.now);
    match known {
        Some((id, at)) if micros(at) >= micros(collect_at) => Ok(id),
        Some((id, _)) => {
            let mut keep = change.db.prepare_cached("UPDATE notifications SET collect_at = ?2 WHERE id = ?1")?;
            keep.execute(params![id, micros(collect_at)])?;
            Ok(id)
        }
        None => change
            .db
            .prepare_cached("INSERT INTO notifications (tenant, name, collect_at, content) VALUES (?1, ?2, ?3, ?4)")?
            .insert(params![new.tenant.as_str(), new.notification.id.to_bytes(), micros(collect_at), &*new.content]),
    }
}

fn append(change: &mut Change<'_>, new: &Prepared) -> rusqlite::Result<Appended> {
    let reader = reader_or_new(change, &new.recipient)?;
    let known = content_of(change.db, &new.tenant, new.notification.id)?;
    if let Some((notification, _)) = known
        && let Some(there) = stored(change.db, &reader, notification)?
    {
        return Ok(there);
    }
    let notification = content_for(change, new, known)?;
    let position = change.next_position()?;
    let expires_at = new.notification.expires_at.map(micros);
    change
        .db
        .prepare_cached("INSERT INTO entries (recipient, position, notification, expires_at) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![reader.id, position.to_bytes(), notification, expires_at])?;
    Ok(Appended { position, inserted: true, acked_at: None, read_at: None, archived_at: None })
}

fn restamp(change: &mut Change<'_>, key: &str, delivery: &DeliveryKey, old: Position) -> rusqlite::Result<Outcome<Appended>> {
    let missing = || Ok(Err(Failure::permanent("the inbox has no such entry")));
    let Some(reader) = reader(change.db, key)? else { return missing() };
    let Some((notification, _)) = content_of(change.db, &delivery.recipient.tenant, delivery.notification)? else { return missing() };
    let Some(there) = stored(change.db, &reader, notification)? else { return missing() };
    if there.position != old {
        return Ok(Ok(there));
    }
    let position = change.next_position()?;
    // `read_at` as `read_all` made it: the new position lies above its mark.
    change.db.prepare_cached("UPDATE entries SET position = ?3, read_at = ?4 WHERE recipient = ?1 AND position = ?2")?.execute(params![
        reader.id,
        old.to_bytes(),
        position.to_bytes(),
        there.read_at.map(micros)
    ])?;
    Ok(Ok(Appended { position, ..there }))
}

const ENTRY: &str = "SELECT e.position, e.acked_at, e.read_at, e.archived_at, n.content
     FROM entries e JOIN notifications n ON n.id = e.notification
     WHERE e.recipient = :recipient AND (e.expires_at IS NULL OR e.expires_at > :now)";

/// A query of a part of one inbox.
#[derive(Debug, Clone, Copy)]
enum Part {
    Since(Position),
    Pending(Marks, Position),
    Page(Option<Position>, PageFilter),
}

impl Part {
    /// The bound of the positions, and the query.
    fn bounds(self) -> (Position, String) {
        match self {
            Self::Since(after) => (after, format!("{ENTRY} AND e.position > :bound ORDER BY e.position LIMIT :limit")),
            Self::Pending(marks, after) => {
                // Entries below `pending_from` are not pending; the one at it may be (R7).
                let from = marks.pending_from.map_or(Position::MIN, before_of);
                let query = format!("{ENTRY} AND e.position > :bound AND e.acked_at IS NULL ORDER BY e.position LIMIT :limit");
                (after.max(from), query)
            }
            Self::Page(before, filter) => {
                let filter = match filter {
                    PageFilter::Inbox => "e.archived_at IS NULL",
                    PageFilter::Unread => "e.archived_at IS NULL AND e.read_at IS NULL AND e.position > :read_up_to",
                    PageFilter::Archived => "e.archived_at IS NOT NULL",
                };
                // `:read_up_to` is named by all of them, so that they take the same parameters.
                let query = format!("{ENTRY} AND e.position < :bound AND {filter} ORDER BY e.position DESC LIMIT :limit");
                (before.unwrap_or(Position::from_bytes([0xff; 16])), query)
            }
        }
    }
}

/// The position below, so that `> before_of(p)` is `>= p`.
fn before_of(position: Position) -> Position {
    Position::from_bytes(u128::from_be_bytes(position.to_bytes()).saturating_sub(1).to_be_bytes())
}

fn entry(row: &Row<'_>, read_up_to: Option<Position>) -> rusqlite::Result<InboxEntry> {
    let position = Position::from_bytes(row.get(0)?);
    Ok(InboxEntry {
        notification: Arc::new(json(row, 4)?),
        position,
        acked_at: optional_moment(row, 1)?,
        read_at: effective_read_at(optional_moment(row, 2)?, position, read_up_to),
        archived_at: optional_moment(row, 3)?,
    })
}

fn read_part(db: &Connection, now: Timestamp, key: &str, part: Part, limit: usize) -> rusqlite::Result<Page> {
    let limit = limit.clamp(1, limits::PAGE_ENTRIES);
    // One snapshot for the marks and the entries.
    let snapshot = db.unchecked_transaction()?;
    let Some(reader) = reader(&snapshot, key)? else { return Ok(Page::default()) };
    let (bound, query) = part.bounds();
    let mut query = snapshot.prepare_cached(&query)?;
    let (bound, read_up_to) = (bound.to_bytes(), reader.read_up_to.unwrap_or(Position::MIN).to_bytes());
    let (now, rows) = (micros(now), limit as i64 + 1);
    let given: [(&str, &dyn ToSql); 5] =
        [(":recipient", &reader.id), (":now", &now), (":bound", &bound), (":limit", &rows), (":read_up_to", &read_up_to)];
    let named = if query.parameter_index(":read_up_to")?.is_some() { &given[..] } else { &given[..4] };
    let mut entries = query.query_map(named, |row| entry(row, reader.read_up_to))?.collect::<rusqlite::Result<Vec<_>>>()?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = entries.last().filter(|_| more).map(|entry| entry.position);
    Ok(Page { entries, more, next, marks: reader.marks() })
}

fn unread(db: &Connection, now: Timestamp, key: &str) -> rusqlite::Result<Unread> {
    let cap = i64::from(limits::UNREAD_CAP) + 1;
    let count: i64 = db
        .prepare_cached(
            "SELECT count(*) FROM (
                 SELECT 1 FROM recipients r JOIN entries e ON e.recipient = r.id
                 WHERE r.key = ?1 AND e.position > ifnull(r.read_up_to, x'') AND e.read_at IS NULL AND e.archived_at IS NULL
                   AND (e.expires_at IS NULL OR e.expires_at > ?2)
                 LIMIT ?3)",
        )?
        .query_row(params![key, micros(now), cap], |row| row.get(0))?;
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    Ok(Unread { count: count.min(limits::UNREAD_CAP), capped: count > limits::UNREAD_CAP })
}

fn read_all(change: &mut Change<'_>, key: &str, up_to: Position) -> rusqlite::Result<ReadAll> {
    let Some(reader) = reader(change.db, key)? else { return Ok(ReadAll::default()) };
    let settled = Position::floor(change.now).back(limits::W);
    let from = settled.max(reader.read_up_to.unwrap_or(Position::MIN));
    let fresh: Vec<(Position, NotificationId)> = change
        .db
        .prepare_cached(
            "SELECT e.position, n.name FROM entries e JOIN notifications n ON n.id = e.notification
             WHERE e.recipient = ?1 AND e.position > ?2 AND e.position <= ?3 AND e.read_at IS NULL
               AND (e.expires_at IS NULL OR e.expires_at > ?4)
             ORDER BY e.position",
        )?
        .query_map(params![reader.id, from.to_bytes(), up_to.to_bytes(), micros(change.now)], |row| {
            Ok((Position::from_bytes(row.get(0)?), NotificationId::from_bytes(row.get(1)?)))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut mark = change.db.prepare_cached("UPDATE entries SET read_at = ?3 WHERE recipient = ?1 AND position = ?2")?;
    for (position, _) in &fresh {
        mark.execute(params![reader.id, position.to_bytes(), micros(change.now)])?;
    }
    let mark = reader.read_up_to.max(Some(up_to.min(settled)));
    if mark != reader.read_up_to {
        let mut raise = change.db.prepare_cached("UPDATE recipients SET read_up_to = ?2 WHERE id = ?1")?;
        raise.execute(params![reader.id, mark.map(Position::to_bytes)])?;
    }
    Ok(ReadAll { ids: fresh.into_iter().map(|(_, id)| id).collect(), up_to: mark })
}

fn advance_pending(change: &mut Change<'_>, key: &str, from: Option<Position>, to: Position) -> rusqlite::Result<bool> {
    let reader = reader_or_new(change, key)?;
    if reader.pending_from != from || Some(to) <= from {
        return Ok(false);
    }
    let mut raise = change.db.prepare_cached("UPDATE recipients SET pending_from = ?2 WHERE id = ?1")?;
    raise.execute(params![reader.id, to.to_bytes()]).map(|_| true)
}

const OF_ID: &str = "recipient = ?1 AND notification = (SELECT id FROM notifications WHERE tenant = ?2 AND name = ?3)";

impl StoredInbox {
    async fn read(&self, recipient: &RecipientKey, part: Part, limit: usize) -> Outcome<Page> {
        let key = recipient.joined();
        self.shared.readers.read(move |db, now| read_part(db, now, &key, part, limit)).await
    }

    /// Sets a state of the entries of these ids where `open` says it is not set.
    async fn set(&self, recipient: &RecipientKey, ids: &[NotificationId], column: &str, open: &str) -> Outcome<Vec<NotificationId>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (key, tenant, ids) = (recipient.joined(), recipient.tenant.clone(), ids.to_vec());
        let update = format!("UPDATE entries SET {column} = ?4 WHERE {OF_ID} AND {open}");
        let work = move |change: &mut Change<'_>| {
            let Some(reader) = reader(change.db, &key)? else { return Ok(Vec::new()) };
            let read_up_to = reader.read_up_to.unwrap_or(Position::MIN).to_bytes();
            let mut update = change.db.prepare_cached(&update)?;
            let mut changed = Vec::new();
            for id in &ids {
                let values = params![reader.id, tenant.as_str(), id.to_bytes(), micros(change.now), read_up_to];
                if update.execute(values)? == 1 {
                    changed.push(*id);
                }
            }
            Ok(changed)
        };
        self.shared.writer.write(Durability::PowerCut, work).await
    }
}

impl Inbox for StoredInbox {
    async fn append(&self, entries: &[NewEntry]) -> Vec<Outcome<Appended>> {
        if entries.is_empty() {
            return Vec::new();
        }
        let prepared = prepare(entries);
        let work = move |change: &mut Change<'_>| prepared.iter().map(|new| append(change, new).map(Ok)).collect();
        spread(self.shared.writer.write(Durability::PowerCut, work).await, entries.len())
    }

    async fn restamp(&self, key: &DeliveryKey, old: Position) -> Outcome<Appended> {
        let (recipient, key) = (key.recipient.joined(), key.clone());
        self.shared.writer.write(Durability::PowerCut, move |change| restamp(change, &recipient, &key, old)).await?
    }

    async fn since(&self, recipient: &RecipientKey, after: Position, limit: usize) -> Outcome<Page> {
        self.read(recipient, Part::Since(after), limit).await
    }

    async fn pending(&self, recipient: &RecipientKey, marks: Marks, after: Position, limit: usize) -> Outcome<Page> {
        self.read(recipient, Part::Pending(marks, after), limit).await
    }

    async fn page(&self, recipient: &RecipientKey, before: Option<Position>, filter: PageFilter, limit: usize) -> Outcome<Page> {
        self.read(recipient, Part::Page(before, filter), limit).await
    }

    async fn marks(&self, recipient: &RecipientKey) -> Outcome<Marks> {
        let key = recipient.joined();
        let found = self.shared.readers.read(move |db, _| reader(db, &key)).await?;
        Ok(found.map_or(Marks::default(), |reader| reader.marks()))
    }

    async fn advance_pending(&self, recipient: &RecipientKey, from: Option<Position>, to: Position) -> Outcome<bool> {
        let key = recipient.joined();
        self.shared.writer.write(Durability::Process, move |change| advance_pending(change, &key, from, to)).await
    }

    async fn acknowledge(&self, recipient: &RecipientKey, ids: &[NotificationId]) -> Outcome<Vec<NotificationId>> {
        self.set(recipient, ids, "acked_at", "acked_at IS NULL AND ?5 = ?5").await
    }

    async fn mark_read(&self, recipient: &RecipientKey, ids: &[NotificationId]) -> Outcome<Vec<NotificationId>> {
        self.set(recipient, ids, "read_at", "read_at IS NULL AND position > ?5").await
    }

    async fn archive(&self, recipient: &RecipientKey, ids: &[NotificationId]) -> Outcome<Vec<NotificationId>> {
        self.set(recipient, ids, "archived_at", "archived_at IS NULL AND ?5 = ?5").await
    }

    async fn read_all(&self, recipient: &RecipientKey, up_to: Position) -> Outcome<ReadAll> {
        let key = recipient.joined();
        self.shared.writer.write(Durability::PowerCut, move |change| read_all(change, &key, up_to)).await
    }

    async fn unread(&self, recipient: &RecipientKey) -> Outcome<Unread> {
        let key = recipient.joined();
        self.shared.readers.read(move |db, now| unread(db, now, &key)).await
    }
}
