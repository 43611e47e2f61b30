//! What `recado up` can be told, and which of it does not go together.
//!
//! Everything is checked before anything starts: a server that runs has settings that hold. Must not know: how they
//! are carried out.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use recado_domain::opening::is_origin;
use recado_runtime::auth::{TokenConfig, TokenSettings};
pub use recado_runtime::settings::{Contradiction, Secret};
use recado_runtime::settings::{Spelling, duration};
use url::{Host, Url};

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// Everything `recado up` can be told. Lists in environment variables are separated by commas.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct Settings {
    /// The folder with everything Recado keeps; made when it is missing.
    #[arg(long, env = "RECADO_DATA_DIR", value_name = "DIR", default_value = "./.recado")]
    pub data_dir: PathBuf,
    /// Address and port to listen on; port 0 takes a free one. There is no TLS here: for anything but this machine, put a proxy with TLS in front.
    #[arg(long, env = "RECADO_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:8420")]
    pub listen: SocketAddr,
    /// Where browsers reach this server, when that is not the address it listens on. [default: `http://` and the address it listens on]
    #[arg(long, env = "RECADO_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<Url>,
    /// A key that may publish events (Authorization: Bearer KEY), 16 to 512 characters; several are valid at once. [default: none: programs of this machine may]
    #[arg(long, env = "RECADO_PUBLISH_KEY", value_name = "KEY", value_delimiter = ',', hide_env_values = true)]
    pub publish_key: Vec<Secret>,
    /// A file with publish keys, one a line.
    #[arg(long, env = "RECADO_PUBLISH_KEY_FILE", value_name = "FILE")]
    pub publish_key_file: Option<PathBuf>,
    /// The secret of HS256 tokens, at least 32 bytes. [default: a development key of the data folder, on loopback]
    #[arg(long, env = "RECADO_TOKEN_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub token_secret: Option<Secret>,
    /// A public key of tokens (PEM: RS256, ES256 or EdDSA, as the key is); KID= where tokens name it so.
    #[arg(long, env = "RECADO_TOKEN_KEY", value_name = "[KID=]FILE", value_delimiter = ',')]
    pub token_key: Vec<String>,
    /// The public keys of tokens as a JWKS document: a file, or the URL of your issuer, whose new keys are fetched when they are used.
    #[arg(long, env = "RECADO_TOKEN_KEYS", value_name = "FILE-OR-URL")]
    pub token_keys: Option<String>,
    /// A token's `iss` must be one of these. [default: not looked at]
    #[arg(long, env = "RECADO_TOKEN_ISSUER", value_name = "TEXT", value_delimiter = ',')]
    pub token_issuer: Vec<String>,
    /// A token's `aud` must name one of these. [default: not looked at]
    #[arg(long, env = "RECADO_TOKEN_AUDIENCE", value_name = "TEXT", value_delimiter = ',')]
    pub token_audience: Vec<String>,
    /// The claim of a token that names the tenant.
    #[arg(long, env = "RECADO_TOKEN_TENANT_CLAIM", value_name = "NAME", default_value = "tenant")]
    pub token_tenant_claim: String,
    /// How far the clock of the tokens' issuer may be off, such as 30s; up to 5m.
    #[arg(long, env = "RECADO_TOKEN_LEEWAY", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub token_leeway: Duration,
    /// The sender of mail.
    #[arg(long, env = "RECADO_MAIL_FROM", value_name = "ADDRESS", default_value = "Recado <recado@localhost>")]
    pub mail_from: String,
    /// What a path in an event's `url` is relative to in a mail, such as `https://app.example.com`. [default: a path makes no link]
    #[arg(long, env = "RECADO_MAIL_BASE_URL", value_name = "URL")]
    pub mail_base_url: Option<Url>,
    /// Send mail through this server, such as `smtps://user:password@smtp.example.com`. [default: mail is captured, and shown at /mail on loopback]
    #[arg(long, env = "RECADO_SMTP", value_name = "URL", hide_env_values = true)]
    pub smtp: Option<Secret>,
    /// A folder with mail templates, by event type. [default: a plain one for every type]
    #[arg(long, env = "RECADO_TEMPLATES", value_name = "DIR")]
    pub templates: Option<PathBuf>,
    /// Pages of this origin may connect, such as `https://app.example.com`; `*` is any. [default: this server's own, and on loopback those of this machine]
    #[arg(long, env = "RECADO_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub allow_origin: Vec<String>,
    /// Sockets open at the same time; one more is refused with 503. Needs as many open files.
    #[arg(long, env = "RECADO_MAX_CONNECTIONS", value_name = "NUMBER", default_value_t = 10_000, value_parser = at_least_one)]
    pub max_connections: usize,
    /// How long work may take to end after a stop signal; what has not ended then is done again at the next start.
    #[arg(long, env = "RECADO_DRAIN_DEADLINE", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub drain_deadline: Duration,
    /// How log lines look; they go to standard error.
    #[arg(long, env = "RECADO_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Which log lines are shown, such as `debug` or `recado_dispatcher=debug,info`.
    #[arg(long, env = "RECADO_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
}

