//! The inbox over HTTP, connection tickets, and CloudEvents in: axum routers over ports.
//!
//! [`inbox_router`] lets a user's browser list, count and change the user's own inbox, [`tickets_router`] gives it what opens a
//! socket, and [`admit_pages`] says from which pages; [`events_router`] lets applications publish. All answer errors as
//! `application/problem+json` (RFC 9457) and are put together, with answers for every other path, by [`complete`].
//!
//! Must not know: any store, any AWS SDK, who else serves the process, other rooms.

mod auth;
mod events;
mod inbox;
mod openapi;
mod pages;
mod problem;
mod tickets;

pub use auth::{AuthError, Authenticate};
pub use events::{BATCH_EVENTS, EVENTS_BODY_BYTES, EventsState, InvalidKey, KEY_BYTES, PublishKeys, events_router};
pub use inbox::{INBOX_BODY_BYTES, InboxPorts, InboxState, PAGE_DEFAULT, inbox_router};
pub use openapi::document as openapi_document;
pub use pages::admit_pages;
pub use problem::Problem;
pub use tickets::{TicketsPorts, TicketsState, tickets_router};

use axum::Router;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use tower_http::set_header::SetResponseHeaderLayer;

/// Answers every path the router has no route for with a problem document. Apply once, after merging.
pub fn complete(router: Router) -> Router {
    protect(router.fallback(async || Problem::new(StatusCode::NOT_FOUND, "not-found", "There is nothing at this path.")))
}

/// Answers a method that a path does not have, and sets the headers every answer carries: no sniffing, and no
/// storing, since every answer is somebody's own.
fn protect(router: Router) -> Router {
    let fixed = |name: HeaderName, value: &'static str| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    router
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "The header `Allow` names the methods of this path.")
        })
        .layer(fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(fixed(header::CACHE_CONTROL, "no-store"))
        .layer(fixed(header::REFERRER_POLICY, "no-referrer"))
}

#[cfg(test)]
mod test_client;
