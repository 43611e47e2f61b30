//! The email worker on AWS: what both of its processes read and put together.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use recado_aws::dynamo::{DynamoClaims, DynamoSuppressions};
use recado_aws::settings::{Environment, QueueName};
use recado_aws::{Clients, SesMailer, SqsQueue};
use recado_email_worker::{EmailWorker, MailConfig, MailSettings, Ports, Templates, prepare};
use recado_runtime::settings::{Contradiction, Spelling};
use recado_runtime::system::{SystemClock, SystemEntropy};

/// A second more than the SDK gives a mail (`MAIL` in aws/src/clients.rs): how long one may take decides until when a run of a
/// minute begins mails.
const SEND: Duration = Duration::from_secs(21);

/// The email worker on the ports of AWS.
pub(crate) type OnAws =
    EmailWorker<SesMailer, DynamoClaims<SystemClock>, DynamoSuppressions<SystemClock, SystemEntropy>, SystemClock, SystemEntropy>;

/// What it reads.
#[derive(Debug)]
pub(crate) struct Settings {
    table: String,
    /// The URL of the queue it drains.
    pub(crate) email_queue: String,
    email_dead_letters: String,
    configuration_set: Option<String>,
    mail: MailSettings,
    templates: Templates,
    /// How many processes share the account's sending rate.
    pub(crate) share: u32,
}

impl Settings {
    /// Reads what both processes read. `None` where something is missing or wrong, which `env` knows.
    pub(crate) fn read(env: &mut Environment) -> Option<Self> {
        let (table, email_queue, email_dead_letters) = (env.table(), env.queue(QueueName::Email), env.dead_letters(QueueName::Email));
        let (configuration_set, mail, share) = (env.text("RECADO_SES_CONFIGURATION_SET"), mail(env), share(env));
        let (mail, templates) = mail?;
        Some(Self {
            table: table?,
            email_queue: email_queue?,
            email_dead_letters: email_dead_letters?,
            configuration_set,
            mail,
            templates,
            share: share?,
        })
    }

    /// The queue it drains.
    pub(crate) fn queue(&self, clients: &Clients) -> SqsQueue {
        SqsQueue::new(clients, &self.email_queue, &self.email_dead_letters)
    }

    /// The worker, which sends so many mails a second at the most; without a number nothing limits the rate here, and
    /// what SES refuses for it is tried again.
    pub(crate) fn worker(self, clients: &Clients, per_second: Option<u32>) -> OnAws {
        let mailer = SesMailer::new(clients, self.configuration_set);
        tracing::info!(per_second, "mails a second of this process");
        let limited = MailConfig::new(MailSettings { per_second, ..self.mail.clone() });
        // Checked without a rate at the start, so only a rate too low for the lease remains.
        let config = limited.unwrap_or_else(|error| {
            tracing::warn!(%error, "the sending rate is too low for the concurrency; one mail at a time");
            MailConfig::new(MailSettings { per_second, concurrency: 1, ..self.mail }).expect("one mail waits a second at the most")
        });
        let ports = Ports {
            mailer: Arc::new(mailer),
            claims: Arc::new(DynamoClaims::new(clients, &self.table, SystemClock)),
            suppressions: Arc::new(DynamoSuppressions::new(clients, &self.table, SystemClock, SystemEntropy)),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        };
        EmailWorker::new(ports, self.templates, config)
    }
}

/// Asks SES how many mails a second the account may send: the part of it that one of `share` processes has, or nothing
/// where SES does not say.
pub(crate) async fn rate(clients: &Clients, share: u32) -> Option<u32> {
    match SesMailer::new(clients, None).max_send_rate().await {
        Ok(rate) => Some(share_of(rate, share)),
        Err(failure) => {
            tracing::warn!(reason = failure.reason(), "the sending rate of the account is not known; mail is sent without a limit");
            None
        }
    }
}

/// Sender, base of links and templates, checked together.
fn mail(env: &mut Environment) -> Option<(MailSettings, Templates)> {
    let (from, base_url, templates) = (env.text("RECADO_MAIL_FROM"), env.text("RECADO_MAIL_BASE_URL"), env.text("RECADO_TEMPLATES"));
    let Some(from) = from else {
        let fix = "set it to an address that SES has verified, such as news@example.com or Example <news@example.com>";
        env.note(Contradiction::new("RECADO_MAIL_FROM is missing: the sender of mail", fix));
        return None;
    };
    let mail = MailSettings { base_url, send_timeout: SEND, ..MailSettings::from(from) };
    match prepare(Spelling::Variables, mail.clone(), templates.as_deref().map(Path::new)) {
        Ok((_, templates)) => Some((mail, templates)),
        Err(problems) => {
            problems.into_iter().for_each(|problem| env.note(problem));
            None
        }
    }
}

fn share(env: &mut Environment) -> Option<u32> {
    Some(env.number("RECADO_MAIL_PROCESSES", "give how many email workers run at the most")?.map_or(1, NonZeroU32::get))
}

/// The mails a second of one of `processes`: one at least, though all together may then be throttled, and tried again.
fn share_of(rate: f64, processes: u32) -> u32 {
    // A cast from f64 saturates.
    ((rate / f64::from(processes)) as u32).max(1)
}
