//! The bodies that the servers send: whole ones, and ones that break off or stall.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame};
use tokio::time::Sleep;

use crate::server::Line;

/// A body sent in one piece, with its length.
pub(crate) fn full(bytes: impl Into<Bytes>) -> BoxBody<Bytes, io::Error> {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

/// A body in pieces, without a length; how it ends is told.
pub(crate) struct Pieces {
    frames: VecDeque<Frame<Bytes>>,
    end: End,
}

/// How a body ends.
pub(crate) enum End {
    /// It breaks off: the connection is reset.
    Broken(Arc<Line>),
    /// The same, once what came before has had the time to be written and read.
    BrokenAfter(Pin<Box<Sleep>>, Arc<Line>),
    /// As it should.
    Good,
    /// Never.
    Stalled,
}

impl Pieces {
    /// A body of `frames` that ends well.
    pub(crate) fn new(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Self {
        Self {
            frames: frames.into_iter().collect(),
            end: End::Good,
        }
    }

    /// Ends in another way.
    pub(crate) fn ending(mut self, end: End) -> Self {
        self.end = end;
        self
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(frame) = self.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let End::Broken(line) = &self.end {
            let pause = Box::pin(tokio::time::sleep(BEFORE_BREAKING));
            self.end = End::BrokenAfter(pause, Arc::clone(line));
        }
        match &mut self.end {
            End::Broken(_) => Poll::Pending,
            End::BrokenAfter(pause, line) => {
                ready!(pause.as_mut().poll(cx));
                line.reset();
                Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())))
            }
            End::Good => Poll::Ready(None),
            End::Stalled => Poll::Pending,
        }
    }
}

/// Between the last piece and the break: without it the two may reach the peer as one.
const BEFORE_BREAKING: Duration = Duration::from_millis(20);
