//! `recado dead-letters`: what was given up, and sending it back once its cause is mended.
//!
//! Works on the data folder itself, whether or not a server runs on it, or on the queues of a stack.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use recado_domain::message::{ATTRIBUTE_REASON, ATTRIBUTE_TYPE};
use recado_domain::ports::{DeadLetter, DeadLetters};
use recado_embedded::{QueueName, Store};
use recado_runtime::system::{SystemClock, SystemEntropy};
use serde_json::json;

use super::{complain, print_line, runtime};
use crate::stack::{self, StackArgs, StackQueue};

/// What `recado dead-letters` can be told.
#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    command: Action,
    /// The data folder.
    #[arg(long, global = true, env = "RECADO_DATA_DIR", value_name = "DIR", default_value = "./.recado")]
    data_dir: PathBuf,
    /// Whose dead letters.
    #[arg(long, global = true, value_enum, default_value_t = Which::Inbox)]
    queue: Which,
    #[command(flatten)]
    stack: StackArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// What the dispatcher gave up.
    Inbox,
    /// What the email worker gave up.
    Email,
    /// Reports of bounces and complaints that could not be read; a stack's alone.
    Feedback,
}

impl Which {
    fn of_stack(self) -> StackQueue {
        match self {
            Self::Inbox => StackQueue::Inbox,
            Self::Email => StackQueue::Email,
            Self::Feedback => StackQueue::Feedback,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists them, oldest first: id, when, type, and why.
    List {
        /// How many at the most.
        #[arg(long, value_name = "NUMBER", default_value_t = 100)]
        limit: usize,
    },
    /// Shows one whole. It may hold personal data.
    Show {
        /// As `list` prints it.
        id: String,
    },
    /// Sends them back to their queue. What was delivered before is not delivered again.
    Redrive {
        /// As `list` prints them.
        #[arg(required_unless_present = "all")]
        ids: Vec<String>,
        /// All of them.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
}

/// Does it.
///
/// # Errors
/// When the folder holds no store or the stack does not answer, or a letter is not there.
pub fn run(args: DeadLettersArgs, json: bool) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        match args.stack.outputs()? {
            Some(outputs) => act(&stack::dead_letters(&outputs, args.queue.of_stack()).await?, args.command, json).await,
            None => on_folder(args, json).await,
        }
    })
}

async fn on_folder(args: DeadLettersArgs, json: bool) -> anyhow::Result<()> {
    let queue = match args.queue {
        Which::Inbox => QueueName::Inbox,
        Which::Email => QueueName::Email,
        Which::Feedback => bail!("--queue feedback is of a stack on AWS; name its outputs with --stack"),
    };
    let store = Store::open_shared(&args.data_dir, Arc::new(SystemClock), Arc::new(SystemEntropy))
        .context("cannot open the data folder; name it with --data-dir")?;
    let done = act(&store.dead_letters(queue), args.command, json).await;
    store.close().await;
    done
}

async fn act(letters: &impl DeadLetters, action: Action, json: bool) -> anyhow::Result<()> {
    match action {
        Action::List { limit } => {
            let found = letters.list(limit).await?;
            for letter in &found {
                print_line(&if json { as_json(letter) } else { as_row(letter) })?;
            }
            if found.is_empty() && !json {
                print_line("No dead letters.")?;
            }
            Ok(())
        }
        Action::Show { id } => {
            let found = letters.list(usize::MAX).await?.into_iter().find(|letter| letter.id == id);
            let letter = found.with_context(|| format!("no dead letter {id} in this queue"))?;
            print_line(&if json { as_json(&letter) } else { as_card(&letter) })
        }
        Action::Redrive { ids, all } => {
            if all {
                redrive_all(letters, json).await
            } else {
                redrive(letters, &ids, json).await
            }
        }
    }
}

/// Letters of one step of `--all`.
const STEP: usize = 100;

/// Step by step, so that a long queue needs no memory; a step that fails ends it, and leaves the rest where it is.
async fn redrive_all(letters: &impl DeadLetters, json: bool) -> anyhow::Result<()> {
    loop {
        let ids: Vec<String> = letters.list(STEP).await?.into_iter().map(|letter| letter.id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        redrive(letters, &ids, json).await?;
    }
}

async fn redrive(letters: &impl DeadLetters, ids: &[String], json: bool) -> anyhow::Result<()> {
    let answers = letters.redrive(ids).await;
    let mut failed = 0;
    for (id, answer) in ids.iter().zip(answers) {
        let problem = answer.err().map(|failure| failure.reason().to_owned());
        failed += usize::from(problem.is_some());
        match (&problem, json) {
            (_, true) => print_line(&json!({ "id": id, "redriven": problem.is_none(), "reason": problem }).to_string())?,
            (None, false) => print_line(&format!("redriven {id}"))?,
            (Some(problem), false) => complain(&format!("{id}: {problem}")),
        }
    }
    match failed {
        0 => Ok(()),
        failed => bail!("{failed} of {} could not be sent back", ids.len()),
    }
}

fn reason(letter: &DeadLetter) -> &str {
    letter.attributes.get(ATTRIBUTE_REASON).map_or("no reason was given", String::as_str)
}

fn as_row(letter: &DeadLetter) -> String {
    let kind = letter.attributes.get(ATTRIBUTE_TYPE).map_or("-", String::as_str);
    format!("{}  {:.0}  {kind}  {}", letter.id, letter.dead_at, printable(reason(letter)))
}

fn as_card(letter: &DeadLetter) -> String {
    let attributes: Vec<String> = letter.attributes.iter().map(|(name, value)| format!("  {name}: {}", printable(value))).collect();
    let body = serde_json::from_str::<serde_json::Value>(&letter.body).and_then(|value| serde_json::to_string_pretty(&value));
    format!("{}  {:.0}\n{}\n\n{}", letter.id, letter.dead_at, attributes.join("\n"), body.unwrap_or_else(|_| printable(&letter.body)))
}

fn as_json(letter: &DeadLetter) -> String {
    json!({ "id": letter.id, "dead_at": letter.dead_at, "reason": reason(letter), "attributes": letter.attributes, "body": letter.body })
        .to_string()
}

/// Control characters of a message must not reach a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}
