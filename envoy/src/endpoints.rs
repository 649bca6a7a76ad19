//! Endpoints that come and go: a file that Envoy watches (EDS).

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The endpoints of one cluster; see [`Cluster::endpoints_from`](crate::Cluster::endpoints_from).
#[derive(Debug)]
pub struct Endpoints {
    cluster: String,
    file: PathBuf,
    _folder: TempDir,
    version: AtomicU64,
}

impl Endpoints {
    /// The endpoints of `cluster`, to begin with these.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn new(cluster: &str, endpoints: &[SocketAddr]) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("quota-gate-endpoints-").context("make a folder")?;
        let endpoints_of = Self {
            cluster: cluster.to_owned(),
            file: folder.path().join("eds.json"),
            _folder: folder,
            version: AtomicU64::new(1),
        };
        endpoints_of.set(endpoints)?;
        Ok(endpoints_of)
    }

    /// Puts others in their place, none perhaps. Envoy takes them a moment later.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn set(&self, endpoints: &[SocketAddr]) -> anyhow::Result<()> {
        let endpoints: Vec<(String, u16)> = endpoints
            .iter()
            .map(|address| (address.ip().to_string(), address.port()))
            .collect();
        let mut resource = assignment(&self.cluster, &endpoints);
        resource["@type"] = json!(ASSIGNMENT_TYPE);
        let version = self.version.fetch_add(1, Ordering::Relaxed).to_string();
        let content = json!({"version_info": version, "resources": [resource]});
        let next = self.file.with_extension("next");
        fs::write(&next, content.to_string()).context("write the endpoints' file")?;
        // Envoy watches for renames.
        fs::rename(&next, &self.file).context("put the endpoints' file in place")
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }
}

/// Envoy's `ClusterLoadAssignment`.
pub(crate) fn assignment(cluster: &str, endpoints: &[(String, u16)]) -> Value {
    let endpoint = |(host, port): &(String, u16)| {
        let address = json!({"socket_address": {"address": host, "port_value": port}});
        json!({"endpoint": {"address": address}})
    };
    let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
    json!({"cluster_name": cluster, "endpoints": [{"lb_endpoints": endpoints}]})
}

const ASSIGNMENT_TYPE: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
