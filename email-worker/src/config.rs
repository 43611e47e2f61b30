//! What an operator decides about mail, checked once at start.
//!
//! Must not know: where settings come from.

use std::fmt;
use std::time::Duration;

use recado_domain::address::ascii_domain;
use url::Url;

/// What an operator says. [`MailConfig::new`] checks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailSettings {
    /// Whom mail comes from: `news@example.com` or `Example <news@example.com>`.
    pub from: String,
    /// What paths in `data.url` are relative to, an `http(s)` URL. Without it a path makes no link.
    pub base_url: Option<String>,
    /// The most mails in a second, per process; without it no limit. SES counts recipients, and every mail has one
    /// ("Service quotas in Amazon SES", sending rate).
    pub per_second: Option<u32>,
    /// Mails in work at the same time, per process.
    pub concurrency: usize,
    /// How long a claim holds: what a crash between sending and confirming delays a second try.
    pub lease: Duration,
    /// How long handing over one mail may take.
    pub send_timeout: Duration,
}

impl MailSettings {
    /// The defaults for a sender.
    pub fn from(from: impl Into<String>) -> Self {
        Self {
            from: from.into(),
            base_url: None,
            per_second: None,
            concurrency: 8,
            lease: Duration::from_secs(300),
            send_timeout: Duration::from_secs(30),
        }
    }
}

/// Why settings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMailConfig {
    /// Neither an address nor a name with one.
    #[error("the sender is no address; write `news@example.com` or `Example <news@example.com>`")]
    From,
    /// Nothing a link could begin with.
    #[error("the base URL is no `http(s)` URL without query and fragment; write `https://app.example.com`")]
    BaseUrl,
    /// A limit that lets nothing through.
    #[error("{0} is 0; write 1 or more")]
    Zero(&'static str),
    /// A claim could end while its mail is still being sent.
    #[error("the lease of {lease:?} is less than twice the {work:?} that waiting for the rate and sending may take; make it longer")]
    Lease {
        /// The lease.
        lease: Duration,
        /// What it must cover twice.
        work: Duration,
    },
}

/// What claiming a mail and recording it as sent may take together, where the store is slow: two calls of 5 s.
const CLAIM_AND_CONFIRM: Duration = Duration::from_secs(10);

/// Settings that hold together.
#[derive(Clone, PartialEq, Eq)]
pub struct MailConfig {
    pub(crate) from: Mailbox,
    pub(crate) base_url: Option<String>,
    pub(crate) per_second: Option<u32>,
    pub(crate) concurrency: usize,
    pub(crate) lease: Duration,
    pub(crate) send_timeout: Duration,
}

impl fmt::Debug for MailConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the sender: no address reaches a log.
        f.debug_struct("MailConfig").field("concurrency", &self.concurrency).field("lease", &self.lease).finish_non_exhaustive()
    }
}

impl MailConfig {
    /// Checks settings.
    ///
    /// # Errors
    /// Says what is wrong and what to write.
    pub fn new(settings: MailSettings) -> Result<Self, InvalidMailConfig> {
        let MailSettings { from, base_url, per_second, concurrency, lease, send_timeout } = settings;
        if concurrency == 0 {
            return Err(InvalidMailConfig::Zero("the concurrency"));
        }
        if per_second == Some(0) {
            return Err(InvalidMailConfig::Zero("the rate"));
        }
        // At most `concurrency` mails wait for the rate, in order: the last one this long. The other half of the lease is
        // for rendering, confirming, and clocks that differ.
        let work = longest(per_second, concurrency, send_timeout);
        if lease < work.saturating_mul(2) {
            return Err(InvalidMailConfig::Lease { lease, work });
        }
        let from = Mailbox::parse(&from).ok_or(InvalidMailConfig::From)?;
        let base_url = base_url.map(|text| base(&text).ok_or(InvalidMailConfig::BaseUrl)).transpose()?;
        Ok(Self { from, base_url, per_second, concurrency, lease, send_timeout })
    }

    /// The longest that one mail takes from its claim to its record.
    pub(crate) fn one_mail(&self) -> Duration {
        longest(self.per_second, self.concurrency, self.send_timeout).saturating_add(CLAIM_AND_CONFIRM)
    }

    /// `url` of an event as an absolute URL.
    pub(crate) fn link(&self, url: &str) -> Option<String> {
        let absolute = if url.starts_with('/') { format!("{}{url}", self.base_url.as_deref()?) } else { url.to_owned() };
        let parsed = Url::parse(&absolute).ok()?;
        matches!(parsed.scheme(), "http" | "https").then(|| parsed.into())
    }
}

