//! The functions of the store for the access model, and the change log of bucket 288.

use super::{DANGLING, acme, beta, cause, connect, database, lock_acme, name, of_all_kinds, run, until_waiting};
use crate::harness::Database;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use roster::domain::change::{ChangeDetail, LogEntry};
use roster::domain::ids::MODEL_BUCKET;
use roster::domain::{Attributes, BucketPosition, Kind, Role, RoleName, UserId};
use roster::store::access_model::{self, DeploymentRoleRow, ModelRevision};
use roster::store::export::ExportSnapshot;
use roster::store::log::history::{self, LogEvidence};
use roster::store::log::snapshot::BucketSnapshot;
use roster::store::log::tail::{self, LogChange, LogPosition};
use roster::store::log::{self, AppendedRows, replay};
use roster::store::usage::{self, CountLimits, PermissionUsage, RoleUsage};
use roster::store::{StoreError, memberships};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use time::OffsetDateTime;

/// Applies a model in a separate transaction, as a request does.
async fn apply(database: &Database, model: &Value, roles: &[DeploymentRoleRow]) -> LogPosition {
    let mut connection = connect(database).await;
    let mut transaction = connection.begin().await.unwrap();
    access_model::lock(&mut transaction).await.unwrap();
    let at = access_model::apply(&mut transaction, model, roles, &cause()).await.unwrap();
    access_model::delete_roles(&mut transaction, roles).await.unwrap();
    access_model::write_to_heads(&mut transaction, at).await.unwrap();
    transaction.commit().await.unwrap();
    at
}

/// A change of the role of `joan` in Acme.
fn entry(role: Option<Role>) -> LogEntry {
    let detail = ChangeDetail::Membership { user: UserId::parse("joan").unwrap(), role };
    LogEntry { organization: acme(), kind: Kind::parse("organization").unwrap(), revision: 2, detail }
}

/// Assigns a role to `joan` in Acme as a request does, up to the change log.
async fn assign(connection: &mut PgConnection, role: &str) -> Result<AppendedRows, StoreError> {
    let organization = lock_acme(connection).await;
    let user = UserId::parse("joan").unwrap();
    let role = Role { name: name(role), permissions: None };
    memberships::insert(connection, &organization, &user, &role, &Attributes::default()).await?;
    log::append(connection, acme().bucket(), &[entry(Some(role))]).await
}

fn usage(members: i64, organizations: i64) -> RoleUsage {
    RoleUsage { members, organizations, is_estimate: false }
}

#[tokio::test]
async fn an_applied_model_is_the_present_one_a_revision_and_the_table_of_roles() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    let first = access_model::current(&mut connection).await.unwrap();
    assert_eq!((first.revision, first.write_time), (0, OffsetDateTime::UNIX_EPOCH));
    assert_eq!((first.model, first.is_enabled), (json!({}), true));
    let clerk = of_all_kinds("clerk");
    let kind = Some(Kind::parse("team").unwrap());
    let auditor = DeploymentRoleRow { kind, replaced_by: Some(RoleName::ADMIN), ..of_all_kinds("auditor") };
    let steps = [vec![clerk.clone()], vec![auditor.clone(), clerk.clone()], vec![of_all_kinds("auditor")], vec![]];
    let mut last = first.write_time;
    for (roles, revision) in steps.iter().zip(1..) {
        let model = json!({ "revision": revision });
        let at = apply(&database, &model, roles).await;
        assert!(at.position == revision && at.write_time > last, "{at:?}");
        last = at.write_time;
        let stored = access_model::current(&mut connection).await.unwrap();
        assert_eq!((stored.at(), &stored.model), (at, &model));
        assert_eq!(&access_model::deployment_roles(&mut connection).await.unwrap(), roles);
        let expected = ModelRevision {
            revision,
            model,
            actor_kind: "operator".to_owned(),
            actor_id: "ops".to_owned(),
            actor_issuer: None,
            actor_via: None,
            reason: Some("a test".to_owned()),
            request_id: None,
            create_time: at.write_time,
        };
        assert_eq!(access_model::revision(&mut connection, revision).await.unwrap(), Some(expected));
        let heads = "SELECT count(*) FROM log_heads
            WHERE (model_revision, model_time) = (SELECT revision, write_time FROM access_model)";
        assert_eq!(database.count(heads).await, 256);
    }
    for unknown in [-1, 0, 5, i64::MAX] {
        assert_eq!(access_model::revision(&mut connection, unknown).await.unwrap(), None);
    }
    let page = async |connection: &mut PgConnection, before, limit| {
        let page = access_model::history(connection, before, limit).await.unwrap();
        assert!(!page.is_cut);
        page.rows.into_iter().map(|row| row.revision).collect::<Vec<_>>()
    };
    assert_eq!(page(&mut connection, None, 3).await, [4, 3, 2]);
    assert_eq!(page(&mut connection, Some(2), 3).await, [1]);
    assert_eq!(page(&mut connection, Some(1), 3).await, [0; 0]);
    // The bytes of the models end a page: each of these has 3 MB.
    let large = json!({ "text": "x".repeat(3_000_000) });
    for _ in 0..3 {
        apply(&database, &large, &[]).await;
    }
    let cut = access_model::history(&mut connection, None, 10).await.unwrap();
    assert_eq!((cut.rows.len(), cut.is_cut), (2, true));
}

