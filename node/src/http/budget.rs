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
    /// One permit: who has it makes a long answer.
    turn: Arc<Semaphore>,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        let free = Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS)));
        Self { bytes, free, turn: Arc::new(Semaphore::new(1)) }
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
            return Err(self.used_up());
        }
        Ok(Counted { bytes, permit })
    }

    /// Makes an answer of so many bytes or more. Making a long one takes milliseconds, so they are made one at a time, and
    /// between two of them the node does everything else that is ready: many at once hold up nobody. Without room in the
    /// budget none is made.
    ///
    /// # Errors
    /// In words, when answers that other clients have not read use up the budget; or those of `make`.
    pub(crate) async fn in_turn<T>(&self, bytes: usize, make: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        if bytes <= COUNTED_BYTES {
            return make();
        }
        // Nobody closes it.
        let _turn = self.turn.acquire().await;
        if self.free.available_permits() < bytes {
            return Err(self.used_up());
        }
        let made = make();
        // Returns once the runtime has looked at its sockets and at all tasks that are ready.
        tokio::task::yield_now().await;
        made
    }

    fn used_up(&self) -> String {
        format!("answers that other clients have not read use the limit of {} bytes", self.bytes)
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const LONG: usize = COUNTED_BYTES + 1;

    // Goal: clients that ask for many long answers at once hold up nobody else. Method: on one thread, as a node's, a task that
    // needs the sockets many times while a hundred long answers are asked for.
    #[tokio::test]
    async fn between_two_long_answers_everything_else_that_is_ready_is_done() {
        let (budget, made) = (Budget::new(100 * LONG), Cell::new(0));
        let answer = async || {
            let made = budget.in_turn(LONG, || {
                made.set(made.get() + 1);
                budget.count(vec![0; LONG])
            });
            made.await.expect("there is room")
        };
        let other = async {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            made.get()
        };
        let all = futures::future::join_all((0..100).map(|_| answer()));
        let (answers, before) = tokio::join!(all, other);
        assert_eq!(answers.len(), 100);
        assert!(before <= 21, "{before} were made while the other task waited 20 times");
    }

    #[tokio::test]
    async fn without_room_no_long_answer_is_made() {
        let budget = Budget::new(2 * LONG);
        let taken = [budget.count(vec![0; LONG]), budget.count(vec![0; LONG])];
        let refused = budget.in_turn(LONG, || -> Result<(), String> { panic!("it costs time") }).await;
        assert!(refused.expect_err("no room").contains("use the limit of"));
        assert!(budget.in_turn(1, || Ok(())).await.is_ok(), "a short one takes nothing");
        drop(taken);
        assert!(budget.in_turn(LONG, || budget.count(vec![0; LONG])).await.is_ok());
    }
}
