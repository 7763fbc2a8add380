//! Signals, and how the server ends on them: the first drains, the second ends at once.

use std::io;
use std::time::Duration;

use forebay_engine::Engine;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long the workers may take to be killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// SIGTERM and SIGINT, caught from the moment this is made.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Must be called within the runtime.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next one's name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Lets what runs finish within `timeout`, takes nothing new, then stops the workers. `/health` says 503 from the
/// start. Another signal cuts it short.
pub(crate) async fn drain(engine: &Engine, timeout: Duration, signals: &mut Signals) {
    tracing::info!("draining: running requests have {} s to finish; signal again to end now", timeout.as_secs());
    tokio::select! {
        () = engine.drain(timeout) => tracing::info!("drained"),
        name = signals.next() => {
            tracing::warn!("{name} again: ending now");
            let killed = tokio::time::timeout(KILL_TIMEOUT, engine.drain(Duration::ZERO)).await;
            if killed.is_err() {
                tracing::error!("the workers did not end in {} s; they die with this process", KILL_TIMEOUT.as_secs());
            }
        }
    }
}
