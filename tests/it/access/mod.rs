//! Who may do what: every method with every kind of caller, over the wire, against a table written by hand.

mod cast;
mod expected;
mod requests;
mod strangers;
mod twin;

use crate::harness::raw::{self, Answer, Call};
use crate::harness::snapshot::Snapshot;
use cast::Cast;
pub use cast::user_token;
use expected::Cell;
use requests::ways;
use roster::authz::rules::METHODS;
use std::collections::BTreeSet;
use tonic::Code;

#[test]
fn every_method_has_a_row_and_every_row_a_method() {
    let methods: BTreeSet<&str> = METHODS.iter().map(|method| method.name).collect();
    assert_eq!(methods.len(), METHODS.len(), "two methods of one name need rows of their own");
    assert_eq!(expected::rows().into_keys().collect::<BTreeSet<_>>(), methods);
}

/// Each cell begins with the same database. Who is refused changes nothing in it, nor does who reads; who succeeds with a
/// write does, and it is put back. (A token's news of its user would be a change, so everybody has called before.)
#[tokio::test]
async fn everybody_gets_what_the_table_says() {
    let rows = expected::rows();
    let cast = Cast::assemble().await;
    let parts = cast.parts().await;
    let columns: BTreeSet<&str> = parts.iter().map(|part| part.name).collect();
    let expected_columns: BTreeSet<&str> = rows.values().flat_map(|row| row.keys().copied()).collect();
    assert_eq!(columns, expected_columns);

    let before = Snapshot::take(&cast.server.database).await;
    let mut wrong = Vec::new();
    for method in &METHODS {
        for part in &parts {
            for message in ways(method.name, &part.place, part.user) {
                let answer = raw::send(cast.server.address, part.shown(Call::grpc(method.path, &message))).await;
                let changes = before.changes().await;
                // A token that is no good is a try that is counted, and nothing else.
                let counted = changes.len() == 1 && changes[0].starts_with("+quotas");
                let vain = counted && answer.reason.as_deref() == Some("INVITATION_NOT_FOUND");
                let seen = cell(&answer, method.write, !changes.is_empty() && !vain);
                let expected = rows[method.name][part.name];
                if seen != expected.into() {
                    wrong.push(format!("{} by {}: {seen:?} and not {expected:?}", method.name, part.name));
                }
                if !changes.is_empty() {
                    cast.server.database.assert_invariants().await;
                    before.restore().await;
                    // To whom follows the log this is a datastore that has lost writes. Until that is noticed, memory
                    // answers from them: no test of who may do what.
                    cast.server.roster.replica().caught_up().await;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a cell turned out to be.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Read,
    Done,
    Same,
    Refused(Code, String),
    /// What must never be: a change by a read, or one beside a refusal.
    Changed(Option<String>),
}

impl From<Cell> for Seen {
    fn from(cell: Cell) -> Self {
        match cell {
            Cell::Read => Self::Read,
            Cell::Done => Self::Done,
            Cell::Same => Self::Same,
            Cell::Refused(code, reason) => Self::Refused(code, reason.to_owned()),
        }
    }
}

fn cell(answer: &Answer, write: bool, changed: bool) -> Seen {
    assert_eq!(answer.http_status, 200);
    let code = Code::from_i32(answer.grpc_status.unwrap());
    match (code, write, changed) {
        (Code::Ok, true, true) => Seen::Done,
        (Code::Ok, true, false) => Seen::Same,
        (Code::Ok, false, false) => Seen::Read,
        (_, _, true) => Seen::Changed(answer.reason.clone()),
        (refused, _, false) => Seen::Refused(refused, answer.reason.clone().unwrap_or_default()),
    }
}
