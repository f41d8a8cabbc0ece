//! One attack: the honest callers before, during and after it, and what the server holds and answers.

use super::attacks::Attack;
use super::callers::{Figures, Flow, Plan};
use super::process::{CALLER_CORE, Process};
use super::questions::Kind;
use super::stage::{Server, Stage};
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The priorities of the honest callers and of the attacker.
const CALLERS: (&str, i32) = (CALLER_CORE, -10);
const ATTACKER: (&str, i32) = (CALLER_CORE, 19);
/// Calls a second to the echo, and health queries a second.
const ECHOES: f64 = 200.0;
const HEALTH: f64 = 5.0;
/// Streams a second that compete with an attack, and exports a second, which take longer.
const STREAMS: f64 = 5.0;
const EXPORTS: f64 = 0.5;
/// The time between two looks at the memory of the server.
const SAMPLE: Duration = Duration::from_millis(50);
/// The warm-up of the callers, which is not counted.
const WARM_UP: Duration = Duration::from_secs(2);

/// The load of the honest callers, in calls a second: each a tenth of what the server answers alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) checks: f64,
    pub(crate) writes: f64,
}

/// The lengths of the phases.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phases {
    pub(crate) before: Duration,
    pub(crate) during: Duration,
    pub(crate) after: Duration,
}

/// What one attack did. Figures stand for before, during and after.
pub(crate) struct Result {
    pub(crate) attack: &'static str,
    pub(crate) description: &'static str,
    pub(crate) same_address: bool,
    pub(crate) checks: [Figures; 3],
    pub(crate) writes: [Figures; 3],
    pub(crate) echoes: [Figures; 3],
    pub(crate) health: [Figures; 3],
    /// The calls that compete with the attack: see [`Attack::competitor`].
    pub(crate) competitors: Option<[Figures; 3]>,
    /// The resident memory of the server in bytes: at the start, at most, at the end.
    pub(crate) memory: [u64; 3],
    /// What the server has logged during the attack, in bytes.
    pub(crate) logged: u64,
    pub(crate) has_panicked: bool,
    /// The counts of the attacker.
    pub(crate) attacker: String,
}

/// Measures the rates of checks and of writes in closed loops, and returns a tenth of each: together they keep the server
/// busy for a fifth of the time.
pub(crate) fn measure(stage: &Stage, phases: Phases) -> Load {
    let server = stage.start("capacity");
    let rate = |kind: &Kind| {
        let flow = Flow { rate: 0.0, ..flow(stage, &server, kind.clone(), 0.0) };
        let plan = Plan { flows: vec![flow], phases: vec![WARM_UP, phases.before] };
        let callers = start(&plan);
        callers.line();
        callers.line();
        let figures: Vec<Vec<Figures>> = serde_json::from_str(&callers.line()).unwrap();
        figures[0][1].rate
    };
    let (checks, writes) = (rate(&Kind::Check(stage.size)), rate(&Kind::Write(stage.size)));
    crate::tool::print_line(&format!("alone: {checks:.0} checks/s, or {writes:.0} writes/s"));
    Load { checks: checks / 10.0, writes: writes / 10.0 }
}

fn flow(stage: &Stage, server: &Server, kind: Kind, rate: f64) -> Flow {
    let (token, connections) = match &kind {
        Kind::Write(_) => (stage.token.clone(), 2),
        Kind::Echo => (String::new(), 1),
        Kind::Health => (String::new(), 8),
        Kind::Check(_) | Kind::Stream | Kind::Export => (stage.token.clone(), 4),
    };
    let fresh = matches!(kind, Kind::Health | Kind::Stream | Kind::Export);
    Flow { address: server.address, token, kind, connections, rate, fresh }
}

fn start(plan: &Plan) -> Process {
    let plan = serde_json::to_string(plan).unwrap();
    Process::again("callers", CALLERS, &[("ROSTER_SIEGE_PLAN", &plan)])
}

/// Runs an attack against a new server.
pub(crate) fn run(
    stage: &Stage,
    attack: &Attack,
    (load, phases): (Load, Phases),
    echo: SocketAddr,
    local: IpAddr,
) -> Result {
    let server = stage.start(attack.name);
    let size = stage.size;
    let echo = Flow { address: echo, ..flow(stage, &server, Kind::Echo, ECHOES) };
    let mut flows = vec![
        flow(stage, &server, Kind::Check(size), load.checks),
        flow(stage, &server, Kind::Write(size), load.writes),
        echo,
        flow(stage, &server, Kind::Health, HEALTH),
    ];
    flows.extend(attack.competitor().map(|kind| {
        let rate = if matches!(kind, Kind::Stream) { STREAMS } else { EXPORTS };
        flow(stage, &server, kind, rate)
    }));
    let lengths = vec![WARM_UP, phases.before, phases.during, phases.after];
    let callers = start(&Plan { flows, phases: lengths });
    let target = serde_json::to_string(&stage.target(&server, local)).unwrap();
    let (mut attacker, mut counts) = (None, String::new());
    let (mut memory, mut logged) = ([0, 0, 0], 0);
    let begin = Instant::now();
    let figures: Vec<Vec<Figures>> = loop {
        let resident = server.process.resident().unwrap_or_default();
        memory = [memory[0], memory[1].max(resident), resident];
        match callers.poll_line().as_deref() {
            None => std::thread::sleep(SAMPLE),
            Some("0") => {}
            Some("1") => memory = [resident; 3],
            Some("2") => {
                (memory, logged) = ([resident; 3], server.log_bytes());
                let role = format!("attack:{}", attack.name);
                attacker = Some(Process::again(&role, ATTACKER, &[("ROSTER_SIEGE_TARGET", &target)]));
            }
            Some("3") => {
                counts = attacker.take().and_then(|attacker| attacker.last_line()).unwrap_or_default();
                logged = server.log_bytes() - logged;
            }
            Some(figures) => break serde_json::from_str(figures).unwrap(),
        }
        assert!(begin.elapsed() < Duration::from_mins(5), "the callers have not ended");
    };
    let mut flows = figures.into_iter().map(|mut phases| {
        let after = phases.pop().unwrap();
        let during = phases.pop().unwrap();
        [phases.pop().unwrap(), during, after]
    });
    let mut next = || flows.next();
    let [checks, writes, echoes, health] = [(); 4].map(|()| next().unwrap());
    Result {
        attack: attack.name,
        description: attack.description,
        same_address: local == server.address.ip(),
        checks,
        writes,
        echoes,
        health,
        competitors: next(),
        memory,
        logged,
        has_panicked: server.has_panicked(),
        attacker: counts,
    }
}
