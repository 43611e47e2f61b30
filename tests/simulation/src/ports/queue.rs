//! The queues, as at-least-once queues are: messages come again, come twice, and lose their lease.

use std::sync::Arc;
use std::time::Duration;

use recado_domain::limits;
use recado_domain::ports::{AckToken, DeadLetter, DeadLetters, Outcome, Outgoing, Queue, Received};
use tokio::time::{Instant, sleep, sleep_until};

use super::Way;
use crate::breakage::Breakage;
use crate::chance::{Dice, name};
use crate::coverage::Happening;
use crate::process::Call;
use crate::world::{Channel, EMAIL_QUEUE, World, at_once};

pub(crate) struct SimQueue {
    pub(crate) way: Way,
    pub(crate) of: fn(&World) -> &Channel,
}

/// How long a queue takes to deliver a message a second time, or to end a lease, at the most.
const SOON: Duration = Duration::from_secs(40);

impl SimQueue {
    pub(crate) fn inbox(way: Way) -> Self {
        Self { way, of: |world| &world.inbox_queue }
    }

    pub(crate) fn email(way: Way) -> Self {
        Self { way, of: |world| &world.email_queue }
    }

    pub(crate) fn feedback(way: Way) -> Self {
        Self { way, of: |world| &world.feedback_queue }
    }

    fn call(&self, what: &'static str, entries: usize, about: impl FnOnce() -> String) -> Call {
        let world = &self.way.world;
        Call::new(world, what, || format!("on the {}: {}", (self.of)(world), about())).of(entries)
    }

    /// Calls the queue with those of `entries` that arrive.
    async fn each<T: Clone + Send + 'static>(
        &self,
        call: Call,
        entries: &[T],
        apply: impl FnOnce(&Channel, &[T]) -> Vec<Outcome<()>> + Send + 'static,
    ) -> Vec<Outcome<()>> {
        let (world, of, entries) = (self.way.world.clone(), self.of, entries.to_vec());
        let apply = move |arriving: &[usize]| {
            let arrived: Vec<T> = arriving.iter().map(|at| entries[*at].clone()).collect();
            world.show(world.now());
            let answers = apply(of(&world), &arrived);
            of(&world).changed.notify_waiters();
            answers
        };
        self.way.process.call(call, apply).await
    }

    /// The same queue, as its platform sees it.
    pub(crate) fn platform(&self) -> Platform {
        Platform { world: self.way.world.clone(), of: self.of }
    }
}

/// A queue as the platform that owns it sees it: it polls and deletes, and never fails.
pub(crate) struct Platform {
    world: Arc<World>,
    of: fn(&World) -> &Channel,
}

impl Platform {
    /// A batch, or none after a while.
    pub(crate) async fn poll(&self, visibility: Duration) -> Vec<Received> {
        let channel = (self.of)(&self.world);
        wait(&self.world, channel, limits::QUEUE_POLL).await;
        receive(&self.world, self.of, "platform", limits::AWS_BATCH_ENTRIES, visibility).unwrap_or_default()
    }

    /// Deletes messages. One whose lease was lost meanwhile stays.
    pub(crate) fn delete(&self, tokens: Vec<AckToken>) {
        let channel = (self.of)(&self.world);
        at_once(channel.queue.ack(&tokens));
        channel.changed.notify_waiters();
    }
}

/// Done when a message can be received, or at the end of the wait.
async fn wait(world: &World, channel: &Channel, wait: Duration) {
    let deadline = Instant::now() + wait.min(limits::QUEUE_POLL);
    loop {
        let changed = channel.changed.notified();
        let due = channel.queue.next_visible_at().map(|at| Duration::try_from(at.duration_since(world.now())).unwrap_or_default());
        if due.is_some_and(|due| due.is_zero()) || Instant::now() >= deadline {
            return;
        }
        let until = due.map_or(deadline, |due| deadline.min(Instant::now() + due));
        tokio::select! {
            biased;
            () = changed => {}
            () = sleep_until(until) => {}
        }
    }
}

impl Queue for SimQueue {
    fn max_batch(&self) -> usize {
        limits::AWS_BATCH_ENTRIES
    }

    async fn receive(&self, max: usize, wait: Duration, visibility: Duration) -> Outcome<Vec<Received>> {
        let Way { world, process } = &self.way;
        self::wait(world, (self.of)(world), wait).await;
        let call = self.call("receive", 1, || format!("up to {max}"));
        let (there, of, who) = (world.clone(), self.of, process.to_string());
        process.call_one(call, move || receive(&there, of, &who, max, visibility)).await
    }

    async fn ack(&self, tokens: &[AckToken]) -> Vec<Outcome<()>> {
        let call = self.call("ack", tokens.len(), || listed(tokens));
        self.each(call, tokens, |channel, tokens| at_once(channel.queue.ack(tokens))).await
    }

    async fn extend(&self, tokens: &[AckToken], visibility: Duration) -> Vec<Outcome<()>> {
        let call = self.call("extend", tokens.len(), || listed(tokens));
        self.each(call, tokens, move |channel, tokens| at_once(channel.queue.extend(tokens, visibility))).await
    }

    async fn release(&self, messages: &[(AckToken, Duration)]) -> Vec<Outcome<()>> {
        let call = self.call("release", messages.len(), || format!("{messages:?}"));
        self.each(call, messages, |channel, messages| at_once(channel.queue.release(messages))).await
    }

