//! The turns of exports: a fair queue, so that no caller and no connection keeps the exports of others waiting.
//!
//! An export holds a connection to Postgres and a snapshot only in its turn. Few turns run at the same time, and one
//! caller has at most [`EXPORTS_PER_CALLER`](limits::EXPORTS_PER_CALLER) of them, one connection of a caller one. A free
//! turn goes to the caller that has waited longest since its last turn, and there to the connection that has. A turn that
//! has lasted for [`EXPORT_TURN`](limits::EXPORT_TURN) ends with its bucket when others wait, and the export waits again.

use crate::authn::CallerKey;
use crate::domain::Refusal;
use crate::service::limits;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The caller and the connection that an export belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExportOrigin {
    /// The caller, by its credential.
    pub caller: CallerKey,
    /// The number of the caller's connection.
    pub connection: u64,
}

/// The queue of the exports of one process. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ExportQueue(Arc<Mutex<QueueState>>);

#[derive(Debug, Default)]
struct QueueState {
    running: Vec<ExportOrigin>,
    /// In the order of arrival.
    waiting: VecDeque<WaitingExport>,
    /// The number of turns given so far.
    turns: u64,
    /// The number of the last turn of each caller and of each origin, while they run or wait.
    callers: HashMap<CallerKey, u64>,
    origins: HashMap<ExportOrigin, u64>,
    /// The number of the export that arrived last.
    arrived: u64,
}

#[derive(Debug)]
struct WaitingExport {
    number: u64,
    origin: ExportOrigin,
    turn: oneshot::Sender<ExportTurn>,
}

impl QueueState {
    /// Takes the export out of the queue that may have the next turn.
    fn next(&mut self) -> Option<WaitingExport> {
        let may_run = |origin: &ExportOrigin| {
            let of_caller = self.running.iter().filter(|running| running.caller == origin.caller).count();
            of_caller < limits::EXPORTS_PER_CALLER && !self.running.contains(origin)
        };
        if self.running.len() >= limits::EXPORTS {
            return None;
        }
        let candidates = self.waiting.iter().enumerate().filter(|(_, export)| may_run(&export.origin));
        let (index, _) = candidates.min_by_key(|(index, WaitingExport { origin, .. })| {
            (self.callers.get(&origin.caller), self.origins.get(origin), *index)
        })?;
        let next = self.waiting.remove(index)?;
        self.turns += 1;
        self.callers.insert(next.origin.caller.clone(), self.turns);
        self.origins.insert(next.origin.clone(), self.turns);
        self.running.push(next.origin.clone());
        Some(next)
    }

    /// Forgets the last turns of callers and origins without an export.
    fn forget(&mut self) {
        let Self { running, waiting, callers, origins, .. } = self;
        let open: HashSet<&ExportOrigin> = running.iter().chain(waiting.iter().map(|export| &export.origin)).collect();
        origins.retain(|origin, _| open.contains(origin));
        callers.retain(|caller, _| open.iter().any(|origin| origin.caller == *caller));
    }
}

impl ExportQueue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn. Cancel safe.
    ///
    /// # Errors
    /// `OVERLOADED` if as many exports of the caller wait as may.
    pub async fn turn(&self, origin: &ExportOrigin) -> Result<ExportTurn, Refusal> {
        let (sender, turn) = oneshot::channel();
        let place = {
            let mut state = self.state();
            let of_caller = state.waiting.iter().filter(|export| export.origin.caller == origin.caller).count();
            if of_caller >= limits::EXPORTS_WAITING {
                return Err(Refusal::Overloaded);
            }
            state.arrived += 1;
            let number = state.arrived;
            state.waiting.push_back(WaitingExport { number, origin: origin.clone(), turn: sender });
            QueuePlace { queue: self, number }
        };
        self.advance();
        let turn = turn.await;
        drop(place);
        // An error is impossible: the queue drops no export that waits.
        turn.map_err(|_| Refusal::Overloaded)
    }

    /// Gives the free turns to the exports that wait.
    fn advance(&self) {
        loop {
            // The lock is released before a turn is given: a turn whose export has ended takes the lock again.
            let next = self.state().next();
            let Some(WaitingExport { origin, turn, .. }) = next else { return };
            // Fails if the export has just ended. Then this returns its turn.
            let _ = turn.send(ExportTurn { queue: self.clone(), origin, begin: Instant::now() });
        }
    }
}

