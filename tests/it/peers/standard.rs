//! Health and reflection: bounded in size, number and time, and right in their answers.

use crate::harness::raw::{self, Call};
use crate::harness::{Database, Server};
use prost::Message;
use prost_reflect::DescriptorPool;
use prost_types::FileDescriptorProto;
use roster::authz::rules::METHODS;
use roster::server::ServerSettings;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::codec::Streaming;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1alpha::server_reflection_response::MessageResponse as FormerResponse;
use tonic_reflection::pb::{v1, v1alpha};

/// The time limit for everything that must happen soon.
const SOON: Duration = Duration::from_secs(10);
/// The drain time of a server that stops. Longer than [`SOON`]: a stop that takes it has waited for a stream.
const DRAIN: Duration = Duration::from_secs(40);
const HEALTH: [&str; 3] =
    ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/List"];
const REFLECTION: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// Answers of a request that nothing in the descriptors matches.
const NOT_FOUND: i32 = 5;

async fn server() -> Server {
    let settings = ServerSettings { drain: DRAIN, ..ServerSettings::default() };
    Server::over(Database::new().await, settings).await
}

async fn watch(server: &Server, service: &str) -> Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let watch = HealthClient::new(server.connect().await).watch(request).await;
    watch.unwrap_or_else(|status| panic!("{service:?}: {status:?}")).into_inner()
}

async fn next(watch: &mut Streaming<HealthCheckResponse>) -> Result<Option<ServingStatus>, Status> {
    let answer = timeout(SOON, watch.message()).await.expect("health sends no update");
    answer.map(|update| update.map(|update| update.status()))
}

/// Asserts that a stream ends with the status of a server that stops.
fn assert_stopping<T: std::fmt::Debug>(end: Result<T, Status>) {
    crate::harness::assert_refused(end, Code::Unavailable, "SERVER_STOPPING");
}

