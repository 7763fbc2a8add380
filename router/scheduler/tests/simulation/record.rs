//! What a request must learn, worked out alone: its text by the sequential model, and its end.

use forebay_scheduler::{FinishReason, NewRequest};

use super::oracle::Chain;

/// Where a request stands for its caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    InLine,
    Started,
    Cancelled,
    Finished(FinishReason),
}

/// A request that was taken.
pub(crate) struct Record {
    pub(crate) request: NewRequest,
    pub(crate) fate: Fate,
    /// Prompt and all tokens delivered.
    pub(crate) tokens: Vec<u32>,
    /// Its slot was given to others while it was alive.
    pub(crate) is_unseated: bool,
    /// A group has died since it was last sent.
    pub(crate) was_lost: bool,
    /// Steps of the smallest size that failed under it.
    pub(crate) num_small_failures: u32,
    /// Whoever computes this position of it dies of it.
    pub(crate) poison: Option<usize>,
    /// Groups that died of it.
    pub(crate) num_killed: u32,
    /// The last token delivered was its last; `Finished` must follow at once.
    pub(crate) due: Option<FinishReason>,
    chain: Chain,
}

impl Record {
    pub(crate) fn new(request: NewRequest, poison: Option<usize>) -> Self {
        let mut chain = Chain::new(request.cache_salt);
        for (position, &token) in request.token_ids.iter().enumerate() {
            chain.compute(token, position);
        }
        let tokens = request.token_ids.clone();
        Self {
            request,
            fate: Fate::InLine,
            tokens,
            is_unseated: false,
            was_lost: false,
            num_small_failures: 0,
            poison,
            num_killed: 0,
            due: None,
            chain,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        matches!(self.fate, Fate::InLine | Fate::Started)
    }

    pub(crate) fn num_generated(&self) -> u32 {
        self.tokens.len() as u32 - self.request.num_prompt_tokens
    }

    /// Whether one more token may be planned for a sequence sent up to `position`.
    pub(crate) fn wants_decode_at(&self, position: u32) -> bool {
        position + 1 < self.request.num_prompt_tokens + self.request.max_new_tokens
    }

    /// Takes a delivered token: it must be the one that the request alone would have got.
    pub(crate) fn deliver(&mut self, token_id: u32, num_generated: u32, vocab_size: u64) {
        assert_eq!(self.fate, Fate::Started, "a token for a request that is not running");
        assert_eq!(self.due, None, "a token after the last");
        assert_eq!(token_id, self.chain.sample(vocab_size), "the text differs from a run alone");
        self.chain.compute(token_id, self.tokens.len());
        self.tokens.push(token_id);
        assert_eq!(num_generated, self.num_generated(), "tokens were lost or repeated");
        self.due = self.end_after(token_id);
    }

    fn end_after(&self, token_id: u32) -> Option<FinishReason> {
        let may_stop = self.num_generated() > self.request.min_new_tokens;
        if may_stop && self.request.stop_token_ids.contains(&token_id) {
            Some(FinishReason::StopToken(token_id))
        } else {
            (self.num_generated() == self.request.max_new_tokens).then_some(FinishReason::Length)
        }
    }
}
