//! A real Envoy: start, wait until it is ready, ask it about itself, stop by its own pid.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::access_log::LogEntry;
use crate::child::Owned;
use crate::client::Request;
use crate::eventually::{PATIENCE, within};
use crate::metrics::{Sample, parse};
use crate::response::Response;
use crate::server::lock;

/// A running Envoy; dropping it ends the process.
#[derive(Debug)]
pub struct Envoy {
    process: Mutex<Owned>,
    pid: u32,
    admin: SocketAddr,
    listeners: BTreeMap<String, SocketAddr>,
    files: Files,
    /// Its folder, unless that is the rig's.
    _folder: Option<TempDir>,
}

/// How to start an Envoy.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) binary: PathBuf,
    /// A folder for its files alone.
    pub(crate) folder: PathBuf,
    pub(crate) bootstrap: String,
    pub(crate) concurrency: u32,
    /// The log level of the wasm component.
    pub(crate) wasm_log: String,
}

/// What `--mode validate` says of a configuration.
#[derive(Clone, Debug)]
pub struct Validation {
    /// Whether Envoy takes it.
    pub accepted: bool,
    /// Everything that Envoy and the filter logged.
    pub log: String,
}

#[derive(Clone, Debug)]
struct Files {
    access_log: PathBuf,
    log: PathBuf,
}

impl Launch {
    /// Runs Envoy, its output going to `log`.
    fn run(&self, mode: &str, log: &Path) -> anyhow::Result<Owned> {
        let config = self.folder.join("envoy.yaml");
        fs::write(&config, &self.bootstrap).context("write envoy.yaml")?;
        let log = File::create(log).context("create Envoy's log")?;
        let mut command = Command::new(&self.binary);
        command
            .args([
                "--mode",
                mode,
                "--disable-hot-restart",
                "--log-level",
                "warning",
            ])
            // The file logger writes every 10 s if nobody says otherwise.
            .args(["--file-flush-interval-msec", "20"])
            .arg("--component-log-level")
            .arg(format!("wasm:{}", self.wasm_log))
            .arg("--concurrency")
            .arg(self.concurrency.to_string())
            .arg("--admin-address-path")
            .arg(self.folder.join("admin"))
            .arg("--config-path")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Owned::spawn(command).with_context(|| format!("start {}", self.binary.display()))
    }

    /// Lets Envoy judge the configuration: it loads the module and configures the plugin.
    pub(crate) fn validate(&self) -> anyhow::Result<Validation> {
        let log = self.folder.join("validate.log");
        let mut process = self.run("validate", &log)?;
        let ended = within(START_LIMIT, || process.ended().ok().flatten());
        let status = ended.context("envoy --mode validate does not end")?;
        Ok(Validation {
            accepted: status.success(),
            log: read(&log),
        })
    }

    /// Starts Envoy and waits until it is ready.
    pub(crate) fn start(&self) -> anyhow::Result<Envoy> {
        let files = Files {
            access_log: self.folder.join(ACCESS_LOG),
            log: self.folder.join("envoy.log"),
        };
        let process = Mutex::new(self.run("serve", &files.log)?);
        match self.await_ready(&process) {
            Ok(admin) => {
                let listeners = listeners(admin)?;
                let pid = lock(&process).pid();
                Ok(Envoy {
                    process,
                    pid,
                    admin,
                    listeners,
                    files,
                    _folder: None,
                })
            }
            Err(error) => bail!(
                "{error:#}; Envoy's log ends in:\n{}",
                tail(&read(&files.log))
            ),
        }
    }

    fn await_ready(&self, process: &Mutex<Owned>) -> anyhow::Result<SocketAddr> {
        let admin_file = self.folder.join("admin");
        let ready = within(START_LIMIT, || {
            if let Ok(Some(status)) = lock(process).ended() {
                return Some(Err(status));
            }
            let admin = fs::read_to_string(&admin_file).ok()?.trim().parse().ok()?;
            let response = admin_get(admin, "/ready").ok()?;
            (response.status == 200).then_some(Ok(admin))
        });
        match ready {
            Some(Ok(admin)) => Ok(admin),
            Some(Err(status)) => bail!("Envoy did not start ({status})"),
            None => bail!("Envoy was not ready within {START_LIMIT:?}"),
        }
    }
}

