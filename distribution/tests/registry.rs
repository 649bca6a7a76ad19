//! What is pushed to a real registry is pulled back bit by bit by a client that is not ours, as the
//! fetchers of Istio and Envoy Gateway read it, and runs in a real Envoy.

use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use envoy_harness::{Port, Program, Rig};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What `cargo xtask dist` has made.
fn dist() -> PathBuf {
    let set = std::env::var_os("QUOTA_GATE_DIST");
    set.expect("QUOTA_GATE_DIST is not set: run `cargo xtask test dist`")
        .into()
}

fn shipped_module() -> Vec<u8> {
    fs::read(dist().join("quota_gate.wasm")).expect("the module is packed")
}

/// Debian's docker-registry with an empty folder.
struct Registry {
    address: SocketAddr,
    folder: TempDir,
    _port: Port,
    _program: Program,
}

impl Registry {
    fn start() -> Self {
        Self::start_with("")
    }

    fn start_with(more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = Port::free().expect("a port");
        let address = port.address();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{address}\"}}\n{more}",
            folder.path().join("data").display()
        );
        let file = folder.path().join("registry.yml");
        fs::write(&file, config).expect("its configuration is written");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(file);
        let program = Program::start(command).expect("docker-registry starts");
        program.expect_listening(address);
        Self {
            address,
            folder,
            _port: port,
            _program: program,
        }
    }

    fn reference(&self, tag: &str) -> String {
        format!("{}/team/quota-gate:{tag}", self.address)
    }

    /// Pulls an image with skopeo into a folder: `manifest.json`, and each blob under its digest.
    fn pull(&self, tag: &str) -> PathBuf {
        let to = self.folder.path().join(format!("pulled-{tag}"));
        let mut skopeo = Command::new("skopeo");
        skopeo
            .args(["--insecure-policy", "copy", "--src-tls-verify=false"])
            .arg(format!("docker://{}", self.reference(tag)))
            .arg(format!("dir:{}", to.display()));
        expect_success(&mut skopeo);
        to
    }
}

fn push(to: &str) -> Command {
    let mut push = Command::new(env!("CARGO_BIN_EXE_quota-gate-distribution"));
    push.arg("push")
        .arg("--layout")
        .arg(dist().join("oci"))
        .arg(to)
        // Nobody's own logins.
        .env("DOCKER_CONFIG", "/nonexistent");
    push
}

fn run(command: &mut Command) -> Output {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output();
    output.unwrap_or_else(|error| panic!("{name} can't be started: {error}"))
}

#[track_caller]
fn expect_success(command: &mut Command) -> String {
    let output = run(command);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn expect_failure(command: &mut Command) -> String {
    let output = run(command);
    assert!(!output.status.success(), "it should have failed");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn manifest(image: &Path) -> Value {
    let text = fs::read(image.join("manifest.json")).expect("a manifest");
    serde_json::from_slice(&text).expect("JSON")
}

fn blob(image: &Path, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().expect("a digest");
    let name = digest.strip_prefix("sha256:").expect("a SHA-256");
    fs::read(image.join(name)).expect("the blob")
}

/// As both fetchers do for the compat form: the last layer has to be of this type, and the first
/// file in it with this base name is the module.
fn module_of_compat(image: &Path) -> Vec<u8> {
    let manifest = manifest(image);
    let layers = manifest["layers"].as_array().expect("layers");
    let layer = layers.last().expect("a layer");
    assert_eq!(
        layer["mediaType"],
        "application/vnd.oci.image.layer.v1.tar+gzip"
    );
    let packed = blob(image, layer);
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice()));
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        if entry.path().expect("a path").file_name() == Some("plugin.wasm".as_ref()) {
            let mut module = Vec::new();
            entry.read_to_end(&mut module).expect("a file");
            return module;
        }
    }
    panic!("there is no plugin.wasm");
}

