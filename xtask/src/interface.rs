//! What a wasm module takes from its host and offers to it.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::{Result, bail};
use wasmparser::{Parser, Payload};

/// The imports and exports of a module, sorted.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Interface {
    imports: BTreeSet<String>,
    exports: BTreeSet<String>,
}

impl Interface {
    /// Reads a module's imports and exports.
    ///
    /// # Errors
    /// The bytes are not a wasm module.
    pub(crate) fn read(module: &[u8]) -> Result<Self> {
        let mut interface = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        let import = import?;
                        interface
                            .imports
                            .insert(format!("{}.{}", import.module, import.name));
                    }
                }
                Payload::ExportSection(exports) => {
                    for export in exports {
                        interface.exports.insert(export?.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(interface)
    }

    /// Checks that the module takes nothing but proxy-wasm functions from its host.
    ///
    /// # Errors
    /// Names the imports that Envoy would not offer.
    pub(crate) fn allowed(&self) -> Result<()> {
        let others: Vec<&str> = self
            .imports
            .iter()
            .map(String::as_str)
            .filter(|import| !import.starts_with("env.proxy_"))
            .collect();
        if !others.is_empty() {
            bail!(
                "the module imports {}; only env.proxy_* is allowed",
                others.join(", ")
            );
        }
        Ok(())
    }

    /// Writes one `import` or `export` a line, as the committed file has it.
    pub(crate) fn to_text(&self) -> String {
        let imports = self.imports.iter().map(|name| format!("import {name}\n"));
        imports
            .chain(self.exports.iter().map(|name| format!("export {name}\n")))
            .collect()
    }

    /// Lists imports and exports for people, without the prefix they share.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        let lists = [
            ("imports", &self.imports, "env.proxy_"),
            ("exports", &self.exports, "proxy_"),
        ];
        for (title, names, prefix) in lists {
            let _infallible = writeln!(text, "  {title} {}", names.len());
            let mut line = String::new();
            for name in names {
                let short = name.strip_prefix(prefix).unwrap_or(name);
                if line.len() + short.len() > 80 {
                    let _infallible = writeln!(text, "   {line}");
                    line.clear();
                }
                line.push(' ');
                line.push_str(short);
            }
            if !line.is_empty() {
                let _infallible = writeln!(text, "   {line}");
            }
        }
        text
    }
}

/// Lists the lines that only one of two interface texts has: `-` gone, `+` new.
pub(crate) fn difference(expected: &str, found: &str) -> String {
    let expected: BTreeSet<&str> = expected.lines().collect();
    let found: BTreeSet<&str> = found.lines().collect();
    let gone = expected
        .difference(&found)
        .map(|line| format!("  - {line}\n"));
    gone.chain(
        found
            .difference(&expected)
            .map(|line| format!("  + {line}\n")),
    )
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(module (import "env" "proxy_log" (func)) (export "f" (func 0)))`
    const MODULE: &[u8] =
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x11\x01\x03env\x09proxy_log\0\0\
        \x07\x05\x01\x01f\0\0";

    #[test]
    fn imports_and_exports_are_read_from_a_module() {
        let interface = Interface::read(MODULE).unwrap();
        assert_eq!(interface.to_text(), "import env.proxy_log\nexport f\n");
        assert!(interface.allowed().is_ok());
    }

    #[test]
    fn an_import_that_is_not_proxy_wasm_is_refused_by_name() {
        let interface = Interface {
            imports: ["wasi.fd_write".to_owned()].into(),
            ..Interface::default()
        };
        assert_eq!(
            interface.allowed().unwrap_err().to_string(),
            "the module imports wasi.fd_write; only env.proxy_* is allowed"
        );
    }

    #[test]
    fn bytes_that_are_no_module_are_refused() {
        assert!(Interface::read(b"not wasm").is_err());
    }

    #[test]
    fn a_difference_names_what_is_gone_and_what_is_new() {
        assert_eq!(difference("a\nb\n", "b\nc\n"), "  - a\n  + c\n");
        assert_eq!(difference("a\n", "a\n"), "");
    }
}
