//! Turns `proto/` into code: messages, clients, servers whose handlers get sealed requests, and the table of who may call
//! what. A method without a sound rule does not build: each mistake is a sentence that names it.

use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value,
};
use prost_types::method_options::IdempotencyLevel;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};
use tonic_prost_build::manual;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is set by cargo")?);
    let compiler = compile(Path::new("proto"))?;
    match access_table(&compiler.descriptor_pool()) {
        Ok(table) => generate(&compiler, &table, &out)?,
        Err(mistakes) => mistakes.iter().for_each(|mistake| println!("cargo::error={mistake}")),
    }
    Ok(())
}

/// Compiles every file of ours, and those of Google's that error details need, with their comments.
fn compile(root: &Path) -> Result<protox::Compiler, Box<dyn Error>> {
    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_imports(true).include_source_info(true);
    for folder in ["roster/v1", "google/rpc"] {
        let mut files = fs::read_dir(root.join(folder))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
        files.sort();
        compiler.open_files(files)?;
    }
    Ok(compiler)
}

/// A method and its rule, checked.
#[derive(Debug)]
pub struct MethodRule {
    /// The full name of its service.
    pub service: String,
    /// Its own name.
    pub name: String,
    /// The name of its request.
    pub request: String,
    /// Who may call it.
    pub callers: AllowedCallers,
    /// The scopes of which a service needs one, as variants of the domain's `Scope`.
    pub scopes: Vec<String>,
    /// Whether it is also for deleted organizations.
    pub deleted: bool,
    /// Whether it may change something.
    pub write: bool,
    /// Whether it takes a list of messages.
    pub bulk: bool,
    /// Whether its caller sends a stream of messages, and whether it answers with one.
    pub streaming: (bool, bool),
}

impl MethodRule {
    /// The path that it is called by.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/{}/{}", self.service, self.name)
    }
}

/// Who may call a method.
#[derive(Debug, PartialEq, Eq)]
pub enum AllowedCallers {
    /// Anybody.
    Public,
    /// Users, and services with a scope.
    SignedIn,
    /// Who holds a permission in the organization of field 1: a variant of the domain's `Permission`.
    Permission(String),
    /// Services with a scope.
    Services,
}

/// Reads the rule of every method, ordered by path.
///
/// # Errors
/// All the mistakes in all the rules.
pub fn access_table(pool: &DescriptorPool) -> Result<Vec<MethodRule>, Vec<String>> {
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
    let ruled_by_permission = matches!(callers, AllowedCallers::Permission(_));
    let deleted = rule.get_field_by_name("deleted").and_then(|value| value.as_bool()).unwrap_or_default();
    if deleted && !ruled_by_permission {
        return Err("has a rule with deleted, which goes with permission only".into());
    }
    let request = method.input();
    if ruled_by_permission && !is_plain(request.get_field(1), "organization", &Kind::String) {
        return Err("is ruled by a permission: field 1 of its request must be `string organization`".into());
    }
    let streaming = (method.is_client_streaming(), method.is_server_streaming());
    let is_stream = streaming != (false, false);
    if is_stream && ruled_by_permission {
        return Err("is a stream ruled by a permission: streams are decided by their caller alone".into());
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
        // What may be large may not come one after the other without end.
        bulk: !streaming.0 && request.fields().any(|field| field.is_list() && matches!(field.kind(), Kind::Message(_))),
        streaming,
    })
}

fn access_option(method: &MethodDescriptor) -> Option<DynamicMessage> {
    let extension = method.parent_pool().get_extension_by_name("roster.v1.access")?;
    let options = method.options();
    options.has_extension(&extension).then(|| options.get_extension(&extension).as_message().cloned())?
}

/// The one that is set of the oneof. `public: false` sets it to nothing that can be meant, and counts as none.
fn callers(rule: &DynamicMessage) -> Option<Result<AllowedCallers, String>> {
    let field = |name| rule.get_field_by_name(name).map(Cow::into_owned);
    let is_set = |name| field(name) == Some(Value::Bool(true));
    if rule.has_field_by_name("permission") {
        let word = field("permission")?.as_str()?.to_owned();
        let variant = variant_of(include_str!("src/domain/permission.rs"), &word);
        return Some(variant.map(AllowedCallers::Permission).ok_or(format!("asks for an unknown permission `{word}`")));
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
            variant_of(include_str!("src/domain/scope.rs"), word).ok_or(format!("asks for an unknown scope `{word}`"))
        })
        .collect()
}

