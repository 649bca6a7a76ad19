//! A small HTTP client: HTTP/1.1, h2c and gRPC, many requests at once, clients that leave early.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::eventually::now;
use crate::response::{Response, fields};
use crate::server::runtime;

/// The protocol that a client speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/2 without TLS, from the first byte.
    H2,
}

/// A request to be sent; a connection of its own each, unless sent over a [`Connection`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request {
    address: SocketAddr,
    authority: String,
    deadline: Duration,
    headers: HeaderMap,
    method: String,
    path: String,
    protocol: Protocol,
    upload: Upload,
}

impl Request {
    /// A request to a server at `address`, over HTTP/1.1 and for the host `example.test`.
    pub fn new(address: SocketAddr, method: &str, path: &str) -> Self {
        Self {
            address,
            authority: "example.test".to_owned(),
            deadline: DEADLINE,
            headers: HeaderMap::new(),
            method: method.to_owned(),
            path: path.to_owned(),
            protocol: Protocol::H1,
            upload: Upload::default(),
        }
    }

    /// A unary gRPC call of `path` (`/package.Service/Method`) with an empty message.
    pub fn grpc(address: SocketAddr, path: &str) -> Self {
        Self::new(address, "POST", path)
            .h2()
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body([0, 0, 0, 0, 0])
    }

    /// Speaks HTTP/2.
    pub fn h2(self) -> Self {
        self.protocol(Protocol::H2)
    }

    /// Speaks `protocol`.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// The host asked for (`Host`, `:authority`).
    pub fn host(mut self, authority: &str) -> Self {
        authority.clone_into(&mut self.authority);
        self
    }

    /// Adds a header; one that is there already is kept, so the same name twice is sent twice.
    /// The value may hold any byte that HTTP can carry, 0xFF among them.
    #[track_caller]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
        let value = HeaderValue::from_bytes(value.as_ref())
            .expect("bytes that a header can hold (for others, see `Raw`)");
        self.headers.append(name, value);
        self
    }

    /// The body; sent whole.
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.upload.data = Some(Bytes::copy_from_slice(body.as_ref()));
        self
    }

    /// A body that is never finished: `start` is sent, and the upload stays in progress.
    pub fn unfinished_body(mut self, start: impl AsRef<[u8]>) -> Self {
        self.upload.unfinished = true;
        self.body(start)
    }

    /// Adds a trailer, sent after the body (h1: chunked).
    #[track_caller]
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a trailer name");
        let value = HeaderValue::from_str(value).expect("a trailer value");
        // hyper sends over h1 only those trailers that the headers announce.
        self.headers.append("trailer", name.clone().into());
        self.upload
            .trailers
            .get_or_insert_default()
            .append(name, value);
        self
    }

    /// How long the whole exchange may take before it is given up; 15 s if not set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sends it and waits for the whole response.
    ///
    /// # Panics
    /// If no response came; use [`Request::try_send`] where that is expected.
    #[track_caller]
    pub fn send(self) -> Response {
        let what = self.title();
        self.try_send()
            .unwrap_or_else(|error| panic!("{what}: {error:#}"))
    }

    /// Sends it and waits for the whole response.
    ///
    /// # Errors
    /// If the connection fails or ends first, or the deadline passes.
    pub fn try_send(self) -> anyhow::Result<Response> {
        runtime().block_on(self.exchange())
    }

    /// Sends it without waiting for the response.
    pub fn start(self) -> Pending {
        let what = self.title();
        Pending {
            what,
            task: AbortOnDrop(runtime().spawn(self.exchange())),
        }
    }

    async fn exchange(self) -> anyhow::Result<Response> {
        let deadline = self.deadline;
        let exchange = async {
            let mut sender = Sender::connect(self.address, self.protocol).await?;
            sender.inner.send(self).await
        };
        tokio::time::timeout(deadline, exchange)
            .await
            .with_context(|| late(deadline))?
    }

    fn title(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// As hyper wants it: origin form and `Host` for h1, absolute form for h2.
    fn into_hyper(self) -> anyhow::Result<hyper::Request<Upload>> {
        let h1 = self.protocol == Protocol::H1;
        let uri = if h1 {
            self.path
        } else {
            format!("http://{}{}", self.authority, self.path)
        };
        let mut request = hyper::Request::builder()
            .method(self.method.as_str())
            .uri(uri)
            .body(self.upload)
            .context("a request that hyper can send (for others, see `Raw`)")?;
        *request.headers_mut() = self.headers;
        if h1 {
            request
                .headers_mut()
                .insert("host", HeaderValue::from_str(&self.authority)?);
        }
        Ok(request)
    }
}

