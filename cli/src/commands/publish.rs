//! `recado publish`: events from flags, a file, or standard input as JSON lines, to a running Recado.

use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use recado_domain::event::{Event, Recipient};
use recado_domain::ids::{TenantId, UserId};
use recado_domain::limits;
use recado_domain::ports::EventBus;
use recado_producer::{HttpBus, Notify, Producer};
use serde_json::json;

use super::{complain, print_line, runtime};
use crate::stack::{self, StackArgs};
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
    /// The stack to publish to instead: to its topic, with your own permission.
    #[command(flatten)]
    pub stack: StackArgs,
}

/// Events of one call: enough to keep the wire busy, few enough to show progress.
const CHUNK: usize = 100;
/// The longest line that is read: an event, and room for how it is spaced.
const LINE_BYTES: u64 = 2 * limits::EVENT_BYTES as u64;
/// From so many bytes on, a terminal shows a bar: a few hundred events.
const LONG_BYTES: u64 = 64 * 1024;

/// Publishes, and prints what came of each event.
///
/// # Errors
/// When any event was not accepted; which and why was printed before.
pub fn run(args: PublishArgs, json: bool) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        match args.stack.outputs()? {
            Some(outputs) => Publisher::new(stack::bus(&outputs).await?, json).run(args).await,
            None => {
                let key = args.publish_key.as_ref().map(|key| key.0.as_str());
                Publisher::new(HttpBus::new(&args.server, key).context("--server")?, json).run(args).await
            }
        }
    })
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
    fn new(bus: B, json: bool) -> Self {
        Self { producer: Producer::new(bus), json, tally: Tally::default() }
    }

    async fn run(mut self, args: PublishArgs) -> anyhow::Result<()> {
        match &args.file {
            None => self.publish(vec![(1, Ok(from_flags(args)?))], &ProgressBar::hidden()).await?,
            Some(file) if file.as_os_str() == "-" => self.lines(std::io::stdin().lock(), None).await?,
            Some(file) => {
                let opened = std::fs::File::open(file).with_context(|| format!("--file {}", file.display()))?;
                let bytes = opened.metadata().map(|meta| meta.len()).ok();
                self.lines(opened, bytes).await?;
            }
        }
        match self.tally {
            Tally { refused: 0, .. } => Ok(()),
            Tally { accepted, refused } => bail!("{refused} of {} events were not accepted", accepted + refused),
        }
    }

    /// Reads line by line, and publishes what is there: memory stays flat however long the input is, and nothing waits
    /// in a pipe that is slow.
    async fn lines(&mut self, from: impl Read, bytes: Option<u64>) -> anyhow::Result<()> {
        let bar = bar(bytes);
        let mut lines = Lines::new(from);
        let mut chunk = Vec::with_capacity(CHUNK);
        let ended = loop {
            let line = match lines.next() {
                Ok(Some(line)) => line,
                // What was read before is published all the same.
                ended => break ended.map(drop),
            };
            bar.inc(if bytes.is_some() { line.bytes } else { 1 });
            match line.content {
                Ok(Some(content)) => chunk.push((line.number, Event::parse(&content).map_err(anyhow::Error::from))),
                Ok(None) => {}
                Err(problem) => chunk.push((line.number, Err(problem))),
            }
            if chunk.len() == CHUNK || lines.would_wait() {
                self.publish(std::mem::take(&mut chunk), &bar).await?;
            }
        };
        self.publish(chunk, &bar).await?;
        bar.finish_and_clear();
        if !self.json {
            print_line(&format!("{} accepted, {} refused", self.tally.accepted, self.tally.refused))?;
        }
        ended.context("the input cannot be read to its end")
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
                Err(error) => Err(format!("{error:#}")),
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

/// A line of the input.
struct Line {
    /// From 1.
    number: u64,
    /// How much was read for it.
    bytes: u64,
    /// Nothing where it is blank; what is wrong where it is too long.
    content: anyhow::Result<Option<Vec<u8>>>,
}

struct Lines<R> {
    from: BufReader<R>,
    number: u64,
}

impl<R: Read> Lines<R> {
    fn new(from: R) -> Self {
        Self { from: BufReader::with_capacity(64 * 1024, from), number: 0 }
    }

    /// Whether the next line has to be waited for.
    fn would_wait(&self) -> bool {
        self.from.buffer().is_empty()
    }

    fn next(&mut self) -> std::io::Result<Option<Line>> {
        let mut line = Vec::new();
        let mut bytes = (&mut self.from).take(LINE_BYTES).read_until(b'\n', &mut line)? as u64;
        if bytes == 0 {
            return Ok(None);
        }
        self.number += 1;
        let content = if bytes == LINE_BYTES && !line.ends_with(b"\n") {
            bytes += self.from.skip_until(b'\n')? as u64;
            Err(anyhow!("the line is {bytes} bytes, the limit is {LINE_BYTES}; send one event a line"))
        } else {
            Ok((!line.trim_ascii().is_empty()).then_some(line))
        };
        Ok(Some(Line { number: self.number, bytes, content }))
    }
}

/// A bar on a terminal for what is long; hidden otherwise.
fn bar(bytes: Option<u64>) -> ProgressBar {
    let long = bytes.is_none_or(|bytes| bytes > LONG_BYTES);
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
    let mut event = Notify::new(args.source, args.event_type).tenant(args.tenant.as_str());
    if !args.email.is_empty() {
        event = event.with_email();
    }
    let mut addresses = args.email.into_iter();
    event = event.recipients(args.to.into_iter().map(|id| Recipient { email: addresses.next(), ..Recipient::new(id) }));
    event = set(event, args.id, Notify::id);
    event = set(event, args.category, Notify::category);
    event = set(event, args.title, Notify::title);
    event = set(event, args.body, Notify::body);
    event = set(event, args.url, Notify::url);
    if let Some(text) = args.payload {
        let payload: serde_json::Value = serde_json::from_str(&text).context("--payload is not JSON")?;
        event = event.payload(&payload);
    }
    Ok(event.build()?)
}

fn set(event: Notify, given: Option<String>, setter: impl FnOnce(Notify, String) -> Notify) -> Notify {
    match given {
        Some(text) => setter(event, text),
        None => event,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(u64, Result<Option<String>, String>)> {
        let mut lines = Lines::new(text.as_bytes());
        let mut read = Vec::new();
        while let Some(Line { number, content, .. }) = lines.next().unwrap() {
            let content = content.map(|bytes| bytes.map(|bytes| String::from_utf8(bytes).unwrap()));
            read.push((number, content.map_err(|error| error.to_string())));
        }
        read
    }

    #[test]
    fn lines_are_counted_and_empty_ones_hold_no_event() {
        assert_eq!(read("a\n\n b"), [(1, Ok(Some("a\n".to_owned()))), (2, Ok(None)), (3, Ok(Some(" b".to_owned())))]);
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_and_the_next_one_is_read() {
        let read = read(&format!("{}\nnext\n", "x".repeat(3 * LINE_BYTES as usize)));
        assert!(matches!(&read[0], (1, Err(problem)) if problem.contains("the limit is")), "{:?}", read[0].0);
        assert_eq!(read[1..], [(2, Ok(Some("next\n".to_owned())))]);
    }

    #[test]
    fn more_addresses_than_recipients_are_refused() {
        use clap::Parser;
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            args: PublishArgs,
        }
        let parse = |args: &[&str]| from_flags(Only::try_parse_from([&["publish"], args].concat()).unwrap().args);
        let error = parse(&["--to", "alice", "--email", "a@example.com", "--email", "b@example.com"]).unwrap_err();
        assert!(error.to_string().contains("--email is given 2 times"), "{error}");
        let event = parse(&["--to", "alice", "--to", "bob", "--title", "hello"]).unwrap();
        assert_eq!((event.data().recipients.len(), event.data().title.as_deref()), (2, Some("hello")));
    }
}
