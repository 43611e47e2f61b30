//! The roles of infra/template.yaml, on a local AWS that enforces IAM: each is enough for everything its process does, none may
//! do what its process never did, and what is missing says so and loses nothing.
//!
//! Containers run with the credentials of their task role, functions with those of their own. What the local AWS asks for
//! otherwise than AWS, and what it does not ask for at all, stands at `Permissions` in infra/local/emulator.py.

mod aws {
    use std::ops::Deref;
    use std::sync::Arc;
    use std::time::Duration;

    use anyhow::{Context, ensure};
    use recado_aws::SqsQueue;
    use recado_aws::dynamo::{DynamoConnections, DynamoInbox, DynamoSuppressions};
    use recado_domain::address::AddressKey;
    use recado_domain::connection::{Connection, Phase, Protocol};
    use recado_domain::event::Event;
    use recado_domain::ids::{ConnectionId, RecipientKey, TenantId, UserId};
    use recado_domain::limits;
    use recado_domain::message::ATTRIBUTE_REASON;
    use recado_domain::notification::NewEntry;
    use recado_domain::ports::{Clock, Connections, Inbox, Queue, Suppressions};
    use recado_memory::ManualClock;
    use recado_runtime::system::{SystemClock, SystemEntropy};
    use recado_tests::harness::{
        Account, Decision, Ended, Guarded, Logged, Parameters, Permission, Stack, Tested, binary, command, event, eventually, titles,
    };
    use serde_json::{Value, json};

    const CONTAINERS: Parameters = &[
        ("DispatcherMode", "fargate"),
        ("EmailWorkerMode", "fargate"),
        ("ImageTag", "test"),
        ("DispatcherMaxTasks", "1"),
        ("TokenLeeway", "0ms"),
    ];
    const FUNCTIONS: Parameters =
        &[("DispatcherMode", "lambda"), ("EmailWorkerMode", "lambda"), ("TokenLeeway", "0ms"), ("LogLevel", "info")];

    /// What no run here can show, role by role, with the reason. Everything else that is granted has to be used.
    const BEYOND_A_RUN: &[(&str, &[&str], &str)] = &[
        (
            "ImagesRole",
            &[
                "ecr:GetAuthorizationToken",
                "ecr:BatchCheckLayerAvailability",
                "ecr:GetDownloadUrlForLayer",
                "ecr:BatchGetImage",
                "logs:CreateLogStream",
                "logs:PutLogEvents",
            ],
            "ECS pulls images and writes the tasks' log with it (\"Amazon ECS task execution IAM role\"); the local AWS runs no containers",
        ),
        (
            "ApiGatewayLogRole",
            &[
                "logs:CreateLogGroup",
                "logs:CreateLogStream",
                "logs:DescribeLogGroups",
                "logs:DescribeLogStreams",
                "logs:PutLogEvents",
                "logs:GetLogEvents",
                "logs:FilterLogEvents",
            ],
            "API Gateway demands all of AmazonAPIGatewayPushToCloudWatchLogs (\"Set up CloudWatch logging for REST APIs\"); the local one logs nothing",
        ),
    ];

    const POST: &str = "execute-api:ManageConnections";

    /// A stack on a local AWS of its own.
    struct Deployed {
        /// Dropped first: they work in the account.
        processes: Vec<Logged>,
        stack: Stack,
        dispatcher: &'static str,
        mail: &'static str,
        _aws: Guarded,
    }

    impl Deref for Deployed {
        type Target = Stack;

        fn deref(&self) -> &Stack {
            &self.stack
        }
    }

    impl Deployed {
        async fn with_containers() -> anyhow::Result<Self> {
            let aws = Guarded::start()?;
            let stack = Stack::deploy_into(Account::on(&aws.endpoint), CONTAINERS).await?;
            let mut processes = Vec::new();
            for (name, role) in [("recado-dispatcher", "DispatcherTaskRole"), ("recado-email-worker", "EmailWorkerTaskRole")] {
                let mut command = stack.container_as(name, role).await?;
                command.env("RECADO_LISTEN", "127.0.0.1:0").env("RECADO_LOG", "info,recado_runtime=debug");
                processes.push(Logged::spawn(command)?);
            }
            Ok(Self { processes, stack, dispatcher: "DispatcherTaskRole", mail: "EmailWorkerTaskRole", _aws: aws })
        }

