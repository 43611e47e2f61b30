//! Connection tickets over HTTP: a token in a header is exchanged for what opens one socket.
//!
//! The URL of a socket ends up in logs, and a browser can put a credential nowhere else. Must not know: how tokens are verified,
//! where tickets are kept, who redeems them.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use jiff::Timestamp;
use recado_domain::limits;
use recado_domain::ports::{Clock, Entropy, TicketHolder, Tickets};
use recado_domain::ticket::Ticket;
use serde::Serialize;
use url::Url;
use utoipa::ToSchema;
use utoipa::openapi::schema::{KnownFormat, Object, ObjectBuilder, SchemaFormat, Type};

use crate::auth::{Authenticate, identify};
use crate::problem::Problem;
use crate::protect;

/// The most bytes of a body nobody asked for.
const BODY_BYTES: usize = 1024;

/// What the route for tickets needs of the world.
#[derive(Debug)]
pub struct TicketsState<A, T, K, E> {
    /// Says who asks.
    pub auth: A,
    /// Keeps what was given out.
    pub tickets: T,
    /// The present.
    pub clock: K,
    /// Draws tickets: must be one that nobody can foresee.
    pub entropy: E,
    /// Where sockets open, without a query: `wss://…/ws`.
    pub socket_url: Url,
}

/// The types of a [`TicketsState`], so that the route names one parameter instead of four. Implemented for a [`TicketsState`] of
/// `Arc`s, which a composition root shares with other rooms.
pub trait TicketsPorts: Send + Sync + 'static {
    /// See [`TicketsState::auth`].
    type Auth: Authenticate;
    /// See [`TicketsState::tickets`].
    type Tickets: Tickets;
    /// See [`TicketsState::clock`].
    type Clock: Clock;
    /// See [`TicketsState::entropy`].
    type Entropy: Entropy;

    /// See [`TicketsState::auth`].
    fn auth(&self) -> &Self::Auth;
    /// See [`TicketsState::tickets`].
    fn tickets(&self) -> &Self::Tickets;
    /// See [`TicketsState::clock`].
    fn clock(&self) -> &Self::Clock;
    /// See [`TicketsState::entropy`].
    fn entropy(&self) -> &Self::Entropy;
    /// See [`TicketsState::socket_url`].
    fn socket_url(&self) -> &Url;
}

impl<A: Authenticate, T: Tickets, K: Clock, E: Entropy> TicketsPorts for TicketsState<Arc<A>, Arc<T>, Arc<K>, Arc<E>> {
    type Auth = A;
    type Tickets = T;
    type Clock = K;
    type Entropy = E;

    fn auth(&self) -> &A {
        &self.auth
    }

    fn tickets(&self) -> &T {
        &self.tickets
    }

    fn clock(&self) -> &K {
        &self.clock
    }

    fn entropy(&self) -> &E {
        &self.entropy
    }

    fn socket_url(&self) -> &Url {
        &self.socket_url
    }
}

/// `POST /connection-tickets`.
pub fn tickets_router<P: TicketsPorts>(state: P) -> Router {
    let router = Router::new().route("/connection-tickets", post(issue::<P>)).layer(DefaultBodyLimit::max(BODY_BYTES));
    protect(router.with_state(Arc::new(state)))
}

/// What opens one socket.
#[derive(Serialize, ToSchema)]
pub(crate) struct ConnectionTicket {
    /// Opens one socket, once.
    ticket: String,
    /// Until when it does; 30 s from now, or when the token ends.
    #[schema(schema_with = moment)]
    expires_at: Timestamp,
    /// Where it does: the socket's URL with the ticket in it.
    #[schema(example = "wss://notify.example.com/ws?ticket=…")]
    url: String,
}

fn moment() -> Object {
    ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).build()
}

/// Gives out a ticket that opens one socket within 30 s.
#[utoipa::path(post, path = "/connection-tickets", tag = "sockets", security(("token" = [])),
    responses(
        (status = 201, body = ConnectionTicket),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "Repeat after `Retry-After`")))]
