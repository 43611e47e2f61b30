//! An AWS on this machine: the Python environment it needs, and one process of it that ends with us.
//!
//! Must not know: what runs on it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, TryRecvError};

use anyhow::{Context, Result, bail};

use crate::process::Process;
use crate::steps::{self, Steps, command};
use crate::stop::Stop;

/// The oldest Python that the packages run on.
const PYTHON: &str = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
const REQUIREMENTS: &str = "infra/local/requirements.txt";
const PROGRAM: &str = "infra/local/emulator.py";

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
    process: Option<Process>,
    state: PathBuf,
}

/// How one is started.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    /// A folder of its own, which goes when it ends.
    pub(crate) state: PathBuf,
    /// What it complains about.
    pub(crate) log: PathBuf,
    /// A free one where none is said.
    pub(crate) port: Option<u16>,
    /// Whether it enforces permissions.
    pub(crate) auth: bool,
    /// Ends the wait for it.
    pub(crate) stop: &'a Stop,
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
        // Stays until the next one, to be read after a failure.
        let log = folder().join(format!("emulator-{number}.log"));
        Self::start_as(python, Start { state, log, port: None, auth, stop: &Stop::default() })
    }

    /// Starts one, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start, or somebody asked to stop.
    pub(crate) fn start_as(python: &Python, Start { state, log, port, auth, stop }: Start<'_>) -> Result<Self> {
        fs::create_dir_all(&state)?;
        let file = fs::File::create(&log).with_context(|| format!("{} cannot be written", log.display()))?;
        let mut run = python.command(&[PROGRAM, "--state", text(&state)?])?;
        if auth {
            run.arg("--auth");
        }
        if let Some(port) = port {
            run.args(["--port", &port.to_string()]);
        }
        let mut process = Process::start("the local AWS", run.stdout(Stdio::piped()).stderr(file))?;
        let output = process.output().context("the local AWS has no output")?;
        // From here on dropping it ends the process.
        let mut emulator = Self { endpoint: String::new(), process: Some(process), state };
        let (said, first) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(output);
            let mut line = String::new();
            // Nobody listens any more where the wait was over.
            said.send(lines.read_line(&mut line).map(|_| line)).ok();
            // What it says further goes nowhere, and must not fill the pipe.
            std::io::copy(&mut lines, &mut std::io::sink())
        });
        let line = stop.until(|| match first.try_recv() {
            Ok(line) => Ok(Some(line?)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => bail!("the local AWS said nothing"),
        })?;
        // {"ready": true, "endpoint": "http://127.0.0.1:4566"}
        let endpoint = line.split('"').find(|part| part.starts_with("http://"));
        emulator.endpoint = endpoint.with_context(|| format!("the local AWS did not start; {} says why", log.display()))?.to_owned();
        Ok(emulator)
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the system does not say.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.as_mut().map_or(Ok(None), Process::ended)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        drop(self.process.take());
        // Left behind at the worst: the next `cargo clean` takes it.
        fs::remove_dir_all(&self.state).ok();
    }
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
