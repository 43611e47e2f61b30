//! An account of its own on the local AWS that `cargo xtask test` starts (`RECADO_TEST_AWS` is its URL).
//!
//! The access key id is the account there. Where the local one knows less than AWS, what is missing is asked for under
//! `/_recado` (infra/local/emulator.py). Must not know: what runs in the account.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use aws_config::Region;
use aws_sdk_sqs::config::Credentials;
use base64::prelude::{BASE64_STANDARD, Engine};
use recado_aws::{Calls, Clients};
use recado_domain::ports::Entropy;
use recado_runtime::system::SystemEntropy;
use serde_json::{Value, json};

use super::DEADLINE;

/// Where everything of the local AWS is.
pub const REGION: &str = "us-east-1";

/// A mail as it was handed over.
#[derive(Debug, Clone)]
pub struct SentMail {
    /// The envelope's sender.
    pub from: String,
    /// The envelope's recipient.
    pub to: String,
    /// The whole message.
    pub message: Vec<u8>,
}

/// One account, which nobody else uses.
pub struct Account {
    /// For whatever has no method here.
    pub http: reqwest::Client,
    /// The URL of the local AWS.
    pub endpoint: String,
    /// What processes of this account are told instead: a proxy before it, or the same.
    pub told: String,
    /// Twelve digits.
    pub id: String,
}

impl Account {
    /// A new one on the local AWS of this run.
    ///
    /// # Panics
    /// When there is none.
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        Self::on(&std::env::var("RECADO_TEST_AWS").expect("RECADO_TEST_AWS: start these tests by `cargo xtask test`"))
    }

    /// A new one on this local AWS.
    pub fn on(endpoint: &str) -> Self {
        let id = format!("{:012}", SystemEntropy.next_u64() % 1_000_000_000_000);
        let http = reqwest::Client::builder().timeout(DEADLINE).build().expect("a client without TLS settings");
        Self { http, endpoint: endpoint.to_owned(), told: endpoint.to_owned(), id }
    }

    /// A new one on this local AWS, whose processes reach it through a proxy.
    pub async fn behind(proxy: &str, endpoint: &str) -> Self {
        let mut account = Self::on(endpoint);
        account.told = proxy.to_owned();
        account.tell_functions().await;
        account
    }

    /// Tells the local AWS what functions of this account are to be told. It knows until it ends.
    pub async fn tell_functions(&self) {
        let asked = json!({ "account": self.id, "endpoint": self.told });
        self.ask(self.http.post(format!("{}/_recado/endpoint", self.endpoint)).json(&asked)).await;
    }

    /// What makes any AWS tool work in this account.
    pub fn environment(&self) -> [(&'static str, &str); 4] {
        self.environment_at(&self.endpoint)
    }

    /// What makes any AWS tool work in this account, through the proxy if there is one.
    pub fn told_environment(&self) -> [(&'static str, &str); 4] {
        self.environment_at(&self.told)
    }

    fn environment_at<'a>(&'a self, endpoint: &'a str) -> [(&'static str, &'a str); 4] {
        [("AWS_ENDPOINT_URL", endpoint), ("AWS_REGION", REGION), ("AWS_ACCESS_KEY_ID", &self.id), ("AWS_SECRET_ACCESS_KEY", "test")]
    }

    /// The name of the account's stack: its own, since the local AWS ends the functions of the same name in every account when one
    /// is deployed.
    pub fn stack(&self) -> String {
        format!("recado-{}", self.id)
    }

    /// Clients of this account.
    pub async fn clients(&self) -> Clients {
        self.clients_at(&self.endpoint, None).await
    }

    /// Clients of this account, through the proxy if there is one.
    pub async fn told_clients(&self) -> Clients {
        self.clients_at(&self.told, None).await
    }

    /// Clients of this account, whose calls are counted.
    pub async fn clients_counting(&self, calls: Option<Calls>) -> Clients {
        self.clients_at(&self.endpoint, calls).await
    }

    async fn clients_at(&self, endpoint: &str, calls: Option<Calls>) -> Clients {
        let credentials = Credentials::new(&self.id, "test", None, None, "test");
        let loader = Clients::loader().endpoint_url(endpoint).region(Region::new(REGION)).credentials_provider(credentials);
        Clients::new(loader.load().await, calls)
    }

    /// What tests ask for beyond AWS.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn ask(&self, request: reqwest::RequestBuilder) -> Value {
        let answer = request.send().await.and_then(reqwest::Response::error_for_status).expect("the local AWS answers");
        answer.json().await.expect("the local AWS answers JSON")
    }

    /// An operation of a service that has no SDK here. Nobody checks the signature; its credential names the account.
    pub fn signed(&self, service: &str, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        let scope = format!("{}/20260101/{REGION}/{service}/aws4_request", self.id);
        request.header("authorization", format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"))
    }

    /// Allows mail from example.com.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn verify_senders(clients: &Clients) {
        clients.ses.verify_domain_identity().domain("example.com").send().await.expect("an identity is verified");
    }

    /// Sets the clock of the account's queues forward.
    pub async fn advance(&self, by: Duration) {
        let asked = json!({ "account": self.id, "seconds": by.as_secs_f64() });
        self.ask(self.http.post(format!("{}/_recado/advance", self.endpoint)).json(&asked)).await;
    }

    /// The connections that a WebSocket API has open.
    ///
    /// # Panics
    /// When the answer is no list of them.
    pub async fn connections(&self, api: &str) -> Vec<String> {
        let asked = self.ask(self.http.get(format!("{}/_recado/connections?api={api}", self.endpoint))).await;
        serde_json::from_value(asked).expect("a list of connections")
    }

    /// Everything that was handed over to SES, oldest first.
    ///
    /// # Panics
    /// When the answer is no list of mails.
    pub async fn mails(&self) -> Vec<SentMail> {
        let asked = self.http.get(format!("{}/_recado/mails?account={}", self.endpoint, self.id));
        let Value::Array(mails) = self.ask(asked).await else { panic!("a list of mails") };
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let mail = |mail: &Value| SentMail {
            from: text(&mail["from"]),
            to: text(&mail["to"][0]),
            message: BASE64_STANDARD.decode(text(&mail["message"])).expect("base64"),
        };
        mails.iter().map(mail).collect()
    }
}

impl Drop for Account {
    /// Ends the account's functions and forgets what it held: the local AWS serves every other test of the run. Blocks
    /// for that moment, since nothing can be awaited here; an account that stays costs memory alone.
    fn drop(&mut self) {
        let address = self.endpoint.trim_start_matches("http://");
        let body = json!({ "account": self.id }).to_string();
        let head =
            format!("POST /_recado/forget HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        if let Ok(mut stream) = TcpStream::connect(address) {
            stream.set_read_timeout(Some(Duration::from_secs(10))).ok();
            stream.write_all(format!("{head}{body}").as_bytes()).ok();
            stream.read_to_end(&mut Vec::new()).ok();
        }
    }
}
