//! The processes that run all the time: dispatchers, email workers, publishers, an operator.
//!
//! Must not know: what comes of their work.

use std::sync::Arc;
use std::time::Duration;

use recado_dispatcher::{Dispatcher, DispatcherConfig, Ports};
use recado_domain::event::{Channel, Event};
use recado_domain::failure::Failure;
use recado_domain::message::Attributes;
use recado_domain::ports::{AckToken, DeadLetters, EventBus};
use recado_email_worker::{EmailWorker, Feedback, MailConfig, MailSettings, Templates};
use recado_memory::SeededEntropy;
use recado_runtime::backoff::RetrySchedule;
use recado_runtime::consumer::trigger::Trigger;
use recado_runtime::consumer::{ConsumerConfig, Handler, consume};
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::chance::{Dice, entropy, name};
use crate::coverage::Happening;
use crate::lock;
use crate::ports::{SimBus, SimClaims, SimConnections, SimInbox, SimMailer, SimQueue, SimSockets, SimSuppressions, Way};
use crate::process::{Process, Role};
use crate::scenario::{EventPlan, How};
use crate::world::{World, address};

/// How long a process is gone after it ended, at the most.
const RESTART: Duration = Duration::from_secs(20);
/// How often a process is told to stop, for an update, at the most.
const UPDATE: Duration = Duration::from_secs(900);
/// What a platform gives an invocation, and for how long it hides the batch meanwhile (infra/template.yaml; "Using Lambda
/// with Amazon SQS" asks for six times as long).
const INVOCATION: Duration = Duration::from_secs(30);
const LEASE_OF_A_BATCH: Duration = Duration::from_secs(180);
/// What of it is kept for giving back.
const MARGIN: Duration = Duration::from_secs(5);

/// Works off the inbox queue, life after life.
pub(crate) async fn dispatcher(world: Arc<World>, nth: usize) {
    let role = Role::new(format!("dispatcher-{nth}"));
    loop {
        let process = Process::start(&world, &role);
        let way = || Way::new(&world, &process);
        let ports = Ports {
            inbox_queue: SimQueue::inbox(way()),
            email_queue: SimQueue::email(way()),
            inbox: SimInbox(way()),
            connections: SimConnections(way()),
            sockets: SimSockets(way()),
            clock: process.clock(),
            entropy: entropy(world.scenario.seed, &[role.name(), process.life]),
        };
        let room = Dispatcher::new(ports, DispatcherConfig::default());
        work(&world, &process, &role, SimQueue::inbox(way()), room, RetrySchedule::default()).await;
    }
}

/// Works off the email queue, life after life.
pub(crate) async fn email_worker(world: Arc<World>, nth: usize, templates: Templates) {
    let role = Role::new(format!("mailer-{nth}"));
    let settings = MailSettings::from("Recado <recado@example.com>");
    loop {
        let process = Process::start(&world, &role);
        let way = || Way::new(&world, &process);
        let ports = recado_email_worker::Ports {
            mailer: Arc::new(SimMailer { way: way(), timeout: settings.send_timeout }),
            claims: Arc::new(SimClaims(way())),
            suppressions: Arc::new(SimSuppressions(way())),
            clock: Arc::new(process.clock()),
            entropy: Arc::new(entropy(world.scenario.seed, &[role.name(), process.life])),
        };
        let config = MailConfig::new(settings.clone()).expect("the defaults hold together");
        let room = EmailWorker::new(ports, templates.clone(), config);
        work(&world, &process, &role, SimQueue::email(way()), room, recado_email_worker::RETRY).await;
    }
}

/// Works off the feedback queue, life after life.
pub(crate) async fn feedback(world: Arc<World>) {
    let role = Role::new("feedback");
    loop {
        let process = Process::start(&world, &role);
        let way = || Way::new(&world, &process);
        let room = Feedback::new(Arc::new(SimSuppressions(way())));
        work(&world, &process, &role, SimQueue::feedback(way()), room, recado_email_worker::RETRY).await;
    }
}

