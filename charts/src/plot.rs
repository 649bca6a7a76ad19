//! One frame of lines on an area, with its axes.

use anyhow::{Result, ensure};
use plotters::prelude::{Circle, Color, PathElement, RGBColor};

use crate::house::{
    Area, BODY, GRID, INK, PALETTE, SHADE, SMALL, SOFT, Type, dashes, fill, line, place, thick,
    write,
};
use crate::lines::{Axis, Lines, Series};
use crate::ticks::{linear, logarithmic, number};

/// Where to draw which lines, in pixels.
pub(crate) struct Plot<'a> {
    pub(crate) lines: &'a Lines,
    /// Every series' name in the picture: its place says its colour.
    pub(crate) names: &'a [&'a str],
    /// Whether each line is named at its end, to the right of the frame.
    pub(crate) named: bool,
    pub(crate) size: f64,
    pub(crate) left: f64,
    pub(crate) right: f64,
    pub(crate) top: f64,
    pub(crate) bottom: f64,
}

/// The colour of a series.
pub(crate) fn color(names: &[&str], name: &str) -> RGBColor {
    let index = names.iter().position(|one| *one == name).unwrap_or(0);
    PALETTE[index % PALETTE.len()]
}

impl Plot<'_> {
    pub(crate) fn draw(&self, area: &Area<'_>) -> Result<()> {
        let points = || self.lines.series.iter().flat_map(|one| &one.points);
        let levels = self.lines.levels.iter().map(|(y, _)| *y);
        let x_ticks = self.lines.x.ticks(points().map(|point| point.0), 7)?;
        let y_ticks = self
            .lines
            .y
            .ticks(points().map(|point| point.1).chain(levels), 5)?;
        let numbers = Type::new(self.size, SOFT).right();
        let mut widest = 0.0_f64;
        for tick in &y_ticks {
            widest = widest.max(numbers.width(&self.lines.y.text(*tick))?);
        }
        let frame = Frame {
            x: Span::new(
                &self.lines.x,
                &x_ticks,
                self.left + widest + 8.0,
                self.right - 6.0,
            ),
            y: Span::new(
                &self.lines.y,
                &y_ticks,
                self.bottom - self.size * 3.2,
                self.top + self.size * 2.1,
            ),
        };
        self.draw_stretches(area, &frame)?;
        self.draw_axes(area, &frame, &x_ticks, &y_ticks)?;
        for series in &self.lines.series {
            self.draw_series(area, &frame, series)?;
        }
        self.draw_levels(area, &frame)?;
        if self.named {
            self.draw_names(area, &frame)?;
        }
        Ok(())
    }

    fn draw_axes(
        &self,
        area: &Area<'_>,
        frame: &Frame<'_>,
        x_ticks: &[f64],
        y_ticks: &[f64],
    ) -> Result<()> {
        let numbers = Type::new(self.size, SOFT);
        let (left, right) = (frame.x.start, frame.x.end);
        let (bottom, top) = (frame.y.start, frame.y.end);
        for tick in y_ticks {
            let y = frame.y.at(*tick);
            line(area, (left, y), (right, y), GRID, 1.0)?;
            write(
                area,
                &self.lines.y.text(*tick),
                (left - 6.0, y),
                numbers.right(),
            )?;
        }
        line(area, (left, bottom), (right, bottom), SOFT, 1.0)?;
        for tick in x_ticks {
            let x = frame.x.at(*tick);
            line(area, (x, bottom), (x, bottom + 4.0), SOFT, 1.0)?;
            let below = (x, bottom + 5.0 + self.size * 0.6);
            write(area, &self.lines.x.text(*tick), below, numbers.center())?;
        }
        let label = Type::new(self.size, INK);
        write(
            area,
            &self.lines.y.label,
            (self.left, self.size.mul_add(-1.4, top)),
            label,
        )?;
        write(
            area,
            &self.lines.x.label,
            (left.midpoint(right), bottom + 6.0 + self.size * 1.9),
            label.center(),
        )
    }

    fn draw_series(&self, area: &Area<'_>, frame: &Frame<'_>, series: &Series) -> Result<()> {
        let color = color(self.names, &series.name);
        let place_of = |point: &(f64, f64)| {
            let drawn = self.lines.x.has(point.0) && self.lines.y.has(point.1);
            drawn.then(|| (frame.x.at(point.0), frame.y.at(point.1)))
        };
        let places: Vec<Option<(f64, f64)>> = series.points.iter().map(place_of).collect();
        for run in places.split(Option::is_none) {
            let run: Vec<(f64, f64)> = run.iter().flatten().copied().collect();
            if series.dashed {
                dashes(area, &run, color, 1.75)?;
            } else if run.len() > 1 {
                let path: Vec<(i32, i32)> = run.iter().copied().map(place).collect();
                area.draw(&PathElement::new(path, color.stroke_width(thick(2.25))))?;
            }
            if series.dots || run.len() == 1 {
                for point in run {
                    let dot = Circle::new(place(point), thick(3.5), color.filled());
                    area.draw(&dot)?;
                }
            }
        }
        Ok(())
    }

    fn draw_stretches(&self, area: &Area<'_>, frame: &Frame<'_>) -> Result<()> {
        let words = Type::new(self.size, SOFT);
        let y = self.size.mul_add(0.8, frame.y.end);
        for (from, to, label) in &self.lines.stretches {
            let (from, to) = (frame.x.within(*from), frame.x.within(*to));
            fill(area, (from, frame.y.end), (to, frame.y.start), SHADE)?;
            write(area, label, (from.midpoint(to), y), words.center())?;
        }
        for (x, label) in &self.lines.moments {
            let x = frame.x.within(*x);
            dashes(area, &[(x, frame.y.end), (x, frame.y.start)], SOFT, 1.0)?;
            write(area, label, (x + 4.0, y), words)?;
        }
        Ok(())
    }

    fn draw_levels(&self, area: &Area<'_>, frame: &Frame<'_>) -> Result<()> {
        for (level, label) in &self.lines.levels {
            let y = frame.y.at(*level);
            let (left, right) = (frame.x.start, frame.x.end);
            dashes(area, &[(left, y), (right, y)], INK, 1.25)?;
            let above = (right - 2.0, self.size.mul_add(-0.7, y));
            write(area, label, above, Type::new(self.size, INK).right())?;
        }
        Ok(())
    }

    /// Names each line at its end, moved apart where they would lie on each other.
    fn draw_names(&self, area: &Area<'_>, frame: &Frame<'_>) -> Result<()> {
        let mut ends: Vec<(f64, &str)> = Vec::new();
        for series in &self.lines.series {
            let drawn =
                |point: &&(f64, f64)| self.lines.x.has(point.0) && self.lines.y.has(point.1);
            if let Some((_, y)) = series.points.iter().rfind(drawn) {
                ends.push((frame.y.at(*y), &series.name));
            }
        }
        ends.sort_by(|one, other| one.0.total_cmp(&other.0));
        let size = self.size + BODY - SMALL;
        let apart = size * 1.25;
        // Downwards first, then up again from the frame's end.
        for index in 1..ends.len() {
            ends[index].0 = ends[index].0.max(ends[index - 1].0 + apart);
        }
        let mut lowest = frame.y.start;
        for end in ends.iter_mut().rev() {
            end.0 = end.0.min(lowest);
            lowest = end.0 - apart;
        }
        for (y, name) in ends {
            let kind = Type::new(size, color(self.names, name)).bold();
            write(area, name, (frame.x.end + 10.0, y), kind)?;
        }
        Ok(())
    }
}

