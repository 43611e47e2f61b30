//! The inbox over HTTP: list, count, read, read all, archive.
//!
//! Whose inbox it is comes from the bearer token alone (P5); a token in the query string is not looked at, because
//! URLs end in logs. A change shows on the user's other devices like one made over a socket. Must not know: how
//! tokens are verified, where entries are stored.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use recado_domain::event::Violation;
use recado_domain::ids::{NotificationId, RecipientKey};
use recado_domain::limits;
use recado_domain::notification::Item;
use recado_domain::ports::{Clock, Connections, Inbox, PageFilter, Sockets};
use recado_domain::position::Position;
use recado_runtime::announce;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, Type};

use crate::auth::{AuthError, Authenticate};
use crate::problem::{Problem, bearer, media_type, read_body};
use crate::{openapi, protect};

/// The most bytes of a request body: 1,000 ids are 29 KiB.
pub const INBOX_BODY_BYTES: usize = 64 * 1024;
/// Items of a page when `limit` is not given.
pub const PAGE_DEFAULT: usize = 20;

/// What the inbox routes need of the world.
#[derive(Debug)]
pub struct InboxState<A, I, C, S, K> {
    /// Says who asks.
    pub auth: A,
    /// Holds the entries.
    pub inbox: I,
    /// Finds the user's other devices.
    pub connections: C,
    /// Reaches them.
    pub sockets: S,
    /// The present.
    pub clock: K,
}

/// An [`InboxState`] of any ports; `Arc`s of ports are ports of their own where their crates say so, and this
/// trait is implemented for [`InboxState`] over `Arc`s alone, which composition roots share with other rooms.
pub trait InboxPorts: Send + Sync + 'static {
    /// See [`InboxState::auth`].
    type Auth: Authenticate;
    /// See [`InboxState::inbox`].
    type Inbox: Inbox;
    /// See [`InboxState::connections`].
    type Connections: Connections;
    /// See [`InboxState::sockets`].
    type Sockets: Sockets;
    /// See [`InboxState::clock`].
    type Clock: Clock;

    /// See [`InboxState::auth`].
    fn auth(&self) -> &Self::Auth;
    /// See [`InboxState::inbox`].
    fn inbox(&self) -> &Self::Inbox;
    /// What announcing a change needs.
    fn devices(&self) -> announce::Ports<'_, Self::Connections, Self::Sockets, Self::Clock>;
}

impl<A: Authenticate, I: Inbox, C: Connections, S: Sockets, K: Clock> InboxPorts for InboxState<Arc<A>, Arc<I>, Arc<C>, Arc<S>, Arc<K>> {
    type Auth = A;
    type Inbox = I;
    type Connections = C;
    type Sockets = S;
    type Clock = K;

    fn auth(&self) -> &A {
        &self.auth
    }

    fn inbox(&self) -> &I {
        &self.inbox
    }

    fn devices(&self) -> announce::Ports<'_, C, S, K> {
        announce::Ports { connections: &self.connections, sockets: &self.sockets, clock: &self.clock }
    }
}

/// The routes below `/inbox`. Every one but the OpenAPI document asks for `Authorization: Bearer <token>`.
pub fn inbox_router<P: InboxPorts>(state: P) -> Router {
    let router = Router::new()
        .route("/inbox", get(list::<P>))
        .route("/inbox/unread-count", get(unread_count::<P>))
        .route("/inbox/read", post(read::<P>))
        .route("/inbox/read-all", post(read_all::<P>))
        .route("/inbox/archive", post(archive::<P>))
        .route("/inbox/openapi.json", get(async || Json(openapi::document())))
        .layer(DefaultBodyLimit::max(INBOX_BODY_BYTES))
        .with_state(Arc::new(state));
    protect(router)
}

/// A page of an inbox, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Listing<'a> {
    /// Newest first. A page may be empty although `next` is set: go on with it.
    #[schema(schema_with = items)]
    items: Vec<Item<'a>>,
    /// Pass as `before` for the next page; `null` at the end.
    #[schema(schema_with = optional_position, required = true)]
    next: Option<Position>,
}

/// How many are neither read nor archived.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UnreadCount {
    /// Counted up to 99.
    count: u32,
    /// Whether there are more: show `99+`.
    capped: bool,
}

/// Which notifications.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Ids {
    /// 1 to 1,000 notification ids.
    #[schema(schema_with = ids)]
    ids: Vec<NotificationId>,
}

/// What a change by id came to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Changed {
    /// The ids that changed: neither absent nor in that state already.
    #[schema(schema_with = ids)]
    ids: Vec<NotificationId>,
}

/// Up to where everything was read.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct UpTo {
    /// The highest position the user could see.
    #[schema(schema_with = position)]
    up_to: Position,
}

