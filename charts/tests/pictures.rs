//! A chart says in words and numbers what it shows, and its PNG is a picture of that.

use charts::{Axis, Bar, Bars, Chart, Lines, Panels, Series};

#[test]
fn bars_carry_their_names_numbers_and_lines() {
    let svg = bars().svg().unwrap();
    for text in [
        "CPU per request & chain",
        "above no filter, in µs",
        "ext_authz over HTTP",
        "82.1 µs",
        "leased",
        "9.4",
        "what ext_authz adds",
        "at most, by the target",
        "2 cores, medians of 9 rounds",
    ] {
        assert!(svg.contains(&text.replace('&', "&amp;")), "{text}\n{svg}");
    }
}

#[test]
fn panels_that_name_their_own_series_name_them_twice() {
    let (x, y) = (Axis::new("s"), Axis::new("a second"));
    let points = || (0..9).map(|x| (f64::from(x), f64::from(x)));
    let panel = |title: &str| {
        Lines::new(title, x.clone(), y.clone()).series(Series::new("denied", points()))
    };
    let grid = Panels::new("Both", 2)
        .panel(panel("here"))
        .panel(panel("there"));

    let svg = Chart::from(grid.each_named()).svg().unwrap();

    assert_eq!(svg.matches("denied").count(), 2, "{svg}");
}

#[test]
fn lines_carry_their_axes_and_names() {
    let svg = lines().svg().unwrap();
    for text in [
        "Backend calls",
        "max_units",
        "calls per 1,000 requests",
        "ttl 100 ms",
        "ttl 1 s",
        "1,000%",
        "target",
        "backend dead",
        "cut",
    ] {
        assert!(svg.contains(text), "{text}\n{svg}");
    }
}

#[test]
fn a_line_has_the_colour_of_its_name_in_every_panel() {
    let svg = panels().svg().unwrap();
    for text in ["seen", "requests/s", "p99, ms", "allowed", "denied"] {
        assert!(svg.contains(text), "{text}\n{svg}");
    }
    // `denied` is the second name, and the only line of the second panel.
    let second = "stroke=\"#D55E00\"";
    assert_eq!(svg.matches(second).count(), 3, "{svg}");
}

#[test]
fn a_png_has_twice_the_size_of_its_svg_and_is_not_blank() {
    for (chart, ink) in [(bars(), 0.03), (lines(), 0.01), (panels(), 0.01)] {
        let (width, height) = size_of(&chart.svg().unwrap());
        let png = chart.png().unwrap();
        let pixels = resvg::tiny_skia::Pixmap::decode_png(&png).unwrap();
        assert_eq!((pixels.width(), pixels.height()), (2 * width, 2 * height));
        let dark = pixels.pixels().iter().filter(|pixel| pixel.green() < 0xd0);
        let share = dark.count() as f64 / f64::from(pixels.width() * pixels.height());
        assert!(share > ink, "only {share} of the picture is ink");
        assert!(share < 0.3, "{share} of the picture is ink");
    }
}

#[test]
fn text_is_drawn_in_the_png() {
    let words = |title: &str| {
        let chart = Chart::from(Bars::new(title, "").bar(Bar::new("a", 1.0)));
        chart.png().unwrap()
    };
    assert_ne!(words("one title"), words("six title"));
}

#[test]
fn a_picture_is_the_same_in_every_run() {
    assert_eq!(panels().svg().unwrap(), panels().svg().unwrap());
    assert_eq!(panels().png().unwrap(), panels().png().unwrap());
}

#[test]
fn what_cannot_be_drawn_is_an_error_with_the_charts_title() {
    let none = Chart::from(Bars::new("Nothing", "µs")).svg().unwrap_err();
    assert_eq!(
        format!("{none:#}"),
        "the chart \"Nothing\" can't be drawn: it has no bars"
    );
    let odd = Bars::new("Odd", "µs").bar(Bar::new("a", f64::NAN));
    assert!(Chart::from(odd).svg().is_err());
    let empty = Lines::new("Empty", Axis::new("s"), Axis::new("ms"));
    assert!(Chart::from(empty).svg().is_err());
}

/// For a look with one's own eyes: `CHARTS_OUT=/tmp/charts cargo test -p charts`.
#[test]
fn both_files_are_written() {
    let kept = std::env::var_os("CHARTS_OUT").map(std::path::PathBuf::from);
    let own = std::env::temp_dir().join(format!("charts-{}", std::process::id()));
    let dir = kept.clone().unwrap_or(own);
    bars().write(&dir.join("deep/bars")).unwrap();
    lines().write(&dir.join("deep/lines")).unwrap();
    panels().write(&dir.join("deep/panels")).unwrap();
    let svg = std::fs::read_to_string(dir.join("deep/bars.svg")).unwrap();
    let png = std::fs::read(dir.join("deep/bars.png")).unwrap();
    if kept.is_none() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    assert!(svg.starts_with("<svg"));
    assert!(png.starts_with(b"\x89PNG"));
}

fn size_of(svg: &str) -> (u32, u32) {
    let number = |name: &str| {
        let rest = svg.split_once(&format!(" {name}=\"")).unwrap().1;
        rest.split_once('"').unwrap().0.parse().unwrap()
    };
    (number("width"), number("height"))
}

fn bars() -> Chart {
    Bars::new("CPU per request & chain", "above no filter, in µs")
        .bar(
            Bar::new("ext_authz over HTTP", 82.1)
                .text("82.1 µs")
                .spread(79.0, 86.5),
        )
        .bar(Bar::new("ratelimit over gRPC", 96.4))
        .bar(Bar::new("a filter that does nothing", 1.3))
        .bar(Bar::new("callout", 88.2).ours().target(90.3))
        .bar(Bar::new("leased", 9.4).ours().target(16.4).spread(9.1, 9.9))
        .bar(Bar::new("off", -0.6).ours().target(6.6))
        .reference(82.1, "what ext_authz adds")
        .target_label("at most, by the target")
        .note("cargo xtask bench, 2 cores, medians of 9 rounds; the whiskers are the spread")
        .into()
}

fn lines() -> Chart {
    let curve = |scale: f64| (0..9).map(move |n| (f64::from(1 << n), scale / f64::from(1 << n)));
    Lines::new(
        "Backend calls",
        Axis::new("max_units").logarithmic(),
        Axis::new("calls per 1,000 requests")
            .logarithmic()
            .suffix("%"),
    )
    .subtitle("Larger leases need fewer calls")
    .series(Series::new("ttl 100 ms", curve(900.0)).dots())
    .series(Series::new("ttl 1 s", curve(850.0)).dots())
    .series(Series::new("bound", curve(400.0)).dashed())
    .level(50.0, "target")
    .stretch(20.0, 60.0, "backend dead")
    .moment(100.0, "cut")
    .into()
}

fn panels() -> Chart {
    let wave =
        |high: f64| (0..60).map(move |n| (f64::from(n), high * (1.0 + (f64::from(n) / 9.0).sin())));
    let axes = |unit: &str| (Axis::new("s"), Axis::new(unit).from(0.0));
    let (x, y) = axes("requests/s");
    let first = Lines::new("seen", x, y)
        .series(Series::new("allowed", wave(900.0)))
        .series(Series::new("denied", wave(200.0)));
    let (x, y) = axes("p99, ms");
    let second = Lines::new("delay", x, y).series(Series::new("denied", wave(3.0)));
    Panels::new("Under a flood", 2)
        .panel(first)
        .panel(second)
        .into()
}
