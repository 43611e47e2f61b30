//! What every [`Inbox`] keeps: positions, states, marks, and the walls between inboxes (P1 to P5, R6 to R8).
#![expect(missing_docs, reason = "the names are sentences")]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use recado_domain::ids::{NotificationId, RecipientKey};
use recado_domain::limits;
use recado_domain::notification::{Appended, InboxEntry, NewEntry};
use recado_domain::ports::{Inbox, Marks, Page, PageFilter, Unread};
use recado_domain::position::Position;

use super::Backend;
use super::samples::{alice, all, confusable_recipients, entry, is_permanent, recipient};

const SECOND: Duration = Duration::from_secs(1);
/// Past the time in which `read_all` marks by id.
const PAST_W: Duration = Duration::from_secs(120);
const FILTERS: [PageFilter; 3] = [PageFilter::Inbox, PageFilter::Unread, PageFilter::Archived];

async fn append<B: Backend>(backend: &B, entry: NewEntry) -> Appended {
    all(backend.inbox().append(&[entry]).await).remove(0)
}

/// Appends these to Alice's inbox, a second apart, and answers their positions.
async fn append_each<B: Backend>(backend: &B, ids: &[&str]) -> Vec<Position> {
    let mut positions = Vec::new();
    for id in ids {
        positions.push(append(backend, entry(&alice(), id)).await.position);
        backend.advance(SECOND).await;
    }
    positions
}

fn id(of: &str) -> NotificationId {
    entry(&alice(), of).notification.id
}

fn names(entries: &[InboxEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.notification.event_id.as_str()).collect()
}

/// Notes the entries of a page and answers where the query goes on.
fn note(all: &mut Vec<InboxEntry>, page: Page, limit: usize) -> Option<Position> {
    assert!(page.entries.len() <= limit, "a page above its limit");
    assert_eq!(page.more, page.next.is_some(), "a page says where it goes on when it does");
    all.extend(page.entries);
    page.next
}

async fn since<B: Backend>(backend: &B, of: &RecipientKey, after: Position, limit: usize) -> Vec<InboxEntry> {
    let (mut entries, mut next) = (Vec::new(), Some(after));
    while let Some(after) = next {
        next = note(&mut entries, backend.inbox().since(of, after, limit).await.unwrap(), limit);
    }
    entries
}

async fn pending<B: Backend>(backend: &B, of: &RecipientKey, after: Position, limit: usize) -> Vec<InboxEntry> {
    let (mut entries, mut next) = (Vec::new(), Some(after));
    let marks = backend.inbox().marks(of).await.unwrap();
    while let Some(after) = next {
        next = note(&mut entries, backend.inbox().pending(of, marks, after, limit).await.unwrap(), limit);
    }
    entries
}

async fn page<B: Backend>(backend: &B, before: Option<Position>, filter: PageFilter, limit: usize) -> Vec<InboxEntry> {
    let (mut entries, mut before) = (Vec::new(), before);
    loop {
        before = note(&mut entries, backend.inbox().page(&alice(), before, filter, limit).await.unwrap(), limit);
        if before.is_none() {
            return entries;
        }
    }
}

async fn everything<B: Backend>(backend: &B, of: &RecipientKey) -> Vec<InboxEntry> {
    since(backend, of, Position::MIN, 100).await
}

pub async fn append_is_insert_if_absent<B: Backend>(backend: &B) {
    let first = append(backend, entry(&alice(), "a")).await;
    assert!(first.inserted);
    assert_eq!((first.acked_at, first.read_at, first.archived_at), (None, None, None));
    backend.advance(PAST_W).await;
    let second = append(backend, entry(&alice(), "a")).await;
    assert_eq!(second, Appended { inserted: false, ..first });
    let stored = everything(backend, &alice()).await;
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].notification, entry(&alice(), "a").notification);
    assert_eq!(stored[0].position, first.position);
}

pub async fn concurrent_appends_of_the_same_store_each_once<B: Backend>(backend: &B) {
    let entries: Vec<_> = (0..30).map(|n| entry(&alice(), &n.to_string())).collect();
    let appends = (0..6).map(|_| backend.inbox().append(&entries));
    let answers: Vec<Vec<Appended>> = join_all(appends).await.into_iter().map(all).collect();
    for at in 0..entries.len() {
        let positions: HashSet<Position> = answers.iter().map(|answer| answer[at].position).collect();
        assert_eq!(positions.len(), 1, "everybody is answered what is stored");
        assert_eq!(answers.iter().filter(|answer| answer[at].inserted).count(), 1, "one of them made it");
    }
    assert_eq!(everything(backend, &alice()).await.len(), entries.len());
}

