//! infra/template.yaml as it is deployed: every output, every function by its own trigger, updates that change nothing, and an
//! end that leaves nothing but what it is told to leave.
//!
//! What Recado does on it is the matter of `end_to_end.rs`. Where the local AWS is wrong, a test says what AWS does.

mod aws {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::time::Duration;

    use anyhow::{Context, ensure};
    use aws_sdk_sqs::types::QueueAttributeName;
    use recado_aws::dynamo::DynamoSuppressions;
    use recado_aws::{Clients, GatewaySockets};
    use recado_domain::address::AddressKey;
    use recado_domain::connection::CloseReason;
    use recado_domain::ids::ConnectionId;
    use recado_domain::ports::{Posted, Sockets, Suppressions};
    use recado_runtime::system::{SystemClock, SystemEntropy};
    use recado_tests::harness::{Account, Deployment, Logged, Parameters, Stack, Tested, event, eventually, titles};
    use reqwest::StatusCode;
    use serde_json::{Value, json};

    const FUNCTIONS: Parameters = &[("DispatcherMode", "lambda"), ("EmailWorkerMode", "lambda")];

    /// What API Gateway hands to the function of `$connect`.
    const CONNECT: &str = include_str!("../../aws/src/lambda/samples/connect.json");

    fn with_mail(user: &str, title: &str) -> Value {
        let mut event = event(&[user], title);
        event["data"]["channels"] = json!(["inbox", "email"]);
        event
    }

    /// The id that the API gave the one socket that is open.
    async fn connection(stack: &Stack) -> anyhow::Result<ConnectionId> {
        let api = stack.output("SocketsEndpoint")?.rsplit('/').nth(1).context("the endpoint names no API")?;
        let open = stack.account.connections(api).await;
        ensure!(open.len() == 1, "{} sockets are open", open.len());
        Ok(ConnectionId::new(&open[0])?)
    }

