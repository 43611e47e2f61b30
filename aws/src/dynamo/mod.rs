//! Inboxes, connections, claims, suppressions and tickets in one DynamoDB table.
//!
//! | item | `pk` | `sk` | holds |
//! |---|---|---|---|
//! | inbox entry | `U#tenant#user` | `N#<notification id>` | `n` (the notification as JSON), `position`, `acked_at`, `read_at`, `archived_at`, `expires_at` |
//! | marks | `U#tenant#user` | `MARKS` | `read_up_to`, `pending_from`, and `position` = `~` |
//! | connections | `U#tenant#user` | `STATE` | `c_<connection id>`: one map for each |
//! | reverse | `C#<connection id>` | `C` | `tenant`, `user`, `row` |
//! | suppression | `S#<hash of an address>` | `S` | `cause`, `since`; never collected |
//! | connection ticket | `T#<hash of the ticket>` | `T` | `tenant`, `user`, `until` (of the token), `expires_at` |
//! | claim | `M#tenant#user#<notification id>` | `M` | `holder`, `held_until`, `sent_at` |
//!
//! `ttl` collects what is over, some time after its second ("Using time to live in DynamoDB": within days). It hides nothing:
//! readers filter by `expires_at`.
//!
//! # What the index projects, and what that costs
//!
//! Entries are read through a local index, since no other reads strongly consistently (R2). It projects *everything*.
//! A write unit is a kilobyte begun, a read unit four, and costs a fifth of it ("DynamoDB read and write operations";
//! "Provisioned throughput considerations for local secondary indexes"). For an entry of 0.6 KB:
//!
//! | units | everything | states alone | keys alone |
//! |---|---|---|---|
//! | append | 2 write | 2 write | 2 write |
//! | acknowledge, read or archive by id | 2 write | 2 write | 1 write |
//! | stamp again, with the check of the marks | 8 write | 8 write | 8 write |
//! | a page of 100 | 15 read | 4 + 100 read | 3 + 100 read |
//! | count the unread among 100 | 15 read | 4 read | 3 + 100 read |
//!
//! A query of what an index does not project is one call all the same, and fetches each entry from the table, a read
//! unit begun for each. Over an entry's life everything is the cheapest as soon as it is shown or counted a dozen
//! times, and the one whose pages cost least while everybody reconnects. docs/adr/0005 has the whole of it.
//!
//! Must not know: rules of delivery, who calls.

mod append;
mod batch;
mod claims;
mod connections;
mod inbox;
mod item;
mod marks;
mod owners;
mod query;
mod restamp;
mod suppressions;
mod table;
#[cfg(test)]
mod tests;
mod tickets;
mod update;

pub use claims::DynamoClaims;
pub use connections::DynamoConnections;
pub use inbox::DynamoInbox;
pub use suppressions::DynamoSuppressions;
pub use tickets::DynamoTickets;

/// The partition key of the table and of its index: whose it is.
pub const PARTITION_KEY: &str = "pk";
/// The sort key of the table: what it is.
pub const SORT_KEY: &str = "sk";
/// The sort key of [`POSITION_INDEX`]: a position as text, so that bytes order as positions do.
pub const POSITION: &str = "position";
/// The local secondary index that entries are read by, with all attributes projected (docs/adr/0005).
pub const POSITION_INDEX: &str = "by_position";
/// The attribute of time to live, in seconds since 1970. It collects garbage and hides nothing: readers filter by `expires_at`.
pub const TIME_TO_LIVE: &str = "ttl";
