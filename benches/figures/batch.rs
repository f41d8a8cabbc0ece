//! Many checks in one call, and many on one stream.

use crate::echo::medians;
use crate::tool::load::Load;
use crate::tool::questions::{BATCH, Kind};
use crate::tool::report::{Row, row};
use crate::tool::server::measure;
use crate::tool::stage::{Server, Stage, rounds};

/// Questions under way on one stream: as many as leave the generator in one piece.
const UNDER_WAY: usize = 256;

pub(crate) fn rows(stage: &Stage, server: &Server) -> Vec<Row> {
    let load = stage.load(&server.address, &stage.token("roster:check"), Kind::Batch);
    let batch = Load { connections: 4, streams: 2, ..load };
    vec![figure(server, &batch, BATCH, &format!("BatchCheckMembership of {BATCH}"), "≥ 1 000 000")]
}

pub(crate) fn streams(stage: &Stage, server: &Server) -> Vec<Row> {
    let load = stage.load(&server.address, &stage.token("roster:check"), Kind::Stream);
    let stream = Load { connections: 4, streams: UNDER_WAY, ..load };
    vec![figure(server, &stream, 1, &format!("StreamChecks, {UNDER_WAY} under way on each of 4"), "≥ 500 000")]
}

fn figure(server: &Server, load: &Load, checks: u32, name: &str, wanted: &'static str) -> Row {
    let seen: Vec<_> = (0..rounds()).map(|_| measure(&server.process, load)).collect();
    let seen = medians(&seen);
    row(
        &format!("{name}: checks per second and core"),
        format!("{:.0}", seen.rate * f64::from(checks) / seen.server_core),
        format!(
            "{:.0}/s; server's core {:.0} %, generator's {:.0} %",
            seen.rate * f64::from(checks),
            seen.server_core * 100.0,
            seen.load_core * 100.0
        ),
        None,
        wanted,
    )
}
