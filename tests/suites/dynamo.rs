//! What the adapters on DynamoDB rest on, asked of the local AWS directly, so that a new version of it that behaves
//! otherwise is noticed. Each test says what AWS documents.

mod aws {
    use std::collections::HashMap;
    use std::time::Duration;

    use aws_sdk_dynamodb::error::ProvideErrorMetadata;
    use aws_sdk_dynamodb::types::{
        AttributeValue, BatchStatementRequest, BatchStatementResponse, KeysAndAttributes, ReturnValuesOnConditionCheckFailure,
    };
    use recado_aws::dynamo::POSITION_INDEX;
    use recado_domain::ids::{DeliveryKey, NotificationId, RecipientKey, TenantId, UserId};
    use recado_domain::ports::{Claim, MailClaims};
    use recado_tests::contracts::aws::TABLE;
    use recado_tests::contracts::{Aws, Backend};

    fn text(value: &str) -> AttributeValue {
        AttributeValue::S(value.to_owned())
    }

    /// An item with this sort key and position.
    fn item(sk: &str, position: &str) -> HashMap<String, AttributeValue> {
        [("pk", "a"), ("sk", sk), ("position", position)].map(|(name, value)| (name.to_owned(), text(value))).into()
    }

    async fn put(aws: &Aws, item: HashMap<String, AttributeValue>) {
        aws.clients().dynamodb.put_item().table_name(TABLE).set_item(Some(item)).send().await.unwrap();
    }

    /// Sends one statement in a batch.
    async fn execute(
        aws: &Aws,
        statement: &str,
        parameters: &[&str],
        old: Option<ReturnValuesOnConditionCheckFailure>,
    ) -> BatchStatementResponse {
        let statement = BatchStatementRequest::builder()
            .statement(statement.replace("TABLE", TABLE))
            .set_parameters(Some(parameters.iter().map(|value| text(value)).collect()))
            .set_return_values_on_condition_check_failure(old);
        let answer = aws.clients().dynamodb.batch_execute_statement().statements(statement.build().unwrap()).send().await.unwrap();
        answer.responses.unwrap_or_default().remove(0)
    }

    fn code(answer: &BatchStatementResponse) -> Option<&str> {
        Some(answer.error()?.code()?.as_str())
    }

    const INSERT: &str = r#"INSERT INTO "TABLE" VALUE {'pk': ?, 'sk': ?, 'position': ?}"#;
    const UPDATE: &str = r#"UPDATE "TABLE" SET "acked_at" = ? WHERE "pk" = ? AND "sk" = ? AND "acked_at" IS MISSING"#;

    /// "PartiQL insert statements for DynamoDB": DuplicateItemException where an item has the same primary key.
    #[tokio::test]
    async fn an_insert_of_what_is_there_fails_as_a_duplicate_and_changes_nothing() {
        let aws = Aws::fresh().await;
        assert_eq!(code(&execute(&aws, INSERT, &["a", "b", "1"], None).await), None);
        assert_eq!(code(&execute(&aws, INSERT, &["a", "b", "2"], None).await), Some("DuplicateItem"));
        let key = [("pk", "a"), ("sk", "b")].map(|(name, value)| (name.to_owned(), text(value)));
        let there = aws.clients().dynamodb.get_item().table_name(TABLE).set_key(Some(key.into())).send().await.unwrap().item.unwrap();
        assert_eq!(there["position"], text("1"));
    }

    /// "PartiQL update statements for DynamoDB": an UPDATE is no upsert; BatchStatementError: ConditionalCheckFailed.
    #[tokio::test]
    async fn an_update_of_what_is_missing_fails_by_its_condition_and_creates_nothing() {
        let aws = Aws::fresh().await;
        let answer = execute(&aws, UPDATE, &["now", "a", "b"], Some(ReturnValuesOnConditionCheckFailure::AllOld)).await;
        assert_eq!(code(&answer), Some("ConditionalCheckFailed"));
        assert!(answer.error().unwrap().item().is_none());
        assert_eq!(aws.clients().dynamodb.scan().table_name(TABLE).send().await.unwrap().count(), 0);
    }

