//! What outlives a worker group: every sequence that has not ended.
//!
//! A sequence is its known ids, its counts and its deadline; where it stood with a worker is rebuilt. So when the group
//! dies, each goes back to its place in the line as if preempted, except that nothing in flight will come: it is void.
//! It is sent to the next incarnation as a new sequence with all ids that are known, and computed from there; the
//! token that follows is the one that would have followed. Nothing that was told is told again: no start, no token.

use crate::block_manager::BlockManager;
use crate::in_flight::PlanClock;
use crate::limits::Limits;
use crate::request::{FinishReason, NewRequest, SubmitError, Time};
use crate::scheduler::{Scheduler, check_request};
use crate::sequence::{Sequence, Standing, Suspicion};
use crate::sequence_table::SequenceKey;
use crate::step::Event;
use crate::token_budget::TokenBudget;

/// A request that one scheduler hands out and another takes over.
#[derive(Debug)]
pub struct Evacuee {
    /// As submitted, with what was generated since in `token_ids`.
    pub request: NewRequest,
    was_started: bool,
    suspicion: Option<Suspicion>,
}

impl Scheduler {
    /// The group died. Every request goes on, from the line, with all tokens told so far; pool and tree are empty and
    /// `step_id` is 0 again. Sequences with a row in an unanswered plan are suspects from now on; who has been the only
    /// one too often ends with [`FinishReason::Quarantined`].
    pub fn group_lost(&mut self, now: Time, events: &mut Vec<Event>) {
        self.blame(events);
        for key in self.keys_by_rank() {
            let sequence = &mut self.sequences[key];
            self.totals.resumptions += u64::from(sequence.tenancy().is_some());
            if matches!(sequence.standing, Standing::Running(_)) {
                self.queue.insert(sequence.rank, key, sequence.request.num_prompt_tokens);
            }
            sequence.lose_worker();
        }
        self.begin_incarnation();
        self.expire(now, events);
    }

    /// A new group is ready and offers `limits`. Requests that they do not hold end with
    /// [`FinishReason::NoLongerFits`]. Call it before the first plan for that group; it is not needed when nothing has
    /// changed.
    ///
    /// # Panics
    /// When the limits cannot work (as `new`), or when the last group was not declared lost.
    pub fn group_ready(&mut self, limits: Limits, events: &mut Vec<Event>) {
        limits.check();
        assert!(self.clock == PlanClock::default(), "the last group has not been declared lost");
        self.limits = limits;
        self.begin_incarnation();
        for key in self.keys_by_rank() {
            if let Err(error) = check_request(&self.sequences[key].request, &self.limits) {
                self.finish(key, FinishReason::NoLongerFits(error), events);
            }
        }
    }

    /// The group will not come back: as `group_lost`, but every request is handed out, in the order of service, for
    /// another scheduler to [`adopt`](Self::adopt) or for the caller to end.
    pub fn evacuate(&mut self, now: Time, events: &mut Vec<Event>) -> Vec<Evacuee> {
        self.group_lost(now, events);
        let evacuees = self.keys_by_rank().into_iter().filter_map(|key| self.sequences.remove(key));
        let evacuees = evacuees.map(|sequence| Evacuee {
            was_started: sequence.was_started,
            suspicion: sequence.suspicion,
            request: sequence.request,
        });
        let evacuees = evacuees.collect();
        self.queue.clear();
        self.deadlines.clear();
        self.num_suspects = 0;
        evacuees
    }

    /// Takes over what another scheduler handed out. It joins the end of the line, whose bounds were kept when it was
    /// submitted and do not hold here; a start that was told is not told again.
    ///
    /// # Panics
    /// When the id names a request that has not ended.
    pub fn adopt(&mut self, evacuee: Evacuee) -> Result<(), SubmitError> {
        check_request(&evacuee.request, &self.limits)?;
        let mut sequence = Sequence::new(evacuee.request, self.num_arrivals);
        (sequence.was_started, sequence.suspicion) = (evacuee.was_started, evacuee.suspicion);
        self.num_suspects += u32::from(sequence.suspicion.is_some());
        self.enlist(sequence);
        Ok(())
    }

    /// Everything about a worker is as if there had never been one.
    fn begin_incarnation(&mut self) {
        self.slots.reset(self.limits.max_sequences);
        self.totals.evictions += self.blocks.num_evictions();
        self.blocks = BlockManager::new(&self.limits);
        self.clock = PlanClock::default();
        self.in_flight.clear();
        self.failure_known_from = 0;
        self.decode_turn = 0;
        self.was_tried_alone = false;
        self.budget = TokenBudget::new(self.limits.max_plan_tokens);
    }

    fn keys_by_rank(&self) -> Vec<SequenceKey> {
        let mut keys: Vec<_> = self.sequences.iter().map(|(key, sequence)| (sequence.rank, key)).collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, key)| key).collect()
    }
}
