//! Every method, every field, everything that can be wrong in it.

use super::values::{all_wrong, good, kind_of, nested, sized, wrong};
use super::{World, good_requests, is_own, violations};
use crate::harness::dynamic::message;
use crate::harness::reason;
use prost::Message;
use prost_reflect::{DynamicMessage, Kind, MethodDescriptor, ReflectMessage, Value};
use roster::grpc::pb;
use tonic::Code;

/// One request with one thing wrong, and how the error must call it.
struct Case {
    message: DynamicMessage,
    name: String,
}

/// Everything that is wrong in one field, for each field of the message and of the messages in it.
fn cases(base: &DynamicMessage, prefix: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for field in base.descriptor().fields() {
        let name = format!("{prefix}{}", field.name());
        for value in wrong(&field) {
            let mut message = base.clone();
            message.set_field(&field, value);
            // The owner by id, which is good, would be one too many.
            if field.name() == "owner_email" {
                message.clear_field_by_name("owner_user_id");
            }
            cases.push(Case { message, name: name.clone() });
        }
        let Kind::Message(inner) = field.kind() else { continue };
        if !is_own(&inner) {
            continue;
        }
        let held = base.get_field(&field);
        let (inside, prefix) = match held.as_list() {
            Some(items) => (items[0].as_message(), format!("{name}[0].")),
            None => (held.as_message(), format!("{name}.")),
        };
        for case in self::cases(inside.unwrap(), &prefix) {
            let value = Value::Message(case.message);
            let mut message = base.clone();
            message.set_field(&field, if field.is_list() { Value::List(vec![value]) } else { value });
            cases.push(Case { message, name: case.name });
        }
    }
    cases
}

/// As a write that is meant, where it is one.
fn in_earnest(mut message: DynamicMessage) -> Vec<u8> {
    message.clear_field_by_name("validate_only");
    message.encode_to_vec()
}

/// Asserts that a request in which nothing is wrong is not called wrong.
async fn assert_not_invalid(world: &mut World, method: &MethodDescriptor, message: &DynamicMessage) {
    if let Err(status) = world.call(method, message.encode_to_vec()).await {
        let named = reason(&status);
        let mistaken = ["INVALID_REQUEST", "MALFORMED_MESSAGE", "INTERNAL"].contains(&named.as_str());
        assert!(!mistaken, "{}: {status:?}", method.full_name());
    }
}

#[tokio::test]
async fn each_wrong_field_is_named_and_nothing_changes() {
    let mut world = World::new().await;
    let mut tried = 0;
    for (method, base) in good_requests(&world) {
        assert_not_invalid(&mut world, &method, &base).await;
        for Case { message, name } in cases(&base, "") {
            let answer = world.call(&method, in_earnest(message.clone())).await;
            let told = format!("{} with {name} in {message:.300}", method.full_name());
            let status = answer.expect_err(&told);
            assert_eq!(violations(&status), [name], "{told}");
            // What was sent is not repeated: it may be a secret in the wrong place, or 100 KB.
            assert!(status.message().len() + status.details().len() < 1024, "{told}: {status:?}");
            tried += 1;
        }
    }
    assert!(tried > 500, "only {tried} requests were tried");
    world.assert_unchanged().await;
}

/// Whether the organization that a request names decides whether it may be made.
fn is_ruled_by_it(method: &MethodDescriptor) -> bool {
    !method.name().contains("Check") && !method.name().starts_with("Watch")
}

#[tokio::test]
async fn everything_that_is_wrong_is_said_at_once() {
    let mut world = World::new().await;
    for (method, base) in good_requests(&world) {
        let first = method.input().get_field(1).map(|field| field.name().to_owned());
        // The organization comes first, alone: whoever may not see it learns nothing about the rest. And what a wrong mask
        // was to change is not known.
        let ruled_by_it = first.as_deref() == Some("organization") && is_ruled_by_it(&method);
        let skip = if ruled_by_it { &["organization", "update_mask"][..] } else { &["update_mask"] };
        let mut names = Vec::new();
        let bad = all_wrong(&base, skip, &mut names, "");
        names.sort();
        if names.is_empty() {
            continue;
        }
        let status = world.call(&method, in_earnest(bad)).await.expect_err(method.full_name());
        assert_eq!(violations(&status), names, "{}", method.full_name());
    }
    world.assert_unchanged().await;
}

#[tokio::test]
async fn a_wrong_organization_is_the_only_thing_that_is_said() {
    let mut world = World::new().await;
    for (method, base) in good_requests(&world).into_iter().filter(|(method, _)| is_ruled_by_it(method)) {
        if base.get_field_by_name("organization").is_none() {
            continue;
        }
        let bad = all_wrong(&base, &[], &mut Vec::new(), "");
        let status = world.call(&method, in_earnest(bad)).await.expect_err(method.full_name());
        assert_eq!(violations(&status), ["organization"], "{}", method.full_name());
    }
}

