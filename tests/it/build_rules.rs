//! The checks of the build: a method without a sound access rule and a reason without a sound status code are mistakes,
//! each reported in a sentence that names the method or the reason.

use prost_reflect::{DescriptorPool, Value};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};
use roster::authz::rules::METHODS;
use roster::domain::{Permission, Quota, Refusal, RoleName, Scope, UserId};
use roster::grpc::pb::{AddMemberRequest, CheckMembershipRequest};
use roster::grpc::request::{CallerRequest, OrganizationRequest, Request, WriteRequest};
use roster::grpc::{FILE_DESCRIPTOR_SET, status};
use std::collections::BTreeSet;
use std::path::Path;
use tonic_types::StatusExt;

#[path = "../../build.rs"]
#[expect(dead_code, unreachable_pub, clippy::print_stdout, reason = "a build script: the tests call its checks only")]
mod build;

/// The source of `bad.proto`, a file that is not on disk.
struct BadProto(String);

impl FileResolver for BadProto {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == "bad.proto" { File::from_source(name, &self.0) } else { Err(protox::Error::file_not_found(name)) }
    }
}

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Compiles this source together with the protos of the repository.
fn compile(source: String) -> DescriptorPool {
    let mut resolver = ChainFileResolver::new();
    resolver.add(BadProto(source));
    for root in ["proto", "third_party/googleapis"] {
        resolver.add(IncludeFileResolver::new(Path::new(ROOT).join(root)));
    }
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.open_file("bad.proto").unwrap().descriptor_pool()
}

/// The mistakes that the build finds in these methods of the service `bad.Bad`.
fn mistakes(methods: &str, messages: &str) -> Vec<String> {
    table(methods, messages).err().unwrap_or_default()
}

fn table(methods: &str, messages: &str) -> Result<Vec<build::access::MethodRule>, Vec<String>> {
    let source = format!(
        r#"
        syntax = "proto3";
        package bad;
        import "roster/v1/access.proto";
        service Bad {{ {methods} }}
        message Nothing {{}}
        message Read {{ string organization = 1; }}
        message Write {{ string organization = 1; string reason = 2; string request_id = 3; bool validate_only = 4; }}
        {messages}
        "#
    );
    build::access::table(&compile(source))
}

/// Expects exactly one mistake, which names `bad.Bad.Do` and contains this text.
#[track_caller]
fn assert_mistake(methods: &str, messages: &str, text: &str) {
    let mistakes = mistakes(methods, messages);
    let [mistake] = mistakes.as_slice() else { panic!("one mistake expected: {mistakes:?}") };
    assert!(mistake.starts_with("bad.Bad.Do ") && mistake.contains(text), "{mistake}");
}

/// A method that reads, with this rule.
fn read(request: &str, rule: &str) -> String {
    format!(
        "rpc Do({request}) returns (Nothing) {{
            option (roster.v1.access) = {{{rule}}};
            option idempotency_level = NO_SIDE_EFFECTS;
        }}"
    )
}

/// A method that writes, with this rule.
fn write(request: &str, rule: &str) -> String {
    format!("rpc Do({request}) returns (Nothing) {{ option (roster.v1.access) = {{{rule}}}; }}")
}

