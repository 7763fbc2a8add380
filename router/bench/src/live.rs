//! What is going on now: a line that is written over on a terminal, else a line every few seconds.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::record::Piece;
use crate::statistics::percentile;

/// Between lines on a terminal.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(500);
/// Between lines elsewhere.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);
/// Above the lines of a terminal, once a run.
const HEAD: &str = "  time     done  running   failed   pieces/s   ttft p50     itl p50     itl p99";

/// Where to show progress.
pub struct Progress {
    /// Mostly standard error.
    pub out: Box<dyn Write + Send>,
    /// Whether lines can be written over.
    pub is_terminal: bool,
}

/// Counted by requests as they go on, read by the line.
#[derive(Debug, Default)]
pub(crate) struct Live {
    running: AtomicU64,
    peak_running: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    recent: Mutex<Recent>,
}

/// Since the last line.
#[derive(Debug, Default)]
struct Recent {
    num_pieces: u64,
    ttft_us: Vec<u32>,
    gaps_us: Vec<u32>,
}

impl Live {
    pub(crate) fn began(&self) {
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak_running.fetch_max(running, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, well: bool) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        if well { &self.done } else { &self.failed }.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn saw(&self, piece: Piece) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        match piece {
            Piece::None => return,
            Piece::First { ttft_us } => recent.ttft_us.push(ttft_us),
            Piece::Next { gap_us } => recent.gaps_us.push(gap_us),
        }
        recent.num_pieces += 1;
    }

    /// The most requests that ran at once.
    pub(crate) fn peak_running(&self) -> u64 {
        self.peak_running.load(Ordering::Relaxed)
    }

    /// What [`HEAD`] names, of the time since the last line.
    fn line(&self, elapsed: Duration, since_last: Duration) -> String {
        let mut recent = std::mem::take(&mut *self.recent.lock().unwrap_or_else(PoisonError::into_inner));
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        format!(
            "{:>4.0} s {:>8} {:>8} {:>8} {:>10.0} {} {} {}",
            elapsed.as_secs_f64(),
            count(&self.done),
            count(&self.running),
            count(&self.failed),
            recent.num_pieces as f64 / since_last.as_secs_f64(),
            milliseconds(&mut recent.ttft_us, 50.0),
            milliseconds(&mut recent.gaps_us, 50.0),
            milliseconds(&mut recent.gaps_us, 99.0),
        )
    }
}

fn milliseconds(values_us: &mut [u32], percent: f64) -> String {
    values_us.sort_unstable();
    let shown =
        if values_us.is_empty() { "-".to_owned() } else { format!("{:.1}", percentile(values_us, percent) / 1e3) };
    format!("{shown:>8} ms")
}

/// Writes lines until it is aborted.
pub(crate) fn show(live: Arc<Live>, progress: Arc<Mutex<Progress>>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let start = Instant::now();
        let is_terminal = write(&progress, |progress| {
            writeln!(progress.out, "{HEAD}")?;
            Ok(progress.is_terminal)
        });
        let interval = if is_terminal { TERMINAL_INTERVAL } else { PLAIN_INTERVAL };
        let mut last = start;
        loop {
            tokio::time::sleep(interval).await;
            let line = live.line(start.elapsed(), last.elapsed());
            last = Instant::now();
            write(&progress, |progress| {
                if progress.is_terminal {
                    write!(progress.out, "\r{line}\x1b[K")?;
                    progress.out.flush()?;
                } else {
                    writeln!(progress.out, "{line}")?;
                }
                Ok(true)
            });
        }
    })
}

/// Ends the line that was written over.
pub(crate) fn finish(progress: &Mutex<Progress>) {
    write(progress, |progress| if progress.is_terminal { writeln!(progress.out).map(|()| true) } else { Ok(true) });
}

/// Nobody is left to tell when it cannot be written.
fn write(progress: &Mutex<Progress>, act: impl FnOnce(&mut Progress) -> std::io::Result<bool>) -> bool {
    act(&mut progress.lock().unwrap_or_else(PoisonError::into_inner)).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_of_the_time_since_the_last_one() {
        let live = Live::default();
        for _ in 0..3 {
            live.began();
        }
        live.saw(Piece::First { ttft_us: 2_000 });
        live.saw(Piece::Next { gap_us: 4_000 });
        live.saw(Piece::None);
        live.ended(true);
        live.ended(false);
        let words = |line: String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let second = Duration::from_secs(1);
        let expected = ["10", "s", "1", "1", "1", "2", "2.0", "ms", "4.0", "ms", "4.0", "ms"];
        assert_eq!(words(live.line(Duration::from_secs(10), second)), expected);
        let nothing = ["11", "s", "1", "1", "1", "0", "-", "ms", "-", "ms", "-", "ms"];
        assert_eq!(words(live.line(Duration::from_secs(11), second)), nothing);
        assert_eq!(live.peak_running(), 3);
    }
}
