//! The project's charts: one description, an SVG and a PNG of the same picture.
//!
//! The SVG is drawn, the PNG is that SVG rendered at twice its size with the font that text was
//! measured by, so the two never differ. Both are the same on every machine and in every run.
//!
//! ```
//! use charts::{Bar, Bars, Chart};
//!
//! let bars = Bars::new("CPU per request", "above no filter, in µs")
//!     .bar(Bar::new("ext_authz", 82.0))
//!     .bar(Bar::new("leased", 9.4).ours().target(16.4))
//!     .reference(82.0, "ext_authz");
//! assert!(Chart::from(bars).svg()?.starts_with("<svg"));
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! | file | its room |
//! | --- | --- |
//! | `bars.rs` | horizontal bars: how some things compare |
//! | `lines.rs` | lines: how something changes along something else |
//! | `panels.rs` | a grid of small charts of lines with one legend |
//! | `plot.rs` | one frame of lines on an area, with its axes |
//! | `ticks.rs` | round numbers for an axis, numbers as text |
//! | `house.rs` | colours, fonts, sizes; the canvas, and how it becomes a PNG |

#![deny(missing_docs)]

mod bars;
mod house;
mod lines;
mod panels;
mod plot;
mod ticks;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

pub use bars::{Bar, Bars};
pub use house::{HEIGHT_MAX, PNG_SCALE, WIDTH};
pub use lines::{Axis, Lines, Series};
pub use panels::Panels;
pub use ticks::number;

/// A chart that can be drawn.
#[derive(Clone, Debug)]
pub enum Chart {
    /// How some things compare.
    Bars(Bars),
    /// How something changes along something else.
    Lines(Box<Lines>),
    /// The same for several things at once.
    Panels(Panels),
}

impl Chart {
    /// Draws the chart as the text of an SVG file.
    ///
    /// # Errors
    /// A number is not finite where a place is needed for it, or there is nothing to draw.
    pub fn svg(&self) -> Result<String> {
        let (title, drawn) = match self {
            Self::Bars(bars) => (&bars.title, bars.draw()),
            Self::Lines(lines) => (&lines.title, lines.draw()),
            Self::Panels(panels) => (&panels.title, panels.draw()),
        };
        drawn.with_context(|| format!("the chart {title:?} can't be drawn"))
    }

    /// Draws the chart as the bytes of a PNG file, [`PNG_SCALE`] pixels for one of the SVG.
    ///
    /// # Errors
    /// As [`Chart::svg`].
    pub fn png(&self) -> Result<Vec<u8>> {
        house::render(&self.svg()?)
    }

    /// Writes `stem.svg` and `stem.png`, and the directory that they are in.
    ///
    /// # Errors
    /// As [`Chart::svg`], or a file can't be written.
    pub fn write(&self, stem: &Path) -> Result<()> {
        if let Some(dir) = stem.parent() {
            fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
        }
        let svg = self.svg()?;
        for (ending, bytes) in [("png", house::render(&svg)?), ("svg", svg.into_bytes())] {
            let file = stem.with_extension(ending);
            fs::write(&file, bytes).with_context(|| format!("{}", file.display()))?;
        }
        Ok(())
    }
}

impl From<Bars> for Chart {
    fn from(bars: Bars) -> Self {
        Self::Bars(bars)
    }
}

impl From<Lines> for Chart {
    fn from(lines: Lines) -> Self {
        Self::Lines(Box::new(lines))
    }
}

impl From<Panels> for Chart {
    fn from(panels: Panels) -> Self {
        Self::Panels(panels)
    }
}
