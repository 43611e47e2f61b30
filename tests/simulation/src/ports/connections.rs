//! Who is connected.

use std::sync::Arc;
use std::time::Duration;

use recado_domain::connection::Connection;
use recado_domain::failure::Failure;
use recado_domain::ids::{ConnectionId, RecipientKey};
use recado_domain::limits;
use recado_domain::ports::{Connections, Outcome, Registered};

use tokio::time::sleep;

use super::Way;
use crate::breakage::Breakage;
use crate::chance::{Dice, name};
use crate::coverage::Happening;
use crate::lock;
use crate::process::Call;
use crate::world::{World, at_once, short};

pub(crate) struct SimConnections(pub(crate) Way);

/// How old an answer of a broken cache may be.
const CACHED: Duration = Duration::from_secs(5);

impl SimConnections {
    async fn one<T: Send + 'static>(
        &self,
        name: &'static str,
        about: impl FnOnce() -> String,
        apply: impl FnOnce(&Arc<World>) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let Way { world, process } = &self.0;
        let (time, there) = (self.0.time(), world.clone());
        let apply = move || {
            time();
            apply(&there)
        };
        process.call_one(Call::new(world, name, about), apply).await
    }
}

impl Connections for SimConnections {
    async fn register(&self, recipient: &RecipientKey, connection: &Connection) -> Outcome<Registered> {
        let (recipient, connection) = (recipient.clone(), connection.clone());
        let about = format!("{}", connection.id);
        self.one(
            "register",
            || about,
            move |world| {
                let row = if world.breakage == Some(Breakage::LiveAtOnce) { connection.live() } else { connection };
                at_once(world.connections.register(&recipient, &row))
            },
        )
        .await
    }

    async fn of_users(&self, recipients: &[RecipientKey]) -> Vec<Outcome<Vec<Connection>>> {
        let Way { world, process } = &self.0;
        let about = || recipients.iter().map(short).collect::<Vec<_>>().join(", ");
        let call = Call::new(world, "of_users", about).of(recipients.len());
        let (there, time, recipients) = (world.clone(), self.0.time(), recipients.to_vec());
        let apply = move |arriving: &[usize]| {
            time();
            arriving.iter().map(|at| Ok(rows(&there, &recipients[*at]).into_iter().map(|row| seen(&there, row)).collect())).collect()
        };
        process.call(call, apply).await
    }

    async fn owner(&self, id: &ConnectionId) -> Outcome<Option<(RecipientKey, Connection)>> {
        let id = id.clone();
        let about = format!("of {id}");
        self.one(
            "owner",
            || about,
            move |world| {
                let owner = at_once(world.connections.owner(&id))?;
                Ok(owner.map(|(recipient, row)| (recipient, seen(world, row))))
            },
        )
        .await
    }

    async fn mark_live(&self, recipient: &RecipientKey, connection: &Connection, create: bool) -> Outcome<bool> {
        let (recipient, connection) = (recipient.clone(), connection.clone());
        let about = format!("{}", connection.id);
        self.one(
            "mark_live",
            || about,
            move |world| {
                let create = create && world.breakage != Some(Breakage::SyncCreatesNothing);
                let missing = world.connections.rows(&recipient).iter().all(|row| row.id != connection.id);
                let there = match world.breakage {
                    Some(Breakage::LiveTooLate) => mark_live_later(world, recipient, connection.clone()),
                    _ => at_once(world.connections.mark_live(&recipient, &connection, create)),
                };
                if missing && there == Ok(true) {
                    world.count(Happening::RowWritten);
                }
                let at = world.elapsed();
                if there == Ok(true)
                    && let Some(session) = lock(&world.ledger).session(&connection.id)
                {
                    session.live.get_or_insert(at);
                }
                there
            },
        )
        .await
    }

    async fn remove(&self, recipient: &RecipientKey, id: &ConnectionId) -> Outcome<()> {
        let (recipient, id) = (recipient.clone(), id.clone());
        let about = format!("{id}");
        self.one(
            "remove",
            || about,
            move |world| {
                ends_halfway(world, &recipient, &id)?;
                at_once(world.connections.remove(&recipient, &id))
            },
        )
        .await
    }

    async fn remove_unchanged(&self, recipient: &RecipientKey, seen: &Connection) -> Outcome<bool> {
        let (recipient, seen) = (recipient.clone(), seen.clone());
        let about = format!("{}", seen.id);
        self.one(
            "remove_unchanged",
            || about,
            move |world| {
                if world.connections.rows(&recipient).contains(&seen) {
                    ends_halfway(world, &recipient, &seen.id)?;
                }
                let removed = remove_unchanged(world, &recipient, &seen);
                if removed == Ok(true) {
                    world.count(Happening::RowRemoved);
                }
                removed
            },
        )
        .await
    }
}

/// A removal is two writes, the row and then the reverse item: now and then only the first happens.
fn ends_halfway(world: &World, recipient: &RecipientKey, id: &ConnectionId) -> Outcome<()> {
    let at = world.elapsed().as_millis() as u64;
    let dice = Dice::new(world.scenario.seed, &[name("halfway"), name(id.as_str()), at]);
    if world.is_quiet() || !dice.chance(world.scenario.weather.transient) {
        return Ok(());
    }
    world.count(Happening::Halfway);
    world.note("store", || format!("removes the row of {id} and not its reverse item"));
    world.connections.remove_halfway(recipient, id);
    Err(Failure::transient("busy"))
}

/// A row as a caller sees it.
fn seen(world: &World, row: Connection) -> Connection {
    if world.breakage != Some(Breakage::RemovesOnAny410) {
        return row;
    }
    // Too old for any grace.
    Connection { registered_at: row.registered_at - limits::W * 2, ..row }
}

fn remove_unchanged(world: &World, recipient: &RecipientKey, seen: &Connection) -> Outcome<bool> {
    if world.breakage == Some(Breakage::RemovesOnAny410) {
        return at_once(world.connections.remove(recipient, &seen.id)).map(|()| true);
    }
    at_once(world.connections.remove_unchanged(recipient, seen))
}

/// Answers that a row is live, and makes it so later.
fn mark_live_later(world: &Arc<World>, recipient: RecipientKey, connection: Connection) -> Outcome<bool> {
    let world = world.clone();
    tokio::spawn(async move {
        sleep(CACHED).await;
        at_once(world.connections.mark_live(&recipient, &connection, true)).ok();
    });
    Ok(true)
}

fn rows(world: &World, recipient: &RecipientKey) -> Vec<Connection> {
    if world.breakage != Some(Breakage::CachedLookup) {
        return world.connections.rows(recipient);
    }
    let now = world.elapsed();
    let mut cache = lock(&world.cache);
    match cache.get(recipient) {
        Some((at, rows)) if now - *at < CACHED => rows.clone(),
        _ => {
            let rows = world.connections.rows(recipient);
            cache.insert(recipient.clone(), (now, rows.clone()));
            rows
        }
    }
}
