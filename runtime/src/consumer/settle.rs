//! What the answers to a batch mean for its queue: delete, give back, give up, move to the dead letters.
//!
//! Shared by the consumer loop and by [`super::trigger`]. Must not know: who polled the batch.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use recado_domain::failure::Failure;
use recado_domain::ports::{Entropy, Outcome, Received};
use tokio_util::task::AbortOnDropHandle;

use super::{Disposition, Handler};
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
pub(super) async fn answers<H: Handler>(handler: &Arc<H>, batch: &[Received]) -> Vec<Disposition> {
    let (handler, messages) = (handler.clone(), batch.to_vec());
    let task = AbortOnDropHandle::new(tokio::spawn(async move { handler.handle(messages).await }));
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
    let mut sorted = Sorted::default();
    for (message, disposition) in batch.into_iter().zip(dispositions) {
        match give_up(&message, disposition, retry) {
            Disposition::Done => sorted.done.push(message),
            Disposition::Reject { reason } => {
                tracing::warn!(queue, message_id = message.message_id, reason, "message rejected");
                sorted.dead.push((message, reason));
            }
            Disposition::Retry { after, reason } => {
                let wait = retry.delay(message.receive_count, after, entropy);
                tracing::info!(
                    queue,
                    message_id = message.message_id,
                    attempt = message.receive_count,
                    ?wait,
                    reason,
                    "message given back"
                );
                sorted.back.push((message, wait));
            }
        }
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

/// Carries out a batch call until no entry fails transiently, three times at most; answers each entry, in order. What
/// still fails is received again when its lease ends: at least once, never lost. `jitter` is a random number.
pub(super) async fn persist<Q, T: Clone>(
    (name, queue): (&'static str, &Q),
    what: &'static str,
    jitter: u64,
    entries: Vec<T>,
    call: impl AsyncFn(&Q, &[T]) -> Vec<Outcome<()>>,
) -> Vec<Outcome<()>> {
    if entries.is_empty() {
        return Vec::new();
    }
    let unanswered = || Err(Failure::transient("the queue gave no answer for this entry"));
    let mut outcomes: Vec<Outcome<()>> = call(queue, &entries).await;
    outcomes.resize_with(entries.len(), unanswered);
    let backoff = ExponentialBuilder::default().with_min_delay(Duration::from_millis(50)).with_max_times(2);
    let backoff = backoff.with_jitter().with_jitter_seed(jitter);
    for wait in backoff.build() {
        let again: Vec<usize> = (0..entries.len()).filter(|at| outcomes[*at].as_ref().is_err_and(Failure::is_transient)).collect();
        if again.is_empty() {
            break;
        }
        tokio::time::sleep(wait).await;
        let some: Vec<T> = again.iter().map(|at| entries[*at].clone()).collect();
        let mut answers = call(queue, &some).await.into_iter();
        for at in again {
            outcomes[at] = answers.next().unwrap_or_else(unanswered);
        }
    }
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

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_failed_transiently_is_called_again_and_every_entry_is_answered() {
        let calls = RefCell::new(Vec::new());
        let outcomes = persist(("test", &calls), "ack", 7, vec![1, 2, 3, 4], async |calls: &RefCell<Vec<Vec<i32>>>, some: &[i32]| {
            calls.borrow_mut().push(some.to_vec());
            match calls.borrow().len() {
                // The fourth gets no answer at all.
                1 => vec![Ok(()), Err(Failure::transient("busy")), Err(Failure::permanent("stale"))],
                2 => vec![Ok(()), Err(Failure::transient("busy"))],
                _ => vec![Err(Failure::transient("still busy"))],
            }
        });
        let outcomes = outcomes.await;
        assert_eq!(*calls.borrow(), [vec![1, 2, 3, 4], vec![2, 4], vec![4]]);
        assert_eq!(outcomes[..3], [Ok(()), Ok(()), Err(Failure::permanent("stale"))]);
        assert_eq!(outcomes[3], Err(Failure::transient("still busy")));
    }
}
