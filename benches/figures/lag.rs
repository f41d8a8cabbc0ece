//! The replication lag of a revocation: the time from its acknowledgement by one process until another process denies.

use crate::tool::report::{Row, row};
use crate::tool::stage::{Server, Stage, with};
use crate::tool::{float, number, table};
use roster::grpc::pb;
use roster::grpc::pb::check_service_client::CheckServiceClient;
use roster::grpc::pb::organization_service_client::OrganizationServiceClient;
use std::time::Instant;

pub(crate) async fn rows(stage: &Stage, server: &Server) -> Vec<Row> {
    let other = stage.start_on(crate::tool::server::LOAD_CORE);
    other.until_loaded(stage.size).await;
    let token = stage.token("roster:check roster:manage");
    let mut organizations = OrganizationServiceClient::new(server.channel().await);
    let mut checks = CheckServiceClient::new(other.channel().await);
    let mut lags = Vec::new();
    for round in 0..number("ROSTER_BENCH_REVOCATIONS", 500) {
        let organization = table::organization(round % stage.size.organizations());
        let user = format!("revoked-{round}");
        let add = pb::AddMemberRequest {
            organization: organization.clone(),
            person: Some(pb::add_member_request::Person::UserId(user.clone())),
            role: "member".to_owned(),
            ..Default::default()
        };
        organizations.add_member(with(&token, add)).await.unwrap();
        let check = pb::CheckMembershipRequest {
            organization: organization.clone(),
            user_id: user.clone(),
            ..Default::default()
        };
        let mut allowed = async || {
            let answer = checks.check_membership(with(&token, check.clone())).await.unwrap();
            answer.into_inner().result.unwrap().allowed
        };
        while !allowed().await {}
        let remove = pb::RemoveMemberRequest { organization, user_id: user, ..Default::default() };
        organizations.remove_member(with(&token, remove)).await.unwrap();
        let acknowledged = Instant::now();
        while allowed().await {}
        lags.push(acknowledged.elapsed().as_secs_f64() * 1e3);
    }
    lags.sort_by(f64::total_cmp);
    let percentile = |part: usize| lags[(lags.len() - 1) * part / 100];
    vec![row(
        "revocation acknowledged on one process to denied on another",
        format!("p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms", percentile(50), percentile(99), percentile(100)),
        format!("{:.0} revocations", float(lags.len())),
        None,
        "≤ 5 ms, ≤ 50 ms, ≤ 1 s",
    )]
}