#[tokio::test]
async fn a_model_is_applied_after_the_writes_before_it_and_sees_them() {
    let database = database().await;
    let mut writer = connect(&database).await;
    let mut write = writer.begin().await.unwrap();
    assert_eq!(assign(&mut write, "clerk").await.unwrap().model, BucketPosition::start(MODEL_BUCKET));
    let url = database.url.clone();
    let applying = tokio::spawn(async move {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        access_model::lock(&mut transaction).await.unwrap();
        access_model::apply(&mut transaction, &json!({}), &[], &cause()).await.unwrap();
        let roles = [name("auditor"), name("clerk")];
        let used = usage::deployment_roles(&mut transaction, &roles, 10).await.unwrap();
        let team = Kind::parse("team").unwrap();
        let outside = usage::deployment_role_outside(&mut transaction, &roles[1], &team, 10).await.unwrap();
        transaction.rollback().await.unwrap();
        (used, outside)
    });
    until_waiting(&database, 1).await;
    write.commit().await.unwrap();
    assert_eq!(applying.await.unwrap(), (vec![usage(1, 1), usage(1, 1)], usage(1, 1)));
    assert_eq!(access_model::current(&mut writer).await.unwrap().revision, 0);
}

#[tokio::test]
async fn a_model_waits_for_a_write_that_changes_no_role_it_takes_away() {
    let database = database().await;
    let mut writer = connect(&database).await;
    let mut write = writer.begin().await.unwrap();
    let appended = log::append(&mut write, 255, &[LogEntry { ..entry(None) }]).await;
    assert_eq!(appended.unwrap().model, BucketPosition::start(MODEL_BUCKET));
    let applied = tokio::spawn({
        let database = database.clone();
        async move { apply(&database, &json!({}), &[of_all_kinds("auditor"), of_all_kinds("clerk")]).await }
    });
    until_waiting(&database, 1).await;
    write.commit().await.unwrap();
    assert_eq!(applied.await.unwrap().position, 1);
}

