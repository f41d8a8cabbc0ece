//! Every constraint of the schema, broken on purpose once, by plain SQL: Postgres refuses the statement and names the
//! constraint.
//!
//! The list of constraints is read from the database: a constraint without a case fails the test, and so does a case without
//! a constraint. TRUNCATE … CASCADE is not tried: it empties both sides of every foreign key at once and breaks none of them,
//! and a role that may truncate can delete everything anyway.

use crate::harness::{Database, Server};
use crate::invitations::invite;
use roster::grpc::pb;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::collections::BTreeSet;

/// A constraint, and a statement that breaks it and no other.
const CASES: &[(&str, &str)] = &[
    ("datastore_pkey", "INSERT INTO datastore SELECT * FROM datastore"),
    ("datastore_only_row_check", "UPDATE datastore SET only_row = false"),
    ("datastore_epoch_check", "UPDATE datastore SET epoch = 0"),
    ("users_pkey", "INSERT INTO users SELECT * FROM users"),
    ("users_bucket", "UPDATE users SET user_bucket = (user_bucket + 1) % 32"),
    ("users_id_length", "UPDATE users SET id = '', user_bucket = user_bucket_of('') WHERE id = 'ada'"),
    ("users_state", "UPDATE users SET state = 'ASLEEP'"),
    ("users_operator", "UPDATE users SET deactivated_by_operator = true WHERE state = 'ACTIVE'"),
    ("users_email_pair", "UPDATE users SET email = 'ada@example.com'"),
    ("users_email_verified", "UPDATE users SET email_verified = true"),
    ("users_erased", "UPDATE users SET state = 'ERASED', display_name = 'Ada'"),
    ("users_revision", "UPDATE users SET revision = 0"),
    ("organizations_pkey", "INSERT INTO organizations SELECT * FROM organizations"),
    ("organizations_bucket", "UPDATE organizations SET bucket = (bucket + 1) % 256"),
    ("organizations_slug", "UPDATE organizations SET slug = 'Acme'"),
    ("organizations_name", "UPDATE organizations SET name = ''"),
    ("organizations_kind", "UPDATE organizations SET kind = '9'"),
    ("organizations_attributes", "UPDATE organizations SET attributes = '[]'"),
    ("organizations_state", "UPDATE organizations SET state = 'DELETED'"),
    ("organizations_operator", "UPDATE organizations SET deactivated_by_operator = true"),
    ("organizations_one_owner", "UPDATE organizations SET owner_id = NULL"),
    ("organizations_owner_role", "UPDATE organizations SET owner_role = 'member'"),
    ("organizations_revision", "UPDATE organizations SET row_revision = revision + 1"),
    ("organizations_folded", "UPDATE organizations SET folded_revision = NULL"),
    ("organizations_deleted", "UPDATE organizations SET delete_time = now()"),
    ("organizations_owner_is_admin", "UPDATE organizations SET owner_id = 'stranger'"),
    ("memberships_pkey", "INSERT INTO memberships SELECT * FROM memberships"),
    ("memberships_user_id_length", "UPDATE memberships SET user_id = repeat('x', 256) WHERE user_id = 'grace'"),
    ("memberships_role", "UPDATE memberships SET role = 'owner' WHERE user_id = 'grace'"),
    ("memberships_attributes", "UPDATE memberships SET attributes = '[]'"),
    ("memberships_revision", "UPDATE memberships SET revision = 0"),
    ("memberships_organization", "UPDATE memberships SET organization_id = gen_random_uuid() WHERE user_id = 'grace'"),
    (
        "memberships_deployment_role",
        "UPDATE memberships SET role = 'clerk', deployment_role = 'clerk' WHERE user_id = 'alan'",
    ),
    (
        "memberships_organization_role",
        "UPDATE memberships SET role = 'org:clerk', organization_role = 'org:clerk' WHERE user_id = 'alan'",
    ),
    ("access_model_pkey", "INSERT INTO access_model SELECT * FROM access_model"),
    ("access_model_only_row", "UPDATE access_model SET only_row = false"),
    ("access_model_revision", "UPDATE access_model SET revision = -1"),
    ("access_model_model", "UPDATE access_model SET model = '[]'"),
    ("access_model_revisions_pkey", "INSERT INTO access_model_revisions SELECT * FROM access_model_revisions"),
    ("access_model_revisions_revision", "UPDATE access_model_revisions SET revision = 0"),
    ("access_model_revisions_model", "UPDATE access_model_revisions SET model = '[]'"),
    ("access_model_revisions_actor", "UPDATE access_model_revisions SET actor_kind = 'nobody'"),
    ("deployment_roles_pkey", "INSERT INTO deployment_roles SELECT * FROM deployment_roles"),
    ("deployment_roles_name", "UPDATE deployment_roles SET name = 'admin'"),
    ("deployment_roles_kind", "UPDATE deployment_roles SET kind = '9'"),
    ("deployment_roles_replaced_by", "UPDATE deployment_roles SET replaced_by = name"),
    (
        "organization_roles_pkey",
        "INSERT INTO organization_roles (bucket, organization_id, name, title, description, permissions, revision,
                                         create_time, update_time)
         SELECT bucket, organization_id, name, title, description, permissions, revision, create_time, update_time
         FROM organization_roles",
    ),
    ("organization_roles_name", "UPDATE organization_roles SET name = 'auditor'"),
    ("organization_roles_title", "UPDATE organization_roles SET title = repeat('x', 201)"),
    ("organization_roles_description", "UPDATE organization_roles SET description = repeat('x', 1001)"),
    ("organization_roles_permissions", "UPDATE organization_roles SET permissions = ARRAY['billing.read', NULL]"),
    ("organization_roles_replaced_by", "UPDATE organization_roles SET replaced_by = name"),
    ("organization_roles_organization_replacement", "UPDATE organization_roles SET replaced_by = 'org:gone'"),
    ("organization_roles_deployment_replacement", "UPDATE organization_roles SET replaced_by = 'gone'"),
    ("organization_roles_revision", "UPDATE organization_roles SET revision = 0"),
    ("organization_roles_organization", "UPDATE organization_roles SET organization_id = gen_random_uuid()"),
    ("slugs_pkey", "INSERT INTO slugs SELECT * FROM slugs"),
    ("slugs_bucket", "UPDATE slugs SET bucket = (bucket + 1) % 256"),
    ("log_heads_pkey", "UPDATE log_heads SET bucket = 0"),
    ("log_heads_position_check", "UPDATE log_heads SET position = -1"),
    ("log_pkey", "INSERT INTO log SELECT * FROM log"),
    ("log_position", "UPDATE log SET position = commit_position + 1"),
    ("log_replaced_by", "UPDATE log SET replaced_by = 'member' WHERE entry = 'MEMBERSHIP'"),
    ("log_entry", "UPDATE log SET user_id = NULL WHERE entry = 'MEMBERSHIP'"),
    ("user_log_heads_pkey", "UPDATE user_log_heads SET user_bucket = 0"),
    ("user_log_heads_position_check", "UPDATE user_log_heads SET position = -1"),
    ("user_log_pkey", "INSERT INTO user_log SELECT * FROM user_log"),
    ("user_log_position_check", "UPDATE user_log SET position = 0"),
    ("user_log_state", "UPDATE user_log SET state = 'ASLEEP'"),
    ("events_pkey", "INSERT INTO events SELECT * FROM events"),
    ("events_actor", "UPDATE events SET actor_kind = 'nobody'"),
    ("user_events_pkey", "INSERT INTO user_events SELECT * FROM user_events"),
    ("user_events_actor", "UPDATE user_events SET actor_kind = 'nobody'"),
    ("requests_pkey", "INSERT INTO requests SELECT * FROM requests"),
    ("requests_caller", "UPDATE requests SET caller = '\\x00'"),
    ("requests_fingerprint", "UPDATE requests SET fingerprint = '\\x00'"),
    ("invitations_pkey", "UPDATE invitations SET id = (SELECT min(id::text)::uuid FROM invitations)"),
    ("invitations_state", "UPDATE invitations SET state = 'LOST'"),
    ("invitations_role", "UPDATE invitations SET role = 'owner'"),
    ("invitations_attributes", "UPDATE invitations SET attributes = '[]'"),
    ("invitations_inviter", "UPDATE invitations SET inviter_kind = 'nobody'"),
    ("invitations_accepted", "UPDATE invitations SET state = 'ACCEPTED'"),
    ("invitations_erased", "UPDATE invitations SET recipient_erased = true"),
    ("invitations_identifier", "UPDATE invitations SET identifier = ''"),
    ("invitations_sends", "UPDATE invitations SET sends = -1"),
    ("invitations_mail", "UPDATE invitations SET mail_state = 'LOST'"),
    ("invitations_locale", "UPDATE invitations SET locale = 'German'"),
    ("invitations_organization", "UPDATE invitations SET organization_id = gen_random_uuid()"),
    ("invitation_tokens_pkey", "INSERT INTO invitation_tokens SELECT * FROM invitation_tokens"),
    ("invitation_tokens_hash", "UPDATE invitation_tokens SET hash = '\\x00'"),
    ("outbox_pkey", "INSERT INTO outbox SELECT * FROM outbox"),
    ("outbox_occasion", "UPDATE outbox SET user_id = 'ada'"),
    ("outbox_attempts", "UPDATE outbox SET attempts = -1"),
    ("outbox_locale", "UPDATE outbox SET locale = 'de_AT'"),
    ("outbox_organization", "UPDATE outbox SET organization_id = gen_random_uuid()"),
    ("quotas_pkey", "INSERT INTO quotas SELECT * FROM quotas"),
    ("quotas_subject", "UPDATE quotas SET subject = '\\x00'"),
    ("quotas_used", "UPDATE quotas SET used = -1"),
];

