//! A process whose log a test reads while it runs.
//!
//! Must not know: which process.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::eventually;

/// A process that is killed when this is dropped, and everything it complained so far.
pub struct Logged {
    /// The process.
    pub child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Logged {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command.kill_on_drop(true).stderr(Stdio::piped()).spawn()?;
        let mut log = BufReader::new(child.stderr.take().context("standard error is piped")?).lines();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&lines);
        // Ends with the process, whose end of the pipe it reads.
        tokio::spawn(async move {
            while let Ok(Some(line)) = log.next_line().await {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Ok(Self { child, lines })
    }

    /// Everything it wrote.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a line with all of these words.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn line(&self, words: &[&str]) -> anyhow::Result<String> {
        let found = || self.lines().into_iter().find(|line| words.iter().all(|word| line.contains(word)));
        let line = eventually(&format!("a line with {words:?}"), async || Ok(found())).await;
        line.with_context(|| format!("it wrote {:#?}", self.lines()))
    }
}
