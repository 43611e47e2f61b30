//! How the HTTP side says no: RFC 9457 problem documents.
//!
//! Must not know: why in detail. What a store or a driver said goes to the log, never into an answer.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use recado_domain::event::Violation;
use recado_domain::failure::Failure;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, Object, ObjectBuilder, Schema, Type};

/// The media type of a problem document.
const MEDIA_TYPE: &str = "application/problem+json";
/// What `Retry-After` says when the store did not.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A problem document, ready to be an answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// Names the kind of problem, for programs.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "urn:recado:problem:invalid-request")]
    kind: String,
    /// The status's own words.
    title: &'static str,
    /// The status code.
    #[serde(serialize_with = "code")]
    #[schema(value_type = u16)]
    status: StatusCode,
    /// What happened and what to do, for people.
    detail: String,
    /// Every field that is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(schema_with = violations, required = false)]
    violations: Vec<Violation>,
    #[serde(skip)]
    #[schema(ignore)]
    retry_after: Option<Duration>,
    #[serde(skip)]
    #[schema(ignore)]
    authenticate: bool,
}

fn code<S: serde::Serializer>(status: &StatusCode, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u16(status.as_u16())
}

/// The schema of [`Violation`]s.
pub(crate) fn violations() -> Schema {
    let text = |description: &str| -> Object { ObjectBuilder::new().schema_type(Type::String).description(Some(description)).build() };
    let violation = ObjectBuilder::new()
        .property("field", text("The field, as a path."))
        .property("problem", text("What is wrong, the limit, and what to do."))
        .required("field")
        .required("problem");
    ArrayBuilder::new().items(violation).description(Some("Every field that is wrong.")).build().into()
}

impl Problem {
    /// A problem named `urn:recado:problem:<name>`.
    pub fn new(status: StatusCode, name: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:recado:problem:{name}"),
            title: status.canonical_reason().unwrap_or("Error"),
            status,
            detail: detail.into(),
            violations: Vec::new(),
            retry_after: None,
            authenticate: false,
        }
    }

    /// A request that can be read and is wrong.
    pub(crate) fn invalid(violations: Vec<Violation>) -> Self {
        let detail = "The request breaks the rules named in `violations`.";
        Self { violations, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-request", detail) }
    }

    /// One field of a request that is wrong.
    pub(crate) fn field(field: &str, problem: impl Into<String>) -> Self {
        Self::invalid(vec![Violation { field: field.to_owned(), problem: problem.into() }])
    }

    /// A body that cannot be read at all. The text never repeats what was sent.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed-request", detail)
    }

    pub(crate) fn unauthorized(detail: &str) -> Self {
        Self { authenticate: true, ..Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail) }
    }

    pub(crate) fn unavailable(retry_after: Option<Duration>, detail: &str) -> Self {
        let retry_after = Some(retry_after.unwrap_or(RETRY_AFTER).max(RETRY_AFTER));
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail) }
    }

    pub(crate) fn unsupported(detail: &str) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)
    }

    /// What a store said, logged for the operator and kept from the caller.
    pub(crate) fn of_failure(what: &'static str, failure: &Failure) -> Self {
        match failure {
            Failure::Transient { retry_after, reason } => {
                tracing::warn!(what, reason, "store did not answer a request");
                Self::unavailable(*retry_after, "The store did not answer. Repeating the request is safe.")
            }
            Failure::Permanent { reason } => {
                tracing::error!(what, reason, "store refused a request");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The request failed on the server's side; its log says why.")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response();
        if self.authenticate {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        response
    }
}

/// `Retry-After` has whole seconds (RFC 9110, 10.2.3).
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// The whole body, or why it was not read.
pub(crate) fn read_body(body: Result<Bytes, BytesRejection>, limit: usize) -> Result<Bytes, Problem> {
    body.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", format!("A body has at most {limit} bytes here."))
        } else {
            Problem::malformed("The body ended early.")
        }
    })
}

/// The media type without parameters, in lower case.
pub(crate) fn media_type(headers: &axum::http::HeaderMap) -> Option<String> {
    let given = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// The token of `Authorization: Bearer …` (RFC 6750, 2.1), the only place where one is looked for.
pub(crate) fn bearer(headers: &axum::http::HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(only), None) = (given.next(), given.next()) else { return None };
    let (scheme, token) = only.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
