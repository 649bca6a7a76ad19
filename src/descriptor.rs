//! Who is asking and for what: the descriptor of a request, its key, and its cost.
//!
//! A descriptor is held as one run of bytes: the policy's index, then each entry's length and
//! value in the policy's order. That run *is* the key, so a request that is answered from a lease
//! or a cache copies each value once and allocates once; the names stay in the policy.

use alloc::borrow::{Borrow, Cow};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::config::{Cost, EntrySpec, Policy, PropertyType, Source};
use crate::request::Request;
use crate::text;

/// What a request is checked by: the entries that have a value, in the policy's order.
#[derive(Clone, Eq, PartialEq)]
pub struct Descriptor(Vec<u8>);

/// The canonical bytes of a descriptor under its policy: equal keys are the same quota.
///
/// It is local to this configuration, holds what the client sent, and is never logged: its `Debug`
/// is a hash. [`Borrow`] lets a table be searched with [`Descriptor::as_bytes`].
#[derive(Clone, Eq, Ord, PartialEq, PartialOrd)]
pub struct Key(Box<[u8]>);

/// An entry that the policy needs has no value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MissingEntry {
    /// Its place in the policy's descriptor.
    pub index: usize,
}

/// Reads the descriptor that `policy` wants off `request`.
///
/// # Errors
/// The first entry without a value that is neither optional nor has a default.
pub fn describe(policy: &Policy, request: &dyn Request) -> Result<Descriptor, MissingEntry> {
    describe_in(Vec::with_capacity(TYPICAL_KEY_BYTES), policy, request)
}

/// The same in memory that was another descriptor's ([`Descriptor::into_memory`]).
///
/// # Errors
/// As [`describe`].
pub fn describe_in(
    memory: Vec<u8>,
    policy: &Policy,
    request: &dyn Request,
) -> Result<Descriptor, MissingEntry> {
    let mut bytes = memory;
    bytes.clear();
    push_number(&mut bytes, policy.index);
    for (index, spec) in policy.descriptor.iter().enumerate() {
        let found = value_of(&spec.source, request).filter(|value| !value.is_empty());
        match (&found, &spec.default) {
            (Some(value), _) => push_value(&mut bytes, value),
            (None, Some(default)) if !default.is_empty() => {
                push_value(&mut bytes, default.as_bytes());
            }
            (None, _) if spec.optional => bytes.push(ABSENT),
            (None, _) => return Err(MissingEntry { index }),
        }
    }
    Ok(Descriptor(bytes))
}

/// What `request` costs under `policy`, in units; `None` when its cost header says nothing that
/// counts and there is no default, which is the same as a missing entry.
#[must_use]
pub fn cost(policy: &Policy, request: &dyn Request) -> Option<u64> {
    match &policy.cost {
        Cost::Fixed(units) => Some(*units),
        Cost::Header { name, default, max } => request
            .value(name)
            .and_then(text::parse_decimal)
            .or(*default)
            .map(|units| units.min(*max)),
    }
}

/// Whether `request` is a CORS preflight: it carries no credentials by definition, so there is
/// nobody to check.
#[must_use]
pub fn is_preflight(request: &dyn Request) -> bool {
    request.says(":method", "OPTIONS")
        && request.value("origin").is_some()
        && request.value("access-control-request-method").is_some()
}

impl Descriptor {
    /// The key's bytes, to search a table with.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key, without another copy of the values where the memory fits.
    #[must_use]
    pub fn into_key(self) -> Key {
        Key(self.0.into_boxed_slice())
    }

