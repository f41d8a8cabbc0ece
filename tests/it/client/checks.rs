//! Checks of the client: answers and errors.

use super::{client, settings, soon};
use crate::harness::proxy::Proxy;
use crate::harness::{Server, add};
use roster::client::{Check, CheckReason, Client, ClientSettings, Consistency, Error, Source, TokenSource};
use roster::domain::{Permission, Refusal, RoleName, Scope};
use roster::grpc::{pb, status};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

#[tokio::test]
async fn single_checks_and_batches_are_answered() {
    let server = Server::start().await;
    let mut owner = server.user("ada");
    let id = owner.create("Acme").await;
    owner.add(&id, "grace", "admin").await;
    let client = client(&server).await;

    let check = Check::permission("acme", "grace", Permission::MEMBERS_ADD).unwrap();
    let answer = client.check(&check, &Consistency::Full).await.unwrap();
    assert!(answer.is_allowed() && answer.role == Some(RoleName::ADMIN) && answer.source == Source::Primary);
    assert!(answer.revision > 1);
    let fresh = Consistency::AtLeastAsFresh(answer.consistency_token);
    assert!(client.check(&check, &fresh).await.unwrap().is_allowed());

    let checks = [
        Check::member(&id, "ada").unwrap(),
        Check::role(&id, "grace", RoleName::OWNER).unwrap(),
        Check::permission(&id, "grace", Permission::OWNERSHIP_TRANSFER).unwrap(),
        Check::member(&id, "alan").unwrap(),
        Check::member("no-such-thing", "ada").unwrap(),
    ];
    let (answers, token) = client.check_batch(&checks, &Consistency::Full).await.unwrap();
    let reasons: Vec<CheckReason> = answers.iter().map(|answer| answer.reason).collect();
    let expected = [
        CheckReason::Allowed,
        CheckReason::RoleTooLow,
        CheckReason::RoleLacksPermission,
        CheckReason::NotAMember,
        CheckReason::OrganizationNotFound,
    ];
    assert_eq!(reasons, expected);
    assert_eq!(
        (answers[0].role.clone(), answers[3].role.clone(), answers[4].revision),
        (Some(RoleName::OWNER), None, 0)
    );
    assert!(!token.is_empty());
    assert!(client.check_batch(&[], &Consistency::Recent).await.unwrap().0.is_empty());
}

#[tokio::test]
async fn other_services_share_the_connection() {
    let server = Server::start().await;
    let id = server.user("ada").create("Acme").await;
    let client = client(&server).await;
    let mut organizations = pb::organization_service_client::OrganizationServiceClient::new(client.channel());
    let message = pb::GetOrganizationRequest { organization: "acme".to_owned() };
    let response = organizations.get_organization(client.request(message).await.unwrap()).await.unwrap().into_inner();
    assert_eq!(response.organization.unwrap().id, id);
    let outcome = organizations.add_member(client.request(add(&id, "eve", "admin")).await.unwrap()).await;
    let error = Error::from(outcome.unwrap_err());
    assert_eq!(error.reason(), Some(pb::ErrorReason::ScopeMissing), "{error}");
}

