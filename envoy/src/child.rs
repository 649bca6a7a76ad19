//! A child process that can't outlive the test: killed on drop, and by the kernel if we die first.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{OnceLock, mpsc};

/// A running process; dropping it kills exactly that process and reaps it.
#[derive(Debug)]
pub(crate) struct Owned(Child);

impl Owned {
    /// Starts `command`.
    pub(crate) fn spawn(command: Command) -> io::Result<Self> {
        let (reply, answer) = mpsc::sync_channel(1);
        let lost = || io::Error::other("the thread that starts processes is gone");
        spawner()
            .send(Order { command, reply })
            .map_err(|_| lost())?;
        answer.recv().map_err(|_| lost())?.map(Self)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // Both fail only if the process has ended and was reaped, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Sends it a signal.
    pub(crate) fn signal(&mut self, signal: libc::c_int) {
        // A process that was reaped may have lent its number to another one.
        if let (Ok(None), Ok(pid)) = (self.ended(), libc::pid_t::try_from(self.pid())) {
            // SAFETY: kill takes numbers only, and the process is our own child.
            unsafe { libc::kill(pid, signal) };
        }
    }

    /// Stops it where it stands, and waits until it does: a signal is not obeyed at once, least of
    /// all by every thread.
    pub(crate) fn stop(&mut self) {
        self.signal(libc::SIGSTOP);
        let pid = libc::id_t::from(self.pid());
        // SAFETY: an all-zero siginfo_t is a valid value, and waitid only writes to it.
        unsafe {
            let mut info = std::mem::zeroed();
            let changes = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
            libc::waitid(libc::P_PID, pid, &raw mut info, changes);
        }
    }

    /// How it ended, or `None` while it runs.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Order {
    command: Command,
    reply: mpsc::SyncSender<io::Result<Child>>,
}

/// The kernel's parent-death signal fires when the *thread* that forked ends, and test threads end
/// early: so one thread, which lives as long as the process, starts all of them.
fn spawner() -> mpsc::Sender<Order> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let start = || {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for Order { command, reply } in inbox {
                let _ = reply.send(spawn_bound(command));
            }
        });
        orders
    };
    SPAWNER.get_or_init(start).clone()
}

fn spawn_bound(mut command: Command) -> io::Result<Child> {
    let parent = std::process::id();
    // SAFETY: between fork and exec only prctl and getppid are called, both async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above took effect.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            Ok(())
        });
    }
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventually::eventually;

    #[test]
    fn a_process_outlives_the_thread_that_asked_for_it_and_dies_on_drop() {
        let mut sleeper = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("60");
            Owned::spawn(command).expect("sleep starts")
        })
        .join()
        .expect("the thread ends well");
        assert!(sleeper.ended().expect("it can be asked").is_none());

        let state = format!("/proc/{}/stat", sleeper.pid());
        drop(sleeper);

        eventually("the process is gone", || {
            (!std::fs::exists(&state).ok()?).then_some(())
        });
    }

    #[test]
    fn a_process_that_is_stopped_stands_still_when_stop_returns() {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]);
        let mut busy = Owned::spawn(command).expect("a shell starts");
        let path = format!("/proc/{}/stat", busy.pid());
        let state = || {
            let stat = std::fs::read_to_string(&path).expect("it is there");
            stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next())
        };

        for _ in 0..50 {
            busy.stop();
            assert_eq!(state(), Some(Some('T')));
            busy.signal(libc::SIGCONT);
        }
    }
}
