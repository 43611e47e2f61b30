//! What the adapters make of answers that go wrong. The contracts are proved elsewhere, on an emulator.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use recado_domain::connection::{Connection, Phase, Protocol};
use recado_domain::event::Event;
use recado_domain::failure::Failure;
use recado_domain::ids::{ConnectionId, NotificationId, RecipientKey, TenantId, UserId};
use recado_domain::limits;
use recado_domain::notification::{Appended, NewEntry};
use recado_domain::ports::{Clock, Connections, Inbox, MailClaims, Marks, Outcome, PageFilter, Unread};
use recado_domain::position::Position;
use recado_memory::{ManualClock, SeededEntropy};
use serde_json::{Value, json};

use super::{DynamoClaims, DynamoConnections, DynamoInbox};
use crate::script::{Answer, Script};

type TestInbox = DynamoInbox<ManualClock, SeededEntropy>;

fn inbox(script: &Script) -> TestInbox {
    DynamoInbox::new(&script.clients(), "recado", ManualClock::default(), SeededEntropy::new(7))
}

fn connections(script: &Script) -> DynamoConnections<ManualClock, SeededEntropy> {
    DynamoConnections::new(&script.clients(), "recado", ManualClock::default(), SeededEntropy::new(7))
}

fn now() -> Timestamp {
    ManualClock::default().now()
}

fn user(name: &str) -> RecipientKey {
    RecipientKey::new(TenantId::default(), UserId::new(name).unwrap())
}

fn alice() -> RecipientKey {
    user("alice")
}

fn entry(of: &RecipientKey, id: &str) -> NewEntry {
    let event = json!({
        "specversion": "1.0", "id": id, "source": "/s", "type": "t.done", "time": "2026-01-01T00:00:00Z",
        "data": {"recipients": [{"id": "alice"}], "title": id},
    });
    NewEntry { recipient: of.clone(), notification: Arc::new(Event::from_value(event).unwrap().notification(now())) }
}

fn entries(count: usize) -> Vec<NewEntry> {
    (0..count).map(|n| entry(&user(&format!("u{n}")), "1")).collect()
}

fn nid(id: &str) -> NotificationId {
    NotificationId::of("/s", id)
}

fn at(second: i64) -> Position {
    Position::new(now() + jiff::SignedDuration::from_secs(second), 7)
}

/// The statements of a request.
fn statements(request: &Value) -> &[Value] {
    request["Statements"].as_array().unwrap()
}

/// One of an INSERT's or UPDATE's parameters that are texts: the partition, the sort key, the position.
fn parameter(statement: &Value, place: usize) -> String {
    statement["Parameters"][place]["S"].as_str().unwrap().to_owned()
}

fn inserted(count: usize) -> Vec<Value> {
    vec![json!({"TableName": "recado"}); count]
}

fn failed(code: &str) -> Value {
    json!({"Error": {"Code": code, "Message": "not to be repeated"}})
}

fn responses(responses: Vec<Value>) -> Answer {
    Answer::Ok(json!({"Responses": responses}))
}

fn got(items: Value, unprocessed: Value) -> Answer {
    Answer::Ok(json!({"Responses": {"recado": items}, "UnprocessedKeys": unprocessed}))
}

/// What a read-back finds of an entry.
fn found(of: &str, id: &str, position: &str) -> Value {
    json!({"pk": {"S": format!("U#default#{of}")}, "sk": {"S": format!("N#{}", nid(id))}, "position": {"S": position}})
}

fn is_transient<T>(outcome: &Outcome<T>) -> bool {
    matches!(outcome, Err(Failure::Transient { .. }))
}

fn is_permanent<T>(outcome: &Outcome<T>) -> bool {
    matches!(outcome, Err(Failure::Permanent { .. }))
}

fn positions(outcomes: &[Outcome<Appended>]) -> Vec<String> {
    outcomes.iter().map(|outcome| outcome.as_ref().unwrap().position.to_string()).collect()
}

/// Carries what one step saw to the assertions after it.
#[derive(Clone, Default)]
struct Note(Arc<std::sync::Mutex<Vec<String>>>);

