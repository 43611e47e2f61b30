//! Developer chores: `cargo xtask test`, `aws-local`, `infra`, `bench`, `torture`, `model`, `package`, `init-time`,
//! `fuzz`, `simulate`, `schemas`, `ci`.
//!
//! Each chore is the same command for a person and for the machine that checks a change. Must not know: any other
//! crate of the house, so that it compiles in seconds and is there before they are.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks on its output")]

mod aws_local;
mod emulator;
mod fuzz;
mod init_time;
mod package;
mod process;
mod steps;
mod stop;

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::emulator::{Emulator, Python};
use crate::package::{Arch, Profile};
use crate::steps::{Steps, cargo};

/// The nextest that is installed where none is there; any of `nextest-version` in .config/nextest.toml serves.
const NEXTEST_VERSION: &str = "0.9.143";

/// Developer chores of Recado.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Builds everything, then runs all tests: units, contracts, whole system, documentation.
    Test {
        /// Passed to `cargo nextest run`, such as a name to filter by. With any, documentation tests are left out.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        nextest: Vec<String>,
    },
    /// Starts Recado as on AWS, on an emulator of AWS on this machine, and says how to use it; Ctrl-C ends all of it.
    AwsLocal(aws_local::Options),
    /// Checks infra/template.yaml: cfn-lint, the rules it keeps, that each rule can be broken, and that every variant deploys.
    Infra,
    /// Runs the suite of faults on AWS by one seed after the other: each decides otherwise about what goes wrong where.
    Faults {
        /// How many seeds.
        #[arg(long, default_value_t = 10)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 2)]
        first: u64,
    },
    /// Builds in release and measures under load; prints what docs/performance.md shows.
    Bench {
        /// Events, sockets, or clients that do not read; what docs/performance.md has, unless given.
        count: Option<u32>,
        /// What is measured.
        #[arg(long, value_enum, default_value_t = Scenario::Pipeline)]
        scenario: Scenario,
    },
    /// Builds in release, kills `recado up` again and again under load, and checks that nothing is lost and nothing shown twice.
    Torture {
        /// How often.
        #[arg(default_value_t = 60)]
        kills: u32,
        /// Events that are published meanwhile.
        #[arg(default_value_t = 100_000)]
        events: u32,
        /// Chooses faults and moments.
        #[arg(default_value_t = 1)]
        seed: u32,
    },
    /// Searches wider worlds of the model of delivery than the tests do; prints what docs/guarantees.md shows.
    Model {
        /// Only the worlds of these names.
        worlds: Vec<String>,
    },
    /// Builds the Lambda functions and zips them into target/package/, where infra/template.yaml finds them.
    Package {
        /// What for.
        #[arg(long, value_enum, default_value_t = Profile::Package)]
        profile: Profile,
        /// What they run on; the parameter `Architecture` of the template has to say the same.
        #[arg(long, value_enum, default_value_t = Arch::of_this_machine())]
        arch: Arch,
    },
    /// Measures how long each packaged function takes from its start until it asks for work, and that it asks AWS for nothing before.
    InitTime(init_time::Options),
    /// Searches with libFuzzer for bytes of which a property of tests/fuzz does not hold.
    Fuzz(fuzz::Search),
    /// Runs the rooms under seeded faults and virtual time, in release on all cores; tells the story of a seed that fails.
    Simulate {
        /// Passed on, such as `--seeds 100000`, `--start 5000`, or `--seed 42` for the whole story of one.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Writes the JSON Schemas of events and frames from the Rust types into schemas/.
    Schemas {
        /// Writes nothing; fails where a file is not what the types say.
        #[arg(long)]
        check: bool,
    },
    /// Everything a change has to pass: formatting, lints, documentation, dependencies, tests.
    Ci,
}

/// What `cargo xtask bench` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Scenario {
    /// The whole pipeline: events a second, lateness, memory.
    Pipeline,
    /// Many idle sockets: memory each.
    Sockets,
    /// All of them connect again at once, after a kill.
    Storm,
    /// Clients that never read, and what they cost the others.
    Stuck,
    /// An hour's worth of events and connections: whether memory is flat.
    Soak,
    /// One after the other.
    All,
}

