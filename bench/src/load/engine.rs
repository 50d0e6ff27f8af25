//! One thread of the load: every [client](super::pipeline)'s links on one poll, no task, no allocation per request. It decides
//! when which client does what, and what counts as failed.
//!
//! The load shares its processors with what it measures, so its own cost is part of the result. Per request it makes one
//! send, one receive and its share of a poll; a pipeline makes as many for all its requests.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mio::{Events, Poll, Token};

use super::{
    alarm::Alarm,
    operations::Operations,
    pipeline::{Client, Ended},
    protocol::{Answer, RequestOutcome},
    recorder::{Flight, Kind, Recorder, Window},
    schedule::Schedule,
};

const READ_BUFFER_BYTES: usize = 256 * 1024;
const EVENTS_MAX: usize = 1024;
/// How often requests without an answer are looked for, and the stop flag with nothing else to do.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// After a failed request a client waits this long before its next one, or as long as `Retry-After` says, up to
/// [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Arrivals closer than this are waited for without sleeping.
const SPIN: Duration = Duration::from_micros(20);
/// Each client has up to two links: where it writes, and where it reads.
const LINKS: usize = 2;
const ALARM: Token = Token(usize::MAX);

/// What other threads see of a run, and how they stop it.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// No further request begins once this is set.
    pub stop: AtomicBool,
    /// Done and failed so far.
    pub done: AtomicU64,
    pub failed: AtomicU64,
}

/// A thread of the load before it runs.
pub(super) struct Engine<'a> {
    pub clients: Vec<Client>,
    pub operations: Operations,
    /// Operations that a client sends together.
    pub pipeline: usize,
    /// Absent in a closed loop.
    pub schedule: Option<Schedule>,
    /// Number of keys.
    pub keys: u64,
    pub window: Window,
    pub request_timeout: Duration,
    pub begin: Instant,
    pub shared: &'a Shared,
}

impl Engine<'_> {
    /// Runs until the end of the window, or until the operations end, and until what was under way then has ended.
    pub(super) fn run(self) -> Result<Recorder> {
        let Engine { clients, operations, pipeline, schedule, keys, window, request_timeout, begin, shared } = self;
        let poll = Poll::new().context("failed to set up polling")?;
        let alarm = schedule.is_some().then(|| Alarm::new(poll.registry(), ALARM)).transpose()?;
        let mut running = Running {
            recorder: Recorder::new(window, schedule.is_some(), keys)?,
            idle: (0..clients.len()).rev().collect(),
            clients,
            operations,
            pipeline,
            schedule,
            until_ns: window.until_ns,
            request_timeout_ns: nanoseconds(request_timeout),
            begin,
            shared,
            poll,
            alarm,
            waiting: VecDeque::new(),
            paused: BinaryHeap::new(),
            under_way: 0,
            out: Vec::new(),
            answers: Vec::new(),
            input: vec![0; READ_BUFFER_BYTES],
            counted: (0, 0),
            is_ending: false,
        };
        running.register_all()?;
        running.run()?;
        Ok(running.recorder)
    }
}

struct Running<'a> {
    recorder: Recorder,
    clients: Vec<Client>,
    operations: Operations,
    pipeline: usize,
    schedule: Option<Schedule>,
    until_ns: u64,
    request_timeout_ns: u64,
    begin: Instant,
    shared: &'a Shared,
    poll: Poll,
    alarm: Option<Alarm>,
    /// Arrivals that found no idle client, by when they were due.
    waiting: VecDeque<u64>,
    idle: Vec<usize>,
    /// Clients that wait after a failure, by when they go on.
    paused: BinaryHeap<Reverse<(u64, usize)>>,
    /// Pipelines.
    under_way: usize,
    out: Vec<u8>,
    answers: Vec<Answer>,
    input: Vec<u8>,
    /// Requests done and failed since the observer was last informed.
    counted: (u64, u64),
    is_ending: bool,
}

