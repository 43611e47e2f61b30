//! The development key: a file in the data folder that only its owner reads, made when it is first needed.
//!
//! Whoever reads it can be any user of this machine's Recado; so it is used on loopback only, and only as long as no
//! other token key is configured.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use recado_runtime::auth::DevelopmentKey;

/// The file's name within the data folder.
pub const FILE: &str = "development.key";

/// Reads the key of this data folder, or makes it, folder included. Whoever comes second of two takes the first's.
///
/// # Errors
/// When the folder cannot be written, or the file holds no key.
pub fn load_or_create(data_dir: &Path) -> anyhow::Result<DevelopmentKey> {
    create_private_dir(data_dir)?;
    let file = data_dir.join(FILE);
    if !file.exists() {
        create(data_dir, &file).with_context(|| format!("cannot write {}", file.display()))?;
    }
    load(data_dir)
}

/// Reads the key of this data folder.
///
/// # Errors
/// When there is none, or the file holds no key.
pub fn load(data_dir: &Path) -> anyhow::Result<DevelopmentKey> {
    let file = data_dir.join(FILE);
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    DevelopmentKey::from_text(&text).with_context(|| file.display().to_string())
}

/// Makes a folder that only its owner enters; one that is there stays as it is.
///
/// # Errors
/// When it cannot be made.
pub fn create_private_dir(dir: &Path) -> anyhow::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).with_context(|| format!("cannot make the data folder {}; choose another with --data-dir", dir.display()))
}

/// Writes beside and links into place, so that nobody ever reads half a key.
fn create(data_dir: &Path, file: &Path) -> io::Result<()> {
    let beside = data_dir.join(format!("{FILE}.{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut new = options.open(&beside)?;
    new.write_all(format!("{}\n", DevelopmentKey::generate().to_text()).as_bytes())?;
    new.sync_all()?;
    let linked = fs::hard_link(&beside, file);
    fs::remove_file(&beside)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b");
        let key = load_or_create(&data).unwrap();
        assert_eq!(load_or_create(&data).unwrap(), key);
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        load_or_create(&data).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&data), mode(&data.join(FILE))), (0o700, 0o600));
    }

    #[test]
    fn a_file_that_is_no_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "nonsense").unwrap();
        let error = format!("{:#}", load_or_create(dir.path()).unwrap_err());
        assert!(error.contains(FILE) && !error.contains("nonsense"), "{error}");
    }
}
