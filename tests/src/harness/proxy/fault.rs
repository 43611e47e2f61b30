//! What goes wrong, how often, and by which chance: the same seed decides the same way about the n-th call of an operation.
//!
//! Must not know: how a fault is made.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use recado_domain::ports::Entropy;
use recado_memory::SeededEntropy;

use super::call::Operation;

/// One way in which a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// 500, 502 or 503 instead of an answer; nothing was done.
    ServerError,
    /// The service asks to slow down; nothing was done.
    Throttled,
    /// No answer until the caller gives up; nothing was done.
    TimedOut,
    /// No answer until the caller has given up, and *then* it is done.
    Late,
    /// The connection is reset; nothing was done.
    Reset,
    /// It is done, and the connection is reset instead of an answer.
    LostAnswer,
    /// It takes its time, and is answered.
    Slow,
    /// Of a batch, some entries fail: they were not done, or were and it is not known.
    Partial,
}

impl Fault {
    /// Each of them.
    pub const ALL: [Self; 8] =
        [Self::ServerError, Self::Throttled, Self::TimedOut, Self::Late, Self::Reset, Self::LostAnswer, Self::Slow, Self::Partial];

    fn fits(self, operation: &Operation, mix: &Mix) -> bool {
        match self {
            Self::Partial => operation.batch,
            Self::TimedOut | Self::Late => operation.soon_given_up,
            // What such an answer held stays hidden until its lease ends.
            Self::LostAnswer => operation.name != "ReceiveMessage" || mix.lost_receives,
            _ => true,
        }
    }
}

/// How much goes wrong.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// The share of calls that meet a fault.
    pub rate: f64,
    /// How many calls of one operation in a row may meet one.
    pub in_a_row: u32,
    /// Whether the SDK's last attempt of several may meet one, so that its call fails.
    pub outlasts_retries: bool,
    /// How many calls of one operation may time out, since each costs its caller seconds.
    pub time_outs: u64,
    /// Whether the answer to a receive may be lost: its messages come back when their lease ends, a minute later.
    pub lost_receives: bool,
}

impl Mix {
    /// None.
    pub const CALM: Self = Self { rate: 0.0, in_a_row: 0, outlasts_retries: false, time_outs: 0, lost_receives: false };
    /// A bad day: what the SDK repeats gets through.
    pub const MODERATE: Self = Self { rate: 0.1, in_a_row: 1, outlasts_retries: false, time_outs: 1, lost_receives: false };
    /// Nearly every third call, in runs that outlast every retry of the SDK.
    pub const HEAVY: Self = Self { rate: 0.3, in_a_row: 8, outlasts_retries: true, time_outs: 2, lost_receives: true };
}

/// Decides about calls, and counts.
#[derive(Debug)]
pub(super) struct Chance {
    seed: u64,
    mix: Mutex<Mix>,
    seen: Mutex<BTreeMap<&'static str, Seen>>,
}

/// What one operation saw so far.
#[derive(Debug, Default)]
struct Seen {
    calls: u64,
    in_a_row: u32,
    faults: BTreeMap<Fault, u64>,
}

impl Chance {
    pub(super) fn new(seed: u64, mix: Mix) -> Self {
        Self { seed, mix: Mutex::new(mix), seen: Mutex::default() }
    }

    pub(super) fn set(&self, mix: Mix) {
        *locked(&self.mix) = mix;
    }

    /// What happens to the next call of an operation, and the chance by which its details are decided. The first call of each
    /// operation meets a fault whenever any may, so that the shortest run has some.
    pub(super) fn next(&self, operation: &'static Operation, last_attempt: bool) -> (Option<Fault>, SeededEntropy) {
        let mix = *locked(&self.mix);
        let mut all = locked(&self.seen);
        let seen = all.entry(operation.name).or_default();
        let entropy = SeededEntropy::new(self.seed ^ name_as_number(operation.name) ^ seen.calls.rotate_left(32));
        let due = entropy.fraction() < mix.rate || (seen.calls == 0 && mix.rate > 0.0);
        seen.calls += 1;
        let spared = seen.in_a_row >= mix.in_a_row || (last_attempt && !mix.outlasts_retries);
        if !due || spared {
            seen.in_a_row = 0;
            return (None, entropy);
        }
        let held = seen.faults.iter().filter(|(fault, _)| matches!(fault, Fault::TimedOut | Fault::Late)).map(|(_, count)| count);
        let may_hold = held.sum::<u64>() < mix.time_outs;
        let fitting = Fault::ALL.into_iter().filter(|fault| fault.fits(operation, &mix));
        let fitting: Vec<Fault> = fitting.filter(|fault| may_hold || !matches!(fault, Fault::TimedOut | Fault::Late)).collect();
        let fault = pick(&fitting, &entropy);
        seen.in_a_row += 1;
        *seen.faults.entry(fault).or_default() += 1;
        (Some(fault), entropy)
    }

