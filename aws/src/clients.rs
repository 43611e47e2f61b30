//! One set of clients for a process, and how each kind of call waits and tries again.
//!
//! Everything that decides about time-outs and the SDK's own retries stands in [`Patience`]'s table. Must not know:
//! what a call is made for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, ConfigLoader, SdkConfig};
use aws_smithy_http_client::{Connector, proxy::ProxyConfig, tls};
use aws_smithy_runtime_api::client::http::{HttpClient, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::client::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_smithy_types::retry::RetryConfig;
use recado_domain::limits;
use recado_runtime::system::SystemClock;

use crate::calls::Calls;
use crate::skew::Skew;

/// Long enough for a SYN to be sent a second time (after 1 s: RFC 6298, 2.1) and answered.
const CONNECT: Duration = Duration::from_millis(2_500);

/// How one kind of call waits and tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Patience {
    /// Attempts of the SDK, the first one included.
    attempts: u32,
    /// From the request to the first byte of its answer.
    read: Duration,
    /// One attempt, from connecting to the last byte.
    attempt: Duration,
    /// All attempts and the pauses between them.
    call: Duration,
}

impl Patience {
    const fn seconds(attempts: u32, read: u64, attempt: u64, call: u64) -> Self {
        let of = Duration::from_secs;
        Self { attempts, read: of(read), attempt: of(attempt), call: of(call) }
    }
}

/// Reads, and writes that are conditional or say the same when repeated.
const REPEATABLE: Patience = Patience::seconds(3, 5, 8, 20);
/// An append takes its position anew for every attempt (R6): the SDK must not send an old one again.
const APPEND: Patience = Patience::seconds(1, 5, 8, 8);
/// Publishing, sending, and settling messages: at-least-once allows a second send of the same.
const SEND: Patience = Patience::seconds(3, 5, 8, 20);
/// A poll answers after [`limits::QUEUE_POLL`] at the latest. Whoever polls comes again in any case.
const POLL: Patience = Patience::seconds(2, limits::QUEUE_POLL.as_secs() + 5, limits::QUEUE_POLL.as_secs() + 8, 60);
/// A post that may have arrived is the dispatcher's to repeat, with backoff per connection.
const POST: Patience = Patience::seconds(1, 5, 8, 8);
/// A mailer has no idempotency: a second attempt could be a second mail. The worker decides.
const MAIL: Patience = Patience::seconds(1, 15, 20, 20);

/// The clients of one process: one configuration, one pool of connections and root certificates. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clients {
    /// For publishing.
    pub sns: aws_sdk_sns::Client,
    /// For everything but polls.
    pub sqs: aws_sdk_sqs::Client,
    /// For polls: waits longer than they last.
    pub sqs_polls: aws_sdk_sqs::Client,
    /// For reads and for writes that may be repeated as they are.
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// For appends: never retried by the SDK (R6).
    pub dynamodb_appends: aws_sdk_dynamodb::Client,
    /// For mail.
    pub ses: aws_sdk_ses::Client,
    config: SdkConfig,
    calls: Option<Calls>,
    skew: Skew,
}

impl Clients {
    /// Reads the environment as every AWS tool does: region, `AWS_ENDPOINT_URL`, and credentials from environment
    /// variables, profiles, web identity, or the container's or machine's role. Profiles that need `aws sso login`
    /// or a credential process are left out, for they would bring further SDKs into every process.
    pub async fn load() -> Self {
        Self::load_with(None).await
    }

    /// As [`Clients::load`], counting calls.
    pub async fn load_with(calls: Option<Calls>) -> Self {
        Self::new(Self::loader().load().await, calls)
    }

    /// What [`Clients::load`] begins with, for those who say more: an endpoint, a region, credentials.
    pub fn loader() -> ConfigLoader {
        aws_config::defaults(BehaviorVersion::latest())
            .http_client(OneHttpClient::default())
            // Each attempt has an end of its own, whatever its stream does.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .app_name(AppName::new("recado").expect("a name of letters is a valid one"))
    }

    /// For tests: clients of this configuration.
    pub fn from_sdk(config: SdkConfig) -> Self {
        Self::new(config, None)
    }

    /// Clients of this configuration, counting calls.
    pub fn new(config: SdkConfig, calls: Option<Calls>) -> Self {
        let skew = Skew::new(Arc::new(SystemClock));
        macro_rules! client {
            ($sdk:ident, $patience:expr) => {{
                let mut builder = $sdk::config::Builder::from(&with_patience(&config, $patience)).interceptor(skew.clone());
                if let Some(calls) = &calls {
                    builder = builder.interceptor(calls.clone());
                }
                $sdk::Client::from_conf(builder.build())
            }};
        }
        Self {
            sns: client!(aws_sdk_sns, SEND),
            sqs: client!(aws_sdk_sqs, SEND),
            sqs_polls: client!(aws_sdk_sqs, POLL),
            dynamodb: client!(aws_sdk_dynamodb, REPEATABLE),
            dynamodb_appends: client!(aws_sdk_dynamodb, APPEND),
            ses: client!(aws_sdk_ses, MAIL),
            config,
            calls,
            skew,
        }
    }

