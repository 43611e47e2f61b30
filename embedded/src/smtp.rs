//! Mail through a real server. Must not know: what the mail says, or who else may send it.
//!
//! Reasons name the server's code, never its text: servers quote addresses.

use std::time::Duration;

use lettre::address::Envelope;
use lettre::transport::smtp::Error;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use recado_domain::failure::Failure;
use recado_domain::ports::{Mailer, Outcome, OutgoingMail};
use url::{Host, Url};

/// How long one command may take. RFC 5321 (4.5.3.2) allows minutes; a lease of the queue does not.
const COMMAND: Duration = Duration::from_secs(20);
/// How long a whole mail may take, connecting included: below the lease of a message in work.
const MAIL: Duration = Duration::from_secs(50);
/// The longest id of the other side that is kept, in characters.
const ANSWER_CHARS: usize = 200;

/// Why a text is no mail server's URL. Never the text itself: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSmtpUrl {
    /// Not a URL with a host.
    #[error("is no URL; write smtp://user:password@host:587 or smtps://user:password@host")]
    NotAUrl,
    /// Another protocol.
    #[error("has a scheme that is neither `smtp` (STARTTLS) nor `smtps` (TLS from the first byte)")]
    Scheme,
    /// One without the other.
    #[error("has a user without a password or a password without a user; give both or neither")]
    Credentials,
    /// Everything else.
    #[error("has a part that does not read; `tls` is `required` or `opportunistic`, reserved characters in a password are percent-encoded")]
    Parts,
}

/// A mail server. Connections are kept and used again.
#[derive(Clone)]
pub struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

impl Smtp {
    /// A mailer for a URL as `smtp://user:password@host:587` or `smtps://user:password@host`.
    ///
    /// `smtp` encrypts with STARTTLS: always where there is a password to protect, otherwise where the server offers
    /// it; on this machine (a loopback host) not at all. `?tls=required` or `?tls=opportunistic` decides otherwise.
    ///
    /// # Errors
    /// Says what is wrong with the URL, without quoting it.
    pub fn new(url: &str) -> Result<Self, InvalidSmtpUrl> {
        let url = settled(url)?;
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.as_str()).map_err(|_| InvalidSmtpUrl::Parts)?;
        Ok(Self { transport: transport.timeout(Some(COMMAND)).build() })
    }
}

/// The URL with its encryption decided.
fn settled(text: &str) -> Result<Url, InvalidSmtpUrl> {
    let mut url = Url::parse(text).map_err(|_| InvalidSmtpUrl::NotAUrl)?;
    if !matches!(url.scheme(), "smtp" | "smtps") {
        return Err(InvalidSmtpUrl::Scheme);
    }
    let loopback = match url.host() {
        None | Some(Host::Domain("")) => return Err(InvalidSmtpUrl::NotAUrl),
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
    };
    if url.username().is_empty() != url.password().is_none() {
        return Err(InvalidSmtpUrl::Credentials);
    }
    let decided = url.query_pairs().any(|(name, _)| name == "tls");
    if url.scheme() == "smtp" && !decided && !loopback {
        let tls = if url.password().is_some() { "required" } else { "opportunistic" };
        url.query_pairs_mut().append_pair("tls", tls);
    }
    Ok(url)
}

fn envelope(mail: &OutgoingMail) -> Outcome<Envelope> {
    let address = |text: &str, whose| {
        text.parse::<Address>().map_err(|_| Failure::permanent(format!("the {whose}'s address is none that SMTP takes")))
    };
    let (from, to) = (address(&mail.from, "sender")?, address(&mail.to, "recipient")?);
    Envelope::new(Some(from), vec![to]).map_err(|_| Failure::permanent("the mail has no recipient"))
}

/// Classifies what a server or the way to it says.
fn failure(error: &Error, mail: &OutgoingMail) -> Failure {
    if let Some(code) = error.status() {
        return answered(&code.to_string());
    }
    if error.is_timeout() {
        return Failure::transient("the mail server did not answer in time");
    }
    if error.is_client() && !(mail.to.is_ascii() && mail.from.is_ascii()) {
        return Failure::permanent("the mail server takes ASCII addresses only (no SMTPUTF8)");
    }
    Failure::transient(match () {
        () if error.is_tls() => "the encrypted connection to the mail server failed; check its name and certificate",
        () if error.is_client() => "the mail server offers no way to log in, or no encryption; check the SMTP URL",
        () if error.is_response() => "the mail server's answer is no SMTP",
        () => "the connection to the mail server failed",
    })
}

/// Judges a reply code (RFC 5321, 4.2; RFC 4954, 6).
fn answered(code: &str) -> Failure {
    match code {
        // About the account, not about this mail: whoever runs Recado can put it right, and the mail still leaves.
        "530" | "534" | "535" | "538" => Failure::transient(format!("the mail server refuses the login ({code}); check the SMTP URL")),
        _ if code.starts_with('5') => Failure::permanent(format!("the mail server refused the mail ({code})")),
        _ => Failure::transient(format!("the mail server answered {code}")),
    }
}

impl Mailer for Smtp {
    async fn send(&self, mail: &OutgoingMail) -> Outcome<String> {
        let envelope = envelope(mail)?;
        let sent = tokio::time::timeout(MAIL, self.transport.send_raw(&envelope, &mail.message)).await;
        match sent {
            Ok(Ok(response)) => Ok(response.first_line().unwrap_or_default().chars().take(ANSWER_CHARS).collect()),
            Ok(Err(error)) => Err(failure(&error, mail)),
            Err(_) => Err(Failure::transient("the mail server did not take the mail in time")),
        }
    }
}
