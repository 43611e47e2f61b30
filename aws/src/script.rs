//! An AWS of which each answer is written down beforehand: for what an emulator never does, such as throttling one
//! entry of a batch or losing an answer. Must not know: what is tested.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use serde_json::{Value, json};

use crate::clients::Clients;

/// What becomes of one request.
pub(crate) enum Answer {
    /// 200 with this body.
    Ok(Value),
    /// 400 with this code.
    Refused(&'static str),
    /// This status with this body.
    Body(u16, Value),
    /// This status with this text: SNS and SES speak XML.
    Text(u16, String),
    /// Nothing comes back: whether it was done, nobody knows.
    Lost,
    /// Nothing comes back, and the connection stays open: whoever asked has to give up.
    Silence,
}

type Step = (&'static str, Box<dyn FnOnce(&Value) -> Answer + Send>);

/// Answers requests in the order of its steps. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Script(Arc<Mutex<VecDeque<Step>>>);

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Script")
    }
}

impl Script {
    /// The next request has to be of `operation`, such as `BatchGetItem`, or `POST /path` where a request names none;
    /// `answer` sees its body.
    pub(crate) fn then(self, operation: &'static str, answer: impl FnOnce(&Value) -> Answer + Send + 'static) -> Self {
        self.steps().push_back((operation, Box::new(answer)));
        self
    }

    /// That every step was taken.
    pub(crate) fn end(&self) {
        let left: Vec<_> = self.steps().iter().map(|(operation, _)| *operation).collect();
        assert!(left.is_empty(), "calls that were not made: {left:?}");
    }

    /// As [`Script::then`], for each of `times` requests.
    pub(crate) fn repeat(self, times: usize, operation: &'static str, answer: impl Fn(&Value) -> Answer + Clone + Send + 'static) -> Self {
        (0..times).fold(self, |script, _| script.then(operation, answer.clone()))
    }

    /// Clients that talk to it.
    pub(crate) fn clients(&self) -> Clients {
        Clients::from_sdk(self.config())
    }

    /// What such clients are made from.
    pub(crate) fn config(&self) -> SdkConfig {
        let connector = SharedHttpConnector::new(self.clone());
        let credentials = Credentials::new("a", "b", None, None, "script");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .build()
    }

    fn steps(&self) -> std::sync::MutexGuard<'_, VecDeque<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: it never comes.
    fn answer(&self, request: &HttpRequest) -> Option<Result<HttpResponse, ConnectorError>> {
        let (operation, body) = read(request);
        let (expected, answer) = self.steps().pop_front().unwrap_or_else(|| panic!("a call too many: {operation} {body:#}"));
        assert_eq!(operation, expected, "{body:#}");
        let (status, text) = match answer(&body) {
            Answer::Ok(body) => (200_u16, body.to_string()),
            Answer::Refused(code) => {
                (400, json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": ""}).to_string())
            }
            Answer::Body(status, body) => (status, body.to_string()),
            Answer::Text(status, text) => (status, text),
            Answer::Lost => return Some(Err(ConnectorError::timeout("scripted".into()))),
            Answer::Silence => return None,
        };
        Some(Ok(HttpResponse::new(status.try_into().expect("a status"), SdkBody::from(text))))
    }
}

/// The operation of a request, and its body as JSON: a form becomes an object of texts, anything else a text.
fn read(request: &HttpRequest) -> (String, Value) {
    let bytes = request.body().bytes().expect("a body in memory");
    if let Some(target) = request.headers().get("x-amz-target") {
        let operation = target.rsplit('.').next().unwrap_or_default();
        return (operation.to_owned(), serde_json::from_slice(bytes).expect("a body of JSON"));
    }
    let form: BTreeMap<String, String> = url::form_urlencoded::parse(bytes).into_owned().collect();
    if let Some(action) = form.get("Action") {
        return (action.clone(), json!(form));
    }
    let (_, path) = request.uri().split_once("://").and_then(|(_, rest)| rest.split_once('/')).unwrap_or_default();
    (format!("{} /{path}", request.method()), Value::String(String::from_utf8_lossy(bytes).into_owned()))
}

impl HttpConnector for Script {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        match self.answer(&request) {
            Some(answer) => HttpConnectorFuture::ready(answer),
            None => HttpConnectorFuture::new(std::future::pending()),
        }
    }
}
