//! Checksums in the form that `sha256sum --check` reads.

use crate::blob::sha256;

/// One line for each file, in the order given.
pub(crate) fn sums(files: &[(&str, &[u8])]) -> String {
    let line = |(name, bytes): &(&str, &[u8])| format!("{}  {name}\n", sha256(bytes));
    files.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_the_digest_two_spaces_and_the_name() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(
            sums(&[("a", b""), ("b", b"")]),
            format!("{empty}  a\n{empty}  b\n")
        );
    }
}
