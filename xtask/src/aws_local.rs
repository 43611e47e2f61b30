//! `cargo xtask aws-local`: Recado as on AWS, on an AWS of this machine, until somebody asks to stop.
//!
//! The template, the packages and the processes are those of a deployment; an emulator answers in the place of AWS.
//! Everything that is started ends with this process, however it ends. Must not know: any other crate of the house,
//! which it meets in binaries, in the template's outputs and in `infra/local`.

mod card;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{IsTerminal, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::card::Card;
use crate::emulator::{self, Emulator, Python, Start};
use crate::package::{self, Arch, Profile};
use crate::process::Process;
use crate::steps::Steps;
use crate::stop::{Stop, Stopped};

/// The access key id, which is the account there.
const ACCOUNT: &str = "000000000001";
const REGION: &str = "us-east-1";
const MAIL_DOMAIN: &str = "example.com";
const MAIL_FROM: &str = "Recado <news@example.com>";
/// Whom the card has a token for, and for how long.
const USER: &str = "alice";
const TOKEN_TTL: &str = "24h";
/// A process is ready within a second, on a busy machine within a few.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Lines of a log that are shown when its process ended.
const LOG_LINES: usize = 20;
/// What each process reads, and the output that says it.
const FROM_OUTPUTS: [(&str, &str); 7] = [
    ("RECADO_TABLE", "TableName"),
    ("RECADO_INBOX_QUEUE_URL", "InboxQueueUrl"),
    ("RECADO_INBOX_DEAD_LETTERS_URL", "InboxDeadLettersUrl"),
    ("RECADO_EMAIL_QUEUE_URL", "EmailQueueUrl"),
    ("RECADO_EMAIL_DEAD_LETTERS_URL", "EmailDeadLettersUrl"),
    ("RECADO_SOCKETS_ENDPOINT", "SocketsEndpoint"),
    ("RECADO_SES_CONFIGURATION_SET", "ConfigurationSet"),
];

/// What `cargo xtask aws-local` can be told.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The port at which AWS answers. [default: a free one]
    #[arg(long)]
    port: Option<u16>,
    /// What the functions are built for; `package` deploys what would be deployed to AWS, and takes minutes to build.
    #[arg(long, value_enum, default_value_t = Profile::Emulator)]
    profile: Profile,
    /// The same as `--profile package`.
    #[arg(long, conflicts_with = "profile")]
    release: bool,
    /// The dispatcher and the email worker run as functions as well. [default: as processes, as in containers]
    #[arg(long)]
    functions: bool,
    /// Builds and zips nothing, and takes what the same command or `cargo xtask test` made before.
    #[arg(long)]
    no_build: bool,
    /// Prints one line of JSON instead of the card, for programs.
    #[arg(long)]
    json: bool,
}

impl Options {
    fn profile(&self) -> Profile {
        if self.release { Profile::Package } else { self.profile }
    }
}

/// Runs until somebody asks to stop.
///
/// # Errors
/// When something cannot be started, or ends by itself.
pub(crate) fn run(options: &Options) -> Result<()> {
    let stop = Stop::on_signals()?;
    let port = port(options.port.unwrap_or(0))?;
    let folder = emulator::folder().join(port.to_string());
    // What another one on this port left behind.
    fs::remove_dir_all(&folder).ok();
    let mut ready = false;
    // Everything that was started has ended when this returns.
    let outcome = start(options, port, &folder, &stop).and_then(|mut local| {
        announce(&local.card, options.json)?;
        ready = true;
        let ended = local.wait(&stop);
        // Ctrl-C has ended a pipe that this is written into as well: no reason to leave anything behind.
        writeln!(std::io::stderr(), "── aws-local: stopping").ok();
        ended
    });
    match outcome {
        Err(error) if error.is::<Stopped>() => {
            // Of use to nobody now; after a failure the logs are.
            fs::remove_dir_all(&folder).ok();
            if ready { Ok(()) } else { Err(error.context("aws-local was not ready yet")) }
        }
        outcome => outcome,
    }
}

/// What runs. Fields are dropped in this order: first whoever works on the emulator.
#[derive(Debug)]
struct Local {
    workers: Vec<Worker>,
    emulator: Emulator,
    folder: PathBuf,
    card: Card,
}

/// A process that a container would run.
#[derive(Debug)]
struct Worker {
    process: Process,
    /// Where it shows how it is.
    status: SocketAddr,
}

