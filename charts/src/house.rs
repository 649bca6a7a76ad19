//! Colours, fonts, sizes; the canvas, and how it becomes a PNG.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

/// The width of every chart in pixels: that of a README on its page.
pub const WIDTH: f64 = 800.0;

/// No chart is higher, in pixels: a person sees it without scrolling.
pub const HEIGHT_MAX: f64 = 1400.0;

/// Pixels of a PNG for one of the SVG: text stays sharp on a fine screen.
pub const PNG_SCALE: f64 = 2.0;

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Text, axes and what is to be read first.
pub(crate) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
/// Text that explains.
pub(crate) const SOFT: RGBColor = RGBColor(0x59, 0x59, 0x59);
/// Lines that only guide the eye.
pub(crate) const GRID: RGBColor = RGBColor(0xe3, 0xe3, 0xe3);
/// Stretches of an axis that are pointed out.
pub(crate) const SHADE: RGBColor = RGBColor(0xf0, 0xee, 0xe6);
/// What others do, for comparison.
pub(crate) const OTHERS: RGBColor = RGBColor(0xa6, 0xa6, 0xa6);
/// What this project does.
pub(crate) const OURS: RGBColor = PALETTE[0];
/// What must not be crossed.
pub(crate) const LIMIT: RGBColor = PALETTE[1];

/// The colours of Okabe and Ito, which people with any kind of colour vision tell apart; without
/// the yellow, which is too light on white. Neighbours differ in lightness as well.
pub(crate) const PALETTE: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x22, 0x22, 0x22),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xe6, 0x9f, 0x00),
];

/// Type sizes in pixels.
pub(crate) const TITLE: f64 = 18.0;
pub(crate) const BODY: f64 = 13.5;
pub(crate) const SMALL: f64 = 12.0;

/// The space around everything, in pixels.
pub(crate) const MARGIN: f64 = 16.0;

/// How text looks.
#[derive(Clone, Copy)]
pub(crate) struct Type {
    size: f64,
    bold: bool,
    color: RGBColor,
    horizontal: HPos,
    vertical: VPos,
}

impl Type {
    pub(crate) const fn new(size: f64, color: RGBColor) -> Self {
        Self {
            size,
            bold: false,
            color,
            horizontal: HPos::Left,
            vertical: VPos::Center,
        }
    }

    pub(crate) const fn bold(mut self) -> Self {
        self.bold = true;
        self
    }

    pub(crate) const fn right(mut self) -> Self {
        self.horizontal = HPos::Right;
        self
    }

    pub(crate) const fn center(mut self) -> Self {
        self.horizontal = HPos::Center;
        self
    }

    /// How wide a text comes out, in pixels.
    pub(crate) fn width(&self, text: &str) -> Result<f64> {
        let (width, _) = self.font().box_size(text)?;
        Ok(f64::from(width) * MEASURED / FINE)
    }

    /// Breaks a text into lines that are no wider than `width`.
    pub(crate) fn lines(&self, text: &str, width: f64) -> Result<Vec<String>> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            let longer = lines.last().map(|line| format!("{line} {word}"));
            match (longer, lines.last_mut()) {
                (Some(longer), Some(line)) if self.width(&longer)? <= width => *line = longer,
                _ => lines.push(word.to_owned()),
            }
        }
        Ok(lines)
    }

    fn font(&self) -> FontDesc<'static> {
        let style = if self.bold {
            FontStyle::Bold
        } else {
            FontStyle::Normal
        };
        FontDesc::new(FontFamily::Name(FAMILY), self.size * EM * FINE, style)
    }
}

/// Writes a text beside a point, in pixels.
pub(crate) fn write(area: &Area<'_>, text: &str, at: (f64, f64), kind: Type) -> Result<()> {
    let style = kind
        .font()
        .color(&kind.color)
        .pos(Pos::new(kind.horizontal, kind.vertical));
    area.draw(&Text::new(text.to_owned(), place(at), style))?;
    Ok(())
}

