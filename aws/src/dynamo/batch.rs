//! Statements of PartiQL, 25 a call, each with an answer of its own.
//!
//! A call is never sent again as it is: what is left of a batch is stated anew for every attempt. Must not know: what a
//! statement says.

use aws_sdk_dynamodb::types::{BatchStatementRequest, BatchStatementResponse};
use recado_domain::failure::Failure;
use recado_domain::ports::{Entropy, Outcome};

use super::item::Item;
use super::table::{ATTEMPTS, Broken, Table, pause};
use crate::failure::{failure_of_entry, unanswered};

/// Statements of one `BatchExecuteStatement` ("Quotas in Amazon DynamoDB").
pub(super) const STATEMENTS: usize = 25;

const CALL: &str = "DynamoDB BatchExecuteStatement";

/// What a statement was answered.
#[derive(Debug)]
pub(super) enum Said {
    /// It was done.
    Done,
    /// An `INSERT`: the key is taken.
    Taken,
    /// An `UPDATE`: the item is missing, or a condition does not hold. What is there, where the statement asked for it.
    Unmet(Option<Item>),
}

/// Sends up to [`STATEMENTS`] statements until each came to something or the attempts are used up; answers them in
/// order. `statement` makes the one at a place for an attempt, counted from 1.
pub(super) async fn settle<E: Entropy>(
    table: &Table,
    entropy: &E,
    count: usize,
    mut statement: impl FnMut(usize, u32) -> BatchStatementRequest + Send,
) -> Vec<Result<Said, Broken>> {
    let mut answers: Vec<Result<Said, Broken>> = (0..count).map(|_| Err(Broken { failure: unanswered(CALL), maybe_done: false })).collect();
    for attempt in 1..=ATTEMPTS {
        let is_open = |at: &usize| answers[*at].as_ref().is_err_and(|broken| broken.failure.is_transient());
        let open: Vec<usize> = (0..count).filter(is_open).collect();
        if open.is_empty() {
            break;
        }
        if attempt > 1 {
            pause(attempt - 1, entropy).await;
        }
        let statements = open.iter().map(|at| statement(*at, attempt)).collect();
        let whole = send(table, statements).await;
        let refused = whole.as_ref().is_err_and(|broken| !broken.failure.is_transient()) && open.len() > 1;
        let said = match whole {
            Ok(said) => said,
            // Perhaps for one of them: none is to suffer for another.
            Err(_) if refused => {
                let mut alone = Vec::with_capacity(open.len());
                for at in &open {
                    alone.extend(send(table, vec![statement(*at, attempt)]).await.unwrap_or_else(|broken| vec![Err(broken)]));
                }
                alone
            }
            Err(broken) => open.iter().map(|_| Err(broken.clone())).collect(),
        };
        for (at, said) in open.into_iter().zip(said) {
            let maybe_done = answers[at].as_ref().is_err_and(|before| before.maybe_done);
            answers[at] = said.map_err(|broken| Broken { ..broken });
        }
    }
    answers
}

/// One call; one answer for each of its statements.
async fn send(table: &Table, statements: Vec<BatchStatementRequest>) -> Result<Vec<Result<Said, Broken>>, Broken> {
    let count = statements.len();
    let mut answers: Vec<_> = table.execute(statements).await?.into_iter().map(said).collect();
    // What the answer does not mention may have been done.
    answers.resize_with(count, || Err(Broken { failure: unanswered(CALL), maybe_done: true }));
    Ok(answers)
}

fn said(answer: BatchStatementResponse) -> Result<Said, Broken> {
    let Some(error) = answer.error else { return Ok(Said::Done) };
    match error.code.as_ref().map_or("", |code| code.as_str()) {
        "DuplicateItem" => Ok(Said::Taken),
        "ConditionalCheckFailed" => Ok(Said::Unmet(error.item)),
        // Throttled, and refused, means not done; a server that failed may have done it.
        code => Err(Broken { failure: failure_of_entry(CALL, code, error.message.as_deref()), maybe_done: code == "InternalServerError" }),
    }
}

/// The answers of statements that all have to succeed: the first failure, if there is one.
pub(super) fn all(answers: Vec<Result<Said, Broken>>) -> Outcome<Vec<Said>> {
    answers.into_iter().map(|answer| answer.map_err(|broken| broken.failure)).collect::<Result<_, Failure>>()
}
