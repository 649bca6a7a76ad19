//! The module as an image, in the two forms that Istio and Envoy Gateway read.
//!
//! Both fetch with the same rules, those of the Wasm Image Specification:
//! - *compat*: the last layer is a gzipped tar of the standard media type, and holds a file
//!   `plugin.wasm`. Every registry takes it.
//! - *artifact* (the specification's "oci"): exactly two layers, one of which has the media type
//!   of a wasm module and is the module itself; the other one describes it.

use std::collections::HashMap;
use std::io::Write as _;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use oci_spec::image::{
    ANNOTATION_CREATED, ANNOTATION_DESCRIPTION, ANNOTATION_LICENSES, ANNOTATION_TITLE,
    ANNOTATION_VERSION, Arch, ConfigBuilder, ImageConfigurationBuilder, ImageManifestBuilder,
    MediaType, Os, RootFsBuilder,
};
use serde_json::{Value, json};
use wasmparser::{Parser, Payload};

use crate::blob::{Blob, sha256};
use crate::moment::Moment;

/// A form of image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    Artifact,
    Compat,
}

/// A manifest and everything that it refers to.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) manifest: Blob,
    pub(crate) parts: Vec<Blob>,
}

impl Image {
    /// Puts a module into an image of this form.
    ///
    /// # Errors
    /// It is not a module for proxy-wasm.
    pub(crate) fn new(form: Form, module: &[u8], created: Moment) -> Result<Self> {
        let about = serde_json::to_vec(&about(&abi_version(module)?))?;
        match form {
            Form::Artifact => artifact(module, about, created),
            Form::Compat => compat(module, &about, created),
        }
    }
}

fn compat(module: &[u8], about: &[u8], created: Moment) -> Result<Image> {
    let archive = archive(
        &[("plugin.wasm", module), ("runtime-config.json", about)],
        created,
    )?;
    let layer = Blob::new(MediaType::ImageLayerGzip, gzip(&archive)?);
    let files = RootFsBuilder::default()
        .typ("layers")
        .diff_ids([format!("sha256:{}", sha256(&archive))])
        .build()?;
    // Docker pulls nothing for another system than its own; the architecture is only told.
    let config = ImageConfigurationBuilder::default()
        .created(created.rfc3339()?)
        .architecture(Arch::Wasm)
        .os(Os::Linux)
        .config(
            ConfigBuilder::default()
                .labels(annotations(created)?)
                .build()?,
        )
        .rootfs(files)
        .history([])
        .build()?;
    let config = Blob::json(MediaType::ImageConfig, &config)?;
    let mut annotations = annotations(created)?;
    annotations.insert(VARIANT.to_owned(), "compat".to_owned());
    image(config, vec![layer], annotations)
}

fn artifact(module: &[u8], about: Vec<u8>, created: Moment) -> Result<Image> {
    let config = Blob::new(MediaType::Other(CONFIG.to_owned()), about);
    let module = Blob::new(MediaType::Other(MODULE.to_owned()), module.to_vec());
    image(config.clone(), vec![config, module], annotations(created)?)
}

fn image(config: Blob, layers: Vec<Blob>, annotations: HashMap<String, String>) -> Result<Image> {
    let described: Result<Vec<_>> = layers.iter().map(Blob::descriptor).collect();
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(config.descriptor()?)
        .layers(described?)
        .annotations(annotations)
        .build()?;
    let mut parts = vec![config];
    parts.extend(layers);
    Ok(Image {
        manifest: Blob::json(MediaType::ImageManifest, &manifest)?,
        parts,
    })
}

fn annotations(created: Moment) -> Result<HashMap<String, String>> {
    let title = "A proxy-wasm HTTP filter for Envoy and Istio that asks a quota backend about each \
                 request";
    let created = created.rfc3339()?;
    let pairs = [
        (ANNOTATION_CREATED, created.as_str()),
        (ANNOTATION_DESCRIPTION, title),
        (ANNOTATION_LICENSES, "Apache-2.0"),
        (ANNOTATION_TITLE, "quota-gate"),
        (ANNOTATION_VERSION, crate::VERSION),
    ];
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Ok(pairs.into())
}

/// What the specification's config layer tells of a module for Envoy.
fn about(abi_version: &str) -> Value {
    json!({
        "type": "envoy_proxy",
        "abiVersions": [abi_version],
        "config": {"root_ids": [""]},
    })
}

/// The version of proxy-wasm that a module says it speaks: `0.2.1`.
fn abi_version(module: &[u8]) -> Result<String> {
    for payload in Parser::new(0).parse_all(module) {
        let Payload::ExportSection(exports) = payload.context("this is no wasm module")? else {
            continue;
        };
        for export in exports {
            if let Some(version) = export?.name.strip_prefix("proxy_abi_version_") {
                return Ok(version.replace('_', "."));
            }
        }
    }
    anyhow::bail!("the module exports no proxy_abi_version_*: it is not one for proxy-wasm")
}

