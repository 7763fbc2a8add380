//! Finds stop strings across token edges, holding back text that may be the beginning of one.

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
pub struct StopStrings {}

impl StopStrings {
    /// `stops` must not be empty strings. With none, text passes through.
    pub fn new(_stops: Vec<String>) -> Self {
        Self {}
    }

    /// Takes the next piece of text. The earliest match wins; of those that begin together, the longest.
    pub fn push(&mut self, text: &str) -> StopStep {
        StopStep { emit: text.to_owned(), stopped: None }
    }

    /// What is still held back, at the end of the generation.
    pub fn finish(&mut self) -> String {
        String::new()
    }
}
