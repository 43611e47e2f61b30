//! To whom nothing more is sent: insert if absent, so that the first cause stays. Must not know: who said so, and how mail is sent.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use recado_domain::address::AddressKey;
use recado_domain::failure::Failure;
use recado_domain::ports::{Clock, Entropy, Outcome, Suppression, SuppressionCause, Suppressions};

use super::append::insert_statement;
use super::batch::{self, STATEMENTS};
use super::item::{self, Item, Key};
use super::table::{CONCURRENT_CALLS, Table};
use super::{PARTITION_KEY, SORT_KEY};
use crate::clients::Clients;

const CAUSE: &str = "cause";
const SINCE: &str = "since";

/// [`Suppressions`] on DynamoDB. They have no time to live: kept until they are lifted.
pub struct DynamoSuppressions<K, E>(Arc<Inner<K, E>>);

struct Inner<K, E> {
    table: Table,
    clock: K,
    entropy: E,
}

impl<K, E> Clone for DynamoSuppressions<K, E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, E> fmt::Debug for DynamoSuppressions<K, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DynamoSuppressions").field(&self.0.table).finish()
    }
}

fn suppression(item: &Item) -> Outcome<Suppression> {
    let read = || Some(Suppression { cause: SuppressionCause::named(item::text(item, CAUSE)?)?, since: item::moment_of(item, SINCE)? });
    read().ok_or_else(|| Failure::permanent("the suppression cannot be read; it was not written by this version of Recado"))
}

/// Each address once, and for each that was asked for its place among them.
fn distinct(addresses: impl IntoIterator<Item = AddressKey>) -> (Vec<AddressKey>, Vec<usize>) {
    let (mut distinct, mut known) = (Vec::new(), HashMap::new());
    let place = |address| {
        *known.entry(address).or_insert_with(|| {
            distinct.push(address);
            distinct.len() - 1
        })
    };
    let places = addresses.into_iter().map(place).collect();
    (distinct, places)
}

impl<K: Clock, E: Entropy> DynamoSuppressions<K, E> {
    /// The suppressions in the table of this name.
    pub fn new(clients: &Clients, table: &str, clock: K, entropy: E) -> Self {
        Self(Arc::new(Inner { table: Table::new(clients, table), clock, entropy }))
    }
}

impl<K: Clock, E: Entropy> Inner<K, E> {
    /// Inserts one batch; one that is there already is as good.
    async fn insert(&self, batch: &[(AddressKey, SuppressionCause)]) -> Vec<Outcome<()>> {
        let since = self.clock.now();
        let statement = |at: usize, _| {
            let (address, cause) = batch[at];
            let Key { pk, sk } = Key::suppression(address);
            let attributes = vec![
                (PARTITION_KEY, item::string(pk)),
                (SORT_KEY, item::string(sk)),
                (CAUSE, item::string(cause.as_str())),
                (SINCE, item::moment(since)),
            ];
            insert_statement(&self.table, attributes)
        };
        let answers = batch::settle(&self.table, &self.entropy, batch.len(), statement).await;
        answers.into_iter().map(|answer| answer.map(drop).map_err(|broken| broken.failure)).collect()
    }

    /// Deletes one; says whether it was there. Where an answer is lost and the call repeated, it says no although it was.
    async fn delete(&self, address: AddressKey) -> Outcome<bool> {
        Ok(self.table.take(&Key::suppression(address)).await?.is_some())
    }
}

impl<K: Clock, E: Entropy> Suppressions for DynamoSuppressions<K, E> {
    async fn suppressed(&self, addresses: &[AddressKey]) -> Vec<Outcome<Option<Suppression>>> {
        let got = self.0.table.get_all(addresses.iter().copied().map(Key::suppression), &[], &self.0.entropy).await;
        addresses.iter().map(|address| got.item(&Key::suppression(*address))?.map(suppression).transpose()).collect()
    }

    async fn suppress(&self, addresses: &[(AddressKey, SuppressionCause)]) -> Vec<Outcome<()>> {
        let (distinct, places) = distinct(addresses.iter().map(|(address, _)| *address));
        // The first cause counts.
        let causes: HashMap<AddressKey, SuppressionCause> = addresses.iter().rev().copied().collect();
        let wanted: Vec<_> = distinct.into_iter().map(|address| (address, causes[&address])).collect();
        let calls: Vec<_> = wanted.chunks(STATEMENTS).map(|batch| self.0.insert(batch)).collect();
        let answers: Vec<Vec<_>> = stream::iter(calls).buffered(CONCURRENT_CALLS).collect().await;
        let answers: Vec<Outcome<()>> = answers.into_iter().flatten().collect();
        places.into_iter().map(|at| answers[at].clone()).collect()
    }

    async fn lift(&self, addresses: &[AddressKey]) -> Vec<Outcome<bool>> {
        let (distinct, places) = distinct(addresses.iter().copied());
        let calls: Vec<_> = distinct.into_iter().map(|address| self.0.delete(address)).collect();
        let mut answers: Vec<Outcome<bool>> = stream::iter(calls).buffered(CONCURRENT_CALLS).collect().await;
        // What was lifted is not there the second time.
        let again = |answer: &Outcome<bool>| answer.clone().map(|_| false);
        places
            .into_iter()
            .map(|at| {
                let later = again(&answers[at]);
                std::mem::replace(&mut answers[at], later)
            })
            .collect()
    }
}
