//! A grid of small charts of lines with one legend.

use anyhow::{Result, ensure};

use crate::house::{
    Area, BODY, HEIGHT_MAX, INK, MARGIN, SMALL, Type, WIDTH, Words, dashes, line, write,
};
use crate::lines::Lines;
use crate::plot::{Plot, color};

/// Some charts of lines in a grid. A series has the same colour wherever its name occurs.
#[derive(Clone, Debug)]
pub struct Panels {
    pub(crate) title: String,
    subtitle: String,
    note: String,
    columns: usize,
    height: f64,
    each_named: bool,
    panels: Vec<Lines>,
}

impl Panels {
    /// An empty grid of so many columns.
    #[must_use]
    pub fn new(title: impl Into<String>, columns: usize) -> Self {
        Self {
            title: title.into(),
            subtitle: String::new(),
            note: String::new(),
            columns: columns.max(1),
            height: HEIGHT,
            each_named: false,
            panels: Vec::new(),
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

    /// How high each panel is, in pixels.
    #[must_use]
    pub const fn height(mut self, pixels: f64) -> Self {
        self.height = pixels;
        self
    }

    /// Each panel names its own series, at their ends: for panels about different things, where
    /// one legend for all would be long.
    #[must_use]
    pub const fn each_named(mut self) -> Self {
        self.each_named = true;
        self
    }

    /// Adds a panel; of its words only the title counts.
    #[must_use]
    pub fn panel(mut self, lines: Lines) -> Self {
        self.panels.push(lines);
        self
    }

    pub(crate) fn draw(&self) -> Result<String> {
        ensure!(!self.panels.is_empty(), "it has no panels");
        let words = Words::new(&self.title, &self.subtitle, &self.note)?;
        let mut names: Vec<&str> = Vec::new();
        for name in self
            .panels
            .iter()
            .flat_map(|panel| &panel.series)
            .map(|series| series.name.as_str())
        {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let legend = match self.each_named {
            true => Vec::new(),
            false => self.legend(&names)?,
        };
        let rows = self.panels.len().div_ceil(self.columns);
        let below = if legend.is_empty() { 0.0 } else { 8.0 };
        let top = words.top() + legend.len() as f64 * LEGEND + below;
        let height = rows as f64 * (self.height + GAP) - GAP;
        let height = (top + height + words.bottom()).ceil();
        ensure!(
            height <= HEIGHT_MAX,
            "it is {height} pixels high, {HEIGHT_MAX} at most: fewer panels, or more columns"
        );
        words.draw(height, |area| {
            for (row, entries) in legend.iter().enumerate() {
                let y = (row as f64 + 0.5).mul_add(LEGEND, words.top());
                for (x, name) in entries {
                    self.draw_entry(area, (*x, y), name, &names)?;
                }
            }
            let width = (WIDTH - 2.0 * MARGIN + GAP) / self.columns as f64;
            for (index, panel) in self.panels.iter().enumerate() {
                let left = ((index % self.columns) as f64).mul_add(width, MARGIN);
                let top = ((index / self.columns) as f64).mul_add(self.height + GAP, top);
                let title = Type::new(BODY, INK).bold();
                write(area, &panel.title, (left, top + BODY * 0.6), title)?;
                let own: Vec<&str> = panel.series.iter().map(|one| one.name.as_str()).collect();
                let mut labels = 0.0_f64;
                for name in own.iter().filter(|_| self.each_named) {
                    labels = labels.max(Type::new(BODY, INK).bold().width(name)? + 10.0);
                }
                let plot = Plot {
                    lines: panel,
                    names: if self.each_named { &own } else { &names },
                    named: self.each_named,
                    size: SMALL - 1.0,
                    left,
                    right: left + width - GAP - labels,
                    top: BODY.mul_add(1.5, top),
                    bottom: top + self.height,
                };
                plot.draw(area)?;
            }
            Ok(())
        })
    }

    /// The legend's rows: where each name begins. None where one name is all there is.
    fn legend<'a>(&self, names: &[&'a str]) -> Result<Vec<Vec<(f64, &'a str)>>> {
        let mut rows: Vec<Vec<(f64, &str)>> = Vec::new();
        if names.len() < 2 {
            return Ok(rows);
        }
        let mut x = WIDTH;
        for name in names {
            let width = SAMPLE + Type::new(SMALL, INK).width(name)? + 22.0;
            if x + width > WIDTH - MARGIN {
                rows.push(Vec::new());
                x = MARGIN;
            }
            if let Some(row) = rows.last_mut() {
                row.push((x, name));
            }
            x += width;
        }
        Ok(rows)
    }

    fn draw_entry(
        &self,
        area: &Area<'_>,
        (x, y): (f64, f64),
        name: &str,
        names: &[&str],
    ) -> Result<()> {
        let series = self.panels.iter().flat_map(|panel| &panel.series);
        let dashed = series
            .into_iter()
            .find(|series| series.name == name)
            .is_some_and(|series| series.dashed);
        let (from, to) = ((x, y), (x + SAMPLE - 6.0, y));
        if dashed {
            dashes(area, &[from, to], color(names, name), 2.25)?;
        } else {
            line(area, from, to, color(names, name), 2.75)?;
        }
        write(area, name, (x + SAMPLE, y), Type::new(SMALL, INK))
    }
}

/// How high a panel is if nothing else is said.
const HEIGHT: f64 = 190.0;

/// Between panels.
const GAP: f64 = 18.0;

/// A row of the legend.
const LEGEND: f64 = 22.0;

/// The line before a name of the legend, with the space behind it.
const SAMPLE: f64 = 30.0;
