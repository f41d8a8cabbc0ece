//! The access rules: the option `(roster.v1.access)` of every method, checked, and the code generated from it.

use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value,
};
use prost_types::method_options::IdempotencyLevel;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A method with its access rule, checked.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a property of the method that the others do not imply")]
pub struct MethodRule {
    /// The full name of the service, such as `roster.v1.OrganizationService`.
    pub service: String,
    /// The name of the method, such as `AddMember`.
    pub name: String,
    /// The name of the request message, such as `AddMemberRequest`.
    pub request: String,
    /// The callers that the rule admits.
    pub callers: AllowedCallers,
    /// The scopes, any one of which a service needs: variants of the domain's `Scope`.
    pub scopes: Vec<String>,
    /// Whether the method also serves deleted organizations.
    pub deleted: bool,
    /// Whether the method may change data.
    pub write: bool,
    /// Whether the request contains a list of messages, itself or in a message of roster's own.
    pub bulk: bool,
    /// Whether the response is a page of a list: the request has a page size.
    pub pages: bool,
    /// Whether the request is a stream, and whether the response is one.
    pub streaming: (bool, bool),
}

impl MethodRule {
    /// The path of a call, such as `/roster.v1.OrganizationService/AddMember`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/{}/{}", self.service, self.name)
    }
}

/// The callers that a rule admits. Operators pass every rule.
#[derive(Debug, PartialEq, Eq)]
pub enum AllowedCallers {
    /// Every caller, anonymous ones included.
    Public,
    /// Every user, and services with one of the scopes.
    SignedIn,
    /// Users whose role in the organization of field 1 holds this permission, a constant of the domain's `Permission`.
    Permission(String),
    /// Services with one of the scopes.
    Services,
}

/// Reads the access rule of every method, ordered by path.
///
/// # Errors
/// One sentence for each mistake in any of the rules.
pub fn table(pool: &DescriptorPool) -> Result<Vec<MethodRule>, Vec<String>> {
    let mut table = Vec::new();
    let mut mistakes = Vec::new();
    let mut requests = BTreeMap::new();
    for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        match method_rule(&method) {
            Ok(rule) => table.push(rule),
            Err(sentence) => mistakes.push(format!("{} {sentence}", method.full_name())),
        }
        if let Some(other) = requests.insert(method.input().full_name().to_owned(), method.clone()) {
            mistakes.push(format!(
                "{} shares its request with {}: a rule belongs to a request type, so each method needs its own",
                method.full_name(),
                other.full_name(),
            ));
        }
    }
    table.sort_by_key(MethodRule::path);
    if mistakes.is_empty() { Ok(table) } else { Err(mistakes) }
}

fn method_rule(method: &MethodDescriptor) -> Result<MethodRule, String> {
    let rule = access_option(method).ok_or("has no rule: give it the option (roster.v1.access)")?;
    let callers =
        callers(&rule).ok_or("has a rule without callers: one of public, signed_in, permission, services")??;
    let scopes = scopes(&rule)?;
    if !scopes.is_empty() && !matches!(callers, AllowedCallers::SignedIn | AllowedCallers::Services) {
        return Err("has a rule with scopes, which go with signed_in and services only".into());
    }
    let needs_permission = matches!(callers, AllowedCallers::Permission(_));
    let deleted = rule.get_field_by_name("deleted").and_then(|value| value.as_bool()).unwrap_or_default();
    if deleted && !needs_permission {
        return Err("has a rule with deleted, which goes with permission only".into());
    }
    let request = method.input();
    if needs_permission && !is_plain(request.get_field(1), "organization", &Kind::String) {
        return Err("requires a permission: field 1 of its request must be `string organization`".into());
    }
    let streaming = (method.is_client_streaming(), method.is_server_streaming());
    let is_stream = streaming != (false, false);
    if is_stream && needs_permission {
        return Err("is a stream that requires a permission: access to a stream depends on its caller alone".into());
    }
    let options = method.method_descriptor_proto().options.clone().unwrap_or_default();
    let write = options.idempotency_level() != IdempotencyLevel::NoSideEffects;
    if write && is_stream {
        return Err(
            "is a stream that writes (it lacks idempotency_level = NO_SIDE_EFFECTS): a write is one message".into()
        );
    }
    if write && !takes_write_fields(&request) {
        return Err("is a write (it lacks idempotency_level = NO_SIDE_EFFECTS): its request must have \
                    `string reason`, `string request_id` and `bool validate_only`"
            .into());
    }
    Ok(MethodRule {
        service: method.parent_service().full_name().into(),
        name: method.name().into(),
        request: request.name().into(),
        callers,
        scopes,
        deleted,
        write,
        // Bulk methods accept larger messages; a stream must not accept an endless number of large ones.
        bulk: !streaming.0 && contains_messages(&request),
        pages: request.get_field_by_name("page_size").is_some(),
        streaming,
    })
}

/// Whether the request contains a list of messages, itself or in a message of roster's own.
fn contains_messages(request: &MessageDescriptor) -> bool {
    request.fields().any(|field| match field.kind() {
        Kind::Message(_) if field.is_list() => true,
        Kind::Message(inner) if !field.is_map() && inner.package_name() == request.package_name() => {
            contains_messages(&inner)
        }
        _ => false,
    })
}

fn access_option(method: &MethodDescriptor) -> Option<DynamicMessage> {
    let extension = method.parent_pool().get_extension_by_name("roster.v1.access")?;
    let options = method.options();
    options.has_extension(&extension).then(|| options.get_extension(&extension).as_message().cloned())?
}

