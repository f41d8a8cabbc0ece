//! The order of the steps between a connection and a handler. Each step has a fault of its own; a request with two faults
//! must get the answer of the earlier step, for all pairs.

use crate::harness::raw::{self, Answer, Call};
use crate::harness::{Database, Server, organization};
use http::Method;
use prost::Message;
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

/// In one word, what an answer says: the HTTP status unless that is 200, else the reason, with the fields that are wrong.
fn verdict(answer: &Answer) -> String {
    let Some(status) = answer.status() else { return answer.http_status.to_string() };
    let Some(reason) = &answer.reason else { return format!("{:?}", status.code()) };
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    let fields = violations.into_iter().map(|violation| violation.field);
    [reason.clone()].into_iter().chain(fields).collect::<Vec<_>>().join(" ")
}

/// A step, by the fault that it finds.
struct Step<R> {
    verdict: &'static str,
    spoil: fn(R) -> R,
}

/// Spoils a good request in every way and in every two ways. The later fault first, so that the earlier one has the last
/// word where both are in one place.
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

/// What is wrong with headers and bodies, in the order in which it is said.
const STEPS: [Step<Call>; 7] = [
    Step { verdict: "405", spoil: |call| Call { method: Method::PUT, ..call } },
    Step { verdict: "415", spoil: |call| call.instead("content-type", "application/json") },
    Step { verdict: "METHOD_UNKNOWN", spoil: |call| Call { path: "/roster.v1.UserService/Fly".to_owned(), ..call } },
    Step { verdict: "INVALID_REQUEST grpc-timeout", spoil: |call| call.with("grpc-timeout", "soon") },
    Step { verdict: "CREDENTIAL_INVALID", spoil: |call| call.instead("authorization", "Bearer x.y.z") },
    Step { verdict: "CALLER_NOT_ALLOWED", spoil: |call| Call { path: CHECK.to_owned(), ..call } },
    // A field of a type that there is not.
    Step { verdict: "MALFORMED_MESSAGE", spoil: |call| Call { body: raw::frame(&[0x0f]), ..call } },
];
/// How many of them stand before the shedding of load.
const BEFORE_SHEDDING: usize = 4;

fn good_call(server: &Server) -> Call {
    Call::grpc(GET_CALLER, &[]).bearer(&server.mint(&Server::claims("ada")))
}

#[tokio::test]
async fn of_two_faults_the_earlier_step_speaks() {
    let server = Server::start().await;
    let good = good_call(&server);
    assert_eq!(verdict(&raw::send(server.address, good.clone()).await), "Ok");
    for (call, expected) in spoiled(&good, &STEPS) {
        let answer = raw::send(server.address, call.clone()).await;
        assert_eq!(verdict(&answer), expected, "{call:?}");
    }
}

#[tokio::test]
async fn what_is_too_much_is_shed_before_anybody_is_authenticated() {
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
    // `Server::over` has waited for health, which is never shed.
}

#[tokio::test]
async fn a_body_is_not_waited_for_before_the_caller_is_known() {
    let server = Server::start().await;
    for step in &STEPS[..6] {
        let call = Call { body: Vec::new(), ..(step.spoil)(good_call(&server)) };
        let answer = tokio::time::timeout(Duration::from_secs(4), raw::send_unfinished(server.address, call)).await;
        assert_eq!(verdict(&answer.unwrap()), step.verdict);
    }
}

/// A request with the token of its caller.
#[derive(Debug, Clone)]
struct Wish {
    caller: &'static str,
    message: pb::UpdateOrganizationRequest,
}

const USED: &str = "7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11";

/// What is wrong with a message and its caller's standing, in the order in which it is said.
const INNER_STEPS: [Step<Wish>; 6] = [
    Step {
        verdict: "INVALID_REQUEST organization",
        spoil: |wish| with(wish, |message| message.organization = "?".into()),
    },
    Step { verdict: "CALLER_INACTIVE", spoil: |wish| Wish { caller: "dean", ..wish } },
    Step { verdict: "PERMISSION_DENIED", spoil: |wish| Wish { caller: "sid", ..wish } },
    Step {
        verdict: "INVALID_REQUEST name slug reason",
        spoil: |wish| {
            with(wish, |message| {
                (message.name, message.slug, message.reason) = ("x".repeat(201), "?".into(), "x".repeat(501));
            })
        },
    },
    Step { verdict: "REQUEST_ID_REUSED", spoil: |wish| with(wish, |message| message.request_id = USED.into()) },
    Step { verdict: "SLUG_TAKEN", spoil: |wish| with(wish, |message| message.slug = "taken".into()) },
];

fn with(mut wish: Wish, change: impl FnOnce(&mut pb::UpdateOrganizationRequest)) -> Wish {
    change(&mut wish.message);
    wish
}

