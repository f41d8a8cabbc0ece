//! Tests of the rules, and properties of random models.

use super::file::FileFormat;
use super::plan::{PlanWarning, RoleChange};
use super::*;
use crate::domain::Violation;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

fn parse(document: Value) -> Result<AccessModel, Vec<Violation>> {
    AccessModel::parse(&serde_json::from_value(document).unwrap(), "model")
}

/// The place and the sentence of each violation.
fn violations(document: Value) -> Vec<(String, String)> {
    let violations = parse(document).expect_err("the document has no violation");
    violations.into_iter().map(|violation| (violation.field, violation.sentence)).collect()
}

fn names(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|index| format!("r{index}"))
}

fn roles(names: impl Iterator<Item = String>, kind: &str) -> Vec<Value> {
    names.map(|name| json!({ "name": name, "kind": kind })).collect()
}

const MEMBER: [&str; 3] = ["membership.leave", "members.list", "organization.read"];

#[test]
fn each_mistake_in_a_permission_has_its_place_and_its_sentence() {
    let long = format!("a.{}", "b".repeat(99));
    for (permission, field, sentence) in [
        (json!({}), "name", "a permission has a name"),
        (json!({ "name": "billing" }), "name", "is 2 to 4 words with dots between them"),
        (json!({ "name": "a.b.c.d.e" }), "name", "is 2 to 4 words"),
        (json!({ "name": "Billing.read" }), "name", "each word is of a-z"),
        (json!({ "name": "billing.re ad" }), "name", "each word is of a-z"),
        (json!({ "name": long }), "name", "at most 100 characters"),
        (json!({ "name": "members.add" }), "name", "is a permission of roster and always exists"),
        (json!({ "name": "members.fly" }), "name", "roster reserves the names that begin with organization, members"),
        (json!({ "name": "roster.anything" }), "name", "roster reserves the names"),
        (json!({ "name": "ok.ok" }), "name", "permissions[0] has the same name"),
        (json!({ "name": "x.y", "title": "t".repeat(201) }), "title", "at most 200 characters"),
        (json!({ "name": "x.y", "title": "a\nb" }), "title", "no control, zero-width or direction characters"),
        (json!({ "name": "x.y", "description": "d".repeat(1001) }), "description", "at most 1 000 characters"),
        (json!({ "name": "x.y", "description": "a\u{202e}b" }), "description", "no zero-width or direction characters"),
    ] {
        let found = violations(json!({ "permissions": [{ "name": "ok.ok" }, permission] }));
        assert!(found.len() == 1 && found[0].1.contains(sentence), "{found:?}: {sentence}");
        assert_eq!(found[0].0, format!("model.permissions[1].{field}"));
    }
}

#[test]
fn each_mistake_in_a_role_has_its_place_and_its_sentence() {
    for (role, field, sentence) in [
        (json!({}), "name", "a role has a name"),
        (json!({ "name": "owner" }), "name", "the owner always holds every permission"),
        (json!({ "name": "org:editor" }), "name", "belong to the roles of organizations"),
        (json!({ "name": "Editor" }), "name", "is 1 to 64 of a-z"),
        (json!({ "name": "1st" }), "name", "begins with a letter"),
        (json!({ "name": "a.b" }), "name", "is 1 to 64 of a-z"),
        (json!({ "name": "a".repeat(65) }), "name", "is 1 to 64 of a-z"),
        (json!({ "name": "editor" }), "name", "roles[0] has the same name"),
        (json!({ "name": "editor", "kind": "vendor" }), "name", "roles[0] has the same name"),
        (json!({ "name": "x", "kind": "Vendor" }), "kind", "a kind is 1 to 64"),
        (json!({ "name": "admin", "kind": "vendor" }), "kind", "admin and member exist for all kinds"),
        (json!({ "name": "member", "kind": "?" }), "kind", "admin and member exist for all kinds"),
        (json!({ "name": "x", "title": "a\u{200b}b" }), "title", "zero-width"),
        (json!({ "name": "x", "description": "a\0b" }), "description", "no control characters except"),
        (json!({ "name": "x", "permissions": [""] }), "permissions[0]", "does not declare this permission"),
        (json!({ "name": "x", "permissions": ["ok.ok", "no.no"] }), "permissions[1]", "does not declare"),
        (json!({ "name": "x", "permissions": ["members.fly"] }), "permissions[0]", "its own are organization.read, "),
        (json!({ "name": "x", "permissions": ["ok.ok", "ok.ok"] }), "permissions[1]", "twice"),
        (json!({ "name": "x", "permissions": ["members.add", "members.add"] }), "permissions[1]", "twice"),
        (json!({ "name": "admin", "permissions": ["members.list"] }), "permissions", "lacks membership.leave, organi"),
        (json!({ "name": "member", "permissions": ["ok.ok"] }), "permissions", "lacks ok.ok: add them to admin"),
    ] {
        let found = violations(json!({ "permissions": [{ "name": "ok.ok" }], "roles": [{ "name": "editor" }, role] }));
        assert!(found.len() == 1 && found[0].1.contains(sentence), "{found:?}: {sentence}");
        assert_eq!(found[0].0, format!("model.roles[1].{field}"));
    }
}

