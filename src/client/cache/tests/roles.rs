//! Access models and roles of organizations, with messages written by hand.

use super::{ACME, OTHER, change, created, empty, member, organization, purged};
use crate::client::cache::apply::{ApplyError, ExportLoader, RecentChanges};
use crate::client::cache::model::published;
use crate::client::cache::replica::ClientReplica;
use crate::client::{Check, CheckReason, Question};
use crate::domain::{Kind, Permission, RoleName};
use crate::pb::{self, memberships_change::Change as ChangeMessage};

use CheckReason::{Allowed, NotAMember, OrganizationNotFound, RoleLacksPermission, RoleTooLow};

/// The permissions of the models here, which roles name by index.
const WORDS: [&str; 4] = ["client-test.pay", "client-test.read", "members.add", "members.list"];
const PAY: u32 = 0;
const READ: u32 = 1;
const ADD: u32 = 2;
const LIST: u32 = 3;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn deployment_role(name: &str, permissions: &[u32]) -> pb::DeploymentRole {
    pb::DeploymentRole { name: name.to_owned(), permissions: permissions.to_vec(), ..Default::default() }
}

/// A model with `admin`, `member` and these roles.
fn model(revision: i64, roles: &[(&str, &[u32])]) -> pb::AccessModelChange {
    let built_in = [("admin", &[ADD, LIST][..]), ("member", &[LIST])];
    let roles = built_in.iter().chain(roles).map(|(name, permissions)| deployment_role(name, permissions));
    pb::AccessModelChange { revision, permissions: words(&WORDS), roles: roles.collect() }
}

fn sent(model: pb::AccessModelChange) -> pb::MembershipsChange {
    change(ChangeMessage::AccessModel(model))
}

fn role_change(id: &str, role: &str, permissions: &[&str], revision: i64) -> pb::OrganizationRoleChange {
    pb::OrganizationRoleChange {
        organization_id: id.to_owned(),
        kind: Kind::default_kind().as_str().to_owned(),
        role: role.to_owned(),
        permissions: words(permissions),
        revision,
        ..Default::default()
    }
}

/// As the server sends it: with the fields that clients of release 0.3 read.
fn sent_role(role: pb::OrganizationRoleChange) -> pb::MembershipsChange {
    let (organization_id, revision) = (role.organization_id.clone(), role.revision);
    pb::MembershipsChange { organization_id, revision, ..change(ChangeMessage::Role(role)) }
}

pub(super) fn defined(id: &str, role: &str, permissions: &[&str], revision: i64) -> pb::MembershipsChange {
    sent_role(role_change(id, role, permissions, revision))
}

pub(super) fn deleted(id: &str, role: &str, revision: i64) -> pb::MembershipsChange {
    sent_role(pb::OrganizationRoleChange { deleted: true, ..role_change(id, role, &[], revision) })
}

fn replaced(id: &str, role: &str, replaced_by: &str, revision: i64) -> pb::MembershipsChange {
    let replaced_by = replaced_by.to_owned();
    sent_role(pb::OrganizationRoleChange { replaced_by, ..role_change(id, role, &[], revision) })
}

/// A replica that has applied these messages, each on its own.
fn replica(messages: &[pb::MembershipsChange]) -> (ClientReplica, RecentChanges) {
    let (replica, mut recent) = empty();
    for message in messages {
        replica.apply(std::slice::from_ref(message), &mut recent).unwrap();
    }
    (replica, recent)
}

fn role(name: &str) -> Question {
    Question::Role(RoleName::parse(name).unwrap())
}

fn permission(word: &str) -> Question {
    Question::Permission(Permission::new(word).unwrap())
}

fn check(organization: &str, user: &str, question: Question) -> Check {
    Check { question, ..Check::member(organization, user).unwrap() }
}

/// The reason of the replica's answer; `None` if it asks the server.
fn ask(replica: &ClientReplica, organization: &str, user: &str, question: Question) -> Option<CheckReason> {
    replica.answer(&check(organization, user, question)).map(|answer| answer.reason)
}

