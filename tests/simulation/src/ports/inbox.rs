//! Inboxes.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use recado_domain::ids::{DeliveryKey, NotificationId, RecipientKey};
use recado_domain::limits;
use recado_domain::notification::{Appended, InboxEntry, NewEntry, Notification};
use recado_domain::ports::{Inbox, Marks, Outcome, Page, PageFilter, ReadAll, Unread};
use recado_domain::position::Position;
use tokio::time::sleep;

use super::{Way, time_of};
use crate::breakage::Breakage;
use crate::coverage::Happening;
use crate::lock;
use crate::process::Call;
use crate::world::{World, at_once, short};

pub(crate) struct SimInbox(pub(crate) Way);

/// How late a broken inbox stores what it answered.
const TOO_LATE: Duration = Duration::from_secs(5);

impl SimInbox {
    /// One call with one answer; `apply` is carried out at the caller's time.
    async fn one<T: Send + 'static>(
        &self,
        name: &'static str,
        about: impl FnOnce() -> String,
        apply: impl FnOnce(&World) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let Way { world, process } = &self.0;
        let (time, there) = (self.0.time(), world.clone());
        let apply = move || {
            time();
            apply(&there)
        };
        let call = Call::new(world, name, about);
        process.call_one(if name == "restamp" { call.write() } else { call }, apply).await
    }

    fn limit(&self, limit: usize) -> usize {
        limit.min(self.0.world.scenario.page)
    }
}

impl Inbox for SimInbox {
    async fn append(&self, entries: &[NewEntry]) -> Vec<Outcome<Appended>> {
        let Way { world, process } = &self.0;
        let about = || {
            let name = |entry: &NewEntry| format!("{} for {}", entry.notification.event_id, short(&entry.recipient));
            entries.iter().map(name).collect::<Vec<_>>().join(", ")
        };
        let call = Call::new(world, "append", about).of(entries.len()).write();
        let (there, sent, entries) = (world.clone(), process.now(), entries.to_vec());
        process.call(call, move |arriving| append(&there, sent, arriving.iter().map(|at| entries[*at].clone()).collect())).await
    }

    async fn restamp(&self, key: &DeliveryKey, old: Position) -> Outcome<Appended> {
        let (key, sent) = (key.clone(), self.0.process.now());
        let about = || format!("{} for {}, {} old", self.0.world.name_of(key.notification), short(&key.recipient), age(old, sent));
        let key = key.clone();
        let about = about();
        self.one(
            "restamp",
            || about,
            move |world| {
                world.count(Happening::Stamped);
                if world.breakage == Some(Breakage::ForgetsStamps)
                    && let Some(entry) = world.inbox.entry(&key)
                {
                    let position = Position::floor(time_of(world, sent));
                    let (acked_at, read_at, archived_at) = (entry.acked_at, entry.read_at, entry.archived_at);
                    return Ok(Appended { position, inserted: false, acked_at, read_at, archived_at });
                }
                at_once(world.inbox.restamp(&key, old))
            },
        )
        .await
    }

    async fn since(&self, recipient: &RecipientKey, after: Position, limit: usize) -> Outcome<Page> {
        let (recipient, limit) = (recipient.clone(), self.limit(limit));
        let about = format!("for {}", short(&recipient));
        self.one(
            "since",
            || about,
            move |world| {
                let overlap = if world.breakage == Some(Breakage::NoOverlap) { limits::W } else { Duration::ZERO };
                let after = if overlap.is_zero() { after } else { after.max(Position::floor(after.at() + overlap)) };
                let page = at_once(world.inbox.since(whose(world, &recipient), after, limit))?;
                Ok(without_the_newest(world, &recipient, page))
            },
        )
        .await
    }