/// Unique indexes that are not constraints, because they are partial or serve lookups, each with a statement that breaks it
/// and no constraint.
const INDEXES: &[(&str, &str)] = &[
    (
        "invitations_one_pending",
        "INSERT INTO invitations SELECT bucket, organization_id, gen_random_uuid(), 'Other', identifier_normal, is_email,
             role, makes_owner, attributes, state, inviter_kind, inviter_id, accepted_by, expire_time, sends, send_time,
             mail_state, mail_error, create_time, update_time FROM invitations",
    ),
    (
        "outbox_by_id",
        "INSERT INTO outbox SELECT organization_bucket_of(other.id), outbox.id, other.id, occasion, invitation_id, user_id,
             sender_kind, sender_id, attempts, next_attempt_time, outbox.create_time
         FROM outbox JOIN organizations other ON other.bucket <> outbox.bucket",
    ),
];

/// Constraints that cannot be broken without breaking another one first: a duplicate membership with its role is also a
/// duplicate without it. Each is tried after a statement that drops the other constraint.
const BEHIND: &[(&str, &str, &str)] = &[(
    "memberships_with_role",
    "ALTER TABLE memberships DROP CONSTRAINT memberships_pkey",
    "INSERT INTO memberships SELECT * FROM memberships",
)];

/// A database with at least one row in every table: ada owns Acme with grace as admin and alan as member, and emmy and
/// kurt are invited.
async fn acme() -> (Server, String) {
    let server = Server::start_generous().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "admin").await;
    let request_id = roster::random::uuid().to_string();
    let add = pb::AddMemberRequest { request_id, ..crate::harness::add(&acme, "alan", "member") };
    ada.organizations.add_member(add).await.unwrap();
    // A token for emmy, which only this response contains, and a mail for kurt.
    let mut operator = server.operator();
    operator.invitations.create_invitation(invite(&acme, "emmy@example.com")).await.unwrap();
    let by_mail = pb::InvitationDelivery::Email.into();
    let mail = pb::CreateInvitationRequest { delivery: by_mail, ..invite(&acme, "kurt@example.com") };
    ada.invitations.create_invitation(mail).await.unwrap();
    let user_id = || "alan".to_owned();
    let off = pb::DeactivateUserRequest { user_id: user_id(), ..Default::default() };
    operator.users.deactivate_user(off).await.unwrap();
    let on = pb::ReactivateUserRequest { user_id: user_id(), ..Default::default() };
    operator.users.reactivate_user(on).await.unwrap();
    let roles = "INSERT INTO access_model_revisions (revision, model, actor_kind, actor_id, create_time)
                 VALUES (1, '{}', 'operator', 'ops', now());
                 UPDATE access_model SET revision = 1, write_time = (SELECT create_time FROM access_model_revisions);
                 UPDATE log_heads SET model_revision = 1, model_time = (SELECT write_time FROM access_model);
                 INSERT INTO deployment_roles (name, kind) VALUES ('auditor', 'organization')";
    sqlx::raw_sql(roles).execute(&server.database.pool).await.unwrap();
    let role = "WITH o AS (
            UPDATE organizations SET revision = revision + 1 WHERE id::text = $1 RETURNING bucket, id, kind, revision
        ), role AS (
            INSERT INTO organization_roles (bucket, organization_id, name, title, description, permissions, revision,
                                            create_time, update_time)
            SELECT bucket, id, 'org:editor', 'Editor', '', '{billing.read}', revision, now(), now() FROM o
        ), event AS (
            INSERT INTO events (bucket, organization_id, revision, type, actor_kind, actor_id, create_time)
            SELECT bucket, id, revision, 'organization.updated', 'operator', 'ops', now() FROM o
        ), head AS (
            UPDATE log_heads SET position = position + 1, write_time = clock_timestamp()
            FROM o WHERE log_heads.bucket = o.bucket RETURNING position, write_time
        )
        INSERT INTO log (bucket, position, commit_position, organization_id, revision, kind, entry, role, permissions,
                         write_time)
        SELECT bucket, position, position, id, revision, kind, 'ROLE', 'org:editor', '{billing.read}', write_time
        FROM o, head";
    sqlx::query(role).bind(&acme).execute(&server.database.pool).await.unwrap();
    (server, acme)
}

