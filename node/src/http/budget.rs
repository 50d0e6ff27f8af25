//! Memory that many requests share.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// An answer longer than this takes its bytes from the budget until the client has read it.
const COUNTED_BYTES: usize = 64 << 10;

/// Bytes of memory that may be in use at once.
#[derive(Clone, Debug)]
pub struct Budget {
    bytes: usize,
    free: Arc<Semaphore>,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { bytes, free: Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))) }
    }

    /// The size of the budget, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reserves bytes until the permit is dropped. `None` if fewer are free.
    pub(crate) fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }

    /// Counts the bytes of an answer; a short answer takes nothing.
    ///
    /// # Errors
    /// In words, when answers that other clients have not read use up the budget.
    pub(crate) fn count<T: AsRef<[u8]>>(&self, bytes: T) -> Result<Counted<T>, String> {
        let length = bytes.as_ref().len();
        let permit = if length > COUNTED_BYTES { self.take(length) } else { None };
        if length > COUNTED_BYTES && permit.is_none() {
            let limit = self.bytes;
            return Err(format!("answers that other clients have not read use the limit of {limit} bytes"));
        }
        Ok(Counted { bytes, permit })
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.free.available_permits()
    }
}

/// The bytes of an answer. It releases its share of the budget once the connection has sent all of
/// it or is closed.
pub(crate) struct Counted<T> {
    bytes: T,
    permit: Option<OwnedSemaphorePermit>,
}

impl<T> Counted<T> {
    /// Whether it takes a share of the budget.
    pub(crate) fn is_long(&self) -> bool {
        self.permit.is_some()
    }

    /// The bytes alone, without their share.
    pub(crate) fn into_inner(self) -> T {
        self.bytes
    }
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Counted<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}
