//! A trace in words, so that a counterexample can be read without knowing the model.
//!
//! Must not know: which steps there could have been.

use crate::action::{Action, How};
use crate::promises::Promise;
use crate::protocol::Protocol;
use crate::search::Trace;
use crate::state::{
    EventStep, Kind, Message, NOTES, Phase, Position, ReplayStep, SLOTS, Set, Socket, State, Sync, SyncStep, Worker, Write,
};

/// A counterexample: what was switched off, every step, how it ends, and what is broken by that.
pub fn told(protocol: &Protocol, promise: Promise, trace: &Trace) -> String {
    let off = protocol.rules.off();
    let rules = if off.is_empty() { "with all rules kept".to_owned() } else { format!("without {}", off.join(", ")) };
    let mut lines = vec![format!("{rules}, W = {} ticks:", protocol.bounds.w)];
    let (before, _) = protocol.beginning();
    let before = before.into_iter().map(|(state, action)| (state, Some(action)));
    let whole: Trace = before.chain(trace.iter().copied()).collect();
    for (number, pair) in (1..).zip(whole.windows(2)) {
        let [(before, Some(action)), (after, _)] = pair else { continue };
        lines.push(format!("{number:>4}. [{}] {}", before.now, step(protocol, before, after, *action)));
    }
    lines.extend(trace.last().map(|(last, _)| ending(protocol, last)).unwrap_or_default());
    lines.push(format!("   broken: {}", promise.name()));
    lines.join("\n")
}

/// A number with a comma between thousands.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    groups.join(",")
}

fn note(note: u8) -> String {
    format!("n{}", note + 1)
}

fn notes(set: Set) -> String {
    let names: Vec<String> = set.iter().map(note).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(" and ") }
}

fn position(at: Position) -> String {
    match at.0 % 4 {
        0 => format!("the beginning of {}", at.at()),
        number => format!("{}/{number}", at.at()),
    }
}

fn cursor(at: Option<Position>) -> String {
    at.map_or("no cursor".to_owned(), |at| format!("cursor {}", position(at)))
}

fn connection(m: &Protocol, slot: u8) -> String {
    let whose = match m.kind(slot) {
        Kind::App => "the app's",
        Kind::Listener => "the listener's",
    };
    format!("{whose} connection {}", slot + 1)
}

fn connections(m: &Protocol, slots: Set) -> String {
    let names: Vec<String> = slots.iter().map(|slot| connection(m, slot)).collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join(" and ") }
}

fn dispatcher(worker: u8) -> String {
    format!("dispatcher {}", char::from(b'A' + worker))
}

fn message(m: &Protocol, what: Message) -> String {
    match what {
        Message::Event(of) => format!("the event of {}", note(of)),
        Message::Replay(slot) => format!("a replay for {}", connection(m, slot)),
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Connecting => "connecting",
        Phase::Live => "live",
    }
}

fn write(m: &Protocol, write: Write) -> String {
    match write {
        Write::Insert { note: of, at } => format!("append of {} at {}", note(of), position(at)),
        Write::Stamp { note: of, from, to } => format!("stamp of {} from {} to {}", note(of), position(from), position(to)),
        Write::Register { slot, .. } => format!("registration of {}", connection(m, slot)),
        Write::Live { slot, .. } => format!("mark that makes {} live", connection(m, slot)),
        Write::Remove { slot, seen } => format!("removal of {} as {}", connection(m, slot), phase(seen)),
        Write::Advance { to, .. } => format!("advance of pending_from to {}", position(to)),
    }
}

