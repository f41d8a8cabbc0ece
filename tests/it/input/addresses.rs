//! Addresses: what is taken, how they are compared, and what becomes of the normal forms of former releases.

use crate::harness::{Database, Server, assert_refused};
use crate::invitations::{accept, invite};
use roster::domain::characters::compose;
use roster::grpc::pb;
use roster::server::ServerSettings;
use roster::store::migrations::MIGRATIONS;
use sqlx::migrate::Migrate;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tonic::Code;

/// Spellings of one mailbox each.
const EQUAL: [[&str; 2]; 5] = [
    ["renée@example.com", "Rene\u{301}E@Example.com"],
    ["संपर्क@डाटामेल.भारत", "संपर्क@xn--c2bd4bq1db8d.xn--h2brj9c"],
    ["한국@example.com", "\u{1112}\u{1161}\u{11ab}\u{1100}\u{116e}\u{11a8}@example.com"],
    ["a..b.@docomo.ne.jp", "A..B.@docomo.ne.jp"],
    ["\u{915}\u{93c}@example.com", "\u{958}@example.com"],
];

/// The ids of the users with this address, verified or not.
async fn users(server: &Server, email: &str) -> Vec<String> {
    let list = pb::ListUsersRequest { email: email.to_owned(), ..Default::default() };
    let users = server.operator().users.list_users(list).await.unwrap().into_inner().users;
    users.into_iter().map(|user| user.user_id).collect()
}

#[tokio::test]
async fn equal_addresses_are_one_mailbox_everywhere() {
    let server = Server::start_generous().await;
    let mut ada = server.user("ada");
    for (number, [one, other]) in EQUAL.into_iter().enumerate() {
        let acme = ada.create("Acme").await;
        let mut backend = server.operator();
        let invited = backend.invitations.create_invitation(invite(&acme, other)).await.unwrap().into_inner();
        let again = backend.invitations.create_invitation(invite(&acme, one)).await;
        assert_refused(again, Code::AlreadyExists, "INVITATION_PENDING");

        let id = format!("person-{number}");
        let mut person = server.person(&id, one, true);
        person.invitations.accept_invitation(accept(&invited.token)).await.unwrap();
        for email in [one, other] {
            assert_eq!(users(&server, email).await, [id.as_str()], "{email:?}");
        }
        // By address, the other spelling finds the user.
        let second = ada.create("Beta").await;
        let add = pb::AddMemberRequest {
            organization: second,
            person: Some(pb::add_member_request::Person::Email(other.to_owned())),
            ..Default::default()
        };
        let member = ada.organizations.add_member(add).await.unwrap().into_inner().member.unwrap();
        assert_eq!(member.user_id, id);
        let get = pb::GetUserRequest { user_id: id };
        let stored = person.users.get_user(get).await.unwrap().into_inner().user.unwrap().email;
        assert_eq!(stored, one, "an address is shown as it was received");
    }
}

/// The last migration of release 0.3.0.
const FORMER: i64 = 9;

/// Hangul in letters, a Tamil vowel in parts, the Kelvin sign, and an address without any of these.
const FORMER_ADDRESSES: [(&str, &str); 4] = [
    ("\u{1112}\u{1161}\u{11ab}Z@example.com", "\u{1112}\u{1161}\u{11ab}z@example.com"),
    ("ப\u{bc6}\u{bbe}@example.com", "ப\u{bc6}\u{bbe}@example.com"),
    ("\u{212a}Im@example.com", "\u{212a}im@example.com"),
    ("Pelé@example.com", "pelé@example.com"),
];

