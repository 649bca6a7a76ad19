//! Somebody else's server as a child process: its port, what it writes, and how it comes to harm.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context as _;
use socket2::Socket;
use tempfile::NamedTempFile;

use crate::child::Owned;
use crate::eventually::within;
use crate::server::{bound, lock};

/// A running program; dropping it ends the process.
#[derive(Debug)]
pub struct Program {
    name: String,
    process: Mutex<Owned>,
    output: NamedTempFile,
}

impl Program {
    /// Starts `command`; what it writes goes into a file, see [`Program::output`].
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let output = NamedTempFile::with_prefix("quota-gate-output-")?;
        let log = File::options().append(true).open(output.path())?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = Owned::spawn(command).with_context(|| format!("start {name}"))?;
        Ok(Self {
            name,
            process: Mutex::new(process),
            output,
        })
    }

    /// What it has written so far.
    #[must_use]
    pub fn output(&self) -> String {
        let bytes = fs::read(self.output.path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether it runs.
    #[must_use]
    pub fn alive(&self) -> bool {
        matches!(lock(&self.process).ended(), Ok(None))
    }

    /// Waits until somebody listens at `address`.
    ///
    /// # Panics
    /// If it ends before, or takes longer than a slow start; with what it has written.
    #[track_caller]
    pub fn expect_listening(&self, address: SocketAddr) -> &Self {
        let listening = || match TcpStream::connect(address) {
            Ok(_) => Some(true),
            Err(_) if self.alive() => None,
            Err(_) => Some(false),
        };
        let came = within(START_LIMIT, listening).unwrap_or(false);
        assert!(
            came,
            "{} does not listen at {address}:\n{}",
            self.name,
            self.output()
        );
        self
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&self) {
        lock(&self.process).kill();
    }

    /// Stops it where it stands: its connections stay open, and from now on nothing answers.
    pub fn freeze(&self) {
        lock(&self.process).stop();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        lock(&self.process).signal(libc::SIGCONT);
    }
}

/// A port of 127.0.0.1 that nobody else gets as long as this lives: it is bound, but nobody listens
/// there before a program does that is told to. Connecting is refused until then, and again when
/// the program has ended.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    _reserved: Socket,
}

impl Port {
    /// Takes a free one.
    ///
    /// # Errors
    /// If there is none.
    pub fn free() -> std::io::Result<Self> {
        let reserved = bound(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = reserved.local_addr()?.as_socket();
        Ok(Self {
            address: address.ok_or(std::io::ErrorKind::AddrNotAvailable)?,
            _reserved: reserved,
        })
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Longer than any server takes to come up on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);
