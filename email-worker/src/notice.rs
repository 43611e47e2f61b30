//! What SES says became of a mail: an event of a configuration set (`eventType`) or a notification of an identity
//! (`notificationType`), as it is or wrapped by SNS.
//!
//! Reads what decides about addresses and nothing else, since SES may add fields at any time. No reason repeats a value: it may be
//! an address. Must not know: what is done about it.

use recado_domain::address::AddressKey;
use recado_domain::ports::SuppressionCause;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What SES sends when an SNS topic becomes an event destination, to see that it may; the one message of it that is no JSON.
const TOPIC_WORKS: &str = "Successfully validated SNS topic for Amazon SES event publishing.";
/// The most characters of a text of SES that are logged: its ids have about 60.
const LOGGED_CHARS: usize = 100;

/// What one message came to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    /// What happened.
    pub(crate) kind: Kind,
    /// To whom nothing more may be sent.
    pub(crate) addresses: Vec<AddressKey>,
    /// Addresses that are none, so that nothing can be remembered of them.
    pub(crate) unreadable: usize,
    /// SES's finer word for it, where it has one.
    pub(crate) detail: Option<String>,
    /// SES's id of the mail, which the worker logged when it sent it.
    pub(crate) mailer_id: Option<String>,
}

/// What happened to a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It came back for good.
    PermanentBounce,
    /// It came back; another one may arrive.
    TransientBounce,
    /// It came back, and nobody says why.
    UndeterminedBounce,
    /// Who reads it called it unwanted.
    Complaint,
    /// Who reads it says that it was wanted: a complaint taken back.
    NotSpam,
    /// Something that says nothing against an address.
    Other(&'static str),
}

/// Other events, as they are called here and by SES ("Contents of event data that Amazon SES publishes to Amazon SNS").
const OTHERS: [(&str, &str); 9] = [
    ("delivery", "Delivery"),
    ("send", "Send"),
    ("reject", "Reject"),
    ("open", "Open"),
    ("click", "Click"),
    ("rendering_failure", "Rendering Failure"),
    ("delivery_delay", "DeliveryDelay"),
    ("subscription", "Subscription"),
    // What SES sends when an SNS topic becomes that of an identity's notifications.
    ("test", "AmazonSnsSubscriptionSucceeded"),
];