    /// The memory, for another descriptor.
    #[must_use]
    pub fn into_memory(self) -> Vec<u8> {
        self.0
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> Key {
        Key(self.0.as_slice().into())
    }

    /// Names and values; `policy` is the one that it was described by.
    #[must_use]
    pub fn entries<'a>(&'a self, policy: &'a Policy) -> Entries<'a> {
        Entries::new(policy, &self.0)
    }

    /// As [`Key::hash64`].
    #[must_use]
    pub fn hash64(&self, seed: u64) -> u64 {
        hash64(&self.0, seed)
    }

    /// A hash that is the same in every worker and under the next configuration: the policy's name
    /// is in it, and not its index, which a push may change.
    #[must_use]
    pub fn lasting_hash64(&self, policy: &Policy) -> u64 {
        let values = take_number(&self.0).map_or(&[][..], |(_, rest)| rest);
        hash64(values, hash64(policy.name.as_bytes(), 0))
    }
}

impl Key {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Names and values of the descriptor that it was made from; `policy` is that descriptor's.
    ///
    /// Whoever asks again later (a lease's renewal) needs no more than the key.
    #[must_use]
    pub fn entries<'a>(&'a self, policy: &'a Policy) -> Entries<'a> {
        Entries::new(policy, &self.0)
    }

    /// A hash that nobody who does not know `seed` can aim: for slots that are shared by several
    /// keys, and for debug logs.
    #[must_use]
    pub fn hash64(&self, seed: u64) -> u64 {
        hash64(&self.0, seed)
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Descriptor({:016x})", self.hash64(0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Key({:016x})", self.hash64(0))
    }
}

/// The entries that have a value, as name and value, in the policy's order.
#[derive(Clone)]
pub struct Entries<'a> {
    specs: core::slice::Iter<'a, EntrySpec>,
    rest: &'a [u8],
}

impl<'a> Entries<'a> {
    fn new(policy: &'a Policy, bytes: &'a [u8]) -> Self {
        let rest = take_number(bytes).map_or(&[][..], |(_, rest)| rest);
        Self {
            specs: policy.descriptor.iter(),
            rest,
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let spec = self.specs.next()?;
            let (length_plus_one, rest) = take_number(self.rest)?;
            self.rest = rest;
            let Some(length) = length_plus_one.checked_sub(1) else {
                continue;
            };
            let (value, rest) = self.rest.split_at_checked(length)?;
            self.rest = rest;
            return Some((&spec.name, value));
        }
    }
}

impl fmt::Debug for Entries<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Entries(..)")
    }
}

fn value_of<'a>(source: &'a Source, request: &'a dyn Request) -> Option<Cow<'a, [u8]>> {
    match source {
        Source::ClientIp { trusted_hops: 0 } => {
            let peer = request.property(&["source", "address"])?;
            address(&peer).map(Cow::Owned)
        }
        Source::ClientIp { trusted_hops } => {
            let hops = request.value("x-forwarded-for")?;
            let from_right = usize::try_from(trusted_hops.checked_sub(1)?).ok()?;
            let hop = hops.rsplit(|byte| *byte == b',').nth(from_right)?;
            address(hop.trim_ascii()).map(Cow::Owned)
        }
        Source::Header(name) => request.value(name).map(Cow::Borrowed),
        Source::Property { path, value_type } => property(path, *value_type, request),
        Source::Query(name) => {
            let path = request.value(":path")?;
            parameter(path, name.as_bytes()).map(Cow::Owned)
        }
        Source::RouteName => request.property(&["xds", "route_name"]).map(Cow::Owned),
        Source::Value(value) => Some(Cow::Borrowed(value.as_bytes())),
    }
}

/// The address without its port, in lower case; `None` for what is not an address (a socket's
/// path, `unknown`).
///
/// A port differs with each connection: left on, it would give every connection a quota of its own.
fn address(text: &[u8]) -> Option<Vec<u8>> {
    let host = match text {
        [b'[', inside @ ..] => inside.split(|byte| *byte == b']').next()?,
        _ => {
            let mut parts = text.split(|byte| *byte == b':');
            match (parts.next(), parts.next(), parts.next()) {
                (Some(host), Some(_port), None) => host,
                (_, _, _) => text,
            }
        }
    };
    let mut halves = host.splitn(2, |byte| *byte == b'%');
    let bare = halves.next()?;
    let zone = halves.next().unwrap_or_default();
    let looks_like_one = bare
        .iter()
        .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':'))
        && bare.iter().any(|byte| matches!(byte, b'.' | b':'))
        && zone.iter().all(u8::is_ascii_alphanumeric);
    (looks_like_one && host.len() <= ADDRESS_BYTES_MAX).then(|| host.to_ascii_lowercase())
}

