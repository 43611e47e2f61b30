//! Processes in a group of their own that end with us, whatever ends us: each watches its standard input, whose other
//! end we hold.
//!
//! Must not know: what they do.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::steps;
use crate::stop::pause;

/// How long one may take to end by itself before it is killed.
pub(crate) const FAREWELL: Duration = Duration::from_secs(10);

/// Runs a program that does not look at its standard input, and tells it to stop (SIGTERM) once that closes.
const WATCH: &str = r#"exec 3<&0
"$0" "$@" </dev/null 3<&- &
child=$!
{ cat <&3 >/dev/null; kill -TERM "$child"; } &
wait "$child""#;

/// A process and its group. Dropped, it is asked to end, waited for, and killed with whatever is left of its group.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts one that ends with its standard input.
    ///
    /// # Errors
    /// When it cannot start.
    pub(crate) fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        // A group of its own: what it starts ends with it, and the Ctrl-C of a terminal does not reach it before us.
        let started = command.process_group(0).stdin(Stdio::piped()).spawn();
        let mut child = started.with_context(|| format!("{name} cannot be started"))?;
        let stdin = child.stdin.take();
        Ok(Self { name, child, stdin })
    }

    /// The command of a program that knows nothing of us, for [`Process::start`].
    pub(crate) fn watching(program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", WATCH]).arg(program).current_dir(steps::root());
        command
    }

    /// What it was called.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// What it prints, where that was piped.
    pub(crate) fn output(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the system does not say.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("{} cannot be looked at", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.stdin.take();
            let deadline = Instant::now() + FAREWELL;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                pause();
            }
        }
        // Also after a farewell in time: something that it ran may have outlived it.
        signal("KILL", self.child.id());
        // Nothing is left to be done where it cannot be waited for.
        self.child.wait().ok();
    }
}

/// The shell's own `kill`, since the standard library has no signals for groups.
pub(crate) fn signal(name: &str, group: u32) {
    steps::answers(&mut steps::command("sh", &["-c", &format!("kill -{name} -{group}")]));
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::sync::mpsc;

    use super::*;

    /// What it prints until the last process that holds its output is gone.
    fn rest(mut output: impl Read + Send + 'static) -> mpsc::Receiver<String> {
        let (ended, rest) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            output.read_to_string(&mut text).map(|_| ended.send(text))
        });
        rest
    }

    #[test]
    fn ending_one_ends_what_it_started() {
        // Like the emulator: ends with its standard input, and leaves a process of its group behind.
        let mut command = steps::command("sh", &["-c", "sleep 600 & cat"]);
        let mut process = Process::start("a process", command.stdout(Stdio::piped())).expect("it starts");
        let output = rest(process.output().expect("an output"));
        drop(process);
        assert_eq!(output.recv_timeout(FAREWELL).as_deref(), Ok(""));
    }

    #[test]
    fn one_that_knows_nothing_of_us_is_told_to_stop_and_may_finish() {
        let mut command = Process::watching(Path::new("sh"));
        command.args(["-c", "trap 'echo finished; exit' TERM; echo ready; while :; do sleep 0.01; done"]);
        let mut process = Process::start("a process", command.stdout(Stdio::piped())).expect("it starts");
        let mut lines = BufReader::new(process.output().expect("an output"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        assert_eq!(process.ended().expect("it can be looked at"), None);
        let output = rest(lines);
        drop(process);
        assert_eq!(output.recv_timeout(FAREWELL).as_deref(), Ok("finished\n"));
    }

    #[test]
    fn how_one_that_knows_nothing_of_us_ends_is_seen() {
        let mut command = Process::watching(Path::new("sh"));
        let mut process = Process::start("a process", command.args(["-c", "exit 3"])).expect("it starts");
        let deadline = Instant::now() + FAREWELL;
        let ended = loop {
            match process.ended().expect("it can be looked at") {
                Some(ended) => break ended,
                None => assert!(Instant::now() < deadline, "it did not end"),
            }
            pause();
        };
        assert_eq!(ended.code(), Some(3));
    }
}
