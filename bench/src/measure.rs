//! One chain in one round: a fresh Envoy, a warm-up, bursts in turn with the others, and what it
//! took.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use envoy_harness::Envoy;
use envoy_harness::eventually::within;

use crate::bootstrap::{LISTENER, bootstrap};
use crate::chain::Chain;
use crate::load::{Load, Outcome, Pace};
use crate::machine::{self, Cores};
use crate::servers::Servers;

/// What was measured of a chain in a round.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Every connection busy all the time.
    pub(crate) flat: Phase,
    /// At a fixed rate.
    pub(crate) paced: Phase,
    /// Requests that were not let through, warm-up included.
    pub(crate) refused: u64,
    /// Requests that the filter gave the chain's reason, warm-up included, and all it decided.
    pub(crate) reasons: Option<(u64, u64)>,
    /// Requests that were settled by what their responses told, warm-up included; `None` where
    /// none is to be settled.
    pub(crate) settled: Option<u64>,
    /// Requests that the upstream saw, warm-up included, and all that were answered.
    pub(crate) upstream: (u64, u64),
    /// The memory that Envoy has in RAM, in bytes.
    pub(crate) memory: u64,
}

/// What was measured under one load.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    /// Requests answered.
    pub(crate) requests: u64,
    /// Requests answered in a second.
    pub(crate) throughput: f64,
    /// Microseconds of Envoy's CPU time per request.
    pub(crate) cpu_us: f64,
    /// Checks that reached the backend per 1,000 requests.
    pub(crate) checks: f64,
    /// Milliseconds from the time to send to the end of the answer: half, 99 %, 99.9 %, all.
    pub(crate) latency_ms: [f64; 4],
    /// How much of a core everybody else on the machine used meanwhile.
    pub(crate) others: f64,
}

/// What all measurements have in common.
pub(crate) struct Bench {
    pub(crate) servers: Servers,
    pub(crate) cores: Option<Cores>,
    pub(crate) duration: Duration,
    /// Requests a second where they are paced.
    pub(crate) rate: u32,
}

/// A chain in a round: its Envoy, which stays, and what it has served.
pub(crate) struct Stand<'a> {
    bench: &'a Bench,
    chain: &'a Chain,
    envoy: Envoy,
    load: Load,
    flat: Sum,
    /// Requests answered, refused, and seen by the upstream, warm-up included.
    answered: u64,
    refused: u64,
    seen: u64,
}

impl<'a> Stand<'a> {
    /// A fresh Envoy, warm.
    ///
    /// # Errors
    /// Envoy does not start, or does not answer.
    pub(crate) fn new(bench: &'a Bench, chain: &'a Chain) -> Result<Self> {
        let envoy = bench.start(chain, 1)?;
        let load = load(&envoy, tenants())?;
        let mut stand = Self {
            bench,
            chain,
            envoy,
            load,
            flat: Sum::new()?,
            answered: 0,
            refused: 0,
            seen: 0,
        };
        stand.warm(WARM_UP)?;
        Ok(stand)
    }

    /// One of so many bursts with every connection busy, after a while that does not count: leases
    /// and remembered answers may have ended since the last one.
    ///
    /// # Errors
    /// Envoy does not answer.
    pub(crate) fn burst(&mut self, bursts: u32) -> Result<()> {
        self.warm(LEAD_IN)?;
        let duration = self.bench.duration / bursts;
        let burst = self.counted(|stand| {
            let (bench, envoy) = (stand.bench, &stand.envoy);
            bench.run(envoy, &mut stand.load, Pace::Flat, duration)
        })?;
        self.flat.add(&burst)
    }

    /// The load at a fixed rate, and then what all of it came to.
    ///
    /// # Errors
    /// Envoy does not answer.
    pub(crate) fn finish(mut self) -> Result<Sample> {
        self.warm(LEAD_IN)?;
        let (rate, duration) = (Pace::Rate(self.bench.rate), self.bench.duration);
        let paced = self.counted(|stand| {
            let (bench, envoy) = (stand.bench, &stand.envoy);
            bench.run(envoy, &mut stand.load, rate, duration)
        })?;
        let (chain, envoy, answered) = (self.chain, &self.envoy, self.answered);
        Ok(Sample {
            flat: self.flat.phase(),
            paced: paced.phase(),
            refused: self.refused,
            reasons: chain.reason.map(|reason| reasons(envoy, reason, answered)),
            settled: chain.settles.then(|| settled(envoy, answered)),
            upstream: (self.seen, answered),
            memory: envoy.memory_bytes(),
        })
    }

    fn warm(&mut self, duration: Duration) -> Result<()> {
        let warm = |stand: &mut Self| {
            let (bench, envoy) = (stand.bench, &stand.envoy);
            bench.run(envoy, &mut stand.load, Pace::Flat, duration)
        };
        self.counted(warm).context("while warming up").map(drop)
    }

    fn counted(&mut self, run: impl FnOnce(&mut Self) -> Result<Sum>) -> Result<Sum> {
        let upstream = self.bench.servers.upstream.seen();
        let sum = run(self)?;
        if self.chain.settles {
            // What it has to report yet must not be counted as the next chain's.
            thread::sleep(REPORTED);
        }
        self.seen += self.bench.servers.upstream.seen() - upstream;
        self.answered += sum.outcome.answered;
        self.refused += sum.outcome.refused;
        Ok(sum)
    }
}

