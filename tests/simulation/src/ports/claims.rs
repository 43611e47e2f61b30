//! Who sends which mail.

use std::time::Duration;

use recado_domain::ids::DeliveryKey;
use recado_domain::ports::{Claim, MailClaims, Outcome};

use super::Way;
use crate::breakage::Breakage;
use crate::coverage::Happening;
use crate::lock;
use crate::process::Call;
use crate::world::{World, at_once, short};

pub(crate) struct SimClaims(pub(crate) Way);

impl SimClaims {
    async fn one<T: Send + 'static>(
        &self,
        name: &'static str,
        key: &DeliveryKey,
        apply: impl FnOnce(&World) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let Way { world, process } = &self.0;
        let call = Call::new(world, name, || format!("{} for {}", world.name_of(key.notification), short(&key.recipient)));
        let (time, there) = (self.0.time(), world.clone());
        let apply = move || {
            time();
            apply(&there)
        };
        process.call_one(call, apply).await
    }
}

impl MailClaims for SimClaims {
    async fn claim(&self, key: &DeliveryKey, holder: &str, lease: Duration) -> Outcome<Claim> {
        let (of, holder, claimant) = (key.clone(), holder.to_owned(), self.0.process.to_string());
        self.one("claim", key, move |world| {
            let claim = at_once(world.claims.claim(&of, &holder, lease));
            let claim = if world.breakage == Some(Breakage::ClaimsAreFree) { Ok(Claim::Taken) } else { claim };
            match claim {
                Ok(Claim::Taken) => lock(&world.ledger).claim(&of, claimant),
                _ => world.count(Happening::ClaimHeld),
            }
            claim
        })
        .await
    }

    async fn confirm(&self, key: &DeliveryKey) -> Outcome<()> {
        let of = key.clone();
        // Whoever ends here, or gives up, has sent a mail that nobody knows of.
        lock(&self.0.world.ledger).excuse(key, Some("it could not be confirmed"));
        self.one("confirm", key, move |world| {
            let mut ledger = lock(&world.ledger);
            ledger.confirmed.insert(of.clone());
            ledger.excuse(&of, None);
            at_once(world.claims.confirm(&of))
        })
        .await
    }

    async fn abandon(&self, key: &DeliveryKey, holder: &str) -> Outcome<()> {
        let (of, holder) = (key.clone(), holder.to_owned());
        self.one("abandon", key, move |world| at_once(world.claims.abandon(&of, &holder))).await
    }
}
