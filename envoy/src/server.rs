//! The HTTP server under backend and upstream: HTTP/1.1 and h2c on one port of 127.0.0.1, which
//! can be closed and opened again, and connections that can be made to misbehave.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, JoinSet};

/// What a server sends back.
pub type Answer = Response<BoxBody<Bytes, io::Error>>;

/// The connection is to end without an answer.
#[derive(Debug)]
pub(crate) struct Hangup;

impl std::fmt::Display for Hangup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection ends without an answer")
    }
}

impl std::error::Error for Hangup {}

/// What answers the requests of a [`Server`].
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one request that came over `line`.
    fn handle(
        &self,
        request: Request<Incoming>,
        line: Arc<Line>,
    ) -> impl Future<Output = Result<Answer, Hangup>> + Send;
}

/// A listening port and what answers there; dropping it closes everything.
pub(crate) struct Server<H: Handler> {
    address: SocketAddr,
    handler: Arc<H>,
    /// Bound but never listening: keeps the port ours while it is closed, so that a connection
    /// is refused and no other process gets the port.
    _reserved: Socket,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl<H: Handler> Server<H> {
    /// Takes a free port of 127.0.0.1 and answers there.
    pub(crate) fn start(handler: Arc<H>) -> io::Result<Self> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), handler)
    }

    /// Takes that address and answers there.
    pub(crate) fn start_at(address: SocketAddr, handler: Arc<H>) -> io::Result<Self> {
        let reserved = bound(address)?;
        let address = reserved
            .local_addr()?
            .as_socket()
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        let server = Self {
            address,
            handler,
            _reserved: reserved,
            accepting: Mutex::new(None),
        };
        server.open()?;
        Ok(server)
    }

    /// Where it listens, or would if it were open.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens again on the same port; does nothing if it does already.
    pub(crate) fn open(&self) -> io::Result<()> {
        let mut accepting = lock(&self.accepting);
        if accepting.is_some() {
            return Ok(());
        }
        let socket = bound(self.address)?;
        socket.listen(BACKLOG)?;
        let _guard = runtime().enter();
        let listener = TcpListener::from_std(socket.into())?;
        *accepting = Some(runtime().spawn(accept(listener, Arc::clone(&self.handler))));
        Ok(())
    }

    /// Closes the port and every connection: from its return on, connecting is refused.
    pub(crate) fn close(&self) {
        if let Some(task) = lock(&self.accepting).take() {
            task.abort();
            // The end of the task is what closes the port; that it was cancelled is no news.
            let _ = runtime().block_on(task);
        }
    }
}

impl<H: Handler> Drop for Server<H> {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.accepting).take() {
            task.abort();
        }
    }
}

/// The tokio runtime behind the synchronous face of the harness, one for the whole process.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("rig")
            .enable_all()
            .build()
            .expect("a tokio runtime can be made")
    })
}

/// Locks, also after a test has panicked with the lock held: the data are counters and journals.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket at that address which does not listen yet.
pub(crate) fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Accepts until it is aborted; its connections end with it.
async fn accept<H: Handler>(listener: TcpListener, handler: Arc<H>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((socket, _)) = accepted {
                    connections.spawn(serve(socket, Arc::clone(&handler)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve<H: Handler>(socket: TcpStream, handler: Arc<H>) {
    // Without it small answers wait for the peer's delayed acknowledgement.
    let _ = socket.set_nodelay(true);
    let line = Arc::new(Line::default());
    let tap = Tap {
        socket,
        line: Arc::clone(&line),
    };
    let service = service_fn(move |request| {
        let (handler, line) = (Arc::clone(&handler), Arc::clone(&line));
        async move { handler.handle(request, line).await }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX);
    builder
        .http2()
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_concurrent_streams(None)
        .max_pending_accept_reset_streams(RESETS_MAX);
    // A connection that ends badly is what many tests are about.
    let _ = builder
        .serve_connection_with_upgrades(TokioIo::new(tap), service)
        .await;
}

/// What a connection does to the bytes that are to be written to it.
#[derive(Default)]
pub(crate) struct Line(Mutex<Script>);

#[derive(Default)]
enum Script {
    /// They are written.
    #[default]
    Honest,
    /// These are written first.
    Prefix(Bytes),
    /// These are written in their place, then the connection is closed.
    Last(Bytes),
    /// The connection is reset.
    Reset,
}

impl Line {
    /// Before the next bytes of an answer, writes `bytes`.
    pub(crate) fn prefix(&self, bytes: Bytes) {
        *lock(&self.0) = Script::Prefix(bytes);
    }

    /// In place of the next bytes of an answer, writes `bytes`, then closes the connection.
    pub(crate) fn last(&self, bytes: Bytes) {
        *lock(&self.0) = Script::Last(bytes);
    }

    /// In place of the next bytes of an answer, resets the connection (TCP RST).
    pub(crate) fn reset(&self) {
        *lock(&self.0) = Script::Reset;
    }
}

/// A socket that does what its line says.
struct Tap {
    socket: TcpStream,
    line: Arc<Line>,
}

impl Drop for Tap {
    fn drop(&mut self) {
        if matches!(*lock(&self.line.0), Script::Reset) {
            // Closing with a linger time of zero is what makes the kernel send RST.
            let _ = SockRef::from(&self.socket).set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        honest: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { socket, line } = self.get_mut();
        let mut script = lock(&line.0);
        let (bytes, last) = match &mut *script {
            Script::Honest => return Pin::new(socket).poll_write(cx, honest),
            Script::Prefix(bytes) => (bytes, false),
            Script::Last(bytes) => (bytes, true),
            Script::Reset => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        };
        while bytes.has_remaining() {
            let written = ready!(Pin::new(&mut *socket).poll_write(cx, bytes))?;
            bytes.advance(written);
        }
        if last {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        *script = Script::Honest;
        Pin::new(socket).poll_write(cx, honest)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(*lock(&self.line.0), Script::Reset) {
            // An orderly end first would hide the reset.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Connections that may wait to be accepted; above what any test opens at once.
const BACKLOG: i32 = 1024;

/// Headers that a request may have: tests send a thousand, Envoy adds some.
const HEADERS_MAX: usize = 4096;

/// Header bytes that an h2 request may have: Envoy's own limit is below it.
const HEADER_BYTES_MAX: u32 = 8 << 20;

/// Requests of an h2 connection that are given up before they are looked at: with more, the
/// connection would be closed, as against an attack.
const RESETS_MAX: usize = 100_000;

/// Bytes that an h1 connection buffers, its request's headers among them.
const BUFFER_BYTES_MAX: usize = 8 << 20;
