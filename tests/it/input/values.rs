//! Valid and invalid values for each field, by its name. A field without values here fails the tests.

use super::{Fixture, is_own};
use crate::harness::dynamic::descriptors;
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value};
use prost_types::value::Kind as Json;
use std::collections::BTreeMap;

const UUID: &str = "7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11";

/// A valid request with every field set. It changes nothing: a write has `validate_only`.
pub(super) fn good(fixture: &Fixture, descriptor: &MessageDescriptor) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        if let Some(value) = good_value(fixture, &field) {
            message.set_field(&field, value);
        }
    }
    message
}

fn good_value(fixture: &Fixture, field: &FieldDescriptor) -> Option<Value> {
    let text = |text: &str| Some(Value::String(text.to_owned()));
    // The first field of each oneof is set.
    let first = |oneof: prost_reflect::OneofDescriptor| oneof.fields().next().is_some_and(|first| first == *field);
    if field.containing_oneof().is_some_and(|oneof| !first(oneof)) {
        return None;
    }
    match field.name() {
        "organization" => text(&fixture.organization),
        "user_id" | "owner_user_id" => text("grace"),
        "email" => text("grace@example.com"),
        "name" => text(match field.parent_message().name() {
            "AccessModelPermission" => "billing.read",
            "AccessModelRole" => "accountant",
            "CreateRoleRequest" | "UpdateRoleRequest" | "DeleteRoleRequest" => "org:auditor",
            "GetRoleRequest" => "admin",
            _ => "Grace",
        }),
        "display_name" | "title" | "description" => text("Grace"),
        // Of roles of organizations, what they may hold is decided by the access model.
        "permissions" | "roles" | "delegable" => match (field.kind(), field.parent_message().name()) {
            (Kind::Message(inner), _) => Some(Value::List(vec![Value::Message(good(fixture, &inner))])),
            (_, "AccessModel" | "AccessModelRole") => Some(Value::List(vec![Value::String("members.list".to_owned())])),
            _ => None,
        },
        "slug" => text("the-one"),
        "kind" => text("account"),
        "role" | "replace_with" => text("member"),
        "permission" => text("members.list"),
        "search" => text("ac"),
        "reason" => text("because"),
        "request_id" => text(UUID),
        // The owner is given by id, and so is not invited.
        "owner_email" | "owner_delivery" | "owner_locale" | "owner_lifetime" | "etag" | "page_token" | "cursor"
        | "replace_roles" => None,
        "ping" => Some(Value::I64(7)),
        "invitation_id" => text(&fixture.invitation),
        "token" => text(&fixture.token),
        // NONE, which suits every recipient.
        "delivery" => Some(Value::EnumNumber(3)),
        "locale" => Some(Value::String("de-at".to_owned())),
        "lifetime" => Some(duration(7200, 0)),
        // By e-mail, in the locale.
        "notify" => Some(Value::EnumNumber(1)),
        // Without `rotate`, a reminder with the delivery NONE has no effect.
        "validate_only" | "fully_consistent" | "rotate" => Some(Value::Bool(true)),
        "inactive" | "purge" | "all_or_nothing" | "email_verified" | "older_clients_gone" => Some(Value::Bool(false)),
        "page_size" => Some(Value::I32(10)),
        "types" => Some(Value::List(vec![Value::String("member.added".to_owned())])),
        "states" => Some(Value::List(vec![Value::EnumNumber(2)])),
        "attributes" | "owner_attributes" => Some(object(&nested(1))),
        "update_mask" => Some(mask(&["*"])),
        "items" => Some(Value::List(vec![Value::Message(good(fixture, &kind_of(field)))])),
        "consistency" | "model" => Some(Value::Message(good(fixture, &kind_of(field)))),
        other => panic!("no valid value for the field {other} ({})", field.full_name()),
    }
}

/// The message type of a field.
pub(super) fn kind_of(field: &FieldDescriptor) -> MessageDescriptor {
    match field.kind() {
        Kind::Message(descriptor) => descriptor,
        other => panic!("{} is {other:?}, not a message", field.full_name()),
    }
}

