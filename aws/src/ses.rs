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

/// What events and metrics of SES are grouped by: never a recipient. A tenant with characters that no tag has, or that
/// could be an address, has no tag.
fn tags(mail: &OutgoingMail) -> Vec<MessageTag> {
    let tag = |name: &str, value: &str| {
        let allowed = |character: char| character.is_ascii_alphanumeric() || "_-.".contains(character);
        let fits = !value.is_empty() && value.len() <= TAG_LENGTH && value.chars().all(allowed);
        fits.then(|| MessageTag::builder().name(name).value(value).build().expect("a tag with name and value is complete"))
    };
    let tenant = tag("tenant", mail.delivery.recipient.tenant.as_str());
    let notification = tag("notification", &mail.delivery.notification.to_string());
    tenant.into_iter().chain(notification).collect()
}
