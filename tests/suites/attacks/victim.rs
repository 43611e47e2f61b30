//! The server under attack, which logs all there is.

use std::ops::Deref;

use anyhow::ensure;
use recado_tests::harness::{Folder, Recado, Tested};
use reqwest::{Response, StatusCode};

use super::problems::is_problem;
use super::secrets::Secrets;

/// A server that logs all there is.
pub(crate) struct Victim {
    // Dropped in this order: the process, then its folder.
    recado: Recado,
    folder: Folder,
    secrets: Secrets,
}

impl Deref for Victim {
    type Target = Recado;

    fn deref(&self) -> &Recado {
        &self.recado
    }
}

impl Victim {
    /// Starts one with these settings.
    pub(crate) async fn up(settings: &[&str]) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let recado = folder.up_watched(settings).await?;
        Ok(Self { recado, folder, secrets: Secrets::default() })
    }

    /// What nobody may find in what it says.
    pub(crate) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Remembers a secret; answers it.
    pub(crate) fn secret(&self, secret: impl Into<String>) -> String {
        self.secrets.keep(secret)
    }

    /// A token of the development key.
    pub(crate) fn token_of(&self, user: &str) -> anyhow::Result<String> {
        Ok(self.secret(self.recado.token(user)?))
    }

    /// That an answer is this problem, and repeats no secret.
    pub(crate) async fn refuses(&self, answer: Response, status: u16, kind: &str, what: &str) -> Tested {
        is_problem(answer, status, kind, what, &self.secrets).await
    }

    /// That the server still serves everybody, and that nothing secret is in its log and its metrics. Every test ends with it.
    pub(crate) async fn has_kept_quiet(self) -> Tested {
        // Leaves a line of the lowest levels, so that their absence is seen.
        ensure!(self.try_connect("the.last.one", true).await?.err() == Some(401), "a socket opened without a token");
        let metrics = self.http.get(format!("{}/metrics", self.url)).send().await?;
        ensure!(metrics.status() == StatusCode::OK, "the server does not serve any more: {}", metrics.status());
        self.secrets.not_in(&metrics.text().await?, "the metrics")?;
        self.recado.terminate().await?;
        let log = self.folder.log();
        ensure!(self.recado.ended().await?.success(), "the server did not end well");
        let log = std::fs::read_to_string(log)?;
        // Of what is not there nothing can be found either.
        ensure!(log.contains("recado is ready") && log.contains("connection refused"), "the log was not written: {log}");
        self.secrets.not_in(&log, "the log")
    }
}
