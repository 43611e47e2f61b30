//! What is no event of Recado is refused, or ends as a dead letter that says why. Nothing is lost, and nobody waits for it.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use jiff::Timestamp;
use recado_domain::event::Event;
use recado_domain::limits;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Deployment, Inside, Tested, event, eventually, titles};

/// The most that SNS takes ("Amazon SNS endpoints and quotas").
const SNS_BYTES: usize = 256 * 1024;

/// An event of so many bytes: an attribute that Recado does not know fills it up.
fn of_bytes(bytes: usize, user: &str, title: &str) -> String {
    let mut event = event(&[user], title);
    event["padding"] = json!("");
    let room = bytes - event.to_string().len();
    event["padding"] = json!("x".repeat(room));
    event.to_string()
}

fn with_recipients(count: usize) -> String {
    let users: Vec<String> = (0..count).map(|n| format!("u{n}#")).collect();
    event(&users.iter().map(String::as_str).collect::<Vec<_>>(), "to many").to_string()
}

/// What somebody may hand in, and what its dead letter has to say.
fn no_events() -> Vec<(String, String)> {
    let mut later = event(&["alice"], "of another version");
    later["specversion"] = json!("2.0");
    let wrapped = json!({
        "Type": "Notification", "MessageId": "95df01b4-ee98-5cb9-9903-4c221d41eb5e", "TopicArn": "arn:aws:sns:us-east-1:1:events",
        "Message": event(&["alice"], "wrapped").to_string(), "Timestamp": "2026-11-24T10:00:00.000Z", "SignatureVersion": "1"
    });
    let size = format!("the limit is {}", limits::EVENT_BYTES);
    let table = [
        ("good morning".to_owned(), "is not JSON"),
        (json!({ "hello": "world" }).to_string(), "specversion"),
        (later.to_string(), "specversion is not `1.0`, the only version Recado speaks"),
        (with_recipients(10_000), "data.recipients has 10000 entries, the limit is 100"),
        (of_bytes(limits::EVENT_BYTES + 1, "alice", "a little too large"), &size),
        (of_bytes(SNS_BYTES, "alice", "as large as SNS takes"), &size),
        (wrapped.to_string(), "turn on raw message delivery"),
    ];
    table.into_iter().map(|(text, says)| (text, says.to_owned())).collect()
}

/// The reasons of the dead letters, by what they hold.
async fn dead_letters(recado: &impl Deployment) -> anyhow::Result<BTreeMap<String, String>> {
    let listed = recado.run(&["dead-letters", "list", "--json"]).await?;
    ensure!(listed.code == Some(0), "{}", listed.err);
    let text = |letter: &Value, name: &str| letter[name].as_str().map(str::to_owned).with_context(|| format!("a letter without {name}"));
    let letter = |line: &str| {
        let letter: Value = serde_json::from_str(line)?;
        anyhow::Ok((text(&letter, "body")?, text(&letter, "reason")?))
    };
    listed.out.lines().map(letter).collect()
}

pub async fn what_is_no_event_becomes_a_dead_letter_that_says_why_and_blocks_nobody<D: Deployment>() -> Tested {
    let no_events = no_events();
    let recado = D::up_after(async |inside: &D::Inside| {
        for (text, _) in &no_events {
            inside.hand_in(text).await?;
        }
        inside.hand_in(&of_bytes(limits::EVENT_BYTES, "alice", "as large as an event may be")).await
    })
    .await?;
    recado.publish(&event(&["bob"], "behind them")).await?;
    recado.inbox_of("bob", 1).await?;
    assert_eq!(titles(&recado.inbox_of("alice", 1).await?), ["as large as an event may be"]);
    let letters = eventually("all of them are dead letters", async || {
        let letters = dead_letters(&recado).await?;
        Ok((letters.len() >= no_events.len()).then_some(letters))
    })
    .await?;
    assert_eq!(letters.len(), no_events.len());
    for (text, says) in &no_events {
        let reason = letters.get(text).with_context(|| format!("the one that says `{says}` is lost"))?;
        assert!(reason.contains(says), "{says}: {reason}");
    }
    Ok(())
}

/// An event whose item in a frame is so many bytes.
fn of_item_bytes(bytes: usize, title: &str) -> anyhow::Result<Value> {
    let mut event = event(&["alice"], title);
    event["data"]["payload"] = json!("");
    let empty = Event::from_value(event.clone())?.notification(Timestamp::MAX).rendered_bytes();
    event["data"]["payload"] = json!("x".repeat(bytes - empty));
    Ok(event)
}

pub async fn an_event_at_the_limit_is_delivered_and_what_is_above_a_limit_is_refused<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    let mut alice = recado.live("alice").await?;
    let (status, answer) = recado.post_event(of_item_bytes(limits::ITEM_BYTES, "at the limit")?.to_string()).await?;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    for (text, field, says) in [
        (of_item_bytes(limits::ITEM_BYTES + 1, "above")?.to_string(), "data", "the limit is 24576"),
        (of_item_bytes(250 * 1024, "just below what SNS takes")?.to_string(), "data", "the limit is 24576"),
        (of_item_bytes(SNS_BYTES, "above what SNS takes")?.to_string(), "event", "the limit is 260096"),
        (with_recipients(10_000), "data.recipients", "has 10000 entries, the limit is 100"),
    ] {
        let (status, answer) = recado.post_event(text).await?;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
        let violation = &answer["results"][0]["violations"][0];
        assert_eq!(violation["field"], field, "{violation}");
        assert!(violation["problem"].as_str().is_some_and(|problem| problem.contains(says)), "{violation}");
    }
    assert_eq!(titles(&alice.live_items(1).await?), ["at the limit"]);
    assert_eq!(recado.inbox("alice").await?.len(), 1);
    Ok(())
}