    async fn reject(&self, messages: &[(Received, String)]) -> Vec<Outcome<()>> {
        let call = self.call("reject", messages.len(), || {
            messages.iter().map(|(message, reason)| format!("{} ({reason})", message.message_id)).collect::<Vec<_>>().join(", ")
        });
        let world = self.way.world.clone();
        let drops = world.breakage == Some(Breakage::DropsRejected);
        self.each(call, messages, move |channel, messages| {
            if drops {
                let tokens: Vec<_> = messages.iter().map(|(message, _)| message.token.clone()).collect();
                return at_once(channel.queue.ack(&tokens));
            }
            world.count_many(Happening::DeadLetter, messages.len());
            at_once(channel.queue.reject(messages))
        })
        .await
    }

    async fn send(&self, messages: &[Outgoing]) -> Vec<Outcome<()>> {
        let call = self.call("send", messages.len(), || {
            messages.iter().map(|message| format!("{} in {:?}", about(&message.body), message.delay)).collect::<Vec<_>>().join(", ")
        });
        let world = self.way.world.clone();
        self.each(call, messages, move |channel, messages| {
            messages.iter().for_each(|message| count_sent(&world, channel, message));
            let drops = world.breakage == Some(Breakage::DropsReplays);
            let left = messages.iter().filter(|message| !(drops && is_replay(message))).cloned();
            let sent: Vec<_> = left.map(|message| perhaps_held_back(&world, channel, message)).collect();
            at_once(channel.queue.send(&sent));
            vec![Ok(()); messages.len()]
        })
        .await
    }
}

impl DeadLetters for SimQueue {
    async fn list(&self, max: usize) -> Outcome<Vec<DeadLetter>> {
        let (world, of) = (self.way.world.clone(), self.of);
        let call = self.call("list", 1, String::new).careful();
        self.way.process.call_one(call, move || at_once(of(&world).queue.list(max))).await
    }

    async fn redrive(&self, ids: &[String]) -> Vec<Outcome<()>> {
        let call = self.call("redrive", ids.len(), || ids.join(", ")).careful();
        self.way.world.count_many(Happening::Redriven, ids.len());
        self.each(call, ids, |channel, ids| at_once(channel.queue.redrive(ids))).await
    }
}

fn receive(world: &Arc<World>, of: fn(&World) -> &Channel, who: &str, max: usize, visibility: Duration) -> Outcome<Vec<Received>> {
    world.show(world.now());
    let channel = of(world);
    let received = at_once(channel.queue.receive(max, Duration::ZERO, visibility))?;
    for message in &received {
        if message.receive_count > 1 {
            world.count(Happening::ReceivedAgain);
        }
        world.note(who, || {
            format!("    gets message {} for the {}. time: {}", message.message_id, message.receive_count, about(&message.body))
        });
        if world.breakage == Some(Breakage::AcksOnReceive) {
            at_once(channel.queue.ack(std::slice::from_ref(&message.token)));
        }
        if !world.is_quiet() {
            disturb(world, of, message);
        }
    }
    Ok(received)
}

/// What an at-least-once queue may do with a message that somebody works on.
fn disturb(world: &Arc<World>, of: fn(&World) -> &Channel, message: &Received) {
    let weather = &world.scenario.weather;
    let dice = Dice::new(world.scenario.seed, &[name("queue"), name(&message.message_id), u64::from(message.receive_count)]);
    // The copy of a copy, and so on, would soon be all there is.
    if message.receive_count == 1 && dice.chance(weather.twice) {
        let copy = Outgoing { body: message.body.clone(), attributes: message.attributes.clone(), delay: dice.up_to(SOON) };
        world.note(of(world), || format!("will deliver message {} once more, in {:?}", message.message_id, copy.delay));
        world.count(Happening::DeliveredTwice);
        at_once(of(world).queue.send(&[copy]));
    }
    if dice.chance(weather.lease_ends) {
        let (world, token, id, wait) = (world.clone(), message.token.clone(), message.message_id.clone(), dice.up_to(SOON));
        tokio::spawn(async move {
            sleep(wait).await;
            world.show(world.now());
            if at_once(of(&world).queue.extend(&[token], Duration::ZERO)) == [Ok(())] {
                world.count(Happening::LeaseEnded);
                world.note(of(&world), || format!("ends the lease of message {id}"));
                of(&world).changed.notify_waiters();
            }
        });
    }
}

/// A message that comes later than it should, if it does: those behind it come first.
pub(super) fn perhaps_held_back(world: &World, channel: &Channel, message: Outgoing) -> Outgoing {
    let names = [name("held back"), name(channel.name), name(&message.body), world.elapsed().as_millis() as u64];
    let dice = Dice::new(world.scenario.seed, &names);
    if world.is_quiet() || !dice.chance(world.scenario.weather.held_back) {
        return message;
    }
    world.count(Happening::HeldBack);
    Outgoing { delay: message.delay + dice.up_to(SOON), ..message }
}

/// Notes what a dispatcher or a connect sends: a replay command, an event for those who are left, or one for the other queue.
fn count_sent(world: &World, channel: &Channel, message: &Outgoing) {
    world.count(match channel.name {
        EMAIL_QUEUE => Happening::Forwarded,
        _ if is_replay(message) => Happening::Replay,
        _ => Happening::Narrowed,
    });
}

fn is_replay(message: &Outgoing) -> bool {
    message.body.contains("\"recado_replay\"")
}

fn listed(tokens: &[AckToken]) -> String {
    let message = |token: &AckToken| token.0.split('-').next().unwrap_or_default().to_owned();
    tokens.iter().map(message).collect::<Vec<_>>().join(", ")
}

/// A message in a few words.
pub(super) fn about(body: &str) -> String {
    let parsed: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
    if parsed["recado_replay"].is_object() {
        return format!("replay for {}", text(&parsed["recado_replay"]["connection"]));
    }
    let people = parsed["data"]["recipients"].as_array().into_iter().flatten().map(|one| text(&one["id"]));
    format!("{} for {}", text(&parsed["id"]), people.collect::<Vec<_>>().join("+"))
}
