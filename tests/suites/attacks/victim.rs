//! The server under attack, and everything that must not be found in what it says.

use std::ops::Deref;
use std::sync::Mutex;

use anyhow::{Context, ensure};
use recado_tests::harness::{Folder, Recado, Tested};
use reqwest::{Response, StatusCode};
use serde_json::Value;

/// A server that logs all there is.
pub(crate) struct Victim {
    // Dropped in this order: the process, then its folder.
    recado: Recado,
    folder: Folder,
    secrets: Mutex<Vec<String>>,
}

impl Deref for Victim {
    type Target = Recado;

    fn deref(&self) -> &Recado {
        &self.recado
    }
}

/// What is shorter may stand anywhere by chance.
const SHORTEST: usize = 8;

impl Victim {
    /// Starts one with these settings.
    pub(crate) async fn up(settings: &[&str]) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let recado = folder.up_watched(settings).await?;
        Ok(Self { recado, folder, secrets: Mutex::default() })
    }

    /// Remembers a secret; answers it. The parts of a token count one by one.
    pub(crate) fn secret(&self, secret: impl Into<String>) -> String {
        let secret = secret.into();
        let mut secrets = self.secrets.lock().expect("no test panics while it holds this");
        secrets.extend(secret.split('.').skip(1).map(str::to_owned));
        secrets.push(secret.clone());
        secret
    }

    /// A token of the development key.
    pub(crate) fn token_of(&self, user: &str) -> anyhow::Result<String> {
        Ok(self.secret(self.recado.token(user)?))
    }

    /// That an answer is this problem, and repeats no secret.
    pub(crate) async fn refuses(&self, answer: Response, status: u16, kind: &str, what: &str) -> Tested {
        let given = answer.status();
        let headers = format!("{:?}", answer.headers());
        let body = answer.text().await?;
        ensure!(given.as_u16() == status, "{what}: answered {given}, not {status}: {body}");
        let problem: Value = serde_json::from_str(&body).with_context(|| format!("{what}: no problem document: {body}"))?;
        let expected = format!("urn:recado:problem:{kind}");
        ensure!(problem["type"] == expected.as_str(), "{what}: {problem}, not {expected}");
        self.shows_no_secret(&headers, what)?;
        self.shows_no_secret(&body, what)
    }

    /// That the server still serves everybody, and that nothing secret is in its log and its metrics. Every test ends with it.
    pub(crate) async fn has_kept_quiet(self) -> Tested {
        // Leaves a line of the lowest levels, so that their absence is seen.
        ensure!(self.try_connect("the.last.one", true).await?.err() == Some(401), "a socket opened without a token");
        let metrics = self.http.get(format!("{}/metrics", self.url)).send().await?;
        ensure!(metrics.status() == StatusCode::OK, "the server does not serve any more: {}", metrics.status());
        self.shows_no_secret(&metrics.text().await?, "the metrics")?;
        self.recado.terminate().await?;
        let log = self.folder.log();
        ensure!(self.recado.ended().await?.success(), "the server did not end well");
        let log = std::fs::read_to_string(log)?;
        // Of what is not there nothing can be found either.
        ensure!(log.contains("recado is ready") && log.contains("connection refused"), "the log was not written: {log}");
        let secrets = self.secrets.into_inner().expect("no test panics while it holds this");
        none_in(&secrets, &log, "the log")
    }

    fn shows_no_secret(&self, text: &str, what: &str) -> Tested {
        let secrets = self.secrets.lock().expect("no test panics while it holds this");
        none_in(&secrets, text, what)
    }
}

fn none_in(secrets: &[String], text: &str, what: &str) -> Tested {
    for secret in secrets.iter().filter(|secret| secret.len() >= SHORTEST) {
        let line = text.lines().find(|line| line.contains(secret.as_str()));
        ensure!(line.is_none(), "{what} shows {secret:?}: {}", line.unwrap_or_default());
    }
    Ok(())
}