/// Invalid values of a field, without the invalid values of the fields of its message type.
pub(super) fn wrong(field: &FieldDescriptor) -> Vec<Value> {
    let parent = field.parent_message().name().to_owned();
    let mut values = match field.name() {
        "organization" => {
            texts(&["a", "acme inc", "ac\0me", "ümlaut", "{7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11}", "a/../b"])
        }
        "user_id" if ["ListEventsRequest", "WatchMembershipsRequest"].contains(&parent.as_str()) => {
            texts(&["a\0b", "\0"])
        }
        "user_id" => texts(&["", "a\0b", "\0"]),
        "types" => {
            [&["member"][..], &["member.added", ""], &["Member.added"], &["member.added\0"], &["member.added"; 21]]
                .map(|types| Value::List(texts(types)))
                .into()
        }
        "owner_user_id" => texts(&["a\0b", "\0"]),
        "email" | "owner_email" => texts(&[
            "ada",
            "a\0@x.example",
            "ada@x",
            "a b@x.example",
            "@",
            "ada@x..example",
            ".a@x.example",
            "\u{212a}im@x.example",
            "\"a\"@x.example",
            "a@b@x.example",
        ]),
        "identifier" => texts(&["", "   ", "a\0b", "a\nb"]),
        "invitation_id" => texts(&["", "x", "\0", "7b0c3a1e5a394d0c9a533a0f2c8f7a11", "the-one", "é"]),
        "locale" | "owner_locale" => texts(BAD_LOCALES),
        "delivery" | "owner_delivery" | "notify" => [-1, 4, 99, i32::MIN, i32::MAX].map(Value::EnumNumber).into(),
        "lifetime" | "owner_lifetime" => bad_lifetimes(),
        "title" => texts(&["a\0b", "a\u{202e}b", "a\nb", "a\u{200c}b"]),
        "description" => texts(&["a\0b", "a\u{202e}b", "a\u{200d}b"]),
        // Lists of messages have invalid values in their items only.
        "permissions" | "roles" if matches!(field.kind(), Kind::Message(_)) => Vec::new(),
        "permissions" | "delegable" => [&[""][..], &["a"], &["members.fly"], &["members.add\0"], &["A.b"]]
            .map(|list| Value::List(texts(list)))
            .into(),
        "replace_roles" => ["admin", "", "org:a", "a\0", "A"].map(|former| replacement(former, "member")).into(),
        "replace_with" => texts(&["owner", "Member", "org:", "a\0", "é"]),
        "name" | "display_name" => {
            texts(&["   ", "a\0b", "a\u{202e}b", "a\nb", "\u{200d}", "\u{2800}", "\u{fe0f}", "\u{1d159}", "a\u{200c}b"])
        }
        "search" => texts(&["   ", "a\0b", "a\u{202e}b", "a\nb", "\u{200d}", "a\u{200c}b"]),
        "slug" => texts(&["a", "a_b", "a\0b", UUID, "é-é"]),
        "kind" => texts(&["Vendor", "2x", "a\0", "a b"]),
        "role" => texts(&["King", "Owner", "mem\0ber", "member "]),
        "permission" => texts(&["", "members.fly", "members.add\0", "MEMBERS.ADD"]),
        "reason" => texts(&["a\0b", "a\u{7}b"]),
        "request_id" => texts(&["x", "7b0c3a1e5a394d0c9a533a0f2c8f7a11", "\0", "7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a1g"]),
        "page_token" | "cursor" => texts(&["x", "!", "AAAA", "AQ", "\0", "é"]),
        "at_least_as_fresh" => texts(&["", "x", "AAAA", "\0", "AQAAAAAAAAAAAAAAAAAA"]),
        "page_size" => [-1, i32::MIN].map(Value::I32).into(),
        "states" => [&[0][..], &[99], &[-1], &[i32::MAX], &[2, 2, 2, 2, 2, 2], &[2, 0]].map(numbers).into(),
        "update_mask" => [&["nonsense"][..], &["role", "owner_user_id"], &[""], &["name\0"]].map(mask).into(),
        "attributes" | "owner_attributes" => bad_objects().iter().map(object).collect(),
        "items" => vec![Value::List(Vec::new())],
        // Any text may be an etag, any flag may be set, a consistency requirement has invalid values in its own fields
        // only, and an unknown token is not found rather than invalid.
        "etag" | "consistency" | "validate_only" | "fully_consistent" | "inactive" | "purge" | "all_or_nothing"
        | "email_verified" | "rotate" | "token" | "ping" | "model" | "older_clients_gone" => Vec::new(),
        other => panic!("no invalid values for the field {other} ({})", field.full_name()),
    };
    values.extend(wrong_length(field.name()));
    values.extend(wrong_for_message(field.name(), &parent));
    assert!(values.is_empty() || field.kind() != Kind::Bool);
    values
}

