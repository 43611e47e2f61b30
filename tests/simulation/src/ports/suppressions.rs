//! To whom nothing more is sent.

use recado_domain::address::AddressKey;
use recado_domain::ports::{Outcome, Suppression, SuppressionCause, Suppressions};

use super::Way;
use crate::breakage::Breakage;
use crate::coverage::Happening;
use crate::process::Call;
use crate::world::at_once;

pub(crate) struct SimSuppressions(pub(crate) Way);

impl Suppressions for SimSuppressions {
    async fn suppressed(&self, addresses: &[AddressKey]) -> Vec<Outcome<Option<Suppression>>> {
        let Way { world, process } = &self.0;
        let call = Call::new(world, "suppressed", || format!("{} addresses", addresses.len())).of(addresses.len());
        let (there, addresses) = (world.clone(), addresses.to_vec());
        let apply = move |arriving: &[usize]| {
            let asked: Vec<AddressKey> = arriving.iter().map(|at| addresses[*at]).collect();
            let answers = at_once(there.suppressions.suppressed(&asked));
            let found = answers.iter().filter(|answer| matches!(answer, Ok(Some(_)))).count();
            there.count_many(Happening::Suppressed, found);
            answers
        };
        process.call(call, apply).await
    }

    async fn suppress(&self, addresses: &[(AddressKey, SuppressionCause)]) -> Vec<Outcome<()>> {
        let Way { world, process } = &self.0;
        let call = Call::new(world, "suppress", || format!("{} addresses", addresses.len())).of(addresses.len());
        let (there, addresses) = (world.clone(), addresses.to_vec());
        let apply = move |arriving: &[usize]| {
            let asked: Vec<_> = arriving.iter().map(|at| addresses[*at]).collect();
            if there.breakage == Some(Breakage::ForgetsComplaints) {
                return vec![Ok(()); asked.len()];
            }
            there.show(there.now());
            at_once(there.suppressions.suppress(&asked))
        };
        process.call(call, apply).await
    }

    async fn lift(&self, addresses: &[AddressKey]) -> Vec<Outcome<bool>> {
        let Way { world, process } = &self.0;
        let call = Call::new(world, "lift", || format!("{} addresses", addresses.len())).of(addresses.len());
        let (there, addresses) = (world.clone(), addresses.to_vec());
        let apply = move |arriving: &[usize]| {
            let asked: Vec<AddressKey> = arriving.iter().map(|at| addresses[*at]).collect();
            at_once(there.suppressions.lift(&asked))
        };
        process.call(call, apply).await
    }
}
