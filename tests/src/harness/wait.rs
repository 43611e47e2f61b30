//! Waiting on a condition, [`DEADLINE`] at the most: no test waits for a time.

use std::time::Duration;

use anyhow::Context;
use tokio::time::timeout;

/// The longest wait for a condition: many times what it takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A result whose error fails the test with its whole story.
pub type Tested = anyhow::Result<()>;

/// Asks until there is an answer.
///
/// # Errors
/// When there is none within the deadline, or asking fails.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let asking = async {
        loop {
            if let Some(answer) = ask().await? {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, asking).await.with_context(|| format!("not within {DEADLINE:?}: {what}"))?
}
