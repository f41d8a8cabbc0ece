//! Every invalid value of every field of every method.

use super::values::{all_wrong, good, kind_of, nested, place_in_list, sized, wrong};
use super::{Fixture, good_requests, is_own, violations};
use crate::harness::dynamic::message;
use crate::harness::reason;
use prost::Message;
use prost_reflect::{DynamicMessage, Kind, MethodDescriptor, ReflectMessage, Value};
use roster::grpc::pb;
use tonic::Code;

/// A request with one invalid field.
struct Case {
    message: DynamicMessage,
    /// The name of the field in the error.
    name: String,
}

/// A case for each invalid value of each field of the message and of the messages in it.
fn cases(base: &DynamicMessage, prefix: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for field in base.descriptor().fields() {
        let name = format!("{prefix}{}", field.name());
        for value in wrong(&field) {
            let mut message = base.clone();
            message.set_field(&field, value);
            // The valid owner id would be a second owner.
            if field.name() == "owner_email" {
                message.clear_field_by_name("owner_user_id");
            }
            cases.push(Case { message, name: format!("{name}{}", place_in_list(&field)) });
        }
        let Kind::Message(inner) = field.kind() else { continue };
        if !is_own(&inner) || field.is_map() {
            continue;
        }
        let value = base.get_field(&field);
        let (inner, prefix) = match value.as_list() {
            Some(items) => (items[0].as_message(), format!("{name}[0].")),
            None => (value.as_message(), format!("{name}.")),
        };
        for case in self::cases(inner.unwrap(), &prefix) {
            let value = Value::Message(case.message);
            let mut message = base.clone();
            message.set_field(&field, if field.is_list() { Value::List(vec![value]) } else { value });
            cases.push(Case { message, name: case.name });
        }
    }
    cases
}

/// The encoded message without `validate_only`.
fn without_validate_only(mut message: DynamicMessage) -> Vec<u8> {
    message.clear_field_by_name("validate_only");
    message.encode_to_vec()
}

/// Asserts that a valid request is not refused as invalid.
async fn assert_not_invalid(fixture: &mut Fixture, method: &MethodDescriptor, message: &DynamicMessage) {
    if let Err(status) = fixture.call(method, message.encode_to_vec()).await {
        let reason = reason(&status);
        let invalid = ["INVALID_REQUEST", "MALFORMED_MESSAGE", "INTERNAL"].contains(&reason.as_str());
        assert!(!invalid, "{}: {status:?}", method.full_name());
    }
}

#[tokio::test]
async fn each_invalid_field_is_named_and_nothing_changes() {
    let mut fixture = Fixture::new().await;
    let mut tried = 0;
    for (method, base) in good_requests(&fixture) {
        assert_not_invalid(&mut fixture, &method, &base).await;
        for Case { message, name } in cases(&base, "") {
            let answer = fixture.call(&method, without_validate_only(message.clone())).await;
            let context = format!("{} with {name} in {message:.300}", method.full_name());
            let status = answer.expect_err(&context);
            assert_eq!(violations(&status), [name], "{context}");
            // The error does not repeat the value: it may be a misplaced secret, or 100 KB.
            assert!(status.message().len() + status.details().len() < 1024, "{context}: {status:?}");
            tried += 1;
        }
    }
    assert!(tried > 500, "only {tried} requests were tried");
    fixture.assert_unchanged().await;
}

/// Whether access to a method depends on the organization that the request names.
fn depends_on_organization(method: &MethodDescriptor) -> bool {
    method.parent_service().name() != "CheckService" && !method.name().starts_with("Watch")
}

