//! Inputs of `OrganizationService`.

use super::invitation::{delivery, lifetime};
use super::{FieldReader, InvalidFields, UserReference, borrow_oneof, item_count};
use crate::domain::ids::parse_uuid;
use crate::domain::{
    EmailAddress, Invalid, Kind, Locale, Name, OrganizationId, OrganizationState, Permission, PermissionName, RoleName,
    SearchText, Slug, UserId,
};
use crate::grpc::page::Page;
use crate::grpc::{convert, limits, pb};
use crate::service::invitations::Terms;
use crate::service::members::{
    AddMember, BatchAddMembers, MemberNotification, RemoveMember, TransferOwnership, UpdateMember,
};
use crate::service::organizations::{CreateOrganization, DeleteOrganization, Owner, UpdateOrganization};
use crate::service::reads::{MemberFilter, OrganizationFilter, OrganizationPageKey, UserOrganizationFilter};

/// The etag of a request; `None` asks for any version.
pub(super) fn etag(etag: &str) -> Option<String> {
    (!etag.is_empty()).then(|| etag.to_owned())
}

/// The input of `CreateOrganization`.
pub(in crate::grpc) fn create(
    message: &pb::CreateOrganizationRequest,
    fields: &mut FieldReader,
) -> Result<CreateOrganization, InvalidFields> {
    let name = fields.take("name", Name::parse(&message.name));
    let slug = fields.optional("slug", &message.slug, Slug::parse);
    let kind = fields.kind(&message.kind);
    let attributes = fields.attributes("attributes", message.attributes.as_ref());
    let owner = owner(message, fields);
    let owner_locale = only_by_email(fields, message, "owner_locale", !message.owner_locale.is_empty(), |fields| {
        fields.optional("owner_locale", &message.owner_locale, Locale::parse)
    });
    let owner_attributes = fields.attributes("owner_attributes", message.owner_attributes.as_ref());
    Ok(CreateOrganization {
        name: name?,
        slug: slug?,
        kind: kind?.unwrap_or_else(Kind::default_kind),
        attributes: attributes?,
        owner: owner?,
        owner_attributes: owner_attributes?,
        owner_locale: owner_locale?,
        inactive: message.inactive,
    })
}

/// Reads a field about the invitation of the owner, which only an owner by address gets.
fn only_by_email<T>(
    fields: &mut FieldReader,
    message: &pb::CreateOrganizationRequest,
    field: &str,
    is_set: bool,
    read: impl FnOnce(&mut FieldReader) -> Result<T, InvalidFields>,
) -> Result<T, InvalidFields> {
    let value = read(fields)?;
    if is_set && message.owner_email.is_empty() {
        return Err(fields.wrong(field, Invalid::new("only with owner_email: no other owner is invited")));
    }
    Ok(value)
}

fn owner(message: &pb::CreateOrganizationRequest, fields: &mut FieldReader) -> Result<Option<Owner>, InvalidFields> {
    let delivery = only_by_email(fields, message, "owner_delivery", message.owner_delivery != 0, |fields| {
        delivery(fields, "owner_delivery", message.owner_delivery)
    });
    let life = only_by_email(fields, message, "owner_lifetime", message.owner_lifetime.is_some(), |fields| {
        lifetime(fields, "owner_lifetime", message.owner_lifetime.as_ref())
    });
    match (message.owner_user_id.as_str(), message.owner_email.as_str()) {
        ("", "") => life.and(delivery).map(|_| None),
        (id, "") => {
            let user = fields.take("owner_user_id", UserId::parse_new(id)).map(Owner::User);
            life.and(delivery)?;
            user.map(Some)
        }
        ("", email) => {
            let address = fields.take("owner_email", EmailAddress::parse(email));
            let terms = Terms { delivery: delivery?, life: life?, dry_run: message.validate_only };
            Ok(Some(Owner::Address(address?, terms)))
        }
        (_, _) => Err(fields.wrong("owner_email", Invalid::new("the owner by id or by address, not both"))),
    }
}

