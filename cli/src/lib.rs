//! The `recado` command: starts Recado on one machine, and talks to it.
//!
//! The composition root of the embedded default: the one place that puts rooms and adapters together. Must not know:
//! any rule of delivery.

pub mod commands;
pub mod development;
pub mod exit;
pub mod stack;
pub mod up;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::exit::Exit;

/// The arguments of the whole command.
#[derive(Debug, Parser)]
#[command(name = "recado", version, about = "Real-time notifications: publish an event, and everyone it concerns sees it at once", after_help = exit::HELP)]
struct Cli {
    /// Print JSON, one object a line, for programs.
    #[arg(long, global = true, env = "RECADO_JSON", display_order = 1000)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start Recado on this machine; what `recado` does without a command.
    #[command(after_help = exit::HELP)]
    Up(Box<up::Settings>),
    /// Publish events: from flags, a file, or standard input.
    Publish(Box<commands::publish::PublishArgs>),
    /// Connect as a user, and print what comes.
    Listen(Box<commands::listen::ListenArgs>),
    /// Print a token of the development key.
    Token(commands::token::TokenArgs),
    /// Look at what was given up, and send it back.
    DeadLetters(commands::dead_letters::DeadLettersArgs),
    /// See to whom nothing more is mailed, and allow it again.
    Suppressions(commands::suppressions::SuppressionsArgs),
    /// Read the whole data folder, and say what is damaged.
    Check(commands::check::CheckArgs),
}

/// Runs the command with these arguments, the first of which is the program's name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(up_by_default(args.into_iter().collect())) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is there to be told when the message itself cannot be printed.
            error.print().ok();
            return Exit::of_usage(&error).into();
        }
    };
    match cli.command {
        Command::Up(settings) => commands::up::run(*settings, cli.json),
        Command::Publish(args) => commands::exit_of(commands::publish::run(*args, cli.json)),
        Command::Listen(args) => commands::exit_of(commands::listen::run(*args, cli.json)),
        Command::Token(args) => commands::exit_of(commands::token::run(&args, cli.json)),
        Command::DeadLetters(args) => commands::exit_of(commands::dead_letters::run(args, cli.json)),
        Command::Suppressions(args) => commands::exit_of(commands::suppressions::run(args, cli.json)),
        Command::Check(args) => commands::exit_of(commands::check::run(&args, cli.json)),
    }
    .into()
}

/// `recado` and `recado --listen …` mean `recado up …`.
fn up_by_default(mut args: Vec<OsString>) -> Vec<OsString> {
    let is_global = |arg: &OsString| arg == "--json";
    let at = args.iter().skip(1).position(|arg| !is_global(arg)).map_or(args.len(), |at| at + 1);
    let asks_for_up = match args.get(at).and_then(|arg| arg.to_str()) {
        None => at >= args.len(),
        Some("-h" | "--help" | "-V" | "--version") => false,
        Some(arg) => arg.starts_with('-'),
    };
    if asks_for_up {
        let at = at.max(1).min(args.len());
        args.insert(at, "up".into());
    }
    args
}

/// The command's definition, for completions and for tests of the documentation.
pub fn definition() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(args: &[&str]) -> Vec<String> {
        let args = args.iter().map(OsString::from).collect();
        up_by_default(args).into_iter().map(|arg| arg.into_string().unwrap()).collect()
    }

    #[test]
    fn the_definition_holds_together() {
        definition().debug_assert();
    }

    #[test]
    fn without_a_command_recado_goes_up() {
        assert_eq!(completed(&["recado"]), ["recado", "up"]);
        assert_eq!(completed(&["recado", "--json"]), ["recado", "--json", "up"]);
        assert_eq!(completed(&["recado", "--listen", "127.0.0.1:0"]), ["recado", "up", "--listen", "127.0.0.1:0"]);
        assert_eq!(completed(&["recado", "--json", "--listen", "x"]), ["recado", "--json", "up", "--listen", "x"]);
    }

    #[test]
    fn a_command_or_a_question_stays_as_it_is() {
        for args in [&["recado", "token", "alice"][..], &["recado", "--help"], &["recado", "-V"], &["recado", "--json", "listen"]] {
            assert_eq!(completed(args), args);
        }
    }
}
