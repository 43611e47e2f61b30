//! From settings to the keys that verify tokens and the ones that allow publishing.
//!
//! Must not know: what a token opens.

use std::fs;
use std::path::Path;

use recado_http_api::PublishKeys;
use recado_runtime::auth::{
    DevelopmentKey, HttpJwks, InvalidKey, JWKS_BYTES, KeySet, RemoteKeys, RemoteKeysConfig, TokenConfig, TokenVerifier, VerifyingKey,
};
use recado_runtime::system::SystemClock;

use super::StartError;
use super::settings::{Contradiction, Secret, Settings};
use crate::development;

/// Keys that are here, and a URL that knows more of them.
pub(super) type Keys = (Option<KeySet>, Option<RemoteKeys<HttpJwks, SystemClock>>);

/// Verifies this server's tokens.
pub(super) type Verifier = TokenVerifier<Keys, SystemClock>;

/// The verifier of these settings, and the development key where it is in use.
pub(super) fn verifier(settings: &Settings) -> Result<(Verifier, Option<DevelopmentKey>), StartError> {
    let development = if settings.is_development() { Some(development::load_or_create(&settings.data_dir)?) } else { None };
    let mut remote = None;
    let mut local = Vec::new();
    if let Some(key) = &development {
        local.push(key.verifying_key());
    }
    if let Some(Secret(secret)) = &settings.token_secret {
        local.push(VerifyingKey::hs256(None, secret.as_bytes()).map_err(|error| refused("--token-secret", &error))?);
    }
    for key in &settings.token_key {
        local.push(pem(key)?);
    }
    let mut keys = if local.is_empty() { None } else { Some(KeySet::new(local).map_err(|error| refused("--token-key", &error))?) };
    match settings.token_keys.as_deref() {
        Some(url) if url.contains("://") => {
            let fetcher = HttpJwks::new(url)
                .map_err(|error| Contradiction::new(format!("--token-keys {error}"), "give the https URL of the issuer's JWKS document"))?;
            remote = Some(RemoteKeys::new(fetcher, SystemClock, RemoteKeysConfig::default()));
        }
        Some(_) if keys.is_some() => {
            return Err(
                Contradiction::new("--token-keys names a file beside --token-key", "put all public keys into the one document").into()
            );
        }
        Some(file) => {
            let json = read("--token-keys", Path::new(file), JWKS_BYTES)?;
            keys = Some(KeySet::from_jwks(json.as_bytes()).map_err(|error| refused(&format!("--token-keys {file}"), &error))?);
        }
        None => {}
    }
    let config = TokenConfig {
        issuers: settings.token_issuer.clone(),
        audiences: settings.token_audience.clone(),
        tenant_claim: settings.token_tenant_claim.clone(),
        leeway: settings.token_leeway,
    };
    Ok((TokenVerifier::new(config, (keys, remote), SystemClock), development))
}

/// `[KID=]FILE`. A file whose name has a `=` can be written as `=FILE`.
fn pem(given: &str) -> Result<VerifyingKey, StartError> {
    let (kid, file) = match given.split_once('=') {
        Some(("", file)) => (None, file),
        Some((kid, file)) => (Some(kid.to_owned()), file),
        None => (None, given),
    };
    let text = read("--token-key", Path::new(file), JWKS_BYTES)?;
    Ok(VerifyingKey::from_pem(kid, text.as_bytes()).map_err(|error| refused(&format!("--token-key {file}"), &error))?)
}

fn refused(setting: &str, error: &InvalidKey) -> Contradiction {
    Contradiction::new(format!("{setting}: {error}"), "give a key as `recado up --help` says")
}

fn read(setting: &str, file: &Path, limit: usize) -> Result<String, Contradiction> {
    let problem =
        |what: String| Contradiction::new(format!("{setting} {}: {what}", file.display()), "name a file that this process may read");
    let size = fs::metadata(file).map_err(|error| problem(error.to_string()))?.len();
    if size > limit as u64 {
        return Err(problem(format!("the file has {size} bytes, the limit is {limit}")));
    }
    fs::read_to_string(file).map_err(|error| problem(error.to_string()))
}

/// The most bytes of a file with publish keys: 2,000 of the longest.
const KEY_FILE_BYTES: usize = 1024 * 1024;

/// The keys that allow publishing; none where nobody asked for one.
pub(super) fn publish_keys(settings: &Settings) -> Result<PublishKeys, Contradiction> {
    let mut keys: Vec<String> = settings.publish_key.iter().map(|key| key.0.clone()).collect();
    if let Some(file) = &settings.publish_key_file {
        let text = read("--publish-key-file", file, KEY_FILE_BYTES)?;
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
    use super::*;

    fn settings(dir: &Path) -> Settings {
        Settings { data_dir: dir.join("data"), ..Settings::default() }
    }

    fn problem(settings: &Settings) -> String {
        match verifier(settings) {
            Ok(_) => panic!("not refused"),
            Err(error) => error.to_string(),
        }
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
    fn what_is_wrong_with_a_key_is_said_without_showing_it() {
        let dir = tempfile::tempdir().unwrap();
        let short = problem(&Settings { token_secret: Some(Secret("too-short".to_owned())), ..settings(dir.path()) });
        assert!(short.contains("--token-secret") && !short.contains("too-short"), "{short}");
        let missing = problem(&Settings { token_key: vec!["kid=/nowhere/key.pem".to_owned()], ..settings(dir.path()) });
        assert!(missing.contains("/nowhere/key.pem") && missing.contains("fix:"), "{missing}");
        let insecure = problem(&Settings { token_keys: Some("http://issuer.example/jwks".to_owned()), ..settings(dir.path()) });
        assert!(insecure.contains("https"), "{insecure}");
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