fn step(m: &Protocol, before: &State, after: &State, action: Action) -> String {
    match action {
        Action::Tick => format!("time passes: it is {} now", after.now),
        Action::Week => "a week passes; connections end, clients forget".to_owned(),
        Action::Publish(of) => format!("{} is published and accepted", note(of)),
        Action::PublishAgain(of) => format!("the publisher lost the answer and publishes {} again", note(of)),
        Action::Redrive(of) => format!("an operator sends the dead letter of {} back", note(of)),
        Action::Connect(slot) => format!("{} is asked for", connection(m, slot)),
        Action::Register { slot, copy } => {
            let again = if copy { "; the same write is still on its way a second time" } else { "" };
            format!("$connect writes the row of {}{again}", connection(m, slot))
        }
        Action::Promise(slot) => format!("$connect queues a replay for {}", connection(m, slot)),
        Action::Open(slot) => format!("{} opens", connection(m, slot)),
        Action::Refuse(slot) => format!("{} never opens", connection(m, slot)),
        Action::Drop(slot) => format!("the client of {} goes", connection(m, slot)),
        Action::Notice(slot) => format!("the gateway notices that {} is gone", connection(m, slot)),
        Action::Disconnect(slot) => format!("$disconnect removes {}", connection(m, slot)),
        Action::LoseRow(slot) => format!("the row of {} is lost", connection(m, slot)),
        Action::Sync { .. } => send_sync(before, after),
        Action::Acknowledge => format!("the app acknowledges {}", notes(Protocol::unconfirmed(before))),
        Action::WildAck(of) => format!("the app acknowledges {}, which it never got", note(of)),
        Action::ReadAll => format!("the user reads all up to {}", position(before.app.top)),
        Action::Receive { worker, message: what } => format!("{} receives {}", dispatcher(worker), message(m, what)),
        Action::Work { worker, how } => format!("{} {}", dispatcher(worker), work(m, before, after, worker, how)),
        Action::Crash { worker, late } => format!("{} dies{}", dispatcher(worker), on_its_way(m, after, late)),
        Action::Expire(worker) => format!("the lease of {} ends while it works", dispatcher(worker)),
        Action::Handle { handler, how } => format!("the handler {}", handle(m, before, after, handler, how)),
        Action::CrashHandler { late, .. } => format!("the handler dies{}", on_its_way(m, after, late)),
        Action::Land => before.late.map_or_else(String::new, |late| format!("the late {} lands", write(m, late))),
        Action::Kill => "every process is killed, and started again".to_owned(),
    }
}

fn on_its_way(m: &Protocol, after: &State, late: bool) -> String {
    let left = after.late.filter(|_| late).map(|late| format!("; its {} is still on its way", write(m, late)));
    left.unwrap_or_default()
}

fn send_sync(before: &State, after: &State) -> String {
    if after.app.at.is_none() {
        return "the app sends sync; nobody knows this connection, and it is closed".to_owned();
    }
    format!("the app sends sync with {}, confirming {}", cursor(before.app.cursor), notes(Protocol::unconfirmed(before)))
}

fn work(m: &Protocol, before: &State, after: &State, worker: u8, how: How) -> String {
    match (before.workers[worker as usize], after.workers[worker as usize]) {
        (Worker::Event { note: of, step, .. }, next) => event(m, after, of, step, next, how),
        (Worker::Replay { slot, step, .. }, next) => replay(m, before, slot, step, next, how),
        (Worker::Idle, _) => "waits".to_owned(),
    }
}

