//! Groups that die, by chance or of a request, and what comes after: the same requests go on with the next group, and
//! only who was the only suspect twice is ended. The suspects are kept here a second time, from the plans alone.

use forebay_scheduler::{Event, FinishReason, RequestId, Scheduler, StepPlan, StepResult};

use super::coverage::sometimes;
use super::mirror::Mirror;
use super::record::Fate;
use super::worker::{Faults, Worker};
use super::world::{SentStep, World};

impl World {
    /// The step at the front of those in flight has killed the worker.
    pub(super) fn die_of(&mut self, killer: RequestId) {
        let record = &mut self.records[killer.0 as usize];
        if record.is_live() {
            record.num_killed += 1;
            // The first death makes it a suspect; tokens that clear it bring it nearer to the deadly one, of which it
            // can have been ahead by the depth of the pipe, each row at its widest; then two strikes.
            let limit = 3 + 3 * (1 + 8) + 8;
            assert!(record.num_killed <= limit, "{killer:?} has killed {} groups", record.num_killed);
        }
        self.lose_group(None);
    }

    /// The group dies of nothing that it computes; it would have gone on.
    pub(super) fn kill_group(&mut self) {
        let late = self.late_result();
        self.lose_group(late);
    }

    fn lose_group(&mut self, late: Option<StepResult>) {
        self.cover_loss();
        let quarantined = self.blame();
        if self.rng.permille(self.swarm.evacuations) {
            self.evacuate();
            self.late = None;
        } else {
            self.scheduler.group_lost(self.now, &mut self.events);
            self.late = late;
        }
        let ends = self.events.iter().filter(|event| is_quarantine(event)).count();
        assert_eq!(ends, usize::from(quarantined), "who is quarantined, and nobody else");
        (self.num_answered, self.void_until) = (0, 0);
        self.in_flight.clear();
        self.take_events(None);
        if self.rng.permille(self.swarm.new_limits) {
            self.change_limits();
        }
        self.mirror.reset(&self.swarm.limits);
        self.worker = Worker::new(&self.swarm.limits, self.swarm.vocab_size, self.swarm.acceptance);
        self.num_idle_answers = 0;
        self.last_stats = self.scheduler.stats();
        self.check();
    }

    /// What the group that dies would have answered next, if it yields tokens.
    fn late_result(&mut self) -> Option<StepResult> {
        let step = self.in_flight.pop_front()?;
        let result = self.execute(&step.plan, &Faults::default());
        self.in_flight.push_front(step);
        result.ok().filter(|result| !result.sampled.is_empty())
    }

    /// The first result that the new group is asked for comes from the dead one, under the right number.
    pub(super) fn refuse_late_result(&mut self, step_id: u64) {
        let Some(late) = self.late.take() else { return };
        let late = StepResult { step_id, ..late };
        let refused = self.scheduler.apply(&late, self.now, &mut self.events);
        assert!(refused.is_err(), "a result of the dead group was taken for one of the new");
        assert_eq!(self.events, [], "a refused result changes nothing");
        self.coverage.hit(super::coverage::Rare::LateResultRefused);
    }

    /// Notes who has a row in flight; true if somebody is to be quarantined for it.
    fn blame(&mut self) -> bool {
        let rows = self.in_flight.iter().flat_map(|step| step.ids.iter().copied());
        let mut present: Vec<RequestId> = rows.filter(|&id| self.record(id).is_live()).collect();
        present.sort_unstable();
        present.dedup();
        let tried: Vec<RequestId> = present.iter().copied().filter(|id| self.suspects.contains_key(id)).collect();
        for id in present {
            self.suspects.entry(id).or_insert(0);
        }
        let [only] = tried[..] else { return false };
        let strikes = self.suspects.get_mut(&only).expect("it is one");
        *strikes += 1;
        *strikes == 2
    }

    /// All that is live moves to another scheduler.
    fn evacuate(&mut self) {
        let evacuees = self.scheduler.evacuate(self.now, &mut self.events);
        self.scheduler.check_invariants();
        assert_eq!(self.scheduler.stats().queued + self.scheduler.stats().running, 0, "somebody was left behind");
        let order = |id: RequestId| (self.record(id).request.priority, id);
        assert!(evacuees.is_sorted_by_key(|evacuee| order(evacuee.request.id)), "not in the order of service");
        self.scheduler = Scheduler::new(self.swarm.limits.clone());
        self.mirror = Mirror::new(&self.swarm.limits);
        for evacuee in evacuees {
            let record = self.record(evacuee.request.id);
            assert_eq!(evacuee.request.token_ids, record.tokens);
            sometimes!(self.coverage, record.fate == Fate::Started, Evacuated);
            self.scheduler.adopt(evacuee).expect("it fits as it did");
        }
    }

