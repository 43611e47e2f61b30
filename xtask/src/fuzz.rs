//! `cargo xtask fuzz`: libFuzzer on the properties of `recado-fuzz`, each from the corpus in the tree.
//!
//! What a search finds new goes to target/fuzz; the corpus in the tree takes in only what a property got wrong, and what
//! `--keep` asks for: the smallest set of inputs with the same coverage. Must not know: what a property says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::steps::{self, Steps, cargo};

/// The cargo-fuzz that is installed where none is there.
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// What to search.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Search {
    /// Which property; all of them where none is named.
    target: Option<String>,
    /// How often each property is tried.
    #[arg(long, default_value_t = 100_000)]
    executions: u64,
    /// Afterwards takes into tests/fuzz/corpus what reaches code that nothing there reaches.
    #[arg(long)]
    keep: bool,
}

/// Searches; fails with the first bytes of which a property does not hold.
///
/// # Errors
/// When libFuzzer cannot be built, or has found something: it says in which file.
pub(crate) fn fuzz(search: &Search) -> Result<()> {
    let mut steps = Steps::new("fuzz");
    let targets: Vec<String> = targets()?.into_iter().filter(|target| search.target.as_ref().is_none_or(|only| only == target)).collect();
    ensure!(!targets.is_empty(), "there is no such property; tests/fuzz/libfuzzer/targets has a file for each");
    if !steps::answers(&mut cargo(&["fuzz", "--version"])) {
        steps.run("install cargo-fuzz", &mut cargo(&["install", "cargo-fuzz", "--version", CARGO_FUZZ_VERSION, "--locked"]))?;
    }
    // The versions that everything else is built and tested with.
    fs::copy(steps::root().join("Cargo.lock"), folder().join("libfuzzer/Cargo.lock")).context("copying Cargo.lock")?;
    steps.run("build", &mut cargo_fuzz("build", &[]))?;
    for target in &targets {
        run(&mut steps, target, search)?;
    }
    steps.summary();
    Ok(())
}

/// The properties: each has a file of its name.
fn targets() -> Result<Vec<String>> {
    let folder = folder().join("libfuzzer/targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut names: Vec<String> = entries.filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

fn run(steps: &mut Steps, target: &str, search: &Search) -> Result<()> {
    let (kept, found) = (folder().join("corpus").join(target), steps::root().join("target/fuzz").join(target));
    fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
    ensure!(kept.is_dir(), "{} is missing: put an input that is valid into it", kept.display());
    let (kept, found) = (text(&kept)?, text(&found)?);
    // What fails is written into the corpus, so that the test that goes through it fails too until it is mended.
    let options = [
        format!("-runs={}", search.executions),
        longest(target),
        "-timeout=5".to_owned(),
        format!("-artifact_prefix={kept}/"),
        "-print_final_stats=1".to_owned(),
        "-verbosity=1".to_owned(),
    ];
    let options: Vec<&str> = [target, found, kept, "--"].into_iter().chain(options.iter().map(String::as_str)).collect();
    steps.run("search", &mut cargo_fuzz("run", &options))?;
    if search.keep {
        let longest = longest(target);
        let merged = [target, kept, found, "--", "-merge=1", longest.as_str()];
        steps.run("keep what is new", &mut cargo_fuzz("run", &merged))?;
    }
    Ok(())
}

/// Longer than what a property has a limit for, and no longer, since a search is slower the longer its inputs are: events and
/// frames have limits of up to 30 KiB, everything else of a few hundred bytes.
fn longest(target: &str) -> String {
    let bytes = if matches!(target, "event" | "frame") { 40 * 1024 } else { 4 * 1024 };
    format!("-max_len={bytes}")
}

/// Without a sanitizer: nothing here is `unsafe`, and a search without one is twice as fast.
fn cargo_fuzz(verb: &str, rest: &[&str]) -> Command {
    let libfuzzer = folder().join("libfuzzer");
    let mut command = cargo(&["fuzz", verb, "--sanitizer", "none", "--fuzz-dir"]);
    command.arg(libfuzzer).args(rest).env("RUSTC_BOOTSTRAP", "1");
    command
}

fn folder() -> PathBuf {
    steps::root().join("tests/fuzz")
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no UTF-8", path.display()))
}
