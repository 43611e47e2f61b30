//! From what a mailer reports back to suppressions: whose mail came back for good, or who complained, is sent no more.
//!
//! Must not know: where suppressions are kept, who polls.

use std::fmt;
use std::sync::Arc;

use recado_domain::address::AddressKey;
use recado_domain::failure::Failure;
use recado_domain::message::short_reason;
use recado_domain::ports::{Outcome, Received, SuppressionCause, Suppressions};
use recado_runtime::consumer::{Deadline, Disposition, Handler};

use crate::notice::Notice;

/// Handles the feedback queue; see the crate's documentation for what a message comes to. Handling one again changes nothing.
pub struct Feedback<S> {
    suppressions: Arc<S>,
}

impl<S> fmt::Debug for Feedback<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feedback").finish_non_exhaustive()
    }
}

impl<S: Suppressions> Feedback<S> {
    /// Puts the parts together.
    pub fn new(suppressions: Arc<S>) -> Self {
        Self { suppressions }
    }

    /// Answers each, in order: what the store does not mention is not suppressed.
    async fn suppress(&self, wanted: &[(AddressKey, SuppressionCause)]) -> Vec<Outcome<()>> {
        let mut answers = if wanted.is_empty() { Vec::new() } else { self.suppressions.suppress(wanted).await };
        answers.resize_with(wanted.len(), || Err(Failure::transient("nobody said whether the address was suppressed")));
        answers
    }
}

impl<S: Suppressions> Handler for Feedback<S> {
    async fn handle(&self, batch: Vec<Received>, _: &Deadline) -> Vec<Disposition> {
        let notices: Vec<Result<Notice, String>> = batch.iter().map(|message| Notice::parse(&message.body)).collect();
        let wanted: Vec<_> = notices.iter().flatten().flat_map(wanted).collect();
        let mut answers = self.suppress(&wanted).await.into_iter();
        notices.into_iter().map(|notice| settle(notice, &mut answers)).collect()
    }
}

/// What a notice asks for.
fn wanted(notice: &Notice) -> impl Iterator<Item = (AddressKey, SuppressionCause)> + '_ {
    notice.kind.cause().into_iter().flat_map(|cause| notice.addresses.iter().map(move |address| (*address, cause)))
}

/// What a message came to; takes the answers that are its own.
fn settle(notice: Result<Notice, String>, answers: &mut impl Iterator<Item = Outcome<()>>) -> Disposition {
    let notice = match notice {
        Ok(notice) => notice,
        Err(problem) => {
            metrics::counter!("recado_mail_feedback_total", "kind" => "unreadable").increment(1);
            return Disposition::Reject { reason: short_reason(format!("what a mailer reports {problem}")) };
        }
    };
    let own: Vec<_> = answers.take(wanted(&notice).count()).collect();
    let failures: Vec<Failure> = own.into_iter().filter_map(Result::err).collect();
    if let Some(failure) = failures.iter().find(|failure| failure.is_transient()).or(failures.first()) {
        return Disposition::from(failure.clone());
    }
    record(&notice);
    if notice.unreadable > 0 {
        let reason = format!("{} addresses of the {} are none; the others are suppressed", notice.unreadable, notice.kind.as_str());
        return Disposition::Reject { reason };
    }
    Disposition::Done
}