    fn change_limits(&mut self) {
        self.swarm.draw_new_limits(&mut self.rng);
        self.scheduler.group_ready(self.swarm.limits.clone(), &mut self.events);
        self.take_events(None);
        assert!(self.live.iter().all(|&id| !self.is_misfit(id)), "somebody waits who can never be served");
    }

    fn is_misfit(&self, id: RequestId) -> bool {
        let (request, limits) = (&self.record(id).request, &self.swarm.limits);
        let num_tokens = request.num_prompt_tokens + request.max_new_tokens;
        let num_blocks = (num_tokens + limits.run_ahead).div_ceil(limits.block_size);
        num_tokens > limits.max_total_tokens || num_blocks >= limits.num_blocks
    }

    pub(super) fn check_misfit(&mut self, id: RequestId) {
        self.coverage.hit(super::coverage::Rare::NoLongerFits);
        assert!(self.is_misfit(id), "{id:?} was ended, but it fits");
    }

    pub(super) fn check_quarantine(&mut self, id: RequestId, num_deaths: u32) {
        self.coverage.hit(super::coverage::Rare::Quarantined);
        assert_eq!((self.suspects.get(&id), num_deaths), (Some(&2), 2), "{id:?} was ended too early");
        let by_chance = self.swarm.group_losses > 0;
        assert!(by_chance || self.record(id).poison.is_some(), "{id:?} was ended for what others did");
    }

    /// Who may be in a plan with whom, while there are suspects.
    pub(super) fn check_company(&mut self, plan: &StepPlan, ids: &[RequestId]) {
        for new in &plan.new_sequences {
            let record = &self.records[new.id.0 as usize];
            sometimes!(self.coverage, record.was_lost && record.num_generated() > 0, ResumedAfterLoss);
            let order = |id: RequestId| (self.record(id).request.priority, id);
            let waits = |&id: &RequestId| self.mirror.seat_of(id).is_none() && order(id) < order(new.id);
            let passes = !self.suspects.contains_key(&new.id) && self.suspects.keys().any(waits);
            sometimes!(self.coverage, passes, PassedInLine);
            self.records[new.id.0 as usize].was_lost = false;
        }
        if self.suspects.is_empty() {
            return;
        }
        assert!(self.in_flight.is_empty(), "a plan ahead while there are suspects");
        let mut tried = ids.iter().filter_map(|id| self.suspects.get(id));
        let num_strikes = tried.next();
        assert_eq!(tried.next(), None, "two suspects in one plan");
        if num_strikes.is_some_and(|&strikes| strikes > 0) {
            assert_eq!(ids.len(), 1, "the last trial must be alone");
            self.coverage.hit(super::coverage::Rare::TriedAlone);
        }
        let is_struck = |&id: &RequestId| self.suspects[&id] > 0 && self.mirror.seat_of(id).is_some();
        let is_between = num_strikes.is_none() && self.suspects.keys().any(is_struck);
        sometimes!(self.coverage, is_between, OthersBetweenTrials);
    }

    /// A token of `step` clears whom it is for.
    pub(super) fn clear(&mut self, id: RequestId, step: &SentStep) {
        let num_strikes = self.suspects.remove(&id);
        sometimes!(self.coverage, num_strikes == Some(0) && step.ids.len() > 1, ClearedBesideOthers);
        sometimes!(self.coverage, num_strikes == Some(1), StrikeForgotten);
    }

    fn cover_loss(&mut self) {
        sometimes!(self.coverage, !self.in_flight.is_empty(), GroupLostInFlight);
        let tries = |id: &RequestId| self.suspects.contains_key(id);
        let is_trial = self.in_flight.iter().any(|step| step.ids.iter().any(tries));
        sometimes!(self.coverage, !self.suspects.is_empty() && !is_trial, GroupLostBetweenTrials);
        for id in self.live.clone() {
            let has_rows = self.in_flight.iter().any(|step| step.ids.contains(&id));
            let record = &mut self.records[id.0 as usize];
            sometimes!(self.coverage, record.is_unseated && has_rows, LostWhilePreempted);
            record.was_lost = true;
            record.is_unseated = false;
        }
    }
}

fn is_quarantine(event: &Event) -> bool {
    matches!(event, Event::Finished { reason: FinishReason::Quarantined { .. }, .. })
}
