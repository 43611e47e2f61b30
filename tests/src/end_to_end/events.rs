//! What becomes of an event that is published twice, in a batch, or too late.

use anyhow::Context;
use reqwest::StatusCode;
use serde_json::json;

use crate::harness::{Deployment, Tested, event, ids, titles};

pub async fn an_event_published_twice_is_shown_once_and_answered_the_same<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    let mut alice = recado.live("alice").await?;
    let twice = event(&["alice"], "once");
    let first = recado.post_event(twice.to_string()).await?;
    let items = alice.live_items(1).await?;
    alice.sync(None, &ids(&items)).await?;
    assert_eq!(recado.post_event(twice.to_string()).await?, first);
    // An event behind it: however queues order the two, the inbox holds each once.
    recado.publish(&event(&["alice"], "marker")).await?;
    assert_eq!(recado.inbox_of("alice", 2).await?.len(), 2);
    Ok(())
}

pub async fn one_batch_answers_for_each_event_and_an_invalid_one_stops_no_other<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    let batch = [event(&["alice"], "good"), json!({ "specversion": "1.0" }), event(&[], "to nobody"), event(&["bob"], "good too")];
    let (status, answer) = recado.post_batch(&batch).await?;
    assert_eq!(status, StatusCode::MULTI_STATUS);
    let statuses: Vec<_> = answer["results"].as_array().context("results")?.iter().map(|result| result["status"].clone()).collect();
    assert_eq!(statuses, ["accepted", "invalid", "invalid", "accepted"]);
    assert_eq!(answer["results"][2]["violations"][0]["field"], "data.recipients");
    recado.inbox_of("alice", 1).await?;
    recado.inbox_of("bob", 1).await?;
    Ok(())
}

pub async fn an_event_that_has_expired_is_shown_to_nobody<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    let mut expired = event(&["alice"], "too late");
    expired["data"]["expires_at"] = json!("2020-01-01T00:00:00Z");
    recado.publish(&expired).await?;
    recado.publish(&event(&["alice"], "in time")).await?;
    assert_eq!(titles(&recado.inbox_of("alice", 1).await?), ["in time"]);
    Ok(())
}
