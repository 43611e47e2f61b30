//! A stack on AWS whose every call may go wrong, whose dispatcher is killed, and whose AWS goes away and comes back: nothing
//! accepted is lost (P1), nothing is shown twice (P2), nothing is missing after a resume (P3). docs/guarantees.md says what
//! is injected where.
//!
//! `cargo xtask faults --seeds N` runs it by one seed after the other.

use recado_tests::harness::{Tested, injected};

/// The bodies of the end-to-end suite that mean the same under faults, each on a stack of its own behind a proxy that lets
/// nobody through three times in a row.
macro_rules! under_faults {
    ($($subject:ident::$name:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() -> $crate::Tested {
                recado_tests::end_to_end::$subject::$name::<recado_tests::harness::Faulty>().await?;
                $crate::met_faults()
            }
        )+

        const UNDER_FAULTS: &[&str] = &[$(stringify!($name)),+];
    };
}

/// The smallest of these tests makes about thirty calls of ten operations, of which each meets a fault at its first.
fn met_faults() -> Tested {
    assert!(injected() >= 5, "{} faults: too few to mean anything", injected());
    Ok(())
}

mod aws {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use anyhow::{Context, ensure};
    use recado_aws::SnsBus;
    use recado_domain::event::Event;
    use recado_domain::ports::{Entropy, EventBus};
    use recado_memory::SeededEntropy;
    use recado_tests::harness::{
        Deployment, Device, Emulator, Endpoints, Fault, Faulty, Kept, Mix, Moment, Presence, Rejection, Tested, event, eventually, ids,
        local_aws, seed,
    };
    use serde_json::{Value, json};

    under_faults!(
        delivery::an_event_reaches_a_connected_recipient_at_once,
        delivery::a_recipient_who_was_away_finds_it_when_connecting,
        delivery::a_client_that_returns_with_its_cursor_misses_nothing,
        delivery::a_cursor_of_somebody_else_is_a_gap_and_shows_only_ones_own,
        delivery::every_device_and_every_tab_gets_it,
        delivery::a_hundred_recipients_each_get_their_own,
        events::an_event_published_twice_is_shown_once_and_answered_the_same,
        events::an_event_that_has_expired_is_shown_to_nobody,
        recovery::a_redelivery_after_a_crash_between_append_and_ack_shows_it_once,
        recovery::a_poison_message_becomes_a_dead_letter_with_its_reason_and_blocks_nobody,
        recovery::a_redriven_event_reaches_those_it_concerns,
    );

    /// Bodies that say something else where calls fail.
    const LEFT_OUT: &[(&str, &str)] = &[
        ("a_plain_client_gets_what_is_pending_once_and_then_what_comes", "a plain client may see twice what a lost answer repeats (P2)"),
        ("a_notification_id_of_the_answer_is_the_one_the_design_computes", "it asks about an answer alone; the others publish too"),
        ("one_batch_answers_for_each_event_and_an_invalid_one_stops_no_other", "it pins one answer; an event in it may fail for now"),
        ("what_one_device_reads_and_archives_shows_on_the_other", "other devices are told once; who misses it reads it at its next load"),
        ("what_is_read_over_http_shows_on_the_socket", "other devices are told once; who misses it reads it at its next load"),
        ("a_socket_is_closed_when_its_token_ends", "one frame asks for one close; a close that fails waits for the next frame"),
        ("without_a_valid_token_there_is_neither_socket_nor_inbox", "it is refused before AWS is asked for anything"),
        ("an_oversized_message_does_not_disturb_other_sockets", "an `error` frame is posted once"),
        ("a_frame_that_makes_no_sense_is_answered_and_the_socket_stays", "an `error` frame is posted once"),
        ("one_connection_above_the_cap_closes_the_oldest", "a close that fails waits for the next frame of the oldest"),
        ("mail_goes_to_those_who_want_it_once_with_values_escaped", "a lost answer of SES is a second mail; counted below"),
        ("what_is_no_event_becomes_a_dead_letter_that_says_why_and_blocks_nobody", "it hands in once what a producer would try again"),
        ("an_event_at_the_limit_is_delivered_and_what_is_above_a_limit_is_refused", "it pins answers; an event in it may fail for now"),
        ("the_commands_publish_and_listen", "`recado listen` asks once, for a person who looks on"),
    ];

