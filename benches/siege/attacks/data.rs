//! Attacks by what is stored, decoded and answered.

use super::client::Calls;
use super::{Tally, Target, framed, prefixed};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use roster::grpc::pb;
use std::sync::Arc;

const LIST_MEMBERS: &str = "/roster.v1.OrganizationService/ListMembers";
const UPDATE_MEMBER: &str = "/roster.v1.OrganizationService/UpdateMember";
const ADD_MEMBER: &str = "/roster.v1.OrganizationService/AddMember";
const BATCH_CHECK: &str = "/roster.v1.CheckService/BatchCheckMembership";

/// Pages of 3 MiB on 16 connections of 40 calls.
fn pages(target: &Target, window: u32, reads: bool) -> Calls {
    let request = pb::ListMembersRequest { organization: target.large.clone(), page_size: 1000, ..Default::default() };
    let calls = Calls::new(LIST_MEMBERS, &target.manage_key, framed(&request));
    Calls { connections: 16, streams: 40, window, refills: false, reads, ..calls }
}

pub(super) fn unread_0(target: &Target, tally: &Arc<Tally>) {
    pages(target, 0, true).start(target, tally);
}

pub(super) fn unread_1(target: &Target, tally: &Arc<Tally>) {
    pages(target, 1, true).start(target, tally);
}

pub(super) fn unread_socket(target: &Target, tally: &Arc<Tally>) {
    pages(target, 0x7fff_ffff, false).start(target, tally);
}

/// The user gives such attributes to 400 members, and lists them all the time.
pub(super) fn numbers(target: &Target, tally: &Arc<Tally>) {
    // As compact JSON of Rust, `{"n":[1e308,…]}` has 8 KiB.
    let number = Value { kind: Some(Kind::NumberValue(1e308)) };
    let list = ListValue { values: vec![number; 1360] };
    let attributes = Struct { fields: [("n".to_owned(), Value { kind: Some(Kind::ListValue(list)) })].into() };
    let organization = target.organization.clone();
    let update = move |number: u64| {
        framed(&pb::UpdateMemberRequest {
            organization: organization.clone(),
            user_id: member(number % 400),
            attributes: Some(attributes.clone()),
            ..Default::default()
        })
    };
    let updates = Calls {
        body: Arc::new(move |number| update(number).into()),
        ..Calls::new(UPDATE_MEMBER, &target.user_token, Vec::new())
    };
    Calls { connections: 1, streams: 4, rate: 100.0, ..updates }.start(target, tally);
    let request =
        pb::ListMembersRequest { organization: target.organization.clone(), page_size: 1000, ..Default::default() };
    let lists = Calls::new(LIST_MEMBERS, &target.user_token, framed(&request));
    Calls { connections: 1, streams: 24, ..lists }.start(target, tally);
}

/// The id of a member of the organization of the user: see `table::add_large`.
fn member(number: u64) -> String {
    crate::tool::table::ids(u32::try_from(number).unwrap(), u32::MAX).1
}

/// 524 288 items without content.
pub(super) fn bombs(target: &Target, tally: &Arc<Tally>) {
    let body = prefixed(&[0x0a, 0].repeat((1024 * 1024 - 16) / 2));
    Calls { connections: 4, streams: 12, ..Calls::new(BATCH_CHECK, &target.check_key, body) }.start(target, tally);
}

/// A list of values without content in the attributes of a member.
pub(super) fn struct_bombs(target: &Target, tally: &Arc<Tally>) {
    let list = ListValue { values: vec![Value { kind: None }; 120_000] };
    let attributes = Struct { fields: [("n".to_owned(), Value { kind: Some(Kind::ListValue(list)) })].into() };
    let request = pb::AddMemberRequest {
        organization: target.organization.clone(),
        person: Some(pb::add_member_request::Person::UserId("bomb".to_owned())),
        role: "member".to_owned(),
        attributes: Some(attributes),
        ..Default::default()
    };
    let calls = Calls::new(ADD_MEMBER, &target.user_token, framed(&request));
    Calls { connections: 4, streams: 12, ..calls }.start(target, tally);
}

/// Each call changes the role of another member.
pub(super) fn writes(target: &Target, tally: &Arc<Tally>) {
    let organization = target.organization.clone();
    let update = move |number: u64| {
        framed(&pb::UpdateMemberRequest {
            organization: organization.clone(),
            user_id: member(number % 900),
            role: if (number / 900).is_multiple_of(2) { "admin" } else { "member" }.to_owned(),
            ..Default::default()
        })
    };
    let calls = Calls {
        body: Arc::new(move |number| update(number).into()),
        ..Calls::new(UPDATE_MEMBER, &target.user_token, Vec::new())
    };
    Calls { connections: 1, ..calls }.start(target, tally);
}
