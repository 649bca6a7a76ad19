//! From a folder to a registry, and what to write into the manifests then.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};

use crate::layout::{self, Found};
use crate::{ARTIFACT_SUFFIX, VERSION};

/// What to push, and where to.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The folder with the image layout
    #[arg(long)]
    pub layout: PathBuf,
    /// Speak HTTP without TLS; on this machine that is done anyway
    #[arg(long)]
    pub plain_http: bool,
    /// REGISTRY/REPOSITORY:TAG
    pub to: String,
}

/// Pushes both images, checks what the registry then has, and says what to write where.
///
/// # Errors
/// The reference or the layout can't be read, or the registry refuses.
pub fn run(args: &Args) -> Result<()> {
    let to = Target::parse(&args.to)?;
    let images = layout::read(&args.layout)
        .context("there is nothing to push: run `cargo xtask dist` first")?;
    // Only the first one of a process can be set, and there is none before.
    let _set = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = client(&to, args.plain_http);
    let auth = credentials(&to.registry)?;
    let mut digest = String::new();
    for image in &images {
        let tag = to.tag_of(&image.tag);
        let reference = Reference::with_tag(to.registry.clone(), to.repository.clone(), tag);
        let pushed = runtime.block_on(push(&client, &auth, &reference, image));
        pushed
            .map_err(with_remedy)
            .with_context(|| format!("{reference} can't be pushed"))?;
        println!("  pushed {reference} {}", image.manifest.digest());
        if !image.tag.ends_with(ARTIFACT_SUFFIX) {
            image.manifest.sha256().clone_into(&mut digest);
        }
    }
    print!("{}", advice(&to, &digest));
    Ok(())
}

async fn push(client: &Client, auth: &RegistryAuth, to: &Reference, image: &Found) -> Result<()> {
    client.auth(to, auth, RegistryOperation::Push).await?;
    for part in &image.parts {
        let digest = part.digest();
        if !client.blob_exists(to, &digest).await? {
            client.push_blob(to, part.bytes().to_vec(), &digest).await?;
        }
    }
    let manifest = image.manifest.bytes().to_vec();
    client
        .push_manifest_raw(to, manifest, MANIFEST.parse()?)
        .await?;
    let there = client.fetch_manifest_digest(to, auth).await?;
    if there != image.manifest.digest() {
        bail!(
            "the registry has {there} now, not {}",
            image.manifest.digest()
        );
    }
    Ok(())
}

/// Registries say in many ways that they want somebody to log in.
fn with_remedy(error: anyhow::Error) -> anyhow::Error {
    let told = format!("{error:#}").to_lowercase();
    let refused = ["401", "403", "unauthorized", "denied", "authenti"];
    if refused.iter().any(|word| told.contains(word)) {
        return error.context(LOGIN);
    }
    error
}

