//! The load: keep-alive connections from one thread, as lean as can be.
//!
//! It shares its core with the servers, so what it does for a request is a write, a read, a look at
//! the answer's head and one number kept. At a fixed rate each request has its time to be sent, and
//! its latency counts from then, also when every connection was busy: a slow answer can't hide the
//! requests that had to wait for it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::os::fd::{AsFd, AsRawFd};

/// Connections to one listener, and the requests to send over them in turn.
pub(crate) struct Load {
    poll: Poll,
    connections: Vec<Connection>,
    requests: Vec<Vec<u8>>,
    next: usize,
}

/// What came of a load.
pub(crate) struct Outcome {
    /// Requests answered.
    pub(crate) answered: u64,
    /// Those of them whose status was not 200.
    pub(crate) refused: u64,
    /// From the first request to the last answer.
    pub(crate) took: Duration,
    /// In nanoseconds; from the time a request was to be sent to the end of its answer.
    pub(crate) latency: Histogram<u64>,
}

/// How requests are paced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// Each connection sends the next one as soon as it has its answer.
    Flat,
    /// So many a second, over all connections.
    Rate(u32),
}

struct Connection {
    stream: TcpStream,
    /// What was read of an answer so far.
    read: Vec<u8>,
    /// When the request in flight was to be sent.
    due: Option<Instant>,
}

impl Load {
    /// Connects; `requests` are complete HTTP/1.1 requests without a body.
    ///
    /// # Errors
    /// A connection can't be made.
    pub(crate) fn connect(to: SocketAddr, count: usize, requests: Vec<Vec<u8>>) -> Result<Self> {
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(count);
        for index in 0..count {
            let stream = std::net::TcpStream::connect(to).context("connect to Envoy")?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            let registry = poll.registry();
            registry.register(&mut stream, Token(index), Interest::READABLE)?;
            connections.push(Connection {
                stream,
                read: Vec::with_capacity(READ_BYTES),
                due: None,
            });
        }
        Ok(Self {
            poll,
            connections,
            requests,
            next: 0,
        })
    }

    /// Sends requests for `duration` and waits for the last answer.
    ///
    /// # Errors
    /// A connection breaks, an answer can't be read, or one does not come.
    pub(crate) fn run(&mut self, pace: Pace, duration: Duration) -> Result<Outcome> {
        let started = Instant::now();
        let mut run = Run {
            load: self,
            pace,
            started,
            ends: started + duration,
            idle: VecDeque::new(),
            sent: 0,
            outcome: Outcome::new()?,
        };
        run.go()?;
        Ok(run.outcome)
    }
}

impl Outcome {
    /// Adds what came of another load.
    ///
    /// # Errors
    /// Never: all histograms have the same bounds.
    pub(crate) fn add(&mut self, more: &Self) -> Result<()> {
        self.answered += more.answered;
        self.refused += more.refused;
        self.took += more.took;
        self.latency.add(&more.latency)?;
        Ok(())
    }

    /// Nothing yet.
    ///
    /// # Errors
    /// Never: the histogram's bounds are sound.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            answered: 0,
            refused: 0,
            took: Duration::ZERO,
            latency: Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 3)?,
        })
    }
}

/// One load while it lasts.
struct Run<'a> {
    load: &'a mut Load,
    pace: Pace,
    started: Instant,
    ends: Instant,
    /// Connections without a request in flight, the longest idle first.
    idle: VecDeque<usize>,
    sent: u64,
    outcome: Outcome,
}