/// Draws a straight line, in pixels.
pub(crate) fn line(
    area: &Area<'_>,
    from: (f64, f64),
    to: (f64, f64),
    color: RGBColor,
    width: f64,
) -> Result<()> {
    area.draw(&PathElement::new(
        vec![place(from), place(to)],
        color.stroke_width(thick(width)),
    ))?;
    Ok(())
}

/// Draws a line in dashes along points, in pixels.
pub(crate) fn dashes(
    area: &Area<'_>,
    points: &[(f64, f64)],
    color: RGBColor,
    width: f64,
) -> Result<()> {
    let points: Vec<(i32, i32)> = points.iter().map(|point| place(*point)).collect();
    let style = color.stroke_width(thick(width));
    area.draw(&DashedPathElement::new(
        points,
        thick(5.0),
        thick(4.0),
        style,
    ))?;
    Ok(())
}

/// Fills a rectangle, in pixels.
pub(crate) fn fill(
    area: &Area<'_>,
    from: (f64, f64),
    to: (f64, f64),
    color: RGBColor,
) -> Result<()> {
    area.draw(&Rectangle::new([place(from), place(to)], color.filled()))?;
    Ok(())
}

/// A point in pixels as the canvas counts.
pub(crate) fn place((x, y): (f64, f64)) -> (i32, i32) {
    ((x * FINE).round() as i32, (y * FINE).round() as i32)
}

pub(crate) fn thick(width: f64) -> u32 {
    (width * FINE).round() as u32
}

/// What stands above a chart and below it.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    title: Vec<String>,
    subtitle: Vec<String>,
    note: Vec<String>,
}

impl Words {
    pub(crate) fn new(title: &str, subtitle: &str, note: &str) -> Result<Self> {
        fonts()?;
        let width = 2.0_f64.mul_add(-MARGIN, WIDTH);
        Ok(Self {
            title: Type::new(TITLE, INK).bold().lines(title, width)?,
            subtitle: Type::new(BODY, SOFT).lines(subtitle, width)?,
            note: Type::new(SMALL, SOFT).lines(note, width)?,
        })
    }

    /// Where the chart itself begins.
    pub(crate) fn top(&self) -> f64 {
        let title = self.title.len() as f64 * TITLE * LEADING;
        let subtitle = self.subtitle.len() as f64 * BODY * LEADING;
        MARGIN + title + subtitle + 6.0
    }

    /// How much is needed below the chart.
    pub(crate) fn bottom(&self) -> f64 {
        let note = self.note.len() as f64 * SMALL * LEADING;
        MARGIN.mul_add(0.75, note)
    }

