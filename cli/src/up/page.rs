//! The page a newcomer plays with, and the tokens it needs. Mounted in development only: whoever can ask for it can
//! be any user of this machine's Recado.
//!
//! Must not know: the protocol; the page's script speaks it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use recado_domain::ids::{TenantId, UserId};
use recado_domain::ports::Clock;
use recado_http_api::Problem;
use recado_runtime::auth::DevelopmentKey;
use recado_runtime::system::SystemClock;
use serde::{Deserialize, Serialize};

/// Long enough for a day at work.
pub(super) const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

/// Scripts and styles come from here alone; frames show captured mail, which gets no rights of its own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; frame-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The routes.
pub(super) fn router(key: DevelopmentKey) -> Router {
    Router::new()
        .route("/", get(async || html(include_str!("../../assets/index.html").to_owned())))
        .route("/page.js", get(async || asset("text/javascript; charset=utf-8", include_str!("../../assets/page.js"))))
        .route("/page.css", get(async || asset("text/css; charset=utf-8", include_str!("../../assets/page.css"))))
        .route("/dev/token", post(token))
        .with_state(Arc::new(key))
}

/// A page of this server.
pub(super) fn html(page: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, page).into_response()
}

fn asset(media_type: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, "no-cache"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], text)
        .into_response()
}

#[derive(Deserialize)]
struct Wanted {
    user: UserId,
    #[serde(default)]
    tenant: TenantId,
}

#[derive(Serialize)]
struct Minted {
    token: String,
}

/// JSON is asked for: a form of another site cannot send it without asking first, and is refused then.
async fn token(State(key): State<Arc<DevelopmentKey>>, headers: HeaderMap, wanted: Result<Json<Wanted>, JsonRejection>) -> Response {
    if headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none") {
        let detail = "Only the page of this server may ask for a token.";
        return Problem::new(StatusCode::FORBIDDEN, "cross-site", detail).into_response();
    }
    match wanted {
        Ok(Json(Wanted { user, tenant })) => {
            let token = key.mint(&user, &tenant, TOKEN_TTL, SystemClock.now());
            ([(header::CACHE_CONTROL, "no-store")], Json(Minted { token })).into_response()
        }
        Err(rejection) => {
            let detail = "Send JSON with `user`, and `tenant` if it is not `default`: 1 to 128 bytes each, without control characters.";
            Problem::new(rejection.status(), "invalid-request", detail).into_response()
        }
    }
}
