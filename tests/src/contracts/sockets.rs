//! What every [`Sockets`] keeps: frames in order to an open socket, and a plain answer for one that is not.
#![expect(missing_docs, reason = "the names are sentences")]

use recado_domain::connection::CloseReason;
use recado_domain::ids::ConnectionId;
use recado_domain::limits;
use recado_domain::ports::{Posted, Sockets};

use super::{Backend, Peer};
use crate::harness::eventually;

async fn post<B: Backend>(backend: &B, id: &ConnectionId, frame: &str) -> Posted {
    backend.sockets().post(id, frame).await.unwrap()
}

pub async fn a_post_to_a_socket_that_never_opened_is_gone<B: Backend>(backend: &B) {
    let id = ConnectionId::new("never-opened=").unwrap();
    assert_eq!(post(backend, &id, "{}").await, Posted::Gone);
}

pub async fn frames_arrive_in_the_order_of_their_posts<B: Backend>(backend: &B) {
    let (id, mut peer) = backend.connect().await;
    let frames: Vec<String> = (0..50).map(|n| format!(r#"{{"type":"unread","count":{n},"capped":false}}"#)).collect();
    for frame in &frames {
        assert_eq!(post(backend, &id, frame).await, Posted::Delivered);
    }
    assert_eq!(peer.frames(frames.len()).await, frames);
}

pub async fn a_frame_at_the_limit_arrives_and_a_larger_one_is_a_permanent_failure<B: Backend>(backend: &B) {
    let (id, mut peer) = backend.connect().await;
    let larger = "x".repeat(limits::FRAME_BYTES + 1);
    assert!(!backend.sockets().post(&id, &larger).await.unwrap_err().is_transient());
    assert_eq!(post(backend, &id, &larger[1..]).await, Posted::Delivered);
    assert_eq!(peer.frames(1).await, [&larger[1..]]);
}

pub async fn a_socket_that_was_closed_is_gone_and_its_client_was_told_why<B: Backend>(backend: &B) {
    let (id, mut peer) = backend.connect().await;
    backend.sockets().close(&id, CloseReason::TokenExpired).await.unwrap();
    assert_eq!(peer.closed().await, backend.close_code(CloseReason::TokenExpired));
    assert_eq!(post(backend, &id, "{}").await, Posted::Gone);
}

pub async fn closing_what_is_gone_is_no_failure<B: Backend>(backend: &B) {
    let (id, mut peer) = backend.connect().await;
    backend.sockets().close(&id, CloseReason::Replaced).await.unwrap();
    backend.sockets().close(&id, CloseReason::TokenExpired).await.unwrap();
    assert_eq!(peer.closed().await, backend.close_code(CloseReason::Replaced), "the first reason stands");
    let never = ConnectionId::new("never-opened=").unwrap();
    backend.sockets().close(&never, CloseReason::GoingAway).await.unwrap();
}

pub async fn a_client_that_left_is_gone<B: Backend>(backend: &B) {
    let (id, peer) = backend.connect().await;
    peer.leave().await;
    let gone = async || Ok((post(backend, &id, "{}").await == Posted::Gone).then_some(()));
    eventually("the socket is gone", gone).await.unwrap();
}

pub async fn sockets_do_not_reach_into_each_other<B: Backend>(backend: &B) {
    let (one, mut first) = backend.connect().await;
    let (other, mut second) = backend.connect().await;
    assert_ne!(one, other);
    post(backend, &one, r#""for one""#).await;
    post(backend, &other, r#""for the other""#).await;
    assert_eq!(first.frames(1).await, [r#""for one""#]);
    assert_eq!(second.frames(1).await, [r#""for the other""#]);
    backend.sockets().close(&one, CloseReason::GoingAway).await.unwrap();
    first.closed().await;
    assert_eq!(post(backend, &other, r#""still there""#).await, Posted::Delivered);
    assert_eq!(second.frames(1).await, [r#""still there""#]);
}