impl Bench {
    /// An Envoy with this chain, on its core.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(&self, chain: &Chain, workers: u32) -> Result<Envoy> {
        let envoy = Envoy::start(&bootstrap(chain, &self.servers), workers)?;
        if let Some(cores) = self.cores {
            machine::pin_process(envoy.pid(), cores.envoy)?;
        }
        Ok(envoy)
    }

    /// Measures an Envoy under one load.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) fn phase(
        &self,
        envoy: &Envoy,
        load: &mut Load,
        pace: Pace,
    ) -> Result<(Phase, Outcome)> {
        let sum = self.run(envoy, load, pace, self.duration)?;
        Ok((sum.phase(), sum.outcome))
    }

    fn run(&self, envoy: &Envoy, load: &mut Load, pace: Pace, duration: Duration) -> Result<Sum> {
        let checks = self.checks();
        let others = Others::new(envoy.pid())?;
        let cpu = machine::cpu_time(envoy.pid())?;
        let outcome = load.run(pace, duration)?;
        Ok(Sum {
            cpu: machine::cpu_time(envoy.pid())? - cpu,
            others: others.busy()?,
            checks: self.checks() - checks,
            outcome,
        })
    }

    fn checks(&self) -> u64 {
        self.servers.backend.checks() + self.servers.hangs.seen()
    }
}

/// What was measured in one or more bursts, not yet set in relation.
struct Sum {
    cpu: Duration,
    /// What everybody else used meanwhile.
    others: Duration,
    checks: u64,
    outcome: Outcome,
}

impl Sum {
    fn new() -> Result<Self> {
        Ok(Self {
            cpu: Duration::ZERO,
            others: Duration::ZERO,
            checks: 0,
            outcome: Outcome::new()?,
        })
    }

    fn add(&mut self, more: &Self) -> Result<()> {
        self.cpu += more.cpu;
        self.others += more.others;
        self.checks += more.checks;
        self.outcome.add(&more.outcome)
    }

    fn phase(&self) -> Phase {
        let outcome = &self.outcome;
        let requests = outcome.answered;
        let seconds = outcome.took.as_secs_f64();
        let quantile = |of: f64| outcome.latency.value_at_quantile(of) as f64 / 1e6;
        Phase {
            requests,
            throughput: requests as f64 / seconds,
            cpu_us: self.cpu.as_secs_f64() * 1e6 / requests as f64,
            checks: self.checks as f64 * 1000.0 / requests as f64,
            latency_ms: [0.5, 0.99, 0.999, 1.0].map(quantile),
            others: self.others.as_secs_f64() / seconds,
        }
    }
}

/// How many requests the filter gave this reason, and all, when it has counted `expected`.
fn reasons(envoy: &Envoy, reason: &str, expected: u64) -> (u64, u64) {
    let all = || envoy.metric("quota_gate_requests", &[]) as u64;
    // The counters are there at the next tick.
    let _in_time = within(COUNTED, || (all() == expected).then_some(()));
    let these = envoy.metric("quota_gate_requests", &[("reason", reason)]);
    (these as u64, all())
}

/// How many requests the filter settled by what their responses told, when it has counted
/// `expected`.
fn settled(envoy: &Envoy, expected: u64) -> u64 {
    let measured = [("result", "measured")];
    let settled = || envoy.metric("quota_gate_settlements", &measured) as u64;
    let _in_time = within(COUNTED, || (settled() == expected).then_some(()));
    settled()
}

/// Who else uses the machine while something is measured.
struct Others {
    pid: u32,
    busy: Duration,
    ours: Duration,
}

impl Others {
    fn new(pid: u32) -> Result<Self> {
        Ok(Self {
            pid,
            busy: machine::busy_time(),
            ours: Self::ours(pid)?,
        })
    }

    fn ours(pid: u32) -> Result<Duration> {
        Ok(machine::cpu_time(pid)? + machine::cpu_time(std::process::id())?)
    }

    fn busy(&self) -> Result<Duration> {
        let busy = machine::busy_time().saturating_sub(self.busy);
        let ours = Self::ours(self.pid)?.saturating_sub(self.ours);
        Ok(busy.saturating_sub(ours))
    }
}

/// Connections to an Envoy, with requests of these tenants in turn, as browsers and gateways send
/// them.
///
/// # Errors
/// Envoy takes no connection.
pub(crate) fn load(envoy: &Envoy, tenants: impl IntoIterator<Item = String>) -> Result<Load> {
    let request = |tenant| {
        format!(
            "GET /v1/items?page=2 HTTP/1.1\r\n\
             host: api.example.com\r\n\
             user-agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
             accept: application/json\r\n\
             accept-encoding: gzip, br\r\n\
             x-tenant-id: {tenant}\r\n\r\n"
        )
    };
    let tenants = tenants.into_iter();
    let requests = tenants.map(|tenant| request(tenant).into_bytes()).collect();
    Load::connect(envoy.listener(LISTENER), CONNECTIONS, requests)
}

/// Who is asking where no key is hot.
pub(crate) fn tenants() -> impl Iterator<Item = String> {
    (0..TENANTS).map(|tenant| format!("tenant-{tenant}"))
}

/// Connections of the load, in every chain.
pub(crate) const CONNECTIONS: usize = 16;

/// Who is asking, in turn.
pub(crate) const TENANTS: usize = 16;

/// Long enough for connections, caches and leases to be there, and for v8 to have compiled.
pub(crate) const WARM_UP: Duration = Duration::from_millis(1000);

/// How long a burst is to be: short, so that whatever drifts on the machine meets all chains alike.
pub(crate) const BURST: Duration = Duration::from_millis(250);

/// Three ticks, after which nothing is left to report.
const REPORTED: Duration = Duration::from_millis(60);

/// Before each burst: enough for a lease or an answer to be there again.
const LEAD_IN: Duration = Duration::from_millis(250);

/// The longest that counters may take to show.
const COUNTED: Duration = Duration::from_secs(3);
