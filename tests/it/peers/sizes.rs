//! Sizes: what a small message can become when it is decoded, stored and read again.

use crate::harness::dynamic::{self, Caller};
use crate::harness::program::Serve;
use crate::harness::{Database, Server, add, assert_refused, organization};
use crate::invitations::invite;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use roster::domain::Scope;
use roster::domain::attributes::{Attributes, number};
use roster::grpc::pb;
use serde_json::{Map, Value as Json};
use sqlx::AssertSqlSafe;
use std::collections::BTreeMap;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

const LIMIT: usize = 8 * 1024;
/// Attributes that a former release accepted: 342 107 bytes of text in Postgres.
const LARGE: &str = "(SELECT jsonb_build_object('n', jsonb_agg(1e308::numeric)) FROM generate_series(1, 1100))";
/// Rows of this size on one page at most: four megabytes, and the row that exceeds them.
const LARGE_ROWS: usize = 13;

fn attributes(values: Vec<Kind>) -> Struct {
    let values = values.into_iter().map(|kind| Value { kind: Some(kind) }).collect();
    let list = Value { kind: Some(Kind::ListValue(ListValue { values })) };
    Struct { fields: BTreeMap::from([("n".to_owned(), list)]) }
}

fn numbers(number: f64, count: usize) -> Struct {
    attributes(vec![Kind::NumberValue(number); count])
}

/// The text of a JSON value without the spaces that Postgres prints between its parts.
fn compact(text: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let is_content = |character: &char| {
        let is_content = quoted || *character != ' ';
        quoted ^= *character == '"' && !escaped;
        escaped = *character == '\\' && !escaped;
        is_content
    };
    text.chars().filter(is_content).collect()
}

fn any_number() -> impl Strategy<Value = f64> {
    let edge =
        [0.0, -0.0, 7.0, -7.0, 1e15, 1e16, 1e17, 1e19, 1e20, 1e21, 1e22, 1e308, -1e308, 1e-5, 1e-7, 1e-300, 5e-324];
    let edge =
        edge.into_iter().chain([0.1, 1.5, -2.5e-3, f64::MAX, f64::MIN_POSITIVE, 9_007_199_254_740_993.0, 2e63, 2e64]);
    let bits = any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |number| number.is_finite());
    let whole = any::<i32>().prop_map(f64::from);
    let short = (-999_i32..999, -320_i32..308).prop_filter_map("finite", |(digits, exponent)| {
        format!("{digits}e{exponent}").parse().ok().filter(|number: &f64| number.is_finite())
    });
    prop_oneof![prop::sample::select(edge.collect::<Vec<_>>()), bits, whole, short]
}

fn any_text() -> impl Strategy<Value = String> {
    let plain = "[ -~]{0,12}";
    let wild = prop::collection::vec(any::<char>().prop_filter("NUL", |c| *c != '\0'), 0..6);
    let control = prop::collection::vec((1_u8..=0x7f).prop_map(char::from), 0..8);
    prop_oneof![
        plain.prop_map(|text: String| text),
        wild.prop_map(String::from_iter),
        control.prop_map(String::from_iter),
    ]
}

fn any_value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        any_number().prop_map(|value| Json::Number(number(value).unwrap())),
        any_text().prop_map(Json::String),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Json::Array),
            prop::collection::vec((any_text(), inner), 0..5)
                .prop_map(|fields| Json::Object(fields.into_iter().collect())),
        ]
    })
}

