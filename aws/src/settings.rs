//! What a process on AWS reads from its environment: variables alone, as Lambda and ECS give them.
//!
//! A process names what it needs and learns of everything that is missing or wrong at once, each with what to do.
//! An empty variable counts as missing, since templates pass a parameter that was left out as an empty text. Must not
//! know: which process needs what.

use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;

use recado_domain::failure::Failure;
use recado_domain::opening::{Origins, is_origin};
use recado_runtime::auth::{ConfiguredKeys, TokenConfig, TokenSettings, TokenVerifier};
use recado_runtime::settings::{Contradiction, EXIT_CODE, Secret, Spelling, duration};
use recado_runtime::system::SystemClock;
use recado_runtime::telemetry::{self, LogFormat};
use url::Url;

/// Verifies tokens on AWS.
pub type Verifier = TokenVerifier<ConfiguredKeys<SystemClock>, SystemClock>;

/// A queue of Recado, by the middle of its variables' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueName {
    /// `RECADO_INBOX_QUEUE_URL`, `RECADO_INBOX_DEAD_LETTERS_URL`
    Inbox,
    /// `RECADO_EMAIL_QUEUE_URL`, `RECADO_EMAIL_DEAD_LETTERS_URL`
    Email,
    /// `RECADO_FEEDBACK_QUEUE_URL`, `RECADO_FEEDBACK_DEAD_LETTERS_URL`
    Feedback,
}

impl QueueName {
    fn variable(self, end: &str) -> String {
        let middle = match self {
            Self::Inbox => "INBOX",
            Self::Email => "EMAIL",
            Self::Feedback => "FEEDBACK",
        };
        format!("RECADO_{middle}_{end}_URL")
    }

    /// What the template calls it.
    fn output(self, end: &str) -> String {
        let middle = match self {
            Self::Inbox => "Inbox",
            Self::Email => "Email",
            Self::Feedback => "Feedback",
        };
        format!("{middle}{end}Url")
    }
}

/// Everything that is wrong with an environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct InvalidEnvironment(pub Vec<Contradiction>);

impl fmt::Display for InvalidEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the environment does not hold")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

/// Why a process did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// Its environment does not hold.
    #[error("{0}")]
    Environment(#[from] InvalidEnvironment),
    /// Something it cannot do without failed.
    #[error("{0}")]
    Failed(#[from] Failure),
    /// What calls it failed.
    #[error("{0}")]
    Platform(Box<dyn std::error::Error + Send + Sync>),
}

impl Ended {
    /// Logs why, a line for each problem, and says how the process ends.
    pub fn report(outcome: Result<(), Self>) -> ExitCode {
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(Self::Environment(InvalidEnvironment(problems))) => {
                for Contradiction { problem, fix } in problems {
                    tracing::error!(problem, fix, "a setting does not hold");
                }
                EXIT_CODE.into()
            }
            Err(error) => {
                tracing::error!(%error, "the process ends");
                ExitCode::FAILURE
            }
        }
    }
}

/// The value of a variable, by its name.
type Variables = Box<dyn Fn(&str) -> Option<OsString>>;

/// The variables of a process, and what was found wrong with them so far.
pub struct Environment {
    read: Variables,
    problems: Vec<Contradiction>,
}

