//! Books on Redis, which several backends share: what one of them charges, all of them know.
//!
//! Which limits apply to whom is limitador's, as in memory; the counters are ours, for two reasons.
//! limitador 0.14 has no Redis without `RocksDB`, and what it does there reads first and adds then,
//! so that backends which ask at the same time can give more than there is. Here one script reads,
//! decides and adds, and nothing can come between.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use limitador::counter::Counter;
use limitador::errors::LimitadorError;
use limitador::limit::{Limit, Namespace};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands as _, Client, Commands as _, RedisError, Script};

use crate::books::{Charge, Count, Descriptor, context, count};
use crate::program::{Port, Program};

/// Limits whose counters are on Redis.
pub(crate) struct Shared {
    connection: ConnectionManager,
    limits: Vec<Arc<Limit>>,
    charge: Script,
}

/// The books can't be read or written.
#[derive(Debug)]
pub(crate) struct Lost;

impl From<LimitadorError> for Lost {
    fn from(_: LimitadorError) -> Self {
        Self
    }
}

impl From<RedisError> for Lost {
    fn from(_: RedisError) -> Self {
        Self
    }
}

impl Shared {
    /// Connects to the Redis at `url`, for these limits; their counters may be there already.
    pub(crate) async fn open(url: &str, limits: Vec<Limit>) -> anyhow::Result<Self> {
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let client = Client::open(url)?;
        let connection = ConnectionManager::new_with_config(client, config).await?;
        Ok(Self {
            connection,
            limits: limits.into_iter().map(Arc::new).collect(),
            charge: Script::new(CHARGE),
        })
    }

    /// Charges `cost`, or else what remains if that is at least `least`, or else nothing.
    pub(crate) async fn charge(
        &self,
        namespace: &str,
        descriptor: &Descriptor,
        cost: u64,
        least: u64,
    ) -> Result<Charge, Lost> {
        let (granted, counts) = self.run(namespace, descriptor, cost, least).await?;
        Ok(Charge {
            granted: granted.unwrap_or(0),
            denied: granted.is_none(),
            counts,
        })
    }

    /// Says whether `cost` more would be denied; charges nothing.
    pub(crate) async fn would_deny(
        &self,
        namespace: &str,
        descriptor: &Descriptor,
        cost: u64,
    ) -> Result<bool, Lost> {
        let (_, counts) = self.run(namespace, descriptor, 0, 0).await?;
        Ok(counts.iter().any(|count| count.remaining < cost))
    }

    /// Counts `cost`, whatever the limits say.
    pub(crate) async fn report(
        &self,
        namespace: &str,
        descriptor: &Descriptor,
        cost: u64,
    ) -> Result<(), Lost> {
        let mut connection = self.connection.clone();
        for counter in self.counters(namespace, descriptor)? {
            let key = key(&counter);
            let used: u64 = connection.incr(&key, cost).await?;
            if used == cost {
                let seconds = i64::try_from(counter.window().as_secs()).unwrap_or(i64::MAX);
                let _: () = connection.expire(&key, seconds).await?;
            }
        }
        Ok(())
    }

    /// The units granted, if they are, and the limits that apply, the tightest first.
    async fn run(
        &self,
        namespace: &str,
        descriptor: &Descriptor,
        cost: u64,
        least: u64,
    ) -> Result<(Option<u64>, Vec<Count>), Lost> {
        let mut counters = self.counters(namespace, descriptor)?;
        if counters.is_empty() {
            return Ok((Some(cost), Vec::new()));
        }
        let mut call = self.charge.prepare_invoke();
        // With no least there is nothing but the cost.
        let least = if least == 0 { cost } else { least.min(cost) };
        call.arg(cost).arg(least);
        for counter in &counters {
            call.key(key(counter));
            call.arg(counter.max_value())
                .arg(counter.window().as_millis() as u64);
        }
        let told: Vec<i64> = call.invoke_async(&mut self.connection.clone()).await?;
        let (granted, states) = told.split_first().ok_or(Lost)?;
        for (counter, state) in counters.iter_mut().zip(states.chunks(2)) {
            let [remaining, millis] = state else {
                return Err(Lost);
            };
            counter.set_remaining(u64::try_from(*remaining).unwrap_or(0));
            counter.set_expires_in(Duration::from_millis(u64::try_from(*millis).unwrap_or(0)));
        }
        let mut counts: Vec<Count> = counters.iter().map(count).collect();
        counts.sort_by_key(|count| count.remaining);
        Ok((u64::try_from(*granted).ok(), counts))
    }

