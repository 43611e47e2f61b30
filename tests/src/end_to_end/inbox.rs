//! What one device or the HTTP API does to an inbox shows everywhere.

use serde_json::json;

use crate::harness::{Deployment, Tested, event, titles};

pub async fn what_one_device_reads_and_archives_shows_on_the_other<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    let mut phone = recado.live("alice").await?;
    let mut laptop = recado.live("alice").await?;
    let first = recado.publish(&event(&["alice"], "one")).await?;
    let second = recado.publish(&event(&["alice"], "two")).await?;
    phone.live_items(2).await?;
    assert_eq!(recado.get("alice", "/inbox/unread-count").await?["count"], 2);
    phone.send(&json!({ "type": "read", "ids": [first] })).await?;
    assert_eq!(laptop.next("read").await?["ids"], json!([first]));
    phone.send(&json!({ "type": "archive", "ids": [second] })).await?;
    assert_eq!(laptop.next("archive").await?["ids"], json!([second]));
    assert_eq!(recado.get("alice", "/inbox/unread-count").await?["count"], 0);
    assert_eq!(titles(&recado.inbox("alice").await?), ["one"]);
    Ok(())
}

pub async fn what_is_read_over_http_shows_on_the_socket<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    let mut phone = recado.live("alice").await?;
    let id = recado.publish(&event(&["alice"], "one")).await?;
    let items = phone.live_items(1).await?;
    recado.post("alice", "/inbox/read", &json!({ "ids": [id] })).await?;
    assert_eq!(phone.next("read").await?["ids"], json!([id]));
    recado.publish(&event(&["alice"], "two")).await?;
    let up_to = phone.live_items(1).await?[0]["position"].clone();
    assert!(up_to.as_str() > items[0]["position"].as_str());
    recado.post("alice", "/inbox/read-all", &json!({ "up_to": up_to })).await?;
    assert!(phone.next("read").await?["up_to"].is_string());
    assert_eq!(recado.get("alice", "/inbox/unread-count").await?["count"], 0);
    Ok(())
}
