//! A local AWS of one's own, for tests that end it, freeze it and begin it again with what it held.
//!
//! It keeps its state in a folder when it is told to end. Killed without a word it would forget, as AWS does not: so nothing
//! here does that. Must not know: what runs on it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{DEADLINE, Tested};

/// A local AWS on a port and a folder of its own.
pub struct Emulator {
    /// Its URL, which stays the same.
    pub endpoint: String,
    running: Option<Child>,
    folder: TempDir,
}

impl Emulator {
    /// Starts one, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let mut emulator = Self { endpoint: String::new(), running: None, folder: tempfile::tempdir()? };
        emulator.begin(0).await?;
        Ok(emulator)
    }

    /// Starts it again where it was, with what it held.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_again(&mut self) -> Tested {
        let port = self.endpoint.rsplit(':').next().context("a URL with a port")?.parse()?;
        self.begin(port).await
    }

    async fn begin(&mut self, port: u16) -> Tested {
        let python = std::env::var_os("RECADO_TEST_PYTHON").context("RECADO_TEST_PYTHON: start these tests by `cargo xtask test`")?;
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../infra/local/emulator.py");
        let mut run = Command::new(PathBuf::from(python));
        run.arg(program).arg("--persist").arg("--port").arg(port.to_string()).arg("--state").arg(self.folder.path().join("state"));
        // A group of its own, so that what it starts (functions) can be ended with it.
        run.process_group(0).kill_on_drop(true).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = run.spawn()?;
        let out = child.stdout.take().context("standard output is piped")?;
        let mut lines = BufReader::new(out).lines();
        let line = timeout(DEADLINE, lines.next_line()).await.context("the local AWS was not ready in time")??;
        let ready: Value = serde_json::from_str(&line.context("the local AWS ended before it was ready")?)?;
        self.endpoint = ready["endpoint"].as_str().context("no endpoint")?.to_owned();
        // What it says further goes nowhere, and must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        self.running = Some(child);
        Ok(())
    }

    /// Tells it to end, and waits until it has: it keeps what it holds.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn end(&mut self) -> Tested {
        let mut child = self.running.take().context("it does not run")?;
        let group = child.id();
        // It ends with its standard input.
        drop(child.stdin.take());
        let ended = timeout(DEADLINE, child.wait()).await;
        if let Some(group) = group {
            // A function of it that is still there would work on, as none does on AWS.
            signal("KILL", group).await.ok();
        }
        ended.context("the local AWS did not end")??;
        Ok(())
    }

    /// Stops it in the middle of whatever it does, without a word to anybody (SIGSTOP).
    ///
    /// # Errors
    /// When it does not run.
    pub async fn freeze(&self) -> Tested {
        self.tell("STOP").await
    }

    /// Has it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn thaw(&self) -> Tested {
        self.tell("CONT").await
    }

    async fn tell(&self, name: &str) -> Tested {
        let pid = self.running.as_ref().and_then(Child::id).context("it does not run")?;
        ensure!(Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().await?.success(), "kill -{name} failed");
        Ok(())
    }
}

impl Drop for Emulator {
    /// Ends it with everything it started. Blocks for that moment, since nothing can be awaited here.
    fn drop(&mut self) {
        if let Some(group) = self.running.as_ref().and_then(Child::id) {
            std::process::Command::new("sh").args(["-c", &format!("kill -KILL -{group}")]).stderr(Stdio::null()).status().ok();
        }
    }
}

/// The shell's own `kill`, since there is no signal for groups in the library.
async fn signal(name: &str, group: u32) -> Tested {
    Command::new("sh").args(["-c", &format!("kill -{name} -{group}")]).stderr(Stdio::null()).status().await?;
    Ok(())
}
