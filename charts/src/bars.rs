//! Horizontal bars: how some things compare.

use anyhow::{Result, ensure};
use plotters::prelude::RGBColor;

use crate::house::{
    Area, BODY, GRID, INK, LIMIT, MARGIN, OTHERS, OURS, SMALL, SOFT, Type, WIDTH, Words, dashes,
    fill, line, write,
};
use crate::ticks::{linear, number};

/// Some values side by side, each with its name at the left and its number at the right.
#[derive(Clone, Debug)]
pub struct Bars {
    pub(crate) title: String,
    unit: String,
    note: String,
    bars: Vec<Bar>,
    reference: Option<(f64, String)>,
    target: String,
}

/// One value.
#[derive(Clone, Debug)]
pub struct Bar {
    label: String,
    value: f64,
    text: Option<String>,
    spread: Option<(f64, f64)>,
    target: Option<f64>,
    ours: bool,
}

impl Bar {
    /// A value, and what it is the value of.
    #[must_use]
    pub fn new(label: impl Into<String>, value: f64) -> Self {
        Self {
            label: label.into(),
            value,
            text: None,
            spread: None,
            target: None,
            ours: false,
        }
    }

    /// What stands at the bar's end, in place of just the number.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// The least and the most that was measured.
    #[must_use]
    pub const fn spread(mut self, least: f64, most: f64) -> Self {
        self.spread = Some((least, most));
        self
    }

    /// What the value must not exceed: a mark across the bar.
    #[must_use]
    pub const fn target(mut self, target: f64) -> Self {
        self.target = Some(target);
        self
    }

    /// This project's own, in its colour; the others are grey.
    #[must_use]
    pub const fn ours(mut self) -> Self {
        self.ours = true;
        self
    }

    fn end_text(&self) -> String {
        self.text.clone().unwrap_or_else(|| number(self.value))
    }

    /// Everything of it that must be in the picture.
    fn reach(&self) -> impl Iterator<Item = f64> {
        let (least, most) = self.spread.unwrap_or((self.value, self.value));
        [self.value, least, most].into_iter().chain(self.target)
    }
}

impl Bars {
    /// An empty chart: what it shows, and in which unit.
    #[must_use]
    pub fn new(title: impl Into<String>, unit: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            unit: unit.into(),
            note: String::new(),
            bars: Vec::new(),
            reference: None,
            target: "target".to_owned(),
        }
    }

    /// Adds a bar below the others.
    #[must_use]
    pub fn bar(mut self, bar: Bar) -> Self {
        self.bars.push(bar);
        self
    }

    /// Where the numbers come from, in small print below.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// A line across all bars, with its name.
    #[must_use]
    pub fn reference(mut self, value: f64, label: impl Into<String>) -> Self {
        self.reference = Some((value, label.into()));
        self
    }

    /// What the marks across single bars are called; `target` otherwise.
    #[must_use]
    pub fn target_label(mut self, label: impl Into<String>) -> Self {
        self.target = label.into();
        self
    }

    pub(crate) fn draw(&self) -> Result<String> {
        let values: Vec<f64> = self
            .bars
            .iter()
            .flat_map(Bar::reach)
            .chain(self.reference.iter().map(|(value, _)| *value))
            .collect();
        ensure!(!self.bars.is_empty(), "it has no bars");
        ensure!(
            values.iter().all(|value| value.is_finite()),
            "a value is not a number"
        );
        let words = Words::new(&self.title, &self.unit, &self.note)?;
        let label = Type::new(BODY, INK).right();
        let (mut names, mut ends) = (0.0_f64, 0.0_f64);
        for bar in &self.bars {
            let name = if bar.ours { label.bold() } else { label };
            names = names.max(name.width(&bar.label)?);
            ends = ends.max(label.bold().width(&bar.end_text())?);
        }
        let least = values.iter().copied().fold(0.0, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        let ticks = linear(least, most, 6);
        let key = if self.bars.iter().any(|bar| bar.target.is_some()) {
            KEY
        } else {
            0.0
        };
        let head = if self.reference.is_some() { HEAD } else { 0.0 };
        let top = words.top() + key + head;
        let frame = Frame {
            left: MARGIN + names + GAP,
            right: WIDTH - MARGIN - ends - GAP,
            top,
            bottom: top + self.bars.len() as f64 * PITCH,
            // A value a little below 0 is noise: it needs no axis of its own.
            least: ticks[0].max(least * 1.1),
            most: ticks[ticks.len() - 1],
        };
        let height = frame.bottom + SMALL * 2.0 + words.bottom();
        words.draw(height.ceil(), |area| {
            if key > 0.0 {
                self.draw_key(area, words.top())?;
            }
            self.draw_ground(area, &frame, &ticks)?;
            for (row, bar) in self.bars.iter().enumerate() {
                let middle = (row as f64 + 0.5).mul_add(PITCH, frame.top);
                bar.draw(area, &frame, middle)?;
            }
            Ok(())
        })
    }

    fn draw_key(&self, area: &Area<'_>, top: f64) -> Result<()> {
        let y = KEY.mul_add(0.5, top);
        fill(area, (MARGIN, y - 8.0), (MARGIN + MARK, y + 8.0), LIMIT)?;
        write(
            area,
            &self.target,
            (MARGIN + 10.0, y),
            Type::new(SMALL, SOFT),
        )
    }

    fn draw_ground(&self, area: &Area<'_>, frame: &Frame, ticks: &[f64]) -> Result<()> {
        let small = Type::new(SMALL, SOFT).center();
        for tick in ticks.iter().filter(|tick| **tick >= frame.least) {
            let x = frame.x(*tick);
            line(area, (x, frame.top), (x, frame.bottom), GRID, 1.0)?;
            write(area, &number(*tick), (x, frame.bottom + SMALL), small)?;
        }
        let zero = frame.x(0.0);
        line(area, (zero, frame.top), (zero, frame.bottom), SOFT, 1.0)?;
        let Some((value, label)) = &self.reference else {
            return Ok(());
        };
        let x = frame.x(*value);
        dashes(area, &[(x, frame.top - 4.0), (x, frame.bottom)], INK, 1.25)?;
        // The name must stay inside of the picture.
        let half = small.width(label)? / 2.0;
        let x = x.clamp(MARGIN + half, WIDTH - MARGIN - half);
        write(
            area,
            label,
            (x, HEAD.mul_add(-0.5, frame.top) - 2.0),
            Type::new(SMALL, INK).center(),
        )
    }
}

