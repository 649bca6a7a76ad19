//! The load generator: clients that send one request after the other, some of which leave early.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use quota_gate::decision::DenyReason;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::traffic::Planned;

/// How an exchange ended for the client.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// It has the whole response.
    Answered(Answer),
    /// Something that no client should see.
    Broken(String),
    /// Nothing came for [`HUNG_AFTER`].
    Hung,
    /// It left, as planned.
    Left,
}

/// A response, as far as it matters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) grpc: Option<u8>,
    /// The `code` of a problem.
    pub(crate) code: Option<&'static str>,
    /// The length of the body that the upstream got; `None` where it did not answer.
    pub(crate) echoed: Option<usize>,
    pub(crate) upstream: bool,
}

/// What came of a request.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) number: u64,
    pub(crate) sent: Instant,
    pub(crate) done: Instant,
    pub(crate) end: End,
}

/// What all clients share.
pub(crate) struct Load {
    address: SocketAddr,
    plain: SocketAddr,
    seed: u64,
    next: AtomicU64,
    until: AtomicU64,
    lanes: Vec<tokio::sync::Mutex<Lane>>,
    outcomes: Mutex<Vec<Outcome>>,
    /// How long a request without the filter took, and when.
    probes: Mutex<Vec<(Instant, Duration)>>,
    stopped: AtomicBool,
}

impl Load {
    /// Clients of the listener at `address`, for the requests `numbers`.
    pub(crate) fn new(
        address: SocketAddr,
        plain: SocketAddr,
        seed: u64,
        numbers: std::ops::Range<u64>,
    ) -> Arc<Self> {
        let lanes = (0..LANES).map(|_| tokio::sync::Mutex::default());
        Arc::new(Self {
            address,
            plain,
            seed,
            next: AtomicU64::new(numbers.start),
            until: AtomicU64::new(numbers.end),
            lanes: lanes.collect(),
            outcomes: Mutex::default(),
            probes: Mutex::default(),
            stopped: AtomicBool::new(false),
        })
    }

    /// The number of the next request.
    pub(crate) fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// No further requests; returns the first number that is not sent.
    pub(crate) fn stop(&self) -> u64 {
        let sent = self.next.fetch_add(1 << 40, Ordering::Relaxed);
        self.until.fetch_min(sent, Ordering::Relaxed)
    }