impl fmt::Debug for Environment {
    /// Without values: some are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("problems", &self.problems).finish_non_exhaustive()
    }
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        Self { read: Box::new(|name| std::env::var_os(name)), problems: Vec::new() }
    }

    /// These variables alone.
    pub fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let variables: Vec<(String, OsString)> = variables.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let read = move |name: &str| variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        Self { read: Box::new(read), problems: Vec::new() }
    }

    /// What `build` puts together, once everything was read. It may only answer `None` for what was found wrong.
    ///
    /// # Errors
    /// Everything that was found missing or wrong.
    pub fn complete<T>(mut self, build: impl FnOnce() -> Option<T>) -> Result<T, InvalidEnvironment> {
        self.check_endpoint();
        if !self.problems.is_empty() {
            return Err(InvalidEnvironment(self.problems));
        }
        build().ok_or_else(|| InvalidEnvironment(vec![Contradiction::new("a setting is missing", "see docs/configuration.md")]))
    }

    /// Notes what is wrong.
    pub fn note(&mut self, problem: Contradiction) {
        self.problems.push(problem);
    }

    /// Notes what is wrong, if anything.
    pub fn noted<T>(&mut self, outcome: Result<T, Contradiction>) -> Option<T> {
        outcome.map_err(|problem| self.note(problem)).ok()
    }

    /// A variable that may be missing.
    pub fn text(&mut self, name: &str) -> Option<String> {
        match (self.read)(name)?.into_string() {
            Ok(text) if text.is_empty() => None,
            Ok(text) => Some(text),
            Err(_) => {
                self.note(Contradiction::new(format!("{name} is not UTF-8"), "set it to a text"));
                None
            }
        }
    }

    /// A variable that may not be missing. `what` it is, and the output of the template that has it.
    fn required(&mut self, name: &str, what: &str, output: &str) -> Option<String> {
        let before = self.problems.len();
        let text = self.text(name);
        if text.is_none() && self.problems.len() == before {
            let fix = format!("set it to the output {output} of the stack (infra/template.yaml)");
            self.note(Contradiction::new(format!("{name} is missing: {what}"), fix));
        }
        text
    }

    /// A list, separated by commas.
    pub fn list(&mut self, name: &str) -> Vec<String> {
        let text = self.text(name).unwrap_or_default();
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// A duration with its unit, or the default.
    pub fn duration(&mut self, name: &str, default: Duration) -> Duration {
        let Some(text) = self.text(name) else { return default };
        self.noted(duration(&text).map_err(|fix| Contradiction::new(format!("{name} is no duration"), fix))).unwrap_or(default)
    }

    /// A whole number from 1, which may be missing; `None` where it is none.
    pub fn number(&mut self, name: &str, fix: &'static str) -> Option<Option<NonZeroU32>> {
        let Some(text) = self.text(name) else { return Some(None) };
        let problem = || Contradiction::new(format!("{name} is no whole number from 1"), fix);
        self.noted(text.parse().map(Some).map_err(|_| problem()))
    }

    /// `RECADO_TABLE`
    pub fn table(&mut self) -> Option<String> {
        let table = self.required("RECADO_TABLE", "the DynamoDB table of inboxes and connections", "TableName")?;
        // "Naming rules and data types used in Amazon DynamoDB".
        let fits = (3..=255).contains(&table.len()) && table.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        let problem =
            || Contradiction::new("RECADO_TABLE is no name of a table", "give its name, not its ARN: 3 to 255 of a-z A-Z 0-9 - _ .");
        self.noted(if fits { Ok(table) } else { Err(problem()) })
    }

    /// `RECADO_TOPIC_ARN`
    pub fn topic_arn(&mut self) -> Option<String> {
        let name = "RECADO_TOPIC_ARN";
        let arn = self.required(name, "the SNS topic that events are published to", "TopicArn")?;
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let [_, _, "sns", region, _, _] = parts[..] else {
            self.note(Contradiction::new(format!("{name} is no ARN of a topic"), "give it as arn:aws:sns:REGION:ACCOUNT:NAME"));
            return None;
        };
        self.check_region(name, Some(region))?;
        Some(arn)
    }

    /// `RECADO_…_QUEUE_URL`
    pub fn queue(&mut self, queue: QueueName) -> Option<String> {
        self.queue_url(&queue.variable("QUEUE"), "the SQS queue this process works with", &queue.output("Queue"))
    }

    /// `RECADO_…_DEAD_LETTERS_URL`
    pub fn dead_letters(&mut self, queue: QueueName) -> Option<String> {
        self.queue_url(&queue.variable("DEAD_LETTERS"), "the SQS queue that takes what is given up", &queue.output("DeadLetters"))
    }

    fn queue_url(&mut self, name: &str, what: &str, output: &str) -> Option<String> {
        let text = self.required(name, what, output)?;
        let names_a_queue = |url: &Url| url.path_segments().is_some_and(|segments| segments.filter(|part| !part.is_empty()).count() >= 2);
        match http_url(&text).filter(names_a_queue) {
            Some(url) => {
                self.check_region(name, region_after(&url, "sqs").as_deref())?;
                Some(text)
            }
            None => {
                let fix = "give the URL that SQS has for it, such as https://sqs.REGION.amazonaws.com/ACCOUNT/NAME, not its name or ARN";
                self.note(Contradiction::new(format!("{name} is no URL of a queue"), fix));
                None
            }
        }
    }

    /// `RECADO_SOCKETS_ENDPOINT`
    pub fn sockets_endpoint(&mut self) -> Option<String> {
        let name = "RECADO_SOCKETS_ENDPOINT";
        let text = self.required(name, "where frames are posted to connections", "SocketsEndpoint")?;
        match http_url(&text).filter(|url| url.path() != "/") {
            Some(url) => {
                self.check_region(name, region_after(&url, "execute-api").as_deref())?;
                // The SDK appends `/@connections/…`.
                Some(text.trim_end_matches('/').to_owned())
            }
            None => {
                let fix = "give https, not wss, with the stage: https://API.execute-api.REGION.amazonaws.com/STAGE";
                self.note(Contradiction::new(format!("{name} is no http(s) URL of an API and its stage"), fix));
                None
            }
        }
    }

    /// `RECADO_SOCKETS_URL`: where browsers open sockets. Without it the address of the endpoint, which opens sockets as
    /// well; with a custom domain name they differ.
    pub fn sockets_url(&mut self, endpoint: &str) -> Option<Url> {
        let name = "RECADO_SOCKETS_URL";
        // http becomes ws, and https wss.
        let text = self.text(name).unwrap_or_else(|| endpoint.replacen("http", "ws", 1));
        let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "ws" | "wss") && url.has_host() && url.query().is_none());
        let problem = || {
            Contradiction::new(format!("{name} is no ws(s) URL without a query"), "give it as wss://sockets.example.com, or leave it out")
        };
        self.noted(url.ok_or_else(problem))
    }

    /// `RECADO_ALLOW_ORIGIN`
    pub fn origins(&mut self) -> Option<Origins> {
        let allowed = self.list("RECADO_ALLOW_ORIGIN");
        if let Some(wrong) = allowed.iter().find(|origin| !is_origin(origin)) {
            let problem = format!("RECADO_ALLOW_ORIGIN {wrong} is not what a browser sends as Origin");
            let fix = "give scheme, host and port alone, such as https://app.example.com (no path, and no :443 or :80)";
            self.note(Contradiction::new(problem, fix));
            return None;
        }
        Some(Origins { allowed, loopback: false })
    }

    /// `RECADO_TOKEN_…`
    pub fn tokens(&mut self) -> Option<Verifier> {
        let defaults = TokenConfig::default();
        let settings = TokenSettings {
            secret: self.text("RECADO_TOKEN_SECRET").map(Secret),
            keys: self.list("RECADO_TOKEN_KEY"),
            jwks: self.text("RECADO_TOKEN_KEYS"),
            config: TokenConfig {
                issuers: self.list("RECADO_TOKEN_ISSUER"),
                audiences: self.list("RECADO_TOKEN_AUDIENCE"),
                tenant_claim: self.text("RECADO_TOKEN_TENANT_CLAIM").unwrap_or(defaults.tenant_claim),
                leeway: self.duration("RECADO_TOKEN_LEEWAY", defaults.leeway),
            },
        };
        if !settings.has_key() {
            let problem = "RECADO_TOKEN_KEYS, RECADO_TOKEN_KEY and RECADO_TOKEN_SECRET are all missing: nothing could verify a token";
            self.note(Contradiction::new(problem, "set one, best RECADO_TOKEN_KEYS to the https URL of your issuer's JWKS document"));
            return None;
        }
        self.noted(settings.verifier(Spelling::Variables, None, SystemClock))
    }

    /// Sets up logging as `RECADO_LOG` and `RECADO_LOG_FORMAT` say: `info`, and JSON, unless they say otherwise.
    pub fn start_logging(&mut self) {
        let format = match self.text("RECADO_LOG_FORMAT").as_deref() {
            None | Some("json") => LogFormat::Json,
            Some("text") => LogFormat::Text,
            Some(_) => {
                self.note(Contradiction::new("RECADO_LOG_FORMAT is neither json nor text", "give one of the two"));
                LogFormat::Json
            }
        };
        let filter = self.text("RECADO_LOG").unwrap_or_else(|| "info".to_owned());
        if let Err(error) = telemetry::init(format, &filter) {
            self.note(Contradiction::new(format!("RECADO_LOG: {error}"), "correct it, or leave it out"));
            // So that what is wrong can be said.
            telemetry::init(format, "info").ok();
        }
    }

    fn check_endpoint(&mut self) {
        let name = "AWS_ENDPOINT_URL";
        if self.text(name).is_some_and(|text| http_url(&text).is_none()) {
            let fix = "give http or https, host and port, such as http://127.0.0.1:4566; on AWS leave it out";
            self.note(Contradiction::new(format!("{name} is no http(s) URL"), fix));
        }
    }

    /// A call to another region than that of a resource finds nothing there, and does not say why.
    fn check_region(&mut self, name: &str, region: Option<&str>) -> Option<()> {
        let own = self.text("AWS_REGION").or_else(|| self.text("AWS_DEFAULT_REGION"));
        match (own, region) {
            (Some(own), Some(region)) if own != region => {
                let problem = format!("{name} is in the region {region}, and this process in {own}");
                self.note(Contradiction::new(problem, "deploy both in one region, or correct AWS_REGION"));
                None
            }
            _ => Some(()),
        }
    }
}

