//! Mail through a real server. Must not know: what the mail says, or who else may send it.
//!
//! Reasons name the server's code, never its text: servers quote addresses. Of the text that takes a mail the words are kept
//! that may be the server's id for it.

use std::net::Ipv4Addr;
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
/// The longest id of the other side that is kept, in bytes.
const ID_BYTES: usize = 200;

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
        // The standard reads addresses as names where it does not know the scheme.
        Some(Host::Domain(name)) => name == "localhost" || name.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback()),
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

/// The words of an answer that may be an id (`2.0.0 Ok: queued as 9A8B7C`, `OK id=1rXyz-0001-AB`): such a word has a digit, and
/// nothing that an address needs.
fn id_in(answer: &str, to: &str) -> String {
    let mailbox = to.split('@').next().unwrap_or_default();
    let is_id = |word: &&str| {
        let plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:=".contains(&byte));
        plain && word.bytes().any(|byte| byte.is_ascii_digit()) && !word.contains(mailbox)
    };
    let mut id = answer.split_ascii_whitespace().filter(is_id).collect::<Vec<_>>().join(" ");
    // Of ASCII alone.
    id.truncate(ID_BYTES);
    id
}

impl Mailer for Smtp {
    async fn send(&self, mail: &OutgoingMail) -> Outcome<String> {
        let envelope = envelope(mail)?;
        // The end of the data brings a line end of its own.
        let message = mail.message.strip_suffix(b"\r\n").unwrap_or(&mail.message);
        let sent = tokio::time::timeout(MAIL, self.transport.send_raw(&envelope, message)).await;
        match sent {
            Ok(Ok(response)) => Ok(id_in(response.first_line().unwrap_or_default(), &mail.to)),
            Ok(Err(error)) => Err(failure(&error, mail)),
            Err(_) => Err(Failure::transient("the mail server did not take the mail in time")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use recado_domain::ids::{DeliveryKey, NotificationId, RecipientKey, TenantId, UserId};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    fn mail(to: &str) -> OutgoingMail {
        let recipient = RecipientKey::new(TenantId::default(), UserId::new("alice").unwrap());
        let delivery = DeliveryKey { recipient, notification: NotificationId::of("/tests", "1") };
        let message = b"Subject: hello\r\n\r\nA line\r\n.\r\nanother\r\n".to_vec();
        OutgoingMail { delivery, from: "recado@example.com".to_owned(), to: to.to_owned(), message }
    }

    #[test]
    fn of_an_answer_only_what_may_be_an_id_is_kept() {
        for (answer, id) in [
            ("2.0.0 Ok: queued as 9A8B7C", "2.0.0 9A8B7C"),
            ("OK id=1rXyz-0001-AB", "id=1rXyz-0001-AB"),
            ("2.0.0 OK  1700000000 a1-b2c3.4 - gsmtp", "2.0.0 1700000000 a1-b2c3.4"),
            ("2.0.0 <alice7@example.com> alice7 alice7=example.com (alice7) saved for Alice", "2.0.0"),
            ("fine", ""),
            ("", ""),
        ] {
            assert_eq!(id_in(answer, "alice7@example.com"), id, "{answer}");
        }
        assert_eq!(id_in(&"1".repeat(500), "a@example.com").len(), ID_BYTES);
    }

    /// A server for one mail: answers `rcpt` to its recipient, and hands out the lines it was given as the message.
    async fn server(rcpt: &'static str) -> (Smtp, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            converse(socket, rcpt).await
        });
        (Smtp::new(&url).unwrap(), serving)
    }

    async fn converse(socket: tokio::net::TcpStream, rcpt: &str) -> Vec<String> {
        let (read, mut write) = socket.into_split();
        let mut lines = BufReader::new(read).lines();
        let (mut message, mut in_message) = (Vec::new(), false);
        write.write_all(b"220 test\r\n").await.unwrap();
        while let Ok(Some(line)) = lines.next_line().await {
            let answer = match line.split([' ', ':']).next().unwrap_or_default() {
                "." if in_message => {
                    in_message = false;
                    "250 2.0.0 queued as 4711"
                }
                _ if in_message => {
                    message.push(line);
                    continue;
                }
                "DATA" => {
                    in_message = true;
                    "354 go on"
                }
                "RCPT" => rcpt,
                "QUIT" => break,
                _ => "250 fine",
            };
            write.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
        }
        message
    }

    #[tokio::test]
    async fn a_mail_leaves_byte_for_byte_and_answers_the_servers_id() {
        let (smtp, serving) = server("250 fine").await;
        assert_eq!(smtp.send(&mail("alice@example.com")).await, Ok("2.0.0 4711".to_owned()));
        drop(smtp);
        assert_eq!(serving.await.unwrap(), ["Subject: hello", "", "A line", "..", "another"]);
    }

    #[tokio::test]
    async fn a_5xx_is_final_a_4xx_may_pass_and_neither_quotes_the_server() {
        for (reply, passes) in [("550 5.1.1 <alice@example.com> unknown", false), ("451 4.3.0 alice@example.com later", true)] {
            let (smtp, _serving) = server(reply).await;
            let failure = smtp.send(&mail("alice@example.com")).await.unwrap_err();
            assert_eq!(failure.is_transient(), passes, "{failure}");
            assert!(failure.reason().contains(&reply[..3]) && !failure.reason().contains("alice"), "{failure}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_may_come_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let smtp = Smtp::new(&format!("smtp://{}", listener.local_addr().unwrap())).unwrap();
        drop(listener);
        assert!(smtp.send(&mail("alice@example.com")).await.unwrap_err().is_transient());
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_final_and_not_quoted() {
        let smtp = Smtp::new("smtp://127.0.0.1:25").unwrap();
        let failure = smtp.send(&mail("alice at example")).await.unwrap_err();
        assert!(!failure.is_transient() && !failure.reason().contains("alice"), "{failure}");
    }

    #[test]
    fn a_refused_login_keeps_the_mail() {
        assert!(answered("535").is_transient());
        assert!(!answered("552").is_transient());
        assert!(answered("421").is_transient());
    }

    #[test]
    fn a_password_never_crosses_the_network_in_the_clear() {
        let tls = |url| settled(url).unwrap().query().map(str::to_owned);
        assert_eq!(tls("smtp://user:secret@mail.example.com:587").as_deref(), Some("tls=required"));
        assert_eq!(tls("smtp://mail.example.com").as_deref(), Some("tls=opportunistic"));
        assert_eq!(tls("smtp://user:secret@127.0.0.1:1025"), None);
        assert_eq!(tls("smtp://mail.example.com?tls=required").as_deref(), Some("tls=required"));
    }

    #[test]
    fn an_url_that_does_not_read_says_why_without_quoting_it() {
        assert_eq!(settled("mail.example.com").unwrap_err(), InvalidSmtpUrl::NotAUrl);
        assert_eq!(settled("https://mail.example.com").unwrap_err(), InvalidSmtpUrl::Scheme);
        assert_eq!(settled("smtp://user@mail.example.com").unwrap_err(), InvalidSmtpUrl::Credentials);
        assert_eq!(Smtp::new("smtp://mail.example.com?tls=maybe").err(), Some(InvalidSmtpUrl::Parts));
    }

    proptest! {
        #[test]
        fn any_text_as_a_url_is_judged_without_a_panic(text in ".*", rest in ".*") {
            let judged = [settled(&text).is_ok(), settled(&format!("smtp://{rest}")).is_ok()];
            prop_assert!(!judged[0] || text.to_ascii_lowercase().contains("smtp"));
        }
    }
}
