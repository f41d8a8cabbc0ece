//! The honest callers: one thread that calls at fixed rates at random moments, independent of the answers. Each latency
//! counts from the moment at which the call was due. A call that is refused, or not answered in time, counts as an infinite
//! latency.

use super::connection::{Answer, Connection};
use super::questions::{Kind, Questions};
use crate::tool::print_line;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The time after which a call counts as lost, and its connection as broken: longer than the deadline of every call.
const PATIENCE: Duration = Duration::from_secs(7);
/// The same for a health query: load balancers wait for a second or two.
const HEALTH_PATIENCE: Duration = Duration::from_secs(2);
/// Concurrent calls on one connection, beyond which calls wait for an answer.
const FULL: usize = 200;
/// The pause before a broken connection is opened again.
const RETRY: Duration = Duration::from_millis(100);

/// One kind of honest calls.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Flow {
    pub(crate) address: SocketAddr,
    /// The bearer token; no header where it is empty.
    pub(crate) token: String,
    pub(crate) kind: Kind,
    pub(crate) connections: usize,
    /// Calls a second. 0: as many as the server answers, with `FULL` concurrent calls on each connection.
    pub(crate) rate: f64,
    /// Whether each call opens a new connection, as a client that starts does.
    pub(crate) fresh: bool,
}

/// The parameters of the callers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) flows: Vec<Flow>,
    /// The length of each phase. The callers print a line at the start of each, and the results after the last one.
    pub(crate) phases: Vec<Duration>,
}

/// The calls of one kind that were due in one phase. Latencies are in microseconds; infinite for a refused call.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) calls: usize,
    pub(crate) answered: usize,
    /// Answered calls a second.
    pub(crate) rate: f64,
    /// The percentiles; `None` if the call at this rank was refused.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    /// The number of refused calls by reason.
    pub(crate) refused: BTreeMap<String, usize>,
}

/// The calls of one kind, while they run.
struct Caller {
    flow: Flow,
    questions: Questions,
    connections: Vec<Option<Connection>>,
    /// The time before which no broken connection is opened again.
    retry: Instant,
    due: Instant,
    turn: usize,
    random: u64,
    /// Latencies by phase, in hundredths of a microsecond.
    latencies: Vec<Vec<u32>>,
    refused: Vec<BTreeMap<String, usize>>,
    begin: Instant,
    phases: Vec<Duration>,
}

/// Runs the callers. Prints the number of each phase at its start, then the figures of every flow and phase.
pub(crate) fn run() {
    let plan: Plan = serde_json::from_str(&std::env::var("ROSTER_SIEGE_PLAN").unwrap()).unwrap();
    // The kernel may delay a wait by this many nanoseconds: 50 µs by default.
    let _ = std::fs::write("/proc/self/timerslack_ns", "1");
    let begin = Instant::now();
    let mut callers: Vec<Caller> =
        plan.flows.iter().map(|flow| Caller::new(flow.clone(), &plan.phases, begin)).collect();
    let whole: Duration = plan.phases.iter().sum();
    let mut starts: Vec<Duration> =
        (0..plan.phases.len()).rev().map(|phase| plan.phases[..phase].iter().sum()).collect();
    loop {
        let now = Instant::now();
        while starts.last().is_some_and(|start| begin + *start <= now) {
            starts.pop();
            print_line(&(plan.phases.len() - starts.len() - 1).to_string());
        }
        let until = begin + whole;
        for caller in &mut callers {
            caller.step(now, until);
        }
        let is_open = |caller: &Caller| caller.due < until || caller.running() > 0;
        if now >= until && (now >= until + PATIENCE || !callers.iter().any(is_open)) {
            break;
        }
        wait(&callers, starts.last().map_or(until, |start| begin + *start));
    }
    let figures: Vec<Vec<Figures>> = callers.into_iter().map(Caller::figures).collect();
    print_line(&serde_json::to_string(&figures).unwrap());
}

