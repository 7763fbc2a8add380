//! What became of one request, and how a stream of events makes it.

use std::time::{Duration, Instant};

use crate::events::{Counts, counts, marks};

/// What is measured: pieces of text that come before or after are none of the throughput.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) start: Instant,
    /// None as long as it ends with the last request.
    pub(crate) end: Option<Instant>,
}

impl Window {
    pub(crate) fn holds(&self, time: Instant) -> bool {
        time >= self.start && self.end.is_none_or(|end| time < end)
    }
}

/// Why a request did not end well. Its class is what is counted; the words of the first of each class are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection.
    Connect(String),
    /// Not 200, and how the body begins.
    Status(u16, String),
    /// 200, but no server-sent events.
    NotAStream(String),
    /// The server's own error within a stream.
    ErrorEvent(String),
    /// The stream ended, or broke, before its last event.
    Cut(String),
    /// The stream ended well and brought no text.
    NoText,
    /// Longer than `--timeout`.
    Timeout,
}

impl Failure {
    pub(crate) fn class(&self) -> String {
        match self {
            Self::Connect(_) => "connect".to_owned(),
            Self::Status(status, _) => format!("status_{status}"),
            Self::NotAStream(_) => "not_a_stream".to_owned(),
            Self::ErrorEvent(_) => "error_event".to_owned(),
            Self::Cut(_) => "cut".to_owned(),
            Self::NoText => "no_text".to_owned(),
            Self::Timeout => "timeout".to_owned(),
        }
    }

    pub(crate) fn words(&self) -> &str {
        match self {
            Self::Connect(words)
            | Self::Status(_, words)
            | Self::NotAStream(words)
            | Self::ErrorEvent(words)
            | Self::Cut(words) => words,
            Self::NoText => "the stream ended without a piece of text",
            Self::Timeout => "not ended within `--timeout`",
        }
    }
}

/// One request. Times are since it was scheduled: what the generator lost counts as the server's, never in its favour.
#[derive(Debug)]
pub(crate) struct Record {
    /// From when it ought to have been sent to when the generator came to it.
    pub(crate) lag: Duration,
    pub(crate) took: Duration,
    pub(crate) ended_in_window: bool,
    pub(crate) stream: Stream,
    pub(crate) outcome: Result<(), Failure>,
}

/// The events of one request.
#[derive(Debug)]
pub(crate) struct Stream {
    scheduled: Instant,
    last_text: Option<Instant>,
    /// To the first piece of text.
    pub(crate) first_text: Option<Duration>,
    pub(crate) first_in_window: bool,
    /// Between pieces of text, in microseconds; pieces that came in one read are 0 apart.
    pub(crate) gaps_us: Vec<u32>,
    pub(crate) num_pieces: u64,
    pub(crate) num_pieces_in_window: u64,
    pub(crate) counts: Counts,
    ended: bool,
    pub(crate) error: Option<String>,
}

impl Stream {
    pub(crate) fn new(scheduled: Instant) -> Self {
        Self {
            scheduled,
            last_text: None,
            first_text: None,
            first_in_window: false,
            gaps_us: Vec::new(),
            num_pieces: 0,
            num_pieces_in_window: 0,
            counts: Counts::default(),
            ended: false,
            error: None,
        }
    }

    /// Takes in an event that came `now`. Returns what the live figures want to know.
    pub(crate) fn take(&mut self, payload: &[u8], now: Instant, window: &Window) -> Piece {
        let marks = marks(payload);
        self.ended |= marks.ends;
        if marks.error && self.error.is_none() {
            self.error = Some(beginning(payload));
        }
        if marks.counts {
            self.counts = counts(payload);
        }
        if !marks.text {
            return Piece::None;
        }
        let in_window = window.holds(now);
        self.num_pieces += 1;
        self.num_pieces_in_window += u64::from(in_window);
        if let Some(last) = self.last_text.replace(now) {
            let gap_us = micros(now - last);
            self.gaps_us.push(gap_us);
            return Piece::Next { gap_us };
        }
        let first = now - self.scheduled;
        self.first_text = Some(first);
        self.first_in_window = in_window;
        Piece::First { ttft_us: micros(first) }
    }

    /// Of a body that came to its end.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        if !self.ended {
            return Err(Failure::Cut("the stream ended without its last event".to_owned()));
        }
        if self.num_pieces == 0 { Err(Failure::NoText) } else { Ok(()) }
    }

    /// As the server counts them, else a token a piece.
    pub(crate) fn output_tokens(&self) -> u64 {
        self.counts.output.unwrap_or(self.num_pieces)
    }

    /// Of these, what came within the window: by the share of the pieces, for counts come at the end.
    pub(crate) fn output_tokens_in_window(&self) -> f64 {
        self.output_tokens() as f64 * self.num_pieces_in_window as f64 / self.num_pieces.max(1) as f64
    }

    /// Time per output token after the first, in microseconds; none of fewer than two tokens.
    pub(crate) fn tpot_us(&self) -> Option<u32> {
        let spanned = self.last_text? - (self.scheduled + self.first_text?);
        let after_first = self.output_tokens().checked_sub(1).filter(|&number| number > 0)?;
        Some((spanned.as_secs_f64() * 1e6 / after_first as f64).round() as u32)
    }
}

/// What an event was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    None,
    First { ttft_us: u32 },
    Next { gap_us: u32 },
}

/// Whole microseconds; 71 minutes and more are 71 minutes.
pub(crate) fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// Enough of a body to know what it is about.
pub(crate) fn beginning(bytes: &[u8]) -> String {
    const MAX_CHARS: usize = 200;
    String::from_utf8_lossy(bytes).chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> String {
        format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}}}}]}}"#)
    }

    #[test]
    fn times_count_from_when_a_request_was_due() {
        let due = Instant::now();
        let at = |ms| due + Duration::from_millis(ms);
        let window = Window { start: at(0), end: Some(at(1_030)) };
        let mut stream = Stream::new(due);
        for (ms, text) in [(1_000, ""), (1_010, "a"), (1_025, "b"), (1_040, "c"), (1_040, "d")] {
            stream.take(event(text).as_bytes(), at(ms), &window);
        }
        stream.take(br#"{"usage":{"prompt_tokens":3,"completion_tokens":6}}"#, at(1_041), &window);
        assert_eq!(stream.first_text, Some(Duration::from_millis(1_010)));
        assert_eq!(stream.gaps_us, [15_000, 15_000, 0]);
        // 30 ms for the five tokens after the first; two of four pieces came in time.
        assert_eq!(stream.tpot_us(), Some(6_000));
        assert!((stream.output_tokens_in_window() - 3.0).abs() < 1e-9);
        assert!(stream.first_in_window);
    }

    #[test]
    fn without_usage_a_piece_is_a_token() {
        let due = Instant::now();
        let window = Window { start: due, end: None };
        let mut stream = Stream::new(due);
        assert_eq!(stream.take(event("a").as_bytes(), due, &window), Piece::First { ttft_us: 0 });
        assert_eq!((stream.output_tokens(), stream.tpot_us()), (1, None));
    }
}