/// The two axes as they are drawn.
struct Frame<'a> {
    x: Span<'a>,
    y: Span<'a>,
}

/// An axis from one pixel to another.
struct Span<'a> {
    axis: &'a Axis,
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl<'a> Span<'a> {
    fn new(axis: &'a Axis, ticks: &[f64], start: f64, end: f64) -> Self {
        let (mut from, mut to) = (ticks[0], ticks[ticks.len() - 1]);
        if !axis.at.is_empty() {
            from = axis.from.unwrap_or(from).min(from);
            to = axis.to.unwrap_or(to).max(to);
        }
        Self {
            axis,
            from: axis.scaled(from),
            to: axis.scaled(to),
            start,
            end,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let part = (self.axis.scaled(value) - self.from) / (self.to - self.from);
        part.mul_add(self.end - self.start, self.start)
    }

    fn within(&self, value: f64) -> f64 {
        let (low, high) = (self.start.min(self.end), self.start.max(self.end));
        self.at(value).clamp(low, high)
    }
}

impl Axis {
    /// Where numbers are written; the first and the last are the axis' ends.
    fn ticks(&self, values: impl Iterator<Item = f64>, wanted: usize) -> Result<Vec<f64>> {
        if self.at.len() > 1 {
            return Ok(self.at.clone());
        }
        let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.chain(self.from).chain(self.to) {
            if self.has(value) {
                from = from.min(value);
                to = to.max(value);
            }
        }
        ensure!(from <= to, "the axis {:?} has no numbers", self.label);
        Ok(if self.logarithmic {
            logarithmic(from, to)
        } else {
            linear(from, to, wanted)
        })
    }

    fn has(&self, value: f64) -> bool {
        value.is_finite() && (!self.logarithmic || value > 0.0)
    }

    fn scaled(&self, value: f64) -> f64 {
        if self.logarithmic {
            value.log10()
        } else {
            value
        }
    }

    fn text(&self, value: f64) -> String {
        format!("{}{}", number(value), self.suffix)
    }
}
