//! From a message to mails: parse, leave out who is suppressed, and for everybody else claim, render, build, send, confirm.
//!
//! Must not know: which mailer hands over, where claims and suppressions are kept, who polls.

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, iter};

use backon::{ExponentialBuilder, Retryable};
use futures_util::stream::{self, StreamExt};
use leaky_bucket::RateLimiter;
use recado_domain::address::AddressKey;
use recado_domain::event::{Channel, Event, Recipient};
use recado_domain::failure::Failure;
use recado_domain::ids::{DeliveryKey, RecipientKey, UserId};
use recado_domain::message::short_reason;
use recado_domain::ports::{Claim, Clock, Entropy, MailClaims, Mailer, Outcome, Received, Suppression, Suppressions};
use recado_runtime::consumer::{Deadline, Disposition, Handler};
use tokio::sync::Semaphore;

use crate::config::MailConfig;
use crate::mime;
use crate::refused::Refused;
use crate::template::Templates;

/// What mailing needs of the world.
#[derive(Debug)]
pub struct Ports<M, L, S, K, E> {
    /// Hands mail over.
    pub mailer: Arc<M>,
    /// Who sends which mail.
    pub claims: Arc<L>,
    /// To whom nothing more is sent.
    pub suppressions: Arc<S>,
    /// Judges expiry; dates mails.
    pub clock: Arc<K>,
    /// Names the holders of claims.
    pub entropy: Arc<E>,
}

/// Handles the email queue; see the crate's documentation for what a message comes to.
pub struct EmailWorker<M, L, S, K, E> {
    ports: Ports<M, L, S, K, E>,
    templates: Templates,
    config: MailConfig,
    permits: Semaphore,
    rate: Option<RateLimiter>,
    refused: Refused,
}

impl<M, L, S, K, E> fmt::Debug for EmailWorker<M, L, S, K, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmailWorker").field("templates", &self.templates).field("config", &self.config).finish_non_exhaustive()
    }
}

impl<M: Mailer, L: MailClaims, S: Suppressions, K: Clock, E: Entropy> EmailWorker<M, L, S, K, E> {
    /// Puts the parts together. One per process: the rate and the concurrency are kept here.
    pub fn new(ports: Ports<M, L, S, K, E>, templates: Templates, config: MailConfig) -> Self {
        let permits = Semaphore::new(config.concurrency);
        let rate = config.per_second.map(limiter);
        Self { ports, templates, config, permits, rate, refused: Refused::new() }
    }

    async fn message(&self, message: Received, time: &Time<'_>) -> Disposition {
        let event = match Event::parse(message.body.as_bytes()) {
            Ok(event) => event,
            Err(invalid) => return Disposition::Reject { reason: short_reason(invalid.to_string()) },
        };
        if !event.wants(Channel::Email) {
            return skip("channel");
        }
        if event.has_expired(self.ports.clock.now()) {
            return skip("expired");
        }
        let holder = self.holder();
        // One question for all, before anything is claimed: who is suppressed leaves no claim behind, so that a redrive after
        // the suppression was lifted finds nothing in its way.
        let standings = self.standings(&event).await;
        let (event, run) = (&event, Run { message: &message.message_id, holder: &holder, time });
        // By place: a closure over a borrowed recipient makes a future that is not `Send` for every lifetime.
        let outcomes: Vec<Outcome<()>> = stream::iter(standings.into_iter().enumerate())
            .map(|(at, standing)| self.unless_suppressed(event, &event.data().recipients[at], standing, run))
            .buffered(self.config.concurrency)
            .collect()
            .await;
        settle(event, outcomes)
    }

    /// Nobody else's, so that a second handling of the same message never takes a claim for its own.
    fn holder(&self) -> String {
        format!("{:016x}{:016x}", self.ports.entropy.next_u64(), self.ports.entropy.next_u64())
    }