pub async fn a_key_twice_in_one_call_is_stored_once<B: Backend>(backend: &B) {
    let (a, b) = (entry(&alice(), "a"), entry(&alice(), "b"));
    let answers = all(backend.inbox().append(&[a.clone(), a.clone(), b, a]).await);
    assert_eq!(answers.iter().map(|answer| answer.inserted).collect::<Vec<_>>(), [true, false, true, false]);
    assert_eq!((answers[1].position, answers[3].position), (answers[0].position, answers[0].position));
    assert_eq!(everything(backend, &alice()).await.len(), 2);
}

pub async fn one_event_is_one_entry_for_each_recipient<B: Backend>(backend: &B) {
    let recipients: Vec<_> = (0..100).map(|n| recipient("default", &format!("user-{n}"))).collect();
    let entries: Vec<_> = recipients.iter().map(|of| entry(of, "a")).collect();
    let answers = all(backend.inbox().append(&entries).await);
    assert_eq!(answers.len(), 100);
    for (of, answer) in recipients.iter().zip(answers) {
        assert!(answer.inserted);
        let stored = everything(backend, of).await;
        assert_eq!(stored.iter().map(|entry| entry.position).collect::<Vec<_>>(), [answer.position]);
    }
}

pub async fn states_survive_a_repeated_append<B: Backend>(backend: &B) {
    let first = append(backend, entry(&alice(), "a")).await;
    backend.advance(SECOND).await;
    let now = Some(backend.now());
    backend.inbox().acknowledge(&alice(), &[id("a")]).await.unwrap();
    backend.inbox().mark_read(&alice(), &[id("a")]).await.unwrap();
    backend.inbox().archive(&alice(), &[id("a")]).await.unwrap();
    backend.advance(SECOND).await;
    let again = append(backend, entry(&alice(), "a")).await;
    assert_eq!(again, Appended { position: first.position, inserted: false, acked_at: now, read_at: now, archived_at: now });
}

pub async fn positions_ascend_in_the_order_of_appends<B: Backend>(backend: &B) {
    let mut positions = Vec::new();
    // Time stands still: only the order tells them apart.
    for batch in 0..5 {
        let entries: Vec<_> = (0..10).map(|n| entry(&alice(), &format!("{batch}-{n}"))).collect();
        positions.extend(all(backend.inbox().append(&entries).await).into_iter().map(|answer| answer.position));
    }
    assert!(positions.is_sorted_by(|lower, higher| lower < higher));
}

pub async fn positions_are_of_the_moment_of_append<B: Backend>(backend: &B) {
    append(backend, entry(&alice(), "a")).await;
    backend.advance(PAST_W).await;
    let later = append(backend, entry(&alice(), "b")).await;
    assert!(later.position.age(backend.now()) < SECOND);
    assert!(later.position.at() <= backend.now());
}

pub async fn a_restamp_moves_an_entry_to_now<B: Backend>(backend: &B) {
    let positions = append_each(backend, &["a", "b"]).await;
    backend.advance(limits::RESTAMP_AFTER).await;
    let moved = backend.inbox().restamp(&entry(&alice(), "a").key(), positions[0]).await.unwrap();
    assert!(moved.position > positions[1]);
    assert!(moved.position.age(backend.now()) < SECOND);
    assert!(!moved.inserted);
    let stored = everything(backend, &alice()).await;
    assert_eq!(names(&stored), ["b", "a"]);
    assert_eq!(stored[1].position, moved.position);
}

pub async fn a_restamp_moves_only_from_the_position_it_was_told<B: Backend>(backend: &B) {
    let positions = append_each(backend, &["a", "b"]).await;
    let key = entry(&alice(), "a").key();
    let moved = backend.inbox().restamp(&key, positions[0]).await.unwrap();
    backend.advance(SECOND).await;
    assert_eq!(backend.inbox().restamp(&key, positions[0]).await, Ok(moved));
    assert_eq!(backend.inbox().restamp(&key, positions[1]).await, Ok(moved), "another entry's position is not its own");
    assert_eq!(everything(backend, &alice()).await.len(), 2);
}

