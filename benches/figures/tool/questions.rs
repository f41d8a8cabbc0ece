//! The requests of the generator, and the verification of their answers.

use super::table::{self, Size};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use roster::grpc::pb;
use serde::{Deserialize, Serialize};

/// Requests that are encoded before the measurement starts and sent in turn, so that the encoding is not measured.
const PREPARED: u32 = 65_536;
/// The number of items in a batch.
pub(crate) const BATCH: u32 = 1_000;

/// The number of members that one run may add to one organization.
const ADDED: u32 = 1_000;

/// A kind of call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// A check of one membership that exists.
    Check { fully_consistent: bool },
    /// A check of a permission of one member of each of the first organizations.
    Permission { permission: String, member: u32, organizations: u32 },
    /// A check of one membership, by organization, user and consistency token. The token is sent if `fresh`.
    Fresh { questions: Vec<[String; 3]>, fresh: bool },
    /// A thousand of these checks in one call.
    Batch,
    /// Such checks on one open stream.
    Stream,
    /// Adds a known user to one organization after the other. Runs with different salts add different users.
    Add { salt: u32, table: Size },
    /// The first page of the members of one organization.
    Members { organization: String },
    /// The first page of the organizations of one user.
    Organizations { user: String },
}

/// The requests of one generator.
pub(crate) struct Questions {
    kind: Kind,
    prepared: Vec<Bytes>,
    next: u32,
}

impl Questions {
    pub(crate) fn new(kind: Kind, table: Size) -> Self {
        let all = |count: u32, make: &dyn Fn(u32) -> Bytes| (0..count).map(make).collect();
        let prepared = match &kind {
            Kind::Check { fully_consistent } => all(PREPARED.min(table.memberships), &|index| {
                frame(&check(spread(index, table), table, *fully_consistent))
            }),
            Kind::Permission { permission, member, organizations } => {
                all(PREPARED.min(*organizations), &|organization| {
                    frame(&check_permission(table::member(organization, *member, table.users), permission))
                })
            }
            Kind::Fresh { questions, fresh } => {
                questions.iter().map(|question| frame(&check_fresh(question, *fresh))).collect()
            }
            Kind::Stream => all(PREPARED.min(table.memberships), &|index| {
                let (organization, user_id) = table::ids(spread(index, table), table.users);
                frame(&pb::StreamChecksRequest { organization, user_id, ..Default::default() })
            }),
            Kind::Batch => all(64, &|index| frame(&batch(index, table))),
            Kind::Members { organization } => {
                vec![frame(&pb::ListMembersRequest { organization: organization.clone(), ..Default::default() })]
            }
            Kind::Organizations { user } => {
                vec![frame(&pb::ListUserOrganizationsRequest { user_id: user.clone(), ..Default::default() })]
            }
            Kind::Add { .. } => Vec::new(),
        };
        Self { kind, prepared, next: 0 }
    }