    /// The counters of the limits that apply.
    fn counters(&self, namespace: &str, descriptor: &Descriptor) -> Result<Vec<Counter>, Lost> {
        let namespace = Namespace::from(namespace.to_owned());
        let context = context(descriptor);
        let ours = self
            .limits
            .iter()
            .filter(|limit| *limit.namespace() == namespace && limit.applies(&context));
        ours.filter_map(|limit| Counter::new(Arc::clone(limit), &context).transpose())
            .map(|counter| counter.map_err(Lost::from))
            .collect()
    }
}

/// Where a counter is: the limit, and whose it is of those that the limit counts apart.
fn key(counter: &Counter) -> String {
    let limit = counter.limit();
    // Sorted: each process has an order of its own for a set.
    let conditions: BTreeSet<String> = limit.conditions().into_iter().collect();
    let whose = counter.set_variables();
    let window = counter.window().as_secs();
    let namespace = counter.namespace().as_ref();
    format!("{PREFIX}{{{namespace}}}:{window}:{conditions:?}:{whose:?}")
}

/// A real Redis on a port of its own, which keeps nothing when it ends.
#[derive(Debug)]
pub struct Redis {
    port: Port,
    program: Program,
}

impl Redis {
    /// Starts the `redis-server` that `QUOTA_GATE_REDIS` names.
    ///
    /// # Errors
    /// If there is none, or it does not start.
    pub fn start() -> anyhow::Result<Self> {
        let port = Port::free()?;
        let program = launch(&port)?;
        Ok(Self { port, program })
    }

    /// What backends connect to.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}/", self.port.address())
    }

    /// The process: killed, frozen, thawed.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Starts it again, empty, where it was.
    ///
    /// # Errors
    /// If it does not start.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.program.kill();
        self.program = launch(&self.port)?;
        Ok(())
    }

    /// The units in all books, as they are in Redis.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    #[track_caller]
    pub fn used(&self) -> u64 {
        let used = || -> redis::RedisResult<u64> {
            let mut connection = Client::open(self.url())?.get_connection()?;
            let counters: Vec<String> = connection.keys(format!("{PREFIX}*"))?;
            let mut sum = 0;
            for counter in counters {
                sum += connection.get::<_, Option<u64>>(counter)?.unwrap_or(0);
            }
            Ok(sum)
        };
        used().expect("Redis answers")
    }
}

fn launch(port: &Port) -> anyhow::Result<Program> {
    let binary = std::env::var_os("QUOTA_GATE_REDIS").context(
        "QUOTA_GATE_REDIS says which redis-server to run; `cargo xtask test distributed` sets it",
    )?;
    let mut command = Command::new(binary);
    command
        .args(["--bind", "127.0.0.1", "--port"])
        .arg(port.address().port().to_string())
        .args(["--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(std::env::temp_dir());
    let program = Program::start(command)?;
    program.expect_listening(port.address());
    Ok(program)
}

/// What every counter's key begins with.
const PREFIX: &str = "quota:";

/// How long Redis may take for anything.
const PATIENCE: Duration = Duration::from_millis(250);

/// `KEYS`: the counters. `ARGV`: the cost, the least that will do, then each counter's limit and
/// its window in milliseconds. Returns the units granted, or -1; then what remains of each counter,
/// and for how many milliseconds it counts.
const CHARGE: &str = "
local granted = tonumber(ARGV[1])
local used = {}
for i, key in ipairs(KEYS) do
  used[i] = tonumber(redis.call('GET', key) or '0')
  granted = math.min(granted, tonumber(ARGV[2 * i + 1]) - used[i])
end
if granted < tonumber(ARGV[2]) then
  granted = -1
end
local told = {granted}
for i, key in ipairs(KEYS) do
  if granted > 0 then
    used[i] = redis.call('INCRBY', key, granted)
  end
  local left = redis.call('PTTL', key)
  if granted > 0 and left < 0 then
    redis.call('PEXPIRE', key, ARGV[2 * i + 2])
  end
  table.insert(told, math.max(tonumber(ARGV[2 * i + 1]) - used[i], 0))
  table.insert(told, left >= 0 and left or tonumber(ARGV[2 * i + 2]))
end
return told
";
