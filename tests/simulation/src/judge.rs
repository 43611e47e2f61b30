//! Whether a run kept what Recado promises.
//!
//! Must not know: how the rooms work. It compares what was accepted with what is stored, shown, sent and given up.

use std::time::Duration;

use recado_domain::event::{Channel, Event};
use recado_domain::ids::{DeliveryKey, NotificationId, RecipientKey};
use recado_domain::limits;
use recado_domain::message::ATTRIBUTE_REASON;
use recado_domain::notification::InboxEntry;
use recado_domain::ports::DeadLetter;

use crate::ledger::{Device, Ledger};
use crate::lock;
use crate::world::{World, names, short};

/// In a run without faults: how soon a connected client sees what was stored.
const AT_ONCE: Duration = Duration::from_secs(15);

/// In a run without faults: how soon an open socket is proved.
const PROVED: Duration = Duration::from_secs(90);

type Found = Vec<(&'static str, String)>;

/// After faults have stopped and everything under way came to its end.
pub(crate) fn when_quiet(world: &World) {
    let dead = Dead::of(world);
    let mut found = dead.without_reason();
    found.extend(stuck(world));
    found.extend(undelivered(world, &dead));
    found.extend(poison(world, &dead));
    report(world, found);
}

/// After every dead letter was sent back and everybody came back.
pub(crate) fn at_the_end(world: &World) {
    let dead = Dead::of(world);
    let mut found = stuck(world);
    found.extend(poison(world, &dead));
    found.extend(dead.unexpected(&lock(&world.ledger)));
    found.extend(mailed_on(world));
    // Dead letters excuse nothing any more.
    found.extend(undelivered(world, &Dead::default()));
    for user in &world.scenario.users {
        found.extend(inbox(world, user));
    }
    for at in 0..world.scenario.devices.len() {
        found.extend(device(world, at));
    }
    if world.scenario.weather.is_fair() {
        found.extend(not_at_once(world));
        found.extend(never_live(world));
    }
    report(world, found);
}

fn report(world: &World, found: Found) {
    found.into_iter().for_each(|(promise, what)| world.violation(promise, what));
}

/// What was given up.
#[derive(Default)]
struct Dead {
    inbox: Vec<DeadLetter>,
    email: Vec<DeadLetter>,
    feedback: Vec<DeadLetter>,
}

impl Dead {
    fn of(world: &World) -> Self {
        let [inbox, email, feedback] = world.channels().map(|channel| channel.queue.dead());
        Self { inbox, email, feedback }
    }

    fn all(&self) -> impl Iterator<Item = &DeadLetter> {
        self.inbox.iter().chain(&self.email).chain(&self.feedback)
    }

    fn without_reason(&self) -> Found {
        let silent = self.all().filter(|letter| letter.attributes.get(ATTRIBUTE_REASON).is_none_or(String::is_empty));
        silent.map(|letter| ("P1", format!("the dead letter {} has no reason", letter.id))).collect()
    }

    fn unexpected(&self, ledger: &Ledger) -> Found {
        let valid = self.all().filter(|letter| !ledger.poison.contains_key(&letter.body));
        valid
            .map(|letter| ("P1", format!("{} is dead again without a fault: {:?}", letter.id, letter.attributes.get(ATTRIBUTE_REASON))))
            .collect()
    }

    fn names(&self, channel: Channel, event: &Event, user: &RecipientKey) -> bool {
        // An event that was published without its attributes comes to the email queue by the inbox queue alone.
        let email = if channel == Channel::Email { &self.email[..] } else { &[] };
        names(self.inbox.iter().chain(email).map(|letter| letter.body.as_str()), &event.document().id, user)
    }
}

fn stuck(world: &World) -> Found {
    let full = world.channels().into_iter().filter(|channel| channel.queue.depth() > 0);
    full.map(|channel| ("stuck", format!("{} messages stay on the {channel}: {:?}", channel.queue.depth(), channel.queue.messages())))
        .collect()
}

/// P1: every accepted event reached every recipient by every channel, or is a dead letter that names them.
fn undelivered(world: &World, dead: &Dead) -> Found {
    let ledger = lock(&world.ledger);
    let now = world.now();
    let mut found = Found::new();
    let lasting =
        ledger.published.iter().filter(|published| published.accepted && published.event.data().expires_at.is_none_or(|at| at > now));
    for published in lasting {
        let event = &published.event;
        for recipient in event.recipient_keys() {
            let key = DeliveryKey { recipient, notification: event.notification_id() };
            for channel in &event.data().channels {
                let there = match channel {
                    Channel::Inbox => world.inbox.entry(&key).is_some(),
                    Channel::Email => ledger.mails.contains_key(&key) || world.suppressed_since(&key.recipient).is_some(),
                };
                if !there && !dead.names(*channel, event, &key.recipient) {
                    found.push(("P1", format!("{} never reached {} by {channel:?}", event.document().id, short(&key.recipient))));
                }
            }
        }
    }
    found
}

/// Whoever complained, or whose mail came back for good, is suppressed.
fn mailed_on(world: &World) -> Found {
    let reported = lock(&world.ledger).reported.clone();
    let unheard = reported.iter().filter(|user| world.suppressed_since(user).is_none());
    unheard.map(|user| ("mail", format!("mail of {} came back, and they are not suppressed", short(user)))).collect()
}

fn poison(world: &World, dead: &Dead) -> Found {
    let ledger = lock(&world.ledger);
    let accepted = ledger.poison.iter().filter(|(_, accepted)| **accepted);
    let lost = accepted.filter(|(body, _)| dead.inbox.iter().all(|letter| letter.body != **body));
    lost.map(|(body, _)| ("P1", format!("what is no event is no dead letter: {body}"))).collect()
}

/// What an inbox holds: nothing that is not the user's, nothing twice, and nothing acknowledged, read or put away that no
/// client of theirs had to do with.
fn inbox(world: &World, user: &RecipientKey) -> Found {
    let ledger = lock(&world.ledger);
    let mut found = Found::new();
    let entries = world.inbox.entries(user);
    for entry in &entries {
        let key = DeliveryKey { recipient: user.clone(), notification: entry.notification.id };
        let name = &entry.notification.event_id;
        let who = short(user);
        if !ledger.concerns(entry.notification.id, user) {
            found.push(("P5", format!("the inbox of {who} holds {name}, which is not theirs, or holds it twice")));
        }
        // R8 holds for writes that arrive within W: a later one may find its place marked as read.
        let on_time = !ledger.late.contains(&key);
        let by_nobody = [
            (entry.acked_at.is_some() && !ledger.acknowledged.contains_key(&key), "P5", "acknowledged"),
            (entry.read_at.is_some() && on_time && !ledger.read.contains(&key), "R8", "read"),
            (entry.archived_at.is_some() && !ledger.archived.contains(&key), "P5", "put away"),
        ];
        let wrong = by_nobody.into_iter().filter(|(wrong, ..)| *wrong);
        found.extend(wrong.map(|(_, promise, state)| (promise, format!("{name} in the inbox of {who} is {state}, and nobody did it"))));
    }
    if ledger.devices.iter().any(|device| device.user == *user) {
        let waiting = entries.iter().filter(|entry| lasts(entry) && entry.acked_at.is_none());
        found.extend(
            waiting.map(|entry| ("R7", format!("{} stays pending for {}, who was there", entry.notification.event_id, short(user)))),
        );
    }
    let rows = world.connections.rows(user).len();
    if rows > limits::CONNECTIONS_PER_USER {
        found.push(("rows", format!("{rows} connections are kept for {}", short(user))));
    }
    found
}

fn lasts(entry: &InboxEntry) -> bool {
    entry.notification.expires_at.is_none()
}

/// P2: a protocol client showed all that the inbox holds. That it shows nothing twice is its own doing, as long as ids are
/// what they should be, which [`inbox`] looks at.
fn device(world: &World, at: usize) -> Found {
    let ledger = lock(&world.ledger);
    let device = &ledger.devices[at];
    let mut found = Found::new();
    let foreign = device.shown.keys().filter(|id| !ledger.concerns(**id, &device.user));
    found.extend(foreign.map(|id| ("P5", format!("{} showed {}", called(device, at), ledger.name(*id)))));
    if device.protocol {
        let entries = world.inbox.entries(&device.user).into_iter().filter(|entry| lasts(entry) && entry.archived_at.is_none());
        let missed = entries.filter(|entry| !device.shown.contains_key(&entry.notification.id));
        found.extend(missed.map(|entry| ("P2", format!("{} never showed {}", called(device, at), entry.notification.event_id))));
    }
    found
}

fn called(device: &Device, at: usize) -> String {
    format!("{}/{at}", short(&device.user))
}

/// Without faults: who is connected sees what is stored at once, and does not wait for the next `sync`.
fn not_at_once(world: &World) -> Found {
    let ledger = lock(&world.ledger);
    let end = world.elapsed();
    let mut found = Found::new();
    for (at, device) in ledger.devices.iter().enumerate() {
        let alone = ledger.devices.iter().filter(|other| other.user == device.user).count() == 1;
        let entries = world.inbox.entries(&device.user).into_iter().filter(|entry| lasts(entry) && entry.archived_at.is_none());
        for id in entries.map(|entry| entry.notification.id) {
            let key = DeliveryKey { recipient: device.user.clone(), notification: id };
            let stored = ledger.stored.get(&key).copied().unwrap_or(end);
            let settled = ledger.acknowledged.get(&key).copied().unwrap_or(end);
            let shown = device.shown.get(&id).copied().unwrap_or(Duration::MAX);
            for session in &device.sessions {
                let Some(live) = session.live else { continue };
                // What waits for a plain client is no longer owed once a socket took it, and be it one whose client had vanished.
                let owed = device.protocol || stored > live || (alone && settled >= live);
                let due = stored.max(live) + AT_ONCE;
                if owed && session.ended.unwrap_or(end) > due && shown > due {
                    let name = ledger.name(id);
                    found.push((
                        "at once",
                        format!("{} did not see {name} within {AT_ONCE:?} on {}", called(device, at), session.connection),
                    ));
                }
            }
        }
    }
    found
}

/// Without faults: an open socket is soon proved, and its row live (R4).
fn never_live(world: &World) -> Found {
    let ledger = lock(&world.ledger);
    let end = world.elapsed();
    let mut found = Found::new();
    for (at, device) in ledger.devices.iter().enumerate() {
        let unproved = device.sessions.iter().filter(|session| session.live.is_none());
        let long = unproved.filter(|session| session.ended.unwrap_or(end) > session.opened + PROVED);
        found.extend(long.map(|session| ("at once", format!("{} was open on {} and never live", called(device, at), session.connection))));
    }
    found
}

/// Whether every device showed all of these that concern it.
pub(crate) fn all_showed(world: &World, ids: &[NotificationId]) -> bool {
    let ledger = lock(&world.ledger);
    let owed = |device: &Device, id: &NotificationId| ledger.concerns(*id, &device.user);
    ledger.devices.iter().all(|device| ids.iter().all(|id| !owed(device, id) || device.shown.contains_key(id)))
}

/// Those that did not.
pub(crate) fn who_did_not(world: &World, ids: &[NotificationId]) -> Found {
    let ledger = lock(&world.ledger);
    let mut found = Found::new();
    for (at, device) in ledger.devices.iter().enumerate() {
        let missed = ids.iter().filter(|id| ledger.concerns(**id, &device.user) && !device.shown.contains_key(id));
        found.extend(missed.map(|id| ("at once", format!("{} is connected and was not pushed {}", called(device, at), ledger.name(*id)))));
    }
    found
}
