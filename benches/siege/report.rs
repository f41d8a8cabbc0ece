//! The printed table of attacks.

use super::callers::Figures;
use super::run::Result;
use crate::tool::print_line;
use roster::server::ServerSettings;

const HEAD: &str = "| attack | checks p50, p99: before | during | after | writes p50, p99: before | during | after \
    | echo p99: before, during | refused during | health false | memory before, peak, after | log | attacker | goal |";

/// The bound of the memory with the default settings, in bytes.
fn peer_memory() -> u64 {
    u64::try_from(ServerSettings::default().peer_memory()).unwrap_or(u64::MAX)
}

/// The title of the columns.
pub(crate) fn head() {
    print_line(HEAD);
    print_line(&format!("|{}", "---|".repeat(HEAD.matches(" | ").count() + 1)));
}

/// The row of one attack.
pub(crate) fn row(result: &Result) {
    let Result { attack, description, checks, writes, echoes, health, memory, .. } = result;
    let address = if result.same_address { ", from the callers' address" } else { "" };
    let polls = |figures: &Figures| (figures.calls - figures.answered, figures.calls);
    let (false_before, _) = polls(&health[0]);
    let (false_during, during) = polls(&health[1]);
    let (false_after, _) = polls(&health[2]);
    let false_answers = format!("{false_before}, {false_during} of {during}, {false_after} {}", reasons(&health[1]));
    let memory = memory.map(|bytes| format!("{}", bytes >> 20)).join(", ");
    let competitors = result.competitors.as_ref().map(|figures| ("competitors", &figures[1]));
    let flows = [("checks", &checks[1]), ("writes", &writes[1])].into_iter().chain(competitors);
    let refused: Vec<_> = flows
        .filter(|(_, figures)| !figures.refused.is_empty())
        .map(|(name, figures)| format!("{name} of {}: {}", figures.calls, reasons(figures)))
        .collect();
    print_line(&format!(
        "| **{attack}**{address}: {description} | {} | {} | {} | {} | {} | {} | {}, {} | {} | {} | {memory} MiB | {} KiB | {} | {} |",
        latency(&checks[0]),
        latency(&checks[1]),
        latency(&checks[2]),
        latency(&writes[0]),
        latency(&writes[1]),
        latency(&writes[2]),
        milliseconds(echoes[0].p99),
        milliseconds(echoes[1].p99),
        refused.join("; "),
        false_answers.trim(),
        result.logged >> 10,
        result.attacker,
        verdict(result),
    ));
}

fn reasons(figures: &Figures) -> String {
    let reasons: Vec<_> = figures.refused.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.join(", ")
}

fn milliseconds(micros: Option<f64>) -> String {
    micros.map_or_else(|| "∞".to_owned(), |micros| format!("{:.2}", micros / 1e3))
}

fn latency(figures: &Figures) -> String {
    format!("{}, {} ms", milliseconds(figures.p50), milliseconds(figures.p99))
}

/// Compares the figures with the goal, and names what misses it.
fn verdict(result: &Result) -> String {
    let micros = |figures: &Figures| figures.p99.unwrap_or(f64::INFINITY);
    let [checks_before, checks, _] = result.checks.each_ref().map(micros);
    let [writes_before, writes, _] = result.writes.each_ref().map(micros);
    let health = result.health.iter().all(|figures| figures.answered == figures.calls);
    let misses = [
        ("checks", checks > (2.0 * checks_before).max(5e3)),
        ("writes", writes > (3.0 * writes_before).max(50e3)),
        ("health", !health),
        ("competitors", result.competitors.as_ref().is_some_and(|figures| figures[1].answered < figures[1].calls)),
        ("memory", result.memory[1] - result.memory[0] > peer_memory()),
        ("panic", result.has_panicked),
    ];
    let names: Vec<_> = misses.iter().filter(|(_, missed)| *missed).map(|(name, _)| *name).collect();
    if names.is_empty() { "met".to_owned() } else { format!("**missed: {}**", names.join(", ")) }
}