/// Runs statements in one transaction that ends with a commit. The error names the refused step and its cause.
async fn attempt(database: &Database, statements: &[&str]) -> Result<(), (&'static str, Violation)> {
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    for statement in statements {
        let done = sqlx::query(AssertSqlSafe((*statement).to_owned())).execute(&mut *transaction).await;
        match done {
            Ok(done) => {
                assert!(done.rows_affected() > 0 || statement.starts_with("ALTER"), "{statement} touches nothing");
            }
            Err(error) => return Err(("statement", Violation::of(&error))),
        }
    }
    transaction.commit().await.map_err(|error| ("commit", Violation::of(&error)))
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Violation {
    code: String,
    constraint: Option<String>,
    column: Option<String>,
}

impl Violation {
    fn of(error: &sqlx::Error) -> Self {
        let error = error.as_database_error().unwrap_or_else(|| panic!("{error}"));
        let postgres = error.downcast_ref::<sqlx::postgres::PgDatabaseError>();
        Self {
            code: postgres.code().to_owned(),
            constraint: postgres.constraint().map(str::to_owned),
            column: postgres.column().map(str::to_owned),
        }
    }
}

/// The constraints of tables, without those that a partition inherits.
const SCHEMA: &str =
    "connamespace = 'public'::regnamespace AND conrelid <> '_sqlx_migrations'::regclass AND conparentid = 0";

#[tokio::test]
async fn every_constraint_broken_on_purpose_is_refused_by_name() {
    let (server, _) = acme().await;
    let database = &server.database;
    let query = format!("SELECT conname::text, contype::text FROM pg_constraint WHERE {SCHEMA} AND contype <> 'n'");
    let constraints: Vec<(String, String)> =
        sqlx::query_as(AssertSqlSafe(query)).fetch_all(&database.pool).await.unwrap();
    let names: BTreeSet<&str> = constraints.iter().map(|(name, _)| name.as_str()).collect();
    let tried: BTreeSet<&str> =
        CASES.iter().map(|(name, _)| *name).chain(BEHIND.iter().map(|(name, ..)| *name)).collect();
    assert_eq!(names, tried, "each constraint has a case, and each case a constraint");
    let direct = CASES.iter().map(|(name, statement)| (name, vec![*statement]));
    let behind = BEHIND.iter().map(|(name, drop, statement)| (name, vec![*drop, *statement]));
    for (name, statements) in direct.chain(behind) {
        let kind = constraints.iter().find(|(constraint, _)| constraint == name).unwrap().1.as_str();
        let code = match kind {
            "p" | "u" => "23505",
            "c" => "23514",
            "f" => "23503",
            other => panic!("{name}: a constraint of the kind {other}"),
        };
        let (when, refused) = attempt(database, &statements).await.expect_err(name);
        // The key of a partition has the partition's name.
        let partition = |c: char| c.is_ascii_digit();
        let refused_by = refused.constraint.map(|name| name.replace(partition, "").replace("log__pkey", "log_pkey"));
        assert_eq!((refused.code.as_str(), refused_by.as_deref()), (code, Some(*name)));
        // Only the foreign key of the owner is deferred to the commit.
        assert_eq!(when == "commit", *name == "organizations_owner_is_admin", "{name}");
    }
    database.assert_invariants().await;
}

#[tokio::test]
async fn every_unique_index_broken_on_purpose_refuses_by_name() {
    let (server, _) = acme().await;
    let database = &server.database;
    // Almost certainly in other buckets than the first one.
    for name in ["Beta", "Gamma", "Delta", "Epsilon"] {
        server.user("ada").create(name).await;
    }
    let indexes = "SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indisunique AND c.relnamespace = 'public'::regnamespace
          AND NOT c.relispartition
          AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid) ORDER BY 1";
    let names: Vec<String> = sqlx::query_scalar(indexes).fetch_all(&database.pool).await.unwrap();
    assert_eq!(names, INDEXES.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "each of these indexes has a case");
    for (name, statement) in INDEXES {
        let (when, refused) = attempt(database, &[statement]).await.expect_err(name);
        assert_eq!((when, refused.code.as_str(), refused.constraint.as_deref()), ("statement", "23505", Some(*name)));
    }
    // An invitation that is no longer pending does not block a new one.
    let revoked = format!("UPDATE invitations SET state = 'REVOKED'; {}", INDEXES[0].1);
    sqlx::raw_sql(AssertSqlSafe(revoked)).execute(&database.pool).await.unwrap();
}

