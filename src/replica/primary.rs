//! Lookups on the primary, in batches of the questions that wait.
//!
//! If no statement runs, a question is sent at once. Otherwise it waits, and the next statement takes all waiting
//! questions together. There is no timer: a single question never waits, and a thousand at once (a cold start, an
//! expired lease) are a few statements. Each statement begins after its questions arrived, so its answers include every
//! write acknowledged before they did. Only beside a large statement may a second one run, so that no question waits
//! for another caller's ten thousand.
//!
//! The database that answers may be a standby that lags behind, or a restored one. So an answer must cover the writes that
//! this process had acknowledged, and what the follower had applied, before the statement.

use super::evidence::PrimaryAnswers;
use super::history::AppliedHistory;
use super::roles::RoleCache;
use super::written::WrittenPositions;
use crate::clock;
use crate::replica::limits;
use crate::store::StoreError;
use crate::store::pool::Pool;
use crate::store::standing::{self, ResolvedStanding, StandingKey};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The primary lookup.
pub(super) struct Primary(Arc<PrimaryState>);

struct PrimaryState {
    pool: Pool,
    applied: Arc<AppliedHistory>,
    written: Arc<WrittenPositions>,
    roles: Arc<RoleCache>,
    queue: Mutex<LookupQueue>,
    /// The runtime of the statements: always the one that owns the pool's connections.
    runtime: Handle,
}

#[derive(Default)]
struct LookupQueue {
    pending: VecDeque<PendingLookup>,
    /// The number of running statements.
    running: usize,
    /// Running statements that are small, or whose size is not known yet.
    small: usize,
}

struct PendingLookup {
    questions: Vec<StandingKey>,
    reply: oneshot::Sender<StandingResult>,
    /// The runtime of the task that waits for the reply.
    runtime: Handle,
}

type StandingResult = Result<PrimaryAnswers, StoreError>;

impl Primary {
    pub(super) fn new(
        pool: Pool,
        applied: Arc<AppliedHistory>,
        written: Arc<WrittenPositions>,
        roles: Arc<RoleCache>,
    ) -> Self {
        let (queue, runtime) = (Mutex::default(), Handle::current());
        Self(Arc::new(PrimaryState { pool, applied, written, roles, queue, runtime }))
    }

    /// Queries the primary. The answers are in the order of the questions, all from one state of the datastore.
    /// [`StoreError::Behind`] if they do not cover what this process had acknowledged or applied.
    pub(super) async fn query(&self, questions: Vec<StandingKey>) -> StandingResult {
        let (reply, answers) = oneshot::channel();
        self.0.enqueue(PendingLookup { questions, reply, runtime: Handle::current() });
        answers.await.unwrap_or(Err(StoreError::Silent))
    }
}

impl PrimaryState {
    fn queue(&self) -> MutexGuard<'_, LookupQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The position of each bucket that the primary had at least: that of this process's last acknowledged write, and that
    /// of the follower.
    fn known_positions(&self) -> Vec<i64> {
        let position = |(bucket, written): (i16, i64)| written.max(self.applied.position(bucket));
        (0..).zip(self.written.positions()).map(position).collect()
    }

    fn enqueue(self: &Arc<Self>, lookup: PendingLookup) {
        let mut queue = self.queue();
        queue.pending.push_back(lookup);
        self.start_statement(queue);
    }

    /// Starts a statement for the waiting lookups, if the limits allow another one.
    fn start_statement(self: &Arc<Self>, mut queue: MutexGuard<'_, LookupQueue>) {
        if !queue.pending.is_empty() && queue.small == 0 && queue.running < limits::PRIMARY_STATEMENTS {
            queue.running += 1;
            queue.small += 1;
            drop(queue);
            // In a separate task: the caller may hang up while other callers still wait for the same statement.
            self.runtime.spawn(work(StatementSlot { state: self.clone(), active: true, small: true }));
        }
    }
}

/// The right to run one of the concurrent statements. Released on drop.
struct StatementSlot {
    state: Arc<PrimaryState>,
    active: bool,
    small: bool,
}

impl Drop for StatementSlot {
    fn drop(&mut self) {
        if self.active {
            let state = self.state.clone();
            self.release(&mut state.queue());
        }
    }
}

