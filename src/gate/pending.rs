//! Checks in flight: which calls are out, who waits for which, and until when.
//!
//! ```text
//!  stream ──waits for──> call ──reply──> every waiter is decided
//!     │                   │
//!     └ deadline: it is   └ end: the reply is lost, the call is forgotten
//!       released alone
//! ```
//!
//! A stream that closes while it waits stays in the table: its check has used quota, and its
//! decision is counted when the call ends, though nobody is there to hear it.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::breaker::Permit;
use super::{Ask, CallId, StreamId, TICK};
use crate::config::Policy;
use crate::descriptor::Key;
use crate::sorted::SortedMap;
use crate::time::Instant;

/// A stream that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    /// What it waits to have checked.
    pub(super) ask: Ask,
    /// The route's name and the request's id, as the backend is told them.
    pub(super) labels: Labels,
    /// Since when it waits.
    pub(super) since: Instant,
    /// When it leaves, whatever happens.
    pub(super) deadline: Instant,
    /// The client is no longer there.
    pub(super) gone: bool,
}

/// What the backend is told about a request beside its descriptor.
#[derive(Debug, Default)]
pub(super) struct Labels {
    /// The name of the matched Envoy route.
    pub(super) route: Option<Vec<u8>>,
    /// The request's id.
    pub(super) request_id: Option<Vec<u8>>,
}

/// What a call is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Purpose {
    /// One check, for requests of this cost.
    Check(u64),
    /// Units for a lease that requests wait for.
    Lease(u64),
    /// Units for a lease that still has some: nobody waits.
    Renewal(u64),
}

/// A call in flight.
#[derive(Debug)]
pub(super) struct Call {
    /// The backend that was asked.
    pub(super) backend: usize,
    /// What it is for.
    pub(super) purpose: Purpose,
    /// What was asked about.
    pub(super) key: Key,
    /// By which terms the answer may be used again.
    pub(super) policy: Rc<Policy>,
    /// The breaker's leave for it.
    pub(super) permit: Option<Permit>,
    /// When it was made.
    pub(super) since: Instant,
    /// How long before that the host's timer for it may have begun to count.
    pub(super) head_start: Duration,
    /// What the host was told to wait for its end.
    pub(super) timeout: Duration,
    /// Who waits for it, in order of arrival.
    pub(super) waiters: Vec<StreamId>,
}

impl Call {
    /// When its end counts as lost: after its timeout the host has two ticks to tell of it.
    fn end(&self) -> Instant {
        self.since.after(self.timeout).after(TICK.saturating_mul(2))
    }
}

/// The calls in flight and who waits for them.
#[derive(Debug, Default)]
pub(super) struct Pending {
    last: u64,
    calls: SortedMap<u64, Box<Call>>,
    ends: SortedMap<(Instant, u64), ()>,
    waiters: SortedMap<u64, Box<Waiter>>,
    deadlines: SortedMap<(Instant, u64), ()>,
    shared: SortedMap<Key, u64>,
    by_backend: Vec<u32>,
    waiters_max: usize,
}

impl Pending {
    /// An empty table for so many backends, where so many may wait for one call.
    pub(super) fn new(backends: usize, waiters_max: usize) -> Self {
        Self {
            by_backend: vec![0; backends],
            waiters_max,
            ..Self::default()
        }
    }

    /// Calls in flight to a backend.
    pub(super) fn calls_to(&self, backend: usize) -> u32 {
        self.by_backend.get(backend).copied().unwrap_or(0)
    }

    /// The number of another call.
    pub(super) const fn next_id(&mut self) -> CallId {
        self.last = self.last.wrapping_add(1);
        CallId(self.last)
    }

    /// Notes a call. With `joinable`, later checks of its key may wait for it as well.
    pub(super) fn add(&mut self, call: Call, joinable: bool) -> CallId {
        let id = self.next_id();
        self.ends.insert((call.end(), id.0), ());
        if joinable {
            self.shared.insert(call.key.clone(), id.0);
        }
        self.count(call.backend, true);
        self.calls.insert(id.0, Box::new(call));
        id
    }

