//! What to measure and how, as `cargo xtask bench` tells it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// One run of the measurement.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The filter.
    pub(crate) module: PathBuf,
    /// The filter that does nothing.
    pub(crate) nothing: PathBuf,
    /// The filter that makes the host calls of a decision, and computes nothing.
    pub(crate) floor: PathBuf,
    pub(crate) rounds: usize,
    /// How long each chain is under load in a round, at each pace.
    pub(crate) duration: Duration,
    /// Requests a second where they are paced.
    pub(crate) rate: u32,
    /// Chains to measure besides those that all are compared with; none: all.
    pub(crate) only: Vec<String>,
    /// Other modules to measure.
    pub(crate) also: Vec<Also>,
    pub(crate) json: Option<PathBuf>,
    /// Where to put the picture, without an ending.
    pub(crate) plot: Option<PathBuf>,
    /// A page of the documentation to put the result into.
    pub(crate) publish: Option<Publish>,
    /// Whether to hold what was served to what it should be, and to judge no time.
    pub(crate) smoke: bool,
}

/// Where a result is published, and what stands beside it.
#[derive(Clone, Debug)]
pub(crate) struct Publish {
    pub(crate) page: PathBuf,
    /// What it was measured on.
    pub(crate) machine: String,
    /// The version of Envoy.
    pub(crate) envoy: String,
}

/// Another module, with its configuration.
#[derive(Clone, Debug)]
pub(crate) struct Also {
    pub(crate) name: String,
    pub(crate) module: PathBuf,
    pub(crate) configuration: String,
}

impl Plan {
    /// Reads a plan in JSON.
    ///
    /// # Errors
    /// A part is missing or of another type.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let json: Value = serde_json::from_str(text).context("the plan is no JSON")?;
        let path = |name: &str| json[name].as_str().map(PathBuf::from);
        let list = |name: &str| json[name].as_array().cloned().unwrap_or_default();
        let only = list("only");
        let also = list("also");
        Ok(Self {
            module: path("module").context("no module")?,
            nothing: path("nothing").context("no module that does nothing")?,
            floor: path("floor").context("no module that only makes host calls")?,
            rounds: usize::try_from(json["rounds"].as_u64().context("no rounds")?)?,
            duration: Duration::from_secs_f64(json["seconds"].as_f64().context("no seconds")?),
            rate: u32::try_from(json["rate"].as_u64().context("no rate")?)?,
            only: only
                .iter()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect(),
            also: also.iter().map(Also::read).collect::<Result<_>>()?,
            json: path("json"),
            plot: path("plot"),
            publish: Publish::read(&json["publish"])?,
            smoke: json["smoke"].as_bool().unwrap_or_default(),
        })
    }
}

impl Publish {
    fn read(json: &Value) -> Result<Option<Self>> {
        if json.is_null() {
            return Ok(None);
        }
        let text = |name: &str| {
            let text = json[name].as_str().map(str::to_owned);
            text.with_context(|| format!("a result to publish without {name}"))
        };
        Ok(Some(Self {
            page: text("page")?.into(),
            machine: text("machine")?,
            envoy: text("envoy")?,
        }))
    }
}

impl Also {
    fn read(json: &Value) -> Result<Self> {
        let text = |name: &str| {
            let text = json[name].as_str().map(str::to_owned);
            text.with_context(|| format!("another module without {name}"))
        };
        Ok(Self {
            name: text("name")?,
            module: text("module")?.into(),
            configuration: text("configuration")?,
        })
    }
}
