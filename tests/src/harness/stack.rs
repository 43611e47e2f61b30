//! The deployment on AWS: `infra/template.yaml` with the packaged functions, in an account of its own on the local AWS,
//! and the dispatcher as the process that a container runs.
//!
//! Must not know: what is tested.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use aws_sdk_sqs::types::QueueAttributeName;
use mail_parser::MessageParser;
use recado_aws::dynamo::DynamoInbox;
use recado_aws::{Clients, SnsBus, SqsDeadLetters, SqsQueue};
use recado_domain::ports::{DeadLetters, EventBus, Inbox, Queue};
use recado_runtime::system::{SystemClock, SystemEntropy};
use tempfile::NamedTempFile;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::process::built;
use super::{
    Account, Closed, DEADLINE, Deployment, Ended, Endpoints, Expected, Habits, Inside, Issuer, Mail, Setup, Tested, TokenEnd, binary,
    command, eventually,
};

/// What `sam deploy` is told, beside what every stack here is told.
pub type Parameters<'a> = &'a [(&'a str, &'a str)];

/// What verifies tokens: the key of HS256 that the test signs with.
const TOKEN_SECRET: &str = "a secret of the tests, at least 32 bytes long";
/// What may publish over HTTP.
const PUBLISH_KEY: &str = "0123456789abcdef0123456789abcdef";

/// A deployed stack. What was started for it ends with it.
pub struct Stack {
    /// Dropped first: they work in the account. The oldest first.
    processes: Vec<Child>,
    /// Whose it is.
    pub account: Account,
    outputs: BTreeMap<String, String>,
    /// The outputs, as the command reads them.
    file: NamedTempFile,
    endpoints: Endpoints,
}

impl Deref for Stack {
    type Target = Endpoints;

    fn deref(&self) -> &Endpoints {
        &self.endpoints
    }
}

impl Stack {
    /// Deploys the template into a new account. Only its functions run.
    ///
    /// # Errors
    /// When the stack does not come up.
    pub async fn deploy(parameters: Parameters<'_>) -> anyhow::Result<Self> {
        Self::deploy_into(Account::new(), parameters).await
    }

    /// Deploys the template into an account.
    ///
    /// # Errors
    /// When the stack does not come up.
    pub async fn deploy_into(account: Account, parameters: Parameters<'_>) -> anyhow::Result<Self> {
        Account::verify_senders(&account.clients().await).await;
        let outputs = deployed(&account, parameters, None).await?;
        let file = NamedTempFile::new()?;
        std::fs::write(file.path(), serde_json::to_vec(&outputs)?)?;
        let output = |name: &str| outputs.get(name).cloned().with_context(|| format!("the stack has no output {name}"));
        let endpoints = Endpoints {
            http: account.http.clone(),
            url: output("HttpApiUrl")?,
            // The template makes both of one base. A client's socket goes past the proxy, which knows none.
            ws: output("WebSocketUrl")?.replacen(without_scheme(&account.told), without_scheme(&account.endpoint), 1),
            publish_key: Some(PUBLISH_KEY.to_owned()),
            issuer: Issuer::Secret(TOKEN_SECRET.to_owned()),
            habits: Habits::Trusting,
        };
        Ok(Self { processes: Vec::new(), account, outputs, file, endpoints })
    }

    /// Deploys into the same stack again, with other parameters.
    ///
    /// # Errors
    /// When the update does not succeed.
    pub async fn update(&mut self, parameters: Parameters<'_>) -> Tested {
        self.outputs = deployed(&self.account, parameters, None).await?;
        Ok(())
    }

    /// What a deployment with these parameters would do, and to which resource of the template: `Add`, `Modify`, `Replace`, `Remove`.
    ///
    /// # Errors
    /// When the change set cannot be made.
    pub async fn changes(&self, parameters: Parameters<'_>) -> anyhow::Result<BTreeMap<String, String>> {
        deployed(&self.account, parameters, Some("changes")).await
    }