impl Running<'_> {
    fn register_all(&mut self) -> Result<()> {
        for (number, client) in self.clients.iter_mut().enumerate() {
            for (place, link) in client.links.iter_mut().enumerate() {
                link.watch(&self.poll, token(number, place)).context("failed to watch a connection")?;
            }
        }
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut housekeeping_ns = 0;
        loop {
            let now_ns = self.now_ns();
            if !self.is_ending && (now_ns >= self.until_ns || self.shared.stop.load(Ordering::Relaxed)) {
                self.end(now_ns);
            }
            if self.is_ending && self.under_way == 0 && self.waiting.is_empty() {
                self.publish();
                return Ok(());
            }
            self.begin_what_is_due(now_ns);
            if now_ns >= housekeeping_ns {
                housekeeping_ns = now_ns + nanoseconds(HOUSEKEEPING);
                self.give_up_overdue(now_ns);
                self.publish();
            }
            let timeout = self.timeout(housekeeping_ns)?;
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("failed to poll the connections"),
            }
            for event in &events {
                if event.token() == ALARM {
                    continue;
                }
                let (number, place) = (event.token().0 / LINKS, event.token().0 % LINKS);
                if event.is_writable() {
                    self.flush(number, place);
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.receive(number, place, event.is_read_closed() || event.is_error());
                }
            }
        }
    }

    fn now_ns(&self) -> u64 {
        nanoseconds(self.begin.elapsed())
    }

    /// No operation begins from now on, apart from arrivals that were due before.
    fn end(&mut self, now_ns: u64) {
        self.is_ending = true;
        let until_ns = self.until_ns.min(now_ns);
        if let Some(schedule) = &mut self.schedule {
            while schedule.next_ns() < until_ns {
                self.waiting.push_back(schedule.take(self.operations.random()));
            }
        }
        self.until_ns = until_ns;
    }

    fn begin_what_is_due(&mut self, now_ns: u64) {
        while let Some(Reverse((due_ns, number))) = self.paused.peek().copied() {
            if due_ns > now_ns {
                break;
            }
            self.paused.pop();
            self.idle.push(number);
        }
        let Some(schedule) = &mut self.schedule else {
            while !self.is_ending
                && let Some(number) = self.idle.pop()
            {
                let now_ns = self.now_ns();
                self.send(number, now_ns, now_ns);
            }
            return;
        };
        if !self.is_ending {
            while schedule.next_ns() <= now_ns {
                self.waiting.push_back(schedule.take(self.operations.random()));
            }
        }
        while let Some(intended_ns) = self.waiting.front().copied() {
            // A request that waited for a connection as long as a request may take is given up.
            if self.is_ending && now_ns > self.until_ns + self.request_timeout_ns {
                self.recorder.unsent += (self.waiting.len() * self.pipeline) as u64;
                self.waiting.clear();
                return;
            }
            let Some(number) = self.idle.pop() else { return };
            self.waiting.pop_front();
            let now_ns = self.now_ns();
            self.send(number, intended_ns, now_ns);
        }
    }

    /// Begins the next pipeline on an idle client.
    fn send(&mut self, number: usize, intended_ns: u64, now_ns: u64) {
        self.out.clear();
        let Some(kind) = self.operations.kind() else {
            self.end(now_ns);
            return;
        };
        let Client { links, pipeline } = &mut self.clients[number];
        let place = place_of(kind, links.len());
        let link = &mut links[place];
        pipeline.begin(Flight { kind, intended_ns, sent_ns: now_ns });
        self.under_way += 1;
        let connected = if link.is_connected() { Ok(()) } else { link.connect(&self.poll, token(number, place)) };
        let mut requested = Ok(());
        while pipeline.len() < self.pipeline
            && let Some((key, operation)) = self.operations.next(kind)
        {
            pipeline.add(key);
            if connected.is_ok() && requested.is_ok() {
                requested = link.request(operation, &mut self.out);
            }
        }
        link.finish(&mut self.out);
        if let Err(error) = connected {
            let address = link.address();
            self.fail(number, now_ns, RequestOutcome::NotConnected, || {
                format!("failed to connect to {address}: {error}")
            });
        } else if let Err(words) = requested {
            // What was asked for before it is not sent either.
            link.close();
            self.fail(number, now_ns, RequestOutcome::Refused, || words);
        } else if let Err(error) = link.send(&self.out) {
            self.broken(number, place, now_ns, &error);
        }
    }

    /// Sends what could not be sent before.
    fn flush(&mut self, number: usize, place: usize) {
        if let Err(error) = self.clients[number].links[place].flush() {
            let now_ns = self.now_ns();
            self.broken(number, place, now_ns, &error);
        }
    }

    /// Reads what arrived. Events report changes alone, so that a read which does not fill the buffer is the last one, unless
    /// the other side has closed.
    fn receive(&mut self, number: usize, place: usize, is_closing: bool) {
        loop {
            let read = self.clients[number].links[place].receive(&mut self.input);
            match read {
                Ok(None) => return,
                Ok(Some(count)) => {
                    self.received(number, place, count);
                    if count < self.input.len() && !is_closing {
                        return;
                    }
                }
                Err(error) => {
                    let now_ns = self.now_ns();
                    return self.broken(number, place, now_ns, &error);
                }
            }
        }
    }

    /// Takes `count` bytes of the input.
    fn received(&mut self, number: usize, place: usize, count: usize) {
        let now_ns = self.now_ns();
        self.out.clear();
        let Client { links, pipeline } = &mut self.clients[number];
        let was_under_way = pipeline.is_under_way();
        let taken = links[place].take(&self.input[..count], &mut self.out, &mut self.answers);
        for answer in self.answers.drain(..) {
            let Some(key) = pipeline.answer() else {
                // One more answer than there were requests: whose the next ones would be is unknown.
                pipeline.close();
                break;
            };
            let flight = pipeline.flight();
            let is_done = matches!(answer.outcome, RequestOutcome::Ok | RequestOutcome::NotFound);
            if is_done {
                self.counted.0 += 1;
                pipeline.explain(answer.quorum_delay_ns);
            } else {
                self.counted.1 += 1;
                let pause = answer.retry_after_s.map(|seconds| Duration::from_secs(seconds.into()).min(PAUSE_MAX));
                pipeline.fail(pause.unwrap_or(PAUSE));
            }
            if !answer.keep {
                pipeline.close();
            }
            if let Some(word) = answer.error {
                self.recorder.error(flight, word);
            }
            let words = answer.words;
            self.recorder.ended(flight, key, now_ns, answer.outcome, || words.unwrap_or_default());
        }
        if was_under_way && !pipeline.is_under_way() {
            let ended = pipeline.ended();
            if ended.is_last || taken.is_err() {
                links[place].close();
            }
            self.ended(number, now_ns, ended);
        } else if let Err(error) = taken {
            self.broken(number, place, now_ns, &error);
        }
    }

    /// Every operation of the client's pipeline has ended.
    fn ended(&mut self, number: usize, now_ns: u64, ended: Ended) {
        self.under_way -= 1;
        if ended.is_done {
            self.recorder.done(ended.flight, now_ns, ended.quorum_delay_ns);
        }
        self.next(number, now_ns, ended.is_done, ended.pause);
    }

    /// What the client does after a pipeline has ended.
    fn next(&mut self, number: usize, now_ns: u64, is_done: bool, pause: Duration) {
        if !is_done && self.schedule.is_none() {
            self.paused.push(Reverse((now_ns + nanoseconds(pause), number)));
        } else if let (true, Some(intended_ns)) = (is_done, self.waiting.pop_front()) {
            self.send(number, intended_ns, now_ns);
        } else if self.schedule.is_some() || self.is_ending || now_ns >= self.until_ns {
            self.idle.push(number);
        } else {
            // In a closed loop the answer's time is the next request's time: one look at the clock for both.
            self.send(number, now_ns, now_ns);
        }
    }

    /// The connection is useless from here on, and so is the request under way on it.
    fn broken(&mut self, number: usize, place: usize, now_ns: u64, error: &io::Error) {
        let client = &mut self.clients[number];
        let link = &mut client.links[place];
        link.close();
        let address = link.address();
        let is_its_own = place_of(client.pipeline.kind(), client.links.len()) == place;
        if is_its_own && client.pipeline.is_under_way() {
            let outcome = if error.kind() == io::ErrorKind::ConnectionRefused {
                RequestOutcome::NotConnected
            } else {
                RequestOutcome::NoAnswer
            };
            self.fail(number, now_ns, outcome, || format!("{address}: {error}"));
        }
    }

    /// Ends what has no answer of the client's pipeline, all of it in this way.
    fn fail(&mut self, number: usize, now_ns: u64, outcome: RequestOutcome, words: impl FnOnce() -> String) {
        let pipeline = &mut self.clients[number].pipeline;
        let flight = pipeline.flight();
        let words = words();
        while let Some(key) = pipeline.answer() {
            self.counted.1 += 1;
            self.recorder.ended(flight, key, now_ns, outcome, || words.clone());
        }
        pipeline.fail(PAUSE);
        let ended = pipeline.ended();
        self.ended(number, now_ns, ended);
    }

    fn give_up_overdue(&mut self, now_ns: u64) {
        for number in 0..self.clients.len() {
            let Client { links, pipeline } = &self.clients[number];
            let sent_ns = pipeline.flight().sent_ns;
            if pipeline.is_under_way() && now_ns.saturating_sub(sent_ns) > self.request_timeout_ns {
                let place = place_of(pipeline.kind(), links.len());
                let error = io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
                self.broken(number, place, now_ns, &error);
            }
        }
    }

    /// How long the poll may sleep: until the next arrival, the next paused client, or the housekeeping.
    fn timeout(&mut self, housekeeping_ns: u64) -> Result<Option<Duration>> {
        let now_ns = self.now_ns();
        let mut next_ns = housekeeping_ns.min(self.until_ns.max(now_ns + 1_000_000));
        if let Some(Reverse((due_ns, _))) = self.paused.peek() {
            next_ns = next_ns.min(*due_ns);
        }
        if let (Some(schedule), Some(alarm), false) = (&self.schedule, &mut self.alarm, self.is_ending) {
            let wait = Duration::from_nanos(schedule.next_ns().saturating_sub(now_ns));
            if wait < SPIN.max(Alarm::TOLERANCE) {
                return Ok(Some(Duration::ZERO));
            }
            let rings = alarm.set(wait, schedule.next_ns())?;
            if !rings {
                next_ns = next_ns.min(schedule.next_ns() - nanoseconds(Alarm::TOLERANCE));
            }
        }
        Ok(Some(Duration::from_nanos(next_ns.saturating_sub(now_ns))))
    }

    /// Publishes how many operations have ended.
    fn publish(&mut self) {
        let (done, failed) = std::mem::take(&mut self.counted);
        self.shared.done.fetch_add(done, Ordering::Relaxed);
        self.shared.failed.fetch_add(failed, Ordering::Relaxed);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// By what the poll knows a client's link.
fn token(number: usize, place: usize) -> Token {
    Token(number * LINKS + place)
}

/// Which of a client's links an operation takes.
fn place_of(kind: Kind, links: usize) -> usize {
    usize::from(kind == Kind::Get && links > 1)
}
