//! Asking the primary, in batches of what has piled up.
//!
//! A question goes out at once if a statement may be begun, and else with all the others that wait when one has ended.
//! There is no timer: alone a question waits for nobody, and a thousand at once (a cold start, a lease that ran out) are a
//! few statements. Each statement begins after its questions were asked.

use crate::domain::{OrganizationRef, Standing, UserId, limits};
use crate::store::{StoreError, standing};
use sqlx::PgPool;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Who in which organization; without a user, the organization alone.
pub(super) type Question = (OrganizationRef, Option<UserId>);

/// The way to the primary.
pub(super) struct Primary {
    pool: PgPool,
    queue: Arc<Mutex<Queue>>,
    /// Where the statements run: one place, so that connections have one.
    runtime: Handle,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    running: usize,
}

struct Waiting {
    questions: Vec<Question>,
    answer: oneshot::Sender<Result<Vec<Standing>, StoreError>>,
}

impl Primary {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool, queue: Arc::default(), runtime: Handle::current() }
    }

    /// Asks, and waits for the answers: all from one state of the datastore, in the order asked.
    pub(super) async fn ask(&self, questions: Vec<Question>) -> Result<Vec<Standing>, StoreError> {
        let (answer, answered) = oneshot::channel();
        let begin = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.waiting.push_back(Waiting { questions, answer });
            let begin = queue.running < limits::PRIMARY_STATEMENTS;
            queue.running += usize::from(begin);
            begin
        };
        if begin {
            // In a task of its own: who asked may hang up, the others still wait.
            self.runtime.spawn(work(self.pool.clone(), Place { queue: self.queue.clone(), held: true }));
        }
        answered.await.unwrap_or(Err(StoreError::Timeout(None)))
    }
}

/// One of the statements that may run at once. Given back whatever happens.
struct Place {
    queue: Arc<Mutex<Queue>>,
    held: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.held {
            self.queue.lock().unwrap_or_else(PoisonError::into_inner).running -= 1;
        }
    }
}

impl Place {
    /// What has piled up, as far as one statement goes. If nothing has, the place is given back under the same lock: a
    /// question that comes a moment later finds it free.
    fn take(&mut self) -> Vec<Waiting> {
        let mut batch = Vec::new();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        while let Some(next) = queue.waiting.front() {
            count += next.questions.len();
            if !batch.is_empty() && count > limits::PRIMARY_QUESTIONS {
                break;
            }
            // Nobody waits any more for one whose caller hung up.
            batch.extend(queue.waiting.pop_front().filter(|waiting| !waiting.answer.is_closed()));
        }
        if batch.is_empty() {
            queue.running -= 1;
            self.held = false;
        }
        batch
    }
}

async fn work(pool: PgPool, mut place: Place) {
    loop {
        let batch = place.take();
        if batch.is_empty() {
            return;
        }
        let questions: Vec<&Question> = batch.iter().flat_map(|waiting| &waiting.questions).collect();
        match run(&pool, &questions).await {
            Ok(standings) => {
                let mut standings = standings.into_iter();
                for Waiting { questions, answer } in batch {
                    let _ = answer.send(Ok(standings.by_ref().take(questions.len()).collect()));
                }
            }
            Err(error) => {
                for waiting in batch {
                    let _ = waiting.answer.send(Err(error.clone()));
                }
            }
        }
    }
}

async fn run(pool: &PgPool, questions: &[&Question]) -> Result<Vec<Standing>, StoreError> {
    let mut connection = pool.acquire().await?;
    let asked = standing::many(&mut connection, questions);
    if let Ok(answered) = tokio::time::timeout(limits::DEADLINE, asked).await {
        return answered;
    }
    // Postgres does not answer: nobody else shall get this connection.
    connection.close_on_drop();
    Err(StoreError::Timeout(None))
}
