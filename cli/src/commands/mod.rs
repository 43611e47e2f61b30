//! One module a command: reads what it was given, does it, prints what came of it.

pub mod check;
pub mod dead_letters;
pub mod listen;
pub mod publish;
pub mod suppressions;
pub mod token;
pub mod up;

use std::io::Write;

use crate::exit::Exit;

/// Complains of what failed, with its causes.
pub(crate) fn exit_of(done: anyhow::Result<()>) -> Exit {
    match done {
        Ok(()) => Exit::Done,
        Err(error) => {
            complain(&format!("{error:#}"));
            Exit::Failed
        }
    }
}

fn print_line(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    Ok(writeln!(out, "{line}").and_then(|()| out.flush())?)
}

fn complain(problem: &str) {
    // Nobody is there to be told when standard error is closed.
    writeln!(std::io::stderr(), "recado: {problem}").ok();
}

/// One thread: these commands wait more than they work.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