    async fn pending(&self, recipient: &RecipientKey, marks: Marks, after: Position, limit: usize) -> Outcome<Page> {
        let (recipient, limit) = (recipient.clone(), self.limit(limit));
        let about = format!("for {}", short(&recipient));
        self.one(
            "pending",
            || about,
            move |world| {
                let page = at_once(world.inbox.pending(&recipient, marks, after, limit))?;
                Ok(without_the_newest(world, &recipient, page))
            },
        )
        .await
    }

    async fn page(&self, recipient: &RecipientKey, before: Option<Position>, filter: PageFilter, limit: usize) -> Outcome<Page> {
        let (recipient, limit) = (recipient.clone(), self.limit(limit));
        let about = format!("for {}", short(&recipient));
        self.one(
            "page",
            || about,
            move |world| {
                let page = at_once(world.inbox.page(whose(world, &recipient), before, filter, limit))?;
                Ok(without_the_newest(world, &recipient, page))
            },
        )
        .await
    }

    async fn marks(&self, recipient: &RecipientKey) -> Outcome<Marks> {
        let recipient = recipient.clone();
        let about = format!("of {}", short(&recipient));
        self.one("marks", || about, move |world| at_once(world.inbox.marks(&recipient))).await
    }

    async fn advance_pending(&self, recipient: &RecipientKey, from: Option<Position>, to: Position) -> Outcome<bool> {
        let (recipient, sent) = (recipient.clone(), self.0.process.now());
        let about = format!("of {} to {} before now", short(&recipient), age(to, sent));
        self.one(
            "advance_pending",
            || about,
            move |world| {
                let to = if world.breakage == Some(Breakage::PendingMarkAhead) { Position::floor(time_of(world, sent)) } else { to };
                let moved = at_once(world.inbox.advance_pending(&recipient, from, to));
                if moved == Ok(true) {
                    world.count(Happening::MarkMoved);
                }
                moved
            },
        )
        .await
    }

    async fn acknowledge(&self, recipient: &RecipientKey, ids: &[NotificationId]) -> Outcome<Vec<NotificationId>> {
        let (recipient, ids) = (recipient.clone(), ids.to_vec());
        let about = format!("{} by {}", self.0.world.names_of(&ids), short(&recipient));
        self.one("acknowledge", || about, move |world| at_once(world.inbox.acknowledge(&recipient, &ids))).await
    }

    async fn mark_read(&self, recipient: &RecipientKey, ids: &[NotificationId]) -> Outcome<Vec<NotificationId>> {
        let (recipient, ids) = (recipient.clone(), ids.to_vec());
        let about = format!("{} by {}", self.0.world.names_of(&ids), short(&recipient));
        self.one("mark_read", || about, move |world| at_once(world.inbox.mark_read(&recipient, &ids))).await
    }

    async fn archive(&self, recipient: &RecipientKey, ids: &[NotificationId]) -> Outcome<Vec<NotificationId>> {
        let (recipient, ids) = (recipient.clone(), ids.to_vec());
        let about = format!("{} by {}", self.0.world.names_of(&ids), short(&recipient));
        self.one("archive", || about, move |world| at_once(world.inbox.archive(&recipient, &ids))).await
    }

    async fn read_all(&self, recipient: &RecipientKey, up_to: Position) -> Outcome<ReadAll> {
        let (recipient, sent) = (recipient.clone(), self.0.process.now());
        let about = format!("by {} up to {} before now", short(&recipient), age(up_to, sent));
        self.one(
            "read_all",
            || about,
            move |world| {
                let there = world.inbox.entries(&recipient).into_iter().filter(|entry| entry.position <= up_to);
                let key = |id| DeliveryKey { recipient: recipient.clone(), notification: id };
                world.count(Happening::ReadAll);
                lock(&world.ledger).read.extend(there.map(|entry| key(entry.notification.id)));
                if world.breakage == Some(Breakage::ReadsWhatIsInFlight) {
                    world.show(time_of(world, sent) + limits::W);
                }
                at_once(world.inbox.read_all(&recipient, up_to))
            },
        )
        .await
    }

