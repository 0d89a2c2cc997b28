//! Between the edge and the invoker: the request's span joins its caller's trace.

use std::task::{Context, Poll};

use invoker::InvokeRequest;
use tower_service::Service;

/// An invoke service whose callers' spans are part of the traces that the requests carry.
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