fn http_url(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// `eu-west-1` of `sqs.eu-west-1.amazonaws.com`; other hosts, such as an emulator's, have none.
fn region_after(url: &Url, service: &str) -> Option<String> {
    let host = url.host_str()?;
    let mut labels = host.split('.').skip_while(|label| *label != service).skip(1);
    let region = labels.next()?;
    (labels.any(|label| label == "amazonaws") && region != "amazonaws").then(|| region.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that any process needs.
    const WHOLE: [(&str, &str); 8] = [
        ("AWS_REGION", "eu-west-1"),
        ("RECADO_TABLE", "recado-Table-1A2B"),
        ("RECADO_TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:recado"),
        ("RECADO_INBOX_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/inbox"),
        ("RECADO_INBOX_DEAD_LETTERS_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/inbox-dead"),
        ("RECADO_EMAIL_QUEUE_URL", "http://127.0.0.1:4566/000000000001/email"),
        ("RECADO_SOCKETS_ENDPOINT", "https://abc.execute-api.eu-west-1.amazonaws.com/live/"),
        ("RECADO_TOKEN_SECRET", "0123456789abcdef0123456789abcdef"),
    ];

    #[derive(Debug)]
    struct Everything {
        sockets: String,
    }

    fn read(variables: &[(&str, &str)]) -> Result<Everything, InvalidEnvironment> {
        let mut env = Environment::of(variables.iter().copied());
        let required =
            [env.table(), env.topic_arn(), env.queue(QueueName::Inbox), env.dead_letters(QueueName::Inbox), env.queue(QueueName::Email)];
        let (sockets, tokens, origins) = (env.sockets_endpoint(), env.tokens(), env.origins());
        env.complete(move || {
            tokens?;
            origins?;
            required.iter().all(Option::is_some).then_some(Everything { sockets: sockets? })
        })
    }

    /// What is said about an environment in which `name` is `value`, or is missing.
    fn problems(name: &str, value: Option<&str>) -> Vec<Contradiction> {
        let others = WHOLE.iter().copied().filter(|(other, _)| *other != name);
        let variables: Vec<_> = others.chain(value.map(|value| (name, value))).collect();
        read(&variables).map(|_| Vec::new()).unwrap_or_else(|InvalidEnvironment(problems)| problems)
    }

    #[test]
    fn a_whole_environment_is_read() {
        assert_eq!(read(&WHOLE).unwrap().sockets, "https://abc.execute-api.eu-west-1.amazonaws.com/live");
    }

    #[test]
    fn each_missing_variable_is_named_with_what_to_do() {
        for (name, _) in WHOLE.iter().filter(|(name, _)| *name != "AWS_REGION") {
            for value in [None, Some("")] {
                let found = problems(name, value);
                assert_eq!(found.len(), 1, "{name}: {found:?}");
                assert!(found[0].problem.contains(name) && found[0].problem.contains("missing") && !found[0].fix.is_empty(), "{found:?}");
            }
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let InvalidEnvironment(found) = read(&[]).unwrap_err();
        assert_eq!(found.len(), 7, "{found:?}");
        let text = InvalidEnvironment(found).to_string();
        assert!(
            text.contains("RECADO_TABLE is missing") && text.contains("output TableName") && text.contains("RECADO_SOCKETS_ENDPOINT"),
            "{text}"
        );
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_with_what_to_give() {
        for (name, value, says) in [
            ("RECADO_TABLE", "arn:aws:dynamodb:eu-west-1:123456789012:table/recado", "not its ARN"),
            ("RECADO_TABLE", "ab", "3 to 255"),
            ("RECADO_TOPIC_ARN", "recado", "arn:aws:sns"),
            ("RECADO_TOPIC_ARN", "arn:aws:sqs:eu-west-1:123456789012:recado", "arn:aws:sns"),
            ("RECADO_INBOX_QUEUE_URL", "arn:aws:sqs:eu-west-1:123456789012:inbox", "not its name or ARN"),
            ("RECADO_INBOX_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/inbox", "ACCOUNT/NAME"),
            ("RECADO_INBOX_DEAD_LETTERS_URL", "inbox-dead", "not its name or ARN"),
            ("RECADO_SOCKETS_ENDPOINT", "wss://abc.execute-api.eu-west-1.amazonaws.com/live", "not wss"),
            ("RECADO_SOCKETS_ENDPOINT", "https://abc.execute-api.eu-west-1.amazonaws.com", "STAGE"),
            ("RECADO_TOKEN_SECRET", "short", "openssl"),
            ("RECADO_ALLOW_ORIGIN", "app.example.com", "scheme, host and port"),
            ("RECADO_TOKEN_LEEWAY", "30", "a number with its unit"),
            ("RECADO_TOKEN_KEYS", "https://issuer.example/jwks", "choose one"),
            ("AWS_ENDPOINT_URL", "localhost:4566", "http://127.0.0.1:4566"),
        ] {
            let found = problems(name, Some(value));
            assert_eq!(found.len(), 1, "{name}: {found:?}");
            let text = found[0].to_string();
            assert!(text.contains(name) && text.contains(says), "{text}");
        }
    }

    #[test]
    fn a_resource_of_another_region_is_found_before_it_is_called() {
        for (name, value) in [
            ("RECADO_TOPIC_ARN", "arn:aws:sns:us-east-1:123456789012:recado"),
            ("RECADO_INBOX_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/123456789012/inbox"),
            ("RECADO_SOCKETS_ENDPOINT", "https://abc.execute-api.us-east-1.amazonaws.com.cn/live"),
        ] {
            let found = problems(name, Some(value));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].problem.contains("us-east-1") && found[0].problem.contains("eu-west-1"), "{found:?}");
        }
        // Nobody says where this process is: the SDK finds out.
        assert!(problems("AWS_REGION", None).is_empty());
    }

    #[test]
    fn sockets_open_at_their_endpoint_unless_told_otherwise() {
        let url = |given: &str, endpoint: &str| {
            let mut env = Environment::of([("RECADO_SOCKETS_URL", given)]);
            let url = env.sockets_url(endpoint);
            env.complete(|| url).map(String::from).map_err(|error| error.to_string())
        };
        let endpoint = "https://abc.execute-api.eu-west-1.amazonaws.com/live";
        assert_eq!(url("", endpoint).as_deref(), Ok("wss://abc.execute-api.eu-west-1.amazonaws.com/live"));
        assert_eq!(url("", "http://127.0.0.1:4566/x/live").as_deref(), Ok("ws://127.0.0.1:4566/x/live"));
        assert_eq!(url("wss://sockets.example.com", endpoint).as_deref(), Ok("wss://sockets.example.com/"));
        assert!(url("https://sockets.example.com", endpoint).unwrap_err().contains("RECADO_SOCKETS_URL"));
    }

    #[test]
    fn hosts_outside_of_aws_have_no_region() {
        for (url, region) in [
            ("https://sqs.eu-west-1.amazonaws.com/1/q", Some("eu-west-1")),
            ("https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/1/q", Some("eu-west-1")),
            ("https://queue.amazonaws.com/1/q", None),
            ("https://sqs.example.com/1/q", None),
            ("https://sqs.amazonaws.com/1/q", None),
            ("http://127.0.0.1:4566/1/q", None),
        ] {
            assert_eq!(region_after(&url.parse().unwrap(), "sqs").as_deref(), region, "{url}");
        }
    }

    #[test]
    fn no_secret_is_repeated() {
        let found = problems("RECADO_TOKEN_SECRET", Some("hush"));
        assert!(!format!("{found:?}").contains("hush"), "{found:?}");
        assert!(!format!("{:?}", Environment::of([("RECADO_TOKEN_SECRET", "hush")])).contains("hush"));
    }

    proptest! {
        #[test]
        fn arbitrary_values_are_read_or_refused(values in proptest::collection::vec(".*", WHOLE.len())) {
            let variables: Vec<_> = WHOLE.iter().map(|(name, _)| *name).zip(values.iter().map(String::as_str)).collect();
            // Either answer is fine; what counts is that there is one.
            read(&variables).ok();
        }
    }
}
