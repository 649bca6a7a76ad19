//! What goes wrong, and when: a phase for every so many requests, all of it following from the
//! seed, so that a run can be made again from any phase on.

use std::time::Duration;

use envoy_harness::Fault;

use crate::plugin::Variant;
use crate::traffic::random;

/// The endpoints of a backend's cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ends {
    /// The backend.
    Backend,
    /// The backend, and a port where nobody listens.
    BackendAndNobody,
    /// None at all.
    None,
    /// A port where nobody listens.
    Nobody,
}

/// What a phase makes of one of the two backends.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) fault: Option<Fault>,
    pub(crate) ends: Ends,
}

/// What is in force for [`PHASE`] requests.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    pub(crate) number: u64,
    pub(crate) weather: [Weather; 2],
    pub(crate) variant: Variant,
    /// The configuration is pushed anew.
    pub(crate) push: bool,
}

impl Phase {
    /// The phase of this number. In one half of all phases a backend is well; in the others it
    /// goes through all faults in an order that is another each time round.
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        let backends = [0, 1].map(|backend| Weather {
            fault: fault(seed, number, backend),
            ends: ends(seed, number, backend),
        });
        let variant = variant(seed, number / PUSH_EVERY);
        Self {
            number,
            weather: backends,
            variant,
            push: number.is_multiple_of(PUSH_EVERY),
        }
    }
}

/// Faults that a check can meet, with what the port itself does last.
fn faults() -> Vec<Fault> {
    vec![
        Fault::CloseBeforeHeaders,
        Fault::Delay(Duration::from_millis(15)),
        Fault::Delay(Duration::from_millis(90)),
        Fault::DoubledHeaders,
        Fault::Garbage,
        Fault::Hang,
        Fault::HeaderBytes(20_000),
        Fault::Headers(50),
        Fault::Headers(200),
        Fault::HugeBody,
        Fault::Informational,
        Fault::Raw(b"HTTP/1.1 20".to_vec()),
        Fault::ResetBeforeHeaders,
        Fault::ResetMidBody,
        Fault::StallMidBody,
        Fault::Status(404),
        Fault::Status(500),
        Fault::Status(503),
        Fault::Trailers,
        Fault::TruncatedJson,
        Fault::WrongHttpVersion,
        Fault::WrongJson,
        Fault::Refuse,
    ]
}

fn fault(seed: u64, number: u64, backend: u64) -> Option<Fault> {
    // The two backends are not ill in the same phases.
    if number % 2 == backend {
        return None;
    }
    let mut all = faults();
    let (round, place) = (number / 2 / all.len() as u64, number / 2 % all.len() as u64);
    random(seed, (round << 8) + backend + 1).shuffle(&mut all);
    all.into_iter().nth(usize::try_from(place).ok()?)
}

fn ends(seed: u64, number: u64, backend: u64) -> Ends {
    let mut random = random(seed, (number << 8) + 0x40 + backend);
    match random.u32(..100) {
        0..8 => Ends::None,
        8..14 => Ends::Nobody,
        14..22 => Ends::BackendAndNobody,
        _ => Ends::Backend,
    }
}

/// After each emergency comes a configuration without one.
fn variant(seed: u64, push: u64) -> Variant {
    let mut random = random(seed, (push << 8) + 0x80);
    let emergency = push % 3 == 1;
    let pick = |of: &[Variant], at: usize| of.get(at).copied().unwrap_or(Variant::Breaker);
    if emergency {
        let all = Variant::EMERGENCIES;
        pick(&all, random.usize(..all.len()))
    } else {
        pick(&Variant::CALM, random.usize(..Variant::CALM.len()))
    }
}

/// Requests of a phase.
pub(crate) const PHASE: u64 = 2000;

/// Phases from one push to the next.
pub(crate) const PUSH_EVERY: u64 = 5;

/// What an answer's fault says of the cause of a failure.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Class {
    /// Nothing came, or only a part.
    Breaks,
    /// The good answer.
    #[default]
    Good,
    /// The good answer, later.
    Late,
    /// The port is closed.
    Refuses,
    /// A yes whatever was asked, for who does not read the body.
    SaysYes,
    /// Nothing ever comes.
    Silent,
    /// A status that says nothing.
    Status,
}

impl Class {
    pub(crate) fn of(fault: Option<&Fault>) -> Self {
        match fault {
            None
            | Some(
                Fault::DoubledHeaders
                | Fault::HeaderBytes(_)
                | Fault::Informational
                | Fault::Trailers,
            ) => Self::Good,
            Some(Fault::Headers(count)) if *count < 100 => Self::Good,
            Some(Fault::Delay(_)) => Self::Late,
            Some(Fault::Refuse) => Self::Refuses,
            Some(Fault::TruncatedJson | Fault::WrongJson) => Self::SaysYes,
            Some(Fault::Hang | Fault::StallMidBody) => Self::Silent,
            Some(Fault::Status(_) | Fault::Answer(..)) => Self::Status,
            Some(
                Fault::CloseBeforeHeaders
                | Fault::Garbage
                | Fault::Headers(_)
                | Fault::HugeBody
                | Fault::Raw(_)
                | Fault::ResetBeforeHeaders
                | Fault::ResetMidBody
                | Fault::WrongHttpVersion,
            ) => Self::Breaks,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn both_backends_meet_every_fault_in_each_round() {
        let rounds = 2 * faults().len() as u64;
        let all: BTreeSet<String> = faults().iter().map(|fault| format!("{fault:?}")).collect();
        for backend in 0..2 {
            let met: BTreeSet<String> = (rounds..2 * rounds)
                .filter_map(|number| Phase::new(5, number).weather[backend].fault.clone())
                .map(|fault| format!("{fault:?}"))
                .collect();
            assert_eq!(met, all);
        }
    }

    #[test]
    fn an_emergency_is_followed_by_calm() {
        for push in 0..300 {
            let one = Phase::new(9, push * PUSH_EVERY).variant;
            let next = Phase::new(9, (push + 1) * PUSH_EVERY).variant;
            assert!(!(one.is_emergency() && next.is_emergency()));
        }
    }
}
