//! What is wrong around Recado on AWS: settings, subscriptions, records of somebody else. Each says what is wrong and what to
//! do, soon, and loses nothing. What is wrong with an event stands in the end-to-end suite, which every deployment runs.
//!
//! Must not know: any room's inside.

/// Processes that are told too little end before they do anything: no AWS is needed.
mod settings {
    use recado_runtime::settings::EXIT_CODE;
    use recado_tests::harness::{Ended, Tested, built, command};
    use serde_json::Value;

    const TABLE: (&str, &str) = ("RECADO_TABLE", "recado");
    const INBOX: (&str, &str) = ("RECADO_INBOX_QUEUE_URL", "http://127.0.0.1:1/1/inbox");
    const INBOX_DEAD: (&str, &str) = ("RECADO_INBOX_DEAD_LETTERS_URL", "http://127.0.0.1:1/1/inbox-dead");
    const EMAIL: (&str, &str) = ("RECADO_EMAIL_QUEUE_URL", "http://127.0.0.1:1/1/email");
    const EMAIL_DEAD: (&str, &str) = ("RECADO_EMAIL_DEAD_LETTERS_URL", "http://127.0.0.1:1/1/email-dead");
    const FEEDBACK: (&str, &str) = ("RECADO_FEEDBACK_QUEUE_URL", "http://127.0.0.1:1/1/feedback");
    const FEEDBACK_DEAD: (&str, &str) = ("RECADO_FEEDBACK_DEAD_LETTERS_URL", "http://127.0.0.1:1/1/feedback-dead");
    const SOCKETS: (&str, &str) = ("RECADO_SOCKETS_ENDPOINT", "http://127.0.0.1:1/api/live");
    const FROM: (&str, &str) = ("RECADO_MAIL_FROM", "news@example.com");
    const SECRET: (&str, &str) = ("RECADO_TOKEN_SECRET", "a secret of the tests, at least 32 bytes long");
    const KEYS: (&str, &str) = ("RECADO_PUBLISH_KEY", "0123456789abcdef0123456789abcdef");
    const TOPIC: (&str, &str) = ("RECADO_TOPIC_ARN", "arn:aws:sns:us-east-1:000000000001:events");

    /// Every process on AWS, and all that it cannot do without.
    const PROCESSES: [(&str, &[(&str, &str)]); 9] = [
        ("recado-dispatcher", &[TABLE, INBOX, INBOX_DEAD, EMAIL, SOCKETS]),
        ("recado-dispatcher-lambda", &[TABLE, INBOX, INBOX_DEAD, EMAIL, SOCKETS]),
        ("recado-email-worker", &[TABLE, EMAIL, EMAIL_DEAD, FROM]),
        ("recado-email-worker-lambda", &[TABLE, EMAIL, EMAIL_DEAD, FROM]),
        ("recado-mail-feedback-lambda", &[TABLE, FEEDBACK, FEEDBACK_DEAD]),
        ("recado-ws-connect", &[TABLE, INBOX, SOCKETS, SECRET]),
        ("recado-ws-disconnect", &[TABLE]),
        ("recado-ws-message", &[TABLE, SOCKETS]),
        // The topic is needed where it may publish.
        ("recado-http-api-lambda", &[TABLE, SOCKETS, SECRET, KEYS, TOPIC]),
    ];

    /// What a process says of its settings: problem and fix, line by line.
    async fn complaints(process: &str, variables: &[(&str, &str)]) -> anyhow::Result<Vec<(String, String)>> {
        let mut command = command(built(process)?);
        command.env_clear().env("AWS_REGION", "us-east-1").envs(variables.iter().copied());
        let ended = Ended::of(command).await?;
        assert_eq!(ended.code, Some(i32::from(EXIT_CODE)), "{process}: {ended:?}");
        let line = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{process} says {line}"));
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            (text("problem"), text("fix"))
        };
        Ok(ended.err.lines().map(line).collect())
    }

    #[tokio::test]
    async fn every_process_names_each_variable_that_is_missing_and_what_it_is() -> Tested {
        for (process, variables) in PROCESSES {
            // Without publish keys nobody may publish over HTTP, and the topic is not asked for.
            for (missing, _) in variables.iter().filter(|variable| **variable != KEYS) {
                let others: Vec<_> = variables.iter().copied().filter(|(name, _)| name != missing).collect();
                let said = complaints(process, &others).await?;
                assert_eq!(said.len(), 1, "{process} without {missing}: {said:?}");
                let (problem, fix) = &said[0];
                let (_, what) = problem.split_once(" missing: ").unwrap_or_else(|| panic!("{process} without {missing}: {problem}"));
                assert!(problem.contains(missing) && what.len() > 10 && fix.starts_with("set "), "{problem}; {fix}");
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn everything_that_is_missing_is_said_at_once() -> Tested {
        let said = complaints("recado-dispatcher", &[]).await?;
        assert_eq!(said.len(), 5, "{said:?}");
        Ok(())
    }

    #[tokio::test]
    async fn a_resource_of_another_region_is_found_before_it_is_called() -> Tested {
        let queue = "https://sqs.eu-west-1.amazonaws.com/000000000001/inbox";
        let said = complaints("recado-dispatcher", &[TABLE, ("RECADO_INBOX_QUEUE_URL", queue), INBOX_DEAD, EMAIL, SOCKETS]).await?;
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].0.contains("in the region eu-west-1") && said[0].0.contains("us-east-1"), "{said:?}");
        assert!(said[0].1.contains("AWS_REGION"), "{said:?}");
        Ok(())
    }
}

