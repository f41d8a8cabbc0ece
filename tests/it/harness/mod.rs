//! What every test stands on: a real Postgres for all of them, a database for each, a server on a socket of its own.

pub mod bulk;
pub mod dump;
pub mod dynamic;
pub mod invariants;
pub mod log;
pub mod postgres;
pub mod program;
pub mod raw;
pub mod samples;
pub mod server;
pub mod smtp;
pub mod snapshot;

pub use postgres::Database;
pub use server::Server;

use roster::grpc::pb;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The reason that an error carries. Every error of roster's carries one: a test that meets another one fails here.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("an error without a reason: {status:?}"));
    assert_eq!(info.domain, "roster");
    info.reason
}

/// The error of an answer that must be one.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("this should have been refused");
    (status.code(), reason(&status))
}

/// Asserts that an answer is a refusal with this code and reason.
#[track_caller]
pub fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, reason: &str) {
    assert_eq!(refused(answer), (code, reason.to_owned()));
}

/// A request that makes an organization of this name.
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

/// A request that hands an organization to a user by id.
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

/// A question: is the user a member at all?
pub fn is_member(organization: &str, user: &str) -> pb::CheckMembershipRequest {
    pb::CheckMembershipRequest { organization: organization.to_owned(), user_id: user.to_owned(), ..Default::default() }
}