/// The input of `UpdateOrganization`.
pub(in crate::grpc) fn update(
    message: &pb::UpdateOrganizationRequest,
    fields: &mut FieldReader,
) -> Result<UpdateOrganization, InvalidFields> {
    let filled = [!message.name.is_empty(), !message.slug.is_empty(), message.attributes.is_some()];
    let [name, slug, attributes] = fields.mask(message.update_mask.as_ref(), ["name", "slug", "attributes"], filled)?;
    let name = name.then(|| fields.take("name", Name::parse(&message.name))).transpose();
    let slug = slug.then(|| fields.take("slug", Slug::parse(&message.slug))).transpose();
    let attributes = attributes.then(|| fields.attributes("attributes", message.attributes.as_ref())).transpose();
    Ok(UpdateOrganization { name: name?, slug: slug?, attributes: attributes?, etag: etag(&message.etag) })
}

/// The input of `DeleteOrganization`.
#[expect(clippy::unnecessary_wraps, reason = "the shape of every reader")]
pub(in crate::grpc) fn delete(
    message: &pb::DeleteOrganizationRequest,
    _: &mut FieldReader,
) -> Result<DeleteOrganization, InvalidFields> {
    Ok(DeleteOrganization { purge: message.purge, etag: etag(&message.etag) })
}

/// The notification of new members, as a request names it.
fn notification(fields: &mut FieldReader, number: i32) -> Result<MemberNotification, InvalidFields> {
    match pb::MemberNotification::try_from(number) {
        Ok(pb::MemberNotification::Unspecified) => Ok(MemberNotification::Default),
        Ok(pb::MemberNotification::Email) => Ok(MemberNotification::Email),
        Ok(pb::MemberNotification::None) => Ok(MemberNotification::None),
        Err(_) => Err(fields.wrong("notify", Invalid::new("no such notification: one of EMAIL, NONE"))),
    }
}

/// The locale of the mail to a new member, of whom the server sends none unless the request asks for it.
fn mail_locale(
    fields: &mut FieldReader,
    text: &str,
    user: Option<UserReference<'_>>,
    notify: &Result<MemberNotification, InvalidFields>,
) -> Result<Option<Locale>, InvalidFields> {
    let locale = fields.optional("locale", text, Locale::parse)?;
    let has_no_mail = match notify {
        Ok(MemberNotification::None) => true,
        Ok(MemberNotification::Default) => matches!(user, Some(UserReference::UserId(_))),
        Ok(MemberNotification::Email) | Err(InvalidFields) => false,
    };
    if locale.is_some() && has_no_mail {
        let advice = "only for a mail: set notify to EMAIL, or leave it unset and name the user by email";
        return Err(fields.wrong("locale", Invalid::new(advice)));
    }
    Ok(locale)
}

fn member(
    fields: &mut FieldReader,
    user: Option<UserReference<'_>>,
    role: &str,
    attributes: Option<&prost_types::Struct>,
    locale: &str,
    notify: &Result<MemberNotification, InvalidFields>,
) -> Result<AddMember, InvalidFields> {
    let person = fields.person(user);
    let role = fields.optional("role", role, RoleName::parse_assignable);
    let attributes = fields.attributes("attributes", attributes);
    let locale = mail_locale(fields, locale, user, notify);
    let (role, attributes, locale) = (role?.unwrap_or(RoleName::MEMBER), attributes?, locale?);
    let Ok(notify) = *notify else { return Err(InvalidFields) };
    Ok(AddMember { person: person?, role, attributes, locale, notify })
}

/// The input of `AddMember`.
pub(in crate::grpc) fn add_member(
    message: &pb::AddMemberRequest,
    fields: &mut FieldReader,
) -> Result<AddMember, InvalidFields> {
    let user = borrow_oneof!(message.person, pb::add_member_request::Person => UserReference { UserId, Email });
    let notify = notification(fields, message.notify);
    member(fields, user, &message.role, message.attributes.as_ref(), &message.locale, &notify)
}

