//! The whole torture: kills `recado up` again and again while events are published and clients come and go, and checks
//! that nothing accepted was lost and nothing shown twice. `cargo xtask torture` builds it in release and runs it.

#![expect(clippy::print_stdout, reason = "a report is what this program is for")]

use std::time::Duration;

use recado_tests::harness::Tested;
use recado_tests::torture::{Plan, Report, run};

#[tokio::main]
async fn main() -> Tested {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let mut next = |or| numbers.next().transpose().map(|number| number.unwrap_or(or));
    let plan = Plan {
        kills: next(60)?,
        events: next(100_000)?,
        seed: next(1)? as u64,
        users: 200,
        publishers: 4,
        batch: 50,
        start_within: Duration::from_secs(10),
        settle_within: Duration::from_secs(120),
    };
    println!("{plan:?}");
    print(&plan, &run(plan).await?);
    Ok(())
}

fn print(plan: &Plan, report: &Report) {
    let seconds = |duration: Option<&Duration>| duration.map_or(0.0, Duration::as_secs_f64);
    println!("| {} events to {} people, {} kills | |\n| --- | --- |", plan.events, plan.users, report.starts.len());
    for (fault, count) in &report.faults {
        println!("| {fault} | {count} |");
    }
    let starts = &report.starts;
    println!(
        "| from a start to being ready: median, longest | {:.2}, {:.2} s |",
        seconds(starts.get(starts.len() / 2)),
        seconds(starts.last())
    );
    println!("| published by | {:.0} s |", report.published.as_secs_f64());
    println!("| everybody had everything by | {:.0} s |", report.took.as_secs_f64());
    println!("| **notifications shown, each once** | **{}** |", report.expected);
    println!("| connections that clients opened | {} |", report.visits);
    println!("| items that came again, and were not shown again | {} |", report.again);
    println!("| publishes repeated for want of an answer | {} |", report.repeated);
    println!("| the database in the end | {:.0} MiB |", report.database as f64 / 1024.0 / 1024.0);
}
