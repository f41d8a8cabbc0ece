//! The order of the steps between a connection and a handler. Each step has one fault that it detects; a request with two
//! faults must get the answer of the earlier step, for all pairs.

use crate::harness::raw::{self, Answer, Call};
use crate::harness::{Database, Server, organization};
use http::Method;
use prost::Message;
use roster::authz::rules::{METHODS, STANDARD_METHODS};
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use std::time::Duration;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_types::StatusExt;

const GET_CALLER: &str = "/roster.v1.UserService/GetCaller";
const CHECK: &str = "/roster.v1.CheckService/CheckMembership";
const UPDATE: &str = "/roster.v1.OrganizationService/UpdateOrganization";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// An answer in short: the HTTP status unless that is 200, else the error reason with the invalid fields.
fn verdict(answer: &Answer) -> String {
    let Some(status) = answer.status() else { return answer.http_status.to_string() };
    let Some(reason) = &answer.reason else { return format!("{:?}", status.code()) };
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    let fields = violations.into_iter().map(|violation| violation.field);
    [reason.clone()].into_iter().chain(fields).collect::<Vec<_>>().join(" ")
}

/// A step, with a change that causes its fault and the answer to it.
struct Step<R> {
    verdict: &'static str,
    spoil: fn(R) -> R,
}

/// Spoils a good request with every fault and every pair of faults. The later fault is applied first, so that the earlier one
/// remains where both change the same field.
fn spoiled<R: Clone>(good: &R, steps: &[Step<R>]) -> Vec<(R, &'static str)> {
    let mut requests = Vec::new();
    for (index, earlier) in steps.iter().enumerate() {
        requests.push(((earlier.spoil)(good.clone()), earlier.verdict));
        for later in &steps[index + 1..] {
            requests.push(((earlier.spoil)((later.spoil)(good.clone())), earlier.verdict));
        }
    }
    requests
}

/// The faults of headers and bodies, in the order in which they are detected.
const STEPS: [Step<Call>; 7] = [
    Step { verdict: "405", spoil: |call| Call { method: Method::PUT, ..call } },
    Step { verdict: "415", spoil: |call| call.instead("content-type", "application/json") },
    Step { verdict: "METHOD_UNKNOWN", spoil: |call| Call { path: "/roster.v1.UserService/Fly".to_owned(), ..call } },
    Step { verdict: "INVALID_REQUEST grpc-timeout", spoil: |call| call.with("grpc-timeout", "soon") },
    Step { verdict: "CREDENTIAL_INVALID", spoil: |call| call.instead("authorization", "Bearer x.y.z") },
    Step { verdict: "CALLER_NOT_ALLOWED", spoil: |call| Call { path: CHECK.to_owned(), ..call } },
    // A field with an unknown wire type.
    Step { verdict: "MALFORMED_MESSAGE", spoil: |call| Call { body: raw::frame(&[0x0f]), ..call } },
];
/// The number of those steps before the server sheds load: all but the decoding of the message.
const BEFORE_SHEDDING: usize = 6;

fn good_call(server: &Server) -> Call {
    Call::grpc(GET_CALLER, &[]).bearer(&server.mint(&Server::claims("ada")))
}

#[tokio::test]
async fn of_two_faults_the_earlier_step_answers() {
    let server = Server::start().await;
    let good = good_call(&server);
    assert_eq!(verdict(&raw::send(server.address, good.clone()).await), "Ok");
    for (call, expected) in spoiled(&good, &STEPS) {
        let answer = raw::send(server.address, call.clone()).await;
        assert_eq!(verdict(&answer), expected, "{call:?}");
    }
}

#[tokio::test]
async fn load_is_shed_when_the_message_has_arrived() {
    let settings = ServerSettings { max_concurrent_requests: 0, ..ServerSettings::default() };
    let server = Server::over(Database::new().await, settings).await;
    let good = good_call(&server);
    for (index, step) in STEPS.iter().enumerate() {
        let answer = raw::send(server.address, (step.spoil)(good.clone())).await;
        assert_eq!(verdict(&answer), if index < BEFORE_SHEDDING { step.verdict } else { "OVERLOADED" });
    }
    let answer = raw::send(server.address, good).await;
    let status = answer.status().unwrap();
    assert_eq!((status.code(), verdict(&answer).as_str()), (tonic::Code::Unavailable, "OVERLOADED"));
    assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()));
    // `Server::over` has waited for the health service, which is never shed.
}

#[tokio::test]
async fn the_caller_is_authenticated_before_the_body_arrives() {
    let server = Server::start().await;
    for step in &STEPS[..6] {
        let call = Call { body: Vec::new(), ..(step.spoil)(good_call(&server)) };
        let answer = tokio::time::timeout(Duration::from_secs(4), raw::send_unfinished(server.address, call)).await;
        assert_eq!(verdict(&answer.unwrap()), step.verdict);
    }
}

/// A request with its caller.
#[derive(Debug, Clone)]
struct Update {
    caller: &'static str,
    message: pb::UpdateOrganizationRequest,
}

const USED: &str = "7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11";

