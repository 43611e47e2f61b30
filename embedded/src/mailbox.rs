//! A mailer that keeps what it is given, for a page that shows it. Must not know: how mail is rendered there.

use jiff::Timestamp;
use mail_parser::MessageParser;
use recado_domain::ports::{Mailer, Outcome, OutgoingMail};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::database::{micros, moment};
use crate::store::Shared;
use crate::writer::{Change, Durability};

/// Mails of one page of [`Mailbox::list`], at the most.
pub const PAGE_MAILS: usize = 100;

/// The mailbox of a store. Mails stay for [`recado_domain::limits::RETENTION`].
#[derive(Clone)]
pub struct Mailbox {
    pub(crate) shared: Shared,
}

/// A captured mail as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailSummary {
    /// Names it; later ones are higher.
    pub id: u64,
    /// The envelope's recipient.
    pub to: String,
    /// As the message says; empty where it says none.
    pub subject: String,
    /// When it was handed over.
    pub sent_at: Timestamp,
}

/// A captured mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedMail {
    /// What a list shows of it.
    pub summary: MailSummary,
    /// The envelope's sender.
    pub from: String,
    /// The whole message (RFC 5322), byte for byte as it would have left.
    pub message: Vec<u8>,
}

fn summary(row: &Row<'_>) -> rusqlite::Result<MailSummary> {
    let id = u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0);
    Ok(MailSummary { id, to: row.get(1)?, subject: row.get(2)?, sent_at: moment(row, 3)? })
}

fn stored_id(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}

/// The subject of a message, decoded; empty where there is none or the message is none.
fn subject_of(message: &[u8]) -> String {
    let parsed = MessageParser::default().parse_headers(message);
    parsed.as_ref().and_then(|mail| mail.subject()).unwrap_or_default().to_owned()
}

impl Mailbox {
    /// The newest mails, or those below `before`; newest first, at most [`PAGE_MAILS`].
    ///
    /// # Errors
    /// Transient ones of the store.
    pub async fn list(&self, before: Option<u64>, limit: usize) -> Outcome<Vec<MailSummary>> {
        let before = before.map_or(i64::MAX, stored_id);
        let query = move |db: &Connection, _| {
            db.prepare_cached("SELECT id, recipient, subject, sent_at FROM mails WHERE id < ?1 ORDER BY id DESC LIMIT ?2")?
                .query_map(params![before, limit.min(PAGE_MAILS) as i64], summary)?
                .collect()
        };
        self.shared.readers.read(query).await
    }

    /// One mail; `None` where there is none of this id.
    ///
    /// # Errors
    /// Transient ones of the store.
    pub async fn get(&self, id: u64) -> Outcome<Option<CapturedMail>> {
        let query = move |db: &Connection, _| {
            db.prepare_cached("SELECT id, recipient, subject, sent_at, sender, message FROM mails WHERE id = ?1")?
                .query_row([stored_id(id)], |row| Ok(CapturedMail { summary: summary(row)?, from: row.get(4)?, message: row.get(5)? }))
                .optional()
        };
        self.shared.readers.read(query).await
    }
}

impl Mailer for Mailbox {
    async fn send(&self, mail: &OutgoingMail) -> Outcome<String> {
        let (subject, mail) = (subject_of(&mail.message), mail.clone());
        let work = move |change: &mut Change<'_>| {
            change
                .db
                .prepare_cached("INSERT INTO mails (sent_at, sender, recipient, subject, message) VALUES (?1, ?2, ?3, ?4, ?5)")?
                .insert(params![micros(change.now), mail.from, mail.to, subject, mail.message])
        };
        self.shared.writer.write(Durability::PowerCut, work).await.map(|id| id.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_encoded_subject_is_decoded() {
        let message = b"From: a@example.com\r\nSubject: =?utf-8?B?UXXDqSB0YWw/?=\r\n\r\nbody";
        assert_eq!(subject_of(message), "Qu\u{e9} tal?");
        assert_eq!(subject_of(b"no header at all"), "");
    }

    proptest! {
        #[test]
        fn any_bytes_as_a_message_have_a_subject_without_a_panic(message in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _: String = subject_of(&message);
        }
    }
}
