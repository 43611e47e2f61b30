//! A server that is killed again and again, its log torn, its disk full: nothing accepted is lost, nothing shown twice.
//!
//! `cargo xtask torture` is the whole of the first test: more kills, and more of everything.

#![expect(clippy::print_stdout, reason = "what ran, and what it measured, is read by people")]

use std::time::Duration;

use anyhow::ensure;
use recado_tests::harness::Tested;
use recado_tests::torture::{Plan, run};

#[tokio::test(flavor = "multi_thread")]
async fn nine_kills_under_load_lose_nothing_accepted_and_show_nothing_twice() -> Tested {
    let plan = Plan {
        events: 5_000,
        kills: 9,
        users: 50,
        publishers: 3,
        batch: 20,
        seed: 1,
        start_within: Duration::from_secs(20),
        settle_within: Duration::from_secs(60),
    };
    let report = run(plan).await?;
    ensure!(report.faults.iter().all(|(_, count)| *count > 0) && report.starts.len() == plan.kills, "{report:?}");
    println!("{report:?}");
    Ok(())
}
