//! Pages of an inbox, by position, and counts of it.
//!
//! All queries go to the local index, strongly consistent. Filters are applied by DynamoDB *after* it cut the page,
//! so a page may be short, or empty, and go on. The marks stand behind the last position of their user's index
//! ([`super::item::END`]): a query that reaches the end, or begins there, finds them on its way, and only one that does
//! neither has to ask for them. Must not know: what is done with an entry.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_dynamodb::operation::query::QueryOutput;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, Select};
use recado_domain::ids::{NotificationId, RecipientKey};
use recado_domain::limits;
use recado_domain::notification::InboxEntry;
use recado_domain::ports::{Clock, Entropy, Marks, Outcome, Page, PageFilter, Unread};
use recado_domain::position::Position;

use super::inbox::Inner;
use super::item::{self, ACKED_AT, ARCHIVED_AT, CONTENT, EXPIRES_AT, Item, READ_AT};
use super::{PARTITION_KEY, POSITION, POSITION_INDEX, SORT_KEY};
use crate::failure::failure_of;

/// The highest position there is.
fn highest() -> Position {
    Position::from_bytes([0xff; 16])
}

const UNEXPIRED: &str = "attribute_not_exists(#expires_at) OR #expires_at > :now";

/// A part of one inbox.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// Everything above, ascending.
    Since(Position),
    /// What is pending above, and not below the mark, ascending.
    Pending(Marks, Position),
    /// What is below, or the newest, descending.
    Page(Option<Position>, PageFilter),
}

impl Part {
    /// Rows that one query reads: one more than asked for, to know whether there are more, and the marks. A filter may
    /// drop any of them, so that a filtered query reads half a page at least: a reader that lacks one last entry would
    /// otherwise walk through an archive row by row.
    fn rows(self, limit: usize) -> i32 {
        let wanted = match self {
            Self::Since(_) => limit,
            Self::Pending(..) | Self::Page(..) => (2 * limit).clamp(limits::PAGE_ENTRIES / 2, limits::PAGE_ENTRIES),
        };
        i32::try_from(wanted).unwrap_or(i32::MAX - 2) + 2
    }

    fn ascends(self) -> bool {
        !matches!(self, Self::Page(..))
    }

    /// The condition on the position, beside that on the partition.
    fn bound(self) -> Option<(&'static str, Position)> {
        match self {
            Self::Since(after) => Some((">", after)),
            // Entries below `pending_from` are not pending; the one at it may be (R7).
            Self::Pending(marks, after) => match marks.pending_from.filter(|from| *from > after) {
                Some(from) => Some((">=", from)),
                None => Some((">", after)),
            },
            Self::Page(before, _) => before.map(|before| ("<", before)),
        }
    }

    /// What an entry has to be, beside not having expired.
    fn states(self) -> Option<&'static str> {
        match self {
            Self::Since(_) => None,
            Self::Pending(..) => Some("attribute_not_exists(#acked_at)"),
            Self::Page(_, PageFilter::Inbox) => Some("attribute_not_exists(#archived_at)"),
            Self::Page(_, PageFilter::Unread) => Some("attribute_not_exists(#archived_at) AND attribute_not_exists(#read_at)"),
            Self::Page(_, PageFilter::Archived) => Some("attribute_exists(#archived_at)"),
        }
    }

    /// What has no content is no entry: the marks pass every filter. A pair of parentheses too many is a validation error.
    fn filter(self) -> String {
        let of_entries = self.states().map_or(UNEXPIRED.to_owned(), |states| format!("({states} AND ({UNEXPIRED}))"));
        format!("attribute_not_exists(#content) OR {of_entries}")
    }

    /// Whether a row at `position`, and all behind it, is outside of the part by what `read_all` read.
    fn ends_at(self, position: Position, marks: Marks) -> bool {
        matches!(self, Self::Page(_, PageFilter::Unread)) && marks.read_up_to.is_some_and(|mark| position <= mark)
    }
}