mod aws {
    use std::process::Stdio;
    use std::time::Duration;

    use anyhow::{Context, ensure};
    use recado_domain::event::Event;
    use recado_domain::message::ATTRIBUTE_REASON;
    use recado_domain::ports::{DeadLetter, DeadLetters, EventBus};
    use recado_tests::harness::{Ended, Inside, Stack, StackPorts, Tested, binary, command, event, eventually, titles};
    use serde_json::{Value, json};
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::time::timeout;

    /// How soon somebody has to be told: a call that cannot succeed ends within 20 s, with its repetitions.
    const SOON: Duration = Duration::from_secs(30);

    fn parsed(event: &Value) -> anyhow::Result<Event> {
        Ok(Event::parse(event.to_string().as_bytes())?)
    }

    async fn publish(ports: &StackPorts, event: &Value) -> Tested {
        Ok(ports.bus().publish(&[parsed(event)?]).await.remove(0)?)
    }

    /// The only dead letter, once it is there.
    async fn dead_letter(ports: &StackPorts) -> anyhow::Result<DeadLetter> {
        eventually("a dead letter", async || Ok(ports.dead_letters().list(10).await?.pop())).await
    }

    /// Turns raw delivery of the subscription of the inbox queue on or off.
    async fn deliver_raw(stack: &Stack, ports: &StackPorts, raw: bool) -> Tested {
        let sns = &ports.clients.sns;
        let listed = sns.list_subscriptions_by_topic().topic_arn(stack.output("TopicArn")?).send().await?;
        let queue = stack.output("InboxQueueUrl")?.rsplit('/').next().unwrap_or_default();
        let of_inbox = |arn: Option<&str>| arn.and_then(|arn| arn.rsplit(':').next()) == Some(queue);
        let subscription = listed.subscriptions().iter().find(|subscription| of_inbox(subscription.endpoint()));
        let arn = subscription.and_then(|subscription| subscription.subscription_arn()).context("no subscription of the inbox queue")?;
        let change = sns.set_subscription_attributes().subscription_arn(arn).attribute_name("RawMessageDelivery");
        change.attribute_value(raw.to_string()).send().await?;
        Ok(())
    }

    #[tokio::test]
    async fn an_event_that_was_not_delivered_raw_is_kept_with_what_to_turn_on() -> Tested {
        let mut stack = Stack::deploy(&[]).await?;
        stack.start_dispatcher()?;
        let ports = stack.ports().await?;
        deliver_raw(&stack, &ports, false).await?;
        let wrapped = event(&["alice"], "wrapped");
        publish(&ports, &wrapped).await?;
        let letter = dead_letter(&ports).await?;
        let reason = &letter.attributes[ATTRIBUTE_REASON];
        assert!(reason.contains("`RawMessageDelivery`") && reason.contains("turn on"), "{reason}");
        let envelope: Value = serde_json::from_str(&letter.body)?;
        assert_eq!(parsed(&serde_json::from_str(envelope["Message"].as_str().context("no message")?)?)?, parsed(&wrapped)?);
        // As the reason says.
        deliver_raw(&stack, &ports, true).await?;
        publish(&ports, &wrapped).await?;
        assert_eq!(titles(&stack.inbox_of("alice", 1).await?), ["wrapped"]);
        Ok(())
    }

    /// Invokes the dispatcher's function as an event source mapping would; answers what it reports as failed.
    async fn invoke_dispatcher(stack: &Stack, records: &[Value]) -> anyhow::Result<Value> {
        let account = &stack.account;
        let functions = format!("{}/2015-03-31/functions", account.endpoint);
        let listed = account.ask(account.signed("lambda", account.http.get(format!("{functions}/")))).await;
        let names = listed["Functions"].as_array().context("no functions")?.iter().filter_map(|function| function["FunctionName"].as_str());
        let name = names.into_iter().find(|name| name.contains("Dispatcher")).context("no dispatcher")?;
        let invocation = account.http.post(format!("{functions}/{name}/invocations")).json(&json!({ "Records": records }));
        Ok(account.ask(account.signed("lambda", invocation)).await)
    }