#[tokio::test]
async fn the_size_of_attributes_is_that_of_the_text_in_postgres() {
    let database = Database::new().await;
    let mut runner = TestRunner::deterministic();
    let mut objects = Vec::new();
    for _ in 0..1000 {
        let value = any_value().new_tree(&mut runner).unwrap().current();
        objects.push(Map::from_iter([("value".to_owned(), value), ("pad".to_owned(), Json::String(String::new()))]));
    }
    let values: Vec<Json> = objects.iter().cloned().map(Json::Object).collect();
    let texts: Vec<String> = sqlx::query_scalar(
        "SELECT q.value::text FROM unnest($1::jsonb[]) WITH ORDINALITY AS q (value, at) ORDER BY at",
    )
    .bind(&values)
    .fetch_all(&database.pool)
    .await
    .unwrap();
    let mut tried = 0;
    for (object, text) in objects.into_iter().zip(texts) {
        let size = compact(&text).len();
        let Some(room) = LIMIT.checked_sub(size) else { continue };
        let padded = |length: usize| {
            let mut object = object.clone();
            object.insert("pad".to_owned(), Json::String("x".repeat(length)));
            Attributes::new(object)
        };
        assert!(padded(room).is_ok(), "{size} bytes in Postgres count as more: {text}");
        assert!(padded(room + 1).is_err(), "{size} bytes in Postgres count as less: {text}");
        let stored: Attributes = serde_json::from_str(&text).unwrap();
        assert_eq!(stored, Attributes::new(object).unwrap(), "changed in Postgres: {text}");
        tried += 1;
    }
    assert!(tried > 900, "{tried}");
}

#[tokio::test]
async fn every_digit_of_a_number_counts() {
    let server = Server::start().await;
    let mut operator = server.operator();
    let id = operator.create("Acme").await;
    // `{"n":[…]}` has eight bytes beside its numbers and the commas between them.
    for (number, digits) in [(1e308, 309), (-1e308, 310), (1e-300, 302), (5e-324, 326), (7.0, 1), (-0.0, 1), (1.5, 3)] {
        let most = (LIMIT - 8 + 1) / (digits + 1);
        for (count, fits) in [(most, true), (most + 1, false)] {
            let context = format!("{count} times {number:e}");
            let user = format!("user {context}");
            let request =
                pb::AddMemberRequest { attributes: Some(numbers(number, count)), ..add(&id, &user, "member") };
            let answer = operator.organizations.add_member(request).await;
            assert_eq!(answer.is_ok(), fits, "{context}: {answer:?}");
            let recipient = pb::create_invitation_request::Recipient::Identifier(user);
            let request = pb::CreateInvitationRequest {
                recipient: Some(recipient),
                attributes: Some(numbers(number, count)),
                delivery: pb::InvitationDelivery::None.into(),
                ..invite(&id, "")
            };
            let answer = operator.invitations.create_invitation(request).await;
            assert_eq!(answer.is_ok(), fits, "{context}: {answer:?}");
            let request = pb::CreateOrganizationRequest {
                attributes: Some(numbers(number, count)),
                owner_attributes: Some(numbers(number, 1)),
                owner_user_id: "ada".to_owned(),
                ..organization(&format!("Acme {count} {}", number.to_bits()))
            };
            let answer = operator.organizations.create_organization(request).await;
            assert_eq!(answer.is_ok(), fits, "{context}: {answer:?}");
        }
    }
}

/// Gives every row of a table large values.
async fn enlarge(database: &Database, statement: &str) {
    let statement = statement.replace("LARGE", LARGE);
    sqlx::query(AssertSqlSafe(statement)).execute(&database.pool).await.unwrap();
}

#[tokio::test]
async fn larger_attributes_of_former_releases_stay_readable_and_can_be_replaced() {
    let server = Server::start().await;
    let mut operator = server.operator();
    let id = operator.create("Acme").await;
    operator.add(&id, "ada", "member").await;
    operator.add(&id, "grace", "member").await;
    enlarge(&server.database, "UPDATE memberships SET attributes = LARGE").await;
    enlarge(&server.database, "UPDATE organizations SET attributes = LARGE").await;
    let get = pb::GetMemberRequest { organization: id.clone(), user_id: "grace".to_owned() };
    let read = operator.organizations.get_member(get.clone()).await.unwrap().into_inner().member.unwrap();
    assert_eq!(read.attributes, Some(numbers(1e308, 1100)));
    let role = crate::harness::set_role(&id, "grace", "admin");
    let kept = operator.organizations.update_member(role).await.unwrap().into_inner().member.unwrap();
    assert_eq!(kept.attributes, Some(numbers(1e308, 1100)));
    let replace = |attributes| pb::UpdateMemberRequest {
        organization: id.clone(),
        user_id: "grace".to_owned(),
        attributes: Some(attributes),
        ..Default::default()
    };
    let same = operator.organizations.update_member(replace(numbers(1e308, 1100))).await;
    assert_refused(same, Code::InvalidArgument, "INVALID_REQUEST");
    operator.organizations.update_member(replace(numbers(7.0, 2))).await.unwrap();
    let read = operator.organizations.get_member(get).await.unwrap().into_inner().member.unwrap();
    assert_eq!(read.attributes, Some(numbers(7.0, 2)));
    let renamed =
        pb::UpdateOrganizationRequest { organization: id.clone(), name: "New".to_owned(), ..Default::default() };
    operator.organizations.update_organization(renamed).await.unwrap();
    let smaller =
        pb::UpdateOrganizationRequest { organization: id, attributes: Some(numbers(1.0, 1)), ..Default::default() };
    let answer = operator.organizations.update_organization(smaller).await.unwrap().into_inner();
    assert_eq!(answer.organization.unwrap().attributes, Some(numbers(1.0, 1)));
}

