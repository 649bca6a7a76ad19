//! The test attribute for wasm32: plain `#[test]` functions run under Node.
//!
//! A wasm32 test program has no main that could find its tests; wasm-bindgen's runner finds those
//! marked `#[wasm_bindgen_test]`, and passes over any other without a word. With
//! `#[cfg(all(test, target_arch = "wasm32"))] #[macro_use] extern crate wasm_test;` in a crate's
//! root, `#[test]` means that one everywhere in the crate, and no test can be left out.

use proc_macro::TokenStream;

/// Marks a function as a test that wasm-bindgen's runner finds.
#[proc_macro_attribute]
pub fn test(_arguments: TokenStream, function: TokenStream) -> TokenStream {
    let attribute = "#[::wasm_bindgen_test::wasm_bindgen_test]";
    let mut marked: TokenStream = attribute.parse().expect("a fixed attribute parses");
    marked.extend(function);
    marked
}
