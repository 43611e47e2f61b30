//! Connection tickets.

use jiff::Timestamp;
use recado_domain::ports::{Outcome, TicketHolder, Tickets};
use recado_domain::ticket::TicketKey;

use super::Way;
use crate::process::Call;
use crate::world::{at_once, short};

pub(crate) struct SimTickets(pub(crate) Way);

impl Tickets for SimTickets {
    async fn issue(&self, key: &TicketKey, holder: &TicketHolder, until: Timestamp) -> Outcome<()> {
        let Way { world, process } = &self.0;
        let call = Call::new(world, "issue", || format!("a ticket to {}", short(&holder.recipient)));
        let (time, there, key, holder) = (self.0.time(), world.clone(), *key, holder.clone());
        let apply = move || {
            time();
            at_once(there.tickets.issue(&key, &holder, until))
        };
        process.call_one(call, apply).await
    }

    async fn redeem(&self, key: &TicketKey) -> Outcome<Option<TicketHolder>> {
        let Way { world, process } = &self.0;
        let call = Call::new(world, "redeem", || "a ticket".to_owned());
        let (time, there, key) = (self.0.time(), world.clone(), *key);
        let apply = move || {
            time();
            at_once(there.tickets.redeem(&key))
        };
        process.call_one(call, apply).await
    }
}
