//! `cargo xtask init-time`: how long the packaged functions take from their start to the first request for an
//! invocation, which is what a cold start waits for of them; and that they ask AWS for nothing on the way.
//!
//! Each runs on a runtime API of our own, as the platform would run it, and is ended once it asks for work. The start
//! of `true` is measured along, since machines differ and are noisy: compare ratios. Must not know: what a function does.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use zip::ZipArchive;

use crate::emulator;
use crate::package::{self, FUNCTIONS, Profile};

/// The init phase of a function may take so long ("Understanding the Lambda execution environment lifecycle").
const INIT_WITHIN: Duration = Duration::from_secs(10);
/// What asks for an invocation ("Using the Lambda runtime API").
const NEXT: &str = "GET /2018-06-01/runtime/invocation/next ";
/// What the template sets, for all functions at once; `each_variable_of_the_template_is_set` keeps it whole.
const VARIABLES: [(&str, &str); 25] = [
    ("RECADO_TABLE", "recado-Table-0123456789AB"),
    ("RECADO_TOPIC_ARN", "arn:aws:sns:us-east-1:000000000001:recado"),
    ("RECADO_INBOX_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/000000000001/inbox"),
    ("RECADO_INBOX_DEAD_LETTERS_URL", "https://sqs.us-east-1.amazonaws.com/000000000001/inbox-dead"),
    ("RECADO_EMAIL_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/000000000001/email"),
    ("RECADO_EMAIL_DEAD_LETTERS_URL", "https://sqs.us-east-1.amazonaws.com/000000000001/email-dead"),
    ("RECADO_FEEDBACK_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/000000000001/feedback"),
    ("RECADO_FEEDBACK_DEAD_LETTERS_URL", "https://sqs.us-east-1.amazonaws.com/000000000001/feedback-dead"),
    ("RECADO_SOCKETS_ENDPOINT", "https://0123456789.execute-api.us-east-1.amazonaws.com/live"),
    ("RECADO_SES_CONFIGURATION_SET", "recado"),
    // An issuer that nobody may ask before there is a token.
    ("RECADO_TOKEN_KEYS", ISSUER),
    // Instead of TOKEN_KEYS, as in the template: empty counts as missing.
    ("RECADO_TOKEN_SECRET", ""),
    ("RECADO_TOKEN_ISSUER", "https://login.example.com"),
    ("RECADO_TOKEN_AUDIENCE", "recado"),
    ("RECADO_TOKEN_TENANT_CLAIM", "tenant"),
    ("RECADO_TOKEN_LEEWAY", "30s"),
    ("RECADO_ALLOW_ORIGIN", "https://app.example.com"),
    ("RECADO_PUBLISH_KEY", "0123456789abcdef0123456789abcdef"),
    ("RECADO_MAIL_FROM", "Example <news@example.com>"),
    ("RECADO_MAIL_BASE_URL", "https://app.example.com"),
    ("RECADO_MAIL_PROCESSES", "2"),
    ("RECADO_POSTS_PER_SECOND", "1500"),
    ("RECADO_DISPATCHER_PROCESSES", "10"),
    ("RECADO_LISTEN", "127.0.0.1:8421"),
    ("RECADO_LOG_FORMAT", "json"),
];
const ISSUER: &str = "https://login.example.com/.well-known/jwks.json";

/// What `cargo xtask init-time` can be told.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often each function is started.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    starts: u32,
    /// Which packages: those of `cargo xtask package`, or those that `cargo xtask test` and `aws-local` make.
    #[arg(long, value_enum, default_value_t = Profile::Package)]
    profile: Profile,
}

/// Measures, and prints a table.
///
/// # Errors
/// When a package is missing, a function does not start, or one asks AWS for something.
pub(crate) fn run(options: &Options) -> Result<()> {
    let packages = match options.profile {
        Profile::Package => package::packages(),
        Profile::Emulator => emulator::folder().join("package"),
    };
    let folder = emulator::folder().join(format!("init-time-{}", std::process::id()));
    let measured = measure(&packages, &folder, options.starts);
    // Left behind at the worst: the next `cargo clean` takes it.
    fs::remove_dir_all(&folder).ok();
    measured
}

