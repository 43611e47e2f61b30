//! Batches of which some entries fail in an answer of 200.
//!
//! An entry that fails was either taken out before the service saw it, or done by it and denied: so it is on AWS, where
//! `InternalError` of an entry says nothing of whether it was done. What was throttled was never done. Must not know: which
//! batch it happens to.

use axum::body::Bytes;
use axum::http::HeaderMap;
use recado_domain::ports::Entropy;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::Rejection;
use super::answers::reply;
use super::call::Reply;
use super::fault::pick;

/// What an answer says of an entry that failed, beside its code.
const SAID: &str = "This entry failed";

/// Entries that are to fail.
#[derive(Debug)]
pub(super) struct Partial {
    /// For each entry whether it fails.
    fails: Vec<bool>,
    /// Whether they are done all the same.
    done: bool,
    /// The code of each entry, if it fails.
    codes: Vec<&'static str>,
    request: Request,
}

#[derive(Debug)]
enum Request {
    /// `Entries` with an `Id` each (SQS).
    Entries(Value),
    /// `Statements`, answered in order (DynamoDB).
    Statements(Value),
    /// Keys of one table (DynamoDB).
    Keys { request: Value, table: String },
    /// `PublishBatchRequestEntries.member.N.…` (SNS).
    Form(Vec<(String, String)>),
}

impl Partial {
    /// Chooses entries of a request; none where it has no entries.
    pub(super) fn of(operation: &str, body: &Bytes, entropy: &impl Entropy) -> Option<Self> {
        let request = Request::read(operation, body)?;
        let count = request.count();
        if count == 0 {
            return None;
        }
        let mut fails: Vec<bool> = (0..count).map(|_| entropy.fraction() < 0.4).collect();
        let at = pick(&(0..count).collect::<Vec<_>>(), entropy);
        fails[at] = true;
        // A key that was left unprocessed was read or not: it is the same.
        let done = entropy.fraction() < 0.5 && !matches!(request, Request::Keys { .. });
        let codes = request.codes(done);
        let codes = fails.iter().map(|_| pick(codes, entropy)).collect();
        Some(Self { fails, done, codes, request })
    }

    /// The entries of a request that AWS rejects; none where it has no entries.
    pub(super) fn about(operation: &str, body: &Bytes, rejection: Rejection) -> Option<Self> {
        let request = Request::read(operation, body)?;
        let count = request.count();
        let fails: Vec<bool> = (0..count).map(|at| request.says(at, rejection.about)).collect();
        (count > 0).then(|| Self { fails, done: false, codes: vec![rejection.code; count], request })
    }

    /// What the service is to see; nothing where no entry is left for it.
    pub(super) fn request(&self) -> Option<Bytes> {
        if self.done {
            return Some(self.request.body(|_| true));
        }
        self.fails.iter().any(|fails| !fails).then(|| self.request.body(|at| !self.fails[at]))
    }

    /// What the caller sees, from what the service answered.
    pub(super) fn answer(&self, served: Option<Reply>) -> Reply {
        let served = served.unwrap_or_else(|| self.request.nothing());
        if !served.is_success() {
            return served;
        }
        let text = String::from_utf8_lossy(&served.body).into_owned();
        let body = match &self.request {
            Request::Form(_) => self.in_xml(text),
            Request::Entries(request) => self.in_entries(request, parsed(&text)).to_string(),
            Request::Statements(_) => self.in_statements(parsed(&text)).to_string(),
            Request::Keys { request, table } => self.in_keys(request, table, parsed(&text)).to_string(),
        };
        served.with(body)
    }

    fn failing<'a, T>(&'a self, all: impl IntoIterator<Item = T> + 'a) -> impl Iterator<Item = T> + 'a {
        all.into_iter().zip(&self.fails).filter(|(_, fails)| **fails).map(|(one, _)| one)
    }

    fn in_entries(&self, request: &Value, mut answer: Value) -> Value {
        let ids: Vec<&Value> = self.failing(list(request, "Entries")).map(|entry| &entry["Id"]).collect();
        let mut failed: Vec<Value> = list(&answer, "Failed").to_vec();
        failed.retain(|entry| !ids.contains(&&entry["Id"]));
        let codes = self.failing(&self.codes);
        failed.extend(ids.iter().zip(codes).map(|(id, code)| json!({ "Id": id, "SenderFault": false, "Code": code, "Message": SAID })));
        let successful: Vec<Value> = list(&answer, "Successful").iter().filter(|entry| !ids.contains(&&entry["Id"])).cloned().collect();
        (answer["Successful"], answer["Failed"]) = (json!(successful), json!(failed));
        answer
    }

