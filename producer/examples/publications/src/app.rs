//! Publications with an owner, and permissions to view them. Must not know: where events go.
//!
//! Whom a request speaks for is the header `x-user`: a stand-in for whatever your application has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use recado_producer::{BufferedPublisher, Event, InvalidEvent, Notify, Pending, To, Unaccepted};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// Everything the routes share.
struct App {
    publisher: Arc<BufferedPublisher>,
    administrators: BTreeSet<String>,
    publications: Mutex<BTreeMap<u64, Publication>>,
}

#[derive(Debug, Clone)]
struct Publication {
    title: String,
    owner: String,
    permissions: BTreeMap<String, Permission>,
}

/// A permission to view. Its id is the id of the event that tells of it.
#[derive(Debug, Clone, Serialize)]
struct Permission {
    id: String,
    granted_by: String,
    event: EventState,
}

/// How far the event of a permission came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum EventState {
    /// No answer yet.
    Pending,
    /// Recado has it.
    Stored,
    /// Recado has not got it: grant the permission again to publish it again.
    Failed,
}

#[derive(Deserialize)]
struct NewPublication {
    title: String,
}

#[derive(Serialize)]
struct Shown {
    id: u64,
    title: String,
    owner: String,
}

#[derive(Deserialize)]
struct NewPermission {
    user: String,
    email: Option<String>,
}

/// The routes of the application.
pub(crate) fn router(publisher: Arc<BufferedPublisher>, administrators: impl IntoIterator<Item = String>) -> Router {
    let app = App { publisher, administrators: administrators.into_iter().collect(), publications: Mutex::default() };
    Router::new()
        .route("/publications", post(write))
        .route("/publications/{id}", get(view))
        .route("/publications/{id}/permissions", post(grant).get(permissions))
        .with_state(Arc::new(app))
}

/// Why a request is not carried out.
enum Refused {
    Anonymous,
    Forbidden,
    Missing,
    Invalid(InvalidEvent),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Anonymous => (StatusCode::UNAUTHORIZED, "say who you are with the header `x-user`".to_owned()),
            Self::Forbidden => {
                (StatusCode::FORBIDDEN, "only the owner and administrators may grant, only who was granted may view".to_owned())
            }
            Self::Missing => (StatusCode::NOT_FOUND, "there is no such publication".to_owned()),
            Self::Invalid(error) => (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
        };
        (status, Json(serde_json::json!({ "error": text }))).into_response()
    }
}

impl App {
    fn publications(&self) -> MutexGuard<'_, BTreeMap<u64, Publication>> {
        self.publications.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_grant(&self, user: &str, publication: &Publication) -> bool {
        publication.owner == user || self.administrators.contains(user)
    }

    fn set_event(&self, publication: u64, user: &str, state: EventState) {
        if let Some(permission) = self.publications().get_mut(&publication).and_then(|found| found.permissions.get_mut(user)) {
            permission.event = state;
        }
    }
}

fn user(headers: &HeaderMap) -> Result<String, Refused> {
    let name = headers.get("x-user").and_then(|name| name.to_str().ok()).filter(|name| !name.is_empty());
    name.map(str::to_owned).ok_or(Refused::Anonymous)
}

async fn write(State(app): State<Arc<App>>, headers: HeaderMap, Json(new): Json<NewPublication>) -> Result<Response, Refused> {
    let owner = user(&headers)?;
    let mut publications = app.publications();
    let id = publications.last_key_value().map_or(1, |(last, _)| last + 1);
    publications.insert(id, Publication { title: new.title.clone(), owner: owner.clone(), permissions: BTreeMap::new() });
    Ok((StatusCode::CREATED, Json(Shown { id, title: new.title, owner })).into_response())
}

async fn view(State(app): State<Arc<App>>, headers: HeaderMap, Path(id): Path<u64>) -> Result<Json<Shown>, Refused> {
    let user = user(&headers)?;
    let publications = app.publications();
    let publication = publications.get(&id).ok_or(Refused::Missing)?;
    if !app.may_grant(&user, publication) && !publication.permissions.contains_key(&user) {
        return Err(Refused::Forbidden);
    }
    Ok(Json(Shown { id, title: publication.title.clone(), owner: publication.owner.clone() }))
}

