//! Many checks in one call.

use crate::echo::medians;
use crate::tool::load::Load;
use crate::tool::questions::{BATCH, Kind};
use crate::tool::report::{Row, row};
use crate::tool::server::measure;
use crate::tool::stage::{Server, Stage, rounds};

pub(crate) fn rows(stage: &Stage, server: &Server) -> Vec<Row> {
    let load = stage.load(&server.address, &stage.token("roster:check"), Kind::Batch);
    let load = Load { connections: 4, streams: 2, ..load };
    let seen: Vec<_> = (0..rounds()).map(|_| measure(&server.process, &load)).collect();
    let batch = medians(&seen);
    let checks = batch.rate * f64::from(BATCH) / batch.server_core;
    vec![row(
        &format!("BatchCheckMembership of {BATCH}: checks per second and core"),
        format!("{checks:.0}"),
        format!("server's core {:.0} %, generator's {:.0} %", batch.server_core * 100.0, batch.load_core * 100.0),
        None,
        "≥ 1 000 000",
    )]
}
