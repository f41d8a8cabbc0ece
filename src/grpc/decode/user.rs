//! Inputs of `UserService`.

use super::{FieldReader, InvalidFields};
use crate::domain::{DisplayName, EmailAddress, Invalid, UserId, UserState};
use crate::grpc::page::Page;
use crate::grpc::{convert, pb};
use crate::service::profiles::Profile;
use crate::service::users::UserFilter;

/// The input of `PutUser`.
pub(in crate::grpc) fn put(
    message: &pb::PutUserRequest,
    fields: &mut FieldReader,
) -> Result<(UserId, Profile), InvalidFields> {
    let user = fields.take("user_id", UserId::parse_new(&message.user_id));
    let email = fields.optional("email", &message.email, EmailAddress::parse);
    let display_name = fields.optional("display_name", &message.display_name, DisplayName::parse);
    if message.email_verified && message.email.is_empty() {
        return Err(fields.wrong("email_verified", Invalid::new("needs an email")));
    }
    let profile = Profile { email: email?, email_verified: message.email_verified, display_name: display_name? };
    Ok((user?, profile))
}

/// The input of `ListUsers`.
pub(in crate::grpc) fn list(
    message: &pb::ListUsersRequest,
    fields: &mut FieldReader,
) -> Result<(Page, UserFilter), InvalidFields> {
    let all = UserState::ALL;
    let number_and_name = |state| (convert::user_state(state).into(), UserState::as_str(state));
    let states = fields.states(&message.states, UserState::Active, &all, all.len(), number_and_name);
    let email = fields.optional("email", &message.email, EmailAddress::parse);
    let state_list = format!("{:?}", message.states);
    let page = Page::read(fields, message.page_size, &message.page_token, &["users", &state_list, &message.email])?;
    let after = page.key(fields, |key| UserId::parse(std::str::from_utf8(key).ok()?).ok());
    let limit = page.limit();
    Ok((page, UserFilter { states: states?, email: email?, after: after?, limit }))
}