async fn issue<P: TicketsPorts>(State(ports): State<Arc<P>>, headers: HeaderMap) -> Result<Response, Problem> {
    let identity = identify(ports.auth(), &headers).await?;
    let ticket = Ticket::draw(ports.entropy());
    let life = ports.clock().now().checked_add(limits::TICKET_LIFE).unwrap_or(Timestamp::MAX);
    let expires_at = life.min(identity.expires_at);
    let holder = TicketHolder { recipient: identity.recipient, token_expires_at: identity.expires_at };
    let kept = ports.tickets().issue(&ticket.key(), &holder, expires_at).await;
    kept.map_err(|failure| Problem::of_failure("issue a connection ticket", &failure))?;
    metrics::counter!("recado_tickets_issued_total").increment(1);
    let ticket = ticket.reveal();
    let mut url = ports.socket_url().clone();
    url.query_pairs_mut().append_pair("ticket", &ticket);
    Ok((StatusCode::CREATED, Json(ConnectionTicket { ticket, expires_at, url: url.into() })).into_response())
}

/// The paths of this module, for the OpenAPI document.
pub(crate) mod paths {
    pub(crate) use super::__path_issue;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use axum::http::{Request, header};
    use recado_domain::failure::Failure;
    use serde_json::Value;

    use super::*;
    use crate::test_client::{TOKEN_LASTS, World, key};

    const PATH: &str = "/connection-tickets";
    const ALICE: &str = "acme/alice";

    fn key_of(body: &Value) -> recado_domain::ticket::TicketKey {
        Ticket::read(body["ticket"].as_str().expect("a ticket")).expect("it reads").key()
    }

    #[tokio::test]
    async fn a_token_is_exchanged_for_a_ticket_of_half_a_minute() {
        let world = World::new(&[]);
        let answer = world.post(ALICE, PATH, "").await;
        assert_eq!(answer.status, StatusCode::CREATED);
        let (ticket, url) = (answer.body["ticket"].as_str().unwrap(), answer.body["url"].as_str().unwrap());
        assert_eq!(url, format!("wss://recado.example/notify/ws?ticket={ticket}"));
        assert_eq!(answer.body["expires_at"], (world.clock.now() + Duration::from_secs(30)).to_string());
        assert_eq!(answer.header(header::CACHE_CONTROL), Some("no-store"));
        let holder = world.tickets.redeem(&key_of(&answer.body)).await.unwrap().expect("it was kept");
        assert_eq!(holder, TicketHolder { recipient: key("acme", "alice"), token_expires_at: world.clock.now() + TOKEN_LASTS });
    }

    #[tokio::test]
    async fn each_ticket_is_another() {
        let world = World::new(&[]);
        let (one, other) = (world.post(ALICE, PATH, "").await, world.post(ALICE, PATH, "").await);
        assert_ne!(one.body["ticket"], other.body["ticket"]);
    }

    #[tokio::test]
    async fn a_ticket_ends_with_its_token() {
        let world = World::new(&[]);
        world.clock.advance(TOKEN_LASTS - Duration::from_secs(10));
        let answer = world.post(ALICE, PATH, "").await;
        assert_eq!(answer.body["expires_at"], (world.clock.now() + Duration::from_secs(10)).to_string());
    }

    #[tokio::test]
    async fn nobody_gets_one_without_a_token_in_the_header() {
        let world = World::new(&[]);
        let bare = world.send(Request::post(format!("{PATH}?token={ALICE}")).body(Body::empty()).unwrap()).await;
        assert_eq!((bare.status, &bare.body["type"]), (StatusCode::UNAUTHORIZED, &"urn:recado:problem:unauthorized".into()));
        assert_eq!(world.post("nonsense", PATH, "").await.status, StatusCode::UNAUTHORIZED);
        assert_eq!(world.post("down", PATH, "").await.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(world.get(ALICE, PATH).await.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(world.tickets.faults().calls("issue"), 0);
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_gives_out_nothing() {
        let world = World::new(&[]);
        world.tickets.faults().lose_answer("issue");
        let answer = world.post(ALICE, PATH, "").await;
        assert_eq!((answer.status, answer.header(header::RETRY_AFTER)), (StatusCode::SERVICE_UNAVAILABLE, Some("1")));
        world.tickets.faults().fail_next("issue", Failure::permanent("no table"));
        assert_eq!(world.post(ALICE, PATH, "").await.status, StatusCode::INTERNAL_SERVER_ERROR);
    }
}
