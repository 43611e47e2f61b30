//! Kills the server at moments spread over the whole of a run, does to its log what a death may do to it, and starts it
//! again.
//!
//! Nothing here takes back what was synchronised to the disk: none of it may lose anything.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::process::Command;

use super::Run;
use super::log::Log;
use crate::harness::{DEADLINE, Folder, Recado, Tested};

/// What happens around a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// SIGKILL, and nothing else.
    Kill,
    /// Stopped in the middle of whatever it did (SIGSTOP), and killed a moment later.
    Freeze,
    /// A frame was begun behind the last commit.
    TornFrame,
    /// The file had grown, and nothing was written there.
    ZeroTail,
    /// The index of the log is gone; SQLite makes it anew.
    NoIndex,
    /// Killed again while it starts.
    DuringStart,
    /// Killed while it stops.
    DuringStop,
}

impl Fault {
    const ALL: [Self; 7] = [Self::Kill, Self::Freeze, Self::TornFrame, Self::ZeroTail, Self::NoIndex, Self::DuringStart, Self::DuringStop];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::Freeze => "stopped in mid-write, then killed",
            Self::TornFrame => "killed, a torn frame at the end of the log",
            Self::ZeroTail => "killed, zeros at the end of the log",
            Self::NoIndex => "killed, the index of the log gone",
            Self::DuringStart => "killed, and again while it starts",
            Self::DuringStop => "killed while it stops",
        }
    }
}

/// Holds the server, as long as it lives.
pub(super) struct Killer<'a> {
    folder: &'a Folder,
    run: Arc<Run>,
    pub(super) recado: Recado,
    pub(super) faults: Vec<(&'static str, usize)>,
    pub(super) starts: Vec<Duration>,
}

async fn up(folder: &Folder, run: &Run) -> anyhow::Result<Recado> {
    let recado = folder.up(&[]).await?;
    run.server.send_replace(Some(Arc::new((*recado).clone())));
    Ok(recado)
}

async fn signal(pid: u32, name: &str) -> Tested {
    ensure!(Command::new("kill").args([name, &pid.to_string()]).status().await?.success(), "kill {name} failed");
    Ok(())
}

impl<'a> Killer<'a> {
    pub(super) async fn start(folder: &'a Folder, run: Arc<Run>) -> anyhow::Result<Self> {
        let recado = up(folder, &run).await?;
        Ok(Self { folder, run, recado, faults: Fault::ALL.map(|fault| (fault.name(), 0)).to_vec(), starts: Vec::new() })
    }

    /// Every kill of the plan.
    pub(super) async fn go_on(&mut self) -> Tested {
        let plan = self.run.plan;
        for kill in 0..plan.kills {
            self.until_accepted((kill + 1) * plan.events / (plan.kills + 1)).await?;
            tokio::time::sleep(self.run.millis(30)).await;
            // Each kind in turn, so that a short run has them all.
            let fault = Fault::ALL[kill % Fault::ALL.len()];
            self.kill(fault).await.with_context(|| format!("kill {}: {}", kill + 1, fault.name()))?;
        }
        Ok(())
    }

    async fn until_accepted(&self, count: usize) -> Tested {
        let deadline = Instant::now() + 2 * DEADLINE;
        while self.run.accepted.load(Ordering::Acquire) < count && !self.run.all_accepted() {
            if Instant::now() > deadline {
                bail!("publishing stands still: {} of {count} accepted", self.run.accepted.load(Ordering::Acquire));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn kill(&mut self, fault: Fault) -> Tested {
        let pid = self.recado.pid().context("the server ended by itself")?;
        self.run.server.send_replace(None);
        match fault {
            Fault::Freeze => {
                signal(pid, "-STOP").await?;
                tokio::time::sleep(self.run.millis(20)).await;
            }
            Fault::DuringStop => {
                signal(pid, "-TERM").await?;
                tokio::time::sleep(self.run.millis(150)).await;
            }
            _ => {}
        }
        self.recado.kill_now().await?;
        self.touch_the_log(fault)?;
        if fault == Fault::DuringStart {
            let mut starting = self.folder.command(&["up", "--listen", "127.0.0.1:0", "--log", "error"])?.stdout(Stdio::null()).spawn()?;
            tokio::time::sleep(self.run.millis(60)).await;
            starting.kill().await?;
        }
        let from = Instant::now();
        self.recado = up(self.folder, &self.run).await?;
        let took = from.elapsed();
        ensure!(took <= self.run.plan.start_within, "the start took {took:?}");
        self.starts.push(took);
        self.faults.iter_mut().filter(|(name, _)| *name == fault.name()).for_each(|(_, count)| *count += 1);
        Ok(())
    }

    fn touch_the_log(&self, fault: Fault) -> Tested {
        let data = self.folder.data();
        match (fault, Log::of(&data)?) {
            (Fault::TornFrame, Some(mut log)) => log.begin_a_frame(self.run.random(4096) as usize, self.run.random(u64::MAX)),
            (Fault::ZeroTail, Some(mut log)) => log.grow_by_zeros(1 + self.run.random(8) as usize),
            (Fault::NoIndex, _) => Ok(std::fs::remove_file(data.join("recado.db-shm"))?),
            _ => Ok(()),
        }
    }
}