fn property<'a>(
    path: &[String],
    value_type: PropertyType,
    request: &dyn Request,
) -> Option<Cow<'a, [u8]>> {
    // Paths are short; the array spares an allocation on the way of every request.
    let mut elements = [""; TYPICAL_PATH_ELEMENTS];
    let bytes = if path.len() <= TYPICAL_PATH_ELEMENTS {
        for (element, name) in elements.iter_mut().zip(path) {
            *element = name;
        }
        request.property(elements.get(..path.len())?)?
    } else {
        let elements: Vec<&str> = path.iter().map(String::as_str).collect();
        request.property(&elements)?
    };
    match value_type {
        PropertyType::Bool => match bytes.as_slice() {
            [0] => Some(Cow::Borrowed(b"false")),
            [1] => Some(Cow::Borrowed(b"true")),
            _ => None,
        },
        PropertyType::Number => {
            let number = f64::from_le_bytes(bytes.try_into().ok()?);
            number_text(number).map(Cow::Owned)
        }
        PropertyType::String => Some(Cow::Owned(bytes)),
    }
}

/// The shortest decimal text that reads back as `number`; both zeros are `0`.
///
/// `None` for what has none of up to 15 digits and is no whole number below 2^64 either: nobody
/// means such a number as somebody's name, and a rounded one could be two people's. The standard
/// library can print them all, at the price of a tenth of the whole module.
// Both sides of the division are exact, so it rounds as reading the text would.
#[expect(
    clippy::float_arithmetic,
    reason = "the number is text to us, but comes as a float"
)]
#[inline(never)]
fn number_text(number: f64) -> Option<Vec<u8>> {
    let size = number.abs();
    let (mut power, mut decimals) = (1.0_f64, 0_usize);
    let digits = loop {
        let digits = rounded(size * power);
        if digits / power == size && (decimals == 0 || digits <= EXACT_DIGITS_MAX) {
            break digits;
        }
        if digits > EXACT_DIGITS_MAX || decimals == DECIMALS_MAX {
            return None;
        }
        power *= 10.0;
        decimals = decimals.saturating_add(1);
    };
    // A float's way to an integer without a cast: seconds are whole ones, and too many are refused.
    let whole = Duration::try_from_secs_f64(digits).ok()?.as_secs();
    let mut digits = Vec::new();
    text::push_decimal(&mut digits, whole);
    let mut text = Vec::new();
    if number < 0.0 {
        text.push(b'-');
    }
    // At least one digit stands before the point.
    let places = digits.len().max(decimals.saturating_add(1));
    let zeros = places.saturating_sub(digits.len());
    let point = places.saturating_sub(decimals);
    let digits = digits.into_iter();
    for (place, digit) in core::iter::repeat_n(b'0', zeros).chain(digits).enumerate() {
        if place == point {
            text.push(b'.');
        }
        text.push(digit);
    }
    Some(text)
}

/// The whole number next to a size, of two the even one: as doubles are added, those from 2^52 on
/// are whole.
#[expect(clippy::float_arithmetic, reason = "as above")]
fn rounded(size: f64) -> f64 {
    const ONLY_WHOLE: f64 = 4_503_599_627_370_496.0;
    if size < ONLY_WHOLE {
        (size + ONLY_WHOLE) - ONLY_WHOLE
    } else {
        size
    }
}

/// The query parameter `name` of `path`, decoded; `None` where it is not there exactly once.
fn parameter(path: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let query = path.splitn(2, |byte| *byte == b'?').nth(1)?;
    let query = query.split(|byte| *byte == b'#').next()?;
    let mut found = query.split(|byte| *byte == b'&').filter_map(|pair| {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let own = halves.next()?;
        let value = halves.next().unwrap_or_default();
        (text::decode_form(own) == name).then_some(value)
    });
    match (found.next(), found.next()) {
        (Some(value), None) => Some(text::decode_form(value)),
        (_, _) => None,
    }
}