/// Reads all pages of a list. Returns the number of items on each.
async fn pages(mut page: impl AsyncFnMut(String) -> (usize, String)) -> Vec<usize> {
    let (mut sizes, mut token) = (Vec::new(), String::new());
    loop {
        let (size, next) = page(token).await;
        sizes.push(size);
        if next.is_empty() {
            return sizes;
        }
        token = next;
    }
}

/// Asserts that a list of this many large rows was read completely, and not at once.
#[track_caller]
fn assert_bounded(list: &str, sizes: &[usize], rows: usize) {
    assert_eq!(sizes.iter().sum::<usize>(), rows, "{list}: {sizes:?}");
    assert!(sizes.iter().all(|size| (1..=LARGE_ROWS).contains(size)), "{list}: {sizes:?}");
}

const ROWS: usize = 20;

/// An organization with large members, invitations and events, and as many large organizations of one user.
async fn large_rows(server: &Server) -> String {
    let mut operator = server.operator();
    let id = operator.create("Acme").await;
    for number in 0..ROWS {
        operator.add(&id, &format!("user-{number}"), "member").await;
        let request = pb::CreateOrganizationRequest { owner_user_id: "zoe".to_owned(), ..organization("Beta") };
        let other =
            operator.organizations.create_organization(request).await.unwrap().into_inner().organization.unwrap();
        for (organization, recipient) in
            [(&id, format!("guest-{number}@example.com")), (&other.id, "zoe@example.com".to_owned())]
        {
            let recipient = pb::create_invitation_request::Recipient::Email(recipient);
            let request = pb::CreateInvitationRequest {
                recipient: Some(recipient),
                delivery: pb::InvitationDelivery::None.into(),
                ..invite(organization, "")
            };
            operator.invitations.create_invitation(request).await.unwrap();
        }
    }
    for table in ["memberships", "invitations", "organizations"] {
        enlarge(&server.database, &format!("UPDATE {table} SET attributes = LARGE")).await;
    }
    enlarge(&server.database, "UPDATE events SET old = LARGE WHERE type = 'member.added'").await;
    enlarge(&server.database, "UPDATE events SET new = LARGE WHERE type = 'invitation.created'").await;
    id
}

#[tokio::test]
async fn a_page_of_large_rows_ends_early_and_the_next_one_goes_on() {
    let server = Server::start_generous().await;
    let id = large_rows(&server).await;
    let mut operator = server.operator();
    let size = 1000;
    let sizes = pages(async |page_token| {
        let request =
            pb::ListMembersRequest { organization: id.clone(), page_size: size, page_token, ..Default::default() };
        let page = operator.organizations.list_members(request).await.unwrap().into_inner();
        (page.members.len(), page.next_page_token)
    })
    .await;
    assert_bounded("members", &sizes, ROWS);
    let sizes = pages(async |page_token| {
        let request =
            pb::ListInvitationsRequest { organization: id.clone(), page_size: size, page_token, ..Default::default() };
        let page = operator.invitations.list_invitations(request).await.unwrap().into_inner();
        (page.invitations.len(), page.next_page_token)
    })
    .await;
    assert_bounded("invitations", &sizes, ROWS);
    for types in ["member.added", "invitation.created"] {
        let sizes = pages(async |page_token| {
            let types = vec![types.to_owned()];
            let request = pb::ListEventsRequest {
                organization: id.clone(),
                types,
                page_size: size,
                page_token,
                ..Default::default()
            };
            let page = operator.events.list_events(request).await.unwrap().into_inner();
            (page.events.len(), page.next_page_token)
        })
        .await;
        assert_bounded(types, &sizes, ROWS);
    }
}

