//! A local AWS of a test's own that enforces IAM, and what it tells of its roles.
//!
//! The one that all other suites share lets everybody do everything. Where this one had to be taught what AWS asks for stands
//! in infra/local/emulator.py (`Permissions`). Must not know: what is deployed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Account, REGION};

/// How long it may take to end by itself before it is killed.
const FAREWELL: Duration = Duration::from_secs(10);

/// A local AWS that enforces IAM. It ends with everything it started when this is dropped, and when this process ends in any
/// other way: it holds the other end of the emulator's standard input.
pub struct Guarded {
    process: Child,
    /// Closed first, which ends it.
    stdin: Option<ChildStdin>,
    /// Hears that it has ended.
    end: Option<mpsc::Receiver<()>>,
    /// Its URL.
    pub endpoint: String,
    /// Its files. Last: it writes into them until it has ended.
    _state: TempDir,
}

impl Guarded {
    /// Starts one on a free port, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start() -> anyhow::Result<Self> {
        let python = std::env::var_os("RECADO_TEST_PYTHON").context("RECADO_TEST_PYTHON: start these tests by `cargo xtask test`")?;
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../infra/local/emulator.py");
        let state = tempfile::tempdir()?;
        let mut command = Command::new(python);
        command.arg(program).arg("--state").arg(state.path()).args(["--auth", "--log-level", "ERROR"]);
        // A group of its own, so that the functions it runs can be ended with it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().context("the local AWS cannot be started")?;
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take().context("its output is piped")?);
        let mut guarded = Self { process, stdin, end: None, endpoint: String::new(), _state: state };
        let mut line = String::new();
        let mut lines = BufReader::new(stdout);
        lines.read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).context("the local AWS did not start")?;
        guarded.endpoint = ready["endpoint"].as_str().context("an endpoint")?.to_owned();
        // What it says further goes nowhere, and must not fill the pipe, which closes when it ends.
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || {
            std::io::copy(&mut lines, &mut std::io::sink()).ok();
            // Nobody listens any more when it took too long.
            ended.send(()).ok();
        });
        guarded.end = Some(end);
        Ok(guarded)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if let Some(end) = self.end.take() {
            end.recv_timeout(FAREWELL).ok();
        }
        // Whatever of its group is still there: a function may outlive it.
        Command::new("kill").args(["-KILL", "--", &format!("-{}", self.process.id())]).status().ok();
        self.process.wait().ok();
    }
}

/// Something that a role may do, or tried to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// The name of the role in the template.
    pub role: String,
    /// Such as `sqs:SendMessage`.
    pub action: String,
    /// An ARN, or in a policy a pattern of one.
    pub resource: String,
}

/// What came of a [`Permission`] so far.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Who asked for what.
    pub permission: Permission,
    /// How often it was allowed.
    pub allowed: u64,
    /// How often it was denied.
    pub denied: u64,
}

impl Permission {
    fn of(account: &Account, value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().expect("text").to_owned();
        Self { role: logical(account, &text("role")).to_owned(), action: text("action"), resource: text("resource") }
    }

    /// Whether this pattern of a policy allows that.
    pub fn allows(&self, asked: &Self) -> bool {
        self.role == asked.role && self.action == asked.action && matches(&self.resource, &asked.resource)
    }
}

/// `*` is any text ("IAM JSON policy elements: Resource").
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, "")) => text.starts_with(head),
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| rest.char_indices().any(|(at, _)| matches(tail, &rest[at..]))),
    }
}

/// `ConnectRole` of `recado-000000000001-ConnectRole-98D438024877D`.
fn logical<'a>(account: &Account, role: &'a str) -> &'a str {
    let name = role.strip_prefix(&format!("{}-", account.stack())).unwrap_or(role);
    name.split_once('-').map_or(name, |(name, _)| name)
}

impl Account {
    /// What the policies of the account's roles allow, action by action and resource by resource.
    ///
    /// # Panics
    /// When the answer is no list of them.
    pub async fn granted(&self) -> Vec<Permission> {
        self.permissions("granted").await.iter().map(|value| Permission::of(self, value)).collect()
    }

    /// What the account's roles asked for so far.
    ///
    /// # Panics
    /// When the answer is no list of decisions.
    pub async fn decisions(&self) -> Vec<Decision> {
        let count = |value: &Value| value.as_u64().expect("a count");
        let decision = |value: &Value| Decision {
            permission: Permission::of(self, value),
            allowed: count(&value["allowed"]),
            denied: count(&value["denied"]),
        };
        self.permissions("decisions").await.iter().map(decision).collect()
    }

    /// From now on no policy of this role allows the action on resources that contain one of these texts; none gives it back.
    ///
    /// # Errors
    /// When there is no such role.
    pub async fn withhold(&self, role: &str, action: &str, resources: &[&str]) -> anyhow::Result<()> {
        let asked = json!({ "account": self.id, "role": self.role(role).await?, "action": action, "resources": resources });
        self.ask(self.http.post(format!("{}/_recado/withhold", self.endpoint)).json(&asked)).await;
        Ok(())
    }

    async fn permissions(&self, what: &str) -> Vec<Value> {
        let asked = json!({ "account": self.id });
        let answer = self.ask(self.http.post(format!("{}/_recado/{what}", self.endpoint)).json(&asked)).await;
        let Value::Array(values) = answer else { panic!("a list of permissions") };
        values
    }

    /// A role's own name, of its name in the template.
    async fn role(&self, wanted: &str) -> anyhow::Result<String> {
        let roles = self.permissions("granted").await;
        let mut names = roles.iter().filter_map(|value| value["role"].as_str());
        Ok(names.find(|name| logical(self, name) == wanted).with_context(|| format!("the account has no role {wanted}"))?.to_owned())
    }

    /// The environment in which a process works as a role of the account, with credentials as ECS hands them to a task.
    ///
    /// # Errors
    /// When there is no such role, or its trust policy does not let ECS assume it.
    pub async fn assume(&self, role: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let asked = json!({ "account": self.id, "role": self.role(role).await?, "region": REGION });
        let answer = self.ask(self.http.post(format!("{}/_recado/assume", self.endpoint)).json(&asked)).await;
        ensure!(answer["refused"].is_null(), "{role} does not trust this task: {answer}");
        Ok(serde_json::from_value(answer)?)
    }

    /// The lines that functions wrote into the log groups whose name contains this text.
    ///
    /// # Panics
    /// When the answer is no list of lines.
    pub async fn logged(&self, group: &str) -> Vec<String> {
        let asked = json!({ "account": self.id, "group": group });
        let lines = self.ask(self.http.post(format!("{}/_recado/logs", self.endpoint)).json(&asked)).await;
        serde_json::from_value(lines).expect("a list of lines")
    }
}
