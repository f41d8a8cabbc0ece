//! The test harness: one real Postgres for all tests, a database for each test, servers, clients and sample requests.

pub mod bulk;
pub mod cluster;
pub mod dump;
pub mod dynamic;
pub mod http2;
pub mod invariants;
pub mod log;
pub mod postgres;
pub mod program;
pub mod proxy;
pub mod raw;
pub mod samples;
pub mod server;
pub mod smtp;
pub mod snapshot;
pub mod standby;
pub mod tls;

pub use postgres::Database;
pub use server::{API_KEY, Server};

use roster::grpc::pb;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The reason of an error. Every error of roster has one; the test fails on an error without one.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("the error has no reason: {status:?}"));
    assert_eq!(info.domain, "roster");
    info.reason
}

/// The code and the reason of an answer that must be an error.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("the call succeeded");
    (status.code(), reason(&status))
}

/// Asserts that an answer is an error with this code and reason.
#[track_caller]
pub fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, reason: &str) {
    assert_eq!(refused(answer), (code, reason.to_owned()));
}

/// An invitation, as its creator knows it.
#[derive(Debug, Clone, Default)]
pub struct IssuedInvitation {
    pub id: String,
    pub token: String,
}

/// A request that creates an organization with this name.
pub fn organization(name: &str) -> pb::CreateOrganizationRequest {
    pb::CreateOrganizationRequest { name: name.to_owned(), ..Default::default() }
}

/// A request that adds a user by id.
pub fn add(organization: &str, user: &str, role: &str) -> pb::AddMemberRequest {
    pb::AddMemberRequest {
        organization: organization.to_owned(),
        person: Some(pb::add_member_request::Person::UserId(user.to_owned())),
        role: role.to_owned(),
        ..Default::default()
    }
}

/// A request that transfers the ownership of an organization to a user by id.
pub fn transfer(organization: &str, user: &str) -> pb::TransferOwnershipRequest {
    pb::TransferOwnershipRequest {
        organization: organization.to_owned(),
        person: Some(pb::transfer_ownership_request::Person::UserId(user.to_owned())),
        ..Default::default()
    }
}

/// A request that changes a member's role.
pub fn set_role(organization: &str, user: &str, role: &str) -> pb::UpdateMemberRequest {
    pb::UpdateMemberRequest {
        organization: organization.to_owned(),
        user_id: user.to_owned(),
        role: role.to_owned(),
        ..Default::default()
    }
}

/// A request that removes a member.
pub fn remove(organization: &str, user: &str) -> pb::RemoveMemberRequest {
    pb::RemoveMemberRequest { organization: organization.to_owned(), user_id: user.to_owned(), ..Default::default() }
}

/// A check for any membership of a user.
pub fn is_member(organization: &str, user: &str) -> pb::CheckMembershipRequest {
    pb::CheckMembershipRequest { organization: organization.to_owned(), user_id: user.to_owned(), ..Default::default() }
}
