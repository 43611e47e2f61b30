//! What is true of the `recado` process and its folder alone: it says how it is, refuses what is unsafe, and works as
//! its own operator's command.

use anyhow::Context;
use recado_tests::harness::{Folder, Tested, event};
use reqwest::StatusCode;
use serde_json::{Value, json};

#[tokio::test]
async fn the_process_says_how_it_is() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let get = async |path: &str| anyhow::Ok(recado.http.get(format!("{}{path}", recado.url)).send().await?);
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
async fn the_page_gets_a_token_for_whoever_it_asks_for() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let answer = recado.http.post(format!("{}/dev/token", recado.url)).json(&json!({ "user": "alice" })).send().await?;
    let answer: Value = answer.error_for_status()?.json().await?;
    let mut alice = recado.connect_with(answer["token"].as_str().context("token")?, true).await?;
    alice.sync(None, &[]).await?;
    Ok(())
}

#[tokio::test]
async fn the_token_command_signs_for_the_server_on_its_folder() -> Tested {
    let folder = Folder::new()?;
    let token = folder.run(&["token", "alice"]).await?;
    let recado = folder.up(&[]).await?;
    recado.connect_with(token.out.trim(), true).await?.sync(None, &[]).await?;
    let ws = recado.ready()["ws"].as_str().context("ws")?;
    recado.publish(&event(&["alice"], "by name")).await?;
    let listened = folder.run(&["listen", "alice", "--ws", ws, "--count", "1"]).await?;
    assert!(listened.code == Some(0) && listened.out.contains("by name"), "{listened:?}");
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
