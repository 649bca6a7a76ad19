//! How a record lies in its slot: identity, touched, generation, opens, why, phase.

use alloc::vec::Vec;
use core::time::Duration;

use super::{BUCKETS, Bucket, Counts, Phase, Record, Terms, Trial, Trials, distance};
use crate::gate::breaker::Why;
use crate::gate::slots::{Claim, Reader};
use crate::time::{Wall, nanos};

impl Record {
    /// Whose record a body is, without reading all of it.
    pub(in crate::gate::breaker) fn claim(body: &[u8], now: Wall, terms: &Terms) -> Claim {
        let mut body = Reader(body);
        match (body.u64(), body.u64()) {
            (Some(identity), Some(_)) if identity == terms.identity => Claim::Ours,
            (Some(_), Some(touched)) if distance(now, Wall(touched)) <= ABANDONED_AFTER => {
                Claim::Taken
            }
            _ => Claim::Free,
        }
    }

    pub(in crate::gate::breaker) fn encode(&self, terms: &Terms) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(terms.identity.to_le_bytes());
        body.extend(self.touched.0.to_le_bytes());
        body.extend(self.generation.to_le_bytes());
        body.extend(self.opens.to_le_bytes());
        let (tag, first, second) = match self.why {
            None => (0, 0, 0),
            Some(Why::Consecutive(failures)) => (1, failures, 0),
            Some(Why::OpenTimeOver) => (2, 0, 0),
            Some(Why::Rate { permille, calls }) => (3, permille, calls),
            Some(Why::TrialFailed) => (4, 0, 0),
            Some(Why::TrialsPassed) => (5, 0, 0),
        };
        body.push(tag);
        body.extend(u32::to_le_bytes(first));
        body.extend(u32::to_le_bytes(second));
        self.phase.encode(&mut body);
        body
    }

    #[inline(never)]
    pub(in crate::gate::breaker) fn decode(body: &[u8]) -> Option<Self> {
        let mut body = Reader(body);
        body.u64()?;
        let touched = Wall(body.u64()?);
        let generation = body.u64()?;
        let opens = body.u32()?;
        let why = match (body.u8()?, body.u32()?, body.u32()?) {
            (0, _, _) => None,
            (1, failures, _) => Some(Why::Consecutive(failures)),
            (2, _, _) => Some(Why::OpenTimeOver),
            (3, permille, calls) => Some(Why::Rate { permille, calls }),
            (4, _, _) => Some(Why::TrialFailed),
            (5, _, _) => Some(Why::TrialsPassed),
            _ => return None,
        };
        let phase = Phase::decode(&mut body)?;
        body.is_empty().then_some(Self {
            generation,
            touched,
            why,
            opens,
            phase,
        })
    }
}

impl Phase {
    fn encode(&self, body: &mut Vec<u8>) {
        match self {
            Self::Closed(counts) => {
                body.push(0);
                body.extend(counts.run.to_le_bytes());
                body.extend(counts.last_failure.0.to_le_bytes());
                body.extend(counts.head.to_le_bytes());
                for bucket in &counts.buckets {
                    body.extend(bucket.succeeded.to_le_bytes());
                    body.extend(bucket.failed.to_le_bytes());
                }
            }
            Self::HalfOpen(trials) => {
                body.push(1);
                body.extend(trials.passed.to_le_bytes());
                body.extend(trials.next.to_le_bytes());
                for trial in &trials.held {
                    body.extend(trial.number.to_le_bytes());
                    body.extend(trial.since.0.to_le_bytes());
                    body.extend(nanos(trial.lapses_after).to_le_bytes());
                }
            }
            Self::Open { since, open_for } => {
                body.push(2);
                body.extend(since.0.to_le_bytes());
                body.extend(nanos(*open_for).to_le_bytes());
            }
        }
    }

    fn decode(body: &mut Reader<'_>) -> Option<Self> {
        match body.u8()? {
            0 => Counts::decode(body).map(Self::Closed),
            1 => Trials::decode(body).map(Self::HalfOpen),
            2 => Some(Self::Open {
                since: Wall(body.u64()?),
                open_for: Duration::from_nanos(body.u64()?),
            }),
            _ => None,
        }
    }
}

impl Counts {
    fn decode(body: &mut Reader<'_>) -> Option<Self> {
        let mut counts = Self {
            run: body.u32()?,
            last_failure: Wall(body.u64()?),
            head: body.u64()?,
            buckets: [Bucket::default(); BUCKETS],
        };
        for bucket in &mut counts.buckets {
            bucket.succeeded = body.u32()?;
            bucket.failed = body.u32()?;
        }
        Some(counts)
    }
}

impl Trials {
    fn decode(body: &mut Reader<'_>) -> Option<Self> {
        let passed = body.u32()?;
        let next = body.u32()?;
        let mut held = Vec::new();
        while !body.is_empty() {
            held.push(Trial {
                number: body.u32()?,
                since: Wall(body.u64()?),
                lapses_after: Duration::from_nanos(body.u64()?),
            });
        }
        Some(Self { passed, next, held })
    }
}

/// A record that no worker refreshes belongs to a backend that is gone.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);