    pub(crate) fn path(&self) -> &'static str {
        match self.kind {
            Kind::Check { .. } | Kind::Permission { .. } | Kind::Fresh { .. } => {
                "/roster.v1.CheckService/CheckMembership"
            }
            Kind::Batch => "/roster.v1.CheckService/BatchCheckMembership",
            Kind::Stream => "/roster.v1.CheckService/StreamChecks",
            Kind::Add { .. } => "/roster.v1.OrganizationService/AddMember",
            Kind::Members { .. } => "/roster.v1.OrganizationService/ListMembers",
            Kind::Organizations { .. } => "/roster.v1.OrganizationService/ListUserOrganizations",
        }
    }

    /// The next request, in its frame.
    pub(crate) fn next(&mut self) -> Bytes {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        if let Kind::Add { salt, table } = self.kind {
            let (organization, turn) = (number % table.organizations(), number / table.organizations());
            let (organization, user) = table::not_a_member(organization, salt * ADDED + turn, table.users);
            return frame(&pb::AddMemberRequest {
                organization,
                person: Some(pb::add_member_request::Person::UserId(user)),
                role: "member".to_owned(),
                ..Default::default()
            });
        }
        self.prepared[usize::try_from(number).unwrap() % self.prepared.len()].clone()
    }

    /// Verifies a complete answer. A wrong answer ends the program.
    pub(crate) fn verify(&self, frame: &mut BytesMut) {
        let length = usize::try_from(u32::from_be_bytes(frame[1..5].try_into().unwrap())).unwrap();
        assert!(frame[0] == 0 && frame.len() == 5 + length, "not one message");
        frame.advance(5);
        match self.kind {
            Kind::Check { .. } | Kind::Permission { .. } | Kind::Fresh { .. } => {
                let answer = pb::CheckMembershipResponse::decode(frame).unwrap();
                assert!(answer.result.unwrap().allowed, "a member was denied");
            }
            Kind::Stream => {
                let answer = pb::StreamChecksResponse::decode(frame).unwrap();
                let member =
                    |outcome| matches!(outcome, pb::stream_checks_response::Outcome::Result(result) if result.allowed);
                assert!(answer.outcome.is_some_and(member), "a member was denied");
            }
            Kind::Batch => {
                let answer = pb::BatchCheckMembershipResponse::decode(frame).unwrap();
                assert_eq!(answer.results.len(), usize::try_from(BATCH).unwrap());
                assert!(answer.results.iter().all(|result| result.allowed), "a member was denied");
            }
            Kind::Add { .. } => assert!(pb::AddMemberResponse::decode(frame).unwrap().member.is_some()),
            Kind::Members { .. } => {
                assert!(pb::ListMembersResponse::decode(frame).unwrap().members.len() > 1);
            }
            Kind::Organizations { .. } => {
                let answer = pb::ListUserOrganizationsResponse::decode(frame).unwrap();
                assert!(answer.organizations.len() > 1);
            }
        }
    }
}

/// Removes and returns the first frame once all of it has arrived.
pub(crate) fn split_frame(frames: &mut BytesMut) -> Option<BytesMut> {
    let length = usize::try_from(u32::from_be_bytes(frames.get(1..5)?.try_into().unwrap())).unwrap();
    (frames.len() >= 5 + length).then(|| frames.split_to(5 + length))
}

/// Spreads the prepared requests over all memberships.
fn spread(index: u32, table: Size) -> u32 {
    let number = u64::from(index) * u64::from(table.memberships) / u64::from(PREPARED.min(table.memberships));
    u32::try_from(number).unwrap()
}

fn check(number: u32, table: Size, fully_consistent: bool) -> pb::CheckMembershipRequest {
    let (organization, user_id) = table::ids(number, table.users);
    let consistency = fully_consistent
        .then_some(pb::Consistency { requirement: Some(pb::consistency::Requirement::FullyConsistent(true)) });
    pb::CheckMembershipRequest { organization, user_id, consistency, question: None }
}

fn check_permission((organization, user_id): (String, String), permission: &str) -> pb::CheckMembershipRequest {
    let question = pb::check_membership_request::Question::Permission(permission.to_owned());
    pb::CheckMembershipRequest { organization, user_id, consistency: None, question: Some(question) }
}

fn check_fresh([organization, user_id, token]: &[String; 3], fresh: bool) -> pb::CheckMembershipRequest {
    let requirement = pb::consistency::Requirement::AtLeastAsFresh(token.clone());
    let consistency = fresh.then_some(pb::Consistency { requirement: Some(requirement) });
    let (organization, user_id) = (organization.clone(), user_id.clone());
    pb::CheckMembershipRequest { organization, user_id, consistency, question: None }
}

fn batch(index: u32, table: Size) -> pb::BatchCheckMembershipRequest {
    let items = (0..BATCH).map(|item| {
        let number =
            spread((index * BATCH + item).wrapping_mul(2_654_435_761) % PREPARED.min(table.memberships), table);
        let (organization, user_id) = table::ids(number, table.users);
        pb::CheckItem { organization, user_id, question: None }
    });
    pb::BatchCheckMembershipRequest { items: items.collect(), consistency: None }
}

/// Encodes a message in its gRPC frame.
fn frame(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    frame.freeze()
}