pub async fn a_restamp_keeps_what_read_all_read<B: Backend>(backend: &B) {
    let positions = append_each(backend, &["a"]).await;
    backend.advance(PAST_W).await;
    backend.inbox().read_all(&alice(), positions[0]).await.unwrap();
    let moved = backend.inbox().restamp(&entry(&alice(), "a").key(), positions[0]).await.unwrap();
    assert!(moved.position > positions[0]);
    assert!(moved.read_at.is_some());
    assert!(everything(backend, &alice()).await[0].read_at.is_some());
    assert_eq!(backend.inbox().unread(&alice()).await, Ok(Unread { count: 0, capped: false }));
}

pub async fn a_restamp_keeps_every_state<B: Backend>(backend: &B) {
    let positions = append_each(backend, &["a"]).await;
    let now = Some(backend.now());
    backend.inbox().acknowledge(&alice(), &[id("a")]).await.unwrap();
    backend.inbox().archive(&alice(), &[id("a")]).await.unwrap();
    backend.advance(SECOND).await;
    let moved = backend.inbox().restamp(&entry(&alice(), "a").key(), positions[0]).await.unwrap();
    assert_eq!((moved.acked_at, moved.read_at, moved.archived_at), (now, None, now));
    let stored = everything(backend, &alice()).await.remove(0);
    assert_eq!((stored.acked_at, stored.read_at, stored.archived_at), (now, None, now));
}

pub async fn a_restamp_of_a_missing_entry_is_a_permanent_failure<B: Backend>(backend: &B) {
    let position = Position::floor(backend.now());
    assert!(is_permanent(&backend.inbox().restamp(&entry(&alice(), "a").key(), position).await));
    append(backend, entry(&alice(), "b")).await;
    append(backend, entry(&recipient("default", "bob"), "a")).await;
    assert!(is_permanent(&backend.inbox().restamp(&entry(&alice(), "a").key(), position).await));
    assert_eq!(names(&everything(backend, &alice()).await), ["b"]);
}

pub async fn since_ascends_above_its_start<B: Backend>(backend: &B) {
    let positions = append_each(backend, &["a", "b", "c"]).await;
    assert_eq!(names(&everything(backend, &alice()).await), ["a", "b", "c"]);
    assert_eq!(names(&since(backend, &alice(), positions[0], 100).await), ["b", "c"]);
    assert!(since(backend, &alice(), positions[2], 100).await.is_empty());
}

pub async fn since_goes_on_where_a_page_ended<B: Backend>(backend: &B) {
    append_each(backend, &["a", "b", "c", "d", "e"]).await;
    for limit in [1, 2, 5, 6] {
        assert_eq!(names(&since(backend, &alice(), Position::MIN, limit).await), ["a", "b", "c", "d", "e"]);
    }
}

pub async fn since_shows_what_was_archived_and_acknowledged<B: Backend>(backend: &B) {
    append_each(backend, &["a", "b"]).await;
    backend.inbox().archive(&alice(), &[id("a")]).await.unwrap();
    backend.inbox().acknowledge(&alice(), &[id("b")]).await.unwrap();
    let stored = everything(backend, &alice()).await;
    assert_eq!(names(&stored), ["a", "b"]);
    assert_eq!(stored[0].archived_at, Some(backend.now()));
    assert_eq!(stored[1].acked_at, Some(backend.now()));
}

pub async fn a_page_holds_no_more_than_the_limit_of_all_pages<B: Backend>(backend: &B) {
    let count = limits::PAGE_ENTRIES + 5;
    let entries: Vec<_> = (0..count).map(|n| entry(&alice(), &n.to_string())).collect();
    all(backend.inbox().append(&entries).await);
    let pages = [
        backend.inbox().since(&alice(), Position::MIN, usize::MAX).await.unwrap(),
        backend.inbox().pending(&alice(), Marks::default(), Position::MIN, usize::MAX).await.unwrap(),
        backend.inbox().page(&alice(), None, PageFilter::Inbox, usize::MAX).await.unwrap(),
    ];
    for page in pages {
        assert!(page.entries.len() <= limits::PAGE_ENTRIES && page.more);
    }
    assert_eq!(everything(backend, &alice()).await.len(), count);
}