impl Kind {
    /// As metrics name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::PermanentBounce => "permanent_bounce",
            Self::TransientBounce => "transient_bounce",
            Self::UndeterminedBounce => "undetermined_bounce",
            Self::Complaint => "complaint",
            Self::NotSpam => "not_spam",
            Self::Other(name) => name,
        }
    }

    /// Why nothing more may be sent, if so.
    pub(crate) fn cause(self) -> Option<SuppressionCause> {
        match self {
            Self::PermanentBounce => Some(SuppressionCause::Bounce),
            Self::Complaint => Some(SuppressionCause::Complaint),
            Self::TransientBounce | Self::UndeterminedBounce | Self::NotSpam | Self::Other(_) => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bounce {
    bounce_type: String,
    bounce_sub_type: Option<String>,
    bounced_recipients: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Complaint {
    complained_recipients: Vec<Named>,
    complaint_feedback_type: Option<String>,
}

/// A recipient, as both name them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    email_address: String,
    /// What the mail server did, where it said so (RFC 3464, 2.3.3).
    action: Option<String>,
}

impl Notice {
    /// Reads a message of the feedback queue.
    ///
    /// # Errors
    /// Says what is wrong with it, without any of its values.
    pub(crate) fn parse(body: &str) -> Result<Self, String> {
        let outer = match json(body) {
            Err(_) if body.trim() == TOPIC_WORKS => return Ok(Self::of(Kind::Other("test"), None)),
            outer => outer?,
        };
        match outer.get("Type").and_then(Value::as_str) {
            Some("Notification") => match outer.get("Message").and_then(Value::as_str) {
                Some(TOPIC_WORKS) => Ok(Self::of(Kind::Other("test"), None)),
                Some(message) => Self::read(&json(message).map_err(|problem| format!("`Message` of SNS {problem}"))?),
                None => Err("is wrapped by SNS, but has no text `Message`".to_owned()),
            },
            Some("SubscriptionConfirmation") => {
                Err("is SNS's question whether this queue subscribes to a topic: confirm it, or delete the subscription".to_owned())
            }
            _ => Self::read(&outer),
        }
    }

    fn of(kind: Kind, mailer_id: Option<String>) -> Self {
        Self { kind, addresses: Vec::new(), unreadable: 0, detail: None, mailer_id }
    }

    fn read(document: &Value) -> Result<Self, String> {
        let name = document.get("eventType").or_else(|| document.get("notificationType")).and_then(Value::as_str);
        let name = name.ok_or("has neither `eventType` nor `notificationType`: it is nothing that SES publishes about a mail")?;
        let mailer_id = document.pointer("/mail/messageId").and_then(Value::as_str).and_then(loggable);
        match name {
            "Bounce" => Self::bounce(document, mailer_id),
            "Complaint" => Self::complaint(document, mailer_id),
            _ => match OTHERS.iter().find(|(_, ses)| *ses == name) {
                Some((ours, _)) => Ok(Self::of(Kind::Other(ours), mailer_id)),
                None => Err("is of a type that Recado does not know; see `eventType` or `notificationType`".to_owned()),
            },
        }
    }

    fn bounce(document: &Value, mailer_id: Option<String>) -> Result<Self, String> {
        let bounce: Bounce = part(document, "bounce")?;
        let kind = match bounce.bounce_type.as_str() {
            "Permanent" => Kind::PermanentBounce,
            "Transient" => Kind::TransientBounce,
            "Undetermined" => Kind::UndeterminedBounce,
            _ => return Err("`bounce.bounceType` is none of `Permanent`, `Transient` and `Undetermined`".to_owned()),
        };
        let named = bounce.bounced_recipients;
        // A mail server that still tries says `delayed`, whatever became of the others.
        let failed: Vec<&Named> =
            named.iter().filter(|one| one.action.as_deref().is_none_or(|action| action.eq_ignore_ascii_case("failed"))).collect();
        let detail = bounce.bounce_sub_type.as_deref().and_then(loggable);
        match kind {
            Kind::PermanentBounce if named.is_empty() => Err("`bounce.bouncedRecipients` of a permanent bounce names nobody".to_owned()),
            Kind::PermanentBounce if failed.is_empty() => Ok(Self { detail, ..Self::of(Kind::TransientBounce, mailer_id) }),
            Kind::PermanentBounce => Ok(Self { detail, ..Self::against(kind, &failed, document, mailer_id) }),
            _ => Ok(Self { detail, ..Self::of(kind, mailer_id) }),
        }
    }

    fn complaint(document: &Value, mailer_id: Option<String>) -> Result<Self, String> {
        let complaint: Complaint = part(document, "complaint")?;
        let detail = complaint.complaint_feedback_type.as_deref().and_then(loggable);
        if complaint.complaint_feedback_type.as_deref() == Some("not-spam") {
            return Ok(Self { detail, ..Self::of(Kind::NotSpam, mailer_id) });
        }
        let named: Vec<&Named> = complaint.complained_recipients.iter().collect();
        if named.is_empty() {
            return Err("`complaint.complainedRecipients` names nobody".to_owned());
        }
        Ok(Self { detail, ..Self::against(Kind::Complaint, &named, document, mailer_id) })
    }

    /// Against everybody named, and whom the mail was sent to where that is one person alone, as it is with Recado's: behind a
    /// forwarding address the mail server names another one than Recado sends to.
    fn against(kind: Kind, named: &[&Named], document: &Value, mailer_id: Option<String>) -> Self {
        let destination = document.pointer("/mail/destination").and_then(Value::as_array);
        let sole = destination.filter(|all| all.len() == 1).and_then(|all| all[0].as_str());
        let mut notice = Self::of(kind, mailer_id);
        for address in named.iter().map(|one| one.email_address.as_str()) {
            match AddressKey::of(bare(address)) {
                Ok(key) => notice.addresses.push(key),
                Err(_) => notice.unreadable += 1,
            }
        }
        notice.addresses.extend(sole.and_then(|address| AddressKey::of(bare(address)).ok()));
        notice.addresses.sort_unstable();
        notice.addresses.dedup();
        notice
    }
}

/// A part of the document, as `T`.
fn part<T: DeserializeOwned>(document: &Value, name: &str) -> Result<T, String> {
    let part = document.get(name).ok_or_else(|| format!("has no `{name}`"))?;
    serde_path_to_error::deserialize(part).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { name.to_owned() } else { format!("{name}.{path}") };
        format!("`{path}` is missing something, or is of another kind than SES documents")
    })
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("is not JSON (line {}, column {})", error.line(), error.column()))
}

