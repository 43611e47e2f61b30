//! The mailer: what it takes has left, whoever hears of it.

use std::sync::Arc;
use std::time::Duration;

use recado_domain::message::Attributes;
use recado_domain::ports::{Mailer, Outcome, Outgoing, OutgoingMail, Queue};
use serde_json::json;

use super::Way;
use crate::chance::{Dice, name};
use crate::coverage::Happening;
use crate::ledger::Mail;
use crate::lock;
use crate::process::Call;
use crate::world::{World, at_once, short};

pub(crate) struct SimMailer {
    pub(crate) way: Way,
    /// After which the worker takes an answer for lost.
    pub(crate) timeout: Duration,
}

/// Until the answer reached a worker that still waits for it.
const UNANSWERED: Option<&str> = Some("the mailer took it and its answer did not arrive");

/// How long a worker may go by what it was told of who is suppressed: the longest calls from there to a mail.
const STANDS: Duration = Duration::from_secs(600);
/// By when what became of a mail is reported.
const REPORTED: Duration = Duration::from_secs(60);

impl Mailer for SimMailer {
    async fn send(&self, mail: &OutgoingMail) -> Outcome<String> {
        let Way { world, process } = &self.way;
        let name = || format!("{} to {}", world.name_of(mail.delivery.notification), short(&mail.delivery.recipient));
        let call = Call::new(world, "mail", name);
        let (there, sent, sender, began) = (world.clone(), mail.clone(), process.to_string(), world.elapsed());
        let answer = process.call_one(call, move || leave(&there, &sent, sender)).await;
        if answer.is_ok() && world.elapsed() - began < self.timeout {
            let mut ledger = lock(&world.ledger);
            // From now on only a claim that cannot be confirmed excuses a second mail.
            if let Some(last) = ledger.mails.get_mut(&mail.delivery).and_then(|mails| mails.last_mut()) {
                last.excuse = None;
            }
        }
        answer
    }
}

fn leave(world: &Arc<World>, mail: &OutgoingMail, sender: String) -> Outcome<String> {
    let answer = at_once(world.mailer.send(mail));
    let mut ledger = lock(&world.ledger);
    world.count(Happening::Mail);
    let key = &mail.delivery;
    let message = String::from_utf8_lossy(&mail.message);
    let message_id = message.lines().find(|line| line.to_ascii_lowercase().starts_with("message-id:")).unwrap_or_default().to_owned();
    let mut wrong = Vec::new();
    let event = ledger.event(key.notification).cloned();
    let recipient = event.iter().flat_map(|event| &event.data().recipients).find(|one| one.id == key.recipient.user);
    if recipient.and_then(|one| one.email.as_deref()) != Some(mail.to.as_str()) {
        wrong.push(("P5", format!("a mail of {} went to an address that is not its recipient's", ledger.name(key.notification))));
    }
    let asked_before = world.now() - STANDS;
    if world.scenario.suppressed.is_some_and(|user| world.scenario.users[user] == key.recipient)
        || world.suppressed_since(&key.recipient).is_some_and(|since| since < asked_before)
    {
        wrong.push((
            "mail",
            format!("{} was mailed to {}, to whom nothing may be sent", ledger.name(key.notification), short(&key.recipient)),
        ));
    }
    let excused = ledger.claims.get(&(key.clone(), sender.clone())).is_none_or(|claim| claim.excused);
    if let Some(earlier) = ledger.mails.get(key).and_then(|mails| mails.last()) {
        if !excused {
            let what = format!(
                "{} was mailed to {} by {} and again by {sender}",
                ledger.name(key.notification),
                short(&key.recipient),
                earlier.sender
            );
            wrong.push(("mail", what));
        }
        world.count(Happening::MailTwice);
        if earlier.message_id != message_id {
            wrong.push(("mail", format!("a second mail of {} has another Message-ID", ledger.name(key.notification))));
        }
    }
    let mails = ledger.mails.entry(key.clone()).or_default();
    let nth = mails.len() as u64;
    mails.push(Mail { sender, excuse: UNANSWERED, message_id });
    drop(ledger);
    perhaps_comes_back(world, mail, nth);
    for (promise, what) in wrong {
        world.violation(promise, what);
    }
    answer
}

/// Reports what became of a mail, as SES does to the feedback queue: that it came back, or that somebody complained.
fn perhaps_comes_back(world: &Arc<World>, mail: &OutgoingMail, nth: u64) {
    let key = &mail.delivery;
    let dice = Dice::new(world.scenario.seed, &[name("feedback"), name(&short(&key.recipient)), name(&key.notification.to_string()), nth]);
    if world.is_quiet() || !dice.chance(world.scenario.feedback) {
        return;
    }
    let (kind, about) = *dice.pick(&[("Complaint", ""), ("Bounce", "Permanent"), ("Bounce", "Transient")]);
    if about != "Transient" {
        lock(&world.ledger).reported.insert(key.recipient.clone());
    }
    world.count(Happening::Feedback);
    world.note("mailer", || format!("will report a {about} {kind} of {}", short(&key.recipient)));
    let who = json!([{"emailAddress": mail.to}]);
    let body = json!({
        "eventType": kind, "mail": {"messageId": format!("m{nth}"), "destination": [mail.to]},
        "complaint": {"complainedRecipients": who}, "bounce": {"bounceType": about, "bouncedRecipients": who},
    });
    let report = Outgoing { body: body.to_string(), attributes: Attributes::new(), delay: dice.up_to(REPORTED) };
    world.show(world.now());
    at_once(world.feedback_queue.queue.send(&[report]));
    world.feedback_queue.changed.notify_waiters();
}
