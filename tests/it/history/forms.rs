//! The forms of tokens and cursors: those of the last release, of this one and of a later one.

use super::{Answer, FROM_MEMORY, FROM_PRIMARY, RawEntry, RawToken, assert_behind, caught_up, check, export, watch};
use crate::harness::server::Clients;
use crate::harness::{Database, Server, assert_refused, dynamic};
use prost_reflect::FieldDescriptor;
use roster::grpc::pb;
use roster::replica::consistency_token::{ConsistencyToken, TokenForm};
use roster::replica::limits;
use roster::service::ReplicaSettings;
use tonic::Code;

/// A server with the organization Acme and its member grace: the token of her addition, and a cursor behind it.
async fn acme() -> (Server, Clients, String, String, String) {
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    let mut operator = server.operator();
    let token = operator.add(&acme, "grace", "member").await;
    let cursor = export(&operator).await;
    caught_up(&server).await;
    (server, operator, acme, token, cursor)
}

#[tokio::test]
async fn a_token_that_this_release_cannot_compare_counts_as_fully_consistent() {
    let (_server, operator, acme, token, _) = acme().await;
    let answer = async |token: &RawToken| check(&operator, &acme, "grace", &token.text()).await.unwrap();
    let token = RawToken::of(&token);
    assert_eq!(answer(&token).await, FROM_MEMORY);
    // The form of the last release, and forms of later ones, with longer entries and without any.
    assert_eq!(answer(&RawToken { form: 1, ..token.clone() }).await, FROM_PRIMARY);
    for form in [3, 4, 99, 255] {
        assert_eq!(answer(&RawToken { form, ..token.clone() }).await, FROM_PRIMARY);
        assert_eq!(answer(&RawToken { form, entries: Vec::new(), ..token.clone() }).await, FROM_PRIMARY);
        let entries = vec![RawEntry(u16::MAX, -1, 0); 600];
        assert_eq!(answer(&RawToken { form, entries, ..token.clone() }).await, FROM_PRIMARY);
    }
    // A bucket that a later release has.
    for bucket in [289, 1_024, 40_000, u16::MAX] {
        for form in [1, 2] {
            let mut token = RawToken { form, ..token.clone() };
            token.entries.push(RawEntry(bucket, i64::MAX, 7));
            assert_eq!(answer(&token).await, FROM_PRIMARY);
        }
    }
}

#[tokio::test]
async fn the_known_buckets_of_such_a_token_must_be_covered() {
    let (_server, operator, acme, token, _) = acme().await;
    for form in [1, 2] {
        let ahead = RawToken { form, ..RawToken::of(&token) }.with(|RawEntry(_, position, _)| *position += 1);
        assert_behind(check(&operator, &acme, "grace", &ahead.text()).await);
        let mut with_unknown = ahead.clone();
        with_unknown.entries.push(RawEntry(300, 1, 1));
        assert_behind(check(&operator, &acme, "grace", &with_unknown.text()).await);
    }
}

#[tokio::test]
async fn malformed_tokens_and_cursors_stay_invalid() {
    let (_server, operator, acme, token, _) = acme().await;
    let token = RawToken::of(&token);
    let long = RawToken { form: 3, entries: vec![RawEntry(0, 0, 0); 900], ..token.clone() }.text();
    assert!(long.len() > 16 * 1024);
    let negative = token.clone().with(|RawEntry(_, position, _)| *position = -1).text();
    let zero = RawToken { form: 0, ..token.clone() }.text();
    let cut = token.text()[..token.text().len() - 4].to_owned();
    for bad in ["token", "____", "!", &long, &negative, &zero, &cut] {
        let answer = check(&operator, &acme, "grace", bad).await;
        assert_refused(answer, Code::InvalidArgument, "INVALID_REQUEST");
        assert_refused(watch(&operator, bad).await, Code::InvalidArgument, "INVALID_REQUEST");
    }
}

#[tokio::test]
async fn a_cursor_of_the_last_release_and_one_with_an_unknown_bucket_go_on() {
    let (server, mut operator, acme, _, cursor) = acme().await;
    let cursor = RawToken::of(&cursor);
    let mut with_unknown = cursor.clone();
    with_unknown.entries.push(RawEntry(289, i64::MAX, 7));
    operator.add(&acme, "alan", "member").await;
    let of_last_release = RawToken { form: 1, ..cursor.clone() };
    for cursor in [&cursor, &of_last_release, &with_unknown] {
        let message = watch(&operator, &cursor.text()).await.unwrap();
        assert_eq!(message.changes.len(), 1);
        let next = message.checkpoint.unwrap().cursor;
        // The cursor to go on from has the mark of every bucket that the server has.
        let next = RawToken::of(&next);
        assert_eq!(next.entries.len(), 289);
        assert!(watch(&operator, &next.text()).await.unwrap().changes.is_empty());
    }
    // Without marks, a row that was dropped after the retention time does not matter, as long as the next one is there.
    let bucket = i32::from(u8::from_str_radix(&acme[..2], 16).unwrap());
    let drop = "DELETE FROM log WHERE bucket = $1 AND position < (SELECT max(position) FROM log WHERE bucket = $1)";
    sqlx::query(drop).bind(bucket).execute(&server.database.pool).await.unwrap();
    let message = watch(&operator, &of_last_release.text()).await.unwrap();
    assert_eq!(message.changes.len(), 1);
    assert_refused(watch(&operator, &cursor.text()).await, Code::OutOfRange, "CURSOR_EXPIRED");
}

