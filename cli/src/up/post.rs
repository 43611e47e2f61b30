//! How mail leaves this machine, or does not: the settings decide between a mail server and the local mailbox.
//!
//! Must not know: what a mail says.

use recado_domain::ports::{Mailer, Outcome, OutgoingMail};
use recado_email_worker::{MailConfig, MailSettings, Templates, prepare};
use recado_embedded::{Mailbox, Smtp, Store};
use recado_runtime::settings::Spelling;

use super::settings::{Contradiction, Settings};

/// Where mail goes.
pub(super) enum Post {
    /// Kept here, to be looked at.
    Captured(Mailbox),
    /// Handed to a server.
    Sent(Box<Smtp>),
}

impl Mailer for Post {
    async fn send(&self, mail: &OutgoingMail) -> Outcome<String> {
        match self {
            Self::Captured(mailbox) => mailbox.send(mail).await,
            Self::Sent(smtp) => smtp.send(mail).await,
        }
    }
}

/// Mail settings that hold.
pub(super) struct Prepared {
    pub(super) config: MailConfig,
    pub(super) templates: Templates,
    smtp: Option<Smtp>,
}

impl Prepared {
    /// Checks the settings, the templates included.
    pub(super) fn new(settings: &Settings) -> Result<Self, Contradiction> {
        let base_url = settings.mail_base_url.as_ref().map(|url| url.as_str().to_owned());
        let mail = MailSettings { base_url, ..MailSettings::from(settings.mail_from.clone()) };
        let (config, templates) =
            prepare(Spelling::Flags, mail, settings.templates.as_deref()).map_err(|mut problems| problems.remove(0))?;
        let smtp = match &settings.smtp {
            Some(url) => {
                let fix = "give it as smtps://user:password@smtp.example.com";
                Some(Smtp::new(&url.0).map_err(|error| Contradiction::new(format!("--smtp {error}"), fix))?)
            }
            None => None,
        };
        Ok(Self { config, templates, smtp })
    }

    /// The mailer, and the rest.
    pub(super) fn open(self, store: &Store) -> (Post, MailConfig, Templates) {
        let post = self.smtp.map_or_else(|| Post::Captured(store.mailbox()), |smtp| Post::Sent(Box::new(smtp)));
        (post, self.config, self.templates)
    }
}
