//! The proxy-wasm host: the only module that touches it.
//!
//! It speaks the ABI itself. With a callout dispatcher of our own every call belongs to the root
//! context, so that the reply to a call is heard whoever has left in the meantime, and no status
//! of the host, token or byte can make it panic.

mod abi;
mod view;
mod vm;
