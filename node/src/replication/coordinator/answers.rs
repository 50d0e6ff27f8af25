//! Outcomes on their way to clients: through a channel for one request that waits by itself, or in a
//! queue for all requests of a connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::WriteOutcome;

/// Places for which a connection keeps memory.
const PLACES_KEPT: usize = 64;

/// Who waits for the outcome of a write. Dropped, it reports that the leader does not know the
/// outcome any more.
#[derive(Debug)]
pub(super) enum Waiter {
    Channel(oneshot::Sender<WriteOutcome>),
    Ticket(Ticket),
}

impl Waiter {
    pub(super) fn answer(self, outcome: WriteOutcome) {
        match self {
            // Sending fails if the client disconnected. Its write remains.
            Self::Channel(sender) => _ = sender.send(outcome),
            Self::Ticket(ticket) => ticket.answer(outcome),
        }
    }

    /// Whether nobody reads the outcome.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Channel(sender) => sender.is_closed(),
            Self::Ticket(ticket) => !matches!(ticket.places.0.lock().get(ticket.number), Some(Place::Waiting)),
        }
    }
}

/// The outcomes of the requests of one connection, which need no allocation and no wake-up each.
#[derive(Debug, Default)]
pub(crate) struct Answers(Arc<Places>);

/// A request's place among the outcomes of its connection.
#[derive(Debug)]
pub(crate) struct Ticket {
    places: Arc<Places>,
    number: u64,
    answered: bool,
}

#[derive(Debug, Default)]
struct Places(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    /// The number of the first place.
    first: u64,
    places: VecDeque<Place>,
    /// The task of the connection, and the place for which it waits.
    waits: Option<(u64, Waker)>,
}

#[derive(Debug)]
enum Place {
    Waiting,
    Known(Option<WriteOutcome>),
    /// The connection has it, or gave the request up.
    Over,
}

impl Answers {
    /// A place for the next request.
    pub(crate) fn ticket(&self) -> Ticket {
        let mut queue = self.0.0.lock();
        queue.places.push_back(Place::Waiting);
        let number = queue.first + queue.places.len() as u64 - 1;
        Ticket { places: self.0.clone(), number, answered: false }
    }

    /// Takes the outcome for a ticket; `None` if the leader does not know it any more. While it is
    /// not there, wakes the task once it is, and for no other one.
    pub(crate) fn poll(&self, number: u64, cx: &mut Context<'_>) -> Poll<Option<WriteOutcome>> {
        let mut queue = self.0.0.lock();
        match queue.get(number) {
            Some(Place::Waiting) => {}
            Some(Place::Known(outcome)) => {
                let outcome = outcome.take();
                queue.end(number);
                return Poll::Ready(outcome);
            }
            Some(Place::Over) | None => return Poll::Ready(None),
        }
        match &mut queue.waits {
            Some((waited, waker)) if waker.will_wake(cx.waker()) => *waited = number,
            waits => *waits = Some((number, cx.waker().clone())),
        }
        Poll::Pending
    }

    /// Gives the outcome for a ticket up.
    pub(crate) fn forget(&self, number: u64) {
        self.0.0.lock().end(number);
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        let queue = &mut *self.0.0.lock();
        queue.first += queue.places.len() as u64;
        queue.places = VecDeque::new();
        queue.waits = None;
    }
}

impl Queue {
    fn get(&mut self, number: u64) -> Option<&mut Place> {
        self.places.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn end(&mut self, number: u64) {
        if let Some(place) = self.get(number) {
            *place = Place::Over;
        }
        while let Some(Place::Over) = self.places.front() {
            self.places.pop_front();
            self.first += 1;
        }
        // A connection that is idle keeps no memory of a long pipeline.
        if self.places.is_empty() && self.places.capacity() > PLACES_KEPT {
            self.places = VecDeque::new();
        }
    }
}

impl Ticket {
    /// The number of the place.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    fn answer(mut self, outcome: WriteOutcome) {
        self.answered = true;
        self.places.put(self.number, Some(outcome));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            self.places.put(self.number, None);
        }
    }
}

impl Places {
    fn put(&self, number: u64, outcome: Option<WriteOutcome>) {
        let mut queue = self.0.lock();
        if let Some(place @ Place::Waiting) = queue.get(number) {
            *place = Place::Known(outcome);
        }
        let woken = queue.waits.take_if(|(waited, _)| *waited == number);
        drop(queue);
        if let Some((_, waker)) = woken {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn outcome(seq: u64) -> WriteOutcome {
        WriteOutcome::Indeterminate { seq }
    }

    fn seq(answer: Poll<Option<WriteOutcome>>) -> Poll<Option<u64>> {
        answer.map(|outcome| match outcome? {
            WriteOutcome::Indeterminate { seq } => Some(seq),
            other => panic!("another outcome: {other:?}"),
        })
    }

    // Goal: each request gets its own outcome, in any order, and the connection wakes up once for all that came
    // together. Method: outcomes arrive from the last to the first, while the connection waits for the first.
    #[test]
    fn outcomes_reach_their_requests_with_one_wake_up() {
        let (answers, wakes) = (Answers::default(), Arc::new(Wakes::default()));
        let (waker, woken) = (wakes.clone().into(), || wakes.0.load(Ordering::Relaxed));
        let cx = &mut Context::from_waker(&waker);
        for round in 0..3 {
            let tickets: Vec<Ticket> = (0..3).map(|_| answers.ticket()).collect();
            let numbers: Vec<u64> = tickets.iter().map(Ticket::number).collect();
            assert!(answers.poll(numbers[0], cx).is_pending());
            for ticket in tickets.into_iter().rev() {
                assert_eq!(woken(), round, "the first one is not there");
                let number = ticket.number();
                ticket.answer(outcome(100 + number));
            }
            assert_eq!(woken(), round + 1);
            for number in numbers {
                assert_eq!(seq(answers.poll(number, cx)), Poll::Ready(Some(100 + number)));
            }
            assert!(answers.0.0.lock().places.is_empty(), "nothing is kept");
        }
    }

    #[test]
    fn a_dropped_ticket_is_answered_and_a_forgotten_one_is_not_kept() {
        let (answers, cx) = (Answers::default(), &mut Context::from_waker(Waker::noop()));
        let [dropped, forgotten, last] = [(); 3].map(|()| answers.ticket());
        let number = dropped.number();
        assert!(answers.poll(number, cx).is_pending());
        drop(dropped);
        assert_eq!(seq(answers.poll(number, cx)), Poll::Ready(None));
        answers.forget(forgotten.number());
        let forgotten = Waiter::Ticket(forgotten);
        assert!(forgotten.is_gone());
        forgotten.answer(outcome(1));
        assert_eq!(answers.0.0.lock().places.len(), 1, "only the last one");
        let last = Waiter::Ticket(last);
        assert!(!last.is_gone());
        let numbers: Vec<u64> = (0..1_000).map(|_| answers.ticket().number()).collect();
        assert!(answers.0.0.lock().places.capacity() >= 1_000);
        numbers.into_iter().chain([2]).for_each(|number| answers.forget(number));
        assert!(answers.0.0.lock().places.capacity() <= PLACES_KEPT, "an idle connection keeps little");
        let last = Waiter::Ticket(answers.ticket());
        drop(answers);
        assert!(last.is_gone(), "its connection ended");
        last.answer(outcome(2));
    }
}