impl Bar {
    fn draw(&self, area: &Area<'_>, frame: &Frame, middle: f64) -> Result<()> {
        let color: RGBColor = if self.ours { OURS } else { OTHERS };
        let name = Type::new(BODY, INK).right();
        write(
            area,
            &self.label,
            (frame.left - GAP, middle),
            if self.ours { name.bold() } else { name },
        )?;
        let (zero, end) = (frame.x(0.0), frame.x(self.value));
        let (from, to) = (zero.min(end), zero.max(end));
        fill(
            area,
            (from, middle - HALF),
            (to.max(from + 1.0), middle + HALF),
            color,
        )?;
        let mut reached = to;
        if let Some((least, most)) = self.spread {
            let (least, most) = (frame.x(least), frame.x(most));
            line(area, (least, middle), (most, middle), INK, 1.25)?;
            for x in [least, most] {
                line(area, (x, middle - 4.0), (x, middle + 4.0), INK, 1.25)?;
            }
            reached = reached.max(most);
        }
        if let Some(target) = self.target {
            let x = frame.x(target);
            fill(
                area,
                (x - MARK / 2.0, middle - HALF - 3.0),
                (x + MARK / 2.0, middle + HALF + 3.0),
                LIMIT,
            )?;
            // The number stands clear of the mark, and never so far away that it seems the mark's.
            if (x - reached).abs() < 8.0 {
                reached = reached.max(x);
            }
        }
        let number = Type::new(BODY, INK);
        let number = if self.ours { number.bold() } else { number };
        let text = self.end_text();
        let after = reached + GAP;
        let width = number.width(&text)?;
        let crossed = self.target.map(|target| frame.x(target));
        let x = match crossed {
            Some(mark) if mark > after - 3.0 && mark < after + width + 3.0 => mark + GAP,
            _ => after,
        };
        write(area, &text, (x, middle), number)
    }
}

/// Where the bars are, in pixels, and what they span.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    least: f64,
    most: f64,
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        let part = (value - self.least) / (self.most - self.least);
        part.mul_add(self.right - self.left, self.left)
    }
}

/// From one bar to the next.
const PITCH: f64 = 29.0;

/// Half of a bar's thickness.
const HALF: f64 = 9.0;

/// Between a bar and its words.
const GAP: f64 = 8.0;

/// The width of a target's mark.
const MARK: f64 = 3.0;

/// Room for the reference's name above the bars.
const HEAD: f64 = 20.0;

/// Room for what the marks mean.
const KEY: f64 = 22.0;