fn event(m: &Protocol, after: &State, of: u8, step: EventStep, next: Worker, how: How) -> String {
    let next = if let Worker::Event { step, .. } = next { Some(step) } else { None };
    match step {
        EventStep::Begin => begun(m, of, next),
        EventStep::Write { .. } if how == How::Fails => format!("is refused {} for good: it is a dead letter", note(of)),
        EventStep::Write { to, from, .. } => {
            let stands = after.entry(of).map_or("nowhere".to_owned(), |entry| position(entry.position));
            format!("has its {} carried out: {} stands at {stands}", write(m, crate::dispatcher::write_of(of, to, from)), note(of))
        }
        EventStep::Judge { position: at, .. } => match next {
            Some(EventStep::Write { to, .. }) => {
                format!("finds the answer (at {}) late, and sends a stamp to {}", position(at), position(to))
            }
            Some(EventStep::Delete { .. }) => format!("finds {} settled", note(of)),
            _ => format!("takes the answer: {} stands at {}", note(of), position(at)),
        },
        EventStep::Count { .. } => format!("raises the counter to {}", after.counter),
        EventStep::Look => match next {
            Some(EventStep::Post(posts)) => format!("reads who is connected: {}", connections(m, posts.left)),
            _ => "reads who is connected: nobody".to_owned(),
        },
        EventStep::Post(_) => posted(m, after, Set::one(of), how),
        EventStep::Settle(_) => format!("settles {}", note(of)),
        EventStep::Gone { slot, .. } => gone(m, slot, matches!(next, Some(EventStep::Remove { .. }))),
        EventStep::Remove { slot, .. } => removed(m, after, slot),
        EventStep::SendOn(slots) => format!("sends a replay for {}", connections(m, slots)),
        EventStep::Delete { .. } if how == How::Stale => format!("deletes {} with a lease that has ended", message(m, Message::Event(of))),
        EventStep::Delete { .. } => format!("deletes {}, if its lease is good", message(m, Message::Event(of))),
    }
}

fn begun(m: &Protocol, of: u8, next: Option<EventStep>) -> String {
    match next {
        Some(EventStep::Write { to, found, .. }) => {
            let early = found.map(|posts| format!("reads who is connected ({}), and ", connections(m, posts.left))).unwrap_or_default();
            format!("{early}sends the append of {} at {}", note(of), position(to))
        }
        Some(EventStep::Post(posts)) => format!("reads who is connected: {}", connections(m, posts.left)),
        _ => "begins".to_owned(),
    }
}

fn posted(m: &Protocol, after: &State, items: Set, how: How) -> String {
    match how {
        How::To(slot) => {
            let answer = if m.takes_posts(after, slot) { "200" } else { "410" };
            let lost = if after.sockets[slot as usize] == Socket::Dead { ", and nobody gets it" } else { "" };
            format!("posts {} to {}: {answer}{lost}", notes(items), connection(m, slot))
        }
        How::Refused(slot) => format!("posts {} to {}: 429", notes(items), connection(m, slot)),
        How::Unanswered(slot) => format!("posts {} to {}: it arrives, and its answer does not", notes(items), connection(m, slot)),
        _ => String::new(),
    }
}

fn gone(m: &Protocol, slot: u8, is_final: bool) -> String {
    let judged = if is_final { "gone" } else { "perhaps still opening" };
    format!("takes the 410 of {}: {judged}", connection(m, slot))
}

fn removed(m: &Protocol, after: &State, slot: u8) -> String {
    let stays = if after.rows[slot as usize].is_some() { ", which has changed and stays" } else { "" };
    format!("removes the row of {}{stays}", connection(m, slot))
}

fn replay(m: &Protocol, before: &State, slot: u8, step: ReplayStep, next: Worker, how: How) -> String {
    let next = if let Worker::Replay { step, .. } = next { Some(step) } else { None };
    let way = if matches!(how, How::Refused(_) | How::Unanswered(_)) { how } else { How::To(slot) };
    match step {
        ReplayStep::Begin => match before.rows[slot as usize].filter(|_| how != How::Stale) {
            Some(row) => format!("reads the row: {}", phase(row.phase)),
            None => "finds no row".to_owned(),
        },
        ReplayStep::Prove { .. } => posted(m, before, Set::NONE, way).replace("nothing", "a proof"),
        ReplayStep::Gone { .. } => gone(m, slot, matches!(next, Some(ReplayStep::Remove { .. }))),
        ReplayStep::Remove { seen } => format!("removes the row of {} if it is still {}", connection(m, slot), phase(seen)),
        ReplayStep::MarkLive { .. } if next == Some(ReplayStep::Delete) => "finds no row to mark live".to_owned(),
        ReplayStep::MarkLive { .. } => format!("marks {} live", connection(m, slot)),
        ReplayStep::Marks { .. } => "reads the marks".to_owned(),
        ReplayStep::Pending { .. } if how == How::Fails => "reads what is pending, and the query breaks off".to_owned(),
        ReplayStep::Pending { .. } => match next {
            Some(ReplayStep::Post(handed) | ReplayStep::MarkLive { early: Some(handed) }) => {
                format!("reads what is pending: {}", notes(handed.left))
            }
            _ => "reads what is pending: nothing".to_owned(),
        },
        ReplayStep::Post(handed) => posted(m, before, before.first(handed.left).map_or(Set::NONE, Set::one), way),
        ReplayStep::Settle { note: of, .. } => format!("settles {}", note(of)),
        ReplayStep::Advance { to, .. } => format!("raises pending_from to {}", position(to)),
        ReplayStep::Again(missed) if missed.is_empty() => "sends the replay again".to_owned(),
        ReplayStep::Again(missed) => format!("sends the replay again, naming {}", notes(missed)),
        ReplayStep::Delete => "deletes the replay, if its lease is good".to_owned(),
    }
}

