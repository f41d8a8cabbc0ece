//! The messages of the server: a client with the default limit of 4 MiB receives each of them, however large the rows are.

use crate::harness::Server;
use crate::harness::bulk::Bulk;
use crate::harness::dynamic::{self, Caller};
use crate::harness::server::Clients;
use crate::streams::{Watch, soon};
use prost::Message;
use prost::encoding::{decode_key, decode_varint};
use prost_reflect::{DynamicMessage, Kind, MethodDescriptor, Value};
use prost_types::{ListValue, Struct, Value as StructValue};
use roster::authn::mint::ClaimSet;
use roster::domain::Scope;
use roster::grpc::{limits, pb};
use sqlx::AssertSqlSafe;
use std::collections::{BTreeMap, BTreeSet};

/// The documented size of a message, in bytes.
const LIMIT: usize = 3 * 1024 * 1024;
/// The organization of most rows.
const ACME: &str = "10000000-0000-4000-8000-000000000001";
/// Rows with attributes: more than a page of them.
const ROWS: usize = 75;
/// Roles of one organization: as many as it can have.
const ROLES: usize = 50;
/// Changes of the access model: more than a page of them.
const MODELS: usize = 40;
/// Users, whose profiles are smaller.
const USERS: usize = 1_100;
/// Attributes of the largest size. Their text has 8 kB, and their messages 45 kB.
const ATTRIBUTES: &str = "(SELECT jsonb_build_object('n', jsonb_agg(7)) FROM generate_series(1, 4092))";

/// A character of four bytes.
const LONG: &str = "\u{1f600}";

fn attributes() -> Struct {
    let values = vec![StructValue { kind: Some(prost_types::value::Kind::NumberValue(7.0)) }; 4_092];
    let list = StructValue { kind: Some(prost_types::value::Kind::ListValue(ListValue { values })) };
    Struct { fields: BTreeMap::from([("n".to_owned(), list)]) }
}

fn user(number: usize) -> String {
    format!("{:x<255}", format!("user-{number}-"))
}

/// Fills every table with rows of the largest size: texts with characters of four bytes, and [`ATTRIBUTES`].
async fn fill(server: &Server) {
    let user = |n: &str| format!("rpad('user-' || {n} || '-', 255, 'x')");
    let other = "('20000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid";
    Bulk {
        users: &format!("SELECT 'zoe' AS id UNION ALL SELECT {} FROM generate_series(1, {USERS}) n", user("n")),
        organizations: &format!(
            "SELECT '{ACME}'::uuid AS id, 'acme' AS slug, 'zoe' AS owner
             UNION ALL SELECT {other}, rpad('slug-' || n || '-', 200, 's'), {} FROM generate_series(1, {ROWS}) n",
            user("n")
        ),
        memberships: &format!(
            "SELECT '{ACME}'::uuid AS id, 'zoe' AS user_id
             UNION ALL SELECT '{ACME}'::uuid, {0} FROM generate_series(1, {ROWS}) n
             UNION ALL SELECT {other}, {0} FROM generate_series(1, {ROWS}) n
             UNION ALL SELECT {other}, 'zoe' FROM generate_series(1, {ROWS}) n",
            user("n")
        ),
    }
    .insert(&server.database)
    .await;
    let texts = format!(
        "UPDATE users SET display_name = repeat('\u{1f600}', 200), email = rpad(id, 242, 'x') || '@example.com',
                email_normal = rpad(id, 242, 'x') || '@example.com' WHERE id <> 'zoe';
         UPDATE organizations SET attributes = {ATTRIBUTES}, name = repeat('\u{1f600}', 200), kind = repeat('k', 64);
         UPDATE memberships SET attributes = {ATTRIBUTES};
         INSERT INTO invitations (bucket, organization_id, id, identifier, identifier_normal, is_email, role, makes_owner,
                attributes, state, inviter_kind, inviter_id, expire_time, sends, send_time, create_time, update_time)
         SELECT organization_bucket_of(id), id, gen_random_uuid(), text, text, is_email, 'member', false, {ATTRIBUTES},
                'PENDING', 'user', {}, now() + interval '1 day', 0, now(), now(), now()
         FROM generate_series(1, {ROWS}) n, LATERAL (
             VALUES ('{ACME}'::uuid, rpad('guest-' || n, 1000, '\u{1f600}'), false),
                    ({other}, 'zoe@example.com', true)) i (id, text, is_email);
         INSERT INTO events (bucket, organization_id, revision, type, actor_kind, actor_id, actor_issuer, user_id, old, new,
                reason, create_time)
         SELECT organization_bucket_of('{ACME}'), '{ACME}', n, 'member.updated', 'user', {}, repeat('x', 2048), {}, {ATTRIBUTES}, {ATTRIBUTES},
                repeat('\u{1f600}', 500), now()
         FROM generate_series(1, {ROWS}) n;
         INSERT INTO user_events (user_bucket, user_id, revision, type, actor_kind, actor_id, actor_via, reason, create_time)
         SELECT user_bucket_of(u.id), u.id, n, 'user.deactivated', 'user', {}, repeat('s', 100), repeat('\u{1f600}', 500),
                now()
         FROM generate_series(1, {USERS}) n, (SELECT {} AS id) u;
         UPDATE organizations SET revision = {ROWS} WHERE id = '{ACME}'",
        user("n"),
        user("n"),
        user("n"),
        user("n"),
        user("'1'"),
    );
    sqlx::raw_sql(AssertSqlSafe(texts)).execute(&server.database.pool).await.unwrap();
}

