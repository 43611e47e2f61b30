//! Connection tickets: what opens one socket, once, soon.
//!
//! A token in the URL of a socket ends up in logs, and opens an inbox for as long as it lives. A ticket there is worthless by then.
//! Must not know: where tickets are kept, how they are asked for.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::hex;
use crate::ports::Entropy;

/// The random bytes of a ticket: nobody guesses 256 bits.
const BYTES: usize = 32;

/// A ticket, as its client holds it. Whoever has it first may use it: it is shown to nobody else.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket([u8; BYTES]);

/// What a store knows of a ticket: its SHA-256, from which nobody gets back to it. Looking one up by it compares nothing that an
/// attacker chose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TicketKey([u8; 32]);

impl Ticket {
    /// A new one. `entropy` must be one that nobody can foresee.
    pub fn draw(entropy: &impl Entropy) -> Self {
        let mut bytes = [0; BYTES];
        for part in bytes.chunks_exact_mut(8) {
            part.copy_from_slice(&entropy.next_u64().to_be_bytes());
        }
        Self(bytes)
    }

    /// Reads what a client brings; `None` for what never was a ticket.
    pub fn read(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().map(Self).ok()
    }

    /// For the client: 43 characters that a URL takes as they are.
    pub fn reveal(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// For a store.
    pub fn key(&self) -> TicketKey {
        TicketKey(Sha256::digest(self.0).into())
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket")
    }
}

impl TicketKey {
    /// The 256 bits, for a store.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Display for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(&self.0, f)
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;

    struct Counting(AtomicU64);

    impl Entropy for Counting {
        fn next_u64(&self) -> u64 {
            self.0.fetch_add(1, Ordering::Relaxed)
        }
    }

    #[test]
    fn every_ticket_is_drawn_anew_and_reads_back() {
        let entropy = Counting(AtomicU64::new(0));
        let (one, other) = (Ticket::draw(&entropy), Ticket::draw(&entropy));
        assert_ne!(one, other);
        assert_ne!(one.key(), other.key());
        assert_eq!(one.reveal(), "AAAAAAAAAAAAAAAAAAAAAQAAAAAAAAACAAAAAAAAAAM");
        assert_eq!(Ticket::read(&one.reveal()), Some(one));
    }

    #[test]
    fn what_never_was_a_ticket_is_none() {
        let ticket = "AAAAAAAAAAAAAAAAAAAAAQAAAAAAAAACAAAAAAAAAAM";
        // Too short, too long, padded, of another alphabet, and bits beyond the last byte: each ticket has one text.
        for bad in ["", &ticket[1..], &format!("{ticket}A"), &format!("{ticket}="), &ticket.replace('M', "+"), &ticket.replace('M', "N")] {
            assert_eq!(Ticket::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_ticket_is_shown_by_no_log() {
        let ticket = Ticket([7; BYTES]);
        assert_eq!(format!("{ticket:?}"), "Ticket");
    }

    #[test]
    fn a_store_knows_a_ticket_by_the_hash_of_its_bytes() {
        let key = Ticket([7; BYTES]).key();
        let hash: [u8; 32] = Sha256::digest([7; BYTES]).into();
        assert_eq!(key.to_bytes(), hash);
        assert_eq!(key.to_string(), "4bb06f8e4e3a7715d201d573d0aa423762e55dabd61a2c02278fa56cc6d294e0");
        assert_eq!(format!("{key:?}"), format!("TicketKey({key})"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_ticket_or_none(text in "[A-Za-z0-9_-]{40,46}|.*") {
            if let Some(ticket) = Ticket::read(&text) {
                prop_assert_eq!(ticket.reveal(), text);
            }
        }
    }
}
