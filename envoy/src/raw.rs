//! A client without manners: any bytes, half-closed sockets, CONNECT, upgrades, early leavers.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use socket2::SockRef;

use crate::eventually::now;
use crate::response::{Response, values};

/// A TCP connection on which a test writes and reads bytes by hand.
#[derive(Debug)]
pub struct Raw {
    socket: TcpStream,
    /// What was read from the socket and not yet taken.
    unread: Vec<u8>,
}

impl Raw {
    /// Connects to `address`.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).expect("a connection");
        socket.set_nodelay(true).expect("no delay");
        socket
            .set_read_timeout(Some(READ_TIMEOUT))
            .expect("a read timeout");
        Self {
            socket,
            unread: Vec::new(),
        }
    }

    /// Writes `bytes`. A peer that has closed meanwhile is no error: the reads show it.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.socket.write_all(bytes.as_ref());
        self
    }

    /// Ends the sending side only.
    pub fn half_close(&mut self) -> &mut Self {
        let _ = self.socket.shutdown(Shutdown::Write);
        self
    }

    /// Closes the connection with a reset.
    pub fn reset(self) {
        let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
    }

    /// Reads exactly `count` bytes.
    ///
    /// # Panics
    /// If the connection ends or 15 s pass first.
    #[track_caller]
    pub fn read(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count {
            let more = self.fill().expect("bytes from the peer");
            assert!(
                more,
                "the peer closed after {} of {count} bytes",
                self.unread.len()
            );
        }
        self.unread.drain(..count).collect()
    }

    /// Reads until the peer closes; a reset counts as that.
    ///
    /// # Panics
    /// If 15 s pass first.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        loop {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => return std::mem::take(&mut self.unread),
                Err(error) if was_reset(&error) => return std::mem::take(&mut self.unread),
                Err(error) => panic!("the peer does not close: {error:#}"),
            }
        }
    }

    /// Reads until the peer closes, and says whether that was a reset.
    ///
    /// # Panics
    /// If 15 s pass first.
    #[must_use]
    #[track_caller]
    pub fn is_reset(&mut self) -> bool {
        loop {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) if was_reset(&error) => return true,
                Err(error) => panic!("the peer does not close: {error:#}"),
            }
        }
    }

    /// Reads one HTTP/1.1 response; an interim one (100) is one, too. After 101 and after a
    /// CONNECT's 2xx, use [`Raw::read_head`] and [`Raw::read`].
    ///
    /// # Panics
    /// If none comes within 15 s or it is not well-formed.
    #[track_caller]
    pub fn read_response(&mut self) -> Response {
        self.try_read_response(true)
            .unwrap_or_else(|error| panic!("no response: {error:#}"))
    }

    /// Reads the head of one HTTP/1.1 response and leaves what follows unread.
    ///
    /// # Panics
    /// If none comes within 15 s or it is not well-formed.
    #[track_caller]
    pub fn read_head(&mut self) -> Response {
        self.try_read_response(false)
            .unwrap_or_else(|error| panic!("no response: {error:#}"))
    }

    fn try_read_response(&mut self, with_body: bool) -> anyhow::Result<Response> {
        let start = now();
        let head = self.take_until(b"\r\n\r\n")?;
        let mut response = parse_head(&head)?;
        let bodiless = response.status < 200 || matches!(response.status, 204 | 304);
        if with_body && !bodiless {
            response.body = self.body_of(&response)?;
        }
        response.elapsed = start.elapsed();
        Ok(response)
    }

    fn body_of(&mut self, response: &Response) -> anyhow::Result<Vec<u8>> {
        let last = |name| values(&response.headers, name).pop();
        if last("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            let mut body = Vec::new();
            loop {
                let line = self.take_until(b"\r\n")?;
                let size = usize::from_str_radix(std::str::from_utf8(&line)?.trim(), 16)?;
                let chunk = self.take(size + 2)?;
                if size == 0 {
                    return Ok(body);
                }
                body.extend_from_slice(&chunk[..size]);
            }
        }
        if let Some(length) = last("content-length") {
            return self.take(length.parse().context("content-length")?);
        }
        while self.fill()? {}
        Ok(std::mem::take(&mut self.unread))
    }

    fn take(&mut self, count: usize) -> anyhow::Result<Vec<u8>> {
        while self.unread.len() < count {
            ensure!(
                self.fill()?,
                "the peer closed after {} of {count} bytes",
                self.unread.len()
            );
        }
        Ok(self.unread.drain(..count).collect())
    }

    /// What comes before `end`; `end` itself is dropped.
    fn take_until(&mut self, end: &[u8]) -> anyhow::Result<Vec<u8>> {
        loop {
            let found = self
                .unread
                .windows(end.len())
                .position(|window| window == end);
            if let Some(at) = found {
                let mut taken: Vec<u8> = self.unread.drain(..at + end.len()).collect();
                taken.truncate(at);
                return Ok(taken);
            }
            if !self.fill()? {
                bail!(
                    "the peer closed after {:?}",
                    String::from_utf8_lossy(&self.unread)
                );
            }
        }
    }

    /// Reads once; `false` at the end of the stream.
    fn fill(&mut self) -> anyhow::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let count = self.socket.read(&mut buffer)?;
        self.unread.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }
}

fn was_reset(error: &anyhow::Error) -> bool {
    let kind = error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::ConnectionReset)
}

fn parse_head(head: &[u8]) -> anyhow::Result<Response> {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let status_line = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let mut response = Response {
        status: status.with_context(|| format!("no status line: {status_line:?}"))?,
        what: "raw request".to_owned(),
        ..Response::default()
    };
    for line in lines {
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .context("a header without colon")?;
        let (name, value) = line.split_at(colon);
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        response
            .headers
            .push((name, value[1..].trim_ascii().to_vec()));
    }
    Ok(response)
}

/// How long one read may take.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
