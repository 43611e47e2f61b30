//! Connection tickets. They outlive no process ([`Store::open`](crate::Store::open) forgets them), so a commit of theirs need not
//! be synchronised: a power cut that brought back a used one would be followed by a start. Must not know: what a ticket opens.

use jiff::Timestamp;
use recado_domain::ports::{Outcome, TicketHolder, Tickets};
use recado_domain::ticket::TicketKey;
use rusqlite::{OptionalExtension, params};

use crate::database::{json, micros, moment};
use crate::store::Shared;
use crate::writer::{Change, Durability};

/// The connection tickets of a store.
#[derive(Clone)]
pub struct StoredTickets {
    pub(crate) shared: Shared,
}

impl Tickets for StoredTickets {
    async fn issue(&self, key: &TicketKey, holder: &TicketHolder, until: Timestamp) -> Outcome<()> {
        let (key, until, token_expires_at) = (key.to_bytes(), micros(until), micros(holder.token_expires_at));
        let recipient = serde_json::to_string(&holder.recipient).expect("a recipient has string keys only");
        let work = move |change: &mut Change<'_>| {
            change
                .db
                .prepare_cached("INSERT OR REPLACE INTO tickets (key, until, token_expires_at, recipient) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![key, until, token_expires_at, recipient])
                .map(drop)
        };
        self.shared.writer.write(Durability::Process, work).await
    }

    async fn redeem(&self, key: &TicketKey) -> Outcome<Option<TicketHolder>> {
        let key = key.to_bytes();
        let work = move |change: &mut Change<'_>| {
            let taken = change
                .db
                .prepare_cached("DELETE FROM tickets WHERE key = ?1 RETURNING until, token_expires_at, recipient")?
                .query_row([key], |row| Ok((moment(row, 0)?, TicketHolder { token_expires_at: moment(row, 1)?, recipient: json(row, 2)? })))
                .optional()?;
            Ok(taken.filter(|(until, _)| *until > change.now).map(|(_, holder)| holder))
        };
        self.shared.writer.write(Durability::Process, work).await
    }
}
