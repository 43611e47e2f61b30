//! Bob, who has an account, and wants what is alice's.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use recado_domain::ids::{TenantId, UserId};
use recado_domain::ports::Clock;
use recado_runtime::auth::sign;
use recado_runtime::system::SystemClock;
use recado_tests::harness::{Endpoints, Issuer, Tested, event, ids, titles};
use serde_json::{Value, json};

use super::problems::is_problem;
use super::secrets::Secrets;

/// Alice gets three notifications, and reads one; answers all she has, the newest first.
async fn alices(at: &Endpoints, secrets: &Secrets) -> anyhow::Result<Vec<Value>> {
    let had = at.inbox("alice").await?.len();
    for title in ["alices first secret", "alices second secret", "alices third secret"] {
        secrets.keep(title);
        at.publish(&event(&["alice"], title)).await?;
    }
    let items = at.inbox_of("alice", had + 3).await?;
    at.post("alice", "/inbox/read", &json!({ "ids": [items[0]["id"]] })).await?;
    at.inbox("alice").await
}

fn token_of(at: &Endpoints, secrets: &Secrets, user: &str) -> anyhow::Result<String> {
    Ok(secrets.keep(at.token(user)?))
}

fn token_of_tenant(at: &Endpoints, secrets: &Secrets, tenant: &str) -> anyhow::Result<String> {
    let (user, tenant, lasting, now) = (UserId::new("alice")?, TenantId::new(tenant)?, Duration::from_secs(60), SystemClock.now());
    Ok(secrets.keep(match &at.issuer {
        Issuer::Development(key) => key.mint(&user, &tenant, lasting, now),
        Issuer::Secret(secret) => sign(secret.as_bytes(), &user, &tenant, lasting, now)?,
        Issuer::Elsewhere => bail!("nobody here signs for this deployment"),
    }))
}

pub(crate) async fn another_users_ids_change_nothing_over_a_socket(at: &Endpoints, secrets: &Secrets) -> Tested {
    let before = alices(at, secrets).await?;
    let (ids, highest) = (ids(&before), before[0]["position"].clone());
    let mut bob = at.live("bob").await?;
    let frames = [
        json!({ "type": "ack", "ids": ids }),
        json!({ "type": "read", "ids": ids }),
        json!({ "type": "archive", "ids": ids }),
        json!({ "type": "read_all", "up_to": highest }),
        json!({ "type": "read", "ids": ids, "user": "alice", "tenant": "default", "recipient": { "tenant": "default", "user": "alice" } }),
        json!({ "type": "archive", "ids": ids, "sub": "alice", "token": token_of(at, secrets, "alice")? }),
        json!({ "type": "sync", "request": "1", "ack": ids, "user": "alice", "recipient": "alice" }),
        json!({ "type": "sync", "request": "2", "client": "alice", "connection": "alice" }),
    ];
    for frame in &frames {
        bob.send(frame).await?;
    }
    for frame in bob.drained().await? {
        ensure!(frame["items"].as_array().is_none_or(Vec::is_empty), "bob was shown {frame}");
    }
    ensure!(at.inbox("alice").await? == before, "alice's inbox changed");
    // What bob acknowledged is still pending for her.
    let shown = at.connect("alice").await?.sync(None, &[]).await?;
    ensure!(shown.items.len() == before.len(), "{:?}", shown.items);
    Ok(())
}

pub(crate) async fn another_users_ids_change_nothing_over_http(at: &Endpoints, secrets: &Secrets) -> Tested {
    let before = alices(at, secrets).await?;
    let (ids, highest) = (ids(&before), before[0]["position"].clone());
    for path in ["/inbox/read", "/inbox/archive", "/inbox/read?user=alice", "/inbox/archive?sub=alice&tenant=default"] {
        let request = at.http.post(format!("{}{path}", at.url)).bearer_auth(token_of(at, secrets, "bob")?);
        let request = request.header("x-user", "alice").header("x-forwarded-user", "alice");
        let answer: Value = request.json(&json!({ "ids": ids, "user": "alice" })).send().await?.error_for_status()?.json().await?;
        ensure!(answer == json!({ "ids": [] }), "{path}: {answer}");
    }
    at.post("bob", "/inbox/read-all", &json!({ "up_to": highest, "user": "alice" })).await?;
    let listed = at.get("bob", "/inbox?user=alice&recipient=alice&tenant=default").await?;
    ensure!(listed["items"] == json!([]), "{listed}");
    ensure!(at.inbox("alice").await? == before, "alice's inbox changed");
    Ok(())
}

