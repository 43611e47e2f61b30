//! The store as a whole: what survives a crash, who may open it, what is in the way. The ports themselves are
//! tested by the contract suites.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use recado_domain::event::Event;
use recado_domain::ids::{ConnectionId, DeliveryKey, NotificationId, RecipientKey, TenantId, UserId};
use recado_domain::limits;
use recado_domain::notification::NewEntry;
use recado_domain::ports::{
    Claim, Clock, Connections, DeadLetters, EventBus, Inbox, MailClaims, Mailer, Outgoing, OutgoingMail, PageFilter, Queue, Received,
};
use recado_domain::position::Position;
use recado_memory::{ManualClock, SeededEntropy};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::store::{DATABASE_FILE, OpenError};
use crate::writer::{Change, Durability};
use crate::{QueueName, Store};

const LEASE: Duration = Duration::from_secs(60);
/// How long a test waits for what must happen.
const DEADLINE: Duration = Duration::from_secs(20);

fn open(dir: &Path, clock: &ManualClock) -> Result<Store, OpenError> {
    Store::open(dir, Arc::new(clock.clone()), Arc::new(SeededEntropy::new(1)))
}

fn open_shared(dir: &Path, clock: &ManualClock) -> Result<Store, OpenError> {
    Store::open_shared(dir, Arc::new(clock.clone()), Arc::new(SeededEntropy::new(2)))
}

fn fresh() -> (Store, ManualClock, TempDir) {
    let (folder, clock) = (tempfile::tempdir().unwrap(), ManualClock::default());
    (open(folder.path(), &clock).unwrap(), clock, folder)
}

/// The folder as a crash at this moment leaves it.
fn crashed(folder: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in [DATABASE_FILE, "recado.db-wal"] {
        std::fs::copy(folder.path().join(file), copy.path().join(file)).unwrap();
    }
    copy
}

fn event(id: &str, title: &str) -> Event {
    let data = json!({"recipients": [{"id": "alice", "email": "alice@example.com"}], "channels": ["inbox", "email"], "title": title});
    Event::from_value(json!({"specversion": "1.0", "id": id, "source": "/tests", "type": "test.done", "data": data})).unwrap()
}

fn alice() -> RecipientKey {
    RecipientKey::new(TenantId::default(), UserId::new("alice").unwrap())
}

fn entry(id: &str, title: &str, recipient: RecipientKey, clock: &ManualClock) -> NewEntry {
    NewEntry { recipient, notification: Arc::new(event(id, title).notification(clock.now())) }
}

fn delivery(id: &str) -> DeliveryKey {
    DeliveryKey { recipient: alice(), notification: NotificationId::of("/tests", id) }
}

async fn receive(store: &Store, queue: QueueName) -> Vec<Received> {
    store.queue(queue).receive(10, Duration::ZERO, LEASE).await.unwrap()
}

async fn titles(store: &Store) -> Vec<String> {
    let page = store.inbox().page(&alice(), None, PageFilter::Inbox, 10).await.unwrap();
    page.entries.iter().filter_map(|entry| entry.notification.title.clone()).collect()
}

#[tokio::test]
async fn a_crash_loses_nothing_that_was_answered() {
    let (store, clock, folder) = fresh();
    store.bus().publish(&[event("1", "one")]).await.remove(0).unwrap();
    store.inbox().append(&[entry("2", "two", alice(), &clock)]).await.remove(0).unwrap();
    store.claims().confirm(&delivery("3")).await.unwrap();
    let after = crashed(&folder);
    let again = open(after.path(), &clock).unwrap();
    assert_eq!(receive(&again, QueueName::Inbox).await.len(), 1);
    assert_eq!(receive(&again, QueueName::Email).await.len(), 1);
    assert_eq!(titles(&again).await, ["two"]);
    assert_eq!(again.claims().claim(&delivery("3"), "me", LEASE).await, Ok(Claim::Sent));
}

#[tokio::test]
async fn what_a_crashed_process_had_received_is_received_again_at_once() {
    let (store, clock, folder) = fresh();
    store.bus().publish(&[event("1", "one")]).await.remove(0).unwrap();
    let before = receive(&store, QueueName::Inbox).await;
    let after = crashed(&folder);
    let again = open(after.path(), &clock).unwrap();
    let received = receive(&again, QueueName::Inbox).await;
    assert_eq!((received[0].receive_count, &received[0].body), (2, &before[0].body));
    assert!(again.inbox_queue().ack(&[before[0].token.clone()]).await.remove(0).is_err());
}