fn start(options: &Options, port: u16, folder: &Path, stop: &Stop) -> Result<Local> {
    let began = Instant::now();
    let mut steps = Steps::until("aws-local", stop.clone());
    let packages = packages(options, &mut steps)?;
    let python = Python::prepare(&mut steps)?;
    let secrets = Secrets::new()?;
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let emulator = steps.note("AWS", || {
        let (state, log) = (folder.join("state"), folder.join("emulator.log"));
        Emulator::start_as(&python, Start { state, log, port: Some(port), auth: false, stop })
    })?;
    let stack = folder.join("stack.json");
    let parameters = parameters(options, &emulator.endpoint, &secrets);
    steps.run_quietly("stack", deploy(&python, &emulator.endpoint, &packages, &parameters)?.stdout(File::create(&stack)?))?;
    let outputs: BTreeMap<String, String> = serde_json::from_slice(&fs::read(&stack)?).context("the outputs of the stack")?;
    let variables = variables(&emulator.endpoint, &stack, &secrets, &outputs)?;
    let workers = if options.functions { Vec::new() } else { steps.note("processes", || workers(&outputs, &variables, folder, stop))? };
    let environment = folder.join("env");
    card::write_environment(&environment, &variables, &program("recado"))?;
    let output = |name: &str| outputs.get(name).cloned().with_context(|| format!("the stack has no output {name}"));
    let card = Card {
        ws: output("WebSocketUrl")?,
        topic: output("TopicArn")?,
        token: token(&variables)?,
        workers: workers.iter().map(|worker| (worker.process.name(), worker.status.to_string())).collect(),
        variables,
        environment,
        folder: folder.to_owned(),
        times: steps.times(),
        took: began.elapsed(),
    };
    Ok(Local { workers, emulator, folder: folder.to_owned(), card })
}

/// Builds what is needed; answers where the zips are.
fn packages(options: &Options, steps: &mut Steps) -> Result<PathBuf> {
    let profile = options.profile();
    // Each profile has a folder of its own, so that whatever lies there is of this profile, and of this machine.
    let folder = emulator::folder().join(match profile {
        Profile::Emulator => "package",
        Profile::Package => "package-release",
    });
    if options.no_build {
        let missing = package::FUNCTIONS.iter().find(|(name, _)| !package::zip_of(&folder, name).is_file());
        ensure!(missing.is_none(), "{} has no {}.zip; leave out --no-build once", folder.display(), missing.map_or("", |(name, _)| name));
        return Ok(folder);
    }
    let arch = Arch::of_this_machine();
    // The processes and the `recado` command are of this one in any case.
    steps.run("build", &mut package::build(Profile::Emulator, arch))?;
    if profile == Profile::Package {
        steps.run("build of the packages", &mut package::build(profile, arch))?;
    }
    steps.note("packages", || package::zip_changed(profile, arch, &folder))?;
    Ok(folder)
}

/// What signs tokens, and what allows publishing over HTTP: new ones each time.
struct Secrets {
    token: String,
    publish: String,
}

impl Secrets {
    fn new() -> Result<Self> {
        Ok(Self { token: random()?, publish: random()? })
    }
}