/// As both fetchers do for the artifact form: two layers, and the one of this type is the module.
fn module_of_artifact(image: &Path) -> Vec<u8> {
    let manifest = manifest(image);
    let layers = manifest["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 2);
    let wanted = "application/vnd.module.wasm.content.layer.v1+wasm";
    let layer = layers.iter().find(|layer| layer["mediaType"] == wanted);
    blob(image, layer.expect("a layer with the module"))
}

fn expect_runs(module: &Path) {
    let policy = json!({
        "backend": "quota", "descriptor": [{"name": "key", "header": "x-api-key"}],
        "failure_mode": "fail_closed",
    });
    let rig = Rig::builder()
        .module(module)
        .plugin(json!({
            "backends": {"quota": {"cluster": "quota-backend"}}, "policies": {"p": policy},
            "default_policy": "p", "host_budget": "1s",
        }))
        .start();
    rig.backend().limit("key=k1", 1, Duration::from_secs(60));
    let ask = || rig.request("GET", "/").header("x-api-key", "k1").send();

    ask().expect_status(200);
    ask()
        .expect_status(429)
        .expect_json("/code", "quota_exceeded");
}

#[test]
fn a_pulled_module_is_the_packed_one_bit_by_bit_in_both_forms_and_runs() {
    let registry = Registry::start();

    let told = expect_success(&mut push(&registry.reference("1.2.3")));

    let compat = registry.pull("1.2.3");
    let module = module_of_compat(&compat);
    assert!(module == shipped_module(), "the module has changed");
    let artifact = module_of_artifact(&registry.pull("1.2.3-artifact"));
    assert!(artifact == shipped_module(), "the module has changed");
    let file = compat.join("plugin.wasm");
    fs::write(&file, module).expect("the module is written");
    expect_runs(&file);
    // The digest to put into manifests is the one that the registry tells.
    let mut inspect = Command::new("skopeo");
    inspect
        .args(["inspect", "--tls-verify=false", "--format={{.Digest}}"])
        .arg(format!("docker://{}", registry.reference("1.2.3")));
    let digest = expect_success(&mut inspect);
    let sha256 = digest.trim().strip_prefix("sha256:").expect("a SHA-256");
    let istio = format!(
        "  url: oci://{}\n  sha256: \"{sha256}\"\n",
        registry.reference("1.2.3")
    );
    let gateway = format!(
        "  url: {}\n  sha256: \"{sha256}\"\n",
        registry.reference("1.2.3")
    );
    assert!(told.contains(&istio), "{told}");
    assert!(told.contains(&gateway), "{told}");
}

#[test]
fn the_layout_can_be_copied_by_other_tools_as_a_folder_and_as_one_file() {
    let registry = Registry::start();
    let archive = format!("quota-gate-{}.oci.tar", env!("CARGO_PKG_VERSION"));
    let version = env!("CARGO_PKG_VERSION");
    let sources = [
        format!("oci:{}:{version}", dist().join("oci").display()),
        format!("oci-archive:{}:{version}", dist().join(archive).display()),
    ];
    for (source, tag) in sources.iter().zip(["folder", "file"]) {
        let mut skopeo = Command::new("skopeo");
        skopeo
            .args([
                "--insecure-policy",
                "copy",
                "--dest-tls-verify=false",
                source,
            ])
            .arg(format!("docker://{}", registry.reference(tag)));
        expect_success(&mut skopeo);
        assert!(module_of_compat(&registry.pull(tag)) == shipped_module());
    }
}

#[test]
fn pushing_again_changes_nothing() {
    let registry = Registry::start();

    let first = expect_success(&mut push(&registry.reference("a")));
    let second = expect_success(&mut push(&registry.reference("a")));

    assert_eq!(first, second);
}

/// `quota` with the password `gate`, as bcrypt: the only form that the registry reads.
const HTPASSWD: &str = "quota:$2a$05$vTB7G6w87C.SWjNkyKOAOOluR5fUHigfk.3oAlL8rzN2Oxav94m3G\n";

#[test]
fn a_registry_that_wants_a_login_gets_the_one_that_docker_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let users = folder.path().join("users");
    fs::write(&users, HTPASSWD).expect("the users are written");
    let more = format!(
        "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
        users.display()
    );
    let registry = Registry::start_with(&more);
    let login = |user_and_password: &str| {
        let auths = json!({"auths": {registry.address.to_string(): {"auth": user_and_password}}});
        fs::write(folder.path().join("config.json"), auths.to_string()).expect("a login");
        let mut push = push(&registry.reference("a"));
        push.env("DOCKER_CONFIG", folder.path());
        push
    };

    // quota:gate and quota:wrong.
    let refused = expect_failure(&mut push(&registry.reference("a")));
    let wrong = expect_failure(&mut login("cXVvdGE6d3Jvbmc="));
    expect_success(&mut login("cXVvdGE6Z2F0ZQ=="));

    for error in [refused, wrong] {
        assert!(error.contains("docker login"), "{error}");
        assert!(!error.contains("cXVvdGE6"), "a secret is told: {error}");
    }
}

#[test]
fn a_registry_that_is_not_there_is_told_by_name() {
    let port = Port::free().expect("a port");
    let to = format!("{}/quota-gate:1", port.address());

    let error = expect_failure(&mut push(&to));

    assert!(error.contains(&to), "{error}");
    assert!(error.contains("can't be pushed"), "{error}");
}