#[test]
fn each_mistake_in_the_delegable_permissions_is_named() {
    for (words, field, sentence) in [
        (["members.add", "ok.ok"], "model.delegable[1]", "roles of organizations may hold those of the application"),
        (["", "members.add"], "model.delegable[0]", "this list is for roster's own permissions"),
        (["members.fly", "members.add"], "model.delegable[0]", "roster has no such permission"),
        (["members.add", "members.add"], "model.delegable[1]", "twice"),
    ] {
        let found = violations(json!({ "permissions": [{ "name": "ok.ok" }], "delegable": words }));
        assert!(found.len() == 1 && found[0].0 == field && found[0].1.contains(sentence), "{found:?}");
    }
}

#[test]
fn all_mistakes_are_found_at_once_and_none_twice() {
    let document = json!({
        "delegable": ["billing.read"],
        "permissions": [{ "name": "Billing.read" }, { "name": "events.all", "title": "a\tb" }, { "name": "a.b" }, {}],
        "roles": [
            { "name": "owner", "kind": "K", "permissions": ["Billing.read", "events.all", "a.b", "a.c", "a.b"] },
            { "name": "member", "permissions": ["a.b", "a.c"] },
            { "name": "admin", "permissions": [] },
            { "name": "admin", "title": "\u{7}" },
        ],
    });
    let places: Vec<String> = violations(document.clone()).into_iter().map(|(place, _)| place).collect();
    let expected = [
        "delegable[0]",
        "permissions[0].name",
        "permissions[1].name",
        "permissions[1].title",
        "permissions[3].name",
        "roles[0].name",
        "roles[0].kind",
        "roles[0].permissions[3]",
        "roles[0].permissions[4]",
        "roles[1].permissions[1]",
        "roles[3].name",
        "roles[3].title",
    ];
    assert_eq!(places, expected.map(|place| format!("model.{place}")));
    let alone = AccessModel::parse(&serde_json::from_value(document).unwrap(), "").unwrap_err();
    assert_eq!(alone.iter().map(|violation| violation.field.as_str()).collect::<Vec<_>>(), expected);
}

#[test]
fn counts_are_limited() {
    let permissions = |count| names(count).map(|name| json!({ "name": format!("{name}.x") })).collect::<Vec<_>>();
    assert!(parse(json!({ "permissions": permissions(1_000) })).is_ok());
    let found = violations(json!({ "permissions": permissions(1_001) }));
    assert!(found.len() == 1 && found[0].0 == "model.permissions" && found[0].1.contains("1001"), "{found:?}");

    // 20 kinds with 100 roles each, and `admin` and `member` beside them.
    let mut full: Vec<Value> =
        names(2_000).enumerate().map(|(at, name)| json!({ "name": name, "kind": format!("k{}", at % 20) })).collect();
    full.push(json!({ "name": "admin", "permissions": MEMBER }));
    full.push(json!({ "name": "member", "permissions": [] }));
    assert!(parse(json!({ "roles": full })).is_ok());
    full.push(json!({ "name": "another", "kind": "k20" }));
    let found = violations(json!({ "roles": full }));
    assert!(found.len() == 1 && found[0].0 == "model.roles" && found[0].1.contains("2001"), "{found:?}");

    let split = |all: usize, vendor: usize| {
        let mut all = roles(names(all), "");
        all.extend(roles((0..vendor).map(|index| format!("v{index}")), "vendor"));
        json!({ "roles": all })
    };
    for (all, vendor) in [(100, 0), (60, 40), (0, 100)] {
        assert!(parse(split(all, vendor)).is_ok());
    }
    for (all, vendor, sentence) in [(60, 41, "the kind vendor has 41 and the 60 for all kinds"), (101, 50, "are 101")] {
        let found = violations(split(all, vendor));
        assert!(found.len() == 1 && found[0].0 == "model.roles" && found[0].1.contains(sentence), "{found:?}");
    }
}

