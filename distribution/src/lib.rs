//! The module as users get it: two OCI images, a bill of materials, checksums, and the way to a
//! registry. `cargo xtask dist` builds the module and calls this.
//!
//! Everything here is a function of the module, the lock file and one point in time: the same input
//! gives the same bytes, on any machine and in any folder.
//!
//! The map:
//! - `image`: the module as an image, in the two forms that Istio and Envoy Gateway read
//! - `layout`: images in a folder, as the OCI's image layout; and that folder as one file
//! - `blob`: bytes with their digest; `moment`: the point in time that is written into files
//! - `sbom`: what the module is made of, as CycloneDX
//! - `sums`: checksums in the form that `sha256sum --check` reads
//! - `pack`: all of it, into one folder
//! - `push`: from that folder to a registry

mod blob;
mod image;
mod layout;
mod moment;
pub mod pack;
pub mod push;
mod sbom;
mod sums;

/// The version of everything that is distributed.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The tag of the other form is a tag with this behind it.
pub const ARTIFACT_SUFFIX: &str = "-artifact";
