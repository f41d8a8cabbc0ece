//! The place of a call among the calls under way.

use std::fmt;
use std::sync::Arc;

/// A place among the calls (or streams) under way. Clones share the place; the last clone returns it.
#[derive(Clone)]
pub struct CallPermit {
    _place: Arc<dyn Send + Sync>,
}

impl CallPermit {
    /// Takes over a place, which is returned when it is dropped.
    #[must_use]
    pub fn new(place: impl Send + Sync + 'static) -> Self {
        Self { _place: Arc::new(place) }
    }
}

impl fmt::Debug for CallPermit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CallPermit")
    }
}