/// Adds the largest roles of one organization, and the largest changes of the access model.
async fn fill_roles(server: &Server) {
    let texts = format!(
        "INSERT INTO organization_roles (bucket, organization_id, name, title, description, permissions, revision,
                create_time, update_time)
         SELECT organization_bucket_of('{ACME}'), '{ACME}', rpad('org:r' || n || '-', 68, 'x'), repeat('\u{1f600}', 200),
                repeat('\u{1f600}', 1000), (SELECT array_agg(rpad('area.w' || w || '-', 100, 'x'))
                FROM generate_series(1, 1000) w), 1, now(), now()
         FROM generate_series(1, {ROLES}) n;
         INSERT INTO access_model_revisions (revision, model, actor_kind, actor_id, reason, create_time)
         SELECT n, jsonb_build_object('permissions', (
                    SELECT jsonb_agg(jsonb_build_object('name', rpad('area.w' || w || '-' || n % 2, 100, 'x')))
                    FROM generate_series(1, 500) w)),
                'operator', 'root', repeat('\u{1f600}', 500), now() FROM generate_series(1, {MODELS}) n"
    );
    sqlx::raw_sql(AssertSqlSafe(texts)).execute(&server.database.pool).await.unwrap();
}

/// Whether the response of a method has a list of messages.
fn has_list(method: &MethodDescriptor) -> bool {
    method.output().fields().any(|field| field.is_list() && matches!(field.kind(), Kind::Message(_)))
}

fn is_page(method: &MethodDescriptor) -> bool {
    method.input().get_field_by_name("page_token").is_some()
}

/// The number of items of a page, in field 1, and its page token, in field 2. To decode the items takes seconds.
fn count(mut page: &[u8]) -> (usize, String) {
    let (mut items, mut token) = (0, String::new());
    while !page.is_empty() {
        let (number, _) = decode_key(&mut page).unwrap();
        let length = usize::try_from(decode_varint(&mut page).unwrap()).unwrap();
        let (value, rest) = page.split_at(length);
        page = rest;
        match number {
            1 => items += 1,
            2 => token = String::from_utf8(value.to_vec()).unwrap(),
            other => panic!("field {other}"),
        }
    }
    (items, token)
}