/// The faults of a message and of its caller's standing, in the order in which they are detected.
const INNER_STEPS: [Step<Update>; 6] = [
    Step {
        verdict: "INVALID_REQUEST organization",
        spoil: |update| with(update, |message| message.organization = "?".into()),
    },
    Step { verdict: "CALLER_INACTIVE", spoil: |update| Update { caller: "dean", ..update } },
    Step { verdict: "PERMISSION_DENIED", spoil: |update| Update { caller: "sid", ..update } },
    Step {
        verdict: "INVALID_REQUEST name slug reason",
        spoil: |update| {
            with(update, |message| {
                (message.name, message.slug, message.reason) = ("x".repeat(201), "?".into(), "x".repeat(501));
            })
        },
    },
    Step { verdict: "REQUEST_ID_REUSED", spoil: |update| with(update, |message| message.request_id = USED.into()) },
    Step { verdict: "SLUG_TAKEN", spoil: |update| with(update, |message| message.slug = "taken".into()) },
];

fn with(mut update: Update, change: impl FnOnce(&mut pb::UpdateOrganizationRequest)) -> Update {
    change(&mut update.message);
    update
}

#[tokio::test]
async fn the_organization_is_checked_before_the_role_and_the_role_before_other_fields() {
    let server = Server::start().await;
    let mut olga = server.user("olga");
    let acme = olga.create("Acme").await;
    for (caller, slug) in [("olga", "taken"), ("sid", "sids-own"), ("dean", "deans-own")] {
        // Each caller has used the request id, since the same id of another caller is no fault.
        let request = pb::CreateOrganizationRequest {
            slug: slug.to_owned(),
            request_id: USED.to_owned(),
            ..organization("Another")
        };
        let made = server.user(caller).organizations.create_organization(request).await.unwrap().into_inner();
        if caller == "dean" {
            let request =
                pb::DeleteOrganizationRequest { organization: made.organization.unwrap().id, ..Default::default() };
            server.operator().organizations.delete_organization(request).await.unwrap();
            let request = pb::DeactivateUserRequest { user_id: caller.to_owned(), ..Default::default() };
            server.service(&[Scope::Manage]).users.deactivate_user(request).await.unwrap();
        }
    }
    let message = pb::UpdateOrganizationRequest {
        organization: acme,
        name: "A new name".to_owned(),
        slug: "free".to_owned(),
        ..Default::default()
    };
    let good = Update { caller: "olga", message };
    let mut updates = spoiled(&good, &INNER_STEPS);
    updates.push((good, "Ok"));
    for (update, expected) in updates {
        let token = server.mint(&Server::claims(update.caller));
        let call = Call::grpc(UPDATE, &update.message.encode_to_vec()).bearer(&token);
        assert_eq!(verdict(&raw::send(server.address, call).await), expected, "{update:?}");
    }
}