#[test]
fn the_size_of_a_model_and_of_its_violations_is_limited() {
    let permissions = |length| {
        let description = "d".repeat(length);
        names(1_000).map(|name| json!({ "name": format!("{name}.x"), "description": description })).collect::<Vec<_>>()
    };
    assert!(parse(json!({ "permissions": permissions(900) })).is_ok());
    let found = violations(json!({ "permissions": permissions(1_000) }));
    assert!(found.len() == 1 && found[0].0 == "model" && found[0].1.contains("960 KiB"), "{found:?}");

    let words = vec!["x"; 100_000];
    assert_eq!(violations(json!({ "roles": [{ "name": "a", "permissions": words }] })).len(), limits::VIOLATIONS);
}

#[test]
fn admin_includes_member_by_what_both_hold() {
    let permissions = json!([{ "name": "ok.ok" }]);
    let both: Vec<&str> = MEMBER.into_iter().chain(["ok.ok"]).collect();
    for roles in [
        json!([{ "name": "member", "permissions": [] }]),
        json!([{ "name": "member", "permissions": ["members.add"] }]),
        json!([{ "name": "admin", "permissions": MEMBER }]),
        json!([{ "name": "member", "permissions": both }, { "name": "admin", "permissions": both }]),
    ] {
        parse(json!({ "permissions": permissions, "roles": roles })).unwrap();
    }
    let default = AccessModel::default();
    assert!(default.words_of("admin").unwrap().is_superset(&default.words_of("member").unwrap()));
    assert_eq!((default.words_of("owner"), default.words_of("editor")), (None, None));
}

fn change(before: &Value, after: &Value) -> ModelPlan {
    ModelPlan::between(&parse(json!({ "roles": before })).unwrap(), &parse(json!({ "roles": after })).unwrap())
}

#[test]
fn a_plan_says_which_roles_stop_to_exist() {
    let kinds = [json!(""), json!("vendor"), json!("customer")];
    for (before, after, is_taken) in [(0, 0, false), (0, 1, true), (1, 0, false), (1, 2, true), (1, 1, false)] {
        let role = |kind: usize, title: &str| json!([{ "name": "x", "kind": kinds[kind], "title": title }]);
        let plan = change(&role(before, "a"), &role(after, "b"));
        assert_eq!(plan.roles.iter().map(RoleChange::is_taken_from_a_kind).collect::<Vec<_>>(), [is_taken]);
        assert!(!plan.roles[0].is_removal());
    }
    let listed = json!([{ "name": "member", "permissions": [] }, { "name": "x", "permissions": ["members.add"] }]);
    let plan = change(&listed, &json!([]));
    assert_eq!(plan.roles.iter().map(RoleChange::is_removal).collect::<Vec<_>>(), [false, true]);
    assert_eq!(plan.roles[0].gained.iter().map(|word| &**word).collect::<Vec<_>>(), {
        let mut member = MEMBER;
        member.sort_unstable();
        member
    });
    assert_eq!(plan.roles[1].lost.len(), 1);
    assert!(change(&json!([]), &listed).roles.iter().all(|change| !change.is_removal()));
}

#[test]
fn only_a_change_from_the_built_in_permissions_concerns_older_clients() {
    let member = |words: &[&str]| json!([{ "name": "member", "permissions": words }]);
    for (before, after, needs) in [
        (json!([]), member(&[]), true),
        (member(&[]), member(&["members.add"]), true),
        // Back to what older clients assume.
        (member(&[]), json!([]), false),
        (member(&[]), member(&MEMBER), false),
        // Listed, and the same as built in.
        (json!([]), member(&MEMBER), false),
        (member(&[]), member(&[]), false),
        (json!([]), json!([{ "name": "x", "permissions": ["members.add"] }]), false),
    ] {
        assert_eq!(change(&before, &after).needs_older_clients_gone(), needs, "{before} {after}");
    }
}

