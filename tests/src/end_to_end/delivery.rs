//! What is published reaches whom it concerns: at once, when they come, on every device.

use anyhow::Context;
use recado_domain::ids::NotificationId;

use crate::harness::{Deployment, Tested, event, ids, titles};

pub async fn an_event_reaches_a_connected_recipient_at_once<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    let mut alice = recado.live("alice").await?;
    let id = recado.publish(&event(&["alice"], "You can now view Q3 plan")).await?;
    let items = alice.live_items(1).await?;
    assert_eq!(titles(&items), ["You can now view Q3 plan"]);
    assert_eq!(items[0]["id"], id.as_str());
    assert_eq!(items[0]["url"], "/publications/42");
    Ok(())
}

pub async fn a_recipient_who_was_away_finds_it_when_connecting<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    recado.publish(&event(&["alice"], "while away")).await?;
    recado.inbox_of("alice", 1).await?;
    let answer = recado.connect("alice").await?.sync(None, &[]).await?;
    assert_eq!(titles(&answer.items), ["while away"]);
    assert_eq!(answer.verdict, "complete");
    Ok(())
}

pub async fn a_plain_client_gets_what_is_pending_once_and_then_what_comes<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    recado.publish(&event(&["alice"], "pending")).await?;
    recado.inbox_of("alice", 1).await?;
    let mut plain = recado.connect_plain("alice").await?;
    assert_eq!(titles(&plain.live_items(1).await?), ["pending"]);
    recado.publish(&event(&["alice"], "live")).await?;
    assert_eq!(titles(&plain.live_items(1).await?), ["live"]);
    plain.leave().await?;
    recado.alone().await?;
    // Both were settled by a post that arrived: only what came since is pending for the next connection.
    recado.publish(&event(&["alice"], "later")).await?;
    recado.inbox_of("alice", 3).await?;
    assert_eq!(titles(&recado.connect_plain("alice").await?.live_items(1).await?), ["later"]);
    Ok(())
}

pub async fn a_client_that_returns_with_its_cursor_misses_nothing<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    let mut alice = recado.connect("alice").await?;
    recado.publish(&event(&["alice"], "first")).await?;
    recado.inbox_of("alice", 1).await?;
    let before = alice.sync(None, &[]).await?;
    alice.leave().await?;
    let missed: Vec<_> = (0..250).map(|n| event(&["alice"], &format!("missed {n}"))).collect();
    for some in missed.chunks(25) {
        recado.publish_batch(some).await?;
    }
    recado.inbox_of("alice", 251).await?;
    let answer = recado.connect("alice").await?.sync(Some(&before.cursor), &ids(&before.items)).await?;
    assert_eq!(answer.verdict, "complete");
    // The overlap (W) may repeat what was seen; nothing since may be missing, and the order is that of positions.
    let missed: Vec<_> = titles(&answer.items).into_iter().filter(|title| title.starts_with("missed")).collect();
    assert_eq!(missed.len(), 250);
    assert!(answer.items.is_sorted_by_key(|item| item["position"].as_str().map(str::to_owned)));
    Ok(())
}

pub async fn a_cursor_of_somebody_else_is_a_gap_and_shows_only_ones_own<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    recado.publish(&event(&["alice"], "for alice")).await?;
    recado.inbox_of("alice", 1).await?;
    let cursor = recado.connect("alice").await?.sync(None, &[]).await?.cursor;
    let answer = recado.connect("bob").await?.sync(Some(&cursor), &[]).await?;
    assert_eq!((answer.verdict.as_str(), answer.items.len()), ("gap", 0));
    Ok(())
}

pub async fn every_device_and_every_tab_gets_it<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    let mut phone = recado.live("alice").await?;
    let token = recado.token("alice")?;
    let mut tab = recado.connect_with(&token, true).await?;
    let mut other_tab = recado.connect_with(&token, true).await?;
    tab.sync(None, &[]).await?;
    other_tab.sync(None, &[]).await?;
    recado.publish(&event(&["alice"], "everywhere")).await?;
    for client in [&mut phone, &mut tab, &mut other_tab] {
        assert_eq!(titles(&client.live_items(1).await?), ["everywhere"]);
    }
    Ok(())
}

pub async fn a_hundred_recipients_each_get_their_own<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    let users: Vec<String> = (0..100).map(|n| format!("user {n} #%")).collect();
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let mut last = recado.live(names[99]).await?;
    recado.publish(&event(&names, "all of you")).await?;
    last.live_items(1).await?;
    for user in [names[0], names[50], names[99]] {
        assert_eq!(recado.inbox_of(user, 1).await?.len(), 1);
    }
    Ok(())
}

pub async fn a_notification_id_of_the_answer_is_the_one_the_design_computes<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    let published = event(&["alice"], "named");
    let id = published["id"].as_str().context("id")?;
    assert_eq!(recado.publish(&published).await?, NotificationId::of("/tests", id).to_string());
    Ok(())
}