    /// The probes end, too.
    pub(crate) fn stop_probes(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// What has come since the last time.
    pub(crate) fn take_outcomes(&self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The probes since the last time.
    pub(crate) fn take_probes(&self) -> Vec<(Instant, Duration)> {
        std::mem::take(&mut self.probes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take_number(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.until.load(Ordering::Relaxed)).then_some(number)
    }

    /// One client, until there is nothing left to send.
    pub(crate) async fn client(self: Arc<Self>, index: usize) {
        let mut line = None;
        while let Some(number) = self.take_number() {
            let planned = Planned::new(self.seed, number);
            let mut sent = Instant::now();
            let end = self.exchange(&planned, (&mut line, index), &mut sent).await;
            let outcome = Outcome {
                number,
                sent,
                done: Instant::now(),
                end,
            };
            self.outcomes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(outcome);
        }
    }

    /// Asks the listener without the filter again and again: what that takes is what the machine
    /// takes.
    pub(crate) async fn probe(self: Arc<Self>) {
        let mut sender = None;
        while !self.stopped.load(Ordering::Relaxed) {
            let start = Instant::now();
            if self.probe_once(&mut sender).await.is_err() {
                sender = None;
            }
            self.probes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((start, start.elapsed()));
            tokio::time::sleep(PROBE_EVERY).await;
        }
    }

    async fn probe_once(&self, line: &mut Option<Line>) -> Result<()> {
        if line.is_none() {
            *line = Some(Line::open(self.plain).await?);
        }
        let line = line.as_mut().context("a connection")?;
        let request = Request::get("/probe")
            .header("host", HOST)
            .body(Upload::default())?;
        let response = line.sender.send_request(request).await?;
        response.into_body().collect().await?;
        Ok(())
    }

    async fn exchange(
        &self,
        planned: &Planned,
        (line, index): (&mut Option<Line>, usize),
        sent: &mut Instant,
    ) -> End {
        let leave = planned.leaves_after_us.map(Duration::from_micros);
        let limit = leave.unwrap_or(HUNG_AFTER);
        let exchange = async {
            for _ in 0..ATTEMPTS {
                match self.attempt(planned, (line, index), sent).await {
                    // It was never sent: the connection ended before.
                    Err(error) if was_not_sent(&error) => *line = None,
                    other => return other,
                }
            }
            bail!("no connection stays open for long enough")
        };
        let end = match tokio::time::timeout(limit, exchange).await {
            Ok(Ok(answer)) => End::Answered(answer),
            Ok(Err(error)) => End::Broken(format!("{error:#}")),
            Err(_) if leave.is_some() => End::Left,
            Err(_) => End::Hung,
        };
        if !matches!(end, End::Answered(_)) {
            // Leaving is closing the connection; over HTTP/2 the stream was reset already.
            *line = None;
        }
        end
    }

    async fn attempt(
        &self,
        planned: &Planned,
        (line, index): (&mut Option<Line>, usize),
        sent: &mut Instant,
    ) -> Result<Answer> {
        let response = if planned.http2 {
            let lane = self.lanes.get(index % LANES).context("a lane")?;
            let mut sender = lane.lock().await.sender(self.address).await?;
            sender.ready().await?;
            *sent = Instant::now();
            sender.send_request(request(planned)?).await?
        } else {
            if line.as_ref().is_none_or(|line| line.sender.is_closed()) {
                *line = Some(Line::open(self.address).await?);
            }
            let line = line.as_mut().context("a connection")?;
            line.sender.ready().await?;
            // Connecting is not the filter's: a full backlog alone may take a second.
            *sent = Instant::now();
            line.sender.send_request(request(planned)?).await?
        };
        read(response).await
    }
}

fn was_not_sent(error: &anyhow::Error) -> bool {
    let hyper = error.downcast_ref::<hyper::Error>();
    hyper.is_some_and(|error| error.is_canceled() || error.is_closed())
}

/// A connection over HTTP/1.1; closed when it is dropped.
struct Line {
    sender: http1::SendRequest<Upload>,
    task: JoinHandle<()>,
}

impl Line {
    async fn open(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address).await.context("connect")?;
        socket.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        let task = tokio::spawn(async { drop(connection.await) });
        Ok(Self { sender, task })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection over HTTP/2 that several clients share.
#[derive(Default)]
struct Lane(Option<http2::SendRequest<Upload>>);

impl Lane {
    async fn sender(&mut self, address: SocketAddr) -> Result<http2::SendRequest<Upload>> {
        if let Some(sender) = self.0.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let socket = TcpStream::connect(address).await.context("connect")?;
        socket.set_nodelay(true)?;
        let io = TokioIo::new(socket);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(async { drop(connection.await) });
        self.0 = Some(sender.clone());
        Ok(sender)
    }
}

fn request(planned: &Planned) -> Result<Request<Upload>> {
    let target = planned.target();
    let builder = Request::builder().method(planned.method);
    let mut builder = if planned.http2 {
        builder.uri(format!("http://{HOST}{target}"))
    } else {
        builder.uri(target).header("host", HOST)
    };
    for (name, value) in planned.headers() {
        builder = builder.header(name, value);
    }
    let upload = Upload {
        data: planned.body.map(|length| Bytes::from(vec![0; length])),
        unfinished: planned.unfinished,
    };
    Ok(builder.body(upload)?)
}

async fn read(response: Response<Incoming>) -> Result<Answer> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.context("the body broke off")?;
    let number = |value: &hyper::header::HeaderValue| value.to_str().ok()?.parse().ok();
    let trailers = body.trailers().and_then(|all| all.get("grpc-status"));
    let grpc = trailers.or_else(|| head.headers.get("grpc-status"));
    let grpc = grpc.and_then(number);
    let upstream = head.headers.contains_key("x-upstream");
    let json = head
        .headers
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().ends_with(b"json"));
    let bytes = body.to_bytes();
    let json: serde_json::Value = if json {
        serde_json::from_slice(&bytes).context("a body that is no JSON")?
    } else {
        serde_json::Value::Null
    };
    let length = json["body_len"].as_u64();
    Ok(Answer {
        status: head.status.as_u16(),
        grpc,
        code: json["code"].as_str().map(known),
        echoed: length.and_then(|length| usize::try_from(length).ok()),
        upstream,
    })
}

/// The code, without a string of its own for each of a million answers.
fn known(code: &str) -> &'static str {
    let mut codes = DenyReason::ALL.into_iter().map(DenyReason::code);
    codes.find(|own| *own == code).unwrap_or("unknown")
}

/// A request's body: whole, or without an end.
#[derive(Default)]
struct Upload {
    data: Option<Bytes>,
    unfinished: bool,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.data.take() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None if self.unfinished => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && !self.unfinished
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        let length = self.data.as_ref().map_or(0, Bytes::len);
        if self.unfinished {
            return hyper::body::SizeHint::default();
        }
        hyper::body::SizeHint::with_exact(length as u64)
    }
}

const HOST: &str = "chaos.test";

/// Connections over HTTP/2.
const LANES: usize = 16;

/// No request takes this long, on any machine: it hangs.
pub(crate) const HUNG_AFTER: Duration = Duration::from_secs(15);

/// A connection may be closed just as a request is given to it; not often in a row.
const ATTEMPTS: usize = 5;

const PROBE_EVERY: Duration = Duration::from_millis(15);