    #[test]
    fn every_end_to_end_body_is_here_or_left_out_for_a_reason() {
        let suite = include_str!("../src/end_to_end/mod.rs");
        let list = suite.split("end_to_end_tests!(").skip(1).filter_map(|rest| rest.split(");").next());
        let names: BTreeSet<&str> = list.flat_map(str::lines).filter_map(|line| line.trim().strip_suffix(',')).collect();
        let here = UNDER_FAULTS.iter().copied().chain(LEFT_OUT.iter().map(|(name, _)| *name));
        assert_eq!(names, here.collect(), "decide of each body whether it means the same under faults");
        assert!(names.len() > 20 && LEFT_OUT.iter().all(|(_, reason)| !reason.is_empty()));
    }

    /// What was accepted, by user: the ids of the notifications that each inbox has to hold.
    #[derive(Debug, Default)]
    struct Accepted(BTreeMap<String, BTreeSet<String>>);

    impl Accepted {
        fn add(&mut self, event: &Value) -> anyhow::Result<()> {
            let event = Event::from_value(event.clone())?;
            for recipient in &event.data().recipients {
                let user = recipient.id.as_str().to_owned();
                self.0.entry(user).or_default().insert(event.notification_id().to_string());
            }
            Ok(())
        }

        fn of(&self, user: &str) -> BTreeSet<String> {
            self.0.get(user).cloned().unwrap_or_default()
        }

