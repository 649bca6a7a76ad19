//! Asking the backend: who joins whose call, who may call at all, and until when.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use super::pending::{Call, Labels, Purpose, Waiter};
use super::reply::head_start;
use super::{Ask, Effect, Gate, Need, Outgoing, StreamId, Turn, is_peek};
use crate::config::{FailureMode, Policy};
use crate::decision::CheckError;
use crate::request::Request;
use crate::text;
use crate::time::{Wall, millis};
use crate::wire::Check;

impl Gate {
    /// Lets a stream wait for a call: one that is out already, or a new one. A stream that can't
    /// wait comes back with the cause.
    pub(super) fn place(
        &mut self,
        turn: &mut Turn<'_>,
        stream: StreamId,
        waiter: Waiter,
        need: Need,
    ) -> Result<(), Box<Unplaced>> {
        if waiter.deadline.since(turn.now) < SHORTEST_CALL {
            return Err(unplaced(waiter, CheckError::DeadlineTooShort));
        }
        let ask = &waiter.ask;
        // The call is given the policy's time even where the client has less: others may join it,
        // and a client in a hurry must not make the backend look slow to the breaker.
        let timeout = ask.policy.timeout;
        let purpose = purpose_of(need, ask.cost);
        if self.is_cut_off(ask.policy.backend, turn.wall) {
            return Err(unplaced(waiter, CheckError::BreakerOpen));
        }
        if let Some(call) = self.pending.joinable(ask.descriptor.as_bytes(), purpose) {
            self.pending.wait(stream, call, waiter);
            return Ok(());
        }
        let order = match need {
            Need::Lease(units) => Order {
                purpose,
                units,
                at_least: Some(ask.cost),
                joinable: true,
                timeout,
            },
            // A lease's call that can't be joined any more is as good as none.
            Need::Check | Need::Join => Order {
                purpose: Purpose::Check(ask.cost),
                units: ask.cost,
                at_least: None,
                joinable: !ask.policy.cache.allow.is_zero(),
                timeout,
            },
        };
        match self.call(turn, ask, &waiter.labels, order) {
            Ok(call) => {
                self.pending.wait(stream, call, waiter);
                Ok(())
            }
            Err(cause) => Err(unplaced(waiter, cause)),
        }
    }

    /// Asks for more units of a lease, with nobody waiting for them. When that is not possible the
    /// lease simply runs out, and the next request asks.
    pub(super) fn renew(&mut self, turn: &mut Turn<'_>, ask: &Ask, units: u64, labels: &Labels) {
        let order = Order {
            purpose: Purpose::Renewal(units),
            units,
            at_least: Some(1),
            joinable: true,
            timeout: ask.policy.timeout,
        };
        let cut_off = self.is_cut_off(ask.policy.backend, turn.wall);
        if cut_off || self.call(turn, ask, labels, order).is_err() {
            self.leases.failed(turn.now, ask.descriptor.as_bytes());
        }
    }

    /// Makes a call, if the bound and the breaker let it.
    fn call(
        &mut self,
        turn: &mut Turn<'_>,
        ask: &Ask,
        labels: &Labels,
        order: Order,
    ) -> Result<super::CallId, CheckError> {
        let index = ask.policy.backend;
        let bound = self
            .config
            .backends
            .get(index)
            .ok_or(CheckError::Internal)?
            .max_pending;
        if self.pending.calls_to(index) >= bound {
            return Err(CheckError::TooManyPending);
        }
        let permit = self
            .breakers
            .get_mut(index)
            .and_then(Option::as_mut)
            .map(|breaker| breaker.permit(turn.wall, order.timeout, turn.shared))
            .transpose();
        self.tell_transitions(index);
        let permit = permit.map_err(|_refused| CheckError::BreakerOpen)?;
        let wire = self.wires.get(index).ok_or(CheckError::Internal)?;
        let message = wire.encode(&Check {
            entries: ask.descriptor.entries(&ask.policy),
            cost: order.units,
            cost_min: order.at_least,
            policy: &ask.policy.name,
            quota: ask.policy.quota,
            route: labels.route.as_deref(),
            request_id: labels.request_id.as_deref(),
            peek: is_peek(&ask.policy),
            told: None,
        });
        let call = Call {
            backend: index,
            purpose: order.purpose,
            key: ask.descriptor.key(),
            policy: ask.policy.clone(),
            permit,
            since: turn.now,
            head_start: head_start(turn.now, self.ticked, order.timeout),
            timeout: order.timeout,
            waiters: Vec::new(),
        };
        if let Purpose::Lease(units) | Purpose::Renewal(units) = order.purpose {
            self.leases
                .asked(turn.now, ask.descriptor.as_bytes(), units);
        }
        let id = self.pending.add(call, order.joinable);
        let timeout_ms = u32::try_from(millis(order.timeout))
            .unwrap_or(u32::MAX)
            .max(1);
        self.effects.push_back(Effect::Call(Outgoing {
            id,
            backend: index,
            message,
            timeout_ms,
        }));
        Ok(id)
    }

    /// What the backend is told about the request, as far as its language has a place for it.
    pub(super) fn labels(&self, backend: usize, request: &dyn Request) -> Labels {
        let wire = self.wires.get(backend);
        Labels {
            route: wire
                .filter(|wire| wire.tells_route())
                .and_then(|_| request.route_name()),
            request_id: wire
                .filter(|wire| wire.tells_request_id())
                .and_then(|_| request.value("x-request-id"))
                .map(<[u8]>::to_vec),
        }
    }

