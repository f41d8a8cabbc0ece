//! The end of a credential that a reload of the settings removes.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a credential or an issuer was removed by a reload. What is cached with it is refused from then on.
#[derive(Debug, Default)]
pub(super) struct Retirement(AtomicBool);

impl Retirement {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}
