//! Round numbers for an axis, numbers as text.

/// Round places that cover `from..=to`: at most about `wanted` of them, the first at or below
/// `from`, the last at or above `to`.
pub(crate) fn linear(from: f64, to: f64, wanted: usize) -> Vec<f64> {
    let span = if to > from { to - from } else { 1.0 };
    let rough = span / wanted.max(1) as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(10.0 * power);
    let first = (from / step + 1e-9).floor() as i64;
    let last = ((from + span) / step - 1e-9).ceil() as i64;
    (first..=last).map(|n| n as f64 * step).collect()
}

/// The powers of ten that cover `from..=to`, both positive; with 2 and 5 between where that is
/// short.
pub(crate) fn logarithmic(from: f64, to: f64) -> Vec<f64> {
    let first = (from.log10() + 1e-9).floor() as i32;
    let last = ((to.log10() - 1e-9).ceil() as i32).max(first + 1);
    let between: &[f64] = if last - first <= 2 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    let mut ticks: Vec<f64> = (first..last)
        .flat_map(|n| between.iter().map(move |factor| factor * 10_f64.powi(n)))
        .collect();
    ticks.push(10_f64.powi(last));
    // The frame ends at the first tick beyond the data.
    while ticks.len() > 2 && ticks[1] <= from * 1.000_001 {
        ticks.remove(0);
    }
    while ticks.len() > 2 && ticks[ticks.len() - 2] >= to * 0.999_999 {
        ticks.pop();
    }
    ticks
}

/// A number as people read it: three digits that count, thousands in groups, millions as `M`.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    let decimals = match size {
        _ if size >= 99.95 || size == 0.0 => 0,
        _ if size >= 9.995 => 1,
        _ if size >= 0.995 => 2,
        _ if size >= 0.0995 => 3,
        _ => 4,
    };
    let text = match size {
        _ if size >= 999_500.0 => return format!("{}M", number(value / 1e6)),
        _ => format!("{value:.decimals$}"),
    };
    let text = match text.split_once('.') {
        Some(_) => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        None => grouped(&text),
    };
    match text.as_str() {
        "-0" => "0".to_owned(),
        _ => text.replace('-', "\u{2212}"),
    }
}

fn grouped(digits: &str) -> String {
    let (sign, digits) = digits
        .strip_prefix('-')
        .map_or(("", digits), |rest| ("-", rest));
    let mut text = sign.to_owned();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_round_places_around_its_numbers() {
        assert_eq!(linear(0.0, 83.0, 5), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(linear(-0.3, 1.0, 4), [-0.5, 0.0, 0.5, 1.0]);
        assert_eq!(linear(0.0, 0.0, 5).len(), 6);
        assert_eq!(
            linear(0.0, 0.6, 3),
            [0.0, 0.2, 0.4, 0.600_000_000_000_000_1]
        );
    }

    #[test]
    fn a_logarithmic_axis_has_powers_of_ten() {
        assert_eq!(
            logarithmic(3.0, 4000.0),
            [1.0, 10.0, 100.0, 1000.0, 10000.0]
        );
        assert_eq!(logarithmic(20.0, 90.0), [20.0, 50.0, 100.0]);
        assert_eq!(
            logarithmic(10.0, 1000.0),
            [10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]
        );
    }

    #[test]
    fn numbers_read_the_way_people_write_them() {
        let cases = [
            (0.0, "0"),
            (-0.000_01, "0"),
            (0.05, "0.05"),
            (1.0, "1"),
            (9.413, "9.41"),
            (82.04, "82"),
            (82.07, "82.1"),
            (-3.5, "\u{2212}3.5"),
            (1000.0, "1,000"),
            (123_456.0, "123,456"),
            (2_000_000.0, "2M"),
            (999_999.0, "1M"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text, "{value}");
        }
    }
}