/// The longest that waiting for the rate and sending take.
fn longest(per_second: Option<u32>, concurrency: usize, send_timeout: Duration) -> Duration {
    let wait = per_second.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(concurrency as f64 / f64::from(rate)));
    wait.saturating_add(send_timeout)
}

/// Without the slash at the end, so that a path can follow.
fn base(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let fits = matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none() && url.fragment().is_none();
    fits.then(|| url.as_str().trim_end_matches('/').to_owned())
}

/// An address with what people call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mailbox {
    pub(crate) name: Option<String>,
    pub(crate) address: String,
}

impl Mailbox {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (name, address) = match text.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
            Some((name, address)) => (name.trim().trim_matches('"').trim(), address),
            None => ("", text),
        };
        let name_fits = !name.chars().any(char::is_control);
        (name_fits && is_address(address))
            .then(|| Self { name: (!name.is_empty()).then(|| name.to_owned()), address: with_ascii_domain(address) })
    }
}

/// Whether a text is a bare address that no header or envelope reads as anything else.
pub(crate) fn is_address(text: &str) -> bool {
    let options = email_address::Options::default().without_display_text().without_domain_literal();
    text.len() <= recado_domain::limits::EMAIL_BYTES
        && !text.chars().any(char::is_control)
        && email_address::EmailAddress::parse_with_options(text, options).is_ok()
}

/// The address with its domain as DNS has it: mail servers without SMTPUTF8 take no other.
pub(crate) fn with_ascii_domain(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((local, domain)) => format!("{local}@{}", ascii_domain(domain)),
        None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: MailSettings) -> Result<MailConfig, InvalidMailConfig> {
        MailConfig::new(settings)
    }

    fn with_base(base_url: &str) -> Result<MailConfig, InvalidMailConfig> {
        config(MailSettings { base_url: Some(base_url.to_owned()), ..MailSettings::from("a@example.com") })
    }

    #[test]
    fn a_sender_is_an_address_with_or_without_a_name() {
        let plain = config(MailSettings::from("recado@localhost")).unwrap();
        assert_eq!(plain.from, Mailbox { name: None, address: "recado@localhost".to_owned() });
        let named = config(MailSettings::from(r#""Example, Inc." <news@bücher.example>"#)).unwrap();
        assert_eq!(named.from, Mailbox { name: Some("Example, Inc.".to_owned()), address: "news@xn--bcher-kva.example".to_owned() });
        for bad in ["", "news", "Example <news>", "a@b\r\nBcc: c@d", "A\r\nBcc: c@d <a@example.com>", "<>", "a@example.com, b@example.com"]
        {
            assert_eq!(config(MailSettings::from(bad)), Err(InvalidMailConfig::From), "{bad:?}");
        }
    }

    #[test]
    fn limits_let_something_through() {
        let settings = MailSettings::from("a@example.com");
        let stopped = MailSettings { per_second: Some(0), ..settings.clone() };
        assert_eq!(config(stopped), Err(InvalidMailConfig::Zero("the rate")));
        assert_eq!(config(MailSettings { concurrency: 0, ..settings }), Err(InvalidMailConfig::Zero("the concurrency")));
    }

    #[test]
    fn a_claim_outlasts_waiting_and_sending() {
        let slow = MailSettings { per_second: Some(1), concurrency: 200, ..MailSettings::from("a@example.com") };
        assert!(matches!(config(slow.clone()), Err(InvalidMailConfig::Lease { .. })));
        assert!(config(MailSettings { concurrency: 100, ..slow }).is_ok());
    }

    #[test]
    fn a_path_makes_a_link_only_below_a_base() {
        let none = config(MailSettings::from("a@example.com")).unwrap();
        assert_eq!(none.link("/publications/42"), None);
        assert_eq!(none.link("https://example.com/x").as_deref(), Some("https://example.com/x"));
        let base = with_base("https://app.example.com/en/").unwrap();
        assert_eq!(base.link("/a b?c=d#e").as_deref(), Some("https://app.example.com/en/a%20b?c=d#e"));
        assert_eq!(base.link("javascript:alert(1)"), None);
        for bad in ["app.example.com", "ftp://example.com", "https://example.com/?a=b", "https://example.com/#x"] {
            assert_eq!(with_base(bad), Err(InvalidMailConfig::BaseUrl), "{bad}");
        }
    }

    #[test]
    fn no_address_reaches_a_log() {
        assert!(!format!("{:?}", config(MailSettings::from("secret@example.com")).unwrap()).contains("secret"));
    }
}