/// Asserts the answers to questions about ACME.
fn assert_answers(replica: &ClientReplica, answers: &[(&str, Question, Option<CheckReason>)]) {
    for (user, question, expected) in answers {
        assert_eq!(ask(replica, ACME, user, question.clone()), *expected, "{user} {question:?}");
    }
}

#[test]
fn roles_hold_what_the_latest_model_says() {
    let (replica, mut recent) = replica(&[
        sent(model(1, &[("clerk", &[READ])])),
        created(ACME, 1),
        member(ACME, "eve", "clerk", 2),
        member(ACME, "joan", "admin", 3),
    ]);
    assert_answers(
        &replica,
        &[
            ("eve", permission("client-test.read"), Some(Allowed)),
            ("eve", permission("client-test.pay"), Some(RoleLacksPermission)),
            ("eve", permission("members.list"), Some(RoleLacksPermission)),
            ("eve", role("clerk"), Some(Allowed)),
            ("eve", role("member"), Some(RoleTooLow)),
            ("joan", permission("client-test.read"), Some(RoleLacksPermission)),
            ("joan", role("clerk"), Some(RoleTooLow)),
            ("ada", permission("client-test.pay"), Some(Allowed)),
            ("ada", role("clerk"), Some(Allowed)),
            ("x", permission("client-test.pay"), Some(NotAMember)),
            // What the model does not have is a question for the server, whatever the standing.
            ("ada", permission("client-test.delete"), None),
            ("joan", permission("members.remove"), None),
            ("x", permission("client-test.delete"), None),
            ("ada", role("auditor"), None),
        ],
    );
    assert_eq!(ask(&replica, "no-such", "eve", permission("client-test.pay")), Some(OrganizationNotFound));
    assert_eq!(ask(&replica, "no-such", "eve", permission("client-test.delete")), None);
    let named = |role: &str| replica.answer(&Check::member(ACME, role).unwrap()).unwrap().role;
    assert_eq!(named("eve"), Some(RoleName::parse("clerk").unwrap()));

    // The roles of the next model replace all those before, in every bucket.
    let next = model(3, &[("clerk", &[PAY, READ]), ("auditor", &[LIST])]);
    assert_eq!(replica.apply(&[sent(next)], &mut recent).unwrap().changes, 1);
    let latest = [
        ("eve", permission("client-test.pay"), Some(Allowed)),
        ("eve", role("auditor"), Some(RoleTooLow)),
        ("joan", role("auditor"), Some(Allowed)),
    ];
    assert_answers(&replica, &latest);
    // A model that the replica has, or had, is a repetition.
    let before = [3, 2, 1].map(|revision| sent(model(revision, &[])));
    let outcome = replica.apply(&before, &mut recent).unwrap();
    assert_eq!((outcome.changes, outcome.repetitions), (0, 3));
    assert_answers(&replica, &latest);
    // A role that is gone concerns its members only. They may have moved before: their changes are on the way.
    replica.apply(&[sent(model(4, &[]))], &mut recent).unwrap();
    assert_answers(
        &replica,
        &[
            ("eve", Question::Member, None),
            ("eve", permission("client-test.pay"), None),
            ("joan", permission("client-test.pay"), Some(RoleLacksPermission)),
            ("joan", role("clerk"), None),
        ],
    );
}

#[test]
fn the_last_of_several_models_in_a_message_counts_and_is_there_with_its_members() {
    let (replica, _) = replica(&[created(ACME, 1), created(OTHER, 1)]);
    let message = [
        member(ACME, "eve", "clerk", 2),
        sent(model(2, &[("clerk", &[PAY])])),
        sent(model(1, &[("clerk", &[READ])])),
        member(OTHER, "eve", "clerk", 2),
    ];
    let outcome = replica.apply(&message, &mut RecentChanges::default()).unwrap();
    assert_eq!((outcome.changes, outcome.repetitions), (3, 1));
    for organization in [ACME, OTHER] {
        assert_eq!(ask(&replica, organization, "eve", permission("client-test.pay")), Some(Allowed));
        assert_eq!(ask(&replica, organization, "eve", permission("client-test.read")), Some(RoleLacksPermission));
    }
}