        /// Whether each inbox holds everything that was accepted; none may ever hold anything twice, or anything else.
        async fn are_stored(&self, endpoints: &Endpoints) -> anyhow::Result<bool> {
            for (user, wanted) in &self.0 {
                let stored = ids(&endpoints.inbox(user).await?);
                let distinct: BTreeSet<String> = stored.iter().cloned().collect();
                ensure!(distinct.len() == stored.len(), "{user} has an entry twice");
                ensure!(distinct.is_subset(wanted), "{user} has an entry of somebody else");
                if distinct.len() < wanted.len() {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    }

    /// Publishes over SNS until every event is accepted, as an application with an outbox does. Answers how many were not at first.
    async fn publish_all(bus: &SnsBus, events: &[Value]) -> anyhow::Result<u64> {
        let failed = AtomicU64::new(0);
        publish_counting(bus, events, &failed).await?;
        Ok(failed.into_inner())
    }

    /// As [`publish_all`], and counts on the way what was not accepted.
    async fn publish_counting(bus: &SnsBus, events: &[Value], failed: &AtomicU64) -> Tested {
        let mut open: Vec<Event> = events.iter().map(|event| Ok(Event::from_value(event.clone())?)).collect::<anyhow::Result<_>>()?;
        eventually("every event is accepted", async || {
            let answers = bus.publish(&open).await;
            let mut answers = answers.iter();
            open.retain(|_| answers.next().is_none_or(Result::is_err));
            failed.fetch_add(open.len() as u64, Ordering::AcqRel);
            Ok(open.is_empty().then_some(()))
        })
        .await
    }

    /// Events for one to three of these users.
    fn events(users: &[&str], count: usize, entropy: &impl Entropy) -> Vec<Value> {
        let some = || {
            let start = usize::try_from(entropy.next_u64() % users.len() as u64).unwrap_or_default();
            let recipients = 1 + usize::try_from(entropy.next_u64() % 3).unwrap_or_default();
            users.iter().cycle().skip(start).take(recipients).copied().collect::<Vec<_>>()
        };
        (0..count).map(|number| event(&some(), &format!("number {number}"))).collect()
    }

    /// A little more than the lease of a message of the inbox queue (`ConsumerConfig`).
    const LEASE: Duration = Duration::from_secs(61);
    /// What is not settled by now may wait for the end of a lease. Not much sooner: a message that is received twenty times is a
    /// dead letter of the queue's own making.
    const STUCK: Duration = Duration::from_secs(4);

    /// Sets the queues' clock forward while waiting, so that leases that nobody ends any more are over.
    async fn while_leases_end(stack: &Faulty, what: &str, mut done: impl AsyncFnMut() -> anyhow::Result<bool>) -> Tested {
        let mut last = Instant::now();
        eventually(what, async || {
            if done().await? {
                return Ok(Some(()));
            }
            if last.elapsed() > STUCK {
                stack.stack.account.advance(LEASE).await;
                last = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(None)
        })
        .await
    }

    /// Sets the queues' clock forward again and again.
    async fn leases_end(stack: &Faulty) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(STUCK).await;
            stack.stack.account.advance(LEASE).await;
        }
    }

    const QUEUES: [&str; 3] = ["InboxQueueUrl", "EmailQueueUrl", "FeedbackQueueUrl"];
    const DEAD_LETTERS: [&str; 3] = ["InboxDeadLettersUrl", "EmailDeadLettersUrl", "FeedbackDeadLettersUrl"];

    /// Everything is settled: no queue holds anything, and nothing became a dead letter.
    async fn all_settled(faulty: &Faulty) -> Tested {
        while_leases_end(faulty, "every queue is empty", async || {
            for queue in QUEUES {
                if faulty.stack.depth(queue).await? > 0 {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await?;
        for queue in DEAD_LETTERS {
            ensure!(faulty.stack.depth(queue).await? == 0, "there are dead letters in {queue}");
        }
        Ok(())
    }

    /// What a device showed is what its user was sent, each once, and it was never told of a gap.
    fn showed_all(user: &str, kept: &Kept, accepted: &Accepted) {
        let shown: BTreeSet<String> = kept.shown.keys().cloned().collect();
        assert_eq!(shown, accepted.of(user), "{user} was shown something else than was sent");
        let events: BTreeSet<&String> = kept.shown.values().collect();
        assert_eq!(events.len(), kept.shown.len(), "{user} was shown an event twice, under two ids");
        assert_eq!(kept.gaps, 0, "{user} was told of a gap");
    }

    /// Each has an inbox; the first four stay connected, the next four come and go, the last two come at the end alone.
    const USERS: [&str; 10] = ["alice", "bob", "carla", "dora", "emil", "flora", "gita", "hugo", "ida", "juan"];

    fn devices(endpoints: &Endpoints) -> Vec<Device> {
        let presence = |at: usize| if at < 4 { Presence::Stays } else { Presence::ComesAndGoes };
        USERS[..8].iter().enumerate().map(|(at, user)| Device::start(endpoints, user, presence(at), seed() + at as u64)).collect()
    }

    /// Who stays connected was shown everything by pushes alone, and everybody after one more `sync`.
    async fn everybody_is_shown(faulty: &Faulty, devices: Vec<Device>, accepted: &Accepted) -> anyhow::Result<(u64, u64)> {
        while_leases_end(faulty, "who stays connected is shown everything", async || {
            Ok(devices[..4].iter().all(|device| device.kept().shown.len() == accepted.of(&device.user).len()))
        })
        .await?;
        faulty.proxy.set(Mix::CALM);
        let (mut repeated, mut connections) = (0, 0);
        for device in devices {
            let user = device.user.clone();
            let kept = device.catch_up(faulty).await?;
            showed_all(&user, &kept, accepted);
            (repeated, connections) = (repeated + kept.repeated, connections + kept.connections);
        }
        for user in &USERS[8..] {
            let kept = Device::start(faulty, user, Presence::Stays, seed()).catch_up(faulty).await?;
            showed_all(user, &kept, accepted);
        }
        Ok((repeated, connections))
    }

    /// As the next one, where the platform polls and deletes: what a function reports of a batch decides what stays.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_notification_is_stored_once_and_shown_once_by_a_dispatcher_that_is_a_function() -> Tested {
        let faulty = Faulty::deploy(&local_aws()?, Mix::HEAVY, &[("DispatcherMode", "lambda")]).await?;
        let devices = devices(&faulty);
        let bus = SnsBus::new(&faulty.stack.account.told_clients().await, faulty.stack.output("TopicArn")?);
        let mut accepted = Accepted::default();
        for some in events(&USERS, 120, &SeededEntropy::new(seed())).chunks(20) {
            publish_all(&bus, some).await?;
            some.iter().try_for_each(|event| accepted.add(event))?;
        }
        while_leases_end(&faulty, "everything is stored", async || accepted.are_stored(&faulty).await).await?;
        everybody_is_shown(&faulty, devices, &accepted).await?;
        all_settled(&faulty).await?;
        assert!(accepted.are_stored(&faulty).await?);
        let counts = faulty.proxy.counts();
        for operation in ["BatchExecuteStatement", "BatchGetItem", "PostToConnection"] {
            assert!(counts.faults_at(operation) >= 5, "too few at {operation}: {counts}");
        }
        assert_eq!(counts.calls("ReceiveMessage"), 0, "somebody else polled: {counts}");
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[expect(clippy::print_stderr, reason = "a test speaks on its output")]
    async fn every_notification_is_stored_once_and_shown_once_while_every_third_call_fails() -> Tested {
        let mut faulty = Faulty::deploy(&local_aws()?, Mix::HEAVY, &[]).await?;
        faulty.stack.start_dispatcher()?;
        let devices = devices(&faulty);
        let entropy = SeededEntropy::new(seed());
        let published = events(&USERS, 300, &entropy);
        let bus = SnsBus::new(&faulty.stack.account.told_clients().await, faulty.stack.output("TopicArn")?);
        let mut accepted = Accepted::default();
        for some in published.chunks(30) {
            let (over_sns, over_http) = some.split_at(20);
            publish_all(&bus, over_sns).await?;
            faulty.publish_batch(over_http).await?;
            some.iter().try_for_each(|event| accepted.add(event))?;
        }
        while_leases_end(&faulty, "everything is stored", async || accepted.are_stored(&faulty).await).await?;
        let (repeated, connections) = everybody_is_shown(&faulty, devices, &accepted).await?;
        all_settled(&faulty).await?;
        assert!(accepted.are_stored(&faulty).await?);
        eprintln!("{connections} connections; {repeated} items came again and were not shown");
        let counts = faulty.proxy.counts();
        for fault in Fault::ALL {
            assert!(counts.of(fault) >= if matches!(fault, Fault::TimedOut | Fault::Late) { 2 } else { 10 }, "too few {fault:?}: {counts}");
        }
        for operation in
            ["PublishBatch", "ReceiveMessage", "BatchExecuteStatement", "BatchGetItem", "PostToConnection", "DeleteMessageBatch"]
        {
            assert!(counts.faults_at(operation) >= 5, "too few at {operation}: {counts}");
        }
        Ok(())
    }

    /// Where a batch stands when its dispatcher is killed.
    const STANDS: [(&str, Moment); 6] = [
        ("BatchExecuteStatement", Moment::Before),
        ("BatchExecuteStatement", Moment::After),
        ("BatchGetItem", Moment::After),
        ("PostToConnection", Moment::After),
        ("DeleteMessageBatch", Moment::Before),
        ("DeleteMessageBatch", Moment::After),
    ];

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_dispatcher_killed_at_any_step_of_a_batch_loses_nothing_and_shows_nothing_twice() -> Tested {
        let mut faulty = Faulty::deploy(&local_aws()?, Mix::CALM, &[]).await?;
        let bus = SnsBus::new(&faulty.stack.account.told_clients().await, faulty.stack.output("TopicArn")?);
        let alice = Device::start(&faulty, "alice", Presence::Stays, seed());
        let mut accepted = Accepted::default();
        faulty.stack.start_dispatcher()?;
        // She is live once something reaches her.
        let first = event(&["alice"], "first");
        accepted.add(&first)?;
        publish_all(&bus, &[first]).await?;
        eventually("alice is live", async || Ok((!alice.kept().shown.is_empty()).then_some(()))).await?;
        for (round, (operation, moment)) in STANDS.iter().cycle().take(2 * STANDS.len()).enumerate() {
            let mut catch = faulty.proxy.catch(operation, *moment);
            let some: Vec<Value> = (0..7).map(|number| event(&["alice", "bob"], &format!("{round}.{number}"))).collect();
            publish_all(&bus, &some).await?;
            some.iter().try_for_each(|event| accepted.add(event))?;
            catch.caught().await.with_context(|| format!("{operation} {moment:?}"))?;
            faulty.stack.kill_oldest().await?;
            drop(catch);
            faulty.stack.start_dispatcher()?;
            // What the dead one held comes back.
            faulty.stack.account.advance(LEASE).await;
        }
        while_leases_end(&faulty, "everything is stored", async || accepted.are_stored(&faulty).await).await?;
        while_leases_end(&faulty, "alice is shown everything", async || Ok(alice.kept().shown.len() == accepted.of("alice").len())).await?;
        all_settled(&faulty).await?;
        let kept = alice.catch_up(&faulty).await?;
        showed_all("alice", &kept, &accepted);
        assert!(accepted.are_stored(&faulty).await?);
        // Killed after a post and before the deletion: she must have been posted to again.
        assert!(kept.repeated > 0, "no kill came between a post and the end of its message");
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_dispatchers_on_the_same_messages_store_and_show_each_once_though_one_is_killed_again_and_again() -> Tested {
        let mut faulty = Faulty::deploy(&local_aws()?, Mix::MODERATE, &[]).await?;
        faulty.stack.start_dispatcher()?;
        faulty.stack.start_dispatcher()?;
        let devices = devices(&faulty);
        let bus = SnsBus::new(&faulty.stack.account.told_clients().await, faulty.stack.output("TopicArn")?);
        let mut accepted = Accepted::default();
        for some in events(&USERS, 200, &SeededEntropy::new(seed())).chunks(20) {
            publish_all(&bus, some).await?;
            some.iter().try_for_each(|event| accepted.add(event))?;
            // The leases of whatever is in work end: the other one takes it too.
            faulty.stack.account.advance(LEASE).await;
            faulty.stack.kill_oldest().await?;
            faulty.stack.start_dispatcher()?;
        }
        while_leases_end(&faulty, "everything is stored", async || accepted.are_stored(&faulty).await).await?;
        everybody_is_shown(&faulty, devices, &accepted).await?;
        all_settled(&faulty).await?;
        assert!(accepted.are_stored(&faulty).await?);
        let counts = faulty.proxy.counts();
        assert!(counts.faults() >= 20, "too few faults: {counts}");
        Ok(())
    }

    /// With calls that the SDK repeats until they pass, and none that is carried out long after: a claim that could not be given back, or
    /// comes when its worker has given up, would hold its mail for five minutes. The suite `dynamo` says what is done about the latter.
    const OF_MAIL: Mix = Mix { time_outs: 0, ..Mix::MODERATE };

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn each_mail_leaves_and_again_only_where_the_answer_to_it_was_lost() -> Tested {
        let faulty = Faulty::deploy(&local_aws()?, Mix { rate: 0.25, ..OF_MAIL }, &[]).await?;
        let mut mailed = events(&USERS, 40, &SeededEntropy::new(seed()));
        let mut wanted = BTreeSet::new();
        for event in &mut mailed {
            event["data"]["channels"] = json!(["email"]);
            let title = event["data"]["title"].as_str().context("title")?.to_owned();
            let recipients = event["data"]["recipients"].as_array().context("recipients")?;
            wanted.extend(recipients.iter().filter_map(|recipient| Some((recipient["email"].as_str()?.to_owned(), title.clone()))));
        }
        let bus = SnsBus::new(&faulty.stack.account.told_clients().await, faulty.stack.output("TopicArn")?);
        publish_all(&bus, &mailed).await?;
        // Each of them once more: claims tell what was mailed.
        publish_all(&bus, &mailed).await?;
        while_leases_end(&faulty, "every mail left", async || Ok(mails(&faulty).await?.0 == wanted)).await?;
        while_leases_end(&faulty, "the email queue is empty", async || Ok(faulty.stack.depth("EmailQueueUrl").await? == 0)).await?;
        assert_eq!(faulty.stack.depth("EmailDeadLettersUrl").await?, 0);
        let (sent, counts) = (mails(&faulty).await?.1, faulty.proxy.counts());
        let (again, lost) = ((sent - wanted.len()) as u64, counts.at("SendRawEmail", Fault::LostAnswer));
        assert!(again <= lost, "{again} mails were sent again, and {lost} answers of SES were lost: {counts}");
        assert!(counts.faults_at("SendRawEmail") >= 5, "too few faults at SES: {counts}");
        Ok(())
    }

    /// Where an email worker stands with a mail when it is killed.
    const MAIL_STANDS: [(&str, Moment); 4] = [
        ("SendRawEmail", Moment::Before),
        ("SendRawEmail", Moment::After),
        ("DeleteMessageBatch", Moment::Before),
        ("DeleteMessageBatch", Moment::After),
    ];

    /// Ends the claims of mails that are not recorded as sent, as five minutes would (`MailSettings`).
    async fn end_claims(faulty: &Faulty) -> Tested {
        let (dynamodb, table) = (faulty.stack.account.clients().await.dynamodb, faulty.stack.output("TableName")?);
        let open = dynamodb.scan().table_name(table).filter_expression("attribute_exists(held_until) AND attribute_not_exists(sent_at)");
        for item in open.send().await?.items() {
            let key = |name: &str| item.get(name).cloned().with_context(|| format!("an item without {name}"));
            dynamodb.delete_item().table_name(table).key("pk", key("pk")?).key("sk", key("sk")?).send().await?;
        }
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_email_worker_killed_at_any_step_loses_no_mail_and_repeats_none_but_the_one_it_had_handed_over() -> Tested {
        let mut faulty = Faulty::deploy(&local_aws()?, Mix::CALM, &[("EmailWorkerMode", "external")]).await?;
        let bus = SnsBus::new(&faulty.stack.account.told_clients().await, faulty.stack.output("TopicArn")?);
        let mut wanted = BTreeSet::new();
        for (round, (operation, moment)) in MAIL_STANDS.iter().enumerate() {
            let mut mail = event(&["alice"], &format!("round {round}"));
            mail["data"]["channels"] = json!(["email"]);
            wanted.insert(("alice@example.com".to_owned(), format!("round {round}")));
            let mut catch = faulty.proxy.catch(operation, *moment);
            faulty.stack.start("recado-email-worker")?;
            publish_all(&bus, &[mail]).await?;
            // The poll of the worker that was killed before may have taken the message with it.
            tokio::select! {
                caught = catch.caught() => caught.with_context(|| format!("{operation} {moment:?}"))?,
                never = leases_end(&faulty) => match never {},
            }
            faulty.stack.kill_oldest().await?;
            drop(catch);
            end_claims(&faulty).await?;
            faulty.stack.start("recado-email-worker")?;
            while_leases_end(&faulty, "the mail left", async || Ok(mails(&faulty).await?.0 == wanted)).await?;
            while_leases_end(&faulty, "its queue is empty", async || Ok(faulty.stack.depth("EmailQueueUrl").await? == 0)).await?;
            faulty.stack.kill_oldest().await?;
        }
        assert_eq!(faulty.stack.depth("EmailDeadLettersUrl").await?, 0);
        let sent = mails(&faulty).await?.1;
        assert_eq!(sent, wanted.len() + 1, "one was handed over by a worker that died before it was recorded");
        Ok(())
    }

    /// What was mailed, to whom and about what, and how many mails that were.
    async fn mails(faulty: &Faulty) -> anyhow::Result<(BTreeSet<(String, String)>, usize)> {
        let sent = faulty.stack.mails(0).await?;
        Ok((sent.iter().map(|mail| (mail.to.clone(), mail.subject.clone())).collect(), sent.len()))
    }

    /// What AWS does not take of mallory, however often it is asked: her inbox is full, and SES refuses her address.
    const OF_MALLORY: [Rejection; 2] = [
        Rejection { operation: "BatchExecuteStatement", about: "mallory", code: "ItemCollectionSizeLimitExceededException" },
        Rejection { operation: "SendRawEmail", about: "mallory@example.com", code: "MessageRejected" },
    ];

    /// The titles of a queue's dead letters, whose every reason says this.
    async fn dead_letters(faulty: &Faulty, queue: &str, reason: &str) -> anyhow::Result<BTreeMap<String, Event>> {
        let listed = faulty.run(&["dead-letters", "list", "--limit", "100", "--queue", queue, "--json"]).await?;
        ensure!(listed.code == Some(0), "{listed:?}");
        let letter = |line: &str| {
            let letter: Value = serde_json::from_str(line)?;
            ensure!(letter["reason"].as_str().is_some_and(|said| said.contains(reason)), "{letter}");
            let event = Event::parse(letter["body"].as_str().context("a letter without a body")?.as_bytes())?;
            Ok((event.data().title.clone().unwrap_or_default(), event))
        };
        listed.out.lines().map(letter).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_aws_rejects_for_good_is_a_dead_letter_with_its_reason_stops_nobody_else_and_can_be_redriven() -> Tested {
        let mut faulty = Faulty::deploy(&local_aws()?, OF_MAIL, &[]).await?;
        faulty.proxy.reject(&OF_MALLORY);
        faulty.stack.start_dispatcher()?;
        let devices = ["alice", "bob"].map(|user| Device::start(&faulty, user, Presence::Stays, seed()));
        let titles: BTreeSet<String> = (0..10).map(|number| format!("number {number}")).collect();
        let mut published: Vec<Value> = titles.iter().map(|title| event(&["alice", "mallory", "bob"], title)).collect();
        published.iter_mut().for_each(|event| event["data"]["channels"] = json!(["inbox", "email"]));
        let mut accepted = Accepted::default();
        published.iter().try_for_each(|event| accepted.add(event))?;
        let hers = accepted.0.remove("mallory").context("mallory is sent something")?;
        let bus = SnsBus::new(&faulty.stack.account.told_clients().await, faulty.stack.output("TopicArn")?);
        publish_all(&bus, &published).await?;
        while_leases_end(&faulty, "everybody else's is stored", async || accepted.are_stored(&faulty).await).await?;
        let mailed = |users: &[&str]| -> BTreeSet<(String, String)> {
            users.iter().flat_map(|user| titles.iter().map(move |title| (format!("{user}@example.com"), title.clone()))).collect()
        };
        while_leases_end(&faulty, "everybody else is mailed", async || Ok(mails(&faulty).await?.0 == mailed(&["alice", "bob"]))).await?;
        for (queue, reason) in [("inbox", "one user's items are at the 10 GB"), ("email", "SES rejected the mail (MessageRejected)")] {
            while_leases_end(&faulty, "what was rejected is given up", async || {
                Ok(dead_letters(&faulty, queue, reason).await?.into_keys().collect::<BTreeSet<_>>() == titles)
            })
            .await?;
        }
        // What is left of an event in the inbox's names her alone; a mail's names all, and claims tell who has theirs.
        for (title, event) in dead_letters(&faulty, "inbox", "").await? {
            let left: Vec<&str> = event.data().recipients.iter().map(|recipient| recipient.id.as_str()).collect();
            assert_eq!(left, ["mallory"], "{title}");
        }
        assert!(faulty.inbox("mallory").await?.is_empty());

        faulty.proxy.reject(&[]);
        for queue in ["inbox", "email"] {
            let redriven = faulty.run(&["dead-letters", "redrive", "--all", "--queue", queue]).await?;
            assert_eq!(redriven.code, Some(0), "{redriven:?}");
        }
        accepted.0.insert("mallory".to_owned(), hers);
        while_leases_end(&faulty, "hers is stored", async || accepted.are_stored(&faulty).await).await?;
        let all = mailed(&["alice", "mallory", "bob"]);
        while_leases_end(&faulty, "she is mailed", async || Ok(mails(&faulty).await?.0 == all)).await?;
        all_settled(&faulty).await?;
        let (sent, lost) = (mails(&faulty).await?.1, faulty.proxy.counts().at("SendRawEmail", Fault::LostAnswer));
        assert!((sent - all.len()) as u64 <= lost, "{sent} mails for {}, and {lost} answers were lost", all.len());
        faulty.proxy.set(Mix::CALM);
        for device in devices.into_iter().chain([Device::start(&faulty, "mallory", Presence::Stays, seed())]) {
            let user = device.user.clone();
            showed_all(&user, &device.catch_up(&faulty).await?, &accepted);
        }
        Ok(())
    }

    /// Longer than any call waits for an answer.
    const FROZEN: Duration = Duration::from_secs(7);

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_aws_that_goes_away_freezes_and_comes_back_loses_nothing_and_shows_nothing_twice() -> Tested {
        let mut emulator = Emulator::start().await?;
        let mut faulty = Faulty::deploy(&emulator.endpoint, Mix::CALM, &[]).await?;
        faulty.stack.start_dispatcher()?;
        let devices = devices(&faulty);
        let bus = SnsBus::new(&faulty.stack.account.told_clients().await, faulty.stack.output("TopicArn")?);
        let all = events(&USERS, 120, &SeededEntropy::new(seed()));
        let mut accepted = Accepted::default();
        all.iter().try_for_each(|event| accepted.add(event))?;
        // A batch in the middle of its way when it ends: appended, not yet deleted.
        let mut catch = faulty.proxy.catch("BatchExecuteStatement", Moment::After);
        publish_all(&bus, &all[..40]).await?;
        catch.caught().await?;
        emulator.end().await?;
        drop(catch);
        let failed = AtomicU64::new(0);
        let publishing = publish_counting(&bus, &all[40..80], &failed);
        let restarting = async {
            eventually("somebody published in vain", async || Ok((failed.load(Ordering::Acquire) > 0).then_some(()))).await?;
            emulator.start_again().await?;
            faulty.stack.account.tell_functions().await;
            anyhow::Ok(())
        };
        let (published, restarted) = tokio::join!(publishing, restarting);
        restarted?;
        published?;
        let mut catch = faulty.proxy.catch("BatchExecuteStatement", Moment::Before);
        let publishing = publish_all(&bus, &all[80..]);
        let freezing = async {
            catch.caught().await?;
            emulator.freeze().await?;
            drop(catch);
            tokio::time::sleep(FROZEN).await;
            emulator.thaw().await
        };
        let (published, frozen) = tokio::join!(publishing, freezing);
        frozen?;
        published?;
        while_leases_end(&faulty, "everything is stored", async || accepted.are_stored(&faulty).await).await?;
        everybody_is_shown(&faulty, devices, &accepted).await?;
        all_settled(&faulty).await?;
        assert!(accepted.are_stored(&faulty).await?);
        Ok(())
    }
}