impl Default for Settings {
    /// What `recado up` does without arguments and environment.
    fn default() -> Self {
        Self {
            data_dir: "./.recado".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8420)),
            public_url: None,
            publish_key: Vec::new(),
            publish_key_file: None,
            token_secret: None,
            token_key: Vec::new(),
            token_keys: None,
            token_issuer: Vec::new(),
            token_audience: Vec::new(),
            token_tenant_claim: "tenant".to_owned(),
            token_leeway: Duration::from_secs(30),
            mail_from: "Recado <recado@localhost>".to_owned(),
            mail_base_url: None,
            smtp: None,
            templates: None,
            allow_origin: Vec::new(),
            max_connections: 10_000,
            drain_deadline: Duration::from_secs(10),
            log_format: LogFormat::Text,
            log: "info".to_owned(),
        }
    }
}

impl Settings {
    /// Whether this is somebody's own machine: on loopback, and with no key for real tokens.
    pub fn is_development(&self) -> bool {
        self.listen.ip().is_loopback() && !self.has_token_key()
    }

    /// Whether events are taken without a key.
    pub fn publishes_openly(&self) -> bool {
        self.publish_key.is_empty() && self.publish_key_file.is_none()
    }

    /// What is said about tokens.
    pub(super) fn tokens(&self) -> TokenSettings {
        TokenSettings {
            secret: self.token_secret.clone(),
            keys: self.token_key.clone(),
            jwks: self.token_keys.clone(),
            config: TokenConfig {
                issuers: self.token_issuer.clone(),
                audiences: self.token_audience.clone(),
                tenant_claim: self.token_tenant_claim.clone(),
                leeway: self.token_leeway,
            },
        }
    }

    fn has_token_key(&self) -> bool {
        self.tokens().has_key()
    }

    /// Looks for what does not go together. Files and keys are judged where they are read.
    ///
    /// # Errors
    /// The first contradiction, with its fix.
    pub fn check(&self) -> Result<(), Contradiction> {
        self.check_reach()?;
        self.check_tokens()?;
        self.check_origins()?;
        self.check_public_url()?;
        if let Some(dir) = self.templates.as_ref().filter(|dir| !dir.is_dir()) {
            return Err(Contradiction::new(
                format!("--templates {} is no folder", dir.display()),
                "name a folder that is there, or leave it out",
            ));
        }
        Ok(())
    }

    fn check_reach(&self) -> Result<(), Contradiction> {
        let Some((reached, or)) = self.reached_by_others() else { return Ok(()) };
        let beyond = |missing: &str| format!("{reached}, and {missing}");
        if self.publishes_openly() {
            return Err(Contradiction::new(beyond("everybody could publish"), format!("give --publish-key or --publish-key-file, {or}")));
        }
        if !self.has_token_key() {
            return Err(Contradiction::new(
                beyond("there is no key to verify tokens with; the development key is for this machine alone"),
                format!("give --token-keys, --token-key or --token-secret, {or}"),
            ));
        }
        Ok(())
    }

    /// What says that not this machine alone reaches the server, and what to do otherwise.
    fn reached_by_others(&self) -> Option<(String, &'static str)> {
        if !self.listen.ip().is_loopback() {
            return Some((format!("--listen {} is reached from other machines", self.listen), "or listen on 127.0.0.1"));
        }
        let url = self.public_url.as_ref().filter(|url| !is_of_this_machine(url))?;
        Some((format!("--public-url {url} says that others reach this server, through a proxy"), "or leave it out"))
    }

    fn check_tokens(&self) -> Result<(), Contradiction> {
        let names_an_issuer = !self.token_issuer.is_empty() || !self.token_audience.is_empty();
        if names_an_issuer && !self.has_token_key() {
            return Err(Contradiction::new(
                "--token-issuer and --token-audience without a token key: development tokens have neither `iss` nor `aud`",
                "give --token-keys, --token-key or --token-secret, or leave the two out",
            ));
        }
        self.tokens().check(Spelling::Flags)
    }

    fn check_origins(&self) -> Result<(), Contradiction> {
        match self.allow_origin.iter().find(|origin| !is_origin(origin)) {
            Some(origin) => Err(Contradiction::new(
                format!("--allow-origin {origin} is not what a browser sends as Origin"),
                "give scheme, host and port alone, such as https://app.example.com (no path, and no :443 or :80)",
            )),
            None => Ok(()),
        }
    }

