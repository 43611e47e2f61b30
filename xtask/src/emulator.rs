//! An AWS on this machine: the Python environment it needs, and one process of it that ends with us.
//!
//! Must not know: what runs on it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::steps::{self, Steps, command};

/// The oldest Python that the packages run on.
const PYTHON: &str = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
const REQUIREMENTS: &str = "infra/local/requirements.txt";
const PROGRAM: &str = "infra/local/emulator.py";
/// How long it may take to end by itself before it is killed.
const FAREWELL: Duration = Duration::from_secs(10);

/// A Python with everything in `infra/local/requirements.txt`, in a virtual environment under target/.
#[derive(Debug, Clone)]
pub(crate) struct Python(PathBuf);

impl Python {
    /// Makes the environment where it is missing or its requirements changed.
    ///
    /// # Errors
    /// When there is no Python of a version that serves, or a package cannot be installed.
    pub(crate) fn prepare(steps: &mut Steps) -> Result<Self> {
        let wanted = fs::read_to_string(steps::root().join(REQUIREMENTS)).with_context(|| format!("{REQUIREMENTS} cannot be read"))?;
        let (environment, stamp) = (folder().join("python"), folder().join("requirements.txt"));
        let python = environment.join("bin/python");
        let installed = fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted);
        if installed && steps::answers(&mut command(text(&python)?, &["-c", "import ministack"])) {
            return Ok(Self(python));
        }
        if !steps::answers(&mut command("python3", &["-c", PYTHON])) {
            bail!("there is no python3 of version 3.10 or newer with venv; install one");
        }
        fs::create_dir_all(folder())?;
        steps.run("python environment", &mut command("python3", &["-m", "venv", "--clear", text(&environment)?]))?;
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", REQUIREMENTS];
        steps.run("python packages", &mut command(text(&python)?, &install))?;
        fs::write(&stamp, wanted)?;
        Ok(Self(python))
    }

    /// Its interpreter.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Runs a program of `infra/local` with it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<Command> {
        Ok(command(text(&self.0)?, arguments))
    }
}

/// A running AWS of one's own. It ends when this is dropped, and when this process ends in any other way: it holds the
/// other end of the emulator's standard input.
#[derive(Debug)]
pub(crate) struct Emulator {
    /// Its URL.
    pub(crate) endpoint: String,
    process: Option<(Child, ChildStdin)>,
    state: PathBuf,
}

impl Emulator {
    /// Starts one on a free port, and waits until it answers. With `auth` it enforces permissions.
    ///
    /// # Errors
    /// When it does not start; the error names its log.
    pub(crate) fn start(python: &Python, auth: bool) -> Result<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let state = folder().join(format!("emulator-{}-{number}", std::process::id()));
        fs::create_dir_all(&state)?;
        // Stays until the next one, to be read after a failure.
        let log_path = folder().join(format!("emulator-{number}.log"));
        let log = fs::File::create(&log_path)?;
        let mut run = python.command(&[PROGRAM, "--state", text(&state)?])?;
        if auth {
            run.arg("--auth");
        }
        // A group of its own: what it starts (functions) ends with it, and our Ctrl-C does not reach it before us.
        run.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = run.spawn().context("the local AWS cannot be started")?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (stdin, stdout) = stdin.zip(stdout).context("the local AWS has no pipes")?;
        // From here on dropping it ends the process.
        let mut emulator = Self { endpoint: String::new(), process: Some((child, stdin)), state };
        let mut lines = BufReader::new(stdout);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        // {"ready": true, "endpoint": "http://127.0.0.1:4566"}
        let endpoint = line.split('"').find(|part| part.starts_with("http://"));
        emulator.endpoint = endpoint.with_context(|| format!("the local AWS did not start; {} says why", log_path.display()))?.to_owned();
        // What it says further goes nowhere, and must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok(emulator)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if let Some((child, stdin)) = self.process.take() {
            end(child, stdin);
        }
        // Left behind at the worst: the next `cargo clean` takes it.
        fs::remove_dir_all(&self.state).ok();
    }
}

/// Asks it to end, waits, and kills whatever of its group is still there.
fn end(mut child: Child, stdin: ChildStdin) {
    let group = child.id();
    drop(stdin);
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        // Nobody listens any more when it took too long.
        ended.send(child.wait()).ok();
    });
    let in_time = end.recv_timeout(FAREWELL).is_ok();
    // Also after a farewell in time: a function that it ran may have outlived it.
    signal("KILL", group);
    if !in_time {
        end.recv_timeout(FAREWELL).ok();
    }
}

/// The shell's own `kill`, since the standard library has no signals for groups.
fn signal(name: &str, group: u32) {
    steps::answers(&mut command("sh", &["-c", &format!("kill -{name} -{group}")]));
}

/// Where everything of the local AWS is kept.
pub(crate) fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    // A relative one is meant from the workspace's root, where cargo runs us.
    steps::root().join(target).join("local-aws")
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("the path {} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ending_it_ends_what_it_started() {
        // Like the emulator: ends with its standard input, and leaves a process of its group behind.
        let mut run = command("sh", &["-c", "sleep 600 & cat"]);
        let mut child = run.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        end(child, stdin);
        // The pipe closes when the last process that holds it is gone.
        let (closed, pipe) = mpsc::channel();
        std::thread::spawn(move || closed.send(std::io::copy(&mut stdout, &mut std::io::sink()).is_ok()));
        assert_eq!(pipe.recv_timeout(FAREWELL), Ok(true));
    }
}
