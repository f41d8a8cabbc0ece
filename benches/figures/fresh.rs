//! Checks from the replica that name a consistency token, as a backend sends them after a write. The replica compares the
//! token with what it has applied.

use crate::echo::{format_figures, medians};
use crate::tool::questions::Kind;
use crate::tool::report::{Row, row};
use crate::tool::server::measure;
use crate::tool::stage::{Server, Stage, echo, rounds, with};
use crate::tool::table;
use roster::grpc::pb;

/// The number of questions, each with a token of its organization. They travel in a variable of the environment, so there
/// are fewer of them than of other checks.
const QUESTIONS: u32 = 512;

pub(crate) async fn rows(stage: &Stage, server: &Server) -> Vec<Row> {
    let echo = echo("echo-hyper");
    let (token, questions) = (stage.token("roster:check"), questions(stage, server).await);
    let kind = |fresh| Kind::Fresh { questions: questions.clone(), fresh };
    let mut figures = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds() {
        let echo_load = stage.load(&echo.address, "", Kind::Check { fully_consistent: false });
        figures[0].push(measure(&echo.process, &echo_load));
        for (figures, fresh) in figures[1..].iter_mut().zip([false, true]) {
            figures.push(measure(&server.process, &stage.load(&server.address, &token, kind(fresh))));
        }
    }
    let [echo, plain, fresh] = figures.map(|figures| medians(&figures));
    vec![row(
        &format!("CheckMembership with a consistency token, {QUESTIONS} questions: calls/s, compared with the echo"),
        format_figures(&fresh),
        format!("echo: {}; without a token: {}", format_figures(&echo), format_figures(&plain)),
        Some(fresh.rate / echo.rate),
        "≥ 0.85",
    )]
}

/// Questions, each with the consistency token of an earlier answer.
async fn questions(stage: &Stage, server: &Server) -> Vec<[String; 3]> {
    let token = stage.token("roster:check");
    let mut client = pb::check_service_client::CheckServiceClient::new(server.channel().await);
    let mut questions = Vec::new();
    for number in 0..QUESTIONS {
        let number = number * (stage.size.memberships / QUESTIONS);
        let (organization, user_id) = table::ids(number, stage.size.users);
        let message = pb::CheckMembershipRequest {
            organization: organization.clone(),
            user_id: user_id.clone(),
            ..Default::default()
        };
        let answer = client.check_membership(with(&token, message)).await.unwrap().into_inner();
        questions.push([organization, user_id, answer.result.unwrap().consistency_token]);
    }
    questions
}
