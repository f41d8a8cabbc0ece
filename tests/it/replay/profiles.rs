//! Stored answers hold no name and no address: both are read again when an answer is repeated. So nothing of a deleted
//! user is left in the datastore or in repeated answers.

use super::{decode, dump, fresh_id, request, take_tokens, writes};
use crate::harness::samples::{Fixture, SampleCaller, Setup, Write, setup};
use crate::harness::{add, transfer};
use crate::invitations::invite;
use prost::Message;
use prost_reflect::DescriptorPool;
use roster::grpc::pb;
use sqlx::AssertSqlSafe;
use std::collections::BTreeSet;

/// What the names and addresses of this test contain, and no other text of the samples.
const PERSONAL: [&str; 3] = ["@example.com", "Zyzzyva", "A name"];

/// The methods whose answer shows a name or an address.
const SHOWING: [&str; 12] = [
    "AcceptInvitation",
    "AddMember",
    "BatchAddMembers",
    "BatchCreateInvitations",
    "CreateInvitation",
    "DeactivateUser",
    "EnsureMember",
    "LeaveOrganization",
    "PutUser",
    "ReactivateUser",
    "RemoveMember",
    "UpdateMember",
];

fn is_personal(text: &str) -> bool {
    PERSONAL.iter().any(|personal| text.contains(personal))
}

/// The users that the samples about a member name.
fn people(member: &str) -> [String; 5] {
    ["", "new-of-", "one-of-", "two-of-", "guest-of-"].map(|prefix| format!("{prefix}{member}"))
}

async fn put(stage: &Fixture, user_id: &str) {
    let request = pb::PutUserRequest {
        user_id: user_id.to_owned(),
        email: format!("{user_id}@example.com"),
        email_verified: true,
        display_name: format!("Zyzzyva {user_id}"),
        ..Default::default()
    };
    stage.operator.clone().users.put_user(request).await.unwrap();
}

async fn delete(stage: &Fixture, user_id: &str) {
    let request = pb::DeleteUserRequest { user_id: user_id.to_owned(), ..Default::default() };
    stage.operator.clone().users.delete_user(request).await.unwrap();
}

/// The tables that hold a name or an address.
async fn personal_tables(stage: &Fixture) -> Vec<String> {
    dump(stage.database()).await.into_iter().filter(|(_, rows)| is_personal(rows)).map(|(table, _)| table).collect()
}

#[tokio::test]
async fn no_answer_is_stored_with_a_name_or_an_address() {
    let pool = DescriptorPool::decode(roster::grpc::FILE_DESCRIPTOR_SET).unwrap();
    let stage = Fixture::new().await;
    let (mut showing, mut calls, mut users) = (BTreeSet::new(), Vec::new(), vec!["alan".to_owned(), "ivy".to_owned()]);
    for method in writes() {
        let (place, write) = (stage.target(method).await, Write::fresh());
        for user in people(&place.member) {
            // A deleted user takes no profile.
            if user != place.member || setup(method) != Setup::DeletedMember {
                put(&stage, &user).await;
            }
            users.push(user);
        }
        let call = request(method, &place, &write);
        let mut first = stage.call(method, call.clone()).await.unwrap();
        // The order of the attributes in an answer that is encoded again is another one.
        let mut message = decode(&pool, method, &first);
        if !take_tokens(&mut message).is_empty() {
            first = message.encode_to_vec();
        }
        assert_eq!(stage.call(method, call.clone()).await.unwrap(), first, "{}", method.path);
        if is_personal(&String::from_utf8_lossy(&first)) {
            showing.insert(method.name);
        }
        let stored = &dump(stage.database()).await["requests"];
        assert!(!is_personal(stored), "{}: {stored}", method.path);
        // The identifiers of invitations are no addresses. They are not stored with an answer either.
        assert!(!stored.contains("@member") && !stored.contains("two of member"), "{}: {stored}", method.path);
        calls.push((method, call, place));
    }
    assert_eq!(showing, BTreeSet::from(SHOWING));
    assert_eq!(personal_tables(&stage).await, ["invitations", "users"]);

    for (_, _, place) in calls.iter().filter(|(method, ..)| method.name == "TransferOwnership") {
        stage.operator.clone().organizations.transfer_ownership(transfer(&place.organization, "ada")).await.unwrap();
    }
    for user in users {
        delete(&stage, &user).await;
    }
    assert_eq!(personal_tables(&stage).await, [] as [&str; 0]);
    assert_eq!(stage.database().count("SELECT count(*) FROM outbox").await, 0);
    // The callers alan and ivy are deleted.
    calls.retain(|(_, (caller, _), _)| matches!(caller, SampleCaller::Owner | SampleCaller::Operator));
    for (method, call, _) in calls {
        let again = stage.call(method, call).await.unwrap();
        assert!(!is_personal(&String::from_utf8_lossy(&again)), "{}", method.path);
    }
    stage.database().assert_invariants().await;
}