impl Note {
    fn take(&self, what: impl IntoIterator<Item = String>) {
        self.0.lock().unwrap().extend(what);
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

mod append {
    use super::*;

    #[tokio::test]
    async fn one_call_takes_25_entries() {
        let mut script = Script::default();
        for count in [25, 25, 10] {
            script = script.then("BatchExecuteStatement", move |request| {
                assert_eq!(statements(request).len(), count);
                responses(inserted(count))
            });
        }
        let answers = inbox(&script).append(&entries(60)).await;
        script.end();
        assert!(answers.iter().all(|answer| answer.as_ref().unwrap().inserted));
        assert!(positions(&answers).is_sorted());
    }

    #[tokio::test]
    async fn a_key_is_sent_once_and_answered_as_often_as_it_was_asked_for() {
        let script = Script::default().then("BatchExecuteStatement", |request| {
            assert_eq!(statements(request).len(), 2);
            responses(inserted(2))
        });
        let (one, other) = (entry(&alice(), "1"), entry(&alice(), "2"));
        let answers = inbox(&script).append(&[one.clone(), other, one.clone(), one]).await;
        script.end();
        assert_eq!(answers.iter().map(|answer| answer.as_ref().unwrap().inserted).collect::<Vec<_>>(), [true, true, false, false]);
        let positions = positions(&answers);
        assert!(positions[0] == positions[2] && positions[0] == positions[3] && positions[0] != positions[1]);
    }

    #[tokio::test]
    async fn one_throttled_statement_of_25_is_sent_again_alone_at_a_new_position() {
        let note = Note::default();
        let (first, second) = (note.clone(), note.clone());
        let script = Script::default()
            .then("BatchExecuteStatement", move |request| {
                first.take([parameter(&statements(request)[3], 2)]);
                let mut answers = inserted(25);
                answers[3] = failed("ThrottlingError");
                responses(answers)
            })
            .then("BatchExecuteStatement", move |request| {
                assert_eq!(statements(request).len(), 1);
                assert_eq!(parameter(&statements(request)[0], 0), "U#default#u3");
                second.take([parameter(&statements(request)[0], 2)]);
                responses(inserted(1))
            });
        let answers = inbox(&script).append(&entries(25)).await;
        script.end();
        let sent = note.all();
        assert!(sent[0] < sent[1], "a position is of its attempt");
        assert_eq!(positions(&answers)[3], sent[1]);
    }

    #[tokio::test]
    async fn throttling_that_does_not_end_is_transient_for_its_recipient_alone() {
        let mut script = Script::default().then("BatchExecuteStatement", |_| {
            responses(vec![inserted(1).remove(0), failed("ProvisionedThroughputExceeded"), failed("RequestLimitExceeded")])
        });
        for _ in 0..2 {
            script = script.then("BatchExecuteStatement", |_| {
                responses(vec![failed("ProvisionedThroughputExceeded"), failed("RequestLimitExceeded")])
            });
        }
        let answers = inbox(&script).append(&entries(3)).await;
        script.end();
        assert!(answers[0].is_ok() && is_transient(&answers[1]) && is_transient(&answers[2]));
        assert!(answers[1].as_ref().unwrap_err().reason().contains("throttled"));
    }

    #[tokio::test]
    async fn a_full_partition_is_permanent_for_its_recipient_alone() {
        let script = Script::default()
            .then("BatchExecuteStatement", |_| responses(vec![inserted(1).remove(0), failed("ItemCollectionSizeLimitExceeded")]));
        let answers = inbox(&script).append(&entries(2)).await;
        script.end();
        assert!(answers[0].is_ok() && is_permanent(&answers[1]));
        assert!(answers[1].as_ref().unwrap_err().reason().contains("10 GB"));
    }

    #[tokio::test]
    async fn a_lost_answer_after_the_write_answers_what_is_stored() {
        let note = Note::default();
        let (sent, stored) = (note.clone(), note.clone());
        let script = Script::default()
            .then("BatchExecuteStatement", move |request| {
                sent.take([parameter(&statements(request)[0], 2)]);
                Answer::Lost
            })
            .then("BatchExecuteStatement", |_| responses(vec![failed("DuplicateItem"), inserted(1).remove(0)]))
            .then("BatchGetItem", move |request| {
                assert_eq!(request["RequestItems"]["recado"]["ConsistentRead"], true);
                got(json!([found("u0", "1", &stored.all()[0])]), json!({}))
            });
        let answers = inbox(&script).append(&entries(2)).await;
        script.end();
        let first = answers[0].as_ref().unwrap();
        assert_eq!(first.position.to_string(), note.all()[0]);
        assert!(first.inserted, "it is ours, although its answer was lost");
        assert!(answers[1].as_ref().unwrap().inserted);
    }

    #[tokio::test]
    async fn a_duplicate_answers_the_stored_position_and_states_those_of_read_all_included() {
        let stored = at(-90);
        let script = Script::default().then("BatchExecuteStatement", |_| responses(vec![failed("DuplicateItem")])).then(
            "BatchGetItem",
            move |request| {
                assert_eq!(request["RequestItems"]["recado"]["Keys"].as_array().unwrap().len(), 2, "the entry and the marks");
                let mut entry = found("alice", "1", &stored.to_string());
                entry["acked_at"] = json!({"N": now().as_nanosecond().to_string()});
                let marks = json!({"pk": {"S": "U#default#alice"}, "sk": {"S": "MARKS"}, "read_up_to": {"S": at(-80).to_string()}});
                got(json!([entry, marks]), json!({}))
            },
        );
        let answers = inbox(&script).append(&[entry(&alice(), "1")]).await;
        script.end();
        let wanted = Appended { position: stored, inserted: false, acked_at: Some(now()), read_at: Some(at(-80).at()), archived_at: None };
        assert_eq!(answers, [Ok(wanted)]);
    }

    #[tokio::test]
    async fn a_store_that_never_answers_is_asked_what_it_holds() {
        let mut script = Script::default();
        for _ in 0..3 {
            script = script.then("BatchExecuteStatement", |_| Answer::Lost);
        }
        script = script.then("BatchGetItem", |_| got(json!([found("u1", "1", &at(-1).to_string())]), json!({})));
        let answers = inbox(&script).append(&entries(2)).await;
        script.end();
        assert!(is_transient(&answers[0]), "not there: it is tried again later");
        assert_eq!(answers[1].as_ref().unwrap().position, at(-1));
    }

    #[tokio::test]
    async fn an_attempt_without_an_answer_is_not_forgotten_over_a_later_refusal() {
        let mut script = Script::default().then("BatchExecuteStatement", |_| Answer::Lost);
        for _ in 0..2 {
            script = script.then("BatchExecuteStatement", |_| responses(vec![failed("ThrottlingError")]));
        }
        script = script.then("BatchGetItem", |_| got(json!([found("u0", "1", &at(-1).to_string())]), json!({})));
        assert_eq!(positions(&inbox(&script).append(&entries(1)).await), [at(-1).to_string()]);
        script.end();
    }

    #[tokio::test]
    async fn a_failing_server_leaves_it_open_and_so_the_store_is_asked() {
        let mut script = Script::default();
        for _ in 0..3 {
            script = script.then("BatchExecuteStatement", |_| responses(vec![failed("InternalServerError")]));
        }
        script = script.then("BatchGetItem", |_| got(json!([]), json!({})));
        assert!(is_transient(&inbox(&script).append(&entries(1)).await[0]));
        script.end();
    }

    #[tokio::test]
    async fn a_statement_without_an_answer_is_sent_again() {
        let script = Script::default().then("BatchExecuteStatement", |_| responses(inserted(1))).then("BatchExecuteStatement", |request| {
            assert_eq!(parameter(&statements(request)[0], 0), "U#default#u1");
            responses(inserted(1))
        });
        let answers = inbox(&script).append(&entries(2)).await;
        script.end();
        assert!(answers.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn a_call_refused_as_a_whole_is_not_held_against_every_entry() {
        let script = Script::default()
            .then("BatchExecuteStatement", |_| Answer::Refused("ValidationException"))
            .then("BatchExecuteStatement", |_| responses(inserted(1)))
            .then("BatchExecuteStatement", |_| Answer::Refused("ValidationException"))
            .then("BatchExecuteStatement", |_| responses(inserted(1)));
        let answers = inbox(&script).append(&entries(3)).await;
        script.end();
        assert!(answers[0].is_ok() && is_permanent(&answers[1]) && answers[2].is_ok());
    }

    #[tokio::test]
    async fn a_call_that_may_not_be_made_is_for_the_operator_and_loses_nothing() {
        let mut script = Script::default();
        for _ in 0..3 {
            script = script.then("BatchExecuteStatement", |_| Answer::Refused("AccessDeniedException"));
        }
        let answers = inbox(&script).append(&entries(1)).await;
        script.end();
        assert!(is_transient(&answers[0]) && answers[0].as_ref().unwrap_err().reason().contains("permission"), "{answers:?}");
    }

    #[tokio::test]
    async fn a_read_back_asks_again_for_what_was_left_unprocessed() {
        let left = |request: &Value, at: usize| json!({"recado": {"Keys": [request["RequestItems"]["recado"]["Keys"][at]], "ConsistentRead": true}});
        let script = Script::default()
            .then("BatchExecuteStatement", |_| responses(vec![failed("DuplicateItem"), failed("DuplicateItem")]))
            .then("BatchGetItem", move |request| {
                let keys = request["RequestItems"]["recado"]["Keys"].as_array().unwrap();
                assert_eq!(keys.len(), 4);
                let at_u1 = keys.iter().position(|key| key["pk"]["S"] == "U#default#u1" && key["sk"]["S"] != "MARKS").unwrap();
                got(json!([found("u0", "1", &at(-1).to_string())]), left(request, at_u1))
            })
            .then("BatchGetItem", |request| {
                assert_eq!(request["RequestItems"]["recado"]["Keys"].as_array().unwrap().len(), 1);
                assert_eq!(request["RequestItems"]["recado"]["ConsistentRead"], true);
                got(json!([found("u1", "1", &at(-2).to_string())]), json!({}))
            });
        let answers = inbox(&script).append(&entries(2)).await;
        script.end();
        assert_eq!(positions(&answers), [at(-1).to_string(), at(-2).to_string()]);
    }

    #[tokio::test]
    async fn nothing_is_asked_for_nothing() {
        let script = Script::default();
        assert!(inbox(&script).append(&[]).await.is_empty());
        assert_eq!(inbox(&script).acknowledge(&alice(), &[]).await, Ok(vec![]));
        assert_eq!(inbox(&script).mark_read(&alice(), &[]).await, Ok(vec![]));
        assert!(connections(&script).of_users(&[]).await.is_empty());
    }
}

mod states {
    use super::*;

    fn ids(count: usize) -> Vec<NotificationId> {
        (0..count).map(|n| nid(&n.to_string())).collect()
    }

    #[tokio::test]
    async fn acknowledging_25_ids_is_one_call() {
        let script = Script::default().then("BatchExecuteStatement", |request| {
            assert_eq!(statements(request).len(), 25);
            responses(inserted(25))
        });
        let mut asked = ids(25);
        asked.extend(ids(3));
        assert_eq!(inbox(&script).acknowledge(&alice(), &asked).await, Ok(ids(25)));
        script.end();
    }

    #[tokio::test]
    async fn what_is_missing_or_set_already_is_left_out() {
        let script = Script::default().then("BatchExecuteStatement", |_| {
            responses(vec![failed("ConditionalCheckFailed"), inserted(1).remove(0), failed("ConditionalCheckFailed")])
        });
        assert_eq!(inbox(&script).archive(&alice(), &ids(3)).await, Ok(vec![ids(3)[1]]));
        script.end();
    }

    #[tokio::test]
    async fn after_a_lost_answer_what_carries_our_moment_was_changed_by_us() {
        let refused_by = |at: Timestamp| json!({"Error": {"Code": "ConditionalCheckFailed", "Item": {"acked_at": {"N": at.as_nanosecond().to_string()}}}});
        let script = Script::default()
            .then("BatchExecuteStatement", |request| {
                assert!(statements(request)[0].get("ReturnValuesOnConditionCheckFailure").is_none(), "it costs bytes");
                Answer::Lost
            })
            .then("BatchExecuteStatement", move |request| {
                assert_eq!(statements(request)[0]["ReturnValuesOnConditionCheckFailure"], "ALL_OLD");
                responses(vec![refused_by(now()), refused_by(now() - Duration::from_secs(1)), failed("ConditionalCheckFailed")])
            });
        assert_eq!(inbox(&script).acknowledge(&alice(), &ids(3)).await, Ok(vec![ids(3)[0]]));
        script.end();
    }

    #[tokio::test]
    async fn one_throttled_update_is_sent_again_alone() {
        let script = Script::default()
            .then("BatchExecuteStatement", |_| responses(vec![inserted(1).remove(0), failed("ThrottlingError")]))
            .then("BatchExecuteStatement", |request| {
                assert_eq!(statements(request).len(), 1);
                responses(inserted(1))
            });
        assert_eq!(inbox(&script).acknowledge(&alice(), &ids(2)).await, Ok(ids(2)));
        script.end();
    }

    #[tokio::test]
    async fn an_update_that_stays_throttled_is_transient() {
        let mut script = Script::default();
        for _ in 0..3 {
            script = script.then("BatchExecuteStatement", |_| responses(vec![failed("ThrottlingError")]));
        }
        assert!(is_transient(&inbox(&script).acknowledge(&alice(), &ids(1)).await));
        script.end();
    }

    #[tokio::test]
    async fn read_all_marks_by_id_only_what_the_last_minute_brought() {
        let script = Script::default()
            .then("UpdateItem", |_| Answer::Ok(json!({})))
            .then("Query", |request| {
                assert_eq!(request["ConsistentRead"], true);
                let entry = |id| json!({"sk": {"S": format!("N#{}", nid(id))}});
                Answer::Ok(json!({"Items": [entry("1"), entry("2")], "Count": 2, "ScannedCount": 2}))
            })
            .then("BatchExecuteStatement", |_| responses(vec![inserted(1).remove(0), failed("ConditionalCheckFailed")]))
            .then("UpdateItem", |_| Answer::Ok(json!({})));
        let inbox = inbox(&script);
        let done = inbox.read_all(&alice(), at(0)).await.unwrap();
        assert_eq!((done.ids, done.up_to), (vec![nid("1")], Some(Position::floor(now()).back(limits::W))));
        let done = inbox.read_all(&alice(), at(-90)).await.unwrap();
        assert_eq!((done.ids, done.up_to), (vec![], Some(at(-90))), "one call where nothing is that young");
        script.end();
    }

    #[tokio::test]
    async fn a_mark_that_was_raised_by_a_call_whose_answer_was_lost_is_raised() {
        let there = json!({
            "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
            "message": "", "Item": {"pending_from": {"S": at(5).to_string()}},
        });
        let refused = move |_: &Value| Answer::Body(400, there.clone());
        let script = Script::default().then("UpdateItem", refused.clone()).then("UpdateItem", refused);
        assert_eq!(inbox(&script).advance_pending(&alice(), None, at(5)).await, Ok(true));
        assert_eq!(inbox(&script).advance_pending(&alice(), None, at(6)).await, Ok(false));
        script.end();
    }
}

mod pages {
    use super::*;

    fn row(id: &str, position: Position) -> Value {
        let content = serde_json::to_string(&*entry(&alice(), id).notification).unwrap();
        json!({"pk": {"S": "U#default#alice"}, "sk": {"S": format!("N#{}", nid(id))}, "position": {"S": position.to_string()}, "n": {"S": content}})
    }

    fn marks(read_up_to: Position) -> Value {
        json!({"pk": {"S": "U#default#alice"}, "sk": {"S": "MARKS"}, "position": {"S": "~"}, "read_up_to": {"S": read_up_to.to_string()}})
    }

    fn stopped_at(position: &str) -> Value {
        json!({"pk": {"S": "U#default#alice"}, "sk": {"S": "N#x"}, "position": {"S": position}})
    }

    fn rows(items: Value, last: Option<Value>) -> Answer {
        let mut answer = json!({"Items": items, "Count": 0, "ScannedCount": 0});
        if let Some(last) = last {
            answer["LastEvaluatedKey"] = last;
        }
        Answer::Ok(answer)
    }

    #[tokio::test]
    async fn a_query_to_the_end_of_an_inbox_brings_the_marks_along() {
        let script = Script::default().then("Query", |request| {
            assert_eq!(
                (&request["ConsistentRead"], &request["IndexName"], &request["Limit"]),
                (&json!(true), &json!("by_position"), &json!(102))
            );
            rows(json!([row("1", at(1)), marks(at(3))]), None)
        });
        let page = inbox(&script).since(&alice(), Position::MIN, 100).await.unwrap();
        script.end();
        assert_eq!((page.entries.len(), page.more, page.marks.read_up_to), (1, false, Some(at(3))));
        assert_eq!(page.entries[0].read_at, Some(at(3).at()));
    }

    #[tokio::test]
    async fn a_query_that_ends_before_asks_for_the_marks() {
        let script = Script::default()
            .then("Query", |_| rows(json!([row("1", at(1)), row("2", at(2)), row("3", at(3))]), Some(stopped_at(&at(3).to_string()))))
            .then("GetItem", |request| {
                assert_eq!((&request["ConsistentRead"], &request["Key"]["sk"]["S"]), (&json!(true), &json!("MARKS")));
                Answer::Ok(json!({"Item": marks(at(1))}))
            });
        let page = inbox(&script).since(&alice(), Position::MIN, 1).await.unwrap();
        script.end();
        assert_eq!((page.entries.len(), page.next), (1, Some(at(1))));
        assert!(page.entries[0].read_at.is_some());
    }

    #[tokio::test]
    async fn a_page_of_filtered_entries_is_empty_and_goes_on() {
        let script = Script::default().then("Query", |_| rows(json!([]), Some(stopped_at(&at(9).to_string()))));
        let page = inbox(&script).pending(&alice(), Marks::default(), Position::MIN, 10).await.unwrap();
        script.end();
        assert_eq!((page.entries.len(), page.more, page.next), (0, true, Some(at(9))));
    }

    #[tokio::test]
    async fn behind_the_marks_there_is_nothing() {
        let script = Script::default().then("Query", |_| rows(json!([row("1", at(1)), marks(at(0))]), Some(stopped_at("~"))));
        let page = inbox(&script).since(&alice(), Position::MIN, 1).await.unwrap();
        script.end();
        assert_eq!((page.entries.len(), page.more), (1, false));
    }

    #[tokio::test]
    async fn the_unread_end_where_read_all_read() {
        let script = Script::default()
            .then("Query", |_| rows(json!([marks(at(2)), row("3", at(3)), row("2", at(2))]), Some(stopped_at(&at(1).to_string()))));
        let page = inbox(&script).page(&alice(), None, PageFilter::Unread, 10).await.unwrap();
        script.end();
        assert_eq!(page.entries.iter().map(|entry| entry.position).collect::<Vec<_>>(), [at(3)]);
        assert!(!page.more, "nothing below the mark is unread");
    }

    #[tokio::test]
    async fn an_entry_that_cannot_be_read_hides_no_other() {
        let script = Script::default().then("Query", |_| {
            let mut damaged = row("1", at(1));
            damaged["n"] = json!({"S": "{"});
            rows(json!([damaged, row("2", at(2))]), None)
        });
        let page = inbox(&script).since(&alice(), Position::MIN, 10).await.unwrap();
        script.end();
        assert_eq!(page.entries.iter().map(|entry| entry.position).collect::<Vec<_>>(), [at(2)]);
    }

    #[tokio::test]
    async fn counting_stops_above_the_cap() {
        let count = |count: u32, more: bool| {
            let mut answer = json!({"Count": count, "ScannedCount": 200});
            if more {
                answer["LastEvaluatedKey"] = stopped_at(&at(1).to_string());
            }
            Answer::Ok(answer)
        };
        let script = Script::default()
            .then("GetItem", |_| Answer::Ok(json!({})))
            .then("Query", move |request| {
                assert_eq!(
                    (&request["Select"], &request["ScanIndexForward"], &request["Limit"]),
                    (&json!("COUNT"), &json!(false), &json!(200))
                );
                count(60, true)
            })
            .then("Query", move |request| {
                assert_eq!((request.get("Limit"), &request["ExclusiveStartKey"]["position"]["S"]), (None, &json!(at(1).to_string())));
                count(60, true)
            });
        assert_eq!(inbox(&script).unread(&alice()).await, Ok(Unread { count: 99, capped: true }));
        script.end();
    }
}

mod stamps {
    use super::*;

    fn held(position: Position, marks: Option<Position>) -> Answer {
        let mut items = vec![found("alice", "1", &position.to_string())];
        items
            .extend(marks.map(|mark| json!({"pk": {"S": "U#default#alice"}, "sk": {"S": "MARKS"}, "read_up_to": {"S": mark.to_string()}})));
        got(json!(items), json!({}))
    }

    fn canceled(codes: [&'static str; 2]) -> Answer {
        let reasons = codes.map(|code| json!({"Code": code}));
        Answer::Body(
            400,
            json!({"__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException", "message": "", "CancellationReasons": reasons}),
        )
    }

    async fn restamp(script: &Script) -> Outcome<Appended> {
        let answer = inbox(script).restamp(&entry(&alice(), "1").key(), at(-40)).await;
        script.end();
        answer
    }

    #[tokio::test]
    async fn a_stamp_is_two_calls_and_keeps_what_read_all_read() {
        let script = Script::default().then("BatchGetItem", |_| held(at(-40), Some(at(-30)))).then("TransactWriteItems", |request| {
            let (update, check) = (&request["TransactItems"][0]["Update"], &request["TransactItems"][1]["ConditionCheck"]);
            assert!(update["UpdateExpression"].as_str().unwrap().contains("#read_at = :read_at"));
            assert_eq!(check["ExpressionAttributeValues"][":mark"]["S"], at(-30).to_string());
            Answer::Ok(json!({}))
        });
        let moved = restamp(&script).await.unwrap();
        assert!(moved.position > at(-40) && moved.read_at == Some(at(-30).at()) && !moved.inserted);
    }

    #[tokio::test]
    async fn a_read_all_in_between_is_seen() {
        let script = Script::default()
            .then("BatchGetItem", |_| held(at(-40), None))
            .then("TransactWriteItems", |_| canceled(["None", "ConditionalCheckFailed"]))
            .then("BatchGetItem", |_| held(at(-40), Some(at(-35))))
            .then("TransactWriteItems", |_| Answer::Ok(json!({})));
        assert_eq!(restamp(&script).await.unwrap().read_at, Some(at(-35).at()));
    }

    #[tokio::test]
    async fn a_lost_answer_after_the_move_answers_where_it_stands() {
        let note = Note::default();
        let (sent, stored) = (note.clone(), note.clone());
        let script = Script::default()
            .then("BatchGetItem", |_| held(at(-40), None))
            .then("TransactWriteItems", move |request| {
                let new = &request["TransactItems"][0]["Update"]["ExpressionAttributeValues"][":new"]["S"];
                sent.take([new.as_str().unwrap().to_owned()]);
                Answer::Lost
            })
            .then("BatchGetItem", move |_| held(stored.all()[0].parse().unwrap(), None));
        assert_eq!(restamp(&script).await.unwrap().position.to_string(), note.all()[0]);
    }

    #[tokio::test]
    async fn conflicts_without_end_are_transient() {
        let mut script = Script::default();
        for _ in 0..3 {
            script = script
                .then("BatchGetItem", |_| held(at(-40), None))
                .then("TransactWriteItems", |_| canceled(["TransactionConflict", "None"]));
        }
        assert!(is_transient(&restamp(&script).await));
    }

    #[tokio::test]
    async fn a_full_partition_is_permanent() {
        let script = Script::default()
            .then("BatchGetItem", |_| held(at(-40), None))
            .then("TransactWriteItems", |_| canceled(["ItemCollectionSizeLimitExceeded", "None"]));
        assert!(is_permanent(&restamp(&script).await));
    }

    #[tokio::test]
    async fn a_missing_entry_is_permanent() {
        let script = Script::default().then("BatchGetItem", |_| got(json!([]), json!({})));
        assert!(is_permanent(&restamp(&script).await));
    }
}

mod rows {
    use super::*;

    fn row(id: &str) -> Connection {
        let registered_at = now();
        Connection {
            id: ConnectionId::new(id).unwrap(),
            phase: Phase::Connecting,
            registered_at,
            token_expires_at: registered_at + Duration::from_secs(3600),
            protocol: Protocol::Recado,
            device: None,
        }
    }

    fn refused(_: &Value) -> Answer {
        Answer::Refused("ConditionalCheckFailedException")
    }

    fn done(_: &Value) -> Answer {
        Answer::Ok(json!({}))
    }

    #[tokio::test]
    async fn a_lookup_asks_for_each_user_once_and_again_for_what_was_left_unprocessed() {
        let script = Script::default()
            .then("BatchGetItem", |request| {
                let mut keys = request["RequestItems"]["recado"]["Keys"].as_array().unwrap().clone();
                assert_eq!(keys.len(), 2);
                keys.retain(|key| key["pk"]["S"] == "U#default#alice");
                got(json!([]), json!({"recado": {"Keys": keys}}))
            })
            .then("BatchGetItem", |request| {
                assert_eq!(request["RequestItems"]["recado"]["Keys"].as_array().unwrap().len(), 1);
                let live = json!({"M": {
                    "phase": {"S": "live"}, "protocol": {"S": "plain"},
                    "since": {"N": now().as_nanosecond().to_string()}, "until": {"N": now().as_nanosecond().to_string()},
                }});
                got(json!([{"pk": {"S": "U#default#alice"}, "sk": {"S": "STATE"}, "c_a=": live}]), json!({}))
            });
        let found = connections(&script).of_users(&[alice(), user("bob"), alice()]).await;
        script.end();
        let found: Vec<_> = found.into_iter().map(|rows| rows.unwrap().len()).collect();
        assert_eq!(found, [1, 0, 1]);
    }

    #[tokio::test]
    async fn users_that_stay_unprocessed_are_transient_and_the_others_are_answered() {
        let mut script = Script::default();
        for _ in 0..3 {
            script = script.then("BatchGetItem", |_| {
                got(json!([]), json!({"recado": {"Keys": [{"pk": {"S": "U#default#alice"}, "sk": {"S": "STATE"}}]}}))
            });
        }
        let found = connections(&script).of_users(&[alice(), user("bob")]).await;
        script.end();
        assert!(is_transient(&found[0]));
        assert_eq!(found[1], Ok(vec![]));
    }

    #[tokio::test]
    async fn a_lookup_that_fails_fails_for_its_own_hundred_alone() {
        let users: Vec<_> = (0..150).map(|n| user(&n.to_string())).collect();
        let script = Script::default()
            .then("BatchGetItem", |_| Answer::Refused("ValidationException"))
            .then("BatchGetItem", |_| got(json!([]), json!({})));
        let found = connections(&script).of_users(&users).await;
        script.end();
        assert_eq!(found.iter().filter(|rows| rows.is_err()).count(), 100);
    }

    #[tokio::test]
    async fn connecting_is_two_calls_the_reverse_item_first() {
        let script = Script::default()
            .then("PutItem", |request| {
                assert_eq!(request["Item"]["pk"]["S"], "C#a=");
                Answer::Ok(json!({}))
            })
            .then("UpdateItem", |request| {
                assert_eq!(request["ReturnValues"], "ALL_NEW");
                Answer::Ok(json!({"Attributes": {}}))
            });
        assert!(connections(&script).register(&alice(), &row("a=")).await.unwrap().replaced.is_empty());
        script.end();
    }

    #[tokio::test]
    async fn rows_that_cannot_be_pruned_refuse_nobody() {
        let script = Script::default()
            .then("PutItem", done)
            .then("UpdateItem", |request| {
                let row = &request["ExpressionAttributeValues"][":row"];
                let mut stale = row.clone();
                stale["M"]["since"] = json!({"N": "0"});
                Answer::Ok(json!({"Attributes": {"c_a=": row, "c_old=": stale}}))
            })
            .then("UpdateItem", |request| {
                assert_eq!(request["UpdateExpression"], "REMOVE #row0");
                Answer::Refused("ValidationException")
            });
        assert!(connections(&script).register(&alice(), &row("a=")).await.is_ok());
        script.end();
    }

    #[tokio::test]
    async fn proving_a_row_is_one_call_and_creating_a_lost_one_writes_the_reverse_item_first() {
        let script = Script::default().then("UpdateItem", done);
        assert_eq!(connections(&script).mark_live(&alice(), &row("a="), true).await, Ok(true));
        script.end();
        let keep = |request: &Value| {
            assert_eq!(request["ConditionExpression"], "attribute_not_exists(#pk)", "as it was registered");
            refused(request)
        };
        let script = Script::default().then("UpdateItem", refused).then("PutItem", keep).then("UpdateItem", done);
        assert_eq!(connections(&script).mark_live(&alice(), &row("a="), true).await, Ok(true));
        script.end();
        let script = Script::default().then("UpdateItem", refused);
        assert_eq!(connections(&script).mark_live(&alice(), &row("a="), false).await, Ok(false));
        script.end();
    }

    #[tokio::test]
    async fn disconnecting_is_three_calls_the_row_before_the_reverse_item() {
        let script = Script::default()
            .then("GetItem", |request| {
                assert_eq!(request["ConsistentRead"], true);
                Answer::Ok(json!({}))
            })
            .then("UpdateItem", refused)
            .then("DeleteItem", refused);
        let connections = connections(&script);
        assert_eq!(connections.owner(&row("a=").id).await, Ok(None));
        assert_eq!(connections.remove(&alice(), &row("a=").id).await, Ok(()));
        script.end();
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_removed_keeps_its_reverse_item() {
        let script = Script::default().then("UpdateItem", |_| Answer::Refused("ValidationException"));
        assert!(connections(&script).remove(&alice(), &row("a=").id).await.is_err());
        script.end();
    }
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_claimed_again_by_the_same_holder() {
    let script = Script::default().then("UpdateItem", |_| Answer::Lost).then("UpdateItem", |request| {
        assert_eq!(request["ExpressionAttributeValues"][":holder"]["S"], "one");
        Answer::Ok(json!({}))
    });
    let claims = DynamoClaims::new(&script.clients(), "recado", ManualClock::default());
    let claimed = claims.claim(&entry(&alice(), "1").key(), "one", Duration::from_secs(60)).await;
    script.end();
    assert_eq!(claimed, Ok(recado_domain::ports::Claim::Taken));
}

mod suppressed {
    use super::*;
    use crate::dynamo::DynamoSuppressions;
    use recado_domain::address::AddressKey;
    use recado_domain::ports::{SuppressionCause, Suppressions};

    fn suppressions(script: &Script) -> DynamoSuppressions<ManualClock, SeededEntropy> {
        DynamoSuppressions::new(&script.clients(), "recado", ManualClock::default(), SeededEntropy::new(7))
    }

    fn key(name: &str) -> AddressKey {
        AddressKey::of(&format!("{name}@example.com")).unwrap()
    }

    #[tokio::test]
    async fn what_is_there_already_is_as_good_and_what_fails_fails_alone() {
        let mut script = Script::default().then("BatchExecuteStatement", |request| {
            assert!(!request.to_string().contains("example.com"), "no address reaches a store");
            responses(vec![failed("DuplicateItem"), failed("ThrottlingError"), inserted(1).remove(0)])
        });
        for _ in 0..2 {
            script = script.then("BatchExecuteStatement", |_| responses(vec![failed("ThrottlingError")]));
        }
        let wanted = ["a", "b", "c", "b"].map(|name| (key(name), SuppressionCause::Bounce));
        let answers = suppressions(&script).suppress(&wanted).await;
        script.end();
        assert!(answers[0].is_ok() && is_transient(&answers[1]) && answers[2].is_ok() && is_transient(&answers[3]));
    }

    #[tokio::test]
    async fn a_suppression_that_cannot_be_read_is_no_permission_to_send() {
        let script =
            Script::default().then("BatchGetItem", |request| got(json!([request["RequestItems"]["recado"]["Keys"][0]]), json!({})));
        assert!(is_permanent(&suppressions(&script).suppressed(&[key("a")]).await[0]));
        script.end();
    }
}
