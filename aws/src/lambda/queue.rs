//! A function that an event source mapping of SQS invokes with batches, with partial batch responses: the mapping has
//! `FunctionResponseTypes: [ReportBatchItemFailures]`, and deletes whatever is not reported as failed.
//!
//! A record that cannot be read is reported, is received again, and ends in the dead-letter queue by the queue's own
//! redrive policy. One without an id cannot be reported: then what was done is deleted here, and the invocation fails,
//! so that nothing else is deleted ("Handling errors for an SQS event source in Lambda": a failed invocation leaves
//! the whole batch). While this machine's clock is off (R6) every batch is given back: a function has no readiness that
//! somebody looks at. Must not know: what a message means.

use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::sqs::{BatchItemFailure, SqsBatchResponse};
use recado_domain::ports::{Entropy, Queue};
use recado_runtime::consumer::Handler;
use recado_runtime::consumer::trigger::Trigger;
use tokio::time::Instant;

use super::records::{self, Records};
use super::serve;
use crate::clocked::WithAClock;
use crate::settings::Ended;
use crate::skew::Skew;

/// Answers invocations with batches of the queue of this URL, as long as the clock holds.
///
/// # Errors
/// When the platform cannot be reached.
pub async fn serve_queue<Q: Queue, H: Handler, E: Entropy>(trigger: Trigger<Q, H, E>, skew: &Skew, queue_url: &str) -> Result<(), Ended> {
    let queue = queue_url.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let trigger = &with_a_clock(trigger, skew);
    serve(|invocation| async move { answer_batch(trigger, queue, invocation.event.get(), invocation.within).await }).await
}

fn with_a_clock<Q, H, E>(trigger: Trigger<Q, H, E>, skew: &Skew) -> Trigger<Q, WithAClock<H>, E> {
    let Trigger { name, queue, handler, entropy, retry, margin } = trigger;
    Trigger { name, queue, handler: Arc::new(WithAClock::new(handler, skew.clone())), entropy, retry, margin }
}

/// Handles one batch: the event of one invocation, as JSON, within the time that is left of it. `queue` is the queue's name.
///
/// # Errors
/// When the event is no SQS event, or has a record without an id: nothing that was not deleted here may be deleted then.
pub async fn answer_batch<Q: Queue, H: Handler, E: Entropy>(
    trigger: &Trigger<Q, H, E>,
    queue: &str,
    event: &str,
    within: Duration,
) -> Result<SqsBatchResponse, lambda_runtime::Error> {
    let started = Instant::now();
    let Records { messages, unreadable } = records::read(event, queue)?;
    let records = messages.len() + unreadable.len();
    for record in &unreadable {
        metrics::counter!("recado_unreadable_records_total", "queue" => trigger.name).increment(1);
        tracing::error!(
            queue = trigger.name,
            at = record.at,
            message_id = record.message_id,
            reason = record.reason,
            "a record is no message of this queue; it stays where it is"
        );
    }
    let settled = if messages.is_empty() { None } else { Some(trigger.handle(messages, within).await) };
    let (mut failed, done) = settled.map_or_else(Default::default, |settled| (settled.failed, settled.done));
    let ms = started.elapsed().as_millis();
    let (nameless, named): (Vec<_>, Vec<_>) = unreadable.into_iter().partition(|record| record.message_id.is_none());
    failed.extend(named.into_iter().filter_map(|record| record.message_id));
    tracing::info!(queue = trigger.name, records, done = done.len(), failed = failed.len(), nameless = nameless.len(), ms, "batch handled");
    if let Some(first) = nameless.first() {
        trigger.delete(done).await;
        let (count, reason) = (nameless.len(), &first.reason);
        return Err(format!(
            "{count} of {records} records have no `messageId` and cannot be reported one by one, so the batch fails: {reason}"
        )
        .into());
    }
    let mut response = SqsBatchResponse::default();
    response.batch_item_failures = failed.into_iter().map(item_failure).collect();
    Ok(response)
}

