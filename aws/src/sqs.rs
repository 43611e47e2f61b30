//! Queues and dead letters on SQS.
//!
//! SQS counts in whole seconds: times are rounded up. It keeps no order, may deliver twice, and has no way to name a
//! message but to receive it: listing dead letters receives them and gives them back. Must not know: what a message means.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message, MessageAttributeValue,
    MessageSystemAttributeName, SendMessageBatchRequestEntry,
};
use jiff::Timestamp;
use recado_domain::failure::Failure;
use recado_domain::limits;
use recado_domain::message::{
    ATTRIBUTE_ATTEMPT, ATTRIBUTE_CHANNELS, ATTRIBUTE_REASON, ATTRIBUTE_TENANT, ATTRIBUTE_TYPE, Attributes, short_reason,
};
use recado_domain::ports::{AckToken, DeadLetter, DeadLetters, Outcome, Outgoing, Queue, Received};

use crate::batch::{Answers, escaped, id_of, in_batches, refused, taken};
use crate::clients::Clients;
use crate::failure::failure_of;

const SEND: &str = "SQS SendMessageBatch";
const DELETE: &str = "SQS DeleteMessageBatch";
const CHANGE: &str = "SQS ChangeMessageVisibilityBatch";

/// A dead letter with its reason: what a queue takes unless its `MaximumMessageSize` says less ("Amazon SQS message quotas").
/// Published is no more than 256 KiB, so that a reason always has room.
const LETTER_BYTES: usize = 1024 * 1024;
/// Attributes of one message ("Amazon SQS message metadata").
const ATTRIBUTES: usize = 10;
/// How long a rejection may take before somebody else may receive the message again.
const REJECTION: Duration = Duration::from_secs(60);
/// How long listing or redriving may keep dead letters from others.
const LOOK: Duration = Duration::from_secs(60);
/// A poll that waits asks all of SQS's servers, one that does not asks some ("Amazon SQS short and long polling").
const LOOK_WAIT: Duration = Duration::from_secs(1);
/// Dead letters that one look takes, at the most: more would not come back in time.
const LOOK_LETTERS: usize = 5_000;
/// The type of every attribute that is sent.
const STRING: &str = "String";
/// The attributes that mean something to Recado, which a dead letter keeps before others.
const OWN: [&str; 4] = [ATTRIBUTE_TYPE, ATTRIBUTE_CHANNELS, ATTRIBUTE_TENANT, ATTRIBUTE_ATTEMPT];
/// The reason of a letter that has none of its own.
const MOVED_BY_SQS: &str = "received too often without being settled: moved by the queue's redrive policy";

/// One queue, and where its dead letters go.
#[derive(Debug, Clone)]
pub struct SqsQueue {
    own: Url,
    dead_letters: Url,
}

impl SqsQueue {
    /// The queues of these URLs.
    pub fn new(clients: &Clients, queue_url: impl Into<String>, dead_letters_url: impl Into<String>) -> Self {
        Self { own: Url::new(clients, queue_url), dead_letters: Url::new(clients, dead_letters_url) }
    }

    /// A queue that this process only sends to: it receives nothing, and so has nothing to reject.
    pub fn to_send(clients: &Clients, queue_url: impl Into<String>) -> Self {
        Self::new(clients, queue_url, "")
    }
}

impl Queue for SqsQueue {
    fn max_batch(&self) -> usize {
        limits::AWS_BATCH_ENTRIES
    }

    async fn receive(&self, max: usize, wait: Duration, visibility: Duration) -> Outcome<Vec<Received>> {
        let messages = self.own.receive(max, wait, visibility).await?;
        Ok(messages.into_iter().map(received).collect())
    }

    async fn ack(&self, tokens: &[AckToken]) -> Vec<Outcome<()>> {
        let handles: Vec<&str> = tokens.iter().map(|token| token.0.as_str()).collect();
        self.own.delete(&handles).await
    }

    async fn extend(&self, tokens: &[AckToken], visibility: Duration) -> Vec<Outcome<()>> {
        let messages: Vec<_> = tokens.iter().map(|token| (token.0.as_str(), visibility)).collect();
        self.own.hide(&messages).await
    }

    async fn release(&self, messages: &[(AckToken, Duration)]) -> Vec<Outcome<()>> {
        let messages: Vec<_> = messages.iter().map(|(token, delay)| (token.0.as_str(), *delay)).collect();
        self.own.hide(&messages).await
    }

