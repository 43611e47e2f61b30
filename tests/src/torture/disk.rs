//! A disk that is full: a small file system of its own, or, where none may be mounted, a limit on the size of files.
//!
//! Must not know: what is written there.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::process::Command;

use crate::harness::{Folder, Recado, Tested};

async fn ran(program: &str, args: &[&str]) -> anyhow::Result<bool> {
    let status = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    Ok(status.with_context(|| format!("cannot run {program}"))?.success())
}

/// A file system in memory, mounted where a folder keeps its data. Unmounted when dropped.
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// One of so many KiB under the data of a folder, or none where this user may not mount.
    ///
    /// # Errors
    /// When there is no `mount`.
    pub async fn mount(folder: &Folder, kib: u32) -> anyhow::Result<Option<Self>> {
        let at = folder.data();
        std::fs::create_dir_all(&at)?;
        let mounted = ran("mount", &["-t", "tmpfs", "-o", &format!("size={kib}k"), "recado-test", path(&at)?]).await?;
        Ok(mounted.then_some(Self { at }))
    }

    /// Gives it another size.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn resize(&self, kib: u32) -> Tested {
        ensure!(ran("mount", &["-o", &format!("remount,size={kib}k"), path(&self.at)?]).await?, "cannot remount {}", self.at.display());
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that is killed just now may still hold it.
        let unmounted = std::process::Command::new("umount").arg("-l").arg(&self.at).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(), "{} stays mounted", self.at.display());
    }
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path of text")
}

/// Starts a server none of whose files may grow beyond so many bytes: what its disk says then is "file too large".
///
/// # Errors
/// When it does not start, or there is no `prlimit` (util-linux).
pub async fn up_with_small_files(folder: &Folder, bytes: u64) -> anyhow::Result<Recado> {
    let recado = folder.command(&[])?;
    let recado = path(Path::new(recado.as_std().get_program()))?.to_owned();
    // The soft limit alone, so that anybody may lift it. The signal that comes with the error ends a process that does not ignore it.
    folder.up_as(&["prlimit", &format!("--fsize={bytes}:"), "env", "--ignore-signal=XFSZ", &recado]).await
}

/// Lets the files of a server grow.
///
/// # Errors
/// When that fails.
pub async fn lift_the_limit(recado: &Recado) -> Tested {
    let pid = recado.pid().context("it ended")?.to_string();
    ensure!(ran("prlimit", &["--pid", &pid, "--fsize=unlimited:"]).await?, "prlimit failed");
    Ok(())
}
