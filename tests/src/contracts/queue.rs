//! What every [`Queue`] keeps: leases, delays, and the way to the dead letters. Order is not promised.
#![expect(missing_docs, reason = "the names are sentences")]

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use recado_domain::message::ATTRIBUTE_REASON;
use recado_domain::ports::{AckToken, DeadLetters, Queue, Received};

use super::Backend;
use super::samples::{all, attributes, delayed, is_permanent, message};

/// Whole seconds, as queues count them; long beside what a call takes where a queue's clock does not stand still.
const LEASE: Duration = Duration::from_secs(120);
const HALF: Duration = Duration::from_secs(60);
/// Long enough that nothing here outlives it.
const LONG: Duration = Duration::from_secs(3600);
/// For what must come: ends as soon as it is there.
const PATIENCE: Duration = Duration::from_secs(10);
const NOW: Duration = Duration::ZERO;

/// All that can be received now, leased for long.
pub(super) async fn drain(queue: &impl Queue) -> Vec<Received> {
    let mut drained = Vec::new();
    loop {
        let received = queue.receive(queue.max_batch(), NOW, LONG).await.expect("a receive that succeeds");
        if received.is_empty() {
            return drained;
        }
        drained.extend(received);
    }
}

/// The one message that is there.
async fn take(queue: &impl Queue, lease: Duration) -> Received {
    let mut received = queue.receive(1, PATIENCE, lease).await.expect("a receive that succeeds");
    received.pop().expect("a message that is there")
}

async fn is_empty(queue: &impl Queue) -> bool {
    queue.receive(1, NOW, LEASE).await.expect("a receive that succeeds").is_empty()
}

pub async fn what_was_sent_is_received_with_its_attributes<B: Backend>(backend: &B) {
    let queue = backend.inbox_queue();
    let sent = message("{\"text\": \"Grüße 😀\"}");
    all(queue.send(std::slice::from_ref(&sent)).await);
    let received = take(queue, LEASE).await;
    assert_eq!((received.body, received.attributes, received.receive_count), (sent.body, sent.attributes, 1));
}

pub async fn a_received_message_is_hidden_while_its_lease_lasts<B: Backend>(backend: &B) {
    let queue = backend.inbox_queue();
    all(queue.send(&[message("a")]).await);
    take(queue, LEASE).await;
    assert!(is_empty(queue).await);
    backend.advance(HALF).await;
    assert!(is_empty(queue).await);
}

pub async fn an_expired_lease_delivers_again_and_counts<B: Backend>(backend: &B) {
    let queue = backend.inbox_queue();
    all(queue.send(&[message("a")]).await);
    let first = take(queue, LEASE).await;
    backend.advance(LEASE).await;
    let second = take(queue, LEASE).await;
    assert_eq!((second.receive_count, &second.body, &second.message_id), (2, &first.body, &first.message_id));
    assert_ne!(second.token, first.token);
}

pub async fn a_stale_token_changes_nothing<B: Backend>(backend: &B) {
    let queue = backend.inbox_queue();
    all(queue.send(&[message("a")]).await);
    let stale = take(queue, LEASE).await;
    backend.advance(LEASE).await;
    let current = take(queue, LEASE).await;

    assert!(is_permanent(&queue.ack(std::slice::from_ref(&stale.token)).await[0]));
    assert!(is_permanent(&queue.extend(std::slice::from_ref(&stale.token), LONG).await[0]));
    assert!(is_permanent(&queue.release(&[(stale.token.clone(), NOW)]).await[0]));
    assert!(is_permanent(&queue.reject(&[(stale, "late".to_owned())]).await[0]));

    assert!(is_empty(queue).await, "it was not released");
    assert!(backend.dead_letters().list(1).await.unwrap().is_empty(), "it was not rejected");
    backend.advance(LEASE).await;
    let again = take(queue, LEASE).await;
    assert_eq!((again.receive_count, again.body), (3, current.body), "it was neither deleted nor extended");
}

