//! Finds stop strings across token edges, holding back text that may be the beginning of one.
//!
//! The answer depends on the text alone, never on how it was cut into pieces: the match that begins first wins, and of
//! those that begin together the longest. So a complete match waits while an earlier or a longer one is still possible.

/// What one piece of text led to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopStep {
    /// Text that can be shown now (up to the stop, without it, when one was found).
    pub emit: String,
    /// The stop string that was found, by its index; nothing is emitted after it.
    pub stopped: Option<usize>,
}

/// One stream's state.
#[derive(Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Text that may be the beginning of a stop; shorter than the longest of them, except when a match waits.
    held: String,
    /// A stop that ends in the first so many bytes of `held` is none.
    num_passed: usize,
    stopped: Option<usize>,
}

/// What begins at one place of the text.
enum Beginning {
    Nothing,
    /// The text ends before a stop that begins here is refuted.
    Possible,
    Stop(usize),
}

impl StopStrings {
    /// `stops` must not be empty strings (empty ones are never found). With none, text passes through.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new(), num_passed: 0, stopped: None }
    }

    /// Takes the next piece of text. The earliest match wins; of those that begin together, the longest.
    pub fn push(&mut self, text: &str) -> StopStep {
        if self.stopped.is_some() {
            return StopStep { emit: String::new(), stopped: self.stopped };
        }
        if self.stops.is_empty() {
            return StopStep { emit: text.to_owned(), stopped: None };
        }
        self.held.push_str(text);
        self.advance(false)
    }

    /// Takes a piece of text in which no stop may end, though one may begin; answers what of it can be shown.
    pub fn pass(&mut self, text: &str) -> String {
        self.held.push_str(text);
        self.num_passed = self.held.len();
        self.advance(false).emit
    }

    /// What is still held back, at the end of the generation. Text from a complete stop on is left out: a match that
    /// was waiting for a longer one is final now, see [`Self::stopped`].
    pub fn finish(&mut self) -> String {
        if self.stopped.is_some() { String::new() } else { self.advance(true).emit }
    }

    /// The stop that was found so far, by its index; after `finish` it may be one that had waited for a longer match.
    pub fn stopped(&self) -> Option<usize> {
        self.stopped
    }

    fn advance(&mut self, ended: bool) -> StopStep {
        for (at, _) in self.held.char_indices() {
            match self.beginning(at, ended) {
                Beginning::Nothing => {}
                Beginning::Possible => {
                    self.num_passed = self.num_passed.saturating_sub(at);
                    let rest = self.held.split_off(at);
                    return StopStep { emit: std::mem::replace(&mut self.held, rest), stopped: None };
                }
                Beginning::Stop(index) => {
                    self.stopped = Some(index);
                    self.held.truncate(at);
                    break;
                }
            }
        }
        self.num_passed = 0;
        StopStep { emit: std::mem::take(&mut self.held), stopped: self.stopped }
    }

    fn beginning(&self, at: usize, ended: bool) -> Beginning {
        let rest = &self.held.as_bytes()[at..];
        let mut longest: Option<usize> = None;
        for (index, stop) in self.stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty()) {
            if rest.starts_with(stop.as_bytes()) {
                let counts = at + stop.len() > self.num_passed;
                if counts && longest.is_none_or(|best| self.stops[best].len() < stop.len()) {
                    longest = Some(index);
                }
            } else if !ended && stop.as_bytes().starts_with(rest) {
                return Beginning::Possible;
            }
        }
        longest.map_or(Beginning::Nothing, Beginning::Stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut state = StopStrings::new(stops.iter().map(ToString::to_string).collect());
        let mut text: String = pieces.iter().map(|piece| state.push(piece).emit).collect();
        text += &state.finish();
        (text, state.stopped())
    }

    fn naive(stops: &[String], text: &str) -> (String, Option<usize>) {
        let found = stops.iter().enumerate().filter_map(|(index, stop)| Some((text.find(stop.as_str())?, index)));
        let best = found.min_by_key(|&(at, index)| (at, usize::MAX - stops[index].len(), index));
        best.map_or((text.to_owned(), None), |(at, index)| (text[..at].to_owned(), Some(index)))
    }

    #[test]
    fn a_stop_inside_a_token_cuts_the_token() {
        assert_eq!(run(&["stop"], &["go and stop now"]), ("go and ".to_owned(), Some(0)));
    }

    #[test]
    fn a_stop_across_tokens_is_found_and_nothing_of_it_is_shown() {
        let mut state = StopStrings::new(vec!["\n\nHuman:".to_owned()]);
        assert_eq!(state.push("yes\n"), StopStep { emit: "yes".to_owned(), stopped: None });
        assert_eq!(state.push("\nHum"), StopStep::default());
        assert_eq!(state.push("an: hi"), StopStep { emit: String::new(), stopped: Some(0) });
        assert_eq!(state.push("more"), StopStep { emit: String::new(), stopped: Some(0) });
        assert_eq!(state.finish(), "");
    }

    #[test]
    fn only_possible_beginnings_are_held_back() {
        let mut state = StopStrings::new(vec!["<end>".to_owned()]);
        assert_eq!(state.push("a < b").emit, "a < b");
        assert_eq!(state.push(" <e").emit, " ");
        assert_eq!(state.push("x").emit, "<ex");
        assert_eq!(state.push("<en").emit, "");
        assert_eq!(state.finish(), "<en");
        assert_eq!(state.stopped(), None);
    }

    #[test]
    fn of_stops_that_begin_together_the_longest_wins() {
        assert_eq!(run(&["\n", "\n\n"], &["a\n", "\nb"]), ("a".to_owned(), Some(1)));
        assert_eq!(run(&["\n", "\n\n"], &["a\n", "b"]), ("a".to_owned(), Some(0)));
        assert_eq!(run(&["\n", "\n\n"], &["a\n"]), ("a".to_owned(), Some(0)));
    }

    #[test]
    fn a_stop_counts_where_it_ends_and_may_begin_in_text_that_was_passed() {
        let passed = |stops: &[&str], early: &str, late: &str| {
            let mut state = StopStrings::new(stops.iter().map(ToString::to_string).collect());
            let mut text = state.pass(early) + &state.push(late).emit;
            text += &state.finish();
            (text, state.stopped())
        };
        assert_eq!(passed(&["b"], "abc", "de"), ("abcde".to_owned(), None));
        assert_eq!(passed(&["b"], "abc", "ab"), ("abca".to_owned(), Some(0)));
        assert_eq!(passed(&["cd"], "abc", "de"), ("ab".to_owned(), Some(0)));
        assert_eq!(passed(&["\n", "\n\n"], "a\n", "b"), ("a\nb".to_owned(), None));
        assert_eq!(passed(&["\n", "\n\n"], "a\n", "\nb"), ("a".to_owned(), Some(1)));
        assert_eq!(passed(&["aa", "aab"], "aa", "a"), ("a".to_owned(), Some(0)));
        assert_eq!(passed(&["a"], "aa", ""), ("aa".to_owned(), None));
    }

    #[test]
    fn any_chunking_agrees_with_a_search_of_the_whole_text() {
        let alphabet = ["a", "b", "c", "é", "한", "😀", "\n"];
        let mut random = Random::new(7);
        for _ in 0..20_000 {
            let text = random.string(&alphabet, 24);
            let num_stops = 1 + random.below(4);
            let stops: Vec<String> = (0..num_stops).map(|_| random.string(&alphabet[..5], 3) + "a").collect();
            let pieces = random.pieces(&text);
            let stops_ref: Vec<&str> = stops.iter().map(String::as_str).collect();
            assert_eq!(run(&stops_ref, &pieces), naive(&stops, &text), "{stops:?} in {pieces:?}");
        }
    }
}
