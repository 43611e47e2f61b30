//! Who sends which mail: one conditional write each. Must not know: how mail is sent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use jiff::Timestamp;
use recado_domain::failure::Failure;
use recado_domain::ids::DeliveryKey;
use recado_domain::limits;
use recado_domain::ports::{Claim, Clock, MailClaims, Outcome};

use super::TIME_TO_LIVE;
use super::item::{self, Item, Key};
use super::table::Table;
use crate::clients::Clients;
use crate::failure::failure_of;

const HOLDER: &str = "holder";
const HELD_UNTIL: &str = "held_until";
const SENT_AT: &str = "sent_at";
/// Everybody who gave the claim back, at most one for each try of a mail. Where a claim is written late, after its holder has gone on and
/// given it back, nobody would give it back again: the mail would wait for the end of its lease.
const ABANDONED_BY: &str = "abandoned_by";

/// [`MailClaims`] on DynamoDB. They are kept for [`limits::RETENTION`], as inbox entries are, so that a late redrive
/// sends nothing twice.
pub struct DynamoClaims<K>(Arc<Inner<K>>);

struct Inner<K> {
    table: Table,
    clock: K,
}

impl<K> Clone for DynamoClaims<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> fmt::Debug for DynamoClaims<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DynamoClaims").field(&self.0.table).finish()
    }
}

impl<K: Clock> DynamoClaims<K> {
    /// The claims in the table of this name.
    pub fn new(clients: &Clients, table: &str, clock: K) -> Self {
        Self(Arc::new(Inner { table: Table::new(clients, table), clock }))
    }
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// What a claim that was refused is up against.
fn held_by(there: Option<&Item>) -> Outcome<Claim> {
    let there = there.ok_or_else(|| Failure::transient("DynamoDB UpdateItem: the claim was refused, and what holds it was not said"))?;
    if there.contains_key(SENT_AT) {
        return Ok(Claim::Sent);
    }
    if there.contains_key(ABANDONED_BY) && !there.contains_key(HOLDER) {
        return Err(Failure::transient("DynamoDB UpdateItem: this claim was given back already"));
    }
    let until = item::moment_of(there, HELD_UNTIL);
    until.map(Claim::HeldUntil).ok_or_else(|| Failure::permanent("the claim of this mail cannot be read; it was not written by Recado"))
}

impl<K: Clock> MailClaims for DynamoClaims<K> {
    async fn claim(&self, key: &DeliveryKey, holder: &str, lease: Duration) -> Outcome<Claim> {
        let Inner { table, clock } = &*self.0;
        let now = clock.now();
        let update = table
            .update(&Key::claim(key))
            .update_expression("SET #holder = :holder, #held_until = :until, #ttl = :ttl")
            // Nobody's, or nobody's any more, or ours: which also makes a call that is repeated harmless. Not one that was given back.
            .condition_expression(
                "attribute_not_exists(#sent_at) AND (attribute_not_exists(#abandoned_by) OR NOT contains(#abandoned_by, :holder)) \
                 AND (attribute_not_exists(#holder) OR #holder = :holder OR #held_until <= :now)",
            )
            .expression_attribute_names("#abandoned_by", ABANDONED_BY)
            .expression_attribute_names("#holder", HOLDER)
            .expression_attribute_names("#held_until", HELD_UNTIL)
            .expression_attribute_names("#sent_at", SENT_AT)
            .expression_attribute_names("#ttl", TIME_TO_LIVE)
            .expression_attribute_values(":holder", item::string(holder))
            .expression_attribute_values(":until", item::moment(later(now, lease)))
            .expression_attribute_values(":now", item::moment(now))
            .expression_attribute_values(":ttl", item::seconds(later(now, limits::RETENTION)))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match update.send().await {
            Ok(_) => Ok(Claim::Taken),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refusal)) => held_by(refusal.item()),
                _ => Err(failure_of(&error)),
            },
        }
    }

    async fn confirm(&self, key: &DeliveryKey) -> Outcome<()> {
        let Inner { table, clock } = &*self.0;
        let now = clock.now();
        let update = table
            .update(&Key::claim(key))
            .update_expression("SET #sent_at = if_not_exists(#sent_at, :now), #ttl = :ttl")
            .expression_attribute_names("#sent_at", SENT_AT)
            .expression_attribute_names("#ttl", TIME_TO_LIVE)
            .expression_attribute_values(":now", item::moment(now))
            .expression_attribute_values(":ttl", item::seconds(later(now, limits::RETENTION)));
        update.send().await.map(drop).map_err(|error| failure_of(&error))
    }

    async fn abandon(&self, key: &DeliveryKey, holder: &str) -> Outcome<()> {
        let update = self
            .0
            .table
            .update(&Key::claim(key))
            .update_expression("ADD #abandoned_by :holders REMOVE #holder, #held_until")
            .condition_expression("#holder = :holder AND attribute_not_exists(#sent_at)")
            .expression_attribute_names("#abandoned_by", ABANDONED_BY)
            .expression_attribute_names("#holder", HOLDER)
            .expression_attribute_names("#held_until", HELD_UNTIL)
            .expression_attribute_names("#sent_at", SENT_AT)
            .expression_attribute_values(":holder", item::string(holder))
            .expression_attribute_values(":holders", AttributeValue::Ss(vec![holder.to_owned()]));
        match update.send().await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.as_service_error(), Some(UpdateItemError::ConditionalCheckFailedException(_))) => Ok(()),
            Err(error) => Err(failure_of(&error)),
        }
    }
}
