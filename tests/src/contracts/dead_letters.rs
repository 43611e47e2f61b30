//! What every [`DeadLetters`] keeps: an operator sees what was given up, and can send it back.
#![expect(missing_docs, reason = "the names are sentences")]

use std::time::Duration;

use recado_domain::message::{ATTRIBUTE_ATTEMPT, ATTRIBUTE_REASON};
use recado_domain::ports::{DeadLetters, Outgoing, Queue};

use super::Backend;
use super::queue::drain;
use super::samples::{all, attributes, is_permanent, message};

/// Sends a message and gives it up, a second after the one before.
async fn bury<B: Backend>(backend: &B, outgoing: Outgoing) {
    let queue = backend.inbox_queue();
    all(queue.send(&[outgoing]).await);
    let rejected: Vec<_> = drain(queue).await.into_iter().map(|message| (message, "given up".to_owned())).collect();
    assert_eq!(all(queue.reject(&rejected).await).len(), 1);
    backend.advance(Duration::from_secs(1)).await;
}

async fn bodies<B: Backend>(backend: &B, max: usize) -> Vec<String> {
    backend.dead_letters().list(max).await.unwrap().into_iter().map(|letter| letter.body).collect()
}

pub async fn the_oldest_is_listed_first<B: Backend>(backend: &B) {
    for n in 0..12 {
        bury(backend, message(&n.to_string())).await;
    }
    let wanted: Vec<_> = (0..12).map(|n| n.to_string()).collect();
    assert_eq!(bodies(backend, 100).await, wanted);
}

pub async fn a_list_holds_no_more_than_it_was_asked_for<B: Backend>(backend: &B) {
    for n in 0..3 {
        bury(backend, message(&n.to_string())).await;
    }
    assert_eq!(bodies(backend, 2).await, ["0", "1"]);
    assert_eq!(bodies(backend, usize::MAX).await.len(), 3);
}

pub async fn a_redriven_message_comes_back_without_reason_and_attempts<B: Backend>(backend: &B) {
    let mut outgoing = message("a");
    outgoing.attributes.insert(ATTRIBUTE_ATTEMPT.to_owned(), "7".to_owned());
    bury(backend, outgoing).await;
    let letter = backend.dead_letters().list(1).await.unwrap().remove(0);
    assert_eq!(letter.attributes[ATTRIBUTE_REASON], "given up");
    assert_eq!(letter.attributes[ATTRIBUTE_ATTEMPT], "7");

    all(backend.dead_letters().redrive(&[letter.id]).await);
    let received = drain(backend.inbox_queue()).await;
    assert_eq!(received.len(), 1);
    assert_eq!((received[0].body.as_str(), received[0].receive_count), ("a", 1));
    assert_eq!(received[0].attributes, attributes(&[("type", "contract.kept")]));
    assert!(bodies(backend, 10).await.is_empty());
}

pub async fn an_unknown_id_is_a_permanent_failure_and_hides_no_other<B: Backend>(backend: &B) {
    bury(backend, message("a")).await;
    let letter = backend.dead_letters().list(1).await.unwrap().remove(0);
    let ids = ["unknown".to_owned(), letter.id, String::new(), "987654321".to_owned()];
    let answers = backend.dead_letters().redrive(&ids).await;
    assert_eq!(answers.iter().map(is_permanent).collect::<Vec<_>>(), [true, false, true, true]);
    assert_eq!(answers[1], Ok(()));
    assert_eq!(drain(backend.inbox_queue()).await.len(), 1);
}

pub async fn a_dead_letter_is_redriven_once<B: Backend>(backend: &B) {
    bury(backend, message("a")).await;
    let letter = backend.dead_letters().list(1).await.unwrap().remove(0);
    let answers = backend.dead_letters().redrive(&[letter.id.clone(), letter.id.clone()]).await;
    assert_eq!(answers[0], Ok(()));
    assert!(is_permanent(&answers[1]));
    assert!(is_permanent(&backend.dead_letters().redrive(&[letter.id]).await[0]));
    assert_eq!(drain(backend.inbox_queue()).await.len(), 1);
}
