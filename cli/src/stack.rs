//! A stack on AWS, as its outputs describe it: where it is, and the ports an operator works on.
//!
//! The outputs are read without any SDK; what speaks to AWS needs the cargo feature `aws`. Must not know: what a command
//! does with a port.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde::Deserialize;

/// Says which stack is meant, where one is.
#[derive(Debug, Clone, Args)]
pub struct StackArgs {
    /// The outputs of a stack on AWS as JSON, as `aws cloudformation describe-stacks --query Stacks[0].Outputs` prints them: works on that stack. Credentials and endpoint are those of every AWS tool.
    #[arg(long, global = true, env = "RECADO_STACK", value_name = "FILE")]
    pub stack: Option<PathBuf>,
}

impl StackArgs {
    /// The outputs of the stack, where one is meant.
    ///
    /// # Errors
    /// When the file cannot be read, or holds something else.
    pub fn outputs(&self) -> anyhow::Result<Option<Outputs>> {
        self.stack.as_deref().map(Outputs::read).transpose()
    }
}

/// What a stack says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs {
    file: PathBuf,
    values: BTreeMap<String, String>,
}

/// Both ways in which outputs are printed.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Listed(Vec<Output>),
    Named(BTreeMap<String, String>),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    output_key: String,
    output_value: String,
}

impl Outputs {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or holds no outputs.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("--stack {}", file.display()))?;
        let written: Written = serde_json::from_str(&text).ok().with_context(|| {
            format!(
                "--stack {} holds no outputs of a stack; write them with `aws cloudformation describe-stacks --stack-name NAME --query 'Stacks[0].Outputs'`",
                file.display()
            )
        })?;
        let values = match written {
            Written::Named(values) => values,
            Written::Listed(outputs) => outputs.into_iter().map(|output| (output.output_key, output.output_value)).collect(),
        };
        Ok(Self { file: file.to_owned(), values })
    }

    /// One of them.
    ///
    /// # Errors
    /// When it is not there.
    pub fn get(&self, name: &str) -> anyhow::Result<&str> {
        let found = self.values.get(name).map(String::as_str);
        found.with_context(|| format!("--stack {} has no output `{name}`; is it of infra/template.yaml?", self.file.display()))
    }

    /// Where the stack is, whatever this machine's configuration says.
    fn region(&self) -> anyhow::Result<&str> {
        let arn = self.get("TopicArn")?;
        // arn:partition:sns:region:account:name ("Amazon Resource Names (ARNs)")
        match arn.split(':').nth(3) {
            Some(region) if !region.is_empty() => Ok(region),
            _ => bail!("the output `TopicArn` of --stack {} is no ARN of a topic", self.file.display()),
        }
    }
}

/// The queues that have dead letters, as the outputs name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StackQueue {
    /// Of the dispatcher.
    Inbox,
    /// Of the email worker.
    Email,
    /// Of bounces and complaints.
    Feedback,
}

impl StackQueue {
    fn outputs(self) -> (&'static str, &'static str) {
        match self {
            Self::Inbox => ("InboxQueueUrl", "InboxDeadLettersUrl"),
            Self::Email => ("EmailQueueUrl", "EmailDeadLettersUrl"),
            Self::Feedback => ("FeedbackQueueUrl", "FeedbackDeadLettersUrl"),
        }
    }
}

#[cfg(feature = "aws")]
mod ports {
    use recado_aws::{Clients, SnsBus, SqsDeadLetters};
    use recado_domain::ports::{DeadLetters, EventBus};

    use super::*;

    async fn clients(outputs: &Outputs) -> anyhow::Result<Clients> {
        let region = aws_config::Region::new(outputs.region()?.to_owned());
        Ok(Clients::new(Clients::loader().region(region).load().await, None))
    }

    /// The topic of a stack.
    ///
    /// # Errors
    /// When the outputs do not name it.
    pub async fn bus(outputs: &Outputs) -> anyhow::Result<impl EventBus + use<>> {
        Ok(SnsBus::new(&clients(outputs).await?, outputs.get("TopicArn")?))
    }

    /// The dead letters of a queue of a stack.
    ///
    /// # Errors
    /// When the outputs do not name them.
    pub async fn dead_letters(outputs: &Outputs, queue: StackQueue) -> anyhow::Result<impl DeadLetters + use<>> {
        let (queue, letters) = queue.outputs();
        Ok(SqsDeadLetters::new(&clients(outputs).await?, outputs.get(queue)?, outputs.get(letters)?))
    }
}

#[cfg(not(feature = "aws"))]
mod ports {
    use recado_embedded::{StoredBus, StoredDeadLetters};

    use super::*;

    const WITHOUT: &str = "this `recado` was built without AWS; build it with `cargo build --release --package recado-cli --features aws`";

    /// Says that this build speaks to no topic.
    ///
    /// # Errors
    /// Always.
    pub async fn bus(outputs: &Outputs) -> anyhow::Result<StoredBus> {
        bail!("--stack {} ({}): {WITHOUT}", outputs.file.display(), outputs.region()?)
    }

    /// Says that this build speaks to no queue.
    ///
    /// # Errors
    /// Always.
    pub async fn dead_letters(outputs: &Outputs, queue: StackQueue) -> anyhow::Result<StoredDeadLetters> {
        bail!("--stack {} ({}): {WITHOUT}", outputs.file.display(), outputs.get(queue.outputs().1)?)
    }
}

pub use ports::{bus, dead_letters};

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> anyhow::Result<Outputs> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        Outputs::read(file.path())
    }

    #[test]
    fn outputs_are_read_as_either_tool_prints_them() {
        let listed = r#"[{"OutputKey": "TopicArn", "OutputValue": "arn:aws:sns:eu-west-1:000000000001:t", "Description": "…"}]"#;
        let named = r#"{"TopicArn": "arn:aws:sns:eu-west-1:000000000001:t"}"#;
        for text in [listed, named] {
            let outputs = written(text).unwrap();
            assert_eq!(outputs.get("TopicArn").unwrap(), "arn:aws:sns:eu-west-1:000000000001:t");
            assert_eq!(outputs.region().unwrap(), "eu-west-1");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = written("[]").unwrap().get("WebSocketUrl").unwrap_err().to_string();
        assert!(missing.contains("`WebSocketUrl`"), "{missing}");
        let nonsense = written("nonsense").unwrap_err().to_string();
        assert!(nonsense.contains("describe-stacks"), "{nonsense}");
        assert!(written(r#"{"TopicArn": "t"}"#).unwrap().region().is_err());
        assert!(Outputs::read(Path::new("/no/such/file")).unwrap_err().to_string().contains("/no/such/file"));
    }
}
