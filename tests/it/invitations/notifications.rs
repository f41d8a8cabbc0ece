//! Mails to new members: to whom, how often, and what the answers say about them.

use super::{Fixture, high_limits, invite_by_mail};
use crate::harness::server::Clients;
use crate::harness::{add, assert_refused, remove};
use crate::races::{from_barrier, rounds, side};
use pb::MemberNotification::{Email, None as Never, Unspecified};
use roster::domain::Member;
use roster::grpc::pb;
use roster::random;
use roster::service::InvitationSettings;
use roster::service::outbox::{DeliveryOutcome, Occasion};
use tonic::{Code, Status};

/// A user as a request names them.
#[derive(Debug, Clone, Copy)]
enum Person<'a> {
    Id(&'a str),
    Email(&'a str),
}

/// The methods that add a member.
#[derive(Debug, Clone, Copy)]
enum Method {
    Add,
    Ensure,
    Batch,
    BatchAllOrNothing,
}

const METHODS: [Method; 4] = [Method::Add, Method::Ensure, Method::Batch, Method::BatchAllOrNothing];

/// The fields of a call that adds a member.
#[derive(Debug, Clone, Default)]
struct Call {
    notify: pb::MemberNotification,
    request_id: String,
    validate_only: bool,
}

impl From<pb::MemberNotification> for Call {
    fn from(notify: pb::MemberNotification) -> Self {
        Self { notify, ..Self::default() }
    }
}

/// Adds a member. Returns whether a mail is queued.
async fn join(
    caller: &Clients,
    method: Method,
    organization: &str,
    person: Person<'_>,
    call: impl Into<Call>,
) -> Result<bool, Status> {
    let mut client = caller.organizations.clone();
    let Call { notify, request_id, validate_only } = call.into();
    let (organization, notify) = (organization.to_owned(), notify.into());
    /// The person as the `oneof` of a request.
    macro_rules! person {
        ($oneof:ident) => {
            Some(match person {
                Person::Id(id) => pb::$oneof::Person::UserId(id.to_owned()),
                Person::Email(email) => pb::$oneof::Person::Email(email.to_owned()),
            })
        };
    }
    Ok(match method {
        Method::Add => {
            let person = person!(add_member_request);
            let request =
                pb::AddMemberRequest { organization, person, notify, request_id, validate_only, ..Default::default() };
            client.add_member(request).await?.into_inner().notified
        }
        Method::Ensure => {
            let person = person!(ensure_member_request);
            let request = pb::EnsureMemberRequest {
                organization,
                person,
                notify,
                request_id,
                validate_only,
                ..Default::default()
            };
            client.ensure_member(request).await?.into_inner().notified
        }
        Method::Batch | Method::BatchAllOrNothing => {
            let item = pb::BatchAddMembersItem { person: person!(batch_add_members_item), ..Default::default() };
            let request = pb::BatchAddMembersRequest {
                organization,
                items: vec![item],
                all_or_nothing: matches!(method, Method::BatchAllOrNothing),
                notify,
                request_id,
                validate_only,
                ..Default::default()
            };
            let answer = client.batch_add_members(request).await?.into_inner();
            let result = answer.results.into_iter().next().unwrap();
            let status = result.status.unwrap();
            if status.code != 0 {
                return Err(Status::new(Code::from(status.code), status.message));
            }
            assert!(result.member.is_some());
            result.notified
        }
    })
}

/// The addresses of the letters that are due. Each is a mail to a new member, and is delivered.
async fn letters(fixture: &Fixture) -> Vec<String> {
    let mut letters = Vec::new();
    while let Some(letter) = fixture.server.roster.claim_letter().await.unwrap() {
        assert_eq!((letter.occasion, letter.token.is_none()), (Occasion::Added, true));
        letters.push(letter.to.given().to_owned());
        fixture.server.roster.settle_letter(letter.id, DeliveryOutcome::Delivered).await.unwrap();
    }
    letters
}

/// Makes roster know the profile of a user.
async fn introduce(mut user: Clients) {
    user.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_new_member_gets_a_mail_as_the_request_says() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin("alan").await;
    introduce(fixture.server.user_with_email("grace")).await;
    introduce(fixture.server.person("joan", "joan@example.com", false)).await;
    introduce(fixture.server.user("mary")).await;
    let (by_id, by_email) = (Person::Id("grace"), Person::Email("grace@example.com"));
    for method in METHODS {
        for (person, notify, expected) in [
            (by_email, Unspecified, true),
            (by_email, Email, true),
            (by_email, Never, false),
            (by_id, Unspecified, false),
            (by_id, Email, true),
            (by_id, Never, false),
            // Without a verified address there is no mail, whatever address the profile has.
            (Person::Id("joan"), Email, false),
            (Person::Id("mary"), Email, false),
            (Person::Id("unknown"), Email, false),
        ] {
            let organization = fixture.ada.clone().create("Team").await;
            fixture.ada.clone().add(&organization, "alan", "admin").await;
            let case = format!("{method:?} of {person:?} with {notify:?}");
            assert_eq!(join(&admin, method, &organization, person, notify).await.unwrap(), expected, "{case}");
            let mails = if expected { vec!["grace@example.com".to_owned()] } else { Vec::new() };
            assert_eq!(letters(&fixture).await, mails, "{case}");
            // A member who is there gets no mail.
            match join(&admin, method, &organization, person, notify).await {
                Ok(notified) => assert!(!notified && matches!(method, Method::Ensure), "{case}"),
                Err(status) => assert_eq!(status.code(), Code::AlreadyExists, "{case}"),
            }
            assert!(letters(&fixture).await.is_empty(), "{case}");
        }
        // An address that is not verified names no user.
        let answer = join(&admin, method, &fixture.acme, Person::Email("joan@example.com"), Email).await;
        assert_eq!(answer.unwrap_err().code(), Code::NotFound);
    }
    fixture.server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_mail_goes_to_the_address_that_is_verified_when_it_leaves() {
    let fixture = Fixture::new().await;
    introduce(fixture.server.user_with_email("grace")).await;
    let mut operator = fixture.server.operator();
    let put = |email: &str, email_verified| pb::PutUserRequest {
        user_id: "grace".to_owned(),
        email: email.to_owned(),
        email_verified,
        ..Default::default()
    };
    for (email, is_verified, expected) in
        [("hopper@example.com", true, vec!["hopper@example.com".to_owned()]), ("other@example.com", false, Vec::new())]
    {
        let organization = fixture.ada.clone().create("Team").await;
        assert!(join(&fixture.backend, Method::Add, &organization, Person::Id("grace"), Email).await.unwrap());
        operator.users.put_user(put(email, is_verified)).await.unwrap();
        assert_eq!(letters(&fixture).await, expected);
    }
}

#[tokio::test]
async fn repeated_and_validated_requests_send_no_further_mail() {
    let fixture = Fixture::new().await;
    introduce(fixture.server.user_with_email("grace")).await;
    let waiting = "SELECT count(*) FROM outbox";
    for method in METHODS {
        let organization = fixture.ada.clone().create("Team").await;
        let call = Call { notify: Email, request_id: random::uuid().to_string(), validate_only: false };
        let dry_run = Call { validate_only: true, ..call.clone() };
        assert!(join(&fixture.backend, method, &organization, Person::Id("grace"), dry_run).await.unwrap());
        assert_eq!(fixture.server.database.count(waiting).await, 0, "{method:?}");
        for _ in 0..3 {
            let answer = join(&fixture.backend, method, &organization, Person::Id("grace"), call.clone()).await;
            assert!(answer.unwrap(), "{method:?}");
        }
        assert_eq!(letters(&fixture).await, ["grace@example.com"], "{method:?}");
        // Release 0.3 reads these answers as members, and stores its own without the field.
        if let Method::Add = method {
            let stored = "SELECT answer -> 'answer' FROM requests WHERE request_id = $1::uuid";
            let stored = sqlx::query_scalar::<_, serde_json::Value>(stored).bind(&call.request_id);
            let stored = stored.fetch_one(&fixture.server.database.pool).await.unwrap();
            assert_eq!(serde_json::from_value::<Member>(stored).unwrap().user.id.as_str(), "grace");
        }
        let strip = r#"UPDATE requests SET answer = replace(replace(answer::text, ', "notified": true', ''),
                       '"notified": true, ', '')::jsonb WHERE answer::text LIKE '%notified%' AND request_id = "#;
        fixture.sql(&format!("{strip}'{}'", call.request_id)).await;
        let answer = join(&fixture.backend, method, &organization, Person::Id("grace"), call).await;
        assert!(!answer.unwrap(), "{method:?}");
        assert_eq!(fixture.server.database.count(waiting).await, 0, "{method:?}");
    }
}

#[tokio::test]
async fn a_server_without_mail_refuses_to_notify() {
    let fixture = Fixture::with(InvitationSettings { mail: false, ..high_limits() }).await;
    introduce(fixture.server.user_with_email("grace")).await;
    for method in METHODS {
        for person in [Person::Id("grace"), Person::Email("grace@example.com")] {
            let answer = join(&fixture.backend, method, &fixture.acme, person, Email).await;
            assert_refused(answer, Code::FailedPrecondition, "MAIL_OFF");
            for notify in [Unspecified, Never] {
                assert!(!join(&fixture.backend, method, &fixture.acme, person, notify).await.unwrap());
                fixture.ada.clone().organizations.remove_member(remove(&fixture.acme, "grace")).await.unwrap();
            }
        }
    }
    assert_eq!(fixture.server.database.count("SELECT count(*) FROM outbox").await, 0);
}

#[tokio::test]
async fn mails_to_new_members_count_in_the_shares_of_the_mailbox() {
    const USED: &str = "SELECT coalesce(sum(used), 0)::bigint FROM quotas";
    let limits = InvitationSettings {
        mails_per_recipient_and_day: 4,
        mails_per_sender_to_recipient_and_day: 2,
        ..high_limits()
    };
    let fixture = Fixture::with(limits).await;
    introduce(fixture.server.user_with_email("grace")).await;
    let (database, ada, operator) = (&fixture.server.database, &fixture.ada, fixture.server.operator());
    let team = async || fixture.ada.clone().create("Team").await;
    let join = async |caller: &Clients, method, person, notify: pb::MemberNotification| {
        join(caller, method, &team().await, person, notify).await.unwrap()
    };
    let (by_id, by_email) = (Person::Id("grace"), Person::Email("grace@example.com"));
    // An invitation and a mail to a new member are the share of one sender. The member is added in any case.
    super::create(ada, invite_by_mail(&fixture.acme, "grace+1@example.com")).await;
    assert!(join(ada, Method::Add, by_id, Email).await);
    let used = database.count(USED).await;
    for method in METHODS {
        assert!(!join(ada, method, by_id, Email).await);
        assert!(!join(ada, method, by_email, Unspecified).await);
    }
    assert_eq!(database.count(USED).await, used);
    // A service has the share of all senders.
    assert!(join(&fixture.backend, Method::Ensure, by_email, Unspecified).await);
    assert!(join(&fixture.backend, Method::Batch, by_id, Email).await);
    assert!(!join(&fixture.backend, Method::BatchAllOrNothing, by_id, Email).await);
    assert!(!join(&fixture.backend, Method::Add, by_email, Email).await);
    let request = invite_by_mail(&team().await, "grace+2@example.com");
    let answer = fixture.backend.clone().invitations.create_invitation(request).await;
    assert_refused(answer, Code::ResourceExhausted, "QUOTA_EXCEEDED");
    // Operators pass.
    let used = database.count(USED).await;
    for method in METHODS {
        assert!(join(&operator, method, by_id, Email).await);
    }
    assert_eq!(database.count(USED).await, used);
    // Other mailboxes have shares of their own.
    introduce(fixture.server.user_with_email("mary")).await;
    assert!(join(ada, Method::Add, Person::Id("mary"), Email).await);
    database.assert_invariants().await;
}

#[tokio::test]
async fn the_first_items_of_a_batch_get_the_mails_and_all_are_added() {
    let limits = InvitationSettings { mails_per_recipient_and_day: 2, ..high_limits() };
    let fixture = Fixture::with(limits).await;
    // Four users with plus-addresses of one mailbox, one with another mailbox, one without an address.
    let users = ["one", "two", "three", "four"];
    for user in users {
        introduce(fixture.server.person(user, &format!("shared+{user}@example.com"), true)).await;
    }
    introduce(fixture.server.user_with_email("grace")).await;
    let item = |user: &str| pb::BatchAddMembersItem {
        person: Some(pb::batch_add_members_item::Person::UserId(user.to_owned())),
        ..Default::default()
    };
    for all_or_nothing in [false, true] {
        for order in
            [["four", "grace", "two", "nina", "one", "three"], ["three", "nina", "one", "two", "four", "grace"]]
        {
            sqlx::query("DELETE FROM quotas").execute(&fixture.server.database.pool).await.unwrap();
            let organization = fixture.ada.clone().create("Team").await;
            // `one` is a member already: the item fails, and uses up nothing.
            fixture.ada.clone().organizations.add_member(add(&organization, "one", "member")).await.unwrap();
            let members: Vec<&str> = order.into_iter().filter(|user| !all_or_nothing || *user != "one").collect();
            let request = pb::BatchAddMembersRequest {
                organization,
                items: members.iter().map(|user| item(user)).collect(),
                all_or_nothing,
                notify: Email.into(),
                ..Default::default()
            };
            let answer = fixture.backend.clone().organizations.batch_add_members(request).await.unwrap().into_inner();
            let mut left = 2;
            for (user, result) in members.iter().zip(&answer.results) {
                assert_eq!(result.member.is_some(), *user != "one");
                let expected = match *user {
                    "grace" => true,
                    "nina" | "one" => false,
                    _ => left > 0,
                };
                left -= i32::from(expected && *user != "grace");
                assert_eq!(result.notified, expected, "{user} of {members:?}");
            }
            assert_eq!(letters(&fixture).await.len(), 3);
        }
    }
    fixture.server.database.assert_invariants().await;
}

#[tokio::test]
async fn concurrent_batches_of_members_and_of_invitations_share_a_limit() {
    const DEADLOCKS: &str = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let limits = InvitationSettings { mails_per_recipient_and_day: 3, ..high_limits() };
    let fixture = Fixture::with(limits).await;
    let database = &fixture.server.database;
    let mut users: Vec<String> = (0..5).map(|number| format!("person-{number}")).collect();
    for user in &users {
        introduce(fixture.server.user_with_email(user)).await;
    }
    for round in 1..=i64::try_from(rounds()).unwrap() {
        sqlx::query("DELETE FROM quotas").execute(&database.pool).await.unwrap();
        let mut calls: Vec<crate::races::Call> = Vec::new();
        for number in 0..6 {
            let organization = fixture.ada.clone().create("Team").await;
            users.reverse();
            if number % 3 == 0 {
                let items = users.iter().map(|user| pb::BatchCreateInvitationsItem {
                    recipient: Some(pb::batch_create_invitations_item::Recipient::Email(format!("{user}@example.com"))),
                    ..Default::default()
                });
                let items = items.collect();
                let request = pb::BatchCreateInvitationsRequest { organization, items, ..Default::default() };
                let mut client = fixture.backend.invitations.clone();
                calls.push(side(async move { client.batch_create_invitations(request).await }));
            } else {
                let items = users.iter().map(|user| pb::BatchAddMembersItem {
                    person: Some(pb::batch_add_members_item::Person::UserId(user.clone())),
                    ..Default::default()
                });
                let (items, notify) = (items.collect(), Email.into());
                let request = pb::BatchAddMembersRequest { organization, items, notify, ..Default::default() };
                let mut client = fixture.backend.organizations.clone();
                calls.push(side(async move {
                    let answer = client.batch_add_members(request).await?;
                    assert!(answer.get_ref().results.iter().all(|result| result.member.is_some()));
                    Ok(answer)
                }));
            }
        }
        assert!(from_barrier(calls).await.iter().all(Result::is_ok));
        let full = "SELECT count(*) FROM quotas WHERE used = 3";
        let mails = "SELECT count(*) FROM outbox";
        assert_eq!((database.count(full).await, database.count(mails).await), (5, 15 * round));
    }
    assert_eq!(database.count(DEADLOCKS).await, 0);
    database.assert_invariants().await;
}
