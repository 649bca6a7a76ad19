//! What became of requests since the last tick, in plain fields: each settled request moves two of
//! them, and a metric is looked up for many requests together.

/// The sums of one backend.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Tally {
    /// Requests whose response told nothing.
    pub(super) default: i64,
    /// Requests without a good answer that are charged all the same.
    pub(super) kept: i64,
    /// Requests whose response told what they used.
    pub(super) measured: i64,
    /// Requests without a good answer that are charged nothing.
    pub(super) released: i64,
    /// Requests without a check, whose use is left out.
    pub(super) skipped: i64,
    /// Units that a lease paid.
    pub(super) leased: i64,
    /// Units that went back to a lease.
    pub(super) returned: i64,
}

impl Tally {
    /// Takes the sums out; `None` where there are none.
    pub(super) fn take(&mut self) -> Option<Self> {
        let taken = core::mem::take(self);
        (taken != Self::default()).then_some(taken)
    }

    /// Requests by how their use was known.
    pub(super) const fn requests(&self) -> [(&'static str, i64); 5] {
        [
            ("default", self.default),
            ("kept", self.kept),
            ("measured", self.measured),
            ("released", self.released),
            ("skipped", self.skipped),
        ]
    }

    /// Units by what became of them.
    pub(super) const fn units(&self) -> [(&'static str, i64); 2] {
        [("leased", self.leased), ("returned", self.returned)]
    }
}