    async fn unread(&self, recipient: &RecipientKey) -> Outcome<Unread> {
        let recipient = recipient.clone();
        let about = format!("of {}", short(&recipient));
        self.one("unread", || about, move |world| at_once(world.inbox.unread(&recipient))).await
    }
}

/// Whose inbox is read.
fn whose<'a>(world: &'a World, recipient: &'a RecipientKey) -> &'a RecipientKey {
    let namesake = || world.scenario.users.iter().find(|user| user.user == recipient.user);
    if world.breakage == Some(Breakage::IgnoresTenant) { namesake().unwrap_or(recipient) } else { recipient }
}

/// What a reader sees whose view is some seconds old.
fn without_the_newest(world: &World, recipient: &RecipientKey, mut page: Page) -> Page {
    if world.breakage == Some(Breakage::StaleReads) {
        let (ledger, now) = (lock(&world.ledger), world.elapsed());
        let key = |entry: &InboxEntry| DeliveryKey { recipient: recipient.clone(), notification: entry.notification.id };
        page.entries.retain(|entry| ledger.stored.get(&key(entry)).is_none_or(|stored| *stored + TOO_LATE < now));
    }
    page
}

fn append(world: &Arc<World>, sent: Timestamp, mut entries: Vec<NewEntry>) -> Vec<Outcome<Appended>> {
    let time = time_of(world, sent);
    world.show(time);
    match world.breakage {
        Some(Breakage::AnswersBeforeItStores) => return answer_and_store_later(world, time, entries),
        Some(Breakage::ForgetsWhatIsThere) => entries.iter_mut().for_each(|entry| forget(world, entry)),
        _ => {}
    }
    let answers = at_once(world.inbox.append(&entries));
    for (entry, answer) in entries.iter().zip(&answers) {
        took_place(world, entry, answer, time);
    }
    answers
}

/// Notes an entry that is there, and looks whether it was born read (R8). That holds for writes that arrive within W: a later
/// one may find its place marked as read.
fn took_place(world: &World, entry: &NewEntry, answer: &Outcome<Appended>, time: Timestamp) {
    let (at, key) = (world.elapsed(), entry.key());
    let lateness = Duration::try_from(world.now().duration_since(time)).unwrap_or_default();
    let late = lateness > limits::RESTAMP_AFTER;
    if late {
        world.count(Happening::LateWrite);
        world.note("store", || format!("gets {} {lateness:?} late", entry.notification.event_id));
        lock(&world.ledger).late.insert(key.clone());
    }
    if let Ok(appended) = answer {
        world.count(if appended.inserted { Happening::Stored } else { Happening::Duplicate });
    }
    lock(&world.ledger).stored.entry(key).or_insert(at);
    if answer.as_ref().is_ok_and(|appended| appended.inserted && appended.read_at.is_some()) && !late {
        world
            .violation("R8", format!("{} is read by {} before anybody could see it", entry.notification.event_id, short(&entry.recipient)));
    }
}

fn answer_and_store_later(world: &Arc<World>, time: Timestamp, entries: Vec<NewEntry>) -> Vec<Outcome<Appended>> {
    let position = Position::floor(time);
    let answer = Appended { position, inserted: true, acked_at: None, read_at: None, archived_at: None };
    let answers = vec![Ok(answer); entries.len()];
    let world = world.clone();
    tokio::spawn(async move {
        sleep(TOO_LATE).await;
        world.show(world.now());
        at_once(world.inbox.append(&entries));
    });
    answers
}

/// Gives an entry that is there another id, as an inbox does that knows no duplicates.
fn forget(world: &World, entry: &mut NewEntry) {
    if world.inbox.entry(&entry.key()).is_some() {
        let id = NotificationId::of(&entry.notification.source, &format!("{} again", entry.notification.event_id));
        entry.notification = Arc::new(Notification { id, ..(*entry.notification).clone() });
    }
}

fn age(position: Position, now: Timestamp) -> String {
    format!("{:.3} s", now.duration_since(position.at()).as_secs_f64())
}