#[tokio::test]
async fn what_was_given_back_for_later_stays_hidden_over_a_crash() {
    let (store, clock, folder) = fresh();
    store.bus().publish(&[event("1", "one")]).await.remove(0).unwrap();
    let received = receive(&store, QueueName::Inbox).await.remove(0);
    store.inbox_queue().release(&[(received.token, LEASE)]).await.remove(0).unwrap();
    let after = crashed(&folder);
    let again = open(after.path(), &clock).unwrap();
    assert_eq!(receive(&again, QueueName::Inbox).await, []);
    clock.advance(LEASE);
    assert_eq!(receive(&again, QueueName::Inbox).await.len(), 1);
}

#[tokio::test]
async fn positions_grow_over_a_restart_whatever_the_clock_says() {
    let (store, clock, folder) = fresh();
    let first = store.inbox().append(&[entry("1", "one", alice(), &clock)]).await.remove(0).unwrap();
    let after = crashed(&folder);
    clock.set(clock.now() - Duration::from_secs(3600));
    let again = open(after.path(), &clock).unwrap();
    let second = again.inbox().append(&[entry("2", "two", alice(), &clock)]).await.remove(0).unwrap();
    assert_eq!(second.position, first.position.next());
}

#[tokio::test]
async fn a_closed_store_is_one_file_that_opens_again() {
    let (store, clock, folder) = fresh();
    store.bus().publish(&[event("1", "one")]).await.remove(0).unwrap();
    store.close().await;
    let log = std::fs::metadata(folder.path().join("recado.db-wal")).map_or(0, |log| log.len());
    assert_eq!(log, 0);
    assert!(store.bus().publish(&[event("2", "two")]).await.remove(0).unwrap_err().is_transient());
    let again = open(folder.path(), &clock).unwrap();
    assert_eq!(receive(&again, QueueName::Inbox).await.len(), 1);
}

#[tokio::test]
async fn a_second_process_is_refused_with_advice() {
    let (_store, clock, folder) = fresh();
    let error = open(folder.path(), &clock).err().unwrap();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("stop it"));
}

#[tokio::test]
async fn an_operator_redrives_beside_a_working_process() {
    let (store, clock, folder) = fresh();
    store.bus().publish(&[event("1", "one")]).await.remove(0).unwrap();
    let received = receive(&store, QueueName::Inbox).await.remove(0);
    store.inbox_queue().reject(&[(received, "broken".to_owned())]).await.remove(0).unwrap();
    let waiting = {
        let queue = store.inbox_queue();
        tokio::spawn(async move { queue.receive(1, DEADLINE, LEASE).await })
    };
    let beside = open_shared(folder.path(), &clock).unwrap();
    let dead = beside.dead_letters(QueueName::Inbox).list(10).await.unwrap();
    beside.dead_letters(QueueName::Inbox).redrive(&[dead[0].id.clone()]).await.remove(0).unwrap();
    beside.close().await;
    let received = timeout(DEADLINE, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!((received.len(), received[0].receive_count), (1, 1));
    assert_eq!(store.queue_figures().await.unwrap()[0].dead, 0);
}

#[tokio::test]
async fn an_operator_looks_into_a_folder_nobody_works_on() {
    let (store, clock, folder) = fresh();
    store.close().await;
    let beside = open_shared(folder.path(), &clock).unwrap();
    assert_eq!(beside.dead_letters(QueueName::Email).list(10).await, Ok(vec![]));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(open_shared(empty.path(), &clock), Err(OpenError::Missing { .. })));
}

#[tokio::test]
async fn a_damaged_database_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(DATABASE_FILE), vec![0x5a; 8192]).unwrap();
    let error = open(folder.path(), &ManualClock::default()).err().unwrap();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("restore a backup"));
}

#[tokio::test]
async fn a_database_of_another_version_is_left_alone() {
    let (store, clock, folder) = fresh();
    store.close().await;
    let db = rusqlite::Connection::open(folder.path().join(DATABASE_FILE)).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    assert!(matches!(open(folder.path(), &clock), Err(OpenError::Version { found: 99, .. })));
}