    /// Extends, sends, then deletes: a token that is stale changes nothing, and a message is never in neither queue.
    /// One whose deletion fails is in both, and becomes a second dead letter when it is received again.
    async fn reject(&self, messages: &[(Received, String)]) -> Vec<Outcome<()>> {
        let mut steps = Steps::new(messages);
        let held: Vec<_> = steps.open().map(|(message, _)| (message.token.0.as_str(), REJECTION)).collect();
        steps.passed(self.own.hide(&held).await);
        let letters: Vec<_> = steps.open().map(|(message, reason)| dead_letter(message, reason)).collect();
        steps.passed(self.dead_letters.send(&letters).await);
        let done: Vec<_> = steps.open().map(|(message, _)| message.token.0.as_str()).collect();
        steps.passed(self.own.delete(&done).await);
        steps.answers
    }

    async fn send(&self, messages: &[Outgoing]) -> Vec<Outcome<()>> {
        self.own.send(messages).await
    }
}

/// The dead letters of one queue, for operators.
#[derive(Debug, Clone)]
pub struct SqsDeadLetters {
    queue: Url,
    letters: Url,
}

impl SqsDeadLetters {
    /// The queues of these URLs.
    pub fn new(clients: &Clients, queue_url: impl Into<String>, dead_letters_url: impl Into<String>) -> Self {
        Self { queue: Url::new(clients, queue_url), letters: Url::new(clients, dead_letters_url) }
    }

    /// Receives letters until `enough`, or there are no others; those that another look holds are not seen.
    async fn look(&self, enough: impl Fn(&BTreeMap<String, Message>) -> bool) -> Outcome<BTreeMap<String, Message>> {
        let mut seen = BTreeMap::new();
        while seen.len() < LOOK_LETTERS && !enough(&seen) {
            let before = seen.len();
            match self.letters.receive(limits::AWS_BATCH_ENTRIES, LOOK_WAIT, LOOK).await {
                Ok(messages) => seen.extend(messages.into_iter().map(|message| (message_id(&message).to_owned(), message))),
                Err(failure) => {
                    self.give_back(seen.values()).await;
                    return Err(failure);
                }
            }
            // None, or only some that came back because this took so long.
            if seen.len() == before {
                break;
            }
        }
        Ok(seen)
    }

    async fn give_back(&self, messages: impl Iterator<Item = &Message>) {
        let messages: Vec<_> = messages.map(|message| (handle(message), Duration::ZERO)).collect();
        let answers = self.letters.hide(&messages).await;
        let failed = answers.iter().filter(|answer| answer.is_err()).count();
        if failed > 0 {
            tracing::warn!(failed, "dead letters could not be given back; they show again within {} s", LOOK.as_secs());
        }
    }

    /// Sends letters back, then deletes them. One whose deletion fails is in both queues.
    async fn move_back(&self, letters: &[&Message]) -> Vec<Outcome<()>> {
        let mut steps = Steps::new(letters);
        let outgoing: Vec<_> = letters.iter().map(|message| redriven(message)).collect();
        let sent = self.queue.send(&outgoing).await;
        let unsent = letters.iter().zip(&sent).filter(|(_, sent)| sent.is_err()).map(|(letter, _)| *letter);
        self.give_back(unsent).await;
        steps.passed(sent);
        let done: Vec<_> = steps.open().map(|message| handle(message)).collect();
        steps.passed(self.letters.delete(&done).await);
        steps.answers
    }
}

impl DeadLetters for SqsDeadLetters {
    /// Looks at up to 5,000 letters, hidden from others meanwhile, for SQS knows no order: of more, some of the oldest
    /// may be missing. A letter that SQS itself moved keeps the time it was first sent.
    async fn list(&self, max: usize) -> Outcome<Vec<DeadLetter>> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let seen = self.look(|_| false).await?;
        self.give_back(seen.values()).await;
        let mut letters: Vec<DeadLetter> = seen.values().map(letter).collect();
        letters.sort_by(|one, other| (one.dead_at, &one.id).cmp(&(other.dead_at, &other.id)));
        letters.truncate(max);
        Ok(letters)
    }

    async fn redrive(&self, ids: &[String]) -> Vec<Outcome<()>> {
        if ids.is_empty() {
            return Vec::new();
        }
        let seen = match self.look(|seen| ids.iter().all(|id| seen.contains_key(id))).await {
            Ok(seen) => seen,
            Err(failure) => return ids.iter().map(|_| Err(failure.clone())).collect(),
        };
        self.give_back(seen.iter().filter(|(id, _)| !ids.contains(id)).map(|(_, message)| message)).await;
        let wanted: Vec<(&String, &Message)> = seen.iter().filter(|(id, _)| ids.contains(id)).collect();
        let messages: Vec<&Message> = wanted.iter().map(|(_, message)| *message).collect();
        let moved = self.move_back(&messages).await;
        // The first mention of an id takes its answer; a letter moves once.
        let mut moved: HashMap<&String, Outcome<()>> = wanted.into_iter().map(|(id, _)| id).zip(moved).collect();
        ids.iter().map(|id| moved.remove(id).unwrap_or_else(|| Err(Failure::permanent("no dead letter has this id")))).collect()
    }
}