#[test]
fn without_a_model_the_replica_knows_the_built_in_roles_only() {
    let (replica, mut recent) = replica(&[
        created(ACME, 1),
        member(ACME, "eve", "clerk", 2),
        member(ACME, "joan", "admin", 3),
        member(ACME, "alan", "org:auditor", 4),
    ]);
    let assert_limits = |admin: Option<CheckReason>| {
        assert_answers(
            &replica,
            &[
                ("joan", Question::Member, Some(Allowed)),
                ("joan", permission("members.add"), admin),
                ("joan", role("member"), admin),
                ("ada", permission("members.add"), Some(Allowed)),
                ("ada", role("owner"), Some(Allowed)),
                ("ada", permission("client-test.pay"), None),
                ("x", permission("client-test.pay"), None),
                ("joan", role("clerk"), None),
                ("joan", role("org:auditor"), None),
                ("eve", Question::Member, None),
                ("alan", Question::Member, None),
            ],
        );
    };
    assert_limits(Some(Allowed));
    // The checkpoints of a server that sends no model say whether the built-in sets are right.
    replica.set_built_in_roles_changed(true);
    assert_limits(None);
    replica.set_built_in_roles_changed(false);
    assert_limits(Some(Allowed));
    // A replica that follows the model knows them. Even the first one of a datastore, which has no revision yet, counts.
    replica.set_built_in_roles_changed(true);
    let mut first = model(0, &[("clerk", &[PAY])]);
    first.roles[0].permissions = vec![LIST];
    assert!(replica.put_roles(published(&first)));
    // No organization has adopted it yet.
    assert_limits(None);
    replica.apply(&[sent(first)], &mut recent).unwrap();
    assert_answers(
        &replica,
        &[
            ("joan", permission("members.add"), Some(RoleLacksPermission)),
            ("joan", role("member"), Some(Allowed)),
            ("eve", permission("client-test.pay"), Some(Allowed)),
            // The export had no roles of organizations.
            ("alan", Question::Member, None),
        ],
    );
}

#[test]
fn roles_of_an_organization_change_by_its_revisions() {
    let history = [
        sent(model(1, &[("clerk", &[READ])])),
        created(ACME, 1),
        defined(ACME, "org:auditor", &["client-test.read"], 2),
        member(ACME, "eve", "org:auditor", 3),
        member(ACME, "joan", "admin", 4),
        defined(ACME, "org:auditor", &["client-test.pay", "client-test.read"], 5),
    ];
    let (replica, mut recent) = replica(&history);
    let latest = [
        ("eve", permission("client-test.pay"), Some(Allowed)),
        ("eve", permission("members.list"), Some(RoleLacksPermission)),
        ("eve", role("org:auditor"), Some(Allowed)),
        ("eve", role("clerk"), Some(Allowed)),
        ("joan", role("org:auditor"), Some(RoleTooLow)),
        ("ada", role("org:auditor"), Some(Allowed)),
        ("x", role("org:auditor"), Some(NotAMember)),
        // The replica does not say that there is no such role.
        ("ada", role("org:ghost"), None),
    ];
    assert_answers(&replica, &latest);
    for message in &history {
        assert_eq!(replica.apply(std::slice::from_ref(message), &mut recent).unwrap().repetitions, 1);
    }
    assert_answers(&replica, &latest);
    // The same name in another organization is another role.
    replica.apply(&[created(OTHER, 1), defined(OTHER, "org:auditor", &[], 2)], &mut recent).unwrap();
    assert_eq!(ask(&replica, OTHER, "x", role("org:auditor")), Some(NotAMember));
    assert_answers(&replica, &latest);
    let gap = [defined(ACME, "org:clerk", &[], 7)];
    assert!(matches!(replica.apply(&gap, &mut recent), Err(ApplyError::Gap)));

    let last = [member(ACME, "eve", "clerk", 6), deleted(ACME, "org:auditor", 7)];
    assert_eq!(replica.apply(&last, &mut recent).unwrap().changes, 2);
    assert_answers(
        &replica,
        &[("eve", permission("client-test.pay"), Some(RoleLacksPermission)), ("ada", role("org:auditor"), None)],
    );
    // Not the purged organization's roles.
    replica.apply(&[purged(OTHER, 3), created(OTHER, 1), member(OTHER, "eve", "org:auditor", 2)], &mut recent).unwrap();
    assert_eq!(ask(&replica, OTHER, "eve", Question::Member), Some(OrganizationNotFound));
}

