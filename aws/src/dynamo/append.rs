//! Insert if absent, 25 entries a call, and what is stored where one was there already (R1, R6).
//!
//! `INSERT` of PartiQL fails with `DuplicateItem` where the key is taken, so a repeated append can never reset a state.
//! A position is taken anew for every attempt: a call is never sent again as it is. An entry whose answer is a
//! duplicate, or none, is read back, and the *stored* position is answered, whoever wrote it.
//!
//! Must not know: who is connected, what is done with an answer.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_dynamodb::types::{AttributeValue, BatchStatementRequest};
use futures_util::{StreamExt, stream};
use recado_domain::failure::Failure;
use recado_domain::ids::DeliveryKey;
use recado_domain::notification::{Appended, NewEntry, Notification};
use recado_domain::ports::{Clock, Entropy, Marks, Outcome};
use recado_domain::position::Position;

use super::batch::{self, STATEMENTS, Said};
use super::inbox::Inner;
use super::item::{self, ACKED_AT, ARCHIVED_AT, CONTENT, EXPIRES_AT, Item, Key, READ_AT, READ_UP_TO};
use super::table::{Broken, CONCURRENT_CALLS, Table};
use super::{PARTITION_KEY, POSITION, SORT_KEY, TIME_TO_LIVE};

/// What an answer needs of a stored entry, and of the marks of its owner.
pub(super) const STORED: [&str; 5] = [POSITION, ACKED_AT, READ_AT, ARCHIVED_AT, READ_UP_TO];

/// One entry to insert, with its content rendered once for all recipients of it.
struct Wanted<'a> {
    entry: &'a NewEntry,
    key: Key,
    content: Arc<str>,
}

/// What the attempts to insert an entry came to.
struct Fate {
    /// The positions it was sent with. One of them stored is ours.
    sent: Vec<Position>,
    said: Result<Said, Broken>,
}

/// Inserts what is absent; answers what is stored, in order. Keys may repeat.
pub(super) async fn append<K: Clock, E: Entropy>(inbox: &Inner<K, E>, entries: &[NewEntry]) -> Vec<Outcome<Appended>> {
    let (wanted, place) = distinct(entries);
    let calls: Vec<_> = wanted.chunks(STATEMENTS).map(|batch| insert(inbox, batch)).collect();
    let fates: Vec<Fate> = stream::iter(calls).buffered(CONCURRENT_CALLS).collect::<Vec<_>>().await.into_iter().flatten().collect();
    let mut answers = read_back(inbox, &wanted, fates).await;
    let repeat = |answer: &Outcome<Appended>| answer.clone().map(|appended| Appended { inserted: false, ..appended });
    place
        .into_iter()
        .map(|at| {
            let later = repeat(&answers[at]);
            std::mem::replace(&mut answers[at], later)
        })
        .collect()
}

/// Each key once, since a call must not name one twice, and for each entry its place among them.
fn distinct(entries: &[NewEntry]) -> (Vec<Wanted<'_>>, Vec<usize>) {
    let mut rendered: HashMap<*const Notification, Arc<str>> = HashMap::new();
    let mut known: HashMap<DeliveryKey, usize> = HashMap::with_capacity(entries.len());
    let (mut wanted, mut place) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
    for entry in entries {
        let delivery = entry.key();
        let key = Key::entry(&delivery);
        let at = *known.entry(delivery).or_insert_with(|| {
            let content = rendered.entry(Arc::as_ptr(&entry.notification)).or_insert_with(|| render(&entry.notification));
            wanted.push(Wanted { entry, key, content: Arc::clone(content) });
            wanted.len() - 1
        });
        place.push(at);
    }
    (wanted, place)
}

fn render(notification: &Notification) -> Arc<str> {
    serde_json::to_string(notification).expect("a notification has string keys only").into()
}