fn push_value(bytes: &mut Vec<u8>, value: &[u8]) {
    push_number(bytes, value.len().saturating_add(1));
    bytes.extend_from_slice(value);
}

/// Seven bits a byte, low ones first; the top bit says that more follow.
fn push_number(bytes: &mut Vec<u8>, number: usize) {
    let mut rest = number;
    loop {
        let [low, ..] = rest.to_le_bytes();
        rest >>= 7;
        if rest == 0 {
            bytes.push(low & 0x7f);
            return;
        }
        bytes.push(low | 0x80);
    }
}

fn take_number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0_usize;
    let mut shift = 0_u32;
    let mut rest = bytes;
    loop {
        let (byte, tail) = rest.split_first()?;
        rest = tail;
        number |= usize::from(*byte & 0x7f).checked_shl(shift)?;
        shift = shift.checked_add(7)?;
        if byte & 0x80 == 0 {
            return Some((number, rest));
        }
    }
}

/// SipHash-1-3 with `seed` as both halves of its key.
///
/// The standard library's is the same function, but promises neither to stay so nor to take a key.
pub(crate) fn hash64(bytes: &[u8], seed: u64) -> u64 {
    let mut state = [
        seed ^ 0x736f_6d65_7073_6575,
        seed ^ 0x646f_7261_6e64_6f6d,
        seed ^ 0x6c79_6765_6e65_7261,
        seed ^ 0x7465_6462_7974_6573,
    ];
    let (words, tail) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    for (slot, byte) in last.iter_mut().zip(tail) {
        *slot = *byte;
    }
    let [length, ..] = bytes.len().to_le_bytes();
    let last = u64::from_le_bytes(last) | u64::from(length).wrapping_shl(56);
    for word in words
        .iter()
        .map(|word| u64::from_le_bytes(*word))
        .chain([last])
    {
        let [_, _, _, v3] = &mut state;
        *v3 ^= word;
        mix(&mut state);
        let [v0, _, _, _] = &mut state;
        *v0 ^= word;
    }
    let [_, _, v2, _] = &mut state;
    *v2 ^= 0xff;
    for _ in 0..3 {
        mix(&mut state);
    }
    let [v0, v1, v2, v3] = state;
    v0 ^ v1 ^ v2 ^ v3
}

#[inline(always)]
const fn mix(state: &mut [u64; 4]) {
    let [v0, v1, v2, v3] = state;
    *v0 = v0.wrapping_add(*v1);
    *v2 = v2.wrapping_add(*v3);
    *v1 = v1.rotate_left(13) ^ *v0;
    *v3 = v3.rotate_left(16) ^ *v2;
    *v0 = v0.rotate_left(32);
    *v2 = v2.wrapping_add(*v1);
    *v0 = v0.wrapping_add(*v3);
    *v1 = v1.rotate_left(17) ^ *v2;
    *v3 = v3.rotate_left(21) ^ *v0;
    *v2 = v2.rotate_left(32);
}

/// In place of a length: an optional entry without a value. Lengths are written plus one.
const ABSENT: u8 = 0;
/// Three entries of ordinary length fit without a second allocation.
const TYPICAL_KEY_BYTES: usize = 64;
/// A claim in a token's payload is five deep.
const TYPICAL_PATH_ELEMENTS: usize = 8;
/// Whole numbers up to this are floats exactly (2^53 is about 9.007e15).
const EXACT_DIGITS_MAX: f64 = 999_999_999_999_999.0;
/// The powers of ten up to this one are floats exactly.
const DECIMALS_MAX: usize = 22;
/// The longest textual IPv6 address with a dotted tail has 45, and a zone has up to 16.
const ADDRESS_BYTES_MAX: usize = 62;

#[cfg(test)]
pub(crate) mod tests;
