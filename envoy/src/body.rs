//! The bodies that the servers send: whole ones, and ones that break off or stall.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame};

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
    /// The same, once what came before has been written.
    BreakingNext(Arc<Line>),
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
        match &self.end {
            End::Broken(line) => {
                // hyper writes what it has only when a body has nothing to give for the moment.
                self.end = End::BreakingNext(Arc::clone(line));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            End::BreakingNext(line) => {
                line.reset();
                Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())))
            }
            End::Good => Poll::Ready(None),
            End::Stalled => Poll::Pending,
        }
    }
}
