//! Whether a user is known, because a sign came from the user. An id that only others have named may be a typing mistake,
//! which matters when it is to own an organization.

use crate::harness::program::Serve;
use crate::harness::server::{Clients, Credential};
use crate::harness::{Database, Server, add, assert_refused, organization, reason, refused, transfer};
use crate::invitations::{accept, create, decline, invite_identifier};
use roster::authn::api_keys;
use roster::domain::{Organization, Scope};
use roster::grpc::pb;
use roster::server::ServerSettings;
use roster::service::UnknownOwners;
use roster::service::members::TransferredOwnership;
use serde_json::{Value, json};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

const TARGET: &str = "bob";

/// What has happened to the id of the target.
#[derive(Debug, Clone, Copy)]
enum Sign {
    Nothing,
    AddedByService,
    Ensured,
    AddedInBatch,
    OwnerElsewhere,
    FirstMemberElsewhere,
    Deactivated,
    RefusedToken,
    CheckWithToken,
    CheckOnBehalf,
    OnBehalfWithoutScope,
    Token,
    TokenOfStranger,
    EmptyProfile,
    Profile,
    ServiceOnBehalf,
    OperatorOnBehalf,
    Accepted,
    AcceptedOnBehalf,
    Declined,
}

/// Every sign, and whether the user is known by it.
const SIGNS: [(Sign, bool); 20] = [
    (Sign::Nothing, false),
    (Sign::AddedByService, false),
    (Sign::Ensured, false),
    (Sign::AddedInBatch, false),
    (Sign::OwnerElsewhere, false),
    (Sign::FirstMemberElsewhere, false),
    (Sign::Deactivated, false),
    (Sign::RefusedToken, false),
    (Sign::CheckWithToken, false),
    (Sign::CheckOnBehalf, false),
    (Sign::OnBehalfWithoutScope, false),
    (Sign::Token, true),
    (Sign::TokenOfStranger, true),
    (Sign::EmptyProfile, true),
    (Sign::Profile, true),
    (Sign::ServiceOnBehalf, true),
    (Sign::OperatorOnBehalf, true),
    (Sign::Accepted, true),
    (Sign::AcceptedOnBehalf, true),
    (Sign::Declined, true),
];

fn target() -> String {
    TARGET.to_owned()
}

async fn get_caller(mut caller: Clients) {
    caller.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
}

fn on_behalf(server: &Server, token: String) -> Clients {
    Clients::new(&server.channel(), Credential { token: Some(token), on_behalf_of: Some(target()) })
}

async fn put(server: &Server, email: &str) {
    let request = pb::PutUserRequest { user_id: target(), email: email.to_owned(), ..Default::default() };
    server.service(&[Scope::Manage]).users.put_user(request).await.unwrap();
}

impl Sign {
    async fn happen(self, server: &Server) {
        let mut backend = server.service(&[Scope::Manage]);
        let other = server.user("grace").create("Other").await;
        match self {
            Self::Nothing => {}
            Self::AddedByService => drop(backend.add(&other, TARGET, "admin").await),
            Self::Ensured => {
                let person = Some(pb::ensure_member_request::Person::UserId(target()));
                let request = pb::EnsureMemberRequest { organization: other, person, ..Default::default() };
                backend.organizations.ensure_member(request).await.unwrap();
            }
            Self::AddedInBatch => {
                let person = Some(pb::batch_add_members_item::Person::UserId(target()));
                let items = vec![pb::BatchAddMembersItem { person, ..Default::default() }];
                let request = pb::BatchAddMembersRequest { organization: other, items, ..Default::default() };
                backend.organizations.batch_add_members(request).await.unwrap();
            }
            Self::OwnerElsewhere => {
                let request = pb::CreateOrganizationRequest { owner_user_id: target(), ..organization("Own") };
                backend.organizations.create_organization(request).await.unwrap();
            }
            Self::FirstMemberElsewhere => {
                let pending = backend.create("Pending").await;
                backend.add(&pending, TARGET, "member").await;
            }
            Self::Deactivated => {
                backend.add(&other, TARGET, "member").await;
                let off = pb::DeactivateUserRequest { user_id: target(), ..Default::default() };
                backend.users.deactivate_user(off).await.unwrap();
                let on = pb::ReactivateUserRequest { user_id: target(), ..Default::default() };
                backend.users.reactivate_user(on).await.unwrap();
            }
            _ => self.happen_by_user(server, &other).await,
        }
    }

