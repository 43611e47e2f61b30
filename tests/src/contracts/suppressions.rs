//! What every [`Suppressions`] keeps: once suppressed, always suppressed, until it is lifted.
#![expect(missing_docs, reason = "the names are sentences")]

use std::time::Duration;

use recado_domain::address::AddressKey;
use recado_domain::ports::{Suppression, SuppressionCause, Suppressions};

use super::Backend;
use super::samples::all;

fn key(address: &str) -> AddressKey {
    AddressKey::of(address).expect("an address")
}

fn alice() -> AddressKey {
    key("alice@example.com")
}

async fn suppress<B: Backend>(backend: &B, addresses: &[(AddressKey, SuppressionCause)]) {
    all(backend.suppressions().suppress(addresses).await);
}

async fn found<B: Backend>(backend: &B, addresses: &[AddressKey]) -> Vec<Option<Suppression>> {
    all(backend.suppressions().suppressed(addresses).await)
}

async fn causes<B: Backend>(backend: &B, addresses: &[AddressKey]) -> Vec<Option<SuppressionCause>> {
    found(backend, addresses).await.into_iter().map(|found| found.map(|suppression| suppression.cause)).collect()
}

pub async fn nobody_is_suppressed_at_first<B: Backend>(backend: &B) {
    assert_eq!(found(backend, &[alice(), key("bob@example.com")]).await, [None, None]);
}

pub async fn a_suppressed_address_is_found_with_its_cause_and_since_when<B: Backend>(backend: &B) {
    let began = backend.now();
    for (name, cause) in
        [("bounced", SuppressionCause::Bounce), ("complained", SuppressionCause::Complaint), ("asked", SuppressionCause::Operator)]
    {
        let address = key(&format!("{name}@example.com"));
        suppress(backend, &[(address, cause)]).await;
        let suppression = found(backend, &[address]).await[0].expect("it is suppressed");
        assert_eq!(suppression.cause, cause);
        assert!(suppression.since >= began && suppression.since <= backend.now(), "{began} {:?}", suppression.since);
    }
}

pub async fn the_first_suppression_stays<B: Backend>(backend: &B) {
    suppress(backend, &[(alice(), SuppressionCause::Bounce)]).await;
    let first = found(backend, &[alice()]).await;
    backend.advance(Duration::from_secs(60)).await;
    suppress(backend, &[(alice(), SuppressionCause::Complaint)]).await;
    assert_eq!(found(backend, &[alice()]).await, first);
}

pub async fn a_repeated_key_of_one_call_is_suppressed_for_its_first_cause<B: Backend>(backend: &B) {
    let twice = [(alice(), SuppressionCause::Complaint), (alice(), SuppressionCause::Bounce)];
    suppress(backend, &twice).await;
    assert_eq!(causes(backend, &[alice()]).await, [Some(SuppressionCause::Complaint)]);
}

pub async fn a_lifted_address_is_free_and_may_be_suppressed_anew<B: Backend>(backend: &B) {
    suppress(backend, &[(alice(), SuppressionCause::Bounce)]).await;
    assert_eq!(all(backend.suppressions().lift(&[alice()]).await), [true]);
    assert_eq!(found(backend, &[alice()]).await, [None]);
    suppress(backend, &[(alice(), SuppressionCause::Complaint)]).await;
    assert_eq!(causes(backend, &[alice()]).await, [Some(SuppressionCause::Complaint)]);
}

pub async fn lifting_says_whether_there_was_anything_to_lift<B: Backend>(backend: &B) {
    suppress(backend, &[(alice(), SuppressionCause::Bounce)]).await;
    let bob = key("bob@example.com");
    assert_eq!(all(backend.suppressions().lift(&[bob, alice(), bob]).await), [false, true, false]);
    assert_eq!(all(backend.suppressions().lift(&[alice()]).await), [false]);
}

pub async fn addresses_are_answered_in_order_repeated_ones_too<B: Backend>(backend: &B) {
    suppress(backend, &[(alice(), SuppressionCause::Bounce)]).await;
    let bob = key("bob@example.com");
    let bounce = Some(SuppressionCause::Bounce);
    assert_eq!(causes(backend, &[bob, alice(), bob, alice(), alice()]).await, [None, bounce, None, bounce, bounce]);
    assert_eq!(causes(backend, &[]).await, []);
}

/// DynamoDB reads 100 items a call and writes 25; an event has up to 100 recipients.
pub async fn more_addresses_than_one_batch_are_suppressed_found_and_lifted<B: Backend>(backend: &B) {
    let many: Vec<_> = (0..130).map(|number| key(&format!("user{number}@example.com"))).collect();
    let every_other: Vec<_> = many.iter().step_by(2).map(|address| (*address, SuppressionCause::Bounce)).collect();
    suppress(backend, &every_other).await;
    let is_suppressed: Vec<bool> = found(backend, &many).await.iter().map(Option::is_some).collect();
    assert_eq!(is_suppressed, (0..130).map(|number| number % 2 == 0).collect::<Vec<_>>());
    assert_eq!(all(backend.suppressions().lift(&many).await), is_suppressed);
    assert!(found(backend, &many).await.iter().all(Option::is_none));
}

pub async fn addresses_do_not_reach_into_each_other<B: Backend>(backend: &B) {
    let near = ["Alice@example.com", "alice@example.org", "alice+x@example.com", "alice@sub.example.com", "lice@example.com"].map(key);
    suppress(backend, &[(alice(), SuppressionCause::Bounce)]).await;
    assert!(found(backend, &near).await.iter().all(Option::is_none));
    all(backend.suppressions().lift(&near).await);
    assert_eq!(causes(backend, &[alice()]).await, [Some(SuppressionCause::Bounce)]);
}