/// 32 hexadecimal digits: 128 bits, and as many characters as a secret must have.
fn random() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes)).context("this machine gives no random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn parameters(options: &Options, endpoint: &str, secrets: &Secrets) -> Vec<String> {
    let mode = if options.functions { "lambda" } else { "external" };
    let parameters = [
        ("DispatcherMode", mode),
        ("EmailWorkerMode", mode),
        // What the emulator knows of it has no use here (infra/README.md).
        ("Monitoring", "none"),
        ("DispatcherMaxTasks", "1"),
        ("MailFrom", MAIL_FROM),
        ("TokenSecret", &secrets.token),
        ("PublishKeys", &secrets.publish),
        // Pages that are being written are anywhere on this machine.
        ("AllowOrigins", "*"),
        ("SocketsEndpointBase", &format!("{endpoint}/_aws/execute-api")),
    ];
    parameters.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn deploy(python: &Python, endpoint: &str, packages: &Path, parameters: &[String]) -> Result<Command> {
    let program = ["infra/local/deploy.py", "--endpoint", endpoint, "--account", ACCOUNT, "--region", REGION];
    let mut deploy = python.command(&program)?;
    deploy.args(["--stack", "recado", "--verify", MAIL_DOMAIN, "--package-dir"]).arg(packages);
    for parameter in parameters {
        deploy.args(["--parameter", parameter]);
    }
    Ok(deploy)
}

/// Everything that `recado`, the AWS CLI and the card's examples read.
fn variables(endpoint: &str, stack: &Path, secrets: &Secrets, outputs: &BTreeMap<String, String>) -> Result<Vec<(&'static str, String)>> {
    let http = outputs.get("HttpApiUrl").context("the stack has no output HttpApiUrl")?;
    Ok(vec![
        ("AWS_ENDPOINT_URL", endpoint.to_owned()),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_ACCESS_KEY_ID", ACCOUNT.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("RECADO_STACK", stack.display().to_string()),
        ("RECADO_URL", http.clone()),
        ("RECADO_PUBLISH_KEY", secrets.publish.clone()),
        ("RECADO_TOKEN_SECRET", secrets.token.clone()),
        ("RECADO_MAILS", format!("{endpoint}/_recado/mailbox?account={ACCOUNT}")),
    ])
}

fn program(name: &str) -> PathBuf {
    package::built(Profile::Emulator, Arch::of_this_machine()).join(name)
}

/// A command that sees these variables, and none of somebody's own Recado or AWS.
fn with(mut command: Command, variables: &[(&'static str, String)]) -> Command {
    let ours = |name: &str| name.starts_with("AWS_") || name.starts_with("RECADO_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| ours(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command
}

fn token(variables: &[(&'static str, String)]) -> Result<String> {
    let mut command = with(Command::new(program("recado")), variables);
    let answer = command.args(["token", USER, "--ttl", TOKEN_TTL]).output().context("`recado token` cannot start")?;
    ensure!(answer.status.success(), "`recado token` failed: {}", String::from_utf8_lossy(&answer.stderr));
    Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
}

/// Starts the processes that containers would run, and waits until they are ready.
fn workers(outputs: &BTreeMap<String, String>, aws: &[(&'static str, String)], folder: &Path, stop: &Stop) -> Result<Vec<Worker>> {
    let mut variables: Vec<_> = aws.iter().filter(|(name, _)| name.starts_with("AWS_")).cloned().collect();
    for (name, output) in FROM_OUTPUTS {
        variables.push((name, outputs.get(output).cloned().with_context(|| format!("the stack has no output {output}"))?));
    }
    variables.extend([
        ("RECADO_MAIL_FROM", MAIL_FROM.to_owned()),
        ("RECADO_LOG_FORMAT", "text".to_owned()),
        ("RECADO_DRAIN_DEADLINE", "5s".to_owned()),
    ]);
    let started = ["dispatcher", "email-worker"].map(|name| worker(name, &variables, folder));
    let mut workers = started.into_iter().collect::<Result<Vec<_>>>()?;
    let deadline = Instant::now() + READY_WITHIN;
    stop.until(|| {
        for Worker { process, .. } in &mut workers {
            still_runs(process, folder)?;
        }
        ensure!(Instant::now() < deadline, "not ready within {READY_WITHIN:?}; the logs in {} say why", folder.display());
        Ok(workers.iter().all(|worker| is_ready(worker.status)).then_some(()))
    })?;
    Ok(workers)
}

fn worker(name: &'static str, variables: &[(&'static str, String)], folder: &Path) -> Result<Worker> {
    let status = SocketAddr::from(([127, 0, 0, 1], port(0)?));
    let log = File::create(log(folder, name))?;
    let mut command = with(Process::watching(&program(&format!("recado-{name}"))), variables);
    command.env("RECADO_LISTEN", status.to_string()).stdout(log.try_clone()?).stderr(log);
    Ok(Worker { process: Process::start(name, &mut command)?, status })
}

/// This port, or a free one for 0. Looked at before anything starts: otherwise whoever has it would answer in its place.
fn port(wanted: u16) -> Result<u16> {
    let probe = TcpListener::bind(("127.0.0.1", wanted)).with_context(|| format!("port {wanted} of this machine cannot be had"))?;
    Ok(probe.local_addr()?.port())
}

/// Whether `/readyz` answers 200.
fn is_ready(status: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&status, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(format!("GET /readyz HTTP/1.1\r\nhost: {status}\r\nconnection: close\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    };
    // Nobody listens there yet.
    ask().unwrap_or(false)
}

impl Local {
    /// Waits for the end of any of it.
    fn wait(&mut self, stop: &Stop) -> Result<()> {
        stop.until(|| {
            for Worker { process, .. } in &mut self.workers {
                still_runs(process, &self.folder)?;
            }
            if let Some(status) = self.emulator.ended()? {
                bail!("the local AWS ended by itself ({status}){}", end_of(&log(&self.folder, "emulator")));
            }
            Ok(None)
        })
    }
}

fn still_runs(process: &mut Process, folder: &Path) -> Result<()> {
    match process.ended()? {
        None => Ok(()),
        Some(status) => bail!("{} ended by itself ({status}){}", process.name(), end_of(&log(folder, process.name()))),
    }
}

fn log(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

fn end_of(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
    format!("; the end of {}:\n  {last}", log.display())
}

fn announce(card: &Card, json: bool) -> Result<()> {
    let mut out = std::io::stdout();
    let text = if json { card.json() } else { card.text(out.is_terminal()) };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("where it is cannot be printed")
}
