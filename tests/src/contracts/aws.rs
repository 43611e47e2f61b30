//! The ports on AWS, on the local AWS that `cargo xtask test` starts (`RECADO_TEST_AWS` is its URL).
//!
//! Each backend is an account of its own. Must not know: the contracts.

use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, LocalSecondaryIndex, Projection, ProjectionType, ScalarAttributeType,
};
use aws_sdk_sqs::types::QueueAttributeName;
use jiff::Timestamp;
use recado_aws::dynamo::{self, DynamoClaims, DynamoConnections, DynamoInbox, DynamoSuppressions, DynamoTickets};
use recado_aws::{Calls, Clients, GatewaySockets, SesMailer, SnsBus, SqsDeadLetters, SqsQueue};
use recado_domain::connection::CloseReason;
use recado_domain::ids::ConnectionId;
use recado_domain::ports::Clock;
use recado_memory::{ManualClock, SeededEntropy};
use recado_runtime::system::SystemClock;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_tungstenite::connect_async;

use super::backend::{Backend, Mail, SocketPeer};
use crate::harness::{Account, DEADLINE, eventually};

/// The name of every backend's table.
pub const TABLE: &str = "recado";
const STAGE: &str = "live";

/// Everything in one account of a local AWS.
pub struct Aws {
    local: Account,
    clients: Clients,
    clock: ManualClock,
    bus: SnsBus,
    inbox_queue: SqsQueue,
    email_queue: SqsQueue,
    dead_letters: SqsDeadLetters,
    inbox: DynamoInbox<ManualClock, SeededEntropy>,
    connections: DynamoConnections<ManualClock, SeededEntropy>,
    claims: DynamoClaims<ManualClock>,
    suppressions: DynamoSuppressions<ManualClock, SeededEntropy>,
    tickets: DynamoTickets<ManualClock>,
    mailer: SesMailer,
    sockets: GatewaySockets,
    api: String,
    inbox_queue_url: String,
    /// The ids of sockets that were opened so far.
    opened: Mutex<Vec<String>>,
}

/// An operation of API Gateway.
async fn gateway(local: &Account, path: &str, body: &Value) -> Value {
    local.ask(local.signed("apigateway", local.http.post(format!("{}{path}", local.endpoint)).json(body))).await
}

impl Aws {
    /// A fresh one whose calls are counted, those that make it included.
    pub async fn counted(calls: Calls) -> Self {
        Self::with(Some(calls)).await
    }

    /// The account's clients, for what no port does.
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// The clock of its adapters, which stands unless it is moved.
    pub fn clock(&self) -> &ManualClock {
        &self.clock
    }

    /// Messages of the inbox queue, whether somebody holds them or not.
    pub async fn inbox_depth(&self) -> usize {
        let wanted = [QueueAttributeName::ApproximateNumberOfMessages, QueueAttributeName::ApproximateNumberOfMessagesNotVisible];
        let call = self.clients.sqs.get_queue_attributes().queue_url(&self.inbox_queue_url).set_attribute_names(Some(wanted.to_vec()));
        let counts = call.send().await.expect("the queue is there").attributes.unwrap_or_default();
        wanted.iter().map(|name| counts[name].parse::<usize>().expect("a number")).sum()
    }

    async fn with(calls: Option<Calls>) -> Self {
        let local = Account::new();
        let clients = local.clients_counting(calls).await;
        let queues = ["inbox", "inbox-dead-letters", "email", "email-dead-letters"].map(|name| queue(&clients, name));
        let (queues, (), api, ()) = tokio::join!(
            futures_util::future::join_all(queues),
            create_table(&clients),
            create_api(&local),
            Account::verify_senders(&clients)
        );
        let topic = topic(&clients, &queues[0], &queues[2]).await;
        // Real time, since the local AWS collects by `ttl`; from here on it stands.
        let (clock, entropy) = (ManualClock::new(SystemClock.now()), SeededEntropy::new(7));
        let endpoint = format!("{}/_aws/execute-api/{api}/{STAGE}", local.endpoint);
        Self {
            bus: SnsBus::new(&clients, topic),
            inbox_queue: SqsQueue::new(&clients, &queues[0], &queues[1]),
            email_queue: SqsQueue::new(&clients, &queues[2], &queues[3]),
            dead_letters: SqsDeadLetters::new(&clients, &queues[0], &queues[1]),
            inbox: DynamoInbox::new(&clients, TABLE, clock.clone(), entropy.clone()),
            connections: DynamoConnections::new(&clients, TABLE, clock.clone(), entropy.clone()),
            claims: DynamoClaims::new(&clients, TABLE, clock.clone()),
            tickets: DynamoTickets::new(&clients, TABLE, clock.clone()),
            suppressions: DynamoSuppressions::new(&clients, TABLE, clock.clone(), entropy),
            mailer: SesMailer::new(&clients, None),
            sockets: GatewaySockets::new(&clients, &endpoint),
            api,
            opened: Mutex::default(),
            inbox_queue_url: queues[0].clone(),
            clients,
            clock,
            local,
        }
    }
}

async fn queue(clients: &Clients, name: &str) -> String {
    let created = clients.sqs.create_queue().queue_name(name).send().await.expect("a queue is created");
    created.queue_url.expect("a queue has a URL")
}

