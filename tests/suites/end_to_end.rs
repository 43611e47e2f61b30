//! The whole of Recado over real HTTP and real sockets, one process, port and folder a test.

use std::time::Duration;

use anyhow::{Context, ensure};
use recado_domain::event::Event;
use recado_domain::ids::{NotificationId, RecipientKey, TenantId, UserId};
use recado_domain::message::attributes_of;
use recado_domain::notification::NewEntry;
use recado_domain::ports::DeadLetters;
use recado_domain::ports::{EventBus, Inbox, Outgoing, Queue};
use recado_embedded::{QueueName, Store};
use recado_runtime::system::{SystemClock, SystemEntropy};
use recado_tests::harness::{Folder, Tested, event, eventually, ids, titles};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;

fn store(folder: &Folder) -> anyhow::Result<Store> {
    Ok(Store::open(&folder.data(), Arc::new(SystemClock), Arc::new(SystemEntropy))?)
}

#[tokio::test]
async fn an_event_reaches_a_connected_recipient_at_once() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let mut alice = recado.live("alice").await?;
    let id = recado.publish(&event(&["alice"], "You can now view Q3 plan")).await?;
    let items = alice.live_items(1).await?;
    assert_eq!(titles(&items), ["You can now view Q3 plan"]);
    assert_eq!(items[0]["id"], id.as_str());
    assert_eq!(items[0]["url"], "/publications/42");
    Ok(())
}

#[tokio::test]
async fn a_recipient_who_was_away_finds_it_when_connecting() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    recado.publish(&event(&["alice"], "while away")).await?;
    recado.inbox_of("alice", 1).await?;
    let answer = recado.connect("alice").await?.sync(None, &[]).await?;
    assert_eq!(titles(&answer.items), ["while away"]);
    assert_eq!(answer.verdict, "complete");
    Ok(())
}

#[tokio::test]
async fn a_plain_client_gets_what_is_pending_once_and_then_what_comes() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    recado.publish(&event(&["alice"], "pending")).await?;
    recado.inbox_of("alice", 1).await?;
    let mut plain = recado.connect_plain("alice").await?;
    assert_eq!(titles(&plain.live_items(1).await?), ["pending"]);
    recado.publish(&event(&["alice"], "live")).await?;
    assert_eq!(titles(&plain.live_items(1).await?), ["live"]);
    plain.leave().await?;
    // Both were settled by a post that arrived: only what came since is pending for the next connection.
    recado.publish(&event(&["alice"], "later")).await?;
    recado.inbox_of("alice", 3).await?;
    assert_eq!(titles(&recado.connect_plain("alice").await?.live_items(1).await?), ["later"]);
    Ok(())
}

#[tokio::test]
async fn a_client_that_returns_with_its_cursor_misses_nothing() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let mut alice = recado.connect("alice").await?;
    recado.publish(&event(&["alice"], "first")).await?;
    recado.inbox_of("alice", 1).await?;
    let before = alice.sync(None, &[]).await?;
    alice.leave().await?;
    for n in 0..250 {
        recado.publish(&event(&["alice"], &format!("missed {n}"))).await?;
    }
    recado.inbox_of("alice", 251).await?;
    let answer = recado.connect("alice").await?.sync(Some(&before.cursor), &ids(&before.items)).await?;
    assert_eq!(answer.verdict, "complete");
    // The overlap (W) may repeat what was seen; nothing since may be missing, and the order is that of positions.
    let missed: Vec<_> = titles(&answer.items).into_iter().filter(|title| title.starts_with("missed")).map(str::to_owned).collect();
    assert_eq!(missed.len(), 250);
    assert!(answer.items.is_sorted_by_key(|item| item["position"].as_str().map(str::to_owned)));
    Ok(())
}

#[tokio::test]
async fn a_cursor_of_somebody_else_is_a_gap_and_shows_only_ones_own() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    recado.publish(&event(&["alice"], "for alice")).await?;
    recado.inbox_of("alice", 1).await?;
    let cursor = recado.connect("alice").await?.sync(None, &[]).await?.cursor;
    let answer = recado.connect("bob").await?.sync(Some(&cursor), &[]).await?;
    assert_eq!((answer.verdict.as_str(), answer.items.len()), ("gap", 0));
    Ok(())
}

#[tokio::test]
async fn every_device_and_every_tab_gets_it() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let mut phone = recado.live("alice").await?;
    let token = recado.token("alice").await?;
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