    fn check_public_url(&self) -> Result<(), Contradiction> {
        match &self.public_url {
            Some(url) if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.fragment().is_some() => {
                Err(Contradiction::new(format!("--public-url {url} is no page's address"), "give an http or https URL without query"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether nobody else can mean this server by that address: a loopback address, or a name that is nobody's (RFC 6761, 6.2 and 6.3).
fn is_of_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            ["localhost", "test"].contains(&name.rsplit('.').next().unwrap_or_default())
        }
        None => false,
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("give a whole number from 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use proptest::prelude::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        settings: Settings,
    }

    fn parse(args: &[&str]) -> Settings {
        Only::try_parse_from([&["recado"], args].concat()).unwrap_or_else(|error| panic!("{error}")).settings
    }

    fn problem(args: &[&str]) -> String {
        parse(args).check().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_hold_and_are_those_of_the_command_line() {
        // Tests run without RECADO_* variables, as `cargo xtask test` starts them.
        assert_eq!(parse(&[]), Settings::default());
        assert!(Settings::default().check().is_ok());
        assert!(Settings::default().is_development());
    }

    #[test]
    fn beyond_loopback_a_publish_key_and_a_token_key_are_needed() {
        let publish = ["--publish-key", "0123456789abcdef"];
        let token = ["--token-keys", "https://issuer.example/jwks"];
        for listen in ["0.0.0.0:8420", "[::]:8420", "192.0.2.1:80"] {
            let listen = ["--listen", listen];
            assert!(problem(&listen).contains("--publish-key"));
            assert!(problem(&[&listen[..], &token].concat()).contains("fix: give --publish-key"));
            assert!(problem(&[&listen[..], &publish].concat()).contains("fix: give --token-keys"));
            assert!(parse(&[&listen[..], &publish, &token].concat()).check().is_ok());
        }
        assert!(parse(&["--listen", "[::1]:0"]).check().is_ok());
    }

    #[test]
    fn a_secret_and_public_keys_exclude_each_other() {
        assert!(problem(&["--token-secret", "s", "--token-key", "k.pem"]).contains("choose one"));
        assert!(problem(&["--token-secret", "s", "--token-keys", "jwks.json"]).contains("choose one"));
    }

    #[test]
    fn an_issuer_needs_a_key_of_its_own() {
        assert!(problem(&["--token-issuer", "https://issuer.example"]).contains("development tokens"));
        assert!(parse(&["--token-issuer", "https://issuer.example", "--token-keys", "jwks.json"]).check().is_ok());
    }

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for good in ["https://app.example.com", "https://app.example.com/", "http://localhost:5173", "*"] {
            assert!(parse(&["--allow-origin", good]).check().is_ok(), "{good}");
        }
        for bad in ["app.example.com", "https://app.example.com/path", "https://app.example.com:443", "ftp://a.example", ""] {
            assert!(problem(&["--allow-origin", bad]).contains("--allow-origin"), "{bad}");
        }
    }

    #[test]
    fn lists_may_be_repeated_or_separated_by_commas() {
        let settings = parse(&["--publish-key", "a,b", "--publish-key", "c"]);
        assert_eq!(settings.publish_key.iter().map(|key| key.0.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn durations_have_units_and_limits() {
        assert_eq!(parse(&["--drain-deadline", "500ms"]).drain_deadline, Duration::from_millis(500));
        for bad in ["10", "-5s", "soon", ""] {
            assert!(Only::try_parse_from(["recado", &format!("--drain-deadline={bad}")]).is_err(), "{bad}");
        }
        assert!(problem(&["--token-keys", "j", "--token-leeway", "1h"]).contains("5m"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let settings = parse(&["--publish-key", "abcdef0123456789", "--token-secret", "hush", "--smtp", "smtp://a:pass@h"]);
        let shown = format!("{settings:?}");
        for secret in ["abcdef0123456789", "hush", "pass"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn behind_a_proxy_a_publish_key_and_a_token_key_are_needed() {
        let publish = ["--publish-key", "0123456789abcdef"];
        let token = ["--token-keys", "https://issuer.example/jwks"];
        for url in ["https://notify.example.com", "http://192.0.2.1/", "https://localhost.example.com", "https://127.0.0.1.example.com"] {
            let url = ["--public-url", url];
            assert!(problem(&url).contains("fix: give --publish-key"));
            assert!(problem(&[&url[..], &publish].concat()).contains("fix: give --token-keys"));
            assert!(parse(&[&url[..], &publish, &token].concat()).check().is_ok());
        }
        for url in ["http://localhost:3000", "http://127.0.0.1/", "http://[::1]/", "http://recado.test:8420", "https://app.localhost"] {
            assert!(parse(&["--public-url", url]).check().is_ok(), "{url}");
        }
    }

    #[test]
    fn a_public_url_is_a_page() {
        for wrong in ["ws://recado.test", "http://recado.test/?a=b", "http://recado.test/#a"] {
            assert!(problem(&["--public-url", wrong]).contains("no page's address"), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_values_are_taken_or_refused_without_a_panic(name in 0_usize..6, value in any::<String>()) {
            let name = ["--listen", "--public-url", "--allow-origin", "--token-leeway", "--max-connections", "--token-key"][name];
            if let Ok(only) = Only::try_parse_from(["recado", &format!("{name}={value}")]) {
                // Either answer is fine; what counts is that there is one.
                only.settings.check().ok();
            }
        }
    }
}
