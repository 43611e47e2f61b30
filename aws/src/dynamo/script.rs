//! A DynamoDB of which each answer is written down beforehand: for what an emulator never does, such as throttling one
//! statement of 25 or losing an answer. Must not know: what is tested.

use std::collections::VecDeque;
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
pub(super) enum Answer {
    /// 200 with this body.
    Ok(Value),
    /// 400 with this code.
    Refused(&'static str),
    /// This status with this body.
    Body(u16, Value),
    /// Nothing comes back: whether it was done, nobody knows.
    Lost,
}

type Step = (&'static str, Box<dyn FnOnce(&Value) -> Answer + Send>);

/// Answers requests in the order of its steps. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Script(Arc<Mutex<VecDeque<Step>>>);

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Script")
    }
}

impl Script {
    /// The next request has to be of `operation`, such as `BatchGetItem`; `answer` sees its body.
    pub(super) fn then(self, operation: &'static str, answer: impl FnOnce(&Value) -> Answer + Send + 'static) -> Self {
        self.steps().push_back((operation, Box::new(answer)));
        self
    }

    /// That every step was taken.
    pub(super) fn end(&self) {
        let left: Vec<_> = self.steps().iter().map(|(operation, _)| *operation).collect();
        assert!(left.is_empty(), "calls that were not made: {left:?}");
    }

    /// Clients that talk to it.
    pub(super) fn clients(&self) -> Clients {
        let connector = SharedHttpConnector::new(self.clone());
        let credentials = Credentials::new("a", "b", None, None, "script");
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(http_client_fn(move |_, _| connector.clone()));
        Clients::from_sdk(config.build())
    }

    fn steps(&self) -> std::sync::MutexGuard<'_, VecDeque<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let target = request.headers().get("x-amz-target").expect("a request of DynamoDB names its operation");
        let operation = target.rsplit('.').next().unwrap_or_default();
        let body: Value = serde_json::from_slice(request.body().bytes().expect("a body in memory")).expect("a body of JSON");
        let (expected, answer) = self.steps().pop_front().unwrap_or_else(|| panic!("a call too many: {operation} {body:#}"));
        assert_eq!(operation, expected, "{body:#}");
        let (status, body) = match answer(&body) {
            Answer::Ok(body) => (200_u16, body),
            Answer::Refused(code) => (400, json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": ""})),
            Answer::Body(status, body) => (status, body),
            Answer::Lost => return Err(ConnectorError::timeout("scripted".into())),
        };
        Ok(HttpResponse::new(status.try_into().expect("a status"), SdkBody::from(body.to_string())))
    }
}

impl HttpConnector for Script {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::ready(self.answer(&request))
    }
}
