//! To whom nothing more is sent. Must not know: who said so, and how mail is sent.

use recado_domain::address::AddressKey;
use recado_domain::ports::{Outcome, Suppression, SuppressionCause, Suppressions};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::database::{micros, moment, unreadable};
use crate::failure::spread;
use crate::store::Shared;
use crate::writer::{Change, Durability};

/// The suppressions of a store. They are kept until they are lifted.
#[derive(Clone)]
pub struct StoredSuppressions {
    pub(crate) shared: Shared,
}

impl StoredSuppressions {
    /// Up to `max` of them, the latest first: for operators.
    ///
    /// # Errors
    /// Transient ones of the store.
    pub async fn list(&self, max: usize) -> Outcome<Vec<(AddressKey, Suppression)>> {
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        let query = move |db: &Connection, _| {
            db.prepare_cached("SELECT cause, since, address FROM suppressions ORDER BY since DESC, address LIMIT ?1")?
                .query_map([max], |row| Ok((AddressKey::from_bytes(row.get(2)?), suppression(row)?)))?
                .collect()
        };
        self.shared.readers.read(query).await
    }
}

fn suppression(row: &Row<'_>) -> rusqlite::Result<Suppression> {
    let cause = SuppressionCause::named(row.get_ref(0)?.as_str()?);
    let cause = cause.ok_or_else(|| unreadable(0, Type::Text, std::io::Error::other("an unknown cause")))?;
    Ok(Suppression { cause, since: moment(row, 1)? })
}

fn find(db: &Connection, address: AddressKey) -> rusqlite::Result<Option<Suppression>> {
    db.prepare_cached("SELECT cause, since FROM suppressions WHERE address = ?1")?.query_row([address.to_bytes()], suppression).optional()
}

impl Suppressions for StoredSuppressions {
    async fn suppressed(&self, addresses: &[AddressKey]) -> Vec<Outcome<Option<Suppression>>> {
        let wanted = addresses.to_vec();
        let query = move |db: &Connection, _| wanted.iter().map(|address| find(db, *address).map(Ok)).collect();
        spread(self.shared.readers.read(query).await, addresses.len())
    }

    async fn suppress(&self, addresses: &[(AddressKey, SuppressionCause)]) -> Vec<Outcome<()>> {
        let wanted = addresses.to_vec();
        let work = move |change: &mut Change<'_>| {
            let mut insert = change.db.prepare_cached("INSERT OR IGNORE INTO suppressions (address, cause, since) VALUES (?1, ?2, ?3)")?;
            let since = micros(change.now);
            let insert = |(address, cause): &(AddressKey, SuppressionCause)| {
                insert.execute(params![address.to_bytes(), cause.as_str(), since]).map(|_| Ok(()))
            };
            wanted.iter().map(insert).collect()
        };
        spread(self.shared.writer.write(Durability::PowerCut, work).await, addresses.len())
    }

    async fn lift(&self, addresses: &[AddressKey]) -> Vec<Outcome<bool>> {
        let wanted = addresses.to_vec();
        let work = move |change: &mut Change<'_>| {
            let mut delete = change.db.prepare_cached("DELETE FROM suppressions WHERE address = ?1")?;
            wanted.iter().map(|address| delete.execute([address.to_bytes()]).map(|deleted| Ok(deleted > 0))).collect()
        };
        spread(self.shared.writer.write(Durability::PowerCut, work).await, addresses.len())
    }
}
