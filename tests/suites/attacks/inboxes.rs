//! Bob, who has an account, and wants what is alice's.

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use recado_domain::ids::{TenantId, UserId};
use recado_domain::ports::Clock;
use recado_runtime::system::SystemClock;
use recado_tests::harness::{Client, Issuer, Tested, event, ids, titles};
use serde_json::{Value, json};

use super::victim::Victim;

/// Alice has three notifications, one of which she has read; answers them, the newest first.
async fn alices(victim: &Victim) -> anyhow::Result<Vec<Value>> {
    for title in ["alices first secret", "alices second secret", "alices third secret"] {
        victim.secret(title);
        victim.publish(&event(&["alice"], title)).await?;
    }
    let items = victim.inbox_of("alice", 3).await?;
    victim.post("alice", "/inbox/read", &json!({ "ids": [items[0]["id"]] })).await?;
    victim.inbox("alice").await
}

/// Waits until everything the client had sent was handled.
async fn handled(client: &mut Client) -> anyhow::Result<Vec<Value>> {
    client.drained().await
}

#[tokio::test]
async fn another_users_ids_change_nothing_over_a_socket() -> Tested {
    let victim = Victim::up(&[]).await?;
    let before = alices(&victim).await?;
    let (ids, highest) = (ids(&before), before[0]["position"].clone());
    let mut bob = victim.live("bob").await?;
    let frames = [
        json!({ "type": "ack", "ids": ids }),
        json!({ "type": "read", "ids": ids }),
        json!({ "type": "archive", "ids": ids }),
        json!({ "type": "read_all", "up_to": highest }),
        json!({ "type": "read", "ids": ids, "user": "alice", "tenant": "default", "recipient": { "tenant": "default", "user": "alice" } }),
        json!({ "type": "archive", "ids": ids, "sub": "alice", "token": victim.token_of("alice")? }),
        json!({ "type": "sync", "request": "1", "ack": ids, "user": "alice", "recipient": "alice" }),
        json!({ "type": "sync", "request": "2", "client": "alice", "connection": "alice" }),
    ];
    for frame in &frames {
        bob.send(frame).await?;
    }
    for frame in handled(&mut bob).await? {
        ensure!(frame["items"].as_array().is_none_or(Vec::is_empty), "bob was shown {frame}");
    }
    ensure!(victim.inbox("alice").await? == before, "alice's inbox changed");
    // What bob acknowledged is still pending for her.
    let shown = victim.connect("alice").await?.sync(None, &[]).await?;
    ensure!(shown.items.len() == 3, "{:?}", shown.items);
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn another_users_ids_change_nothing_over_http() -> Tested {
    let victim = Victim::up(&[]).await?;
    let before = alices(&victim).await?;
    let (ids, highest) = (ids(&before), before[0]["position"].clone());
    for path in ["/inbox/read", "/inbox/archive", "/inbox/read?user=alice", "/inbox/archive?sub=alice&tenant=default"] {
        let request = victim.http.post(format!("{}{path}", victim.url)).bearer_auth(victim.token_of("bob")?);
        let request = request.header("x-user", "alice").header("x-forwarded-user", "alice");
        let answer: Value = request.json(&json!({ "ids": ids, "user": "alice" })).send().await?.error_for_status()?.json().await?;
        ensure!(answer == json!({ "ids": [] }), "{path}: {answer}");
    }
    victim.post("bob", "/inbox/read-all", &json!({ "up_to": highest, "user": "alice" })).await?;
    let listed = victim.get("bob", "/inbox?user=alice&recipient=alice&tenant=default").await?;
    ensure!(listed["items"] == json!([]), "{listed}");
    ensure!(victim.inbox("alice").await? == before, "alice's inbox changed");
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn the_same_name_in_another_tenant_is_somebody_else() -> Tested {
    let victim = Victim::up(&[]).await?;
    let before = alices(&victim).await?;
    let Issuer::Development(key) = &victim.issuer else { anyhow::bail!("not in development") };
    for tenant in ["acme", "DEFAULT", "default ", "default#alice", "default%23alice", "%64efault", "..", "*"] {
        let token = key.mint(&UserId::new("alice")?, &TenantId::new(tenant)?, std::time::Duration::from_secs(60), SystemClock.now());
        let token = victim.secret(token);
        let shown = victim.connect_with(&token, true).await?.sync(None, &[]).await?;
        ensure!(shown.items.is_empty(), "{tenant}: {:?}", shown.items);
        let request = victim.http.post(format!("{}/inbox/archive", victim.url)).bearer_auth(&token);
        let answer: Value = request.json(&json!({ "ids": ids(&before) })).send().await?.error_for_status()?.json().await?;
        ensure!(answer == json!({ "ids": [] }), "{tenant}: {answer}");
    }
    for user in ["ALICE", "alice ", "alice#", "default#alice", "a%6Cice", "alice\u{301}", "%", "_lice"] {
        let shown = victim.connect(user).await?.sync(None, &[]).await?;
        ensure!(shown.items.is_empty(), "{user}: {:?}", shown.items);
    }
    ensure!(victim.inbox("alice").await? == before, "alice's inbox changed");
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn a_cursor_that_is_not_ones_own_or_was_tampered_with_is_a_gap() -> Tested {
    let victim = Victim::up(&[]).await?;
    alices(&victim).await?;
    victim.publish(&event(&["bob"], "bobs own")).await?;
    victim.inbox_of("bob", 1).await?;
    let hers = victim.connect("alice").await?.sync(None, &[]).await?.cursor;
    let mut bob = victim.live("bob").await?;
    let own = bob.sync(None, &[]).await?.cursor;
    let bytes = URL_SAFE_NO_PAD.decode(&own).context("a cursor is base64url")?;
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x80;
        URL_SAFE_NO_PAD.encode(&bytes)
    };
    let mut cursors =
        vec![hers, "A".repeat(own.len()), "/".repeat(own.len()), own[..own.len() - 4].to_owned(), format!("{own}AAAA"), "…".to_owned()];
    cursors.extend((0..bytes.len()).map(flipped));
    cursors.push("x".repeat(30_000));
    for cursor in cursors {
        let answer = bob.sync(Some(&cursor), &[]).await?;
        ensure!(answer.verdict == "gap", "{cursor:.60}: {}", answer.verdict);
        ensure!(titles(&answer.items) == ["bobs own"], "{cursor:.60}: {:?}", answer.items);
    }
    ensure!(bob.sync(Some(&own), &[]).await?.verdict == "complete");
    let pages = [
        "before=x",
        "before=01ARZ3NDEKTSV4RRFFQ69G5FA",
        "before=01ARZ3NDEKTSV4RRFFQ69G5FAV&before=01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "limit=0",
        "limit=101",
        "limit=-1",
        "filter=all",
    ];
    for query in pages {
        let request = victim.http.get(format!("{}/inbox?{query}", victim.url)).bearer_auth(victim.token_of("bob")?);
        victim.refuses(request.send().await?, 422, "invalid-request", query).await?;
    }
    victim.has_kept_quiet().await
}
