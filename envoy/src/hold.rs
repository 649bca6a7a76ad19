//! Answers that are held back until a test lets them go, and how many are open at once.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::Response;
use hyper::body::{Body, Frame};
use tokio::sync::watch;

use crate::server::Answer;

/// Counts open answers, and holds them back from the moment that somebody says so.
#[derive(Debug)]
pub(crate) struct Hold {
    /// Answers up to this number may end.
    released: watch::Sender<usize>,
    begun: AtomicUsize,
    open: AtomicUsize,
    most: AtomicUsize,
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            released: watch::Sender::new(usize::MAX),
            begun: AtomicUsize::default(),
            open: AtomicUsize::default(),
            most: AtomicUsize::default(),
        }
    }
}

impl Hold {
    /// Answers that begin from now on do not end.
    pub(crate) fn hold(&self) {
        self.released.send_replace(self.begun.load(SeqCst));
    }

    /// Lets so many more end, in the order in which they began.
    pub(crate) fn release(&self, more: usize) {
        self.released
            .send_modify(|released| *released = released.saturating_add(more));
    }

    /// Answers that have begun and not ended.
    pub(crate) fn open(&self) -> usize {
        self.open.load(SeqCst)
    }

    /// The most that were open at once.
    pub(crate) fn most(&self) -> usize {
        self.most.load(SeqCst)
    }

    /// Notes that an answer begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Ticket {
        let open = self.open.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(open, SeqCst);
        Ticket {
            hold: Arc::clone(self),
            number: self.begun.fetch_add(1, SeqCst),
        }
    }
}

/// One open answer; it is over when this is dropped.
pub(crate) struct Ticket {
    hold: Arc<Hold>,
    number: usize,
}

impl Ticket {
    /// Waits until it may end.
    async fn wait(&self) {
        let mut released = self.hold.released.subscribe();
        // The sender lives as long as the ticket.
        let _ = released.wait_for(|released| *released > self.number).await;
    }

    /// The answer as it may go out: a whole one when it may end; one in pieces at once, of which
    /// all but the first wait for that.
    pub(crate) async fn pace(self, answer: Answer, in_pieces: bool) -> Answer {
        if !in_pieces {
            self.wait().await;
        }
        let (head, body) = answer.into_parts();
        let paced = Paced {
            body,
            state: State::Free(Some(self)),
            is_first: in_pieces,
        };
        Response::from_parts(head, paced.boxed())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.hold.open.fetch_sub(1, SeqCst);
    }
}

/// A body that keeps its ticket until its end, and may wait behind its first piece.
struct Paced {
    body: BoxBody<Bytes, io::Error>,
    state: State,
    is_first: bool,
}

enum State {
    /// The next piece may go out.
    Free(Option<Ticket>),
    /// It waits.
    Waiting(Pin<Box<dyn Future<Output = Ticket> + Send + Sync>>),
}

impl Body for Paced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let State::Waiting(ticket) = &mut self.state {
            self.state = State::Free(Some(ready!(ticket.as_mut().poll(cx))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if self.is_first
            && frame.is_some()
            && let State::Free(ticket) = &mut self.state
            && let Some(ticket) = ticket.take()
        {
            self.is_first = false;
            self.state = State::Waiting(Box::pin(async move {
                ticket.wait().await;
                ticket
            }));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}