/// One queue of SQS.
#[derive(Debug, Clone)]
struct Url {
    sqs: aws_sdk_sqs::Client,
    polls: aws_sdk_sqs::Client,
    url: String,
}

impl Url {
    fn new(clients: &Clients, url: impl Into<String>) -> Self {
        Self { sqs: clients.sqs.clone(), polls: clients.sqs_polls.clone(), url: url.into() }
    }

    async fn receive(&self, max: usize, wait: Duration, visibility: Duration) -> Outcome<Vec<Message>> {
        if max == 0 {
            return Ok(Vec::new());
        }
        // Who does not wait has messages in hand whose lease runs: an answer that stays away for as long as a poll may would outlast it.
        let client = if wait.is_zero() { &self.sqs } else { &self.polls };
        let call = client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(i32::try_from(max.min(limits::AWS_BATCH_ENTRIES)).unwrap_or(1))
            .wait_time_seconds(seconds(wait, limits::QUEUE_POLL))
            .visibility_timeout(seconds(visibility, limits::QUEUE_VISIBILITY))
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp);
        let output = call.send().await.map_err(|error| failure_of(&error))?;
        Ok(output.messages.unwrap_or_default())
    }

    async fn send(&self, messages: &[Outgoing]) -> Vec<Outcome<()>> {
        let messages: Vec<&Outgoing> = messages.iter().collect();
        in_batches(SEND, &messages, |message| Ok(bytes(&message.body, &message.attributes)), |group| self.send_call(group)).await
    }

    async fn send_call(&self, messages: Vec<&Outgoing>) -> Outcome<Answers> {
        let entries = messages.into_iter().enumerate().map(|(number, message)| {
            let entry = SendMessageBatchRequestEntry::builder()
                .id(id_of(number))
                .message_body(escaped(message.body.clone()))
                .delay_seconds(seconds(message.delay, limits::QUEUE_DELAY))
                .set_message_attributes(Some(sdk_attributes(&message.attributes)));
            entry.build().expect("an entry with id and body is complete")
        });
        let call = self.sqs.send_message_batch().queue_url(&self.url).set_entries(Some(entries.collect()));
        let output = call.send().await.map_err(|error| failure_of(&error))?;
        Ok(answers(SEND, output.successful().iter().map(|entry| entry.id()), output.failed()))
    }

    async fn delete(&self, handles: &[&str]) -> Vec<Outcome<()>> {
        in_batches(DELETE, handles, |handle| given(handle), |group| self.delete_call(group)).await
    }

    async fn delete_call(&self, handles: Vec<&str>) -> Outcome<Answers> {
        let entries = handles.into_iter().enumerate().map(|(number, handle)| {
            let entry = DeleteMessageBatchRequestEntry::builder().id(id_of(number)).receipt_handle(handle);
            entry.build().expect("an entry with id and handle is complete")
        });
        let call = self.sqs.delete_message_batch().queue_url(&self.url).set_entries(Some(entries.collect()));
        let output = call.send().await.map_err(|error| failure_of(&error))?;
        Ok(answers(DELETE, output.successful().iter().map(|entry| entry.id()), output.failed()))
    }

    /// Hides received messages from now on for the given time; none makes them visible at once.
    async fn hide(&self, messages: &[(&str, Duration)]) -> Vec<Outcome<()>> {
        in_batches(CHANGE, messages, |(handle, _)| given(handle), |group| self.hide_call(group)).await
    }

    async fn hide_call(&self, messages: Vec<(&str, Duration)>) -> Outcome<Answers> {
        let entries = messages.into_iter().enumerate().map(|(number, (handle, time))| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(id_of(number))
                .receipt_handle(handle)
                .visibility_timeout(seconds(time, limits::QUEUE_VISIBILITY));
            entry.build().expect("an entry with id and handle is complete")
        });
        let call = self.sqs.change_message_visibility_batch().queue_url(&self.url).set_entries(Some(entries.collect()));
        let output = call.send().await.map_err(|error| failure_of(&error))?;
        Ok(answers(CHANGE, output.successful().iter().map(|entry| entry.id()), output.failed()))
    }
}