/// Counts and logs; never with an address.
fn record(notice: &Notice) {
    let Notice { kind, addresses, detail, mailer_id, .. } = notice;
    metrics::counter!("recado_mail_feedback_total", "kind" => kind.as_str()).increment(1);
    match kind.cause() {
        Some(cause) => {
            metrics::counter!("recado_mail_suppressions_total", "cause" => cause.as_str()).increment(addresses.len() as u64);
            tracing::info!(cause = cause.as_str(), detail, mailer_id, addresses = addresses.len(), "addresses suppressed");
        }
        None => tracing::debug!(kind = kind.as_str(), detail, mailer_id, "mail reported on"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use recado_domain::ports::{AckToken, Clock, Suppression};
    use recado_memory::{ManualClock, MemorySuppressions};
    use serde_json::{Value, json};

    use super::*;

    struct World {
        clock: ManualClock,
        suppressions: MemorySuppressions,
    }

    impl World {
        fn new() -> Self {
            let clock = ManualClock::default();
            Self { suppressions: MemorySuppressions::new(clock.clone()), clock }
        }

        async fn handle(&self, bodies: &[&str]) -> Vec<Disposition> {
            let batch = bodies.iter().map(|body| received(body)).collect();
            Feedback::new(Arc::new(self.suppressions.clone())).handle(batch, &Deadline::never()).await
        }

        fn causes(&self) -> BTreeMap<AddressKey, SuppressionCause> {
            self.suppressions.all().into_iter().map(|(address, suppression)| (address, suppression.cause)).collect()
        }
    }

    fn received(body: &str) -> Received {
        Received {
            token: AckToken("t".to_owned()),
            message_id: "m".to_owned(),
            body: body.to_owned(),
            attributes: BTreeMap::new(),
            receive_count: 1,
        }
    }

    fn key(address: &str) -> AddressKey {
        AddressKey::of(address).unwrap()
    }

    fn wrapped(message: &str) -> String {
        json!({"Type": "Notification", "MessageId": "m-1", "TopicArn": "arn:aws:sns:eu-west-1:123456789012:mail", "Message": message})
            .to_string()
    }

    fn permanent(addresses: &[&str]) -> String {
        let recipients: Vec<Value> = addresses.iter().map(|address| json!({"emailAddress": address})).collect();
        json!({"eventType": "Bounce", "bounce": {"bounceType": "Permanent", "bouncedRecipients": recipients}}).to_string()
    }

    const EVENT_BOUNCE: &str = include_str!("../tests/ses/event-bounce.json");
    const EVENT_COMPLAINT: &str = include_str!("../tests/ses/event-complaint.json");
    const EVENT_SOFT_BOUNCE: &str = include_str!("../tests/ses/event-bounce-transient.json");
    const NOTIFICATION_BOUNCE: &str = include_str!("../tests/ses/notification-bounce.json");
    const NOTIFICATION_COMPLAINT: &str = include_str!("../tests/ses/notification-complaint.json");

    #[tokio::test]
    async fn a_permanent_bounce_or_a_complaint_suppresses_whom_it_names() {
        let cases = [
            (EVENT_BOUNCE, vec![("recipient@example.com", SuppressionCause::Bounce)]),
            (EVENT_COMPLAINT, vec![("recipient@example.com", SuppressionCause::Complaint)]),
            (NOTIFICATION_BOUNCE, vec![("jane@example.com", SuppressionCause::Bounce), ("richard@example.com", SuppressionCause::Bounce)]),
            (NOTIFICATION_COMPLAINT, vec![("richard@example.com", SuppressionCause::Complaint)]),
        ];
        for (fixture, expected) in cases {
            let expected: BTreeMap<_, _> = expected.into_iter().map(|(address, cause)| (key(address), cause)).collect();
            for body in [fixture.to_owned(), wrapped(fixture)] {
                let world = World::new();
                assert_eq!(world.handle(&[&body]).await, [Disposition::Done], "{body}");
                assert_eq!(world.causes(), expected, "{body}");
            }
        }
    }

    #[tokio::test]
    async fn what_says_nothing_against_an_address_is_done() {
        let others = [
            EVENT_SOFT_BOUNCE,
            include_str!("../tests/ses/event-delivery.json"),
            include_str!("../tests/ses/event-send.json"),
            include_str!("../tests/ses/event-reject.json"),
            include_str!("../tests/ses/event-open.json"),
            include_str!("../tests/ses/event-click.json"),
            include_str!("../tests/ses/event-rendering-failure.json"),
            include_str!("../tests/ses/event-delivery-delay.json"),
            include_str!("../tests/ses/notification-delivery.json"),
        ];
        let world = World::new();
        assert_eq!(world.handle(&others).await, vec![Disposition::Done; others.len()]);
        assert_eq!(world.suppressions.faults().calls("suppress"), 0);
    }

    #[tokio::test]
    async fn a_report_that_comes_again_changes_nothing() {
        let world = World::new();
        world.handle(&[EVENT_BOUNCE]).await;
        let since = world.clock.now();
        world.clock.advance(Duration::from_secs(60));
        assert_eq!(world.handle(&[EVENT_BOUNCE, EVENT_COMPLAINT]).await, vec![Disposition::Done; 2]);
        let first = Suppression { cause: SuppressionCause::Bounce, since };
        assert_eq!(world.suppressions.all(), BTreeMap::from([(key("recipient@example.com"), first)]));
    }

    #[tokio::test]
    async fn one_that_is_not_understood_fails_no_other() {
        let world = World::new();
        let answers = world.handle(&["<xml>", EVENT_BOUNCE, "{}", NOTIFICATION_COMPLAINT]).await;
        assert!(matches!(&answers[0], Disposition::Reject { reason } if reason == "what a mailer reports is not JSON (line 1, column 1)"));
        assert!(matches!(&answers[2], Disposition::Reject { reason } if reason.contains("eventType")));
        assert_eq!((&answers[1], &answers[3]), (&Disposition::Done, &Disposition::Done));
        assert_eq!(world.suppressions.all().len(), 2);
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_a_dead_letter_once_the_others_are_suppressed() {
        let world = World::new();
        let answers = world.handle(&[&permanent(&["redacted", "bob@example.com"])]).await;
        assert!(matches!(&answers[0], Disposition::Reject { reason } if reason.starts_with("1 addresses of the permanent_bounce")));
        assert_eq!(world.suppressions.all().len(), 1);
    }

    #[tokio::test]
    async fn a_suppression_that_could_not_be_kept_is_tried_again_for_that_message_alone() {
        let world = World::new();
        world.suppressions.faults().fail_entries("suppress", &[1], Failure::transient("busy"));
        let (two, one) = (permanent(&["a@example.com", "b@example.com"]), permanent(&["c@example.com"]));
        let answers = world.handle(&[&two, &one]).await;
        assert_eq!(answers, [Disposition::Retry { after: None, reason: "busy".to_owned() }, Disposition::Done]);
        world.suppressions.faults().lose_answer("suppress");
        assert!(matches!(world.handle(&[&two]).await[0], Disposition::Retry { .. }));
        assert_eq!(world.handle(&[&two]).await, [Disposition::Done]);
        assert_eq!(world.suppressions.all().len(), 3);
    }

    #[tokio::test]
    async fn a_suppression_that_can_never_be_kept_is_a_dead_letter() {
        let world = World::new();
        let two = permanent(&["a@example.com", "b@example.com"]);
        world.suppressions.faults().fail_next("suppress", Failure::permanent("no such table"));
        assert_eq!(world.handle(&[&two]).await, [Disposition::Reject { reason: "no such table".to_owned() }]);
    }

    /// Answers for nobody.
    struct Silent;

    impl Suppressions for Silent {
        async fn suppressed(&self, _: &[AddressKey]) -> Vec<Outcome<Option<Suppression>>> {
            Vec::new()
        }

        async fn suppress(&self, _: &[(AddressKey, SuppressionCause)]) -> Vec<Outcome<()>> {
            Vec::new()
        }

        async fn lift(&self, _: &[AddressKey]) -> Vec<Outcome<bool>> {
            Vec::new()
        }
    }

    #[tokio::test]
    async fn an_address_that_the_store_does_not_mention_is_not_settled() {
        let answers = Feedback::new(Arc::new(Silent)).handle(vec![received(EVENT_BOUNCE)], &Deadline::never()).await;
        assert!(matches!(answers[0], Disposition::Retry { .. }), "{answers:?}");
    }

    #[tokio::test]
    async fn a_batch_is_one_call() {
        let world = World::new();
        world.handle(&[EVENT_BOUNCE, NOTIFICATION_BOUNCE, NOTIFICATION_COMPLAINT]).await;
        assert_eq!(world.suppressions.faults().calls("suppress"), 1);
    }
}
