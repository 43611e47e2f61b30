//! What a disk may do to a folder: it is full, it changes bytes, it loses the end of the log. Recado goes on, or says what to do.

#![expect(clippy::print_stdout, reason = "what ran, and what it measured, is read by people")]

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use recado_tests::harness::{Endpoints, Folder, Recado, Tested, event, eventually, ids};
use recado_tests::torture::disk::{SmallDisk, lift_the_limit, up_with_small_files};
use recado_tests::torture::log::Log;
use reqwest::StatusCode;
use serde_json::Value;

const USERS: [&str; 4] = ["alice", "bob", "carla", "dora"];

/// Events in requests of this many.
fn batch(count: usize) -> Vec<Value> {
    (0..count).map(|n| event(&[USERS[n % USERS.len()]], &"A plan ".repeat(40))).collect()
}

/// Publishes events one request each, all of which must be accepted; answers their notification ids.
async fn accept(recado: &Endpoints, events: &[Value]) -> anyhow::Result<BTreeSet<String>> {
    let mut accepted = BTreeSet::new();
    for event in events {
        accepted.insert(recado.publish(event).await?);
    }
    Ok(accepted)
}

/// What is in the inboxes, each entry once.
async fn stored(recado: &Endpoints) -> anyhow::Result<BTreeSet<String>> {
    let mut stored = BTreeSet::new();
    for user in USERS {
        let inbox = ids(&recado.inbox(user).await?);
        let before = stored.len();
        stored.extend(inbox.iter().cloned());
        ensure!(stored.len() == before + inbox.len(), "{user} has an entry twice");
    }
    Ok(stored)
}

/// Everything accepted comes to an inbox.
async fn all_arrive(recado: &Endpoints, accepted: &BTreeSet<String>) -> Tested {
    let lacking = eventually("everything accepted is in an inbox", async || {
        let stored = stored(recado).await?;
        Ok(accepted.is_subset(&stored).then_some(()))
    });
    lacking.await.with_context(|| format!("of {} accepted", accepted.len()))
}

async fn readiness(recado: &Endpoints) -> anyhow::Result<(StatusCode, String)> {
    let answer = recado.http.get(format!("{}/readyz", recado.url)).send().await?;
    Ok((answer.status(), answer.text().await?))
}

/// Publishes until the disk is full; answers what was accepted, and the first refusal.
async fn fill(recado: &Endpoints) -> anyhow::Result<(BTreeSet<String>, Value)> {
    let mut accepted = BTreeSet::new();
    for _ in 0..2_000 {
        let (status, answer) = recado.post_batch(&batch(50)).await?;
        if status != StatusCode::ACCEPTED {
            ensure!(status == StatusCode::MULTI_STATUS, "{status}: {answer}");
            return Ok((accepted, answer));
        }
        let results = answer["results"].as_array().context("results")?;
        accepted.extend(results.iter().filter_map(|result| result["notification_id"].as_str().map(str::to_owned)));
    }
    anyhow::bail!("the disk does not fill")
}