/// Waits until a socket is ready, a call is due or the phase changes.
fn wait(callers: &[Caller], phase: Instant) {
    let now = Instant::now();
    let mut next = phase.max(now).min(now + Duration::from_millis(100));
    let mut sockets = Vec::new();
    for caller in callers {
        next = next.min(caller.next_step());
        for connection in caller.connections.iter().flatten() {
            let flags =
                if connection.has_unsent() { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
            sockets.push(PollFd::new(connection.socket.as_fd(), flags));
        }
    }
    let time = TimeSpec::from_duration(next.saturating_duration_since(now));
    ppoll(&mut sockets, Some(time), None).unwrap();
}

impl Caller {
    fn new(flow: Flow, phases: &[Duration], begin: Instant) -> Self {
        let seed = u64::try_from(flow.connections).unwrap() + 0x9e37_79b9_7f4a_7c15;
        let questions = Questions::new(flow.kind.clone());
        let empty = || phases.iter().map(|_| BTreeMap::new()).collect();
        let connections = (0..flow.connections).map(|_| None).collect();
        let latencies = phases.iter().map(|_| Vec::new()).collect();
        let (refused, phases) = (empty(), phases.to_vec());
        let (retry, due) = (begin, begin);
        Self { flow, questions, connections, retry, due, turn: 0, random: seed, latencies, refused, begin, phases }
    }

    fn running(&self) -> usize {
        self.connections.iter().flatten().map(Connection::running_calls).sum()
    }

    /// The moment of the next call, unless a socket is ready before.
    fn next_step(&self) -> Instant {
        let is_full = |connection: &Option<Connection>| {
            connection.as_ref().is_some_and(|connection| connection.running_calls() >= FULL)
        };
        if self.flow.rate == 0.0 || is_full(&self.connections[self.turn]) {
            return Instant::now() + Duration::from_millis(10);
        }
        self.due
    }

    /// The index of the phase in which a moment lies.
    fn phase(&self, moment: Instant) -> usize {
        let mut end = self.begin;
        let ends = self.phases.iter().take_while(|length| {
            end += **length;
            end <= moment
        });
        ends.count().min(self.phases.len() - 1)
    }

    fn step(&mut self, now: Instant, until: Instant) {
        for index in 0..self.connections.len() {
            self.read(index, now);
        }
        if self.flow.rate == 0.0 {
            if now < until {
                self.fill(now);
            }
        } else {
            self.call_due(now, until);
        }
        self.connections.iter_mut().flatten().for_each(Connection::flush);
    }

    /// Keeps every connection full.
    fn fill(&mut self, now: Instant) {
        for index in 0..self.connections.len() {
            self.open(index, now);
            let Some(connection) = &mut self.connections[index] else { continue };
            while connection.running_calls() < FULL {
                connection.call(&self.questions.next(), now);
            }
        }
    }

    /// Starts the calls that are due.
    fn call_due(&mut self, now: Instant, until: Instant) {
        while self.due <= now && self.due < until {
            self.open(self.turn, now);
            match &mut self.connections[self.turn] {
                Some(connection) if connection.running_calls() < FULL => {
                    connection.call(&self.questions.next(), self.due);
                }
                // The call waits for the answers before it, and the wait counts.
                Some(_) => return,
                None => self.refuse(self.due, "NO_CONNECTION"),
            }
            self.turn = (self.turn + 1) % self.connections.len();
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let part = (f64::from(u32::try_from(self.random >> 32).unwrap()) + 1.0) / 4_294_967_297.0;
            self.due += Duration::from_secs_f64(-part.ln() / self.flow.rate);
        }
    }

    /// Opens a connection that is missing.
    fn open(&mut self, index: usize, now: Instant) {
        if self.connections[index].is_some() || now < self.retry {
            return;
        }
        let connection = Connection::open(self.flow.address, self.questions.path(), &self.flow.token);
        if connection.is_err() {
            self.retry = now + RETRY;
        }
        self.connections[index] = connection.ok();
    }

    fn read(&mut self, index: usize, now: Instant) {
        let Some(mut connection) = self.connections[index].take() else { return };
        let mut answers = Vec::new();
        let is_open = connection.read(&mut answers);
        for Answer { begin, outcome } in answers {
            match outcome.and_then(|message| self.questions.verify(&message)) {
                Ok(()) => {
                    let phase = self.phase(begin);
                    let latency = now.saturating_duration_since(begin).as_nanos() / 10;
                    self.latencies[phase].push(u32::try_from(latency).unwrap_or(u32::MAX));
                }
                Err(reason) => self.refuse(begin, &reason),
            }
        }
        let oldest = connection.oldest();
        let patience = if matches!(self.flow.kind, Kind::Health) { HEALTH_PATIENCE } else { PATIENCE };
        let is_lost = oldest.is_some_and(|oldest| now.saturating_duration_since(oldest) > patience);
        if !is_open || is_lost {
            let reason = if is_open { "NO_ANSWER" } else { "CONNECTION_CLOSED" };
            connection.abandon().into_iter().for_each(|begin| self.refuse(begin, reason));
            self.retry = now + RETRY;
        } else if !(self.flow.fresh && connection.has_served()) {
            self.connections[index] = Some(connection);
        }
    }

    fn refuse(&mut self, begin: Instant, reason: &str) {
        let phase = self.phase(begin);
        *self.refused[phase].entry(reason.to_owned()).or_default() += 1;
    }

    fn figures(mut self) -> Vec<Figures> {
        let abandoned: Vec<Instant> = self.connections.iter_mut().flatten().flat_map(Connection::abandon).collect();
        for begin in abandoned {
            self.refuse(begin, "NO_ANSWER");
        }
        let phases = self.latencies.into_iter().zip(self.refused).zip(self.phases);
        phases.map(|((latencies, refused), length)| figures(latencies, refused, length)).collect()
    }
}

fn figures(mut latencies: Vec<u32>, refused: BTreeMap<String, usize>, length: Duration) -> Figures {
    latencies.sort_unstable();
    let answered = latencies.len();
    let calls = answered + refused.values().sum::<usize>();
    // Refused calls stand behind the slowest answer.
    let percentile = |part: usize| latencies.get(calls.saturating_sub(1) * part / 100);
    let micros = |latency: &u32| f64::from(*latency) / 100.0;
    Figures {
        calls,
        answered,
        rate: crate::tool::float(answered) / length.as_secs_f64(),
        p50: percentile(50).map(micros),
        p99: percentile(99).map(micros),
        refused,
    }
}
