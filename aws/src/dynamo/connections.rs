//! Who is connected: one attribute per connection in the user's `STATE` item, and a reverse item per connection (R4).
//!
//! One `BatchGetItem` finds the connections of 100 users, and concurrent connects never overwrite each other, since each
//! writes an attribute of its own. A row is a map of five short attributes: 20 of them, the cap, are about 3 KB, so that a
//! lookup stays one read unit. Its name holds an id that may contain anything, and so only travels as a placeholder.
//!
//! Must not know: the sockets themselves.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use futures_util::future::join_all;
use jiff::Timestamp;
use recado_domain::connection::{Connection, Phase, Protocol};
use recado_domain::failure::Failure;
use recado_domain::ids::{ConnectionId, RecipientKey, TenantId, UserId};
use recado_domain::limits;
use recado_domain::ports::{Clock, Connections, Entropy, Outcome, Registered};

use super::item::{self, Item, Key};
use super::owners::Owners;
use super::table::Table;
use super::{PARTITION_KEY, TIME_TO_LIVE};
use crate::clients::Clients;
use crate::failure::failure_of;

/// How long after the last registration the rows of a user, and a reverse item, are collected: no connection is older than
/// [`limits::CONNECTION_ROW_AGE`] by then, and what nobody removed goes.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Begins the name of every attribute that is a connection's row.
const ROW: &str = "c_";
const PHASE: &str = "phase";
const CONNECTING: &str = "connecting";
const LIVE: &str = "live";
const REGISTERED_AT: &str = "since";
const TOKEN_EXPIRES_AT: &str = "until";
const PROTOCOL: &str = "protocol";
const DEVICE: &str = "device";
/// Of the reverse item: whose it is, and the row as it was registered.
const TENANT: &str = "tenant";
const USER: &str = "user";
const REGISTERED: &str = "row";

/// [`Connections`] on DynamoDB.
pub struct DynamoConnections<K, E>(Arc<Inner<K, E>>);

struct Inner<K, E> {
    table: Table,
    clock: K,
    entropy: E,
    owners: Owners,
}

impl<K, E> Clone for DynamoConnections<K, E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, E> fmt::Debug for DynamoConnections<K, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DynamoConnections").field(&self.0.table).finish()
    }
}

fn row_name(id: &ConnectionId) -> String {
    format!("{ROW}{id}")
}

fn to_map(row: &Connection) -> AttributeValue {
    let phase = match row.phase {
        Phase::Connecting => CONNECTING,
        Phase::Live => LIVE,
    };
    let protocol = match row.protocol {
        Protocol::Plain => "plain",
        Protocol::Recado => "recado",
    };
    let mut map = Item::from([
        (PHASE.to_owned(), item::string(phase)),
        (REGISTERED_AT.to_owned(), item::moment(row.registered_at)),
        (TOKEN_EXPIRES_AT.to_owned(), item::moment(row.token_expires_at)),
        (PROTOCOL.to_owned(), item::string(protocol)),
    ]);
    map.extend(row.device.as_ref().map(|device| (DEVICE.to_owned(), item::string(device))));
    AttributeValue::M(map)
}

fn from_map(id: ConnectionId, value: &AttributeValue) -> Option<Connection> {
    let map = value.as_m().ok()?;
    let phase = match item::text(map, PHASE)? {
        CONNECTING => Phase::Connecting,
        LIVE => Phase::Live,
        _ => return None,
    };
    let protocol = match item::text(map, PROTOCOL)? {
        "plain" => Protocol::Plain,
        "recado" => Protocol::Recado,
        _ => return None,
    };
    let registered_at = item::moment_of(map, REGISTERED_AT)?;
    let token_expires_at = item::moment_of(map, TOKEN_EXPIRES_AT)?;
    let device = item::text(map, DEVICE).map(ToOwned::to_owned);
    Some(Connection { id, phase, registered_at, token_expires_at, protocol, device })
}

/// What a reverse item says; nothing where it was not written by this version of Recado.
fn read_owner(id: &ConnectionId, item: &Item) -> Option<(RecipientKey, Connection)> {
    let tenant = TenantId::new(item::text(item, TENANT)?).ok()?;
    let user = UserId::new(item::text(item, USER)?).ok()?;
    Some((RecipientKey::new(tenant, user), from_map(id.clone(), item.get(REGISTERED)?)?))
}

