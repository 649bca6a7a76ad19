//! The backend's books: fixed windows or a token bucket, exact and never wrong.

use serde::{Deserialize, Serialize};

/// How limits are counted.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Kind {
    /// Anew in each window.
    Windows,
    /// As tokens that come evenly; a tenth of a window's units may be saved up.
    Bucket,
}

/// One key's books. Times are in nanoseconds.
#[derive(Clone, Debug)]
pub struct Books {
    kind: Kind,
    limit: u64,
    window: u64,
    /// The window that `used` is of.
    index: u64,
    used: u64,
    /// Tokens, as time: a unit is `window / limit` of it.
    level: u64,
    level_at: u64,
}

/// What the books say to a request for units.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Units given; none is a denial.
    pub granted: u64,
    /// Units that are left.
    pub remaining: u64,
    /// Until there are new ones.
    pub reset: u64,
}

impl Books {
    /// Books of a key that nobody has used yet.
    #[must_use]
    pub const fn new(kind: Kind, limit: u64, window: u64) -> Self {
        Self {
            kind,
            limit,
            window,
            index: 0,
            used: 0,
            level: window / SAVED,
            level_at: 0,
        }
    }

    /// Gives `asked` units, or what is left if that is at least `least`, or nothing.
    pub fn take(&mut self, now: u64, asked: u64, least: u64) -> Answer {
        let left = self.left(now);
        let granted = match left {
            _ if left >= asked => asked,
            _ if least > 0 && left >= least => left,
            _ => 0,
        };
        match self.kind {
            Kind::Windows => self.used += granted,
            Kind::Bucket => self.level -= granted * self.unit(),
        }
        let remaining = left - granted;
        Answer {
            granted,
            remaining,
            reset: match self.kind {
                Kind::Windows => (self.index + 1) * self.window - now,
                Kind::Bucket => self.unit() - self.level % self.unit(),
            },
        }
    }

    /// From here on nothing more is given.
    pub const fn cut(&mut self) {
        self.limit = 0;
    }

    /// What a token bucket may hold: that is also what it may give at once.
    #[must_use]
    pub const fn burst(limit: u64) -> u64 {
        limit / SAVED
    }

    fn left(&mut self, now: u64) -> u64 {
        match self.kind {
            Kind::Windows => {
                let index = now / self.window;
                if index > self.index {
                    self.index = index;
                    self.used = 0;
                }
                self.limit.saturating_sub(self.used)
            }
            Kind::Bucket => {
                let passed = now.saturating_sub(self.level_at);
                self.level_at = self.level_at.max(now);
                self.level = self.level.saturating_add(passed).min(self.window / SAVED);
                if self.limit == 0 {
                    0
                } else {
                    self.level / self.unit()
                }
            }
        }
    }

    const fn unit(&self) -> u64 {
        let unit = self.window / if self.limit == 0 { 1 } else { self.limit };
        if unit == 0 { 1 } else { unit }
    }
}

/// A bucket holds a tenth of what comes in a window.
const SAVED: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_gives_its_limit_and_no_more_until_the_next_one() {
        let mut books = Books::new(Kind::Windows, 10, 1_000);
        assert_eq!(books.take(5_100, 7, 0).granted, 7);
        assert_eq!(
            books.take(5_200, 7, 1),
            Answer {
                granted: 3,
                remaining: 0,
                reset: 800
            }
        );
        assert_eq!(books.take(5_999, 1, 1).granted, 0);
        assert_eq!(books.take(6_000, 7, 0).granted, 7);
        assert_eq!(books.take(6_000, 7, 0).granted, 0);
    }

    #[test]
    fn a_bucket_gives_what_was_saved_and_then_what_comes() {
        let mut books = Books::new(Kind::Bucket, 100, 1_000);
        assert_eq!(books.take(5_000, 50, 1).granted, 10);
        assert_eq!(books.take(5_009, 1, 0).granted, 0);
        assert_eq!(books.take(5_010, 1, 0).granted, 1);
        assert_eq!(books.take(9_000, 50, 1).granted, 10);
    }

    #[test]
    fn nothing_is_given_after_a_cut() {
        for kind in [Kind::Windows, Kind::Bucket] {
            let mut books = Books::new(kind, 100, 1_000);
            books.take(5_000, 1, 0);
            books.cut();
            assert_eq!(books.take(5_001, 1, 1).granted, 0);
            assert_eq!(books.take(9_000, 1, 1).granted, 0);
        }
    }
}
