//! `recado token`: a token of the development key, alone on its line, for scripts.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use recado_domain::ids::{TenantId, UserId};
use recado_domain::ports::Clock;
use recado_runtime::settings::duration;
use recado_runtime::system::SystemClock;
use serde_json::json;

use super::print_line;
use crate::development;

/// What `recado token` can be told.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Whose inbox the token opens.
    pub user: UserId,
    /// The user's tenant.
    #[arg(long, default_value = "default")]
    pub tenant: TenantId,
    /// How long it is valid, such as 30s, 15m, 1h or 7d.
    #[arg(long, default_value = "1h", value_parser = duration)]
    pub ttl: Duration,
    /// The data folder of the server that shall accept it.
    #[arg(long, env = "RECADO_DATA_DIR", value_name = "DIR", default_value = "./.recado")]
    pub data_dir: PathBuf,
}

/// Prints one. The key is made where there is none yet: a server that starts later finds it.
///
/// # Errors
/// When the key cannot be read or written.
pub fn run(args: &TokenArgs, json: bool) -> anyhow::Result<()> {
    let key = development::load_or_create(&args.data_dir)?;
    let token = key.mint(&args.user, &args.tenant, args.ttl, SystemClock.now());
    print_line(&if json { json!({ "token": token }).to_string() } else { token })
}