impl Scenario {
    /// As the program that measures calls it.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Pipeline => &["pipeline"],
            Self::Sockets => &["sockets"],
            Self::Storm => &["storm"],
            Self::Stuck => &["stuck"],
            Self::Soak => &["soak"],
            Self::All => &["pipeline", "sockets", "storm", "stuck", "soak"],
        }
    }
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().chore {
        Chore::Test { nextest } => test(&nextest),
        Chore::AwsLocal(options) => aws_local::run(&options),
        Chore::Infra => infra(),
        Chore::Faults { seeds, first } => faults(first, seeds),
        Chore::Bench { count, scenario } => bench(scenario, count),
        Chore::Torture { kills, events, seed } => torture(kills, events, seed),
        Chore::Model { worlds } => model(&worlds),
        Chore::Package { profile, arch } => package::package(profile, arch),
        Chore::InitTime(options) => init_time::run(&options),
        Chore::Fuzz(search) => fuzz::fuzz(&search),
        Chore::Simulate { arguments } => simulate(&arguments),
        Chore::Schemas { check } => schemas(check),
        Chore::Ci => Steps::new("ci").run("checks", &mut steps::command("bash", &[".ci/run"])),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn test(nextest: &[String]) -> Result<()> {
    let mut steps = Steps::new("test");
    install_nextest(&mut steps)?;
    let python = python(&mut steps)?;
    build_tests(&mut steps)?;
    // One for the whole run: each test is an account of its own on it.
    let local_aws = python.as_ref().map(|python| Emulator::start(python, false)).transpose()?;
    let mut run = cargo(&["nextest", "run", "--workspace", "--all-features"]);
    match python.as_ref().zip(local_aws.as_ref()) {
        Some((python, emulator)) => run.envs(on_aws(python, emulator)?),
        None => run.args(["--profile", "without-aws"]),
    };
    if in_ci() {
        run.args(["--profile", "ci"]);
    }
    steps.run("tests", run.args(nextest))?;
    drop(local_aws);
    if nextest.is_empty() {
        steps.run("documentation tests", &mut cargo(&["test", "--workspace", "--all-features", "--doc", "--quiet"]))?;
    } else {
        steps.skip("documentation tests", "only what was asked for ran");
    }
    steps.summary();
    Ok(())
}

/// The suites start the `recado` command as a process of its own, and cargo builds a command only for tests of its own
/// package. One build with the features of the whole workspace; the runs after it find everything made.
fn build_tests(steps: &mut Steps) -> Result<()> {
    steps.run("build", &mut cargo(&["build", "--workspace", "--all-features", "--bins", "--tests"]))
}

/// What the suites on AWS read: where it is, and what is deployed there.
fn on_aws(python: &Python, emulator: &Emulator) -> Result<[(&'static str, OsString); 3]> {
    // Beside those to be deployed, which take longer to build.
    let packages = emulator::folder().join("package");
    package::zip_all(Profile::Emulator, Arch::of_this_machine(), &packages)?;
    let endpoint = OsString::from(&emulator.endpoint);
    Ok([("RECADO_TEST_AWS", endpoint), ("RECADO_TEST_PYTHON", python.path().into()), ("RECADO_TEST_PACKAGES", packages.into())])
}

/// One run a seed, and the first that fails ends it.
fn faults(first: u64, seeds: u64) -> Result<()> {
    let mut steps = Steps::new("faults");
    install_nextest(&mut steps)?;
    let python = Python::prepare(&mut steps)?;
    build_tests(&mut steps)?;
    let emulator = Emulator::start(&python, false)?;
    let environment = on_aws(&python, &emulator)?;
    for seed in first..first.saturating_add(seeds) {
        println!("── faults: seed {seed}");
        let mut run =
            cargo(&["nextest", "run", "--workspace", "--all-features", "--success-output", "immediate", "-E", "binary(aws_faults)"]);
        steps.run("one seed", run.envs(environment.clone()).env("RECADO_TEST_SEED", seed.to_string()))?;
    }
    steps.summary();
    Ok(())
}

fn infra() -> Result<()> {
    let mut steps = Steps::new("infra");
    let python = Python::prepare(&mut steps)?;
    steps.run("template", &mut python.command(&["infra/local/check_template.py"])?)?;
    let discover = ["-m", "unittest", "discover", "--start-directory", "infra/local"];
    steps.run("its checks, and variants", &mut python.command(&discover)?)?;
    steps.summary();
    Ok(())
}

/// What the local AWS runs on. Where it cannot be had, the suites on AWS are left out, which is a failure in CI.
fn python(steps: &mut Steps) -> Result<Option<Python>> {
    match Python::prepare(steps) {
        Ok(python) => Ok(Some(python)),
        Err(error) if in_ci() => Err(error.context("the suites on AWS cannot run")),
        Err(error) => {
            eprintln!("── test: every suite on AWS (`aws::`) is left out: {error:#}");
            steps.skip("suites on AWS (aws::)", format!("{error:#}"));
            Ok(None)
        }
    }
}

fn in_ci() -> bool {
    std::env::var_os("CI").is_some()
}

fn install_nextest(steps: &mut Steps) -> Result<()> {
    if steps::answers(&mut cargo(&["nextest", "--version"])) {
        return Ok(());
    }
    steps.run("install cargo-nextest", &mut cargo(&["install", "cargo-nextest", "--version", NEXTEST_VERSION, "--locked"]))
}

/// The load is a program of its own, so that its release build has nothing to do with this one's.
fn bench(scenario: Scenario, count: Option<u32>) -> Result<()> {
    let mut steps = Steps::new("bench");
    build_released(&mut steps)?;
    let count = count.map(|count| count.to_string());
    for name in scenario.names() {
        let arguments: Vec<&str> = std::iter::once(*name).chain(count.as_deref()).collect();
        steps.run(name, &mut released("recado-load", &arguments))?;
    }
    steps.summary();
    Ok(())
}

fn torture(kills: u32, events: u32, seed: u32) -> Result<()> {
    let mut steps = Steps::new("torture");
    build_released(&mut steps)?;
    let numbers = [kills, events, seed].map(|number| number.to_string());
    steps.run("torture", &mut released("recado-torture", &numbers.each_ref().map(String::as_str)))?;
    steps.summary();
    Ok(())
}

/// In release: a search is all computation.
fn model(worlds: &[String]) -> Result<()> {
    let mut steps = Steps::new("model");
    let mut run = cargo(&["run", "--release", "--quiet", "--package", "recado-model", "--example", "wide", "--"]);
    steps.run("wide worlds", run.args(worlds))?;
    steps.summary();
    Ok(())
}

/// In release: a seed takes a tenth of the time.
fn simulate(arguments: &[String]) -> Result<()> {
    let mut steps = Steps::new("simulate");
    let mut run = cargo(&["run", "--release", "--quiet", "--package", "recado-simulation", "--"]);
    steps.run("simulation", run.args(arguments))?;
    steps.summary();
    Ok(())
}

/// The programs that measure, and the `recado` that they start.
fn build_released(steps: &mut Steps) -> Result<()> {
    steps.run("build", &mut cargo(&["build", "--release", "--package", "recado-cli", "--package", "recado-tests", "--bins"]))
}

fn released(name: &str, arguments: &[&str]) -> Command {
    let mut run = cargo(&["run", "--release", "--quiet", "--package", "recado-tests", "--bin", name, "--"]);
    run.args(arguments);
    run
}

/// The generator lives beside the test that compares (tests/suites/architecture.rs), because it needs the types.
fn schemas(check: bool) -> Result<()> {
    let mut steps = Steps::new("schemas");
    let mut run = cargo(&["test", "--quiet", "--package", "recado-tests", "--test", "architecture", "--", "the_schemas_are"]);
    if !check {
        run.env("RECADO_WRITE_SCHEMAS", "1");
    }
    steps.run(if check { "compare schemas" } else { "write schemas" }, &mut run)?;
    steps.summary();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn what_follows_test_goes_to_nextest() {
        let parsed = Arguments::try_parse_from(["xtask", "test", "-p", "recado-domain", "--no-capture"]);
        let Ok(Arguments { chore: Chore::Test { nextest } }) = parsed else { panic!("a test chore") };
        assert_eq!(nextest, ["-p", "recado-domain", "--no-capture"]);
    }

    #[test]
    fn packages_are_for_this_machine_unless_another_is_named() {
        let arch_of = |arguments: &[&str]| {
            let parsed = Arguments::try_parse_from(arguments);
            let Ok(Arguments { chore: Chore::Package { arch, .. } }) = parsed else { panic!("a package chore") };
            arch
        };
        assert_eq!(arch_of(&["xtask", "package"]), Arch::of_this_machine());
        assert_eq!(arch_of(&["xtask", "package", "--arch", "x86_64"]), Arch::X86);
        assert_eq!(arch_of(&["xtask", "package", "--arch", "arm64"]), Arch::Arm);
    }
}