    /// BatchStatementRequest: ReturnValuesOnConditionCheckFailure.
    #[tokio::test]
    async fn an_update_whose_condition_does_not_hold_returns_what_stands_in_the_way_where_asked() {
        let aws = Aws::fresh().await;
        put(&aws, item("b", "1")).await;
        assert_eq!(code(&execute(&aws, UPDATE, &["first", "a", "b"], None).await), None);
        let silent = execute(&aws, UPDATE, &["second", "a", "b"], None).await;
        assert_eq!((code(&silent), silent.error().unwrap().item()), (Some("ConditionalCheckFailed"), None));
        let telling = execute(&aws, UPDATE, &["second", "a", "b"], Some(ReturnValuesOnConditionCheckFailure::AllOld)).await;
        assert_eq!(telling.error().unwrap().item().unwrap()["acked_at"], text("first"));
    }

    /// BatchGetItem: "A single operation … Provided list of item keys contains duplicates".
    #[tokio::test]
    async fn a_key_twice_in_one_read_is_refused() {
        let aws = Aws::fresh().await;
        let key: HashMap<_, _> = [("pk", "a"), ("sk", "b")].map(|(name, value)| (name.to_owned(), text(value))).into();
        let twice = KeysAndAttributes::builder().keys(key.clone()).keys(key).build().unwrap();
        let refused = aws.clients().dynamodb.batch_get_item().request_items(TABLE, twice).send().await.unwrap_err();
        assert_eq!(refused.code(), Some("ValidationException"));
    }

    /// "Paginating table query results": a query that read as many items as its limit says that it goes on, even where
    /// there is nothing more. And what stands behind every position is read last.
    #[tokio::test]
    async fn the_index_orders_by_bytes_and_goes_on_after_its_limit_even_at_the_end() {
        let aws = Aws::fresh().await;
        for (sk, position) in [("marks", "~"), ("second", "01Z"), ("first", "01A")] {
            put(&aws, item(sk, position)).await;
        }
        // Without a position: not in the index.
        let state = [("pk", "a"), ("sk", "STATE")].map(|(name, value)| (name.to_owned(), text(value)));
        put(&aws, state.into()).await;
        let query = aws.clients().dynamodb.query().table_name(TABLE).index_name(POSITION_INDEX).consistent_read(true);
        let query = query.key_condition_expression("pk = :pk").expression_attribute_values(":pk", text("a"));
        let answer = query.clone().limit(3).send().await.unwrap();
        let order: Vec<_> = answer.items().iter().map(|item| item["sk"].as_s().unwrap().as_str()).collect();
        assert_eq!(order, ["first", "second", "marks"]);
        let last = answer.last_evaluated_key().unwrap();
        assert_eq!((&last["position"], &last["sk"]), (&text("~"), &text("marks")));
        let rest = query.set_exclusive_start_key(Some(last.clone())).send().await.unwrap();
        assert_eq!((rest.count(), rest.last_evaluated_key()), (0, None));
    }

    /// The SDK sends a call again whose answer is late, and the first may be carried out after everything that followed. No other
    /// store has such calls.
    #[tokio::test]
    async fn a_claim_that_arrives_after_it_was_given_back_holds_up_no_mail() {
        let aws = Aws::fresh().await;
        let recipient = RecipientKey::new(TenantId::default(), UserId::new("alice").unwrap());
        let key = DeliveryKey { recipient, notification: NotificationId::of("/tests", "a") };
        let (claims, lease) = (aws.claims(), Duration::from_secs(300));
        assert_eq!(claims.claim(&key, "one", lease).await, Ok(Claim::Taken));
        claims.abandon(&key, "one").await.unwrap();
        assert!(claims.claim(&key, "one", lease).await.is_err_and(|failure| failure.is_transient()), "the late call");
        assert_eq!(claims.claim(&key, "two", lease).await, Ok(Claim::Taken));
        claims.abandon(&key, "two").await.unwrap();
        assert!(claims.claim(&key, "one", lease).await.is_err(), "still later");
        assert_eq!(claims.claim(&key, "three", lease).await, Ok(Claim::Taken));
        claims.abandon(&key, "one").await.unwrap();
        claims.confirm(&key).await.unwrap();
        assert_eq!(claims.claim(&key, "four", lease).await, Ok(Claim::Sent));
    }
}