#[tokio::test]
async fn a_write_after_a_model_sees_its_revision_or_fails_for_the_want_of_the_role() {
    for (role, kind, expected) in [
        // The role is gone.
        ("clerk", None, Err(("23503".to_owned(), "memberships_deployment_role".to_owned()))),
        // The role is taken from the kind of Acme.
        ("auditor", Some("team"), Ok(1)),
        // The role is as before, and the model is another one.
        ("member", None, Ok(1)),
    ] {
        let database = database().await;
        run(&database, "DELETE FROM memberships WHERE deployment_role IS NOT NULL").await;
        let mut applier = connect(&database).await;
        let mut transaction = applier.begin().await.unwrap();
        access_model::lock(&mut transaction).await.unwrap();
        let kind = kind.map(|kind| Kind::parse(kind).unwrap());
        let roles = [DeploymentRoleRow { kind, ..of_all_kinds("auditor") }];
        let at = access_model::apply(&mut transaction, &json!({}), &roles, &cause()).await.unwrap();
        access_model::write_to_heads(&mut transaction, at).await.unwrap();
        let url = database.url.clone();
        let writing = tokio::spawn(async move {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            let mut transaction = connection.begin().await.unwrap();
            let appended = assign(&mut transaction, role).await;
            transaction.rollback().await.unwrap();
            appended.map(|appended| appended.model.position)
        });
        until_waiting(&database, 1).await;
        access_model::delete_roles(&mut transaction, &roles).await.unwrap();
        transaction.commit().await.unwrap();
        let outcome = writing.await.unwrap().map_err(|error| match error {
            // The foreign key: the write is repeated with the roles of the new model.
            StoreError::ModelChanged => ("23503".to_owned(), "memberships_deployment_role".to_owned()),
            other => panic!("{other}"),
        });
        assert_eq!(outcome, expected, "{role}");
    }
}

#[tokio::test]
async fn two_models_are_applied_one_after_the_other() {
    let database = database().await;
    let mut first = connect(&database).await;
    let mut transaction = first.begin().await.unwrap();
    assert_eq!(access_model::lock(&mut transaction).await.unwrap().revision, 0);
    let url = database.url.clone();
    let second = tokio::spawn(async move {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        let revision = access_model::lock(&mut transaction).await.unwrap().revision;
        transaction.rollback().await.unwrap();
        revision
    });
    until_waiting(&database, 1).await;
    let roles = [of_all_kinds("auditor"), of_all_kinds("clerk")];
    access_model::apply(&mut transaction, &json!({}), &roles, &cause()).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(second.await.unwrap(), 1);
}

/// One write of a request: adds a member to each of both organizations with the role, by the roles that it has read. False
/// if the write was rolled back, because the role is gone or the model is another one.
async fn add_two(database: &Database, user: &str) -> bool {
    let mut connection = connect(database).await;
    let mut transaction = connection.begin().await.unwrap();
    let model = access_model::current(&mut transaction).await.unwrap();
    let roles = access_model::deployment_roles(&mut transaction).await.unwrap();
    let role = if roles.contains(&of_all_kinds("clerk")) { name("clerk") } else { RoleName::MEMBER };
    let role = Role { name: role, permissions: None };
    for organization in [acme(), beta()] {
        let organization =
            roster::store::organizations::lock(&mut transaction, organization).await.unwrap().unwrap().organization;
        let user = UserId::parse(user).unwrap();
        let added = memberships::insert(&mut transaction, &organization, &user, &role, &Attributes::default()).await;
        match added {
            Ok(added) => assert!(added.is_some()),
            // The foreign key.
            Err(StoreError::ModelChanged) => return false,
            Err(other) => panic!("{other}"),
        }
    }
    for bucket in [1, 2] {
        let appended = log::append(&mut transaction, bucket, &[entry(Some(role.clone()))]).await.unwrap();
        if appended.model != model.at().in_bucket(MODEL_BUCKET) {
            return false;
        }
    }
    transaction.commit().await.unwrap();
    true
}