/// The sizes of all pages of a list, and the number of its items.
async fn pages(caller: &mut Caller, method: &MethodDescriptor) -> (Vec<usize>, usize) {
    let (mut sizes, mut items, mut token) = (Vec::new(), 0, String::new());
    loop {
        let mut request = DynamicMessage::new(method.input());
        request.set_field_by_name("page_size", Value::I32(1_000));
        request.set_field_by_name("page_token", Value::String(token));
        let user_id = match method.name() {
            "ListUserOrganizations" => "zoe".to_owned(),
            "ListUserEvents" => user(1),
            _ => String::new(),
        };
        if !user_id.is_empty() {
            request.set_field_by_name("user_id", Value::String(user_id));
        }
        if method.input().get_field_by_name("organization").is_some() {
            request.set_field_by_name("organization", Value::String(ACME.to_owned()));
        }
        if method.input().get_field_by_name("permission").is_some() {
            request.set_field_by_name("permission", Value::String("members.list".to_owned()));
        }
        let answer = caller.call(method, request.encode_to_vec()).await.unwrap();
        sizes.push(answer.len());
        let (count, next) = count(&answer);
        items += count;
        token = next;
        assert!(token.len() <= limits::PAGE_TOKEN_CHARACTERS, "{}: {} characters", method.name(), token.len());
        if token.is_empty() {
            return (sizes, items);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_list_of_the_largest_rows_has_pages_that_a_default_client_receives() {
    let server = Server::start_generous().await;
    fill(&server).await;
    fill_roles(&server).await;
    let mut operator = Caller::with_token(&server.channel(), server.service_token("root", &[Scope::Operator]));
    let zoe = roster::authn::mint::ClaimSet {
        email: Some("zoe@example.com".to_owned()),
        email_verified: Some(true),
        ..Server::claims("zoe")
    };
    let mut zoe = Caller::with_token(&server.channel(), server.mint(&zoe));
    let lists: Vec<MethodDescriptor> = dynamic::methods().into_iter().filter(is_page).collect();
    assert_eq!(lists.len(), 11);
    for method in lists {
        let caller = if method.name() == "ListReceivedInvitations" { &mut zoe } else { &mut operator };
        let (sizes, items) = pages(caller, &method).await;
        let expected = match method.name() {
            "ListUsers" => USERS + 1,
            "ListUserEvents" => USERS,
            // With the built-in roles.
            "ListRoles" => ROLES + 3,
            "ListModelEvents" => MODELS,
            "ListMembers" | "ListMembersWithPermission" | "ListOrganizations" | "ListUserOrganizations" => ROWS + 1,
            _ => ROWS,
        };
        assert_eq!(items, expected, "{}", method.name());
        let largest = sizes.iter().max().copied().unwrap();
        assert!(largest <= LIMIT, "{}: {sizes:?}", method.name());
        // The rows with attributes fill a page.
        let is_full = !["ListUsers", "ListUserEvents", "ListReceivedInvitations"].contains(&method.name());
        assert!(!is_full || largest > LIMIT - 128 * 1024, "{}: {sizes:?}", method.name());
        assert!(largest > 100_000, "{}: {sizes:?}", method.name());
    }
}

/// The methods whose messages were measured.
#[derive(Default)]
struct MeasuredMethods(BTreeSet<&'static str>);

impl MeasuredMethods {
    fn add(&mut self, method: &'static str, message: &impl Message) {
        let bytes = message.encoded_len();
        assert!(bytes <= LIMIT, "{method}: {bytes} bytes");
        self.0.insert(method);
    }
}

/// The largest batches, which the server accepts up to 1 MiB, with users whose profiles have the largest texts.
async fn measure_batches(server: &Server, measured: &mut MeasuredMethods) {
    let mut operator = server.operator();
    let item = |number| pb::BatchAddMembersItem {
        person: Some(pb::batch_add_members_item::Person::UserId(user(ROWS + number))),
        attributes: (number <= 21).then(attributes),
        ..Default::default()
    };
    let request = pb::BatchAddMembersRequest {
        organization: ACME.to_owned(),
        items: (1..=100).map(item).collect(),
        reason: LONG.repeat(500),
        ..Default::default()
    };
    assert!(request.encoded_len() > 950_000);
    let answer = operator.organizations.batch_add_members(request).await.unwrap().into_inner();
    assert!(answer.results.iter().all(|result| result.member.is_some()) && answer.encoded_len() > 1_000_000);
    measured.add("BatchAddMembers", &answer);
    let item = |number: usize| pb::BatchCreateInvitationsItem {
        recipient: Some(pb::batch_create_invitations_item::Recipient::Identifier(
            format!("new-{number}-") + &LONG.repeat(if number <= 20 { 900 } else { 10 }),
        )),
        attributes: (number <= 20).then(attributes),
        ..Default::default()
    };
    let request = pb::BatchCreateInvitationsRequest {
        organization: ACME.to_owned(),
        items: (1..=100).map(item).collect(),
        delivery: pb::InvitationDelivery::Token.into(),
        reason: LONG.repeat(500),
        ..Default::default()
    };
    let answer = operator.invitations.batch_create_invitations(request).await.unwrap().into_inner();
    assert!(answer.results.iter().all(|result| result.invitation.is_some()));
    measured.add("BatchCreateInvitations", &answer);
    let item = pb::CheckItem { organization: ACME.to_owned(), user_id: "zoe".to_owned(), question: None };
    let request = pb::BatchCheckMembershipRequest { items: vec![item; 10_000], consistency: None };
    let answer = operator.checks.batch_check_membership(request).await.unwrap().into_inner();
    assert_eq!(answer.results.len(), 10_000);
    measured.add("BatchCheckMembership", &answer);
    let item = pb::EffectivePermissionsItem { organization: ACME.to_owned(), user_id: "zoe".to_owned() };
    let request = pb::BatchGetEffectivePermissionsRequest { items: vec![item; 1_000], consistency: None };
    let answer = operator.checks.batch_get_effective_permissions(request).await.unwrap().into_inner();
    assert_eq!(answer.results.len(), 1_000);
    measured.add("BatchGetEffectivePermissions", &answer);
}

/// A user whose token has no claim about the profile that can be used.
async fn measure_caller(server: &Server, measured: &mut MeasuredMethods) {
    let unusable = || Some("\u{202e}".repeat(1_000));
    let claims = ClaimSet { email: unusable(), name: unusable(), ..Server::claims("zoe") };
    let mut zoe = server.with_token(&server.mint(&claims));
    let answer = zoe.users.get_caller(pb::GetCallerRequest {}).await.unwrap().into_inner();
    assert_eq!(answer.ignored_claims.len(), 2);
    measured.add("GetCaller", &answer);
}

/// Streams of all changes and events since a cursor, and of everything.
async fn measure_streams(backend: &Clients, watch: &mut Watch, cursor: String, measured: &mut MeasuredMethods) {
    for message in watch.until(1).await {
        measured.add("WatchMemberships", &message);
    }
    let request = pb::WatchEventsRequest { cursor, ..Default::default() };
    let mut events = backend.events.clone().watch_events(request).await.unwrap().into_inner();
    let mut is_deleted = false;
    while !is_deleted {
        let message = soon(events.message()).await.unwrap().unwrap();
        measured.add("WatchEvents", &message);
        is_deleted = message.events.iter().any(|event| event.r#type == "organization.deleted");
    }
    let request = pb::ExportMembershipsRequest::default();
    let mut parts = backend.checks.clone().export_memberships(request).await.unwrap().into_inner();
    while let Some(part) = soon(parts.message()).await.unwrap() {
        measured.add("ExportMemberships", &part);
    }
    let question = pb::StreamChecksRequest {
        organization: ACME.to_owned(),
        user_id: "zoe".to_owned(),
        ..pb::StreamChecksRequest::default()
    };
    let questions = tonic::codegen::tokio_stream::once(question);
    let mut answers = backend.checks.clone().stream_checks(questions).await.unwrap().into_inner();
    measured.add("StreamChecks", &soon(answers.message()).await.unwrap().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_other_message_with_a_list_is_one_that_a_default_client_receives() {
    let server = Server::start_generous().await;
    fill(&server).await;
    let mut measured = MeasuredMethods::default();
    let backend = server.service(&[Scope::Check, Scope::Manage]);
    let mut watch = Watch::open(&backend, pb::WatchMembershipsRequest::default()).await;
    let cursor = watch.next().await.checkpoint.unwrap().cursor;
    measure_batches(&server, &mut measured).await;
    measure_caller(&server, &mut measured).await;
    // An organization with hundreds of members and invitations is deleted, for a long reason.
    let reason = LONG.repeat(500);
    let request = pb::DeleteOrganizationRequest { organization: ACME.to_owned(), reason, ..Default::default() };
    server.operator().organizations.delete_organization(request).await.unwrap();
    measure_streams(&backend, &mut watch, cursor, &mut measured).await;
    // Every other method answers with single rows, each a small part of a page.
    let expected: BTreeSet<String> = dynamic::methods()
        .into_iter()
        .filter(|method| (has_list(method) || method.is_server_streaming()) && !is_page(method))
        .map(|method| method.name().to_owned())
        .collect();
    assert_eq!(measured.0.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_models_and_plans_are_messages_that_a_default_client_receives() {
    let server = Server::start_generous().await;
    let mut operator = server.operator();
    // Each role gains and loses as many permissions as fit into two models.
    let word = |model: &str, number: usize| format!("area.{model}{number:x<93}");
    let apply = |model: &str| {
        let role = |number: usize| pb::AccessModelRole {
            name: format!("role-{number:x<59}"),
            kind: format!("kind-{}", number / 100),
            permissions: (0..3).map(|index| word(model, (number + index) % 500)).collect(),
            ..Default::default()
        };
        let permission = |number| pb::AccessModelPermission { name: word(model, number), ..Default::default() };
        let model = pb::AccessModel {
            permissions: (0..500).map(permission).collect(),
            roles: (0..1_900).map(role).collect(),
            delegable: Vec::new(),
        };
        assert!(model.encoded_len() > 750_000, "{}", model.encoded_len());
        pb::ApplyAccessModelRequest { model: Some(model), ..Default::default() }
    };
    for model in ["a", "b"] {
        let mut request = tonic::Request::new(apply(model));
        request.set_timeout(std::time::Duration::from_mins(1));
        let applied = operator.models.apply_access_model(request).await.unwrap().into_inner();
        assert!(applied.encoded_len() <= LIMIT, "{} bytes", applied.encoded_len());
        assert!(model == "a" || applied.encoded_len() > 1_200_000, "{} bytes", applied.encoded_len());
    }
    let read = operator.models.get_access_model(pb::GetAccessModelRequest {}).await.unwrap().into_inner();
    assert!(read.encoded_len() > 750_000 && read.encoded_len() <= LIMIT);
}
