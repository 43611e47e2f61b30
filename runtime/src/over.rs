//! Removes the row of a connection that is over: the second half of R4, for everybody who posts.
//!
//! Never an error: a row that stays is skipped by its phase, removed by the next 410, or pruned by age. Must not know:
//! what was posted.

use jiff::Timestamp;
use recado_domain::connection::Connection;
use recado_domain::ids::RecipientKey;
use recado_domain::ports::Connections;

/// After a 410 to a post that was begun at `asked`: removes the row where that proves the socket gone, rather than not there
/// yet. The moment of the answer would not do: a slow one says nothing of a socket that opened meanwhile.
pub async fn gone<C: Connections>(connections: &C, asked: Timestamp, recipient: &RecipientKey, seen: &Connection) {
    if seen.gone_is_final(asked) {
        remove(connections, recipient, seen, "gone").await;
    }
}

/// Removes the row if nothing changed it since it was `seen`. `why` labels the metric.
pub async fn remove<C: Connections>(connections: &C, recipient: &RecipientKey, seen: &Connection, why: &'static str) {
    match connections.remove_unchanged(recipient, seen).await {
        Ok(removed) => {
            metrics::counter!("recado_connections_removed_total", "why" => why).increment(u64::from(removed));
            tracing::debug!(connection = %seen.id, user = %recipient.user, why, removed, "connection is over");
        }
        Err(failure) => {
            tracing::warn!(connection = %seen.id, user = %recipient.user, why, reason = failure.reason(), "row not removed; the next post, or its age, does it");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use recado_domain::connection::{Phase, Protocol};
    use recado_domain::ids::{ConnectionId, TenantId, UserId};
    use recado_domain::limits;
    use recado_domain::ports::Clock;
    use recado_memory::{ManualClock, MemoryConnections};

    use super::*;

    async fn registered() -> (MemoryConnections, ManualClock, RecipientKey, Connection) {
        let clock = ManualClock::default();
        let connections = MemoryConnections::new(clock.clone());
        let alice = RecipientKey::new(TenantId::default(), UserId::new("alice").unwrap());
        let (id, registered_at) = (ConnectionId::new("c=").unwrap(), clock.now());
        let token_expires_at = registered_at + Duration::from_secs(3600);
        let row = Connection { id, phase: Phase::Connecting, registered_at, token_expires_at, protocol: Protocol::Plain, device: None };
        connections.register(&alice, &row).await.unwrap();
        (connections, clock, alice, row)
    }

    #[tokio::test]
    async fn a_410_removes_what_is_opening_only_after_the_grace_period() {
        let (connections, clock, alice, row) = registered().await;
        gone(&connections, clock.now(), &alice, &row).await;
        assert_eq!(connections.rows(&alice).len(), 1);
        clock.advance(limits::W);
        gone(&connections, clock.now(), &alice, &row).await;
        assert!(connections.rows(&alice).is_empty());
    }

    #[tokio::test]
    async fn a_row_that_became_live_meanwhile_stays() {
        let (connections, clock, alice, row) = registered().await;
        clock.advance(limits::W);
        connections.mark_live(&alice, &row, false).await.unwrap();
        gone(&connections, clock.now(), &alice, &row).await;
        assert_eq!(connections.rows(&alice), [row.live()]);
    }
}
