//! `OrganizationService`: decode, call, encode.

use super::admit::sealed::Sealed;
use super::admit::{Api, answer, read};
use super::convert::{self, Viewer};
use super::decode::{FieldReader, InvalidFields, UserReference};
use super::invitation::delivery;
use super::page::Page;
use super::pb::organization_service_server::OrganizationService;
use super::{pb, status};
use crate::authn::Caller;
use crate::domain::ids::parse_uuid;
use crate::domain::{
    EmailAddress, Invalid, Kind, Name, OrganizationId, OrganizationState, Refusal, Role, Slug, UserId,
};
use crate::grpc::limits;
use crate::service::Roster;
use crate::service::invitations::Terms;
use crate::service::members::{AddMember, BatchAddMembers, Person, RemoveMember, TransferOwnership, UpdateMember};
use crate::service::organizations::{
    CreateOrganization, CreatedOrganization, DeleteOrganization, Owner, UpdateOrganization,
};
use crate::service::reads::{MemberFilter, OrganizationFilter, OrganizationPageKey, UserOrganizationFilter};
use tonic::{Request, Response, Status, async_trait};

/// Declares how a request names its person, for each of the types that protobuf makes of one `oneof`.
macro_rules! named {
    ($request:ident, $module:ident) => {
        impl pb::$request {
            fn named(&self) -> Option<UserReference<'_>> {
                use pb::$module::Person as Field;
                self.person.as_ref().map(|person| match person {
                    Field::UserId(id) => UserReference::UserId(id),
                    Field::Email(email) => UserReference::Email(email),
                })
            }
        }
    };
}

named!(AddMemberRequest, add_member_request);
named!(EnsureMemberRequest, ensure_member_request);
named!(BatchAddMembersItem, batch_add_members_item);
named!(TransferOwnershipRequest, transfer_ownership_request);

fn etag(etag: &str) -> Option<String> {
    (!etag.is_empty()).then(|| etag.to_owned())
}

fn add_member(
    fields: &mut FieldReader,
    named: Option<UserReference<'_>>,
    role: &str,
    attributes: Option<&prost_types::Struct>,
) -> Result<AddMember, InvalidFields> {
    let person: Result<Person, InvalidFields> = fields.person(named);
    let role = fields.optional("role", role, Role::parse_assignable);
    let attributes = fields.attributes("attributes", attributes);
    Ok(AddMember { person: person?, role: role?.unwrap_or(Role::MEMBER), attributes: attributes?, notify: None })
}

fn create(
    message: &pb::CreateOrganizationRequest,
    fields: &mut FieldReader,
) -> Result<CreateOrganization, InvalidFields> {
    let name = fields.take("name", Name::parse(&message.name));
    let slug = fields.optional("slug", &message.slug, Slug::parse);
    let kind = fields.kind(&message.kind);
    let attributes = fields.attributes("attributes", message.attributes.as_ref());
    let owner = owner(message, fields);
    let owner_attributes = fields.attributes("owner_attributes", message.owner_attributes.as_ref());
    Ok(CreateOrganization {
        name: name?,
        slug: slug?,
        kind: kind?.unwrap_or_else(Kind::default_kind),
        attributes: attributes?,
        owner: owner?,
        owner_attributes: owner_attributes?,
        inactive: message.inactive,
    })
}

fn owner(message: &pb::CreateOrganizationRequest, fields: &mut FieldReader) -> Result<Option<Owner>, InvalidFields> {
    let delivery = delivery(fields, "owner_delivery", message.owner_delivery);
    match (message.owner_user_id.as_str(), message.owner_email.as_str()) {
        ("", "") => delivery.map(|_| None),
        (id, "") => {
            let user = fields.take("owner_user_id", UserId::parse(id)).map(Owner::User);
            delivery?;
            user.map(Some)
        }
        ("", email) => {
            let address = fields.take("owner_email", EmailAddress::parse(email));
            let terms = Terms {
                delivery: delivery?,
                life: crate::service::limits::INVITATION_LIFE,
                dry_run: message.validate_only,
            };
            Ok(Some(Owner::Address(address?, terms)))
        }
        (_, _) => Err(fields.wrong("owner_email", Invalid::new("the owner by id or by address, not both"))),
    }
}