/// Steps that each entry has to pass one after the other: what fails in one is left out of the next.
struct Steps<'a, T> {
    open: Vec<(usize, &'a T)>,
    answers: Vec<Outcome<()>>,
}

impl<'a, T> Steps<'a, T> {
    fn new(entries: &'a [T]) -> Self {
        Self { open: entries.iter().enumerate().collect(), answers: entries.iter().map(|_| Ok(())).collect() }
    }

    fn open(&self) -> impl Iterator<Item = &'a T> {
        self.open.iter().map(|(_, entry)| *entry)
    }

    /// What this step came to, for each that is open.
    fn passed(&mut self, outcomes: Vec<Outcome<()>>) {
        let open = std::mem::take(&mut self.open);
        for (entry, outcome) in open.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => self.open.push(entry),
                Err(failure) => self.answers[entry.0] = Err(failure),
            }
        }
    }
}

/// Whole seconds, rounded up: a wait is not shortened to none.
fn seconds(time: Duration, limit: Duration) -> i32 {
    let time = time.min(limit);
    i32::try_from(time.as_secs() + u64::from(time.subsec_nanos() > 0)).unwrap_or(i32::MAX)
}

/// SQS refuses a whole call for one empty handle.
fn given(handle: &str) -> Outcome<usize> {
    if handle.is_empty() { Err(Failure::permanent("the message was never received: its token is empty")) } else { Ok(0) }
}

fn answers<'a>(call: &str, successful: impl Iterator<Item = &'a str>, failed: &[BatchResultErrorEntry]) -> Answers {
    let failed = failed.iter().filter_map(|entry| refused(call, entry.id(), entry.code(), entry.message()));
    successful.filter_map(taken).chain(failed).collect()
}

fn received(message: Message) -> Received {
    Received {
        receive_count: system(&message, MessageSystemAttributeName::ApproximateReceiveCount).unwrap_or(1),
        message_id: message_id(&message).to_owned(),
        attributes: attributes_of(&message),
        token: AckToken(message.receipt_handle.unwrap_or_default()),
        body: message.body.unwrap_or_default(),
    }
}

fn letter(message: &Message) -> DeadLetter {
    let mut attributes = attributes_of(message);
    attributes.entry(ATTRIBUTE_REASON.to_owned()).or_insert_with(|| MOVED_BY_SQS.to_owned());
    let sent = system(message, MessageSystemAttributeName::SentTimestamp).and_then(|sent| Timestamp::from_millisecond(sent).ok());
    DeadLetter {
        id: message_id(message).to_owned(),
        body: message.body().unwrap_or_default().to_owned(),
        attributes,
        dead_at: sent.unwrap_or_default(),
    }
}

fn redriven(message: &Message) -> Outgoing {
    let mut attributes = attributes_of(message);
    attributes.remove(ATTRIBUTE_REASON);
    attributes.remove(ATTRIBUTE_ATTEMPT);
    Outgoing { body: message.body().unwrap_or_default().to_owned(), attributes, delay: Duration::ZERO }
}

/// A rejected message as its dead-letter queue takes it. Where the reason leaves no room for all attributes, those that
/// mean nothing to Recado are left out first; a message that fills the limit keeps as much of the reason as fits. Where the
/// queue takes less, the message stays where it is, until SQS itself moves it by the queue's redrive policy.
fn dead_letter(message: &Received, reason: &str) -> Outgoing {
    let mut room = LETTER_BYTES.saturating_sub(message.body.len() + ATTRIBUTE_REASON.len() + STRING.len());
    let mut reason = short_reason(reason.to_owned());
    reason.truncate(reason.floor_char_boundary(room));
    room = room.saturating_sub(reason.len());
    let mut attributes = Attributes::new();
    if !reason.is_empty() {
        attributes.insert(ATTRIBUTE_REASON.to_owned(), reason);
    }
    let (own, foreign): (Vec<_>, Vec<_>) = message.attributes.iter().partition(|(name, _)| OWN.contains(&name.as_str()));
    for (name, value) in own.into_iter().chain(foreign).filter(|(name, _)| *name != ATTRIBUTE_REASON) {
        let bytes = attribute_bytes(name, value);
        if attributes.len() < ATTRIBUTES && bytes <= room {
            room -= bytes;
            attributes.insert(name.clone(), value.clone());
        }
    }
    Outgoing { body: message.body.clone(), attributes, delay: Duration::ZERO }
}