pub async fn pending_leaves_out_what_was_acknowledged<B: Backend>(backend: &B) {
    append_each(backend, &["a", "b", "c"]).await;
    backend.inbox().acknowledge(&alice(), &[id("b")]).await.unwrap();
    backend.inbox().mark_read(&alice(), &[id("a")]).await.unwrap();
    assert_eq!(names(&pending(backend, &alice(), Position::MIN, 100).await), ["a", "c"], "only an acknowledgement settles");
}

pub async fn older_marks_make_pending_read_more<B: Backend>(backend: &B) {
    let positions = append_each(backend, &["a", "b", "c"]).await;
    let older = backend.inbox().marks(&alice()).await.unwrap();
    assert_eq!(backend.inbox().advance_pending(&alice(), None, positions[1]).await, Ok(true));
    let page = backend.inbox().pending(&alice(), older, Position::MIN, 100).await.unwrap();
    assert_eq!(names(&page.entries), ["a", "b", "c"]);
}

pub async fn pending_starts_at_its_mark_and_above_its_start<B: Backend>(backend: &B) {
    let positions = append_each(backend, &["a", "b", "c"]).await;
    assert_eq!(names(&pending(backend, &alice(), positions[0], 100).await), ["b", "c"]);
    assert_eq!(backend.inbox().advance_pending(&alice(), None, positions[1]).await, Ok(true));
    assert_eq!(names(&pending(backend, &alice(), Position::MIN, 100).await), ["b", "c"], "the entry at the mark is pending");
    assert_eq!(names(&pending(backend, &alice(), positions[1], 100).await), ["c"]);
    assert_eq!(names(&everything(backend, &alice()).await), ["a", "b", "c"], "the mark hides nothing from others");
}

pub async fn pages_bring_the_marks_they_were_read_with<B: Backend>(backend: &B) {
    let inbox = backend.inbox();
    for empty in [inbox.since(&alice(), Position::MIN, 10).await, inbox.page(&alice(), None, PageFilter::Inbox, 10).await] {
        assert_eq!(empty.unwrap().marks, Marks::default());
    }
    let positions = append_each(backend, &["a", "b", "c"]).await;
    backend.advance(PAST_W).await;
    inbox.read_all(&alice(), positions[0]).await.unwrap();
    inbox.advance_pending(&alice(), None, positions[1]).await.unwrap();
    let marks = inbox.marks(&alice()).await.unwrap();
    assert_eq!(marks, Marks { read_up_to: Some(positions[0]), pending_from: Some(positions[1]) });
    // Those that end at an end of the inbox, and those that do not.
    for limit in [1, 2, 3, 100] {
        assert_eq!(inbox.since(&alice(), Position::MIN, limit).await.unwrap().marks, marks);
        assert_eq!(inbox.pending(&alice(), marks, Position::MIN, limit).await.unwrap().marks, marks);
        for before in [None, Some(positions[2])] {
            assert_eq!(inbox.page(&alice(), before, PageFilter::Inbox, limit).await.unwrap().marks, marks);
        }
    }
}

pub async fn pending_goes_on_where_a_page_ended<B: Backend>(backend: &B) {
    append_each(backend, &["a", "b", "c", "d", "e"]).await;
    backend.inbox().acknowledge(&alice(), &[id("b"), id("c")]).await.unwrap();
    for limit in [1, 2, 3] {
        assert_eq!(names(&pending(backend, &alice(), Position::MIN, limit).await), ["a", "d", "e"]);
    }
}

pub async fn the_pending_mark_grows_only_from_what_was_expected<B: Backend>(backend: &B) {
    let now = backend.now();
    let [low, middle, high] = [0, 1, 2].map(|second| Position::floor(now + SECOND * second));
    let inbox = backend.inbox();
    assert_eq!(inbox.marks(&alice()).await, Ok(Marks::default()));
    assert_eq!(inbox.advance_pending(&alice(), Some(low), middle).await, Ok(false), "it is not there yet");
    assert_eq!(inbox.advance_pending(&alice(), None, middle).await, Ok(true));
    assert_eq!(inbox.advance_pending(&alice(), None, high).await, Ok(false), "somebody moved it");
    assert_eq!(inbox.advance_pending(&alice(), Some(middle), low).await, Ok(false), "it never shrinks");
    assert_eq!(inbox.marks(&alice()).await, Ok(Marks { read_up_to: None, pending_from: Some(middle) }));
    assert_eq!(inbox.advance_pending(&alice(), Some(middle), high).await, Ok(true));
    assert_eq!(inbox.marks(&alice()).await, Ok(Marks { read_up_to: None, pending_from: Some(high) }));
}

