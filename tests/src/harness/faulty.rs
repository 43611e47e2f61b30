//! A stack on AWS on a bad day: every call of its processes goes through a [`FaultProxy`], and its clients expect failures.
//!
//! Operators' commands and what a test itself looks at go past the proxy. Must not know: what is tested.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;

use super::{Account, Deployment, Ended, Endpoints, Expected, FaultProxy, Mail, Mix, Parameters, Setup, Stack, StackPorts, Tested};

/// Faults of all proxies of this process that have ended.
static INJECTED: AtomicU64 = AtomicU64::new(0);

/// How many faults the deployments met that this process had, and that have ended.
pub fn injected() -> u64 {
    INJECTED.load(Ordering::Acquire)
}

/// What decides about faults: `RECADO_TEST_SEED`, or always the same.
pub fn seed() -> u64 {
    std::env::var("RECADO_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// A deployed stack, and the proxy before the local AWS.
pub struct Faulty {
    // Dropped in this order: what calls, then what is called through.
    /// What runs. Its account is reached past the proxy.
    pub stack: Stack,
    /// What goes wrong.
    pub proxy: FaultProxy,
}

impl Deref for Faulty {
    type Target = Endpoints;

    fn deref(&self) -> &Endpoints {
        &self.stack
    }
}

impl Faulty {
    /// Deploys a stack behind a proxy on a local AWS. Its functions run, and no dispatcher.
    ///
    /// # Errors
    /// When the stack does not come up.
    pub async fn deploy(endpoint: &str, mix: Mix, parameters: Parameters<'_>) -> anyhow::Result<Self> {
        let proxy = FaultProxy::before(endpoint, seed(), mix).await?;
        let account = Account::behind(&proxy.endpoint, endpoint).await;
        let mut stack = Stack::deploy_into(account, parameters).await?;
        stack.expect_failures();
        Ok(Self { stack, proxy })
    }
}

impl Drop for Faulty {
    /// Says what went wrong, beside what the test says.
    #[expect(clippy::print_stderr, reason = "a test speaks on its output")]
    fn drop(&mut self) {
        let counts = self.proxy.counts();
        eprintln!("{counts}");
        INJECTED.fetch_add(counts.faults(), Ordering::AcqRel);
    }
}

impl Deployment for Faulty {
    const EXPECTED: Expected = Stack::EXPECTED;

    type Inside = StackPorts;

    async fn up_with(setup: Setup) -> anyhow::Result<Self> {
        let leeway = format!("{}ms", setup.token_leeway.as_millis());
        let mut faulty = Self::deploy(&local_aws()?, Mix::MODERATE, &[("TokenLeeway", &leeway)]).await?;
        faulty.stack.start_dispatcher()?;
        Ok(faulty)
    }

    async fn up_after(happened: impl AsyncFnOnce(&StackPorts) -> Tested) -> anyhow::Result<Self> {
        let mut faulty = Self::deploy(&local_aws()?, Mix::MODERATE, &[]).await?;
        happened(&faulty.stack.ports().await?).await?;
        faulty.stack.start_dispatcher()?;
        Ok(faulty)
    }

    async fn run(&self, args: &[&str]) -> anyhow::Result<Ended> {
        self.stack.run(args).await
    }

    async fn alone(&self) -> Tested {
        self.stack.alone().await
    }

    async fn mails(&self, count: usize) -> anyhow::Result<Vec<Mail>> {
        self.stack.mails(count).await
    }
}

/// The local AWS of this run.
///
/// # Errors
/// When there is none.
pub fn local_aws() -> anyhow::Result<String> {
    std::env::var("RECADO_TEST_AWS").context("RECADO_TEST_AWS: start these tests by `cargo xtask test`")
}
