//! The listener and its connections. Our own accept loop instead of `axum::serve`, which sets no timer, so that a
//! client that opens connections and sends nothing would hold them for ever.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;

/// From accept to the end of the first request's headers, whatever the protocol.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be idle, and how long the headers of a later request may take. More than the 60 s that
/// proxies keep idle connections, so that they close first and never send into a closing one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Headers of one HTTP/1 request.
const MAX_HTTP1_HEADER_BYTES: usize = 64 << 10;
/// Headers of one HTTP/2 request.
const MAX_HTTP2_HEADER_BYTES: u32 = 16 << 10;
/// Requests at once on one HTTP/2 connection.
const MAX_HTTP2_STREAMS: u32 = 128;
/// Between pings that find dead HTTP/2 peers.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
/// Connections that the kernel completes before we accept them.
const BACKLOG: u32 = 1024;
/// First wait after an accept that failed for want of descriptors or memory; each further one is twice as long.
const FIRST_BACK_OFF: Duration = Duration::from_millis(50);
const MAX_BACK_OFF: Duration = Duration::from_secs(1);
/// Files that are open beside connections.
const OTHER_FILES: u64 = 64;
/// How long open connections have, once nothing runs any more, to read the last bytes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on `{address}`: {}", advice(.error))]
pub(crate) struct BindError {
    address: SocketAddr,
    error: io::Error,
}

fn advice(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the address is in use; end what listens there or choose another `--port`".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "not permitted; ports below 1024 need privileges, choose another `--port`".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; choose another `--hostname`".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Raises the limit on open files as far as the system allows. Many systems start programs with room for only 1,024.
pub(crate) fn raise_file_limit(max_connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let allowed = if raised.is_ok() { limit.maximum } else { limit.current };
    if let Some(allowed) = allowed.filter(|&allowed| allowed < max_connections as u64 + OTHER_FILES) {
        tracing::warn!(
            "only `{allowed}` files may be open, too few for `{max_connections}` connections; raise `ulimit -n`"
        );
    }
}

/// Takes the port; connections wait in the kernel's queue until [`serve`].
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| BindError { address, error })
}

/// Serves until `stop` resolves; then closes the port and waits, not for long, until every connection is done.
pub(crate) async fn serve(listener: TcpListener, app: Router, max_connections: usize, stop: impl Future<Output = ()>) {
    let slots = Arc::new(Semaphore::new(max_connections));
    let builder = Arc::new(connection_builder());
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            (stream, slot) = accept(&listener, &slots) => {
                let connection = Connection { builder: Arc::clone(&builder), app: app.clone(), _slot: slot };
                tokio::spawn(connection.serve(stream, graceful.watcher()));
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(CLOSE_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("some connections did not close in {} s", CLOSE_TIMEOUT.as_secs());
    }
}

/// The next connection, once there is room for it. Errors of accept are weather: wait and try again.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed, so there always is a permit.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    let mut back_off = FIRST_BACK_OFF;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(back_off).await;
                back_off = (2 * back_off).min(MAX_BACK_OFF);
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn connection_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(MAX_HTTP1_HEADER_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HTTP2_HEADER_BYTES)
        .max_concurrent_streams(MAX_HTTP2_STREAMS)
        .keep_alive_interval(HTTP2_PING_INTERVAL);
    builder
}

struct Connection {
    builder: Arc<auto::Builder<TokioExecutor>>,
    app: Router,
    /// Given back when the connection ends.
    _slot: Option<OwnedSemaphorePermit>,
}

impl Connection {
    async fn serve(self, stream: TcpStream, watcher: Watcher) {
        // Tokens are small and wanted at once. Fails only on a connection that is dead already.
        let _ = stream.set_nodelay(true);
        let asked = Arc::new(AtomicBool::new(false));
        let (app, has_asked) = (self.app.clone(), Arc::clone(&asked));
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            has_asked.store(true, Ordering::Relaxed);
            app.clone().oneshot(request)
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service).into_owned();
        tokio::select! {
            // Errors are the client's: it went away, or does not speak HTTP.
            result = watcher.watch(connection) => if let Err(error) = result { tracing::debug!(%error, "connection ended") },
            () = silence(&asked) => tracing::debug!("connection closed: no request came"),
        }
    }
}

/// Resolves if no request has come in time.
async fn silence(asked: &AtomicBool) {
    tokio::time::sleep(FIRST_REQUEST_TIMEOUT).await;
    if asked.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
