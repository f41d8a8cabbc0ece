//! Inputs of `UserService`.

use super::{FieldReader, InvalidFields};
use crate::authn::Profile;
use crate::domain::{DisplayName, EmailAddress, Invalid, UserId};
use crate::grpc::pb;

/// The input of `PutUser`.
pub(in crate::grpc) fn put(
    message: &pb::PutUserRequest,
    fields: &mut FieldReader,
) -> Result<(UserId, Profile), InvalidFields> {
    let user = fields.take("user_id", UserId::parse(&message.user_id));
    let email = fields.optional("email", &message.email, EmailAddress::parse);
    let display_name = fields.optional("display_name", &message.display_name, DisplayName::parse);
    if message.email_verified && message.email.is_empty() {
        return Err(fields.wrong("email_verified", Invalid::new("needs an email")));
    }
    let profile = Profile { email: email?, email_verified: message.email_verified, display_name: display_name? };
    Ok((user?, profile))
}
