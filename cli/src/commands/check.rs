//! `recado check`: whether the data folder is whole, read from its first page to its last.
//!
//! Works beside a server, which goes on meanwhile, or without one.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use recado_embedded::Store;
use recado_runtime::system::SystemClock;
use serde_json::json;

use super::print_line;

/// What `recado check` can be told.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The data folder.
    #[arg(long, env = "RECADO_DATA_DIR", value_name = "DIR", default_value = "./.recado")]
    data_dir: PathBuf,
}

/// Does it.
///
/// # Errors
/// When something is damaged, or the folder holds no store.
pub fn run(args: &CheckArgs, json: bool) -> anyhow::Result<()> {
    let folder = args.data_dir.display();
    let found = Store::examine(&args.data_dir, &SystemClock).context("cannot check the data folder; name it with --data-dir")?;
    if json {
        print_line(&json!({ "whole": found.is_empty(), "found": found }).to_string())?;
    } else {
        found.iter().try_for_each(|line| print_line(line))?;
    }
    if !found.is_empty() {
        bail!(
            "{folder} is damaged: stop the server, copy the whole folder, and restore a backup of it; \
             `sqlite3 {folder}/recado.db .recover` can save what is readable"
        );
    }
    if !json {
        print_line(&format!("{folder} is whole."))?;
    }
    Ok(())
}
