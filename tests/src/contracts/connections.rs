//! What every [`Connections`] keeps: rows, their age, their cap, and conditional removal (R4).
#![expect(missing_docs, reason = "the names are sentences")]

use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use recado_domain::connection::{Connection, Phase, Protocol};
use recado_domain::ids::{ConnectionId, RecipientKey};
use recado_domain::limits;
use recado_domain::ports::Connections;

use super::Backend;
use super::samples::{alice, all, confusable_recipients, recipient};

const SECOND: Duration = Duration::from_secs(1);

/// An id as the gateway makes them, `=` included.
fn connection_id(name: &str) -> ConnectionId {
    ConnectionId::new(format!("{name}-c_#/+ab=")).expect("a connection id")
}

fn connection(name: &str, registered_at: Timestamp) -> Connection {
    Connection {
        id: connection_id(name),
        phase: Phase::Connecting,
        registered_at,
        token_expires_at: registered_at + Duration::from_secs(3600),
        protocol: Protocol::Recado,
        device: Some("Firefox, Grüße".to_owned()),
    }
}

async fn register<B: Backend>(backend: &B, of: &RecipientKey, connection: &Connection) -> Vec<Connection> {
    backend.connections().register(of, connection).await.unwrap().replaced
}

/// The rows of one user, by id.
async fn rows<B: Backend>(backend: &B, of: &RecipientKey) -> Vec<Connection> {
    let mut rows = all(backend.connections().of_users(std::slice::from_ref(of)).await).remove(0);
    rows.sort_by(|one, other| one.id.cmp(&other.id));
    rows
}

pub async fn a_registered_connection_is_its_users<B: Backend>(backend: &B) {
    let (a, mut b) = (connection("a", backend.now()), connection("b", backend.now()));
    (b.device, b.protocol) = (None, Protocol::Plain);
    assert!(register(backend, &alice(), &a).await.is_empty());
    assert!(register(backend, &alice(), &b).await.is_empty());
    assert_eq!(rows(backend, &alice()).await, [a, b]);
}

pub async fn concurrent_registrations_overwrite_nothing<B: Backend>(backend: &B) {
    let mut connections: Vec<_> = (0..10).map(|n| connection(&n.to_string(), backend.now())).collect();
    let alice = alice();
    for replaced in join_all(connections.iter().map(|connection| register(backend, &alice, connection))).await {
        assert!(replaced.is_empty());
    }
    connections.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(rows(backend, &alice).await, connections);
}

pub async fn registering_again_replaces_the_row<B: Backend>(backend: &B) {
    let first = connection("a", backend.now());
    register(backend, &alice(), &first).await;
    let second = Connection { device: Some("Safari".to_owned()), ..first };
    assert!(register(backend, &alice(), &second).await.is_empty());
    assert_eq!(rows(backend, &alice()).await, [second]);
}

pub async fn a_registration_that_arrives_late_leaves_a_live_row_live<B: Backend>(backend: &B) {
    let a = connection("a", backend.now());
    register(backend, &alice(), &a).await;
    assert_eq!(backend.connections().mark_live(&alice(), &a, true).await, Ok(true));
    // The same write, sent a second time.
    assert!(register(backend, &alice(), &a).await.is_empty());
    assert_eq!(rows(backend, &alice()).await, [a.live()]);
}

pub async fn a_stale_row_is_pruned_by_the_next_registration<B: Backend>(backend: &B) {
    register(backend, &alice(), &connection("stale", backend.now())).await;
    backend.advance(SECOND).await;
    let young = connection("young", backend.now());
    register(backend, &alice(), &young).await;
    backend.advance(limits::CONNECTION_ROW_AGE - SECOND).await;
    let new = connection("new", backend.now());
    register(backend, &alice(), &new).await;
    assert_eq!(rows(backend, &alice()).await, [new, young]);
}

/// Registers as many as the cap allows, a second apart.
async fn fill<B: Backend>(backend: &B) -> Vec<Connection> {
    let mut filled = Vec::new();
    for n in 0..limits::CONNECTIONS_PER_USER {
        let next = connection(&format!("{n:02}"), backend.now());
        assert!(register(backend, &alice(), &next).await.is_empty());
        filled.push(next);
        backend.advance(SECOND).await;
    }
    filled
}

pub async fn the_oldest_row_above_the_cap_is_replaced<B: Backend>(backend: &B) {
    let mut filled = fill(backend).await;
    let new = connection("new", backend.now());
    assert_eq!(register(backend, &alice(), &new).await, [filled.remove(0)]);
    filled.push(new);
    assert_eq!(rows(backend, &alice()).await, filled);
}

pub async fn the_new_row_is_never_the_one_replaced<B: Backend>(backend: &B) {
    let mut filled = fill(backend).await;
    // Registered last, although its clock was behind.
    let new = connection("new", filled[0].registered_at - SECOND);
    assert_eq!(register(backend, &alice(), &new).await, [filled.remove(0)]);
    filled.push(new);
    assert_eq!(rows(backend, &alice()).await, filled);
}

pub async fn users_are_answered_in_order_repeated_and_unknown_ones_too<B: Backend>(backend: &B) {
    let (bob, carol) = (recipient("default", "bob"), recipient("default", "carol"));
    let (a, b) = (connection("a", backend.now()), connection("b", backend.now()));
    register(backend, &alice(), &a).await;
    register(backend, &bob, &b).await;
    let answers = all(backend.connections().of_users(&[bob.clone(), carol, alice(), bob]).await);
    assert_eq!(answers, [vec![b.clone()], vec![], vec![a], vec![b]]);
    assert!(backend.connections().of_users(&[]).await.is_empty());
}

