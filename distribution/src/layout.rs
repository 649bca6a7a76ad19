//! Images in a folder, as the OCI's image layout; and that folder as one file.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use oci_spec::image::{
    ANNOTATION_REF_NAME, Descriptor, ImageIndex, ImageIndexBuilder, ImageManifest, MediaType,
};
use serde_json::json;

use crate::blob::{Blob, canonical, sha256};
use crate::image::{Image, archive};
use crate::moment::Moment;

/// The files of a layout by their path, sorted.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Makes the layout of images, each under its tag.
pub(crate) fn files(images: &[(String, Image)]) -> Result<Files> {
    let mut files = Files::new();
    let mut index = Vec::new();
    for (tag, image) in images {
        for blob in image.parts.iter().chain([&image.manifest]) {
            files.insert(
                format!("blobs/sha256/{}", blob.sha256()),
                blob.bytes().to_vec(),
            );
        }
        let mut descriptor = image.manifest.descriptor()?;
        let name = HashMap::from([(ANNOTATION_REF_NAME.to_owned(), tag.clone())]);
        descriptor.set_annotations(Some(name));
        index.push(descriptor);
    }
    let index = ImageIndexBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageIndex)
        .manifests(index)
        .build()?;
    files.insert("index.json".to_owned(), canonical(&index)?);
    files.insert(
        "oci-layout".to_owned(),
        canonical(&json!({"imageLayoutVersion": "1.0.0"}))?,
    );
    Ok(files)
}

/// Writes a layout into a folder.
pub(crate) fn write(files: &Files, folder: &Path) -> Result<()> {
    for (path, bytes) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().context("a file without a folder")?)?;
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// A layout as one file, as `oci-archive` and `docker load` take it.
pub(crate) fn one_file(files: &Files, created: Moment) -> Result<Vec<u8>> {
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
        .collect();
    archive(&files, created)
}

/// An image of a layout, as it is read back.
pub(crate) struct Found {
    pub(crate) tag: String,
    pub(crate) manifest: Blob,
    pub(crate) parts: Vec<Blob>,
}

/// Reads the images of a layout, every blob checked against its digest.
///
/// # Errors
/// The folder holds no layout, or a blob is not what its digest says.
pub(crate) fn read(folder: &Path) -> Result<Vec<Found>> {
    let index = folder.join("index.json");
    let index = ImageIndex::from_file(&index)
        .with_context(|| format!("{} can't be read", index.display()))?;
    index
        .manifests()
        .iter()
        .map(|one| read_one(folder, one))
        .collect()
}

fn read_one(folder: &Path, descriptor: &Descriptor) -> Result<Found> {
    let name = descriptor.annotations().as_ref();
    let tag = name.and_then(|name| name.get(ANNOTATION_REF_NAME));
    let manifest = blob(folder, descriptor)?;
    let image = ImageManifest::from_reader(manifest.bytes())?;
    let parts = [image.config()].into_iter().chain(image.layers());
    let parts: Result<Vec<Blob>> = parts.map(|part| blob(folder, part)).collect();
    Ok(Found {
        tag: tag.context("an image of the layout has no tag")?.clone(),
        manifest,
        parts: parts?,
    })
}

fn blob(folder: &Path, descriptor: &Descriptor) -> Result<Blob> {
    let digest = descriptor.digest().digest();
    let path = folder.join("blobs/sha256").join(digest);
    let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    if sha256(&bytes) != digest {
        anyhow::bail!(
            "{} is not what its name says: run `cargo xtask dist` again",
            path.display()
        );
    }
    Ok(Blob::new(descriptor.media_type().clone(), bytes))
}