    fn in_statements(&self, mut answer: Value) -> Value {
        let served = list(&answer, "Responses").to_vec();
        let mut served = served.into_iter();
        let responses = self.fails.iter().zip(&self.codes).map(|(fails, code)| {
            let response = if *fails && !self.done { None } else { served.next() };
            match fails {
                true => json!({ "Error": { "Code": code, "Message": SAID } }),
                false => response.unwrap_or_else(|| json!({})),
            }
        });
        answer["Responses"] = responses.collect();
        answer
    }

    fn in_keys(&self, request: &Value, table: &str, mut answer: Value) -> Value {
        let mut left: Vec<Value> = self.failing(list(&request["RequestItems"][table], "Keys")).cloned().collect();
        left.extend(list(&answer["UnprocessedKeys"][table], "Keys").iter().cloned());
        let mut unprocessed = request["RequestItems"][table].clone();
        unprocessed["Keys"] = json!(left);
        answer["UnprocessedKeys"] = Value::Object(Map::from_iter([(table.to_owned(), unprocessed)]));
        answer
    }

    fn in_xml(&self, mut answer: String) -> String {
        let Request::Form(fields) = &self.request else { return answer };
        let ids: Vec<String> = self.failing(ids(fields)).collect();
        for id in &ids {
            answer = without_member(answer, id);
        }
        let failed = ids.iter().zip(self.failing(&self.codes)).map(|(id, code)| {
            format!("<member><Id>{id}</Id><Code>{code}</Code><Message>{SAID}</Message><SenderFault>false</SenderFault></member>")
        });
        let failed: String = failed.collect();
        match answer.contains("</Failed>") {
            true => answer.replacen("</Failed>", &format!("{failed}</Failed>"), 1),
            false => answer.replacen("<Failed/>", &format!("<Failed>{failed}</Failed>"), 1),
        }
    }
}

impl Request {
    fn read(operation: &str, body: &Bytes) -> Option<Self> {
        if operation == "PublishBatch" {
            return Some(Self::Form(form_urlencoded::parse(body).into_owned().collect()));
        }
        let request: Value = serde_json::from_slice(body).ok()?;
        Some(match operation {
            "BatchExecuteStatement" => Self::Statements(request),
            "BatchGetItem" => {
                let table = request["RequestItems"].as_object()?.keys().next()?.clone();
                Self::Keys { request, table }
            }
            _ => Self::Entries(request),
        })
    }

    fn count(&self) -> usize {
        match self {
            Self::Entries(request) => list(request, "Entries").len(),
            Self::Statements(request) => list(request, "Statements").len(),
            Self::Keys { request, table } => list(&request["RequestItems"][table], "Keys").len(),
            Self::Form(fields) => ids(fields).len(),
        }
    }

    /// What its entries may be answered that fail for now; what is `done` was not throttled.
    fn codes(&self, done: bool) -> &'static [&'static str] {
        match self {
            Self::Statements(_) if done => &["InternalServerError"],
            Self::Statements(_) => &["ThrottlingError", "ProvisionedThroughputExceeded", "InternalServerError"],
            Self::Entries(_) | Self::Keys { .. } | Self::Form(_) => &["InternalError"],
        }
    }

    /// Whether an entry has these words.
    fn says(&self, at: usize, words: &str) -> bool {
        let in_list = |of: &Value, name: &str| list(of, name).get(at).is_some_and(|entry| entry.to_string().contains(words));
        match self {
            Self::Entries(request) => in_list(request, "Entries"),
            Self::Statements(request) => in_list(request, "Statements"),
            Self::Keys { request, table } => in_list(&request["RequestItems"][table], "Keys"),
            Self::Form(fields) => {
                fields.iter().any(|(name, value)| member(name).is_some_and(|(number, _)| number == at + 1) && value.contains(words))
            }
        }
    }

    /// The request with those entries alone.
    fn body(&self, stays: impl Fn(usize) -> bool) -> Bytes {
        let kept = |of: &Value, name: &str| -> Value {
            list(of, name).iter().enumerate().filter(|(at, _)| stays(*at)).map(|(_, entry)| entry.clone()).collect()
        };
        let json = match self {
            Self::Form(fields) => return form_with(fields, stays).into(),
            Self::Entries(request) => changed(request, "Entries", kept(request, "Entries")),
            Self::Statements(request) => changed(request, "Statements", kept(request, "Statements")),
            Self::Keys { request, table } => {
                let mut request = request.clone();
                request["RequestItems"][table]["Keys"] = kept(&request["RequestItems"][table], "Keys");
                request
            }
        };
        json.to_string().into()
    }

    /// An answer that mentions no entry.
    fn nothing(&self) -> Reply {
        let json = match self {
            Self::Form(_) => {
                let result = "<PublishBatchResult><Successful></Successful><Failed></Failed></PublishBatchResult>";
                return reply(200, "text/xml", format!("<PublishBatchResponse>{result}</PublishBatchResponse>"));
            }
            Self::Entries(_) => json!({ "Successful": [], "Failed": [] }),
            Self::Statements(_) => json!({ "Responses": [] }),
            Self::Keys { .. } => json!({ "Responses": {}, "UnprocessedKeys": {} }),
        };
        Reply { headers: HeaderMap::new(), ..reply(200, "application/x-amz-json-1.0", json.to_string()) }
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!({}))
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of[name].as_array().map_or(&[], Vec::as_slice)
}