#[tokio::test]
async fn what_one_device_reads_and_archives_shows_on_the_other() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
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

#[tokio::test]
async fn what_is_read_over_http_shows_on_the_socket() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
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

#[tokio::test]
async fn an_event_published_twice_is_shown_once_and_answered_the_same() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let mut alice = recado.live("alice").await?;
    let twice = event(&["alice"], "once");
    let first = recado.post_event(twice.to_string()).await?;
    let items = alice.live_items(1).await?;
    let id = ids(&items);
    alice.sync(None, &id).await?;
    assert_eq!(recado.post_event(twice.to_string()).await?, first);
    // An event behind it on the same queue: when that is shown, the repeat was handled.
    recado.publish(&event(&["alice"], "marker")).await?;
    assert_eq!(recado.inbox_of("alice", 2).await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn one_batch_answers_for_each_event_and_an_invalid_one_stops_no_other() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let batch = json!([event(&["alice"], "good"), { "specversion": "1.0" }, event(&[], "to nobody"), event(&["bob"], "good too")]);
    let request = recado.http().post(format!("{}/events", recado.url())).header("content-type", "application/cloudevents-batch+json");
    let answer = request.body(batch.to_string()).send().await?;
    assert_eq!(answer.status(), StatusCode::MULTI_STATUS);
    let answer: Value = answer.json().await?;
    let statuses: Vec<_> = answer["results"].as_array().context("results")?.iter().map(|result| result["status"].clone()).collect();
    assert_eq!(statuses, ["accepted", "invalid", "invalid", "accepted"]);
    assert_eq!(answer["results"][2]["violations"][0]["field"], "data.recipients");
    recado.inbox_of("alice", 1).await?;
    recado.inbox_of("bob", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_hundred_recipients_each_get_their_own() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
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

#[tokio::test]
async fn an_event_that_has_expired_is_shown_to_nobody() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let mut expired = event(&["alice"], "too late");
    expired["data"]["expires_at"] = json!("2020-01-01T00:00:00Z");
    recado.publish(&expired).await?;
    recado.publish(&event(&["alice"], "in time")).await?;
    assert_eq!(titles(&recado.inbox_of("alice", 1).await?), ["in time"]);
    Ok(())
}

#[tokio::test]
async fn a_socket_is_closed_when_its_token_ends() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&["--token-leeway", "0s"]).await?;
    let token = folder.run(&["token", "alice", "--ttl", "2s"]).await?;
    let mut alice = recado.connect_with(token.out.trim(), true).await?;
    assert_eq!(alice.closed().await?, (4401, "token expired".to_owned()));
    let error = recado.connect_with(token.out.trim(), true).await.err().context("an expired token was accepted")?;
    assert!(error.to_string().contains("401"), "{error}");
    Ok(())
}

#[tokio::test]
async fn without_a_valid_token_there_is_neither_socket_nor_inbox() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    for token in ["", "x.y.z", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0."] {
        let error = recado.connect_with(token, true).await.err().context("it was accepted")?;
        assert!(error.to_string().contains("401"), "{error}");
        let answer = recado.http().get(format!("{}/inbox", recado.url())).bearer_auth(token).send().await?;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
    Ok(())
}

#[tokio::test]
async fn an_oversized_frame_closes_that_socket_and_no_other() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let mut alice = recado.live("alice").await?;
    let mut bob = recado.live("bob").await?;
    alice.send_text("x".repeat(200 * 1024)).await?;
    assert_eq!(alice.closed().await?.0, 1009);
    recado.publish(&event(&["bob"], "still here")).await?;
    assert_eq!(titles(&bob.live_items(1).await?), ["still here"]);
    Ok(())
}

#[tokio::test]
async fn a_frame_that_makes_no_sense_is_answered_and_the_socket_stays() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let mut alice = recado.live("alice").await?;
    for (frame, code) in [("{", "invalid_frame"), (r#"{"type":"dance"}"#, "unknown_type"), (r#"{"type":"read","ids":7}"#, "invalid_frame")]
    {
        alice.send_text(frame.to_owned()).await?;
        assert_eq!(alice.next("error").await?["code"], code);
    }
    alice.sync(None, &[]).await?;
    Ok(())
}

#[tokio::test]
async fn one_connection_above_the_cap_closes_the_oldest() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let mut oldest = recado.live("alice").await?;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(recado.live("alice").await?);
    }
    assert_eq!(oldest.closed().await?, (4409, "replaced".to_owned()));
    recado.publish(&event(&["alice"], "to the rest")).await?;
    for client in &mut others {
        client.live_items(1).await?;
    }
    Ok(())
}

