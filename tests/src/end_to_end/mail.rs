//! Mail leaves for those who want it.

use anyhow::Context;
use serde_json::json;

use crate::harness::{Deployment, Tested, event};

pub async fn mail_goes_to_those_who_want_it_once_with_values_escaped<D: Deployment>() -> Tested {
    let recado = D::up().await?;
    let mut wanted = event(&["alice", "bob"], "<b>Q3</b> & {{ 7*7 }}");
    wanted["data"]["channels"] = json!(["inbox", "email"]);
    recado.publish(&wanted).await?;
    recado.publish(&wanted).await?;
    recado.publish(&event(&["carla"], "inbox only")).await?;
    let mut marker = event(&["dora"], "marker");
    marker["data"]["channels"] = json!(["email"]);
    recado.publish(&marker).await?;
    let mails = recado.mails(3).await?;
    let mut to: Vec<_> = mails.iter().map(|mail| mail.to.as_str()).collect();
    to.sort_unstable();
    assert_eq!(to, ["alice@example.com", "bob@example.com", "dora@example.com"]);
    let alice = mails.iter().find(|mail| mail.to == "alice@example.com").context("alice's mail")?;
    assert_eq!(alice.subject, "<b>Q3</b> & {{ 7*7 }}");
    assert!(alice.html.contains("&lt;b&gt;Q3") && !alice.html.contains("<b>Q3"), "{}", alice.html);
    recado.inbox_of("alice", 1).await?;
    Ok(())
}