#[tokio::test]
async fn all_invalid_fields_are_named_in_one_error() {
    let mut fixture = Fixture::new().await;
    for (method, base) in good_requests(&fixture) {
        let first = method.input().get_field(1).map(|field| field.name().to_owned());
        // The organization is checked first and alone, so that a caller without access learns nothing about the other
        // fields. With an invalid mask, the fields to check are unknown.
        let organization_first = first.as_deref() == Some("organization") && depends_on_organization(&method);
        let skip = if organization_first { &["organization", "update_mask"][..] } else { &["update_mask"] };
        let mut names = Vec::new();
        let bad = all_wrong(&base, skip, &mut names, "");
        names.sort();
        if names.is_empty() {
            continue;
        }
        let status = fixture.call(&method, without_validate_only(bad)).await.expect_err(method.full_name());
        assert_eq!(violations(&status), names, "{}", method.full_name());
    }
    fixture.assert_unchanged().await;
}

#[tokio::test]
async fn an_invalid_organization_is_the_only_field_named() {
    let mut fixture = Fixture::new().await;
    for (method, base) in good_requests(&fixture).into_iter().filter(|(method, _)| depends_on_organization(method)) {
        if base.get_field_by_name("organization").is_none() {
            continue;
        }
        let bad = all_wrong(&base, &[], &mut Vec::new(), "");
        let status = fixture.call(&method, without_validate_only(bad)).await.expect_err(method.full_name());
        assert_eq!(violations(&status), ["organization"], "{}", method.full_name());
    }
}

#[tokio::test]
async fn a_verified_address_must_be_an_address() {
    let fixture = Fixture::new().await;
    let request = pb::PutUserRequest { user_id: "new".to_owned(), email_verified: true, ..Default::default() };
    let status = fixture.server.operator().users.put_user(request).await.unwrap_err();
    assert_eq!(violations(&status), ["email_verified"]);
    let request = pb::PutUserRequest {
        email: "x".to_owned(),
        user_id: "\0".to_owned(),
        email_verified: true,
        ..Default::default()
    };
    let status = fixture.server.operator().users.put_user(request).await.unwrap_err();
    assert_eq!(violations(&status), ["email", "user_id"]);
    fixture.assert_unchanged().await;
}

#[tokio::test]
async fn an_inactive_organization_needs_an_owner() {
    let fixture = Fixture::new().await;
    let request = pb::CreateOrganizationRequest { inactive: true, ..crate::harness::organization("Gamma") };
    let status = fixture.server.operator().organizations.create_organization(request).await.unwrap_err();
    assert_eq!(violations(&status), ["inactive"]);
    fixture.assert_unchanged().await;
}

#[tokio::test]
async fn a_field_of_the_owner_without_an_owner_is_named() {
    let fixture = Fixture::new().await;
    let (by_id, by_email) = ("grace".to_owned(), "grace@example.com".to_owned());
    let base = crate::harness::organization("Gamma");
    let none = pb::CreateOrganizationRequest { validate_only: true, ..base };
    let by_id = pb::CreateOrganizationRequest { owner_user_id: by_id, ..none.clone() };
    let by_email = pb::CreateOrganizationRequest { owner_email: by_email, ..none.clone() };
    let delivered = |request: &pb::CreateOrganizationRequest| pb::CreateOrganizationRequest {
        owner_delivery: pb::InvitationDelivery::Token.into(),
        ..request.clone()
    };
    let located = |request: &pb::CreateOrganizationRequest| pb::CreateOrganizationRequest {
        owner_locale: "de".to_owned(),
        ..request.clone()
    };
    let described = |request: &pb::CreateOrganizationRequest| pb::CreateOrganizationRequest {
        owner_attributes: Some(nested(2)),
        ..request.clone()
    };
    let cases = [
        (delivered(&none), Some("owner_delivery")),
        (delivered(&by_id), Some("owner_delivery")),
        (delivered(&by_email), None),
        (located(&none), Some("owner_locale")),
        (located(&by_id), Some("owner_locale")),
        (located(&by_email), None),
        (described(&none), Some("owner_attributes")),
        (described(&by_id), None),
        (described(&by_email), None),
    ];
    for (request, field) in cases {
        let answer = fixture.server.operator().organizations.create_organization(request.clone()).await;
        let named = answer.err().map(|status| violations(&status)).unwrap_or_default();
        assert_eq!(named, field.into_iter().collect::<Vec<_>>(), "{request:?}");
    }
    // A calling user is the owner.
    let request = described(&none);
    fixture.ada.clone().organizations.create_organization(request).await.unwrap();
    fixture.assert_unchanged().await;
}

