//! Who is connected. Rows are small and outlive no process: a commit of theirs need not be synchronised.

use recado_domain::connection::{Connection, Phase};
use recado_domain::ids::{ConnectionId, RecipientKey};
use recado_domain::limits;
use recado_domain::ports::{Connections, Outcome, Registered};
use rusqlite::{Connection as Database, OptionalExtension, params};

use crate::database::{json, micros};
use crate::failure::spread;
use crate::store::Shared;
use crate::writer::{Change, Durability};

/// The connections of a store.
#[derive(Clone)]
pub struct StoredConnections {
    pub(crate) shared: Shared,
}

fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("a connection has string keys only")
}

fn rows(db: &Database, recipient: &str) -> rusqlite::Result<Vec<Connection>> {
    db.prepare_cached("SELECT row FROM connections WHERE recipient = ?1 ORDER BY registered_at, id")?
        .query_map([recipient], |row| json(row, 0))?
        .collect()
}

fn put(change: &Change<'_>, recipient: &str, connection: &Connection) -> rusqlite::Result<()> {
    change
        .db
        .prepare_cached("INSERT OR REPLACE INTO connections (recipient, id, registered_at, row) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![recipient, connection.id.as_str(), micros(connection.registered_at), to_json(connection)])
        .map(drop)
}

fn remove_row(change: &Change<'_>, recipient: &str, id: &ConnectionId) -> rusqlite::Result<()> {
    change.db.prepare_cached("DELETE FROM connections WHERE recipient = ?1 AND id = ?2")?.execute(params![recipient, id.as_str()]).map(drop)
}

/// Removes row and reverse item; the latter only where it is this recipient's.
fn remove(change: &Change<'_>, recipient: &RecipientKey, id: &ConnectionId) -> rusqlite::Result<()> {
    remove_row(change, &recipient.joined(), id)?;
    change
        .db
        .prepare_cached("DELETE FROM connection_owners WHERE id = ?1 AND recipient = ?2")?
        .execute(params![id.as_str(), to_json(recipient)])
        .map(drop)
}

/// Writes the reverse item; one that is there keeps the row as it was registered, unless this `replaces` it.
fn put_owner(change: &Change<'_>, recipient: &RecipientKey, connection: &Connection, replaces: bool) -> rusqlite::Result<()> {
    let insert = if replaces { "INSERT OR REPLACE" } else { "INSERT OR IGNORE" };
    let query = format!("{insert} INTO connection_owners (id, registered_at, recipient, row) VALUES (?1, ?2, ?3, ?4)");
    change
        .db
        .prepare_cached(&query)?
        .execute(params![connection.id.as_str(), micros(connection.registered_at), to_json(recipient), to_json(connection)])
        .map(drop)
}

fn row_of(db: &Database, recipient: &str, id: &ConnectionId) -> rusqlite::Result<Option<Connection>> {
    db.prepare_cached("SELECT row FROM connections WHERE recipient = ?1 AND id = ?2")?
        .query_row(params![recipient, id.as_str()], |row| json(row, 0))
        .optional()
}

/// Removes what is stale or above the cap, oldest first, never `new`. Says what was above the cap: the reverse item
/// of those stays until their sockets are gone, so that somebody can say whose they are.
fn prune(change: &Change<'_>, recipient: &RecipientKey, new: &ConnectionId) -> rusqlite::Result<Vec<Connection>> {
    let key = recipient.joined();
    let (stale, mut kept): (Vec<_>, Vec<_>) =
        rows(change.db, &key)?.into_iter().filter(|row| row.id != *new).partition(|row| row.is_stale(change.now));
    for row in &stale {
        remove(change, recipient, &row.id)?;
    }
    // The new one counts too.
    kept.truncate((kept.len() + 1).saturating_sub(limits::CONNECTIONS_PER_USER));
    for row in &kept {
        remove_row(change, &key, &row.id)?;
    }
    Ok(kept)
}

impl Connections for StoredConnections {
    async fn register(&self, recipient: &RecipientKey, connection: &Connection) -> Outcome<Registered> {
        let (recipient, connection) = (recipient.clone(), connection.clone());
        let work = move |change: &mut Change<'_>| {
            put_owner(change, &recipient, &connection, true)?;
            let there = row_of(change.db, &recipient.joined(), &connection.id)?;
            if there.is_none_or(|row| row.phase != Phase::Live) {
                put(change, &recipient.joined(), &connection)?;
            }
            Ok(Registered { replaced: prune(change, &recipient, &connection.id)? })
        };
        self.shared.writer.write(Durability::Process, work).await
    }

    async fn of_users(&self, recipients: &[RecipientKey]) -> Vec<Outcome<Vec<Connection>>> {
        let keys: Vec<_> = recipients.iter().map(RecipientKey::joined).collect();
        let query = move |db: &Database, _| keys.iter().map(|key| rows(db, key).map(Ok)).collect();
        spread(self.shared.readers.read(query).await, recipients.len())
    }

    async fn owner(&self, id: &ConnectionId) -> Outcome<Option<(RecipientKey, Connection)>> {
        let id = id.clone();
        let query = move |db: &Database, _| {
            db.prepare_cached("SELECT recipient, row FROM connection_owners WHERE id = ?1")?
                .query_row([id.as_str()], |row| Ok((json(row, 0)?, json(row, 1)?)))
                .optional()
        };
        self.shared.readers.read(query).await
    }

    async fn mark_live(&self, recipient: &RecipientKey, connection: &Connection, create: bool) -> Outcome<bool> {
        let (recipient, live) = (recipient.clone(), connection.live());
        let work = move |change: &mut Change<'_>| {
            let key = recipient.joined();
            let there = row_of(change.db, &key, &live.id)?.is_some();
            if !there && create {
                put_owner(change, &recipient, &live, false)?;
            }
            if there || create {
                put(change, &key, &live)?;
            }
            Ok(there || create)
        };
        self.shared.writer.write(Durability::Process, work).await
    }

    async fn remove(&self, recipient: &RecipientKey, id: &ConnectionId) -> Outcome<()> {
        let (recipient, id) = (recipient.clone(), id.clone());
        self.shared.writer.write(Durability::Process, move |change| remove(change, &recipient, &id)).await
    }

    async fn remove_unchanged(&self, recipient: &RecipientKey, seen: &Connection) -> Outcome<bool> {
        let (recipient, seen) = (recipient.clone(), seen.clone());
        let work = move |change: &mut Change<'_>| {
            let unchanged = row_of(change.db, &recipient.joined(), &seen.id)?.as_ref() == Some(&seen);
            if unchanged {
                remove(change, &recipient, &seen.id)?;
            }
            Ok(unchanged)
        };
        self.shared.writer.write(Durability::Process, work).await
    }
}
