//! Generates code from the protos: messages, clients, servers whose handlers receive sealed requests, the access rule
//! of every method and the status code of every error reason. A method without a sound rule and a reason without a sound
//! code do not build: each mistake is reported in one sentence that names the method or the reason.

use prost_reflect::DescriptorPool;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};
use tonic_prost_build::manual;

#[path = "build/access.rs"]
pub mod access;
#[path = "build/reasons.rs"]
pub mod reasons;
#[path = "build/shapes.rs"]
pub mod shapes;

/// The import roots of the protos, each with the folder whose files are compiled: roster's own package, and Google's
/// messages for error details.
const ROOTS: [(&str, &str); 2] = [("proto", "roster/v1"), ("third_party/googleapis", "google/rpc")];

/// The folder of the proto of health, which is no part of roster's API.
const HEALTH_ROOT: &str = "src/grpc/standard";

fn main() -> Result<(), Box<dyn Error>> {
    for root in ROOTS.map(|(root, _)| root).into_iter().chain([HEALTH_ROOT]) {
        println!("cargo::rerun-if-changed={root}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is set by cargo")?);
    let compiler = compile()?;
    match Tables::read(&compiler.descriptor_pool()) {
        Ok(tables) => generate(&compiler, &tables, &out)?,
        Err(mistakes) => mistakes.iter().for_each(|mistake| println!("cargo::error={mistake}")),
    }
    Ok(())
}

/// Compiles every file of both roots, with its comments.
fn compile() -> Result<protox::Compiler, Box<dyn Error>> {
    let mut compiler = protox::Compiler::new(ROOTS.map(|(root, _)| root))?;
    compiler.include_imports(true).include_source_info(true);
    for (root, folder) in ROOTS {
        let mut files = fs::read_dir(Path::new(root).join(folder))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
        files.sort();
        compiler.open_files(files)?;
    }
    Ok(compiler)
}

/// The options of the protos, checked.
struct Tables {
    methods: Vec<access::MethodRule>,
    reasons: Vec<reasons::Reason>,
}

impl Tables {
    /// Reads both tables and collects the mistakes of both.
    fn read(pool: &DescriptorPool) -> Result<Self, Vec<String>> {
        match (access::table(pool), reasons::table(pool)) {
            (Ok(methods), Ok(reasons)) => Ok(Self { methods, reasons }),
            (methods, reasons) => Err([methods.err(), reasons.err()].into_iter().flatten().flatten().collect()),
        }
    }
}

/// Writes every file that `src/` includes: `roster.v1.rs`, the messages and clients, which a build without the server
/// includes too; `servers.rs` with the files that it includes; a file for each server of health and reflection, and the
/// messages of health; `methods.rs`; `reasons.rs`; and `descriptors.bin` and `health.bin` for reflection.
fn generate(compiler: &protox::Compiler, tables: &Tables, out: &Path) -> Result<(), Box<dyn Error>> {
    prost_build::Config::new()
        .out_dir(out)
        .btree_map(["."])
        .extern_path(".google.rpc", "::tonic_types::pb")
        .service_generator(Box::new(ServiceGenerator))
        .compile_fds(compiler.file_descriptor_set())?;
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    fs::write(out.join("methods.rs"), access::methods(&tables.methods)?)?;
    fs::write(out.join("requests.rs"), access::requests(&tables.methods)?)?;
    let requests = tables.methods.iter().map(|method| method.request.as_str());
    fs::write(out.join("shapes.rs"), shapes::code(&compiler.descriptor_pool(), requests)?)?;
    fs::write(out.join("reasons.rs"), reasons::code(&tables.reasons)?)?;

    generate_health(out)?;
    for service in standard_servers() {
        manual::Builder::new().build_client(false).out_dir(out).compile(&[service]);
    }
    let mut services = tables.methods.iter().map(|method| method.service.as_str()).collect::<Vec<_>>();
    services.dedup();
    let mut servers = String::new();
    for file in ["requests", "shapes"].iter().chain(&services) {
        writeln!(servers, "include!(concat!(env!(\"OUT_DIR\"), \"/{file}.rs\"));")?;
    }
    Ok(fs::write(out.join("servers.rs"), servers)?)
}

/// Writes the messages of health and their descriptors.
fn generate_health(out: &Path) -> Result<(), Box<dyn Error>> {
    let mut compiler = protox::Compiler::new([HEALTH_ROOT])?;
    compiler.include_source_info(true).open_file("health.proto")?;
    fs::write(out.join("health.bin"), compiler.encode_file_descriptor_set())?;
    Ok(prost_build::Config::new().out_dir(out).btree_map(["."]).compile_fds(compiler.file_descriptor_set())?)
}

/// The servers of health and reflection, one file each. The messages of reflection are those of the crate of tonic; its
/// servers cannot have another codec.
fn standard_servers() -> [manual::Service; 3] {
    const MESSAGES: &str = "crate::grpc::standard::messages";

    let method = |name: &str, route: &str, input: &str, output: &str| {
        let method = manual::Method::builder().name(name).route_name(route).input_type(input).output_type(output);
        method.codec_path("crate::grpc::standard::StandardCodec")
    };
    let health = |name: &str, route: &str, kind: &str| {
        let (input, output) = (format!("{MESSAGES}::Health{kind}Request"), format!("{MESSAGES}::Health{kind}Response"));
        method(name, route, &input, &output)
    };
    let reflection = |package| {
        let input = "tonic_reflection::pb::v1::ServerReflectionRequest";
        let output = "tonic_reflection::pb::v1::ServerReflectionResponse";
        let info = method("server_reflection_info", "ServerReflectionInfo", input, output);
        let info = info.client_streaming().server_streaming().build();
        manual::Service::builder().name("ServerReflection").package(package).method(info).build()
    };
    let health = manual::Service::builder()
        .name("Health")
        .package("grpc.health.v1")
        .method(health("check", "Check", "Check").build())
        .method(health("list", "List", "List").build())
        .method(health("watch", "Watch", "Check").server_streaming().build())
        .build();
    [health, reflection("grpc.reflection.v1"), reflection("grpc.reflection.v1alpha")]
}

/// Generates tonic's own clients into the file of the package, and servers whose handlers receive sealed requests into
/// one file per service.
struct ServiceGenerator;

impl prost_build::ServiceGenerator for ServiceGenerator {
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
