//! Header maps: ordered, with repeated names, values of any bytes; and how they cross the border.

use std::fmt;

/// Headers in order; names are lower case.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Headers(Vec<(String, Vec<u8>)>);

impl Headers {
    /// No headers.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// These, and one more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.add(name, value);
        self
    }

    /// Appends a header.
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.0
            .push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
    }

    /// Leaves this header with this one value.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.remove(name);
        self.add(name, value);
    }

    /// Removes every header of this name.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
    }

    /// The first value of a header.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
    }

    /// The first value as text; what is no UTF-8 is replaced.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        self.first(name)
            .map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// All values of a header, in order.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .iter()
            .filter(move |(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
    }

    /// All values of a header with commas between, as `request.headers.<name>` gives them.
    #[must_use]
    pub fn joined(&self, name: &str) -> Option<Vec<u8>> {
        let values: Vec<&[u8]> = self.values(name).collect();
        (!values.is_empty()).then(|| values.join(&b","[..]))
    }

    /// Every name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As the ABI hands header maps over: a count, the sizes, then names and values, each with a
    /// NUL behind it.
    pub(crate) fn to_pairs(&self) -> Vec<u8> {
        let mut bytes = size(self.0.len()).to_vec();
        for (name, value) in &self.0 {
            bytes.extend(size(name.len()));
            bytes.extend(size(value.len()));
        }
        for (name, value) in &self.0 {
            bytes.extend(name.as_bytes());
            bytes.push(0);
            bytes.extend(value);
            bytes.push(0);
        }
        bytes
    }

    /// Reads what the module hands over; `None` where it is cut short.
    pub(crate) fn from_pairs(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::new());
        }
        let (count, rest) = take_size(bytes)?;
        let (mut sizes, mut data) = rest.split_at_checked(count.checked_mul(8)?)?;
        let mut headers = Self::new();
        for _ in 0..count {
            let (name_size, more) = take_size(sizes)?;
            let (value_size, more) = take_size(more)?;
            sizes = more;
            let (name, more) = take_text(data, name_size)?;
            let (value, more) = take_text(more, value_size)?;
            data = more;
            headers.add(std::str::from_utf8(name).ok()?, value);
        }
        Some(headers)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(
                self.iter()
                    .map(|(name, value)| format!("{name}: {}", value.escape_ascii())),
            )
            .finish()
    }
}

fn size(size: usize) -> [u8; 4] {
    u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes()
}

fn take_size(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_le_bytes(*size)).ok()?, rest))
}

fn take_text(bytes: &[u8], size: usize) -> Option<(&[u8], &[u8])> {
    let (text, rest) = bytes.split_at_checked(size)?;
    Some((text, rest.strip_prefix(&[0])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_cross_the_border_and_back() {
        let headers = Headers::new()
            .with(":path", "/")
            .with("X-K", b"\xff\0")
            .with("x-k", "");

        let back = Headers::from_pairs(&headers.to_pairs());

        assert_eq!(back.as_ref(), Some(&headers));
        assert_eq!(headers.first("x-k"), Some(&b"\xff\0"[..]));
        assert_eq!(headers.joined("x-k"), Some(b"\xff\0,".to_vec()));
        assert_eq!(
            Headers::new().with("a", "b").to_pairs(),
            b"\x01\0\0\0\x01\0\0\0\x01\0\0\0a\0b\0"
        );
    }

    #[test]
    fn a_map_cut_short_is_no_map() {
        let bytes = Headers::new().with("name", "value").to_pairs();

        for size in 1..bytes.len() {
            assert_eq!(Headers::from_pairs(&bytes[..size]), None);
        }
    }
}