pub async fn updates_by_id_answer_what_they_changed<B: Backend>(backend: &B) {
    append_each(backend, &["a", "b"]).await;
    let inbox = backend.inbox();
    let ids = [id("a"), id("unknown"), id("b")];

    assert_eq!(inbox.acknowledge(&alice(), &ids[..1]).await, Ok(vec![id("a")]));
    assert_eq!(inbox.acknowledge(&alice(), &ids).await, Ok(vec![id("b")]));
    assert_eq!(inbox.mark_read(&alice(), &ids[..1]).await, Ok(vec![id("a")]));
    assert_eq!(inbox.mark_read(&alice(), &ids).await, Ok(vec![id("b")]));
    assert_eq!(inbox.archive(&alice(), &ids[..1]).await, Ok(vec![id("a")]));
    assert_eq!(inbox.archive(&alice(), &ids).await, Ok(vec![id("b")]));

    assert_eq!(inbox.acknowledge(&alice(), &ids).await, Ok(vec![]));
    assert_eq!(inbox.mark_read(&alice(), &ids).await, Ok(vec![]));
    assert_eq!(inbox.archive(&alice(), &ids).await, Ok(vec![]));
}

pub async fn what_read_all_read_is_not_read_a_second_time<B: Backend>(backend: &B) {
    let positions = append_each(backend, &["a", "b"]).await;
    backend.advance(PAST_W).await;
    backend.inbox().read_all(&alice(), positions[0]).await.unwrap();
    assert_eq!(backend.inbox().mark_read(&alice(), &[id("a"), id("b")]).await, Ok(vec![id("b")]));
}

pub async fn updates_by_id_never_create_an_entry<B: Backend>(backend: &B) {
    let inbox = backend.inbox();
    assert_eq!(inbox.acknowledge(&alice(), &[id("a")]).await, Ok(vec![]));
    assert_eq!(inbox.mark_read(&alice(), &[id("a")]).await, Ok(vec![]));
    assert_eq!(inbox.archive(&alice(), &[id("a")]).await, Ok(vec![]));
    assert!(everything(backend, &alice()).await.is_empty());
    let appended = append(backend, entry(&alice(), "a")).await;
    assert!(appended.inserted);
    assert_eq!((appended.acked_at, appended.read_at, appended.archived_at), (None, None, None));
}

pub async fn what_is_archived_leaves_the_inbox_for_the_archive<B: Backend>(backend: &B) {
    append_each(backend, &["a", "b", "c"]).await;
    backend.inbox().archive(&alice(), &[id("b")]).await.unwrap();
    assert_eq!(names(&page(backend, None, PageFilter::Inbox, 100).await), ["c", "a"]);
    assert_eq!(names(&page(backend, None, PageFilter::Unread, 100).await), ["c", "a"]);
    assert_eq!(names(&page(backend, None, PageFilter::Archived, 100).await), ["b"]);
}

pub async fn the_unread_filter_leaves_out_what_was_read_or_archived<B: Backend>(backend: &B) {
    let positions = append_each(backend, &["by mark", "by id", "archived", "unread"]).await;
    backend.advance(PAST_W).await;
    backend.inbox().read_all(&alice(), positions[0]).await.unwrap();
    backend.inbox().mark_read(&alice(), &[id("by id")]).await.unwrap();
    backend.inbox().archive(&alice(), &[id("archived")]).await.unwrap();
    assert_eq!(names(&page(backend, None, PageFilter::Unread, 100).await), ["unread"]);
    assert_eq!(names(&page(backend, None, PageFilter::Unread, 1).await), ["unread"]);
    assert_eq!(names(&page(backend, None, PageFilter::Inbox, 100).await), ["unread", "by id", "by mark"]);
}

pub async fn a_page_descends_below_its_start<B: Backend>(backend: &B) {
    let positions = append_each(backend, &["a", "b", "c"]).await;
    assert_eq!(names(&page(backend, None, PageFilter::Inbox, 100).await), ["c", "b", "a"]);
    assert_eq!(names(&page(backend, Some(positions[2]), PageFilter::Inbox, 100).await), ["b", "a"]);
    assert!(page(backend, Some(positions[0]), PageFilter::Inbox, 100).await.is_empty());
}