/// Sends all of `requests` at once, each over its own connection; the responses in their order.
///
/// # Panics
/// If one of them got no response.
#[track_caller]
pub fn send_all(requests: impl IntoIterator<Item = Request>) -> Vec<Response> {
    let pending: Vec<Pending> = requests.into_iter().map(Request::start).collect();
    pending.into_iter().map(Pending::wait).collect()
}

/// A request on its way; dropping it closes its connection, as a client does that leaves.
#[derive(Debug)]
#[must_use = "dropping it closes the connection"]
pub struct Pending {
    what: String,
    task: AbortOnDrop<anyhow::Result<Response>>,
}

impl Pending {
    /// Waits for the response.
    ///
    /// # Panics
    /// If none came.
    #[track_caller]
    pub fn wait(self) -> Response {
        let Self { what, task } = self;
        task.join()
            .unwrap_or_else(|error| panic!("{what}: {error:#}"))
    }

    /// Waits for the response, or for what went wrong.
    ///
    /// # Errors
    /// If the connection fails or ends first, or the deadline passes.
    pub fn try_wait(self) -> anyhow::Result<Response> {
        self.task.join()
    }

    /// Whether the response (or an error) is there.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.task.0.is_finished()
    }

    /// Leaves: closes the connection without waiting.
    pub fn abandon(self) {}
}

/// One connection for many requests: one after the other, as a keep-alive client does.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    protocol: Protocol,
    sender: Sender,
}

impl Connection {
    /// Connects to `address`.
    ///
    /// # Errors
    /// If that fails.
    pub fn open(address: SocketAddr, protocol: Protocol) -> anyhow::Result<Self> {
        let sender = runtime().block_on(Sender::connect(address, protocol))?;
        Ok(Self {
            address,
            protocol,
            sender,
        })
    }

    /// A request for this connection.
    pub fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.address, method, path).protocol(self.protocol)
    }

    /// Sends `request` here and waits for the whole response.
    ///
    /// # Errors
    /// If the connection fails or ends first, or the deadline passes.
    pub fn send(&mut self, request: Request) -> anyhow::Result<Response> {
        runtime().block_on(in_time(&mut self.sender.inner, request))
    }

    /// Sends `request` here without waiting for what was sent before; over HTTP/2 only.
    pub(crate) fn start(&self, request: Request) -> Pending {
        let what = request.title();
        let sender = match &self.sender.inner {
            Inner::H1(_) => None,
            Inner::H2(sender) => Some(sender.clone()),
        };
        let exchange = async move {
            let sender = sender.context("HTTP/1.1 takes one request after the other")?;
            in_time(&mut Inner::H2(sender), request).await
        };
        Pending {
            what,
            task: AbortOnDrop(runtime().spawn(exchange)),
        }
    }
}

/// hyper's two kinds of connections as one; the connection ends with it.
#[derive(Debug)]
struct Sender {
    inner: Inner,
    _connection: AbortOnDrop<()>,
}

#[derive(Debug)]
enum Inner {
    H1(http1::SendRequest<Upload>),
    H2(http2::SendRequest<Upload>),
}

