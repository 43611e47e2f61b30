//! `recado suppressions`: to whom nothing more is sent, and allowing it again.
//!
//! Works on the data folder itself, whether or not a server runs on it. What is kept of an address is a hash, so a list shows
//! those, and an address is asked for by name.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use recado_domain::address::AddressKey;
use recado_domain::ports::{Outcome, Suppression, SuppressionCause, Suppressions};
use recado_embedded::{Store, StoredSuppressions};
use recado_runtime::system::{SystemClock, SystemEntropy};
use serde_json::{Value, json};

use super::{complain, print_line, runtime};

/// What `recado suppressions` can be told.
#[derive(Debug, Args)]
pub struct SuppressionsArgs {
    #[command(subcommand)]
    command: Action,
    /// The data folder.
    #[arg(long, global = true, env = "RECADO_DATA_DIR", value_name = "DIR", default_value = "./.recado")]
    data_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists them, the latest first: hash of the address, since when, and why.
    List {
        /// How many at the most.
        #[arg(long, value_name = "NUMBER", default_value_t = 100)]
        limit: usize,
    },
    /// Says whether these addresses are suppressed.
    Check {
        /// As an event names them.
        #[arg(required = true)]
        addresses: Vec<String>,
    },
    /// Sends nothing more to these addresses.
    Add {
        /// As an event names them.
        #[arg(required = true)]
        addresses: Vec<String>,
    },
    /// Allows mail to these addresses again. What was left out meanwhile is not sent later.
    Lift {
        /// As an event names them, or hashes as `list` prints them.
        #[arg(required = true)]
        addresses: Vec<String>,
    },
}

/// Does it.
///
/// # Errors
/// When the folder holds no store, or something is no address.
pub fn run(args: SuppressionsArgs, json: bool) -> anyhow::Result<()> {
    let store = Store::open_shared(&args.data_dir, Arc::new(SystemClock), Arc::new(SystemEntropy))
        .context("cannot open the data folder; name it with --data-dir")?;
    runtime()?.block_on(async {
        let done = act(&store.suppressions(), args.command, json).await;
        store.close().await;
        done
    })
}

async fn act(suppressions: &StoredSuppressions, action: Action, json: bool) -> anyhow::Result<()> {
    match action {
        Action::List { limit } => list(suppressions, limit, json).await,
        Action::Check { addresses } => {
            let keys = keys(&addresses)?;
            let answers = suppressions.suppressed(&keys).await;
            each(&addresses, answers, json, |found| match found {
                Some(Suppression { cause, since }) => (json!({ "suppressed": true, "cause": cause.as_str(), "since": since }), {
                    format!("suppressed since {since:.0} ({})", cause.as_str())
                }),
                None => (json!({ "suppressed": false }), "not suppressed".to_owned()),
            })
        }
        Action::Add { addresses } => {
            let keys: Vec<_> = keys(&addresses)?.into_iter().map(|key| (key, SuppressionCause::Operator)).collect();
            let answers = suppressions.suppress(&keys).await;
            each(&addresses, answers, json, |()| (json!({ "suppressed": true }), "suppressed".to_owned()))
        }
        Action::Lift { addresses } => {
            let keys = keys(&addresses)?;
            let answers = suppressions.lift(&keys).await;
            each(&addresses, answers, json, |was| (json!({ "lifted": was }), if was { "lifted" } else { "was not suppressed" }.to_owned()))
        }
    }
}

async fn list(suppressions: &StoredSuppressions, limit: usize, json: bool) -> anyhow::Result<()> {
    let found = suppressions.list(limit).await?;
    for (address, Suppression { cause, since }) in &found {
        let cause = cause.as_str();
        print_line(&if json {
            json!({ "address_sha256": address.to_string(), "cause": cause, "since": since }).to_string()
        } else {
            format!("{address}  {since:.0}  {cause}")
        })?;
    }
    if found.is_empty() && !json {
        print_line("Nobody is suppressed.")?;
    }
    Ok(())
}

/// All of them, or the first that is none: nothing is done by halves.
fn keys(addresses: &[String]) -> anyhow::Result<Vec<AddressKey>> {
    let key = |text: &String| text.parse().or_else(|_| AddressKey::of(text)).map_err(|problem| anyhow!("`{text}` {problem}"));
    addresses.iter().map(key).collect()
}

/// Prints what each came to.
fn each<T>(addresses: &[String], answers: Vec<Outcome<T>>, json: bool, said: impl Fn(T) -> (Value, String)) -> anyhow::Result<()> {
    let mut failed = 0;
    for (address, answer) in addresses.iter().zip(answers) {
        match (answer.map(&said), json) {
            (Ok((mut object, _)), true) => {
                object["address"] = json!(address);
                print_line(&object.to_string())?;
            }
            (Ok((_, text)), false) => print_line(&format!("{address}: {text}"))?,
            (Err(failure), _) => {
                failed += 1;
                complain(&format!("{address}: {}", failure.reason()));
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} failed", addresses.len());
    }
    Ok(())
}
