//! Text to `Config`: every problem at once, or a configuration that nobody has to check again.

use super::Config;
use super::build::Builder;
use super::check::{At, check};
use super::keys::{Kind, config::CONFIG};
use super::problem::{ProblemKind, Problems};
use super::protobuf;
use super::value::Value;

/// Reads a plugin configuration: JSON text, or a serialized `google.protobuf.Struct`.
///
/// # Errors
/// All that is wrong with it, in the order of its text.
pub fn parse(bytes: &[u8]) -> Result<Config, Problems> {
    let value = read(bytes)?;
    let mut problems = Problems::default();
    check(&value, &Kind::Table(&CONFIG), &At::TOP, &mut problems);
    let mut builder = Builder::new(problems);
    let config = builder.config(&value, fingerprint(bytes));
    builder.finish(config)
}

/// Reads the tree of values, whichever way it is written.
///
/// # Errors
/// That there is nothing, or that it is neither.
pub fn read(bytes: &[u8]) -> Result<Value, Problems> {
    if bytes.trim_ascii().is_empty() {
        return Err(Problems::of_the_whole(ProblemKind::Empty));
    }
    // A Struct's first byte, 0x0a, is also a line break, which JSON may begin with.
    Value::from_json(bytes).or_else(|error| {
        protobuf::decode_struct(bytes).map_err(|_| {
            let error = error.text();
            Problems::of_the_whole(ProblemKind::Unreadable { error })
        })
    })
}

/// FNV-1a: tells two texts apart in a log, no more.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