fn attributes_of(message: &Message) -> Attributes {
    let given = message.message_attributes.iter().flatten();
    given.filter_map(|(name, value)| Some((name.clone(), value.string_value()?.to_owned()))).collect()
}

/// SQS takes no attribute without a value.
fn sdk_attributes(attributes: &Attributes) -> HashMap<String, MessageAttributeValue> {
    let given = attributes.iter().filter(|(_, value)| !value.is_empty());
    let value = |text: &String| MessageAttributeValue::builder().data_type(STRING).string_value(text).build();
    given.map(|(name, text)| (name.clone(), value(text).expect("an attribute with its type is complete"))).collect()
}

/// As SQS counts: names, types and values of attributes belong to the message ("Amazon SQS message metadata").
fn bytes(body: &str, attributes: &Attributes) -> usize {
    body.len() + attributes.iter().map(|(name, value)| attribute_bytes(name, value)).sum::<usize>()
}

fn attribute_bytes(name: &str, value: &str) -> usize {
    name.len() + STRING.len() + value.len()
}

fn message_id(message: &Message) -> &str {
    message.message_id().unwrap_or_default()
}

fn handle(message: &Message) -> &str {
    message.receipt_handle().unwrap_or_default()
}

fn system<T: std::str::FromStr>(message: &Message, name: MessageSystemAttributeName) -> Option<T> {
    message.attributes.as_ref()?.get(&name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::CALL_BYTES;
    use crate::script::{Answer, Script};
    use proptest::prelude::*;
    use recado_runtime::backoff::RetrySchedule;
    use recado_runtime::consumer::trigger::Trigger;
    use recado_runtime::consumer::{Deadline, Disposition, Handler};
    use recado_runtime::system::SystemEntropy;
    use serde_json::{Value, json};
    use std::sync::Arc;

    const QUEUE: &str = "https://sqs.example/1/inbox";
    const LETTERS: &str = "https://sqs.example/1/inbox-dead-letters";

    fn message(token: &str, body: &str) -> Received {
        let attributes = Attributes::from([(ATTRIBUTE_TYPE.to_owned(), "t.done".to_owned())]);
        Received { token: AckToken(token.to_owned()), message_id: "m".to_owned(), body: body.to_owned(), attributes, receive_count: 1 }
    }

    /// One field of each entry of a batch request.
    fn of_entries(request: &Value, field: &str) -> Vec<String> {
        let entries = request["Entries"].as_array().expect("a batch");
        entries.iter().map(|entry| entry[field].as_str().map_or_else(|| entry[field].to_string(), str::to_owned)).collect()
    }

    /// All entries but those are taken.
    fn answer(request: &Value, refused: &[(&str, &str)]) -> Answer {
        let ids = of_entries(request, "Id");
        let is_refused = |id: &String| refused.iter().any(|(refused, _)| refused == id);
        let taken: Vec<Value> =
            ids.iter().filter(|id| !is_refused(id)).map(|id| json!({"Id": id, "MessageId": "m", "MD5OfMessageBody": "5"})).collect();
        let refused: Vec<Value> = refused.iter().map(|(id, code)| json!({"Id": id, "Code": code, "SenderFault": true})).collect();
        Answer::Ok(json!({"Successful": taken, "Failed": refused}))
    }

    /// What a queue of dead letters hands out.
    fn letters(ids: &[&str]) -> Answer {
        let letter = |id: &&str| {
            json!({
                "MessageId": id, "ReceiptHandle": format!("handle-{id}"), "Body": format!("body-{id}"),
                "Attributes": {"SentTimestamp": "1767225600000", "ApproximateReceiveCount": "3"},
                "MessageAttributes": {"recado_attempt": {"DataType": "String", "StringValue": "7"}, "type": {"DataType": "String", "StringValue": "t.done"}},
            })
        };
        Answer::Ok(json!({"Messages": ids.iter().map(letter).collect::<Vec<_>>()}))
    }

    #[test]
    fn times_are_whole_seconds_rounded_up_within_the_limit() {
        for (millis, seconds_of) in [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (19_999, 20), (20_000, 20), (90_000, 20)] {
            assert_eq!(seconds(Duration::from_millis(millis), limits::QUEUE_POLL), seconds_of, "{millis}");
        }
        assert_eq!(seconds(Duration::MAX, limits::QUEUE_VISIBILITY), 43_200);
    }

    #[tokio::test]
    async fn a_rejected_message_is_held_then_sent_then_deleted() {
        let script = Script::default()
            .then("ChangeMessageVisibilityBatch", |request| {
                assert_eq!(request["QueueUrl"], QUEUE);
                assert_eq!(of_entries(request, "VisibilityTimeout"), ["60", "60", "60"]);
                answer(request, &[("0", "ReceiptHandleIsInvalid")])
            })
            .then("SendMessageBatch", |request| {
                assert_eq!(request["QueueUrl"], LETTERS);
                assert_eq!(of_entries(request, "MessageBody"), ["b", "c"], "what is not held any more is not sent");
                assert_eq!(request["Entries"][0]["MessageAttributes"][ATTRIBUTE_REASON]["StringValue"], "why b");
                assert_eq!(request["Entries"][0]["MessageAttributes"][ATTRIBUTE_TYPE]["StringValue"], "t.done");
                answer(request, &[("1", "InvalidMessageContents")])
            })
            .then("DeleteMessageBatch", |request| {
                assert_eq!(request["QueueUrl"], QUEUE);
                assert_eq!(of_entries(request, "ReceiptHandle"), ["2"], "what was not sent is not deleted");
                answer(request, &[])
            });
        let queue = SqsQueue::new(&script.clients(), QUEUE, LETTERS);
        let rejected = [("1", "a"), ("2", "b"), ("3", "c")].map(|(token, body)| (message(token, body), format!("why {body}")));
        let answers = queue.reject(&rejected).await;
        assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false]);
        assert!(answers[0].as_ref().unwrap_err().reason().contains("the lease on the message has ended"));
        script.end();
    }

    #[tokio::test(start_paused = true)]
    async fn a_receive_that_does_not_wait_gives_up_well_before_the_lease_of_what_is_in_hand() {
        let visibility = Duration::from_secs(60);
        let longest = |wait| async move {
            let script = Script::default().repeat(9, "ReceiveMessage", |_| Answer::Silence);
            let queue = SqsQueue::new(&script.clients(), QUEUE, LETTERS);
            let started = tokio::time::Instant::now();
            queue.receive(10, wait, visibility).await.unwrap_err();
            started.elapsed()
        };
        assert!(longest(Duration::ZERO).await <= visibility / 2);
        assert!(longest(limits::QUEUE_POLL).await > limits::QUEUE_POLL, "a poll is waited for");
    }

    /// Gives everything back.
    struct GivesBack;

    impl Handler for GivesBack {
        async fn handle(&self, batch: Vec<Received>, _: &Deadline) -> Vec<Disposition> {
            batch.iter().map(|_| Disposition::Retry { after: None, reason: "not now".to_owned() }).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_sqs_refuses_again_and_again_is_tried_three_times_and_not_nine() {
        let refusing = |request: &Value| answer(request, &[("0", "InternalError")]);
        let script = Script::default().repeat(3, "DeleteMessageBatch", refusing).repeat(3, "ChangeMessageVisibilityBatch", refusing);
        let trigger = Trigger {
            name: "test",
            queue: SqsQueue::new(&script.clients(), QUEUE, LETTERS),
            handler: Arc::new(GivesBack),
            entropy: SystemEntropy,
            retry: RetrySchedule::default(),
            margin: Duration::ZERO,
        };
        trigger.delete(vec![message("1", "a")]).await;
        let settled = trigger.handle(vec![message("2", "b")], Duration::from_secs(60)).await;
        assert_eq!(settled.failed, ["m"], "it stays in the queue, and is received again");
        script.end();
    }

    #[tokio::test]
    async fn an_empty_token_spoils_no_call() {
        let script = Script::default().then("DeleteMessageBatch", |request| {
            assert_eq!(of_entries(request, "ReceiptHandle"), ["1"]);
            answer(request, &[])
        });
        let queue = SqsQueue::new(&script.clients(), QUEUE, LETTERS);
        let answers = queue.ack(&[AckToken(String::new()), AckToken("1".to_owned())]).await;
        assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true]);
        script.end();
    }

    #[tokio::test]
    async fn letters_are_given_back_after_a_look_and_those_that_sqs_moved_have_a_reason() {
        let script = Script::default()
            .then("ReceiveMessage", |_| letters(&["b", "a"]))
            .then("ReceiveMessage", |_| Answer::Ok(json!({})))
            .then("ChangeMessageVisibilityBatch", |request| {
                assert_eq!(of_entries(request, "ReceiptHandle"), ["handle-a", "handle-b"]);
                assert_eq!(of_entries(request, "VisibilityTimeout"), ["0", "0"]);
                answer(request, &[])
            });
        let listed = SqsDeadLetters::new(&script.clients(), QUEUE, LETTERS).list(1).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].id.as_str(), listed[0].dead_at.as_millisecond()), ("a", 1_767_225_600_000));
        assert!(listed[0].attributes[ATTRIBUTE_REASON].contains("redrive policy"));
        script.end();
    }

    #[tokio::test]
    async fn a_look_that_fails_half_way_gives_back_what_it_holds() {
        let script =
            Script::default().then("ReceiveMessage", |_| letters(&["a"])).then("ReceiveMessage", |_| Answer::Refused("AccessDenied"));
        let script = script.then("ChangeMessageVisibilityBatch", |request| answer(request, &[]));
        assert!(SqsDeadLetters::new(&script.clients(), QUEUE, LETTERS).list(9).await.is_err());
        script.end();
    }

    #[tokio::test]
    async fn a_redrive_sends_then_deletes_and_gives_back_what_it_did_not_want_or_could_not_send() {
        let script = Script::default()
            .then("ReceiveMessage", |_| letters(&["a", "b", "c"]))
            .then("ChangeMessageVisibilityBatch", |request| {
                assert_eq!(of_entries(request, "ReceiptHandle"), ["handle-b"]);
                answer(request, &[])
            })
            .then("SendMessageBatch", |request| {
                assert_eq!(
                    (&request["QueueUrl"], of_entries(request, "MessageBody")),
                    (&json!(QUEUE), vec!["body-a".to_owned(), "body-c".to_owned()])
                );
                assert_eq!(request["Entries"][0]["MessageAttributes"], json!({"type": {"DataType": "String", "StringValue": "t.done"}}));
                answer(request, &[("1", "InvalidMessageContents")])
            })
            .then("ChangeMessageVisibilityBatch", |request| {
                assert_eq!(of_entries(request, "ReceiptHandle"), ["handle-c"]);
                answer(request, &[])
            })
            .then("DeleteMessageBatch", |request| {
                assert_eq!((&request["QueueUrl"], of_entries(request, "ReceiptHandle")), (&json!(LETTERS), vec!["handle-a".to_owned()]));
                answer(request, &[])
            });
        let dead_letters = SqsDeadLetters::new(&script.clients(), QUEUE, LETTERS);
        let answers = dead_letters.redrive(&["c".to_owned(), "a".to_owned()]).await;
        assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true]);
        script.end();
    }

    proptest! {
        #[test]
        fn a_dead_letter_keeps_its_body_and_fits(
            body in prop_oneof![0..=CALL_BYTES, LETTER_BYTES - 8_192..=LETTER_BYTES],
            attributes in proptest::collection::btree_map("[a-z]{1,20}", "x{0,40}|x{5000}", 0..20),
            reason in "é{0,700}",
            own in any::<bool>(),
        ) {
            let mut rejected = message("1", &"b".repeat(body));
            rejected.attributes = attributes;
            if own {
                rejected.attributes.insert(ATTRIBUTE_ATTEMPT.to_owned(), "3".to_owned());
            }
            let letter = dead_letter(&rejected, &reason);
            prop_assert_eq!(&letter.body, &rejected.body);
            prop_assert!(letter.attributes.len() <= ATTRIBUTES);
            prop_assert!(bytes(&letter.body, &letter.attributes) <= LETTER_BYTES);
            if body <= CALL_BYTES {
                prop_assert_eq!(letter.attributes.get(ATTRIBUTE_REASON).cloned().unwrap_or_default(), short_reason(reason));
                prop_assert_eq!(letter.attributes.contains_key(ATTRIBUTE_ATTEMPT), own);
            }
        }
    }
}
