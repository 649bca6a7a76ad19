//! The point in time that is written into files: told from outside, never the clock's.

use anyhow::{Context, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Seconds since 1970, and how formats want to have them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(u32);

impl Moment {
    pub(crate) fn new(seconds: u32) -> Self {
        Self(seconds)
    }

    pub(crate) fn seconds(self) -> u64 {
        self.0.into()
    }

    /// As `2026-01-31T22:00:00Z`.
    pub(crate) fn rfc3339(self) -> Result<String> {
        let time = OffsetDateTime::from_unix_timestamp(self.0.into())?;
        time.format(&Rfc3339)
            .context("a time that can't be written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_rfc_3339_in_utc() {
        assert_eq!(Moment::new(0).rfc3339().unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(
            Moment::new(1_800_000_000).rfc3339().unwrap(),
            "2027-01-15T08:00:00Z"
        );
    }
}
