//! The limit that this process keeps by itself while the backend gives no answer: GCRA per key,
//! its units shared by all workers.
//!
//! The generic cell rate algorithm (ITU-T I.371) keeps one number per key: the theoretical arrival
//! time, here `full_at`: the moment at which all units will have grown back. With an interval of
//! `per / units` a cost of `c` moves it by `c` intervals, from now if it has passed, and is allowed
//! if it then lies no more than `burst` intervals ahead (the standard's tolerance of `burst − 1`
//! intervals for a unit that arrives now).
//!
//! The keys live in a table of 1024 slots of shared data with 4 places each. A place is live while
//! its `full_at` lies ahead; afterwards its key is as good as new and the place is free. When all
//! four are live, a new key takes over the place that is full first, and its debt with it. So a
//! forgotten key never gets back more than it had: whoever finds no place starts with at least the
//! debt that it lost. A flood of keys makes the limit stricter for keys that share its slots, never
//! looser for anybody.
//!
//! Memory, in the process, when every slot has been written: 1024 × (139 bytes of value, about 30
//! of name, about 100 of the host's map), 280 kB in all; and 60 kB of names per worker.
//!
//! The wall may jump. Forward, units grow back early: at most one burst is given away. Backward, a
//! `full_at` that lies further ahead than its limit's whole burst can't be true and is brought
//! back to just that: the key waits for at most the time in which its burst grows back.

use alloc::vec::Vec;
use core::time::Duration;

use crate::config::LocalLimit;
use crate::gate::slots::{Contended, Reader, Slots};
use crate::shared::Shared;
use crate::time::{Wall, nanos};

/// The local limits of all keys.
#[derive(Clone, Debug)]
pub struct LocalLimits {
    slots: Slots,
    evictions: u64,
    contended: u64,
}

/// Why units can't be taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OverLimit {
    /// The cost is above the burst: no wait is long enough.
    Never,
    /// There is room for it after this time, if nobody else takes it.
    NotNow(Duration),
}

impl OverLimit {
    /// How long to wait before it is worth asking again; `None` where it never is.
    #[must_use]
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::NotNow(wait) => Some(wait),
        }
    }
}

impl LocalLimits {
    /// Limits that are kept in so many slots of what the workers share.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self {
            slots: Slots::new("local", KIND, slots),
            evictions: 0,
            contended: 0,
        }
    }

    /// Takes `cost` units of the limit that `key` has.
    ///
    /// `key` is a hash of everything that names the limit: the policy too, where two policies
    /// must not share units. Clients choose what goes into it, so it should be one for which they
    /// can't work out a second input (SipHash, say); two keys of one hash share their units.
    ///
    /// A cost of 0 is always allowed, and touches nothing.
    ///
    /// # Errors
    /// [`OverLimit`] when there is no room. Also when other workers were faster five times in a
    /// row, or the host refuses writes: units that can't be booked are not given. Races are lost
    /// that often only under a flood on one slot, which is what the limit is for.
    pub fn take(
        &mut self,
        now: Wall,
        key: u64,
        limit: &LocalLimit,
        cost: u64,
        shared: &mut dyn Shared,
    ) -> Result<(), OverLimit> {
        if cost == 0 {
            return Ok(());
        }
        let terms = Terms::of(limit).ok_or(OverLimit::Never)?;
        if cost > limit.burst {
            return Err(OverLimit::Never);
        }
        let index = self.slots.home(key);
        let booked = self.slots.update(shared, index, |body| {
            let mut places = Places::decode(body.unwrap_or_default());
            let healed = places.heal(now);
            let taken = places.take(now, key, terms, cost);
            let write = healed || taken.wait.is_none();
            (taken, write.then(|| places.encode()))
        });
        match booked {
            Ok(Taken { wait, crowded }) => {
                self.evictions = self.evictions.saturating_add(u64::from(crowded));
                wait.map_or(Ok(()), |wait| Err(OverLimit::NotNow(wait)))
            }
            Err(Contended) => {
                self.contended = self.contended.saturating_add(1);
                Err(OverLimit::NotNow(Ticks(terms.interval).round_up()))
            }
        }
    }

    /// How often a key found every place of its slot taken by others, since this was last asked: it
    /// has taken one over, or was refused for the debt of whoever holds it.
    pub const fn take_evictions(&mut self) -> u64 {
        core::mem::replace(&mut self.evictions, 0)
    }

    /// Requests that were over the limit only because their units could not be booked, since this
    /// was last asked.
    pub const fn take_contended(&mut self) -> u64 {
        core::mem::replace(&mut self.contended, 0)
    }
}

/// A moment or a span in 2^-32 of a nanosecond, so that intervals need no rounding to speak of: at
/// a thousand million units a second the error is one in four thousand million.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
struct Ticks(u128);

impl Ticks {
    fn of(nanos: u64) -> Self {
        Self(u128::from(nanos) << FRACTION_BITS)
    }

