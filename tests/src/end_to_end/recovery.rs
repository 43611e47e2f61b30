//! What died, was given up, or came back, ends where it belongs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use recado_domain::event::Event;
use recado_domain::ids::{RecipientKey, TenantId, UserId};
use recado_domain::message::{Attributes, attributes_of};
use recado_domain::notification::NewEntry;
use recado_domain::ports::{DeadLetters, EventBus, Inbox, Outgoing, Queue, Received};
use serde_json::Value;

use crate::harness::{DEADLINE, Deployment, Inside, Tested, event, eventually, titles};

/// The one message that is there, or comes.
async fn received(queue: &impl Queue, visibility: Duration) -> anyhow::Result<Received> {
    eventually("a message", async || Ok(queue.receive(1, Duration::from_secs(1), visibility).await?.pop())).await
}

pub async fn a_redelivery_after_a_crash_between_append_and_ack_shows_it_once<D: Deployment>() -> Tested {
    // A dispatcher that got as far as the append, and died.
    let recado = D::up_after(async |inside: &D::Inside| {
        let published = Event::parse(event(&["alice"], "once").to_string().as_bytes())?;
        inside.bus().publish(std::slice::from_ref(&published)).await.remove(0)?;
        received(&inside.inbox_queue(), Duration::from_secs(1)).await?;
        let recipient = RecipientKey::new(TenantId::default(), UserId::new("alice")?);
        let notification = Arc::new(published.notification(jiff::Timestamp::UNIX_EPOCH));
        inside.inbox().append(&[NewEntry { recipient, notification }]).await.remove(0)?;
        Ok(())
    })
    .await?;
    let mut alice = recado.connect("alice").await?;
    let answer = alice.sync(None, &[]).await?;
    assert_eq!(titles(&answer.items), ["once"]);
    // The redelivery may come before or behind that answer: either way what is behind it on the queue arrives, and
    // the inbox holds the entry once.
    recado.publish(&event(&["alice"], "behind it")).await?;
    assert_eq!(titles(&recado.inbox_of("alice", 2).await?), ["behind it", "once"]);
    Ok(())
}

pub async fn a_poison_message_becomes_a_dead_letter_with_its_reason_and_blocks_nobody<D: Deployment>() -> Tested {
    let recado = D::up_after(async |inside: &D::Inside| {
        let poison = Outgoing { body: "no event".to_owned(), attributes: Attributes::new(), delay: Duration::ZERO };
        Ok(inside.inbox_queue().send(&[poison]).await.remove(0)?)
    })
    .await?;
    recado.publish(&event(&["alice"], "behind it")).await?;
    recado.inbox_of("alice", 1).await?;
    let letter = eventually("a dead letter", async || {
        let listed = recado.run(&["dead-letters", "list", "--json"]).await?;
        ensure!(listed.code == Some(0), "{listed:?}");
        Ok(listed.out.lines().next().map(serde_json::from_str::<Value>).transpose()?)
    })
    .await?;
    assert_eq!(letter["body"], "no event");
    assert!(letter["reason"].as_str().is_some_and(|reason| reason.contains("not JSON")), "{letter}");
    let id = letter["id"].as_str().context("id")?;
    let redriven = recado.run(&["dead-letters", "redrive", id]).await?;
    assert_eq!(redriven.code, Some(0), "{redriven:?}");
    assert_eq!(recado.run(&["dead-letters", "redrive", "nobody"]).await?.code, Some(1));
    Ok(())
}

pub async fn a_redriven_event_reaches_those_it_concerns<D: Deployment>() -> Tested {
    let recado = D::up_after(async |inside: &D::Inside| {
        let published = Event::parse(event(&["alice"], "second chance").to_string().as_bytes())?;
        let message = Outgoing { body: published.to_json(), attributes: attributes_of(&published), delay: Duration::ZERO };
        let queue = inside.inbox_queue();
        queue.send(&[message]).await.remove(0)?;
        let leased = received(&queue, DEADLINE).await?;
        queue.reject(&[(leased, "given up by hand".to_owned())]).await.remove(0)?;
        let letters = inside.dead_letters();
        eventually("it is a dead letter", async || Ok((letters.list(10).await?.len() == 1).then_some(()))).await
    })
    .await?;
    let mut alice = recado.live("alice").await?;
    let redriven = recado.run(&["dead-letters", "redrive", "--all"]).await?;
    assert_eq!(redriven.code, Some(0), "{redriven:?}");
    assert_eq!(titles(&alice.live_items(1).await?), ["second chance"]);
    assert_eq!(recado.run(&["dead-letters", "list"]).await?.out.trim(), "No dead letters.");
    Ok(())
}
