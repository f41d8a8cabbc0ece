//! The history that consistency tokens and cursors belong to: what a restored database has lost is never believed, and a
//! restored database is recognized.

mod forms;
mod place;
mod restore;
mod tokens;

use crate::harness::server::Clients;
use crate::harness::{Server, is_member, reason};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use roster::grpc::pb;
use tonic::codegen::tokio_stream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// An answer, with its source.
type Answer = (bool, pb::CheckSource);

const FROM_MEMORY: Answer = (true, pb::CheckSource::Memory);
const FROM_PRIMARY: Answer = (true, pb::CheckSource::Primary);

fn at_least(token: &str) -> pb::Consistency {
    pb::Consistency { requirement: Some(pb::consistency::Requirement::AtLeastAsFresh(token.to_owned())) }
}

/// Asks with a consistency token whether a user is a member.
async fn check(clients: &Clients, organization: &str, user: &str, token: &str) -> Result<Answer, Status> {
    let request = pb::CheckMembershipRequest { consistency: Some(at_least(token)), ..is_member(organization, user) };
    let response = clients.checks.clone().check_membership(request).await?.into_inner();
    let result = response.result.unwrap();
    Ok((result.allowed, result.source()))
}

/// Asserts that there is no answer because the datastore lacks a write of the token, and that the caller may repeat.
#[track_caller]
fn assert_behind(answer: Result<Answer, Status>) {
    let status = answer.expect_err("the answer was believed");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "DATASTORE_UNAVAILABLE"), "{status:?}");
    assert!(status.message().contains("--after-restore"), "{status:?}");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
}

/// A token or cursor as bytes: the form, the datastore and the epoch, then the entries.
#[derive(Clone)]
struct RawToken {
    form: u8,
    datastore: [u8; 8],
    epoch: i32,
    entries: Vec<RawEntry>,
}

/// A bucket, a position and a mark.
#[derive(Clone, Copy)]
struct RawEntry(u16, i64, u32);

impl RawToken {
    /// Parses a token of form 2.
    fn of(token: &str) -> Self {
        let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
        assert_eq!((bytes[0], (bytes.len() - 13) % 14), (2, 0));
        let entry = |entry: &[u8]| {
            let (bucket, position, mark) = (&entry[..2], &entry[2..10], &entry[10..]);
            RawEntry(
                u16::from_be_bytes(bucket.try_into().unwrap()),
                i64::from_be_bytes(position.try_into().unwrap()),
                u32::from_be_bytes(mark.try_into().unwrap()),
            )
        };
        Self {
            form: 2,
            datastore: bytes[1..9].try_into().unwrap(),
            epoch: i32::from_be_bytes(bytes[9..13].try_into().unwrap()),
            entries: bytes[13..].chunks(14).map(entry).collect(),
        }
    }

    /// The token with each entry changed.
    fn with(mut self, change: impl Fn(&mut RawEntry)) -> Self {
        self.entries.iter_mut().for_each(change);
        self
    }

    /// The token of other rows at the same positions.
    fn with_other_marks(self) -> Self {
        self.with(|RawEntry(_, _, mark)| *mark ^= 1)
    }

    fn text(&self) -> String {
        let mut bytes = vec![self.form];
        bytes.extend(self.datastore);
        bytes.extend(self.epoch.to_be_bytes());
        for RawEntry(bucket, position, mark) in &self.entries {
            bytes.extend(bucket.to_be_bytes());
            bytes.extend(position.to_be_bytes());
            if self.form != 1 {
                bytes.extend(mark.to_be_bytes());
            }
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

/// The first message of a watch of all memberships from a cursor.
async fn watch(clients: &Clients, cursor: &str) -> Result<pb::WatchMembershipsResponse, Status> {
    let first = pb::WatchMembershipsRequest { cursor: cursor.to_owned(), ..Default::default() };
    let mut responses = clients.checks.clone().watch_memberships(tokio_stream::once(first)).await?.into_inner();
    Ok(responses.message().await?.expect("the watch ended"))
}

/// Exports all memberships, and returns the cursor.
async fn export(clients: &Clients) -> String {
    let request = pb::ExportMembershipsRequest::default();
    let mut parts = clients.checks.clone().export_memberships(request).await.unwrap().into_inner();
    let mut cursor = String::new();
    while let Some(part) = parts.message().await.unwrap() {
        cursor = part.cursor;
    }
    cursor
}

/// Waits until the replica of a server includes every acknowledged write.
async fn caught_up(server: &Server) {
    server.roster.replica().loaded().await;
    server.roster.replica().caught_up().await;
}