#[tokio::test]
async fn values_at_the_limits_are_accepted() {
    let mut fixture = Fixture::new().await;
    let method = message("CreateOrganizationRequest");
    let base = good(&fixture, &method);
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
        let answer = fixture.call(&create, message.encode_to_vec()).await;
        assert!(answer.is_ok(), "{message:.300}: {answer:?}");
    }
    fixture.assert_unchanged().await;
}

#[tokio::test]
async fn page_tokens_belong_to_their_request() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let fixture = Fixture::new().await;
    let mut operator = fixture.server.operator();
    let first = pb::ListOrganizationsRequest { page_size: 1, ..Default::default() };
    let token = operator.organizations.list_organizations(first.clone()).await.unwrap().into_inner().next_page_token;
    let again = pb::ListOrganizationsRequest { page_token: token.clone(), ..first.clone() };
    assert_eq!(operator.organizations.list_organizations(again).await.unwrap().into_inner().organizations.len(), 1);

    let members = pb::ListMembersRequest {
        organization: fixture.organization.clone(),
        page_token: token.clone(),
        ..Default::default()
    };
    let status = operator.organizations.list_members(members).await.unwrap_err();
    assert_eq!(violations(&status), ["page_token"]);
    let own =
        pb::ListUserOrganizationsRequest { user_id: "ada".to_owned(), page_token: token.clone(), ..Default::default() };
    let status = operator.organizations.list_user_organizations(own).await.unwrap_err();
    assert_eq!(violations(&status), ["page_token"]);
    let other = pb::ListOrganizationsRequest { kind: "vendor".to_owned(), page_token: token.clone(), ..first.clone() };
    let status = operator.organizations.list_organizations(other).await.unwrap_err();
    assert_eq!((status.code(), violations(&status)), (Code::InvalidArgument, vec!["page_token".to_owned()]));

    // The head of a valid page token, with other bytes after it.
    let head = URL_SAFE_NO_PAD.decode(&token).unwrap()[..9].to_vec();
    let id = fixture.organization.as_bytes();
    for tail in [&[][..], b"x", &[0xff; 40], &[0; 40], &[id, b"a\0"].concat(), &[id, &[0xff]].concat()] {
        let token = URL_SAFE_NO_PAD.encode([&head, tail].concat());
        let forged = pb::ListOrganizationsRequest { page_token: token, ..first.clone() };
        let status = operator.organizations.list_organizations(forged).await.unwrap_err();
        assert_eq!(violations(&status), ["page_token"], "{tail:?}");
    }
}

#[tokio::test]
async fn numbers_in_attributes_are_stored_exactly() {
    let fixture = Fixture::new().await;
    let numbers =
        [f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, 0.1, 1e21, 1e300 / 3.0, 2e-10 / 3.0, 9_007_199_254_740_993.0];
    let value = |number| prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(number)) };
    let fields = numbers.iter().enumerate().map(|(index, number)| (index.to_string(), value(*number))).collect();
    let attributes = Some(prost_types::Struct { fields });
    let mut ada = fixture.server.user_with_email("ada");
    let request =
        pb::CreateOrganizationRequest { attributes: attributes.clone(), ..crate::harness::organization("Numbers") };
    let created = ada.organizations.create_organization(request).await.unwrap().into_inner().organization.unwrap();
    let request = pb::GetOrganizationRequest { organization: created.id };
    let read = ada.organizations.get_organization(request).await.unwrap().into_inner().organization.unwrap();
    assert_eq!(read.attributes, attributes);
}