fn texts(texts: &[&str]) -> Vec<Value> {
    texts.iter().map(|text| Value::String((*text).to_owned())).collect()
}

fn replacement(former: &str, new: &str) -> Value {
    Value::Map([(MapKey::String(former.to_owned()), Value::String(new.to_owned()))].into())
}

/// What follows the name of the field in an error: the place in the list, for lists whose items are checked one by one.
pub(super) fn place_in_list(field: &FieldDescriptor) -> &'static str {
    if ["permissions", "delegable"].contains(&field.name()) { "[0]" } else { "" }
}

/// Texts that are longer than the field allows.
fn wrong_length(name: &str) -> Vec<Value> {
    let long = |length: usize| Value::String("a".repeat(length));
    match name {
        "organization" | "name" | "display_name" | "slug" | "search" | "title" => [201, 100_000].map(long).into(),
        "user_id" | "owner_user_id" => [256, 100_000].map(long).into(),
        "email" | "owner_email" => vec![Value::String(format!("ada@{}.example", "x.".repeat(200)))],
        "identifier" | "description" => [1001, 100_000].map(long).into(),
        "kind" => [65, 100_000].map(long).into(),
        "reason" => [501, 100_000].map(long).into(),
        "locale" | "owner_locale" => {
            let long = |parts| Value::String(format!("de{}", "-abcdefgh".repeat(parts)));
            [4, 10_000].map(long).into()
        }
        "role" | "replace_with" | "permission" | "request_id" | "page_token" | "at_least_as_fresh"
        | "invitation_id" | "cursor" => {
            vec![long(100_000)]
        }
        _ => Vec::new(),
    }
}

/// Values that are invalid for the field in this message only.
fn wrong_for_message(name: &str, parent: &str) -> Vec<Value> {
    let mut values = match (name, parent) {
        // Without an organization, a watch covers all.
        ("organization", "WatchMembershipsRequest" | "WatchEventsRequest") => Vec::new(),
        ("name", "CreateRoleRequest" | "UpdateRoleRequest" | "DeleteRoleRequest") => {
            texts(&["", "admin", "org:", "auditor", "org:A", "org:org:a"])
        }
        ("organization", _)
        | ("name", "CreateOrganizationRequest" | "UpdateOrganizationRequest")
        | ("slug", "UpdateOrganizationRequest")
        | (
            "role",
            "UpdateMemberRequest"
            | "CheckMembershipRequest"
            | "CheckItem"
            | "StreamChecksRequest"
            | "ExplainCheckRequest",
        )
        | ("email", "CreateInvitationRequest" | "BatchCreateInvitationsItem") => texts(&[""]),
        // These make or add a user, or make one the owner.
        (
            "user_id",
            "AddMemberRequest"
            | "EnsureMemberRequest"
            | "BatchAddMembersItem"
            | "TransferOwnershipRequest"
            | "PutUserRequest",
        )
        | ("owner_user_id", _) => {
            texts(&[" ada", "ada\u{a0}", "ada\u{2800}", "a\u{200b}da", "\u{202e}ada", "ada\u{fe0f}"])
        }
        ("states", "ListUserOrganizationsRequest") => [&[1][..], &[4]].map(numbers).into(),
        ("states", "ListOrganizationsRequest") => [&[5][..], &[2, 2, 2, 2, 2]].map(numbers).into(),
        ("states", "ListUsersRequest") => [&[4][..], &[2, 2, 2, 2]].map(numbers).into(),
        ("states", "ListInvitationsRequest") => [&[6][..], &[1, 6]].map(numbers).into(),
        _ => Vec::new(),
    };
    // The role `owner` cannot be assigned.
    if matches!(
        parent,
        "AddMemberRequest"
            | "EnsureMemberRequest"
            | "BatchAddMembersItem"
            | "UpdateMemberRequest"
            | "CreateInvitationRequest"
            | "BatchCreateInvitationsItem"
    ) && name == "role"
    {
        values.extend(texts(&["owner"]));
    }
    values
}

/// Texts that are no language tags.
const BAD_LOCALES: &[&str] =
    &["d", "german", "de_AT", "de-", "de-AT-", "dé", " de", "de\0", "de\r\nBcc: x", "x-y", "de,en"];