fn client(to: &Target, plain_http: bool) -> Client {
    let protocol = if plain_http || to.is_local() {
        ClientProtocol::Http
    } else {
        ClientProtocol::Https
    };
    Client::new(ClientConfig {
        protocol,
        connect_timeout: Some(CONNECT_BOUND),
        read_timeout: Some(READ_BOUND),
        user_agent: concat!("quota-gate/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}

/// What `docker login` or a credential helper has left for this registry.
fn credentials(registry: &str) -> Result<RegistryAuth> {
    match docker_credential::get_credential(registry) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(RegistryAuth::Basic(user, password))
        }
        Ok(DockerCredential::IdentityToken(_)) => bail!(
            "docker holds an identity token for {registry}, which is not supported here: log in \
             with a name and a password or access token"
        ),
        Err(
            CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::ConfigReadError
            | CredentialRetrievalError::NoCredentialConfigured,
        ) => Ok(RegistryAuth::Anonymous),
        Err(error) => Err(error).with_context(|| {
            format!("the credentials for {registry} can't be read from docker's config.json")
        }),
    }
}

/// A place in a registry, as people write it.
#[derive(Debug, PartialEq)]
struct Target {
    registry: String,
    repository: String,
    tag: String,
}

impl Target {
    fn parse(text: &str) -> Result<Self> {
        let form = "write it as REGISTRY/REPOSITORY:TAG, \
                    like registry.example.com/quota-gate:0.1.0";
        if let Some((scheme, _)) = text.split_once("://") {
            bail!("`{text}` begins with {scheme}://: {form}");
        }
        let (registry, rest) = text
            .split_once('/')
            .filter(|(first, _)| first.contains(['.', ':']) || *first == "localhost")
            .with_context(|| format!("`{text}` names no registry: {form}"))?;
        if rest.contains('@') {
            bail!("`{text}` has a digest, but what is pushed has its own: {form}");
        }
        let (repository, tag) = rest.rsplit_once(':').unwrap_or((rest, VERSION));
        let target = Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: tag.to_owned(),
        };
        let parsed: Reference = format!("{registry}/{repository}:{tag}")
            .parse()
            .with_context(|| format!("`{text}` can't be read: {form}"))?;
        debug_assert_eq!(parsed.tag(), Some(tag));
        Ok(target)
    }

    /// The tag for an image that has `tag` in the layout.
    fn tag_of(&self, tag: &str) -> String {
        let suffix = if tag.ends_with(ARTIFACT_SUFFIX) {
            ARTIFACT_SUFFIX
        } else {
            ""
        };
        format!("{}{suffix}", self.tag)
    }

    fn is_local(&self) -> bool {
        let host = self
            .registry
            .rsplit_once(':')
            .map_or(&*self.registry, |(host, _)| host);
        ["localhost", "127.0.0.1", "[::1]"].contains(&host)
    }
}

fn advice(to: &Target, digest: &str) -> String {
    let Target {
        registry,
        repository,
        tag,
    } = to;
    format!(
        "\nIstio (WasmPlugin, envoy/manifests/istio.yaml):\n  \
         url: oci://{registry}/{repository}:{tag}\n  \
         sha256: \"{digest}\"\n  \
         imagePullPolicy: IfNotPresent\n\
         Envoy Gateway (EnvoyExtensionPolicy, envoy/manifests/envoy-gateway.yaml):\n  \
         url: {registry}/{repository}:{tag}\n  \
         sha256: \"{digest}\"\n"
    )
}

const LOGIN: &str = "the registry wants a login that may push: run `docker login`, or set \
                     DOCKER_CONFIG to a folder with a config.json";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry that is there answers sooner.
const CONNECT_BOUND: Duration = Duration::from_secs(10);

/// Between two bytes of an answer.
const READ_BOUND: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_registry_a_repository_and_a_tag() {
        let target = |registry: &str, repository: &str, tag: &str| Target {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: tag.to_owned(),
        };
        let parse = |text: &str| Target::parse(text).unwrap();
        assert_eq!(
            parse("registry.example.com/team/quota-gate:1.2"),
            target("registry.example.com", "team/quota-gate", "1.2")
        );
        assert_eq!(
            parse("localhost:5000/q"),
            target("localhost:5000", "q", VERSION)
        );
        assert!(parse("127.0.0.1:5000/q:a").is_local());
        assert!(!parse("localhost.example.com/q:a").is_local());
    }

    #[test]
    fn what_is_no_target_is_refused_with_the_form_to_write() {
        let refused = |text: &str| {
            let error = Target::parse(text).unwrap_err().to_string();
            assert!(error.contains("REGISTRY/REPOSITORY:TAG"), "{error}");
            error
        };
        assert!(refused("oci://registry.example.com/q:1").contains("begins with oci://"));
        assert!(refused("quota-gate:0.1.0").contains("names no registry"));
        assert!(refused("team/quota-gate:0.1.0").contains("names no registry"));
        assert!(refused("registry.example.com/q@sha256:00").contains("has a digest"));
        assert!(refused("registry.example.com/UPPER:1").contains("can't be read"));
    }

    #[test]
    fn the_other_form_has_the_tag_with_a_suffix() {
        let target = Target::parse("localhost/q:stable").unwrap();
        assert_eq!(target.tag_of("0.1.0"), "stable");
        assert_eq!(target.tag_of("0.1.0-artifact"), "stable-artifact");
    }
}
