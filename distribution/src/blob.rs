//! Bytes that are known by their digest.

use anyhow::{Context, Result};
use oci_spec::image::{Descriptor, MediaType, Sha256Digest};
use olpc_cjson::CanonicalFormatter;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// A part of an image, with its digest.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    media_type: MediaType,
    bytes: Vec<u8>,
    sha256: String,
}

impl Blob {
    pub(crate) fn new(media_type: MediaType, bytes: Vec<u8>) -> Self {
        let sha256 = sha256(&bytes);
        Self {
            media_type,
            bytes,
            sha256,
        }
    }

    /// A value as canonical JSON: its maps have no order of their own.
    pub(crate) fn json(media_type: MediaType, value: &impl Serialize) -> Result<Self> {
        Ok(Self::new(media_type, canonical(value)?))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest in hex.
    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The digest as images name it.
    pub(crate) fn digest(&self) -> String {
        format!("sha256:{}", self.sha256)
    }

    /// What refers to this blob.
    pub(crate) fn descriptor(&self) -> Result<Descriptor> {
        let digest: Sha256Digest = self.sha256.parse().context("a digest")?;
        let size = u64::try_from(self.bytes.len())?;
        Ok(Descriptor::new(self.media_type.clone(), size, digest))
    }
}

/// Writes a value as canonical JSON.
pub(crate) fn canonical(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let formatter = CanonicalFormatter::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    value.serialize(&mut serializer)?;
    Ok(bytes)
}

/// The SHA-256 of some bytes, in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