    async fn happen_by_user(self, server: &Server, other: &str) {
        let service = server.service_token("backend", &[Scope::ActAs, Scope::Check]);
        let check = crate::harness::is_member(other, TARGET);
        let invitation =
            async || create(&server.service(&[Scope::Manage]), invite_identifier(other, "employee 7")).await;
        match self {
            Self::RefusedToken => {
                let expired = roster::authn::mint::ClaimSet { exp: 1, ..Server::claims(TARGET) };
                let mut caller = server.with_token(&server.mint(&expired));
                caller.users.get_caller(pb::GetCallerRequest {}).await.unwrap_err();
            }
            Self::CheckWithToken => drop(server.user(TARGET).checks.check_membership(check).await.unwrap_err()),
            Self::CheckOnBehalf => drop(on_behalf(server, service).checks.check_membership(check).await.unwrap_err()),
            Self::OnBehalfWithoutScope => {
                let mut caller = on_behalf(server, server.service_token("backend", &[Scope::Manage]));
                caller.users.get_caller(pb::GetCallerRequest {}).await.unwrap_err();
            }
            Self::Token => get_caller(server.user(TARGET)).await,
            Self::TokenOfStranger => {
                let request = pb::GetOrganizationRequest { organization: other.to_owned() };
                let answer = server.user(TARGET).organizations.get_organization(request).await;
                assert_refused(answer, Code::PermissionDenied, "PERMISSION_DENIED");
            }
            Self::EmptyProfile => put(server, "").await,
            Self::Profile => put(server, "bob@example.com").await,
            Self::ServiceOnBehalf => get_caller(on_behalf(server, service)).await,
            Self::OperatorOnBehalf => {
                get_caller(on_behalf(server, server.service_token("root", &[Scope::Operator]))).await;
            }
            Self::Accepted => {
                let token = invitation().await.token;
                server.user(TARGET).invitations.accept_invitation(accept(&token)).await.unwrap();
            }
            Self::AcceptedOnBehalf => {
                let token = invitation().await.token;
                on_behalf(server, service).invitations.accept_invitation(accept(&token)).await.unwrap();
            }
            Self::Declined => {
                let token = invitation().await.token;
                server.user(TARGET).invitations.decline_invitation(decline(&token)).await.unwrap();
            }
            _ => panic!("{self:?} is no call of the user"),
        }
    }
}

async fn transferred(mut caller: Clients, request: pb::TransferOwnershipRequest) -> bool {
    caller.organizations.transfer_ownership(request).await.unwrap().into_inner().new_owner_known
}

#[tokio::test]
async fn a_transfer_says_whether_the_new_owner_has_given_a_sign() {
    for (sign, known) in SIGNS {
        // The sign comes before the membership, or after it.
        for is_first in [true, false] {
            let server = Server::start_generous().await;
            let ada = server.user("ada");
            let acme = ada.clone().create("Acme").await;
            if is_first {
                sign.happen(&server).await;
            }
            ada.clone().add(&acme, TARGET, "member").await;
            if !is_first {
                sign.happen(&server).await;
            }
            let validate = pb::TransferOwnershipRequest { validate_only: true, ..transfer(&acme, TARGET) };
            assert_eq!(transferred(ada.clone(), validate).await, known, "{sign:?} {is_first}");
            assert_eq!(transferred(ada, transfer(&acme, TARGET)).await, known, "{sign:?} {is_first}");
            // To the present owner.
            assert_eq!(transferred(server.operator(), transfer(&acme, TARGET)).await, known, "{sign:?} {is_first}");
        }
    }
}

/// The row of the target, without what a write of it changes in any case, and the transaction that wrote it last.
async fn row(server: &Server) -> (bool, i64, String) {
    let row = "SELECT known, revision, xmin::text || update_time::text FROM users WHERE id = 'bob'";
    sqlx::query_as(row).fetch_one(&server.database.pool).await.unwrap()
}

#[tokio::test]
async fn the_first_sign_is_one_write_that_clients_do_not_see() {
    for sign in [Sign::Token, Sign::ServiceOnBehalf, Sign::EmptyProfile] {
        let server = Server::start().await;
        let acme = server.user("ada").create("Acme").await;
        server.user("ada").add(&acme, TARGET, "member").await;
        let user = async || {
            let request = pb::GetUserRequest { user_id: target() };
            server.operator().users.get_user(request).await.unwrap().into_inner()
        };
        let (before, unknown) = (user().await, row(&server).await);
        assert!(!unknown.0);
        sign.happen(&server).await;
        let first = row(&server).await;
        assert!(first.0 && first.1 == unknown.1 && first.2 != unknown.2, "{sign:?}");
        assert_eq!(user().await, before, "{sign:?}");
        assert_eq!(server.database.count("SELECT count(*) FROM user_events WHERE user_id = 'bob'").await, 1);
        // Other calls, other tokens and other signs write nothing.
        for _ in 0..2 {
            get_caller(server.user(TARGET)).await;
            get_caller(server.on_behalf_of(TARGET)).await;
        }
        assert_eq!(row(&server).await, first, "{sign:?}");
    }
}