    /// Whether each recipient is suppressed. What is no address is nobody's, and is refused when the mail is built.
    async fn standings(&self, event: &Event) -> Vec<Outcome<Option<Suppression>>> {
        let keys: Vec<Option<AddressKey>> =
            event.data().recipients.iter().map(|recipient| AddressKey::of(recipient.email.as_deref()?).ok()).collect();
        let asked: Vec<AddressKey> = keys.iter().flatten().copied().collect();
        let mut answers = self.ports.suppressions.suppressed(&asked).await.into_iter();
        let unanswered = || Err(Failure::transient("nobody said whether the address is suppressed"));
        keys.into_iter().map(|key| key.map_or(Ok(None), |_| answers.next().unwrap_or_else(unanswered))).collect()
    }

    async fn unless_suppressed(
        &self,
        event: &Event,
        recipient: &Recipient,
        standing: Outcome<Option<Suppression>>,
        run: Run<'_>,
    ) -> Outcome<()> {
        let key = RecipientKey::new(event.data().tenant.clone(), recipient.id.clone());
        let delivery = DeliveryKey { recipient: key, notification: event.notification_id() };
        match standing {
            Ok(None) => match self.refused.reason(run.message, &delivery) {
                Some(reason) => Err(Failure::permanent(reason)),
                None => self.deliver(event, recipient, &delivery, run).await,
            },
            Ok(Some(suppression)) => {
                leave_out(&delivery, suppression);
                Ok(())
            }
            Err(failure) => {
                log_failure(&delivery, &failure);
                Err(failure)
            }
        }
    }

    async fn deliver(&self, event: &Event, recipient: &Recipient, delivery: &DeliveryKey, run: Run<'_>) -> Outcome<()> {
        let Run { message, holder, time } = run;
        // Before the claim, so that its lease does not run while others are mailed.
        let _permit = self.permits.acquire().await.map_err(|_| Failure::transient("the worker has stopped"))?;
        // A mail that is cut off between its sending and its record is sent again: better not begun.
        if time.deadline.left() < time.of_one {
            metrics::counter!("recado_mail_put_off_total").increment(1);
            return Err(Failure::transient("this run has no time left for it"));
        }
        let outcome = match self.ports.claims.claim(delivery, holder, self.config.lease).await {
            Ok(Claim::Sent) => {
                metrics::counter!("recado_mail_skipped_total", "reason" => "duplicate").increment(1);
                return Ok(());
            }
            Ok(Claim::HeldUntil(until)) => {
                metrics::counter!("recado_mail_held_total").increment(1);
                let wait = until.duration_since(self.ports.clock.now());
                return Err(Failure::Transient { retry_after: wait.try_into().ok(), reason: "somebody else has claimed it".to_owned() });
            }
            Ok(Claim::Taken) => self.send_claimed(event, recipient, delivery, holder).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = &outcome {
            log_failure(delivery, failure);
            if !failure.is_transient() {
                self.refused.remember(message, delivery, failure.reason());
            }
        }
        outcome
    }

    async fn send_claimed(&self, event: &Event, recipient: &Recipient, delivery: &DeliveryKey, holder: &str) -> Outcome<()> {
        if let Err(failure) = self.send(event, recipient, delivery).await {
            self.abandon(delivery, holder).await;
            return Err(failure);
        }
        metrics::counter!("recado_mail_sent_total").increment(1);
        self.confirm(delivery).await;
        Ok(())
    }

    async fn send(&self, event: &Event, recipient: &Recipient, delivery: &DeliveryKey) -> Outcome<()> {
        let now = self.ports.clock.now();
        let rendered = self.templates.render(&self.config, event, recipient, now)?;
        let mail = mime::build(&self.config.from, delivery.clone(), recipient, rendered, now)?;
        if let Some(rate) = &self.rate {
            rate.acquire_one().await;
        }
        let id = match tokio::time::timeout(self.config.send_timeout, self.ports.mailer.send(&mail)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(Failure::transient(format!("the mailer took longer than {:?}", self.config.send_timeout))),
        };
        tracing::info!(notification = %delivery.notification, user = %delivery.recipient.user, mailer_id = id, "mail sent");
        Ok(())
    }

    /// It was sent: a record that fails must not make it be sent again at once.
    async fn confirm(&self, delivery: &DeliveryKey) {
        let backoff = ExponentialBuilder::default().with_min_delay(Duration::from_millis(100)).with_max_times(5);
        let confirm = || self.ports.claims.confirm(delivery);
        if let Err(failure) = confirm.retry(backoff).when(Failure::is_transient).await {
            metrics::counter!("recado_mail_unconfirmed_total").increment(1);
            tracing::error!(
                notification = %delivery.notification,
                user = %delivery.recipient.user,
                reason = failure.reason(),
                "mail sent, but not recorded as sent: a redelivery after the claim's lease sends it again"
            );
        }
    }

    /// If it fails, the lease ends the claim.
    async fn abandon(&self, delivery: &DeliveryKey, holder: &str) {
        if let Err(failure) = self.ports.claims.abandon(delivery, holder).await {
            metrics::counter!("recado_mail_unabandoned_total").increment(1);
            tracing::warn!(
                notification = %delivery.notification,
                user = %delivery.recipient.user,
                reason = failure.reason(),
                "claim not abandoned: it waits for its lease"
            );
        }
    }
}

impl<M: Mailer, L: MailClaims, S: Suppressions, K: Clock, E: Entropy> Handler for EmailWorker<M, L, S, K, E> {
    async fn handle(&self, batch: Vec<Received>, deadline: &Deadline) -> Vec<Disposition> {
        // At least half of any time is there to begin mails in, so that one that is too short slows mail down, and does not end it.
        let time = Time { deadline, of_one: self.config.one_mail().min(deadline.left() / 2) };
        stream::iter(batch).map(|message| self.message(message, &time)).buffered(self.config.concurrency).collect().await
    }
}

/// The time of a batch, and what one mail is given of it at the most.
struct Time<'a> {
    deadline: &'a Deadline,
    of_one: Duration,
}

