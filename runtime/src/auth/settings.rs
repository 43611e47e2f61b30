//! From an operator's settings to a verifier of tokens: the same for `recado up` and for every process on AWS.
//!
//! Must not know: what a token opens, what a process does without any key.

use std::path::Path;
use std::time::Duration;

use recado_domain::ports::Clock;

use super::{HttpJwks, InvalidKey, JWKS_BYTES, KeySet, RemoteKeys, RemoteKeysConfig, TokenConfig, TokenVerifier, VerifyingKey};
use crate::settings::{Contradiction, Secret, Spelling, read_file};

/// Keys that are here, and a URL that knows more of them.
pub type ConfiguredKeys<C> = (Option<KeySet>, Option<RemoteKeys<HttpJwks, C>>);

/// Leeway beyond this is no clock that is off, but a token that lives longer than it says.
const MAX_LEEWAY: Duration = Duration::from_secs(300);

/// What an operator says about tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenSettings {
    /// `token-secret`: what HS256 tokens are signed with.
    pub secret: Option<Secret>,
    /// `token-key`: public keys in PEM, each `[KID=]FILE`.
    pub keys: Vec<String>,
    /// `token-keys`: a JWKS document, as a file or a URL.
    pub jwks: Option<String>,
    /// What is asked of a token beyond its signature.
    pub config: TokenConfig,
}

impl TokenSettings {
    /// Whether anything here verifies a token.
    pub fn has_key(&self) -> bool {
        self.secret.is_some() || !self.keys.is_empty() || self.jwks.is_some()
    }

    /// Looks for what does not go together. Files and keys are judged where they are read.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self, spelling: Spelling) -> Result<(), Contradiction> {
        if self.secret.is_some() && (!self.keys.is_empty() || self.jwks.is_some()) {
            let [secret, key, keys] = ["token-secret", "token-key", "token-keys"].map(|name| spelling.name(name));
            return Err(Contradiction::new(
                format!("{secret} beside {key} or {keys}: whoever verifies with a secret can also sign with it"),
                "choose one: the secret, or the public keys",
            ));
        }
        if self.config.leeway > MAX_LEEWAY {
            let (leeway, given) = (spelling.name("token-leeway"), self.config.leeway);
            return Err(Contradiction::new(
                format!("{leeway} {given:?} is more than 5 minutes: tokens would outlive their `exp` by it"),
                "correct the issuer's clock, and give at most 5m",
            ));
        }
        Ok(())
    }

    /// The verifier of these settings, `also` with a key of the process's own. Reads files; fetches nothing: a URL is
    /// asked when the first token comes.
    ///
    /// # Errors
    /// When [`TokenSettings::check`] finds something, or a file or key is not what it should be.
    pub fn verifier<C: Clock + Clone>(
        &self,
        spelling: Spelling,
        also: Option<VerifyingKey>,
        clock: C,
    ) -> Result<TokenVerifier<ConfiguredKeys<C>, C>, Contradiction> {
        self.check(spelling)?;
        let mut local: Vec<VerifyingKey> = also.into_iter().collect();
        if let Some(Secret(secret)) = &self.secret {
            let key = VerifyingKey::hs256(None, secret.as_bytes());
            local.push(key.map_err(|error| refused(&spelling.name("token-secret"), &error))?);
        }
        for key in &self.keys {
            local.push(pem(&spelling.name("token-key"), key)?);
        }
        let mut keys = match local {
            none if none.is_empty() => None,
            some => Some(KeySet::new(some).map_err(|error| refused(&spelling.name("token-key"), &error))?),
        };
        let name = spelling.name("token-keys");
        let mut remote = None;
        match self.jwks.as_deref() {
            Some(url) if url.contains("://") => {
                let fetcher = HttpJwks::new(url)
                    .map_err(|error| Contradiction::new(format!("{name} {error}"), "give the https URL of the issuer's JWKS document"))?;
                remote = Some(RemoteKeys::new(fetcher, clock.clone(), RemoteKeysConfig::default()));
            }
            Some(_) if keys.is_some() => {
                let problem = format!("{name} names a file beside {}", spelling.name("token-key"));
                return Err(Contradiction::new(problem, "put all public keys into the one document"));
            }
            Some(file) => {
                let json = read_file(&name, Path::new(file), JWKS_BYTES)?;
                keys = Some(KeySet::from_jwks(json.as_bytes()).map_err(|error| refused(&format!("{name} {file}"), &error))?);
            }
            None => {}
        }
        Ok(TokenVerifier::new(self.config.clone(), (keys, remote), clock))
    }
}