#[tokio::test]
async fn a_second_membership_of_one_user_is_refused_in_any_role() {
    // The index behind the owner's foreign key would allow it; the primary key does not.
    let (server, acme) = acme().await;
    let again = format!(
        "INSERT INTO memberships SELECT bucket, organization_id, user_id, 'member', attributes, revision, now(), now()
         FROM memberships WHERE organization_id = '{acme}' AND user_id = 'grace'"
    );
    let (_, refused) = attempt(&server.database, &[&again]).await.unwrap_err();
    assert_eq!(refused.constraint.as_deref(), Some("memberships_pkey"));
}

#[tokio::test]
async fn every_column_that_must_hold_a_value_refuses_null() {
    let (server, _) = acme().await;
    let database = &server.database;
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT c.relname::text, a.attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
         WHERE a.attnotnull AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p')
           AND NOT c.relispartition
           AND c.relnamespace = 'public'::regnamespace AND c.relname <> '_sqlx_migrations'
         ORDER BY 1, 2",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();
    for (table, column) in &columns {
        let statement = format!("UPDATE {table} SET {column} = NULL");
        let (_, refused) = attempt(database, &[&statement]).await.expect_err(&statement);
        assert_eq!((refused.code.as_str(), refused.column.as_deref()), ("23502", Some(column.as_str())), "{table}");
    }
    // Every nullable column is listed on purpose: a column that lost its NOT NULL by mistake fails here.
    let optional: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname || '.' || a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
         WHERE NOT a.attnotnull AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p')
           AND NOT c.relispartition
           AND c.relnamespace = 'public'::regnamespace AND c.relname <> '_sqlx_migrations'
         ORDER BY c.relname, a.attname",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();
    assert_eq!(optional, OPTIONAL);
}