    /// The call that a check of this key and purpose may wait for.
    pub(super) fn joinable(&self, key: &[u8], purpose: Purpose) -> Option<CallId> {
        let id = *self.shared.find(|own| own.as_bytes().cmp(key))?;
        let call = self.calls.get(&id)?;
        let same = match (call.purpose, purpose) {
            (Purpose::Check(own), Purpose::Check(other)) => own == other,
            (Purpose::Lease(_) | Purpose::Renewal(_), Purpose::Lease(_)) => true,
            (Purpose::Check(_) | Purpose::Lease(_) | Purpose::Renewal(_), _) => false,
        };
        (same && call.waiters.len() < self.waiters_max).then_some(CallId(id))
    }

    /// Lets a stream wait for a call.
    pub(super) fn wait(&mut self, stream: StreamId, call: CallId, waiter: Waiter) {
        self.deadlines
            .insert((waiter.deadline, u64::from(stream.0)), ());
        if let Some(call) = self.calls.get_mut(&call.0) {
            call.waiters.push(stream);
        }
        self.waiters.insert(u64::from(stream.0), Box::new(waiter));
    }

    /// Takes a call out, with nobody of its waiters released yet.
    pub(super) fn take(&mut self, id: CallId) -> Option<Call> {
        let call = *self.calls.remove(&id.0)?;
        self.ends.remove(&(call.end(), id.0));
        if self.shared.get(&call.key) == Some(&id.0) {
            self.shared.remove(&call.key);
        }
        self.count(call.backend, false);
        Some(call)
    }

    /// Takes a waiter out; `None` when it was released before.
    pub(super) fn release(&mut self, stream: StreamId) -> Option<Waiter> {
        let waiter = *self.waiters.remove(&u64::from(stream.0))?;
        self.deadlines
            .remove(&(waiter.deadline, u64::from(stream.0)));
        Some(waiter)
    }

    /// Which backend a call is to.
    pub(super) fn backend_of(&self, call: CallId) -> Option<usize> {
        self.calls.get(&call.0).map(|call| call.backend)
    }

    /// Whether the stream waits, and its client is there.
    pub(super) fn waits(&self, stream: StreamId) -> bool {
        self.waiters
            .get(&u64::from(stream.0))
            .is_some_and(|waiter| !waiter.gone)
    }

    /// Notes that the client of a waiting stream is gone.
    pub(super) fn leave(&mut self, stream: StreamId) {
        if !self.waiters.is_empty()
            && let Some(waiter) = self.waiters.get_mut(&u64::from(stream.0))
        {
            waiter.gone = true;
        }
    }

    /// A stream whose deadline has passed.
    pub(super) fn overdue(&self, now: Instant) -> Option<StreamId> {
        due(&self.deadlines, now)
            .and_then(|stream| u32::try_from(stream).ok())
            .map(StreamId)
    }

    /// A call whose reply is lost.
    pub(super) fn lost(&self, now: Instant) -> Option<CallId> {
        due(&self.ends, now).map(CallId)
    }

    /// When something here has to be looked at next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let waiter = self.deadlines.first().map(|((deadline, _), ())| *deadline);
        let call = self.ends.first().map(|((end, _), ())| *end);
        waiter.into_iter().chain(call).min()
    }

    /// Any stream that waits.
    pub(super) fn any_waiter(&self) -> Option<StreamId> {
        let (stream, _) = self.waiters.first()?;
        u32::try_from(*stream).ok().map(StreamId)
    }

    /// Forgets every call: nobody will tell of their ends.
    pub(super) fn forget_calls(&mut self) {
        *self = Self {
            last: self.last,
            ..Self::new(self.by_backend.len(), self.waiters_max)
        };
    }

    /// The most streams that wait for one call.
    pub(super) fn waiters_most(&self) -> usize {
        let waiters = self.calls.values().map(|call| call.waiters.len());
        waiters.max().unwrap_or(0)
    }

    /// Streams that wait, and calls in flight.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.waiters.len(), self.calls.len())
    }

    fn count(&mut self, backend: usize, up: bool) {
        if let Some(count) = self.by_backend.get_mut(backend) {
            *count = if up {
                count.saturating_add(1)
            } else {
                count.saturating_sub(1)
            };
        }
    }
}

/// What of a timetable is due.
fn due(times: &SortedMap<(Instant, u64), ()>, now: Instant) -> Option<u64> {
    times
        .first()
        .filter(|((time, _), ())| *time <= now)
        .map(|((_, what), ())| *what)
}
