//! Latency in an open loop: a fixed rate of calls at random moments, independent of the answers. Each latency counts from the
//! moment at which the call was due. One rate keeps the core of the fastest echo half busy, the other is half of the echo's
//! rate in a closed loop. The latter is close to the echo's limit in an open loop, where calls arrive, are read and are
//! answered one by one.

use crate::echo::medians;
use crate::tool::load::Load;
use crate::tool::questions::Kind;
use crate::tool::report::{Row, row};
use crate::tool::server::{Figures, measure};
use crate::tool::stage::{Server, Stage, echo, rounds};

pub(crate) fn rows(stage: &Stage, roster: &Server) -> Vec<Row> {
    let echo = echo("echo-hyper");
    let load = |server: &Server, token: &str, rate| Load {
        rate,
        ..stage.load(&server.address, token, Kind::Check { fully_consistent: false })
    };
    let closed = measure(&echo.process, &load(&echo, "", 0.0));
    let alone = measure(&echo.process, &load(&echo, "", closed.rate / 8.0));
    let token = stage.token("roster:check");
    let rates =
        [("keeps the echo's core half busy", 0.5e6 / alone.cpu), ("is half of a closed loop's", closed.rate / 2.0)];
    let rows = rates.map(|(name, rate)| {
        let mut figures = [Vec::new(), Vec::new()];
        for _ in 0..rounds() {
            figures[0].push(measure(&echo.process, &load(&echo, "", rate)));
            figures[1].push(measure(&roster.process, &load(roster, &token, rate)));
        }
        let [echo, check] = figures.map(|figures| medians(&figures));
        row(
            &format!("CheckMembership, open loop at {rate:.0} calls/s, which {name}: p99"),
            format_figures(&check),
            format!("echo: {}", format_figures(&echo)),
            Some(check.p99 / echo.p99),
            "≤ 1.3",
        )
    });
    rows.into()
}

fn format_figures(figures: &Figures) -> String {
    let Figures { p50, p99, server_core, .. } = figures;
    format!("p50 {p50:.0} µs, p99 {p99:.0} µs, server's core {:.0} % busy", server_core * 100.0)
}
