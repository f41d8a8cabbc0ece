//! Asking the primary, in batches of what has piled up.
//!
//! A question goes out at once if no statement is under way, and else with all the others that wait when it has ended.
//! There is no timer: alone a question waits for nobody, and a thousand at once (a cold start, a lease that ran out) are a
//! few statements. Each statement begins after its questions were asked. Only beside a large statement there may be
//! another: nobody waits for somebody's ten thousand.

use crate::domain::{OrganizationRef, Standing, UserId};
use crate::replica::limits;
use crate::store::pool::Pool;
use crate::store::{StoreError, standing};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Who in which organization; without a user, the organization alone.
pub(super) type StandingKey = (OrganizationRef, Option<UserId>);

/// The way to the primary.
pub(super) struct Primary(Arc<PrimaryState>);

struct PrimaryState {
    pool: Pool,
    queue: Mutex<LookupQueue>,
    /// Where the statements run: one place, so that connections have one.
    runtime: Handle,
}

#[derive(Default)]
struct LookupQueue {
    waiting: VecDeque<PendingLookup>,
    /// Statements under way.
    running: usize,
    /// Those of them that are small, or about to be begun.
    small: usize,
}

struct PendingLookup {
    questions: Vec<StandingKey>,
    answer: oneshot::Sender<StandingResult>,
    /// Where it is waited for.
    runtime: Handle,
}

type StandingResult = Result<Vec<Standing>, StoreError>;

impl Primary {
    pub(super) fn new(pool: Pool) -> Self {
        Self(Arc::new(PrimaryState { pool, queue: Mutex::default(), runtime: Handle::current() }))
    }

    /// Asks, and waits for the answers: all from one state of the datastore, in the order asked.
    pub(super) async fn ask(&self, questions: Vec<StandingKey>) -> StandingResult {
        let (answer, answered) = oneshot::channel();
        self.0.add(PendingLookup { questions, answer, runtime: Handle::current() });
        answered.await.unwrap_or(Err(StoreError::Timeout(None)))
    }
}

impl PrimaryState {
    fn queue(&self) -> MutexGuard<'_, LookupQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(self: &Arc<Self>, waiting: PendingLookup) {
        let mut queue = self.queue();
        queue.waiting.push_back(waiting);
        self.begin(queue);
    }

    /// Begins a statement for what waits, if there may be one more.
    fn begin(self: &Arc<Self>, mut queue: MutexGuard<'_, LookupQueue>) {
        if !queue.waiting.is_empty() && queue.small == 0 && queue.running < limits::PRIMARY_STATEMENTS {
            queue.running += 1;
            queue.small += 1;
            drop(queue);
            // In a task of its own: who asked may hang up, the others still wait.
            self.runtime.spawn(work(StatementSlot { inner: self.clone(), held: true, small: true }));
        }
    }
}

/// One of the statements that may run at once. Given back whatever happens.
struct StatementSlot {
    inner: Arc<PrimaryState>,
    held: bool,
    small: bool,
}

impl Drop for StatementSlot {
    fn drop(&mut self) {
        if self.held {
            let inner = self.inner.clone();
            self.give_back(&mut inner.queue());
        }
    }
}

impl StatementSlot {
    fn give_back(&mut self, queue: &mut LookupQueue) {
        queue.running -= 1;
        queue.small -= usize::from(self.small);
        self.held = false;
    }

    /// What has piled up, as far as one statement goes. If nothing has, the place is given back under the same lock: a
    /// question that comes a moment later finds it free.
    fn take(&mut self) -> Vec<PendingLookup> {
        let inner = self.inner.clone();
        let mut queue = inner.queue();
        let mut batch = Vec::new();
        let mut count = 0;
        while let Some(next) = queue.waiting.front() {
            if !batch.is_empty() && count + next.questions.len() > limits::PRIMARY_QUESTIONS {
                break;
            }
            count += next.questions.len();
            // Nobody waits any more for one whose caller hung up.
            batch.extend(queue.waiting.pop_front().filter(|waiting| !waiting.answer.is_closed()));
        }
        if batch.is_empty() {
            self.give_back(&mut queue);
            return batch;
        }
        queue.small -= usize::from(self.small);
        self.small = count <= limits::PRIMARY_SMALL;
        queue.small += usize::from(self.small);
        inner.begin(queue);
        batch
    }
}

async fn work(mut place: StatementSlot) {
    loop {
        let batch = place.take();
        if batch.is_empty() {
            return;
        }
        let questions: Vec<&StandingKey> = batch.iter().flat_map(|waiting| &waiting.questions).collect();
        let told = run(&place.inner.pool, &questions).await;
        // Behind the next statement, which Postgres then need not wait for.
        place.inner.runtime.spawn(async move { hand_out(batch, told) });
    }
}

/// Gives everybody their answer, where they wait for it: to wake somebody in another runtime is a call of the system's,
/// which is made once for all that wait there.
fn hand_out(batch: Vec<PendingLookup>, told: StandingResult) {
    let mut told = told.map(Vec::into_iter);
    let mut by_runtime: HashMap<_, (Handle, Vec<_>)> = HashMap::new();
    for PendingLookup { questions, answer, runtime } in batch {
        let told = match &mut told {
            Ok(standings) => Ok(standings.by_ref().take(questions.len()).collect()),
            Err(error) => Err(error.clone()),
        };
        by_runtime.entry(runtime.id()).or_insert_with(|| (runtime, Vec::new())).1.push((answer, told));
    }
    for (runtime, answers) in by_runtime.into_values() {
        runtime.spawn(async move {
            for (answer, told) in answers {
                let _ = answer.send(told);
            }
        });
    }
}

async fn run(pool: &Pool, questions: &[&StandingKey]) -> Result<Vec<Standing>, StoreError> {
    let mut connection = pool.acquire().await?;
    let asked = standing::many(&mut connection, questions);
    if let Ok(outcome) = tokio::time::timeout(limits::PRIMARY_TIMEOUT, asked).await {
        return connection.finish(outcome);
    }
    // Postgres does not answer: nobody else shall get this connection.
    connection.close_on_drop();
    Err(StoreError::Timeout(None))
}