fn update(
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

fn update_member(message: &pb::UpdateMemberRequest, fields: &mut FieldReader) -> Result<UpdateMember, InvalidFields> {
    let user = fields.take("user_id", UserId::parse(&message.user_id));
    let filled = [!message.role.is_empty(), message.attributes.is_some()];
    let mask = fields.mask(message.update_mask.as_ref(), ["role", "attributes"], filled);
    let [role, attributes] = mask?;
    let role = role.then(|| fields.take("role", Role::parse_assignable(&message.role))).transpose();
    let attributes = attributes.then(|| fields.attributes("attributes", message.attributes.as_ref())).transpose();
    Ok(UpdateMember { user: user?, role: role?, attributes: attributes?, etag: etag(&message.etag) })
}

fn batch(message: &pb::BatchAddMembersRequest, fields: &mut FieldReader) -> Result<BatchAddMembers, InvalidFields> {
    if !(1..=limits::BATCH_WRITES).contains(&message.items.len()) {
        return Err(fields.wrong("items", Invalid::new("1 to 100 items")));
    }
    let items = fields
        .items(&message.items, |fields, item| add_member(fields, item.named(), &item.role, item.attributes.as_ref()));
    Ok(BatchAddMembers { items: items?, all_or_nothing: message.all_or_nothing })
}

/// The key of a list ordered by name and id: the id in 36 characters, then the name.
fn name_key(id: OrganizationId, name: &Name) -> Vec<u8> {
    format!("{id}{}", name.as_str()).into_bytes()
}

fn after_name(fields: &mut FieldReader, page: &Page) -> Result<Option<OrganizationPageKey>, InvalidFields> {
    let Some(key) = &page.after else { return Ok(None) };
    let text = std::str::from_utf8(key).ok();
    let parts = text.and_then(|text| text.split_at_checked(36)).filter(|(_, name)| !name.contains('\0'));
    let after = parts.and_then(|(id, name)| {
        Some(OrganizationPageKey { id: OrganizationId::from_uuid(parse_uuid(id)?), name: name.to_owned() })
    });
    fields.take("page_token", after.ok_or_else(|| Invalid::new("not a page_token of this request"))).map(Some)
}

fn list(
    message: &pb::ListOrganizationsRequest,
    fields: &mut FieldReader,
) -> Result<(Page, OrganizationFilter), InvalidFields> {
    let kind = fields.kind(&message.kind);
    let states = fields.states(&message.states, &OrganizationState::ALL);
    // What a name may hold may be searched for.
    let search = fields.optional("search", &message.search, Name::parse);
    let told = format!("{:?}", message.states);
    let page = Page::read(
        fields,
        message.page_size,
        &message.page_token,
        &["organizations", &message.kind, &told, &message.search],
    )?;
    let after = after_name(fields, &page);
    let filter = OrganizationFilter {
        kind: kind?,
        states: states?,
        search: search?.map(Name::into_string),
        after: after?,
        limit: page.limit(),
    };
    Ok((page, filter))
}

fn list_mine(
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
    let states = fields.states(&message.states, &[OrganizationState::Active, OrganizationState::Inactive]);
    let told = format!("{:?}", message.states);
    let page = Page::read(
        fields,
        message.page_size,
        &message.page_token,
        // Tokens of the time when this list was by name are no good any more.
        &["of user, by id", &message.user_id, &message.kind, &told],
    )?;
    let after = page.after.as_ref().map(|key| {
        let id = uuid::Uuid::from_slice(key).map(OrganizationId::from_uuid);
        fields.take("page_token", id.map_err(|_| Invalid::new("not a page_token of this request")))
    });
    let filter =
        UserOrganizationFilter { kind: kind?, states: states?, after: after.transpose()?, limit: page.limit() };
    Ok((user?, page, filter))
}

fn list_members(
    message: &pb::ListMembersRequest,
    fields: &mut FieldReader,
) -> Result<(Page, MemberFilter), InvalidFields> {
    let role = fields.optional("role", &message.role, Role::parse);
    let filter = ["members", &message.organization, &message.role];
    let page = Page::read(fields, message.page_size, &message.page_token, &filter)?;
    let after = page.after.as_ref().map(|key| {
        let user = std::str::from_utf8(key).ok().and_then(|text| UserId::parse(text).ok());
        fields.take("page_token", user.ok_or_else(|| Invalid::new("not a page_token of this request")))
    });
    let after = after.transpose()?.map(|user| user.to_string());
    Ok((page.clone(), MemberFilter { role: role?, after, limit: page.limit() }))
}

/// Declares the handlers whose answer is one organization and a token.
macro_rules! organization_answer {
    ($written:expr, $response:ident) => {{
        let (_, _, written) = $written?;
        let organization = Some(convert::organization(&written.answer));
        answer(pb::$response { organization, consistency_token: written.token })
    }};
}

/// Declares the handlers whose answer is one member and a token.
macro_rules! member_answer {
    ($written:expr, $response:ident) => {{
        let (access, caller, written) = $written?;
        let viewer = Viewer::new(&caller, access.map(|access| access.grant()));
        let member = Some(convert::member(&viewer, &written.answer));
        answer(pb::$response { member, consistency_token: written.token })
    }};
}

#[async_trait]
impl OrganizationService for Api {
    async fn create_organization(
        &self,
        request: Request<Sealed<pb::CreateOrganizationRequest>>,
    ) -> Result<Response<pb::CreateOrganizationResponse>, Status> {
        let run =
            |roster: Roster, caller, meta, input| async move { roster.create_organization(caller, meta, input).await };
        let written = self.write_as(request, create, run).await?;
        let CreatedOrganization { organization, owner } = &written.answer;
        answer(pb::CreateOrganizationResponse {
            organization: Some(convert::organization(organization)),
            consistency_token: written.token,
            owner_invitation: owner.as_ref().map(|invited| convert::invitation(&invited.invitation)),
            owner_token: owner
                .as_ref()
                .and_then(|invited| invited.token.as_ref())
                .map(|token| token.expose().to_owned())
                .unwrap_or_default(),
        })
    }

    async fn get_organization(
        &self,
        request: Request<Sealed<pb::GetOrganizationRequest>>,
    ) -> Result<Response<pb::GetOrganizationResponse>, Status> {
        let (_, access) = self.admit(request).await?;
        let organization = self.roster().get_organization(&access).await?;
        answer(pb::GetOrganizationResponse { organization: Some(convert::organization(&organization)) })
    }

    async fn list_organizations(
        &self,
        request: Request<Sealed<pb::ListOrganizationsRequest>>,
    ) -> Result<Response<pb::ListOrganizationsResponse>, Status> {
        let (message, caller) = self.admit_caller(request).await?;
        let (page, filter) = read(|fields| list(&message, fields))?;
        if filter.states.contains(&OrganizationState::Deleted) && !caller.is_operator() {
            return Err(status::refused(&Refusal::OperatorRequired));
        }
        let found = self.roster().list_organizations(&filter).await?;
        let (organizations, next_page_token) =
            page.show(&found, convert::organization, |last| name_key(last.id, &last.name));
        answer(pb::ListOrganizationsResponse { organizations, next_page_token })
    }

    async fn update_organization(
        &self,
        request: Request<Sealed<pb::UpdateOrganizationRequest>>,
    ) -> Result<Response<pb::UpdateOrganizationResponse>, Status> {
        let run =
            |roster: Roster, access, meta, input| async move { roster.update_organization(access, meta, input).await };
        organization_answer!(self.write_in(request, update, run).await, UpdateOrganizationResponse)
    }

    async fn activate_organization(
        &self,
        request: Request<Sealed<pb::ActivateOrganizationRequest>>,
    ) -> Result<Response<pb::ActivateOrganizationResponse>, Status> {
        let run =
            |roster: Roster, access, meta, ()| async move { roster.set_organization_active(access, meta, true).await };
        organization_answer!(self.write_in(request, |_, _| Ok(()), run).await, ActivateOrganizationResponse)
    }

    async fn deactivate_organization(
        &self,
        request: Request<Sealed<pb::DeactivateOrganizationRequest>>,
    ) -> Result<Response<pb::DeactivateOrganizationResponse>, Status> {
        let run =
            |roster: Roster, access, meta, ()| async move { roster.set_organization_active(access, meta, false).await };
        organization_answer!(self.write_in(request, |_, _| Ok(()), run).await, DeactivateOrganizationResponse)
    }

    async fn delete_organization(
        &self,
        request: Request<Sealed<pb::DeleteOrganizationRequest>>,
    ) -> Result<Response<pb::DeleteOrganizationResponse>, Status> {
        let input = |message: &pb::DeleteOrganizationRequest, _: &mut FieldReader| {
            Ok(DeleteOrganization { purge: message.purge, etag: etag(&message.etag) })
        };
        let run =
            |roster: Roster, access, meta, input| async move { roster.delete_organization(access, meta, input).await };
        organization_answer!(self.write_in(request, input, run).await, DeleteOrganizationResponse)
    }

    async fn undelete_organization(
        &self,
        request: Request<Sealed<pb::UndeleteOrganizationRequest>>,
    ) -> Result<Response<pb::UndeleteOrganizationResponse>, Status> {
        let run = |roster: Roster, access, meta, ()| async move { roster.undelete_organization(access, meta).await };
        organization_answer!(self.write_in(request, |_, _| Ok(()), run).await, UndeleteOrganizationResponse)
    }

    async fn add_member(
        &self,
        request: Request<Sealed<pb::AddMemberRequest>>,
    ) -> Result<Response<pb::AddMemberResponse>, Status> {
        let input = |message: &pb::AddMemberRequest, fields: &mut FieldReader| {
            add_member(fields, message.named(), &message.role, message.attributes.as_ref())
        };
        let run = |roster: Roster, access, meta, input| async move { roster.add_member(access, meta, input).await };
        member_answer!(self.write_in(request, input, run).await, AddMemberResponse)
    }

    async fn ensure_member(
        &self,
        request: Request<Sealed<pb::EnsureMemberRequest>>,
    ) -> Result<Response<pb::EnsureMemberResponse>, Status> {
        let input = |message: &pb::EnsureMemberRequest, fields: &mut FieldReader| {
            add_member(fields, message.named(), &message.role, message.attributes.as_ref())
        };
        let run = |roster: Roster, access, meta, input| async move { roster.ensure_member(access, meta, input).await };
        let (access, caller, written) = self.write_in(request, input, run).await?;
        let viewer = Viewer::new(&caller, access.map(|access| access.grant()));
        answer(pb::EnsureMemberResponse {
            member: Some(convert::member(&viewer, &written.answer.member)),
            consistency_token: written.token,
            created: written.answer.created,
        })
    }

    async fn batch_add_members(
        &self,
        request: Request<Sealed<pb::BatchAddMembersRequest>>,
    ) -> Result<Response<pb::BatchAddMembersResponse>, Status> {
        let run =
            |roster: Roster, access, meta, input| async move { roster.batch_add_members(access, meta, input).await };
        let (access, caller, written) = self.write_in(request, batch, run).await?;
        let viewer = Viewer::new(&caller, access.map(|access| access.grant()));
        let result = |outcome: &Result<_, Refusal>| match outcome {
            Ok(member) => pb::BatchAddMembersResult {
                status: Some(tonic_types::pb::Status::default()),
                member: Some(convert::member(&viewer, member)),
            },
            Err(refusal) => pb::BatchAddMembersResult { status: Some(status::item(refusal)), member: None },
        };
        let results = written.answer.iter().map(result).collect();
        answer(pb::BatchAddMembersResponse { results, consistency_token: written.token })
    }

    async fn get_member(
        &self,
        request: Request<Sealed<pb::GetMemberRequest>>,
    ) -> Result<Response<pb::GetMemberResponse>, Status> {
        let (message, access) = self.admit(request).await?;
        let user = read(|fields| match (message.user_id.as_str(), access.caller().user()) {
            ("", Some(caller)) => Ok(caller.clone()),
            (id, _) => fields.take("user_id", UserId::parse(id)),
        })?;
        let member = self.roster().get_member(&access, &user).await?;
        let viewer = Viewer::new(access.caller(), Some(access.grant()));
        answer(pb::GetMemberResponse { member: Some(convert::member(&viewer, &member)) })
    }

    async fn list_members(
        &self,
        request: Request<Sealed<pb::ListMembersRequest>>,
    ) -> Result<Response<pb::ListMembersResponse>, Status> {
        let (message, access) = self.admit(request).await?;
        let (page, filter) = read(|fields| list_members(&message, fields))?;
        let found = self.roster().list_members(&access, &filter).await?;
        let viewer = Viewer::new(access.caller(), Some(access.grant()));
        let show = |member: &_| convert::member(&viewer, member);
        let (members, next_page_token) = page.show(&found, show, |last| last.user.id.to_string().into_bytes());
        answer(pb::ListMembersResponse { members, next_page_token })
    }

    async fn update_member(
        &self,
        request: Request<Sealed<pb::UpdateMemberRequest>>,
    ) -> Result<Response<pb::UpdateMemberResponse>, Status> {
        let run = |roster: Roster, access, meta, input| async move { roster.update_member(access, meta, input).await };
        member_answer!(self.write_in(request, update_member, run).await, UpdateMemberResponse)
    }

    async fn remove_member(
        &self,
        request: Request<Sealed<pb::RemoveMemberRequest>>,
    ) -> Result<Response<pb::RemoveMemberResponse>, Status> {
        let input = |message: &pb::RemoveMemberRequest, fields: &mut FieldReader| {
            let user = fields.take("user_id", UserId::parse(&message.user_id));
            Ok(RemoveMember { user: user?, etag: etag(&message.etag) })
        };
        let run = |roster: Roster, access, meta, input| async move { roster.remove_member(access, meta, input).await };
        member_answer!(self.write_in(request, input, run).await, RemoveMemberResponse)
    }

    async fn leave_organization(
        &self,
        request: Request<Sealed<pb::LeaveOrganizationRequest>>,
    ) -> Result<Response<pb::LeaveOrganizationResponse>, Status> {
        let run = |roster: Roster, access, meta, ()| async move { roster.leave_organization(access, meta).await };
        member_answer!(self.write_in(request, |_, _| Ok(()), run).await, LeaveOrganizationResponse)
    }

    async fn transfer_ownership(
        &self,
        request: Request<Sealed<pb::TransferOwnershipRequest>>,
    ) -> Result<Response<pb::TransferOwnershipResponse>, Status> {
        let input = |message: &pb::TransferOwnershipRequest, fields: &mut FieldReader| {
            let person = fields.person(message.named());
            Ok(TransferOwnership { person: person?, etag: etag(&message.etag) })
        };
        let run =
            |roster: Roster, access, meta, input| async move { roster.transfer_ownership(access, meta, input).await };
        organization_answer!(self.write_in(request, input, run).await, TransferOwnershipResponse)
    }

    async fn list_user_organizations(
        &self,
        request: Request<Sealed<pb::ListUserOrganizationsRequest>>,
    ) -> Result<Response<pb::ListUserOrganizationsResponse>, Status> {
        let (message, caller) = self.admit_caller(request).await?;
        let (named, page, filter) = read(|fields| list_mine(&message, caller.user(), fields))?;
        if let Caller::User(user) = &caller
            && user.id != named
        {
            let advice = "users list their own organizations: leave user_id out".to_owned();
            return Err(status::refused(&Refusal::CallerNotAllowed { caller: "user".to_owned(), advice }));
        }
        let found = self.roster().list_user_organizations(&named, &filter).await?;
        let show = |(organization, role): &(_, Role)| pb::UserOrganization {
            organization: Some(convert::organization(organization)),
            role: role.as_str().to_owned(),
        };
        let (organizations, next_page_token) =
            page.show(&found, show, |(last, _)| last.id.as_uuid().as_bytes().to_vec());
        answer(pb::ListUserOrganizationsResponse { organizations, next_page_token })
    }
}