pub async fn an_unknown_token_is_a_permanent_failure<B: Backend>(backend: &B) {
    let queue = backend.inbox_queue();
    all(queue.send(&[message("a")]).await);
    let mut received = take(queue, LEASE).await;
    for text in ["", "nonsense", "-1.-1", "1", "😀"] {
        let token = AckToken(text.to_owned());
        received.token = token.clone();
        assert!(is_permanent(&queue.ack(std::slice::from_ref(&token)).await[0]));
        assert!(is_permanent(&queue.extend(std::slice::from_ref(&token), LONG).await[0]));
        assert!(is_permanent(&queue.release(&[(token, NOW)]).await[0]));
        assert!(is_permanent(&queue.reject(&[(received.clone(), "unknown".to_owned())]).await[0]));
    }
}

pub async fn an_acknowledged_message_never_comes_back<B: Backend>(backend: &B) {
    let queue = backend.inbox_queue();
    all(queue.send(&[message("a")]).await);
    let received = take(queue, LEASE).await;
    all(queue.ack(&[received.token]).await);
    backend.advance(LEASE).await;
    assert!(is_empty(queue).await);
}

pub async fn extending_keeps_a_message_hidden<B: Backend>(backend: &B) {
    let queue = backend.inbox_queue();
    all(queue.send(&[message("a")]).await);
    let received = take(queue, LEASE).await;
    backend.advance(HALF).await;
    all(queue.extend(std::slice::from_ref(&received.token), LEASE).await);
    backend.advance(HALF).await;
    assert!(is_empty(queue).await, "the first lease is over, the extended one is not");
    all(queue.extend(std::slice::from_ref(&received.token), LEASE).await);
    backend.advance(LEASE).await;
    assert_eq!(take(queue, LEASE).await.receive_count, 2, "extending is no receive");
}

pub async fn a_released_message_comes_back_after_its_delay<B: Backend>(backend: &B) {
    let queue = backend.inbox_queue();
    all(queue.send(&[message("a")]).await);
    let received = take(queue, LONG).await;
    all(queue.release(&[(received.token, LEASE)]).await);
    backend.advance(HALF).await;
    assert!(is_empty(queue).await);
    backend.advance(HALF).await;
    let again = take(queue, LONG).await;
    assert_eq!(again.receive_count, 2);
    all(queue.release(&[(again.token, NOW)]).await);
    assert_eq!(take(queue, LONG).await.receive_count, 3, "without a delay it comes back at once");
}

pub async fn a_rejected_message_moves_to_the_dead_letters_with_its_reason<B: Backend>(backend: &B) {
    let queue = backend.inbox_queue();
    all(queue.send(&[message("a")]).await);
    let received = take(queue, LEASE).await;
    all(queue.reject(&[(received, "not a valid event".to_owned())]).await);

    let dead = backend.dead_letters().list(10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].body, "a");
    assert_eq!(dead[0].attributes, attributes(&[("type", "contract.kept"), (ATTRIBUTE_REASON, "not a valid event")]));
    // SQS notes the millisecond by its own clock (SentTimestamp: "Amazon SQS message metadata").
    assert!(dead[0].dead_at.duration_since(backend.now()).unsigned_abs() <= backend.clock_tolerance(), "{}", dead[0].dead_at);
    backend.advance(LEASE).await;
    assert!(is_empty(queue).await);
}

pub async fn a_delayed_message_is_hidden_until_its_time<B: Backend>(backend: &B) {
    let queue = backend.inbox_queue();
    all(queue.send(&[delayed("a", LEASE)]).await);
    assert!(is_empty(queue).await);
    backend.advance(HALF).await;
    assert!(is_empty(queue).await);
    backend.advance(HALF).await;
    assert_eq!(take(queue, LEASE).await.receive_count, 1);
}