        async fn with_functions() -> anyhow::Result<Self> {
            let aws = Guarded::start()?;
            let stack = Stack::deploy_into(Account::on(&aws.endpoint), FUNCTIONS).await?;
            Ok(Self { processes: Vec::new(), stack, dispatcher: "DispatcherRole", mail: "EmailWorkerRole", _aws: aws })
        }

        /// Takes an action from a role, drives it until the role missed it, and gives it back.
        async fn without(&self, role: &str, action: &str, of: &str, drive: impl AsyncFnOnce() -> Tested) -> Tested {
            self.account.withhold(role, action, &[of]).await?;
            let before = self.denials(role, action).await;
            drive().await?;
            eventually(&format!("{role} misses {action}"), async || Ok((self.denials(role, action).await > before).then_some(()))).await?;
            self.account.withhold(role, action, &[]).await
        }

        async fn denials(&self, role: &str, action: &str) -> u64 {
            let decisions = self.account.decisions().await;
            decisions.iter().filter(|of| of.permission.role == role && of.permission.action == action).map(|of| of.denied).sum()
        }

        /// Waits for something that a backoff of queues stands before.
        async fn in_time<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
            eventually(what, async || {
                self.account.advance(Duration::from_secs(1)).await;
                ask().await
            })
            .await
        }

