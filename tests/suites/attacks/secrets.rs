//! Everything that must not be found in what Recado says: tokens, tickets, keys, addresses, and what events hold.

use std::sync::Mutex;

use anyhow::ensure;
use recado_tests::harness::Tested;

/// What was said to Recado in confidence.
#[derive(Default)]
pub(crate) struct Secrets(Mutex<Vec<String>>);

/// What is shorter may stand anywhere by chance.
const SHORTEST: usize = 8;

impl Secrets {
    /// Remembers a secret; answers it. The parts of a token count one by one.
    pub(crate) fn keep(&self, secret: impl Into<String>) -> String {
        let secret = secret.into();
        let mut secrets = self.0.lock().expect("no test panics while it holds this");
        secrets.extend(secret.split('.').skip(1).map(str::to_owned));
        secrets.push(secret.clone());
        secret
    }

    /// That a text shows none of them.
    pub(crate) fn not_in(&self, text: &str, what: &str) -> Tested {
        let secrets = self.0.lock().expect("no test panics while it holds this");
        for secret in secrets.iter().filter(|secret| secret.len() >= SHORTEST) {
            let line = text.lines().find(|line| line.contains(secret.as_str()));
            ensure!(line.is_none(), "{what} shows {secret:?}: {}", line.unwrap_or_default());
        }
        Ok(())
    }
}
