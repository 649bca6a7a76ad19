//! What the measurement needs of the machine: cores, CPU time to the nanosecond, who else is busy.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Which core is whose; `None` on a machine with one core alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    pub(crate) envoy: usize,
    pub(crate) load: usize,
}

impl Cores {
    /// The first and the last core that this process may run on.
    ///
    /// # Errors
    /// The kernel does not tell which those are.
    pub(crate) fn choose() -> Result<Option<Self>> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("which cores there are")?;
        let is_set = |core: &usize| allowed.is_set(*core).unwrap_or_default();
        let cores: Vec<usize> = (0..CpuSet::count()).filter(is_set).collect();
        Ok(match cores.as_slice() {
            [first, .., last] => Some(Self {
                envoy: *first,
                load: *last,
            }),
            _ => None,
        })
    }
}

/// Binds the calling thread, and every thread it starts from now on, to one core.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn pin_this_thread(core: usize) -> Result<()> {
    pin(Pid::from_raw(0), core)
}

/// Binds every thread of a process to one core.
///
/// # Errors
/// The process is not there, or the kernel refuses.
pub(crate) fn pin_process(pid: u32, core: usize) -> Result<()> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        if let Ok(thread) = task?.file_name().to_string_lossy().parse() {
            pin(Pid::from_raw(thread), core)?;
        }
    }
    Ok(())
}

fn pin(thread: Pid, core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(thread, &set).with_context(|| format!("pin a thread to core {core}"))
}

/// The CPU time that a process has used in user and kernel mode.
///
/// It is what `/proc/PID/stat` tells as utime and stime, but in nanoseconds and not in hundredths
/// of a second.
///
/// # Errors
/// The process is not there.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let pid = Pid::from_raw(pid.try_into()?);
    let clock = ClockId::pid_cpu_clock_id(pid).context("the process' clock")?;
    Ok(clock_gettime(clock).context("the process' clock")?.into())
}

/// The CPU time that everybody on this machine has used so far, and that a hypervisor took.
pub(crate) fn busy_time() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let fields = line.split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user time.
    let busy: u64 = [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|field| ticks.get(*field))
        .sum();
    Duration::from_millis(busy * 1000 / TICKS_PER_SECOND)
}

/// The mean number of tasks that wanted to run in the last minute.
pub(crate) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().unwrap_or_default()
}

/// The same on every Linux that anybody runs.
const TICKS_PER_SECOND: u64 = 100;