impl StatementSlot {
    fn release(&mut self, queue: &mut LookupQueue) {
        queue.running -= 1;
        queue.small -= usize::from(self.small);
        self.active = false;
    }

    /// Takes the waiting lookups, up to the limit of one statement. If there are none, the slot is released under the
    /// same lock, so that a question that arrives a moment later finds it free.
    fn take_batch(&mut self) -> Vec<PendingLookup> {
        let state = self.state.clone();
        let mut queue = state.queue();
        let mut batch = Vec::new();
        let mut count = 0;
        while let Some(next) = queue.pending.front() {
            if !batch.is_empty() && count + next.questions.len() > limits::PRIMARY_QUESTIONS {
                break;
            }
            count += next.questions.len();
            // Skips lookups whose caller has hung up.
            batch.extend(queue.pending.pop_front().filter(|lookup| !lookup.reply.is_closed()));
        }
        if batch.is_empty() {
            self.release(&mut queue);
            return batch;
        }
        queue.small -= usize::from(self.small);
        self.small = count <= limits::PRIMARY_SMALL;
        queue.small += usize::from(self.small);
        state.start_statement(queue);
        batch
    }
}

/// Runs statements until no lookup waits.
async fn work(mut slot: StatementSlot) {
    loop {
        let batch = slot.take_batch();
        if batch.is_empty() {
            return;
        }
        let questions: Vec<&StandingKey> = batch.iter().flat_map(|lookup| &lookup.questions).collect();
        // Before the statement begins: its answers must cover this.
        let known = slot.state.known_positions();
        let result = run(&slot.state, &questions).await;
        // In a separate task, so that Postgres gets the next statement first.
        let state = slot.state.clone();
        slot.state.runtime.spawn(async move { deliver(batch, result, &known, &state.applied) });
    }
}

/// Sends each caller its answers, from the runtime in which the caller waits: waking a task of another runtime is a
/// system call, which is thereby made once for all callers of a runtime.
fn deliver(batch: Vec<PendingLookup>, result: StandingResult, known: &[i64], applied: &AppliedHistory) {
    let mut result = result.map(|answers| (answers.standings.into_iter(), answers.roles, answers.session_begin));
    let mut by_runtime: HashMap<_, (Handle, Vec<_>)> = HashMap::new();
    for PendingLookup { questions, reply, runtime } in batch {
        let answers = match &mut result {
            Ok((all, roles, session_begin)) => {
                let standings: Vec<ResolvedStanding> = all.by_ref().take(questions.len()).collect();
                let answers = PrimaryAnswers { standings, roles: roles.clone(), session_begin: *session_begin };
                if answers.are_own_history(known, applied) { Ok(answers) } else { Err(StoreError::Behind) }
            }
            Err(error) => Err(error.clone()),
        };
        by_runtime.entry(runtime.id()).or_insert_with(|| (runtime, Vec::new())).1.push((reply, answers));
    }
    for (runtime, replies) in by_runtime.into_values() {
        runtime.spawn(async move {
            for (reply, answers) in replies {
                let _ = reply.send(answers);
            }
        });
    }
}

/// Asks a second time if the session ended under the statement: after a restart of Postgres, or the promotion of a
/// standby, the idle connections of the pool are broken.
async fn run(state: &PrimaryState, questions: &[&StandingKey]) -> StandingResult {
    match ask(state, questions).await {
        Err(error) if error.is_session_lost() => ask(state, questions).await,
        outcome => outcome,
    }
}

/// Asks the statement, and resolves the roles of its rows by the access model of their snapshot.
async fn ask(state: &PrimaryState, questions: &[&StandingKey]) -> StandingResult {
    let mut connection = state.pool.acquire_read().await?;
    let session_begin = clock::uptime().saturating_sub(connection.age());
    let query = async {
        let rows = standing::many(&mut connection, questions).await?;
        let roles = state.roles.at(&mut connection, rows.model).await?;
        let standings = rows.resolve(&roles.table);
        Ok::<_, StoreError>(PrimaryAnswers { standings, roles, session_begin })
    };
    match tokio::time::timeout(limits::PRIMARY_TIMEOUT, query).await {
        Ok(Err(error)) if error.is_session_lost() => {
            connection.close();
            Err(error)
        }
        Ok(outcome) => connection.finish(outcome),
        Err(_) => {
            connection.close();
            Err(StoreError::Silent)
        }
    }
}
