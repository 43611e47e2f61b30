//! A user's marks: they only grow, by conditional writes (R7, R8).

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use recado_domain::ids::RecipientKey;
use recado_domain::ports::{Clock, Entropy, Marks, Outcome};
use recado_domain::position::Position;

use super::POSITION;
use super::inbox::Inner;
use super::item::{self, END, Item, Key, PENDING_FROM, READ_UP_TO};
use crate::failure::failure_of;

pub(super) async fn read<K: Clock, E: Entropy>(inbox: &Inner<K, E>, of: &RecipientKey) -> Outcome<Marks> {
    inbox.table.get(&Key::marks(of)).await.map(|item| item::marks_of(item.as_ref()))
}

/// Raises `pending_from` to `to` if it still is `from`; says whether it stands there.
pub(super) async fn advance_pending<K: Clock, E: Entropy>(
    inbox: &Inner<K, E>,
    of: &RecipientKey,
    from: Option<Position>,
    to: Position,
) -> Outcome<bool> {
    if Some(to) <= from {
        return Ok(false);
    }
    let update = raise(inbox, of, PENDING_FROM, to);
    let update = match from {
        Some(from) => update.condition_expression("#mark = :from").expression_attribute_values(":from", item::position(from)),
        None => update.condition_expression("attribute_not_exists(#mark)"),
    };
    // An answer may be lost and the call repeated: where the mark stands at `to`, it was raised.
    Ok(refused(update).await?.is_none_or(|there| item::marks_of(Some(&there)).pending_from == Some(to)))
}

/// Raises `read_up_to` to `to` where it is lower; answers where it stands.
pub(super) async fn raise_read<K: Clock, E: Entropy>(inbox: &Inner<K, E>, of: &RecipientKey, to: Position) -> Outcome<Option<Position>> {
    let update = raise(inbox, of, READ_UP_TO, to).condition_expression("attribute_not_exists(#mark) OR #mark < :to");
    Ok(match refused(update).await? {
        None => Some(to),
        Some(there) => item::marks_of(Some(&there)).read_up_to,
    })
}

fn raise<K: Clock, E: Entropy>(inbox: &Inner<K, E>, of: &RecipientKey, mark: &str, to: Position) -> UpdateItemFluentBuilder {
    inbox
        .table
        .update(&Key::marks(of))
        .update_expression("SET #mark = :to, #position = :end")
        .expression_attribute_names("#mark", mark)
        .expression_attribute_names("#position", POSITION)
        .expression_attribute_values(":to", item::position(to))
        .expression_attribute_values(":end", item::string(END))
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
}

/// Sends a conditional update; answers what is there where the condition did not hold, and nothing where it did.
async fn refused(update: UpdateItemFluentBuilder) -> Outcome<Option<Item>> {
    match update.send().await {
        Ok(_) => Ok(None),
        Err(error) => match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(refusal)) => Ok(Some(refusal.item().cloned().unwrap_or_default())),
            _ => Err(failure_of(&error)),
        },
    }
}
