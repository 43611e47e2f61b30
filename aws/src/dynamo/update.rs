//! States by id: acknowledged, read, archived.
//!
//! `UPDATE` of PartiQL is no upsert: where the entry is missing, or its condition does not hold, the statement fails with
//! `ConditionalCheckFailed` and writes nothing, so no update creates an entry. Such ids are left out of the answer.
//! After a call without an answer the entries that carry the very moment of this update are ours too.

use std::collections::{HashMap, HashSet};

use aws_sdk_dynamodb::types::{BatchStatementRequest, BatchStatementResponse, ReturnValuesOnConditionCheckFailure};
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use recado_domain::ids::{NotificationId, RecipientKey};
use recado_domain::ports::{Clock, Entropy, Outcome};
use recado_domain::position::Position;

use super::inbox::Inner;
use super::item;
use super::table::{ATTEMPTS, BATCH_WRITES, CONCURRENT_CALLS, pause};
use super::{PARTITION_KEY, POSITION, SORT_KEY};
use crate::failure::{failure_of_entry, unanswered};

const CALL: &str = "DynamoDB BatchExecuteStatement";

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
    let calls: Vec<_> = ids.chunks(BATCH_WRITES).map(|batch| send(inbox, &update, batch)).collect();
    stream::iter(calls).buffered(CONCURRENT_CALLS).try_concat().await
}

/// Sends one batch until each of its entries came to something.
async fn send<K: Clock, E: Entropy>(inbox: &Inner<K, E>, update: &Update, ids: &[NotificationId]) -> Outcome<Vec<NotificationId>> {
    let mut changed: HashMap<NotificationId, bool> = HashMap::new();
    let mut failure = None;
    for attempt in 1..=ATTEMPTS {
        let open: Vec<NotificationId> = ids.iter().copied().filter(|id| !changed.contains_key(id)).collect();
        if open.is_empty() {
            break;
        }
        if attempt > 1 {
            pause(attempt - 1, &inbox.entropy).await;
        }
        let statements = open.iter().map(|id| update.statement(&inbox.table.name, *id, attempt > 1)).collect();
        let mut answers = match inbox.table.execute(statements).await {
            Ok(answers) => answers.into_iter(),
            Err(broken) if broken.failure.is_transient() => {
                failure = Some(broken.failure);
                continue;
            }
            Err(broken) => return Err(broken.failure),
        };
        for id in open {
            match update.came_to(answers.next()) {
                Ok(is_changed) => drop(changed.insert(id, is_changed)),
                Err(refused) if refused.is_transient() => failure = Some(refused),
                Err(refused) => return Err(refused),
            }
        }
    }
    match failure {
        Some(failure) if changed.len() < ids.len() => Err(failure),
        _ => Ok(ids.iter().copied().filter(|id| changed.get(id) == Some(&true)).collect()),
    }
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
    fn came_to(&self, answer: Option<BatchStatementResponse>) -> Outcome<bool> {
        let answer = answer.ok_or_else(|| unanswered(CALL))?;
        let Some(error) = answer.error else { return Ok(true) };
        match error.code.as_ref().map_or("", |code| code.as_str()) {
            "ConditionalCheckFailed" => Ok(error.item.is_some_and(|there| item::moment_of(&there, self.state) == Some(self.at))),
            code => Err(failure_of_entry(CALL, code, error.message.as_deref())),
        }
    }
}