fn measure(packages: &Path, folder: &Path, starts: u32) -> Result<()> {
    let programs = FUNCTIONS.map(|(name, _)| unpacked(packages, folder, name)).into_iter().collect::<Result<Vec<_>>>()?;
    let platform = Platform::start()?;
    let mut nothing = Vec::new();
    let mut times = vec![Vec::new(); programs.len()];
    // In turn, so that whatever else the machine does meets all of them.
    for _ in 0..starts {
        nothing.push(time_of_nothing()?);
        for (program, times) in programs.iter().zip(&mut times) {
            times.push(platform.time_of(program)?);
        }
    }
    let nothing = median(&mut nothing);
    println!("{starts} starts each, median; a program that does nothing takes {}", shown(nothing));
    println!("\n| function | program | zip | start to first request | times that of nothing |\n| --- | --- | --- | --- | --- |");
    for (((name, _), program), times) in FUNCTIONS.iter().zip(&programs).zip(&mut times) {
        let time = median(times);
        let ratio = time.as_secs_f64() / nothing.as_secs_f64();
        let sizes = [mebibytes(program)?, mebibytes(&package::zip_of(packages, name))?];
        println!("| {name} | {:.1} MiB | {:.1} MiB | {} | {ratio:.1} |", sizes[0], sizes[1], shown(time));
    }
    let asked = platform.asked.load(Ordering::Relaxed);
    ensure!(asked == 0, "the functions asked AWS {asked} times before they asked for work; ask when there is some");
    println!("\nNone asked AWS for anything before it asked for work.");
    Ok(())
}

/// Takes the program of a package out of its zip.
fn unpacked(packages: &Path, folder: &Path, name: &str) -> Result<PathBuf> {
    let zip = package::zip_of(packages, name);
    let opened = File::open(&zip).with_context(|| format!("{} is missing; `cargo xtask package` makes it", zip.display()))?;
    let mut archive = ZipArchive::new(BufReader::new(opened)).with_context(|| zip.display().to_string())?;
    let mut entry = archive.by_name("bootstrap").with_context(|| zip.display().to_string())?;
    let program = folder.join(name).join("bootstrap");
    fs::create_dir_all(folder.join(name)).with_context(|| format!("{} cannot be made", folder.display()))?;
    let mut file = File::create(&program).with_context(|| format!("{} cannot be written", program.display()))?;
    std::io::copy(&mut entry, &mut file).with_context(|| format!("{} cannot be written", program.display()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(program)
}

/// What a function finds around it: a runtime API that has no work for it, and an AWS that counts who asks.
struct Platform {
    runtime: String,
    /// When each request for an invocation came.
    waiting: Receiver<Instant>,
    aws: String,
    asked: Arc<AtomicUsize>,
}

impl Platform {
    fn start() -> Result<Self> {
        let (runtime, runtime_address) = listener()?;
        let (aws, aws_address) = listener()?;
        let (came, waiting) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in runtime.incoming().flatten() {
                let came = came.clone();
                std::thread::spawn(move || wait_for_next(&stream).map(|at| came.send(at)));
            }
        });
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        std::thread::spawn(move || {
            for _ in aws.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self { runtime: runtime_address, waiting, aws: format!("http://{aws_address}"), asked })
    }

    /// Starts a function, and ends it when it asks for work.
    fn time_of(&self, program: &Path) -> Result<Duration> {
        let mut command = Command::new(program);
        command.env_clear().envs(VARIABLES).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        // What Lambda sets ("Defined runtime environment variables").
        command.envs([
            ("AWS_LAMBDA_RUNTIME_API", self.runtime.as_str()),
            ("AWS_LAMBDA_FUNCTION_NAME", "recado"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/recado"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "stream"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "000000000001"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_SESSION_TOKEN", "test"),
            ("RECADO_LOG", "info"),
            // All that could be asked: AWS, whoever has credentials, and through a proxy everybody else.
            ("AWS_ENDPOINT_URL", self.aws.as_str()),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", self.aws.as_str()),
            ("HTTPS_PROXY", self.aws.as_str()),
        ]);
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("{} cannot start", program.display()))?;
        let came = self.waiting.recv_timeout(INIT_WITHIN);
        let ended = end(&mut child)?;
        match came {
            Ok(at) => Ok(at.duration_since(started)),
            Err(_) => bail!("{} did not ask for work within {INIT_WITHIN:?} ({ended})", program.display()),
        }
    }
}

