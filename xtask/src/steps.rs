//! Runs commands one after the other, says which, and says at the end what ran and how long it took.
//!
//! Must not know: what the commands are for.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;
use crate::stop::Stop;

/// The steps of one chore. What they say goes to standard error: standard output is for what a chore makes.
#[derive(Debug)]
pub(crate) struct Steps {
    chore: &'static str,
    stop: Option<Stop>,
    done: Vec<(&'static str, Outcome)>,
}

#[derive(Debug)]
enum Outcome {
    Ran(Duration),
    Skipped(String),
}

impl Steps {
    pub(crate) fn new(chore: &'static str) -> Self {
        Self { chore, stop: None, done: Vec::new() }
    }

    /// Steps that end, with everything they started, when somebody asks to stop.
    pub(crate) fn until(chore: &'static str, stop: Stop) -> Self {
        Self { stop: Some(stop), ..Self::new(chore) }
    }

    /// Runs a command to its end, its output in ours.
    ///
    /// # Errors
    /// When it cannot start or does not succeed, or somebody asked to stop.
    pub(crate) fn run(&mut self, name: &'static str, command: &mut Command) -> Result<()> {
        let shown = shown(command);
        eprintln!("── {}: {name} ({shown})", self.chore);
        self.finish(name, command, &shown)
    }

    /// As [`Steps::run`], for a command that is too long to be shown, or has a secret.
    ///
    /// # Errors
    /// The same.
    pub(crate) fn run_quietly(&mut self, name: &'static str, command: &mut Command) -> Result<()> {
        eprintln!("── {}: {name}", self.chore);
        let program = Path::new(command.get_program()).to_string_lossy().into_owned();
        self.finish(name, command, &program)
    }

    fn finish(&mut self, name: &'static str, command: &mut Command, shown: &str) -> Result<()> {
        let start = Instant::now();
        let status = match &self.stop {
            None => command.status().with_context(|| format!("{name}: cannot start {shown}"))?,
            Some(stop) => {
                // Ours alone to end: a signal that reaches us does not reach it.
                let mut child = command.process_group(0).spawn().with_context(|| format!("{name}: cannot start {shown}"))?;
                let waited = stop.until(|| Ok(child.try_wait()?));
                if waited.is_err() {
                    process::signal("TERM", child.id());
                    // It was told, and what it answers changes nothing.
                    child.wait().ok();
                }
                waited?
            }
        };
        let took = start.elapsed();
        self.done.push((name, Outcome::Ran(took)));
        if !status.success() {
            bail!("{name} failed after {:.1} s: {shown}", took.as_secs_f32());
        }
        Ok(())
    }

    /// Does something that is no command.
    ///
    /// # Errors
    /// Whatever it fails with.
    pub(crate) fn note<T>(&mut self, name: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("── {}: {name}", self.chore);
        let start = Instant::now();
        let done = step()?;
        self.done.push((name, Outcome::Ran(start.elapsed())));
        Ok(done)
    }

    /// How long each step took.
    pub(crate) fn times(&self) -> Vec<(&'static str, Duration)> {
        let ran = |(name, outcome): &(&'static str, Outcome)| match outcome {
            Outcome::Ran(took) => Some((*name, *took)),
            Outcome::Skipped(_) => None,
        };
        self.done.iter().filter_map(ran).collect()
    }

    /// Notes that a step did not run, and why.
    pub(crate) fn skip(&mut self, name: &'static str, why: impl Into<String>) {
        self.done.push((name, Outcome::Skipped(why.into())));
    }

    /// Says what ran.
    pub(crate) fn summary(&self) {
        eprintln!("── {}: passed", self.chore);
        for (name, outcome) in &self.done {
            match outcome {
                Outcome::Ran(took) => eprintln!("   {name:<24} {:>7.1} s", took.as_secs_f32()),
                Outcome::Skipped(why) => eprintln!("   {name:<24} skipped: {why}"),
            }
        }
    }
}

/// A cargo command in the workspace's root.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    // Cargo says which cargo runs us, so that a chosen toolchain stays chosen.
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = command(Path::new(&program).to_str().unwrap_or("cargo"), arguments);
    // Set for this package by the cargo that runs us; another package's build must not see it change.
    command.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_MANIFEST_PATH");
    // Settings of somebody's own Recado must not reach the tests.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RECADO_")) {
        command.env_remove(name);
    }
    command
}

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// A command in the workspace's root, without anybody to answer a question.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    command
}

/// Whether a command is there and succeeds; its output is not shown.
pub(crate) fn answers(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_ends_the_chore_with_its_name() {
        let mut steps = Steps::new("test");
        let error = steps.run("no such", &mut cargo(&["no-such-subcommand"])).expect_err("fails");
        assert!(error.to_string().contains("no such failed"), "{error}");
    }

    #[test]
    fn a_command_that_is_missing_does_not_answer() {
        assert!(!answers(&mut command("recado-no-such-command", &[])));
    }
}
