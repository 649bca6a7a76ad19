//! What the samples say: medians with their spread, what a chain adds, and in shares of what.

use crate::chain::{Chain, EXT_AUTHZ, NO_FILTER};
use crate::measure::Sample;

/// Everything that was measured of a chain: one sample a round.
pub(crate) struct Row {
    pub(crate) chain: Chain,
    pub(crate) samples: Vec<Sample>,
}

/// A figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of any figures; `None` without one.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let half = figures.len() / 2;
        let median = if figures.len() % 2 == 1 {
            figures[half]
        } else {
            f64::midpoint(figures[half - 1], figures[half])
        };
        Some(Self { median, min, max })
    }
}

impl Row {
    /// A figure of every round.
    pub(crate) fn spread(&self, figure: impl Fn(&Sample) -> f64) -> Option<Spread> {
        Spread::of(self.samples.iter().map(figure))
    }
}

/// What a row has more of than the one without a filter, round by round.
pub(crate) fn added(row: &Row, rows: &[Row], figure: impl Fn(&Sample) -> f64) -> Option<Vec<f64>> {
    let base = rows.iter().find(|row| row.chain.name == NO_FILTER)?;
    if row.chain.name == NO_FILTER {
        return None;
    }
    let pairs = row.samples.iter().zip(&base.samples);
    Some(
        pairs
            .map(|(ours, base)| figure(ours) - figure(base))
            .collect(),
    )
}

/// The CPU time that a row adds, in shares of what ext_authz adds, round by round.
pub(crate) fn ratio(row: &Row, rows: &[Row]) -> Option<Vec<f64>> {
    let ext_authz = rows.iter().find(|row| row.chain.name == EXT_AUTHZ)?;
    if row.chain.name == EXT_AUTHZ {
        return None;
    }
    let (ours, theirs) = (added(row, rows, cpu)?, added(ext_authz, rows, cpu)?);
    let pairs = ours.iter().zip(&theirs);
    Some(pairs.map(|(ours, theirs)| ours / theirs).collect())
}

/// Microseconds of Envoy's CPU time per request, every connection busy.
pub(crate) fn cpu(sample: &Sample) -> f64 {
    sample.flat.cpu_us
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_between_the_two_in_the_middle() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]);
        let expected = Spread {
            median: 2.5,
            min: 1.0,
            max: 4.0,
        };
        assert_eq!(spread, Some(expected));
        assert_eq!(Spread::of([]), None);
    }
}