#[tokio::test]
async fn errors_carry_the_reason_of_the_server() {
    let server = Server::start().await;
    let check = Check::member("acme", "ada").unwrap();
    let with = |token: &str| {
        let token = TokenSource::fixed(token).unwrap();
        Client::lazy(settings(&server, server.address).with_token(token))
    };
    let wrong = with("wrong").check(&check, &Consistency::Recent).await.unwrap_err();
    assert_eq!(wrong.reason(), Some(pb::ErrorReason::CredentialInvalid), "{wrong}");
    assert!(matches!(&wrong, Error::Refused(failure) if failure.code == Code::Unauthenticated));

    let user = with(&server.mint(&Server::claims("ada"))).check(&check, &Consistency::Recent).await.unwrap_err();
    assert_eq!(user.reason(), Some(pb::ErrorReason::CallerNotAllowed), "{user}");
    assert_eq!(user.failure().unwrap().metadata["caller"], "user");

    let no_token = Consistency::AtLeastAsFresh("?".to_owned());
    let invalid = client(&server).await.check(&check, &no_token).await.unwrap_err();
    assert_eq!(invalid.reason(), Some(pb::ErrorReason::InvalidRequest), "{invalid}");
    assert_eq!(invalid.failure().unwrap().violations[0].field, "consistency.at_least_as_fresh");
    assert!(!invalid.is_unavailable());

    let anonymous = ClientSettings::new(format!("http://{}", server.address)).unwrap();
    let missing = Client::lazy(anonymous).check(&check, &Consistency::Recent).await.unwrap_err();
    assert_eq!(missing.reason(), Some(pb::ErrorReason::CredentialMissing), "{missing}");
    assert!(matches!(TokenSource::fixed("new\nline").unwrap_err(), Error::Credential(_)));
}

#[tokio::test]
async fn every_reason_is_known_and_overload_names_a_retry_delay() {
    let reasons = (1..200).filter_map(|number| pb::ErrorReason::try_from(number).ok()).collect::<Vec<_>>();
    assert!(reasons.len() > 30);
    for reason in reasons {
        let details = ErrorDetails::with_error_info(status::reason_name(reason), status::DOMAIN, HashMap::new());
        let error = Error::from(Status::with_error_details(Code::FailedPrecondition, "no", details));
        assert_eq!(error.reason(), Some(reason), "{error}");
    }
    let error = Error::from(status::refused(&Refusal::Overloaded));
    assert!(error.is_unavailable() && error.retry_after() == Some(Duration::from_millis(200)), "{error}");
    assert!(matches!(Error::from(status::deadline_exceeded()), Error::TimedOut));
}

#[tokio::test]
async fn an_unreachable_server_is_unavailable_and_a_silent_one_times_out() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.address).await;
    let client = Client::lazy(settings(&server, proxy.address).with_timeout(Duration::from_millis(300)));
    let check = Check::member("acme", "ada").unwrap();
    assert!(client.check(&check, &Consistency::Recent).await.is_ok());

    proxy.stall_from(0);
    let silent = client.check(&check, &Consistency::Recent).await.unwrap_err();
    assert!(matches!(silent, Error::TimedOut) && silent.is_unavailable(), "{silent}");

    proxy.close(true);
    let unreachable = client.check(&check, &Consistency::Recent).await.unwrap_err();
    assert!(unreachable.is_unavailable(), "{unreachable}");
    assert!(Client::connect(settings(&server, ([127, 0, 0, 1], 1).into())).await.unwrap_err().is_unavailable());

    proxy.resume();
    proxy.close(false);
    soon(async { while client.check(&check, &Consistency::Recent).await.is_err() {} }).await;
}

#[tokio::test]
async fn the_token_source_is_called_for_every_request() {
    let server = Server::start().await;
    let valid = server.service_token("backend", &[Scope::Check]);
    let calls = Arc::new(AtomicUsize::new(0));
    let source = TokenSource::from_fn({
        let calls = calls.clone();
        move || {
            let (number, valid) = (calls.fetch_add(1, Ordering::Relaxed), valid.clone());
            async move {
                match number {
                    0 => Err("the provider does not answer".into()),
                    1 => Ok("expired".to_owned()),
                    _ => Ok(valid),
                }
            }
        }
    });
    let client = Client::lazy(settings(&server, server.address).with_token(source));
    let check = Check::member("acme", "ada").unwrap();
    let none = client.check(&check, &Consistency::Recent).await.unwrap_err();
    assert!(matches!(&none, Error::Credential(cause) if cause.to_string() == "the provider does not answer"), "{none}");
    assert!(matches!(client.check(&check, &Consistency::Recent).await, Err(Error::Refused(_))));
    assert!(client.check(&check, &Consistency::Recent).await.is_ok());
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}