#[tokio::test]
async fn a_call_past_its_deadline_ends_as_deadline_exceeded() {
    let mut server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    // Another connection locks the organization's row.
    let mut lock = server.database.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM organizations FOR UPDATE").execute(&mut *lock).await.unwrap();
    let blocked = pb::UpdateOrganizationRequest { organization: acme, name: "Late".to_owned(), ..Default::default() };
    let blocked = Call { path: UPDATE.to_owned(), body: raw::frame(&blocked.encode_to_vec()), ..good_call(&server) };
    let unfinished = Call { body: Vec::new(), ..good_call(&server) };
    for timeout in ["200m", "200000u", "1n", "0S"] {
        let answers = [
            raw::send(server.address, blocked.clone().with("grpc-timeout", timeout)).await,
            raw::send_unfinished(server.address, unfinished.clone().with("grpc-timeout", timeout)).await,
        ];
        for answer in answers {
            let code = tonic::Code::from_i32(answer.grpc_status.unwrap());
            assert_eq!((code, verdict(&answer).as_str()), (tonic::Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
        }
    }
    // A stop waits for the writes. They end although the row is still locked, and change nothing.
    server.stop().await;
    drop(lock);
    server.database.assert_no_open_transactions().await;
    assert_eq!(server.database.count("SELECT count(*) FROM organizations WHERE name = 'Late'").await, 0);
}

#[tokio::test]
async fn a_deadline_has_a_syntax_a_default_and_a_limit() {
    let settings = ServerSettings {
        default_deadline: Duration::from_millis(100),
        max_deadline: Duration::from_millis(200),
        ..ServerSettings::default()
    };
    let server = Server::over(Database::new().await, settings).await;
    let unfinished = Call { body: Vec::new(), ..good_call(&server) };
    for call in [unfinished.clone(), unfinished.with("grpc-timeout", "99999999H")] {
        assert_eq!(verdict(&raw::send_unfinished(server.address, call).await), "DEADLINE_EXCEEDED");
    }
    for wrong in ["", "S", "5", "5s", "-1S", "+1S", "1.5S", "5 S", "123456789S", "\u{663}S", "5SS"] {
        let answer = raw::send(server.address, good_call(&server).with("grpc-timeout", wrong)).await;
        assert_eq!(verdict(&answer), "INVALID_REQUEST grpc-timeout", "{wrong:?}");
    }
    let twice = good_call(&server).with("grpc-timeout", "5S").with("grpc-timeout", "5S");
    assert_eq!(verdict(&raw::send(server.address, twice).await), "INVALID_REQUEST grpc-timeout");
}

#[tokio::test]
async fn every_answer_names_its_request() {
    let server = Server::start().await;
    let request_id = |answer: &Answer| answer.headers["x-request-id"].to_str().unwrap().to_owned();
    // Successful calls and the errors of every step.
    let calls: Vec<Call> = std::iter::once(good_call(&server))
        .chain(STEPS.iter().map(|step| (step.spoil)(good_call(&server))))
        .chain([Call::grpc(HEALTH, &[])])
        .collect();
    for call in calls {
        for plain in ["a", "7b0c3a1e-5a39-4d0c", "A.b_c-1", &"x".repeat(64)] {
            let answer = raw::send(server.address, call.clone().with("x-request-id", plain)).await;
            assert_eq!(request_id(&answer), plain, "{call:?}");
        }
        for other in ["", "a b", "a\"b", "a/b", "a=b", "\u{e9}", &"x".repeat(65)] {
            let answer = raw::send(server.address, call.clone().with("x-request-id", other)).await;
            assert!(uuid::Uuid::try_parse(&request_id(&answer)).is_ok(), "{other:?}: {}", request_id(&answer));
        }
        let first = request_id(&raw::send(server.address, call.clone()).await);
        assert!(uuid::Uuid::try_parse(&first).is_ok());
        assert_ne!(first, request_id(&raw::send(server.address, call).await));
    }
}

#[tokio::test]
async fn health_and_reflection_are_public_and_verify_no_credential() {
    let server = Server::start().await;
    for (service, code) in [("", 0), ("roster.v1.OrganizationService", 0), ("roster.v1.CheckService", 0), ("other", 5)]
    {
        let request = HealthCheckRequest { service: service.to_owned() }.encode_to_vec();
        let answer = raw::send(server.address, Call::grpc(HEALTH, &request)).await;
        assert_eq!(answer.grpc_status, Some(code), "{service:?}: {}", verdict(&answer));
        if code == 0 {
            let response = HealthCheckResponse::decode(answer.message()).unwrap();
            assert_eq!(response.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
        }
    }
    for path in REFLECTION {
        // `list_services` is field 7.
        let answer = raw::send_whole(server.address, Call::grpc(path, b"\x3a\x01*")).await;
        assert_eq!(verdict(&answer), "Ok");
        let services = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(
            services.contains("roster.v1.OrganizationService") && services.contains("grpc.health.v1.Health"),
            "{services}"
        );
    }
    // An expired credential does not make a healthy server look sick, and a bad one costs no signature.
    for path in [HEALTH, REFLECTION[0], REFLECTION[1]] {
        let bad = Call::grpc(path, &[]).bearer("x.y.z");
        let answer = raw::send(server.address, bad).await;
        assert_eq!((answer.http_status, &answer.reason), (200, &None), "{path}");
    }
}

/// A read changes nothing, and a write whose message has not arrived has not begun.
#[tokio::test]
async fn a_call_that_times_out_before_a_commit_reports_that_nothing_was_changed() {
    let server = Server::start().await;
    let token = server.service_token("root", &[Scope::Operator]);
    let calls = METHODS.iter().chain(&STANDARD_METHODS).filter(|method| !method.streaming.client).map(|method| {
        let call = Call { body: vec![0, 0, 0, 0, 9, 1], ..Call::grpc(method.path, &[]) };
        let call = call.bearer(&token).with("grpc-timeout", "300m");
        async move { (method, raw::send_unfinished(server.address, call).await) }
    });
    for (method, answer) in futures_util::future::join_all(calls).await {
        let status = answer.status().unwrap_or_else(|| panic!("{}: {answer:?}", method.path));
        assert_eq!(answer.reason.as_deref(), Some("DEADLINE_EXCEEDED"), "{}: {status:?}", method.path);
        assert!(status.message().contains("nothing was changed"), "{}: {status:?}", method.path);
    }
}

#[tokio::test]
async fn a_status_in_the_head_is_the_whole_answer() {
    let server = Server::start().await;
    let token = server.mint(&Server::claims("sid"));
    let refused = pb::ListMembersRequest { organization: "acme".to_owned(), ..Default::default() }.encode_to_vec();
    for (path, message) in [("OrganizationService/ListMembers", refused), ("UserService/GetCaller", vec![0x0f])] {
        let answer = raw::send(server.address, Call::grpc(&raw::path(path), &message).bearer(&token)).await;
        // grpc-go accepts nothing behind such a status, not even an empty frame.
        assert!(answer.headers.contains_key("grpc-status") && answer.is_head_only, "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn reflection_can_be_switched_off() {
    let settings = ServerSettings { reflection: false, ..ServerSettings::default() };
    let server = Server::over(Database::new().await, settings).await;
    for path in REFLECTION {
        let answer = raw::send(server.address, Call::grpc(path, b"\x3a\x01*")).await;
        assert_eq!(verdict(&answer), "METHOD_UNKNOWN");
    }
}
