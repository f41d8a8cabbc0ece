//! The cost of size: memory for each membership, the time until the replica has loaded, and the latency of a check in
//! comparison with 10 000 memberships.

use crate::echo::medians;
use crate::tool::median;
use crate::tool::questions::Kind;
use crate::tool::report::{Row, row};
use crate::tool::server::measure;
use crate::tool::stage::{Stage, rounds, with};
use crate::tool::table::{self, Size};
use roster::grpc::pb;

const FEW: u32 = 10_000;

pub(crate) async fn rows(stage: &Stage) -> Vec<Row> {
    let small = Stage::new(FEW, 0).await;
    let (few, many) = (small.start(), stage.start());
    let first = first_answer(stage, &many).await;
    let loaded = many.until_loaded(stage.size).await;
    few.until_loaded(small.size).await;
    let more = f64::from(stage.size.memberships - FEW);
    let (resident, counted) = (
        (many.process.resident() - few.process.resident()) / more,
        many.metric("replica_bytes") / f64::from(stage.size.memberships),
    );
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..rounds() {
        for (index, (stage, server)) in [(&small, &few), (stage, &many)].into_iter().enumerate() {
            let load =
                stage.load(&server.address, &stage.token("roster:check"), Kind::Check { fully_consistent: false });
            figures[index].push(measure(&server.process, &load));
        }
    }
    let ratio = median(figures[0].iter().zip(&figures[1]).map(|(few, many)| many.p50 / few.p50));
    let [few, many] = figures.map(|figures| medians(&figures));
    let Size { memberships, users } = stage.size;
    let table = format!("{memberships} memberships of {users} users in {} organizations", stage.size.organizations());
    vec![
        row(
            &format!("latency (p50, 128 concurrent) with {memberships} memberships"),
            format!("{:.0} µs", many.p50),
            format!("with {FEW}: {:.0} µs", few.p50),
            Some(ratio),
            "≤ 1.2",
        ),
        row(
            "memory per membership",
            format!("{resident:.1} bytes of resident memory"),
            format!("by the replica's count {counted:.1}; {table}"),
            None,
            "≤ 64 bytes",
        ),
        row(
            "from the start until the replica has loaded",
            format!("{:.1} s", loaded.as_secs_f64()),
            format!("first answer, by the primary, after {first:.2} s"),
            None,
            "≤ 15 s, ≤ 1 s",
        ),
    ]
}

/// The seconds from a server's start to its first answer.
async fn first_answer(stage: &Stage, server: &crate::tool::stage::Server) -> f64 {
    let token = stage.token("roster:check");
    let mut client = pb::check_service_client::CheckServiceClient::new(server.channel().await);
    let (organization, user_id) = table::ids(stage.size.memberships - 1, stage.size.users);
    let message = pb::CheckMembershipRequest { organization, user_id, ..Default::default() };
    loop {
        if let Ok(answer) = client.check_membership(with(&token, message.clone())).await {
            assert!(answer.into_inner().result.unwrap().allowed);
            return server.started.elapsed().as_secs_f64();
        }
    }
}
