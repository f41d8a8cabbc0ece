//! The requests of the honest callers, and the verification of their answers.

use crate::tool::table::{self, Size};
use prost::Message;
use roster::grpc::pb;
use serde::{Deserialize, Serialize};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// Requests that are encoded before the measurement starts.
const PREPARED: u32 = 4096;
/// The organizations of the writes. Concurrent writes to one organization wait for each other.
const ORGANIZATIONS: u32 = 64;

/// A kind of call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// A check of a membership that exists.
    Check(Size),
    /// A change of the role of a member, in one organization after the other.
    Write(Size),
    /// A call to an idle echo.
    Echo,
    /// The health of the server.
    Health,
    /// A stream of one check.
    Stream,
    /// An export of every membership.
    Export,
}

/// The requests of one kind of call.
pub(crate) struct Questions {
    kind: Kind,
    prepared: Vec<Vec<u8>>,
    next: u32,
}

impl Questions {
    pub(crate) fn new(kind: Kind) -> Self {
        let prepared = match &kind {
            Kind::Check(size) => (0..PREPARED.min(size.memberships)).map(|number| check(number, *size)).collect(),
            Kind::Echo => vec![check(0, Size::of(1000))],
            Kind::Health => vec![HealthCheckRequest::default().encode_to_vec()],
            Kind::Stream => {
                let (organization, user_id) = table::ids(0, Size::of(1000).users);
                vec![pb::StreamChecksRequest { organization, user_id, ..Default::default() }.encode_to_vec()]
            }
            Kind::Export => vec![pb::ExportMembershipsRequest::default().encode_to_vec()],
            Kind::Write(_) => Vec::new(),
        };
        Self { kind, prepared, next: 0 }
    }

    pub(crate) fn path(&self) -> &'static str {
        match self.kind {
            Kind::Check(_) | Kind::Echo => "/roster.v1.CheckService/CheckMembership",
            Kind::Write(_) => "/roster.v1.OrganizationService/UpdateMember",
            Kind::Health => "/grpc.health.v1.Health/Check",
            Kind::Stream => "/roster.v1.CheckService/StreamChecks",
            Kind::Export => "/roster.v1.CheckService/ExportMemberships",
        }
    }

    /// The next message.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        match self.kind {
            Kind::Write(size) => write(number, size),
            _ => self.prepared[usize::try_from(number).unwrap() % self.prepared.len()].clone(),
        }
    }

    /// Verifies the message of a successful call. The error is the reason for which it counts as refused.
    pub(crate) fn verify(&self, message: &[u8]) -> Result<(), String> {
        let message = message.get(5..).unwrap_or_default();
        let is_right = match self.kind {
            Kind::Check(_) | Kind::Echo => pb::CheckMembershipResponse::decode(message)
                .is_ok_and(|answer| answer.result.is_some_and(|result| result.allowed)),
            Kind::Write(_) => pb::UpdateMemberResponse::decode(message).is_ok_and(|answer| answer.member.is_some()),
            Kind::Stream => pb::StreamChecksResponse::decode(message).is_ok_and(|answer| answer.outcome.is_some()),
            // The export ends with the status OK, and so it is whole.
            Kind::Export => !message.is_empty(),
            Kind::Health => match HealthCheckResponse::decode(message).map(|answer| answer.status()) {
                Ok(ServingStatus::Serving) => true,
                Ok(status) => return Err(format!("{status:?}")),
                Err(_) => false,
            },
        };
        if is_right { Ok(()) } else { Err("WRONG_ANSWER".to_owned()) }
    }
}

fn check(number: u32, size: Size) -> Vec<u8> {
    // A prime number spreads the questions over the table.
    let (organization, user_id) = table::ids(number.wrapping_mul(7919) % size.memberships, size.users);
    pb::CheckMembershipRequest { organization, user_id, ..Default::default() }.encode_to_vec()
}

/// Changes the role of a member that is not the owner. Every role is `admin` at first.
fn write(number: u32, size: Size) -> Vec<u8> {
    let (organization, turn) = (number % ORGANIZATIONS, number / ORGANIZATIONS);
    let (member, round) = (turn % 8 + 1, turn / 8);
    let (organization, user_id) = table::ids(organization * 10 + member, size.users);
    let role = if round % 2 == 0 { "member" } else { "admin" };
    pb::UpdateMemberRequest { organization, user_id, role: role.to_owned(), ..Default::default() }.encode_to_vec()
}
