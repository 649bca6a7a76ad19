//! What Envoy talks to: an upstream, a counting quota backend for every chain, and one that hangs.
//!
//! All run on one thread and do as little as they can, because they share a core with the load. The
//! backend answers every check from the same books, whoever asks: this filter, ext_authz over HTTP,
//! or the ratelimit filter over gRPC.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use envoy_harness::{Answer, Books};
use envoy_types::pb::envoy::service::ratelimit::v3 as pb;
use http_body_util::{BodyExt, Either, Empty};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::service::{Service as _, service_fn};
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use pb::rate_limit_service_server::{RateLimitService, RateLimitServiceServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The servers; they run until the process ends.
pub(crate) struct Servers {
    pub(crate) upstream: Plain,
    pub(crate) backend: Backend,
    pub(crate) hangs: Plain,
}

/// A server that gives every request the same answer, or none at all.
#[derive(Clone)]
pub(crate) struct Plain {
    pub(crate) address: SocketAddr,
    seen: Arc<AtomicU64>,
}

/// The quota backend.
#[derive(Clone)]
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    desk: Arc<Desk>,
}

struct Desk {
    books: Books,
    checks: AtomicU64,
}

impl Servers {
    /// Starts all of them on free ports of 127.0.0.1.
    ///
    /// # Errors
    /// There is no port or no thread.
    pub(crate) fn start() -> Result<Self> {
        let (upstream, upstream_port) = Plain::bind()?;
        let (hangs, hangs_port) = Plain::bind()?;
        let (backend, backend_port) = Backend::bind()?;
        let served = (upstream.clone(), hangs.clone(), backend.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let serve = async move {
            let (upstream, hangs, backend) = served;
            let every = tokio::try_join!(
                upstream.serve(upstream_port, Some(UPSTREAM_ANSWER)),
                hangs.serve(hangs_port, None),
                backend.serve(backend_port),
            );
            every.map(|_| ())
        };
        let thread = std::thread::Builder::new().name("servers".to_owned());
        thread.spawn(move || {
            if let Err(error) = runtime.block_on(serve) {
                eprintln!("a server has ended: {error:#}");
            }
        })?;
        Ok(Self {
            upstream,
            backend,
            hangs,
        })
    }
}

impl Plain {
    fn bind() -> Result<(Self, TcpListener)> {
        let (address, listener) = bind()?;
        let seen = Arc::default();
        Ok((Self { address, seen }, listener))
    }

    /// Requests so far.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    async fn serve(self, listener: TcpListener, answer: Option<&'static [u8]>) -> Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            tokio::spawn(give(answer, socket, Arc::clone(&self.seen)));
        }
    }
}

/// Gives each request of a connection this answer, and counts. None has a body, and Envoy sends the
/// next one only when it has its answer.
async fn give(answer: Option<&'static [u8]>, mut socket: TcpStream, seen: Arc<AtomicU64>) {
    let mut bytes = Vec::with_capacity(REQUEST_BYTES);
    while let Ok(1..) = socket.read_buf(&mut bytes).await {
        if !bytes.ends_with(b"\r\n\r\n") {
            continue;
        }
        seen.fetch_add(1, Ordering::Relaxed);
        bytes.clear();
        let Some(answer) = answer else {
            continue;
        };
        if socket.write_all(answer).await.is_err() {
            return;
        }
    }
}

impl Backend {
    fn bind() -> Result<(Self, TcpListener)> {
        let (address, listener) = bind()?;
        let desk = Desk {
            books: Books::new(),
            checks: AtomicU64::new(0),
        };
        // Nobody is ever denied: what is measured is the way of a request that goes through.
        desk.books.limit_each(NAMESPACE, TENANT, UNITS, WINDOW);
        let desk = Arc::new(desk);
        Ok((Self { address, desk }, listener))
    }

    /// Checks so far.
    pub(crate) fn checks(&self) -> u64 {
        self.desk.checks.load(Ordering::Relaxed)
    }

    /// Units that were charged to a tenant so far.
    pub(crate) fn charged(&self, tenant: &str) -> u64 {
        let descriptor = vec![(TENANT.to_owned(), tenant.to_owned())];
        let charge = self.desk.books.charge(NAMESPACE, &descriptor, 0, 0);
        let left = charge.counts.first().map(|count| count.remaining);
        left.map_or(0, |left| UNITS - left)
    }

