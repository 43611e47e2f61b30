//! How a refusal has to look: a problem document (RFC 9457) that repeats nothing.

use anyhow::{Context, ensure};
use recado_tests::harness::Tested;
use reqwest::Response;
use serde_json::Value;

use super::secrets::Secrets;

/// That an answer is this problem, and repeats no secret.
pub(crate) async fn is_problem(answer: Response, status: u16, kind: &str, what: &str, secrets: &Secrets) -> Tested {
    let given = answer.status().as_u16();
    secrets.not_in(&format!("{:?}", answer.headers()), what)?;
    let body = answer.text().await?;
    reads_as_problem(given, &body, status, kind, what, secrets)
}

/// The same of a status and a body.
pub(crate) fn reads_as_problem(given: u16, body: &str, status: u16, kind: &str, what: &str, secrets: &Secrets) -> Tested {
    ensure!(given == status, "{what}: answered {given}, not {status}: {body}");
    let problem: Value = serde_json::from_str(body).with_context(|| format!("{what}: no problem document: {body}"))?;
    let expected = format!("urn:recado:problem:{kind}");
    ensure!(problem["type"] == expected.as_str(), "{what}: {problem}, not {expected}");
    secrets.not_in(body, what)
}
