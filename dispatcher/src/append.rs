//! Stores what a batch asks for, at positions that no reader can have passed (R1, R6).
//!
//! Must not know: who is connected.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use recado_domain::failure::Failure;
use recado_domain::notification::{Appended, Freshness, InboxEntry, NewEntry};
use recado_domain::ports::{Inbox, Outcome};

use crate::plan::{Batch, Fate};
use crate::{Dispatcher, World};

/// How often an entry is stamped in one go. Each answer has W/2 to arrive: a store that is late so often is not well,
/// and the delivery is tried again later.
const STAMPS: usize = 4;

/// Appends all entries in one call; answers what each came to, in order.
pub(crate) async fn append<W: World>(room: &Dispatcher<W>, batch: &Batch) -> Vec<Fate> {
    let answers = room.world.inbox().append(&batch.entries).await;
    // The moment the answers arrived: what counts for R6.
    let now = room.now();
    let (mut fates, mut late) = (Vec::with_capacity(batch.entries.len()), Vec::new());
    let (mut inserted, mut present) = (0, 0);
    for (entry, answer) in batch.entries.iter().zip(answers) {
        let fate = match answer {
            Ok(appended) => {
                if appended.inserted {
                    inserted += 1
                } else {
                    present += 1
                }
                match appended.freshness(now) {
                    Freshness::Fresh => stored(entry, appended),
                    Freshness::Settled => Fate::Settled,
                    Freshness::Late => {
                        late.push(restamp(room, entry, fates.len(), appended));
                        // Until the stamp's answer; nothing reads it before.
                        Fate::Failed(Failure::transient("the entry is being stamped again"))
                    }
                }
            }
            Err(failure) => Fate::Failed(failure),
        };
        fates.push(fate);
    }
    // An adapter that answers too little must not make a message done.
    fates.resize(batch.entries.len(), Fate::Failed(Failure::transient("the inbox did not answer for this entry")));
    let mut stamped = stream::iter(late).buffer_unordered(room.config.concurrency.get());
    while let Some((at, fate)) = stamped.next().await {
        fates[at] = fate;
    }
    drop(stamped);
    let failed = fates.iter().filter(|fate| matches!(fate, Fate::Failed(_))).count();
    for (outcome, count) in [("inserted", inserted), ("present", present), ("failed", failed)] {
        metrics::counter!("recado_appended_total", "outcome" => outcome).increment(count as u64);
    }
    fates
}

/// What is pushed is what is *stored*: its position, and what was done with it on another device.
fn stored(entry: &NewEntry, Appended { position, acked_at, read_at, archived_at, .. }: Appended) -> Fate {
    Fate::Stored(InboxEntry { notification: Arc::clone(&entry.notification), position, acked_at, read_at, archived_at })
}