/// One handling of a message.
#[derive(Clone, Copy)]
struct Run<'a> {
    /// Its id.
    message: &'a str,
    /// Who holds the claims.
    holder: &'a str,
    time: &'a Time<'a>,
}

/// A tenth of a second's mails at a time: evenly enough for a quota by the second, coarse enough for any rate.
fn limiter(per_second: u32) -> RateLimiter {
    let portion = per_second.div_ceil(10);
    let interval = Duration::from_secs_f64(f64::from(portion) / f64::from(per_second));
    let portion = portion as usize;
    RateLimiter::builder().initial(portion).max(portion).refill(portion).interval(interval).build()
}

fn skip(reason: &'static str) -> Disposition {
    metrics::counter!("recado_mail_skipped_total", "reason" => reason).increment(1);
    Disposition::Done
}

/// Nothing is wrong with the event, and trying again would not help: this recipient is settled.
fn leave_out(delivery: &DeliveryKey, suppression: Suppression) {
    metrics::counter!("recado_mail_skipped_total", "reason" => "suppressed").increment(1);
    tracing::info!(
        notification = %delivery.notification,
        user = %delivery.recipient.user,
        cause = suppression.cause.as_str(),
        since = %suppression.since,
        "mail left out: its address is suppressed"
    );
}

fn log_failure(delivery: &DeliveryKey, failure: &Failure) {
    let kind = if failure.is_transient() { "transient" } else { "permanent" };
    metrics::counter!("recado_mail_failed_total", "kind" => kind).increment(1);
    tracing::warn!(
        notification = %delivery.notification,
        user = %delivery.recipient.user,
        kind,
        reason = failure.reason(),
        "mail not sent"
    );
}

/// While anybody may succeed the message is tried again as a whole; then whoever failed for good ends with it.
fn settle(event: &Event, outcomes: Vec<Outcome<()>>) -> Disposition {
    let (mut later, mut never, mut after) = (Vec::new(), Vec::new(), None);
    for (recipient, outcome) in iter::zip(&event.data().recipients, outcomes) {
        match outcome {
            Ok(()) => {}
            Err(Failure::Transient { retry_after, reason }) => {
                after = after.max(retry_after);
                later.push((&recipient.id, reason));
            }
            Err(Failure::Permanent { reason }) => never.push((&recipient.id, reason)),
        }
    }
    let of = event.data().recipients.len();
    let failed = || format!("no mail to {} of {of} recipients: {}", never.len(), listed(&never));
    if later.is_empty() {
        return if never.is_empty() { Disposition::Done } else { Disposition::Reject { reason: short_reason(failed()) } };
    }
    let mut reason = format!("mail to {} of {of} recipients has to wait: {}", later.len(), listed(&later));
    if !never.is_empty() {
        // First, so that cutting a long reason never hides who failed for good.
        reason = format!("{}; {reason}", failed());
    }
    Disposition::Retry { after, reason: short_reason(reason) }
}