/// One life: until it ends by a fault, or is told to stop.
async fn work<H: Handler>(world: &Arc<World>, process: &Arc<Process>, role: &Role, queue: SimQueue, room: H, retry: RetrySchedule) {
    let dice = Dice::new(world.scenario.seed, &[name("restart"), role.name(), process.life]);
    let jitter = entropy(world.scenario.seed, &[name("jitter"), role.name(), process.life]);
    let room = Arc::new(room);
    if world.scenario.triggered {
        invoked(world, process, queue, room, jitter, retry).await;
    } else {
        consuming(world, process, &dice, Arc::new(queue), room, jitter, retry).await;
    }
    // What it spawned and has not finished ends with it.
    process.kill("the process is over");
    let down = if world.is_quiet() { Duration::from_millis(500) } else { dice.up_to(RESTART) };
    sleep(down).await;
}

/// A process of its own that polls.
async fn consuming<H: Handler>(
    world: &World,
    process: &Process,
    dice: &Dice,
    queue: Arc<SimQueue>,
    room: Arc<H>,
    jitter: SeededEntropy,
    retry: RetrySchedule,
) {
    let scenario = &world.scenario;
    let stop = CancellationToken::new();
    let config =
        ConsumerConfig { concurrency: scenario.concurrency, visibility: scenario.visibility, retry, ..ConsumerConfig::named("simulation") };
    let consuming = consume(queue, room, Arc::new(jitter), config, stop.clone());
    let update = async {
        sleep(dice.up_to(UPDATE)).await;
        if !world.is_quiet() {
            world.note(process, || "is told to stop".to_owned());
            stop.cancel();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = process.ended() => {}
        drained = consuming => {
            world.count(Happening::Stopped);
            world.note(process, || format!("has stopped: {drained:?}"));
        }
        () = update => {}
    }
}

/// A Lambda that a platform calls with batches it polled, and for which it deletes what was not named as failed.
async fn invoked<H: Handler>(
    world: &Arc<World>,
    process: &Arc<Process>,
    queue: SimQueue,
    room: Arc<H>,
    jitter: SeededEntropy,
    retry: RetrySchedule,
) {
    let platform = queue.platform();
    let trigger = Trigger { name: "simulation", queue, handler: room, entropy: jitter, retry, margin: MARGIN };
    while process.is_alive() {
        let batch = platform.poll(LEASE_OF_A_BATCH).await;
        if batch.is_empty() {
            continue;
        }
        let ids: Vec<(String, AckToken)> = batch.iter().map(|message| (message.message_id.clone(), message.token.clone())).collect();
        let settled = tokio::select! {
            biased;
            () = process.ended() => None,
            settled = trigger.handle(batch, INVOCATION) => Some(settled),
        };
        // Of an invocation that came to no answer nothing is deleted.
        let Some(settled) = settled else { return };
        world.note(process, || format!("answers its platform: {:?} stay", settled.failed));
        platform.delete(ids.into_iter().filter(|(id, _)| !settled.failed.contains(id)).map(|(_, token)| token).collect());
    }
}

/// Publishes one event as it was planned.
pub(crate) async fn publisher(world: Arc<World>, nth: usize) {
    let plan = world.scenario.events[nth].clone();
    let dice = Dice::new(world.scenario.seed, &[name("publisher"), nth as u64]);
    sleep(plan.at).await;
    let event = event(&world, nth, &plan);
    publish(&world, nth, &plan, &event, &dice).await;
    if plan.how == How::Twice {
        sleep(dice.up_to(Duration::from_secs(300))).await;
        publish(&world, nth, &plan, &event, &dice).await;
    }
}

async fn publish(world: &Arc<World>, nth: usize, plan: &EventPlan, event: &Event, dice: &Dice) {
    let role = Role::new(format!("publisher-{nth}"));
    match plan.how {
        How::Poison => {
            lock(&world.ledger).poison.entry(poison(nth)).or_insert(false);
        }
        _ => lock(&world.ledger).publish(event),
    }
    // Some give up early, and never know.
    for _ in 0..1 + dice.below(8) {
        let process = Process::start(world, &role);
        let bus = SimBus(Way::new(world, &process));
        let call = async {
            match plan.how {
                How::Producer | How::Twice => bus.publish(std::slice::from_ref(event)).await,
                How::Bare => bus.publish_raw(vec![(event.to_json(), Attributes::new(), false)]).await,
                How::Poison => bus.publish_raw(vec![(poison(nth), Attributes::new(), false)]).await,
            }
        };
        let answer = tokio::select! {
            biased;
            () = process.ended() => None,
            answers = call => answers.into_iter().next(),
        };
        match answer {
            Some(Ok(())) if plan.how == How::Poison => {
                lock(&world.ledger).poison.insert(poison(nth), true);
                return;
            }
            Some(Ok(())) => {
                world.note(&process, || format!("was told that {} is accepted", event.document().id));
                return lock(&world.ledger).accept(event);
            }
            Some(Err(Failure::Permanent { .. })) => return,
            Some(Err(Failure::Transient { .. })) | None => sleep(dice.up_to(Duration::from_secs(10))).await,
        }
    }
}

fn poison(nth: usize) -> String {
    json!({"specversion": "1.0", "id": format!("e{nth}"), "data": "nothing Recado knows"}).to_string()
}

fn event(world: &World, nth: usize, plan: &EventPlan) -> Event {
    let people: Vec<_> = plan.to.iter().map(|user| &world.scenario.users[*user]).collect();
    let channels = [plan.inbox.then_some(Channel::Inbox), plan.email.then_some(Channel::Email)];
    let channels: Vec<Channel> = channels.into_iter().flatten().collect();
    let recipients: Vec<_> = people.iter().map(|key| json!({"id": key.user, "email": address(key)})).collect();
    let expires_at = plan.expires.map(|after| world.now() + after);
    let document = json!({
        "specversion": "1.0", "id": format!("e{nth}"), "source": "/simulation", "type": "thing.done",
        "data": {
            "tenant": people[0].tenant, "recipients": recipients, "channels": channels,
            "title": format!("event {nth}"), "body": "x".repeat(plan.body), "expires_at": expires_at,
        }
    });
    Event::from_value(document).expect("a planned event is a valid one")
}

/// Publishes one more event for everybody, by a road without faults, and answers its name per tenant.
pub(crate) async fn publish_the_last(world: &Arc<World>) {
    let process = Process::start(world, &Role::new("last-publisher"));
    let bus = SimBus(Way::new(world, &process));
    let tenants: std::collections::BTreeSet<_> = world.scenario.users.iter().map(|user| &user.tenant).collect();
    for (at, tenant) in tenants.into_iter().enumerate() {
        let to = (0..world.scenario.users.len()).filter(|user| world.scenario.users[*user].tenant == *tenant).collect();
        let plan = EventPlan { at: Duration::ZERO, to, inbox: true, email: false, body: 0, expires: None, how: How::Producer };
        let event = event(world, world.scenario.events.len() + at, &plan);
        lock(&world.ledger).publish(&event);
        if bus.publish(std::slice::from_ref(&event)).await == [Ok(())] {
            lock(&world.ledger).accept(&event);
        }
    }
}

/// Looks at the dead letters now and then, and sends some back.
pub(crate) async fn operator(world: Arc<World>, every: Duration) {
    let dice = Dice::new(world.scenario.seed, &[name("operator")]);
    let role = Role::new("operator");
    while !world.is_quiet() {
        sleep(dice.up_to(every * 2)).await;
        let process = Process::start(&world, &role);
        let look = async {
            for queue in [SimQueue::inbox, SimQueue::email, SimQueue::feedback].map(|of| of(Way::new(&world, &process))) {
                let letters = queue.list(10).await.unwrap_or_default();
                let ids: Vec<String> = letters.into_iter().filter(|_| dice.chance(0.6)).map(|letter| letter.id).collect();
                if !ids.is_empty() {
                    queue.redrive(&ids).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = process.ended() => {}
            () = look => {}
        }
    }
}
