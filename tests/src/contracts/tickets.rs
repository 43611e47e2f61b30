//! What every [`Tickets`] keeps: each opens once, for whom it was given out, and not for long.
#![expect(missing_docs, reason = "the names are sentences")]

use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use recado_domain::ids::RecipientKey;
use recado_domain::ports::{TicketHolder, Tickets};
use recado_domain::ticket::{Ticket, TicketKey};
use recado_runtime::system::SystemEntropy;

use super::Backend;
use super::samples::{alice, confusable_recipients};

const LIFE: Duration = Duration::from_secs(30);

fn draw() -> TicketKey {
    Ticket::draw(&SystemEntropy).key()
}

fn holder(recipient: RecipientKey) -> TicketHolder {
    TicketHolder { recipient, token_expires_at: Timestamp::from_second(4_102_444_800).expect("a moment") }
}

async fn issue<B: Backend>(backend: &B, holder: &TicketHolder) -> TicketKey {
    let key = draw();
    backend.tickets().issue(&key, holder, backend.now() + LIFE).await.expect("it is kept");
    key
}

async fn redeem<B: Backend>(backend: &B, key: &TicketKey) -> Option<TicketHolder> {
    backend.tickets().redeem(key).await.expect("the store answers")
}

pub async fn a_ticket_says_whom_it_was_given_to_and_when_their_token_ends<B: Backend>(backend: &B) {
    let key = issue(backend, &holder(alice())).await;
    assert_eq!(redeem(backend, &key).await, Some(holder(alice())));
}

pub async fn a_ticket_is_taken_once<B: Backend>(backend: &B) {
    let key = issue(backend, &holder(alice())).await;
    assert!(redeem(backend, &key).await.is_some());
    assert_eq!(redeem(backend, &key).await, None);
    assert_eq!(redeem(backend, &key).await, None);
}

pub async fn of_all_who_bring_a_ticket_at_once_one_gets_it<B: Backend>(backend: &B) {
    let key = issue(backend, &holder(alice())).await;
    let answers = join_all((0..12).map(|_| redeem(backend, &key))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_some()).count(), 1);
}

pub async fn an_unknown_ticket_is_nobodys<B: Backend>(backend: &B) {
    issue(backend, &holder(alice())).await;
    assert_eq!(redeem(backend, &draw()).await, None);
}

pub async fn a_ticket_ends<B: Backend>(backend: &B) {
    let (before, at) = (issue(backend, &holder(alice())).await, issue(backend, &holder(alice())).await);
    backend.advance(LIFE - Duration::from_secs(1)).await;
    assert!(redeem(backend, &before).await.is_some());
    backend.advance(Duration::from_secs(1)).await;
    assert_eq!(redeem(backend, &at).await, None);
}

pub async fn issuing_again_changes_nothing<B: Backend>(backend: &B) {
    let key = draw();
    for _ in 0..2 {
        backend.tickets().issue(&key, &holder(alice()), backend.now() + LIFE).await.expect("it is kept");
    }
    assert!(redeem(backend, &key).await.is_some());
    assert_eq!(redeem(backend, &key).await, None);
}

pub async fn tickets_do_not_reach_into_each_other<B: Backend>(backend: &B) {
    let mut issued = Vec::new();
    for recipient in confusable_recipients() {
        issued.push((issue(backend, &holder(recipient.clone())).await, recipient));
    }
    for (key, recipient) in issued {
        assert_eq!(redeem(backend, &key).await, Some(holder(recipient)));
    }
}
