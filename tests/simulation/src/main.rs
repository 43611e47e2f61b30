//! `cargo xtask simulate`: runs many seeds on all cores, or one of them with its whole story.
//!
//! Must not know: what a seed means.

#![expect(clippy::print_stdout, reason = "a command speaks on its output")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use recado_simulation::{Breakage, Counts, Report, Scenario, run};

/// Runs the rooms of Recado under seeded faults and virtual time.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask simulate", max_term_width = 100)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Runs this one alone, and shows all of it.
    #[arg(long, conflicts_with_all = ["seeds", "start"])]
    seed: Option<u64>,
    /// Threads; as many as the machine has cores unless given.
    #[arg(long)]
    jobs: Option<usize>,
    /// Breaks a rule, to see how soon it is noticed.
    #[arg(long)]
    broken: Option<Breakage>,
    /// Only runs with late writes and readers in a hurry.
    #[arg(long)]
    crowded: bool,
    /// Prints a hash of the story of each seed and nothing else, to compare two processes.
    #[arg(long)]
    digests: bool,
    /// Goes on after a seed that fails, and lists all of them without their story.
    #[arg(long)]
    keep_going: bool,
}

impl Arguments {
    fn scenario(&self, seed: u64) -> Scenario {
        if self.crowded { Scenario::crowded(seed) } else { Scenario::of(seed) }
    }

    /// The command that shows this seed again.
    fn replays(&self, seed: u64) -> String {
        let crowded = if self.crowded { "--crowded " } else { "" };
        let broken = self.broken.as_ref().and_then(Breakage::to_possible_value);
        let broken = broken.map_or_else(String::new, |broken| format!("--broken {} ", broken.get_name()));
        format!("cargo xtask simulate {crowded}{broken}--seed {seed}")
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        None if arguments.digests => tell_digests(&arguments),
        Some(seed) => tell(&arguments, &run(arguments.scenario(seed), arguments.broken, true)),
        None => run_many(&arguments),
    }
}

fn tell_digests(arguments: &Arguments) -> ExitCode {
    for seed in arguments.start..arguments.start.saturating_add(arguments.seeds) {
        println!("{seed} {:016x}", run(arguments.scenario(seed), arguments.broken, true).digest());
    }
    ExitCode::SUCCESS
}

/// Shows one run.
fn tell(arguments: &Arguments, report: &Report) -> ExitCode {
    println!("{}", arguments.scenario(report.seed));
    report.trace.iter().for_each(|line| println!("{line}"));
    println!("\nseed {}: {:.0} s of virtual time\n{}", report.seed, report.time.as_secs_f64(), report.counts);
    report.violations.iter().for_each(|violation| println!("VIOLATION {violation}"));
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    counts: Counts,
    time: Duration,
    failed: Vec<Report>,
}

fn run_many(arguments: &Arguments) -> ExitCode {
    let Arguments { seeds, start, jobs, broken, keep_going, .. } = *arguments;
    let jobs = jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let (next, stop, totals, began) = (AtomicU64::new(start), AtomicBool::new(false), Mutex::new(Totals::default()), Instant::now());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= start.saturating_add(seeds) {
                        return;
                    }
                    let report = run(arguments.scenario(seed), broken, false);
                    if !report.violations.is_empty() && !keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                    add(&totals, report, began);
                }
            });
        }
    });
    conclude(totals.into_inner().expect("no thread has panicked"), began.elapsed(), arguments)
}

fn add(totals: &Mutex<Totals>, report: Report, began: Instant) {
    let mut totals = totals.lock().expect("no thread has panicked");
    totals.seeds += 1;
    totals.counts += report.counts;
    totals.time += report.time;
    if !report.violations.is_empty() {
        println!("seed {} FAILS: {}", report.seed, report.violations.join("\n    "));
        totals.failed.push(report);
    }
    if totals.seeds.is_multiple_of(5_000) {
        let rate = totals.seeds as f64 / began.elapsed().as_secs_f64();
        println!("{} seeds, {} failed, {rate:.0} seeds/s", totals.seeds, totals.failed.len());
    }
}

fn conclude(mut totals: Totals, took: Duration, arguments: &Arguments) -> ExitCode {
    let rate = totals.seeds as f64 / took.as_secs_f64();
    println!(
        "{}\n{} seeds in {:.1} s ({rate:.0} seeds/s), {:.0} h of virtual time, {} failed",
        totals.counts,
        totals.seeds,
        took.as_secs_f64(),
        totals.time.as_secs_f64() / 3600.0,
        totals.failed.len()
    );
    totals.failed.sort_by_key(|report| report.seed);
    let Some(first) = totals.failed.first() else { return ExitCode::SUCCESS };
    let seed = first.seed;
    if !arguments.keep_going {
        println!("\nThe story of seed {seed}, as `{}` shows it:\n", arguments.replays(seed));
        return tell(arguments, &run(arguments.scenario(seed), arguments.broken, true));
    }
    ExitCode::FAILURE
}
