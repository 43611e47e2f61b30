//! The embedded deployment: one `recado` process on a folder.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use recado_domain::message::Attributes;
use recado_domain::ports::{DeadLetters, EventBus, Inbox, Outgoing, Queue};
use recado_embedded::{QueueName, Store};
use recado_runtime::system::{SystemClock, SystemEntropy};
use serde_json::Value;

use super::{Closed, Deployment, Ended, Endpoints, Expected, Folder, Inside, Mail, Recado, Setup, Tested, TokenEnd, eventually};

/// A `recado` process, and its folder.
pub struct Embedded {
    // Dropped in this order: the process, then its folder.
    recado: Recado,
    folder: Folder,
}

impl Deref for Embedded {
    type Target = Endpoints;

    fn deref(&self) -> &Endpoints {
        &self.recado
    }
}

impl Deployment for Embedded {
    const EXPECTED: Expected =
        Expected { unauthorized: 401, closed: Closed::WithItsReason, token_end: TokenEnd::Server, oversized_closes: true };

    type Inside = Store;

    async fn up_with(setup: Setup) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let recado = folder.up(&["--token-leeway", &format!("{}ms", setup.token_leeway.as_millis())]).await?;
        Ok(Self { recado, folder })
    }

    async fn up_after(happened: impl AsyncFnOnce(&Store) -> Tested) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let store = Store::open(&folder.data(), Arc::new(SystemClock), Arc::new(SystemEntropy))?;
        happened(&store).await?;
        store.close().await;
        let recado = folder.up(&[]).await?;
        Ok(Self { recado, folder })
    }

    async fn run(&self, args: &[&str]) -> anyhow::Result<Ended> {
        let mut command = self.folder.command(args)?;
        command.env("RECADO_URL", &self.url).env("RECADO_WS", &self.ws);
        Ended::of(command).await
    }

    async fn alone(&self) -> Tested {
        eventually("nobody is connected", async || {
            let metrics = self.http.get(format!("{}/metrics", self.url)).send().await?.error_for_status()?.text().await?;
            Ok(metrics.lines().any(|line| line == "recado_sockets_open 0").then_some(()))
        })
        .await
    }

    async fn mails(&self, count: usize) -> anyhow::Result<Vec<Mail>> {
        let captured = eventually(&format!("{count} mails"), async || {
            let answer: Value = self.http.get(format!("{}/mail.json", self.url)).send().await?.error_for_status()?.json().await?;
            let mails = answer["mails"].as_array().context("no mails")?.clone();
            Ok((mails.len() >= count).then_some(mails))
        })
        .await?;
        let mut mails = Vec::new();
        for mail in captured {
            let text = |name: &str| mail[name].as_str().map(str::to_owned).with_context(|| format!("no `{name}` in {mail}"));
            let html = self.http.get(format!("{}/mail/{}/html", self.url, mail["id"])).send().await?.error_for_status()?.text().await?;
            mails.push(Mail { to: text("to")?, subject: text("subject")?, html });
        }
        Ok(mails)
    }
}

impl Inside for Store {
    fn bus(&self) -> impl EventBus {
        Store::bus(self)
    }

    fn inbox_queue(&self) -> impl Queue {
        Store::inbox_queue(self)
    }

    fn dead_letters(&self) -> impl DeadLetters {
        Store::dead_letters(self, QueueName::Inbox)
    }

    fn inbox(&self) -> impl Inbox {
        Store::inbox(self)
    }

    /// Its topic takes events alone; whoever has the database can write into the queue behind it.
    async fn hand_in(&self, text: &str) -> Tested {
        let message = Outgoing { body: text.to_owned(), attributes: Attributes::new(), delay: Duration::ZERO };
        Ok(Store::inbox_queue(self).send(&[message]).await.remove(0)?)
    }
}