impl Envoy {
    /// Starts an Envoy on any bootstrap and waits until it is ready; it needs an admin address.
    /// Its access log is wherever the bootstrap says, not in [`Envoy::access_log`].
    ///
    /// # Errors
    /// If Envoy is not there or does not start (with the end of its log).
    pub fn start(bootstrap: &str, concurrency: u32) -> anyhow::Result<Self> {
        let (launch, folder) = launch(bootstrap, concurrency)?;
        let envoy = launch.start()?;
        Ok(Self {
            _folder: Some(folder),
            ..envoy
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the process runs.
    #[must_use]
    pub fn alive(&self) -> bool {
        matches!(lock(&self.process).ended(), Ok(None))
    }

    /// The admin interface's address.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The address of the listener `name`.
    ///
    /// # Panics
    /// If there is none of that name.
    #[must_use]
    #[track_caller]
    pub fn listener(&self, name: &str) -> SocketAddr {
        *self
            .listeners
            .get(name)
            .unwrap_or_else(|| panic!("no listener {name}"))
    }

    /// Asks the admin interface: `admin_get("/config_dump")`.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    #[track_caller]
    pub fn admin_get(&self, path: &str) -> Response {
        admin_get(self.admin, path).unwrap_or_else(|error| panic!("admin {path}: {error:#}"))
    }

    /// Sends a POST to the admin interface: `admin_post("/drain_listeners")`.
    ///
    /// # Panics
    /// If it does not answer.
    #[track_caller]
    pub fn admin_post(&self, path: &str) -> Response {
        Request::new(self.admin, "POST", path).send()
    }

    /// Everything that Prometheus would scrape.
    #[must_use]
    #[track_caller]
    pub fn counters(&self) -> Vec<Sample> {
        parse(&self.admin_get("/stats/prometheus").text())
    }

    /// The sum over all series of `name` that have these labels; 0 if there are none.
    #[must_use]
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let samples = self.counters();
        samples
            .iter()
            .filter(|sample| sample.is(name, labels))
            .map(|sample| sample.value)
            .sum()
    }

    /// Waits until [`Envoy::metric`] is `value`.
    #[track_caller]
    pub fn expect_metric(&self, name: &str, labels: &[(&str, &str)], value: u32) {
        let wanted = f64::from(value);
        #[allow(clippy::float_cmp)] // Counts are whole numbers, which f64 holds exactly.
        let equal = || (self.metric(name, labels) == wanted).then_some(());
        if within(PATIENCE, equal).is_none() {
            let family = self
                .counters()
                .into_iter()
                .filter(|sample| sample.name == name);
            let family: Vec<Sample> = family.collect();
            panic!("{name}{labels:?} should be {value}; there is {family:#?}");
        }
    }

    /// Waits until the requests that the filter decided are these, by reason, and no others: the
    /// sum of `quota_gate_requests` is the sum of `reasons`.
    #[track_caller]
    pub fn expect_decisions(&self, reasons: &[(&str, u32)]) {
        for (reason, count) in reasons {
            self.expect_metric("quota_gate_requests", &[("reason", reason)], *count);
        }
        let all = reasons.iter().map(|(_, count)| count).sum();
        self.expect_metric("quota_gate_requests", &[], all);
    }

    /// One of Envoy's own stats by its full name; `None` if there is none.
    #[must_use]
    #[track_caller]
    pub fn stat(&self, name: &str) -> Option<u64> {
        let text = self.admin_get("/stats").text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))?;
        line.parse().ok()
    }

    /// What Envoy and the filter have logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        read(&self.files.log)
    }

    /// The lines of the log that hold `part`.
    #[must_use]
    pub fn log_lines(&self, part: &str) -> Vec<String> {
        self.log()
            .lines()
            .filter(|line| line.contains(part))
            .map(str::to_owned)
            .collect()
    }

    /// Waits for a line of the log that holds `part`, and returns it.
    #[track_caller]
    pub fn expect_log_line(&self, part: &str) -> String {
        match within(PATIENCE, || self.log_lines(part).pop()) {
            Some(line) => line,
            None => panic!("no log line with `{part}`:\n{}", tail(&self.log())),
        }
    }

    /// The file of the access log, for who reads it as it grows: see [`LogEntry::parse`].
    #[must_use]
    pub fn access_log_file(&self) -> &Path {
        &self.files.access_log
    }

    /// The access log of the listener with the filter, so far.
    #[must_use]
    pub fn access_log(&self) -> Vec<LogEntry> {
        read(&self.files.access_log)
            .lines()
            .filter_map(LogEntry::parse)
            .collect()
    }

    /// Waits until the access log has `count` entries, expects no more, and returns them. A request
    /// is logged when its stream has ended, which may be after the client has its response.
    #[track_caller]
    pub fn expect_access_log(&self, count: usize) -> Vec<LogEntry> {
        let _ = within(PATIENCE, || {
            (self.access_log().len() >= count).then_some(())
        });
        let entries = self.access_log();
        assert_eq!(
            entries.len(),
            count,
            "entries of the access log: {entries:#?}"
        );
        entries
    }

    /// The memory that it has in RAM, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// What of it are pages of files: of its own program, above all. All Envoys of a machine share
    /// them, and the kernel may drop them.
    #[must_use]
    pub fn memory_of_files(&self) -> u64 {
        self.status_bytes("RssFile:")
    }

    fn status_bytes(&self, label: &str) -> u64 {
        let status = read(Path::new(&format!("/proc/{}/status", self.pid)));
        let line = status.lines().find_map(|line| line.strip_prefix(label));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        kib.unwrap_or(0_u64) * 1024
    }

    /// The same without the free pages that its allocator keeps: a single answer of 34 MB leaves as
    /// many behind, for good.
    #[must_use]
    pub fn memory_in_use(&self) -> u64 {
        let free = self.admin_get("/memory").json()["pageheap_free"]
            .as_str()
            .and_then(|bytes| bytes.parse().ok());
        self.memory_bytes().saturating_sub(free.unwrap_or(0_u64))
    }

    /// The CPU time that it has used, in user and kernel mode.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let stat = read(Path::new(&format!("/proc/{}/stat", self.pid)));
        // The name, in parentheses, may hold spaces; utime and stime are 11 and 12 fields after it.
        let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
        let ticks: u64 = after
            .split(' ')
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Duration::from_millis(ticks * 1000 / ticks_per_second())
    }

    /// The end of the log, for messages.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log())
    }
}

