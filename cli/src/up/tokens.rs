//! From settings to the keys that verify tokens and the ones that allow publishing.
//!
//! Must not know: what a token opens.

use recado_http_api::PublishKeys;
use recado_runtime::auth::{ConfiguredKeys, DevelopmentKey, TokenVerifier};
use recado_runtime::settings::{Spelling, read_file};
use recado_runtime::system::SystemClock;

use super::StartError;
use super::settings::{Contradiction, Settings};
use crate::development;

/// Verifies this server's tokens.
pub(super) type Verifier = TokenVerifier<ConfiguredKeys<SystemClock>, SystemClock>;

/// The verifier of these settings, and the development key where it is in use.
pub(super) fn verifier(settings: &Settings) -> Result<(Verifier, Option<DevelopmentKey>), StartError> {
    let development = if settings.is_development() { Some(development::load_or_create(&settings.data_dir)?) } else { None };
    let also = development.as_ref().map(DevelopmentKey::verifying_key);
    Ok((settings.tokens().verifier(Spelling::Flags, also, SystemClock)?, development))
}

/// The most bytes of a file with publish keys: 2,000 of the longest.
const KEY_FILE_BYTES: usize = 1024 * 1024;

/// The keys that allow publishing; none where nobody asked for one.
pub(super) fn publish_keys(settings: &Settings) -> Result<PublishKeys, Contradiction> {
    let mut keys: Vec<String> = settings.publish_key.iter().map(|key| key.0.clone()).collect();
    if let Some(file) = &settings.publish_key_file {
        let text = read_file("--publish-key-file", file, KEY_FILE_BYTES)?;
        let before = keys.len();
        keys.extend(text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned));
        if keys.len() == before {
            return Err(Contradiction::new(
                format!("--publish-key-file {} has no key", file.display()),
                "write one key a line, such as `openssl rand -hex 32` prints",
            ));
        }
    }
    PublishKeys::new(keys)
        .map_err(|error| Contradiction::new(format!("--publish-key: {error}"), "make one with `openssl rand -hex 32`, for example"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::up::Secret;

    fn settings(dir: &Path) -> Settings {
        Settings { data_dir: dir.join("data"), ..Settings::default() }
    }

    #[test]
    fn without_a_key_the_development_key_is_made_and_used() {
        let dir = tempfile::tempdir().unwrap();
        let (_, key) = verifier(&settings(dir.path())).unwrap();
        assert_eq!(key, Some(development::load(&dir.path().join("data")).unwrap()));
    }

    #[test]
    fn with_a_real_key_no_development_key_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { token_secret: Some(Secret("s".repeat(32))), ..settings(dir.path()) };
        assert!(verifier(&settings).unwrap().1.is_none());
        assert!(!dir.path().join("data").exists());
    }

    #[test]
    fn what_is_wrong_with_a_key_names_its_flag() {
        let dir = tempfile::tempdir().unwrap();
        let short = Settings { token_secret: Some(Secret("too-short".to_owned())), ..settings(dir.path()) };
        let error = verifier(&short).expect_err("refused").to_string();
        assert!(error.contains("--token-secret") && !error.contains("too-short"), "{error}");
    }

    #[test]
    fn publish_keys_come_from_flags_and_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        fs::write(&file, "# rotated in May\n0123456789abcdef\n\n").unwrap();
        let with_file = Settings { publish_key_file: Some(file.clone()), ..settings(dir.path()) };
        assert_eq!(format!("{:?}", publish_keys(&with_file).unwrap()), "PublishKeys(1 keys)");
        fs::write(&file, "# none\n").unwrap();
        assert!(publish_keys(&with_file).unwrap_err().to_string().contains("has no key"));
        let short = Settings { publish_key: vec![Secret("short".to_owned())], ..settings(dir.path()) };
        assert!(publish_keys(&short).unwrap_err().to_string().contains("16 to 512"));
    }
}
