//! Stop strings in the two ways the dialects want them: trimmed, with text held back that may be the beginning of one
//! (`/v1`), or kept, with every token shown at once and the text cut right after the stop (TGI).

use forebay_text::StopStrings;

/// One stream's search.
#[derive(Debug)]
pub(crate) enum Stops {
    /// The text ends before the stop.
    Trim(StopStrings),
    /// The text ends with the stop.
    Keep(KeptStops),
}

impl Stops {
    /// Takes a piece of text; answers what of it can be shown, and whether a stop was found.
    pub(crate) fn push(&mut self, piece: &str) -> (String, bool) {
        match self {
            Self::Trim(stops) => {
                let step = stops.push(piece);
                (step.emit, step.stopped.is_some())
            }
            Self::Keep(stops) => stops.push(piece),
        }
    }

    /// Takes a piece of text that no stop may end in yet; answers what of it can be shown.
    pub(crate) fn pass(&mut self, piece: &str) -> String {
        match self {
            Self::Trim(stops) => stops.pass(piece),
            Self::Keep(stops) => {
                stops.remember(piece);
                piece.to_owned()
            }
        }
    }

    /// What is still held back when the generation ended otherwise, and whether a stop was waiting in it for a longer
    /// one that could have begun with it.
    pub(crate) fn finish(&mut self) -> (String, bool) {
        match self {
            Self::Trim(stops) => (stops.finish(), stops.stopped().is_some()),
            Self::Keep(_) => (String::new(), false),
        }
    }
}

/// Ends at the first stop that is complete; never holds anything back.
#[derive(Debug)]
pub(crate) struct KeptStops {
    stops: Vec<String>,
    /// The end of the text so far: as much as a stop that is not complete yet can reach back.
    tail: String,
    max_tail: usize,
}

impl KeptStops {
    pub(crate) fn new(stops: Vec<String>) -> Self {
        let max_tail = stops.iter().map(String::len).max().unwrap_or(0).saturating_sub(1);
        Self { stops, tail: String::new(), max_tail }
    }

    fn push(&mut self, piece: &str) -> (String, bool) {
        if self.stops.is_empty() {
            return (piece.to_owned(), false);
        }
        let text = format!("{}{piece}", self.tail);
        let first_end = |stop: &String| {
            // What ends in the tail was passed.
            let from = (self.tail.len() + 1).saturating_sub(stop.len());
            let from = (from..text.len()).find(|at| text.is_char_boundary(*at))?;
            Some(from + text[from..].find(stop.as_str())? + stop.len())
        };
        if let Some(end) = self.stops.iter().filter_map(first_end).min() {
            return (text[self.tail.len()..end].to_owned(), true);
        }
        self.remember(piece);
        (piece.to_owned(), false)
    }

    fn remember(&mut self, piece: &str) {
        self.tail.push_str(piece);
        let keep_from = self.tail.len().saturating_sub(self.max_tail);
        let cut = (0..=keep_from).rev().find(|at| self.tail.is_char_boundary(*at)).unwrap_or(0);
        self.tail.drain(..cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut search = KeptStops::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut text = String::new();
        for piece in pieces {
            let (shown, stopped) = search.push(piece);
            text.push_str(&shown);
            if stopped {
                return (text, true);
            }
        }
        (text, false)
    }

    #[test]
    fn a_stop_that_waits_for_a_longer_one_is_a_stop_when_the_text_ends() {
        let mut stops = Stops::Trim(StopStrings::new(vec!["\n".to_owned(), "\n\n".to_owned()]));
        assert_eq!(stops.push("a\n"), ("a".to_owned(), false));
        assert_eq!(stops.finish(), (String::new(), true));
    }

    #[test]
    fn a_stop_that_is_kept_may_begin_in_text_that_was_passed_but_not_end_there() {
        let mut search = Stops::Keep(KeptStops::new(vec!["b".to_owned(), "bcd".to_owned(), "aa".to_owned()]));
        assert_eq!(search.pass("abc"), "abc");
        assert_eq!(search.push("de"), ("d".to_owned(), true));
        let mut search = Stops::Keep(KeptStops::new(vec!["aa".to_owned()]));
        assert_eq!(search.pass("aa"), "aa");
        assert_eq!(search.push("ab"), ("a".to_owned(), true));
    }

    #[test]
    fn a_stop_inside_a_token_cuts_the_token_after_it() {
        assert_eq!(run(&["b"], &["abc", "d"]), ("ab".to_owned(), true));
    }

    #[test]
    fn a_stop_across_three_tokens_is_found() {
        assert_eq!(run(&["END"], &["xE", "N", "Dy"]), ("xEND".to_owned(), true));
    }

    #[test]
    fn the_stop_that_is_complete_first_wins() {
        assert_eq!(run(&["abcd", "bc"], &["ab", "cd"]), ("abc".to_owned(), true));
    }

    #[test]
    fn characters_of_many_bytes_do_not_break_the_tail() {
        assert_eq!(run(&["é!"], &["ééé", "ñ", "é", "!", "x"]), ("éééñé!".to_owned(), true));
        assert_eq!(run(&["zz"], &["日本", "語"]), ("日本語".to_owned(), false));
    }
}