async fn permissions(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Path(id): Path<u64>,
) -> Result<Json<BTreeMap<String, Permission>>, Refused> {
    let user = user(&headers)?;
    let publications = app.publications();
    let publication = publications.get(&id).ok_or(Refused::Missing)?;
    if app.may_grant(&user, publication) { Ok(Json(publication.permissions.clone())) } else { Err(Refused::Forbidden) }
}

/// Grants permission to view: stores it, hands the event over, and answers. Nothing here waits for Recado.
async fn grant(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Path(id): Path<u64>,
    Json(new): Json<NewPermission>,
) -> Result<Response, Refused> {
    let granted_by = user(&headers)?;
    let (permission, event, status) = store(&app, id, granted_by, &new)?;
    hand_over(app, id, new.user, event);
    Ok((status, Json(permission)).into_response())
}

/// Stores a permission with the event that tells of it: both, or, where the event breaks a limit, neither.
fn store(app: &App, id: u64, granted_by: String, new: &NewPermission) -> Result<(Permission, Event, StatusCode), Refused> {
    let mut publications = app.publications();
    let publication = publications.get_mut(&id).ok_or(Refused::Missing)?;
    if !app.may_grant(&granted_by, publication) {
        return Err(Refused::Forbidden);
    }
    let (mut permission, status) = match publication.permissions.get(&new.user) {
        Some(granted) => (granted.clone(), StatusCode::OK),
        None => (Permission { id: Ulid::generate().to_string(), granted_by, event: EventState::Pending }, StatusCode::CREATED),
    };
    permission.event = EventState::Pending;
    let event = permission_granted(id, publication, &permission, new).map_err(Refused::Invalid)?;
    publication.permissions.insert(new.user.clone(), permission.clone());
    Ok((permission, event, status))
}

/// What happened, and whom it concerns.
fn permission_granted(id: u64, publication: &Publication, permission: &Permission, new: &NewPermission) -> Result<Event, InvalidEvent> {
    let notify = Notify::new("/publications", "publication.permission_granted")
        .id(permission.id.as_str())
        .category("permissions")
        .title(format!("You can now view {}", publication.title))
        .body(format!("{} gave you access.", permission.granted_by))
        .url(format!("/publications/{id}"))
        .payload(&serde_json::json!({ "publication": id }));
    match &new.email {
        Some(address) => notify.recipient(To::user(&new.user).email(address)).with_email().build(),
        None => notify.recipient(To::user(&new.user)).build(),
    }
}

/// Hands the event to the publisher before the request is answered, so that a graceful shutdown knows of it. What came
/// of it is remembered in the background.
fn hand_over(app: Arc<App>, id: u64, user: String, event: Event) {
    let accepted = app.publisher.try_publish(event);
    tokio::spawn(async move {
        let accepted = match accepted {
            // Recado was away for long. Waiting for room costs nobody's request.
            Err(Unaccepted::Full(event)) => app.publisher.publish(*event).await,
            now => now,
        };
        let state = match accepted {
            Ok(pending) => answered(pending).await,
            Err(error) => {
                tracing::warn!(publication = id, user, %error, "permission stored, event not accepted");
                EventState::Failed
            }
        };
        app.set_event(id, &user, state);
    });
}

