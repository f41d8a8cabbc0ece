//! The access matrix: every method, called by every kind of caller over the network, compared with a handwritten table.

mod disclosure;
mod expected;
mod fixture;
mod foreign_ids;
mod requests;
mod single;

use crate::harness::raw::{self, Answer, Call};
use crate::harness::snapshot::Snapshot;
use expected::Cell;
use fixture::Fixture;
pub use fixture::user_token;
use requests::forms;
use roster::authz::rules::METHODS;
use std::collections::BTreeSet;
use tonic::Code;

#[test]
fn the_table_has_one_row_for_each_method() {
    let methods: BTreeSet<&str> = METHODS.iter().map(|method| method.name).collect();
    assert_eq!(methods.len(), METHODS.len(), "two methods of the same name need separate rows");
    assert_eq!(expected::rows().into_keys().collect::<BTreeSet<_>>(), methods);
}

/// Each cell starts with the same content of the database. Refused calls and reads change nothing. The changes of a
/// successful write are undone. (The first call of a user stores the profile of the bearer token, which is a change, so
/// every caller has called before.)
#[tokio::test]
async fn every_caller_gets_the_answer_of_the_table() {
    let rows = expected::rows();
    let fixture = Fixture::new().await;
    let callers = fixture.callers().await;
    let columns: BTreeSet<&str> = callers.iter().map(|caller| caller.name).collect();
    let expected_columns: BTreeSet<&str> = rows.values().flat_map(|row| row.keys().copied()).collect();
    assert_eq!(columns, expected_columns);

    let before = Snapshot::take(&fixture.server.database).await;
    let mut mismatches = Vec::new();
    for method in &METHODS {
        for caller in &callers {
            for message in forms(method, &caller.organization, caller.user) {
                let call = caller.authenticate(Call::grpc(method.path, &message));
                let answer = raw::send(fixture.server.address, call).await;
                let changes = before.changes().await;
                // A failed invitation token is counted, which is the only change.
                let quota_only = changes.len() == 1 && changes[0].starts_with("+quotas");
                let counted = quota_only && answer.reason.as_deref() == Some("INVITATION_NOT_FOUND");
                let actual = classify(&answer, method.write, !changes.is_empty() && !counted);
                let expected = rows[method.name][caller.name];
                if actual != expected.into() {
                    mismatches.push(format!("{} by {}: {actual:?} instead of {expected:?}", method.name, caller.name));
                }
                if !changes.is_empty() {
                    fixture.server.database.assert_invariants().await;
                    before.restore().await;
                    // To the follower, the restored datastore has lost writes. Until the follower detects that, the
                    // replica answers with them, which is not what this test is about.
                    fixture.server.roster.replica().caught_up().await;
                }
            }
        }
    }
    assert!(mismatches.is_empty(), "{}", mismatches.join("\n"));
}

/// The actual answer.
#[derive(Debug, PartialEq, Eq)]
enum Actual {
    Read,
    Done,
    Same,
    Refused(Code, String),
    /// A change by a read or by a refused call, which no cell expects.
    Changed(Option<String>),
}

impl From<Cell> for Actual {
    fn from(cell: Cell) -> Self {
        match cell {
            Cell::Read => Self::Read,
            Cell::Done => Self::Done,
            Cell::Same => Self::Same,
            Cell::Refused(code, reason) => Self::Refused(code, reason.to_owned()),
        }
    }
}

fn classify(answer: &Answer, write: bool, changed: bool) -> Actual {
    assert_eq!(answer.http_status, 200);
    let code = Code::from_i32(answer.grpc_status.unwrap());
    match (code, write, changed) {
        (Code::Ok, true, true) => Actual::Done,
        (Code::Ok, true, false) => Actual::Same,
        (Code::Ok, false, false) => Actual::Read,
        (_, _, true) => Actual::Changed(answer.reason.clone()),
        (refused, _, false) => Actual::Refused(refused, answer.reason.clone().unwrap_or_default()),
    }
}