/// The rows of a user's state, oldest first. One that cannot be read was not written by this version of Recado: it is
/// left out, and goes with the item.
fn rows(state: &Item) -> Vec<Connection> {
    let mut rows = Vec::new();
    for (name, value) in state {
        let Some(id) = name.strip_prefix(ROW) else { continue };
        match ConnectionId::new(id).ok().and_then(|id| from_map(id, value)) {
            Some(row) => rows.push(row),
            None => {
                metrics::counter!("recado_unreadable_items_total", "item" => "connection").increment(1);
                tracing::warn!(connection = id, "the row of a connection cannot be read, and is left out");
            }
        }
    }
    rows.sort_by(|one, other| (one.registered_at, &one.id).cmp(&(other.registered_at, &other.id)));
    rows
}

/// Stale rows, and rows above the cap, the oldest of those; never `new`.
fn superfluous(rows: Vec<Connection>, new: &ConnectionId, now: Timestamp) -> (Vec<Connection>, Vec<Connection>) {
    let others = rows.into_iter().filter(|row| row.id != *new);
    let (stale, mut kept): (Vec<_>, Vec<_>) = others.partition(|row| row.is_stale(now));
    // The new one counts too.
    kept.truncate((kept.len() + 1).saturating_sub(limits::CONNECTIONS_PER_USER));
    (stale, kept)
}

impl<K: Clock, E: Entropy> DynamoConnections<K, E> {
    /// The connections in the table of this name.
    pub fn new(clients: &Clients, table: &str, clock: K, entropy: E) -> Self {
        Self(Arc::new(Inner { table: Table::new(clients, table), clock, entropy, owners: Owners::new() }))
    }
}

impl<K: Clock, E: Entropy> Inner<K, E> {
    fn collect_at(&self) -> AttributeValue {
        item::seconds(self.clock.now().checked_add(KEPT).unwrap_or(Timestamp::MAX))
    }

    fn update_state(&self, recipient: &RecipientKey) -> UpdateItemFluentBuilder {
        self.table.update(&Key::state(recipient))
    }

