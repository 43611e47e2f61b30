//! Tells a user's other devices what one of them did: `read`, `archive` and `unread` frames to the live connections.
//!
//! Shared by the socket's and the HTTP way of changing an inbox, so that both show alike. The stored state is what
//! counts: a frame that does not arrive is repaired by the next `sync`, so a failing post is never an error here.
//! Must not know: who asked for the change, or how.

use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use recado_domain::connection::{Connection, Phase};
use recado_domain::frame::ServerFrame;
use recado_domain::ids::{ConnectionId, NotificationId, RecipientKey};
use recado_domain::limits;
use recado_domain::ports::{Clock, Connections, Posted, Sockets, Unread};
use recado_domain::position::Position;

use crate::over;

/// What an announcement may take per connection: the caller's own answer must not wait for a slow device.
const POST_TIMEOUT: Duration = Duration::from_secs(5);

/// What announcing needs of the world.
#[derive(Debug)]
pub struct Ports<'a, C, S, K> {
    /// Finds the devices.
    pub connections: &'a C,
    /// Reaches them.
    pub sockets: &'a S,
    /// Judges whether a connection still counts.
    pub clock: &'a K,
}

impl<C, S, K> Clone for Ports<'_, C, S, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C, S, K> Copy for Ports<'_, C, S, K> {}

/// Says that `ids`, and everything up to `up_to`, were read. `except` is the connection that did it. Says nothing
/// when there is nothing to say.
pub async fn read<C: Connections, S: Sockets, K: Clock>(
    ports: Ports<'_, C, S, K>,
    recipient: &RecipientKey,
    ids: &[NotificationId],
    up_to: Option<Position>,
    except: Option<&ConnectionId>,
) {
    let mut frames: Vec<String> = runs(ids).map(|ids| ServerFrame::Read { ids, up_to }.to_json()).collect();
    if frames.is_empty() && up_to.is_some() {
        frames.push(ServerFrame::Read { ids: &[], up_to }.to_json());
    }
    post_all(ports, recipient, &frames, except).await;
}

/// Says that `ids` were put away. `except` is the connection that did it. Says nothing without ids.
pub async fn archived<C: Connections, S: Sockets, K: Clock>(
    ports: Ports<'_, C, S, K>,
    recipient: &RecipientKey,
    ids: &[NotificationId],
    except: Option<&ConnectionId>,
) {
    let frames: Vec<String> = runs(ids).map(|ids| ServerFrame::Archive { ids }.to_json()).collect();
    post_all(ports, recipient, &frames, except).await;
}

/// Says how many are unread. `except` is a connection that need not hear it.
pub async fn unread<C: Connections, S: Sockets, K: Clock>(
    ports: Ports<'_, C, S, K>,
    recipient: &RecipientKey,
    unread: Unread,
    except: Option<&ConnectionId>,
) {
    let frame = ServerFrame::Unread { count: unread.count, capped: unread.capped }.to_json();
    post_all(ports, recipient, &[frame], except).await;
}

/// Cuts ids so that each run fits a frame: 1,000 ids are 29 of the 30 KiB of [`limits::FRAME_BYTES`].
fn runs(ids: &[NotificationId]) -> impl Iterator<Item = &[NotificationId]> {
    ids.chunks(limits::FRAME_IDS)
}

async fn post_all<C: Connections, S: Sockets, K: Clock>(
    ports: Ports<'_, C, S, K>,
    recipient: &RecipientKey,
    frames: &[String],
    except: Option<&ConnectionId>,
) {
    if frames.is_empty() {
        return;
    }
    let rows = match ports.connections.of_users(std::slice::from_ref(recipient)).await.pop() {
        Some(Ok(rows)) => rows,
        Some(Err(failure)) => {
            tracing::debug!(user = %recipient.user, reason = failure.reason(), "devices not found; their next sync repairs it");
            return;
        }
        None => return,
    };
    let now = ports.clock.now();
    let listening = rows.iter().filter(|row| listens(row, now) && except != Some(&row.id));
    join_all(listening.map(|row| post_frames(ports, recipient, row, frames))).await;
}

/// A connecting socket does not exist yet (R4), and an ended token ends the right to be told.
fn listens(row: &Connection, now: Timestamp) -> bool {
    row.phase == Phase::Live && !row.has_expired(now)
}

