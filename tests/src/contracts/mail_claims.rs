//! What every [`MailClaims`] keeps: one sender at a time, and never again after it was sent.
#![expect(missing_docs, reason = "the names are sentences")]

use std::time::Duration;

use recado_domain::ids::DeliveryKey;
use recado_domain::ports::{Claim, MailClaims};

use super::Backend;
use super::samples::{alice, confusable_recipients, entry};

const LEASE: Duration = Duration::from_secs(60);
const HALF: Duration = Duration::from_secs(30);

fn key() -> DeliveryKey {
    entry(&alice(), "a").key()
}

async fn claim<B: Backend>(backend: &B, holder: &str) -> Claim {
    backend.claims().claim(&key(), holder, LEASE).await.unwrap()
}

pub async fn a_claim_holds_off_others<B: Backend>(backend: &B) {
    let until = backend.now() + LEASE;
    assert_eq!(claim(backend, "one").await, Claim::Taken);
    assert_eq!(claim(backend, "two").await, Claim::HeldUntil(until));
    backend.advance(HALF).await;
    assert_eq!(claim(backend, "two").await, Claim::HeldUntil(until), "asking in vain moves nothing");
}

pub async fn claiming_again_renews_the_lease<B: Backend>(backend: &B) {
    claim(backend, "one").await;
    backend.advance(HALF).await;
    let until = backend.now() + LEASE;
    assert_eq!(claim(backend, "one").await, Claim::Taken);
    backend.advance(HALF).await;
    assert_eq!(claim(backend, "two").await, Claim::HeldUntil(until));
}

pub async fn an_expired_lease_is_anybodys<B: Backend>(backend: &B) {
    claim(backend, "one").await;
    backend.advance(LEASE).await;
    let until = backend.now() + LEASE;
    assert_eq!(claim(backend, "two").await, Claim::Taken);
    assert_eq!(claim(backend, "one").await, Claim::HeldUntil(until));
}

pub async fn a_confirmed_mail_is_sent_for_everybody<B: Backend>(backend: &B) {
    claim(backend, "one").await;
    backend.claims().confirm(&key()).await.unwrap();
    backend.claims().confirm(&key()).await.unwrap();
    assert_eq!(claim(backend, "one").await, Claim::Sent);
    backend.advance(LEASE).await;
    assert_eq!(claim(backend, "two").await, Claim::Sent);
}

pub async fn a_mail_is_confirmed_whoever_holds_it<B: Backend>(backend: &B) {
    claim(backend, "one").await;
    backend.advance(LEASE).await;
    assert_eq!(claim(backend, "two").await, Claim::Taken);
    // The first one was slow, not dead: its mail is out.
    backend.claims().confirm(&key()).await.unwrap();
    assert_eq!(claim(backend, "two").await, Claim::Sent);

    let unclaimed = entry(&alice(), "b").key();
    backend.claims().confirm(&unclaimed).await.unwrap();
    assert_eq!(backend.claims().claim(&unclaimed, "one", LEASE).await, Ok(Claim::Sent));
}

pub async fn an_abandoned_claim_is_taken_at_once<B: Backend>(backend: &B) {
    claim(backend, "one").await;
    backend.claims().abandon(&key(), "one").await.unwrap();
    backend.claims().abandon(&key(), "one").await.unwrap();
    assert_eq!(claim(backend, "two").await, Claim::Taken);
}

pub async fn only_the_holder_abandons<B: Backend>(backend: &B) {
    let until = backend.now() + LEASE;
    claim(backend, "one").await;
    backend.claims().abandon(&key(), "two").await.unwrap();
    assert_eq!(claim(backend, "two").await, Claim::HeldUntil(until));
}

pub async fn a_sent_mail_is_not_abandoned<B: Backend>(backend: &B) {
    claim(backend, "one").await;
    backend.claims().confirm(&key()).await.unwrap();
    backend.claims().abandon(&key(), "one").await.unwrap();
    assert_eq!(claim(backend, "two").await, Claim::Sent);
}

pub async fn claims_do_not_reach_into_each_other<B: Backend>(backend: &B) {
    for of in confusable_recipients() {
        for name in ["a", "b"] {
            let key = entry(&of, name).key();
            assert_eq!(backend.claims().claim(&key, "one", LEASE).await, Ok(Claim::Taken), "{of:?} {name}");
        }
        backend.claims().confirm(&entry(&of, "a").key()).await.unwrap();
        assert_eq!(backend.claims().claim(&entry(&of, "b").key(), "one", LEASE).await, Ok(Claim::Taken));
    }
}
