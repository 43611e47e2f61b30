//! What was given up, for operators. They stay until they are sent back: nothing here expires.

use std::time::Duration;

use recado_domain::failure::Failure;
use recado_domain::message::{ATTRIBUTE_ATTEMPT, ATTRIBUTE_REASON, Attributes};
use recado_domain::ports::{DeadLetter, DeadLetters, Outcome};
use rusqlite::{OptionalExtension, params};

use crate::database::{json, moment};
use crate::failure::spread;
use crate::queue::{QueueName, attributes_json, insert};
use crate::store::Shared;
use crate::writer::{Change, Durability};

/// The dead letters of one queue of a store.
#[derive(Clone)]
pub struct StoredDeadLetters {
    pub(crate) shared: Shared,
    pub(crate) queue: QueueName,
}

fn redrive(change: &mut Change<'_>, queue: QueueName, id: &str) -> rusqlite::Result<Outcome<()>> {
    let unknown = || Err(Failure::permanent("no dead letter has this id"));
    let Ok(number) = id.parse::<i64>() else { return Ok(unknown()) };
    let removed = change
        .db
        .prepare_cached("DELETE FROM dead_letters WHERE id = ?1 AND queue = ?2 RETURNING attributes, body")?
        .query_row(params![number, queue.number()], |row| Ok((json::<Attributes>(row, 0)?, row.get::<_, String>(1)?)))
        .optional()?;
    let Some((mut attributes, body)) = removed else { return Ok(unknown()) };
    attributes.remove(ATTRIBUTE_REASON);
    attributes.remove(ATTRIBUTE_ATTEMPT);
    insert(change, queue, &body, &attributes_json(&attributes), Duration::ZERO)?;
    Ok(Ok(()))
}

impl DeadLetters for StoredDeadLetters {
    async fn list(&self, max: usize) -> Outcome<Vec<DeadLetter>> {
        let (queue, max) = (self.queue.number(), i64::try_from(max).unwrap_or(i64::MAX));
        let query = move |db: &rusqlite::Connection, _| {
            db.prepare_cached("SELECT id, body, attributes, dead_at FROM dead_letters WHERE queue = ?1 ORDER BY id LIMIT ?2")?
                .query_map(params![queue, max], |row| {
                    let id = row.get::<_, i64>(0)?.to_string();
                    Ok(DeadLetter { id, body: row.get(1)?, attributes: json(row, 2)?, dead_at: moment(row, 3)? })
                })?
                .collect()
        };
        self.shared.readers.read(query).await
    }

    async fn redrive(&self, ids: &[String]) -> Vec<Outcome<()>> {
        let (queue, wanted) = (self.queue, ids.to_vec());
        let work = move |change: &mut Change<'_>| wanted.iter().map(|id| redrive(change, queue, id)).collect();
        spread(self.shared.writer.write(Durability::PowerCut, work).await, ids.len())
    }
}