#[test]
fn a_role_with_a_word_of_a_newer_server_is_a_question_for_the_server() {
    let mut newer = model(1, &[("clerk", &[READ]), ("flyer", &[READ, 4]), ("broken", &[READ, 77]), ("owner", &[])]);
    newer.permissions.push("teams.manage.all.of.it".to_owned());
    newer.roles.push(pb::DeploymentRole { kind: "?".to_owned(), ..deployment_role("strange kind", &[READ]) });
    let (replica, mut recent) = replica(&[
        sent(newer),
        created(ACME, 1),
        member(ACME, "eve", "clerk", 2),
        member(ACME, "fay", "flyer", 3),
        member(ACME, "bob", "broken", 4),
        defined(ACME, "org:flyer", &["client-test.read", "roster.fly"], 5),
        member(ACME, "may", "org:flyer", 6),
        member(ACME, "sam", "owner", 7),
        member(ACME, "jim", "strange kind", 8),
    ]);
    for user in ["fay", "bob", "may", "sam"] {
        for question in [Question::Member, permission("client-test.read"), role("clerk")] {
            assert_eq!(ask(&replica, ACME, user, question.clone()), None, "{user} {question:?}");
        }
    }
    assert_answers(
        &replica,
        &[
            ("eve", permission("client-test.read"), Some(Allowed)),
            ("eve", role("flyer"), None),
            ("eve", role("org:flyer"), None),
            ("x", role("org:flyer"), Some(NotAMember)),
            ("jim", permission("client-test.read"), Some(Allowed)),
            // The owner holds everything, whatever a model lists.
            ("ada", permission("client-test.pay"), Some(Allowed)),
            ("ada", role("owner"), Some(Allowed)),
        ],
    );
    // The next change gives the role words that this client knows.
    replica.apply(&[defined(ACME, "org:flyer", &["client-test.read"], 9)], &mut recent).unwrap();
    assert_answers(&replica, &[("may", permission("client-test.read"), Some(Allowed))]);
}