/// The place of an export that waits. Dropping it removes the export from the queue.
struct QueuePlace<'q> {
    queue: &'q ExportQueue,
    number: u64,
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.queue.state().waiting.retain(|export| export.number != self.number);
    }
}

/// The right to hold a connection and a snapshot. Dropping it gives the turn to another export.
#[derive(Debug)]
pub struct ExportTurn {
    queue: ExportQueue,
    origin: ExportOrigin,
    begin: Instant,
}

impl ExportTurn {
    /// Whether the turn has lasted long enough for others to have theirs.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.begin.elapsed() >= limits::EXPORT_TURN && !self.queue.state().waiting.is_empty()
    }
}

impl Drop for ExportTurn {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        if let Some(index) = state.running.iter().position(|running| *running == self.origin) {
            state.running.swap_remove(index);
        }
        state.forget();
        drop(state);
        self.queue.advance();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::{Namespace, ServiceIdentity};
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    fn origin(caller: &str, connection: u64) -> ExportOrigin {
        let caller = ServiceIdentity { name: caller.to_owned(), namespace: Namespace::ApiKeys };
        ExportOrigin { caller: CallerKey::Service(caller), connection }
    }

    type Wait = BoxFuture<'static, Result<ExportTurn, Refusal>>;

    /// Asks for a turn, and waits for it without blocking: the turn, or the wait for it.
    fn ask(queue: &ExportQueue, caller: &str, connection: u64) -> Result<ExportTurn, Wait> {
        let (queue, origin) = (queue.clone(), origin(caller, connection));
        let mut wait: Wait = async move { queue.turn(&origin).await }.boxed();
        match (&mut wait).now_or_never() {
            Some(turn) => Ok(turn.unwrap()),
            None => Err(wait),
        }
    }

    #[tokio::test]
    async fn a_caller_and_a_connection_have_a_part_of_the_turns() {
        let queue = ExportQueue::default();
        let first = ask(&queue, "a", 1).ok().unwrap();
        assert!(ask(&queue, "a", 1).is_err(), "a connection has one turn");
        let second = ask(&queue, "a", 2).ok().unwrap();
        assert!(ask(&queue, "a", 3).is_err(), "a caller has two turns");
        let others = [ask(&queue, "b", 1).ok().unwrap(), ask(&queue, "b", 2).ok().unwrap()];
        let mut waits = ask(&queue, "c", 1).err().unwrap();
        drop(first);
        let third = (&mut waits).now_or_never().unwrap().unwrap();
        drop((second, others, third));
        let state = queue.state();
        assert!(state.running.is_empty() && state.waiting.is_empty());
        assert!(state.callers.is_empty() && state.origins.is_empty());
    }

    #[tokio::test]
    async fn turns_alternate_between_callers_and_between_connections() {
        let queue = ExportQueue::default();
        let mut turns = Vec::new();
        for (caller, connection) in [("x", 1), ("x", 2), ("y", 1)] {
            turns.push(ask(&queue, caller, connection).ok().unwrap());
        }
        let mut current = ask(&queue, "a", 1).ok().unwrap();
        let mut waits: Vec<(&str, u64, Wait)> = Vec::new();
        for (caller, connection) in [("a", 1), ("a", 1), ("a", 2), ("b", 1), ("a", 2)] {
            waits.push((caller, connection, ask(&queue, caller, connection).err().unwrap()));
        }
        let mut order = Vec::new();
        while !waits.is_empty() {
            drop(current);
            let next = waits.iter_mut().enumerate().find_map(|(index, (.., wait))| Some((index, wait.now_or_never()?)));
            let (index, turn) = next.unwrap();
            current = turn.unwrap();
            let (caller, connection, _) = waits.remove(index);
            order.push((caller, connection));
        }
        assert_eq!(order, [("b", 1), ("a", 2), ("a", 1), ("a", 2), ("a", 1)]);
    }

    #[tokio::test]
    async fn a_bounded_number_waits_and_an_export_that_ends_leaves_the_queue() {
        let queue = ExportQueue::default();
        let _turn = ask(&queue, "a", 1).ok().unwrap();
        let mut waits: Vec<Wait> = (0..limits::EXPORTS_WAITING).map(|_| ask(&queue, "a", 1).err().unwrap()).collect();
        let refused = queue.turn(&origin("a", 1)).now_or_never().unwrap();
        assert!(matches!(refused, Err(Refusal::Overloaded)));
        assert!(ask(&queue, "b", 1).is_ok());
        waits.pop();
        assert!(ask(&queue, "a", 1).is_err(), "it waits");
    }
}