/// The first call on behalf of a user reads the row, as the first call with a token does. Later ones do not.
#[tokio::test]
async fn a_process_remembers_known_users() {
    let server = Server::start().await;
    get_caller(server.on_behalf_of(TARGET)).await;
    assert!(row(&server).await.0);
    // Nothing takes the mark away but this test, which so sees who reads it.
    sqlx::query("UPDATE users SET known = false").execute(&server.database.pool).await.unwrap();
    get_caller(server.on_behalf_of(TARGET)).await;
    assert!(!row(&server).await.0);
    let other = Server::over(Database::at(server.database.url.clone()), ServerSettings::default()).await;
    get_caller(other.on_behalf_of(TARGET)).await;
    assert!(row(&server).await.0);
}

#[tokio::test]
async fn calls_on_behalf_of_a_deleted_user_change_nothing() {
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    server.user("ada").add(&acme, TARGET, "member").await;
    let request = pb::DeleteUserRequest { user_id: target(), ..Default::default() };
    server.operator().users.delete_user(request).await.unwrap();
    let before = row(&server).await;
    for mut caller in [server.on_behalf_of(TARGET), server.user(TARGET)] {
        let answer = caller.users.get_caller(pb::GetCallerRequest {}).await;
        assert_refused(answer, Code::PermissionDenied, "CALLER_INACTIVE");
    }
    assert_eq!(row(&server).await, before);
}

#[tokio::test]
async fn a_reinstatement_is_no_sign() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    for (id, is_known) in [("typo", false), ("grace", true)] {
        if is_known {
            server.user(id).users.get_caller(pb::GetCallerRequest {}).await.unwrap();
        }
        ada.add(&acme, id, "member").await;
        let mut operator = server.operator();
        let delete = pb::DeleteUserRequest { user_id: id.to_owned(), ..Default::default() };
        operator.users.delete_user(delete).await.unwrap();
        let reinstate = pb::ReinstateUserRequest { user_id: id.to_owned(), ..Default::default() };
        operator.users.reinstate_user(reinstate).await.unwrap();
        ada.add(&acme, id, "member").await;
        let forecast = pb::TransferOwnershipRequest { validate_only: true, ..transfer(&acme, id) };
        let answer = ada.organizations.transfer_ownership(forecast).await.unwrap().into_inner();
        assert_eq!(answer.new_owner_known, is_known, "{id}");
    }
}

#[tokio::test]
async fn a_deployment_can_refuse_transfers_to_unknown_users() {
    let server = Server::with_unknown_owners(UnknownOwners::Refuse).await;
    let ada = server.user("ada");
    let acme = ada.clone().create("Acme").await;
    ada.clone().add(&acme, TARGET, "member").await;
    let request_id = "0d2fd9d5-6c52-4b76-9d9d-5b6b3f3a2f11".to_owned();
    let request = pb::TransferOwnershipRequest { request_id, ..transfer(&acme, TARGET) };
    let before = server.database.dump().await;
    for validate_only in [true, false] {
        let request = pb::TransferOwnershipRequest { validate_only, ..request.clone() };
        let status = ada.clone().organizations.transfer_ownership(request).await.unwrap_err();
        let info = status.get_details_error_info().unwrap();
        assert_eq!((status.code(), &*info.reason), (Code::FailedPrecondition, "NEW_OWNER_UNKNOWN"));
        assert_eq!(info.metadata["user_id"], TARGET);
        assert!(status.message().contains("sign in once, or call PutUser"), "{status:?}");
    }
    assert_eq!(server.database.dump().await, before);
    // An operator who acts for the owner is the owner.
    let operator = server.service_token("root", &[Scope::Operator]);
    let credential = Credential { token: Some(operator), on_behalf_of: Some("ada".to_owned()) };
    let mut as_ada = Clients::new(&server.channel(), credential);
    let answer = as_ada.organizations.transfer_ownership(request.clone()).await;
    assert_eq!(refused(answer), (Code::FailedPrecondition, "NEW_OWNER_UNKNOWN".to_owned()));
    // The same request succeeds once the person has signed in.
    get_caller(server.user(TARGET)).await;
    assert!(transferred(ada.clone(), request).await);

    // An operator passes, and a transfer to the present owner changes nothing.
    let beta = ada.clone().create("Beta").await;
    ada.clone().add(&beta, "carol", "member").await;
    assert!(!transferred(server.operator(), transfer(&beta, "carol")).await);
    let carol = || server.on_behalf_of("carol");
    assert!(!transferred(server.operator(), transfer(&beta, "carol")).await);
    assert!(transferred(carol(), transfer(&beta, "carol")).await);
    // What gives an organization its first owner is not a transfer.
    let mut backend = server.service(&[Scope::Manage]);
    let owned = pb::CreateOrganizationRequest { owner_user_id: "dave".to_owned(), ..organization("Gamma") };
    backend.organizations.create_organization(owned).await.unwrap();
    let pending = backend.create("Pending").await;
    backend.organizations.add_member(add(&pending, "dave", "member")).await.unwrap();
}

