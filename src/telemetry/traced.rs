//! Between whoever calls and who does the work: the caller's span joins the trace that the request carries.
//!
//! ```text
//!   request ─► invoke ─► environment                      a caller waits
//!   request ─► (queued) ─► attempt ─► invoke ─► …         an event: each attempt is a child of the request
//! ```

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use invoker::InvokeRequest;
use poller_fleet::{AcceptEvents, AsyncInvocation};
use queue::WriteError;
use tower_service::Service;

/// A service whose callers' spans are part of the traces that the requests carry.
#[derive(Debug, Clone)]
pub(crate) struct Traced<S>(S);

impl<S> Traced<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self(inner)
    }
}

impl<S: Service<InvokeRequest>> Service<InvokeRequest> for Traced<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    #[cfg_attr(
        not(feature = "otlp"),
        expect(unused_mut, reason = "the trace changes only where it is exported")
    )]
    fn call(&mut self, mut request: InvokeRequest) -> Self::Future {
        #[cfg(feature = "otlp")]
        super::otlp::adopt(&tracing::Span::current(), &mut request.trace);
        self.0.call(request)
    }
}

impl<S: AcceptEvents> AcceptEvents for Traced<S> {
    #[cfg_attr(
        not(feature = "otlp"),
        expect(unused_mut, reason = "the trace changes only where it is exported")
    )]
    fn accept(&self, mut event: AsyncInvocation) -> BoxFuture<'_, Result<(), WriteError>> {
        #[cfg(feature = "otlp")]
        super::otlp::adopt(&tracing::Span::current(), &mut event.trace);
        self.0.accept(event)
    }
}
