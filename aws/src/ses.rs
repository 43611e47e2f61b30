//! Mail through SES. Must not know: what a mail says, who may be sent to.

use aws_sdk_ses::config::Builder;
use aws_sdk_ses::config::retry::RetryConfig;
use aws_sdk_ses::primitives::Blob;
use aws_sdk_ses::types::{MessageTag, RawMessage};
use recado_domain::ports::{Mailer, Outcome, OutgoingMail};

use crate::clients::Clients;
use crate::failure::failure_of;

/// A tag's value, in characters (SES API, MessageTag).
const TAG_LENGTH: usize = 256;

/// Hands mail to SES as it was built, for the recipient of its envelope alone.
#[derive(Debug, Clone)]
pub struct SesMailer {
    ses: aws_sdk_ses::Client,
    configuration_set: Option<String>,
}

impl SesMailer {
    /// The configuration set says where bounces and complaints are reported.
    pub fn new(clients: &Clients, configuration_set: Option<String>) -> Self {
        Self { ses: clients.ses.clone(), configuration_set }
    }

    /// The mails that this account may send in a second, all processes together. SES counts recipients, and every mail
    /// has one ("Managing your Amazon SES sending limits").
    ///
    /// # Errors
    /// As every call.
    pub async fn max_send_rate(&self) -> Outcome<f64> {
        // Unlike sending, asking may be repeated.
        let call = self.ses.get_send_quota().customize().config_override(Builder::new().retry_config(RetryConfig::standard()));
        call.send().await.map(|quota| quota.max_send_rate()).map_err(|error| failure_of(&error))
    }
}

impl Mailer for SesMailer {
    async fn send(&self, mail: &OutgoingMail) -> Outcome<String> {
        let message = RawMessage::builder().data(Blob::new(mail.message.as_slice())).build().expect("a message with data is complete");
        let call = self
            .ses
            .send_raw_email()
            .source(&mail.from)
            .destinations(&mail.to)
            .raw_message(message)
            .set_configuration_set_name(self.configuration_set.clone())
            .set_tags(Some(tags(mail)));
        call.send().await.map(|sent| sent.message_id().to_owned()).map_err(|error| failure_of(&error))
    }
}

/// What events and metrics of SES are grouped by: never a recipient. A tenant with characters that no tag has ("MessageTag", Amazon SES API
/// Reference: ASCII letters, digits, `_` and `-`), or that could be an address, has no tag.
fn tags(mail: &OutgoingMail) -> Vec<MessageTag> {
    let tag = |name: &str, value: &str| {
        let allowed = |character: char| character.is_ascii_alphanumeric() || "_-".contains(character);
        let fits = !value.is_empty() && value.len() <= TAG_LENGTH && value.chars().all(allowed);
        fits.then(|| MessageTag::builder().name(name).value(value).build().expect("a tag with name and value is complete"))
    };
    let tenant = tag("tenant", mail.delivery.recipient.tenant.as_str());
    let notification = tag("notification", &mail.delivery.notification.to_string());
    tenant.into_iter().chain(notification).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Answer, Script};
    use recado_domain::ids::{DeliveryKey, NotificationId, RecipientKey, TenantId, UserId};

    fn mail(tenant: &str) -> OutgoingMail {
        let recipient = RecipientKey::new(TenantId::new(tenant).unwrap(), UserId::new("alice@example.com").unwrap());
        let delivery = DeliveryKey { recipient, notification: NotificationId::of("/s", "1") };
        let (from, to) = ("news@example.com".to_owned(), "alice@example.com".to_owned());
        OutgoingMail { delivery, from, to, message: b"Subject: hi\r\n\r\nhi\r\n".to_vec() }
    }

    fn tag_values(tenant: &str) -> Vec<String> {
        tags(&mail(tenant)).into_iter().map(|tag| tag.value).collect()
    }

    #[test]
    fn a_tag_never_holds_an_address() {
        let notification = NotificationId::of("/s", "1").to_string();
        assert_eq!(tag_values("acme-1"), ["acme-1", &notification]);
        for tenant in ["acme@example.com", "acme.com", "ac me", "acmé"] {
            assert_eq!(tag_values(tenant), [notification.as_str()], "{tenant}");
        }
    }

    #[tokio::test]
    async fn a_mail_leaves_for_its_envelope_with_the_configuration_set() {
        let script = Script::default().then("SendRawEmail", |form| {
            assert_eq!(form["Source"], "news@example.com");
            assert_eq!(form["Destinations.member.1"], "alice@example.com");
            assert_eq!(form["ConfigurationSetName"], "recado");
            assert_eq!(form["RawMessage.Data"], "U3ViamVjdDogaGkNCg0KaGkNCg==");
            assert_eq!(form["Tags.member.1.Name"], "tenant");
            Answer::Text(
                200,
                "<SendRawEmailResponse><SendRawEmailResult><MessageId>m-1</MessageId></SendRawEmailResult></SendRawEmailResponse>"
                    .to_owned(),
            )
        });
        let mailer = SesMailer::new(&script.clients(), Some("recado".to_owned()));
        assert_eq!(mailer.send(&mail("acme")).await, Ok("m-1".to_owned()));
        script.end();
    }

    #[tokio::test]
    async fn a_refusal_names_no_address() {
        let refused = "<ErrorResponse><Error><Code>MessageRejected</Code><Message>Email address is not verified. The following identities failed the check in region EU-WEST-1: alice@example.com</Message></Error></ErrorResponse>";
        let script = Script::default().then("SendRawEmail", |_| Answer::Text(400, refused.to_owned()));
        let failure = SesMailer::new(&script.clients(), None).send(&mail("acme")).await.unwrap_err();
        assert!(!failure.is_transient() && failure.reason().contains("verified") && !failure.reason().contains('@'), "{failure}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_asked_for_again_where_a_mail_is_not_sent_again() {
        let quota = "<GetSendQuotaResponse><GetSendQuotaResult><Max24HourSend>200</Max24HourSend><MaxSendRate>1.5</MaxSendRate></GetSendQuotaResult></GetSendQuotaResponse>";
        let script = Script::default().then("GetSendQuota", |_| Answer::Lost).then("GetSendQuota", |_| Answer::Text(200, quota.to_owned()));
        assert_eq!(SesMailer::new(&script.clients(), None).max_send_rate().await, Ok(1.5));
        let script = Script::default().then("SendRawEmail", |_| Answer::Lost);
        assert!(SesMailer::new(&script.clients(), None).send(&mail("acme")).await.unwrap_err().is_transient());
        script.end();
    }
}