/// Seconds and nanoseconds: under an hour, over thirty days, and invalid durations.
const BAD_LIFETIMES: [(i64, i32); 11] = [
    (0, 0),
    (-7200, 0),
    (3599, 999_999_999),
    (3600, -1),
    (7200, 1_000_000_000),
    (30 * 24 * 3600, 1),
    (30 * 24 * 3600 + 1, 0),
    (i64::MAX, 0),
    (i64::MIN, 0),
    (i64::MAX, i32::MAX),
    (i64::MIN, i32::MIN),
];

fn bad_lifetimes() -> Vec<Value> {
    BAD_LIFETIMES.iter().map(|(seconds, nanos)| duration(*seconds, *nanos)).collect()
}

pub(super) fn duration(seconds: i64, nanos: i32) -> Value {
    dynamic("google.protobuf.Duration", &prost_types::Duration { seconds, nanos }.encode_to_vec())
}

fn numbers(states: &[i32]) -> Value {
    Value::List(states.iter().map(|state| Value::EnumNumber(*state)).collect())
}

fn mask(paths: &[&str]) -> Value {
    let mask = prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() };
    dynamic("google.protobuf.FieldMask", &mask.encode_to_vec())
}

fn object(object: &prost_types::Struct) -> Value {
    dynamic("google.protobuf.Struct", &object.encode_to_vec())
}

fn dynamic(name: &str, bytes: &[u8]) -> Value {
    let descriptor = descriptors().get_message_by_name(name).unwrap();
    Value::Message(DynamicMessage::decode(descriptor, bytes).unwrap())
}

fn json(kind: Json) -> prost_types::Value {
    prost_types::Value { kind: Some(kind) }
}

fn with(key: &str, kind: Json) -> prost_types::Struct {
    prost_types::Struct { fields: BTreeMap::from([(key.to_owned(), json(kind))]) }
}

/// An object with this many levels.
pub(super) fn nested(levels: usize) -> prost_types::Struct {
    if levels <= 1 { prost_types::Struct::default() } else { with("a", Json::StructValue(nested(levels - 1))) }
}

/// An object with this size in bytes as compact JSON.
pub(super) fn sized(bytes: usize) -> prost_types::Struct {
    with("a", Json::StringValue("x".repeat(bytes - r#"{"a":""}"#.len())))
}

fn bad_objects() -> Vec<prost_types::Struct> {
    let lists = (0..8).fold(json(Json::NullValue(0)), |inner, _| {
        json(Json::ListValue(prost_types::ListValue { values: vec![inner] }))
    });
    vec![
        with("a", Json::NumberValue(f64::NAN)),
        with("a", Json::NumberValue(f64::INFINITY)),
        with("a", Json::NumberValue(f64::NEG_INFINITY)),
        with("a", Json::StringValue("\0".to_owned())),
        with("a\0", Json::BoolValue(true)),
        nested(9),
        nested(25),
        sized(8 * 1024 + 1),
        sized(200 * 1024),
        prost_types::Struct { fields: BTreeMap::from([("a".to_owned(), lists)]) },
    ]
}

/// The message with as many invalid fields as one request can have. Appends their names to `names`.
pub(super) fn all_wrong(
    message: &DynamicMessage,
    skip: &[&str],
    names: &mut Vec<String>,
    prefix: &str,
) -> DynamicMessage {
    let mut bad = message.clone();
    for field in message.descriptor().fields().filter(|field| !skip.contains(&field.name())) {
        // Of a oneof, only the field that the valid message sets.
        if (field.containing_oneof().is_some() || field.name() == "owner_email") && !message.has_field(&field) {
            continue;
        }
        let name = format!("{prefix}{}", field.name());
        let inner = match field.kind() {
            Kind::Message(inner) if is_own(&inner) && !field.is_map() => Some(inner),
            _ => None,
        };
        if inner.is_some() && field.is_list() {
            let items = message.get_field(&field);
            let item = items.as_list().unwrap()[0].as_message().unwrap();
            let item = all_wrong(item, &[], names, &format!("{name}[0]."));
            bad.set_field(&field, Value::List(vec![Value::Message(item)]));
        } else if inner.is_some() {
            let value = message.get_field(&field);
            let value = all_wrong(value.as_message().unwrap(), &[], names, &format!("{name}."));
            bad.set_field(&field, Value::Message(value));
        } else if let Some(value) = wrong(&field).into_iter().next() {
            bad.set_field(&field, value);
            names.push(name + place_in_list(&field));
        }
    }
    bad
}