/// What reading everything came to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AllRead {
    /// The recent entries that were marked one by one.
    #[schema(schema_with = ids)]
    ids: Vec<NotificationId>,
    /// Everything up to and with this position is read as well.
    #[schema(schema_with = optional_position, required = true)]
    up_to: Option<Position>,
}

fn items() -> Schema {
    ArrayBuilder::new().items(utoipa::openapi::Ref::from_schema_name("Item")).build().into()
}

fn position() -> Schema {
    ObjectBuilder::new().schema_type(Type::String).description(Some("An item's `position`.")).build().into()
}

fn optional_position() -> Schema {
    ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::SchemaType::from_iter([Type::String, Type::Null]))
        .description(Some("An item's `position`."))
        .build()
        .into()
}

fn ids() -> Schema {
    let id = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9a-hjkmnp-tv-z]{26}$"));
    ArrayBuilder::new().items(id).max_items(Some(limits::FRAME_IDS)).description(Some("Notification ids.")).build().into()
}

/// Lists the inbox, newest first.
#[utoipa::path(get, path = "/inbox", tag = "inbox", security(("token" = [])),
    params(
        ("filter" = Option<String>, Query, description = "`inbox` (all that is not archived, the default), `unread` or `archived`"),
        ("before" = Option<String>, Query, description = "the last page's `next`"),
        ("limit" = Option<u8>, Query, description = "1 to 100 items; 20 when it is not given")),
    responses(
        (status = 200, body = inline(Listing)),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "Repeat after `Retry-After`")))]
async fn list<P: InboxPorts>(
    State(ports): State<Arc<P>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, Problem> {
    let recipient = identify(&*ports, &headers).await?;
    let Query(query) = query.map_err(|_| Problem::malformed("The query string cannot be read."))?;
    let asked = PageQuery::parse(&query)?;
    let page = ports.inbox().page(&recipient, asked.before, asked.filter, asked.limit).await;
    let page = page.map_err(|failure| Problem::of_failure("list", &failure))?;
    let items = page.entries.iter().map(Item::of).collect();
    Ok(Json(Listing { items, next: page.next.filter(|_| page.more) }).into_response())
}

/// Counts what is unread.
#[utoipa::path(get, path = "/inbox/unread-count", tag = "inbox", security(("token" = [])),
    responses(
        (status = 200, body = UnreadCount),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "Repeat after `Retry-After`")))]
async fn unread_count<P: InboxPorts>(State(ports): State<Arc<P>>, headers: HeaderMap) -> Result<Json<UnreadCount>, Problem> {
    let recipient = identify(&*ports, &headers).await?;
    let unread = ports.inbox().unread(&recipient).await.map_err(|failure| Problem::of_failure("unread", &failure))?;
    Ok(Json(UnreadCount { count: unread.count, capped: unread.capped }))
}

/// Marks notifications as read.
#[utoipa::path(post, path = "/inbox/read", tag = "inbox", security(("token" = [])), request_body = Ids,
    responses(
        (status = 200, body = Changed),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 415, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "Repeat after `Retry-After`")))]
async fn read<P: InboxPorts>(
    State(ports): State<Arc<P>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Changed>, Problem> {
    let recipient = identify(&*ports, &headers).await?;
    let Ids { ids } = parse_ids(&headers, body)?;
    let ids = ports.inbox().mark_read(&recipient, &ids).await.map_err(|failure| Problem::of_failure("read", &failure))?;
    announce::read(ports.devices(), &recipient, &ids, None, None).await;
    announce_unread(&*ports, &recipient, !ids.is_empty()).await;
    Ok(Json(Changed { ids }))
}

/// Marks everything up to a position as read.
#[utoipa::path(post, path = "/inbox/read-all", tag = "inbox", security(("token" = [])), request_body = UpTo,
    responses(
        (status = 200, body = AllRead),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 415, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "Repeat after `Retry-After`")))]
async fn read_all<P: InboxPorts>(
    State(ports): State<Arc<P>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<AllRead>, Problem> {
    let recipient = identify(&*ports, &headers).await?;
    let UpTo { up_to } = parse_json(&headers, body)?;
    let done = ports.inbox().read_all(&recipient, up_to).await.map_err(|failure| Problem::of_failure("read all", &failure))?;
    announce::read(ports.devices(), &recipient, &done.ids, done.up_to, None).await;
    announce_unread(&*ports, &recipient, true).await;
    Ok(Json(AllRead { ids: done.ids, up_to: done.up_to }))
}

/// Puts notifications away.
#[utoipa::path(post, path = "/inbox/archive", tag = "inbox", security(("token" = [])), request_body = Ids,
    responses(
        (status = 200, body = Changed),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 415, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "Repeat after `Retry-After`")))]
