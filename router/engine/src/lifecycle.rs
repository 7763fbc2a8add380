//! The lives of a worker group: start, handshake, serve; when it is lost, kill, wait, and again.
//!
//! A panic while serving is our bug, but no reason to stop serving: whoever ran or waited gets an error, the scheduler
//! is thrown away and the group restarts. A panic anywhere else ends the engine as failed, never as silently gone.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::{Instant, sleep, timeout};

use crate::driver::{Driver, EXIT_GRACE, Served};
use crate::error::GroupError;
use crate::group::{Life, WorkerGroup};
use crate::handle::{EngineConfig, EngineState, WorkerInfo};
use crate::shards::{Shards, exit_words};
use crate::shared::GroupReport;

/// The first pause before a restart; each further one is twice as long. Nothing has to cool down, since a kill waits
/// until every process is gone; pauses only keep a group that never gets anywhere from spinning. Streams wait for it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// An incarnation that computed anything, or idled for so long, was sound: the pauses begin anew.
const SOUND: Duration = Duration::from_secs(30);

/// How one incarnation ended.
enum Ended {
    /// The engine is to stop.
    Stopped,
    /// It never served.
    NotStarted(GroupError),
    /// It served, and was lost.
    Lost(GroupError),
}

/// Drives the group until the engine stops or the very first start fails.
pub(crate) async fn run(group: impl WorkerGroup, driver: Driver, report: GroupReport) {
    if let Err(panic) = AssertUnwindSafe(drive(group, driver)).catch_unwind().await {
        let reason = format!("the engine panicked: {}", panic_words(panic.as_ref()));
        tracing::error!(reason);
        report.set_state(EngineState::Failed(reason));
    }
}

async fn drive(mut group: impl WorkerGroup, mut driver: Driver) {
    let mut pause = FIRST_PAUSE;
    let mut was_ready = false;
    let mut sound_until = Instant::now();
    let mut num_blocks = None;
    for incarnation in 1.. {
        let began = Instant::now();
        let ended = live(&mut group, &mut driver, Life { incarnation, num_blocks }).await;
        num_blocks = num_blocks.or_else(|| driver.num_blocks());
        let (error, served) = match ended {
            Ended::Stopped => break,
            Ended::NotStarted(error) => (error, false),
            Ended::Lost(error) => (error, true),
        };
        was_ready |= served;
        if !was_ready {
            tracing::error!(%error, "the workers did not start");
            driver.set_state(EngineState::Failed(error.to_string()));
            break;
        }
        if served && (driver.made_progress() || began.elapsed() >= SOUND) {
            pause = FIRST_PAUSE;
            sound_until = Instant::now();
        }
        if sound_until.elapsed() >= driver.config.restart_timeout {
            let seconds = driver.config.restart_timeout.as_secs();
            tracing::error!(incarnation, %error, "the worker group did not come back within {seconds} s; given up");
            driver.give_up(format!("given up after `{seconds}` s of restarts: {error}"));
            break;
        }
        let pause_ms = pause.as_millis() as u64;
        tracing::warn!(incarnation, %error, pause_ms, "the worker group was lost; it restarts");
        driver.group_lost(&error.to_string());
        if !rest(&mut group, &mut driver, pause).await {
            break;
        }
        pause = (2 * pause).min(MAX_PAUSE);
    }
    group.kill().await;
    driver.stop();
}

/// One incarnation, from its start to its end.
async fn live(group: &mut impl WorkerGroup, driver: &mut Driver, life: Life) -> Ended {
    let config = driver.config.clone();
    let started = driver.attend(start(group, life, &config)).await;
    let (shards, info) = match started {
        None => return Ended::Stopped,
        Some(Err(error)) => return Ended::NotStarted(error),
        Some(Ok(started)) => started,
    };
    let Life { incarnation, num_blocks: wanted } = life;
    if let Some(wanted) = wanted.filter(|wanted| *wanted > info.num_blocks) {
        tracing::warn!(wanted, got = info.num_blocks, "the pool is smaller than before: who needs more of it ends");
    }
    tracing::info!(incarnation, num_blocks = info.num_blocks, device = %info.device, "the worker group is ready");
    driver.group_ready(info);
    match AssertUnwindSafe(driver.serve(shards, group.exited())).catch_unwind().await {
        Ok(Served::Stopped) => Ended::Stopped,
        Ok(Served::Lost(error)) => Ended::Lost(error),
        Err(panic) => {
            let reason = format!("the engine panicked: {}", panic_words(panic.as_ref()));
            driver.forget_all(&reason);
            Ended::Lost(GroupError::Lost(reason))
        }
    }
}

/// What a panic said, if it said it in words.
fn panic_words(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

async fn start(
    group: &mut impl WorkerGroup,
    life: Life,
    config: &EngineConfig,
) -> Result<(Shards, WorkerInfo), GroupError> {
    let limit = config.start_timeout;
    timeout(limit, bring_up(group, life, config)).await.unwrap_or_else(|_| {
        Err(GroupError::Start(format!("the workers were not ready within `{}` s", limit.as_secs_f64())))
    })
}

async fn bring_up(
    group: &mut impl WorkerGroup,
    life: Life,
    config: &EngineConfig,
) -> Result<(Shards, WorkerInfo), GroupError> {
    let channels = group.start(life).await?;
    let exited = group.exited();
    tokio::pin!(exited);
    tokio::select! {
        exit = &mut exited => Err(GroupError::Start(exit_words(&exit))),
        connected = Shards::connect(channels, life.incarnation, config) => match connected {
            Ok(connected) => Ok(connected),
            Err(broken) => Err(broken.explained(timeout(EXIT_GRACE, exited).await.ok().as_ref())),
        },
    }
}

/// Kills what is left of the group and pauses. False: the engine is to stop.
async fn rest(group: &mut impl WorkerGroup, driver: &mut Driver, pause: Duration) -> bool {
    let mut kill = pin!(group.kill());
    if driver.attend(&mut kill).await.is_none() {
        kill.await;
        return false;
    }
    driver.attend(sleep(pause)).await.is_some()
}