/// Sends one batch, each entry at a position of the moment of its attempt.
async fn insert<K: Clock, E: Entropy>(inbox: &Inner<K, E>, batch: &[Wanted<'_>]) -> Vec<Fate> {
    let mut sent = vec![Vec::new(); batch.len()];
    let statement = |at: usize, _| {
        let position = inbox.take_position();
        sent[at].push(position);
        statement(inbox, &batch[at], position)
    };
    let said = batch::settle(&inbox.table, &inbox.entropy, batch.len(), statement).await;
    sent.into_iter().zip(said).map(|(sent, said)| Fate { sent, said }).collect()
}

fn statement<K: Clock, E: Entropy>(inbox: &Inner<K, E>, wanted: &Wanted<'_>, at: Position) -> BatchStatementRequest {
    let Wanted { entry: NewEntry { notification, .. }, key, content } = wanted;
    let mut attributes: Vec<(&str, AttributeValue)> = vec![
        (PARTITION_KEY, item::string(&key.pk)),
        (SORT_KEY, item::string(&key.sk)),
        (POSITION, item::position(at)),
        (CONTENT, item::string(&**content)),
        (TIME_TO_LIVE, item::seconds(notification.collect_at(inbox.clock.now()))),
    ];
    attributes.extend(notification.expires_at.map(|expires_at| (EXPIRES_AT, item::moment(expires_at))));
    insert_statement(&inbox.table, attributes)
}

/// An `INSERT` of these attributes.
pub(super) fn insert_statement(table: &Table, attributes: Vec<(&str, AttributeValue)>) -> BatchStatementRequest {
    let names = attributes.iter().map(|(name, _)| format!("'{name}': ?")).collect::<Vec<_>>().join(", ");
    let values = attributes.into_iter().map(|(_, value)| value).collect();
    BatchStatementRequest::builder()
        .statement(format!("INSERT INTO \"{}\" VALUE {{{names}}}", table.name))
        .set_parameters(Some(values))
        .build()
        .expect("the statement is set")
}

impl Fate {
    /// Whether only the store can tell what is there.
    fn needs_reading(&self) -> bool {
        match &self.said {
            Ok(Said::Done) => false,
            Ok(Said::Taken | Said::Unmet(_)) => true,
            Err(broken) => broken.maybe_done,
        }
    }

    fn answer(&self, stored: impl FnOnce() -> Outcome<Option<Appended>>) -> Outcome<Appended> {
        match &self.said {
            Ok(Said::Done) => {
                let position = *self.sent.last().expect("what was done was sent");
                Ok(Appended { position, inserted: true, acked_at: None, read_at: None, archived_at: None })
            }
            Ok(Said::Taken | Said::Unmet(_)) => {
                stored()?.ok_or_else(|| Failure::transient("the entry was there, and is gone")).map(|appended| self.with_origin(appended))
            }
            Err(broken) if !broken.maybe_done => Err(broken.failure.clone()),
            Err(broken) => match stored() {
                Ok(Some(appended)) => Ok(self.with_origin(appended)),
                Ok(None) | Err(_) => Err(broken.failure.clone()),
            },
        }
    }

    /// An entry that stands where we sent it is ours, although its answer was lost.
    fn with_origin(&self, stored: Appended) -> Appended {
        Appended { inserted: self.sent.contains(&stored.position), ..stored }
    }
}

/// Answers each entry, reading back those of which only the store can tell, with the marks of their owners.
async fn read_back<K: Clock, E: Entropy>(inbox: &Inner<K, E>, wanted: &[Wanted<'_>], fates: Vec<Fate>) -> Vec<Outcome<Appended>> {
    let unclear = || wanted.iter().zip(&fates).filter(|(_, fate)| fate.needs_reading()).map(|(wanted, _)| wanted);
    let keys: Vec<Key> = unclear().flat_map(|wanted| [wanted.key.clone(), Key::marks(&wanted.entry.recipient)]).collect();
    let got = inbox.table.get_all(keys, &STORED, &inbox.entropy).await;
    let stored = |wanted: &Wanted<'_>| {
        let marks = item::marks_of(got.item(&Key::marks(&wanted.entry.recipient))?);
        got.item(&wanted.key)?.map(|item| stored(item, marks)).transpose()
    };
    wanted.iter().zip(&fates).map(|(wanted, fate)| fate.answer(|| stored(wanted))).collect()
}

/// What an inbox holds, as an append or a stamp answers it.
pub(super) fn stored(item: &Item, marks: Marks) -> Outcome<Appended> {
    let position =
        item::stands_at(item).ok_or_else(|| Failure::permanent("the stored entry has no position; it was not written by Recado"))?;
    Ok(Appended {
        position,
        inserted: false,
        acked_at: item::moment_of(item, ACKED_AT),
        read_at: item::effective_read_at(item, position, marks),
        archived_at: item::moment_of(item, ARCHIVED_AT),
    })
}
