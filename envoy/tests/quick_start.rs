//! The commands of the README's quick start, run as they stand but for ports and folders.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use envoy_harness::{Port, Program, binary, module};

/// The README's block of commands that begins with this one.
fn block(first: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(root.join("README.md")).expect("the README");
    let mut blocks = readme.split("```sh\n").skip(1);
    let block = blocks
        .find(|block| block.starts_with(first))
        .unwrap_or_else(|| panic!("no block that begins with `{first}`"));
    block.split("```").next().unwrap_or_default().to_owned()
}

/// Puts `new` in place of `old`, which has to be there.
fn put(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "`{old}` is in `{text}`");
    text.replace(old, new)
}

fn shell(line: &str) -> Command {
    let mut shell = Command::new("bash");
    shell
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(["-c", line]);
    shell
}

/// Where everything listens here; the README has 3000, 9000, 8080 and 9901.
struct Places {
    app: Port,
    backend: Port,
    listener: SocketAddr,
    admin: SocketAddr,
}

impl Places {
    fn free() -> Self {
        let port = || Port::free().expect("a port");
        Self {
            app: port(),
            backend: port(),
            // Envoy takes no port that is kept for it.
            listener: port().address(),
            admin: port().address(),
        }
    }

    /// The ports of the README with those here.
    fn ports(&self) -> [(u16, u16); 4] {
        let (app, backend) = (self.app.address(), self.backend.address());
        [
            (3000, app.port()),
            (9000, backend.port()),
            (8080, self.listener.port()),
            (9901, self.admin.port()),
        ]
    }

    /// The commands that start everything, for this machine: its ports, its Envoy, and a folder of
    /// our own in place of `dist`.
    fn filled(&self, commands: &str, folder: &Path) -> String {
        let module = module().expect("a module");
        let dist = module.parent().expect("its folder").display();
        let ours = folder.join("minimal.yaml").display().to_string();
        let text = put(commands, "cargo xtask build\n", "");
        let text = put(&text, "$PWD/dist", &dist.to_string());
        let text = put(&text, "dist/minimal.yaml", &ours);

        let (before, envoy) = text.split_once("~/.cache/").expect("Envoy's line");
        let (_, options) = envoy.split_once("/envoy ").expect("Envoy's options");
        let envoy = binary().expect("an Envoy").display().to_string();
        // Other Envoys run on the machine.
        let mut text = format!("{before}{envoy} --disable-hot-restart {options}");

        let mut rules = String::new();
        for (told, here) in self.ports() {
            rules += &format!("s/port_value: {told}}}/port_value: {here}}}/;");
            text = text.replace(&format!(" {told} &"), &format!(" {here} &"));
        }
        put(&text, "sed ", &format!("sed -e '{rules}' -e "))
    }
}

#[test]
fn who_pastes_the_quick_start_is_let_through_twice_and_denied_the_third_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let places = Places::free();

    let mut running = Vec::new();
    for line in places
        .filled(&block("cargo xtask build\n"), folder.path())
        .lines()
    {
        if let Some(line) = line.strip_suffix(" &") {
            // The shell becomes the program, so that ending it ends that.
            running.push(Program::start(shell(&format!("exec env {line}"))).expect("a shell"));
        } else {
            assert!(shell(line).status().expect("a shell").success(), "{line}");
        }
    }
    let addresses = [
        places.backend.address(),
        places.app.address(),
        places.listener,
    ];
    assert_eq!(running.len(), addresses.len());
    for (program, address) in running.iter().zip(addresses) {
        program.expect_listening(address);
    }

    let here = format!(":{}/", places.listener.port());
    let ask = put(&block("curl -i "), ":8080/", &here);
    let first_line = |command: &str| {
        let output = shell(command).output().expect("a shell");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {errors}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().next().unwrap_or_default().to_owned()
    };
    for expected in [
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 429 Too Many Requests",
    ] {
        assert_eq!(first_line(&ask), expected);
    }
    let without_a_key = put(&ask, "-H 'x-api-key: k1' ", "");
    assert_eq!(first_line(&without_a_key), "HTTP/1.1 401 Unauthorized");
}