#[tokio::test]
async fn the_program_reads_the_setting() {
    for (setting, expected) in [
        ("", Ok(false)),
        ("transfer_to_unknown = 'allow'", Ok(false)),
        ("transfer_to_unknown = 'refuse'", Err((Code::FailedPrecondition, "NEW_OWNER_UNKNOWN".to_owned()))),
    ] {
        let key = api_keys::generate();
        let table = format!("[[api_keys]]\nname = 'app'\nscopes = ['act-as']\nsha256 = '{}'", key.sha256);
        let serve = Serve::start(&Database::new().await.url, &format!("{setting}\n{table}")).await;
        serve.until(ServingStatus::Serving).await;
        let credential =
            Credential { token: Some(key.secret.expose().to_owned()), on_behalf_of: Some("ada".to_owned()) };
        let mut ada = Clients::new(&serve.channel, credential);
        let acme = ada.create("Acme").await;
        ada.add(&acme, TARGET, "member").await;
        let answer = ada.organizations.transfer_ownership(transfer(&acme, TARGET)).await;
        let found =
            answer.map(|answer| answer.into_inner().new_owner_known).map_err(|status| (status.code(), reason(&status)));
        assert_eq!(found, expected, "{setting:?}");
    }
}

/// What release 0.3 stores: users without the mark, profiles, and answers without the field.
#[tokio::test]
async fn what_a_former_release_stores_counts_as_known() {
    let server = Server::start().await;
    let ada = server.user("ada");
    let acme = ada.clone().create("Acme").await;
    let insert = "INSERT INTO users (user_bucket, id, state, deactivated_by_operator, email_verified, profile_issued_at,
                                     revision, create_time, update_time)
                  SELECT user_bucket_of(id), id, 'ACTIVE', false, false, 0, 1, now(), now() FROM (VALUES ('bob')) i (id)";
    sqlx::query(insert).execute(&server.database.pool).await.unwrap();
    ada.clone().add(&acme, TARGET, "member").await;
    let validate = |user| pb::TransferOwnershipRequest { validate_only: true, ..transfer(&acme, user) };
    assert!(transferred(ada.clone(), validate(TARGET)).await);
    // A server of that release stores a profile for a user whom this one has added.
    ada.clone().add(&acme, "carol", "member").await;
    assert!(!transferred(ada.clone(), validate("carol")).await);
    let profile = "UPDATE users SET email = 'c@x.example', email_normal = 'c@x.example', profile_issued_at = 7,
                       revision = revision + 1, update_time = now() WHERE id = 'carol'";
    sqlx::query(profile).execute(&server.database.pool).await.unwrap();
    assert!(transferred(ada.clone(), validate("carol")).await);

    ada.clone().add(&acme, "dave", "member").await;
    let request_id = "0d2fd9d5-6c52-4b76-9d9d-5b6b3f3a2f12".to_owned();
    let request = pb::TransferOwnershipRequest { request_id, ..transfer(&acme, "dave") };
    assert!(!transferred(ada.clone(), request.clone()).await);
    assert!(!transferred(ada.clone(), request.clone()).await);
    let stored: Value =
        sqlx::query_scalar("SELECT answer FROM requests").fetch_one(&server.database.pool).await.unwrap();
    // That release reads the answer as the organization.
    let read: Organization = serde_json::from_value(stored["answer"].clone()).unwrap();
    assert_eq!(read.owner.map(|owner| owner.to_string()), Some("dave".to_owned()));
    let whole: TransferredOwnership = serde_json::from_value(stored["answer"].clone()).unwrap();
    assert_eq!(serde_json::to_value(&whole).unwrap(), stored["answer"]);
    assert_eq!(stored["answer"]["new_owner_known"], json!(false));
    let former = "UPDATE requests SET answer = answer #- '{answer,new_owner_known}'";
    sqlx::query(former).execute(&server.database.pool).await.unwrap();
    assert!(transferred(ada, request).await);
}
