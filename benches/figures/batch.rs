//! The throughput of checks in batches and on streams.

use crate::echo::medians;
use crate::tool::load::Load;
use crate::tool::questions::{BATCH, Kind};
use crate::tool::report::{Row, row};
use crate::tool::server::measure;
use crate::tool::stage::{Server, Stage, rounds};

/// Concurrent checks on one stream: as many as the generator sends in one write.
const CONCURRENT: usize = 256;

pub(crate) fn rows(stage: &Stage, server: &Server) -> Vec<Row> {
    let load = stage.load(&server.address, &stage.token("roster:check"), Kind::Batch);
    let batch = Load { connections: 4, streams: 2, ..load };
    vec![throughput(server, &batch, BATCH, &format!("BatchCheckMembership of {BATCH}"), "≥ 1 000 000")]
}

pub(crate) fn streams(stage: &Stage, server: &Server) -> Vec<Row> {
    let load = stage.load(&server.address, &stage.token("roster:check"), Kind::Stream);
    let stream = Load { connections: 4, streams: CONCURRENT, ..load };
    vec![throughput(server, &stream, 1, &format!("StreamChecks, {CONCURRENT} concurrent on each of 4"), "≥ 500 000")]
}

fn throughput(server: &Server, load: &Load, checks: u32, name: &str, target: &'static str) -> Row {
    let figures: Vec<_> = (0..rounds()).map(|_| measure(&server.process, load)).collect();
    let figures = medians(&figures);
    row(
        &format!("{name}: checks per second and core"),
        format!("{:.0}", figures.rate * f64::from(checks) / figures.server_core),
        format!(
            "{:.0}/s; server's core {:.0} %, generator's {:.0} %",
            figures.rate * f64::from(checks),
            figures.server_core * 100.0,
            figures.load_core * 100.0
        ),
        None,
        target,
    )
}