fn handle(m: &Protocol, before: &State, after: &State, handler: u8, how: How) -> String {
    let Some(sync) = before.handlers[handler as usize] else { return String::new() };
    let next = after.handlers[handler as usize].map(|next| next.step);
    match sync.step {
        SyncStep::Acknowledge => {
            format!("acknowledges {}", notes(after.select(|entry| entry.acked).less(before.select(|entry| entry.acked))))
        }
        SyncStep::MarkLive { .. } if after.rows[sync.slot as usize].is_none() => "finds no row to mark live".to_owned(),
        SyncStep::MarkLive { .. } => format!("marks {} live", connection(m, sync.slot)),
        SyncStep::Begin | SyncStep::Read(_) => match next {
            Some(
                SyncStep::Post(answer) | SyncStep::Read(answer) | SyncStep::Pending(answer) | SyncStep::MarkLive { early: Some(answer) },
            ) => {
                format!("reads the inbox: {}", notes(answer.items))
            }
            _ => "reads the inbox".to_owned(),
        },
        SyncStep::Pending(_) => "reads what is pending".to_owned(),
        SyncStep::Post(answer) => answered(m, before, after, sync, answer.items, how),
        SyncStep::Advance { to, .. } => format!("raises pending_from to {}", position(to)),
    }
}

fn answered(m: &Protocol, before: &State, after: &State, sync: Sync, items: Set, how: How) -> String {
    let way = if matches!(how, How::Refused(_) | How::Unanswered(_)) { how } else { How::To(sync.slot) };
    let first = before.first(items).filter(|note| m.bounds.small_frames && !items.without(*note).is_empty());
    let frame = posted(m, before, first.map_or(items, Set::one), way);
    let last = before.app.waits && !after.app.waits;
    if last { format!("{frame}; the app has its answer, and {}", cursor(after.app.cursor)) } else { frame }
}

fn ending(m: &Protocol, s: &State) -> Vec<String> {
    let mut lines = Vec::new();
    for (of, entry) in (0..NOTES as u8).filter_map(|of| s.entry(of).map(|entry| (of, entry))) {
        let acked = if entry.acked { ", acknowledged" } else { "" };
        let read = if s.is_read(of) { ", read" } else { "" };
        lines.push(format!("   in the end {} stands at {}{acked}{read}", note(of), position(entry.position)));
    }
    lines.push(format!("   the app showed {}, and has {}", notes(s.witness.app), cursor(s.app.cursor)));
    if m.bounds.slots.contains(&Some(Kind::Listener)) {
        lines.push(format!("   the listener got {}", notes(s.witness.listener)));
    }
    for slot in (0..SLOTS as u8).filter(|slot| s.sockets[*slot as usize] == Socket::Open) {
        let row = s.rows[slot as usize].map_or("no row", |row| phase(row.phase));
        lines.push(format!("   {} is open; its row: {row}", connection(m, slot)));
    }
    lines
}
