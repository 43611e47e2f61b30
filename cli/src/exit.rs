//! How the command ends, as scripts see it.

use std::process::ExitCode;

/// Printed below every `--help`.
pub const HELP: &str = "\
Exit codes:
  0    done; for `up`: stopped by a signal, and drained
  1    failed; the message says why
  2    the command line is wrong
  3    the settings contradict each other or do not hold; the message says how to fix it
  130  `up` was stopped at once by a second signal";

/// An exit code, by its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked.
    Done,
    /// It could not.
    Failed,
    /// The command line cannot be read.
    Usage,
    /// The settings do not hold.
    Settings,
    /// Somebody had no time for the drain.
    AtOnce,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Settings => recado_runtime::settings::EXIT_CODE,
            Self::AtOnce => 130,
        }
    }

    /// What clap's answer means: help and version were asked for, all else is wrong.
    pub fn of_usage(error: &clap::Error) -> Self {
        if error.use_stderr() { Self::Usage } else { Self::Done }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}