/// Finds the enum variant of a word in the domain's own source, the one place where the words are listed: a line such as
/// `MembersAdd = "members.add",` or `Self::ActAs => "act-as",`.
fn variant_of(source: &str, word: &str) -> Option<String> {
    source.lines().find_map(|line| {
        let (variant, rest) = line.trim().trim_start_matches("Self::").split_once(" =")?;
        let written = rest.trim_start_matches('>').strip_prefix(" \"")?.strip_suffix("\",")?;
        (written == word && variant.chars().all(char::is_alphanumeric)).then(|| variant.to_owned())
    })
}

fn takes_write_fields(request: &MessageDescriptor) -> bool {
    [("reason", Kind::String), ("request_id", Kind::String), ("validate_only", Kind::Bool)]
        .iter()
        .all(|(name, kind)| is_plain(request.get_field_by_name(name), name, kind))
}

/// Whether the field is of that name and kind, not repeated, not optional, and in no oneof.
fn is_plain(field: Option<FieldDescriptor>, name: &str, kind: &Kind) -> bool {
    field.is_some_and(|field| {
        field.name() == name && field.kind() == *kind && !field.is_list() && field.containing_oneof().is_none()
    })
}

/// Writes everything that `src/` includes: `roster.v1.rs`, the messages and clients, which a build without the server
/// includes too; `servers.rs` and what it includes in turn, `methods.rs`, and `descriptors.bin` for reflection.
fn generate(compiler: &protox::Compiler, table: &[MethodRule], out: &Path) -> Result<(), Box<dyn Error>> {
    prost_build::Config::new()
        .out_dir(out)
        .btree_map(["."])
        .extern_path(".google.rpc", "::tonic_types::pb")
        .service_generator(Box::new(Services))
        .compile_fds(compiler.file_descriptor_set())?;
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    fs::write(out.join("methods.rs"), methods(table)?)?;
    fs::write(out.join("requests.rs"), requests(table)?)?;

    let mut services = table.iter().map(|method| method.service.as_str()).collect::<Vec<_>>();
    services.dedup();
    let mut servers = String::new();
    for file in ["requests"].iter().chain(&services) {
        writeln!(servers, "include!(concat!(env!(\"OUT_DIR\"), \"/{file}.rs\"));")?;
    }
    Ok(fs::write(out.join("servers.rs"), servers)?)
}

/// Clients as tonic makes them, into the package's file; servers that hand out sealed requests, into a file each.
struct Services;

impl prost_build::ServiceGenerator for Services {
    fn generate(&mut self, service: prost_build::Service, code: &mut String) {
        let mut server = manual::Service::builder().name(&service.proto_name).package(&service.package);
        for line in &service.comments.leading {
            server = server.comment(line);
        }
        for method in &service.methods {
            let mut handler = manual::Method::builder()
                .name(&method.name)
                .route_name(&method.proto_name)
                .input_type(format!("crate::grpc::admit::sealed::Sealed<super::{}>", method.input_type))
                .output_type(format!("super::{}", method.output_type))
                .codec_path("crate::grpc::admit::sealed::SealedCodec");
            for line in &method.comments.leading {
                handler = handler.comment(line);
            }
            if method.client_streaming {
                handler = handler.client_streaming();
            }
            if method.server_streaming {
                handler = handler.server_streaming();
            }
            server = server.method(handler.build());
        }
        manual::Builder::new().build_client(false).compile(&[server.build()]);
        tonic_prost_build::configure().build_server(false).service_generator().generate(service, code);
    }
}

/// The table itself, for `authz/rules.rs`.
fn methods(table: &[MethodRule]) -> Result<String, std::fmt::Error> {
    let mut code = format!(
        "/// Every method that roster serves, ordered by path.\npub static METHODS: [Method; {}] = [\n",
        table.len()
    );
    for method in table {
        let MethodRule { service, name, deleted, write, bulk, streaming: (client, server), .. } = method;
        let callers = match &method.callers {
            AllowedCallers::Permission(variant) => format!("Permission(Permission::{variant})"),
            kind => format!("{kind:?}"),
        };
        let scopes = method.scopes.iter().map(|variant| format!("Scope::{variant}")).collect::<Vec<_>>().join(", ");
        writeln!(
            code,
            "    Method {{ path: {:?}, service: {service:?}, name: {name:?}, write: {write}, bulk: {bulk}, \
             streaming: StreamSides {{ client: {client}, server: {server} }}, \
             rule: Rule {{ callers: AllowedCallers::{callers}, scopes: &[{scopes}], deleted: {deleted} }} }},",
            method.path(),
        )?;
    }
    writeln!(code, "];")?;
    Ok(code)
}

/// What each request type says of itself, for `grpc/request.rs`.
fn requests(table: &[MethodRule]) -> Result<String, std::fmt::Error> {
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
                 fn validate_only(&self) -> bool {{ self.validate_only }} }}"
            )?;
        }
    }
    Ok(code)
}