pub async fn more_users_than_one_batch_are_answered<B: Backend>(backend: &B) {
    let users: Vec<_> = (0..250).map(|n| recipient("default", &format!("user-{n}"))).collect();
    let last = connection("a", backend.now());
    register(backend, &users[249], &last).await;
    let answers = all(backend.connections().of_users(&users).await);
    assert_eq!(answers.len(), 250);
    assert!(answers[..249].iter().all(Vec::is_empty));
    assert_eq!(answers[249], [last]);
}

pub async fn the_owner_is_known_with_the_row_as_registered<B: Backend>(backend: &B) {
    let a = connection("a", backend.now());
    assert_eq!(backend.connections().owner(&a.id).await, Ok(None));
    register(backend, &alice(), &a).await;
    assert_eq!(backend.connections().owner(&a.id).await, Ok(Some((alice(), a.clone()))));
    assert_eq!(backend.connections().mark_live(&alice(), &a, false).await, Ok(true));
    assert_eq!(backend.connections().owner(&a.id).await, Ok(Some((alice(), a))));
}

pub async fn mark_live_proves_a_row<B: Backend>(backend: &B) {
    let a = connection("a", backend.now());
    register(backend, &alice(), &a).await;
    assert_eq!(backend.connections().mark_live(&alice(), &a, false).await, Ok(true));
    assert_eq!(rows(backend, &alice()).await, [a.live()]);
    assert_eq!(backend.connections().mark_live(&alice(), &a, true).await, Ok(true));
    assert_eq!(rows(backend, &alice()).await, [a.live()], "once more changes nothing");
}

pub async fn mark_live_creates_a_row_only_where_told<B: Backend>(backend: &B) {
    let a = connection("a", backend.now());
    assert_eq!(backend.connections().mark_live(&alice(), &a, false).await, Ok(false));
    assert!(rows(backend, &alice()).await.is_empty());
    assert_eq!(backend.connections().mark_live(&alice(), &a, true).await, Ok(true));
    assert_eq!(rows(backend, &alice()).await, [a.live()]);
}

pub async fn removing_is_idempotent<B: Backend>(backend: &B) {
    let a = connection("a", backend.now());
    assert_eq!(backend.connections().remove(&alice(), &a.id).await, Ok(()));
    register(backend, &alice(), &a).await;
    backend.connections().mark_live(&alice(), &a, false).await.unwrap();
    assert!(backend.connections().owner(&a.id).await.unwrap().is_some());
    assert_eq!(backend.connections().remove(&alice(), &a.id).await, Ok(()));
    assert_eq!(backend.connections().remove(&alice(), &a.id).await, Ok(()));
    assert!(rows(backend, &alice()).await.is_empty());
    assert_eq!(backend.connections().owner(&a.id).await, Ok(None));
}

pub async fn removing_takes_one_row_of_one_user<B: Backend>(backend: &B) {
    let (a, b) = (connection("a", backend.now()), connection("b", backend.now()));
    register(backend, &alice(), &a).await;
    register(backend, &alice(), &b).await;
    backend.connections().remove(&alice(), &a.id).await.unwrap();
    backend.connections().remove(&recipient("default", "bob"), &connection_id("c")).await.unwrap();
    assert_eq!(rows(backend, &alice()).await, std::slice::from_ref(&b));
    assert_eq!(backend.connections().owner(&b.id).await, Ok(Some((alice(), b))));
}

pub async fn an_unchanged_row_is_removed<B: Backend>(backend: &B) {
    let a = connection("a", backend.now());
    register(backend, &alice(), &a).await;
    backend.connections().mark_live(&alice(), &a, false).await.unwrap();
    let seen = rows(backend, &alice()).await.remove(0);
    assert!(backend.connections().owner(&a.id).await.unwrap().is_some());
    assert_eq!(backend.connections().remove_unchanged(&alice(), &seen).await, Ok(true));
    assert!(rows(backend, &alice()).await.is_empty());
    assert_eq!(backend.connections().owner(&a.id).await, Ok(None));
}

pub async fn a_changed_or_missing_row_is_not_removed<B: Backend>(backend: &B) {
    let seen = connection("a", backend.now());
    assert_eq!(backend.connections().remove_unchanged(&alice(), &seen).await, Ok(false));
    register(backend, &alice(), &seen).await;
    backend.connections().mark_live(&alice(), &seen, false).await.unwrap();
    assert_eq!(backend.connections().remove_unchanged(&alice(), &seen).await, Ok(false), "it became live meanwhile");
    assert_eq!(rows(backend, &alice()).await, [seen.live()]);
    assert_eq!(backend.connections().owner(&seen.id).await, Ok(Some((alice(), seen))));
}

pub async fn users_do_not_reach_into_each_other<B: Backend>(backend: &B) {
    let recipients = confusable_recipients();
    let registered: Vec<_> = (0..recipients.len()).map(|n| connection(&n.to_string(), backend.now())).collect();
    for (of, connection) in recipients.iter().zip(&registered) {
        register(backend, of, connection).await;
    }
    for (of, connection) in recipients.iter().zip(registered) {
        assert_eq!(rows(backend, of).await, std::slice::from_ref(&connection), "{of:?}");
        assert_eq!(backend.connections().owner(&connection.id).await, Ok(Some((of.clone(), connection))));
    }
}
