//! What happened, as nobody inside can know it: what was accepted, stored, shown, sent, and what must not have been.
//!
//! Must not know: how any of it came about.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use recado_domain::event::Event;
use recado_domain::ids::{ConnectionId, DeliveryKey, NotificationId, RecipientKey};

use crate::scenario::Scenario;

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) published: Vec<Published>,
    /// Texts that are no events, and whether somebody was told that they were accepted.
    pub(crate) poison: BTreeMap<String, bool>,
    by_id: BTreeMap<NotificationId, usize>,
    /// When an entry was first there.
    pub(crate) stored: BTreeMap<DeliveryKey, Duration>,
    /// Entries that a write brought later than any healthy store does.
    pub(crate) late: BTreeSet<DeliveryKey>,
    /// What a client of the user acknowledged, or a plain one was handed, and when first.
    pub(crate) acknowledged: BTreeMap<DeliveryKey, Duration>,
    /// What a client of the user may have marked as read.
    pub(crate) read: BTreeSet<DeliveryKey>,
    /// What a client of the user put away.
    pub(crate) archived: BTreeSet<DeliveryKey>,
    pub(crate) mails: BTreeMap<DeliveryKey, Vec<Mail>>,
    /// The last claim of a delivery that a process was given.
    pub(crate) claims: BTreeMap<(DeliveryKey, String), Claimed>,
    /// The deliveries that are recorded as sent.
    pub(crate) confirmed: BTreeSet<DeliveryKey>,
    /// Those whose mail came back for good, or who complained.
    pub(crate) reported: BTreeSet<RecipientKey>,
    pub(crate) devices: Vec<Device>,
    /// Those that opened a socket.
    pub(crate) tickets: BTreeSet<String>,
    pub(crate) violations: Vec<String>,
}

/// An event somebody tried to publish.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) event: Event,
    /// Whether somebody was told that it was accepted.
    pub(crate) accepted: bool,
}

/// A mail that left.
#[derive(Debug)]
pub(crate) struct Mail {
    /// The process that sent it.
    pub(crate) sender: String,
    /// Why it may be sent again: what went wrong after it left.
    pub(crate) excuse: Option<&'static str>,
    /// Its `Message-ID`.
    pub(crate) message_id: String,
}

/// A claim that was given.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// Whether a mail that had left by then, if any, may be sent again.
    pub(crate) excused: bool,
}

/// What a client keeps, and what is known of it.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) user: RecipientKey,
    pub(crate) protocol: bool,
    /// What it kept: where it stopped.
    pub(crate) cursor: Option<String>,
    /// What it kept: what it showed, and when first.
    pub(crate) shown: BTreeMap<NotificationId, Duration>,
    /// What it kept: shown and not yet known to be acknowledged.
    pub(crate) unacknowledged: BTreeSet<NotificationId>,
    /// The highest position it has seen, as text.
    pub(crate) highest: Option<String>,
    /// The moments of its complete answers.
    pub(crate) synced: Option<Duration>,
    pub(crate) sessions: Vec<Session>,
}

/// One open socket of a device.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: ConnectionId,
    /// When the client could read from it.
    pub(crate) opened: Duration,
    /// When its row became live.
    pub(crate) live: Option<Duration>,
    /// When the client let go of it, or lost it.
    pub(crate) ended: Option<Duration>,
}

impl Ledger {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let device = |plan: &crate::scenario::DevicePlan| Device {
            user: scenario.users[plan.user].clone(),
            protocol: plan.protocol,
            cursor: None,
            shown: BTreeMap::new(),
            unacknowledged: BTreeSet::new(),
            highest: None,
            synced: None,
            sessions: Vec::new(),
        };
        Self { devices: scenario.devices.iter().map(device).collect(), ..Self::default() }
    }

    /// Notes that somebody tries to publish this.
    pub(crate) fn publish(&mut self, event: &Event) {
        let published = &mut self.published;
        self.by_id.entry(event.notification_id()).or_insert_with(|| {
            published.push(Published { event: event.clone(), accepted: false });
            published.len() - 1
        });
    }

    /// Notes that these may be acknowledged from now on.
    pub(crate) fn acknowledge(&mut self, user: &RecipientKey, ids: &[NotificationId], at: Duration) {
        for id in ids {
            self.acknowledged.entry(DeliveryKey { recipient: user.clone(), notification: *id }).or_insert(at);
        }
    }

    /// Notes that somebody was told that it was accepted.
    pub(crate) fn accept(&mut self, event: &Event) {
        if let Some(at) = self.by_id.get(&event.notification_id()) {
            self.published[*at].accepted = true;
        }
    }

    pub(crate) fn claim(&mut self, key: &DeliveryKey, claimant: String) {
        let last = self.mails.get(key).and_then(|mails| mails.last());
        let excused = last.is_none_or(|mail| mail.excuse.is_some());
        self.claims.insert((key.clone(), claimant), Claimed { excused });
    }

    /// Notes why the last mail of a delivery may be sent again; once it is recorded as sent nothing is a reason.
    pub(crate) fn excuse(&mut self, key: &DeliveryKey, excuse: Option<&'static str>) {
        let excuse = excuse.filter(|_| !self.confirmed.contains(key));
        if let Some(last) = self.mails.get_mut(key).and_then(|mails| mails.last_mut()) {
            last.excuse = excuse;
        }
    }

    pub(crate) fn event(&self, id: NotificationId) -> Option<&Event> {
        self.by_id.get(&id).map(|at| &self.published[*at].event)
    }

    /// Whether this user is to see this notification.
    pub(crate) fn concerns(&self, id: NotificationId, user: &RecipientKey) -> bool {
        self.event(id).is_some_and(|event| event.recipient_keys().any(|key| key == *user))
    }

    /// The name of an event, for the trace.
    pub(crate) fn name(&self, id: NotificationId) -> String {
        self.event(id).map_or_else(|| format!("unknown {id}"), |event| event.document().id.clone())
    }

    pub(crate) fn session(&mut self, connection: &ConnectionId) -> Option<&mut Session> {
        self.devices.iter_mut().flat_map(|device| &mut device.sessions).find(|session| session.connection == *connection)
    }
}
