//! A real `recado` process on a port and a folder of its own.
//!
//! Must not know: anything of its inside.

use std::ops::Deref;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, ensure};
use recado_runtime::auth::DevelopmentKey;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{DEADLINE, Endpoints, Habits, Issuer, Tested};

/// The `recado` command under test.
///
/// # Errors
/// When it is not there.
pub fn binary() -> anyhow::Result<PathBuf> {
    built("recado")
}

/// A binary under test, which the test runner built beside this one.
///
/// # Errors
/// When it is not there.
pub fn built(name: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe()?;
    // Tests run from target/<profile>/deps, the load from target/<profile>.
    let found = here.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|binary| binary.is_file());
    found.with_context(|| format!("no `{name}` beside {}; run `cargo xtask test`, which builds it first", here.display()))
}

/// A command of a binary under test, deaf to the settings of whoever runs the tests. Killed when it is dropped.
pub fn command(binary: PathBuf) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RECADO_")) {
        command.env_remove(name);
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// A command that ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it complained.
    pub err: String,
}

impl Ended {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn of(mut command: Command) -> anyhow::Result<Self> {
        let output = timeout(DEADLINE, command.output()).await.context("the command did not end")??;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) })
    }
}

/// Starts a server on a free port.
const UP: &[&str] = &["up", "--json", "--listen", "127.0.0.1:0"];
/// Says only what is wrong.
const QUIET: &[&str] = &["--log", "warn"];

/// A folder for data, and how to run `recado` on it. Outlives the processes that are started and killed on it.
pub struct Folder {
    dir: TempDir,
}

impl Folder {
    /// A new, empty one.
    ///
    /// # Errors
    /// When the machine has no room.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { dir: tempfile::tempdir()? })
    }

    /// What those of its servers logged that were started to be read ([`Folder::up_logged`]).
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn logged(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.dir.path().join("recado.log"))?)
    }

    /// Where the data is.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A `recado` command on this folder.
    ///
    /// # Errors
    /// When the binary is missing.
    pub fn command(&self, args: &[&str]) -> anyhow::Result<Command> {
        let mut command = command(binary()?);
        command.env("RECADO_DATA_DIR", self.data()).args(args);
        Ok(command)
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn run(&self, args: &[&str]) -> anyhow::Result<Ended> {
        Ended::of(self.command(args)?).await
    }

    /// Starts a server, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn up(&self, more: &[&str]) -> anyhow::Result<Recado> {
        self.spawn(self.command(&[UP, QUIET, more].concat())?).await
    }

    /// Starts a server that logs all there is into [`Folder::log`], and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn up_watched(&self, more: &[&str]) -> anyhow::Result<Recado> {
        let log = std::fs::File::options().create(true).append(true).open(self.log())?;
        let mut command = self.command(&[UP, &["--log", "trace"], more].concat())?;
        command.stderr(log);
        self.spawn(command).await
    }

    /// Where [`Folder::up_watched`] logs.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// As [`Folder::up`], with what it logs kept for [`Folder::logged`].
    ///
    /// # Errors
    /// When it does not start.
    pub async fn up_logged(&self) -> anyhow::Result<Recado> {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("recado.log"))?;
        let mut command = self.command(&[UP, QUIET].concat())?;
        command.stderr(log);
        self.spawn(command).await
    }

    /// Starts a server through other commands, the last of which is its own path.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn up_as(&self, through: &[&str]) -> anyhow::Result<Recado> {
        let (program, rest) = through.split_first().context("a command")?;
        let mut started = command(PathBuf::from(program));
        started.env("RECADO_DATA_DIR", self.data()).args(rest).args(UP).args(QUIET);
        self.spawn(started).await
    }

    /// Tries to start a server that is expected to refuse, and answers how it ended.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn refused(&self) -> anyhow::Result<Ended> {
        self.run(&[UP, QUIET].concat()).await
    }

    async fn spawn(&self, mut command: Command) -> anyhow::Result<Recado> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("standard output is piped")?;
        let mut lines = BufReader::new(out).lines();
        let line = timeout(DEADLINE, lines.next_line()).await.context("the server was not ready in time")??;
        let ready: Value = serde_json::from_str(&line.context("the server ended before it was ready; its log says why")?)?;
        Ok(Recado { child, endpoints: self.endpoints(&ready)?, ready, _lines: lines })
    }

    fn endpoints(&self, ready: &Value) -> anyhow::Result<Endpoints> {
        let text = |name: &str| ready[name].as_str().with_context(|| format!("no `{name}` in {ready}"));
        // Not there where the server was told of other keys.
        let issuer = match std::fs::read_to_string(self.data().join("development.key")) {
            Ok(key) => Issuer::Development(DevelopmentKey::from_text(&key)?),
            Err(_) => Issuer::Elsewhere,
        };
        Ok(Endpoints {
            http: reqwest::Client::new(),
            url: format!("http://{}", text("listen")?),
            ws: text("ws")?.to_owned(),
            publish_key: None,
            issuer,
            habits: Habits::Trusting,
        })
    }
}

/// A running server, and its [`Endpoints`]. Dropped, it is killed.
pub struct Recado {
    child: Child,
    endpoints: Endpoints,
    ready: Value,
    /// Kept open, so that the server never writes into a closed pipe.
    _lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Deref for Recado {
    type Target = Endpoints;

    fn deref(&self) -> &Endpoints {
        &self.endpoints
    }
}

impl Recado {
    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it printed when it was ready.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// Kills it without a word (SIGKILL).
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(mut self) -> Tested {
        Ok(self.child.kill().await?)
    }

    /// As [`Recado::kill`], for whoever puts another server in its place.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill_now(&mut self) -> Tested {
        Ok(self.child.kill().await?)
    }

    /// Asks it to stop (SIGTERM).
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub async fn terminate(&self) -> Tested {
        let pid = self.child.id().context("it ended before")?.to_string();
        ensure!(Command::new("kill").args(["-TERM", &pid]).status().await?.success(), "kill failed");
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn ended(mut self) -> anyhow::Result<ExitStatus> {
        Ok(timeout(DEADLINE, self.child.wait()).await.context("the server did not end")??)
    }
}
