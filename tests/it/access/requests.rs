//! The requests of the access tests: the harness's samples, about the organizations of the fixture.

use super::fixture::{DELETED_USER, INACTIVE_USER, MEMBER, Organization};
use crate::harness::samples::{Setup, Target, Write, sample, setup};
use roster::authz::rules::Method;

/// The sample request of a method in every form: the id and the slug of an organization are looked up in two ways, and
/// so are the token and the id of an invitation. A user who answers an invitation answers the one to their own address.
pub fn forms(method: &Method, organization: &Organization, user: Option<&str>) -> Vec<Vec<u8>> {
    let received = &organization.invited[user.unwrap_or(MEMBER)];
    let mut forms = Vec::new();
    for name in [&organization.id, &organization.slug] {
        for by_id in [false, true] {
            let target =
                Target { received: received.clone(), by_id, ..target(method, name, &organization.invitation, user) };
            let message = message(method, &target);
            if !forms.contains(&message) {
                forms.push(message);
            }
        }
    }
    forms
}

/// The sample request of a method, about the organization of this name or about an invitation into it. Users ask for
/// their own account where the method reads one.
pub fn request(method: &Method, organization: &str, invitation: &str, user: Option<&str>) -> Vec<u8> {
    message(method, &target(method, organization, invitation, user))
}

fn target(method: &Method, organization: &str, invitation: &str, user: Option<&str>) -> Target {
    let member = match setup(method) {
        Setup::InactiveMember => INACTIVE_USER,
        Setup::DeletedMember => DELETED_USER,
        _ => MEMBER,
    };
    Target {
        organization: organization.to_owned(),
        member: member.to_owned(),
        account: user.unwrap_or(MEMBER).to_owned(),
        invitation: invitation.to_owned(),
        ..Target::default()
    }
}

fn message(method: &Method, target: &Target) -> Vec<u8> {
    let (_, message) = sample(method, target, &Write::default())
        .unwrap_or_else(|| panic!("{} has no sample request in the harness", method.path));
    message
}