#[test]
fn every_role_that_admins_cannot_manage_is_a_warning() {
    let role = json!([{ "name": "x", "permissions": ["ownership.transfer", "members.add"] }, { "name": "y" }]);
    for before in [json!([]), role.clone()] {
        let warnings = change(&before, &role).warnings;
        assert!(
            matches!(&warnings[..], [PlanWarning::RoleAboveAdmin { role, lacks }]
                if role.as_str() == "x" && lacks.iter().map(|word| &**word).eq(["ownership.transfer"])),
            "{warnings:?}"
        );
    }
}

const WORDS: [&str; 6] = ["a.read", "a.write", "b.read", "b.c.d.run", "z-1.x_2", "bills.pay"];
const OWN: [&str; 5] = ["organization.read", "members.list", "members.add", "ownership.transfer", "events.read"];
const ROLES: [&str; 6] = ["admin", "member", "editor", "a", "z_9", "accountant"];

fn some_text() -> impl Strategy<Value = String> {
    select(vec!["", "Title", "  \"quoted\" 'text' \\ é 👩\u{200d}🚀", "# [[x]] = '''", "null", "{}"])
        .prop_map(str::to_owned)
}

fn words(from: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    subsequence(from, 0..=from.len()).prop_shuffle().prop_map(|words| words.into_iter().map(str::to_owned).collect())
}

fn a_role(name: String) -> impl Strategy<Value = RoleParts> {
    let kind = option::of(select(vec!["vendor", "customer"]));
    let description = some_text().prop_map(|text| format!("{text}\n\tSecond line. {text}"));
    (kind, some_text(), description, words(&WORDS), words(&OWN)).prop_map(
        move |(kind, title, description, own, words)| {
            let is_built_in = ["admin", "member"].contains(&name.as_str());
            let kind = kind.filter(|_| !is_built_in).unwrap_or_default().to_owned();
            RoleParts { name: name.clone(), kind, title, description, permissions: [own, words].concat() }
        },
    )
}

/// Documents of valid models: roles hold declared words only, and `admin` includes `member`.
fn documents() -> impl Strategy<Value = ModelParts> {
    let roles = words(&ROLES).prop_flat_map(|names| names.into_iter().map(a_role).collect::<Vec<_>>());
    (words(&OWN), words(&WORDS), some_text(), roles).prop_map(|(delegable, declared, title, mut roles)| {
        for role in &mut roles {
            role.permissions.retain(|word| OWN.contains(&word.as_str()) || declared.contains(word));
        }
        let held = |roles: &[RoleParts], name: &str| roles.iter().find(|role| role.name == name).cloned();
        let member = held(&roles, "member").map_or_else(|| MEMBER.map(str::to_owned).to_vec(), |role| role.permissions);
        match roles.iter_mut().find(|role| role.name == "admin") {
            Some(admin) => {
                admin.permissions.retain(|word| !member.contains(word));
                admin.permissions.extend(member);
            }
            None => roles.retain(|role| role.name != "member"),
        }
        let named = |name: String| PermissionParts { name, title: title.clone(), ..PermissionParts::default() };
        ModelParts { delegable, permissions: declared.into_iter().map(named).collect(), roles }
    })
}

fn model(parts: &ModelParts) -> AccessModel {
    AccessModel::parse(parts, "").unwrap_or_else(|violations| panic!("{violations:?}: {parts:?}"))
}

/// Documents of texts that are valid, reserved or neither.
fn any_documents() -> impl Strategy<Value = ModelParts> {
    let text =
        || prop_oneof![Just("members.add".to_owned()), Just("admin".to_owned()), "[a-c.:_-]{0,5}", any::<String>()];
    let permission =
        (text(), text()).prop_map(|(name, title)| PermissionParts { name, title, description: String::new() });
    let role = (text(), text(), text(), vec(text(), 0..4)).prop_map(|(name, kind, description, permissions)| {
        RoleParts { name, kind, title: String::new(), description, permissions }
    });
    (vec(text(), 0..3), vec(permission, 0..4), vec(role, 0..4)).prop_map(|(delegable, permissions, roles)| ModelParts {
        delegable,
        permissions,
        roles,
    })
}

