//! Fully consistent checks, 128 concurrent ones, in comparison with pgbench reading the same rows by key with prepared
//! statements. All processes run on both cores.

use crate::echo::medians;
use crate::tool::median;
use crate::tool::questions::Kind;
use crate::tool::report::{Row, row};
use crate::tool::server::measure_on;
use crate::tool::stage::{Stage, both, rounds};
use crate::tool::table;

/// Connections of pgbench: as many as saturate two cores.
const CLIENTS: u32 = 8;

pub(crate) fn rows(stage: &Stage) -> Vec<Row> {
    let server = stage.start_on(&both());
    let token = stage.token("roster:check");
    let script = table::pgbench_script(stage.directory.path(), stage.size);
    let (mut checks, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..rounds() {
        let load = stage.load(&server.address, &token, Kind::Check { fully_consistent: true });
        checks.push(measure_on(&server.process, &load, &both()));
        reads.push(stage.pgbench(&script, CLIENTS));
    }
    let (check, reads) = (medians(&checks), median(reads));
    vec![row(
        "CheckMembership on the primary, 128 concurrent",
        format!("{:.0}/s, p50 {:.0} µs, p99 {:.0} µs", check.rate, check.p50, check.p99),
        format!("pgbench -S -M prepared -c {CLIENTS}: {reads:.0}/s"),
        Some(check.rate / reads),
        "≥ 1.2",
    )]
}