    fn plus(self, other: u128) -> Self {
        Self(self.0.saturating_add(other))
    }

    const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    fn round_up(self) -> Duration {
        let nanos = self.0.saturating_add(FRACTION) >> FRACTION_BITS;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// A limit in the algorithm's terms.
#[derive(Clone, Copy, Debug)]
struct Terms {
    /// Between two units; rounded up, so that never more than the limit is given.
    interval: u128,
    /// How far ahead `full_at` may lie.
    reach: Ticks,
}

impl Terms {
    /// `None` for a limit that gives no units.
    fn of(limit: &LocalLimit) -> Option<Self> {
        let per = Ticks::of(nanos(limit.per)).0;
        let units = u128::from(limit.units);
        let interval = per.checked_add(units.checked_sub(1)?)?.checked_div(units)?;
        let reach = interval.saturating_mul(u128::from(limit.burst));
        let reach = Ticks(reach.min(REACH_MAX));
        Some(Self { interval, reach })
    }
}

/// What became of a wish for units.
#[derive(Clone, Copy, Debug)]
struct Taken {
    /// How long to wait, when they were not given.
    wait: Option<Duration>,
    /// Whether every place belonged to another key.
    crowded: bool,
}

/// What one slot holds.
#[derive(Clone, Copy, Debug, Default)]
struct Places([Place; WAYS]);

/// One key's account.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    key: u64,
    /// When all units will have grown back; in the past for a place that is free.
    full_at: Ticks,
    /// How far ahead that could lie at most when it was written.
    reach: Ticks,
}

impl Places {
    /// Books `cost` units, or says how long to wait.
    fn take(&mut self, now: Wall, key: u64, terms: Terms, cost: u64) -> Taken {
        let now = Ticks::of(now.0);
        let rank = |place: &Place| match (place.key == key, place.full_at > now) {
            (true, true) => Rank::Own,
            (_, false) => Rank::Free,
            (false, true) => Rank::Live(place.full_at),
        };
        let Some(place) = self.0.iter_mut().min_by_key(|place| rank(place)) else {
            return Taken {
                wait: Some(terms.reach.round_up()),
                crowded: true,
            };
        };
        let crowded = matches!(rank(place), Rank::Live(_));
        let debit = terms.interval.saturating_mul(u128::from(cost));
        let full_at = place.full_at.max(now).plus(debit);
        let latest = now.plus(terms.reach.0);
        if full_at > latest {
            return Taken {
                wait: Some(full_at.minus(latest).round_up()),
                crowded,
            };
        }
        *place = Place {
            key,
            full_at,
            reach: terms.reach,
        };
        Taken {
            wait: None,
            crowded,
        }
    }

    /// Brings back what lies further ahead than it ever can, for the wall has jumped.
    fn heal(&mut self, now: Wall) -> bool {
        let now = Ticks::of(now.0);
        let mut healed = false;
        for place in &mut self.0 {
            let latest = now.plus(place.reach.0);
            healed |= place.full_at > latest;
            place.full_at = place.full_at.min(latest);
        }
        healed
    }

    fn decode(body: &[u8]) -> Self {
        Self::read(Reader(body)).unwrap_or_default()
    }

    fn read(mut body: Reader<'_>) -> Option<Self> {
        let mut places = Self::default();
        for place in &mut places.0 {
            place.key = body.u64()?;
            place.full_at = read_ticks(&mut body)?;
            place.reach = read_ticks(&mut body)?;
        }
        body.is_empty().then_some(places)
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(BODY_LEN);
        for place in &self.0 {
            body.extend(place.key.to_le_bytes());
            write_ticks(&mut body, place.full_at);
            write_ticks(&mut body, place.reach);
        }
        body
    }
}

/// Which place a key is booked in: the least one.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Rank {
    Own,
    Free,
    Live(Ticks),
}

fn read_ticks(body: &mut Reader<'_>) -> Option<Ticks> {
    let fraction = body.u32()?;
    let whole = body.u64()?;
    Some(Ticks::of(whole).plus(u128::from(fraction)))
}

/// What doesn't fit in 96 bits lies centuries ahead, and is written as the latest that does.
fn write_ticks(body: &mut Vec<u8>, ticks: Ticks) {
    let ticks = ticks.0.min(TICKS_MAX).to_le_bytes();
    body.extend(ticks.iter().take(TICKS_LEN));
}

const WAYS: usize = 4;
const KIND: u8 = b'l';

const FRACTION_BITS: u32 = 32;
const FRACTION: u128 = (1 << FRACTION_BITS) - 1;
const TICKS_LEN: usize = 12;
const TICKS_MAX: u128 = (1 << 96) - 1;

/// A burst that takes longer than this to grow back (146 years) is cut to what does not.
const REACH_MAX: u128 = 1 << 94;

/// A key, and two times, for each way.
const BODY_LEN: usize = WAYS * (8 + 2 * TICKS_LEN);

#[cfg(test)]
mod tests;
