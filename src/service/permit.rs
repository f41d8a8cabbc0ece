//! The place of a call among the calls under way.

use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit};

/// A place among the calls (or streams) under way. Clones share the place; the last clone returns it.
#[derive(Debug, Clone)]
pub struct CallPermit {
    _place: Arc<Place>,
}

#[derive(Debug)]
struct Place(Arc<Semaphore>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

impl CallPermit {
    /// Takes over a permit of this semaphore. The place changes hands without ever being free in between.
    #[must_use]
    pub fn new(permit: SemaphorePermit<'_>, semaphore: &Arc<Semaphore>) -> Self {
        permit.forget();
        Self { _place: Arc::new(Place(semaphore.clone())) }
    }
}
