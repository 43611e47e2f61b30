//! `recado publish`: events from flags, a file, or standard input as JSON lines, to a running Recado.

use std::io::{BufRead, BufReader, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use recado_domain::event::{Channel, Data, Document, Event, Recipient, SPEC_VERSION};
use recado_domain::ids::{TenantId, UserId};
use recado_domain::limits;
use recado_domain::ports::{Clock, Entropy, EventBus};
use recado_domain::position::Position;
use recado_producer::{HttpBus, Producer};
use recado_runtime::system::{SystemClock, SystemEntropy};
use serde_json::json;

use super::{complain, print_line, runtime};
use crate::up::Secret;

/// What `recado publish` can be told. With `--file`, everything else of the event comes from there.
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// Who is told; repeat it for several.
    #[arg(long = "to", value_name = "USER", required_unless_present = "file", conflicts_with = "file")]
    pub to: Vec<UserId>,
    /// The address of the recipient before it, in order; with one, the event goes by e-mail as well.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "file")]
    pub email: Vec<String>,
    /// One line.
    #[arg(long, conflicts_with = "file")]
    pub title: Option<String>,
    /// Plain text.
    #[arg(long, conflicts_with = "file")]
    pub body: Option<String>,
    /// A path or an http(s) URL.
    #[arg(long, conflicts_with = "file")]
    pub url: Option<String>,
    /// A past-tense fact.
    #[arg(long = "type", value_name = "TYPE", default_value = "message.left", conflicts_with = "file")]
    pub event_type: String,
    /// Where it happened.
    #[arg(long, default_value = "/recado/cli", conflicts_with = "file")]
    pub source: String,
    /// Together with the source the idempotency key. [default: a new one]
    #[arg(long, conflicts_with = "file")]
    pub id: Option<String>,
    /// A group that users can think about as one.
    #[arg(long, conflicts_with = "file")]
    pub category: Option<String>,
    /// The recipients' tenant.
    #[arg(long, default_value = "default", conflicts_with = "file")]
    pub tenant: TenantId,
    /// Business data, as JSON.
    #[arg(long, value_name = "JSON", conflicts_with = "file")]
    pub payload: Option<String>,
    /// CloudEvents as JSON lines: a file, or `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The running Recado.
    #[arg(long, env = "RECADO_URL", value_name = "URL", default_value = "http://127.0.0.1:8420")]
    pub server: String,
    /// Its publish key, where it asks for one.
    #[arg(long, env = "RECADO_PUBLISH_KEY", value_name = "KEY", hide_env_values = true)]
    pub publish_key: Option<Secret>,
}

/// Events of one call: enough to keep the wire busy, few enough to show progress.
const CHUNK: usize = 100;
/// The longest line that is read: an event, and room for how it is spaced.
const LINE_BYTES: u64 = 2 * limits::EVENT_BYTES as u64;
/// From so many events on, a terminal shows a bar.
const BAR_FROM: u64 = 200;

/// Publishes, and prints what came of each event.
///
/// # Errors
/// When any event was not accepted; which and why was printed before.
pub fn run(args: PublishArgs, json: bool) -> anyhow::Result<()> {
    let key = args.publish_key.as_ref().map(|key| key.0.as_str());
    let bus = HttpBus::new(&args.server, key).context("--server")?;
    let publisher = Publisher { producer: Producer::new(bus), json, tally: Tally::default() };
    runtime()?.block_on(publisher.run(args))
}

#[derive(Default)]
struct Tally {
    accepted: u64,
    refused: u64,
}

struct Publisher<B> {
    producer: Producer<B>,
    json: bool,
    tally: Tally,
}

impl<B: EventBus> Publisher<B> {
    async fn run(mut self, args: PublishArgs) -> anyhow::Result<()> {
        match &args.file {
            None => self.publish(vec![(1, from_flags(args))], &ProgressBar::hidden()).await?,
            Some(file) if file.as_os_str() == "-" => self.lines(std::io::stdin().lock(), None).await?,
            Some(file) => {
                let opened = std::fs::File::open(file).with_context(|| format!("--file {}", file.display()))?;
                let bytes = opened.metadata().map(|meta| meta.len()).ok();
                self.lines(BufReader::new(opened), bytes).await?;
            }
        }
        match self.tally {
            Tally { refused: 0, .. } => Ok(()),
            Tally { accepted, refused } => bail!("{refused} of {} events were not accepted", accepted + refused),
        }
    }

