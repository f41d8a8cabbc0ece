//! First pages of the members of a large organization and of the organizations of a user with many, in comparison with small
//! lists.

use crate::tool::load::Load;
use crate::tool::median;
use crate::tool::questions::Kind;
use crate::tool::report::{Row, row};
use crate::tool::server::measure;
use crate::tool::stage::{Server, Stage, rounds};
use crate::tool::table;

const MEMBERS: [u32; 2] = [100, 100_000];
const ORGANIZATIONS: [u32; 2] = [100, 10_000];

pub(crate) async fn rows(stage: &Stage, server: &Server) -> Vec<Row> {
    let mut rows = Vec::new();
    let token = stage.token("roster:manage");
    let (mut large, mut busy) = (Vec::new(), Vec::new());
    for members in MEMBERS {
        let organization = table::add_large(&stage.url, members).await;
        large.push(stage.load(&server.address, &token, Kind::Members { organization }));
    }
    for organizations in ORGANIZATIONS {
        let user = table::add_busy(&stage.url, organizations).await;
        busy.push(stage.load(&server.address, &token, Kind::Organizations { user }));
    }
    for (name, loads, [few, many]) in [("ListMembers", large, MEMBERS), ("ListUserOrganizations", busy, ORGANIZATIONS)]
    {
        let loads = loads.into_iter().map(|load| Load { connections: 1, streams: 1, ..load }).collect::<Vec<_>>();
        let mut latencies = [Vec::new(), Vec::new()];
        for _ in 0..rounds() {
            for (load, latencies) in loads.iter().zip(&mut latencies) {
                latencies.push(measure(&server.process, load).p50);
            }
        }
        let [small, large] = latencies.map(median);
        rows.push(row(
            &format!("{name}, first page of {many} (p50)"),
            format!("{large:.0} µs"),
            format!("of {few}: {small:.0} µs"),
            Some(large / small),
            "≤ 1.5",
        ));
    }
    rows
}
