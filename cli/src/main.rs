//! The `recado` command.

fn main() -> std::process::ExitCode {
    recado_cli::run(std::env::args_os())
}