/// The address within `Alice <alice@example.com>`.
fn bare(address: &str) -> &str {
    let address = address.trim();
    address.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')).map_or(address, |(_, address)| address)
}

/// A word of SES for a log line; nothing that could be an address or more than a word.
fn loggable(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.len() <= LOGGED_CHARS && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn key(address: &str) -> AddressKey {
        AddressKey::of(address).unwrap()
    }

    fn keys(addresses: &[&str]) -> Vec<AddressKey> {
        let mut keys: Vec<_> = addresses.iter().map(|address| key(address)).collect();
        keys.sort_unstable();
        keys
    }

    fn parse(document: &Value) -> Result<Notice, String> {
        Notice::parse(&document.to_string())
    }

    fn bounce(kind: &str, recipients: Value) -> Value {
        json!({
            "eventType": "Bounce",
            "bounce": {"bounceType": kind, "bounceSubType": "General", "bouncedRecipients": recipients},
            "mail": {"messageId": "0100-a1", "destination": ["alice@example.com"]},
        })
    }

    #[test]
    fn a_recipient_with_whom_a_mail_server_still_tries_is_left_alone() {
        let recipients =
            json!([{"emailAddress": "a@example.com", "action": "failed"}, {"emailAddress": "b@example.com", "action": "delayed"}]);
        let mut document = bounce("Permanent", recipients);
        document["mail"]["destination"] = json!(["a@example.com", "b@example.com"]);
        let notice = parse(&document).unwrap();
        assert_eq!((notice.kind, notice.addresses), (Kind::PermanentBounce, keys(&["a@example.com"])));

        let delayed = parse(&bounce("Permanent", json!([{"emailAddress": "alice@example.com", "action": "delayed"}]))).unwrap();
        assert_eq!((delayed.kind, delayed.addresses), (Kind::TransientBounce, vec![]));
    }

    #[test]
    fn whom_recado_sent_to_counts_where_a_forwarding_address_bounced() {
        let notice = parse(&bounce("Permanent", json!([{"emailAddress": "elsewhere@example.org"}]))).unwrap();
        assert_eq!(notice.addresses, keys(&["alice@example.com", "elsewhere@example.org"]));
        assert_eq!(notice.mailer_id.as_deref(), Some("0100-a1"));
    }

    #[test]
    fn of_a_mail_to_several_only_those_named_count() {
        let mut document = bounce("Permanent", json!([{"emailAddress": "elsewhere@example.org"}]));
        document["mail"]["destination"] = json!(["alice@example.com", "bob@example.com"]);
        assert_eq!(parse(&document).unwrap().addresses, keys(&["elsewhere@example.org"]));
    }

    #[test]
    fn an_address_is_found_behind_a_name() {
        let mut document = bounce("Permanent", json!([{"emailAddress": "Alice <alice@EXAMPLE.com>"}]));
        document["mail"]["destination"] = json!(["\"Alice\" <alice@example.com>"]);
        assert_eq!(parse(&document).unwrap().addresses, keys(&["alice@example.com"]));
    }

    #[test]
    fn a_complaint_that_is_taken_back_is_none() {
        let mut document = json!({"notificationType": "Complaint", "complaint": {
            "complainedRecipients": [{"emailAddress": "alice@example.com"}], "complaintFeedbackType": "not-spam"}});
        assert_eq!(parse(&document).unwrap().kind, Kind::NotSpam);
        document["complaint"]["complaintFeedbackType"] = json!("abuse");
        assert_eq!(parse(&document).unwrap().addresses, keys(&["alice@example.com"]));
    }

    #[test]
    fn what_ses_sends_to_try_a_topic_says_nothing() {
        let wrapped = json!({"Type": "Notification", "Message": TOPIC_WORKS}).to_string();
        let identity =
            json!({"notificationType": "AmazonSnsSubscriptionSucceeded", "message": "You have successfully subscribed"}).to_string();
        for body in [TOPIC_WORKS, &wrapped, &identity] {
            assert_eq!(Notice::parse(body).unwrap().kind, Kind::Other("test"), "{body}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_no_value_is_repeated() {
        let secret = "alice@example.com";
        let wrapped = |message: Value| json!({"Type": "Notification", "Message": message});
        let cases = [
            (json!(secret), "neither `eventType` nor `notificationType`"),
            (json!([secret]), "neither"),
            (json!({"eventType": 7}), "neither"),
            (json!({"eventType": secret}), "a type that Recado does not know"),
            (json!({"eventType": "Bounce"}), "has no `bounce`"),
            (json!({"eventType": "Bounce", "bounce": secret}), "`bounce` is missing something"),
            (bounce(secret, json!([])), "`bounce.bounceType`"),
            (bounce("Permanent", json!([])), "names nobody"),
            (bounce("Permanent", json!(secret)), "`bounce.bouncedRecipients` is missing something"),
            (bounce("Permanent", json!([{"emailAddress": {"secret": secret}}])), "`bounce.bouncedRecipients[0].emailAddress`"),
            (json!({"notificationType": "Complaint", "complaint": {"complainedRecipients": []}}), "names nobody"),
            (json!({"notificationType": "Complaint", "complaint": {}}), "`complaint` is missing something"),
            (wrapped(json!(null)), "no text `Message`"),
            (wrapped(json!(secret)), "`Message` of SNS is not JSON"),
            (wrapped(json!(wrapped(json!("{}")).to_string())), "neither"),
            (json!({"Type": "SubscriptionConfirmation", "SubscribeURL": secret}), "confirm it"),
        ];
        for (document, expected) in cases {
            let problem = parse(&document).unwrap_err();
            assert!(problem.contains(expected) && !problem.contains("alice"), "{document}: {problem}");
        }
        assert!(Notice::parse("<alice@example.com>").unwrap_err().contains("is not JSON (line 1, column 1)"));
        assert!(Notice::parse(&"[".repeat(100_000)).unwrap_err().contains("is not JSON"));
    }

    #[test]
    fn an_address_that_is_none_is_counted_and_hides_no_other() {
        let notice = parse(&bounce("Permanent", json!([{"emailAddress": "redacted"}, {"emailAddress": "bob@example.com"}]))).unwrap();
        assert_eq!((notice.unreadable, notice.addresses), (1, keys(&["alice@example.com", "bob@example.com"])));
    }

    #[test]
    fn nothing_but_words_of_ses_reaches_a_log() {
        let mut document = bounce("Transient", json!([]));
        document["mail"]["messageId"] = json!("alice@example.com");
        document["bounce"]["bounceSubType"] = json!("a\nforged line");
        let notice = parse(&document).unwrap();
        assert_eq!((notice.mailer_id, notice.detail), (None, None));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_with_a_reason(text in ".*") {
            let read = [
                Notice::parse(&text),
                Notice::parse(&json!({"Type": "Notification", "Message": text}).to_string()),
                parse(&bounce("Permanent", json!([{"emailAddress": text}]))),
            ];
            for problem in read.into_iter().filter_map(Result::err) {
                prop_assert!(!problem.is_empty());
            }
        }

        #[test]
        fn a_permanent_bounce_is_against_everybody_it_names(names in proptest::collection::vec("[a-zA-Z0-9.+_-]{1,20}", 1..20)) {
            let addresses: Vec<String> = names.iter().map(|name| format!("{name}@example.org")).collect();
            let recipients: Vec<Value> = addresses.iter().map(|address| json!({"emailAddress": address})).collect();
            let notice = parse(&bounce("Permanent", Value::Array(recipients))).unwrap();
            prop_assert!(addresses.iter().all(|address| notice.addresses.contains(&key(address))));
        }
    }
}