/// Adds the role `clerk` to the model or takes it away; if members hold it, they lose their memberships first.
async fn toggle_clerk(database: &Database) {
    let mut connection = connect(database).await;
    loop {
        let mut transaction = connection.begin().await.unwrap();
        let revision = access_model::lock(&mut transaction).await.unwrap().revision;
        let is_there = access_model::deployment_roles(&mut transaction).await.unwrap().contains(&of_all_kinds("clerk"));
        let roles = if is_there { vec![] } else { vec![of_all_kinds("clerk")] };
        let at = access_model::apply(&mut transaction, &json!({}), &roles, &cause()).await.unwrap();
        assert_eq!(at.position, revision + 1);
        if usage::deployment_roles(&mut transaction, &[name("clerk")], 0).await.unwrap()[0].members == 0 || !is_there {
            access_model::delete_roles(&mut transaction, &roles).await.unwrap();
            access_model::write_to_heads(&mut transaction, at).await.unwrap();
            return transaction.commit().await.unwrap();
        }
        transaction.rollback().await.unwrap();
        run(database, "DELETE FROM memberships WHERE deployment_role = 'clerk'").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_and_writes_beside_each_other_neither_deadlock_nor_miss_each_other() {
    let database = database().await;
    run(&database, "DELETE FROM memberships WHERE deployment_role IS NOT NULL").await;
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = |number: usize| {
        let (database, is_over) = (database.clone(), is_over.clone());
        async move {
            let mut outcomes = [0, 0];
            while !is_over.load(Ordering::Relaxed) {
                let user = format!("user-{number}-{}", outcomes[0] + outcomes[1]);
                outcomes[usize::from(add_two(&database, &user).await)] += 1;
            }
            outcomes
        }
    };
    let writers: Vec<_> = (0..4).map(|number| tokio::spawn(writer(number))).collect();
    for _ in 0..20 {
        toggle_clerk(&database).await;
    }
    is_over.store(true, Ordering::Relaxed);
    let outcomes = join_all(writers).await.into_iter().map(Result::unwrap);
    let [_, committed] = outcomes.fold([0, 0], |sum, outcomes| [sum[0] + outcomes[0], sum[1] + outcomes[1]]);
    assert!(committed > 0);
    assert_eq!(database.count(DANGLING).await, 0);
    assert_eq!(access_model::current(&mut connect(&database).await).await.unwrap().revision, 20);
    // A deadlock ends one of its transactions with an error, and each error above fails the test.
}

#[tokio::test]
async fn the_log_of_the_model_is_read_as_every_other_bucket() {
    let database = database().await;
    let mut connection = connect(&database).await;
    let before = tail::heads(&mut connection).await.unwrap();
    assert_eq!((before.len(), before[288].position), (289, 0));
    assert_eq!(tail::poll(&mut connection, &before, 10).await.unwrap().moved.len(), 0);
    let roles = [of_all_kinds("auditor"), of_all_kinds("clerk")];
    let mut applied = Vec::new();
    for revision in 1..=6 {
        applied.push(apply(&database, &json!({ "revision": revision }), &roles).await);
    }
    let heads = tail::heads(&mut connection).await.unwrap();
    assert_eq!(heads[288], applied[5]);

    // The first poll has as many rows as a poll may have of the model; a later one continues at the known position.
    let revisions = |rows: &[tail::LogRow]| -> Vec<(i64, Value)> {
        let model = |row: &tail::LogRow| match &row.change {
            LogChange::Model { revision, model } => {
                assert_eq!(
                    (row.at, row.commit_position),
                    (applied[usize::try_from(*revision).unwrap() - 1], *revision)
                );
                (*revision, model.clone())
            }
            other => panic!("{other:?}"),
        };
        rows.iter().map(model).collect()
    };
    let expected = |from: i64, to: i64| (from..=to).map(|revision| (revision, json!({ "revision": revision })));
    for (known, limit, range) in [(0, 10, 1..=4), (4, 10, 4..=6), (0, 2, 1..=2)] {
        let mut positions = before.clone();
        if known > 0 {
            positions[288] = applied[known - 1];
        }
        let poll = tail::poll(&mut connection, &positions, limit).await.unwrap();
        assert_eq!(poll.moved.len(), 1);
        assert_eq!((poll.moved[0].bucket, poll.moved[0].head), (MODEL_BUCKET, applied[5]));
        let expected: Vec<_> = expected(*range.start(), *range.end()).collect();
        assert_eq!(revisions(&poll.moved[0].rows), expected);
        let page = replay::from(&mut connection, MODEL_BUCKET, i64::try_from(known).unwrap(), limit).await.unwrap();
        assert_eq!((page.datastore, revisions(&page.rows)), (poll.datastore, expected));
    }
    // A program without the bucket gets no row of it.
    assert_eq!(tail::poll(&mut connection, &before[..288], 10).await.unwrap().moved.len(), 0);

    let at = |position: i64| LogPosition { position, write_time: OffsetDateTime::UNIX_EPOCH }.in_bucket(MODEL_BUCKET);
    let positions: Vec<BucketPosition> = (0..=7).map(at).chain([BucketPosition { bucket: 1, ..at(1) }]).collect();
    let history = history::read(&mut connection, &positions).await.unwrap();
    for (position, applied) in (1..).zip(&applied) {
        assert_eq!(history.at(MODEL_BUCKET, position), Some(LogEvidence::Row(applied.mark())));
    }
    assert!(matches!(history.at(MODEL_BUCKET, 0), Some(LogEvidence::Row(_))));
    assert_eq!(history.at(MODEL_BUCKET, 7), Some(LogEvidence::Beyond));
    assert_eq!((history.at(1, 1), history.at(1, 7)), (Some(LogEvidence::Beyond), None));
}

#[tokio::test]
async fn the_roles_of_organizations_are_in_the_log_in_snapshots_and_in_exports() {
    let database = database().await;
    let mut connection = connect(&database).await;
    let before = tail::heads(&mut connection).await.unwrap();
    let role = |role: &str, permissions: Option<&[&str]>| {
        let permissions = permissions.map(|words| words.iter().map(|word| (*word).to_owned()).collect());
        LogEntry { detail: ChangeDetail::Role { name: name(role), permissions, replaced_by: None }, ..entry(None) }
    };
    let replaced = |role: &str, by: &str| {
        let (permissions, replaced_by) = (Some(Vec::new()), Some(name(by)));
        LogEntry { detail: ChangeDetail::Role { name: name(role), permissions, replaced_by }, ..entry(None) }
    };
    let entries = [
        role("org:editor", Some(&["billing.read", "billing.pay"])),
        role("org:empty", Some(&[])),
        replaced("org:empty", "member"),
        role("org:editor", None),
        entry(Some(Role { name: name("org:editor"), permissions: None })),
    ];
    let appended = log::append(&mut connection, 1, &entries).await.unwrap();
    let poll = tail::poll(&mut connection, &before, 10).await.unwrap();
    let changes = |rows: Vec<tail::LogRow>| rows.into_iter().map(|row| row.change).collect::<Vec<_>>();
    let expected: Vec<_> = entries.iter().cloned().map(LogChange::Organization).collect();
    assert_eq!(poll.moved[0].head.in_bucket(1), appended.at);
    assert_eq!(changes(poll.moved[0].rows.clone()), expected);
    assert_eq!(changes(replay::from(&mut connection, 1, 0, 10).await.unwrap().rows), expected);

    run(&database, "UPDATE organization_roles SET permissions = '{}', replaced_by = 'clerk' WHERE name = 'org:unused'")
        .await;
    let (mut snapshot, _) = BucketSnapshot::begin(&mut connection, 0, 2).await.unwrap();
    let mut loaded = String::new();
    snapshot
        .roles(|organization, role, permissions, replaced_by| {
            let permissions: Vec<_> = permissions.collect();
            let replaced_by = replaced_by.map_or_else(String::new, |by| format!(" {by}"));
            writeln!(loaded, "{} {role} {permissions:?}{replaced_by}", organization.bucket()).unwrap();
        })
        .await
        .unwrap();
    snapshot.end().await.unwrap();
    let mut loaded: Vec<&str> = loaded.lines().collect();
    loaded.sort_unstable();
    let editor = "1 org:editor [\"billing.read\"]";
    assert_eq!(loaded, [editor, "1 org:unused [] clerk", "2 org:lead [\"billing.read\"]"]);

    let mut export = ExportSnapshot::begin(&mut connection).await.unwrap();
    assert_eq!(export.access_model().await.unwrap().revision, 0);
    let team = Kind::parse("team").unwrap();
    for (bucket, kind, expected) in [
        (1, None, vec![(acme(), "org:editor", None), (acme(), "org:unused", Some(name("clerk")))]),
        (1, Some(&team), vec![]),
        (2, Some(&team), vec![(beta(), "org:lead", None)]),
        (3, None, vec![]),
    ] {
        let roles: Vec<_> = export.organization_roles(bucket, kind).try_collect().await.unwrap();
        let roles: Vec<_> =
            roles.iter().map(|role| (role.organization, role.name.as_str(), role.replaced_by.clone())).collect();
        assert_eq!(roles, expected);
    }
    export.end().await.unwrap();
}

#[tokio::test]
async fn uses_are_counted_up_to_a_bound_and_estimated_beyond() {
    let database = database().await;
    let mut connection = connect(&database).await;
    let roles = [name("clerk"), name("ghost"), name("auditor")];
    let expected = [usage(0, 0), usage(0, 0), usage(1, 1)];
    assert_eq!(usage::deployment_roles(&mut connection, &roles, 1).await.unwrap(), expected);
    run(
        &database,
        "INSERT INTO memberships (bucket, organization_id, user_id, role, deployment_role, attributes, revision, create_time,
                                  update_time)
         SELECT bucket, id, 'clerk-' || n, 'clerk', 'clerk', '{}', 1, now(), now()
         FROM organizations, generate_series(1, 500) n WHERE bucket = 1 OR n % 10 = 0;
         INSERT INTO organization_roles (bucket, organization_id, name, title, description, permissions, revision,
                                         create_time, update_time)
         SELECT 1, id, 'org:role-' || n, '', '', '{billing.pay,billing.read}', 1, now(), now()
         FROM organizations, generate_series(1, 200) n WHERE bucket = 1",
    )
    .await;
    let exact = usage::deployment_roles(&mut connection, &roles, 550).await.unwrap();
    assert_eq!(exact, [usage(550, 2), usage(0, 0), usage(1, 1)]);
    let more = usage::deployment_roles(&mut connection, &roles[..1], 549).await.unwrap();
    assert_eq!(more, [RoleUsage { is_estimate: true, ..usage(550, 2) }]);
    for (kind, most, expected) in [
        ("team", 1, usage(500, 1)),
        ("organization", 1, usage(50, 1)),
        ("other", 2, usage(550, 2)),
        ("other", 1, RoleUsage { is_estimate: true, ..usage(550, 2) }),
    ] {
        let kind = Kind::parse(kind).unwrap();
        let outside = usage::deployment_role_outside(&mut connection, &roles[0], &kind, most).await.unwrap();
        assert_eq!(outside, expected);
    }

    // A small table is read in full. Eve has a role of her organization in Acme, and bob is an auditor there.
    let small = CountLimits { rows_of_each: 0, rows: 0, table_bytes: i64::MAX };
    let every = [roles.as_slice(), &[RoleName::ADMIN, RoleName::MEMBER]].concat();
    let expected = [usage(550, 2), usage(0, 0), usage(1, 1), usage(2, 2), usage(2, 1)];
    assert_eq!(usage::roles(&mut connection, &every, &small).await.unwrap(), expected);
    let words = ["billing.pay", "billing.read", "billing.fly"].map(str::to_owned);
    let permission = |roles, organizations| PermissionUsage { roles, organizations, is_estimate: false };
    let expected = [permission(200, 1), permission(203, 2), permission(0, 0)];
    assert_eq!(usage::permissions(&mut connection, &words, &small).await.unwrap(), expected);
    // Nothing of a large table is read, so the indexes count: 200 of each.
    let large = CountLimits { rows_of_each: 200, rows: 1_000, table_bytes: 0 };
    let counted = usage::permissions(&mut connection, &words, &large).await.unwrap();
    assert_eq!((counted[0], counted[2]), (permission(200, 1), permission(0, 0)));
    assert_eq!((counted[1].roles, counted[1].is_estimate), (201, true));
    let counted = usage::roles(&mut connection, &every, &large).await.unwrap();
    assert_eq!(counted[1..3], [usage(0, 0), usage(1, 1)]);
    for (index, members) in [(0, 201), (3, 0)] {
        assert_eq!((counted[index].members, counted[index].is_estimate), (members, true));
    }
    let organizations = async |connection: &mut PgConnection, after, most| {
        usage::organizations_with(connection, &roles[0], after, most).await.unwrap()
    };
    assert_eq!(organizations(&mut connection, None, 5).await, [acme(), beta()]);
    assert_eq!(organizations(&mut connection, None, 1).await, [acme()]);
    assert_eq!(organizations(&mut connection, Some(acme()), 5).await, [beta()]);
    assert_eq!(organizations(&mut connection, Some(beta()), 5).await, []);
}