const PLACEHOLDERS: [(&str, &str); 7] = [
    ("#pk", PARTITION_KEY),
    ("#position", POSITION),
    ("#content", CONTENT),
    ("#expires_at", EXPIRES_AT),
    ("#acked_at", ACKED_AT),
    ("#read_at", READ_AT),
    ("#archived_at", ARCHIVED_AT),
];

/// A query of the index with these expressions; those of [`PLACEHOLDERS`] that they name are filled in, since one that
/// is not used is a validation error.
fn query<K: Clock, E: Entropy>(inbox: &Inner<K, E>, of: &RecipientKey, keys: String, filter: String) -> QueryFluentBuilder {
    let used = |placeholder: &str| keys.contains(placeholder) || filter.contains(placeholder);
    let names: HashMap<String, String> =
        PLACEHOLDERS.iter().filter(|(placeholder, _)| used(placeholder)).map(|(p, name)| ((*p).to_owned(), (*name).to_owned())).collect();
    inbox
        .table
        .client
        .query()
        .table_name(&*inbox.table.name)
        .index_name(POSITION_INDEX)
        .consistent_read(true)
        .key_condition_expression(keys)
        .filter_expression(filter)
        .set_expression_attribute_names(Some(names))
        .expression_attribute_values(":pk", item::string(item::partition(of)))
        .expression_attribute_values(":now", item::moment(inbox.clock.now()))
}

/// One page.
pub(super) async fn read<K: Clock, E: Entropy>(inbox: &Inner<K, E>, of: &RecipientKey, part: Part, limit: usize) -> Outcome<Page> {
    let limit = limit.clamp(1, limits::PAGE_ENTRIES);
    let (keys, bound) = match part.bound() {
        Some((comparison, bound)) => (format!("#pk = :pk AND #position {comparison} :bound"), Some(bound)),
        None => ("#pk = :pk".to_owned(), None),
    };
    let mut query = query(inbox, of, keys, part.filter()).limit(part.rows(limit)).scan_index_forward(part.ascends());
    if let Some(bound) = bound {
        query = query.expression_attribute_values(":bound", item::position(bound));
    }
    let answer = query.send().await.map_err(|error| failure_of(&error))?;
    let rows = Rows::of(answer);
    let marks = match part {
        Part::Pending(marks, _) => marks,
        _ => match rows.marks(part) {
            Some(marks) => marks,
            None => super::marks::read(inbox, of).await?,
        },
    };
    Ok(rows.page(part, marks, limit))
}

/// What a query answered.
struct Rows {
    entries: Vec<Item>,
    marks: Option<Item>,
    /// The position of the last row read, where there may be more.
    reached: Option<Position>,
}

impl Rows {
    fn of(answer: QueryOutput) -> Self {
        // Marks at the end of the inbox: nothing is behind them. They have no position, so this is none either.
        let reached = answer.last_evaluated_key.as_ref().and_then(item::stands_at);
        let (mut marks, entries): (Vec<Item>, Vec<Item>) = answer.items.unwrap_or_default().into_iter().partition(item::is_marks);
        Self { entries, marks: marks.pop(), reached }
    }

    /// The marks, where the query came across the place they stand at.
    fn marks(&self, part: Part) -> Option<Marks> {
        let crossed = if part.ascends() { self.reached.is_none() } else { part.bound().is_none() };
        (self.marks.is_some() || crossed).then(|| item::marks_of(self.marks.as_ref()))
    }

    fn page(self, part: Part, marks: Marks, limit: usize) -> Page {
        let mut entries: Vec<InboxEntry> = self.entries.iter().filter_map(|item| entry(item, marks)).collect();
        let wanted = entries.iter().position(|entry| part.ends_at(entry.position, marks)).unwrap_or(entries.len());
        let ended = wanted < entries.len() || self.reached.is_some_and(|at| part.ends_at(at, marks));
        entries.truncate(wanted);
        let next = if entries.len() > limit {
            entries.truncate(limit);
            entries.last().map(|entry| entry.position)
        } else {
            self.reached.filter(|_| !ended)
        };
        Page { entries, more: next.is_some(), next, marks }
    }
}

