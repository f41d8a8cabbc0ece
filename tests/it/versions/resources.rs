//! The resources, found by their descriptors, and everything that an operator can read of them.

use crate::harness::dynamic::{self, Caller};
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor, MethodDescriptor, ReflectMessage, Value};
use roster::grpc::pb;
use std::collections::{BTreeMap, BTreeSet};

/// The fields that identify a resource within its type.
const KEYS: [(&str, &[&str]); 6] = [
    ("GetAccessModelResponse", &[]),
    ("Invitation", &["organization", "invitation_id"]),
    ("Member", &["organization", "user_id"]),
    ("Organization", &["id"]),
    ("Role", &["organization", "name"]),
    ("User", &["user_id"]),
];

/// Answers with the etag of a resource that they do not hold.
const OTHER_ANSWERS: [&str; 1] = ["ApplyAccessModelResponse"];

/// The type of a resource, and the values of the fields that identify it.
pub type Key = (String, Vec<String>);

/// Resources by their keys.
pub type Resources = BTreeMap<Key, DynamicMessage>;

/// The messages with a version.
pub fn types() -> Vec<MessageDescriptor> {
    let requests: BTreeSet<String> = dynamic::methods().iter().map(|method| method.input().name().to_owned()).collect();
    let is_resource = |message: &MessageDescriptor| {
        message.package_name() == "roster.v1"
            && (message.get_field_by_name("update_time").is_some() || message.get_field_by_name("etag").is_some())
            && !requests.contains(message.name())
            && !OTHER_ANSWERS.contains(&message.name())
    };
    dynamic::descriptors().all_messages().filter(is_resource).collect()
}

/// Why the version does not cover a field: the value of its option; `None` for a covered field.
pub fn exclusion(field: &FieldDescriptor) -> Option<i32> {
    let option = dynamic::descriptors().get_extension_by_name("roster.v1.version_exclusion").unwrap();
    let options = field.options();
    options.has_extension(&option).then(|| options.get_extension(&option).as_enum_number().unwrap())
}

/// Whether a field is the version itself.
pub fn is_version(field: &FieldDescriptor) -> bool {
    ["etag", "update_time"].contains(&field.name())
}

/// The resources in a message.
pub fn collect(message: &DynamicMessage, into: &mut Resources) {
    let name = message.descriptor().name().to_owned();
    if let Some((_, fields)) = KEYS.iter().find(|(resource, _)| *resource == name) {
        let text = |field: &&str| message.get_field_by_name(field).unwrap().as_str().unwrap().to_owned();
        into.insert((name, fields.iter().map(text).collect()), message.clone());
    }
    for (_, value) in message.fields() {
        match value {
            Value::Message(inner) => collect(inner, into),
            Value::List(items) => items.iter().filter_map(Value::as_message).for_each(|inner| collect(inner, into)),
            _ => {}
        }
    }
}

/// A method by its name.
pub fn method(name: &str) -> MethodDescriptor {
    dynamic::methods().into_iter().find(|method| method.name() == name).unwrap()
}

/// An operator who reads everything.
pub struct Reader(pub Caller);

impl Reader {
    async fn read(&mut self, name: &str, request: impl Message, into: &mut Resources) {
        let method = method(name);
        let answer = self.0.call(&method, request.encode_to_vec()).await.unwrap();
        let answer = DynamicMessage::decode(method.output(), answer.as_slice()).unwrap();
        assert!(answer.get_field_by_name("next_page_token").is_none_or(|token| token.as_str() == Some("")), "{name}");
        collect(&answer, into);
    }

    /// Reads every resource.
    pub async fn all(&mut self) -> Resources {
        const PAGE: i32 = 1_000;
        let mut resources = Resources::new();
        self.read("GetAccessModel", pb::GetAccessModelRequest {}, &mut resources).await;
        let users = pb::ListUsersRequest { states: vec![1, 2, 3], page_size: PAGE, ..Default::default() };
        self.read("ListUsers", users, &mut resources).await;
        let all = pb::ListOrganizationsRequest { states: vec![1, 2, 3, 4], page_size: PAGE, ..Default::default() };
        self.read("ListOrganizations", all, &mut resources).await;
        let is_organization = |key: &&Key| key.0 == "Organization";
        let ids: Vec<String> = resources.keys().filter(is_organization).map(|key| key.1[0].clone()).collect();
        for organization in ids {
            let (page_size, id) = (PAGE, organization.clone());
            let members = pb::ListMembersRequest { organization: id.clone(), page_size, ..Default::default() };
            self.read("ListMembers", members, &mut resources).await;
            let roles = pb::ListRolesRequest { organization: id, page_size, ..Default::default() };
            self.read("ListRoles", roles, &mut resources).await;
            let states = vec![1, 2, 3, 4, 5];
            let invitations = pb::ListInvitationsRequest { organization, states, page_size, ..Default::default() };
            self.read("ListInvitations", invitations, &mut resources).await;
        }
        resources
    }
}
