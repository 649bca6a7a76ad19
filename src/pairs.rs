//! Header maps as the ABI serializes them: a count, the sizes, then the bytes, each NUL-terminated.

/// A map without headers.
pub(crate) const EMPTY: &[u8] = &[0, 0, 0, 0];

/// Serializes headers for the host.
pub(crate) fn serialize<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])> + Clone) -> Vec<u8> {
    let size: usize = headers
        .clone()
        .map(|(name, value)| name.len().saturating_add(value.len()).saturating_add(10))
        .fold(4, usize::saturating_add);
    let mut bytes = Vec::with_capacity(size);
    bytes.extend_from_slice(&length(headers.clone().count()));
    for (name, value) in headers.clone() {
        bytes.extend_from_slice(&length(name.len()));
        bytes.extend_from_slice(&length(value.len()));
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
    iter(bytes).collect()
}

/// The same, one after another.
pub(crate) fn iter(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let (count, sizes) = take_length(bytes).unwrap_or_default();
    let data = count.checked_mul(8).and_then(|size| sizes.get(size..));
    let mut rest = (sizes, data.unwrap_or_default());
    // The sizes end where the data begins, which `count` alone says.
    let count = if data.is_some() { count } else { 0 };
    (0..count).map_while(move |_| {
        let (name_size, sizes) = take_length(rest.0)?;
        let (value_size, sizes) = take_length(sizes)?;
        let (name, data) = take_text(rest.1, name_size)?;
        let (value, data) = take_text(data, value_size)?;
        rest = (sizes, data);
        Some((name, value))
    })
}

fn length(size: usize) -> [u8; 4] {
    u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes()
}

fn take_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_le_bytes(*length)).ok()?, rest))
}

fn take_text(bytes: &[u8], size: usize) -> Option<(&[u8], &[u8])> {
    let (text, rest) = bytes.split_at_checked(size)?;
    Some((text, rest.get(1..)?))
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
    fn survives_a_map_cut_short_anywhere() {
        let bytes = serialize([("name", &b"value"[..]), ("k", b"v")].into_iter());

        for size in 0..bytes.len() {
            assert!(parse(&bytes[..size]).len() < 2);
        }
        assert!(parse(&[0xFF; 16]).is_empty());
    }
}