/// Kills it; says how it ended, in case it had before.
fn end(child: &mut Child) -> Result<String> {
    child.kill().ok();
    Ok(child.wait()?.to_string())
}

fn listener() -> Result<(TcpListener, String)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port of this machine is free")?;
    let address = listener.local_addr()?.to_string();
    Ok((listener, address))
}

/// When a client asked for an invocation. The connection stays open as long as the client wants: there is no work.
fn wait_for_next(stream: &TcpStream) -> Option<Instant> {
    let mut first = String::new();
    BufReader::new(stream).read_line(&mut first).ok()?;
    let at = first.starts_with(NEXT).then(Instant::now);
    if let (Some(_), Ok(open)) = (at, stream.try_clone()) {
        // Read by nobody until the function is gone.
        std::thread::spawn(move || std::io::copy(&mut &open, &mut std::io::sink()));
    }
    at
}

/// Of a program that does nothing: to its end, for it asks nobody.
fn time_of_nothing() -> Result<Duration> {
    let started = Instant::now();
    let status = Command::new("true").env_clear().stdin(Stdio::null()).status().context("`true` cannot start")?;
    ensure!(status.success(), "`true` fails");
    Ok(started.elapsed())
}

/// The lower one of two in the middle.
fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get((times.len().saturating_sub(1)) / 2).copied().unwrap_or_default()
}

fn shown(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1_000.0)
}

fn mebibytes(file: &Path) -> Result<f64> {
    let bytes = fs::metadata(file).with_context(|| format!("{} cannot be read", file.display()))?.len();
    Ok(bytes as f64 / 1_048_576.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_variable_of_the_template_is_set() {
        let template = fs::read_to_string(crate::steps::root().join("infra/template.yaml")).expect("the template");
        let name = |rest: &str| {
            format!("RECADO_{}", rest.split(|letter: char| !letter.is_ascii_uppercase() && letter != '_').next().unwrap_or(""))
        };
        let set = template.split("RECADO_").skip(1).map(name);
        // `RECADO_LOG` is set below it, and templates are a layer of somebody's own.
        let known = |name: &str| VARIABLES.iter().any(|(known, _)| *known == name) || ["RECADO_LOG", "RECADO_TEMPLATES"].contains(&name);
        let missing: Vec<_> = set.filter(|name| !known(name)).collect();
        assert!(missing.is_empty(), "say in xtask/src/init_time.rs what these are: {missing:?}");
    }

    #[test]
    fn the_middle_of_what_was_measured_counts() {
        let of = Duration::from_millis;
        assert_eq!(median(&mut [of(9), of(1), of(3)]), of(3));
        assert_eq!(median(&mut [of(9), of(1)]), of(1));
    }

    #[test]
    fn a_program_that_asks_aws_is_counted_and_one_that_asks_for_work_is_timed() {
        let platform = Platform::start().expect("ports");
        let folder = crate::steps::root().join("target/tmp").join(format!("xtask-init-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let program = folder.join("bootstrap");
        // Opening a connection is asking.
        let open = |variable: &str| format!("exec 3<>\"/dev/tcp/$(echo ${variable} | sed 's|http://||;s|:|/|')\"");
        let ask = "printf 'GET /2018-06-01/runtime/invocation/next HTTP/1.1\\r\\n\\r\\n' >&3; read -r -u 3";
        let script = format!("#!/bin/bash\nPATH=/usr/bin:/bin\n{}\n{}\n{ask}\n", open("AWS_ENDPOINT_URL"), open("AWS_LAMBDA_RUNTIME_API"));
        fs::write(&program, script).expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it may be run");
        let took = platform.time_of(&program).expect("it asks for work");
        assert!(took > Duration::ZERO && took < INIT_WITHIN);
        assert_eq!(platform.asked.load(Ordering::Relaxed), 1);
        fs::remove_dir_all(folder).expect("a folder of ours");
    }
}