    /// The id of every resource, by its name in the template.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn resources(&self) -> anyhow::Result<BTreeMap<String, String>> {
        deployed(&self.account, &[], Some("resources")).await
    }

    /// Deletes the stack.
    ///
    /// # Errors
    /// When it cannot be deleted.
    pub async fn delete(&self) -> Tested {
        deployed(&self.account, &[], Some("delete")).await.map(drop)
    }

    /// What the stack says of itself.
    pub fn outputs(&self) -> &BTreeMap<String, String> {
        &self.outputs
    }

    /// One output.
    ///
    /// # Errors
    /// When it is not there.
    pub fn output(&self, name: &str) -> anyhow::Result<&str> {
        self.outputs.get(name).map(String::as_str).with_context(|| format!("the stack has no output {name}"))
    }

    /// A process that a container would run, with what the template would tell it.
    ///
    /// # Errors
    /// When its binary or an output is missing.
    pub fn container(&self, name: &str) -> anyhow::Result<Command> {
        let mut command = command(built(name)?);
        command.env_clear().envs(self.account.told_environment()).envs(self.environment()?).stderr(Stdio::inherit());
        Ok(command)
    }

    /// The same with the credentials of its task role, as ECS hands them over: the role's name in the template.
    ///
    /// # Errors
    /// When its binary, an output or the role is missing.
    pub async fn container_as(&self, name: &str, role: &str) -> anyhow::Result<Command> {
        let mut command = self.container(name)?;
        command.envs(self.account.assume(role).await?);
        Ok(command)
    }

    /// The outputs as a file, which `RECADO_STACK` of the command names.
    pub fn file(&self) -> &Path {
        self.file.path()
    }

    fn environment(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let outputs = [
            ("RECADO_TABLE", "TableName"),
            ("RECADO_INBOX_QUEUE_URL", "InboxQueueUrl"),
            ("RECADO_INBOX_DEAD_LETTERS_URL", "InboxDeadLettersUrl"),
            ("RECADO_EMAIL_QUEUE_URL", "EmailQueueUrl"),
            ("RECADO_EMAIL_DEAD_LETTERS_URL", "EmailDeadLettersUrl"),
            ("RECADO_SOCKETS_ENDPOINT", "SocketsEndpoint"),
            ("RECADO_SES_CONFIGURATION_SET", "ConfigurationSet"),
        ];
        let mut environment: Vec<_> =
            outputs.into_iter().map(|(variable, output)| Ok((variable, self.output(output)?.to_owned()))).collect::<anyhow::Result<_>>()?;
        environment.extend([("RECADO_MAIL_FROM", MAIL_FROM.to_owned()), ("RECADO_LOG", "warn".to_owned())]);
        Ok(environment)
    }

    /// Starts a dispatcher.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_dispatcher(&mut self) -> Tested {
        self.start("recado-dispatcher")
    }

    /// Starts a process that a container would run.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, name: &str) -> Tested {
        self.processes.push(self.container(name)?.spawn()?);
        Ok(())
    }

    /// Kills what was started, of several the oldest, without a word (SIGKILL).
    ///
    /// # Errors
    /// When there is none.
    pub async fn kill_oldest(&mut self) -> Tested {
        ensure!(!self.processes.is_empty(), "nothing runs");
        Ok(self.processes.remove(0).kill().await?)
    }

    /// From now on its clients take failures as docs/protocol.md asks of a client.
    pub fn expect_failures(&mut self) {
        self.endpoints.habits = Habits::Persistent;
    }

    /// What waits on a queue, is in work there, or is to come: none of it once everything is settled.
    ///
    /// # Errors
    /// When the output is missing, or the queue does not answer.
    pub async fn depth(&self, queue: &str) -> anyhow::Result<u64> {
        let sqs = self.account.clients().await.sqs;
        let asked = sqs.get_queue_attributes().queue_url(self.output(queue)?).attribute_names(QueueAttributeName::All);
        let attributes = asked.send().await?.attributes.unwrap_or_default();
        let counts = attributes.iter().filter(|(name, _)| name.as_str().starts_with("ApproximateNumberOfMessages"));
        Ok(counts.filter_map(|(_, count)| count.parse::<u64>().ok()).sum())
    }

    /// The ports of the stack.
    ///
    /// # Errors
    /// When an output is missing.
    pub async fn ports(&self) -> anyhow::Result<StackPorts> {
        let clients = self.account.clients().await;
        let (queue, letters) = (self.output("InboxQueueUrl")?, self.output("InboxDeadLettersUrl")?);
        Ok(StackPorts {
            topic: self.output("TopicArn")?.to_owned(),
            bus: SnsBus::new(&clients, self.output("TopicArn")?),
            inbox_queue: SqsQueue::new(&clients, queue, letters),
            dead_letters: SqsDeadLetters::new(&clients, queue, letters),
            inbox: DynamoInbox::new(&clients, self.output("TableName")?, SystemClock, SystemEntropy),
            clients,
        })
    }
}

fn without_scheme(url: &str) -> &str {
    url.trim_start_matches("http")
}

const MAIL_FROM: &str = "Recado <news@example.com>";

