//! A header map is read within its bytes, and as it was written.

#[path = "../../../src/pairs.rs"]
mod pairs;

use crate::hold;
use crate::request::Header;

/// Reads the bytes as a header map.
pub fn hold(bytes: &[u8]) {
    let read = pairs::parse(bytes);

    // Each pair has two lengths and two NULs.
    hold!(
        read.len() * 10 <= bytes.len(),
        "{} pairs out of {} bytes",
        read.len(),
        bytes.len()
    );
    // Looked up where it lies, a header is the one that was read.
    for (name, value) in &read {
        let times = read.iter().filter(|(own, _)| own == name).count();
        let expected = match times {
            1 => Header::One(value),
            _ => Header::Repeated,
        };
        let found = pairs::find(bytes, name);
        hold!(
            found == expected,
            "{name:?} is there {times} times, and is found as {found:?}"
        );
    }
    // The filter writes names that are text.
    let texts = read.iter();
    let texts: Option<Vec<(&str, &[u8])>> = texts
        .map(|(name, value)| Some((std::str::from_utf8(name).ok()?, *value)))
        .collect();
    let Some(texts) = texts else {
        return;
    };
    let written = pairs::serialize(texts.into_iter());
    hold!(
        pairs::parse(&written) == read,
        "{read:?} is written as {written:?}"
    );
    hold!(
        !read.is_empty() || written == pairs::EMPTY,
        "no pair is written as {written:?}"
    );
}