#[tokio::test]
async fn a_page_of_large_organizations_ends_early_and_the_next_one_goes_on() {
    let server = Server::start_generous().await;
    large_rows(&server).await;
    let mut operator = server.operator();
    let size = 1000;
    for (search, rows) in [("", ROWS + 1), ("bet", ROWS), ("b", ROWS)] {
        let sizes = pages(async |page_token| {
            let request = pb::ListOrganizationsRequest {
                search: search.to_owned(),
                page_size: size,
                page_token,
                ..Default::default()
            };
            let page = operator.organizations.list_organizations(request).await.unwrap().into_inner();
            (page.organizations.len(), page.next_page_token)
        })
        .await;
        assert_bounded(search, &sizes, rows);
    }
    let sizes = pages(async |page_token| {
        let request = pb::ListUserOrganizationsRequest {
            user_id: "zoe".to_owned(),
            page_size: size,
            page_token,
            ..Default::default()
        };
        let page = operator.organizations.list_user_organizations(request).await.unwrap().into_inner();
        (page.organizations.len(), page.next_page_token)
    })
    .await;
    assert_bounded("organizations of a user", &sizes, ROWS);
    let mut zoe = server.user_with_email("zoe");
    let sizes = pages(async |page_token| {
        let request = pb::ListReceivedInvitationsRequest { page_size: size, page_token };
        let page = zoe.invitations.list_received_invitations(request).await.unwrap().into_inner();
        (page.invitations.len(), page.next_page_token)
    })
    .await;
    assert_bounded("received invitations", &sizes, ROWS);
}

