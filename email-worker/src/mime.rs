//! Builds the message as it leaves: headers and two renderings of the same text.
//!
//! A boundary of its own: no value, wherever it comes from, makes a header or a line of the envelope of its own.
//! Must not know: templates, claims, who hands it over.

use jiff::Timestamp;
use mail_builder::MessageBuilder;
use mail_builder::headers::address::Address;
use mail_builder::headers::message_id::MessageId;
use mail_builder::headers::raw::Raw;
use recado_domain::event::Recipient;
use recado_domain::failure::Failure;
use recado_domain::ids::DeliveryKey;
use recado_domain::ports::{Outcome, OutgoingMail};
use sha2::{Digest, Sha256};

use crate::config::{Mailbox, is_address, with_ascii_domain};
use crate::template::Rendered;

/// The most characters of a subject; lists of mails show fewer.
const SUBJECT_CHARS: usize = 200;

/// Builds the mail of one delivery.
///
/// # Errors
/// Permanent, when the recipient has no address or what is there is none.
pub(crate) fn build(
    from: &Mailbox,
    delivery: DeliveryKey,
    recipient: &Recipient,
    rendered: Rendered,
    now: Timestamp,
) -> Outcome<OutgoingMail> {
    let email = recipient.email.as_deref().ok_or_else(|| Failure::permanent("the recipient has no e-mail address"))?;
    if !is_address(email) {
        return Err(Failure::permanent("the recipient's e-mail address is none"));
    }
    let to = with_ascii_domain(email);
    let name = recipient.name.as_deref().map(|name| one_line(name, usize::MAX)).filter(|name| !name.is_empty());
    let message = MessageBuilder::new()
        .from(Address::new_address(from.name.as_deref(), from.address.as_str()))
        .to(Address::new_address(name, to.as_str()))
        .subject(one_line(&rendered.subject, SUBJECT_CHARS))
        .date(now.as_second())
        .message_id(MessageId::new(message_id(from, &delivery)))
        // RFC 3834: keeps out-of-office replies from answering.
        .header("Auto-Submitted", Raw::new("auto-generated"))
        .header("X-Recado-Notification", Raw::new(delivery.notification.to_string()))
        .text_body(rendered.text)
        .html_body(rendered.html)
        .write_to_vec()
        .map_err(|error| Failure::permanent(format!("the message cannot be built: {}", error.kind())))?;
    Ok(OutgoingMail { delivery, from: from.address.clone(), to, message })
}

/// The same for every try of a delivery, so that a second mail can be told from a new one; it does not show the user's id.
fn message_id(from: &Mailbox, delivery: &DeliveryKey) -> String {
    let digest = Sha256::digest(delivery.recipient.joined());
    let recipient: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let domain = from.address.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
    format!("{}.{recipient}@{domain}", delivery.notification)
}

/// Control characters and runs of space become one space; what is too long ends in `…`.
pub(crate) fn one_line(text: &str, limit: usize) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    match line.char_indices().nth(limit) {
        None => line,
        Some(_) => {
            let mut short: String = line.chars().take(limit.saturating_sub(1)).collect();
            short.truncate(short.trim_end().len());
            short.push('…');
            short
        }
    }
}

#[cfg(test)]
mod tests {
    use mail_parser::{Message, MessageParser, MimeHeaders};
    use proptest::prelude::*;
    use recado_domain::ids::{NotificationId, RecipientKey, TenantId, UserId};

    use super::*;

    fn delivery(user: &str) -> DeliveryKey {
        let recipient = RecipientKey::new(TenantId::default(), UserId::new(user).unwrap());
        DeliveryKey { recipient, notification: NotificationId::of("/publications", "01JD") }
    }

    fn mail(name: Option<&str>, email: Option<&str>, subject: &str) -> Outcome<OutgoingMail> {
        let from = Mailbox { name: Some("Example, Inc.".to_owned()), address: "news@example.com".to_owned() };
        let recipient =
            Recipient { email: email.map(str::to_owned), name: name.map(str::to_owned), ..Recipient::new(UserId::new("alice").unwrap()) };
        let rendered = Rendered { subject: subject.to_owned(), text: "Olá\n".to_owned(), html: "<p>Olá</p>\n".to_owned() };
        build(&from, delivery("alice"), &recipient, rendered, "2026-11-24T10:00:00Z".parse().unwrap())
    }

