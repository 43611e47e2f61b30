//! Which pages of other origins may call the user's routes (CORS, the Fetch standard).
//!
//! A browser asks before it sends a token for such a page, and keeps the answer from one that was not admitted. No cookie is
//! involved: whoever calls brings the token itself. Must not know: what the routes do.

use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, Method, header, request};
use recado_domain::opening::Origins;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may keep the answer to its question; Chromium keeps it for two hours at the most.
const MAX_AGE: Duration = Duration::from_secs(2 * 3600);

/// Lets pages of these origins call the routes of a user: list, change, ask for a ticket. Not the route for events: a publish
/// key has no place in a page.
pub fn admit_pages(router: Router, origins: Origins) -> Router {
    let admitted = move |origin: &HeaderValue, request: &request::Parts| {
        let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        origins.admit(Some(origin.to_str().unwrap_or_default()), host)
    };
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(admitted))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
        .expose_headers([header::RETRY_AFTER])
        .max_age(MAX_AGE);
    router.layer(cors)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, StatusCode};

    use crate::test_client::{Answer, World};

    async fn ask(world: &World, method: &str, path: &str, origin: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).header("host", "notify.example").header("origin", origin);
        let request = request.header("access-control-request-method", "POST").header("access-control-request-headers", "authorization");
        world.send(request.header("authorization", "Bearer default/alice").body(Body::empty()).unwrap()).await
    }

    #[tokio::test]
    async fn a_page_that_is_admitted_may_ask_and_read_the_answer() {
        let world = World::new(&[]);
        let question = ask(&world, "OPTIONS", "/connection-tickets", "https://app.example.com").await;
        assert_eq!(question.status, StatusCode::OK);
        assert_eq!(question.header("access-control-allow-origin"), Some("https://app.example.com"));
        assert_eq!(question.header("access-control-allow-headers"), Some("authorization,content-type"));
        assert_eq!(question.header("access-control-allow-credentials"), None);
        let answer = ask(&world, "GET", "/inbox", "https://app.example.com").await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (StatusCode::OK, Some("https://app.example.com")));
        assert!(answer.header("vary").is_some_and(|vary| vary.contains("origin")));
    }

    #[tokio::test]
    async fn any_other_page_is_told_nothing() {
        let world = World::new(&[]);
        for origin in ["https://evil.example", "https://app.example.com.evil.example", "http://app.example.com", "null"] {
            for (method, path) in [("OPTIONS", "/connection-tickets"), ("POST", "/connection-tickets"), ("GET", "/inbox")] {
                assert_eq!(ask(&world, method, path, origin).await.header("access-control-allow-origin"), None, "{origin} {method} {path}");
            }
        }
    }

    #[tokio::test]
    async fn no_page_of_another_origin_publishes() {
        let answer = ask(&World::new(&["0123456789abcdef"]), "OPTIONS", "/events", "https://app.example.com").await;
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
}