/// Files as a tar, all of them root's and of one time.
pub(crate) fn archive(files: &[(&str, &[u8])], created: Moment) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(u64::try_from(bytes.len())?);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(created.seconds());
        archive.append_data(&mut header, name, *bytes)?;
    }
    Ok(archive.into_inner()?)
}

/// Without a name, a time or a system in its header.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let unknown_system = 255;
    let header = GzBuilder::new().mtime(0).operating_system(unknown_system);
    let mut gzip = header.write(Vec::new(), Compression::best());
    gzip.write_all(bytes)?;
    Ok(gzip.finish()?)
}

/// What the specification wants a manifest of the first form to say.
const VARIANT: &str = "module.wasm.image/variant";

const CONFIG: &str = "application/vnd.module.wasm.config.v1+json";
const MODULE: &str = "application/vnd.module.wasm.content.layer.v1+wasm";

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// `(module (func) (export "proxy_abi_version_0_2_1" (func 0)))`
    pub(crate) const PROXY_WASM: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\
        \x07\x1b\x01\x17proxy_abi_version_0_2_1\0\0\x0a\x04\x01\x02\0\x0b";

    fn manifest(image: &Image) -> Value {
        serde_json::from_slice(image.manifest.bytes()).unwrap()
    }

    fn part<'a>(image: &'a Image, descriptor: &Value) -> &'a [u8] {
        let digest = descriptor["digest"].as_str().unwrap();
        let found = image.parts.iter().find(|part| part.digest() == digest);
        let bytes = found.unwrap().bytes();
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    }

    #[test]
    fn the_last_layer_of_a_compat_image_holds_the_module_as_plugin_wasm() {
        let image = Image::new(Form::Compat, PROXY_WASM, Moment::new(0)).unwrap();
        let manifest = manifest(&image);

        let layer = manifest["layers"].as_array().unwrap().last().unwrap();

        assert_eq!(
            layer["mediaType"],
            "application/vnd.oci.image.layer.v1.tar+gzip"
        );
        assert_eq!(
            manifest["annotations"]["module.wasm.image/variant"],
            "compat"
        );
        let mut unpacked = Vec::new();
        let mut gzip = flate2::read::GzDecoder::new(part(&image, layer));
        gzip.read_to_end(&mut unpacked).unwrap();
        let mut archive = tar::Archive::new(unpacked.as_slice());
        let mut first = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(first.path().unwrap().to_str(), Some("plugin.wasm"));
        let mut module = Vec::new();
        first.read_to_end(&mut module).unwrap();
        assert_eq!(module, PROXY_WASM);
        let config: Value = serde_json::from_slice(part(&image, &manifest["config"])).unwrap();
        let diff = format!("sha256:{}", sha256(&unpacked));
        assert_eq!(config["rootfs"]["diff_ids"], json!([diff]));
    }

    #[test]
    fn an_artifact_has_two_layers_of_which_one_is_the_module_itself() {
        let image = Image::new(Form::Artifact, PROXY_WASM, Moment::new(0)).unwrap();
        let manifest = manifest(&image);

        let layers = manifest["layers"].as_array().unwrap();

        let config = "application/vnd.module.wasm.config.v1+json";
        assert_eq!(manifest["config"]["mediaType"], config);
        assert_eq!(layers.len(), 2);
        assert_eq!(layers[0]["mediaType"], config);
        let about: Value = serde_json::from_slice(part(&image, &layers[0])).unwrap();
        assert_eq!(about["abiVersions"], json!(["0.2.1"]));
        let module = "application/vnd.module.wasm.content.layer.v1+wasm";
        assert_eq!(layers[1]["mediaType"], module);
        assert_eq!(part(&image, &layers[1]), PROXY_WASM);
    }

    /// Maps of the OCI's types have a random order; a digest must not.
    #[test]
    fn the_same_module_gives_the_same_manifest_each_time() {
        for form in [Form::Artifact, Form::Compat] {
            let first = Image::new(form, PROXY_WASM, Moment::new(7)).unwrap();
            for _ in 0..20 {
                let again = Image::new(form, PROXY_WASM, Moment::new(7)).unwrap();
                assert_eq!(again.manifest.digest(), first.manifest.digest());
            }
        }
    }

    #[test]
    fn what_is_no_module_for_proxy_wasm_is_refused() {
        let error = |bytes: &[u8]| {
            let image = Image::new(Form::Compat, bytes, Moment::new(0));
            image.unwrap_err().to_string()
        };
        assert_eq!(error(b"something else"), "this is no wasm module");
        let empty = b"\0asm\x01\0\0\0";
        assert!(
            error(empty).contains("proxy_abi_version"),
            "{}",
            error(empty)
        );
    }
}
