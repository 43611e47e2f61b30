//! Many sockets, clients that do not read, and everybody back at once: what `cargo xtask bench` measures, small, and judged.

#![expect(clippy::print_stdout, reason = "what ran, and what it measured, is read by people")]

use std::time::Duration;

use anyhow::ensure;
use recado_tests::harness::{DEADLINE, Folder, Recado, Tested};
use recado_tests::load::{Crowd, SoakPlan, at, batch, beside_stuck_clients, resident_mib, soak};

const CROWD: usize = 500;

/// Publishes one event for each member.
async fn one_each(recado: &Recado, run: &str) -> Tested {
    for from in (0..CROWD).step_by(100) {
        recado.publish_batch(&batch(run, CROWD, from, 100)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_idle_sockets_cost_little_and_each_gets_what_is_for_it() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let before = resident_mib(&recado)?;
    let mut crowd = Crowd::of(CROWD);
    crowd.send_to(Some(&recado));
    crowd.until(CROWD, 0, DEADLINE).await?;
    let each = (resident_mib(&recado)? - before) * 1024.0 / CROWD as f64;
    println!("{each:.1} KiB a socket");
    // Not optimised, with little to share the costs of the process; in release it is a fraction.
    ensure!(each < 120.0, "{each} KiB a socket");
    one_each(&recado, "once").await?;
    crowd.until(CROWD, CROWD, DEADLINE).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_comes_back_at_once_after_a_kill_and_gets_what_they_missed() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let mut crowd = Crowd::of(CROWD);
    crowd.send_to(Some(&recado));
    crowd.until(CROWD, 0, DEADLINE).await?;
    one_each(&recado, "before").await?;
    crowd.until(CROWD, CROWD, DEADLINE).await?;
    crowd.send_to(None);
    recado.kill().await?;
    let recado = folder.up(&[]).await?;
    one_each(&recado, "meanwhile").await?;
    crowd.send_to(Some(&recado));
    let took = crowd.until(CROWD, 2 * CROWD, DEADLINE).await?;
    println!("all were back after {took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_does_not_slow_the_others_and_is_told_to_come_back() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let stuck = beside_stuck_clients(&recado, 20, 1, (400.0, 14.0), 5.0).await?;
    let (alone, beside) = (at(&stuck.alone, 0.99), at(&stuck.beside, 0.99));
    println!("p99 alone {alone:.1} ms, beside it {beside:.1} ms; closed: {:?}", stuck.closed);
    // Waiting for it would be 10 s. The floor is for a machine that does other things meanwhile.
    ensure!(beside < 4.0 * alone.max(150.0), "p99 was {alone} ms, and is {beside} ms beside a client that does not read");
    let (code, _, after) = &stuck.closed[0];
    // 4008: it connects again and resumes (docs/protocol.md).
    ensure!(*code == 4008 && *after >= Duration::from_secs(10), "{:?}", stuck.closed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_flat_while_events_pass_and_clients_come_and_go() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let warm = SoakPlan { users: 20, events: 2_000, connections: 50, sample_every: Duration::from_millis(100) };
    let soaked = soak(&recado, warm).await?;
    println!("{soaked:?}");
    // An hour's worth is for the bench; this finds what is kept of every connection or event.
    ensure!(soaked.second_half.over_all < 24.0, "{soaked:?}");
    Ok(())
}