pub async fn a_receive_takes_no_more_than_it_was_asked_for<B: Backend>(backend: &B) {
    let queue = backend.inbox_queue();
    let count = queue.max_batch() + 5;
    let messages: Vec<_> = (0..count).map(|n| message(&n.to_string())).collect();
    assert_eq!(all(queue.send(&messages).await).len(), count);
    assert!(queue.receive(3, PATIENCE, LONG).await.unwrap().len() <= 3);
    assert!(queue.receive(usize::MAX, PATIENCE, LONG).await.unwrap().len() <= queue.max_batch());
    backend.advance(LONG).await;
    let bodies: BTreeSet<_> = drain(queue).await.into_iter().map(|message| message.body).collect();
    assert_eq!(bodies.len(), count);
}

pub async fn each_entry_of_a_batch_has_its_own_answer<B: Backend>(backend: &B) {
    let queue = backend.inbox_queue();
    all(queue.send(&[message("a"), message("b"), message("c"), message("d")]).await);
    let received = drain(queue).await;
    assert_eq!(received.len(), 4);
    all(queue.ack(std::slice::from_ref(&received[1].token)).await);

    let failing = |answers: Vec<_>| answers.iter().map(is_permanent).collect::<Vec<_>>();
    let tokens = [received[0].token.clone(), received[1].token.clone(), received[2].token.clone()];
    assert_eq!(failing(queue.extend(&tokens, LONG).await), [false, true, false]);
    assert_eq!(failing(queue.ack(&tokens).await), [false, true, false]);
    let released = [(received[1].token.clone(), NOW), (received[3].token.clone(), NOW)];
    assert_eq!(failing(queue.release(&released).await), [true, false]);
    let last = take(queue, LONG).await;
    assert_eq!(last.body, received[3].body);
    let rejected = [(received[0].clone(), "gone".to_owned()), (last, "bad".to_owned())];
    assert_eq!(failing(queue.reject(&rejected).await), [true, false]);
    assert_eq!(backend.dead_letters().list(10).await.unwrap().len(), 1);
}

pub async fn concurrent_receivers_never_get_the_same_message<B: Backend>(backend: &B) {
    let queue = backend.inbox_queue();
    let messages: Vec<_> = (0..60).map(|n| message(&n.to_string())).collect();
    all(queue.send(&messages).await);
    let receivers = (0..8).map(|_| async {
        let mut received = Vec::new();
        loop {
            let batch = queue.receive(4, NOW, LONG).await.expect("a receive that succeeds");
            if batch.is_empty() {
                return received;
            }
            received.extend(batch);
        }
    });
    let received: Vec<_> = join_all(receivers).await.into_iter().flatten().collect();
    assert!(received.iter().all(|message| message.receive_count == 1));
    let bodies: BTreeSet<_> = received.iter().map(|message| &message.body).collect();
    assert_eq!((received.len(), bodies.len()), (60, 60));
}

pub async fn a_waiting_receive_gets_what_is_sent_meanwhile<B: Backend>(backend: &B) {
    let queue = backend.inbox_queue();
    let sending = async { all(queue.send(&[message("a")]).await) };
    let (received, _) = tokio::join!(queue.receive(10, PATIENCE, LEASE), sending);
    assert_eq!(received.unwrap().len(), 1);
}

pub async fn a_receive_of_an_empty_queue_answers_nothing<B: Backend>(backend: &B) {
    let queue = backend.inbox_queue();
    assert!(queue.receive(10, NOW, LEASE).await.unwrap().is_empty());
    assert!(queue.receive(10, Duration::from_millis(20), LEASE).await.unwrap().is_empty());
    assert!(queue.send(&[]).await.is_empty());
    assert!(queue.ack(&[]).await.is_empty());
}

pub async fn queues_do_not_see_each_other<B: Backend>(backend: &B) {
    let (inbox, email) = (backend.inbox_queue(), backend.email_queue());
    all(inbox.send(&[message("a")]).await);
    assert!(is_empty(email).await);
    let received = take(inbox, LONG).await;
    assert!(is_permanent(&email.ack(std::slice::from_ref(&received.token)).await[0]));
    all(inbox.ack(&[received.token]).await);
}