impl Sender {
    async fn connect(address: SocketAddr, protocol: Protocol) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address)
            .await
            .with_context(|| format!("connect to {address}"))?;
        socket.set_nodelay(true)?;
        let io = TokioIo::new(socket);
        let (inner, connection) = match protocol {
            Protocol::H1 => {
                let (sender, connection) = http1::Builder::new()
                    .max_headers(HEADERS_MAX)
                    .handshake(io)
                    .await
                    .context("HTTP/1.1")?;
                let task = runtime().spawn(async { drop(connection.await) });
                (Inner::H1(sender), task)
            }
            Protocol::H2 => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .max_header_list_size(HEADER_BYTES_MAX)
                    .handshake(io)
                    .await
                    .context("HTTP/2")?;
                let task = runtime().spawn(async { drop(connection.await) });
                (Inner::H2(sender), task)
            }
        };
        Ok(Self {
            inner,
            _connection: AbortOnDrop(connection),
        })
    }
}

impl Inner {
    async fn send(&mut self, request: Request) -> anyhow::Result<Response> {
        let what = request.title();
        let start = now();
        let request = request.into_hyper()?;
        let response = match self {
            Self::H1(sender) => {
                sender
                    .ready()
                    .await
                    .context("the connection is not ready")?;
                sender.send_request(request).await
            }
            Self::H2(sender) => {
                sender
                    .ready()
                    .await
                    .context("the connection is not ready")?;
                sender.send_request(request).await
            }
        };
        let (head, mut body) = response.context("no response")?.into_parts();
        let mut response = Response {
            status: head.status.as_u16(),
            headers: fields(&head.headers),
            what,
            ..Response::default()
        };
        read_body(&mut body, &mut response).await?;
        response.elapsed = start.elapsed();
        Ok(response)
    }
}

/// Sends `request` within its deadline.
async fn in_time(sender: &mut Inner, request: Request) -> anyhow::Result<Response> {
    let deadline = request.deadline;
    tokio::time::timeout(deadline, sender.send(request))
        .await
        .with_context(|| late(deadline))?
}

fn late(deadline: Duration) -> String {
    format!("no complete response within {deadline:?}")
}

async fn read_body(body: &mut Incoming, response: &mut Response) -> anyhow::Result<()> {
    while let Some(frame) = body.frame().await {
        let frame = frame.with_context(|| {
            let read = response.body.len();
            format!(
                "status {}, but the body broke off after {read} bytes",
                response.status
            )
        })?;
        match frame.into_data() {
            Ok(data) => response.body.extend_from_slice(&data),
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => response.trailers = fields(&trailers),
                Err(_) => bail!("a frame that is neither data nor trailers"),
            },
        }
    }
    Ok(())
}

/// A request body: some data, trailers perhaps, and perhaps no end.
#[derive(Clone, Debug, Default)]
struct Upload {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
    unfinished: bool,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if self.unfinished {
            return Poll::Pending;
        }
        Poll::Ready(
            self.trailers
                .take()
                .map(|trailers| Ok(Frame::trailers(trailers))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none() && !self.unfinished
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        let known = self.data.as_ref().map_or(0, Bytes::len);
        if self.unfinished || self.trailers.is_some() {
            return hyper::body::SizeHint::default();
        }
        hyper::body::SizeHint::with_exact(u64::try_from(known).unwrap_or(u64::MAX))
    }
}

/// A task that ends with its handle.
#[derive(Debug)]
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> AbortOnDrop<anyhow::Result<T>> {
    fn join(mut self) -> anyhow::Result<T> {
        runtime()
            .block_on(&mut self.0)
            .context("the request's task died")?
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How long an exchange may take unless its request says otherwise: above every host timeout that
/// tests set, below a test runner's patience.
const DEADLINE: Duration = Duration::from_secs(15);

/// Headers that a response may have.
const HEADERS_MAX: usize = 4096;

/// Header bytes that an h2 response may have.
const HEADER_BYTES_MAX: u32 = 8 << 20;
