//! Being asked to stop: SIGINT (Ctrl-C), SIGTERM and SIGHUP as something that is looked at, so that whoever waits can
//! clean up first.
//!
//! Must not know: what has to be cleaned up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How often it is looked at whether what is waited for happened: too short to be felt, and nothing next to what it
/// waits for.
const PAUSE: Duration = Duration::from_millis(20);

/// Somebody asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopped")
    }
}

impl std::error::Error for Stopped {}

/// Whether to stop. Clones are asked together. The default is never asked: signals do what they always do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on the signals end nothing by themselves.
    ///
    /// # Errors
    /// When the system does not hand them over.
    pub(crate) fn on_signals() -> Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, stop.0.clone()).context("signals cannot be received")?;
        }
        Ok(stop)
    }

    /// Asks until there is an answer.
    ///
    /// # Errors
    /// [`Stopped`] when somebody asked to stop before, or what `ask` fails with.
    pub(crate) fn until<T>(&self, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        loop {
            if self.0.load(Ordering::Relaxed) {
                return Err(Stopped.into());
            }
            if let Some(answer) = ask()? {
                return Ok(answer);
            }
            pause();
        }
    }
}

/// Between two looks at a condition.
#[expect(clippy::disallowed_methods, reason = "the system hands over neither signals nor the end of a process as something to block on")]
pub(crate) fn pause() {
    std::thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_waited_for_until_somebody_asks_to_stop() {
        let stop = Stop::default();
        let mut asked = 0;
        let answer = stop.until(|| {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(answer.expect("an answer"), 3);
        stop.0.store(true, Ordering::Relaxed);
        let stopped = stop.until(|| Ok(Some(()))).expect_err("stopped");
        assert!(stopped.is::<Stopped>());
    }
}