    pub(super) fn counts(&self) -> Counts {
        let all = locked(&self.seen);
        Counts { seed: self.seed, calls: all.iter().map(|(name, seen)| (*name, (seen.calls, seen.faults.clone()))).collect() }
    }
}

/// What was injected so far.
#[derive(Debug, Clone)]
pub struct Counts {
    seed: u64,
    calls: BTreeMap<&'static str, (u64, BTreeMap<Fault, u64>)>,
}

impl Counts {
    /// Faults in all.
    pub fn faults(&self) -> u64 {
        Fault::ALL.into_iter().map(|fault| self.of(fault)).sum()
    }

    /// How often there was one fault.
    pub fn of(&self, fault: Fault) -> u64 {
        self.calls.values().filter_map(|(_, faults)| faults.get(&fault)).sum()
    }

    /// How often an operation met one fault.
    pub fn at(&self, operation: &str, fault: Fault) -> u64 {
        self.calls.get(operation).and_then(|(_, faults)| faults.get(&fault)).copied().unwrap_or_default()
    }

    /// How many faults an operation met.
    pub fn faults_at(&self, operation: &str) -> u64 {
        Fault::ALL.into_iter().map(|fault| self.at(operation, fault)).sum()
    }

    /// How often an operation was called.
    pub fn calls(&self, operation: &str) -> u64 {
        self.calls.get(operation).map_or(0, |(calls, _)| *calls)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} faults, by seed {}:", self.faults(), self.seed)?;
        for (name, (calls, faults)) in &self.calls {
            let faults: Vec<String> = faults.iter().map(|(fault, count)| format!("{fault:?} {count}")).collect();
            writeln!(f, "  {name:<28} {calls:>5} calls  {}", faults.join(", "))?;
        }
        Ok(())
    }
}

/// One of these.
///
/// # Panics
/// When there is none.
pub(super) fn pick<T: Clone>(choices: &[T], entropy: &impl Entropy) -> T {
    let at = usize::try_from(entropy.next_u64() % choices.len() as u64).expect("a place in a slice");
    choices[at].clone()
}

/// FNV-1a, so that no change of a library changes what a seed means.
fn name_as_number(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::call::OPERATIONS;
    use super::*;

    fn faults(seed: u64, mix: Mix) -> Vec<Option<Fault>> {
        let chance = Chance::new(seed, mix);
        OPERATIONS.iter().flat_map(|operation| (0..100).map(|_| chance.next(operation, false).0).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn a_seed_means_the_same_faults() {
        assert_eq!(faults(7, Mix::HEAVY), faults(7, Mix::HEAVY));
        assert_ne!(faults(7, Mix::HEAVY), faults(8, Mix::HEAVY));
        assert!(faults(7, Mix::CALM).iter().all(Option::is_none));
    }

    #[test]
    fn each_fault_meets_the_operations_that_it_fits() {
        let chance = Chance::new(1, Mix { time_outs: 3, ..Mix::HEAVY });
        for operation in &OPERATIONS {
            assert!(chance.next(operation, false).0.is_some(), "the first call of {}", operation.name);
            (0..400).for_each(|_| drop(chance.next(operation, false)));
        }
        let counts = chance.counts();
        for operation in &OPERATIONS {
            let at = |fault| counts.at(operation.name, fault);
            assert_eq!(at(Fault::Partial) > 0, operation.batch, "{counts}");
            assert_eq!(at(Fault::TimedOut) + at(Fault::Late), if operation.soon_given_up { 3 } else { 0 }, "{counts}");
            assert!(at(Fault::LostAnswer) > 0 && at(Fault::Reset) > 0 && at(Fault::Throttled) > 0, "{counts}");
            assert_eq!(counts.calls(operation.name), 401);
        }
    }

    #[test]
    fn the_last_attempt_is_spared_unless_faults_outlast_retries() {
        let last = |mix| Chance::new(1, Mix { rate: 1.0, ..mix }).next(&OPERATIONS[0], true).0;
        assert_eq!(last(Mix::MODERATE), None);
        assert!(last(Mix::HEAVY).is_some());
    }

    #[test]
    fn no_more_than_so_many_in_a_row() {
        let mix = Mix { rate: 1.0, in_a_row: 2, ..Mix::MODERATE };
        let all = faults(3, mix);
        for one in all.chunks(100) {
            assert!(one.windows(3).all(|three| three.iter().flatten().count() == 2));
        }
    }
}