/// Posts in order and stops at the first frame that did not arrive.
async fn post_frames<C: Connections, S: Sockets, K: Clock>(
    ports: Ports<'_, C, S, K>,
    recipient: &RecipientKey,
    row: &Connection,
    frames: &[String],
) {
    for frame in frames {
        let asked = ports.clock.now();
        let outcome = match tokio::time::timeout(POST_TIMEOUT, ports.sockets.post(&row.id, frame)).await {
            Ok(Ok(Posted::Delivered)) => "delivered",
            Ok(Ok(Posted::Gone)) => {
                over::gone(ports.connections, asked, recipient, row).await;
                "gone"
            }
            Ok(Err(_)) => "failed",
            Err(_) => "timeout",
        };
        metrics::counter!("recado_announcements_total", "outcome" => outcome).increment(1);
        if outcome != "delivered" {
            tracing::debug!(connection = %row.id, user = %recipient.user, outcome, "announcement not delivered; the next sync repairs it");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use recado_domain::connection::Protocol;
    use recado_domain::failure::Failure;
    use recado_domain::ids::{TenantId, UserId};
    use recado_memory::{ManualClock, MemoryConnections, MemorySockets};

    use super::*;

    struct World {
        clock: ManualClock,
        connections: MemoryConnections,
        sockets: MemorySockets,
        alice: RecipientKey,
    }

    impl World {
        fn new() -> Self {
            let clock = ManualClock::default();
            let alice = RecipientKey::new(TenantId::default(), UserId::new("alice").expect("a user"));
            Self { connections: MemoryConnections::new(clock.clone()), sockets: MemorySockets::new(), clock, alice }
        }

        fn ports(&self) -> Ports<'_, MemoryConnections, MemorySockets, ManualClock> {
            Ports { connections: &self.connections, sockets: &self.sockets, clock: &self.clock }
        }

        async fn connect(&self, id: &str, phase: Phase) -> ConnectionId {
            let id = ConnectionId::new(id).expect("an id");
            let now = self.clock.now();
            let ends = now + Duration::from_secs(3600);
            let row =
                Connection { id: id.clone(), phase, registered_at: now, token_expires_at: ends, protocol: Protocol::Recado, device: None };
            self.connections.register(&self.alice, &row).await.expect("no fault is scripted");
            self.sockets.open(&id);
            id
        }
    }

    fn ids(count: usize) -> Vec<NotificationId> {
        (0..count).map(|at| NotificationId::of("/tests", &at.to_string())).collect()
    }

    #[tokio::test]
    async fn more_ids_than_fit_a_frame_are_told_in_several() {
        let world = World::new();
        let phone = world.connect("phone", Phase::Live).await;
        let up_to = Position::floor(world.clock.now());
        read(world.ports(), &world.alice, &ids(limits::FRAME_IDS + 1), Some(up_to), None).await;
        archived(world.ports(), &world.alice, &ids(limits::FRAME_IDS * 2), None).await;
        let frames = world.sockets.frames(&phone);
        assert_eq!(frames.len(), 4);
        assert!(frames.iter().all(|frame| frame.len() <= limits::FRAME_BYTES));
    }

    #[tokio::test]
    async fn a_position_without_ids_is_told_and_nothing_is_not() {
        let world = World::new();
        let phone = world.connect("phone", Phase::Live).await;
        read(world.ports(), &world.alice, &[], None, None).await;
        archived(world.ports(), &world.alice, &[], None).await;
        assert!(world.sockets.frames(&phone).is_empty());
        read(world.ports(), &world.alice, &[], Some(Position::MIN), None).await;
        assert_eq!(world.sockets.frames(&phone).len(), 1);
    }

    #[tokio::test]
    async fn neither_the_device_that_did_it_nor_one_that_still_connects_is_told() {
        let world = World::new();
        let (own, opening, other) = (
            world.connect("own", Phase::Live).await,
            world.connect("opening", Phase::Connecting).await,
            world.connect("other", Phase::Live).await,
        );
        unread(world.ports(), &world.alice, Unread { count: 3, capped: false }, Some(&own)).await;
        let told = [&own, &opening, &other].map(|id| world.sockets.frames(id).len());
        assert_eq!(told, [0, 0, 1]);
    }

    #[tokio::test]
    async fn after_a_frame_that_did_not_arrive_no_later_one_is_posted() {
        let world = World::new();
        let phone = world.connect("phone", Phase::Live).await;
        world.sockets.fail_next(&phone, Failure::transient("429"));
        read(world.ports(), &world.alice, &ids(limits::FRAME_IDS * 2), None, None).await;
        assert!(world.sockets.frames(&phone).is_empty());
        assert_eq!(world.connections.rows(&world.alice).len(), 1, "a failing post proves nothing");
        world.sockets.vanish(&phone);
        read(world.ports(), &world.alice, &ids(1), None, None).await;
        assert!(world.connections.rows(&world.alice).is_empty());
    }
}