impl Run<'_> {
    fn go(&mut self) -> Result<()> {
        self.idle.extend(0..self.load.connections.len());
        let timer = self.timer()?;
        let mut events = Events::with_capacity(EVENTS_AT_ONCE);
        self.send_due(Instant::now())?;
        while self.idle.len() < self.load.connections.len() || Instant::now() < self.ends {
            match self.load.poll.poll(&mut events, Some(PATIENCE)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            if Instant::now() > self.ends + PATIENCE {
                bail!(
                    "{} requests got no answer",
                    self.sent - self.outcome.answered
                );
            }
            for event in &events {
                match event.token() {
                    TIMER => drop(timer.as_ref().map(TimerFd::wait)),
                    Token(index) => self.receive(index)?,
                }
            }
            self.send_due(Instant::now())?;
        }
        if let Some(timer) = &timer {
            let source = timer.as_fd().as_raw_fd();
            self.load
                .poll
                .registry()
                .deregister(&mut SourceFd(&source))?;
        }
        self.outcome.took = self.started.elapsed();
        Ok(())
    }

    /// Fires whenever a request is due; a timeout of poll would be too coarse for that.
    fn timer(&self) -> Result<Option<TimerFd>> {
        let Pace::Rate(rate) = self.pace else {
            return Ok(None);
        };
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        let every = TimeSpec::from_duration(Duration::from_secs(1) / rate.max(1));
        timer.set(Expiration::Interval(every), TimerSetTimeFlags::empty())?;
        let source = timer.as_fd().as_raw_fd();
        let registry = self.load.poll.registry();
        registry.register(&mut SourceFd(&source), TIMER, Interest::READABLE)?;
        Ok(Some(timer))
    }

    /// Sends what is due by `now`, as far as connections are idle.
    fn send_due(&mut self, now: Instant) -> Result<()> {
        while let Some(due) = self.due(now) {
            let Some(index) = self.idle.pop_front() else {
                return Ok(());
            };
            let load = &mut *self.load;
            let request = &load.requests[load.next % load.requests.len()];
            load.next += 1;
            let connection = &mut load.connections[index];
            let written = connection.stream.write(request).context("write to Envoy")?;
            if written < request.len() {
                bail!("Envoy takes only a part of a request");
            }
            connection.due = Some(due);
            self.sent += 1;
        }
        Ok(())
    }

    /// When the next request was to be sent, if that is not after `now`.
    fn due(&self, now: Instant) -> Option<Instant> {
        let due = match self.pace {
            Pace::Flat => now,
            Pace::Rate(rate) => {
                let nanos = u128::from(self.sent) * 1_000_000_000 / u128::from(rate.max(1));
                self.started + Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX))
            }
        };
        (due <= now && due < self.ends).then_some(due)
    }

    fn receive(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.load.connections[index];
        let Some(status) = connection.answer()? else {
            return Ok(());
        };
        let due = connection
            .due
            .take()
            .context("an answer without a request")?;
        let nanos = due.elapsed().as_nanos().try_into().unwrap_or(u64::MAX);
        self.outcome.latency.saturating_record(nanos);
        self.outcome.answered += 1;
        self.outcome.refused += u64::from(status != 200);
        self.idle.push_back(index);
        Ok(())
    }
}

impl Connection {
    /// The status of the answer, when it is all there.
    fn answer(&mut self) -> Result<Option<u16>> {
        let mut bytes = [0; READ_BYTES];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => bail!("Envoy has closed a connection"),
                Ok(count) => self.read.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error).context("read from Envoy"),
            }
            // Edges are what is told of: after a whole answer nothing more is there to be read.
            if let Some((status, length)) = whole(&self.read)? {
                if length != self.read.len() {
                    bail!("Envoy sends more than it was asked for");
                }
                self.read.clear();
                return Ok(Some(status));
            }
        }
    }
}

/// Status and length of the answer at the start of `bytes`; `None` while a part is missing.
fn whole(bytes: &[u8]) -> Result<Option<(u16, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes)? else {
        return Ok(None);
    };
    let status = response.code.context("an answer without a status")?;
    let mut fields = response.headers.iter();
    let field = fields.find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let body = match field {
        Some(field) => std::str::from_utf8(field.value)?.trim().parse::<usize>()?,
        None => bail!("an answer of {status} without content-length"),
    };
    Ok((bytes.len() >= head + body).then_some((status, head + body)))
}

const TIMER: Token = Token(usize::MAX);

/// Above any answer here, so that one read gets it whole.
const READ_BYTES: usize = 4096;

const HEADERS_MAX: usize = 48;

const EVENTS_AT_ONCE: usize = 64;

/// How long an answer may take at most; every chain's timeouts are far below it.
const PATIENCE: Duration = Duration::from_secs(5);

const LATENCY_NANOS_MAX: u64 = 60_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_last_byte() {
        let answer = b"HTTP/1.1 429 Too Many\r\nContent-Length: 3\r\nx: y\r\n\r\nabc";
        assert_eq!(whole(answer).unwrap(), Some((429, answer.len())));
        for length in 0..answer.len() {
            assert_eq!(whole(&answer[..length]).unwrap(), None, "{length}");
        }
        assert!(whole(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(whole(b"SMTP\r\n\r\n").is_err());
    }
}