#[tokio::test]
async fn a_database_of_an_earlier_version_is_brought_up_to_date_and_keeps_what_it_holds() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), ManualClock::default());
    let db = rusqlite::Connection::open(folder.path().join(DATABASE_FILE)).unwrap();
    db.execute_batch(include_str!("schema.sql")).unwrap();
    db.execute("INSERT INTO messages (queue, visible_at, attributes, body) VALUES (1, 0, '{}', 'from before')", []).unwrap();
    db.pragma_update(None, "user_version", 1).unwrap();
    drop(db);
    let store = open(folder.path(), &clock).unwrap();
    let messages = store.inbox_queue().receive(1, Duration::ZERO, Duration::from_secs(60)).await.unwrap();
    assert_eq!(messages.iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), ["from before"]);
    assert_eq!(store.suppressions().list(10).await, Ok(vec![]));
    store.close().await;
    drop(store);
    assert!(open(folder.path(), &clock).is_ok(), "once is enough");
}

#[cfg(unix)]
#[tokio::test]
async fn the_folder_is_for_its_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (outer, clock) = (tempfile::tempdir().unwrap(), ManualClock::default());
    let dir = outer.path().join("a/b");
    let _store = open(&dir, &clock).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join(DATABASE_FILE))), (0o700, 0o600));
}

/// Limits the database to its present size, or to the most there is: what a full disk does.
async fn limit_pages(store: &Store, full: bool) {
    let work = move |change: &mut Change<'_>| {
        let pages: i64 = change.db.pragma_query_value(None, "page_count", |row| row.get(0))?;
        let limit = if full { pages } else { 1 << 30 };
        change.db.query_row(&format!("PRAGMA max_page_count = {limit}"), [], |_| Ok(()))
    };
    store.shared.writer.write(Durability::Process, work).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_is_a_transient_failure_that_passes_with_it() {
    let (store, _clock, _folder) = fresh();
    limit_pages(&store, true).await;
    let big = Outgoing { body: "x".repeat(100_000), attributes: Default::default(), delay: Duration::ZERO };
    let failure = store.inbox_queue().send(std::slice::from_ref(&big)).await.remove(0).unwrap_err();
    assert!(failure.is_transient() && failure.reason().contains("disk"), "{failure}");
    limit_pages(&store, false).await;
    store.inbox_queue().send(&[big]).await.remove(0).unwrap();
    assert_eq!(receive(&store, QueueName::Inbox).await.len(), 1);
}

#[tokio::test]
async fn the_first_content_stored_under_an_id_wins() {
    let (store, clock, _folder) = fresh();
    let entries = [entry("1", "first", alice(), &clock), entry("1", "second", alice(), &clock)];
    let answers = store.inbox().append(&entries).await;
    assert!(!answers[1].as_ref().unwrap().inserted);
    assert_eq!(titles(&store).await, ["first"]);
}

#[tokio::test]
async fn garbage_goes_after_retention_and_not_before() {
    let (store, clock, _folder) = fresh();
    store.inbox().append(&[entry("1", "one", alice(), &clock)]).await.remove(0).unwrap();
    store.claims().confirm(&delivery("1")).await.unwrap();
    clock.advance(limits::RETENTION - Duration::from_secs(1));
    // A late recipient of the same event keeps what it shows.
    let bob = RecipientKey::new(TenantId::default(), UserId::new("bob").unwrap());
    store.inbox().append(&[entry("1", "one", bob, &clock)]).await.remove(0).unwrap();
    assert_eq!(store.collect_garbage(10).await, Ok(0));
    clock.advance(Duration::from_secs(1));
    assert_eq!(store.collect_garbage(10).await, Ok(1));
    assert_eq!(store.claims().claim(&delivery("1"), "me", LEASE).await, Ok(Claim::Taken));
    assert_eq!(titles(&store).await, ["one"]);
    clock.advance(limits::RETENTION);
    assert!(store.collect_garbage(10).await.unwrap() > 0);
    assert_eq!(titles(&store).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_waiting_receive_wakes_for_a_delayed_message() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), recado_runtime::system::SystemClock);
    let store = Store::open(folder.path(), Arc::new(clock), Arc::new(SeededEntropy::new(1))).unwrap();
    let message = Outgoing { body: "{}".to_owned(), attributes: Default::default(), delay: Duration::from_millis(50) };
    store.email_queue().send(&[message]).await.remove(0).unwrap();
    assert_eq!(store.email_queue().receive(1, Duration::ZERO, LEASE).await, Ok(vec![]));
    let received = timeout(DEADLINE, store.email_queue().receive(1, DEADLINE, LEASE)).await.unwrap().unwrap();
    assert_eq!(received.len(), 1);
}

