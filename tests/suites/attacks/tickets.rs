//! Connection tickets that were used, made up, or taken to another place.

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use recado_tests::harness::Tested;
use serde_json::Value;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;

use super::victim::Victim;

async fn ticket(victim: &Victim, user: &str) -> anyhow::Result<String> {
    let request = victim.http.post(format!("{}/connection-tickets", victim.url)).bearer_auth(victim.token_of(user)?);
    let given: Value = request.send().await?.error_for_status()?.json().await?;
    Ok(victim.secret(given["ticket"].as_str().context("no ticket")?))
}

/// The status and the kind of problem that a socket is refused with; `None` where it opens.
async fn refusal(victim: &Victim, query: &str) -> anyhow::Result<Option<(u16, String)>> {
    match connect_async(format!("{}?{query}", victim.ws)).await {
        Ok(_) => Ok(None),
        Err(Error::Http(answer)) => {
            let problem: Value = serde_json::from_slice(answer.body().as_deref().unwrap_or_default())?;
            Ok(Some((answer.status().as_u16(), problem["type"].as_str().unwrap_or_default().to_owned())))
        }
        Err(error) => Err(error.into()),
    }
}

#[tokio::test]
async fn a_ticket_that_was_used_or_made_up_opens_nothing() -> Tested {
    let victim = Victim::up(&[]).await?;
    let used = ticket(&victim, "alice").await?;
    ensure!(refusal(&victim, &format!("ticket={used}")).await?.is_none(), "a good ticket opens");
    let elsewhere = Victim::up(&[]).await?;
    let foreign = victim.secret(ticket(&elsewhere, "alice").await?);
    let unused = ticket(&victim, "alice").await?;
    let mut off_by_one = URL_SAFE_NO_PAD.decode(&unused)?;
    off_by_one[31] ^= 1;
    let cases = [
        ("used", used.clone()),
        ("of another deployment", foreign),
        ("off by one bit", URL_SAFE_NO_PAD.encode(&off_by_one)),
        ("in upper case", unused.to_uppercase()),
        ("padded", format!("{unused}=")),
        ("with something behind", format!("{unused}%00")),
        ("a token", victim.token_of("alice")?.chars().take(128).collect()),
        ("a pattern", "*".to_owned()),
        ("empty", String::new()),
        ("a query", "'%20OR%201=1%20--".to_owned()),
    ];
    for (what, ticket) in cases {
        let refused = refusal(&victim, &format!("ticket={ticket}")).await?;
        ensure!(refused == Some((401, "urn:recado:problem:ticket-invalid".to_owned())), "{what}: {refused:?}");
    }
    ensure!(refusal(&victim, &format!("ticket={unused}")).await?.is_none(), "what was tried around it used it up");
    elsewhere.has_kept_quiet().await?;
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn of_many_who_bring_one_ticket_at_once_one_gets_in() -> Tested {
    let victim = Victim::up(&[]).await?;
    for _ in 0..5 {
        let query = format!("ticket={}", ticket(&victim, "alice").await?);
        let tries = join_all((0..16).map(|_| refusal(&victim, &query))).await;
        let opened = tries.into_iter().collect::<Result<Vec<_>, _>>()?.iter().filter(|refused| refused.is_none()).count();
        ensure!(opened == 1, "{opened} sockets opened");
    }
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn a_ticket_opens_a_socket_and_nothing_else() -> Tested {
    let victim = Victim::up(&[]).await?;
    let ticket = ticket(&victim, "alice").await?;
    for request in [victim.http.get(format!("{}/inbox", victim.url)), victim.http.post(format!("{}/connection-tickets", victim.url))] {
        let answer = request.bearer_auth(&ticket).query(&[("ticket", &ticket)]).send().await?;
        victim.refuses(answer, 401, "unauthorized", "a ticket as a token").await?;
    }
    let token = victim.token_of("alice")?;
    for query in
        [format!("ticket={ticket}&ticket={ticket}"), format!("ticket={ticket}&token={token}"), format!("token={ticket}&ticket={token}")]
    {
        let refused = refusal(&victim, &query).await?;
        ensure!(refused == Some((400, "urn:recado:problem:malformed-request".to_owned())), "{refused:?}");
    }
    ensure!(refusal(&victim, &format!("token={ticket}")).await? == Some((401, "urn:recado:problem:token-malformed".to_owned())));
    ensure!(refusal(&victim, &format!("ticket={ticket}")).await?.is_none(), "a refused request used it up");
    victim.has_kept_quiet().await
}