    fn headers(message: &Message<'_>) -> Vec<String> {
        message.headers().iter().map(|header| header.name().to_owned()).collect()
    }

    const HEADERS: [&str; 9] =
        ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "X-Recado-Notification", "MIME-Version", "Content-Type"];

    #[test]
    fn a_mail_says_whom_it_is_from_and_for_and_that_no_person_wrote_it() {
        let mail = mail(Some("Alice Müller"), Some("alice@bücher.example"), "Você pode ver").unwrap();
        let parsed = MessageParser::default().parse(&mail.message).unwrap();
        assert_eq!(headers(&parsed), HEADERS);
        assert_eq!((mail.from.as_str(), mail.to.as_str()), ("news@example.com", "alice@xn--bcher-kva.example"));
        let from = parsed.from().unwrap().first().unwrap();
        assert_eq!((from.name(), from.address()), (Some("Example, Inc."), Some("news@example.com")));
        let to = parsed.to().unwrap().first().unwrap();
        assert_eq!((to.name(), to.address()), (Some("Alice Müller"), Some("alice@xn--bcher-kva.example")));
        assert_eq!(parsed.subject(), Some("Você pode ver"));
        assert_eq!(parsed.date().unwrap().to_rfc3339(), "2026-11-24T10:00:00Z");
        assert_eq!(parsed.header_raw("Auto-Submitted").map(str::trim), Some("auto-generated"));
        assert_eq!(parsed.header_raw("X-Recado-Notification").map(str::trim), Some("00pn568fyznyxf8h5ta5dc69m8"));
        let bodies = [parsed.body_text(0), parsed.body_html(0)].map(|body| body.unwrap().replace("\r\n", "\n"));
        assert_eq!(bodies, ["Olá\n", "<p>Olá</p>\n"]);
        let kind = parsed.content_type().unwrap();
        assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("alternative")));
    }

    #[test]
    fn a_second_mail_of_a_delivery_has_the_message_id_of_the_first() {
        let from = Mailbox { name: None, address: "news@example.com".to_owned() };
        let id = message_id(&from, &delivery("alice"));
        // Pinned: a change would make a second mail look like a new one.
        assert_eq!(id, "00pn568fyznyxf8h5ta5dc69m8.0198dae176ced42f09f7c4880158aa66@example.com");
        assert_ne!(id, message_id(&from, &delivery("bob")));
        assert!(!id.contains("alice"));
    }

    #[test]
    fn what_is_no_address_is_refused_for_good_and_not_repeated() {
        for bad in [None, Some("a@b.example>\r\nBcc: c@d.example"), Some("Alice <a@b.example>"), Some("a@b.example,c@d.example"), Some("")]
        {
            let failure = mail(None, bad, "s").unwrap_err();
            assert!(!failure.is_transient());
            assert!(!failure.reason().contains('@'), "{failure}");
        }
    }

    #[test]
    fn a_subject_is_one_line_of_a_sane_length() {
        assert_eq!(one_line("  You\r\n\tcan\u{0}now \u{2028} view ", 200), "You can now view");
        assert_eq!(one_line(&"é".repeat(201), 200), format!("{}…", "é".repeat(199)));
        assert_eq!(one_line(&"é".repeat(200), 200), "é".repeat(200));
        assert_eq!(one_line("one two", 5), "one…");
    }

    proptest! {
        #[test]
        fn no_name_or_subject_makes_a_header(name in "[\\x00-\\x7f\u{80}-\u{ff}\u{2028}]{0,80}", subject in "(?s).{0,80}") {
            let hostile = format!("{name}\r\nBcc: evil@example.com\r\n\r\n{subject}");
            let mail = mail(Some(&hostile), Some("alice@example.com"), &hostile).unwrap();
            let parsed = MessageParser::default().parse(&mail.message).unwrap();
            prop_assert_eq!(headers(&parsed), HEADERS);
            prop_assert_eq!(parsed.to().unwrap().iter().count(), 1);
            prop_assert_eq!(parsed.to().unwrap().first().unwrap().address(), Some("alice@example.com"));
        }
    }
}
