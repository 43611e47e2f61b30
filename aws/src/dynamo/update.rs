//! States by id: acknowledged, read, archived.
//!
//! `UPDATE` of PartiQL is no upsert: where the entry is missing, or its condition does not hold, the statement fails with
//! `ConditionalCheckFailed` and writes nothing, so no update creates an entry. Such ids are left out of the answer.
//! After a call without an answer the entries that carry the very moment of this update are ours too.

use std::collections::HashSet;

use aws_sdk_dynamodb::types::{BatchStatementRequest, ReturnValuesOnConditionCheckFailure};
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use recado_domain::ids::{NotificationId, RecipientKey};
use recado_domain::ports::{Clock, Entropy, Outcome};
use recado_domain::position::Position;

use super::batch::{self, STATEMENTS, Said};
use super::inbox::Inner;
use super::item;
use super::table::CONCURRENT_CALLS;
use super::{PARTITION_KEY, POSITION, SORT_KEY};

/// One state of a user's entries, about to be set.
#[derive(Debug)]
struct Update {
    partition: String,
    /// The attribute that is set, where it is missing.
    state: &'static str,
    at: Timestamp,
    /// Only entries above.
    above: Option<Position>,
}

/// Sets a state of entries where it is not set; answers those it found and changed. Only entries above `above`.
pub(super) async fn set<K: Clock, E: Entropy>(
    inbox: &Inner<K, E>,
    of: &RecipientKey,
    ids: &[NotificationId],
    state: &'static str,
    above: Option<Position>,
) -> Outcome<Vec<NotificationId>> {
    let update = Update { partition: item::partition(of), state, at: inbox.clock.now(), above };
    // A call must not name an item twice.
    let mut seen = HashSet::new();
    let ids: Vec<NotificationId> = ids.iter().copied().filter(|id| seen.insert(*id)).collect();
    let calls: Vec<_> = ids.chunks(STATEMENTS).map(|batch| send(inbox, &update, batch)).collect();
    stream::iter(calls).buffered(CONCURRENT_CALLS).try_concat().await
}

/// Sends one batch; answers what it changed.
async fn send<K: Clock, E: Entropy>(inbox: &Inner<K, E>, update: &Update, ids: &[NotificationId]) -> Outcome<Vec<NotificationId>> {
    let statement = |at: usize, attempt| update.statement(&inbox.table.name, ids[at], attempt > 1);
    let said = batch::all(batch::settle(&inbox.table, &inbox.entropy, ids.len(), statement).await)?;
    Ok(ids.iter().zip(said).filter(|(_, said)| update.changed(said)).map(|(id, _)| *id).collect())
}

impl Update {
    fn statement(&self, table: &str, id: NotificationId, again: bool) -> BatchStatementRequest {
        let Self { partition, state, at, above } = self;
        let bound = above.map_or(String::new(), |_| format!(" AND \"{POSITION}\" > ?"));
        let mut values = vec![item::moment(*at), item::string(partition), item::string(item::entry_sort_key(id))];
        values.extend(above.map(item::position));
        let statement = BatchStatementRequest::builder()
            .statement(format!(
                "UPDATE \"{table}\" SET \"{state}\" = ? WHERE \"{PARTITION_KEY}\" = ? AND \"{SORT_KEY}\" = ? AND \"{state}\" IS MISSING{bound}"
            ))
            .set_parameters(Some(values));
        // What stands in the way tells an entry that the lost attempt changed from one that somebody else did.
        let in_the_way = again.then_some(ReturnValuesOnConditionCheckFailure::AllOld);
        statement.set_return_values_on_condition_check_failure(in_the_way).build().expect("the statement is set")
    }

    /// Whether a statement changed its entry.
    fn changed(&self, said: &Said) -> bool {
        match said {
            Said::Done => true,
            Said::Unmet(there) => there.as_ref().is_some_and(|there| item::moment_of(there, self.state) == Some(self.at)),
            Said::Taken => false,
        }
    }
}