/// The member of the oneof `callers` that is set. `public: false` has no meaning and counts as unset.
fn callers(rule: &DynamicMessage) -> Option<Result<AllowedCallers, String>> {
    let field = |name| rule.get_field_by_name(name).map(Cow::into_owned);
    let is_set = |name| field(name) == Some(Value::Bool(true));
    if rule.has_field_by_name("permission") {
        let word = field("permission")?.as_str()?.to_owned();
        let variant = variant_of(include_str!("../src/domain/permission.rs"), &word);
        return Some(variant.map(AllowedCallers::Permission).ok_or(format!("requires an unknown permission `{word}`")));
    }
    [
        ("public", AllowedCallers::Public),
        ("signed_in", AllowedCallers::SignedIn),
        ("services", AllowedCallers::Services),
    ]
    .into_iter()
    .find(|(name, _)| is_set(name))
    .map(|(_, callers)| Ok(callers))
}

fn scopes(rule: &DynamicMessage) -> Result<Vec<String>, String> {
    let scopes = rule.get_field_by_name("scopes").map(Cow::into_owned);
    let words = scopes.as_ref().and_then(Value::as_list).unwrap_or_default();
    words
        .iter()
        .filter_map(Value::as_str)
        .map(|word| {
            variant_of(include_str!("../src/domain/scope.rs"), word)
                .ok_or(format!("requires an unknown scope `{word}`"))
        })
        .collect()
}

/// Finds the constant or variant of a word in the source of the domain, the only list of these words: a line such as
/// `MEMBERS_ADD = "members.add",` or `Self::ActAs => "act-as",`.
fn variant_of(source: &str, word: &str) -> Option<String> {
    source.lines().find_map(|line| {
        let (variant, rest) = line.trim().trim_start_matches("Self::").split_once(" =")?;
        let listed = rest.trim_start_matches('>').strip_prefix(" \"")?.strip_suffix("\",")?;
        (listed == word && variant.chars().all(|character| character.is_alphanumeric() || character == '_'))
            .then(|| variant.to_owned())
    })
}

fn takes_write_fields(request: &MessageDescriptor) -> bool {
    [("reason", Kind::String), ("request_id", Kind::String), ("validate_only", Kind::Bool)]
        .iter()
        .all(|(name, kind)| is_plain(request.get_field_by_name(name), name, kind))
}

/// Whether the field has that name and kind, and is neither repeated nor optional nor in a oneof.
fn is_plain(field: Option<FieldDescriptor>, name: &str, kind: &Kind) -> bool {
    field.is_some_and(|field| {
        field.name() == name && field.kind() == *kind && !field.is_list() && field.containing_oneof().is_none()
    })
}

/// Generates the table of all methods, which `authz/rules.rs` includes.
///
/// # Errors
/// Formatting errors only.
pub fn methods(table: &[MethodRule]) -> Result<String, std::fmt::Error> {
    let mut code = format!(
        "/// Every method that roster serves, ordered by path.\npub static METHODS: [Method; {}] = [\n",
        table.len()
    );
    for method in table {
        let MethodRule { service, name, deleted, write, bulk, pages, streaming: (client, server), .. } = method;
        let callers = match &method.callers {
            AllowedCallers::Permission(variant) => format!("Permission(Permission::{variant})"),
            kind => format!("{kind:?}"),
        };
        let scopes = method.scopes.iter().map(|variant| format!("Scope::{variant}")).collect::<Vec<_>>().join(", ");
        writeln!(
            code,
            "    Method {{ path: {:?}, service: {service:?}, name: {name:?}, write: {write}, bulk: {bulk}, pages: {pages}, \
             standard: false, \
             streaming: StreamSides {{ client: {client}, server: {server} }}, \
             rule: Rule {{ callers: AllowedCallers::{callers}, scopes: &[{scopes}], deleted: {deleted} }} }},",
            method.path(),
        )?;
    }
    writeln!(code, "];")?;
    Ok(code)
}

/// Generates, for each request type, the traits of `grpc/request.rs`.
///
/// # Errors
/// Formatting errors only.
pub fn requests(table: &[MethodRule]) -> Result<String, std::fmt::Error> {
    let mut code = String::new();
    for (index, method) in table.iter().enumerate() {
        let request = &method.request;
        let kind = match method.callers {
            AllowedCallers::Permission(_) => "OrganizationRequest",
            AllowedCallers::Public | AllowedCallers::SignedIn | AllowedCallers::Services
                if method.streaming != (false, false) =>
            {
                "StreamRequest"
            }
            AllowedCallers::Public | AllowedCallers::SignedIn | AllowedCallers::Services => "CallerRequest",
        };
        let organization = match method.callers {
            AllowedCallers::Permission(_) => "fn organization(&self) -> &str { &self.organization }",
            AllowedCallers::Public | AllowedCallers::SignedIn | AllowedCallers::Services => "",
        };
        writeln!(
            code,
            "impl crate::grpc::request::Request for {request} {{ \
             const METHOD: &'static crate::authz::rules::Method = &crate::authz::rules::METHODS[{index}]; }}\n\
             impl crate::grpc::request::{kind} for {request} {{ {organization} }}"
        )?;
        if method.write {
            writeln!(
                code,
                "impl crate::grpc::request::WriteRequest for {request} {{ \
                 fn reason(&self) -> &str {{ &self.reason }} \
                 fn request_id(&self) -> &str {{ &self.request_id }} \
                 fn request_id_mut(&mut self) -> &mut String {{ &mut self.request_id }} \
                 fn validate_only(&self) -> bool {{ self.validate_only }} }}"
            )?;
        }
    }
    Ok(code)
}
