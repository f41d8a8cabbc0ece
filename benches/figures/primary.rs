//! Checks that must be answered by the primary, 128 under way, beside pgbench asking for the same rows by key with
//! prepared statements. Everybody has both cores.

use crate::echo::medians;
use crate::tool::median;
use crate::tool::questions::Kind;
use crate::tool::report::{Row, row};
use crate::tool::server::measure_on;
use crate::tool::stage::{Stage, both, rounds};
use crate::tool::table;

/// As many as saturate two cores.
const CLIENTS: u32 = 8;

pub(crate) fn rows(stage: &Stage) -> Vec<Row> {
    let server = stage.start_on(&both());
    let token = stage.token("roster:check");
    let script = table::pgbench_script(stage.directory.path(), stage.size);
    let (mut checks, mut asked) = (Vec::new(), Vec::new());
    for _ in 0..rounds() {
        let load = stage.load(&server.address, &token, Kind::Check { fully_consistent: true });
        checks.push(measure_on(&server.process, &load, &both()));
        asked.push(stage.pgbench(&script, CLIENTS));
    }
    let (check, asked) = (medians(&checks), median(asked));
    vec![row(
        "CheckMembership on the primary, 128 under way",
        format!("{:.0}/s, p50 {:.0} µs, p99 {:.0} µs", check.rate, check.p50, check.p99),
        format!("pgbench -S -M prepared -c {CLIENTS}: {asked:.0}/s"),
        Some(check.rate / asked),
        "≥ 1.2",
    )]
}