        /// The reasons of the dead letters in a queue.
        async fn reasons(&self, output: &str) -> anyhow::Result<Vec<String>> {
            let clients = self.account.clients().await;
            let url = self.output(output)?;
            let letters = SqsQueue::new(&clients, url, url);
            let received = letters.receive(10, Duration::ZERO, Duration::ZERO).await?;
            Ok(received.iter().map(|letter| letter.attributes.get(ATTRIBUTE_REASON).cloned().unwrap_or_default()).collect())
        }
    }

    fn recipient(user: &str) -> anyhow::Result<RecipientKey> {
        Ok(RecipientKey::new(TenantId::default(), UserId::new(user)?))
    }

    fn with_mail(user: &str, title: &str) -> Value {
        let mut event = event(&[user], title);
        event["data"]["channels"] = json!(["inbox", "email"]);
        event
    }

    /// Applications publish, one event and several.
    async fn events_come_in(recado: &Deployed) -> Tested {
        recado.publish(&event(&["alice"], "one")).await?;
        recado.publish_batch(&[event(&["alice"], "two"), event(&["alice"], "three")]).await?;
        recado.inbox_of("alice", 3).await?;
        Ok(())
    }

    /// A plain client is brought what it missed, and then what comes.
    async fn a_plain_client_listens(recado: &Deployed) -> Tested {
        recado.publish(&event(&["carol"], "before")).await?;
        recado.inbox_of("carol", 1).await?;
        let mut carol = recado.connect_plain("carol").await?;
        recado.account.advance(limits::W).await;
        assert_eq!(titles(&carol.live_items(1).await?), ["before"]);
        recado.publish(&event(&["carol"], "after")).await?;
        assert_eq!(titles(&carol.live_items(1).await?), ["after"]);
        carol.leave().await
    }

    /// One connection above the cap closes the oldest; one that could not be closed comes back with its next `sync`.
    async fn too_many_connections(recado: &Deployed) -> Tested {
        let mut devices = Vec::new();
        for _ in 0..limits::CONNECTIONS_PER_USER {
            devices.push(recado.connect("dave").await?);
        }
        recado
            .without("ConnectRole", POST, "/DELETE/", async || {
                devices.push(recado.connect("dave").await?);
                Ok(())
            })
            .await?;
        devices[0].sync(None, &[]).await?;
        devices.push(recado.connect("dave").await?);
        devices.remove(0).closed().await?;
        Ok(())
    }

    /// What one device does shows on the other, over the socket and over HTTP.
    async fn an_inbox_is_used(recado: &Deployed) -> Tested {
        let mut phone = recado.connect_with_ticket("bob").await?;
        phone.sync(None, &[]).await?;
        let mut laptop = recado.live("bob").await?;
        let ids = [recado.publish(&event(&["bob"], "one")).await?, recado.publish(&event(&["bob"], "two")).await?];
        phone.live_items(2).await?;
        laptop.live_items(2).await?;
        phone.send(&json!({ "type": "ack", "ids": ids })).await?;
        phone.send(&json!({ "type": "read", "ids": [ids[0]] })).await?;
        laptop.next("read").await?;
        phone.send(&json!({ "type": "archive", "ids": [ids[0]] })).await?;
        laptop.next("archive").await?;
        let seen = recado.get("bob", "/inbox").await?;
        phone.send(&json!({ "type": "read_all", "up_to": seen["items"][0]["position"] })).await?;
        laptop.next("read").await?;
        recado.publish(&event(&["bob"], "three")).await?;
        let three = laptop.live_items(1).await?.remove(0);
        recado.post("bob", "/inbox/read", &json!({ "ids": [three["id"]] })).await?;
        phone.next("read").await?;
        recado.post("bob", "/inbox/archive", &json!({ "ids": [three["id"]] })).await?;
        phone.next("archive").await?;
        recado.post("bob", "/inbox/read-all", &json!({ "up_to": three["position"] })).await?;
        assert_eq!(recado.get("bob", "/inbox/unread-count").await?["count"], 0);
        phone.leave().await?;
        laptop.leave().await
    }

    /// Who finds a socket gone removes its row: the dispatcher, a function of the sockets, the HTTP API.
    async fn rows_of_sockets_that_are_gone(recado: &Deployed) -> Tested {
        let clients = recado.account.clients().await;
        let connections = DynamoConnections::new(&clients, recado.output("TableName")?, SystemClock, SystemEntropy);
        let now = SystemClock.now();
        for user in ["gina", "hugo", "ivan"] {
            let row = Connection {
                id: ConnectionId::new(format!("{user}-is-gone="))?,
                phase: Phase::Live,
                registered_at: now,
                token_expires_at: now + Duration::from_secs(3600),
                protocol: Protocol::Recado,
                device: None,
            };
            connections.register(&recipient(user)?, &row).await?;
        }
        let alone = async |user: &str| {
            let wanted = [recipient(user)?];
            eventually(&format!("{user}'s row is removed"), async || {
                let rows = connections.of_users(&wanted).await.remove(0)?;
                Ok(rows.iter().all(|row| !row.id.as_str().contains("gone")).then_some(()))
            })
            .await
        };
        recado.publish(&event(&["gina"], "nobody is there")).await?;
        alone("gina").await?;
        let mut hugo = recado.live("hugo").await?;
        let stored = recado.stored_for("hugo").await?;
        hugo.send(&json!({ "type": "archive", "ids": [stored] })).await?;
        alone("hugo").await?;
        let stored = recado.stored_for("ivan").await?;
        recado.post("ivan", "/inbox/read", &json!({ "ids": [stored] })).await?;
        alone("ivan").await
    }

    impl Deployed {
        /// The id of an entry that the dispatcher knows nothing of: it would find the sockets gone first.
        async fn stored_for(&self, user: &str) -> anyhow::Result<String> {
            self.append_old(user, &event(&[user], "stored before")).await?;
            let stored = self.inbox_of(user, 1).await?.remove(0);
            Ok(stored["id"].as_str().context("an id")?.to_owned())
        }

        /// Stores an event's entry as a dispatcher did a minute ago that then crashed.
        async fn append_old(&self, user: &str, event: &Value) -> Tested {
            let clients = self.account.clients().await;
            let clock = ManualClock::new(SystemClock.now() - limits::W);
            let inbox = DynamoInbox::new(&clients, self.output("TableName")?, clock.clone(), SystemEntropy);
            let notification = Arc::new(Event::parse(event.to_string().as_bytes())?.notification(clock.now()));
            inbox.append(&[NewEntry { recipient: recipient(user)?, notification }]).await.remove(0)?;
            Ok(())
        }
    }

    /// An entry that was stored long before its push is stamped again.
    async fn a_late_entry_is_stamped_again(recado: &Deployed) -> Tested {
        let late = event(&["lena"], "late");
        recado.append_old("lena", &late).await?;
        let before = recado.inbox_of("lena", 1).await?.remove(0);
        recado.publish(&late).await?;
        eventually("the entry moved", async || Ok((recado.inbox("lena").await?[0]["position"] != before["position"]).then_some(()))).await
    }

    /// What the store or a connection does not take is tried again.
    async fn the_dispatcher_tries_again(recado: &Deployed) -> Tested {
        let publish = async |user: &str| recado.publish(&event(&[user], "tried again")).await.map(drop);
        recado.without(recado.dispatcher, "dynamodb:PartiQLInsert", "", async || publish("mona").await).await?;
        recado.in_time("mona's entry", async || Ok(recado.inbox("mona").await?.pop())).await?;
        let mut nora = recado.live("nora").await?;
        recado.without(recado.dispatcher, POST, "/POST/", async || publish("nora").await).await?;
        let pushed = tokio::spawn(async move { nora.live_items(1).await });
        recado.in_time("the push is repeated", async || Ok(pushed.is_finished().then_some(()))).await?;
        assert_eq!(titles(&pushed.await??), ["tried again"]);
        Ok(())
    }

    /// A token ends: whoever is the next to use its socket closes it.
    async fn tokens_end(recado: &Deployed) -> Tested {
        const LASTING: Duration = Duration::from_secs(10);
        let token = |user: &str| recado.issuer.token(user, LASTING);
        let mut erins = recado.connect_with(&token("erin")?, true).await?;
        let mut finns = recado.connect_with(&token("finn")?, true).await?;
        finns.sync(None, &[]).await?;
        // Not by connecting again and again: above the cap that closes the first one.
        let end = SystemClock.now() + LASTING;
        eventually("the tokens have ended", async || Ok((SystemClock.now() > end).then_some(()))).await?;
        erins.send_text("{}".to_owned()).await?;
        erins.closed().await?;
        recado.publish(&event(&["finn"], "too late")).await?;
        finns.closed().await?;
        Ok(())
    }

    /// Mail, also where an event was published without its attributes, and where SES does not take it at first.
    async fn mail_is_sent(recado: &Deployed) -> Tested {
        recado.publish(&with_mail("alice", "mail")).await?;
        let by_hand = with_mail("bob", "by hand").to_string();
        let clients = recado.account.clients().await;
        clients.sns.publish().topic_arn(recado.output("TopicArn")?).message(by_hand).send().await?;
        recado.sent("alice").await?;
        recado.sent("bob").await?;
        recado
            .without(recado.mail, "ses:SendRawEmail", "identity/", async || {
                recado.publish(&with_mail("olga", "tried again")).await.map(drop)
            })
            .await?;
        recado.sent("olga").await
    }

    impl Deployed {
        async fn sent(&self, user: &str) -> Tested {
            let to = format!("{user}@example.com");
            self.in_time(&format!("mail to {user}"), async || Ok(self.account.mails().await.iter().any(|mail| mail.to == to).then_some(())))
                .await
        }
    }

    /// A bounce suppresses its address, also where the table does not take it at first.
    async fn feedback_comes_back(recado: &Deployed) -> Tested {
        let clients = recado.account.clients().await;
        let bounce = json!({
            "notificationType": "Bounce",
            "bounce": {"bounceType": "Permanent", "bouncedRecipients": [{"emailAddress": "mallory@example.com"}]}
        });
        let report = async || {
            let call = clients.sns.publish().topic_arn(recado.output("FeedbackTopicArn")?).message(bounce.to_string());
            call.send().await?;
            anyhow::Ok(())
        };
        recado.without("MailFeedbackRole", "dynamodb:PartiQLInsert", "", report).await?;
        let suppressions = DynamoSuppressions::new(&clients, recado.output("TableName")?, SystemClock, SystemEntropy);
        let address = [AddressKey::of("mallory@example.com")?];
        recado.in_time("the address is suppressed", async || Ok(suppressions.suppressed(&address).await.remove(0)?)).await?;
        Ok(())
    }

    /// What cannot be understood goes to each dead-letter queue with its reason.
    async fn nonsense_is_dead_lettered(recado: &Deployed) -> Tested {
        let clients = recado.account.clients().await;
        for topic in ["TopicArn", "FeedbackTopicArn"] {
            clients.sns.publish().topic_arn(recado.output(topic)?).message("no event").send().await?;
        }
        clients.sqs.send_message().queue_url(recado.output("EmailQueueUrl")?).message_body("no event").send().await?;
        for letters in ["InboxDeadLettersUrl", "FeedbackDeadLettersUrl", "EmailDeadLettersUrl"] {
            let reasons = eventually(letters, async || Ok(Some(recado.reasons(letters).await?).filter(|all| !all.is_empty()))).await?;
            assert!(!reasons[0].is_empty(), "{letters} say why");
        }
        Ok(())
    }

    /// Everything that Recado does.
    async fn the_whole_job(recado: &Deployed) -> Tested {
        let tokens = async { tokens_end(recado).await.context("tokens end") };
        let all = async {
            events_come_in(recado).await.context("events come in")?;
            a_plain_client_listens(recado).await.context("a plain client listens")?;
            an_inbox_is_used(recado).await.context("an inbox is used")?;
            too_many_connections(recado).await.context("too many connections")?;
            rows_of_sockets_that_are_gone(recado).await.context("rows of sockets that are gone")?;
            a_late_entry_is_stamped_again(recado).await.context("a late entry is stamped again")?;
            the_dispatcher_tries_again(recado).await.context("the dispatcher tries again")?;
            mail_is_sent(recado).await.context("mail is sent")?;
            feedback_comes_back(recado).await.context("feedback comes back")?;
            nonsense_is_dead_lettered(recado).await.context("nonsense is dead-lettered")
        };
        let (tokens, all) = tokio::join!(tokens, all);
        tokens.and(all)
    }

    fn beyond_a_run(permission: &Permission) -> bool {
        BEYOND_A_RUN.iter().any(|(role, actions, _)| *role == permission.role && actions.contains(&permission.action.as_str()))
    }

    /// What was withheld for a while, and nothing else, was denied; what is granted was used.
    async fn judge(recado: &Deployed) -> Tested {
        let (granted, decisions) = (recado.account.granted().await, recado.account.decisions().await);
        let withheld = [
            ("ConnectRole", POST),
            (recado.dispatcher, "dynamodb:PartiQLInsert"),
            (recado.dispatcher, POST),
            (recado.mail, "ses:SendRawEmail"),
            ("MailFeedbackRole", "dynamodb:PartiQLInsert"),
        ];
        let on_purpose = |of: &&Decision| withheld.contains(&(of.permission.role.as_str(), of.permission.action.as_str()));
        let denied: Vec<_> = decisions.iter().filter(|of| of.denied > 0 && !on_purpose(of)).map(|of| &of.permission).collect();
        assert!(denied.is_empty(), "a role of infra/template.yaml is too narrow: allow it this: {denied:#?}");
        let used = |granted: &&Permission| decisions.iter().any(|of| of.allowed > 0 && granted.allows(&of.permission));
        let unused: Vec<_> = granted.iter().filter(|of| !used(of) && !beyond_a_run(of)).collect();
        assert!(unused.is_empty(), "a role of infra/template.yaml is wider than its process needs: take this away: {unused:#?}");
        ensure!(decisions.len() > 20, "only {} decisions were recorded", decisions.len());
        Ok(())
    }

    #[tokio::test]
    async fn with_containers_every_role_is_enough_and_has_no_action_that_is_never_used() -> Tested {
        let recado = Deployed::with_containers().await?;
        Box::pin(the_whole_job(&recado)).await?;
        judge(&recado).await
    }

    #[tokio::test]
    async fn with_functions_every_role_is_enough_and_has_no_action_that_is_never_used() -> Tested {
        let recado = Deployed::with_functions().await?;
        Box::pin(the_whole_job(&recado)).await?;
        judge(&recado).await
    }

    // ── What is missing says so, and loses nothing ───────────────────────────────────────────────────────────────────────────────────────

    /// What every line about a missing permission says beside the action.
    const ADVICE: &str = "allow it in the role of this process";

    impl Deployed {
        /// The dispatcher or the email worker, as a container.
        fn container(&self, name: &str) -> &Logged {
            &self.processes[usize::from(name != "recado-dispatcher")]
        }

        /// Whether a container is ready, and what it says.
        async fn ready(&self, name: &str) -> anyhow::Result<(u16, String)> {
            let line = self.container(name).line(&["status is shown"]).await?;
            let address = line.split("127.0.0.1:").nth(1).context("an address")?;
            let port: String = address.chars().take_while(char::is_ascii_digit).collect();
            let answer = self.http.get(format!("http://127.0.0.1:{port}/readyz")).send().await?;
            Ok((answer.status().as_u16(), answer.text().await?))
        }

        /// Waits for the line of a function's log that names an action, its resource and what to do.
        async fn logs(&self, group: &str, action: &str, resource: &str) -> Tested {
            let words = [action, resource, ADVICE];
            eventually(&format!("a line of {group} with {words:?}"), async || {
                let lines = self.account.logged(group).await;
                Ok(lines.iter().any(|line| words.iter().all(|word| line.contains(word))).then_some(()))
            })
            .await
            .with_context(|| format!("{group} says no such thing"))
        }

        async fn no_dead_letters(&self) -> Tested {
            for letters in ["InboxDeadLettersUrl", "EmailDeadLettersUrl", "FeedbackDeadLettersUrl"] {
                let reasons = self.reasons(letters).await?;
                ensure!(reasons.is_empty(), "{letters}: {reasons:?}");
            }
            Ok(())
        }

        /// How many messages a queue holds, in work or not.
        async fn waiting(&self, output: &str) -> anyhow::Result<u32> {
            use aws_sdk_sqs::types::QueueAttributeName::{
                ApproximateNumberOfMessages as Visible, ApproximateNumberOfMessagesNotVisible as InWork,
            };
            let clients = self.account.clients().await;
            let call = clients.sqs.get_queue_attributes().queue_url(self.output(output)?);
            let attributes = call.attribute_names(Visible).attribute_names(InWork).send().await?.attributes.unwrap_or_default();
            attributes.values().map(|value| Ok(value.parse::<u32>()?)).sum()
        }
    }

    #[tokio::test]
    async fn a_dispatcher_that_may_not_write_or_push_says_so_and_does_it_later() -> Tested {
        let recado = Deployed::with_containers().await?;
        let log = recado.container("recado-dispatcher");
        let table = format!("table/{}", recado.output("TableName")?);
        for (user, action) in [("alice", "dynamodb:PartiQLInsert"), ("bob", "dynamodb:BatchGetItem")] {
            recado
                .without(recado.dispatcher, action, "", async || {
                    recado.publish(&event(&[user], "late")).await?;
                    log.line(&[action, &table, ADVICE]).await.map(drop)
                })
                .await?;
            recado.in_time(&format!("{user}'s entry"), async || Ok(recado.inbox(user).await?.pop())).await?;
        }
        let mut carol = recado.live("carol").await?;
        recado
            .without(recado.dispatcher, POST, "/POST/", async || {
                recado.publish(&event(&["carol"], "late")).await?;
                log.line(&[POST, ADVICE]).await.map(drop)
            })
            .await?;
        assert_eq!(titles(&recado.inbox_of("carol", 1).await?), ["late"], "what cannot be pushed is stored all the same");
        let pushed = tokio::spawn(async move { carol.live_items(1).await });
        recado.in_time("the push is repeated", async || Ok(pushed.is_finished().then_some(()))).await?;
        assert_eq!(titles(&pushed.await??), ["late"]);
        recado.no_dead_letters().await
    }

    #[tokio::test]
    async fn a_worker_that_may_not_receive_is_unready_and_one_that_may_not_delete_repeats_nothing() -> Tested {
        let recado = Deployed::with_containers().await?;
        let dispatcher = "recado-dispatcher";
        let log = recado.container(dispatcher);
        let queue = recado.output("InboxQueueUrl")?.rsplit('/').next().context("a name")?.to_owned();
        eventually("it is ready", async || Ok((recado.ready(dispatcher).await?.0 == 200).then_some(()))).await?;
        recado
            .without(recado.dispatcher, "sqs:ReceiveMessage", "", async || {
                // A poll that waits was allowed before, and ends with the event.
                recado.publish(&event(&["nobody"], "ends the poll")).await?;
                let unready =
                    eventually("it is unready", async || Ok(Some(recado.ready(dispatcher).await?).filter(|answer| answer.0 == 503)));
                let (_, says) = unready.await?;
                ensure!(["sqs:ReceiveMessage", &queue, ADVICE].iter().all(|word| says.contains(word)), "{says}");
                log.line(&["sqs:ReceiveMessage", &queue, ADVICE]).await?;
                recado.publish(&event(&["alice"], "waits")).await.map(drop)
            })
            .await?;
        recado.inbox_of("alice", 1).await?;
        eventually("it is ready again", async || Ok((recado.ready(dispatcher).await?.0 == 200).then_some(()))).await?;
        let mut bob = recado.live("bob").await?;
        recado
            .without(recado.dispatcher, "sqs:DeleteMessage", "", async || {
                recado.publish(&event(&["bob"], "once")).await?;
                log.line(&["sqs:DeleteMessage", &queue, ADVICE]).await.map(drop)
            })
            .await?;
        recado.in_time("the queue is empty", async || Ok((recado.waiting("InboxQueueUrl").await? == 0).then_some(()))).await?;
        assert_eq!(recado.inbox("bob").await?.len(), 1);
        assert_eq!(titles(&bob.live_items(1).await?)[0], "once");
        recado.no_dead_letters().await
    }

    #[tokio::test]
    async fn a_mail_that_may_not_be_sent_waits_and_is_sent_once() -> Tested {
        let recado = Deployed::with_containers().await?;
        let log = recado.container("recado-email-worker");
        recado
            .without(recado.mail, "ses:SendRawEmail", "configuration-set/", async || {
                recado.publish(&with_mail("alice", "late")).await?;
                log.line(&["ses:SendRawEmail", "configuration-set/", ADVICE]).await.map(drop)
            })
            .await?;
        assert!(recado.account.mails().await.is_empty());
        recado.sent("alice").await?;
        recado.in_time("the queue is empty", async || Ok((recado.waiting("EmailQueueUrl").await? == 0).then_some(()))).await?;
        assert_eq!(recado.account.mails().await.len(), 1);
        recado.no_dead_letters().await
    }

    #[tokio::test]
    async fn a_function_without_a_permission_says_so_and_answers_once_it_has_it() -> Tested {
        let recado = Deployed::with_functions().await?;
        let (table, topic) = (format!("table/{}", recado.output("TableName")?), recado.output("TopicArn")?.to_owned());
        recado
            .without("ConnectRole", "dynamodb:PutItem", "", async || {
                // AWS hands the 503 of the function on; the local one reads 403 (suites/stack.rs).
                assert_eq!(recado.try_connect(&recado.token("alice")?, true).await?.err(), Some(403));
                recado.logs("ConnectLog", "dynamodb:PutItem", &table).await
            })
            .await?;
        let mut alice = recado.live("alice").await?;
        recado
            .without("MessageRole", "dynamodb:Query", "", async || {
                alice.send(&json!({ "type": "sync", "request": "r", "client": "test" })).await?;
                assert_eq!(alice.next("error").await?["code"], "try_again");
                recado.logs("MessageLog", "dynamodb:Query", &format!("{table}/index/by_position")).await
            })
            .await?;
        alice.sync(None, &[]).await?;
        recado
            .without("HttpRole", "dynamodb:Query", "", async || {
                let request = recado.http.get(format!("{}/inbox", recado.url)).bearer_auth(recado.token("alice")?);
                assert_eq!(request.send().await?.status().as_u16(), 503);
                recado.logs("HttpLog", "dynamodb:Query", &table).await
            })
            .await?;
        recado
            .without("HttpRole", "sns:Publish", "", async || {
                let (status, answer) = recado.post_event(event(&["alice"], "refused").to_string()).await?;
                assert_eq!(status.as_u16(), 503, "{answer}");
                recado.logs("HttpLog", "sns:Publish", &topic).await
            })
            .await?;
        recado
            .without(recado.dispatcher, "dynamodb:PartiQLInsert", "", async || {
                recado.publish(&event(&["alice"], "late")).await?;
                recado.logs("DispatcherLog", "dynamodb:PartiQLInsert", &table).await
            })
            .await?;
        recado.in_time("the entry", async || Ok(recado.inbox("alice").await?.pop())).await?;
        assert_eq!(titles(&alice.live_items(1).await?), ["late"]);
        recado
            .without("DisconnectRole", "dynamodb:UpdateItem", "", async || {
                alice.leave().await?;
                recado.logs("DisconnectLog", "dynamodb:UpdateItem", &table).await
            })
            .await?;
        recado.no_dead_letters().await
    }

    #[tokio::test]
    async fn an_application_that_may_not_publish_is_told_what_to_allow() -> Tested {
        let aws = Guarded::start()?;
        let stack = Stack::deploy_into(Account::on(&aws.endpoint), CONTAINERS).await?;
        // Works in the same account, and may not publish.
        let credentials = stack.account.assume("DispatcherTaskRole").await?;
        let mut publish = command(binary()?);
        publish.envs(stack.account.environment()).envs(credentials).env("RECADO_STACK", stack.file());
        publish.args(["publish", "--to", "alice", "--title", "hello"]);
        let ended = Ended::of(publish).await?;
        assert_ne!(ended.code, Some(0), "{ended:?}");
        let said = format!("{}{}", ended.out, ended.err);
        for words in ["sns:Publish", stack.output("TopicArn")?, "allow"] {
            assert!(said.contains(words), "no {words} in {said}");
        }
        drop(stack);
        drop(aws);
        Ok(())
    }
}
