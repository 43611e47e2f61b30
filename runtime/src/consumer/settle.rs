//! What the answers to a batch mean for its queue: delete, give back, give up, move to the dead letters.
//!
//! Shared by the consumer loop and by [`super::trigger`]. Must not know: who polled the batch.

use std::sync::Arc;
use std::time::Duration;

use recado_domain::failure::Failure;
use recado_domain::ports::{Entropy, Outcome, Received};
use tokio_util::task::AbortOnDropHandle;

use super::{Deadline, Disposition, Handler};
use crate::backoff::RetrySchedule;

/// A batch, by what has to be done with each message.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// To delete.
    pub(super) done: Vec<Received>,
    /// To hide for so long.
    pub(super) back: Vec<(Received, Duration)>,
    /// To move to the dead letters, with the reason.
    pub(super) dead: Vec<(Received, String)>,
}

/// Handles a batch in a task of its own: a panic gives the batch back and leaves the worker alive. Dropped, it ends
/// the task.
pub(super) async fn answers<H: Handler>(handler: &Arc<H>, batch: &[Received], deadline: &Deadline) -> Vec<Disposition> {
    let (handler, messages, deadline) = (handler.clone(), batch.to_vec(), deadline.clone());
    let task = AbortOnDropHandle::new(tokio::spawn(async move { handler.handle(messages, &deadline).await }));
    match task.await {
        Ok(answers) if answers.len() == batch.len() => answers,
        Ok(_) => retry_all(batch.len(), "the handler answered for another number of messages than it got"),
        Err(_) => retry_all(batch.len(), "the handler panicked; its log line says where"),
    }
}

/// The same answer for a whole batch.
pub(super) fn retry_all(count: usize, reason: &str) -> Vec<Disposition> {
    vec![Disposition::Retry { after: None, reason: reason.to_owned() }; count]
}

/// Decides on waits and on giving up, logs and counts.
pub(super) fn sort(
    queue: &'static str,
    batch: Vec<Received>,
    dispositions: Vec<Disposition>,
    retry: &RetrySchedule,
    entropy: &impl Entropy,
) -> Sorted {
    let (mut sorted, mut last) = (Sorted::default(), None);
    for (message, disposition) in batch.into_iter().zip(dispositions) {
        match give_up(&message, disposition, retry) {
            Disposition::Done => sorted.done.push(message),
            Disposition::Reject { reason } => {
                tracing::warn!(queue, message_id = message.message_id, reason, "message rejected");
                sorted.dead.push((message, reason));
            }
            Disposition::Retry { after, reason } => {
                let wait = retry.delay(message.receive_count, after, entropy);
                tracing::warn!(
                    queue,
                    message_id = message.message_id,
                    attempt = message.receive_count,
                    ?wait,
                    reason,
                    "message given back"
                );
                sorted.back.push((message, wait));
                last = Some(reason);
            }
        }
    }
    // An alarm looks for errors. A message that fails is not one yet; a batch of which nothing could be done is what a store, a permission or a
    // network looks like that fails for everybody.
    if let (Some(reason), true, true) = (last, sorted.done.is_empty(), sorted.dead.is_empty()) {
        tracing::error!(queue, messages = sorted.back.len(), reason, "nothing of a batch could be done");
    }
    let count = |outcome: &'static str, n: usize| {
        metrics::counter!("recado_settled_total", "queue" => queue, "outcome" => outcome).increment(n as u64)
    };
    count("done", sorted.done.len());
    count("retry", sorted.back.len());
    count("dead", sorted.dead.len());
    sorted
}

/// Ends what was tried often enough.
fn give_up(message: &Received, disposition: Disposition, retry: &RetrySchedule) -> Disposition {
    match disposition {
        Disposition::Retry { reason, .. } if message.receive_count >= retry.max_attempts => {
            Disposition::Reject { reason: format!("gave up after {} attempts: {reason}", message.receive_count) }
        }
        other => other,
    }
}

/// Carries out a batch call; answers each entry, in order. It is called once: an adapter has tried again by itself what
/// its service refused for the moment ([`Queue`](recado_domain::ports::Queue)), and a second round here would only
/// multiply that. What fails all the same is received again when its lease ends: at least once, never lost.
pub(super) async fn carry_out<Q, T>(
    (name, queue): (&'static str, &Q),
    what: &'static str,
    entries: &[T],
    call: impl AsyncFn(&Q, &[T]) -> Vec<Outcome<()>>,
) -> Vec<Outcome<()>> {
    if entries.is_empty() {
        return Vec::new();
    }
    let mut outcomes: Vec<Outcome<()>> = call(queue, entries).await;
    outcomes.resize_with(entries.len(), || Err(Failure::transient("the queue gave no answer for this entry")));
    log_failures(name, what, &outcomes);
    outcomes
}

pub(super) fn log_failures(queue: &'static str, call: &'static str, answers: &[Outcome<()>]) {
    let failed: Vec<&Failure> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    if let Some(first) = failed.first() {
        metrics::counter!("recado_queue_failures_total", "queue" => queue, "call" => call).increment(failed.len() as u64);
        tracing::warn!(queue, call, failed = failed.len(), reason = first.reason(), "queue call failed; the messages are received again");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use recado_domain::ports::AckToken;

    use super::*;

    /// Answers for the first message alone.
    struct Forgetful;

    impl Handler for Forgetful {
        async fn handle(&self, batch: Vec<Received>, _: &Deadline) -> Vec<Disposition> {
            batch.iter().take(1).map(|_| Disposition::Done).collect()
        }
    }

    #[tokio::test]
    async fn a_batch_whose_answers_are_too_few_is_given_back_whole() {
        let message = |n: u32| {
            let (token, message_id) = (AckToken(n.to_string()), n.to_string());
            Received { token, message_id, body: String::new(), attributes: BTreeMap::new(), receive_count: 1 }
        };
        let of = async |count: u32| answers(&Arc::new(Forgetful), &(0..count).map(message).collect::<Vec<_>>(), &Deadline::never()).await;
        assert_eq!(of(1).await, [Disposition::Done]);
        let answers = of(2).await;
        assert_eq!(answers.len(), 2);
        assert!(answers.iter().all(|answer| matches!(answer, Disposition::Retry { .. })), "{answers:?}");
    }

    #[tokio::test]
    async fn a_queue_is_called_once_and_every_entry_is_answered() {
        let calls = RefCell::new(Vec::new());
        let outcomes = carry_out(("test", &calls), "ack", &[1, 2, 3], async |calls: &RefCell<Vec<Vec<i32>>>, some: &[i32]| {
            calls.borrow_mut().push(some.to_vec());
            // The third gets no answer at all.
            vec![Ok(()), Err(Failure::transient("busy"))]
        });
        let outcomes = outcomes.await;
        assert_eq!(*calls.borrow(), [vec![1, 2, 3]]);
        assert_eq!(outcomes[..2], [Ok(()), Err(Failure::transient("busy"))]);
        assert!(outcomes[2].as_ref().is_err_and(Failure::is_transient));
        assert!(carry_out(("test", &calls), "ack", &[], async |_: &RefCell<_>, _: &[i32]| Vec::new()).await.is_empty());
        assert_eq!(calls.borrow().len(), 1, "nothing is nothing to call for");
    }
}