#[tokio::test]
async fn a_receive_that_is_given_up_leaves_no_lease_behind() {
    let (store, _clock, _folder) = fresh();
    store.bus().publish(&[event("1", "one")]).await.remove(0).unwrap();
    // Dropped at every await there is, from the first poll on.
    for polls in 0..4 {
        let queue = store.inbox_queue();
        let mut receive = std::pin::pin!(queue.receive(1, Duration::ZERO, LEASE));
        for _ in 0..polls {
            let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(receive.as_mut().poll(cx))).await;
            if let std::task::Poll::Ready(Ok(messages)) = polled {
                let tokens: Vec<_> = messages.into_iter().map(|message| (message.token, Duration::ZERO)).collect();
                store.inbox_queue().release(&tokens).await.into_iter().for_each(|released| released.unwrap());
                break;
            }
        }
    }
    let received = timeout(DEADLINE, store.inbox_queue().receive(1, DEADLINE, LEASE)).await.unwrap().unwrap();
    assert_eq!(received.len(), 1);
}

#[tokio::test]
async fn the_mailbox_shows_what_was_sent_newest_first() {
    let (store, clock, _folder) = fresh();
    let mailbox = store.mailbox();
    for subject in ["one", "two"] {
        let message = format!("Subject: {subject}\r\n\r\nbody").into_bytes();
        let (from, to) = ("recado@example.com".to_owned(), "alice@example.com".to_owned());
        mailbox.send(&OutgoingMail { delivery: delivery("1"), from, to, message }).await.unwrap();
    }
    let listed = mailbox.list(None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|mail| mail.subject.as_str()).collect::<Vec<_>>(), ["two", "one"]);
    assert_eq!(mailbox.list(Some(listed[0].id), 10).await.unwrap(), listed[1..]);
    let mail = mailbox.get(listed[1].id).await.unwrap().unwrap();
    assert_eq!((mail.summary.sent_at, mail.message.as_slice()), (clock.now(), b"Subject: one\r\n\r\nbody".as_slice()));
    assert_eq!(mailbox.get(u64::MAX).await, Ok(None));
}

#[tokio::test]
async fn connections_are_forgotten_at_start_up() {
    let (store, clock, _folder) = fresh();
    let id = ConnectionId::new("c1").unwrap();
    let row = json!({"id": "c1", "phase": "live", "registered_at": clock.now(), "token_expires_at": clock.now(), "protocol": "recado"});
    store.connections().register(&alice(), &serde_json::from_value(row).unwrap()).await.unwrap();
    store.forget_connections().await.unwrap();
    assert_eq!(store.connections().owner(&id).await, Ok(None));
    assert_eq!(store.connections().of_users(&[alice()]).await, [Ok(vec![])]);
}

#[tokio::test]
async fn the_figures_tell_how_full_the_queues_are() {
    let (store, clock, _folder) = fresh();
    store.bus().publish(&[event("1", "one"), event("2", "two")]).await.into_iter().for_each(|published| published.unwrap());
    store.inbox_queue().receive(1, Duration::ZERO, LEASE).await.unwrap();
    let [inbox, email] = store.queue_figures().await.unwrap();
    assert_eq!((inbox.visible, inbox.hidden, inbox.oldest_visible, inbox.dead), (1, 1, Some(clock.now()), 0));
    assert_eq!((email.visible, email.hidden), (2, 0));
    store.check().await.unwrap();
}

#[tokio::test]
async fn a_clock_that_was_set_back_is_told_until_it_is_there_again() {
    let (store, clock, _folder) = fresh();
    let now = clock.now();
    store.inbox().append(&[entry("1", "t", alice(), &clock)]).await.remove(0).unwrap();
    clock.set(now - limits::CLOCK_SKEW);
    store.check().await.unwrap();
    clock.set(now - Duration::from_secs(3600));
    let failure = store.check().await.unwrap_err();
    assert!(failure.is_transient() && failure.reason().contains("3600 s behind"), "{failure}");
    clock.set(now);
    store.check().await.unwrap();
}

#[tokio::test]
async fn a_read_sees_every_write_that_was_answered_before_it() {
    let (store, clock, _folder) = fresh();
    for number in 0..200 {
        let new = entry(&number.to_string(), "t", alice(), &clock);
        let position = store.inbox().append(&[new]).await.remove(0).unwrap().position;
        let above = Position::from_bytes((u128::from_be_bytes(position.to_bytes()) - 1).to_be_bytes());
        assert_eq!(store.inbox().since(&alice(), above, 10).await.unwrap().entries.len(), 1);
    }
}
