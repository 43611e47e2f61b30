//! Inboxes, connections and claims in one DynamoDB table.

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