    /// Draws a picture of so many pixels in height: the words, and what is between them.
    pub(crate) fn draw(
        &self,
        height: f64,
        chart: impl FnOnce(&Area<'_>) -> Result<()>,
    ) -> Result<String> {
        let mut text = String::new();
        {
            let size = (thick(WIDTH), thick(height));
            let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
            area.fill(&WHITE)?;
            let y = put(&area, MARGIN, &self.title, Type::new(TITLE, INK).bold())?;
            put(&area, y, &self.subtitle, Type::new(BODY, SOFT))?;
            let y = height - self.bottom() + 6.0;
            put(&area, y, &self.note, Type::new(SMALL, SOFT))?;
            chart(&area)?;
            area.present()?;
        }
        Ok(self.told_to_all(&text, height))
    }

    /// The canvas counts in fine steps; the file is to be shown in pixels, and to have a name for
    /// those who can't see it.
    fn told_to_all(&self, svg: &str, height: f64) -> String {
        let canvas = format!(
            "<svg width=\"{}\" height=\"{}\"",
            thick(WIDTH),
            thick(height)
        );
        let shown = format!("<svg role=\"img\" width=\"{WIDTH}\" height=\"{height}\"");
        let svg = svg.replacen(&canvas, &shown, 1);
        let words: Vec<&str> = self
            .title
            .iter()
            .chain(&self.subtitle)
            .map(String::as_str)
            .collect();
        let escaped = words.join(" ").replace('&', "&amp;").replace('<', "&lt;");
        svg.replacen('>', &format!(">\n<title>{escaped}</title>"), 1)
    }
}

/// Writes lines at the left margin from `y` on; returns where the next one would begin.
fn put(area: &Area<'_>, mut y: f64, lines: &[String], kind: Type) -> Result<f64> {
    for line in lines {
        write(area, line, (MARGIN, kind.size.mul_add(0.5, y)), kind)?;
        y += kind.size * LEADING;
    }
    Ok(y)
}

/// Renders a picture, [`PNG_SCALE`] times as large as it says.
pub(crate) fn render(svg: &str) -> Result<Vec<u8>> {
    static FONTS: OnceLock<Arc<fontdb::Database>> = OnceLock::new();
    let fontdb = FONTS.get_or_init(|| {
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(dejavu::sans::regular().to_vec());
        fonts.load_font_data(dejavu::sans::bold().to_vec());
        Arc::new(fonts)
    });
    let options = Options {
        fontdb: Arc::clone(fontdb),
        ..Options::default()
    };
    let tree = Tree::from_str(svg, &options)?;
    let size = tree.size().to_int_size();
    let scaled = |pixels: u32| (f64::from(pixels) * PNG_SCALE) as u32;
    let mut pixels = Pixmap::new(scaled(size.width()), scaled(size.height()))
        .context("a picture without a size")?;
    let scale = PNG_SCALE as f32;
    resvg::render(
        &tree,
        Transform::from_scale(scale, scale),
        &mut pixels.as_mut(),
    );
    Ok(pixels.encode_png()?)
}

/// Makes the font known to plotters, which measures by it.
fn fonts() -> Result<()> {
    let regular = register_font(FAMILY, FontStyle::Normal, dejavu::sans::regular());
    let bold = register_font(FAMILY, FontStyle::Bold, dejavu::sans::bold());
    regular
        .and(bold)
        .map_err(|_| anyhow!("the font DejaVu Sans can't be read"))
}

/// A viewer without the first has a font as wide as that.
const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";

/// Plotters draws at whole numbers only: so many of them are a pixel.
const FINE: f64 = 8.0;

/// Plotters divides a font's size by that before it writes it down.
const EM: f64 = 1.24;

/// It measures by the height of DejaVu's lines, in ems, where it writes by [`EM`].
const MEASURED: f64 = 1.164 / EM;

/// From one line to the next, in sizes of the type.
const LEADING: f64 = 1.4;

#[cfg(test)]
mod tests {
    use resvg::usvg::{Group, Node};

    use super::*;

    #[test]
    fn text_is_as_wide_as_it_was_measured() {
        fonts().unwrap();
        let kind = Type::new(20.0, INK);
        let text = "Backend calls per 1,000 requests";
        let words = Words::new("", "", "").unwrap();
        let svg = words.draw(80.0, |area| write(area, text, (10.0, 40.0), kind));
        let options = Options {
            fontdb: {
                let mut fonts = fontdb::Database::new();
                fonts.load_font_data(dejavu::sans::regular().to_vec());
                Arc::new(fonts)
            },
            ..Options::default()
        };
        let tree = Tree::from_str(&svg.unwrap(), &options).unwrap();
        let drawn = texts(tree.root())[0];
        let measured = kind.width(text).unwrap();
        let off = (drawn - measured).abs();
        assert!(off < 4.0, "drawn {drawn}, measured {measured}");
    }

    #[test]
    fn text_breaks_between_words() {
        fonts().unwrap();
        let kind = Type::new(10.0, INK);
        let lines = kind.lines("one two three four", 60.0).unwrap();
        assert_eq!(lines, ["one two", "three four"]);
        assert!(kind.lines("", 60.0).unwrap().is_empty());
    }

    fn texts(group: &Group) -> Vec<f64> {
        let widths = |node: &Node| match node {
            Node::Group(group) => texts(group),
            Node::Text(text) => vec![f64::from(text.abs_bounding_box().width())],
            _ => Vec::new(),
        };
        group.children().iter().flat_map(widths).collect()
    }
}