async fn subscribe(clients: &Clients, topic: &str, queue_url: &str, filter: Option<&Value>) {
    let wanted = clients.sqs.get_queue_attributes().queue_url(queue_url).attribute_names(QueueAttributeName::QueueArn);
    let arn = wanted.send().await.expect("the queue is there").attributes.unwrap_or_default().remove(&QueueAttributeName::QueueArn);
    let mut call = clients.sns.subscribe().topic_arn(topic).protocol("sqs").endpoint(arn.expect("a queue has an ARN"));
    call = call.attributes("RawMessageDelivery", "true");
    if let Some(filter) = filter {
        call = call.attributes("FilterPolicy", filter.to_string());
    }
    call.send().await.expect("a queue subscribes");
}

/// The topic with its two subscriptions: everything, and what asks for mail (DESIGN: the inbox one has no filter).
async fn topic(clients: &Clients, inbox_queue: &str, email_queue: &str) -> String {
    let created = clients.sns.create_topic().name("events").send().await.expect("a topic is created");
    let topic = created.topic_arn.expect("a topic has an ARN");
    subscribe(clients, &topic, inbox_queue, None).await;
    subscribe(clients, &topic, email_queue, Some(&json!({"channels": ["email"]}))).await;
    topic
}

/// The table of `infra/template.yaml`.
async fn create_table(clients: &Clients) {
    let attribute = |name: &str| {
        let definition = AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S);
        definition.build().expect("a complete definition")
    };
    let key = |name: &str, kind: KeyType| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().expect("a complete key");
    let index = LocalSecondaryIndex::builder()
        .index_name(dynamo::POSITION_INDEX)
        .key_schema(key(dynamo::PARTITION_KEY, KeyType::Hash))
        .key_schema(key(dynamo::POSITION, KeyType::Range))
        .projection(Projection::builder().projection_type(ProjectionType::All).build());
    let call = clients
        .dynamodb
        .create_table()
        .table_name(TABLE)
        .billing_mode(BillingMode::PayPerRequest)
        .set_attribute_definitions(Some([dynamo::PARTITION_KEY, dynamo::SORT_KEY, dynamo::POSITION].map(attribute).into()))
        .key_schema(key(dynamo::PARTITION_KEY, KeyType::Hash))
        .key_schema(key(dynamo::SORT_KEY, KeyType::Range))
        .local_secondary_indexes(index.build().expect("a complete index"));
    call.send().await.expect("a table is created");
}

/// A WebSocket API without routes accepts whoever comes.
async fn create_api(local: &Account) -> String {
    let api = json!({"name": "sockets", "protocolType": "WEBSOCKET", "routeSelectionExpression": "$request.body.type"});
    let created = gateway(local, "/v2/apis", &api).await;
    let id = created["apiId"].as_str().expect("an API has an id").to_owned();
    gateway(local, &format!("/v2/apis/{id}/stages"), &json!({"stageName": STAGE})).await;
    id
}

impl Backend for Aws {
    type Bus = SnsBus;
    type Queue = SqsQueue;
    type DeadLetters = SqsDeadLetters;
    type Inbox = DynamoInbox<ManualClock, SeededEntropy>;
    type Connections = DynamoConnections<ManualClock, SeededEntropy>;
    type Claims = DynamoClaims<ManualClock>;
    type Suppressions = DynamoSuppressions<ManualClock, SeededEntropy>;
    type Tickets = DynamoTickets<ManualClock>;
    type Mailer = SesMailer;
    type Sockets = GatewaySockets;
    type Peer = SocketPeer;

    async fn fresh() -> Self {
        Self::with(None).await
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.local.advance(by).await;
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The clock of SQS goes on while this one stands.
    fn clock_tolerance(&self) -> Duration {
        DEADLINE
    }

    /// DeleteConnection takes no code ("Amazon API Gateway Management API", DeleteConnection): a client reads that of a
    /// normal end.
    fn close_code(&self, _: CloseReason) -> u16 {
        1000
    }

    fn bus(&self) -> &SnsBus {
        &self.bus
    }

    fn inbox_queue(&self) -> &SqsQueue {
        &self.inbox_queue
    }

    fn email_queue(&self) -> &SqsQueue {
        &self.email_queue
    }

    fn dead_letters(&self) -> &SqsDeadLetters {
        &self.dead_letters
    }

    fn inbox(&self) -> &Self::Inbox {
        &self.inbox
    }

    fn connections(&self) -> &Self::Connections {
        &self.connections
    }

    fn claims(&self) -> &Self::Claims {
        &self.claims
    }

    fn suppressions(&self) -> &Self::Suppressions {
        &self.suppressions
    }

    fn tickets(&self) -> &Self::Tickets {
        &self.tickets
    }

    fn mailer(&self) -> &SesMailer {
        &self.mailer
    }

    async fn mails(&self) -> Vec<Mail> {
        self.local.mails().await.into_iter().map(|mail| (mail.from, mail.to, mail.message)).collect()
    }

    fn sockets(&self) -> &GatewaySockets {
        &self.sockets
    }

    async fn connect(&self) -> (ConnectionId, SocketPeer) {
        // One at a time, so that the id that is new is the one of this socket.
        let mut opened = self.opened.lock().await;
        let address = self.local.endpoint.replace("http://", "ws://");
        let (socket, _) = connect_async(format!("{address}/_aws/execute-api/{}/{STAGE}", self.api)).await.expect("the API accepts");
        let new = async || Ok(self.local.connections(&self.api).await.into_iter().find(|id| !opened.contains(id)));
        let id = eventually("the socket is open", new).await.expect("it opens");
        opened.push(id.clone());
        (ConnectionId::new(id).expect("a valid id"), SocketPeer(socket))
    }
}