fn changed(request: &Value, name: &str, to: Value) -> Value {
    let mut request = request.clone();
    request[name] = to;
    request
}

/// The number and the rest of `PublishBatchRequestEntries.member.N.rest`.
fn member(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.strip_prefix("PublishBatchRequestEntries.member.")?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// The ids of a form's entries, in order.
fn ids(fields: &[(String, String)]) -> Vec<String> {
    fields.iter().filter(|(name, _)| member(name).is_some_and(|(_, rest)| rest == "Id")).map(|(_, id)| id.clone()).collect()
}

/// The form with those entries alone, numbered anew.
fn form_with(fields: &[(String, String)], stays: impl Fn(usize) -> bool) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    for (name, value) in fields {
        let Some((number, rest)) = member(name) else {
            form.append_pair(name, value);
            continue;
        };
        let at = number - 1;
        if stays(at) {
            let number = (0..=at).filter(|at| stays(*at)).count();
            form.append_pair(&format!("PublishBatchRequestEntries.member.{number}.{rest}"), value);
        }
    }
    form.finish()
}

/// An answer without its first `<member>` of this id.
fn without_member(answer: String, id: &str) -> String {
    let Some(at) = answer.find(&format!("<Id>{id}</Id>")) else { return answer };
    let (Some(begin), Some(end)) = (answer[..at].rfind("<member>"), answer[at..].find("</member>")) else { return answer };
    format!("{}{}", &answer[..begin], &answer[at + end + "</member>".len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partial(operation: &str, body: &str, fails: &[bool], done: bool) -> Partial {
        let request = Request::read(operation, &Bytes::copy_from_slice(body.as_bytes())).unwrap();
        assert_eq!(request.count(), fails.len());
        let codes = vec![request.codes(done)[0]; fails.len()];
        Partial { fails: fails.to_vec(), done, codes, request }
    }

    fn ok(body: &str) -> Option<Reply> {
        Some(reply(200, "any", body.to_owned()))
    }

    fn text(bytes: &Bytes) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn an_entry_of_sqs_is_taken_out_or_denied() {
        let request = r#"{"QueueUrl":"q","Entries":[{"Id":"0"},{"Id":"1"}]}"#;
        let out = partial("SendMessageBatch", request, &[true, false], false);
        assert_eq!(parsed(&text(&out.request().unwrap())), json!({"QueueUrl": "q", "Entries": [{"Id": "1"}]}));
        let answer = parsed(&text(&out.answer(ok(r#"{"Successful":[{"Id":"1"}]}"#)).body));
        assert_eq!((&answer["Successful"], &answer["Failed"][0]["Id"]), (&json!([{"Id": "1"}]), &json!("0")));
        let denied = partial("SendMessageBatch", request, &[true, false], true);
        assert_eq!(parsed(&text(&denied.request().unwrap())), parsed(request));
        let answer = parsed(&text(&denied.answer(ok(r#"{"Successful":[{"Id":"0"},{"Id":"1"}]}"#)).body));
        assert_eq!((&answer["Successful"], &answer["Failed"][0]["Id"]), (&json!([{"Id": "1"}]), &json!("0")));
        let all = partial("SendMessageBatch", request, &[true, true], false);
        assert!(all.request().is_none());
        assert_eq!(list(&parsed(&text(&all.answer(None).body)), "Failed").len(), 2);
    }

    #[test]
    fn a_statement_fails_in_its_place() {
        let request = r#"{"Statements":[{"Statement":"a"},{"Statement":"b"},{"Statement":"c"}]}"#;
        for (done, served) in [
            (false, r#"{"Responses":[{"TableName":"a"},{"TableName":"c"}]}"#),
            (true, r#"{"Responses":[{"TableName":"a"},{},{"TableName":"c"}]}"#),
        ] {
            let partial = partial("BatchExecuteStatement", request, &[false, true, false], done);
            assert_eq!(list(&parsed(&text(&partial.request().unwrap())), "Statements").len(), if done { 3 } else { 2 });
            let answer = parsed(&text(&partial.answer(ok(served)).body));
            let responses = list(&answer, "Responses");
            assert_eq!((&responses[0]["TableName"], &responses[2]["TableName"]), (&json!("a"), &json!("c")));
            assert!(responses[1]["Error"]["Code"].is_string() && (!done || responses[1]["Error"]["Code"] == "InternalServerError"));
        }
    }

    #[test]
    fn keys_come_back_unprocessed_as_they_were_asked_for() {
        let request = r#"{"RequestItems":{"t":{"ConsistentRead":true,"Keys":[{"pk":{"S":"1"}},{"pk":{"S":"2"}}]}}}"#;
        let partial = partial("BatchGetItem", request, &[true, false], false);
        assert!(!text(&partial.request().unwrap()).contains(r#""1""#));
        let answer = parsed(&text(&partial.answer(ok(r#"{"Responses":{"t":[]},"UnprocessedKeys":{}}"#)).body));
        assert_eq!(answer["UnprocessedKeys"], json!({"t": {"ConsistentRead": true, "Keys": [{"pk": {"S": "1"}}]}}));
    }

    #[test]
    fn an_event_of_a_batch_is_taken_out_or_denied() {
        let entry = |number: usize, id: &str| {
            format!("PublishBatchRequestEntries.member.{number}.Id={id}&PublishBatchRequestEntries.member.{number}.Message=m{id}")
        };
        let request = format!("Action=PublishBatch&{}&{}&{}", entry(1, "0"), entry(2, "1"), entry(3, "2"));
        let out = partial("PublishBatch", &request, &[false, true, false], false);
        assert_eq!(text(&out.request().unwrap()), format!("Action=PublishBatch&{}&{}", entry(1, "0"), entry(2, "2")));
        let taken =
            |ids: &[&str]| ids.iter().map(|id| format!("<member><Id>{id}</Id><MessageId>m</MessageId></member>")).collect::<String>();
        for (partial, served) in
            [(out, taken(&["0", "2"])), (partial("PublishBatch", &request, &[false, true, false], true), taken(&["0", "1", "2"]))]
        {
            let answer = text(&partial.answer(ok(&format!("<Successful>{served}</Successful><Failed></Failed>"))).body);
            assert!(answer.starts_with(&format!("<Successful>{}</Successful><Failed><member><Id>1</Id>", taken(&["0", "2"]))), "{answer}");
        }
    }

    #[test]
    fn what_is_about_somebody_is_rejected_wherever_it_is() {
        let rejection = Rejection { operation: "", about: "mallory", code: "ItemCollectionSizeLimitExceeded" };
        let table = [
            ("BatchExecuteStatement", r#"{"Statements":[{"Parameters":[{"S":"U#t#alice"}]},{"Parameters":[{"S":"U#t#mallory"}]}]}"#),
            ("SendMessageBatch", r#"{"Entries":[{"Id":"0","MessageBody":"alice"},{"Id":"1","MessageBody":"mallory"}]}"#),
            ("BatchGetItem", r#"{"RequestItems":{"t":{"Keys":[{"pk":{"S":"U#t#alice"}},{"pk":{"S":"U#t#mallory"}}]}}}"#),
            (
                "PublishBatch",
                "PublishBatchRequestEntries.member.1.Id=0&PublishBatchRequestEntries.member.1.Message=alice&PublishBatchRequestEntries.member.2.Id=1&PublishBatchRequestEntries.member.2.Message=mallory",
            ),
        ];
        for (operation, body) in table {
            let partial = Partial::about(operation, &Bytes::from_static(body.as_bytes()), rejection).unwrap();
            assert_eq!((partial.fails, partial.done), (vec![false, true], false), "{operation}");
        }
        let (operation, body) = table[0];
        let partial = Partial::about(operation, &Bytes::from_static(body.as_bytes()), rejection).unwrap();
        let answer = parsed(&text(&partial.answer(ok(r#"{"Responses":[{"TableName":"alice's"}]}"#)).body));
        assert_eq!(answer["Responses"][0]["TableName"], "alice's");
        assert_eq!(answer["Responses"][1]["Error"]["Code"], rejection.code);
    }

    #[test]
    fn what_the_service_refused_stays_refused() {
        let partial = partial("SendMessageBatch", r#"{"Entries":[{"Id":"0"},{"Id":"1"}]}"#, &[true, false], false);
        let refused = reply(400, "any", "no".to_owned());
        assert_eq!(text(&partial.answer(Some(refused)).body), "no");
    }
}