/// `[KID=]FILE`. A file whose name has a `=` can be written as `=FILE`.
fn pem(setting: &str, given: &str) -> Result<VerifyingKey, Contradiction> {
    let (kid, file) = match given.split_once('=') {
        Some(("", file)) => (None, file),
        Some((kid, file)) => (Some(kid.to_owned()), file),
        None => (None, given),
    };
    let text = read_file(setting, Path::new(file), JWKS_BYTES)?;
    VerifyingKey::from_pem(kid, text.as_bytes()).map_err(|error| refused(&format!("{setting} {file}"), &error))
}

fn refused(setting: &str, error: &InvalidKey) -> Contradiction {
    Contradiction::new(format!("{setting}: {error}"), "give a key as docs/configuration.md says, under \"Whose inbox\"")
}

#[cfg(test)]
mod tests {
    use recado_memory::ManualClock;

    use super::*;

    fn problem(settings: &TokenSettings) -> String {
        match settings.verifier(Spelling::Variables, None, ManualClock::default()) {
            Ok(_) => panic!("not refused"),
            Err(error) => error.to_string(),
        }
    }

    fn secret(text: &str) -> TokenSettings {
        TokenSettings { secret: Some(Secret(text.to_owned())), ..TokenSettings::default() }
    }

    #[test]
    fn what_is_wrong_with_a_key_is_said_without_showing_it() {
        let short = problem(&secret("too-short"));
        assert!(short.contains("RECADO_TOKEN_SECRET") && !short.contains("too-short"), "{short}");
        let missing = problem(&TokenSettings { keys: vec!["kid=/nowhere/key.pem".to_owned()], ..TokenSettings::default() });
        assert!(missing.contains("RECADO_TOKEN_KEY /nowhere/key.pem") && missing.contains("fix:"), "{missing}");
        let insecure = problem(&TokenSettings { jwks: Some("http://issuer.example/jwks".to_owned()), ..TokenSettings::default() });
        assert!(insecure.contains("RECADO_TOKEN_KEYS") && insecure.contains("https"), "{insecure}");
    }

    #[test]
    fn a_secret_and_public_keys_exclude_each_other() {
        let url = Some("https://issuer.example/jwks".to_owned());
        assert!(problem(&TokenSettings { jwks: url, ..secret(&"s".repeat(32)) }).contains("choose one"));
        assert!(problem(&TokenSettings { keys: vec!["k.pem".to_owned()], ..secret(&"s".repeat(32)) }).contains("choose one"));
    }

    #[test]
    fn leeway_has_a_limit() {
        let leeway = |seconds| {
            let config = TokenConfig { leeway: Duration::from_secs(seconds), ..TokenConfig::default() };
            TokenSettings { config, ..secret(&"s".repeat(32)) }
        };
        assert!(leeway(300).check(Spelling::Variables).is_ok());
        assert!(problem(&leeway(301)).contains("at most 5m"));
    }

    #[test]
    fn a_secret_or_a_url_is_enough() {
        assert!(secret(&"s".repeat(32)).verifier(Spelling::Flags, None, ManualClock::default()).is_ok());
        let url = TokenSettings { jwks: Some("https://issuer.example/jwks".to_owned()), ..TokenSettings::default() };
        assert!(url.has_key() && url.verifier(Spelling::Flags, None, ManualClock::default()).is_ok());
        assert!(!TokenSettings::default().has_key());
    }
}
