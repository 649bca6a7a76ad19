//! Lines: how something changes along something else.

use anyhow::Result;

use crate::house::{BODY, INK, MARGIN, SMALL, Type, WIDTH, Words};
use crate::plot::Plot;

/// Some series over one pair of axes; each is named at its end, in its colour.
#[derive(Clone, Debug)]
pub struct Lines {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) note: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
    pub(crate) levels: Vec<(f64, String)>,
    pub(crate) moments: Vec<(f64, String)>,
    pub(crate) stretches: Vec<(f64, f64, String)>,
    height: f64,
}

/// What an axis counts, and how.
#[derive(Clone, Debug)]
pub struct Axis {
    pub(crate) label: String,
    pub(crate) logarithmic: bool,
    pub(crate) from: Option<f64>,
    pub(crate) to: Option<f64>,
    pub(crate) at: Vec<f64>,
    pub(crate) suffix: String,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) dashed: bool,
    pub(crate) dots: bool,
}

impl Series {
    /// A line through points; one that is not a number breaks it.
    #[must_use]
    pub fn new(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Self {
            name: name.into(),
            points: points.into_iter().collect(),
            dashed: false,
            dots: false,
        }
    }

    /// In dashes: what is computed or promised, beside what was measured.
    #[must_use]
    pub const fn dashed(mut self) -> Self {
        self.dashed = true;
        self
    }

    /// A dot at each point: few points, each of them measured.
    #[must_use]
    pub const fn dots(mut self) -> Self {
        self.dots = true;
        self
    }
}

impl Axis {
    /// An axis from a round number to a round number; the label names the unit.
    #[must_use]
    pub fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            logarithmic: false,
            from: None,
            to: None,
            at: Vec::new(),
            suffix: String::new(),
        }
    }

    /// Equal ratios at equal distances; points that are not above 0 are left out.
    #[must_use]
    pub const fn logarithmic(mut self) -> Self {
        self.logarithmic = true;
        self
    }

    /// Where it begins at the latest.
    #[must_use]
    pub const fn from(mut self, value: f64) -> Self {
        self.from = Some(value);
        self
    }

    /// Where it ends at the earliest.
    #[must_use]
    pub const fn to(mut self, value: f64) -> Self {
        self.to = Some(value);
        self
    }

    /// Numbers are written at these places only.
    #[must_use]
    pub fn at(mut self, places: impl IntoIterator<Item = f64>) -> Self {
        self.at = places.into_iter().collect();
        self
    }

    /// What stands behind each number, `%` or ` s`.
    #[must_use]
    pub fn suffix(mut self, suffix: impl Into<String>) -> Self {
        self.suffix = suffix.into();
        self
    }
}

impl Lines {
    /// An empty chart: what it shows, and along what.
    #[must_use]
    pub fn new(title: impl Into<String>, x: Axis, y: Axis) -> Self {
        Self {
            title: title.into(),
            subtitle: String::new(),
            note: String::new(),
            x,
            y,
            series: Vec::new(),
            levels: Vec::new(),
            moments: Vec::new(),
            stretches: Vec::new(),
            height: HEIGHT,
        }
    }

    /// What the reader should see in it, below the title.
    #[must_use]
    pub fn subtitle(mut self, subtitle: impl Into<String>) -> Self {
        self.subtitle = subtitle.into();
        self
    }

    /// Where the numbers come from, in small print below.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Adds a line.
    #[must_use]
    pub fn series(mut self, series: Series) -> Self {
        self.series.push(series);
        self
    }

    /// A level that is referred to: a target, a limit.
    #[must_use]
    pub fn level(mut self, y: f64, label: impl Into<String>) -> Self {
        self.levels.push((y, label.into()));
        self
    }

    /// A moment at which something happens.
    #[must_use]
    pub fn moment(mut self, x: f64, label: impl Into<String>) -> Self {
        self.moments.push((x, label.into()));
        self
    }

    /// A stretch in which something lasts.
    #[must_use]
    pub fn stretch(mut self, from: f64, to: f64, label: impl Into<String>) -> Self {
        self.stretches.push((from, to, label.into()));
        self
    }

    /// How high the frame of the lines is, in pixels.
    #[must_use]
    pub const fn height(mut self, pixels: f64) -> Self {
        self.height = pixels;
        self
    }

    pub(crate) fn draw(&self) -> Result<String> {
        let words = Words::new(&self.title, &self.subtitle, &self.note)?;
        let names: Vec<&str> = self.series.iter().map(|one| one.name.as_str()).collect();
        let mut widest = 0.0_f64;
        for name in &names {
            widest = widest.max(Type::new(BODY, INK).bold().width(name)?);
        }
        let labels = if names.len() > 1 { widest + 12.0 } else { 0.0 };
        let top = words.top();
        let plot = Plot {
            lines: self,
            names: &names,
            named: names.len() > 1,
            size: SMALL,
            left: MARGIN,
            right: WIDTH - MARGIN - labels,
            top,
            bottom: top + self.height,
        };
        let height = (plot.bottom + words.bottom()).ceil();
        words.draw(height, |area| plot.draw(area))
    }
}

/// A frame of lines that is wider than high, as slopes are read best.
const HEIGHT: f64 = 340.0;