/// The input of `EnsureMember`.
pub(in crate::grpc) fn ensure_member(
    message: &pb::EnsureMemberRequest,
    fields: &mut FieldReader,
) -> Result<AddMember, InvalidFields> {
    let user = borrow_oneof!(message.person, pb::ensure_member_request::Person => UserReference { UserId, Email });
    let notify = notification(fields, message.notify);
    member(fields, user, &message.role, message.attributes.as_ref(), &message.locale, &notify)
}

/// The input of `BatchAddMembers`.
pub(in crate::grpc) fn add_members(
    message: &pb::BatchAddMembersRequest,
    fields: &mut FieldReader,
) -> Result<BatchAddMembers, InvalidFields> {
    let notify = notification(fields, message.notify);
    if !(1..=limits::BATCH_WRITES).contains(&message.items.len()) {
        return Err(fields.wrong("items", Invalid(item_count(limits::BATCH_WRITES))));
    }
    let items = fields.items(&message.items, |fields, item| {
        let user = borrow_oneof!(item.person, pb::batch_add_members_item::Person => UserReference { UserId, Email });
        member(fields, user, &item.role, item.attributes.as_ref(), &item.locale, &notify)
    });
    Ok(BatchAddMembers { items: items?, all_or_nothing: message.all_or_nothing })
}

/// The input of `UpdateMember`.
pub(in crate::grpc) fn update_member(
    message: &pb::UpdateMemberRequest,
    fields: &mut FieldReader,
) -> Result<UpdateMember, InvalidFields> {
    let user = fields.take("user_id", UserId::parse(&message.user_id));
    let filled = [!message.role.is_empty(), message.attributes.is_some()];
    let mask = fields.mask(message.update_mask.as_ref(), ["role", "attributes"], filled);
    let [role, attributes] = mask?;
    let role = role.then(|| fields.take("role", RoleName::parse_assignable(&message.role))).transpose();
    let attributes = attributes.then(|| fields.attributes("attributes", message.attributes.as_ref())).transpose();
    Ok(UpdateMember { user: user?, role: role?, attributes: attributes?, etag: etag(&message.etag) })
}

/// The input of `RemoveMember`.
pub(in crate::grpc) fn remove_member(
    message: &pb::RemoveMemberRequest,
    fields: &mut FieldReader,
) -> Result<RemoveMember, InvalidFields> {
    let user = fields.take("user_id", UserId::parse(&message.user_id));
    Ok(RemoveMember { user: user?, etag: etag(&message.etag) })
}

/// The input of `TransferOwnership`.
pub(in crate::grpc) fn transfer_ownership(
    message: &pb::TransferOwnershipRequest,
    fields: &mut FieldReader,
) -> Result<TransferOwnership, InvalidFields> {
    let user = borrow_oneof!(message.person, pb::transfer_ownership_request::Person => UserReference { UserId, Email });
    let person = fields.person(user);
    Ok(TransferOwnership { person: person?, etag: etag(&message.etag) })
}

/// The key of a list ordered by name and id: the id in 36 characters, then the name.
pub(in crate::grpc) fn name_key(id: OrganizationId, name: &Name) -> Vec<u8> {
    format!("{id}{}", name.as_str()).into_bytes()
}

fn after_name(key: &[u8]) -> Option<OrganizationPageKey> {
    let (id, name) = std::str::from_utf8(key).ok()?.split_at_checked(36)?;
    let id = OrganizationId::from_uuid(parse_uuid(id)?);
    // Postgres takes no NUL in a text.
    (!name.contains('\0')).then(|| OrganizationPageKey { id, name: name.to_owned() })
}

fn states(
    fields: &mut FieldReader,
    numbers: &[i32],
    allowed: &[OrganizationState],
) -> Result<Vec<OrganizationState>, InvalidFields> {
    let number_and_name = |state| (convert::organization_state(state).into(), OrganizationState::as_str(state));
    fields.states(numbers, OrganizationState::Active, allowed, OrganizationState::ALL.len(), number_and_name)
}