/// A full disk refuses publishes, and says so, until there is space again: to the publisher, to whoever asks for
/// readiness, and, where it is started then, to whoever starts it.
async fn refuses_until_there_is_space(
    folder: &Folder,
    recado: Recado,
    says: &str,
    make_space: impl AsyncFnOnce(&Recado) -> Tested,
) -> Tested {
    let mut listening = recado.live("alice").await?;
    let (mut accepted, refusal) = fill(&recado).await?;
    ensure!(accepted.len() >= 100, "only {} were accepted before", accepted.len());
    let first = &refusal["results"][0];
    assert_eq!((&first["status"], &first["retry"]), (&"failed".into(), &true.into()), "{refusal}");
    assert!(first["reason"].as_str().is_some_and(|reason| reason.contains("not stored; publish it again")), "{refusal}");
    // The last free bytes may still take a small write.
    eventually("a single event is refused", async || {
        let one = recado.post_events("application/cloudevents+json", event(&["alice"], "One more").to_string()).await?;
        if one.status() == StatusCode::ACCEPTED {
            let answer: Value = one.json().await?;
            accepted.extend(answer["results"][0]["notification_id"].as_str().map(str::to_owned));
            return Ok(None);
        }
        assert!(one.status() == StatusCode::SERVICE_UNAVAILABLE && one.headers().contains_key("retry-after"), "{one:?}");
        Ok(Some(()))
    })
    .await?;
    let (status, reasons) = eventually("it is not ready", async || {
        let (status, reasons) = readiness(&recado).await?;
        Ok((status != StatusCode::OK).then_some((status, reasons)))
    })
    .await?;
    assert!(status == StatusCode::SERVICE_UNAVAILABLE && reasons.contains(says), "{status}: {reasons}");
    // What is there can still be read.
    assert!(stored(&recado).await?.is_subset(&accepted));

    make_space(&recado).await?;
    eventually("it is ready", async || Ok((readiness(&recado).await?.0 == StatusCode::OK).then_some(()))).await?;
    let later = accept(&recado, &batch(8)).await?;
    all_arrive(&recado, &later).await?;
    listening.sync(None, &[]).await?;
    accepted.extend(later);
    // What could not even be given back comes when its lease of a minute ends, or with a start, at once.
    recado.kill().await?;
    let recado = folder.up(&[]).await?;
    all_arrive(&recado, &accepted).await?;
    assert_eq!(stored(&recado).await?, accepted);
    recado.kill().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_publishes_loses_nothing_and_recovers() -> Tested {
    let folder = Folder::new()?;
    let Some(disk) = SmallDisk::mount(&folder, 6 * 1024).await? else {
        println!("not run: this user may not mount a tmpfs; the test with a limit on the size of files ran instead");
        return Ok(());
    };
    println!("ran on a tmpfs of 6 MiB");
    let recado = folder.up(&[]).await?;
    let says = "the disk of the data folder is full; free some space";
    refuses_until_there_is_space(&folder, recado, says, async |_: &Recado| disk.resize(64 * 1024).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_may_not_grow_refuse_publishes_lose_nothing_and_recover() -> Tested {
    let folder = Folder::new()?;
    let recado = up_with_small_files(&folder, 4 * 1024 * 1024).await?;
    refuses_until_there_is_space(&folder, recado, "the data folder cannot be read or written", lift_the_limit).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_full_disk_says_so_and_with_space_again_nothing_is_lost() -> Tested {
    let folder = Folder::new()?;
    let Some(disk) = SmallDisk::mount(&folder, 6 * 1024).await? else {
        println!("not run: this user may not mount a tmpfs");
        return Ok(());
    };
    let recado = folder.up(&[]).await?;
    let (mut accepted, _) = fill(&recado).await?;
    recado.kill().await?;
    // Not a byte is left for the index of the log, nor for anything else.
    let rest = folder.data().join("rest");
    let filled = std::fs::File::create(&rest).and_then(|mut file| std::io::copy(&mut std::io::repeat(1), &mut file));
    assert!(filled.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull));
    // The log may have room within, left by what was not committed: then it starts, and fills that. With room for no more than opening it,
    // the first write says so.
    match folder.up_logged().await {
        Ok(recado) => {
            accepted.extend(fill(&recado).await?.0);
            recado.kill().await?;
        }
        Err(_) => {
            let said = folder.logged()?;
            let not_opened = said.contains("recado.db does not open") && said.contains("check that the disk has space");
            let not_written =
                said.contains("recado: the connections of the last run cannot be forgotten") && said.contains("free some space");
            assert!(not_opened || not_written, "{said}");
        }
    }
    std::fs::remove_file(rest)?;
    disk.resize(64 * 1024).await?;
    let recado = folder.up(&[]).await?;
    all_arrive(&recado, &accepted).await?;
    recado.kill().await
}

/// How a disk damages the end of a log.
enum Damage {
    /// A byte in the middle of what was written since, whole commits behind it.
    InTheMiddle,
    /// A byte of the last frame.
    InTheLastFrame,
    /// The last frames are not there.
    Cut,
}

/// Bytes that were synchronised and are gone are the loss of a disk, and what only they held is gone with them. What is
/// promised: all that was written before is there, the start needs nobody, and publishing again completes it, once.
async fn what_was_written_before_the_damage_is_there(damage: Damage) -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up_logged().await?;
    let before = accept(&recado, &batch(40)).await?;
    all_arrive(&recado, &before).await?;
    let mark = Log::of(&folder.data())?.context("a log")?;
    let later = batch(40);
    let accepted_later = accept(&recado, &later).await?;
    recado.kill().await?;

    let mut log = Log::of(&folder.data())?.context("a log")?;
    ensure!(log.salts() == mark.salts() && log.committed() > mark.committed() + 10, "the log was begun anew in between");
    let commits = log.commits_from(mark.committed());
    let middle = commits[commits.len() / 2];
    match damage {
        Damage::InTheMiddle => log.rot(middle)?,
        Damage::InTheLastFrame => log.rot(log.committed() - 1)?,
        Damage::Cut => log.cut(middle)?,
    }

    let started = std::time::Instant::now();
    let recado = folder.up_logged().await?;
    assert!(started.elapsed().as_secs() < 20);
    all_arrive(&recado, &before).await?;
    let all: BTreeSet<_> = before.union(&accepted_later).cloned().collect();
    assert!(stored(&recado).await?.is_subset(&all));
    let said = folder.logged()?;
    let copies = std::fs::read_dir(folder.data())?
        .filter(|file| file.as_ref().is_ok_and(|file| file.file_name().to_string_lossy().contains("-wal-damaged-")));
    match damage {
        Damage::InTheMiddle => {
            assert!(said.contains("commits behind the damage are lost") && said.contains("Publish again, with the same ids"), "{said}");
            assert_eq!(copies.count(), 1);
        }
        // What looks like the end of the writing cannot be told from it.
        Damage::InTheLastFrame | Damage::Cut => assert_eq!(copies.count(), 0),
    }
    assert_eq!(accept(&recado, &later).await?, accepted_later);
    all_arrive(&recado, &all).await?;
    assert_eq!(stored(&recado).await?, all);
    let check = folder.run(&["check"]).await?;
    assert_eq!(check.code, Some(0), "{check:?}");
    recado.kill().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_byte_in_the_log_is_said_and_what_was_before_it_is_there() -> Tested {
    what_was_written_before_the_damage_is_there(Damage::InTheMiddle).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_byte_in_the_last_frame_leaves_what_was_before_it() -> Tested {
    what_was_written_before_the_damage_is_there(Damage::InTheLastFrame).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_end_leaves_what_was_before_it() -> Tested {
    what_was_written_before_the_damage_is_there(Damage::Cut).await
}

/// Overwrites pages in the middle of the database.
fn damage_the_database(folder: &Folder) -> Tested {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(folder.data().join("recado.db"))?;
    let pages = file.metadata()?.len() / 4096;
    ensure!(pages > 50, "only {pages} pages");
    for page in pages / 3..pages / 2 {
        file.write_all_at(&[0xa5; 4096], page * 4096)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_found_after_a_crash_and_by_whoever_asks_and_says_what_to_do() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let mut accepted = BTreeSet::new();
    for _ in 0..10 {
        accepted.extend(accept(&recado, &batch(40)).await?);
    }
    all_arrive(&recado, &accepted).await?;
    let whole = folder.run(&["check"]).await?;
    assert!(whole.code == Some(0) && whole.out.contains("is whole"), "{whole:?}");
    // Stopped and started, so that the pages are in the database; killed, so that a log is left.
    recado.terminate().await?;
    recado.ended().await?;
    let recado = folder.up(&[]).await?;
    accept(&recado, &batch(1)).await?;
    recado.kill().await?;
    damage_the_database(&folder)?;

    let refused = folder.refused().await?;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let file = folder.data().join("recado.db");
    for part in [&*format!("{} is damaged (", file.display()), "restore a backup", "`recado check`", ".recover"] {
        assert!(refused.err.contains(part), "`{part}` is missing: {}", refused.err);
    }
    let check = folder.run(&["check"]).await?;
    assert!(check.code == Some(1) && !check.out.trim().is_empty() && check.err.contains("restore a backup"), "{check:?}");
    let check = folder.run(&["--json", "check"]).await?;
    let found: Value = serde_json::from_str(check.out.trim())?;
    assert!(found["whole"] == false && found["found"].as_array().is_some_and(|found| !found.is_empty()), "{found}");
    Ok(())
}