const OPTIONAL: &[&str] = &[
    "access_model_revisions.actor_issuer",
    "access_model_revisions.actor_via",
    "access_model_revisions.reason",
    "access_model_revisions.request_id",
    "datastore.database_oid",
    "datastore.system_identifier",
    "deployment_roles.kind",
    "deployment_roles.replace_time",
    "deployment_roles.replaced_by",
    "events.actor_issuer",
    "events.actor_via",
    "events.new",
    "events.old",
    "events.reason",
    "events.request_id",
    "events.user_id",
    "invitations.accepted_by",
    "invitations.locale",
    "invitations.mail_error",
    "invitations.mail_state",
    "log.owner_id",
    "log.permissions",
    "log.replaced_by",
    "log.role",
    "log.slug",
    "log.state",
    "log.user_id",
    "memberships.deployment_role",
    "memberships.organization_role",
    "organization_roles.deployment_replacement",
    "organization_roles.organization_replacement",
    "organization_roles.replaced_by",
    "organizations.delete_time",
    "organizations.folded_name",
    "organizations.folded_revision",
    "organizations.owner_id",
    "organizations.purge_time",
    "outbox.invitation_id",
    "outbox.locale",
    "outbox.user_id",
    "requests.answer",
    "user_events.actor_issuer",
    "user_events.actor_via",
    "user_events.new",
    "user_events.old",
    "user_events.reason",
    "user_events.request_id",
    "user_log.reinstated_at",
    "users.display_name",
    "users.email",
    "users.email_normal",
    "users.reinstated_at",
];