#[tokio::test]
async fn mail_goes_to_those_who_want_it_once_with_values_escaped() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let mut wanted = event(&["alice", "bob"], "<b>Q3</b> & {{ 7*7 }}");
    wanted["data"]["channels"] = json!(["inbox", "email"]);
    recado.publish(&wanted).await?;
    recado.publish(&wanted).await?;
    recado.publish(&event(&["carla"], "inbox only")).await?;
    let mut marker = event(&["dora"], "marker");
    marker["data"]["channels"] = json!(["email"]);
    recado.publish(&marker).await?;
    let mails = recado.mails(3).await?;
    let mut to: Vec<_> = mails.iter().filter_map(|mail| mail["to"].as_str()).collect();
    to.sort_unstable();
    assert_eq!(to, ["alice@example.com", "bob@example.com", "dora@example.com"]);
    let alice = mails.iter().find(|mail| mail["to"] == "alice@example.com").context("alice's mail")?;
    assert_eq!(alice["subject"], "<b>Q3</b> & {{ 7*7 }}");
    let html = recado.http().get(format!("{}/mail/{}/html", recado.url(), alice["id"])).send().await?.text().await?;
    assert!(html.contains("&lt;b&gt;Q3") && !html.contains("<b>Q3"), "{html}");
    recado.inbox_of("alice", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_redelivery_after_a_crash_between_append_and_ack_shows_it_once() -> Tested {
    let folder = Folder::new()?;
    {
        // A dispatcher that got as far as the append, and died.
        let store = store(&folder)?;
        let published = Event::parse(event(&["alice"], "once").to_string().as_bytes())?;
        store.bus().publish(std::slice::from_ref(&published)).await.remove(0)?;
        let leased = store.inbox_queue().receive(1, Duration::ZERO, Duration::from_secs(1)).await?;
        ensure!(leased.len() == 1, "the message was not there");
        let recipient = RecipientKey::new(TenantId::default(), UserId::new("alice")?);
        let notification = Arc::new(published.notification(jiff::Timestamp::UNIX_EPOCH));
        store.inbox().append(&[NewEntry { recipient, notification }]).await.remove(0)?;
        store.close().await;
    }
    let recado = folder.up(&[]).await?;
    let mut alice = recado.connect("alice").await?;
    let answer = alice.sync(None, &[]).await?;
    assert_eq!(titles(&answer.items), ["once"]);
    // The redelivery may come before or behind that answer: either way what is behind it on the queue arrives, and
    // the inbox holds the entry once.
    recado.publish(&event(&["alice"], "behind it")).await?;
    assert_eq!(titles(&recado.inbox_of("alice", 2).await?), ["behind it", "once"]);
    Ok(())
}

#[tokio::test]
async fn a_poison_message_becomes_a_dead_letter_with_its_reason_and_blocks_nobody() -> Tested {
    let folder = Folder::new()?;
    {
        let store = store(&folder)?;
        let poison = Outgoing { body: "no event".to_owned(), attributes: Default::default(), delay: Duration::ZERO };
        store.inbox_queue().send(&[poison]).await.remove(0)?;
        store.close().await;
    }
    let recado = folder.up(&[]).await?;
    recado.publish(&event(&["alice"], "behind it")).await?;
    recado.inbox_of("alice", 1).await?;
    let letter = eventually("a dead letter", async || {
        let listed = folder.run(&["dead-letters", "list", "--json"]).await?;
        Ok(listed.out.lines().next().map(serde_json::from_str::<Value>).transpose()?)
    })
    .await?;
    assert_eq!(letter["body"], "no event");
    assert!(letter["reason"].as_str().is_some_and(|reason| reason.contains("not JSON")), "{letter}");
    let id = letter["id"].as_str().context("id")?;
    assert_eq!(folder.run(&["dead-letters", "redrive", id]).await?.code, Some(0));
    assert_eq!(folder.run(&["dead-letters", "redrive", "nobody"]).await?.code, Some(1));
    Ok(())
}

#[tokio::test]
async fn a_redriven_event_reaches_those_it_concerns() -> Tested {
    let folder = Folder::new()?;
    {
        let store = store(&folder)?;
        let published = Event::parse(event(&["alice"], "second chance").to_string().as_bytes())?;
        let message = Outgoing { body: published.to_json(), attributes: attributes_of(&published), delay: Duration::ZERO };
        let queue = store.inbox_queue();
        queue.send(&[message]).await.remove(0)?;
        let leased = queue.receive(1, Duration::ZERO, Duration::from_secs(60)).await?.remove(0);
        queue.reject(&[(leased, "given up by hand".to_owned())]).await.remove(0)?;
        ensure!(store.dead_letters(QueueName::Inbox).list(10).await?.len() == 1, "it is no dead letter");
        store.close().await;
    }
    let recado = folder.up(&[]).await?;
    let mut alice = recado.live("alice").await?;
    assert_eq!(folder.run(&["dead-letters", "redrive", "--all"]).await?.code, Some(0));
    assert_eq!(titles(&alice.live_items(1).await?), ["second chance"]);
    assert_eq!(folder.run(&["dead-letters", "list"]).await?.out.trim(), "No dead letters.");
    Ok(())
}

#[tokio::test]
async fn the_commands_publish_and_listen() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let ws = recado.ready()["ws"].as_str().context("ws")?.to_owned();
    let url = recado.url();
    let arguments = ["listen", "alice", "--ws", &ws, "--count", "3", "--json"];
    let listened = folder.run(&arguments);
    let published = async {
        let sent = folder.run(&["publish", "--to", "alice", "--title", "from the command", "--server", &url, "--json"]).await?;
        assert_eq!(sent.code, Some(0), "{}", sent.err);
        let accepted: Value = serde_json::from_str(sent.out.trim())?;
        assert_eq!(accepted["status"], "accepted");
        let lines = folder.data().with_extension("jsonl");
        std::fs::write(&lines, format!("{}\n\n{}\nnonsense\n", event(&["alice"], "line 1"), event(&["alice"], "line 2")))?;
        let sent = folder.run(&["publish", "--file", &lines.to_string_lossy(), "--server", &url]).await?;
        assert_eq!(sent.code, Some(1));
        assert!(sent.out.contains("2 accepted, 1 refused") && sent.err.contains("line 4"), "{sent:?}");
        anyhow::Ok(())
    };
    let (listened, published) = tokio::join!(listened, published);
    published?;
    let listened = listened?;
    assert_eq!(listened.code, Some(0), "{}", listened.err);
    for title in ["from the command", "line 1", "line 2"] {
        assert!(listened.out.contains(title), "{title} is missing in {}", listened.out);
    }
    Ok(())
}