    /// Uses one output as whoever reads it does.
    async fn used(stack: &Stack, clients: &Clients, output: &str, value: &str) -> Tested {
        match output {
            "WebSocketUrl" => {
                assert_eq!(value, stack.ws);
                stack.live("olivia").await?.leave().await?;
            }
            "HttpApiUrl" => {
                assert_eq!(value, stack.url);
                assert!(stack.inbox("olivia").await?.is_empty());
            }
            "SocketsEndpoint" => {
                stack.alone().await?;
                let mut client = stack.live("oscar").await?;
                let sockets = GatewaySockets::new(clients, value);
                let id = connection(stack).await?;
                assert_eq!(sockets.post(&id, r#"{"type":"unread","count":7}"#).await?, Posted::Delivered);
                assert_eq!(client.next("unread").await?["count"], 7);
                sockets.close(&id, CloseReason::GoingAway).await?;
                client.closed().await?;
            }
            "TopicArn" => {
                let message = event(&["otto"], "published with IAM").to_string();
                clients.sns.publish().topic_arn(value).message(message).send().await?;
                assert_eq!(titles(&stack.inbox_of("otto", 1).await?), ["published with IAM"]);
            }
            "FeedbackTopicArn" | "AlarmTopicArn" => {
                clients.sns.get_topic_attributes().topic_arn(value).send().await?;
            }
            "TableName" => {
                let table = clients.dynamodb.describe_table().table_name(value).send().await?.table.context("a table")?;
                assert_eq!(table.local_secondary_indexes().len(), 1);
            }
            "ConfigurationSet" => {
                let call =
                    clients.ses.send_raw_email().source("news@example.com").destinations("ozzy@example.com").configuration_set_name(value);
                call.raw_message(mail("Subject: hello\r\n\r\nhello")).send().await?;
            }
            "DispatcherPolicyArn" | "EmailWorkerPolicyArn" => {
                let answer = iam(&stack.account, &[("Action", "GetPolicy"), ("PolicyArn", value)]).await?;
                assert!(answer.contains("<DefaultVersionId>"), "{answer}");
            }
            queue if queue.ends_with("Url") => {
                let call = clients.sqs.get_queue_attributes().queue_url(value).attribute_names(QueueAttributeName::All);
                let attributes = call.send().await?.attributes.context("attributes")?;
                let redrives = attributes.contains_key(&QueueAttributeName::RedrivePolicy);
                assert_eq!(redrives, queue.ends_with("QueueUrl"), "{queue}: {attributes:?}");
            }
            unknown => panic!("{unknown} is new: say here how it is used"),
        }
        Ok(())
    }

    fn mail(text: &str) -> aws_sdk_ses::types::RawMessage {
        aws_sdk_ses::types::RawMessage::builder().data(aws_sdk_ses::primitives::Blob::new(text)).build().expect("its data is set")
    }

    /// An operation of IAM, which has no SDK here.
    async fn iam(account: &Account, parameters: &[(&str, &str)]) -> anyhow::Result<String> {
        let request = account.http.post(&account.endpoint).query(parameters).query(&[("Version", "2010-05-08")]);
        Ok(account.signed("iam", request).send().await?.error_for_status()?.text().await?)
    }

    #[tokio::test]
    async fn every_output_is_there_and_of_use() -> Tested {
        let stack = Stack::deploy(&[("DispatcherMode", "lambda"), ("Monitoring", "basic")]).await?;
        let clients = stack.account.clients().await;
        ensure!(stack.outputs().contains_key("AlarmTopicArn") && stack.outputs().len() > 15, "{:?}", stack.outputs());
        for (output, value) in stack.outputs() {
            used(&stack, &clients, output, value).await.with_context(|| format!("the output {output}, {value}"))?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn with_functions_alone_every_function_answers_its_trigger() -> Tested {
        let stack = Stack::deploy(FUNCTIONS).await?;
        // connect, message
        let mut alice = stack.live("alice").await?;
        // http-api, dispatcher
        stack.publish(&with_mail("alice", "hello")).await?;
        assert_eq!(titles(&alice.live_items(1).await?), ["hello"]);
        assert_eq!(titles(&stack.inbox_of("alice", 1).await?), ["hello"]);
        // email-worker
        assert_eq!(stack.mails(1).await?[0].to, "alice@example.com");
        // disconnect: the row goes with the socket
        let clients = stack.account.clients().await;
        let id = connection(&stack).await?;
        let reverse = async || {
            let key = [("pk", format!("C#{id}")), ("sk", "C".to_owned())];
            let key = key.map(|(name, value)| (name.to_owned(), aws_sdk_dynamodb::types::AttributeValue::S(value)));
            let table = stack.output("TableName")?;
            anyhow::Ok(clients.dynamodb.get_item().table_name(table).set_key(Some(key.into())).send().await?.item.is_some())
        };
        ensure!(reverse().await?, "a connection has its reverse item");
        alice.leave().await?;
        eventually("the connection's items are removed", async || Ok((!reverse().await?).then_some(()))).await?;
        // mail-feedback
        let complaint =
            json!({"notificationType": "Complaint", "complaint": {"complainedRecipients": [{"emailAddress": "bob@example.com"}]}});
        clients.sns.publish().topic_arn(stack.output("FeedbackTopicArn")?).message(complaint.to_string()).send().await?;
        let suppressions = DynamoSuppressions::new(&clients, stack.output("TableName")?, SystemClock, SystemEntropy);
        let bob = [AddressKey::of("bob@example.com")?];
        eventually("bob is suppressed", async || Ok(suppressions.suppressed(&bob).await.remove(0)?)).await?;
        Ok(())
    }

    /// Invokes a function of the stack by its name in the template.
    async fn invoke(stack: &Stack, function: &str, event: &Value) -> anyhow::Result<Value> {
        let name = stack.resources().await?.remove(function).with_context(|| format!("no function {function}"))?;
        let url = format!("{}/2015-03-31/functions/{name}/invocations", stack.account.endpoint);
        Ok(stack.account.ask(stack.account.signed("lambda", stack.account.http.post(url).json(event))).await)
    }

    /// On AWS a client reads the 401 of the function: the API Gateway Developer Guide, "Manage connected users and client apps: $connect
    /// and $disconnect routes", says that a connection is made only where the integration answers 2xx. The local one closes the handshake
    /// without an answer of its own, which its server of ASGI makes 403.
    #[tokio::test]
    async fn connect_answers_a_bad_token_with_401_which_the_local_gateway_makes_403() -> Tested {
        let stack = Stack::deploy(&[]).await?;
        let connect = |token: &str| {
            let mut event: Value = serde_json::from_str(CONNECT).expect("a sample is JSON");
            for headers in ["headers", "multiValueHeaders"] {
                // No page of another origin, which is refused whatever its token.
                event[headers].as_object_mut().expect("headers").remove("Origin");
            }
            event["queryStringParameters"] = json!({ "token": token });
            event["multiValueQueryStringParameters"] = json!({ "token": [token] });
            event
        };
        for token in ["", "x.y.z"] {
            let answer = invoke(&stack, "ConnectFunction", &connect(token)).await?;
            assert_eq!(answer["statusCode"], 401, "{answer}");
            assert_eq!(stack.try_connect(token, true).await?.err(), Some(Stack::EXPECTED.unauthorized));
            let http = stack.http.get(format!("{}/inbox", stack.url)).bearer_auth(token).send().await?;
            assert_eq!(http.status(), StatusCode::UNAUTHORIZED);
        }
        let answer = invoke(&stack, "ConnectFunction", &connect(&stack.token("alice")?)).await?;
        assert_eq!(answer["statusCode"], 200, "{answer}");
        Ok(())
    }

    #[tokio::test]
    async fn the_same_again_changes_nothing_and_an_update_keeps_what_is_there() -> Tested {
        let mut stack = Stack::deploy(FUNCTIONS).await?;
        stack.publish(&event(&["alice"], "before")).await?;
        let before = (stack.resources().await?, stack.inbox_of("alice", 1).await?);
        assert_eq!(stack.changes(FUNCTIONS).await?, BTreeMap::new());
        let outputs = stack.outputs().clone();
        stack.update(FUNCTIONS).await?;
        assert_eq!(stack.outputs(), &outputs);
        let changed: Parameters = &[("DispatcherMode", "lambda"), ("EmailWorkerMode", "lambda"), ("LogLevel", "error")];
        let changes = stack.changes(changed).await?;
        // AWS lists the functions and what belongs to a mode that is off not at all ("UpdateStack"); the local one lists it as well.
        assert_eq!(changes.get("HttpFunction").map(String::as_str), Some("Modify"));
        assert!(changes.values().all(|change| change == "Modify"), "{changes:?}");
        for kept in ["Table", "Topic", "InboxQueue", "EmailQueue", "Sockets", "Http", "ConnectRole"] {
            assert!(!changes.contains_key(kept), "{kept}: {changes:?}");
        }
        stack.update(changed).await?;
        assert_eq!((stack.resources().await?, stack.inbox("alice").await?), before);
        stack.publish(&event(&["alice"], "after")).await?;
        assert_eq!(titles(&stack.inbox_of("alice", 2).await?), ["after", "before"]);
        Ok(())
    }

    /// In a function this is `with_functions_alone_every_function_answers_its_trigger`.
    #[tokio::test]
    async fn a_container_mails_as_well_in_the_stack_or_beside_it() -> Tested {
        let mut stack = Stack::deploy(&[("EmailWorkerMode", "external")]).await?;
        let fargate: Parameters = &[("EmailWorkerMode", "fargate"), ("ImageTag", "test"), ("DispatcherMaxTasks", "1")];
        for (count, (mode, parameters)) in [("external", None), ("fargate", Some(fargate))].into_iter().enumerate() {
            if let Some(parameters) = parameters {
                stack.update(parameters).await?;
            }
            let worker = Logged::spawn(stack.container("recado-email-worker")?)?;
            stack.publish(&with_mail("alice", mode)).await?;
            // The worker before was killed while it polled, and that poll may still have taken the mail: until its lease ends.
            let left = eventually("the mail leaves", async || {
                stack.account.advance(Duration::from_secs(1)).await;
                Ok((stack.account.mails().await.len() > count).then_some(()))
            });
            left.await.with_context(|| format!("{mode}: {:?}", worker.lines()))?;
            let mails = stack.mails(count + 1).await?;
            assert_eq!(mails[count].subject, mode);
        }
        Ok(())
    }

    /// What is left of an account, kind by kind.
    async fn left(account: &Account) -> anyhow::Result<Vec<String>> {
        let clients = account.clients().await;
        let mut left = clients.dynamodb.list_tables().send().await?.table_names.unwrap_or_default();
        left.extend(clients.sqs.list_queues().send().await?.queue_urls.unwrap_or_default());
        left.extend(clients.sns.list_topics().send().await?.topics.unwrap_or_default().into_iter().filter_map(|topic| topic.topic_arn));
        for (service, path, list, name) in [
            ("lambda", "/2015-03-31/functions", "Functions", "FunctionName"),
            ("lambda", "/2015-03-31/event-source-mappings", "EventSourceMappings", "UUID"),
            ("apigateway", "/v2/apis", "items", "apiId"),
        ] {
            let answer = account.ask(account.signed(service, account.http.get(format!("{}{path}", account.endpoint)))).await;
            let listed = answer.get(list).or(answer.get("Items")).and_then(Value::as_array).cloned().unwrap_or_default();
            left.extend(listed.iter().map(|one| one[name].to_string()));
        }
        let logs = account.http.post(&account.endpoint).header("x-amz-target", "Logs_20140328.DescribeLogGroups").json(&json!({}));
        let groups = account.ask(account.signed("logs", logs)).await;
        left.extend(groups["logGroups"].as_array().into_iter().flatten().map(|group| group["logGroupName"].to_string()));
        for (action, tag) in [("ListRoles", "RoleName"), ("ListPolicies", "PolicyName")] {
            let answer = iam(account, &[("Action", action), ("Scope", "Local")]).await?;
            let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
            let names = answer.split(&open).skip(1).filter_map(|rest| rest.split(&close).next());
            left.extend(names.filter(|name| name.contains(&account.id)).map(str::to_owned));
        }
        Ok(left)
    }

    /// The processes that work in an account: functions have it in their environment.
    fn processes(account: &str) -> Vec<String> {
        let wanted = format!("AWS_ACCESS_KEY_ID={account}");
        let folders = Path::new("/proc").read_dir().into_iter().flatten().flatten();
        let works = |folder: &Path| {
            std::fs::read(folder.join("environ")).is_ok_and(|all| all.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes()))
        };
        folders.map(|entry| entry.path()).filter(|folder| works(folder)).map(|folder| folder.display().to_string()).collect()
    }

    #[tokio::test]
    async fn its_end_leaves_peoples_inboxes_and_nothing_that_runs() -> Tested {
        let stack = Stack::deploy(FUNCTIONS).await?;
        stack.publish(&event(&["alice"], "kept")).await?;
        stack.inbox_of("alice", 1).await?;
        ensure!(!processes(&stack.account.id).is_empty(), "functions run as processes");
        let (table, resources) = (stack.output("TableName")?.to_owned(), stack.resources().await?);
        stack.delete().await?;
        // Kept by DeletionPolicy: the inboxes, and the role that the account's other APIs log with.
        let kept = [table.as_str(), &resources["ApiGatewayLogRole"]];
        let left = left(&stack.account).await?;
        assert!(kept.iter().all(|kept| left.iter().any(|left| left == kept)), "{left:?}");
        let more: Vec<_> = left.iter().filter(|left| !kept.contains(&left.as_str())).collect();
        assert!(more.is_empty(), "the stack left {more:?}");
        let entries = stack.account.clients().await.dynamodb.scan().table_name(&table).send().await?;
        assert_eq!(entries.count(), 1);
        let account = stack.account.id.clone();
        drop(stack);
        eventually("its functions end", async || Ok(processes(&account).is_empty().then_some(()))).await
    }
}
