//! A proxy-wasm HTTP filter that asks a quota backend about each request.
