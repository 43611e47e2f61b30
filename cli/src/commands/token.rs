//! `recado token`: a token of the development key or a given secret, alone on its line, for scripts.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use recado_domain::ids::{TenantId, UserId};
use recado_domain::ports::Clock;
use recado_runtime::auth::sign;
use recado_runtime::settings::{Secret, duration};
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
    /// The secret to sign with, of a server or stack that verifies with one; it must look at neither `iss` nor `aud`. [default: the development key]
    #[arg(long, env = "RECADO_TOKEN_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub token_secret: Option<Secret>,
    /// The data folder of the server that shall accept it.
    #[arg(long, env = "RECADO_DATA_DIR", value_name = "DIR", default_value = "./.recado")]
    pub data_dir: PathBuf,
}

/// Prints one. The development key is made where there is none yet: a server that starts later finds it.
///
/// # Errors
/// When the key cannot be read or written, or the secret is too short.
pub fn run(args: &TokenArgs, json: bool) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let token = match &args.token_secret {
        Some(secret) => sign(secret.0.as_bytes(), &args.user, &args.tenant, args.ttl, now).context("--token-secret")?,
        None => development::load_or_create(&args.data_dir)?.mint(&args.user, &args.tenant, args.ttl, now),
    };
    print_line(&if json { json!({ "token": token }).to_string() } else { token })
}