#[tokio::test]
async fn the_organizations_name_then_the_role_then_the_rest() {
    let server = Server::start().await;
    let mut olga = server.user("olga");
    let here = olga.create("Here").await;
    for (caller, slug) in [("olga", "taken"), ("sid", "sids-own"), ("dean", "deans-own")] {
        // Each of them has used the request id: else it would be no fault of theirs.
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
        organization: here,
        name: "A new name".to_owned(),
        slug: "free".to_owned(),
        ..Default::default()
    };
    let good = Wish { caller: "olga", message };
    let mut wishes = spoiled(&good, &INNER_STEPS);
    wishes.push((good, "Ok"));
    for (wish, expected) in wishes {
        let token = server.mint(&Server::claims(wish.caller));
        let call = Call::grpc(UPDATE, &wish.message.encode_to_vec()).bearer(&token);
        assert_eq!(verdict(&raw::send(server.address, call).await), expected, "{wish:?}");
    }
}

#[tokio::test]
async fn what_takes_too_long_ends_as_deadline_exceeded() {
    let mut server = Server::start().await;
    let here = server.user("ada").create("Here").await;
    // Somebody holds the organization's row.
    let mut holder = server.database.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM organizations FOR UPDATE").execute(&mut *holder).await.unwrap();
    let held = pb::UpdateOrganizationRequest { organization: here, name: "Late".to_owned(), ..Default::default() };
    let held = Call { path: UPDATE.to_owned(), body: raw::frame(&held.encode_to_vec()), ..good_call(&server) };
    let unfinished = Call { body: Vec::new(), ..good_call(&server) };
    for timeout in ["200m", "200000u", "1n", "0S"] {
        let answers = [
            raw::send(server.address, held.clone().with("grpc-timeout", timeout)).await,
            raw::send_unfinished(server.address, unfinished.clone().with("grpc-timeout", timeout)).await,
        ];
        for answer in answers {
            let code = tonic::Code::from_i32(answer.grpc_status.unwrap());
            assert_eq!((code, verdict(&answer).as_str()), (tonic::Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
        }
    }
    // A stop waits for the writes: they end although the row is still held, and leave nothing.
    server.stop().await;
    drop(holder);
    server.database.assert_no_open_transactions().await;
    assert_eq!(server.database.count("SELECT count(*) FROM organizations WHERE name = 'Late'").await, 0);
}

#[tokio::test]
async fn a_deadline_has_a_form_a_default_and_a_limit() {
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
    let named = |answer: &Answer| answer.headers["x-request-id"].to_str().unwrap().to_owned();
    // Whatever becomes of it: an answer, and an error of each step.
    let calls: Vec<Call> = std::iter::once(good_call(&server))
        .chain(STEPS.iter().map(|step| (step.spoil)(good_call(&server))))
        .chain([Call::grpc(HEALTH, &[])])
        .collect();
    for call in calls {
        for plain in ["a", "7b0c3a1e-5a39-4d0c", "A.b_c-1", &"x".repeat(64)] {
            let answer = raw::send(server.address, call.clone().with("x-request-id", plain)).await;
            assert_eq!(named(&answer), plain, "{call:?}");
        }
        for other in ["", "a b", "a\"b", "a/b", "a=b", "\u{e9}", &"x".repeat(65)] {
            let answer = raw::send(server.address, call.clone().with("x-request-id", other)).await;
            assert!(uuid::Uuid::try_parse(&named(&answer)).is_ok(), "{other:?}: {}", named(&answer));
        }
        let first = named(&raw::send(server.address, call.clone()).await);
        assert!(uuid::Uuid::try_parse(&first).is_ok());
        assert_ne!(first, named(&raw::send(server.address, call).await));
    }
}

#[tokio::test]
async fn health_and_reflection_are_for_everybody_but_for_bad_credentials() {
    let server = Server::start().await;
    for (service, code) in [("", 0), ("roster.v1.OrganizationService", 0), ("roster.v1.CheckService", 0), ("other", 5)]
    {
        let request = HealthCheckRequest { service: service.to_owned() }.encode_to_vec();
        let answer = raw::send(server.address, Call::grpc(HEALTH, &request)).await;
        assert_eq!(answer.grpc_status, Some(code), "{service:?}: {}", verdict(&answer));
        if code == 0 {
            let told = HealthCheckResponse::decode(answer.message()).unwrap();
            assert_eq!(told.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
        }
    }
    for path in REFLECTION {
        // `list_services` is field 7.
        let answer = raw::send(server.address, Call::grpc(path, b"\x3a\x01*")).await;
        assert_eq!(verdict(&answer), "Ok");
        let listed = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(
            listed.contains("roster.v1.OrganizationService") && listed.contains("grpc.health.v1.Health"),
            "{listed}"
        );
    }
    for path in [HEALTH, REFLECTION[0], REFLECTION[1]] {
        let bad = Call::grpc(path, &[]).bearer("x.y.z");
        assert_eq!(verdict(&raw::send(server.address, bad).await), "CREDENTIAL_INVALID");
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