    async fn serve(self, listener: TcpListener) -> Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            tokio::spawn(charge(socket, Arc::clone(&self.desk)));
        }
    }
}

/// Answers the checks of a connection: those over HTTP/2 are the ratelimit filter's.
async fn charge(socket: TcpStream, desk: Arc<Desk>) {
    let grpc = RateLimitServiceServer::from_arc(Arc::clone(&desk));
    let grpc = TowerToHyperService::new(grpc);
    let service = service_fn(move |request: Request<Incoming>| {
        let (desk, grpc) = (Arc::clone(&desk), grpc.clone());
        async move {
            if request.version() == Version::HTTP_2 {
                let Ok(answer) = grpc.call(request).await;
                return Ok(answer.map(Either::Left));
            }
            let answer = desk.http(request).await?;
            Ok::<_, hyper::Error>(answer.map(Either::Right))
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    // A connection ends with its Envoy.
    let _ended = builder
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

impl Desk {
    /// Answers a check over HTTP, in whichever language it is.
    async fn http(&self, request: Request<Incoming>) -> Result<Answer, hyper::Error> {
        self.checks.fetch_add(1, Ordering::Relaxed);
        let (head, body) = request.into_parts();
        if head.uri.path().starts_with(EXT_AUTHZ_PATH) {
            return Ok(self.ext_authz(&head));
        }
        let body = body.collect().await?.to_bytes();
        Ok(envoy_harness::answer(&self.books, &head, &body))
    }

    /// What ext_authz asks: the request itself, with the headers that may go out.
    fn ext_authz(&self, head: &Parts) -> Answer {
        let tenant = head.headers.get("x-tenant-id");
        let tenant = tenant.and_then(|value| value.to_str().ok());
        let denied = match tenant {
            Some(tenant) => self.charge(NAMESPACE, vec![(TENANT.to_owned(), tenant.to_owned())], 1),
            None => true,
        };
        let mut answer = Response::new(Empty::new().map_err(|never| match never {}).boxed());
        if denied {
            *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        }
        answer
    }

    fn charge(&self, namespace: &str, descriptor: Vec<(String, String)>, cost: u64) -> bool {
        self.books.charge(namespace, &descriptor, cost, 0).denied
    }
}

#[tonic::async_trait]
impl RateLimitService for Desk {
    async fn should_rate_limit(
        &self,
        request: tonic::Request<pb::RateLimitRequest>,
    ) -> Result<tonic::Response<pb::RateLimitResponse>, tonic::Status> {
        self.checks.fetch_add(1, Ordering::Relaxed);
        let request = request.into_inner();
        let cost = u64::from(request.hits_addend.max(1));
        let mut denied = false;
        for descriptor in request.descriptors {
            let entries = descriptor.entries.into_iter();
            let entries = entries.map(|entry| (entry.key, entry.value)).collect();
            denied |= self.charge(&request.domain, entries, cost);
        }
        let code = if denied {
            pb::rate_limit_response::Code::OverLimit
        } else {
            pb::rate_limit_response::Code::Ok
        };
        Ok(tonic::Response::new(pb::RateLimitResponse {
            overall_code: code.into(),
            ..pb::RateLimitResponse::default()
        }))
    }
}

fn bind() -> Result<(SocketAddr, TcpListener)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("take a port")?;
    listener.set_nonblocking(true)?;
    Ok((listener.local_addr()?, listener))
}

/// Where ext_authz puts the path of the request it asks about.
pub(crate) const EXT_AUTHZ_PATH: &str = "/ext_authz";

/// The entry of the descriptor, in every chain.
pub(crate) const TENANT: &str = "tenant";

/// The namespace or domain, in every chain.
pub(crate) const NAMESPACE: &str = "quota-gate";

/// More units than a run can use.
const UNITS: u64 = 1 << 40;

/// Longer than any run.
const WINDOW: std::time::Duration = std::time::Duration::from_secs(86_400);

const UPSTREAM_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\
    content-type: application/json\r\ncontent-length: 27\r\n\r\n{\"items\":[1,2,3],\"next\":4}\n";

const REQUEST_BYTES: usize = 4096;
