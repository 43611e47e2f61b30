//! Who sends which mail. Must not know: how mail is sent.

use std::time::Duration;

use jiff::Timestamp;
use recado_domain::ids::DeliveryKey;
use recado_domain::limits;
use recado_domain::ports::{Claim, MailClaims, Outcome};
use rusqlite::{OptionalExtension, params};

use crate::database::{micros, micros_after, moment};
use crate::store::Shared;
use crate::writer::{Change, Durability};

/// The claims of a store. They are kept for [`limits::RETENTION`], as inbox entries are, so that a late redrive sends nothing twice.
#[derive(Clone)]
pub struct StoredClaims {
    pub(crate) shared: Shared,
}

/// How a delivery is stored.
fn row_key(key: &DeliveryKey) -> (String, [u8; 16]) {
    (key.recipient.joined(), key.notification.to_bytes())
}

struct Held {
    holder: Option<String>,
    until: Timestamp,
    sent: bool,
}

fn held(change: &Change<'_>, recipient: &str, notification: &[u8; 16]) -> rusqlite::Result<Option<Held>> {
    change
        .db
        .prepare_cached("SELECT holder, held_until, sent_at IS NOT NULL FROM mail_claims WHERE recipient = ?1 AND notification = ?2")?
        .query_row(params![recipient, notification], |row| Ok(Held { holder: row.get(0)?, until: moment(row, 1)?, sent: row.get(2)? }))
        .optional()
}

impl MailClaims for StoredClaims {
    async fn claim(&self, key: &DeliveryKey, holder: &str, lease: Duration) -> Outcome<Claim> {
        let ((recipient, notification), holder) = (row_key(key), holder.to_owned());
        let work = move |change: &mut Change<'_>| {
            match held(change, &recipient, &notification)? {
                Some(Held { sent: true, .. }) => return Ok(Claim::Sent),
                Some(other) if other.until > change.now && other.holder.as_ref() != Some(&holder) => {
                    return Ok(Claim::HeldUntil(other.until));
                }
                _ => {}
            }
            let (until, collect) = (micros_after(change.now, lease), micros_after(change.now, limits::RETENTION));
            change
                .db
                .prepare_cached(
                    "INSERT OR REPLACE INTO mail_claims (recipient, notification, holder, held_until, collect_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![recipient, notification, holder, until, collect])?;
            Ok(Claim::Taken)
        };
        self.shared.writer.write(Durability::PowerCut, work).await
    }

    async fn confirm(&self, key: &DeliveryKey) -> Outcome<()> {
        let (recipient, notification) = row_key(key);
        let work = move |change: &mut Change<'_>| {
            let (now, collect) = (micros(change.now), micros_after(change.now, limits::RETENTION));
            change
                .db
                .prepare_cached(
                    "INSERT INTO mail_claims (recipient, notification, held_until, sent_at, collect_at) VALUES (?1, ?2, ?3, ?3, ?4)
                     ON CONFLICT DO UPDATE SET sent_at = ifnull(sent_at, ?3), collect_at = ?4",
                )?
                .execute(params![recipient, notification, now, collect])
                .map(drop)
        };
        self.shared.writer.write(Durability::PowerCut, work).await
    }

    async fn abandon(&self, key: &DeliveryKey, holder: &str) -> Outcome<()> {
        let ((recipient, notification), holder) = (row_key(key), holder.to_owned());
        let work = move |change: &mut Change<'_>| {
            change
                .db
                .prepare_cached("DELETE FROM mail_claims WHERE recipient = ?1 AND notification = ?2 AND holder = ?3 AND sent_at IS NULL")?
                .execute(params![recipient, notification, holder])
                .map(drop)
        };
        self.shared.writer.write(Durability::PowerCut, work).await
    }
}