    /// Writes the reverse item; one that is there keeps the row as it was registered, unless this `replaces` it.
    async fn put_owner(&self, recipient: &RecipientKey, row: &Connection, replaces: bool) -> Outcome<()> {
        let mut item = Key::connection(&row.id).attributes();
        item.insert(TENANT.to_owned(), item::string(recipient.tenant.as_str()));
        item.insert(USER.to_owned(), item::string(recipient.user.as_str()));
        item.insert(REGISTERED.to_owned(), to_map(row));
        item.insert(TIME_TO_LIVE.to_owned(), self.collect_at());
        let mut put = self.table.put(item);
        if !replaces {
            put = put.condition_expression("attribute_not_exists(#pk)").expression_attribute_names("#pk", PARTITION_KEY);
        }
        match put.send().await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.as_service_error(), Some(PutItemError::ConditionalCheckFailedException(_))) => Ok(()),
            Err(error) => Err(failure_of(&error)),
        }
    }

    /// Removes the reverse item where it is this recipient's.
    async fn remove_owner(&self, recipient: &RecipientKey, id: &ConnectionId) -> Outcome<()> {
        self.owners.forget(id);
        let delete = self
            .table
            .delete(&Key::connection(id))
            .condition_expression("#tenant = :tenant AND #user = :user")
            .expression_attribute_names("#tenant", TENANT)
            .expression_attribute_names("#user", USER)
            .expression_attribute_values(":tenant", item::string(recipient.tenant.as_str()))
            .expression_attribute_values(":user", item::string(recipient.user.as_str()));
        match delete.send().await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.as_service_error(), Some(DeleteItemError::ConditionalCheckFailedException(_))) => Ok(()),
            Err(error) => Err(failure_of(&error)),
        }
    }

    fn put_row(&self, recipient: &RecipientKey, row: &Connection) -> UpdateItemFluentBuilder {
        self.update_state(recipient)
            .update_expression("SET #row = :row, #ttl = :ttl")
            .expression_attribute_names("#row", row_name(&row.id))
            .expression_attribute_names("#ttl", TIME_TO_LIVE)
            .expression_attribute_values(":row", to_map(row))
            .expression_attribute_values(":ttl", self.collect_at())
    }

    /// Writes a row, unless it is live already: the SDK sends a request again whose answer is late, and the first may arrive
    /// after the socket was proved. Answers the state with all rows, or without any where it was live.
    async fn put_new_row(&self, recipient: &RecipientKey, row: &Connection) -> Outcome<Item> {
        let update = self
            .put_row(recipient, row)
            .condition_expression("attribute_not_exists(#row) OR #row.#phase <> :live")
            .expression_attribute_names("#phase", PHASE)
            .expression_attribute_values(":live", item::string(LIVE))
            .return_values(ReturnValue::AllNew);
        match update.send().await {
            Ok(answer) => Ok(answer.attributes.unwrap_or_default()),
            Err(error) if matches!(error.as_service_error(), Some(UpdateItemError::ConditionalCheckFailedException(_))) => Ok(Item::new()),
            Err(error) => Err(failure_of(&error)),
        }
    }

    /// Removes what is stale or above the cap. Says what was above the cap: the reverse items of those stay until their
    /// sockets are gone, so that somebody can say whose they are.
    async fn prune(&self, recipient: &RecipientKey, state: &Item, new: &ConnectionId) -> Outcome<Vec<Connection>> {
        let (stale, replaced) = superfluous(rows(state), new, self.clock.now());
        if stale.is_empty() && replaced.is_empty() {
            return Ok(replaced);
        }
        let (mut update, mut placeholders) = (self.update_state(recipient), Vec::new());
        for (at, row) in stale.iter().chain(&replaced).enumerate() {
            let placeholder = format!("#row{at}");
            update = update.expression_attribute_names(&placeholder, row_name(&row.id));
            placeholders.push(placeholder);
        }
        let update = update.update_expression(format!("REMOVE {}", placeholders.join(", ")));
        update.send().await.map_err(|error| failure_of(&error))?;
        join_all(stale.iter().map(|row| self.remove_owner(recipient, &row.id))).await.into_iter().collect::<Outcome<()>>()?;
        Ok(replaced)
    }

    /// Makes a row that is there live; says whether it was there.
    async fn prove(&self, recipient: &RecipientKey, live: &Connection) -> Outcome<bool> {
        let update = self
            .update_state(recipient)
            .update_expression("SET #row = :row")
            .condition_expression("attribute_exists(#row)")
            .expression_attribute_names("#row", row_name(&live.id))
            .expression_attribute_values(":row", to_map(live));
        held(update.send().await)
    }
}

/// Whether the condition of an update held.
fn held<T>(answer: Result<T, SdkError<UpdateItemError>>) -> Outcome<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.as_service_error(), Some(UpdateItemError::ConditionalCheckFailedException(_))) => Ok(false),
        Err(error) => Err(failure_of(&error)),
    }
}

impl<K: Clock, E: Entropy> Connections for DynamoConnections<K, E> {
    async fn register(&self, recipient: &RecipientKey, connection: &Connection) -> Outcome<Registered> {
        self.0.owners.forget(&connection.id);
        self.0.put_owner(recipient, connection, true).await?;
        let state = self.0.put_new_row(recipient, connection).await?;
        // The new row is written, and what is left over is pruned by the next one: no reason to refuse the client.
        let replaced = self.0.prune(recipient, &state, &connection.id).await.unwrap_or_else(|failure| {
            tracing::warn!(user = %recipient.user, reason = failure.reason(), "superfluous connections not removed; the next one does it");
            Vec::new()
        });
        Ok(Registered { replaced })
    }

    async fn of_users(&self, recipients: &[RecipientKey]) -> Vec<Outcome<Vec<Connection>>> {
        let got = self.0.table.get_all(recipients.iter().map(Key::state), &[], &self.0.entropy).await;
        let of_user = |of: &RecipientKey| Ok(got.item(&Key::state(of))?.map(rows).unwrap_or_default());
        recipients.iter().map(of_user).collect()
    }

