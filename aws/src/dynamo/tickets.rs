//! Connection tickets: one write to keep one, one deletion to take it. Must not know: what a ticket opens.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use recado_domain::failure::Failure;
use recado_domain::ids::{RecipientKey, TenantId, UserId};
use recado_domain::ports::{Clock, Outcome, TicketHolder, Tickets};
use recado_domain::ticket::TicketKey;

use super::TIME_TO_LIVE;
use super::item::{self, EXPIRES_AT, Item, Key};
use super::table::Table;
use crate::clients::Clients;
use crate::failure::failure_of;

const TENANT: &str = "tenant";
const USER: &str = "user";
const TOKEN_EXPIRES_AT: &str = "until";

/// How long an unused ticket stays beyond its end, for clocks that differ.
const COLLECT_AFTER: Duration = Duration::from_secs(3600);

/// [`Tickets`] on DynamoDB.
pub struct DynamoTickets<K>(Arc<Inner<K>>);

struct Inner<K> {
    table: Table,
    clock: K,
}

impl<K> Clone for DynamoTickets<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> fmt::Debug for DynamoTickets<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DynamoTickets").field(&self.0.table).finish()
    }
}

impl<K: Clock> DynamoTickets<K> {
    /// The tickets in the table of this name.
    pub fn new(clients: &Clients, table: &str, clock: K) -> Self {
        Self(Arc::new(Inner { table: Table::new(clients, table), clock }))
    }
}

/// What a ticket that was taken says; nothing once it has ended.
fn holder(item: &Item, now: Timestamp) -> Outcome<Option<TicketHolder>> {
    let read = || {
        let recipient = RecipientKey::new(TenantId::new(item::text(item, TENANT)?).ok()?, UserId::new(item::text(item, USER)?).ok()?);
        let holder = TicketHolder { recipient, token_expires_at: item::moment_of(item, TOKEN_EXPIRES_AT)? };
        Some((item::moment_of(item, EXPIRES_AT)?, holder))
    };
    let (until, holder) =
        read().ok_or_else(|| Failure::permanent("the ticket cannot be read; it was not written by this version of Recado"))?;
    Ok((until > now).then_some(holder))
}

impl<K: Clock> Tickets for DynamoTickets<K> {
    async fn issue(&self, key: &TicketKey, holder: &TicketHolder, until: Timestamp) -> Outcome<()> {
        let table = &self.0.table;
        let collect = until.checked_add(COLLECT_AFTER).unwrap_or(Timestamp::MAX);
        let put = table
            .put(Key::ticket(*key).attributes())
            .item(TENANT, item::string(holder.recipient.tenant.as_str()))
            .item(USER, item::string(holder.recipient.user.as_str()))
            .item(TOKEN_EXPIRES_AT, item::moment(holder.token_expires_at))
            .item(EXPIRES_AT, item::moment(until))
            .item(TIME_TO_LIVE, item::seconds(collect));
        put.send().await.map(drop).map_err(|error| failure_of(&error))
    }

    /// Two who bring the same ticket never both get it. Where an answer is lost it is gone: its client asks for another.
    async fn redeem(&self, key: &TicketKey) -> Outcome<Option<TicketHolder>> {
        let Inner { table, clock } = &*self.0;
        table.take(&Key::ticket(*key)).await?.map_or(Ok(None), |item| holder(&item, clock.now()))
    }
}