#[tokio::test]
async fn a_cursor_of_a_newer_form_expires() {
    let (_server, operator, _, _, cursor) = acme().await;
    for form in [3, 99, 255] {
        let cursor = RawToken { form, ..RawToken::of(&cursor) };
        assert_refused(watch(&operator, &cursor.text()).await, Code::OutOfRange, "CURSOR_EXPIRED");
    }
}

#[tokio::test]
async fn a_server_can_issue_the_form_of_the_last_release() {
    let settings = ReplicaSettings { token_form: TokenForm::Positions, ..ReplicaSettings::default() };
    let server = Server::with_replica_over(Database::new().await, settings).await;
    let other = Server::over(server.database.clone(), roster::server::ServerSettings::default()).await;
    let acme = server.user("ada").create("Acme").await;
    let mut operator = server.operator();
    let token = operator.add(&acme, "grace", "member").await;
    let cursor = export(&operator).await;
    let checkpoint = watch(&operator, &cursor).await.unwrap().checkpoint.unwrap().cursor;
    for text in [&token, &cursor, &checkpoint] {
        assert!(!ConsistencyToken::decode(text).unwrap().has_marks());
    }
    caught_up(&server).await;
    caught_up(&other).await;
    let expected: Answer = FROM_PRIMARY;
    assert_eq!(check(&operator, &acme, "grace", &token).await.unwrap(), expected);
    // A token of form 2 from another server is read, and answered from memory.
    let newer = other.operator().add(&acme, "alan", "member").await;
    caught_up(&server).await;
    assert!(ConsistencyToken::decode(&newer).unwrap().has_marks());
    assert_eq!(check(&operator, &acme, "alan", &newer).await.unwrap(), FROM_MEMORY);
    assert_eq!(check(&other.operator(), &acme, "grace", &token).await.unwrap(), expected);
    // This process's own writes are remembered without their marks too.
    assert!(operator.is_member(&acme, "grace").await);
}

/// A token of each kind: of a write, a batch of checks in every bucket, an export and a watch.
async fn issued(server: &Server, user: &str) -> Vec<String> {
    let acme = server.user("ada").create(user).await;
    let mut operator = server.operator();
    let write = operator.add(&acme, user, "member").await;
    caught_up(server).await;
    let item = |bucket: u8| pb::CheckItem {
        organization: format!("{bucket:02x}000000-0000-4000-8000-000000000000"),
        user_id: user.to_owned(),
        question: None,
    };
    let items = (0..=u8::MAX).map(item).collect();
    let request = pb::BatchCheckMembershipRequest { items, consistency: None };
    let batch = operator.checks.batch_check_membership(request).await.unwrap().into_inner().consistency_token;
    let cursor = export(&operator).await;
    let checkpoint = watch(&operator, &cursor).await.unwrap().checkpoint.unwrap().cursor;
    let events = operator.events.watch_events(pb::WatchEventsRequest::default()).await.unwrap();
    let events = events.into_inner().message().await.unwrap().unwrap().cursor;
    vec![write, batch, cursor, checkpoint, events]
}

#[tokio::test]
async fn tokens_and_cursors_have_the_stated_length_in_every_epoch_and_form() {
    for (form, longest) in [(TokenForm::Positions, 3_871), (TokenForm::Marks, 5_412)] {
        let settings = ReplicaSettings { token_form: form, ..ReplicaSettings::default() };
        let server = Server::with_replica_over(Database::new().await, settings).await;
        for epoch in 0..5 {
            let tokens = issued(&server, &format!("user-{epoch}")).await;
            let lengths: Vec<usize> = tokens.iter().map(String::len).collect();
            assert!(lengths[0] < 64 && lengths[2..] == [longest; 3], "{lengths:?}");
            assert!(lengths.iter().all(|length| *length <= limits::TOKEN_CHARACTERS), "{lengths:?}");
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            assert!(tokens.iter().all(|token| token.bytes().all(is_plain)));
            // Another history, with a larger number.
            let raise = "UPDATE datastore SET epoch = epoch * 50 + 1";
            sqlx::query(raise).execute(&server.database.pool).await.unwrap();
            caught_up(&server).await;
        }
    }
}

#[test]
fn the_protos_state_the_length_of_every_token() {
    let number = |length: usize| format!("{} {:03}", length / 1_000, length % 1_000);
    let mut fields = 0;
    let comment = |field: &FieldDescriptor| dynamic::comment(&field.parent_file(), field.path());
    for method in dynamic::methods() {
        // A checkpoint and the result of a check have tokens of their own.
        let parts = method.output().fields().filter_map(|field| field.kind().as_message().cloned()).collect::<Vec<_>>();
        for message in parts.into_iter().chain([method.output()]) {
            for field in message.fields() {
                let length = match field.name() {
                    "consistency_token" | "cursor" => limits::TOKEN_CHARACTERS,
                    "next_page_token" => roster::grpc::limits::PAGE_TOKEN_CHARACTERS,
                    _ => continue,
                };
                let text = comment(&field);
                assert!(
                    text.contains(&format!("t most {} characters", number(length))),
                    "{}: {text}",
                    field.full_name()
                );
                fields += 1;
            }
        }
    }
    assert!(fields >= 36, "{fields}");
}