    /// A client of the open sockets of one WebSocket API and stage.
    pub fn sockets(&self, endpoint: &str) -> aws_sdk_apigatewaymanagement::Client {
        let config = with_patience(&self.config, POST);
        let mut builder =
            aws_sdk_apigatewaymanagement::config::Builder::from(&config).endpoint_url(endpoint).interceptor(self.skew.clone());
        if let Some(calls) = &self.calls {
            builder = builder.interceptor(calls.clone());
        }
        aws_sdk_apigatewaymanagement::Client::from_conf(builder.build())
    }

    /// How far this machine's clock is from that of AWS, by the answers so far.
    pub fn skew(&self) -> &Skew {
        &self.skew
    }

    /// What they were made from.
    pub fn sdk_config(&self) -> &SdkConfig {
        &self.config
    }
}

fn with_patience(config: &SdkConfig, patience: Patience) -> SdkConfig {
    let retry = RetryConfig::standard()
        .with_max_attempts(patience.attempts)
        .with_initial_backoff(Duration::from_millis(100))
        .with_max_backoff(Duration::from_secs(2));
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .read_timeout(patience.read)
        .operation_attempt_timeout(patience.attempt)
        .operation_timeout(patience.call);
    config.to_builder().retry_config(retry).timeout_config(timeouts.build()).build()
}

/// The SDK's own HTTPS connectors, one for each pair of time-outs rather than one for each client: the root
/// certificates are read less often, and clients of the same service share connections.
#[derive(Debug, Default)]
struct OneHttpClient(Mutex<HashMap<Timeouts, SharedHttpConnector>>);

/// Of connecting, and of reading.
type Timeouts = (Option<Duration>, Option<Duration>);

impl HttpClient for OneHttpClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let mut connectors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let connector = connectors.entry((settings.connect_timeout(), settings.read_timeout())).or_insert_with(|| {
            let mut builder = Connector::builder().connector_settings(settings.clone()).proxy_config(ProxyConfig::from_env());
            builder.set_sleep_impl(components.sleep_impl());
            SharedHttpConnector::new(builder.tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc)).build())
        });
        connector.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::Count;
    use crate::script::{Answer, Script};
    use serde_json::json;

    fn failing(attempts: usize, operation: &'static str) -> Script {
        Script::default().repeat(attempts, operation, |_| Answer::Body(500, json!({})))
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_call_is_tried_as_often_as_its_kind_allows() {
        let script = failing(3, "SendMessageBatch");
        script.clients().sqs.send_message_batch().queue_url("q").send().await.unwrap_err();
        script.end();
        let script = failing(2, "ReceiveMessage");
        script.clients().sqs_polls.receive_message().queue_url("q").send().await.unwrap_err();
        script.end();
        let script = failing(3, "PublishBatch");
        script.clients().sns.publish_batch().topic_arn("t").send().await.unwrap_err();
        script.end();
        let script = failing(3, "GetItem");
        script.clients().dynamodb.get_item().table_name("t").send().await.unwrap_err();
        script.end();
        let script = failing(1, "BatchExecuteStatement");
        script.clients().dynamodb_appends.batch_execute_statement().send().await.unwrap_err();
        script.end();
        let script = failing(1, "POST /@connections/c");
        script.clients().sockets("http://sockets.example").post_to_connection().connection_id("c").send().await.unwrap_err();
        script.end();
        let script = failing(1, "SendRawEmail");
        script.clients().ses.send_raw_email().send().await.unwrap_err();
        script.end();
    }

    #[tokio::test(start_paused = true)]
    async fn calls_and_their_attempts_are_counted_by_operation() {
        let calls = Calls::new();
        let script =
            failing(3, "GetItem").then("GetItem", |_| Answer::Ok(json!({}))).then("POST /@connections/c", |_| Answer::Ok(json!({})));
        let clients = Clients::new(script.config(), Some(calls.clone()));
        clients.dynamodb.get_item().table_name("t").send().await.unwrap_err();
        clients.dynamodb.get_item().table_name("t").send().await.unwrap();
        clients.sockets("http://sockets.example").post_to_connection().connection_id("c").send().await.unwrap();
        let counts = calls.take();
        assert_eq!(counts["DynamoDB.GetItem"], Count { calls: 2, attempts: 4 });
        assert_eq!(counts["ApiGatewayManagementApi.PostToConnection"], Count { calls: 1, attempts: 1 });
        assert_eq!((counts.len(), calls.attempts()), (2, 0));
    }

    #[test]
    fn a_poll_may_last_as_long_as_a_queue_lets_it() {
        assert!(POLL.read > limits::QUEUE_POLL && POLL.attempt > POLL.read && POLL.call > POLL.attempt);
    }
}
