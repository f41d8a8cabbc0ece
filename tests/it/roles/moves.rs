//! Moves of the members of deleted roles against other writes, and the size of the writes.

use super::define::{create, fixture, get, texts, update, violations};
use super::replacement::{MANY, add_many, decide, holders, invalid_role, may, move_all, replace, role_of, with_role};
use super::{apply, run, until_waiting};
use crate::harness::{Server, assert_refused, set_role};
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// Starts two calls, each when the one before waits for the organization's row, and then releases the row.
async fn in_order(
    server: &Server,
    organization: &str,
    first: impl Future<Output = Result<(), Status>> + Send + 'static,
    second: impl Future<Output = Result<(), Status>> + Send + 'static,
) -> [Result<(), Status>; 2] {
    let mut holder = PgConnection::connect(&server.database.url).await.unwrap();
    let mut transaction = holder.begin().await.unwrap();
    let lock = format!("SELECT FROM organizations WHERE id = '{organization}' FOR NO KEY UPDATE");
    sqlx::query(AssertSqlSafe(lock)).execute(&mut *transaction).await.unwrap();
    let first = tokio::spawn(first);
    until_waiting(&server.database, 1).await;
    let second = tokio::spawn(second);
    until_waiting(&server.database, 2).await;
    transaction.rollback().await.unwrap();
    [first.await.unwrap(), second.await.unwrap()]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_decision_against_an_assignment_a_second_one_and_a_purge() {
    let (server, acme) = fixture().await;
    let (mut ada, operator) = (server.user("ada"), server.operator());
    let codes = |[first, second]: [Result<(), Status>; 2]| {
        [first, second].map(|outcome| outcome.err().map(|status| crate::harness::reason(&status)).unwrap_or_default())
    };
    let delete = |role: &str| {
        let (mut roles, request) = (ada.roles.clone(), replace(&acme, role, "member"));
        async move { roles.delete_role(request).await.map(drop) }
    };
    let assign = |role: &str| {
        let (mut organizations, request) = (ada.organizations.clone(), set_role(&acme, "alan", role));
        async move { organizations.update_member(request).await.map(drop) }
    };
    let mut roles = ada.roles.clone();
    for role in ["org:first", "org:second"] {
        roles.create_role(create(&acme, role, &[])).await.unwrap();
        add_many(&server.database, &acme, role, MANY).await;
    }
    let outcome = in_order(&server, &acme, delete("org:first"), assign("org:first")).await;
    assert_eq!(codes(outcome), ["", "INVALID_REQUEST"]);
    let outcome = in_order(&server, &acme, assign("org:second"), delete("org:second")).await;
    assert_eq!(codes(outcome), ["", ""]);
    assert_eq!(role_of(&mut server.user("ada"), &acme, "alan").await, "member");
    server.database.assert_invariants().await;

    // A part of a move against a purge, in both orders.
    let tidy = || {
        let roster = server.roster.clone();
        async move { roster.tidy().await.map(drop).map_err(|error| Status::unknown(error.to_string())) }
    };
    let purge = |organization: &str| {
        let mut organizations = operator.organizations.clone();
        let organization = organization.to_owned();
        let request = pb::DeleteOrganizationRequest { organization, purge: true, ..Default::default() };
        let mut patient = tonic::Request::new(request);
        patient.set_timeout(Duration::from_secs(30));
        async move { organizations.delete_organization(patient).await.map(drop) }
    };
    let outcome = in_order(&server, &acme, purge(&acme), tidy()).await;
    assert!(outcome.iter().all(Result::is_ok), "{outcome:?}");
    let beta = ada.create("Beta").await;
    ada.roles.create_role(create(&beta, "org:third", &[])).await.unwrap();
    let members =
        "INSERT INTO memberships (bucket, organization_id, user_id, role, organization_role, attributes, revision,
                                            create_time, update_time)
                   SELECT bucket, organization_id, name || n, name, name, '{}', 1, now(), now()
                   FROM organization_roles, generate_series(1, 10001) n WHERE name = 'org:third'";
    run(&server.database, members).await;
    decide(&mut ada, &beta, "org:third", "member").await;
    let outcome = in_order(&server, &beta, tidy(), purge(&beta)).await;
    assert!(outcome.iter().all(Result::is_ok), "{outcome:?}");
    assert_eq!(server.database.count("SELECT count(*) FROM organization_roles").await, 0);
    server.database.assert_invariants().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_decisions_in_the_same_moment_are_one() {
    let (server, acme) = fixture().await;
    let mut ada = server.user("ada");
    ada.roles.create_role(create(&acme, "org:auditor", &[])).await.unwrap();
    add_many(&server.database, &acme, "org:auditor", MANY).await;
    let delete = |with: &str| {
        let (mut roles, request) = (ada.roles.clone(), replace(&acme, "org:auditor", with));
        async move { roles.delete_role(request).await.map(drop) }
    };
    let [first, second] = in_order(&server, &acme, delete("member"), delete("accountant")).await;
    first.unwrap();
    assert_refused(second, Code::NotFound, "ROLE_NOT_FOUND");
    assert_eq!(get(&mut ada, &acme, "org:auditor").await.unwrap().replaced_by, "member");
    server.database.assert_invariants().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_killed_is_continued() {
    let (server, acme) = fixture().await;
    let mut ada = server.user("ada");
    ada.roles.create_role(create(&acme, "org:auditor", &["billing.read"])).await.unwrap();
    add_many(&server.database, &acme, "org:auditor", MANY).await;
    let token = decide(&mut ada, &acme, "org:auditor", "accountant").await;
    // The third part stops in the middle of its statement, and its session ends there.
    let mut holder = PgConnection::connect(&server.database.url).await.unwrap();
    let mut transaction = holder.begin().await.unwrap();
    sqlx::query("SELECT FROM memberships WHERE user_id = 'auditor-3' FOR UPDATE")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let round = tokio::spawn({
        let roster = server.roster.clone();
        async move { roster.tidy().await }
    });
    until_waiting(&server.database, 1).await;
    let part = server.database.count("SELECT count(*) FROM memberships WHERE role = 'accountant'").await;
    assert!(part > 0 && part % 1_000 == 0, "{part}");
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock'";
    run(&server.database, kill).await;
    server.database.assert_invariants().await;
    let mut backend = server.service(&[Scope::Check, Scope::Manage]);
    for user in ["auditor-1", "auditor-3", "auditor-9999"] {
        assert!(may(&mut backend, &acme, user, "billing.read", &token).await, "{user}");
    }
    transaction.rollback().await.unwrap();
    drop(round.await.unwrap());
    move_all(&server).await;
    assert_eq!(server.database.count("SELECT count(*) FROM memberships WHERE role = 'org:auditor'").await, 0);
    let moves = "SELECT count(*) - 10001 FROM events WHERE type = 'member.updated' AND actor_kind = 'system'";
    assert_eq!(server.database.count(moves).await, 0);
    server.database.assert_invariants().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_role_with_a_hundred_thousand_members_is_one_small_write() {
    let (server, acme) = fixture().await;
    let mut ada = server.user("ada");
    for role in ["org:one", "org:many"] {
        ada.roles.create_role(create(&acme, role, &["billing.read"])).await.unwrap();
    }
    ada.add(&acme, "joan", "org:one").await;
    let members =
        "INSERT INTO memberships (bucket, organization_id, user_id, role, organization_role, attributes, revision,
                                            create_time, update_time)
                   SELECT bucket, organization_id, 'user-' || n, name, name, '{}', 1, now(), now()
                   FROM organization_roles, generate_series(1, 100000) n WHERE name = 'org:many'";
    run(&server.database, members).await;
    // Its replica loads all of them.
    let server = Server::over(server.database.clone(), ServerSettings::default()).await;
    let (mut ada, mut backend) = (server.user("ada"), server.service(&[Scope::Check, Scope::Manage]));
    let rows = "SELECT sum(position)::bigint FROM log_heads";
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..20 {
        let word = ["billing.pay", "stock.read"][round % 2];
        for (role, times) in ["org:one", "org:many"].into_iter().zip(&mut times) {
            let before = server.database.count(rows).await;
            let start = Instant::now();
            let updated = ada.roles.update_role(update(&acme, role, &[word])).await.unwrap().into_inner();
            times.push(start.elapsed());
            assert_eq!(server.database.count(rows).await - before, 1);
            let user = if role == "org:one" { "joan".to_owned() } else { format!("user-{}", 1 + round * 4_999) };
            assert!(may(&mut backend, &acme, &user, word, &updated.consistency_token).await);
            let other = ["stock.read", "billing.pay"][round % 2];
            assert!(!may(&mut backend, &acme, &user, other, &updated.consistency_token).await);
        }
    }
    let [one, many] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    // A write of 100 000 rows takes seconds.
    assert!(many < 3 * one + Duration::from_millis(20), "{many:?} for many members, {one:?} for one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_many_members_that_the_model_removes_is_replaced_at_once() {
    let (server, acme) = fixture().await;
    let (mut ada, mut operator) = (server.user("ada"), server.operator());
    let mut backend = server.service(&[Scope::Check, Scope::Manage]);
    let beta = ada.create("Beta").await;
    ada.add(&beta, "joan", "accountant").await;
    add_many(&server.database, &acme, "accountant", MANY).await;
    let words = json!([{ "name": "billing.read" }, { "name": "stock.read" }]);
    let with = |roles: serde_json::Value, new: &str| pb::ApplyAccessModelRequest {
        replace_roles: [("accountant".to_owned(), new.to_owned())].into(),
        ..apply(json!({ "permissions": words, "roles": roles }))
    };
    let clerk = json!({ "name": "clerk", "permissions": ["stock.read"] });
    let before = server.database.dump().await;
    // The replacement must exist for the kind of every organization with such members.
    let seller = json!({ "name": "seller", "kind": "vendor", "permissions": [] });
    let refused = operator.models.apply_access_model(with(json!([clerk, seller]), "seller")).await;
    assert_eq!(violations(&refused.unwrap_err()), ["replace_roles[accountant]"]);
    let dry = pb::ApplyAccessModelRequest { validate_only: true, ..with(json!([clerk]), "clerk") };
    operator.models.apply_access_model(dry).await.unwrap();
    assert!(server.database.dump().await == before);
    let applied = operator.models.apply_access_model(with(json!([clerk]), "clerk")).await.unwrap().into_inner();
    assert_eq!((applied.moved_members, &applied.roles_moving_later), (0, &texts(&["accountant"])));
    assert_eq!(server.database.count("SELECT count(*) FROM memberships WHERE role = 'clerk'").await, 0);

    let other = Server::over(server.database.clone(), ServerSettings::default()).await;
    for server in [&server, &other] {
        let mut backend = server.service(&[Scope::Check, Scope::Manage]);
        for (organization, user) in [(&acme, "accountant-7"), (&beta, "joan")] {
            assert!(may(&mut backend, organization, user, "stock.read", &applied.consistency_token).await);
            assert!(!may(&mut backend, organization, user, "billing.read", &applied.consistency_token).await);
            assert_eq!(role_of(&mut server.user("ada"), organization, user).await, "clerk");
        }
    }
    assert_eq!(with_role(&mut ada, &beta, "clerk").await, [("joan".to_owned(), "clerk".to_owned())]);
    assert_eq!(with_role(&mut ada, &beta, "accountant").await, []);
    assert_eq!(holders(&mut backend, &beta, "stock.read").await, ["ada", "joan"]);
    assert_refused(get(&mut ada, &acme, "accountant").await, Code::NotFound, "ROLE_NOT_FOUND");
    invalid_role(ada.organizations.update_member(set_role(&acme, "alan", "accountant")).await, "role");

    // No model defines the role, or removes the replacement, until the members have moved. It can be changed.
    let accountant = json!({ "name": "accountant", "permissions": [] });
    let again = apply(json!({ "permissions": words, "roles": [clerk, accountant] }));
    let status = operator.models.apply_access_model(again.clone()).await.unwrap_err();
    assert_eq!(violations(&status), ["model.roles"]);
    for replace_roles in [vec![], vec![("clerk".to_owned(), "member".to_owned())]] {
        let replace_roles = replace_roles.into_iter().collect();
        let request = pb::ApplyAccessModelRequest { replace_roles, ..apply(json!({ "permissions": words })) };
        let refused = operator.models.apply_access_model(request).await;
        assert_refused(refused, Code::FailedPrecondition, "ROLE_IN_USE");
    }
    let changed = json!([{ "name": "clerk", "permissions": ["billing.read"] }]);
    let changed = apply(json!({ "permissions": words, "roles": changed }));
    let token = operator.models.apply_access_model(changed).await.unwrap().into_inner().consistency_token;
    assert!(may(&mut backend, &acme, "accountant-7", "billing.read", &token).await);
    assert!(!may(&mut backend, &acme, "accountant-7", "stock.read", &token).await);

    let open = "SELECT count(*) FROM deployment_roles WHERE replaced_by IS NOT NULL";
    let mut moved = 0;
    while server.database.count(open).await > 0 {
        let rounds = futures_util::future::join_all([&server, &other].map(|server| server.roster.tidy())).await;
        moved += rounds.into_iter().map(|round| round.unwrap().moved).sum::<u64>();
    }
    assert_eq!(moved, 10_002);
    assert_eq!(server.database.count("SELECT count(*) FROM memberships WHERE role = 'accountant'").await, 0);
    let token = operator.models.apply_access_model(again).await.unwrap().into_inner().consistency_token;
    assert!(may(&mut backend, &acme, "accountant-7", "stock.read", &token).await);
    server.database.assert_invariants().await;
}