/// The input of `ListOrganizations`.
pub(in crate::grpc) fn list(
    message: &pb::ListOrganizationsRequest,
    fields: &mut FieldReader,
) -> Result<(Page, OrganizationFilter), InvalidFields> {
    let kind = fields.kind(&message.kind);
    let states = states(fields, &message.states, &OrganizationState::ALL);
    let search = fields.optional("search", &message.search, SearchText::parse);
    let state_list = format!("{:?}", message.states);
    let filter = ["organizations", &message.kind, &state_list, &message.search];
    let page = Page::read(fields, message.page_size, &message.page_token, &filter)?;
    let after = page.key(fields, after_name);
    let filter =
        OrganizationFilter { kind: kind?, states: states?, search: search?, after: after?, limit: page.limit() };
    Ok((page, filter))
}

/// The input of `ListUserOrganizations`. `caller` is the calling user, whose organizations are listed where the message
/// names no user.
pub(in crate::grpc) fn list_of_user(
    message: &pb::ListUserOrganizationsRequest,
    caller: Option<&UserId>,
    fields: &mut FieldReader,
) -> Result<(UserId, Page, UserOrganizationFilter), InvalidFields> {
    let user = match (message.user_id.as_str(), caller) {
        ("", Some(caller)) => Ok(caller.clone()),
        ("", None) => Err(fields.wrong("user_id", Invalid::new("name the user: you are none"))),
        (id, _) => fields.take("user_id", UserId::parse(id)),
    };
    let kind = fields.kind(&message.kind);
    let states = states(fields, &message.states, &[OrganizationState::Active, OrganizationState::Inactive]);
    let state_list = format!("{:?}", message.states);
    // The first part also refuses page tokens of the time when this list was ordered by name.
    let filter = ["of user, by id", &message.user_id, &message.kind, &state_list];
    let page = Page::read(fields, message.page_size, &message.page_token, &filter)?;
    let after = page.key(fields, |key| uuid::Uuid::from_slice(key).ok().map(OrganizationId::from_uuid));
    let filter = UserOrganizationFilter { kind: kind?, states: states?, after: after?, limit: page.limit() };
    Ok((user?, page, filter))
}

/// The input of `ListMembers`.
pub(in crate::grpc) fn list_members(
    message: &pb::ListMembersRequest,
    fields: &mut FieldReader,
) -> Result<(Page, MemberFilter), InvalidFields> {
    let role = fields.optional("role", &message.role, RoleName::parse);
    let filter = ["members", &message.organization, &message.role];
    let page = Page::read(fields, message.page_size, &message.page_token, &filter)?;
    let after = page.key(fields, |key| UserId::parse(std::str::from_utf8(key).ok()?).ok())?;
    let limit = page.limit();
    let roles = role?.map(|role| vec![role]);
    Ok((page, MemberFilter { roles, after: after.map(|user| user.to_string()), limit }))
}

/// The input of `ListMembersWithPermission`: the page, the word of the permission, and the members from which to go on. A
/// well-formed word of the application may not be declared.
pub(in crate::grpc) fn list_members_with_permission(
    message: &pb::ListMembersWithPermissionRequest,
    fields: &mut FieldReader,
) -> Result<(Page, String, MemberFilter), InvalidFields> {
    let word = &message.permission;
    let is_reserved = Permission::find(word).is_some_and(Permission::is_reserved);
    let is_possible = is_reserved || PermissionName::parse(word).is_ok();
    let word =
        fields.take("permission", if is_possible { Ok(word.clone()) } else { Err(Invalid::new("no such permission")) });
    let filter = ["members with permission", &message.organization, &message.permission];
    let page = Page::read(fields, message.page_size, &message.page_token, &filter)?;
    let after = page.key(fields, |key| UserId::parse(std::str::from_utf8(key).ok()?).ok())?;
    let filter = MemberFilter { roles: None, after: after.map(|user| user.to_string()), limit: page.limit() };
    Ok((page, word?, filter))
}