    /// Whether the breaker lets nothing through now.
    pub(super) fn is_cut_off(&self, backend: usize, wall: Wall) -> bool {
        self.breakers
            .get(backend)
            .and_then(Option::as_ref)
            .is_some_and(|breaker| breaker.open_for(wall).is_some())
    }

    /// Whether a check can't be made now, as far as is known before what it needs is fetched from
    /// the host: the breaker is open, or tries the backend by calls that this check can't wait for.
    pub(super) fn is_refused(&self, ask: &Ask, need: Need, wall: Wall) -> bool {
        let breaker = self.breakers.get(ask.policy.backend);
        let Some(breaker) = breaker.and_then(Option::as_ref) else {
            return false;
        };
        let purpose = purpose_of(need, ask.cost);
        breaker.open_for(wall).is_some()
            || breaker.is_trying(wall)
                && self
                    .pending
                    .joinable(ask.descriptor.as_bytes(), purpose)
                    .is_none()
    }
}

/// A stream that can't wait, and why.
pub(super) struct Unplaced {
    /// The stream's check.
    pub(super) waiter: Waiter,
    /// Why nobody is asked.
    pub(super) cause: CheckError,
}

fn unplaced(waiter: Waiter, cause: CheckError) -> Box<Unplaced> {
    Box::new(Unplaced { waiter, cause })
}

/// What the call is for that a check could wait for.
const fn purpose_of(need: Need, cost: u64) -> Purpose {
    match need {
        Need::Check => Purpose::Check(cost),
        Need::Lease(units) => Purpose::Lease(units),
        Need::Join => Purpose::Lease(0),
    }
}

/// The terms of a call that is to be made.
#[derive(Clone, Copy, Debug)]
struct Order {
    purpose: Purpose,
    units: u64,
    at_least: Option<u64>,
    joinable: bool,
    timeout: Duration,
}

/// The time that the client itself has set for its request: `grpc-timeout`, or what a trusted
/// Envoy in front of this one expects.
pub(super) fn own_deadline(request: &dyn Request) -> Option<Duration> {
    let grpc = request.value("grpc-timeout").and_then(grpc_timeout);
    let expected = request
        .value("x-envoy-expected-rq-timeout-ms")
        .filter(|_| is_internal(request))
        .and_then(text::parse_decimal)
        .map(Duration::from_millis);
    grpc.into_iter().chain(expected).min()
}

/// The failure mode that a trusted caller chose, where the policy lets it; else the policy's own.
pub(super) fn chosen_failure_mode(policy: &Policy, request: &dyn Request) -> FailureMode {
    let Some(header) = &policy.failure_mode_header else {
        return policy.failure_mode;
    };
    let chosen = request.value(header).and_then(FailureMode::from_code);
    match chosen {
        Some(FailureMode::FailLocal) if policy.local_limit.is_none() => policy.failure_mode,
        Some(mode) if is_internal(request) => mode,
        Some(_) | None => policy.failure_mode,
    }
}

/// Whether Envoy says that the request comes from inside: it removes the header from others.
fn is_internal(request: &dyn Request) -> bool {
    request.says("x-envoy-internal", "true")
}

/// `grpc-timeout`: at most 8 digits and a unit (gRPC over HTTP/2, "Timeout").
fn grpc_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    let value = text::parse_decimal(digits).filter(|_| digits.len() <= GRPC_TIMEOUT_DIGITS)?;
    match unit {
        b'H' => Some(Duration::from_secs(value.saturating_mul(3600))),
        b'M' => Some(Duration::from_secs(value.saturating_mul(60))),
        b'S' => Some(Duration::from_secs(value)),
        b'm' => Some(Duration::from_millis(value)),
        b'u' => Some(Duration::from_micros(value)),
        b'n' => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// The host counts a callout's timeout in whole milliseconds, and takes 0 for none at all.
pub(super) const SHORTEST_CALL: Duration = Duration::from_millis(1);

/// As the gRPC protocol says.
const GRPC_TIMEOUT_DIGITS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::PlainRequest;

    fn request() -> PlainRequest {
        PlainRequest::new("POST", "a", "/")
    }

    #[test]
    fn reads_every_unit_of_a_grpc_timeout() {
        for (text, expected) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("250m", Duration::from_millis(250)),
            ("7u", Duration::from_micros(7)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(grpc_timeout(text.as_bytes()), Some(expected), "{text}");
        }
    }

    #[test]
    fn ignores_a_grpc_timeout_that_the_protocol_does_not_know() {
        for text in [
            "",
            "m",
            "10",
            "10x",
            "-1S",
            "+1S",
            "1.5S",
            "999999999S",
            " 1S",
        ] {
            assert_eq!(grpc_timeout(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn believes_an_expected_timeout_only_from_inside() {
        let outside = request().with_header("x-envoy-expected-rq-timeout-ms", "20");
        assert_eq!(own_deadline(&outside), None);

        let inside = outside.with_header("x-envoy-internal", "true");
        assert_eq!(own_deadline(&inside), Some(Duration::from_millis(20)));

        let both = inside.with_header("grpc-timeout", "5m");
        assert_eq!(own_deadline(&both), Some(Duration::from_millis(5)));
    }
}