async fn answered(pending: Pending) -> EventState {
    let notification_id = pending.notification_id();
    match pending.await {
        Ok(_) => EventState::Stored,
        Err(error) => {
            tracing::warn!(%notification_id, %error, "permission stored, event not published");
            EventState::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use axum::http::Request;
    use recado_memory::{ManualClock, MemoryBus, MemoryQueue, SeededEntropy};
    use recado_producer::{Buffer, Failure, Producer};
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::*;

    struct World {
        router: Router,
        publisher: Arc<BufferedPublisher>,
        bus: MemoryBus,
        inbox: MemoryQueue,
        email: MemoryQueue,
    }

    impl World {
        fn new() -> Self {
            let queue = || MemoryQueue::new(ManualClock::default(), SeededEntropy::new(1));
            let (inbox, email) = (queue(), queue());
            let bus = MemoryBus::new(inbox.clone(), email.clone());
            let publisher = Arc::new(BufferedPublisher::start(Producer::new(bus.clone()), Buffer::default()));
            let router = router(publisher.clone(), ["admin".to_owned()]);
            Self { router, publisher, bus, inbox, email }
        }

        async fn send(&self, method: &str, path: &str, user: &str, body: Value) -> (StatusCode, Value) {
            let request = Request::builder().method(method).uri(path).header("x-user", user).header("content-type", "application/json");
            let request = request.body(Body::from(body.to_string())).expect("a request");
            let response = self.router.clone().oneshot(request).await.expect("a router answers");
            let status = response.status();
            let body = axum::body::to_bytes(response.into_body(), 64 * 1024).await.expect("a body in memory");
            (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
        }

        async fn with_a_publication() -> Self {
            let world = Self::new();
            let (status, shown) = world.send("POST", "/publications", "bia", json!({ "title": "Q3 plan" })).await;
            assert_eq!((status, shown), (StatusCode::CREATED, json!({ "id": 1, "title": "Q3 plan", "owner": "bia" })));
            world
        }

        async fn grant(&self, by: &str, to: Value) -> (StatusCode, Value) {
            self.send("POST", "/publications/1/permissions", by, to).await
        }

        /// Waits until the event of alice's permission came so far.
        async fn event_is(&self, state: &str) {
            let reached = async {
                while self.send("GET", "/publications/1/permissions", "admin", Value::Null).await.1["alice"]["event"] != state {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), reached).await.expect("the event comes so far");
        }
    }

    #[tokio::test]
    async fn a_granted_permission_is_stored_and_told() {
        let world = World::with_a_publication().await;
        assert_eq!(world.send("GET", "/publications/1", "alice", Value::Null).await.0, StatusCode::FORBIDDEN);
        let (status, permission) = world.grant("admin", json!({ "user": "alice", "email": "alice@example.com" })).await;
        assert_eq!((status, &permission["granted_by"]), (StatusCode::CREATED, &json!("admin")));
        assert_eq!(world.send("GET", "/publications/1", "alice", Value::Null).await.0, StatusCode::OK);
        world.event_is("stored").await;
        let event = Event::parse(world.inbox.messages()[0].body.as_bytes()).expect("a valid event");
        assert_eq!(event.document().id, permission["id"]);
        assert_eq!(event.data().title.as_deref(), Some("You can now view Q3 plan"));
        assert_eq!(world.email.depth(), 1);
    }

    #[tokio::test]
    async fn granting_again_publishes_the_same_event_again() {
        let world = World::with_a_publication().await;
        world.bus.faults().fail_next("publish", Failure::permanent("not today"));
        let (_, first) = world.grant("bia", json!({ "user": "alice" })).await;
        world.event_is("failed").await;
        let (status, again) = world.grant("bia", json!({ "user": "alice" })).await;
        assert_eq!((status, &again["id"]), (StatusCode::OK, &first["id"]));
        world.event_is("stored").await;
        assert_eq!((world.inbox.depth(), world.email.depth()), (1, 0));
    }

    #[tokio::test]
    async fn only_the_owner_and_administrators_grant() {
        let world = World::with_a_publication().await;
        assert_eq!(world.grant("alice", json!({ "user": "alice" })).await.0, StatusCode::FORBIDDEN);
        assert_eq!(world.grant("", json!({ "user": "alice" })).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(world.send("POST", "/publications/2/permissions", "admin", json!({ "user": "alice" })).await.0, StatusCode::NOT_FOUND);
        let (status, error) = world.grant("admin", json!({ "user": "" })).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{error}");
        assert_eq!(world.send("GET", "/publications/1/permissions", "bia", Value::Null).await.1, json!({}));
    }

    #[tokio::test]
    async fn a_shutdown_flushes_what_was_granted() {
        let world = World::with_a_publication().await;
        world.grant("bia", json!({ "user": "alice" })).await;
        assert!(world.publisher.shutdown(Duration::from_secs(10)).await.unpublished.is_empty());
        assert_eq!(world.inbox.depth(), 1);
    }
}
