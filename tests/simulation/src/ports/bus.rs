//! The topic: every event to the inbox queue, and to the email queue what its attributes ask for; late, and now and then twice.

use std::sync::Arc;
use std::time::Duration;

use recado_domain::event::{Channel as Medium, Event};
use recado_domain::message::{Attributes, attributes_of};
use recado_domain::ports::{EventBus, Outcome, Outgoing, Queue};

use super::Way;
use super::queue::perhaps_held_back;
use crate::chance::{Dice, name};
use crate::coverage::Happening;
use crate::process::Call;
use crate::world::{Channel, World, at_once};

pub(crate) struct SimBus(pub(crate) Way);

/// What a topic takes to deliver, at the most.
const DELIVERY: Duration = Duration::from_secs(3);

impl EventBus for SimBus {
    async fn publish(&self, events: &[Event]) -> Vec<Outcome<()>> {
        let messages: Vec<_> = events.iter().map(|event| (event.to_json(), attributes_of(event), event.wants(Medium::Email))).collect();
        self.publish_raw(messages).await
    }
}

impl SimBus {
    /// Publishes texts: what anybody can do who may publish. The last of each says whether the filter of the email
    /// subscription lets it through.
    pub(crate) async fn publish_raw(&self, messages: Vec<(String, Attributes, bool)>) -> Vec<Outcome<()>> {
        let Way { world, process } = &self.0;
        let call =
            Call::new(world, "publish", || messages.iter().map(|(body, ..)| super::queue::about(body)).collect::<Vec<_>>().join(", "));
        let call = call.of(messages.len());
        let there = world.clone();
        let apply = move |arriving: &[usize]| {
            for at in arriving {
                let (body, attributes, email) = &messages[*at];
                fan_out(&there, &there.inbox_queue, body, attributes);
                if *email {
                    fan_out(&there, &there.email_queue, body, attributes);
                }
            }
            vec![Ok(()); arriving.len()]
        };
        process.call(call, apply).await
    }
}

fn fan_out(world: &Arc<World>, channel: &Channel, body: &str, attributes: &Attributes) {
    let weather = &world.scenario.weather;
    let dice = Dice::new(world.scenario.seed, &[name("topic"), name(channel.name), name(body), world.elapsed().as_millis() as u64]);
    let times = if !world.is_quiet() && dice.chance(weather.twice) { 2 } else { 1 };
    if times > 1 {
        world.count(Happening::DeliveredTwice);
    }
    world.show(world.now());
    for _ in 0..times {
        let delay = if dice.chance(weather.slow) { dice.up_to(DELIVERY) } else { Duration::ZERO };
        let message = Outgoing { body: body.to_owned(), attributes: attributes.clone(), delay };
        at_once(channel.queue.send(&[perhaps_held_back(world, channel, message)]));
    }
    channel.changed.notify_waiters();
}
