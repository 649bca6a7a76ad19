//! A quota backend as a process of its own, with its books on Redis.
//!
//! `quota-backend ADDRESS REDIS CONDITIONS MAX SECONDS`, for example
//! `quota-backend 127.0.0.1:9000 redis://127.0.0.1/ tenant=acme 10 60`.

use std::time::Duration;

use anyhow::{Context as _, bail};
use envoy_harness::Backend;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, redis, conditions, max, seconds] = arguments.as_slice() else {
        bail!("usage: quota-backend ADDRESS REDIS CONDITIONS MAX SECONDS");
    };
    let address = address.parse().context("ADDRESS")?;
    let window = Duration::from_secs(seconds.parse().context("SECONDS")?);
    let limit = (conditions.as_str(), max.parse().context("MAX")?, window);
    let _backend = Backend::start_on_redis(address, redis, limit)?;
    loop {
        std::thread::park();
    }
}
