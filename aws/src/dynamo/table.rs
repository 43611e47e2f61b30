//! The table: what every item's call has in common.
//!
//! Reads are strongly consistent (R2). What comes back unprocessed, or fails for some entries of a batch, is tried again
//! here, since the SDK retries whole calls alone. Must not know: what an item means.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::delete_item::builders::DeleteItemFluentBuilder;
use aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{BatchStatementRequest, BatchStatementResponse, KeysAndAttributes, ReturnValue};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use futures_util::{StreamExt, stream};
use recado_domain::failure::Failure;
use recado_domain::ports::{Entropy, Outcome};
use recado_runtime::backoff::full_jitter;

use super::item::{Item, Key};
use crate::clients::Clients;
use crate::failure::failure_of;

/// Keys of one `BatchGetItem` ("Quotas in Amazon DynamoDB").
const BATCH_GETS: usize = 100;
/// Calls of one batch that run at the same time: enough to hide a round trip, too few to starve others of connections.
pub(crate) const CONCURRENT_CALLS: usize = 8;
/// How often one batch is sent for what is left of it. Three appends of 8 s each end within W/2 (R6).
pub(crate) const ATTEMPTS: u32 = 3;
/// Before the second attempt at most so long, twice as long before the third (full jitter).
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A table and its clients. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Table {
    /// Repeats a call that failed as a whole.
    pub(crate) client: Client,
    /// Sends a call once: for what must not be sent again as it is.
    pub(crate) once: Client,
    pub(crate) name: Arc<str>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a batch of reads found. A key that is in neither has no item.
#[derive(Debug, Default)]
pub(crate) struct Got {
    pub(crate) found: HashMap<Key, Item>,
    pub(crate) failed: HashMap<Key, Failure>,
}

impl Got {
    /// The item of a key, if there is one.
    pub(crate) fn item(&self, key: &Key) -> Outcome<Option<&Item>> {
        match self.failed.get(key) {
            Some(failure) => Err(failure.clone()),
            None => Ok(self.found.get(key)),
        }
    }
}

impl Table {
    pub(crate) fn new(clients: &Clients, name: impl Into<Arc<str>>) -> Self {
        Self { client: clients.dynamodb.clone(), once: clients.dynamodb_appends.clone(), name: name.into() }
    }

    /// One item.
    pub(crate) async fn get(&self, key: &Key) -> Outcome<Option<Item>> {
        let get = self.client.get_item().table_name(&*self.name).set_key(Some(key.attributes())).consistent_read(true);
        get.send().await.map(|answer| answer.item).map_err(|error| failure_of(&error))
    }

    /// Writes a whole item.
    pub(crate) fn put(&self, item: Item) -> PutItemFluentBuilder {
        self.client.put_item().table_name(&*self.name).set_item(Some(item))
    }

    /// Changes an item, or makes it.
    pub(crate) fn update(&self, key: &Key) -> UpdateItemFluentBuilder {
        self.client.update_item().table_name(&*self.name).set_key(Some(key.attributes()))
    }

    /// Deletes an item, if it is there.
    pub(crate) fn delete(&self, key: &Key) -> DeleteItemFluentBuilder {
        self.client.delete_item().table_name(&*self.name).set_key(Some(key.attributes()))
    }

    /// Deletes an item and answers it. DynamoDB hands it to one deletion alone; where that answer is lost and the call
    /// repeated, nobody gets it.
    pub(crate) async fn take(&self, key: &Key) -> Outcome<Option<Item>> {
        let answer = self.delete(key).return_values(ReturnValue::AllOld).send().await.map_err(|error| failure_of(&error))?;
        Ok(answer.attributes.filter(|item| !item.is_empty()))
    }

    /// Items by key, any number of them, in calls of [`BATCH_GETS`]. `attributes` are all that is wanted of each, beside its key;
    /// none of them means all. A key may come twice.
    pub(crate) async fn get_all(&self, keys: impl IntoIterator<Item = Key>, attributes: &[&str], entropy: &impl Entropy) -> Got {
        // A key that comes twice in one call is a validation error.
        let distinct: Vec<Key> = keys.into_iter().collect::<HashSet<_>>().into_iter().collect();
        let calls = distinct.chunks(BATCH_GETS).map(|keys| self.get_batch(keys.to_vec(), attributes, entropy));
        // Collected first: a closure over borrowed chunks is not general enough for a stream of `Send` futures.
        let calls: Vec<_> = calls.collect();
        let mut answers = stream::iter(calls).buffer_unordered(CONCURRENT_CALLS);
        let mut got = Got::default();
        while let Some(answer) = answers.next().await {
            got.found.extend(answer.found);
            got.failed.extend(answer.failed);
        }
        got
    }

    /// One call, and again for what it left unprocessed.
    async fn get_batch(&self, keys: Vec<Key>, attributes: &[&str], entropy: &impl Entropy) -> Got {
        let mut got = Got::default();
        let mut open = keys;
        for attempt in 1..=ATTEMPTS {
            let wanted = wanted(&open, attributes);
            let answer = match self.client.batch_get_item().request_items(&*self.name, wanted).send().await {
                Ok(answer) => answer,
                Err(error) => {
                    let failure = failure_of(&error);
                    got.failed.extend(open.into_iter().map(|key| (key, failure.clone())));
                    return got;
                }
            };
            let items = answer.responses.into_iter().flat_map(HashMap::into_values).flatten();
            got.found.extend(items.filter_map(|item| Some((Key::of(&item)?, item))));
            let left = answer.unprocessed_keys.unwrap_or_default();
            open = left.values().flat_map(KeysAndAttributes::keys).filter_map(Key::of).collect();
            if open.is_empty() {
                return got;
            }
            if attempt < ATTEMPTS {
                pause(attempt, entropy).await;
            }
        }
        let failure = Failure::transient("DynamoDB BatchGetItem: throttled: keys were left unprocessed again and again");
        got.failed.extend(open.into_iter().map(|key| (key, failure.clone())));
        got
    }

    /// Sends statements once; answers one by one, in order. The table is named in each of them already.
    pub(crate) async fn execute(&self, statements: Vec<BatchStatementRequest>) -> Result<Vec<BatchStatementResponse>, Broken> {
        let answer = self.once.batch_execute_statement().set_statements(Some(statements)).send().await;
        answer.map(|answer| answer.responses.unwrap_or_default()).map_err(|error| Broken::of(&error))
    }
}

/// A call that failed as a whole.
#[derive(Debug, Clone)]
pub(crate) struct Broken {
    pub(crate) failure: Failure,
    /// Whether some of it may have been done all the same.
    pub(crate) maybe_done: bool,
}

impl Broken {
    fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: aws_smithy_types::error::metadata::ProvideErrorMetadata + std::error::Error + 'static,
    {
        // An answer of 4xx says that nothing was done; no answer, or one of 5xx, says nothing of the sort.
        let refused = matches!(error, SdkError::ServiceError(answer) if answer.raw().status().is_client_error());
        let unsent = matches!(error, SdkError::ConstructionFailure(_));
        Self { failure: failure_of(error), maybe_done: !refused && !unsent }
    }
}

fn wanted(keys: &[Key], attributes: &[&str]) -> KeysAndAttributes {
    let mut wanted = KeysAndAttributes::builder().consistent_read(true).set_keys(Some(keys.iter().map(Key::attributes).collect()));
    if !attributes.is_empty() {
        let names = [super::PARTITION_KEY, super::SORT_KEY].iter().chain(attributes);
        let placeholders: Vec<(String, String)> = names.enumerate().map(|(at, name)| (format!("#a{at}"), (*name).to_owned())).collect();
        let expression = placeholders.iter().map(|(placeholder, _)| placeholder.as_str()).collect::<Vec<_>>().join(", ");
        wanted = wanted.projection_expression(expression).set_expression_attribute_names(Some(placeholders.into_iter().collect()));
    }
    wanted.build().expect("keys are set")
}

/// Waits before the attempt after `attempt`.
pub(crate) async fn pause(attempt: u32, entropy: &impl Entropy) {
    tokio::time::sleep(full_jitter(attempt, PAUSE, LONGEST_PAUSE, entropy)).await;
}
