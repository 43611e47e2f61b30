//! Who may speak to a server that asks for no key: programs and pages of this machine, and no page that pretends to be.
//!
//! A page of the web can have its own name point to 127.0.0.1 (DNS rebinding), and would then be of this server's
//! origin. It cannot change the `Host` it sends. A proxy that stands in front of this server lets other machines in: one that says
//! so is refused.

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use recado_domain::opening::names_this_machine;
use recado_http_api::Problem;

/// What proxies add to a request (RFC 7239, RFC 9110 7.6.3, and what was usual before).
const OF_PROXIES: [&str; 6] = ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];

/// Refuses requests whose `Host` does not name this machine, nor `public` (`host` or `host:port`), and those that a proxy passes on.
pub(super) fn for_this_machine(router: Router, public: Option<String>) -> Router {
    router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let refused = refusal(&request, public.as_deref());
        async move {
            match refused {
                Some(detail) => Problem::new(StatusCode::MISDIRECTED_REQUEST, "misdirected", detail).into_response(),
                None => next.run(request).await,
            }
        }
    }))
}

fn refusal(request: &Request, public: Option<&str>) -> Option<&'static str> {
    if !is_named(request, public) {
        return Some("This server is for this machine alone: ask for it as 127.0.0.1 or localhost, or name it with --public-url.");
    }
    OF_PROXIES.iter().any(|name| request.headers().contains_key(*name)).then_some(
        "This server is for this machine alone, and a proxy passed this request on: start it with --public-url, a publish key and a token key.",
    )
}

fn is_named(request: &Request, public: Option<&str>) -> bool {
    let accepted = |authority: &str| names_this_machine(authority) || public.is_some_and(|public| public.eq_ignore_ascii_case(authority));
    let host = request.headers().get(header::HOST).map(|host| host.to_str().is_ok_and(accepted));
    let authority = request.uri().authority().map(|authority| accepted(authority.as_str()));
    match (host, authority) {
        (None, None) => false,
        (host, authority) => host.unwrap_or(true) && authority.unwrap_or(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn request(uri: &str, host: Option<&str>) -> Request {
        let mut builder = Request::builder().uri(uri);
        if let Some(host) = host {
            builder = builder.header(header::HOST, host);
        }
        builder.body(Body::empty()).unwrap()
    }

    #[test]
    fn a_name_that_somebody_pointed_here_is_refused() {
        for host in ["127.0.0.1:8420", "localhost", "[::1]:8420", "LOCALHOST:1"] {
            assert!(is_named(&request("/", Some(host)), None), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8420", ""] {
            assert!(!is_named(&request("/", Some(host)), None), "{host}");
        }
        assert!(!is_named(&request("/", None), None));
    }

    #[test]
    fn a_request_line_with_another_name_does_not_get_around_it() {
        assert!(!is_named(&request("http://evil.example/", Some("localhost")), None));
        assert!(is_named(&request("http://localhost/", Some("localhost")), None));
    }

    #[test]
    fn what_a_proxy_passes_on_is_refused() {
        assert_eq!(refusal(&request("/", Some("localhost")), None), None);
        for name in ["Forwarded", "X-Forwarded-For", "Via", "X-Real-IP"] {
            let mut request = request("/", Some("localhost"));
            request.headers_mut().insert(axum::http::HeaderName::try_from(name).unwrap(), "192.0.2.1".parse().unwrap());
            assert!(refusal(&request, None).unwrap().contains("proxy"), "{name}");
        }
        assert!(refusal(&request("/", Some("evil.example")), None).unwrap().contains("127.0.0.1"));
    }

    #[test]
    fn the_public_name_is_accepted() {
        assert!(is_named(&request("/", Some("recado.test:8420")), Some("recado.test:8420")));
        assert!(!is_named(&request("/", Some("recado.test")), Some("recado.test:8420")));
    }
}
