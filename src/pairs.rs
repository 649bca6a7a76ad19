//! Header maps as the ABI serializes them: a count, the sizes, then the bytes, each NUL-terminated.

use alloc::vec::Vec;

use crate::request::Header;

/// A map without headers.
pub(crate) const EMPTY: &[u8] = &[0, 0, 0, 0];

/// Serializes headers for the host.
pub(crate) fn serialize<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])> + Clone) -> Vec<u8> {
    let (mut count, mut data) = (0_usize, 0_usize);
    for (name, value) in headers.clone() {
        count = count.saturating_add(1);
        // Each has a NUL behind it.
        data = data.saturating_add(name.len()).saturating_add(value.len());
        data = data.saturating_add(2);
    }
    let sizes = count.saturating_mul(8).saturating_add(4);
    let mut bytes = Vec::with_capacity(data.saturating_add(sizes));
    bytes.resize(sizes, 0);
    // Written where they belong: to append four bytes is a call out of the module.
    let mut places = bytes.as_chunks_mut::<4>().0.iter_mut();
    let mut put = |size: usize| {
        if let Some(place) = places.next() {
            *place = length(size);
        }
    };
    put(count);
    for (name, value) in headers.clone() {
        put(name.len());
        put(value.len());
    }
    for (name, value) in headers {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(value);
        bytes.push(0);
    }
    bytes
}

/// Reads what the host serialized; stops at the first thing that does not fit.
pub(crate) fn parse(bytes: &[u8]) -> Vec<(&[u8], &[u8])> {
    let (sizes, mut rest) = split(bytes);
    let mut headers = Vec::with_capacity(sizes.len());
    for size in sizes {
        let Some((name, value, behind)) = take(*size, rest) else {
            break;
        };
        headers.push((name, value));
        rest = behind;
    }
    headers
}

/// Looks a header up where it lies.
///
/// It runs for every name on the way of every request: most names differ in length already, and
/// nothing but the lengths is read of them. What lies beyond the end of a map that was cut short is
/// not there; sums may wrap, for every read is held to the map's bytes.
pub(crate) fn find<'a>(bytes: &'a [u8], wanted: &[u8]) -> Header<'a> {
    let (sizes, data) = split(bytes);
    let (mut at, mut found) = (0_usize, Header::Missing);
    for size in sizes {
        let [name_size, value_size] = lengths(*size);
        // A NUL lies behind the name, and another one behind the value.
        let start = at.wrapping_add(name_size).wrapping_add(1);
        let end = start.wrapping_add(value_size);
        if name_size == wanted.len() && has(data, at, wanted) {
            let Some(value) = data.get(start..end).filter(|_| end < data.len()) else {
                break;
            };
            if !matches!(found, Header::Missing) {
                return Header::Repeated;
            }
            found = Header::One(value);
        }
        at = end.wrapping_add(1);
    }
    found
}

/// Whether `name` stands at `at`. (The standard comparison is three calls deep.)
#[inline(always)]
fn has(data: &[u8], at: usize, name: &[u8]) -> bool {
    data.get(at..).is_some_and(|rest| {
        rest.len() >= name.len() && rest.iter().zip(name).all(|(own, wanted)| own == wanted)
    })
}

/// The sizes of a map, each a name's and a value's, and the bytes behind them.
fn split(bytes: &[u8]) -> (&[[u8; 8]], &[u8]) {
    let Some((count, rest)) = bytes.split_first_chunk::<4>() else {
        return (&[], &[]);
    };
    let told = usize::try_from(u32::from_le_bytes(*count))
        .ok()
        .and_then(|count| count.checked_mul(8));
    let Some((sizes, data)) = told.and_then(|size| rest.split_at_checked(size)) else {
        return (&[], &[]);
    };
    (sizes.as_chunks().0, data)
}

/// A name, a value, and what lies behind them.
fn take(size: [u8; 8], bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let [name_size, value_size] = lengths(size);
    let (name, rest) = bytes.split_at_checked(name_size)?;
    let (value, rest) = rest.get(1..)?.split_at_checked(value_size)?;
    Some((name, value, rest.get(1..)?))
}

#[inline(always)]
fn lengths(size: [u8; 8]) -> [usize; 2] {
    let [a, b, c, d, e, f, g, h] = size;
    let name = u32::from_le_bytes([a, b, c, d]);
    let value = u32::from_le_bytes([e, f, g, h]);
    [
        usize::try_from(name).unwrap_or(usize::MAX),
        usize::try_from(value).unwrap_or(usize::MAX),
    ]
}

fn length(size: usize) -> [u8; 4] {
    u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_without_headers_is_just_its_count() {
        assert_eq!(serialize([].into_iter()), EMPTY);
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let headers: [(&str, &[u8]); 3] = [(":path", b"/"), ("k", b""), ("x", &[0xFF, 0, b'a'])];

        let bytes = serialize(headers.into_iter());

        let read = parse(&bytes);
        assert_eq!(read.len(), 3);
        assert_eq!(read[2], (&b"x"[..], &[0xFF, 0, b'a'][..]));
        assert_eq!(bytes.len(), 45);
    }

    #[test]
    fn finds_a_header_that_is_there_once() {
        let headers: [(&str, &[u8]); 5] = [
            ("k", b"1"),
            ("xx", b""),
            ("l", b"2"),
            ("k", b"3"),
            ("kk", b"4"),
        ];
        let bytes = serialize(headers.into_iter());

        assert_eq!(find(&bytes, b"l"), Header::One(b"2"));
        assert_eq!(find(&bytes, b"xx"), Header::One(b""));
        assert_eq!(find(&bytes, b"k"), Header::Repeated);
        assert_eq!(find(&bytes, b"m"), Header::Missing);
        assert_eq!(find(&bytes, b""), Header::Missing);
        assert_eq!(find(EMPTY, b"k"), Header::Missing);
    }

    #[test]
    fn survives_a_map_cut_short_anywhere() {
        let bytes = serialize([("name", &b"value"[..]), ("k", b"v")].into_iter());

        for size in 0..bytes.len() {
            assert!(parse(&bytes[..size]).len() < 2);
            assert_ne!(find(&bytes[..size], b"k"), Header::One(b"v"));
        }
        assert!(parse(&[0xFF; 16]).is_empty());
        assert_eq!(find(&[0xFF; 16], &[0xFF]), Header::Missing);
    }
}