#[tokio::test]
async fn no_statement_leaves_an_organization_without_its_owner() {
    let (server, acme) = acme().await;
    let condition = format!("organization_id = '{acme}'");
    let remove = format!("DELETE FROM memberships WHERE {condition} AND user_id = 'ada'");
    let add_again = format!(
        "INSERT INTO memberships SELECT bucket, id, 'ada', 'member', '{{}}', 9, now(), now() FROM organizations
         WHERE id = '{acme}'"
    );
    let paths: &[&[&str]] = &[
        &[&remove],
        &[&format!("DELETE FROM memberships WHERE {condition}")],
        &["DELETE FROM memberships"],
        &[&format!("UPDATE memberships SET role = 'member' WHERE {condition} AND user_id = 'ada'")],
        &[&format!("UPDATE memberships SET role = 'member' WHERE {condition}")],
        &[&format!("UPDATE memberships SET user_id = 'eve' WHERE {condition} AND user_id = 'ada'")],
        &[&format!("UPDATE organizations SET owner_id = 'stranger' WHERE id = '{acme}'")],
        // A plain member must not own.
        &[&format!("UPDATE organizations SET owner_id = 'alan' WHERE id = '{acme}'")],
        // Transferred, with the new owner removed in the same transaction.
        &[
            &format!("UPDATE organizations SET owner_id = 'grace' WHERE id = '{acme}'"),
            &format!("DELETE FROM memberships WHERE {condition} AND user_id = 'grace'"),
        ],
        // Removed, and added again with a lower role.
        &[&remove, &add_again],
    ];
    for path in paths {
        let (when, refused) = attempt(&server.database, path).await.expect_err(path[0]);
        let expected = ("23503", Some("organizations_owner_is_admin"));
        assert_eq!((when, refused.code.as_str(), refused.constraint.as_deref()), ("commit", expected.0, expected.1));
    }
    // An organization cannot be created without its owner either.
    let create = format!(
        "INSERT INTO organizations SELECT organization_bucket_of(new.id), new.id, 'other', name, kind, attributes, state,
             false, 'stranger', 'admin', 1, 1, now(), now() FROM organizations, gen_random_uuid() AS new (id)
         WHERE organizations.id = '{acme}'"
    );
    let (when, refused) = attempt(&server.database, &[&create]).await.unwrap_err();
    assert_eq!((when, refused.constraint.as_deref()), ("commit", Some("organizations_owner_is_admin")));
    server.database.assert_invariants().await;
    // The foreign key allows the valid changes: a transfer followed by a removal, and a purge.
    let transfer = format!("UPDATE organizations SET owner_id = 'grace' WHERE id = '{acme}'");
    attempt(&server.database, &[&transfer, &remove]).await.unwrap();
    attempt(&server.database, &[&format!("DELETE FROM organizations WHERE id = '{acme}'")]).await.unwrap();
    assert_eq!(server.database.count("SELECT count(*) FROM memberships").await, 0);
}