pub async fn pages_go_on_where_one_ended<B: Backend>(backend: &B) {
    append_each(backend, &["a", "b", "c", "d", "e"]).await;
    backend.inbox().archive(&alice(), &[id("c")]).await.unwrap();
    for limit in [1, 2, 4, 5] {
        assert_eq!(names(&page(backend, None, PageFilter::Inbox, limit).await), ["e", "d", "b", "a"]);
        assert_eq!(names(&page(backend, None, PageFilter::Archived, limit).await), ["c"]);
    }
}

pub async fn unread_counts_up_to_its_cap<B: Backend>(backend: &B) {
    let entries: Vec<_> = (0..=limits::UNREAD_CAP).map(|n| entry(&alice(), &n.to_string())).collect();
    let cap = limits::UNREAD_CAP as usize;
    all(backend.inbox().append(&entries[..cap]).await);
    assert_eq!(backend.inbox().unread(&alice()).await, Ok(Unread { count: limits::UNREAD_CAP, capped: false }));
    all(backend.inbox().append(&entries[cap..]).await);
    assert_eq!(backend.inbox().unread(&alice()).await, Ok(Unread { count: limits::UNREAD_CAP, capped: true }));
}

pub async fn unread_leaves_out_what_was_read_or_archived<B: Backend>(backend: &B) {
    let positions = append_each(backend, &["by mark", "by id", "archived", "acknowledged", "unread"]).await;
    backend.advance(PAST_W).await;
    backend.inbox().read_all(&alice(), positions[0]).await.unwrap();
    backend.inbox().mark_read(&alice(), &[id("by id")]).await.unwrap();
    backend.inbox().archive(&alice(), &[id("archived")]).await.unwrap();
    backend.inbox().acknowledge(&alice(), &[id("acknowledged")]).await.unwrap();
    assert_eq!(backend.inbox().unread(&alice()).await, Ok(Unread { count: 2, capped: false }));
}

pub async fn read_all_marks_the_last_minute_by_id_and_the_rest_by_mark<B: Backend>(backend: &B) {
    append_each(backend, &["old"]).await;
    backend.advance(PAST_W).await;
    let recent = append_each(backend, &["new", "read", "newer"]).await;
    backend.inbox().mark_read(&alice(), &[id("read")]).await.unwrap();
    let done = backend.inbox().read_all(&alice(), recent[2]).await.unwrap();

    let mut marked = done.ids.clone();
    marked.sort();
    let mut wanted = vec![id("new"), id("newer")];
    wanted.sort();
    assert_eq!(marked, wanted);
    let limit = Position::floor(backend.now()).back(limits::W);
    assert_eq!(done.up_to, Some(limit), "the mark stays W behind");
    assert_eq!(backend.inbox().marks(&alice()).await.unwrap().read_up_to, Some(limit));
    assert!(everything(backend, &alice()).await.iter().all(|entry| entry.read_at.is_some()));
    assert_eq!(backend.inbox().unread(&alice()).await, Ok(Unread { count: 0, capped: false }));
}

pub async fn read_all_reaches_no_further_than_it_was_told<B: Backend>(backend: &B) {
    let unread = async || names(&page(backend, None, PageFilter::Unread, 100).await).join(" ");
    let old = append_each(backend, &["a", "b"]).await;
    backend.advance(PAST_W).await;
    let done = backend.inbox().read_all(&alice(), old[0]).await.unwrap();
    assert_eq!((done.ids, done.up_to), (vec![], Some(old[0])));
    assert_eq!(unread().await, "b");

    let new = append_each(backend, &["c", "d"]).await;
    let done = backend.inbox().read_all(&alice(), new[0]).await.unwrap();
    assert_eq!(done.ids, [id("c")]);
    assert_eq!(unread().await, "d");
}

pub async fn the_read_mark_only_grows<B: Backend>(backend: &B) {
    let positions = append_each(backend, &["a", "b"]).await;
    backend.advance(PAST_W).await;
    backend.inbox().read_all(&alice(), positions[1]).await.unwrap();
    let done = backend.inbox().read_all(&alice(), positions[0]).await.unwrap();
    assert_eq!(done.up_to, Some(positions[1]));
    assert_eq!(backend.inbox().marks(&alice()).await.unwrap().read_up_to, Some(positions[1]));
    assert_eq!(backend.inbox().unread(&alice()).await, Ok(Unread { count: 0, capped: false }));
}

