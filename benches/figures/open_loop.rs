//! What a caller waits at half load: as many calls a second as half of what the fastest echo can do, at random moments,
//! whatever comes back; each counted from the moment at which it was due.

use crate::echo::medians;
use crate::tool::questions::Kind;
use crate::tool::report::{Row, row};
use crate::tool::server::measure;
use crate::tool::stage::{Server, Stage, echo, rounds};

pub(crate) fn rows(stage: &Stage, roster: &Server) -> Vec<Row> {
    let echo = echo("echo-hyper");
    let (token, kind) = (stage.token("roster:check"), Kind::Check { fully_consistent: false });
    let closed = measure(&echo.process, &stage.load(&echo.address, "", kind.clone()));
    let mut seen = [Vec::new(), Vec::new()];
    for _ in 0..rounds() {
        for (index, (server, token)) in [(&echo, ""), (roster, token.as_str())].into_iter().enumerate() {
            let load = stage.load(&server.address, token, kind.clone());
            seen[index].push(measure(&server.process, &crate::tool::load::Load { rate: closed.rate / 2.0, ..load }));
        }
    }
    let [echo, check] = seen.map(|seen| medians(&seen));
    let words = |p50: f64, p99: f64| format!("p50 {p50:.0} µs, p99 {p99:.0} µs");
    vec![row(
        &format!("CheckMembership, open loop at {:.0} calls/s: p99", closed.rate / 2.0),
        words(check.p50, check.p99),
        format!("echo: {}", words(echo.p50, echo.p99)),
        Some(check.p99 / echo.p99),
        "≤ 1.3",
    )]
}