#[tokio::test]
async fn an_answer_that_release_0_3_stored_is_repeated_with_the_present_profile() {
    let stage = Fixture::new().await;
    let acme = stage.ada.clone().create("Acme").await;
    put(&stage, "grace").await;
    let (mut ada, mut operator) = (stage.ada.clone(), stage.operator.clone());
    let added = pb::AddMemberRequest { request_id: fresh_id(), ..add(&acme, "grace", "member") };
    let member = ada.organizations.add_member(added.clone()).await.unwrap().into_inner();
    assert_eq!(member.member.as_ref().unwrap().email, "grace@example.com");
    put(&stage, "joan").await;
    let invited = pb::CreateInvitationRequest { request_id: fresh_id(), ..invite(&acme, "joan@example.com") };
    let invitation = operator.invitations.create_invitation(invited.clone()).await.unwrap().into_inner();
    let invitation = pb::CreateInvitationResponse { token: String::new(), ..invitation };
    // What this release stores, release 0.3 can read.
    let email = r#"{"given": "Old@example.com", "normal": "old@example.com"}"#;
    for (path, stored, former) in [
        ("{answer,user,email_verified}", "false", "true"),
        ("{answer,0,Ok,invitation,recipient}", r#"{"Other": ""}"#, &format!(r#"{{"Email": {email}}}"#)),
    ] {
        let change = format!(
            "UPDATE requests SET answer = jsonb_set(answer, '{path}', '{former}') WHERE answer #> '{path}' = '{stored}'"
        );
        let changed = sqlx::query(AssertSqlSafe(change)).execute(&stage.database().pool).await.unwrap();
        assert_eq!(changed.rows_affected(), 1, "{path}");
    }
    let user = format!(r#"{{"email": {email}, "display_name": "Old"}}"#);
    let change = "UPDATE requests SET answer = jsonb_set(answer, '{answer,user}',
                      (answer #> '{answer,user}') - 'email_issued_at' - 'display_name_issued_at' || $1::jsonb)
                  WHERE answer #> '{answer,user}' IS NOT NULL";
    let changed = sqlx::query(change).bind(user).execute(&stage.database().pool).await.unwrap();
    assert_eq!(changed.rows_affected(), 1);

    assert_eq!(ada.organizations.add_member(added.clone()).await.unwrap().into_inner(), member);
    assert_eq!(operator.invitations.create_invitation(invited.clone()).await.unwrap().into_inner(), invitation);
    delete(&stage, "grace").await;
    delete(&stage, "joan").await;
    let member = ada.organizations.add_member(added).await.unwrap().into_inner().member.unwrap();
    assert_eq!((member.display_name.as_str(), member.email.as_str()), ("grace", ""));
    let invitation = operator.invitations.create_invitation(invited).await.unwrap().into_inner().invitation.unwrap();
    assert_eq!((invitation.email.as_str(), invitation.state()), ("", pb::InvitationState::Pending));
}