/// Stamps an entry until an answer arrives within W/2.
async fn restamp<W: World>(room: &Dispatcher<W>, entry: &NewEntry, at: usize, mut seen: Appended) -> (usize, Fate) {
    let key = entry.key();
    for _ in 0..STAMPS {
        metrics::counter!("recado_restamped_total").increment(1);
        let answer: Outcome<Appended> = room.world.inbox().restamp(&key, seen.position).await;
        match answer {
            Err(failure) => return (at, Fate::Failed(failure)),
            Ok(appended) => match appended.freshness(room.now()) {
                Freshness::Fresh => return (at, stored(entry, appended)),
                Freshness::Settled => return (at, Fate::Settled),
                Freshness::Late => seen = appended,
            },
        }
    }
    tracing::warn!(notification = %key.notification, user = %key.recipient.user, stamps = STAMPS, "the inbox answers too late to be trusted");
    (at, Fate::Failed(Failure::transient("each answer of the inbox came too late")))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use crate::fixture::{Fixture, acknowledge, event, published, seconds};
    use recado_domain::limits;
    use recado_runtime::consumer::Disposition;

    #[tokio::test]
    async fn an_entry_is_stored_before_anybody_is_looked_up_and_before_a_frame_is_posted() {
        let f = Fixture::new();
        f.live("alice", "a").await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let note = |what: &'static str| {
            let order = order.clone();
            move || order.lock().unwrap().push(what)
        };
        f.inbox.faults().after_next("append", note("stored"));
        f.connections.faults().before_next("of_users", note("looked up"));
        f.sockets.faults().before_next("post", note("posted"));
        assert_eq!(f.deliver(&[event("1", &["alice"])]).await, [Disposition::Done]);
        assert_eq!(*order.lock().unwrap(), ["stored", "looked up", "posted"]);
    }

    #[tokio::test]
    async fn a_batch_takes_one_append_and_one_lookup() {
        let f = Fixture::new();
        let events: Vec<_> = (0..20).map(|n| event(&n.to_string(), &["alice", "bob"])).collect();
        assert_eq!(f.deliver(&events).await, vec![Disposition::Done; 20]);
        assert_eq!(f.inbox.faults().calls("append"), 1);
        assert_eq!(f.connections.faults().calls("of_users"), 1);
    }

    #[tokio::test]
    async fn a_duplicate_delivery_pushes_the_stored_position() {
        let f = Fixture::new();
        let event = event("1", &["alice"]);
        f.deliver(std::slice::from_ref(&event)).await;
        let stored = f.entry("alice", &event).unwrap().position;
        f.live("alice", "a").await;
        f.clock.advance(seconds(5));
        // Twice in one batch, too.
        assert_eq!(f.handle(vec![published(&event), published(&event)]).await, [Disposition::Done, Disposition::Done]);
        assert_eq!(f.shown("a"), ["1"]);
        assert_eq!(f.frames("a")[0]["items"][0]["position"], stored.to_string());
    }

    #[tokio::test]
    async fn a_late_answer_is_stamped_again_until_one_is_in_time() {
        let f = Fixture::new();
        f.live("alice", "a").await;
        let event = event("1", &["alice"]);
        let late = limits::RESTAMP_AFTER + seconds(1);
        let (clock, again) = (f.clock.clone(), f.clock.clone());
        f.inbox.faults().after_next("append", move || clock.advance(late));
        f.inbox.faults().after_next("restamp", move || again.advance(late));
        assert_eq!(f.deliver(std::slice::from_ref(&event)).await, [Disposition::Done]);
        assert_eq!(f.inbox.faults().calls("restamp"), 2);
        let stored = f.entry("alice", &event).unwrap().position;
        assert!(stored.age(f.dispatcher.now()) <= limits::RESTAMP_AFTER);
        assert_eq!(f.frames("a")[0]["items"][0]["position"], stored.to_string());
    }

    #[tokio::test]
    async fn an_inbox_that_is_always_late_gets_nothing_pushed_and_the_message_is_given_back() {
        let f = Fixture::new();
        f.live("alice", "a").await;
        for call in ["append", "restamp", "restamp", "restamp", "restamp"] {
            let clock = f.clock.clone();
            f.inbox.faults().after_next(call, move || clock.advance(limits::W));
        }
        assert!(matches!(f.deliver(&[event("1", &["alice"])]).await[0], Disposition::Retry { .. }));
        assert!(f.shown("a").is_empty());
    }

    #[tokio::test]
    async fn an_entry_acknowledged_a_day_ago_is_neither_stamped_nor_pushed() {
        let f = Fixture::new();
        let event = event("1", &["alice"]);
        f.deliver(std::slice::from_ref(&event)).await;
        acknowledge(&f.inbox, "alice", &event).await;
        f.clock.advance(limits::ACKNOWLEDGED_IS_OLD + seconds(1));
        f.live("alice", "a").await;
        assert_eq!(f.deliver(&[event]).await, [Disposition::Done]);
        assert_eq!(f.inbox.faults().calls("restamp"), 0);
        assert!(f.shown("a").is_empty());
    }

    #[tokio::test]
    async fn an_entry_acknowledged_just_now_is_pushed_again_since_another_device_may_have_missed_it() {
        let f = Fixture::new();
        let event = event("1", &["alice"]);
        f.deliver(std::slice::from_ref(&event)).await;
        acknowledge(&f.inbox, "alice", &event).await;
        f.live("alice", "a").await;
        assert_eq!(f.deliver(&[event]).await, [Disposition::Done]);
        assert_eq!(f.shown("a"), ["1"]);
    }

    #[tokio::test]
    async fn a_lost_answer_is_read_back_by_the_next_try() {
        let f = Fixture::new();
        f.live("alice", "a").await;
        let event = event("1", &["alice"]);
        f.inbox.faults().lose_answer("append");
        assert!(matches!(f.deliver(std::slice::from_ref(&event)).await[0], Disposition::Retry { .. }));
        assert!(f.shown("a").is_empty());
        assert_eq!(f.deliver(&[event]).await, [Disposition::Done]);
        assert_eq!(f.shown("a"), ["1"]);
    }
}