#[tokio::test]
async fn the_process_says_how_it_is() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let get = async |path: &str| anyhow::Ok(recado.http().get(format!("{}{path}", recado.url())).send().await?);
    assert_eq!(get("/healthz").await?.status(), StatusCode::OK);
    assert_eq!(get("/readyz").await?.status(), StatusCode::OK);
    assert!(get("/").await?.text().await?.contains("<title>Recado</title>"));
    recado.publish(&event(&["alice"], "counted")).await?;
    recado.inbox_of("alice", 1).await?;
    let metrics = get("/metrics").await?.text().await?;
    assert!(metrics.contains("recado_received_total{queue=\"inbox\"}"), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn anything_but_loopback_refuses_to_start_without_real_keys() -> Tested {
    let folder = Folder::new()?;
    let refused = folder.run(&["up", "--listen", "0.0.0.0:0"]).await?;
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.err.contains("--publish-key") && refused.err.contains("fix:"), "{}", refused.err);
    Ok(())
}

#[tokio::test]
async fn a_second_process_on_the_same_folder_refuses_to_start() -> Tested {
    let folder = Folder::new()?;
    let _first = folder.up(&[]).await?;
    let second = folder.run(&["up", "--listen", "127.0.0.1:0"]).await?;
    assert_eq!(second.code, Some(1), "{second:?}");
    Ok(())
}

#[tokio::test]
async fn a_notification_id_of_the_answer_is_the_one_the_design_computes() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let published = event(&["alice"], "named");
    let id = published["id"].as_str().context("id")?;
    assert_eq!(recado.publish(&published).await?, NotificationId::of("/tests", id).to_string());
    Ok(())
}