    #[tokio::test]
    async fn a_foreign_record_is_reported_alone_and_the_others_of_its_batch_succeed() -> Tested {
        let stack = Stack::deploy(&[("DispatcherMode", "lambda")]).await?;
        let queue = stack.output("InboxQueueUrl")?.rsplit('/').next().unwrap_or_default();
        let record = |id: &str, queue: &str, body: String| {
            json!({
                "messageId": id, "receiptHandle": format!("handle of {id}"), "body": body, "attributes": { "ApproximateReceiveCount": "1" },
                "eventSource": "aws:sqs", "eventSourceARN": format!("arn:aws:sqs:us-east-1:{}:{queue}", stack.account.id)
            })
        };
        let records = [
            record("1", queue, event(&["alice"], "first").to_string()),
            record("2", "somebody-elses", event(&["alice"], "of another queue").to_string()),
            json!({ "messageId": "3", "eventSource": "aws:kinesis", "kinesis": { "data": "c2VjcmV0" } }),
            record("4", queue, event(&["bob"], "last").to_string()),
        ];
        let answer = invoke_dispatcher(&stack, &records).await?;
        assert_eq!(answer, json!({ "batchItemFailures": [{ "itemIdentifier": "2" }, { "itemIdentifier": "3" }] }));
        assert_eq!(titles(&stack.inbox_of("alice", 1).await?), ["first"]);
        assert_eq!(titles(&stack.inbox_of("bob", 1).await?), ["last"]);

        // And what came through the topic: what is no event is a dead letter with its reason, and stops no other.
        let ports = stack.ports().await?;
        ports.hand_in("good morning").await?;
        publish(&ports, &event(&["alice"], "through the topic")).await?;
        assert_eq!(titles(&stack.inbox_of("alice", 2).await?), ["through the topic", "first"]);
        let letter = dead_letter(&ports).await?;
        assert_eq!(letter.body, "good morning");
        assert!(letter.attributes[ATTRIBUTE_REASON].contains("is not JSON"), "{letter:?}");
        Ok(())
    }

    /// Runs a process in this environment until it complains; answers the reason it logs.
    async fn complaint(stack: &Stack, process: &str, variables: &[(&str, &str)]) -> anyhow::Result<String> {
        let mut child = stack.container(process)?.envs(variables.iter().copied()).stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("standard error is piped")?).lines();
        let reading = async {
            while let Some(line) = lines.next_line().await? {
                let line: Value = serde_json::from_str(&line).with_context(|| format!("{process} says {line}"))?;
                if line["message"] == "polling failed" {
                    return line["reason"].as_str().map(str::to_owned).context("a failure without a reason");
                }
            }
            anyhow::bail!("{process} ended without a word")
        };
        let reason = timeout(SOON, reading).await.with_context(|| format!("{process} did not complain within {SOON:?}"))?;
        // It goes on trying: whoever mends the setting's cause need not start it again.
        ensure!(child.try_wait()?.is_none(), "{process} ended");
        child.kill().await?;
        reason
    }

    #[tokio::test]
    async fn a_wrong_endpoint_or_region_is_named_soon_and_loses_nothing() -> Tested {
        let mut stack = Stack::deploy(&[]).await?;
        let ports = stack.ports().await?;
        publish(&ports, &event(&["alice"], "before")).await?;
        for process in ["recado-dispatcher", "recado-email-worker"] {
            for (variables, says) in [
                ([("AWS_ENDPOINT_URL", "http://127.0.0.1:1")], "check AWS_ENDPOINT_URL and the network"),
                ([("AWS_ENDPOINT_URL", "http://nowhere.invalid")], "the endpoint's name is unknown"),
                ([("AWS_REGION", "eu-west-1")], "does not exist in this account and region"),
            ] {
                let reason = complaint(&stack, process, &variables).await?;
                assert!(reason.starts_with("SQS ReceiveMessage: ") && reason.contains(says), "{process}: {reason}");
            }
        }
        refused_publish(&stack).await?;
        stack.start_dispatcher()?;
        assert_eq!(titles(&stack.inbox_of("alice", 1).await?), ["before"]);
        Ok(())
    }

    /// Who publishes learns it as well. A topic of another region is no case here: SNS refuses it (`aws/src/failure.rs` says what
    /// that means), and the local AWS finds topics by their ARN wherever it is asked.
    async fn refused_publish(stack: &Stack) -> Tested {
        let outputs = tempfile::NamedTempFile::new()?;
        std::fs::write(outputs.path(), serde_json::to_vec(stack.outputs())?)?;
        let mut command = command(binary()?);
        command.envs(stack.account.environment()).env("RECADO_STACK", outputs.path()).env("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
        command.args(["publish", "--to", "alice", "--title", "nowhere"]);
        let ended = timeout(SOON, Ended::of(command)).await.context("publishing did not end")??;
        assert!(ended.code == Some(1) && ended.err.contains("check AWS_ENDPOINT_URL"), "{ended:?}");
        Ok(())
    }
}
