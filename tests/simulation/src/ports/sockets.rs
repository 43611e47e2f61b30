//! Open sockets.

use std::sync::Arc;

use recado_domain::connection::CloseReason;
use recado_domain::ids::{ConnectionId, DeliveryKey, NotificationId};
use recado_domain::ports::{Outcome, Posted, Sockets};
use serde_json::Value;

use super::Way;
use crate::breakage::Breakage;
use crate::chance::{Dice, name};
use crate::coverage::Happening;
use crate::process::Call;
use crate::world::{World, at_once, short};
use crate::{gateway, lock};

pub(crate) struct SimSockets(pub(crate) Way);

impl Sockets for SimSockets {
    async fn post(&self, id: &ConnectionId, frame: &str) -> Outcome<Posted> {
        let Way { world, process } = &self.0;
        let parsed: Value = serde_json::from_str(frame).unwrap_or_default();
        must_be_stored(world, id, &parsed);
        let call = Call::new(world, "post", || format!("to {id}: {}", gateway::brief(world, &parsed))).post();
        let (there, id, frame) = (world.clone(), id.clone(), frame.to_owned());
        process.call_one(call, move || post(&there, &id, &frame, &parsed)).await
    }

    async fn close(&self, id: &ConnectionId, reason: CloseReason) -> Outcome<()> {
        let Way { world, process } = &self.0;
        let call = Call::new(world, "close", || format!("{id}: {}", reason.text()));
        let (there, id) = (world.clone(), id.clone());
        let apply = move || {
            close(&there, &id, Some(reason));
            Ok(())
        };
        process.call_one(call, apply).await
    }
}

/// Closes a socket, and tells its client where it can hear.
pub(crate) fn close(world: &Arc<World>, id: &ConnectionId, reason: Option<CloseReason>) {
    if !world.sockets.is_open(id) {
        return;
    }
    match reason {
        Some(reason) => drop(at_once(world.sockets.close(id, reason))),
        None => world.sockets.vanish(id),
    }
    gateway::closed(world, id, reason);
}

/// R1: no frame mentions what is not stored.
fn must_be_stored(world: &World, id: &ConnectionId, frame: &Value) {
    let Some(user) = gateway::user(world, id) else { return };
    for notification in items(frame) {
        if world.inbox.entry(&DeliveryKey { recipient: user.clone(), notification }).is_none() {
            let event = world.name_of(notification);
            world.violation("R1", format!("a frame to {id} mentions {event}, which the inbox of {} does not hold", short(&user)));
        }
    }
}

fn post(world: &Arc<World>, id: &ConnectionId, frame: &str, parsed: &Value) -> Outcome<Posted> {
    let id = &misrouted(world, id);
    // As a gateway does that lost sight of a socket for a moment.
    let weather = &world.scenario.weather;
    let posts = world.counts().of(Happening::Frame);
    let dice = Dice::new(world.scenario.seed, &[name("gone"), name(id.as_str()), posts]);
    if !world.is_quiet() && dice.chance(weather.gone) {
        world.count(Happening::WronglyGone);
        world.note("gateway", || format!("answers 410 for {id}"));
        return Ok(Posted::Gone);
    }
    let posted = at_once(world.sockets.post(id, frame));
    match &posted {
        Ok(Posted::Delivered) => gateway::deliver(world, id, frame, parsed),
        _ => {
            let opened = lock(&world.ledger).session(id).is_some();
            world.count(if opened { Happening::Gone } else { Happening::NotYetOpen });
            world.note("gateway", || format!("has no socket {id}: 410"));
        }
    }
    posted
}

fn misrouted(world: &World, id: &ConnectionId) -> ConnectionId {
    if world.breakage == Some(Breakage::PostsToOthers) && world.counts().of(Happening::Frame) % 5 == 4 {
        let mut open: Vec<ConnectionId> = lock(&world.lines).keys().cloned().collect();
        open.retain(|other| other != id && world.sockets.is_open(other));
        return open.into_iter().next().unwrap_or_else(|| id.clone());
    }
    id.clone()
}

/// The notifications of a frame.
pub(crate) fn items(frame: &Value) -> Vec<NotificationId> {
    let items = frame["items"].as_array().into_iter().flatten();
    items.filter_map(|item| item["id"].as_str()?.parse().ok()).collect()
}