    /// Reads line by line: memory stays flat however long the input is.
    async fn lines(&mut self, mut from: impl BufRead, bytes: Option<u64>) -> anyhow::Result<()> {
        let bar = bar(bytes);
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut number = 0;
        loop {
            let mut line = Vec::new();
            let read = std::io::Read::take(&mut from, LINE_BYTES).read_until(b'\n', &mut line)? as u64;
            if read == 0 {
                break;
            }
            number += 1;
            bar.inc(if bytes.is_some() { read } else { 1 });
            if read == LINE_BYTES && line.last() != Some(&b'\n') {
                bail!("line {number} is longer than {LINE_BYTES} bytes; send one event a line");
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            chunk.push((number, Event::parse(&line).map_err(anyhow::Error::from)));
            if chunk.len() == CHUNK {
                self.publish(std::mem::take(&mut chunk), &bar).await?;
            }
        }
        self.publish(chunk, &bar).await?;
        bar.finish_and_clear();
        if !self.json {
            print_line(&format!("{} accepted, {} refused", self.tally.accepted, self.tally.refused))?;
        }
        Ok(())
    }

    /// A chunk: what is valid goes out, and each event's answer is printed in order.
    async fn publish(&mut self, chunk: Vec<(u64, anyhow::Result<Event>)>, bar: &ProgressBar) -> anyhow::Result<()> {
        let valid: Vec<Event> = chunk.iter().filter_map(|(_, event)| event.as_ref().ok()).cloned().collect();
        let mut answers = self.producer.publish_batch(&valid).await.into_iter();
        for (line, event) in chunk {
            let answer = match &event {
                Ok(event) => match answers.next() {
                    Some(Ok(receipt)) => Ok((event.document().id.clone(), receipt.notification_id.to_string())),
                    Some(Err(error)) => Err(error.to_string()),
                    None => Err("the server did not answer for it".to_owned()),
                },
                Err(error) => Err(error.to_string()),
            };
            bar.suspend(|| self.report(line, answer))?;
        }
        Ok(())
    }

    fn report(&mut self, line: u64, answer: Result<(String, String), String>) -> anyhow::Result<()> {
        match answer {
            Ok((id, notification_id)) => {
                self.tally.accepted += 1;
                match self.json {
                    true => {
                        print_line(&json!({ "line": line, "id": id, "notification_id": notification_id, "status": "accepted" }).to_string())
                    }
                    false if self.tally.accepted <= 10 => print_line(&format!("accepted {id} as {notification_id}")),
                    false => Ok(()),
                }
            }
            Err(reason) => {
                self.tally.refused += 1;
                if self.json {
                    print_line(&json!({ "line": line, "status": "refused", "reason": reason }).to_string())
                } else {
                    complain(&format!("line {line}: {reason}"));
                    Ok(())
                }
            }
        }
    }
}

/// A bar on a terminal for what is long; hidden otherwise.
fn bar(bytes: Option<u64>) -> ProgressBar {
    let long = bytes.is_none_or(|bytes| bytes > BAR_FROM * 300);
    if !long || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match bytes {
        Some(bytes) => (ProgressBar::new(bytes), "{bar:40} {percent:>3}%  {eta} left"),
        None => (ProgressBar::no_length(), "{spinner} {pos} events  {per_sec}"),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn from_flags(args: PublishArgs) -> anyhow::Result<Event> {
    if args.email.len() > args.to.len() {
        bail!("--email is given {} times and --to {} times; give each address after its recipient", args.email.len(), args.to.len());
    }
    let payload = args.payload.map(|text| serde_json::from_str(&text)).transpose().context("--payload is not JSON")?;
    let channels = if args.email.is_empty() { vec![Channel::Inbox] } else { vec![Channel::Inbox, Channel::Email] };
    let mut addresses = args.email.into_iter();
    let recipients = args.to.into_iter().map(|id| Recipient { email: addresses.next(), ..Recipient::new(id) }).collect();
    let now = SystemClock.now();
    let data = Data {
        tenant: args.tenant,
        recipients,
        channels,
        category: args.category,
        title: args.title,
        body: args.body,
        url: args.url,
        payload,
        expires_at: None,
    };
    let document = Document {
        specversion: SPEC_VERSION.to_owned(),
        id: args.id.unwrap_or_else(|| fresh_id(now)),
        source: args.source,
        event_type: args.event_type,
        time: Some(now),
        datacontenttype: None,
        traceparent: None,
        data,
    };
    Ok(Event::check(document)?)
}

fn fresh_id(now: Timestamp) -> String {
    let random = u128::from(SystemEntropy.next_u64()) << 64 | u128::from(SystemEntropy.next_u64());
    Position::new(now, random).to_string()
}