#[tokio::test]
async fn a_verified_address_must_be_one() {
    let world = World::new().await;
    let request = pb::PutUserRequest { user_id: "new".to_owned(), email_verified: true, ..Default::default() };
    let status = world.server.operator().users.put_user(request).await.unwrap_err();
    assert_eq!(violations(&status), ["email_verified"]);
    let request = pb::PutUserRequest {
        email: "x".to_owned(),
        user_id: "\0".to_owned(),
        email_verified: true,
        ..Default::default()
    };
    let status = world.server.operator().users.put_user(request).await.unwrap_err();
    assert_eq!(violations(&status), ["email", "user_id"]);
    world.assert_unchanged().await;
}

#[tokio::test]
async fn an_inactive_organization_needs_an_owner() {
    let world = World::new().await;
    let request = pb::CreateOrganizationRequest { inactive: true, ..crate::harness::organization("Gamma") };
    let status = world.server.operator().organizations.create_organization(request).await.unwrap_err();
    assert_eq!(violations(&status), ["inactive"]);
    world.assert_unchanged().await;
}

#[tokio::test]
async fn what_is_just_within_the_limits_is_taken() {
    let mut world = World::new().await;
    let method = message("CreateOrganizationRequest");
    let base = good(&world, &method);
    let create = super::dynamic::methods().into_iter().find(|method| method.name() == "CreateOrganization").unwrap();
    let texts = [
        ("name", "é".repeat(200)),
        ("slug", "a".repeat(200)),
        ("slug", "ab".to_owned()),
        ("kind", "a".repeat(64)),
        ("owner_user_id", "a".repeat(255)),
        ("reason", "é".repeat(500)),
    ];
    let mut good = Vec::new();
    for (field, text) in texts {
        let mut message = base.clone();
        message.set_field_by_name(field, Value::String(text));
        good.push(message);
    }
    for object in [nested(8), sized(8 * 1024)] {
        let mut message = base.clone();
        let descriptor = kind_of(&method.get_field_by_name("attributes").unwrap());
        let object = DynamicMessage::decode(descriptor, object.encode_to_vec().as_slice()).unwrap();
        message.set_field_by_name("attributes", Value::Message(object));
        good.push(message);
    }
    for message in good {
        let answer = world.call(&create, message.encode_to_vec()).await;
        assert!(answer.is_ok(), "{message:.300}: {answer:?}");
    }
    world.assert_unchanged().await;
}

#[tokio::test]
async fn page_tokens_belong_to_their_request() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let world = World::new().await;
    let mut operator = world.server.operator();
    let first = pb::ListOrganizationsRequest { page_size: 1, ..Default::default() };
    let token = operator.organizations.list_organizations(first.clone()).await.unwrap().into_inner().next_page_token;
    let again = pb::ListOrganizationsRequest { page_token: token.clone(), ..first.clone() };
    assert_eq!(operator.organizations.list_organizations(again).await.unwrap().into_inner().organizations.len(), 1);

    let members = pb::ListMembersRequest {
        organization: world.organization.clone(),
        page_token: token.clone(),
        ..Default::default()
    };
    let status = operator.organizations.list_members(members).await.unwrap_err();
    assert_eq!(violations(&status), ["page_token"]);
    let mine =
        pb::ListUserOrganizationsRequest { user_id: "ada".to_owned(), page_token: token.clone(), ..Default::default() };
    let status = operator.organizations.list_user_organizations(mine).await.unwrap_err();
    assert_eq!(violations(&status), ["page_token"]);
    let other = pb::ListOrganizationsRequest { kind: "vendor".to_owned(), page_token: token.clone(), ..first.clone() };
    let status = operator.organizations.list_organizations(other).await.unwrap_err();
    assert_eq!((status.code(), violations(&status)), (Code::InvalidArgument, vec!["page_token".to_owned()]));

    // The head of a good one, with other things behind it.
    let head = URL_SAFE_NO_PAD.decode(&token).unwrap()[..9].to_vec();
    let id = world.organization.as_bytes();
    for tail in [&[][..], b"x", &[0xff; 40], &[0; 40], &[id, b"a\0"].concat(), &[id, &[0xff]].concat()] {
        let token = URL_SAFE_NO_PAD.encode([&head, tail].concat());
        let forged = pb::ListOrganizationsRequest { page_token: token, ..first.clone() };
        let status = operator.organizations.list_organizations(forged).await.unwrap_err();
        assert_eq!(violations(&status), ["page_token"], "{tail:?}");
    }
}

#[tokio::test]
async fn numbers_come_back_as_they_went_in() {
    let world = World::new().await;
    let numbers =
        [f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, 0.1, 1e21, 1e300 / 3.0, 2e-10 / 3.0, 9_007_199_254_740_993.0];
    let value = |number| prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(number)) };
    let fields = numbers.iter().enumerate().map(|(index, number)| (index.to_string(), value(*number))).collect();
    let attributes = Some(prost_types::Struct { fields });
    let mut ada = world.server.user_with_email("ada");
    let request =
        pb::CreateOrganizationRequest { attributes: attributes.clone(), ..crate::harness::organization("Numbers") };
    let made = ada.organizations.create_organization(request).await.unwrap().into_inner().organization.unwrap();
    let request = pb::GetOrganizationRequest { organization: made.id };
    let read = ada.organizations.get_organization(request).await.unwrap().into_inner().organization.unwrap();
    assert_eq!(read.attributes, attributes);
}