/// Reads an entry. One that cannot be read was not written by this version of Recado: it stays where it is, for
/// whoever can read it, and hides no other.
fn entry(item: &Item, marks: Marks) -> Option<InboxEntry> {
    let read = || {
        let position = item::stands_at(item)?;
        let notification = Arc::new(serde_json::from_str(item::text(item, CONTENT)?).ok()?);
        Some(InboxEntry {
            notification,
            position,
            acked_at: item::moment_of(item, ACKED_AT),
            read_at: item::effective_read_at(item, position, marks),
            archived_at: item::moment_of(item, ARCHIVED_AT),
        })
    };
    let entry = read();
    if entry.is_none() {
        metrics::counter!("recado_unreadable_items_total", "item" => "entry").increment(1);
        tracing::warn!(item = item::text(item, SORT_KEY).unwrap_or("?"), "an inbox entry cannot be read, and is left out");
    }
    entry
}

/// A query of the entries from `lowest` to `highest`, both included, that are neither read nor expired.
fn unread_between<K: Clock, E: Entropy>(
    inbox: &Inner<K, E>,
    of: &RecipientKey,
    (lowest, highest): (Position, Position),
    filter: &str,
) -> QueryFluentBuilder {
    query(
        inbox,
        of,
        "#pk = :pk AND #position BETWEEN :lowest AND :highest".to_owned(),
        format!("attribute_not_exists(#read_at){filter} AND ({UNEXPIRED})"),
    )
    .expression_attribute_values(":lowest", item::position(lowest))
    .expression_attribute_values(":highest", item::position(highest))
}

/// The unread entries above `above` up to `up_to`.
pub(super) async fn unread_ids<K: Clock, E: Entropy>(
    inbox: &Inner<K, E>,
    of: &RecipientKey,
    above: Position,
    up_to: Position,
) -> Outcome<Vec<NotificationId>> {
    let (mut ids, mut start) = (Vec::new(), None);
    if above >= up_to {
        return Ok(ids);
    }
    loop {
        let query =
            unread_between(inbox, of, (above.next(), up_to), "").projection_expression("#sk").expression_attribute_names("#sk", SORT_KEY);
        let answer = query.set_exclusive_start_key(start).send().await.map_err(|error| failure_of(&error))?;
        ids.extend(answer.items.unwrap_or_default().iter().filter_map(item::notification_of));
        start = more(answer.last_evaluated_key);
        if start.is_none() {
            return Ok(ids);
        }
    }
}

/// Counts what is neither read nor archived, the newest first, until the count is above its cap.
pub(super) async fn unread<K: Clock, E: Entropy>(inbox: &Inner<K, E>, of: &RecipientKey) -> Outcome<Unread> {
    let cap = limits::UNREAD_CAP;
    let marks = super::marks::read(inbox, of).await?;
    let lowest = marks.read_up_to.map_or(Position::MIN, Position::next);
    let (mut count, mut start) = (0, None);
    // Most of what is unread is new: the first query reads about as much as the cap may need, and no more than a
    // megabyte follows at once.
    let mut rows = i32::try_from(2 * (cap + 1)).ok();
    while count <= cap {
        let query = unread_between(inbox, of, (lowest, highest()), " AND attribute_not_exists(#archived_at)");
        let query = query.select(Select::Count).scan_index_forward(false).set_limit(rows.take()).set_exclusive_start_key(start);
        let answer = query.send().await.map_err(|error| failure_of(&error))?;
        count += u32::try_from(answer.count).unwrap_or(0);
        start = more(answer.last_evaluated_key);
        if start.is_none() {
            break;
        }
    }
    Ok(Unread { count: count.min(cap), capped: count > cap })
}

/// Where a query goes on, if it does.
fn more(key: Option<HashMap<String, AttributeValue>>) -> Option<HashMap<String, AttributeValue>> {
    key.filter(|key| !key.is_empty())
}
