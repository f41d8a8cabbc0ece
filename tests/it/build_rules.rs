//! The build refuses methods without a sound rule, with a sentence that names them.

use prost_reflect::DescriptorPool;
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};
use roster::authz::rules::METHODS;
use roster::grpc::FILE_DESCRIPTOR_SET;
use roster::grpc::pb::{AddMemberRequest, CheckMembershipRequest};
use roster::grpc::request::{CallerRequest, OrganizationRequest, Request, WriteRequest};

#[path = "../../build.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    reason = "a build script, of which only the checks are called"
)]
mod build;

/// The protos of this repository, and one more file that is not on disk.
struct WithBad(String);

impl FileResolver for WithBad {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == "bad.proto" { File::from_source(name, &self.0) } else { Err(protox::Error::file_not_found(name)) }
    }
}

const PROTOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");

/// What the build says to these methods of the service `bad.Bad`.
fn mistakes(methods: &str, messages: &str) -> Vec<String> {
    table(methods, messages).err().unwrap_or_default()
}

fn table(methods: &str, messages: &str) -> Result<Vec<build::MethodRule>, Vec<String>> {
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
    let mut resolver = ChainFileResolver::new();
    resolver.add(WithBad(source));
    resolver.add(IncludeFileResolver::new(PROTOS.into()));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    let pool = compiler.open_file("bad.proto").unwrap().descriptor_pool();
    build::access_table(&pool)
}

/// Expects one mistake, about `bad.Bad.Do`, that says this.
#[track_caller]
fn refused(methods: &str, messages: &str, saying: &str) {
    let mistakes = mistakes(methods, messages);
    let [mistake] = mistakes.as_slice() else { panic!("one mistake expected: {mistakes:?}") };
    assert!(mistake.starts_with("bad.Bad.Do ") && mistake.contains(saying), "{mistake}");
}

/// A method that reads, under this rule.
fn read(request: &str, rule: &str) -> String {
    format!(
        "rpc Do({request}) returns (Nothing) {{
            option (roster.v1.access) = {{{rule}}};
            option idempotency_level = NO_SIDE_EFFECTS;
        }}"
    )
}

/// A method that writes, under this rule.
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
fn a_method_without_a_rule() {
    refused("rpc Do(Write) returns (Nothing);", "", "has no rule");
}

#[test]
fn a_rule_without_callers() {
    let sentence = "has a rule without callers";
    refused(&read("Nothing", ""), "", sentence);
    refused(&read("Nothing", r#"scopes: "check""#), "", sentence);
    for callers in ["public", "signed_in", "services"] {
        refused(&read("Nothing", &format!("{callers}: false")), "", sentence);
    }
}

#[test]
fn an_unknown_permission() {
    // The last two are words and a variant of the source that the words are read from.
    for word in ["members.fly", "", "Members.add", "no such permission", "MembersAdd"] {
        let rule = format!("permission: {word:?}");
        refused(&read("Read", &rule), "", &format!("asks for an unknown permission `{word}`"));
    }
}

#[test]
fn an_unknown_scope() {
    let rule = r#"services: true, scopes: ["check", "root"]"#;
    refused(&read("Nothing", rule), "", "asks for an unknown scope `root`");
}

#[test]
fn scopes_that_mean_nothing() {
    let sentence = "has a rule with scopes";
    refused(&read("Nothing", r#"public: true, scopes: "check""#), "", sentence);
    refused(&read("Read", r#"permission: "members.list", scopes: "check""#), "", sentence);
}

#[test]
fn deleted_that_means_nothing() {
    refused(&read("Read", "signed_in: true, deleted: true"), "", "has a rule with deleted");
}

#[test]
fn a_permission_without_an_organization() {
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
        refused(&method, &message, "field 1 of its request must be `string organization`");
    }
}

#[test]
fn a_write_without_its_fields() {
    let fields = ["string reason = 2;", "string request_id = 3;", "bool validate_only = 4;"];
    for missing in fields {
        let others = fields.iter().filter(|field| **field != missing).copied().collect::<String>();
        refused(&write("DoRequest", "signed_in: true"), &format!("message DoRequest {{ {others} }}"), "is a write");
    }
    let wrong = "message DoRequest { string reason = 2; bytes request_id = 3; bool validate_only = 4; }";
    refused(&write("DoRequest", "signed_in: true"), wrong, "is a write");
}

#[test]
fn two_methods_with_one_request() {
    let methods = read("Nothing", "signed_in: true").replace("Do(", "Before(") + &read("Nothing", "public: true");
    refused(&methods, "", "shares its request with bad.Bad.Before");
}

/// The method with these sides as streams.
fn streaming(method: &str, client: bool, server: bool) -> String {
    let side = |is_stream: bool| if is_stream { "stream " } else { "" };
    let method = method.replacen("Do(", &format!("Do({}", side(client)), 1);
    method.replacen("returns (", &format!("returns ({}", side(server)), 1)
}

const STREAMS: [(bool, bool); 3] = [(true, false), (false, true), (true, true)];

#[test]
fn a_stream_is_decided_by_its_caller_alone() {
    let none: [String; 0] = [];
    for (client, server) in STREAMS {
        for rule in ["public: true", "signed_in: true", r#"services: true, scopes: "check""#] {
            assert_eq!(mistakes(&streaming(&read("Nothing", rule), client, server), ""), none);
        }
        let method = streaming(&read("Read", r#"permission: "members.list""#), client, server);
        refused(&method, "", "is a stream ruled by a permission");
    }
}

#[test]
fn a_stream_that_writes() {
    for (client, server) in STREAMS {
        refused(&streaming(&write("Write", "signed_in: true"), client, server), "", "is a stream that writes");
    }
}

#[test]
fn what_comes_without_end_is_small() {
    let list = "message List { repeated Nothing items = 1; }";
    for (client, server) in STREAMS.into_iter().chain([(false, false)]) {
        let table = table(&streaming(&read("List", "public: true"), client, server), list).unwrap();
        let [rule] = table.as_slice() else { panic!("one method expected") };
        assert_eq!((rule.streaming, rule.bulk), ((client, server), !client));
    }
}

#[test]
fn the_table_knows_what_is_a_stream() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut streams = 0;
    for method in &METHODS {
        let service = pool.get_service_by_name(method.service).unwrap();
        let described = service.methods().find(|there| there.name() == method.name).unwrap();
        let sides = (described.is_client_streaming(), described.is_server_streaming());
        assert_eq!((method.streaming.client, method.streaming.server), sides, "{}", method.path);
        streams += u32::from(method.streaming.any());
    }
    assert!(streams >= 3);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let methods = "rpc Do(Read) returns (Nothing); rpc Undo(Write) returns (Nothing);";
    assert_eq!(mistakes(methods, "").len(), 2);
}

#[test]
fn every_method_served_has_its_rule() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut described = pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()))
        .collect::<Vec<_>>();
    described.sort();
    assert_eq!(METHODS.iter().map(|method| method.path).collect::<Vec<_>>(), described);
    assert!(pool.get_message_by_name("google.rpc.ErrorInfo").is_some(), "error details are readable by reflection");
}

#[test]
fn request_types_carry_their_rule() {
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
    let written = (request.organization(), request.reason(), request.request_id(), request.validate_only());
    assert_eq!(written, ("acme", "hired", "a UUID", true));
}