/// Stops the server, and asserts that the stop waits for nothing.
async fn assert_stops_at_once(mut server: Server) {
    let begin = Instant::now();
    timeout(SOON, server.stop()).await.expect("the stop waits for a stream");
    assert!(begin.elapsed() < SOON / 2, "the stop took {:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_an_unknown_service_stays_open_until_the_stop() {
    let server = server().await;
    let check = HealthCheckRequest { service: "other".to_owned() };
    let refused = HealthClient::new(server.channel()).check(check).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    for unknown in ["other", "roster.v1.organizationservice", "roster.v1.OrganizationService/AddMember"] {
        let mut unknown = watch(&server, unknown).await;
        assert_eq!(next(&mut unknown).await.unwrap(), Some(ServingStatus::ServiceUnknown));
    }
    let (mut unknown, mut known) = (watch(&server, "other").await, watch(&server, "roster.v1.CheckService").await);
    assert_eq!(next(&mut unknown).await.unwrap(), Some(ServingStatus::ServiceUnknown));
    assert_eq!(next(&mut known).await.unwrap(), Some(ServingStatus::Serving));
    server.begin_stop();
    for mut watch in [unknown, known] {
        assert_eq!(next(&mut watch).await.unwrap(), Some(ServingStatus::NotServing));
        assert_stopping(next(&mut watch).await);
    }
    assert_stops_at_once(server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_health_watches_or_reflection_streams() {
    let server = server().await;
    let mut watches = Vec::new();
    for service in ["", "roster.v1.CheckService", "", "roster.v1.UserService"] {
        let mut watch = watch(&server, service).await;
        assert_eq!(next(&mut watch).await.unwrap(), Some(ServingStatus::Serving));
        watches.push(watch);
    }
    let mut reflection = Reflection::open(&server).await;
    reflection.ask(MessageRequest::ListServices(String::new())).await;
    assert_stops_at_once(server).await;
    for mut watch in watches {
        assert_eq!(next(&mut watch).await.unwrap(), Some(ServingStatus::NotServing));
        assert_stopping(next(&mut watch).await);
    }
    assert_stopping(reflection.next().await);
}

/// `grpc.health.v1.HealthListResponse`, which the crate of tonic lacks.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthList {
    #[prost(btree_map = "string, message", tag = "1")]
    statuses: BTreeMap<String, HealthCheckResponse>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_of_health_agrees_with_each_check() {
    let server = Server::start().await;
    let answer = raw::send_whole(server.address, Call::grpc(HEALTH[2], &[])).await;
    assert_eq!(answer.grpc_status, Some(0), "{answer:?}");
    let list = HealthList::decode(answer.message()).unwrap().statuses;
    let services: BTreeSet<&str> = METHODS.iter().map(|method| method.service).chain([""]).collect();
    assert_eq!(list.keys().map(String::as_str).collect::<BTreeSet<_>>(), services);
    let mut health = HealthClient::new(server.channel());
    for (service, status) in list {
        assert_eq!(health.check(HealthCheckRequest { service }).await.unwrap().into_inner(), status);
    }
    // Reflection shows the method, so that a tool can call it.
    let mut reflection = Reflection::open(&server).await;
    let file = &reflection.files(symbol("grpc.health.v1.Health.List")).await[0];
    assert!(file.message_type.iter().any(|message| message.name() == "HealthListResponse"));
}

/// A message of 4 KiB is read, and a larger one is refused before it arrives: a frame that declares its length is
/// enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_standard_methods_are_at_most_4_kib() {
    let server = Server::start().await;
    let service = |length: usize| HealthCheckRequest { service: "x".repeat(length) }.encode_to_vec();
    let largest = service(4096 - 3);
    assert_eq!(largest.len(), 4096);
    let answer = raw::send_whole(server.address, Call::grpc(HEALTH[0], &largest)).await;
    assert_eq!(answer.grpc_status, Some(Code::NotFound.into()), "{answer:?}");
    for path in HEALTH.iter().chain(&REFLECTION) {
        for declared in [4097_u32, 1 << 20, u32::MAX] {
            let body = [&[0], declared.to_be_bytes().as_slice(), &[10; 64]].concat();
            let answer = raw::send_unfinished(server.address, Call { body, ..Call::grpc(path, &[]) }).await;
            assert_eq!(answer.reason.as_deref(), Some("MESSAGE_TOO_LARGE"), "{path}: {declared}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_methods_have_a_deadline() {
    let server = Server::start().await;
    for path in HEALTH {
        let body = vec![0, 0, 0, 0, 8, 10];
        let call = Call { body, ..Call::grpc(path, &[]) }.with("grpc-timeout", "200m");
        let answer = raw::send_unfinished(server.address, call).await;
        assert_eq!(answer.reason.as_deref(), Some("DEADLINE_EXCEEDED"), "{path}: {answer:?}");
    }
    // The deadline of a caller ends its streams too, whatever they wait for.
    let watch = HealthCheckRequest::default().encode_to_vec();
    let list = v1::ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let list = list.encode_to_vec();
    for (path, message) in [(HEALTH[1], &watch), (REFLECTION[0], &list), (REFLECTION[1], &list)] {
        let call = Call::grpc(path, message).with("grpc-timeout", "300m");
        let answer = if path == HEALTH[1] {
            raw::send_whole(server.address, call).await
        } else {
            raw::send_unfinished(server.address, call).await
        };
        assert_eq!(answer.reason.as_deref(), Some("DEADLINE_EXCEEDED"), "{path}: {answer:?}");
        assert!(!answer.body.is_empty(), "{path} did not answer before its deadline");
    }
}

/// A reflection stream that sends one request after another.
struct Reflection {
    requests: mpsc::Sender<v1::ServerReflectionRequest>,
    answers: Streaming<v1::ServerReflectionResponse>,
}

impl Reflection {
    async fn open(server: &Server) -> Self {
        let (requests, sent) = mpsc::channel(1);
        let mut client = ServerReflectionClient::new(server.connect().await);
        let answers = client.server_reflection_info(ReceiverStream::new(sent)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    async fn next(&mut self) -> Result<Option<v1::ServerReflectionResponse>, Status> {
        timeout(SOON, self.answers.message()).await.expect("reflection sends nothing")
    }

    /// The answer to one request; `None` if the stream has ended.
    async fn try_ask(&mut self, request: MessageRequest) -> Option<MessageResponse> {
        let request = v1::ServerReflectionRequest { host: "roster.test".into(), message_request: Some(request) };
        let _ = self.requests.send(request.clone()).await;
        let answer = self.next().await.unwrap()?;
        assert_eq!((answer.valid_host.as_str(), answer.original_request), ("roster.test", Some(request)));
        answer.message_response
    }

    async fn ask(&mut self, request: MessageRequest) -> MessageResponse {
        self.try_ask(request).await.expect("the stream ended")
    }

    async fn files(&mut self, request: MessageRequest) -> Vec<FileDescriptorProto> {
        let answer = self.ask(request.clone()).await;
        let MessageResponse::FileDescriptorResponse(files) = answer else { panic!("{request:?}: {answer:?}") };
        files.file_descriptor_proto.iter().map(|file| FileDescriptorProto::decode(file.as_slice()).unwrap()).collect()
    }

    async fn services(&mut self) -> Vec<String> {
        match self.ask(MessageRequest::ListServices("*".into())).await {
            MessageResponse::ListServicesResponse(list) => {
                list.service.into_iter().map(|service| service.name).collect()
            }
            other => panic!("not a list: {other:?}"),
        }
    }
}

fn symbol(name: &str) -> MessageRequest {
    MessageRequest::FileContainingSymbol(name.to_owned())
}

fn extension(message: &str, number: i32) -> MessageRequest {
    let extension = v1::ExtensionRequest { containing_type: message.to_owned(), extension_number: number };
    MessageRequest::FileContainingExtension(extension)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_symbol_does_not_end_the_reflection_stream() {
    let server = Server::start().await;
    let mut reflection = Reflection::open(&server).await;
    for unknown in [
        symbol("roster.v1.Nothing"),
        symbol(""),
        symbol(&"x".repeat(1_000)),
        MessageRequest::FileByFilename("../roster/v1/access.proto".into()),
        extension("google.protobuf.MethodOptions", 1),
        extension("roster.v1.Nothing", 1),
        MessageRequest::AllExtensionNumbersOfType("roster.v1.Nothing".into()),
    ] {
        match reflection.ask(unknown.clone()).await {
            MessageResponse::ErrorResponse(error) => assert_eq!(error.error_code, NOT_FOUND, "{unknown:?}"),
            other => panic!("{unknown:?}: {other:?}"),
        }
    }
    reflection.requests.send(v1::ServerReflectionRequest::default()).await.unwrap();
    let empty = reflection.next().await.unwrap().unwrap().message_response;
    assert!(matches!(empty, Some(MessageResponse::ErrorResponse(ref error)) if error.error_code == 3), "{empty:?}");
    assert_eq!(reflection.files(symbol("roster.v1.CheckService")).await[0].name(), "roster/v1/check_service.proto");
    // The older version of the protocol, whose clients are older tools.
    let request = |name: &str| v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(name.into())),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(server.channel());
    let requests = futures_util::stream::iter([request("other"), request("roster.v1.UserService")]);
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    let unknown = answers.message().await.unwrap().unwrap().message_response;
    assert!(
        matches!(unknown, Some(FormerResponse::ErrorResponse(ref error)) if error.error_code == NOT_FOUND),
        "{unknown:?}"
    );
    let known = answers.message().await.unwrap().unwrap().message_response;
    assert!(matches!(known, Some(FormerResponse::FileDescriptorResponse(_))), "{known:?}");
    assert!(answers.message().await.unwrap().is_none());
}

/// A client that starts from the list of services and asks for the imports of each file it received, as grpcurl does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_rebuilds_every_proto_from_reflection() {
    let server = Server::start().await;
    let mut reflection = Reflection::open(&server).await;
    let services = reflection.services().await;
    for (service, times) in [("grpc.health.v1.Health", 1), ("roster.v1.CheckService", 1), ("other", 0)] {
        assert_eq!(services.iter().filter(|name| *name == service).count(), times, "{services:?}");
    }
    for path in REFLECTION {
        let service = path.trim_start_matches('/').split('/').next().unwrap();
        assert!(services.iter().any(|name| name == service), "{service} is not among {services:?}");
    }
    let mut files = BTreeMap::new();
    let mut missing: Vec<MessageRequest> = services.iter().map(|name| symbol(name)).collect();
    while let Some(request) = missing.pop() {
        if matches!(&request, MessageRequest::FileByFilename(name) if files.contains_key(name)) {
            continue;
        }
        for file in reflection.files(request).await {
            missing.extend(file.dependency.iter().cloned().map(MessageRequest::FileByFilename));
            files.insert(file.name().to_owned(), file);
        }
    }
    let pool = DescriptorPool::from_file_descriptor_set(prost_types::FileDescriptorSet {
        file: files.into_values().collect(),
    });
    let pool = pool.unwrap();
    assert_eq!(pool.services().count(), services.len());
    // Every kind of symbol is found in its file.
    for (name, file) in [
        ("roster.v1.CheckService.CheckMembership", "roster/v1/check_service.proto"),
        ("roster.v1.Member", "roster/v1/resources.proto"),
        ("roster.v1.Member.user_id", "roster/v1/resources.proto"),
        ("roster.v1.ErrorReason", "roster/v1/errors.proto"),
        ("roster.v1.ERROR_REASON_OVERLOADED", "roster/v1/errors.proto"),
        ("roster.v1.access", "roster/v1/access.proto"),
        ("grpc.health.v1.HealthCheckResponse.ServingStatus", "health.proto"),
    ] {
        let found = reflection.files(symbol(name)).await;
        assert!(found[0].name().ends_with(file), "{name} is in {}", found[0].name());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_knows_the_extensions() {
    let server = Server::start().await;
    let mut reflection = Reflection::open(&server).await;
    let options = "google.protobuf.MethodOptions";
    let numbers = match reflection.ask(MessageRequest::AllExtensionNumbersOfType(options.into())).await {
        MessageResponse::AllExtensionNumbersResponse(numbers) => numbers,
        other => panic!("{other:?}"),
    };
    assert_eq!(numbers.base_type_name, options);
    assert_eq!(numbers.extension_number.len(), 1, "{numbers:?}");
    let files = reflection.files(extension(options, numbers.extension_number[0])).await;
    assert_eq!(files[0].name(), "roster/v1/access.proto");
    // A message without extensions has no numbers.
    match reflection.ask(MessageRequest::AllExtensionNumbersOfType("roster.v1.Member".into())).await {
        MessageResponse::AllExtensionNumbersResponse(numbers) => assert!(numbers.extension_number.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reflection_stream_sends_a_bounded_number_of_bytes() {
    /// The limit, and the largest answer that can exceed it.
    const MOST: usize = 4 * 1024 * 1024 + 128 * 1024;
    let server = Server::start().await;
    let mut reflection = Reflection::open(&server).await;
    let mut received = 0;
    let largest = symbol("roster.v1.OrganizationService");
    while let Some(answer) = reflection.try_ask(largest.clone()).await {
        let MessageResponse::FileDescriptorResponse(files) = answer else { panic!("{answer:?}") };
        received += files.file_descriptor_proto.iter().map(Vec::len).sum::<usize>();
        assert!(received <= MOST, "a stream sent {received} bytes");
    }
    assert!(received > MOST / 2, "a stream ended after {received} bytes");
    // Its client opens another one.
    assert!(!Reflection::open(&server).await.files(largest).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_reflection_stream_ends() {
    let server = Server::start().await;
    let cases = REFLECTION.iter().flat_map(|path| [(path, Vec::new()), (path, raw::frame(b"\x3a\x01*"))]);
    let address = server.address;
    let ends = cases.map(|(path, body)| async move {
        let asked = !body.is_empty();
        let answer = raw::send_unfinished(address, Call { body, ..Call::grpc(path, &[]) }).await;
        assert_eq!(answer.grpc_status, Some(0), "{path}: {answer:?}");
        assert_eq!(!answer.body.is_empty(), asked, "{path}");
    });
    futures_util::future::join_all(ends).await;
}
