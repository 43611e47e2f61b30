//! What goes wrong on a port, as a test scripts it.
//!
//! Must not know: any port; an operation is a name here.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};

use recado_domain::failure::Failure;
use recado_domain::ports::Outcome;

use crate::lock;

/// The script of one port. Operations are named as the port's methods are; each scripted fault is used up by one
/// call, in the order they were scripted. Clones share the script.
///
/// A name the port does not have panics: a test that scripts nothing must not pass.
#[derive(Clone)]
pub struct Faults(Arc<Mutex<BTreeMap<&'static str, Script>>>);

#[derive(Default)]
struct Script {
    calls: usize,
    next: VecDeque<Fault>,
}

enum Fault {
    Fail(Failure),
    FailEntries(Vec<usize>, Failure),
    LoseAnswer,
    Before(Box<dyn FnOnce() + Send>),
    After(Box<dyn FnOnce() + Send>),
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting: BTreeMap<_, _> = lock(&self.0).iter().map(|(operation, script)| (*operation, script.next.len())).collect();
        f.debug_tuple("Faults").field(&waiting).finish()
    }
}

impl Faults {
    pub(crate) fn new(operations: &[&'static str]) -> Self {
        Self(Arc::new(Mutex::new(operations.iter().map(|name| (*name, Script::default())).collect())))
    }

    /// The next call changes nothing and answers `failure` (each entry of a batch does).
    ///
    /// # Panics
    /// When the port has no such operation.
    pub fn fail_next(&self, operation: &str, failure: Failure) {
        self.script(operation, Fault::Fail(failure));
    }

    /// In the next call the entries at these places change nothing and answer `failure`.
    ///
    /// # Panics
    /// When the port has no such operation.
    pub fn fail_entries(&self, operation: &str, entries: &[usize], failure: Failure) {
        self.script(operation, Fault::FailEntries(entries.to_vec(), failure));
    }

    /// The next call is applied, but answers a transient failure.
    ///
    /// # Panics
    /// When the port has no such operation.
    pub fn lose_answer(&self, operation: &str) {
        self.script(operation, Fault::LoseAnswer);
    }

    /// Runs `then` before the next call is applied.
    ///
    /// # Panics
    /// When the port has no such operation.
    pub fn before_next(&self, operation: &str, then: impl FnOnce() + Send + 'static) {
        self.script(operation, Fault::Before(Box::new(then)));
    }

    /// Runs `then` after the next call was applied and before it answers: what happened while the answer was on its
    /// way, such as time.
    ///
    /// # Panics
    /// When the port has no such operation.
    pub fn after_next(&self, operation: &str, then: impl FnOnce() + Send + 'static) {
        self.script(operation, Fault::After(Box::new(then)));
    }

    /// How often the operation was called.
    ///
    /// # Panics
    /// When the port has no such operation.
    pub fn calls(&self, operation: &str) -> usize {
        self.with(operation, |script| script.calls)
    }

    /// Whether the next call of the operation meets a fault.
    pub(crate) fn is_scripted(&self, operation: &'static str) -> bool {
        self.with(operation, |script| !script.next.is_empty())
    }

    fn script(&self, operation: &str, fault: Fault) {
        self.with(operation, |script| script.next.push_back(fault));
    }

    fn with<T>(&self, operation: &str, then: impl FnOnce(&mut Script) -> T) -> T {
        let mut scripts = lock(&self.0);
        let known = scripts.contains_key(operation);
        assert!(known, "this port has no operation `{operation}`, only {:?}", scripts.keys().collect::<Vec<_>>());
        then(scripts.get_mut(operation).expect("checked above"))
    }

    fn begin(&self, operation: &'static str) -> Option<Fault> {
        self.with(operation, |script| {
            script.calls += 1;
            script.next.pop_front()
        })
    }

    /// Applies a call with one answer.
    pub(crate) fn one<T>(&self, operation: &'static str, apply: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        match self.begin(operation) {
            None => apply(),
            Some(Fault::Fail(failure) | Fault::FailEntries(_, failure)) => Err(failure),
            Some(Fault::LoseAnswer) => apply().and_then(|_| Err(lost())),
            Some(Fault::Before(then)) => {
                then();
                apply()
            }
            Some(Fault::After(then)) => {
                let answer = apply();
                then();
                answer
            }
        }
    }

    /// Applies a call with `entries` answers, entry by entry.
    pub(crate) fn each<T>(&self, operation: &'static str, entries: usize, mut apply: impl FnMut(usize) -> Outcome<T>) -> Vec<Outcome<T>> {
        let places = 0..entries;
        match self.begin(operation) {
            None => places.map(apply).collect(),
            Some(Fault::Fail(failure)) => places.map(|_| Err(failure.clone())).collect(),
            Some(Fault::FailEntries(failing, failure)) => {
                places.map(|at| if failing.contains(&at) { Err(failure.clone()) } else { apply(at) }).collect()
            }
            Some(Fault::LoseAnswer) => places.map(|at| apply(at).and_then(|_| Err(lost()))).collect(),
            Some(Fault::Before(then)) => {
                then();
                places.map(apply).collect()
            }
            Some(Fault::After(then)) => {
                let answers = places.map(apply).collect();
                then();
                answers
            }
        }
    }
}

fn lost() -> Failure {
    Failure::transient("the answer was lost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults() -> Faults {
        Faults::new(&["append"])
    }

    #[test]
    fn each_fault_is_used_up_by_one_call() {
        let faults = faults();
        faults.fail_next("append", Failure::transient("busy"));
        assert_eq!(faults.one("append", || Ok(1)), Err(Failure::transient("busy")));
        assert_eq!(faults.one("append", || Ok(1)), Ok(1));
        assert_eq!(faults.calls("append"), 2);
    }

    #[test]
    fn a_lost_answer_was_applied() {
        let (faults, mut applied) = (faults(), Vec::new());
        faults.lose_answer("append");
        let answers = faults.each("append", 2, |at| {
            applied.push(at);
            Ok(())
        });
        assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(Failure::is_transient)));
        assert_eq!(applied, [0, 1]);
    }

    #[test]
    fn entries_fail_one_by_one() {
        let faults = faults();
        faults.fail_entries("append", &[1], Failure::permanent("full"));
        assert_eq!(faults.each("append", 3, Ok), [Ok(0), Err(Failure::permanent("full")), Ok(2)]);
    }

    #[test]
    #[should_panic(expected = "no operation `apend`")]
    fn a_misspelt_operation_is_noticed() {
        faults().lose_answer("apend");
    }
}