/// What a plan makes of a model.
fn apply(before: &AccessModel, plan: &ModelPlan) -> AccessModel {
    let mut permissions = before.permissions().to_vec();
    permissions.retain(|permission| plan.permissions.iter().all(|change| change.before.as_ref() != Some(permission)));
    permissions.extend(plan.permissions.iter().filter_map(|change| change.after.clone()));
    let mut roles = before.roles().to_vec();
    roles.retain(|role| plan.roles.iter().all(|change| change.before.as_ref() != Some(role)));
    roles.extend(plan.roles.iter().filter_map(|change| change.after.clone()));
    let kept = before.delegable().difference(&plan.no_longer_delegable);
    AccessModel::new(permissions, roles, kept.chain(&plan.newly_delegable).cloned().collect())
}

/// The numbers of lines that a plan adds and removes.
fn lines(plan: &ModelPlan) -> [usize; 2] {
    ["+ ", "- "].map(|mark| plan.to_string().lines().filter(|line| line.starts_with(mark)).count())
}

/// Whether a document has a value at a place such as `model.roles[3].name`.
fn has_place(document: &Value, place: &str) -> bool {
    let steps = place.split(['.', '[', ']']).filter(|step| !step.is_empty());
    let value = steps.skip(1).try_fold(document, |value, step| match step.parse::<usize>() {
        Ok(index) => value.get(index),
        Err(_) => value.get(step),
    });
    value.is_some()
}

proptest! {
    #[test]
    fn a_model_survives_every_form(parts in documents()) {
        let model = model(&parts);
        for format in [FileFormat::Toml, FileFormat::Json] {
            let text = format.print(&model);
            prop_assert_eq!(format.parse(&text), Ok(model.clone()), "{}", text);
            prop_assert_eq!(FileFormat::of_text(&text), format);
        }
        prop_assert_eq!(AccessModel::from_stored(&model.to_stored()), Ok(model.clone()));
        let again = AccessModel::parse(&ModelParts::from(&model), "");
        prop_assert_eq!(again, Ok(model));
    }

    #[test]
    fn a_plan_leads_from_one_model_to_the_other(one in documents(), other in documents()) {
        let (one, other) = (model(&one), model(&other));
        let (there, back) = (ModelPlan::between(&one, &other), ModelPlan::between(&other, &one));
        prop_assert_eq!(apply(&one, &there), other.clone());
        prop_assert_eq!(apply(&other, &back), one.clone());
        prop_assert_eq!(there.is_empty(), one == other);
        prop_assert_eq!(there.to_string().is_empty(), one == other);
        let [added, removed] = lines(&there);
        prop_assert_eq!(lines(&back), [removed, added]);
        for (there, back) in there.roles.iter().zip(&back.roles) {
            prop_assert_eq!((&there.gained, &there.lost), (&back.lost, &back.gained));
            prop_assert!(there.gained.is_disjoint(&there.lost));
        }
        prop_assert!(ModelPlan::between(&one, &one).is_empty());
    }

    #[test]
    fn any_document_is_a_model_within_the_rules_or_has_violations_in_places_that_exist(parts in any_documents()) {
        match AccessModel::parse(&parts, "model") {
            Ok(model) => {
                prop_assert!(model.words_of("admin").unwrap().is_superset(&model.words_of("member").unwrap()));
                for role in model.roles() {
                    prop_assert!(role.name.as_str() != "owner" && !role.name.as_str().contains(':'));
                    for word in &role.permissions {
                        prop_assert!(model.permission(word).is_some() != built_in::is_reserved(word));
                    }
                }
                prop_assert_eq!(AccessModel::parse(&ModelParts::from(&model), ""), Ok(model.clone()));
                prop_assert_eq!(FileFormat::Toml.parse(&FileFormat::Toml.print(&model)), Ok(model));
            }
            Err(violations) => {
                prop_assert!(!violations.is_empty());
                let document = json!({
                    "delegable": parts.delegable,
                    "permissions": parts.permissions,
                    "roles": parts.roles,
                });
                for violation in violations {
                    prop_assert!(has_place(&document, &violation.field), "{:?}", violation);
                }
            }
        }
    }
}