pub async fn an_entry_appended_after_read_all_is_not_born_read<B: Backend>(backend: &B) {
    append(backend, entry(&alice(), "a")).await;
    let far = Position::floor(backend.now() + Duration::from_secs(3600));
    backend.inbox().read_all(&alice(), far).await.unwrap();
    let later = append(backend, entry(&alice(), "b")).await;
    assert_eq!(later.read_at, None);
    assert_eq!(names(&page(backend, None, PageFilter::Unread, 100).await), ["b"]);
    backend.advance(PAST_W).await;
    assert_eq!(names(&page(backend, None, PageFilter::Unread, 100).await), ["b"], "nor does it become so");
}

fn expiring<B: Backend>(backend: &B, name: &str, after: Duration) -> NewEntry {
    let NewEntry { recipient, notification } = entry(&alice(), name);
    let mut notification = Arc::unwrap_or_clone(notification);
    notification.expires_at = Some(backend.now() + after);
    NewEntry { recipient, notification: Arc::new(notification) }
}

pub async fn an_expired_entry_is_hidden_everywhere<B: Backend>(backend: &B) {
    append(backend, expiring(backend, "a", SECOND)).await;
    append(backend, expiring(backend, "b", SECOND)).await;
    backend.inbox().archive(&alice(), &[id("b")]).await.unwrap();
    assert_eq!(everything(backend, &alice()).await.len(), 2);
    backend.advance(SECOND).await;
    assert!(everything(backend, &alice()).await.is_empty());
    assert!(pending(backend, &alice(), Position::MIN, 100).await.is_empty());
    for filter in FILTERS {
        assert!(page(backend, None, filter, 100).await.is_empty());
    }
    assert_eq!(backend.inbox().unread(&alice()).await, Ok(Unread { count: 0, capped: false }));
}

pub async fn an_expired_entry_is_not_stored_a_second_time<B: Backend>(backend: &B) {
    let new = expiring(backend, "a", SECOND);
    let first = append(backend, new.clone()).await;
    backend.advance(PAST_W).await;
    assert_eq!(append(backend, new).await, Appended { inserted: false, ..first });
}

pub async fn inboxes_do_not_reach_into_each_other<B: Backend>(backend: &B) {
    let recipients = confusable_recipients();
    let entries: Vec<_> = recipients.iter().map(|of| entry(of, "shared")).collect();
    assert!(all(backend.inbox().append(&entries).await).iter().all(|answer| answer.inserted));
    backend.advance(PAST_W).await;

    for (at, of) in recipients.iter().enumerate() {
        assert_eq!(names(&pending(backend, of, Position::MIN, 100).await), ["shared"], "{of:?} before");
        let position = everything(backend, of).await[0].position;
        assert_eq!(backend.inbox().acknowledge(of, &[id("shared")]).await, Ok(vec![id("shared")]));
        // Marks of one user and states by id of the next one, so that both are seen to stay at home.
        if at % 2 == 0 {
            backend.inbox().read_all(of, position).await.unwrap();
        } else {
            backend.inbox().mark_read(of, &[id("shared")]).await.unwrap();
        }
        let own = append(backend, entry(of, &format!("own {at}"))).await.position;
        assert_eq!(backend.inbox().advance_pending(of, None, own).await, Ok(true), "{of:?}");
    }
    for (at, of) in recipients.iter().enumerate() {
        assert_eq!(names(&everything(backend, of).await), ["shared", &format!("own {at}")], "{of:?} after");
        assert_eq!(backend.inbox().unread(of).await, Ok(Unread { count: 1, capped: false }));
    }
}

pub async fn an_unknown_inbox_is_empty<B: Backend>(backend: &B) {
    let inbox = backend.inbox();
    assert!(everything(backend, &alice()).await.is_empty());
    assert!(pending(backend, &alice(), Position::MIN, 10).await.is_empty());
    assert!(page(backend, None, PageFilter::Inbox, 10).await.is_empty());
    assert_eq!(inbox.unread(&alice()).await, Ok(Unread { count: 0, capped: false }));
    assert_eq!(inbox.marks(&alice()).await, Ok(Marks::default()));
    assert!(inbox.read_all(&alice(), Position::floor(backend.now())).await.unwrap().ids.is_empty());
    assert!(inbox.append(&[]).await.is_empty());
}