    async fn owner(&self, id: &ConnectionId) -> Outcome<Option<(RecipientKey, Connection)>> {
        if let Some(owner) = self.0.owners.get(id) {
            return Ok(Some(owner));
        }
        let Some(item) = self.0.table.get(&Key::connection(id)).await? else { return Ok(None) };
        let owner = read_owner(id, &item).ok_or_else(|| {
            Failure::permanent("the item of this connection cannot be read; it was not written by this version of Recado")
        })?;
        self.0.owners.remember(&owner);
        Ok(Some(owner))
    }

    async fn mark_live(&self, recipient: &RecipientKey, connection: &Connection, create: bool) -> Outcome<bool> {
        let live = connection.live();
        if self.0.prove(recipient, &live).await? {
            return Ok(true);
        }
        if create {
            self.0.put_owner(recipient, &live, false).await?;
            self.0.put_row(recipient, &live).send().await.map_err(|error| failure_of(&error))?;
        }
        Ok(create)
    }

    async fn remove(&self, recipient: &RecipientKey, id: &ConnectionId) -> Outcome<()> {
        // Without the condition a removal would create the state of a user who has none.
        let update = self
            .0
            .update_state(recipient)
            .update_expression("REMOVE #row")
            .condition_expression("attribute_exists(#row)")
            .expression_attribute_names("#row", row_name(id));
        held(update.send().await)?;
        self.0.remove_owner(recipient, id).await
    }

    async fn remove_unchanged(&self, recipient: &RecipientKey, seen: &Connection) -> Outcome<bool> {
        let update = self
            .0
            .update_state(recipient)
            .update_expression("REMOVE #row")
            .condition_expression("#row = :seen")
            .expression_attribute_names("#row", row_name(&seen.id))
            .expression_attribute_values(":seen", to_map(seen));
        // Where an answer is lost and the call repeated, this says no although it did: the reverse item is then collected.
        let removed = held(update.send().await)?;
        if removed {
            self.0.remove_owner(recipient, &seen.id).await?;
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, device: Option<&str>) -> Connection {
        let registered_at = Timestamp::from_nanosecond(1_700_000_000_123_456_789).unwrap();
        Connection {
            id: ConnectionId::new(id).unwrap(),
            phase: Phase::Connecting,
            registered_at,
            token_expires_at: registered_at + Duration::from_secs(3600),
            protocol: Protocol::Recado,
            device: device.map(ToOwned::to_owned),
        }
    }

    #[test]
    fn a_row_reads_back_as_it_was_written() {
        for row in [row("a=", Some("Firefox, Grüße")), row("#/+b=", None), row("a=", None).live()] {
            let state = Item::from([(row_name(&row.id), to_map(&row)), ("ttl".to_owned(), item::seconds(row.registered_at))]);
            assert_eq!(rows(&state), [row]);
        }
    }

    #[test]
    fn a_row_of_another_version_hides_no_other() {
        let good = row("a=", None);
        let mut odd = to_map(&good).as_m().unwrap().clone();
        odd.insert(PHASE.to_owned(), item::string("drowsy"));
        let state = Item::from([
            (row_name(&good.id), to_map(&good)),
            ("c_odd".to_owned(), AttributeValue::M(odd)),
            ("c_".to_owned(), to_map(&good)),
            ("c_text".to_owned(), item::string("live")),
        ]);
        assert_eq!(rows(&state), [good]);
    }

    #[test]
    fn a_user_with_as_many_connections_as_the_cap_costs_one_read_unit() {
        let size = |name: &str, value: &AttributeValue| {
            // Names and texts count their bytes, a number half of its digits and one, a map 3 and its parts
            // ("DynamoDB item sizes and formats").
            let parts: usize =
                value.as_m().unwrap().iter().map(|(name, value)| name.len() + 1 + value.as_s().map_or(11, String::len)).sum();
            name.len() + 3 + parts
        };
        // As API Gateway names connections, and a device that says more than its browser.
        let row = row("L0SM9cOFvHcCIhw=", Some("Firefox 145 on Linux, the one in the office"));
        assert!(limits::CONNECTIONS_PER_USER * size(&row_name(&row.id), &to_map(&row)) < 4_096);
    }
}
