//! What any tonic server pays: a bare echo of a message of the same size, without authentication, in two shapes. The
//! faster one is what the checks are held against.

use crate::tool::questions::Kind;
use crate::tool::report::{Row, row};
use crate::tool::server::{Figures, measure};
use crate::tool::stage::{Server, Stage, echo, rounds};
use crate::tool::{median, say};

/// Medians of what several rounds have shown.
pub(crate) fn medians(rounds: &[Figures]) -> Figures {
    let of = |pick: fn(&Figures) -> f64| median(rounds.iter().map(pick));
    Figures {
        rate: of(|figures| figures.rate),
        cpu: of(|figures| figures.cpu),
        p50: of(|figures| figures.p50),
        p99: of(|figures| figures.p99),
        server_core: of(|figures| figures.server_core),
        load_core: of(|figures| figures.load_core),
    }
}

pub(crate) fn words(figures: &Figures) -> String {
    let Figures { rate, cpu, p50, p99, .. } = figures;
    format!("{rate:.0}/s, {cpu:.2} µs CPU, p50 {p50:.0} µs, p99 {p99:.0} µs")
}

/// Measures the echoes, and roster answering checks from where it answers them, in turn.
pub(crate) fn beside(stage: &Stage, roster: &Server) -> [Figures; 3] {
    let echoes = [echo("echo-tonic"), echo("echo-hyper")];
    let token = stage.token("roster:check");
    let check = Kind::Check { fully_consistent: false };
    let mut seen = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds() {
        for (echo, seen) in echoes.iter().zip(&mut seen) {
            seen.push(measure(&echo.process, &stage.load(&echo.address, "", check.clone())));
        }
        seen[2].push(measure(&roster.process, &stage.load(&roster.address, &token, check.clone())));
        say(&format!("{:.0?}", seen.iter().map(|seen| seen[seen.len() - 1].rate).collect::<Vec<_>>()));
    }
    seen.map(|seen| medians(&seen))
}

/// The first rows.
pub(crate) fn rows(name: &str, [tonic, hyper, check]: &[Figures; 3]) -> Vec<Row> {
    let fastest = if tonic.cpu < hyper.cpu { tonic } else { hyper };
    let cores = |figures: &Figures| {
        format!("server's core {:.0} %, generator's {:.0} %", figures.server_core * 100.0, figures.load_core * 100.0)
    };
    vec![
        row("bare tonic echo, tonic's own server", words(tonic), cores(tonic), None, ""),
        row("bare tonic echo, service directly on hyper", words(hyper), cores(hyper), None, ""),
        row(
            &format!("{name}: calls/s against the fastest echo"),
            words(check),
            cores(check),
            Some(check.rate / fastest.rate),
            "≥ 0.85",
        ),
        row(
            &format!("{name}: CPU per call, echo's by check's"),
            format!("{:.2} µs", check.cpu),
            format!("{:.2} µs", fastest.cpu),
            Some(fastest.cpu / check.cpu),
            "≥ 0.85",
        ),
    ]
}