/// Lets Envoy judge any bootstrap (`--mode validate`): it loads the modules and configures the
/// plugins in it.
///
/// # Errors
/// If Envoy is not there.
pub fn validate(bootstrap: &str) -> anyhow::Result<Validation> {
    let (launch, _folder) = launch(bootstrap, 1)?;
    launch.validate()
}

fn launch(bootstrap: &str, concurrency: u32) -> anyhow::Result<(Launch, TempDir)> {
    let folder = TempDir::with_prefix("quota-gate-envoy-").context("make a folder")?;
    let launch = Launch {
        binary: binary()?,
        bootstrap: bootstrap.to_owned(),
        concurrency,
        folder: folder.path().to_owned(),
        wasm_log: "info".to_owned(),
    };
    Ok((launch, folder))
}

/// The Envoy to use: `QUOTA_GATE_ENVOY`, else `ENVOY_BIN`.
///
/// # Errors
/// If neither is set, with the command that sets it.
pub fn binary() -> anyhow::Result<PathBuf> {
    let found = std::env::var_os("QUOTA_GATE_ENVOY").or_else(|| std::env::var_os("ENVOY_BIN"));
    let found = found.filter(|path| !path.is_empty());
    found
        .map(PathBuf::from)
        .context("QUOTA_GATE_ENVOY is not set: run `cargo xtask test e2e`")
}

/// The version of the Envoy to use, `1.40.0`; it is asked once.
///
/// # Panics
/// If it is not there, or does not tell.
#[must_use]
pub fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(ask_version)
}

fn ask_version() -> String {
    let binary = binary().unwrap_or_else(|error| panic!("{error:#}"));
    let output = Command::new(&binary).arg("--version").output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
    // `<path>/envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = told
        .split_once("version: ")
        .and_then(|(_, version)| version.split('/').nth(1));
    version
        .unwrap_or_else(|| panic!("no version in `{told}`"))
        .to_owned()
}

/// The module to load: `QUOTA_GATE_WASM`.
///
/// # Errors
/// If it is not set, with the command that sets it.
pub fn module() -> anyhow::Result<PathBuf> {
    let found = std::env::var_os("QUOTA_GATE_WASM").filter(|path| !path.is_empty());
    found
        .map(PathBuf::from)
        .context("QUOTA_GATE_WASM is not set: run `cargo xtask test e2e`")
}

fn admin_get(admin: SocketAddr, path: &str) -> anyhow::Result<Response> {
    Request::new(admin, "GET", path)
        .deadline(ADMIN_LIMIT)
        .try_send()
}

/// The ports that Envoy took.
fn listeners(admin: SocketAddr) -> anyhow::Result<BTreeMap<String, SocketAddr>> {
    let response = admin_get(admin, "/listeners?format=json")?;
    let json: serde_json::Value = serde_json::from_slice(&response.body)?;
    let statuses = json["listener_statuses"]
        .as_array()
        .context("no listeners")?;
    let listener = |status: &serde_json::Value| {
        let socket = &status["local_address"]["socket_address"];
        let address = format!("{}:{}", socket["address"].as_str()?, socket["port_value"]);
        Some((status["name"].as_str()?.to_owned(), address.parse().ok()?))
    };
    Ok(statuses.iter().filter_map(listener).collect())
}

fn ticks_per_second() -> u64 {
    // SAFETY: sysconf only reads a constant of the system.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks)
        .ok()
        .filter(|ticks| *ticks > 0)
        .unwrap_or(100)
}

/// A file as text; empty while it is not there.
fn read(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// The access log's file name.
pub(crate) const ACCESS_LOG: &str = "access.log";

/// How long Envoy may take to start: half a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long the admin interface may take to answer: metrics wait for every worker, and a worker
/// with thousands of requests on a busy machine looks up seldom.
const ADMIN_LIMIT: Duration = Duration::from_secs(60);

/// As much of the log as a failed test shows.
const TAIL_LINES: usize = 60;