/// A datastore of release 0.3.0 with a user, and a pending invitation, of each address.
async fn former() -> Database {
    let database = Database::empty().await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    connection.ensure_migrations_table("_sqlx_migrations").await.unwrap();
    MIGRATIONS.run_to(FORMER, &mut connection).await.unwrap();
    let rows = FORMER_ADDRESSES.map(|(given, normal)| format!("('{given}', '{normal}')")).join(", ");
    let statements = format!(
        "CREATE TEMPORARY TABLE former AS SELECT row_number() OVER () AS n, * FROM (VALUES {rows}) t (given, normal);
         INSERT INTO organizations (bucket, id, slug, name, kind, attributes, state, deactivated_by_operator, owner_id,
                                    revision, row_revision, create_time, update_time)
         SELECT organization_bucket_of(id), id, 'acme', 'Acme', 'organization', '{{}}', 'PENDING', false, NULL, 1, 1, now(),
                now()
         FROM (SELECT gen_random_uuid() AS id) made;
         INSERT INTO users (user_bucket, id, state, deactivated_by_operator, email, email_normal, email_verified,
                            profile_issued_at, revision, create_time, update_time)
         SELECT user_bucket_of('user-' || n), 'user-' || n, 'ACTIVE', false, given, normal, true, 0, 1, now(), now()
         FROM former;
         INSERT INTO invitations (bucket, organization_id, id, identifier, identifier_normal, is_email, role, makes_owner,
                                  attributes, state, inviter_kind, inviter_id, expire_time, sends, send_time, create_time,
                                  update_time)
         SELECT bucket, id, gen_random_uuid(), given, normal, true, 'member', false, '{{}}', 'PENDING', 'service', 'backend',
                now() + interval '1 day', 0, now(), now(), now()
         FROM organizations, former"
    );
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut connection).await.unwrap();
    database
}

#[tokio::test]
async fn addresses_of_former_releases_are_found_after_the_migration() {
    let database = former().await;
    database.migrate().await;
    let server = Server::over(database, ServerSettings::default()).await;
    for (number, (given, normal)) in FORMER_ADDRESSES.into_iter().enumerate() {
        let id = format!("user-{}", number + 1);
        let get = pb::GetUserRequest { user_id: id.clone() };
        let shown = server.operator().users.get_user(get).await.unwrap().into_inner().user.unwrap().email;
        if given.contains('\u{212a}') {
            let list = pb::ListUsersRequest { email: given.to_owned(), ..Default::default() };
            let listed = server.operator().users.list_users(list).await;
            assert_refused(listed, Code::InvalidArgument, "INVALID_REQUEST");
            assert_eq!(shown, given);
        } else {
            assert_eq!(shown, compose(given));
            for email in [given, normal] {
                assert_eq!(users(&server, email).await, [id.as_str()], "{email:?}");
            }
        }
    }
    let composed = "SELECT count(*) FROM invitations WHERE identifier_normal IS NFC NORMALIZED";
    assert_eq!(server.database.count(composed).await, 3, "all but the Kelvin sign");
}

#[tokio::test]
async fn the_migration_keeps_two_pending_invitations_of_one_mailbox() {
    let database = former().await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    // The composed form of the second address, and another form of the first one that is not composed.
    let statement = "INSERT INTO invitations SELECT (made).* FROM (
            SELECT jsonb_populate_record(i, jsonb_build_object('id', gen_random_uuid(), 'identifier_normal', other.normal)) AS made
            FROM invitations i
            JOIN (VALUES ('\u{1112}\u{1161}\u{11ab}z@example.com', '\u{d558}\u{11ab}z@example.com'),
                         ('ப\u{bc6}\u{bbe}@example.com', 'ப\u{bca}@example.com')) other (of_normal, normal)
              ON i.identifier_normal = other.of_normal) rows";
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.unwrap();
    database.migrate().await;
    let composed = "SELECT count(*) FROM invitations WHERE identifier_normal = 'ப\u{bca}@example.com'";
    assert_eq!(database.count(composed).await, 1);
    let composed = "SELECT count(*) FROM invitations WHERE identifier_normal IS NFC NORMALIZED";
    assert_eq!((database.count(composed).await, database.count("SELECT count(*) FROM invitations").await), (2, 6));
}