fn item_failure(message_id: String) -> BatchItemFailure {
    let mut failure = BatchItemFailure::default();
    failure.item_identifier = message_id;
    failure
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use recado_domain::limits;
    use recado_domain::ports::Outgoing;
    use recado_memory::{ManualClock, MemoryQueue, SeededEntropy};
    use recado_runtime::backoff::RetrySchedule;
    use serde_json::{Value, json};

    use recado_domain::ports::Received;
    use recado_runtime::consumer::{Deadline, Disposition};

    use super::*;

    /// Does what the body says.
    struct ByBody;

    impl Handler for ByBody {
        async fn handle(&self, batch: Vec<Received>, _: &Deadline) -> Vec<Disposition> {
            let answer = |message: &Received| match message.body.as_str() {
                "retry" => Disposition::Retry { after: None, reason: "not now".to_owned() },
                "reject" => Disposition::Reject { reason: "never".to_owned() },
                _ => Disposition::Done,
            };
            batch.iter().map(answer).collect()
        }
    }

    struct World {
        trigger: Trigger<MemoryQueue, ByBody, SeededEntropy>,
        records: Vec<Value>,
    }

    /// A queue with these messages, received as a mapping would.
    async fn world(bodies: &[&str]) -> World {
        let queue = MemoryQueue::new(ManualClock::default(), SeededEntropy::new(7));
        for body in bodies {
            let message = Outgoing { body: (*body).to_owned(), attributes: Default::default(), delay: Duration::ZERO };
            queue.send(&[message]).await.remove(0).unwrap();
        }
        let received = queue.receive(10, Duration::ZERO, Duration::from_secs(180)).await.unwrap();
        let record = |message: &Received| json!({"messageId": message.message_id, "receiptHandle": message.token.0, "body": message.body, "eventSource": "aws:sqs"});
        let records = received.iter().map(record).collect();
        let retry = RetrySchedule::default();
        let trigger = Trigger {
            name: "test",
            queue,
            handler: Arc::new(ByBody),
            entropy: SeededEntropy::new(1),
            retry,
            margin: Duration::from_secs(2),
        };
        World { trigger, records }
    }

    async fn invoke(world: &World) -> Result<Value, String> {
        invoke_with(&world.trigger, &world.records).await
    }

    async fn invoke_with(trigger: &Trigger<MemoryQueue, impl Handler, SeededEntropy>, records: &[Value]) -> Result<Value, String> {
        let event = json!({"Records": records}).to_string();
        let answer = answer_batch(trigger, "test", &event, Duration::from_secs(30)).await;
        answer.map(|response| serde_json::to_value(response).unwrap()).map_err(|error| error.to_string())
    }

    fn id_of(world: &World, body: &str) -> Value {
        world.records.iter().find(|record| record["body"] == body).unwrap()["messageId"].clone()
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_failed_is_reported() {
        let world = world(&["done", "retry", "reject"]).await;
        let answer = invoke(&world).await.unwrap();
        assert_eq!(answer, json!({"batchItemFailures": [{"itemIdentifier": id_of(&world, "retry")}]}));
        assert_eq!(world.trigger.queue.dead().len(), 1);
        assert_eq!(invoke(&world_of_nothing().await).await.unwrap(), json!({"batchItemFailures": []}));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_handled_while_the_clock_is_off_and_everything_is_given_back() {
        let World { trigger, records } = world(&["done", "done"]).await;
        let sent = Timestamp::from_second(1_000).unwrap();
        let skew = Skew::new(Arc::new(ManualClock::new(sent)));
        let trigger = with_a_clock(trigger, &skew);
        skew.measure(sent, sent + limits::CLOCK_SKEW + Duration::from_secs(1));
        let answer = invoke_with(&trigger, &records).await.unwrap();
        assert_eq!(answer["batchItemFailures"].as_array().map(Vec::len), Some(2), "{answer}");
        assert_eq!((trigger.queue.depth(), trigger.queue.dead().len()), (2, 0));
        // Set by NTP, as the answers to the release show.
        skew.measure(sent, sent);
        assert_eq!(invoke_with(&trigger, &records).await.unwrap(), json!({"batchItemFailures": []}));
    }

    async fn world_of_nothing() -> World {
        world(&[]).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_cannot_be_read_is_reported_and_the_others_are_handled() {
        let mut world = world(&["done"]).await;
        world.records.push(json!({"messageId": "foreign", "eventSource": "aws:kinesis"}));
        assert_eq!(invoke(&world).await.unwrap(), json!({"batchItemFailures": [{"itemIdentifier": "foreign"}]}));
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_without_an_id_fails_the_invocation_and_what_was_done_is_deleted_all_the_same() {
        let mut world = world(&["done", "retry"]).await;
        world.records.insert(0, json!({"EventSource": "aws:sns", "Sns": {"Message": "secret"}}));
        let error = invoke(&world).await.unwrap_err();
        assert!(error.contains("1 of 3 records have no `messageId`") && !error.contains("secret"), "{error}");
        // Of the two messages the one that was done is gone, and the other will be received again.
        assert_eq!(world.trigger.queue.depth(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_of_another_kind_fails_with_what_to_do() {
        let world = world_of_nothing().await;
        let error = answer_batch(&world.trigger, "test", "{\"detail-type\":\"x\"}", Duration::from_secs(30)).await.unwrap_err();
        assert!(error.to_string().contains("event source mapping"), "{error}");
    }
}