async fn archive<P: InboxPorts>(
    State(ports): State<Arc<P>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Changed>, Problem> {
    let recipient = identify(&*ports, &headers).await?;
    let Ids { ids } = parse_ids(&headers, body)?;
    let ids = ports.inbox().archive(&recipient, &ids).await.map_err(|failure| Problem::of_failure("archive", &failure))?;
    announce::archived(ports.devices(), &recipient, &ids, None).await;
    announce_unread(&*ports, &recipient, !ids.is_empty()).await;
    Ok(Json(Changed { ids }))
}

/// Whose inbox this request may see.
async fn identify<P: InboxPorts>(ports: &P, headers: &HeaderMap) -> Result<RecipientKey, Problem> {
    let token = bearer(headers).filter(|token| !token.is_empty() && token.len() <= limits::TOKEN_BYTES);
    let Some(token) = token else {
        return Err(Problem::unauthorized("Send `Authorization: Bearer <token>`; a token elsewhere is not accepted."));
    };
    ports.auth().authenticate(token).await.map_err(|error| match error {
        AuthError::Invalid => Problem::unauthorized("The token is not valid here, or has ended."),
        AuthError::Unavailable => Problem::unavailable(None, "Tokens cannot be verified at the moment."),
    })
}

/// After a change: the badge of every device. A count that cannot be read now comes with the next `sync`.
async fn announce_unread<P: InboxPorts>(ports: &P, recipient: &RecipientKey, changed: bool) {
    if !changed {
        return;
    }
    match ports.inbox().unread(recipient).await {
        Ok(unread) => announce::unread(ports.devices(), recipient, unread, None).await,
        Err(failure) => tracing::debug!(user = %recipient.user, reason = failure.reason(), "unread not counted after a change"),
    }
}

/// The query string of a listing. Unknown parameters are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PageQuery {
    filter: PageFilter,
    before: Option<Position>,
    limit: usize,
}

impl PageQuery {
    fn parse(query: &[(String, String)]) -> Result<Self, Problem> {
        let mut given: HashMap<&str, &str> = HashMap::new();
        let mut violations = Vec::new();
        let mut wrong = |field: &str, problem: &str| violations.push(Violation { field: field.to_owned(), problem: problem.to_owned() });
        for (name, value) in query {
            if matches!(name.as_str(), "filter" | "before" | "limit") && given.insert(name, value).is_some() {
                wrong(name, "stands there twice; give it once");
            }
        }
        let filter = match given.get("filter").copied() {
            None | Some("inbox") => PageFilter::Inbox,
            Some("unread") => PageFilter::Unread,
            Some("archived") => PageFilter::Archived,
            Some(_) => {
                wrong("filter", "is none of `inbox`, `unread` and `archived`");
                PageFilter::Inbox
            }
        };
        let before = given.get("before").and_then(|text| text.parse().map_err(|_| wrong("before", "is no page's `next`")).ok());
        let limit = match given.get("limit").map(|text| text.parse::<usize>()) {
            None => PAGE_DEFAULT,
            Some(Ok(limit)) if (1..=limits::PAGE_ENTRIES).contains(&limit) => limit,
            Some(_) => {
                wrong("limit", "is no number from 1 to 100");
                PAGE_DEFAULT
            }
        };
        if violations.is_empty() { Ok(Self { filter, before, limit }) } else { Err(Problem::invalid(violations)) }
    }
}

fn parse_ids(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Ids, Problem> {
    let ids: Ids = parse_json(headers, body)?;
    match ids.ids.len() {
        1..=limits::FRAME_IDS => Ok(ids),
        count => Err(Problem::field("ids", format!("has {count} entries; give 1 to {}", limits::FRAME_IDS))),
    }
}

/// Reads a body. `application/json` is asked for, because a page of another origin cannot send it unasked.
fn parse_json<T: DeserializeOwned>(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<T, Problem> {
    if media_type(headers).as_deref() != Some("application/json") {
        return Err(Problem::unsupported("Send the body as `Content-Type: application/json`."));
    }
    let body = read_body(body, INBOX_BODY_BYTES)?;
    // serde's own message could repeat what was sent; the place is enough.
    serde_json::from_slice(&body).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        if error.is_data() {
            Problem::field("body", format!("has a field that is missing or of the wrong kind ({place}); see /inbox/openapi.json"))
        } else {
            Problem::malformed(format!("The body is not JSON ({place})."))
        }
    })
}

/// The paths of this module, for the OpenAPI document.
pub(crate) mod paths {
    pub(crate) use super::{__path_archive, __path_list, __path_read, __path_read_all, __path_unread_count};
}
