//! Runs commands one after the other, says which, and says at the end what ran and how long it took.
//!
//! Must not know: what the commands are for.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The steps of one chore.
#[derive(Debug)]
pub(crate) struct Steps {
    chore: &'static str,
    done: Vec<(&'static str, Outcome)>,
}

#[derive(Debug)]
enum Outcome {
    Ran(Duration),
    Skipped(String),
}

impl Steps {
    pub(crate) fn new(chore: &'static str) -> Self {
        Self { chore, done: Vec::new() }
    }

    /// Runs a command to its end, its output in ours.
    ///
    /// # Errors
    /// When it cannot start or does not succeed.
    pub(crate) fn run(&mut self, name: &'static str, command: &mut Command) -> Result<()> {
        println!("── {}: {name} ({})", self.chore, shown(command));
        let start = Instant::now();
        let status = command.status().with_context(|| format!("{name}: cannot start {}", shown(command)))?;
        let took = start.elapsed();
        self.done.push((name, Outcome::Ran(took)));
        if !status.success() {
            bail!("{name} failed after {:.1} s: {}", took.as_secs_f32(), shown(command));
        }
        Ok(())
    }

    /// Notes that a step did not run, and why.
    pub(crate) fn skip(&mut self, name: &'static str, why: impl Into<String>) {
        self.done.push((name, Outcome::Skipped(why.into())));
    }

    /// Says what ran.
    pub(crate) fn summary(&self) {
        println!("── {}: passed", self.chore);
        for (name, outcome) in &self.done {
            match outcome {
                Outcome::Ran(took) => println!("   {name:<24} {:>7.1} s", took.as_secs_f32()),
                Outcome::Skipped(why) => println!("   {name:<24} skipped: {why}"),
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
