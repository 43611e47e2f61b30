//! Moves an entry to a position of this moment (R6).
//!
//! Two calls: what stands there, with the marks; then the move, in one transaction with a check that the marks are
//! still those, so that a `read_all` in between is not forgotten. Rare: only an answer later than W/2 leads here.

use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{ConditionCheck, TransactWriteItem, Update};
use recado_domain::failure::Failure;
use recado_domain::ids::DeliveryKey;
use recado_domain::notification::Appended;
use recado_domain::ports::{Clock, Entropy, Marks, Outcome};
use recado_domain::position::Position;

use super::POSITION;
use super::append::{STORED, stored};
use super::inbox::Inner;
use super::item::{self, Key, READ_AT, READ_UP_TO};
use super::table::{ATTEMPTS, pause};
use crate::failure::failure_of;

/// Moves an entry from `old`, if it still stands there; answers what is stored.
pub(super) async fn restamp<K: Clock, E: Entropy>(inbox: &Inner<K, E>, delivery: &DeliveryKey, old: Position) -> Outcome<Appended> {
    let (key, marks_key) = (Key::entry(delivery), Key::marks(&delivery.recipient));
    let mut failure = Failure::transient("DynamoDB TransactWriteItems: the entry or the marks changed meanwhile, again and again");
    for attempt in 1..=ATTEMPTS {
        if attempt > 1 {
            pause(attempt - 1, &inbox.entropy).await;
        }
        let got = inbox.table.get_all([key.clone(), marks_key.clone()], &STORED, &inbox.entropy).await;
        let marks = item::marks_of(got.item(&marks_key)?);
        let there = got.item(&key)?.ok_or_else(|| Failure::permanent("the inbox has no such entry"))?;
        let there = stored(there, marks)?;
        // Moved by somebody else, or by an attempt of ours whose answer was lost.
        if there.position != old {
            return Ok(there);
        }
        let moved = Appended { position: inbox.take_position(), ..there };
        match transact(inbox, (&key, &marks_key), old, moved, marks).await {
            Ok(()) => return Ok(moved),
            Err(refused) if refused.is_transient() => failure = refused,
            Err(refused) => return Err(refused),
        }
    }
    Err(failure)
}

/// Moves the entry where it still stands at `old` and the marks are still these.
async fn transact<K: Clock, E: Entropy>(
    inbox: &Inner<K, E>,
    (entry, marks_key): (&Key, &Key),
    old: Position,
    moved: Appended,
    marks: Marks,
) -> Outcome<()> {
    let table = &*inbox.table.name;
    let mut update = Update::builder()
        .table_name(table)
        .set_key(Some(entry.attributes()))
        .condition_expression("#position = :old")
        .expression_attribute_names("#position", POSITION)
        .expression_attribute_values(":old", item::position(old))
        .expression_attribute_values(":new", item::position(moved.position));
    // As `read_all` made it: the new position lies above its mark.
    update = match moved.read_at {
        Some(read_at) => update
            .update_expression("SET #position = :new, #read_at = :read_at")
            .expression_attribute_names("#read_at", READ_AT)
            .expression_attribute_values(":read_at", item::moment(read_at)),
        None => update.update_expression("SET #position = :new"),
    };
    let mut check =
        ConditionCheck::builder().table_name(table).set_key(Some(marks_key.attributes())).expression_attribute_names("#mark", READ_UP_TO);
    check = match marks.read_up_to {
        Some(mark) => check.condition_expression("#mark = :mark").expression_attribute_values(":mark", item::position(mark)),
        None => check.condition_expression("attribute_not_exists(#mark)"),
    };
    let update = TransactWriteItem::builder().update(update.build().expect("all of an update is set")).build();
    let check = TransactWriteItem::builder().condition_check(check.build().expect("all of a check is set")).build();
    let answer = inbox.table.once.transact_write_items().transact_items(update).transact_items(check).send().await;
    answer.map(drop).map_err(|error| match error.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(canceled)) => why(canceled.cancellation_reasons()),
        _ => failure_of(&error),
    })
}

/// Why a transaction was canceled: the first of its parts that says so.
fn why(reasons: &[aws_sdk_dynamodb::types::CancellationReason]) -> Failure {
    let code = reasons.iter().filter_map(|reason| reason.code()).find(|code| *code != "None").unwrap_or_default();
    match code {
        "ConditionalCheckFailed" => Failure::transient("DynamoDB TransactWriteItems: the entry or the marks changed meanwhile"),
        code => crate::failure::failure_of_entry("DynamoDB TransactWriteItems", code, None),
    }
}
