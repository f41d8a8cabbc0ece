//! Checks in comparison with the cost of any tonic server: a bare echo of a message of the same size, without
//! authentication, on two kinds of server. The faster one is the reference for the checks.

use crate::tool::questions::Kind;
use crate::tool::report::{Row, row};
use crate::tool::server::{Figures, measure};
use crate::tool::stage::{Server, Stage, echo, rounds};
use crate::tool::{median, print_line};

/// The medians of several rounds.
pub(crate) fn medians(rounds: &[Figures]) -> Figures {
    let median_of = |pick: fn(&Figures) -> f64| median(rounds.iter().map(pick));
    Figures {
        rate: median_of(|figures| figures.rate),
        cpu: median_of(|figures| figures.cpu),
        p50: median_of(|figures| figures.p50),
        p99: median_of(|figures| figures.p99),
        server_core: median_of(|figures| figures.server_core),
        load_core: median_of(|figures| figures.load_core),
    }
}

pub(crate) fn format_figures(figures: &Figures) -> String {
    let Figures { rate, cpu, p50, p99, .. } = figures;
    format!("{rate:.0}/s, {cpu:.2} µs CPU, p50 {p50:.0} µs, p99 {p99:.0} µs")
}

/// Measures both echo servers and roster's checks, in turn.
pub(crate) fn compare(stage: &Stage, roster: &Server) -> [Figures; 3] {
    let echoes = [echo("echo-tonic"), echo("echo-hyper")];
    let token = stage.token("roster:check");
    let check = Kind::Check { fully_consistent: false };
    let mut figures = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds() {
        for (echo, figures) in echoes.iter().zip(&mut figures) {
            figures.push(measure(&echo.process, &stage.load(&echo.address, "", check.clone())));
        }
        figures[2].push(measure(&roster.process, &stage.load(&roster.address, &token, check.clone())));
        print_line(&format!(
            "{:.0?}",
            figures.iter().map(|figures| figures[figures.len() - 1].rate).collect::<Vec<_>>()
        ));
    }
    figures.map(|figures| medians(&figures))
}

/// The rows of the echo servers and of the checks.
pub(crate) fn rows(name: &str, [tonic, hyper, check]: &[Figures; 3]) -> Vec<Row> {
    let fastest = if tonic.cpu < hyper.cpu { tonic } else { hyper };
    let cores = |figures: &Figures| {
        format!("server's core {:.0} %, generator's {:.0} %", figures.server_core * 100.0, figures.load_core * 100.0)
    };
    vec![
        row("bare tonic echo, tonic's own server", format_figures(tonic), cores(tonic), None, ""),
        row("bare tonic echo, service directly on hyper", format_figures(hyper), cores(hyper), None, ""),
        row(
            &format!("{name}: calls/s against the fastest echo"),
            format_figures(check),
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