#[test]
fn a_role_that_is_being_replaced_holds_what_its_replacement_holds() {
    let replaced_in_model = |revision, pairs: &[(&str, &str)]| {
        let roles = ["clerk", "seller", "buyer"].map(|name| (name, &[READ][..]));
        let mut model = model(revision, &roles);
        for (name, by) in pairs {
            let role = model.roles.iter_mut().find(|role| role.name == *name).unwrap();
            role.replaced_by = (*by).to_owned();
            role.permissions.clear();
        }
        sent(model)
    };
    let (replica, mut recent) = replica(&[
        replaced_in_model(1, &[]),
        created(ACME, 1),
        defined(ACME, "org:auditor", &["client-test.pay"], 2),
        defined(ACME, "org:reader", &["client-test.read"], 3),
        member(ACME, "eve", "org:auditor", 4),
        member(ACME, "fay", "clerk", 5),
    ]);
    let apply = |change: pb::MembershipsChange, recent: &mut RecentChanges| {
        replica.apply(&[change], recent).unwrap();
    };
    let held = |user| {
        let words = ["client-test.pay", "client-test.read", "members.list", "members.add"];
        let reasons = words.map(|word| ask(&replica, ACME, user, permission(word)));
        let known = reasons.iter().all(Option::is_some);
        known.then(|| {
            words
                .into_iter()
                .zip(reasons)
                .filter(|(_, reason)| *reason == Some(Allowed))
                .map(|(word, _)| word)
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(held("eve"), Some(vec!["client-test.pay"]));
    apply(replaced(ACME, "org:auditor", "org:reader", 6), &mut recent);
    assert_eq!(held("eve"), Some(vec!["client-test.read"]));
    // It follows changes of the replacement.
    apply(defined(ACME, "org:reader", &["members.list"], 7), &mut recent);
    assert_eq!(held("eve"), Some(vec!["members.list"]));
    apply(replaced(ACME, "org:auditor", "clerk", 8), &mut recent);
    assert_eq!(held("eve"), Some(vec!["client-test.read"]));
    apply(replaced_in_model(2, &[("clerk", "admin")]), &mut recent);
    assert_eq!(held("fay"), Some(vec!["members.list", "members.add"]));
    apply(replaced_in_model(3, &[("clerk", "seller"), ("seller", "member")]), &mut recent);
    assert_eq!(held("fay"), Some(vec!["members.list"]));
    // What leads nowhere is a question for the server.
    for (revision, pairs) in
        [(4, &[("clerk", "ghost")][..]), (5, &[("clerk", "seller"), ("seller", "clerk")]), (6, &[("clerk", "clerk")])]
    {
        apply(replaced_in_model(revision, pairs), &mut recent);
        assert_eq!(held("fay"), None, "{pairs:?}");
    }
    apply(replaced(ACME, "org:auditor", "org:ghost", 9), &mut recent);
    assert_eq!(held("eve"), None);
    // The end of the move.
    apply(member(ACME, "eve", "org:reader", 10), &mut recent);
    apply(deleted(ACME, "org:auditor", 11), &mut recent);
    assert_eq!(held("eve"), Some(vec!["members.list"]));
}

/// Parts of an export: the model, and an organization whose roles and members come in several messages.
fn export() -> Vec<pb::ExportMembershipsResponse> {
    let part = |roles: &[(&str, &[u32])], members: &[(&str, &str)]| pb::ExportedOrganization {
        organization: Some(organization(ACME, 9, false)),
        roles: (roles.iter())
            .map(|(name, permissions)| pb::ExportedRole {
                name: (*name).to_owned(),
                permissions: permissions.to_vec(),
                ..Default::default()
            })
            .collect(),
        members: (members.iter())
            .map(|(user, role)| pb::ExportedMember { user_id: (*user).to_owned(), role: (*role).to_owned() })
            .collect(),
    };
    let message = |listed: &[&str], organization| pb::ExportMembershipsResponse {
        organizations: vec![organization],
        permissions: words(listed),
        ..Default::default()
    };
    vec![
        pb::ExportMembershipsResponse::default(),
        pb::ExportMembershipsResponse { access_model: Some(model(7, &[("clerk", &[PAY])])), ..Default::default() },
        message(&["client-test.read"], part(&[("org:auditor", &[0])], &[])),
        message(
            &["members.list", "client-test.pay"],
            part(&[("org:payer", &[1]), ("org:broken", &[2])], &[("eve", "org:auditor")]),
        ),
        message(
            &[],
            part(&[], &[("joan", "org:payer"), ("bob", "org:broken"), ("fay", "clerk"), ("may", "org:ghost")]),
        ),
    ]
}

#[test]
fn an_export_has_the_model_and_the_roles() {
    let mut loader = ExportLoader::new(true);
    for message in export() {
        loader.add(&message).unwrap();
    }
    let replica = loader.finish();
    assert_answers(
        &replica,
        &[
            ("eve", permission("client-test.read"), Some(Allowed)),
            ("eve", permission("client-test.pay"), Some(RoleLacksPermission)),
            ("joan", permission("client-test.pay"), Some(Allowed)),
            ("fay", permission("client-test.pay"), Some(Allowed)),
            ("fay", role("org:payer"), Some(Allowed)),
            ("eve", role("org:payer"), Some(RoleTooLow)),
            ("bob", Question::Member, None),
            ("may", Question::Member, None),
        ],
    );
    // The watch goes on from there.
    let mut recent = RecentChanges::default();
    let changes = [sent(model(7, &[])), sent(model(8, &[("clerk", &[READ])])), defined(ACME, "org:payer", &[], 10)];
    let outcome = replica.apply(&changes, &mut recent).unwrap();
    assert_eq!((outcome.changes, outcome.repetitions), (2, 1));
    assert_answers(
        &replica,
        &[
            ("joan", permission("client-test.pay"), Some(RoleLacksPermission)),
            ("fay", permission("client-test.read"), Some(Allowed)),
        ],
    );
}

#[test]
fn a_batch_sees_one_model() {
    let (replica, mut recent) = replica(&[
        sent(model(1, &[("clerk", &[READ])])),
        created(ACME, 1),
        created(OTHER, 1),
        member(ACME, "eve", "clerk", 2),
        member(OTHER, "eve", "clerk", 2),
    ]);
    let checks = [ACME, OTHER].map(|id| check(id, "eve", permission("client-test.pay")));
    let reasons = || {
        let answers = replica.answers(&checks)?;
        Some(answers.into_iter().map(|answer| answer.reason).collect::<Vec<_>>())
    };
    assert_eq!(reasons(), Some(vec![RoleLacksPermission; 2]));
    // While the first bucket has adopted the next model, and the second one has not.
    assert!(replica.put_roles(published(&model(2, &[("clerk", &[PAY])]))));
    assert_eq!(reasons(), Some(vec![RoleLacksPermission; 2]), "no bucket has adopted it");
    replica.apply(&[member(ACME, "joan", "clerk", 3)], &mut recent).unwrap();
    assert_eq!(reasons(), None);
    assert_eq!(ask(&replica, ACME, "eve", permission("client-test.pay")), Some(Allowed));
    assert_eq!(replica.answers(&checks[..1]).unwrap()[0].reason, Allowed);
    replica.adopt_roles();
    assert_eq!(reasons(), Some(vec![Allowed; 2]));
}

#[test]
fn a_model_at_its_limits_is_read() {
    let count = 1_000;
    let listed: Vec<String> = (0..count).map(|index| format!("client-limit.permission-{index:04}")).collect();
    let every: Vec<u32> = (0..count).collect();
    let roles = (0..2_000).map(|index| deployment_role(&format!("role-{index}"), &every));
    let built_in = ["admin", "member"].map(|name| deployment_role(name, &[]));
    let model = pb::AccessModelChange { revision: 1, permissions: listed, roles: roles.chain(built_in).collect() };
    let (replica, _) = replica(&[sent(model), created(ACME, 1), member(ACME, "eve", "role-1999", 2)]);
    assert_answers(
        &replica,
        &[("eve", permission("client-limit.permission-0999"), Some(Allowed)), ("eve", role("role-0"), Some(Allowed))],
    );
}

#[test]
fn entries_of_one_message_may_have_one_revision() {
    let read = &["client-test.read"];
    let roles = [defined(ACME, "org:a", read, 2), defined(ACME, "org:b", read, 3), member(ACME, "eve", "org:a", 4)];
    let (replica, mut recent) = replica(&[&[sent(model(1, &[])), created(ACME, 1)], &roles[..]].concat());
    let message = [replaced(ACME, "org:a", "org:b", 5), defined(ACME, "org:b", &["client-test.pay"], 5)];
    for expected in [(2, 0), (0, 2)] {
        let outcome = replica.apply(&message, &mut recent).unwrap();
        assert_eq!((outcome.changes, outcome.repetitions), expected);
        assert_eq!(ask(&replica, ACME, "eve", permission("client-test.pay")), Some(Allowed));
    }
}