pub(crate) async fn the_same_name_in_another_tenant_is_somebody_else(at: &Endpoints, secrets: &Secrets) -> Tested {
    let before = alices(at, secrets).await?;
    for tenant in ["acme", "DEFAULT", "default ", "default#alice", "default%23alice", "%64efault", "..", "*"] {
        let token = token_of_tenant(at, secrets, tenant)?;
        let shown = at.connect_with(&token, true).await?.sync(None, &[]).await?;
        ensure!(shown.items.is_empty(), "{tenant}: {:?}", shown.items);
        let request = at.http.post(format!("{}/inbox/archive", at.url)).bearer_auth(&token);
        let answer: Value = request.json(&json!({ "ids": ids(&before) })).send().await?.error_for_status()?.json().await?;
        ensure!(answer == json!({ "ids": [] }), "{tenant}: {answer}");
    }
    for user in ["ALICE", "alice ", "alice#", "default#alice", "a%6Cice", "alice\u{301}", "%", "_lice"] {
        let shown = at.connect(user).await?.sync(None, &[]).await?;
        ensure!(shown.items.is_empty(), "{user}: {:?}", shown.items);
    }
    ensure!(at.inbox("alice").await? == before, "alice's inbox changed");
    Ok(())
}

pub(crate) async fn a_cursor_that_is_not_ones_own_or_was_tampered_with_is_a_gap(at: &Endpoints, secrets: &Secrets) -> Tested {
    alices(at, secrets).await?;
    at.publish(&event(&["bob"], "bobs own")).await?;
    at.inbox_of("bob", 1).await?;
    let hers = at.connect("alice").await?.sync(None, &[]).await?.cursor;
    let mut bob = at.live("bob").await?;
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
        let request = at.http.get(format!("{}/inbox?{query}", at.url)).bearer_auth(token_of(at, secrets, "bob")?);
        is_problem(request.send().await?, 422, "invalid-request", query, secrets).await?;
    }
    Ok(())
}

/// On an embedded server. `aws` has the same on a stack.
mod embedded {
    use recado_tests::harness::Tested;

    use crate::victim::Victim;

    #[tokio::test]
    async fn another_users_ids_change_nothing_over_a_socket() -> Tested {
        let victim = Victim::up(&[]).await?;
        super::another_users_ids_change_nothing_over_a_socket(&victim, victim.secrets()).await?;
        victim.has_kept_quiet().await
    }

    #[tokio::test]
    async fn another_users_ids_change_nothing_over_http() -> Tested {
        let victim = Victim::up(&[]).await?;
        super::another_users_ids_change_nothing_over_http(&victim, victim.secrets()).await?;
        victim.has_kept_quiet().await
    }

    #[tokio::test]
    async fn the_same_name_in_another_tenant_is_somebody_else() -> Tested {
        let victim = Victim::up(&[]).await?;
        super::the_same_name_in_another_tenant_is_somebody_else(&victim, victim.secrets()).await?;
        victim.has_kept_quiet().await
    }

    #[tokio::test]
    async fn a_cursor_that_is_not_ones_own_or_was_tampered_with_is_a_gap() -> Tested {
        let victim = Victim::up(&[]).await?;
        super::a_cursor_that_is_not_ones_own_or_was_tampered_with_is_a_gap(&victim, victim.secrets()).await?;
        victim.has_kept_quiet().await
    }
}