#[tokio::test]
async fn events_of_one_write_whose_text_is_large_arrive_in_one_message_that_is_small_enough() {
    const EVENTS: usize = 30;
    let server = Server::start().await;
    let mut operator = server.operator();
    let id = operator.create("Acme").await;
    let mut clients = server.service(&[Scope::Manage]);
    let mut watch = clients.events.watch_events(pb::WatchEventsRequest::default()).await.unwrap().into_inner();
    let mut cursor = String::new();
    while cursor.is_empty() {
        cursor = watch.message().await.unwrap().unwrap().cursor;
    }
    drop(watch);
    let items = (0..EVENTS).map(|number| pb::BatchAddMembersItem {
        person: Some(pb::batch_add_members_item::Person::UserId(format!("user-{number}"))),
        role: "member".to_owned(),
        ..Default::default()
    });
    let request = pb::BatchAddMembersRequest { organization: id, items: items.collect(), ..Default::default() };
    operator.organizations.batch_add_members(request).await.unwrap();
    enlarge(&server.database, "UPDATE events SET new = LARGE WHERE type = 'member.added'").await;
    let request = pb::WatchEventsRequest { cursor, ..Default::default() };
    let mut watch = clients.events.watch_events(request).await.unwrap().into_inner();
    let mut received = Vec::new();
    while received.len() < EVENTS {
        let message = watch.message().await.unwrap().unwrap();
        let added = message.events.iter().filter(|event| event.r#type == "member.added");
        let added: Vec<i64> = added.map(|event| event.revision).collect();
        // Postgres prints ten megabytes for them, which are read in steps, and the message has less than one.
        assert!(added.is_empty() || added.len() == EVENTS, "{} events of the write", added.len());
        assert!(!message.continued && message.encoded_len() < 1024 * 1024);
        received.extend(added);
    }
    assert!(received.is_sorted() && received.len() == EVENTS, "{received:?}");
}

fn delimited(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    prost::encoding::encode_varint(u64::try_from(content.len()).unwrap(), &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

/// A message of this size about an organization, with nothing but copies of these bytes after it.
fn filled(organization: &str, bytes: &[u8], size: usize) -> Vec<u8> {
    let head = delimited(1, organization.as_bytes());
    let count = (size - head.len()) / bytes.len();
    [head, bytes.repeat(count)].concat()
}

async fn call(clients: &mut Caller, method: &str, message: Vec<u8>) -> tonic::Status {
    let method = dynamic::methods().into_iter().find(|found| found.name() == method).unwrap();
    clients.call(&method, message).await.unwrap_err()
}

#[tokio::test]
async fn lists_of_empty_elements_are_refused_with_the_documented_reason() {
    let server = Server::start().await;
    let mut operator = Caller::with_token(&server.channel(), server.service_token("root", &[Scope::Operator]));
    let id = server.operator().create("Acme").await;
    for (method, head, count) in
        [("BatchAddMembers", id.as_str(), "1 to 100 items"), ("BatchCreateInvitations", id.as_str(), "1 to 100 items")]
    {
        let status = call(&mut operator, method, filled(head, &[0x12, 0], 1024 * 1024)).await;
        let details = status.get_error_details();
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!((violation.field.as_str(), violation.description.as_str()), ("items", count), "{method}");
    }
    let status = call(&mut operator, "BatchCheckMembership", [0x0a, 0].repeat(512 * 1024)).await;
    let details = status.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].description, "1 to 10 000 items");
    // Empty objects in a list: each takes a node of a map. Empty values: each takes a place in a list.
    let empty_object = delimited(1, &delimited(5, &[0x0a, 0]));
    for element in [empty_object, vec![0x0a, 0]] {
        let count = 200 * 1024 / element.len();
        let list = delimited(6, &element.repeat(count));
        let entry = delimited(1, &[delimited(1, b"a"), delimited(2, &list)].concat());
        let attributes = number_of("AddMemberRequest", "attributes");
        let message = [delimited(1, id.as_bytes()), delimited(attributes, &entry)].concat();
        let status = call(&mut operator, "AddMember", message).await;
        let reason = crate::harness::reason(&status);
        assert_eq!((status.code(), reason.as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"), "{status:?}");
    }
}

fn number_of(message: &str, field: &str) -> u8 {
    u8::try_from(dynamic::message(message).get_field_by_name(field).unwrap().number()).unwrap()
}

#[tokio::test]
async fn legitimate_attributes_of_the_largest_size_are_accepted() {
    let server = Server::start().await;
    let mut operator = server.operator();
    let id = operator.create("Acme").await;
    let object = |key: &str, kind| {
        Kind::StructValue(Struct { fields: BTreeMap::from([(key.to_owned(), Value { kind: Some(kind) })]) })
    };
    let contents = [
        ("small objects", vec![object("id", Kind::NumberValue(1.0)); 818]),
        ("nearly empty objects", vec![object("", Kind::NumberValue(1.0)); 1022]),
        ("empty lists", vec![Kind::ListValue(ListValue::default()); 2728]),
        ("numbers", vec![Kind::NumberValue(7.0); 4092]),
    ];
    for (name, values) in contents {
        let values = attributes(values);
        assert!(values.encoded_len() > 8 * 1024, "{name}");
        let request = pb::AddMemberRequest { attributes: Some(values), ..add(&id, name, "member") };
        operator.organizations.add_member(request).await.unwrap_or_else(|status| panic!("{name}: {status:?}"));
    }
}

#[tokio::test]
async fn a_message_of_empty_items_does_not_take_memory() {
    let database = Database::new().await;
    let serve = Serve::start(&database.url, "").await;
    serve.until(ServingStatus::Serving).await;
    let before = serve.peak_memory();
    // The organization is named by a slug, so each decoded message waits for an answer of Postgres.
    let message = filled("no-such-organization", &[0x12, 0], 1024 * 1024);
    let method = dynamic::methods().into_iter().find(|found| found.name() == "BatchAddMembers").unwrap();
    let calls = (0..8).map(|_| {
        let (mut caller, method, message) = (serve.caller(), method.clone(), message.clone());
        async move { caller.call(&method, message).await.unwrap_err().code() }
    });
    let codes = futures_util::future::join_all(calls).await;
    // The requests of one connection may take so much; further ones are refused before they are read.
    let refused = codes.iter().filter(|code| **code == Code::InvalidArgument).count();
    assert!(refused > 0 && refused + codes.iter().filter(|code| **code == Code::Unavailable).count() == 8, "{codes:?}");
    let grown = serve.peak_memory() - before;
    assert!(grown < 100 * 1024 * 1024, "eight messages of 1 MiB took {grown} bytes");
}
