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

use crate::auth::{Authenticate, identify};
use crate::problem::{Problem, media_type, read_body};
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

/// The types of an [`InboxState`], so that routes name one parameter instead of five. Implemented for an
/// [`InboxState`] of `Arc`s, which a composition root shares with other rooms.
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
    let recipient = recipient_of(&*ports, &headers).await?;
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
    let recipient = recipient_of(&*ports, &headers).await?;
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
    let recipient = recipient_of(&*ports, &headers).await?;
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
    let recipient = recipient_of(&*ports, &headers).await?;
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
    let recipient = recipient_of(&*ports, &headers).await?;
    let Ids { ids } = parse_ids(&headers, body)?;
    let ids = ports.inbox().archive(&recipient, &ids).await.map_err(|failure| Problem::of_failure("archive", &failure))?;
    announce::archived(ports.devices(), &recipient, &ids, None).await;
    announce_unread(&*ports, &recipient, !ids.is_empty()).await;
    Ok(Json(Changed { ids }))
}

/// Whose inbox this request may see.
async fn recipient_of<P: InboxPorts>(ports: &P, headers: &HeaderMap) -> Result<RecipientKey, Problem> {
    Ok(identify(ports.auth(), headers).await?.recipient)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use proptest::prelude::*;
    use recado_domain::failure::Failure;
    use serde_json::{Value, json};

    use super::*;
    use crate::test_client::{World, key};

    const ALICE: &str = "default/alice";

    #[tokio::test]
    async fn an_inbox_is_listed_newest_first_page_by_page() {
        let world = World::new(&[]);
        let alice = key("default", "alice");
        for id in ["one", "two", "three"] {
            world.arrive(&alice, id).await;
        }
        let first = world.get(ALICE, "/inbox?limit=2").await;
        assert_eq!(first.status, StatusCode::OK);
        let ids = |body: &Value| -> Vec<Value> {
            body["items"].as_array().map_or_else(Vec::new, |items| items.iter().map(|item| item["event_id"].clone()).collect())
        };
        assert_eq!(ids(&first.body), ["three", "two"]);
        let next = first.body["next"].as_str().expect("there is more");
        let last = world.get(ALICE, &format!("/inbox?limit=2&before={next}")).await;
        assert_eq!(ids(&last.body), ["one"]);
        assert_eq!(last.body["next"], Value::Null);
    }

    #[tokio::test]
    async fn filters_show_what_they_say() {
        let world = World::new(&[]);
        let alice = key("default", "alice");
        let read = world.arrive(&alice, "read").await;
        let archived = world.arrive(&alice, "archived").await;
        world.arrive(&alice, "new").await;
        assert_eq!(world.post(ALICE, "/inbox/read", json!({ "ids": [read] })).await.body, json!({ "ids": [read] }));
        assert_eq!(world.post(ALICE, "/inbox/archive", json!({ "ids": [archived] })).await.body, json!({ "ids": [archived] }));
        for (filter, expected) in [("inbox", vec!["new", "read"]), ("unread", vec!["new"]), ("archived", vec!["archived"])] {
            let page = world.get(ALICE, &format!("/inbox?filter={filter}")).await.body;
            let items = page["items"].as_array().expect("items");
            let ids: Vec<_> = items.iter().filter_map(|item| item["event_id"].as_str()).collect();
            assert_eq!(ids, expected, "{filter}");
        }
        assert_eq!(world.get(ALICE, "/inbox/unread-count").await.body, json!({ "count": 1, "capped": false }));
    }

    #[tokio::test]
    async fn changing_twice_changes_once() {
        let world = World::new(&[]);
        let id = world.arrive(&key("default", "alice"), "one").await;
        world.post(ALICE, "/inbox/read", json!({ "ids": [id] })).await;
        let again = world.post(ALICE, "/inbox/read", json!({ "ids": [id] })).await;
        assert_eq!((again.status, again.body), (StatusCode::OK, json!({ "ids": [] })));
    }

    #[tokio::test]
    async fn a_change_shows_on_the_users_other_devices_and_on_nobody_elses() {
        let world = World::new(&[]);
        let alice = key("default", "alice");
        let (phone, other) = (world.connect(&alice, "phone").await, world.connect(&key("other", "alice"), "other").await);
        let id = world.arrive(&alice, "one").await;
        world.post(ALICE, "/inbox/read", json!({ "ids": [id] })).await;
        world.post(ALICE, "/inbox/archive", json!({ "ids": [id] })).await;
        let unread = json!({ "type": "unread", "count": 0, "capped": false });
        let expected = [json!({ "type": "read", "ids": [id] }), unread.clone(), json!({ "type": "archive", "ids": [id] }), unread];
        assert_eq!(world.frames(&phone), expected);
        assert_eq!(world.frames(&other), [] as [Value; 0]);
    }

    #[tokio::test]
    async fn reading_all_shows_on_other_devices_with_its_position() {
        let world = World::new(&[]);
        let alice = key("default", "alice");
        let phone = world.connect(&alice, "phone").await;
        let id = world.arrive(&alice, "one").await;
        let position = world.inbox.entries(&alice)[0].position;
        let answer = world.post(ALICE, "/inbox/read-all", json!({ "up_to": position })).await;
        assert_eq!((answer.status, &answer.body["ids"]), (StatusCode::OK, &json!([id])));
        let frames = world.frames(&phone);
        assert_eq!(frames[0], json!({ "type": "read", "ids": [id], "up_to": answer.body["up_to"] }));
        assert_eq!(frames[1]["count"], 0);
    }

    #[tokio::test]
    async fn nothing_is_announced_when_nothing_changed() {
        let world = World::new(&[]);
        let phone = world.connect(&key("default", "alice"), "phone").await;
        let absent = NotificationId::of("/tests", "absent");
        world.post(ALICE, "/inbox/read", json!({ "ids": [absent] })).await;
        assert_eq!(world.frames(&phone), [] as [Value; 0]);
    }

    #[tokio::test]
    async fn a_gone_device_is_forgotten_and_a_failing_one_is_kept() {
        let world = World::new(&[]);
        let alice = key("default", "alice");
        let (gone, slow) = (world.connect(&alice, "gone").await, world.connect(&alice, "slow").await);
        world.sockets.vanish(&gone);
        world.sockets.fail_next(&slow, Failure::transient("429"));
        let id = world.arrive(&alice, "one").await;
        assert_eq!(world.post(ALICE, "/inbox/read", json!({ "ids": [id] })).await.status, StatusCode::OK);
        let left: Vec<_> = world.connections.rows(&alice).into_iter().map(|row| row.id).collect();
        assert_eq!(left, [slow]);
    }

    #[tokio::test]
    async fn a_device_whose_token_ended_hears_nothing() {
        let world = World::new(&[]);
        let alice = key("default", "alice");
        let phone = world.connect(&alice, "phone").await;
        let id = world.arrive(&alice, "one").await;
        world.clock.advance(Duration::from_secs(3600));
        world.post(ALICE, "/inbox/read", json!({ "ids": [id] })).await;
        assert_eq!(world.frames(&phone), [] as [Value; 0]);
    }

    #[tokio::test]
    async fn users_and_tenants_see_and_change_their_own_only() {
        let world = World::new(&[]);
        let id = world.arrive(&key("default", "alice"), "one").await;
        for stranger in ["default/bia", "other/alice"] {
            assert_eq!(world.get(stranger, "/inbox?recipient=alice&tenant=default").await.body["items"], json!([]));
            assert_eq!(world.post(stranger, "/inbox/archive", json!({ "ids": [id], "recipient": "alice" })).await.body["ids"], json!([]));
        }
        assert_eq!(world.get(ALICE, "/inbox").await.body["items"].as_array().map(Vec::len), Some(1));
    }

    #[tokio::test]
    async fn without_a_valid_token_there_is_no_inbox() {
        let world = World::new(&[]);
        for (path, method) in [
            ("/inbox", "GET"),
            ("/inbox?token=default/alice&access_token=default/alice", "GET"),
            ("/inbox/unread-count", "GET"),
            ("/inbox/read", "POST"),
            ("/inbox/read-all", "POST"),
            ("/inbox/archive", "POST"),
        ] {
            for authorization in [None, Some("Bearer nonsense"), Some("Basic default/alice"), Some("Bearer ")] {
                let mut request = Request::builder().method(method).uri(path);
                if let Some(authorization) = authorization {
                    request = request.header("authorization", authorization);
                }
                let answer = world.send(request.body(Body::empty()).expect("a request")).await;
                assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path} {authorization:?}");
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
                assert_eq!(answer.header("content-type"), Some("application/problem+json"));
                assert_eq!(answer.body["status"], 401);
            }
        }
    }

    #[tokio::test]
    async fn what_is_down_says_when_to_come_again() {
        let world = World::new(&[]);
        let down = world.get("down", "/inbox").await;
        assert_eq!((down.status, down.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("1")));
        let failure = Failure::Transient { retry_after: Some(Duration::from_millis(2500)), reason: "secret of the store".to_owned() };
        world.inbox.faults().fail_next("page", failure);
        let busy = world.get(ALICE, "/inbox").await;
        assert_eq!((busy.status, busy.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("3")));
        world.inbox.faults().fail_next("page", Failure::permanent("secret of the store"));
        let broken = world.get(ALICE, "/inbox").await;
        assert_eq!(broken.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!broken.body.to_string().contains("secret") && !busy.body.to_string().contains("secret"));
    }

    #[tokio::test]
    async fn a_wrong_query_names_each_wrong_field() {
        let world = World::new(&[]);
        let answer = world.get(ALICE, "/inbox?filter=all&before=here&limit=101&limit=1").await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        let fields: Vec<_> = answer.body["violations"].as_array().expect("violations").iter().map(|v| v["field"].clone()).collect();
        assert_eq!(fields, ["limit", "filter", "before"]);
        for limit in ["0", "-1", "x", ""] {
            assert_eq!(world.get(ALICE, &format!("/inbox?limit={limit}")).await.status, StatusCode::UNPROCESSABLE_ENTITY, "{limit}");
        }
    }

    #[tokio::test]
    async fn wrong_bodies_are_refused_without_repeating_them() {
        let world = World::new(&[]);
        let many = vec![NotificationId::of("a", "b").to_string(); limits::FRAME_IDS + 1];
        for (body, status) in [
            ("{".to_owned(), StatusCode::BAD_REQUEST),
            (json!({ "ids": [] }).to_string(), StatusCode::UNPROCESSABLE_ENTITY),
            (json!({ "ids": ["hunter2"] }).to_string(), StatusCode::UNPROCESSABLE_ENTITY),
            (json!({ "ids": many }).to_string(), StatusCode::UNPROCESSABLE_ENTITY),
            (format!("\"{}\"", "x".repeat(INBOX_BODY_BYTES)), StatusCode::PAYLOAD_TOO_LARGE),
        ] {
            let answer = world.post(ALICE, "/inbox/read", &body).await;
            assert_eq!(answer.status, status);
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            assert!(!answer.body.to_string().contains("hunter2"));
        }
        let form = Request::post("/inbox/read").header("authorization", "Bearer default/alice").header("content-type", "text/plain");
        assert_eq!(world.send(form.body(Body::from("{}")).expect("a request")).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_problems_too_and_every_answer_is_protected() {
        let world = World::new(&[]);
        let nothing = world.get(ALICE, "/inbox/nothing").await;
        let method = world.post(ALICE, "/inbox", "").await;
        let document = world.get("", "/inbox/openapi.json").await;
        assert_eq!((nothing.status, &nothing.body["type"]), (StatusCode::NOT_FOUND, &json!("urn:recado:problem:not-found")));
        assert_eq!(method.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(method.body["status"], 405);
        assert_eq!(method.header("allow"), Some("GET,HEAD"));
        assert_eq!(document.status, StatusCode::OK);
        assert!(document.body["paths"]["/inbox"].is_object());
        for answer in [nothing, method, document, world.get(ALICE, "/inbox").await] {
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_bodies_and_queries_are_answered(body in proptest::collection::vec(any::<u8>(), 0..512), query in "[ -~]{0,64}") {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let world = World::new(&[]);
                for path in ["/inbox/read", "/inbox/read-all", "/inbox/archive"] {
                    let request = Request::post(path).header("authorization", "Bearer default/alice").header("content-type", "application/json");
                    let answer = world.send(request.body(Body::from(body.clone())).expect("a request")).await;
                    assert!(answer.status.is_client_error() || answer.status.is_success());
                }
                if let Ok(request) = Request::get(format!("/inbox?{query}")).header("authorization", "Bearer default/alice").body(Body::empty()) {
                    let answer = world.send(request).await;
                    assert!(answer.status.is_client_error() || answer.status.is_success());
                }
            });
        }
    }
}