/// Runs `infra/local/deploy.py`; answers the outputs, or what it is to do instead.
async fn deployed(account: &Account, parameters: Parameters<'_>, instead: Option<&str>) -> anyhow::Result<BTreeMap<String, String>> {
    let variable = |name: &str| std::env::var_os(name).with_context(|| format!("{name}: start these tests by `cargo xtask test`"));
    let mut deploy = Command::new(variable("RECADO_TEST_PYTHON")?);
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../infra/local/deploy.py");
    let sockets = format!("{}/_aws/execute-api", account.told);
    deploy.arg(program).args(["--endpoint", &account.endpoint, "--account", &account.id, "--stack", &account.stack()]);
    deploy.arg("--package-dir").arg(PathBuf::from(variable("RECADO_TEST_PACKAGES")?));
    let common = [
        ("DispatcherMode", "external"),
        ("Monitoring", "none"),
        ("LogLevel", "warn"),
        ("MailFrom", MAIL_FROM),
        ("TokenSecret", TOKEN_SECRET),
        ("PublishKeys", PUBLISH_KEY),
        ("SocketsEndpointBase", &sockets),
    ];
    let mut all = BTreeMap::from(common);
    all.extend(parameters.iter().copied());
    for (name, value) in all {
        deploy.args(["--parameter", &format!("{name}={value}")]);
    }
    if let Some(instead) = instead {
        deploy.args(["--instead", instead]);
    }
    deploy.kill_on_drop(true).stdin(Stdio::null());
    let output = timeout(DEADLINE * 2, deploy.output()).await.context("the stack was not deployed in time")??;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("the outputs of the stack")
}

impl Deployment for Stack {
    const EXPECTED: Expected = Expected {
        // AWS passes the status of a function that refuses `$connect` on to the client, 401 here ("The $connect and
        // $disconnect routes" of the API Gateway Developer Guide: a connection is made only on a 2xx of the
        // integration). The local one closes the handshake, which reads 403. What the function answers is pinned in
        // suites/stack.rs.
        unauthorized: 403,
        // DeleteConnection takes neither code nor reason ("Amazon API Gateway Management API", DeleteConnection).
        closed: Closed::With(1000),
        // API Gateway asks about a token at `$connect` alone: it ends a connection after 2 h, or 10 min without a frame
        // ("Quotas for configuring and running a WebSocket API"). In between whoever uses it looks at its end.
        token_end: TokenEnd::NextUse,
        // AWS closes with 1009 above 128 KiB a message or 32 KiB a frame ("Quotas for configuring and running a WebSocket
        // API"). The local one hands everything to the function, which must stand it.
        oversized_closes: false,
    };

    type Inside = StackPorts;

    async fn up_with(setup: Setup) -> anyhow::Result<Self> {
        let leeway = format!("{}ms", setup.token_leeway.as_millis());
        let mut stack = Self::deploy(&[("TokenLeeway", &leeway)]).await?;
        stack.start_dispatcher()?;
        Ok(stack)
    }

    async fn up_after(happened: impl AsyncFnOnce(&StackPorts) -> Tested) -> anyhow::Result<Self> {
        let mut stack = Self::deploy(&[]).await?;
        happened(&stack.ports().await?).await?;
        stack.start_dispatcher()?;
        Ok(stack)
    }

    async fn run(&self, args: &[&str]) -> anyhow::Result<Ended> {
        let mut command = command(binary()?);
        command.envs(self.account.environment()).env("RECADO_STACK", self.file.path()).args(args);
        Ended::of(command).await
    }

    async fn alone(&self) -> Tested {
        // …/API/STAGE
        let api = self.output("SocketsEndpoint")?.rsplit('/').nth(1).context("the endpoint names no API")?;
        eventually("nobody is connected", async || Ok(self.account.connections(api).await.is_empty().then_some(()))).await
    }

    async fn mails(&self, count: usize) -> anyhow::Result<Vec<Mail>> {
        let sent = eventually(&format!("{count} mails"), async || {
            let sent = self.account.mails().await;
            Ok((sent.len() >= count).then_some(sent))
        })
        .await?;
        let read = |mail: super::account::SentMail| {
            let message = MessageParser::default().parse(&mail.message).context("a mail that cannot be read")?;
            let subject = message.subject().unwrap_or_default().to_owned();
            Ok(Mail { to: mail.to, subject, html: message.body_html(0).unwrap_or_default().into_owned() })
        };
        sent.into_iter().map(read).collect()
    }
}

/// The ports of a stack.
pub struct StackPorts {
    /// What they speak through.
    pub clients: Clients,
    topic: String,
    bus: SnsBus,
    inbox_queue: SqsQueue,
    dead_letters: SqsDeadLetters,
    inbox: DynamoInbox<SystemClock, SystemEntropy>,
}

impl Inside for StackPorts {
    fn bus(&self) -> impl EventBus {
        self.bus.clone()
    }

    fn inbox_queue(&self) -> impl Queue {
        self.inbox_queue.clone()
    }

    fn dead_letters(&self) -> impl DeadLetters {
        self.dead_letters.clone()
    }

    fn inbox(&self) -> impl Inbox {
        self.inbox.clone()
    }

    async fn hand_in(&self, text: &str) -> Tested {
        self.clients.sns.publish().topic_arn(&self.topic).message(text).send().await?;
        Ok(())
    }
}
