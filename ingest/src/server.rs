//! Listening: addresses, connections and their limits, and an orderly end.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use invoker::{InvokeError, InvokeOutcome, InvokeRequest};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::{debug, info, warn};

use crate::{
    config::{Authentication, Config},
    edge::{Door, Edge, Services, Shared},
    metrics,
    stall::StallGuard,
    tls::{self, TlsError},
};

/// hyper takes no smaller buffer.
const LEAST_HEAD_BYTES: usize = 8192;
/// How long accepting rests when the machine has no descriptor or memory left for a connection.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// Time for connections to close once nothing runs on them.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the edge cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("authentication may be switched off on loopback addresses only, not on {address}")]
    OpenToOthers { address: SocketAddr },
    #[error("no address to listen on is configured")]
    NoAddress,
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The HTTP API, bound to its addresses and not yet serving.
pub struct Server<S> {
    listeners: Vec<(TcpListener, Door)>,
    tls: Option<TlsAcceptor>,
    edge: Edge<S>,
    connections: Arc<Semaphore>,
    addresses: Vec<SocketAddr>,
    metrics_address: Option<SocketAddr>,
}

/// What every connection task needs.
#[derive(Clone)]
struct Acceptor<S> {
    tls: Option<TlsAcceptor>,
    edge: Edge<S>,
    connections: Arc<Semaphore>,
    /// Stop accepting.
    stopping: CancellationToken,
    /// Close what is idle.
    closing: CancellationToken,
}

// === impl Server ===

impl<S> Server<S>
where
    S: Service<InvokeRequest, Response = InvokeOutcome, Error = InvokeError> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    /// Reads the certificate and takes the addresses.
    ///
    /// # Errors
    ///
    /// Authentication switched off on an address others can reach, an address that is taken, an unusable certificate.
    pub async fn bind(config: Config, services: Services<S>) -> Result<Self, StartError> {
        metrics::describe();
        if config.listen.is_empty() {
            return Err(StartError::NoAddress);
        }
        if config.authentication == Authentication::Disabled
            && let Some(&address) = config.listen.iter().find(|address| !address.ip().is_loopback())
        {
            return Err(StartError::OpenToOthers { address });
        }
        let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for &address in &config.listen {
            let (listener, bound) = listen(address).await?;
            addresses.push(bound);
            listeners.push((listener, Door::Api { tls: tls.is_some() }));
        }
        let mut metrics_address = None;
        if let Some(address) = config.metrics_listen {
            let (listener, bound) = listen(address).await?;
            metrics_address = Some(bound);
            listeners.push((listener, Door::Operations));
        }
        let connections = Arc::new(Semaphore::new(config.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
        let edge = Edge::new(
            Shared::new(
                config,
                services.control,
                services.keys,
                services.events,
                services.dead_letters,
                services.clock,
                services.probes,
            ),
            services.invoker,
        );
        Ok(Self { listeners, tls, edge, connections, addresses, metrics_address })
    }

    /// Addresses of the API, in the configuration's order, with the ports that were picked.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Address of the metrics, where it is one of its own.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Serves until `shutdown` completes; then lets running requests end (bounded) and closes.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let acceptor = Acceptor {
            tls: self.tls,
            edge: self.edge,
            connections: self.connections,
            stopping: CancellationToken::new(),
            closing: CancellationToken::new(),
        };
        let mut accepting = JoinSet::new();
        for (listener, door) in self.listeners {
            accepting.spawn(acceptor.clone().accept(listener, door));
        }
        shutdown.await;
        let shared = acceptor.edge.shared();
        info!("draining");
        shared.drain.begin();
        acceptor.stopping.cancel();
        let limit = shared.config.drain_timeout;
        if !shared.drain.finished(limit).await {
            warn!(limit_secs = limit.as_secs(), "requests still run after the drain timeout and are cut");
        }
        acceptor.closing.cancel();
        let closed = async { while accepting.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE_TIMEOUT, closed).await.is_err() {
            accepting.shutdown().await;
        }
    }
}

impl<S> std::fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

// === impl Acceptor ===

impl<S> Acceptor<S>
where
    S: Service<InvokeRequest, Response = InvokeOutcome, Error = InvokeError> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    /// Takes connections until told to stop; ends when all of them have.
    async fn accept(self, listener: TcpListener, door: Door) {
        let mut running = JoinSet::new();
        loop {
            let next = async {
                // A permit first: beyond the limit, connections wait in the kernel's queue.
                let permit = Arc::clone(&self.connections).acquire_owned().await.ok()?;
                Some((listener.accept().await, permit))
            };
            tokio::select! {
                () = self.stopping.cancelled() => break,
                Some(_) = running.join_next(), if !running.is_empty() => {}
                next = next => match next {
                    Some((Ok((stream, peer)), permit)) => {
                        let this = self.clone();
                        running.spawn(async move {
                            this.connection(stream, door, peer).await;
                            drop(permit);
                        });
                    }
                    Some((Err(error), _)) => {
                        warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_REST).await;
                    }
                    None => break,
                },
            }
        }
        drop(listener);
        while running.join_next().await.is_some() {}
    }

    async fn connection(self, stream: TcpStream, door: Door, peer: SocketAddr) {
        let _open = metrics::OpenConnection::new();
        // An answer is small and waited for.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "TCP_NODELAY was refused");
        }
        let limit = self.edge.shared().config.write_stall;
        let stream = StallGuard::new(stream, limit);
        match (&self.tls, door) {
            (Some(tls), Door::Api { .. }) => {
                let handshake =
                    tokio::time::timeout(self.edge.shared().config.head_timeout, tls.accept(stream));
                match handshake.await {
                    Ok(Ok(stream)) => self.serve(stream, door, peer).await,
                    Ok(Err(error)) => debug!(%peer, %error, "TLS handshake failed"),
                    Err(_) => debug!(%peer, "TLS handshake took too long"),
                }
            }
            _ => self.serve(stream, door, peer).await,
        }
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send, door: Door, peer: SocketAddr) {
        let config = &self.edge.shared().config;
        let edge = self.edge.clone();
        let service = service_fn(move |request| {
            let edge = edge.clone();
            async move { Ok::<_, Infallible>(edge.answer(request, door).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(config.head_timeout)
            .max_buf_size(config.max_head_bytes.max(LEAST_HEAD_BYTES))
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%peer, %error, "connection ended with an error");
        }
    }
}
