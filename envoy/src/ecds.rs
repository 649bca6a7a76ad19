//! The plugin configuration delivered by ECDS: a file that Envoy watches.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use serde_json::Value;

use crate::bootstrap::{FILTER, ecds_file, wasm};
use crate::envoy::Envoy;
use crate::eventually::{PATIENCE, within};

/// What Envoy made of a pushed configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Push {
    /// It is in use.
    Accepted,
    /// The old one goes on; with what was logged since the push.
    Rejected(String),
}

/// The watched file, and what goes into it besides the plugin configuration.
pub(crate) struct Ecds {
    file: PathBuf,
    module: Option<PathBuf>,
    /// Laid over the wasm `PluginConfig`.
    patch: Value,
    version: AtomicU64,
}

impl Ecds {
    /// A file in `folder`, which is not there until it is written.
    pub(crate) fn new(folder: &Path, module: Option<&Path>, patch: &Value) -> Self {
        Self {
            file: folder.join("ecds.json"),
            module: module.map(Path::to_owned),
            patch: patch.clone(),
            version: AtomicU64::new(1),
        }
    }

    /// The file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Puts a plugin configuration in place, by a rename: that is what Envoy watches for.
    pub(crate) fn write(&self, plugin: &Value) -> anyhow::Result<()> {
        let config = wasm(plugin, self.module.as_deref(), &self.patch);
        let content = ecds_file(&config, self.version.fetch_add(1, Ordering::Relaxed));
        let next = self.file.with_extension("next");
        fs::write(&next, content).context("write the ECDS file")?;
        fs::rename(&next, &self.file).context("put the ECDS file in place")
    }

    /// Puts a plugin configuration in place and waits for what `envoy` makes of it.
    #[track_caller]
    pub(crate) fn push(&self, envoy: &Envoy, plugin: &Value) -> Push {
        let before = Outcome::of(envoy);
        let logged = envoy.log().len();
        self.write(plugin).expect("the ECDS file is written");
        let push = within(PATIENCE, || {
            let after = Outcome::of(envoy);
            if after.failures > before.failures {
                let log = envoy.log();
                return Some(Push::Rejected(
                    log.get(logged..).unwrap_or_default().to_owned(),
                ));
            }
            (after.reloads > before.reloads).then_some(Push::Accepted)
        });
        push.unwrap_or_else(|| {
            let stats = envoy.admin_get("/stats?filter=extension_config").text();
            panic!(
                "Envoy did not notice the push:\n{stats}{}",
                envoy.log_tail()
            )
        })
    }
}

/// How many pushes Envoy has taken and refused.
struct Outcome {
    failures: u64,
    reloads: u64,
}

impl Outcome {
    fn of(envoy: &Envoy) -> Self {
        let stat = |name: &str| {
            let name = format!("extension_config_discovery.http_filter.{FILTER}.{name}");
            envoy.stat(&name).unwrap_or(0)
        };
        Self {
            failures: stat("config_fail") + stat("update_rejected"),
            reloads: stat("config_reload"),
        }
    }
}
