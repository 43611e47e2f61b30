//! Which operation of AWS a request asks for, and how its service says things.
//!
//! Must not know: what is done with it.

use axum::body::Bytes;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;

/// A request, read to its end.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) fn new(parts: Parts, body: Bytes) -> Self {
        Self { method: parts.method, uri: parts.uri, headers: parts.headers, body }
    }

    /// What it asks for, if faults know it. Whatever else is asked (CloudFormation, tokens) passes untouched.
    pub(super) fn operation(&self) -> Option<&'static Operation> {
        let name = self.target().or_else(|| self.post()).or_else(|| self.action())?;
        OPERATIONS.iter().find(|operation| operation.name == name)
    }

    /// Whether these words are in it. Of a form they are looked for as they were before they were encoded.
    pub(super) fn says(&self, words: &str) -> bool {
        let text = String::from_utf8_lossy(&self.body);
        text.contains(words) || form_urlencoded::parse(&self.body).any(|(_, value)| value.contains(words))
    }

    /// Whether the SDK tries a call for the last time of several: `amz-sdk-request: attempt=3; max=3`.
    pub(super) fn is_last_attempt(&self) -> bool {
        let Some(said) = self.headers.get("amz-sdk-request").and_then(|value| value.to_str().ok()) else { return false };
        let number = |name: &str| said.split("; ").find_map(|part| part.strip_prefix(name)?.parse::<u32>().ok());
        number("attempt=").zip(number("max=")).is_some_and(|(attempt, max)| max > 1 && attempt >= max)
    }

    /// `x-amz-target: DynamoDB_20120810.GetItem` (AWS JSON 1.0).
    fn target(&self) -> Option<String> {
        let target = self.headers.get("x-amz-target")?.to_str().ok()?;
        Some(target.rsplit('.').next()?.to_owned())
    }

    /// `POST …/@connections/{id}` and `DELETE …`.
    fn post(&self) -> Option<String> {
        let connections = self.uri.path().contains("/@connections/") || self.uri.path().contains("/%40connections/");
        let name = match self.method {
            Method::POST => "PostToConnection",
            Method::DELETE => "DeleteConnection",
            _ => return None,
        };
        connections.then(|| name.to_owned())
    }

    /// `Action=PublishBatch&…` (AWS query).
    fn action(&self) -> Option<String> {
        let form = self.headers.get("content-type")?.to_str().ok()?.starts_with("application/x-www-form-urlencoded");
        let mut fields = form_urlencoded::parse(&self.body);
        form.then(|| fields.find(|(name, _)| name == "Action").map(|(_, value)| value.into_owned()))?
    }
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Reply {
    pub(super) fn is_success(&self) -> bool {
        self.status.is_success()
    }

    /// The same answer with another body.
    pub(super) fn with(mut self, body: impl Into<Bytes>) -> Self {
        // It was the checksum of the other one.
        self.headers.remove("x-amz-crc32");
        self.body = body.into();
        self
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        (self.status, self.headers, self.body).into_response()
    }
}

/// The services that Recado's processes call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    DynamoDb,
    Sqs,
    Sns,
    Ses,
    Connections,
}

/// One operation, and what may go wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) service: Service,
    /// As AWS calls it.
    pub(super) name: &'static str,
    /// It has entries, each with an answer of its own.
    pub(super) batch: bool,
    /// Its caller waits for seconds that a test has: 5 s (`Patience` in aws/src/clients.rs). Polls wait for 25 s, mail for 15 s.
    pub(super) soon_given_up: bool,
}

const fn of(service: Service, name: &'static str) -> Operation {
    Operation { service, name, batch: false, soon_given_up: true }
}

const fn batch(service: Service, name: &'static str) -> Operation {
    Operation { batch: true, ..of(service, name) }
}

const fn patient(service: Service, name: &'static str) -> Operation {
    Operation { soon_given_up: false, ..of(service, name) }
}

/// Everything that a process of Recado asks of AWS while it works.
pub(super) static OPERATIONS: [Operation; 17] = [
    of(Service::DynamoDb, "GetItem"),
    of(Service::DynamoDb, "PutItem"),
    of(Service::DynamoDb, "UpdateItem"),
    of(Service::DynamoDb, "DeleteItem"),
    of(Service::DynamoDb, "Query"),
    of(Service::DynamoDb, "TransactWriteItems"),
    batch(Service::DynamoDb, "BatchGetItem"),
    batch(Service::DynamoDb, "BatchExecuteStatement"),
    patient(Service::Sqs, "ReceiveMessage"),
    batch(Service::Sqs, "SendMessageBatch"),
    batch(Service::Sqs, "DeleteMessageBatch"),
    batch(Service::Sqs, "ChangeMessageVisibilityBatch"),
    batch(Service::Sns, "PublishBatch"),
    patient(Service::Ses, "SendRawEmail"),
    patient(Service::Ses, "GetSendQuota"),
    of(Service::Connections, "PostToConnection"),
    of(Service::Connections, "DeleteConnection"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: Method, uri: &str, header: (&'static str, &str), body: &'static str) -> Call {
        let headers = HeaderMap::from_iter([(header.0.parse().unwrap(), header.1.parse().unwrap())]);
        Call { method, uri: uri.parse().unwrap(), headers, body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn the_last_attempt_of_several_is_known() {
        for (said, last) in [("attempt=1; max=3", false), ("attempt=3; max=3", true), ("attempt=1; max=1", false), ("x", false)] {
            assert_eq!(call(Method::POST, "/", ("amz-sdk-request", said), "").is_last_attempt(), last, "{said}");
        }
        assert!(call(Method::POST, "/", ("amz-sdk-request", "ttl=20261124T141700Z; attempt=2; max=2"), "").is_last_attempt());
    }

    #[test]
    fn an_operation_is_known_in_each_protocol() {
        const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        let json = ("x-amz-target", "DynamoDB_20120810.BatchGetItem");
        let table = [
            (call(Method::POST, "/", json, "{}"), Some("BatchGetItem")),
            (call(Method::POST, "/", ("x-amz-target", "AmazonSQS.ReceiveMessage"), "{}"), Some("ReceiveMessage")),
            (call(Method::POST, "/", FORM, "Version=1&Action=PublishBatch"), Some("PublishBatch")),
            (call(Method::POST, "/x/live/@connections/a%3D", ("accept", "*/*"), "{}"), Some("PostToConnection")),
            (call(Method::DELETE, "/x/live/%40connections/a", ("accept", "*/*"), ""), Some("DeleteConnection")),
            (call(Method::GET, "/x/live/@connections/a", ("accept", "*/*"), ""), None),
            (call(Method::POST, "/", FORM, "Action=CreateStack"), None),
            (call(Method::POST, "/events", ("accept", "*/*"), "Action=PublishBatch"), None),
        ];
        for (call, name) in table {
            assert_eq!(call.operation().map(|operation| operation.name), name, "{call:?}");
        }
    }
}