/// `alice (mailbox unknown), bob (throttled)`.
fn listed(people: &[(&UserId, String)]) -> String {
    people.iter().map(|(user, reason)| format!("{user} ({reason})")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use mail_parser::MessageParser;
    use recado_domain::ids::{NotificationId, TenantId};
    use recado_domain::ports::{AckToken, OutgoingMail, SuppressionCause};
    use recado_memory::{ManualClock, MemoryClaims, MemoryMailer, MemorySuppressions, SeededEntropy};
    use serde_json::{Value, json};

    use super::*;
    use crate::config::MailSettings;

    const LEASE: Duration = Duration::from_secs(300);

    struct World {
        mailer: MemoryMailer,
        claims: MemoryClaims,
        suppressions: MemorySuppressions,
        clock: ManualClock,
        entropy: SeededEntropy,
    }

    impl World {
        fn new() -> Self {
            let clock = ManualClock::default();
            Self {
                mailer: MemoryMailer::new(),
                claims: MemoryClaims::new(clock.clone()),
                suppressions: MemorySuppressions::new(clock.clone()),
                clock,
                entropy: SeededEntropy::new(7),
            }
        }

        fn worker_with<M: Mailer>(
            &self,
            mailer: M,
            settings: MailSettings,
        ) -> EmailWorker<M, MemoryClaims, MemorySuppressions, ManualClock, SeededEntropy> {
            let ports = Ports {
                mailer: Arc::new(mailer),
                claims: Arc::new(self.claims.clone()),
                suppressions: Arc::new(self.suppressions.clone()),
                clock: Arc::new(self.clock.clone()),
                entropy: Arc::new(self.entropy.clone()),
            };
            EmailWorker::new(ports, Templates::load(None).unwrap(), MailConfig::new(settings).unwrap())
        }

        /// A worker of its own each time, as after a restart. One mail at a time, so that scripted faults meet recipients in order.
        async fn handle(&self, body: &Value) -> Disposition {
            let settings = MailSettings { concurrency: 1, ..MailSettings::from("Example <news@example.com>") };
            let answers = self.worker_with(self.mailer.clone(), settings).handle(vec![received(body)], &Deadline::never()).await;
            assert_eq!(answers.len(), 1);
            answers.into_iter().next().unwrap()
        }

        async fn suppress(&self, address: &str) {
            let key = AddressKey::of(address).unwrap();
            self.suppressions.suppress(&[(key, SuppressionCause::Bounce)]).await.remove(0).unwrap();
        }

        fn sent_to(&self) -> Vec<String> {
            self.mailer.sent().into_iter().map(|mail| mail.to).collect()
        }
    }

    fn received(body: &Value) -> Received {
        Received {
            token: AckToken("t".to_owned()),
            message_id: "m".to_owned(),
            body: body.to_string(),
            attributes: BTreeMap::new(),
            receive_count: 1,
        }
    }

    fn event(people: &[&str]) -> Value {
        let recipients: Vec<Value> = people.iter().map(|id| json!({"id": id, "email": format!("{id}@example.com")})).collect();
        json!({
            "specversion": "1.0", "id": "01JD", "source": "/publications", "type": "publication.permission_granted",
            "data": {"recipients": recipients, "channels": ["inbox", "email"], "title": "You can now view Q3 plan"}
        })
    }

    fn delivery(user: &str) -> DeliveryKey {
        let recipient = RecipientKey::new(TenantId::default(), UserId::new(user).unwrap());
        DeliveryKey { recipient, notification: NotificationId::of("/publications", "01JD") }
    }

    fn retry(after: Option<Duration>, reason: &str) -> Disposition {
        Disposition::Retry { after, reason: reason.to_owned() }
    }

    #[tokio::test]
    async fn each_recipient_is_sent_one_mail() {
        let world = World::new();
        assert_eq!(world.handle(&event(&["alice", "bob"])).await, Disposition::Done);
        assert_eq!(world.sent_to(), ["alice@example.com", "bob@example.com"]);
        let mail = &world.mailer.sent()[0];
        assert_eq!((mail.from.as_str(), &mail.delivery), ("news@example.com", &delivery("alice")));
        assert_eq!(MessageParser::default().parse(&mail.message).unwrap().subject(), Some("You can now view Q3 plan"));
        assert!(world.claims.is_sent(&delivery("alice")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_mail_that_may_not_end_in_time_is_not_begun_and_leaves_no_claim() {
        struct SevenSeconds;
        impl Mailer for SevenSeconds {
            async fn send(&self, _: &OutgoingMail) -> Outcome<String> {
                tokio::time::sleep(Duration::from_secs(7)).await;
                Ok("id".to_owned())
            }
        }
        let people: Vec<String> = (0..30).map(|n| format!("u{n}")).collect();
        let everybody = event(&people.iter().map(String::as_str).collect::<Vec<_>>());
        // One may take 40 s, of which it is given half of a minute; so the last one begins before that half, or 40 s before the end.
        for (whole, begun) in [(60, 5), (100, 9), (7_200, 30)] {
            let world = World::new();
            let worker = world.worker_with(SevenSeconds, MailSettings { concurrency: 1, ..MailSettings::from("news@example.com") });
            let deadline = Deadline::at(tokio::time::Instant::now() + Duration::from_secs(whole));
            let answer = worker.handle(vec![received(&everybody)], &deadline).await.remove(0);
            assert_eq!(answer == Disposition::Done, begun == 30, "{answer:?}");
            assert_eq!(world.claims.faults().calls("confirm"), begun, "of {whole} s");
            assert_eq!(world.claims.faults().calls("claim"), begun, "nobody waits for the lease of a claim");
        }
    }

    #[tokio::test]
    async fn a_redelivery_after_a_crash_before_the_ack_sends_nothing() {
        let world = World::new();
        world.handle(&event(&["alice", "bob"])).await;
        assert_eq!(world.handle(&event(&["alice", "bob"])).await, Disposition::Done);
        assert_eq!(world.sent_to().len(), 2);
    }

    #[tokio::test]
    async fn a_crash_between_claim_and_send_sends_after_the_lease() {
        let world = World::new();
        world.claims.claim(&delivery("alice"), "crashed", LEASE).await.unwrap();
        world.clock.advance(Duration::from_secs(100));
        let waits =
            retry(Some(LEASE - Duration::from_secs(100)), "mail to 1 of 2 recipients has to wait: alice (somebody else has claimed it)");
        assert_eq!(world.handle(&event(&["alice", "bob"])).await, waits);
        assert_eq!(world.sent_to(), ["bob@example.com"]);
        world.clock.advance(LEASE);
        assert_eq!(world.handle(&event(&["alice", "bob"])).await, Disposition::Done);
        assert_eq!(world.sent_to(), ["bob@example.com", "alice@example.com"]);
    }

    #[tokio::test]
    async fn two_copies_of_a_message_in_one_batch_send_one_mail() {
        let world = World::new();
        let worker = world.worker_with(world.mailer.clone(), MailSettings::from("news@example.com"));
        let answers = worker.handle(vec![received(&event(&["alice"])), received(&event(&["alice"]))], &Deadline::never()).await;
        assert!(answers.contains(&Disposition::Done));
        assert_eq!(world.sent_to().len(), 1);
    }

    #[tokio::test]
    async fn a_failure_that_passes_is_tried_again_for_that_recipient_alone() {
        let world = World::new();
        let asked = Some(Duration::from_secs(9));
        world.mailer.faults().fail_next("send", Failure::Transient { retry_after: asked, reason: "throttled".to_owned() });
        let waits = retry(asked, "mail to 1 of 2 recipients has to wait: alice (throttled)");
        assert_eq!(world.handle(&event(&["alice", "bob"])).await, waits);
        assert_eq!(world.handle(&event(&["alice", "bob"])).await, Disposition::Done);
        assert_eq!(world.sent_to(), ["bob@example.com", "alice@example.com"]);
    }

    #[tokio::test]
    async fn who_was_refused_for_good_is_not_asked_again_while_others_have_to_wait_but_when_somebody_sends_it_back() {
        let world = World::new();
        let settings = MailSettings { concurrency: 1, ..MailSettings::from("news@example.com") };
        let worker = world.worker_with(world.mailer.clone(), settings);
        let two = event(&["alice", "bob"]);
        let handle = async |id: &str| {
            let message = Received { message_id: id.to_owned(), ..received(&two) };
            worker.handle(vec![message], &Deadline::never()).await.remove(0)
        };
        world.mailer.faults().fail_next("send", Failure::permanent("mailbox unknown"));
        world.mailer.faults().fail_next("send", Failure::transient("later"));
        let waits = "no mail to 1 of 2 recipients: alice (mailbox unknown); mail to 1 of 2 recipients has to wait: bob (later)";
        assert_eq!(handle("first").await, retry(None, waits));
        world.mailer.faults().fail_next("send", Failure::transient("later"));
        assert_eq!(handle("first").await, retry(None, waits));
        assert_eq!(world.mailer.faults().calls("send"), 3, "alice was asked for once, bob twice");
        let ends = Disposition::Reject { reason: "no mail to 1 of 2 recipients: alice (mailbox unknown)".to_owned() };
        assert_eq!(handle("first").await, ends);
        // Redriven, once the mailbox is there.
        assert_eq!(handle("redriven").await, Disposition::Done);
        assert_eq!(world.sent_to(), ["bob@example.com", "alice@example.com"]);
    }

    #[tokio::test]
    async fn one_who_fails_for_good_blocks_nobody_and_ends_as_a_dead_letter() {
        let world = World::new();
        let three = event(&["alice", "bob", "carol"]);
        world.mailer.faults().fail_next("send", Failure::permanent("mailbox unknown"));
        let rejected = Disposition::Reject { reason: "no mail to 1 of 3 recipients: alice (mailbox unknown)".to_owned() };
        assert_eq!(world.handle(&three).await, rejected);
        assert_eq!(world.sent_to(), ["bob@example.com", "carol@example.com"]);
        // A redrive, after the mailbox was opened.
        assert_eq!(world.handle(&three).await, Disposition::Done);
        assert_eq!(world.sent_to(), ["bob@example.com", "carol@example.com", "alice@example.com"]);
    }

    #[tokio::test]
    async fn who_may_still_succeed_is_waited_for_before_the_message_is_given_up() {
        let world = World::new();
        world.mailer.faults().fail_next("send", Failure::permanent("mailbox unknown"));
        world.mailer.faults().fail_next("send", Failure::transient("throttled"));
        let reason = "no mail to 1 of 3 recipients: alice (mailbox unknown); mail to 1 of 3 recipients has to wait: bob (throttled)";
        assert_eq!(world.handle(&event(&["alice", "bob", "carol"])).await, retry(None, reason));
        world.mailer.faults().fail_next("send", Failure::permanent("mailbox unknown"));
        assert!(matches!(world.handle(&event(&["alice", "bob", "carol"])).await, Disposition::Reject { .. }));
        assert_eq!(world.sent_to(), ["carol@example.com", "bob@example.com"]);
    }

    #[tokio::test]
    async fn a_confirmation_that_is_lost_is_repeated() {
        let world = World::new();
        world.claims.faults().fail_next("confirm", Failure::transient("busy"));
        world.claims.faults().lose_answer("confirm");
        assert_eq!(world.handle(&event(&["alice"])).await, Disposition::Done);
        assert!(world.claims.is_sent(&delivery("alice")));
        assert_eq!(world.claims.faults().calls("confirm"), 3);
    }

    #[tokio::test]
    async fn a_mail_that_cannot_be_confirmed_is_not_sent_again_at_once() {
        let world = World::new();
        world.claims.faults().fail_next("confirm", Failure::permanent("table gone"));
        assert_eq!(world.handle(&event(&["alice"])).await, Disposition::Done);
        assert!(matches!(world.handle(&event(&["alice"])).await, Disposition::Retry { after: Some(LEASE), .. }));
        assert_eq!(world.sent_to().len(), 1);
    }

    #[tokio::test]
    async fn a_claim_that_cannot_be_given_up_ends_with_its_lease() {
        let world = World::new();
        world.mailer.faults().fail_next("send", Failure::transient("throttled"));
        world.claims.faults().fail_next("abandon", Failure::transient("busy"));
        assert_eq!(world.handle(&event(&["alice"])).await, retry(None, "mail to 1 of 1 recipients has to wait: alice (throttled)"));
        world.clock.advance(LEASE);
        assert_eq!(world.handle(&event(&["alice"])).await, Disposition::Done);
    }

    #[tokio::test]
    async fn nothing_is_sent_without_a_claim() {
        let world = World::new();
        world.claims.faults().fail_next("claim", Failure::transient("busy"));
        assert!(matches!(world.handle(&event(&["alice"])).await, Disposition::Retry { .. }));
        assert_eq!(world.sent_to().len(), 0);
    }

    #[tokio::test]
    async fn who_is_suppressed_is_settled_without_a_mail_or_a_claim() {
        let world = World::new();
        world.suppress("alice@EXAMPLE.com").await;
        assert_eq!(world.handle(&event(&["alice", "bob"])).await, Disposition::Done);
        assert_eq!(world.sent_to(), ["bob@example.com"]);
        assert_eq!(world.claims.faults().calls("claim"), 1);
    }

    #[tokio::test]
    async fn who_is_no_longer_suppressed_is_mailed_by_a_redrive() {
        let world = World::new();
        world.suppress("alice@example.com").await;
        world.mailer.faults().fail_next("send", Failure::permanent("mailbox unknown"));
        assert!(matches!(world.handle(&event(&["alice", "bob"])).await, Disposition::Reject { .. }));
        world.suppressions.lift(&[AddressKey::of("alice@example.com").unwrap()]).await.remove(0).unwrap();
        assert_eq!(world.handle(&event(&["alice", "bob"])).await, Disposition::Done);
        assert_eq!(world.sent_to(), ["alice@example.com", "bob@example.com"]);
    }

    #[tokio::test]
    async fn who_is_suppressed_while_a_mail_waits_is_not_mailed() {
        let world = World::new();
        world.mailer.faults().fail_next("send", Failure::transient("throttled"));
        assert!(matches!(world.handle(&event(&["alice"])).await, Disposition::Retry { .. }));
        world.suppress("alice@example.com").await;
        assert_eq!(world.handle(&event(&["alice"])).await, Disposition::Done);
        assert_eq!(world.sent_to(), [""; 0]);
    }

    #[tokio::test]
    async fn nothing_is_sent_to_whom_nobody_cleared() {
        let world = World::new();
        world.suppressions.faults().fail_entries("suppressed", &[0], Failure::transient("busy"));
        let waits = retry(None, "mail to 1 of 2 recipients has to wait: alice (busy)");
        assert_eq!(world.handle(&event(&["alice", "bob"])).await, waits);
        assert_eq!(world.sent_to(), ["bob@example.com"]);
        assert_eq!(world.handle(&event(&["alice", "bob"])).await, Disposition::Done);
        assert_eq!(world.sent_to(), ["bob@example.com", "alice@example.com"]);
    }

    #[tokio::test]
    async fn suppressions_are_asked_for_once_an_event() {
        let world = World::new();
        world.handle(&event(&["alice", "bob", "carol"])).await;
        assert_eq!(world.suppressions.faults().calls("suppressed"), 1);
    }

    #[tokio::test]
    async fn what_is_no_event_is_rejected_with_its_reason() {
        let world = World::new();
        let mut wrong = event(&["alice"]);
        wrong["data"]["recipients"][0]["email"] = json!("alice");
        let Disposition::Reject { reason } = world.handle(&wrong).await else { panic!("not rejected") };
        assert!(reason.contains("data.recipients[0].email"), "{reason}");
        assert!(matches!(world.handle(&json!("<xml>")).await, Disposition::Reject { .. }));
        assert_eq!(world.mailer.faults().calls("send"), 0);
    }

    #[tokio::test]
    async fn what_nobody_needs_by_mail_is_done() {
        let world = World::new();
        let mut inbox_only = event(&["alice"]);
        inbox_only["data"]["channels"] = json!(["inbox"]);
        assert_eq!(world.handle(&inbox_only).await, Disposition::Done);
        let mut expired = event(&["alice"]);
        expired["data"]["expires_at"] = json!("2025-01-01T00:00:00Z");
        assert_eq!(world.handle(&expired).await, Disposition::Done);
        assert_eq!(world.claims.faults().calls("claim"), 0);
    }

    #[tokio::test]
    async fn a_mailer_that_hangs_fails_in_time() {
        struct Hangs;
        impl Mailer for Hangs {
            async fn send(&self, _: &OutgoingMail) -> Outcome<String> {
                std::future::pending().await
            }
        }
        let world = World::new();
        let settings = MailSettings { send_timeout: Duration::from_millis(20), ..MailSettings::from("news@example.com") };
        let answers = world.worker_with(Hangs, settings).handle(vec![received(&event(&["alice"]))], &Deadline::never()).await;
        assert_eq!(answers, [retry(None, "mail to 1 of 1 recipients has to wait: alice (the mailer took longer than 20ms)")]);
    }

    #[tokio::test]
    async fn no_more_mails_leave_in_a_second_than_allowed() {
        let world = World::new();
        let began = Instant::now();
        let settings = MailSettings { per_second: Some(100), ..MailSettings::from("news@example.com") };
        let worker = world.worker_with(world.mailer.clone(), settings);
        let people: Vec<String> = (0..35).map(|n| format!("u{n}")).collect();
        let people: Vec<&str> = people.iter().map(String::as_str).collect();
        assert_eq!(worker.handle(vec![received(&event(&people))], &Deadline::never()).await, [Disposition::Done]);
        // Ten at once, then ten every 100 ms.
        assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
        assert_eq!(world.sent_to().len(), 35);
    }

    #[tokio::test]
    async fn no_more_mails_are_in_work_than_allowed() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        #[derive(Default)]
        struct Counts {
            now: AtomicUsize,
            most: AtomicUsize,
        }
        struct Slow(Arc<Counts>);
        impl Mailer for Slow {
            async fn send(&self, _: &OutgoingMail) -> Outcome<String> {
                let now = self.0.now.fetch_add(1, Ordering::SeqCst) + 1;
                self.0.most.fetch_max(now, Ordering::SeqCst);
                tokio::task::yield_now().await;
                self.0.now.fetch_sub(1, Ordering::SeqCst);
                Ok("id".to_owned())
            }
        }
        let counts = Arc::new(Counts::default());
        let world = World::new();
        let worker = world.worker_with(Slow(counts.clone()), MailSettings { concurrency: 3, ..MailSettings::from("news@example.com") });
        let messages: Vec<Received> = (0..4)
            .map(|n| {
                let mut event = event(&["a", "b", "c", "d"]);
                event["id"] = json!(format!("e{n}"));
                received(&event)
            })
            .collect();
        assert_eq!(worker.handle(messages, &Deadline::never()).await, vec![Disposition::Done; 4]);
        assert_eq!(counts.most.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_reason_fits_a_message_attribute() {
        let people: Vec<String> = (0..100).map(|n| format!("{n}{}", "é".repeat(60))).collect();
        let ids: Vec<&str> = people.iter().map(String::as_str).collect();
        let mut event = event(&ids);
        for person in event["data"]["recipients"].as_array_mut().unwrap() {
            person["email"] = json!("a@example.com");
        }
        let event = Event::from_value(event).unwrap();
        let Disposition::Reject { reason } = settle(&event, vec![Err(Failure::permanent("no")); 100]) else { panic!("not rejected") };
        assert!(reason.len() <= recado_domain::limits::REASON_BYTES && reason.ends_with('…'), "{}", reason.len());
        assert!(reason.starts_with("no mail to 100 of 100 recipients: "), "{reason}");
    }
}