#[test]
fn sound_rules_pass() {
    let none: [String; 0] = [];
    assert_eq!(mistakes(&read("Nothing", "public: true"), ""), none);
    assert_eq!(mistakes(&read("Nothing", "signed_in: true"), ""), none);
    assert_eq!(mistakes(&read("Nothing", r#"services: true, scopes: ["check", "act-as"]"#), ""), none);
    assert_eq!(mistakes(&read("Read", r#"permission: "members.list", deleted: true"#), ""), none);
    assert_eq!(mistakes(&write("Write", r#"permission: "members.add""#), ""), none);
}

#[test]
fn a_method_needs_a_rule() {
    assert_mistake("rpc Do(Write) returns (Nothing);", "", "has no rule");
}

#[test]
fn a_rule_needs_callers() {
    let sentence = "has a rule without callers";
    assert_mistake(&read("Nothing", ""), "", sentence);
    assert_mistake(&read("Nothing", r#"scopes: "check""#), "", sentence);
    for callers in ["public", "signed_in", "services"] {
        assert_mistake(&read("Nothing", &format!("{callers}: false")), "", sentence);
    }
}

#[test]
fn a_permission_must_exist() {
    // The last two occur in the source that lists the permissions: in a message, and as a variant.
    for word in ["members.fly", "", "Members.add", "no such permission", "MembersAdd"] {
        let rule = format!("permission: {word:?}");
        assert_mistake(&read("Read", &rule), "", &format!("requires an unknown permission `{word}`"));
    }
}

#[test]
fn a_scope_must_exist() {
    let rule = r#"services: true, scopes: ["check", "root"]"#;
    assert_mistake(&read("Nothing", rule), "", "requires an unknown scope `root`");
}

#[test]
fn scopes_require_signed_in_or_services() {
    let sentence = "has a rule with scopes";
    assert_mistake(&read("Nothing", r#"public: true, scopes: "check""#), "", sentence);
    assert_mistake(&read("Read", r#"permission: "members.list", scopes: "check""#), "", sentence);
}

#[test]
fn deleted_requires_a_permission() {
    assert_mistake(&read("Read", "signed_in: true, deleted: true"), "", "has a rule with deleted");
}

#[test]
fn a_permission_requires_the_organization_in_field_1() {
    for fields in [
        "",
        "string organization = 2;",
        "string org = 1;",
        "bytes organization = 1;",
        "repeated string organization = 1;",
        "optional string organization = 1;",
        "oneof one { string organization = 1; }",
    ] {
        let message = format!("message DoRequest {{ {fields} }}");
        let method = read("DoRequest", r#"permission: "members.list""#);
        assert_mistake(&method, &message, "field 1 of its request must be `string organization`");
    }
}

#[test]
fn a_write_requires_the_fields_of_every_write() {
    let fields = ["string reason = 2;", "string request_id = 3;", "bool validate_only = 4;"];
    for missing in fields {
        let others = fields.iter().filter(|field| **field != missing).copied().collect::<String>();
        assert_mistake(
            &write("DoRequest", "signed_in: true"),
            &format!("message DoRequest {{ {others} }}"),
            "is a write",
        );
    }
    let wrong = "message DoRequest { string reason = 2; bytes request_id = 3; bool validate_only = 4; }";
    assert_mistake(&write("DoRequest", "signed_in: true"), wrong, "is a write");
}

#[test]
fn methods_cannot_share_a_request_type() {
    let methods = read("Nothing", "signed_in: true").replace("Do(", "Before(") + &read("Nothing", "public: true");
    assert_mistake(&methods, "", "shares its request with bad.Bad.Before");
}

/// The method with a stream as its request, its response or both.
fn streaming(method: &str, client: bool, server: bool) -> String {
    let side = |is_stream: bool| if is_stream { "stream " } else { "" };
    let method = method.replacen("Do(", &format!("Do({}", side(client)), 1);
    method.replacen("returns (", &format!("returns ({}", side(server)), 1)
}

const STREAMS: [(bool, bool); 3] = [(true, false), (false, true), (true, true)];

#[test]
fn a_stream_cannot_require_a_permission() {
    let none: [String; 0] = [];
    for (client, server) in STREAMS {
        for rule in ["public: true", "signed_in: true", r#"services: true, scopes: "check""#] {
            assert_eq!(mistakes(&streaming(&read("Nothing", rule), client, server), ""), none);
        }
        let method = streaming(&read("Read", r#"permission: "members.list""#), client, server);
        assert_mistake(&method, "", "is a stream that requires a permission");
    }
}

#[test]
fn a_stream_cannot_write() {
    for (client, server) in STREAMS {
        assert_mistake(&streaming(&write("Write", "signed_in: true"), client, server), "", "is a stream that writes");
    }
}

#[test]
fn a_client_stream_is_never_bulk() {
    let list = "message List { repeated Nothing items = 1; }";
    for (client, server) in STREAMS.into_iter().chain([(false, false)]) {
        let table = table(&streaming(&read("List", "public: true"), client, server), list).unwrap();
        let [rule] = table.as_slice() else { panic!("one method expected") };
        assert_eq!((rule.streaming, rule.bulk), ((client, server), !client));
    }
}

#[test]
fn the_table_marks_the_streaming_sides_of_every_method() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut streams = 0;
    for method in &METHODS {
        let service = pool.get_service_by_name(method.service).unwrap();
        let described = service.methods().find(|candidate| candidate.name() == method.name).unwrap();
        let sides = (described.is_client_streaming(), described.is_server_streaming());
        assert_eq!((method.streaming.client, method.streaming.server), sides, "{}", method.path);
        streams += u32::from(method.streaming.any());
    }
    assert!(streams >= 3);
}

#[test]
fn all_mistakes_are_reported_together() {
    let methods = "rpc Do(Read) returns (Nothing); rpc Undo(Write) returns (Nothing);";
    assert_eq!(mistakes(methods, "").len(), 2);
}

#[test]
fn every_served_method_has_a_rule() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut described = pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()))
        .collect::<Vec<_>>();
    described.sort();
    assert_eq!(METHODS.iter().map(|method| method.path).collect::<Vec<_>>(), described);
    assert!(pool.get_message_by_name("google.rpc.ErrorInfo").is_some(), "reflection describes the error details");
}

#[test]
fn request_types_carry_their_method() {
    fn caller<R: CallerRequest>() -> &'static str {
        R::METHOD.path
    }
    assert_eq!(caller::<CheckMembershipRequest>(), "/roster.v1.CheckService/CheckMembership");
    assert_eq!(AddMemberRequest::METHOD.path, "/roster.v1.OrganizationService/AddMember");
    let request = AddMemberRequest {
        organization: "acme".into(),
        reason: "hired".into(),
        request_id: "a UUID".into(),
        validate_only: true,
        ..AddMemberRequest::default()
    };
    let fields = (request.organization(), request.reason(), request.request_id(), request.validate_only());
    assert_eq!(fields, ("acme", "hired", "a UUID", true));
}

/// The reasons of an enum with these values, after a first value that is never sent.
fn reasons(values: &str) -> Result<Vec<build::reasons::Reason>, Vec<String>> {
    let source = format!(
        r#"
        syntax = "proto3";
        package bad;
        import "roster/v1/errors.proto";
        enum Bad {{ {values} }}
        "#
    );
    build::reasons::reasons(compile(source).get_enum_by_name("bad.Bad").unwrap().values())
}

/// Expects exactly one mistake, which names the value and contains this text.
#[track_caller]
fn assert_reason_mistake(value: &str, text: &str) {
    let values = format!("ERROR_REASON_UNSPECIFIED = 0; {value}");
    let mistakes = reasons(&values).unwrap_err();
    let [mistake] = mistakes.as_slice() else { panic!("one mistake expected: {mistakes:?}") };
    assert!(mistake.starts_with(value.split(' ').next().unwrap()) && mistake.contains(text), "{mistake}");
}

#[test]
fn a_reason_has_a_status_code_and_metadata() {
    let table = reasons(
        r#"
        ERROR_REASON_UNSPECIFIED = 0;
        ERROR_REASON_SLUG_TAKEN = 1 [(roster.v1.status_code) = ALREADY_EXISTS, (roster.v1.metadata) = "slug"];
        ERROR_REASON_SLUG = 2 [(roster.v1.status_code) = ABORTED];
        "#,
    )
    .unwrap();
    let [taken, slug] = table.as_slice() else { panic!("two reasons expected: {table:?}") };
    assert_eq!((taken.variant.as_str(), taken.code.as_str(), taken.is_refusal), ("SlugTaken", "AlreadyExists", true));
    assert_eq!(taken.metadata, ["slug"]);
    assert_eq!((slug.variant.as_str(), slug.code.as_str(), slug.is_refusal), ("Slug", "Aborted", false));
    assert!(slug.metadata.is_empty());
}

#[test]
fn a_reason_needs_a_status_code_that_is_an_error() {
    assert_reason_mistake("ERROR_REASON_ODD = 1;", "has no status code");
    assert_reason_mistake("ERROR_REASON_ODD = 1 [(roster.v1.status_code) = OK];", "has the status code OK");
    assert_reason_mistake("ODD = 1 [(roster.v1.status_code) = ABORTED];", "lacks the prefix ERROR_REASON_");
}

#[test]
fn a_metadata_key_is_a_lower_case_word_and_unique() {
    for key in ["", "Slug", "the slug"] {
        let options = format!("(roster.v1.status_code) = ABORTED, (roster.v1.metadata) = {key:?}");
        assert_reason_mistake(&format!("ERROR_REASON_ODD = 1 [{options}];"), &format!("has the metadata key `{key}`"));
    }
    let key = r#"(roster.v1.metadata) = "slug""#;
    let value = format!("ERROR_REASON_ODD = 1 [(roster.v1.status_code) = ABORTED, {key}, {key}];");
    assert_reason_mistake(&value, "has the metadata key `slug` twice");
}

#[test]
fn the_reason_that_is_never_sent_takes_no_options() {
    let mistakes = reasons("ERROR_REASON_UNSPECIFIED = 0 [(roster.v1.status_code) = ABORTED];").unwrap_err();
    assert_eq!(mistakes, ["ERROR_REASON_UNSPECIFIED is never sent: it takes no options"]);
}

#[test]
fn every_status_has_the_code_and_the_metadata_of_its_reason() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let list = pool.get_enum_by_name("roster.v1.ErrorReason").unwrap();
    let option = |name: &str| pool.get_extension_by_name(name).unwrap();
    let (code, metadata) = (option("roster.v1.status_code"), option("roster.v1.metadata"));
    let user_id = UserId::parse("ada").unwrap();
    let statuses = [
        status::deadline_exceeded(),
        status::server_stopping(),
        status::too_large(5),
        status::malformed(),
        status::unknown_method(),
        status::internal(&std::fmt::Error),
        status::refused(&Refusal::Conflict),
        status::refused(&Refusal::SlugTaken { slug: "acme".into() }),
        status::refused(&Refusal::CallerNotAllowed { caller: "user".into(), advice: "wait".into() }),
        status::refused(&Refusal::ScopeMissing { scopes: vec![Scope::Check, Scope::ActAs] }),
        status::refused(&Refusal::OwnershipRequired { organizations: vec!["a".into(), "b".into()], count: 2 }),
        status::refused(&Refusal::RoleLacksPermission { permission: Permission::MEMBERS_ADD, role: RoleName::MEMBER }),
        status::refused(&Refusal::UserInactive { user_id }),
        status::refused(&Refusal::QuotaExceeded { limit: Quota::Cooldown, most: 3, retry_seconds: 60 }),
    ];
    let mut values = Vec::new();
    for status in statuses {
        let info = status.get_details_error_info().unwrap();
        let options = list.get_value_by_name(&format!("ERROR_REASON_{}", info.reason)).unwrap().options();
        assert_eq!(options.get_extension(&code).as_enum_number(), Some(status.code() as i32), "{}", info.reason);
        let keys = options.get_extension(&metadata);
        let keys: BTreeSet<&str> = keys.as_list().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(info.metadata.keys().map(String::as_str).collect::<BTreeSet<_>>(), keys, "{}", info.reason);
        values.extend(info.metadata.into_iter().filter(|(key, _)| key != "incident"));
    }
    values.sort();
    let expected = [
        ("caller", "user"),
        ("count", "2"),
        ("limit", "cooldown"),
        ("limit_bytes", "5"),
        ("organizations", "a,b"),
        ("permission", "members.add"),
        ("role", "member"),
        ("scopes", "check,act-as"),
        ("slug", "acme"),
        ("user_id", "ada"),
    ];
    assert_eq!(values, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
}
